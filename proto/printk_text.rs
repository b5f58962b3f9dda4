// SPDX-License-Identifier: GPL-2.0

//! Extended records rebuilt from the text of printk's buffer: pure, `core` only.
//!
//! A reader of printk's buffer by number (`kmsg_dump_get_line()`) gets a record as text for people,
//! each line with the same prefix (`record_print_text()` in kernel/printk/printk.c):
//!
//! ```text
//! <6>[    1.758426][    T1] first line\n<6>[    1.758426][    T1] second line\n
//! ```
//!
//! [`extended`] makes of this what an extended console is given (`info_print_ext_header()`,
//! `msg_add_ext_text()`):
//!
//! ```text
//! 6,416,1758426,-,caller=T1;first line\x0asecond line\n
//! ```
//!
//! The text lacks the dictionary (`SUBSYSTEM=`, `DEVICE=`), the flag of a record that continues
//! another one (it is always `-`), and, with `printk.time=0`, the time (0).

use core::fmt::{
    self,
    Write, //
};

/// The most bytes of a record in the extended format (`PRINTK_MESSAGE_MAX`).
pub(crate) const MAX_RECORD: usize = 2048;

/// The most bytes of a record's text (`PRINTKRB_RECORD_MAX`).
const MAX_TEXT: usize = 1024;

/// The most bytes of a line's prefix (`PRINTK_PREFIX_MAX`).
const MAX_PREFIX: usize = 48;

/// The most bytes of a record as lines. In the worst case each byte ends a line, and so does the
/// last line, with a terminator behind it. With less room printk leaves lines out.
pub(crate) const MAX_LINES: usize = MAX_TEXT + (MAX_TEXT + 1) * MAX_PREFIX + 2;

/// Makes an extended record of the lines of record `seq`, and returns its length.
///
/// `callers` is whether printk was built with CONFIG_PRINTK_CALLER. With room for [`MAX_RECORD`]
/// bytes the record is cut where printk cuts it, which may cost it its last newline; with less room
/// it is cut earlier in the same way.
///
/// [`None`] if these are not the lines of a record, or if there is no room for the header.
///
/// With `printk.time=0` and no callers, a record whose lines all begin with the same time in
/// brackets looks like one with printk's times, and is taken for that.
pub(crate) fn extended(lines: &[u8], seq: u64, callers: bool, out: &mut [u8]) -> Option<usize> {
    let lines = lines.strip_suffix(b"\n")?;
    // A text may look like a prefix; but a prefix is the same in all lines.
    let prefix = [true, false].into_iter().find_map(|time| {
        let prefix = Prefix::parse(lines, time, callers)?;
        texts(lines, prefix.bytes)
            .all(|text| text.is_some())
            .then_some(prefix)
    })?;

    let mut out = Escaped { out, len: 0 };
    write!(out, "{},{},{},-", prefix.prio, seq, prefix.usec).ok()?;
    if let Some((kind, id)) = prefix.caller {
        write!(out, ",caller={kind}{id}").ok()?;
    }
    out.write_str(";").ok()?;
    for (n, text) in texts(lines, prefix.bytes).flatten().enumerate() {
        if n > 0 {
            out.text(b"\n");
        }
        out.text(text);
    }
    out.byte(b'\n');
    Some(out.len)
}

/// Returns the level (`KERN_*`, 0 to 7) of a record with these lines.
pub(crate) fn level(lines: &[u8]) -> Option<u8> {
    let mut rest = Rest(lines);
    rest.byte(b'<')?;
    let (prio, _) = rest.number()?;
    Some((prio & 7) as u8)
}

/// Returns the time of a record with these lines, in microseconds; [`None`] without `printk.time`.
pub(crate) fn time(lines: &[u8]) -> Option<u64> {
    let mut rest = Rest(lines);
    rest.byte(b'<')?;
    rest.number()?;
    rest.byte(b'>')?;
    rest.time()
}

/// Returns the text of each line, [`None`] for a line without the prefix.
fn texts<'a>(lines: &'a [u8], prefix: &'a [u8]) -> impl Iterator<Item = Option<&'a [u8]>> + 'a {
    lines
        .split(|&c| c == b'\n')
        .map(|line| line.strip_prefix(prefix))
}

/// The prefix of each line.
struct Prefix<'a> {
    bytes: &'a [u8],
    /// Facility and level.
    prio: u64,
    /// The time of the record in microseconds; 0 without `printk.time`.
    usec: u64,
    /// `T` and the number of a task, or `C` and the number of a CPU.
    caller: Option<(char, u64)>,
}

impl<'a> Prefix<'a> {
    /// Reads the prefix of a line, with or without a time and a caller.
    fn parse(line: &'a [u8], time: bool, callers: bool) -> Option<Self> {
        let mut rest = Rest(line);
        rest.byte(b'<')?;
        let (prio, _) = rest.number()?;
        rest.byte(b'>')?;
        let usec = if time { rest.time()? } else { 0 };
        let caller = if callers { Some(rest.caller()?) } else { None };
        if time || callers {
            rest.byte(b' ')?;
        }
        Some(Self {
            bytes: line.get(..line.len().checked_sub(rest.0.len())?)?,
            prio,
            usec,
            caller,
        })
    }
}

