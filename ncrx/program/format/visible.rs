// SPDX-License-Identifier: GPL-2.0

//! Escapes for a sender's text, so that it can be shown, and undone: printk's own, everywhere.
//!
//! | | is written as |
//! |---|---|
//! | control characters but the tab, C1's (U+0080 to U+009F) and DEL | `\x..` for each byte |
//! | what changes the direction or ends a line (U+202E, U+2028, ...) | `\x..` for each byte |
//! | bytes that are not UTF-8 | `\x..` for each |
//! | the backslash | `\x5c` |
//! | all else | itself |
//!
//! [`ncrx::unescape`] gives back what it was, so a literal `\x0a` and a newline are told apart.
//! JSON has escapes of its own (`\u....`), and uses these only for strings that are not UTF-8.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character may do harm where it is shown: to a terminal, to the order of what is on its
/// line, or by looking like another line.
pub(super) fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\t'
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Appends the bytes as text that can be shown.
pub(super) fn push_visible(bytes: &[u8], out: &mut Vec<u8>) {
    // Nearly all is ASCII. No short cut out of the loop: so the compiler takes many bytes at a
    // time.
    let odd = |&c: &u8| !(b' '..=b'~').contains(&c) | (c == b'\\');
    if !bytes.iter().fold(false, |any, c| any | odd(c)) {
        return out.extend_from_slice(bytes);
    }
    let hidden = |c: char| is_harmful(c) || c == '\\';
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| hidden(c)) {
            let (before, behind) = rest.split_at(at);
            let (hidden, behind) = behind.split_at(c.len_utf8());
            out.extend_from_slice(before.as_bytes());
            push_escaped(hidden.as_bytes(), out);
            rest = behind;
        }
        out.extend_from_slice(rest.as_bytes());
        push_escaped(chunk.invalid(), out);
    }
}

/// Appends each byte as `\x..`.
fn push_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = String::with_capacity(4 * bytes.len());
    for byte in bytes {
        // Writing into memory does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
    out.extend_from_slice(text.as_bytes());
}

/// The bytes as text that can be shown.
pub(super) fn visible(bytes: &[u8]) -> Cow<'_, str> {
    let mut out = Vec::with_capacity(bytes.len());
    push_visible(bytes, &mut out);
    // All of it is: nothing is lost here.
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        visible(bytes).into_owned()
    }

    #[test]
    fn what_is_escaped() {
        for (bytes, text) in [
            (&b"Caf\xe9"[..], r"Caf\xe9"),
            (
                b"bel \x07 bs \x08 nul \0 del \x7f",
                r"bel \x07 bs \x08 nul \x00 del \x7f",
            ),
            (b"a\tb", "a\tb"),
            ("\u{85}\u{9b}31m".as_bytes(), r"\xc2\x85\xc2\x9b31m"),
            (
                "\u{202e}\u{2028}\u{2069}".as_bytes(),
                r"\xe2\x80\xae\xe2\x80\xa8\xe2\x81\xa9",
            ),
            (br"\x0a", r"\x5cx0a"),
            (b"\n", r"\x0a"),
            ("\u{e4}\u{20ac}".as_bytes(), "\u{e4}\u{20ac}"),
            (b"cut \xe2\x82", r"cut \xe2\x82"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }

    proptest! {
        /// Whatever it is, it can be shown, and comes back.
        #[test]
        fn it_can_be_undone(bytes in prop::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), any::<u8>()], 0..100)) {
            let text = shown(&bytes);
            prop_assert!(!text.chars().any(is_harmful), "{text:?}");
            prop_assert_eq!(&*ncrx::unescape(text.as_bytes()), bytes);
        }

        #[test]
        fn characters_can_be_undone(text in "[\\\\x0-9a-f\u{80}-\u{9f}\u{2020}-\u{2070}\u{e4}\n]{0,40}") {
            let shown = shown(text.as_bytes());
            prop_assert_eq!(&*ncrx::unescape(shown.as_bytes()), text.as_bytes());
        }
    }
}
