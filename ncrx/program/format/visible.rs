// SPDX-License-Identifier: GPL-2.0

//! Escapes for a sender's text, so that it can be shown, and undone: printk's own, everywhere.
//!
//! | | is written as |
//! |---|---|
//! | control characters but the tab, C1's (U+0080 to U+009F) and DEL | `\x..` for each byte |
//! | what ends a line (U+2028, U+2029) | `\x..` for each byte |
//! | what is not seen: what changes the direction (U+202E), joins (U+200D), marks (U+FEFF), tags | `\x..` for each byte |
//! | bytes that are not UTF-8 | `\x..` for each |
//! | the backslash | `\x5c` |
//! | all else | itself |
//!
//! [`ncrx::unescape`] gives back what it was, so a literal `\x0a` and a newline are told apart.
//! JSON has escapes of its own (`\u....`), and uses these only for strings that are not UTF-8.

use std::borrow::Cow;
use std::fmt::Write;

/// The characters beside controls that are not seen where they are, or that change what is seen of
/// others: of Unicode 16 the categories Cf, Zl and Zp (`DerivedGeneralCategory.txt`) and all of
/// `Default_Ignorable_Code_Point` (`DerivedCoreProperties.txt`), with those that mean nothing yet;
/// and the empty Braille pattern. A test compares it with the tables of `regex-syntax`.
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Returns whether a character may do harm where it is shown: to a terminal, to the order of what
/// is on its line, or by looking like another line or another text.
pub fn is_harmful(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && c != '\t';
    }
    let behind = UNSEEN.partition_point(|&(first, _)| first <= c);
    let unseen = behind.checked_sub(1).is_some_and(|at| c <= UNSEEN[at].1);
    c.is_control() || unseen
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
            (
                "\u{feff}\u{200d}\u{e0041}\u{3164}".as_bytes(),
                r"\xef\xbb\xbf\xe2\x80\x8d\xf3\xa0\x81\x81\xe3\x85\xa4",
            ),
            (br"\x0a", r"\x5cx0a"),
            (b"\n", r"\x0a"),
            ("\u{e4}\u{20ac}".as_bytes(), "\u{e4}\u{20ac}"),
            (b"cut \xe2\x82", r"cut \xe2\x82"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }

    /// The class is Unicode's, but for the tab and the one that looks like a blank.
    #[test]
    fn the_class_is_that_of_unicode() {
        let class = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{2800}--\t]";
        let class = regex_syntax::parse(class).unwrap().into_kind();
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = class
        else {
            panic!("{class:?}");
        };
        let is_in = |c: char| {
            let mut ranges = class.ranges().iter();
            ranges.any(|range| range.start() <= c && c <= range.end())
        };
        let differs = ('\0'..=char::MAX).filter(|&c| is_harmful(c) != is_in(c));
        assert_eq!(differs.collect::<Vec<_>>(), []);
    }

    proptest! {
        /// Any bytes can be shown, and come back.
        #[test]
        fn it_can_be_undone(bytes in prop::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), any::<u8>()], 0..100)) {
            let text = shown(&bytes);
            prop_assert!(!text.chars().any(is_harmful), "{text:?}");
            prop_assert_eq!(&*ncrx::unescape(text.as_bytes()), bytes);
        }

        #[test]
        fn characters_can_be_undone(
            text in "[\\\\x0-9a-f\u{80}-\u{9f}\u{2000}-\u{2070}\u{fff0}-\u{fffd}\u{feff}\u{e0000}-\u{e007f}\u{e4}\n]{0,40}",
        ) {
            let shown = shown(text.as_bytes());
            prop_assert_eq!(&*ncrx::unescape(shown.as_bytes()), text.as_bytes());
        }
    }
}