/// The bytes that have not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self, byte: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        if first != byte {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    /// Skips blanks, and returns their number.
    fn spaces(&mut self) -> usize {
        let n = self.0.iter().take_while(|&&c| c == b' ').count();
        self.0 = self.0.get(n..).unwrap_or_default();
        n
    }

    /// Reads a number as C prints it; returns it with the number of its digits.
    fn number(&mut self) -> Option<(u64, usize)> {
        let mut value: u64 = 0;
        let mut digits = 0;
        while let Some((&c @ b'0'..=b'9', rest)) = self.0.split_first() {
            if digits > 0 && value == 0 {
                return None;
            }
            value = value.checked_mul(10)?.checked_add(u64::from(c - b'0'))?;
            digits += 1;
            self.0 = rest;
        }
        (digits > 0).then_some((value, digits))
    }

    /// Reads `[%5lu.%06lu]`, in microseconds.
    fn time(&mut self) -> Option<u64> {
        self.byte(b'[')?;
        let spaces = self.spaces();
        let (sec, digits) = self.number()?;
        if spaces + digits != digits.max(5) {
            return None;
        }
        self.byte(b'.')?;
        let (digits, rest) = self.0.split_first_chunk::<6>()?;
        self.0 = rest;
        let mut usec: u64 = 0;
        for c in digits {
            if !c.is_ascii_digit() {
                return None;
            }
            usec = usec * 10 + u64::from(c - b'0');
        }
        self.byte(b']')?;
        sec.checked_mul(1_000_000)?.checked_add(usec)
    }

    /// Reads `[%6s]` of a letter and a number.
    fn caller(&mut self) -> Option<(char, u64)> {
        self.byte(b'[')?;
        let spaces = self.spaces();
        let kind = match self.byte(b'T') {
            Some(()) => 'T',
            None => {
                self.byte(b'C')?;
                'C'
            }
        };
        let (id, digits) = self.number()?;
        if spaces + 1 + digits != (1 + digits).max(6) {
            return None;
        }
        self.byte(b']')?;
        Some((kind, id))
    }
}

/// Writes as printk does: text beyond the end is left out.
struct Escaped<'b> {
    out: &'b mut [u8],
    /// At most `out.len()`.
    len: usize,
}

impl Escaped<'_> {
    /// `append_char()` in printk.
    fn byte(&mut self, byte: u8) {
        if let Some(to) = self.out.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    /// `msg_add_ext_text()` in printk, without the character at the end.
    fn text(&mut self, text: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for &c in text {
            if (b' '..127).contains(&c) && c != b'\\' {
                self.byte(c);
                continue;
            }
            let high = HEX[usize::from(c >> 4)];
            let low = HEX[usize::from(c & 15)];
            // printk uses `scnprintf()`, which needs room for a terminator as well: an escape that
            // does not fit is cut, and leaves a byte to what follows.
            let room = (self.out.len() - self.len).saturating_sub(1);
            for byte in [b'\\', b'x', high, low].into_iter().take(room) {
                self.byte(byte);
            }
        }
    }
}

