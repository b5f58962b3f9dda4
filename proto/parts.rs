// SPDX-License-Identifier: GPL-2.0

//! The text of a basic target in datagrams: pure, `core` only.

/// The most bytes of a character in UTF-8.
const MAX_CHAR: usize = 4;

/// Returns the parts of a text, of `most` bytes at most each, which is 4 or more.
///
/// A part never ends inside a character of UTF-8. Bytes that are no UTF-8 go through as they are.
pub(crate) fn parts(text: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = rest.split_at(cut(rest, most));
        rest = after;
        Some(part)
    })
}

/// Returns where to cut a text for its first part: at `most`, or before the character that is
/// there.
fn cut(text: &[u8], most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let begins = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80);
    let back = (1..=most).rev().take(MAX_CHAR).find(begins);
    // No character has so many bytes.
    back.unwrap_or(most.max(1))
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_parts)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    fn has_parts(text: &[u8], expected: &[&[u8]]) -> bool {
        parts(text, 4).eq(expected.iter().copied())
    }

    #[test]
    fn no_part_ends_inside_a_character() {
        for (text, expected) in [
            ("", &[][..]),
            ("a", &["a"][..]),
            ("abcd", &["abcd"]),
            ("abcde", &["abcd", "e"]),
            ("abcdefghi", &["abcd", "efgh", "i"]),
            ("€€€", &["€", "€", "€"]),
            ("a€€", &["a€", "€"]),
            ("ab€€", &["ab", "€", "€"]),
            ("abc€€", &["abc", "€", "€"]),
            ("aä😀b", &["aä", "😀", "b"]),
            ("äää", &["ää", "ä"]),
        ] {
            let equal = parts(text.as_bytes(), 4).eq(expected.iter().map(|part| part.as_bytes()));
            assert!(equal);
        }
    }

    #[test]
    fn what_is_no_utf8_goes_through() {
        assert!(has_parts(&[0x80; 9], &[&[0x80; 4], &[0x80; 4], &[0x80; 1]]));
        assert!(has_parts(&[0xff; 6], &[&[0xff; 4], &[0xff; 2]]));
        let text = b"a\x80\x80\x80\x80\xffb";
        assert!(has_parts(text, &[b"a\x80\x80\x80", b"\x80\xffb"]));
    }

    #[test]
    fn a_long_text_in_each_alignment() {
        for before in 0..3 {
            let text = core::iter::repeat_n(&b"a"[..], before)
                .chain(core::iter::repeat_n("€".as_bytes(), 5))
                .flatten();
            let mut buffer = [0; 17];
            let mut len = 0;
            for &byte in text {
                buffer[len] = byte;
                len += 1;
            }
            let text = &buffer[..len];
            assert!(parts(text, 10).all(|part| core::str::from_utf8(part).is_ok()));
            assert!(parts(text, 10).flatten().eq(text));
        }
    }
}
