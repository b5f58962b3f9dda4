// SPDX-License-Identifier: GPL-2.0

//! printk's escapes.

use std::borrow::Cow;

/// Undoes printk's escapes: extended texts have each byte below 32, above 126, and the backslash as
/// `\x..` (`msg_add_ext_text()` in kernel/printk/printk.c).
///
/// ```
/// assert_eq!(&*ncrx::unescape(br"a\x09b \x5c \q"), b"a\tb \\ \\q");
/// ```
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', text) else {
        return Cow::Borrowed(text);
    };
    let mut out = text[..first].to_vec();
    let mut rest = &text[first..];
    while let Some((&c, behind)) = rest.split_first() {
        if let Some(byte) = escaped(rest) {
            out.push(byte);
            rest = &rest[4..];
        } else {
            out.push(c);
            rest = behind;
        }
    }
    Cow::Owned(out)
}

/// Returns the byte that `\x..` at the start stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else {
        return None;
    };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from((high << 4) | low).ok()
}