impl Write for Escaped<'_> {
    /// Fails if there is not room for all of it and one byte more.
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if s.len() >= self.out.len() - self.len {
            return Err(fmt::Error);
        }
        s.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_kmsg)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    /// Whether record 416 is made of these lines.
    fn makes(lines: &[u8], callers: bool, record: &[u8]) -> bool {
        let mut out = [0; 200];
        let len = extended(lines, 416, callers, &mut out);
        len.and_then(|len| out.get(..len)) == Some(record)
    }

    fn refused(lines: &[u8], callers: bool) -> bool {
        extended(lines, 416, callers, &mut [0; 200]).is_none()
    }

    #[test]
    fn time_alone() {
        assert!(time(b"<6>[    1.758426] hello\n") == Some(1_758_426));
        assert!(time(b"<30>[123456.000001][    T1] hello\n") == Some(123_456_000_001));
        for none in [
            &b"<6>hello\n"[..],
            b"<6>[    T1] hello\n",
            b"[    1.758426] hello\n",
            b"",
        ] {
            assert!(time(none).is_none());
        }
    }

    #[test]
    fn time_and_caller() {
        assert!(makes(
            b"<6>[    1.758426] hello\n",
            false,
            b"6,416,1758426,-;hello\n"
        ));
        assert!(makes(
            b"<30>[123456.000001][    T1] hello\n",
            true,
            b"30,416,123456000001,-,caller=T1;hello\n"
        ));
        assert!(makes(
            b"<2047>[    0.000000][C1234567] hello\n",
            true,
            b"2047,416,0,-,caller=C1234567;hello\n"
        ));
        assert!(makes(b"<0>hello\n", false, b"0,416,0,-;hello\n"));
        assert!(makes(
            b"<4>[    C0] hello\n",
            true,
            b"4,416,0,-,caller=C0;hello\n"
        ));
    }

    #[test]
    fn several_lines_become_one_record() {
        assert!(makes(
            b"<6>[    1.000000] a\n<6>[    1.000000] b\n<6>[    1.000000] \n",
            false,
            b"6,416,1000000,-;a\\x0ab\\x0a\n"
        ));
        assert!(makes(b"<6>\n<6>\n<6>\n", false, b"6,416,0,-;\\x0a\\x0a\n"));
        assert!(makes(b"<6>[    1.000000] \n", false, b"6,416,1000000,-;\n"));
        assert!(makes(b"<6>\n", false, b"6,416,0,-;\n"));
    }

    #[test]
    fn text_that_looks_like_a_prefix_stays() {
        assert!(makes(
            b"<6>[    1.000000] <6>[    1.000000] a\n<6>[    1.000000] <6>b\n",
            false,
            b"6,416,1000000,-;<6>[    1.000000] a\\x0a<6>b\n"
        ));
        // Without CONFIG_PRINTK_CALLER, and with.
        assert!(makes(
            b"<6>[    1.000000] [    T1] a\n",
            false,
            b"6,416,1000000,-;[    T1] a\n"
        ));
        assert!(makes(
            b"<6>[    T1] [    1.000000] a\n",
            true,
            b"6,416,0,-,caller=T1;[    1.000000] a\n"
        ));
        // No time, as the second line shows.
        assert!(makes(
            b"<6>[    1.000000] a\n<6>b\n",
            false,
            b"6,416,0,-;[    1.000000] a\\x0ab\n"
        ));
        // No time that printk would print.
        for text in [
            &b"[   1.000000] a"[..],
            b"[     1.000000] a",
            b"[00001.000000] a",
            b"[    1.00000] a",
            b"[    1.0000000] a",
            b"[    1.00000x] a",
            b"[    1.000000]a",
            b"[     .000000] a",
            b"[99999999999999999999.000000] a",
            b"[18446744073709.551616] a",
        ] {
            let mut lines = [b'\n'; 64];
            lines[..3].copy_from_slice(b"<6>");
            lines[3..3 + text.len()].copy_from_slice(text);
            let mut record = [b'\n'; 64];
            record[..10].copy_from_slice(b"6,416,0,-;");
            record[10..10 + text.len()].copy_from_slice(text);
            assert!(makes(
                &lines[..text.len() + 4],
                false,
                &record[..text.len() + 11]
            ));
        }
    }

    #[test]
    fn bytes_are_escaped() {
        assert!(makes(
            b"<6>[    1.000000] \x00\t\x1f ~\x7f\\\xc3\xa4\xff;\r\n",
            false,
            b"6,416,1000000,-;\\x00\\x09\\x1f ~\\x7f\\x5c\\xc3\\xa4\\xff;\\x0d\n"
        ));
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for lines in [
            &b""[..],
            b"\n",
            b"a\n",
            b"<6>a",
            b"<>a\n",
            b"<06>a\n",
            b"<x>a\n",
            b"<6a\n",
            b"<99999999999999999999>a\n",
            b"<6>[    1.000000] a\nb\n",
            b"<6>[    1.000000] a\n<7>[    1.000000] b\n",
            b"<6>a\n\n",
        ] {
            assert!(refused(lines, false));
        }
        assert!(refused(b"<6>[    1.000000] a\n", true));
        assert!(refused(b"<6>[    1.000000][   T1] a\n", true));
        assert!(refused(b"<6>[    1.000000][   X1] a\n", true));
        assert!(refused(b"<6>a\n", true));
    }

    #[test]
    fn what_does_not_fit_is_cut_as_by_printk() {
        let cut = |lines: &[u8], room: usize, record: &[u8]| {
            let mut out = [b'#'; 40];
            let len = extended(lines, 1, false, &mut out[..room]);
            len.and_then(|len| out.get(..len)) == Some(record)
                && out[room..].iter().all(|&c| c == b'#')
        };
        let lines = b"<6>ab\x01\x02c\n";
        assert!(cut(lines, 19, b"6,1,0,-;ab\\x01\\x02c"));
        assert!(cut(lines, 20, b"6,1,0,-;ab\\x01\\x02c\n"));
        assert!(cut(lines, 18, b"6,1,0,-;ab\\x01\\x0c"));
        assert!(cut(lines, 15, b"6,1,0,-;ab\\x01c"));
        assert!(cut(lines, 11, b"6,1,0,-;abc"));
        assert!(cut(lines, 9, b"6,1,0,-;a"));
        for room in 0..9 {
            assert!(extended(lines, 1, false, &mut [0; 9][..room]).is_none());
        }
    }
}
