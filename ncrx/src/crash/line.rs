// SPDX-License-Identifier: GPL-2.0

//! A line of a log, as a record or a console has it.

use crate::Record;

/// A line of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line<'a> {
    /// The record's number.
    pub seq: Option<u64>,
    /// The sender's clock, in microseconds.
    pub usec: Option<u64>,
    /// The facility: lines that are not the kernel's (0) begin no crash.
    pub facility: u32,
    /// The caller, like `T123` or `C1`, or the CPU.
    pub caller: Option<&'a [u8]>,
    /// The kernel's release.
    pub release: Option<&'a [u8]>,
    /// The text, without printk's escapes.
    pub text: &'a [u8],
    /// Whether the sender has marked it as part of the crash that it ends with.
    pub crash: bool,
    /// Whether it comes behind lines that were logged after it.
    pub late: bool,
    /// Whether its end is missing.
    pub partial: bool,
}

impl<'a> Line<'a> {
    /// Returns the line of a record with this text, which may be a part of the record's. The text
    /// of a basic target is taken apart.
    pub fn of(record: &Record<'a>, text: &'a [u8]) -> Self {
        if record.is_text() {
            return Self::plain(text);
        }
        let mut keys = record.keys();
        let caller = keys.find(|(key, _)| *key == b"caller");
        // netconsole's sysdata.
        let cpu = || record.dictionary().find(|(key, _)| *key == b"cpu");
        Self {
            seq: record.seq(),
            usec: record.usec(),
            facility: record.facility().unwrap_or(0),
            caller: caller.or_else(cpu).map(|(_, value)| value),
            release: record.release(),
            text,
            crash: record.is_crash(),
            late: record.is_late(),
            partial: record.is_partial(),
        }
    }

    /// Takes a line apart that a console has written: `<6>[   12.345678][  T123] text`, of which
    /// all but the text may be missing.
    pub fn plain(line: &'a [u8]) -> Self {
        let mut rest = line;
        if let Some((level, behind)) = bracketed(rest, b'<', b'>') {
            if !level.is_empty() && level.len() <= 3 && level.iter().all(u8::is_ascii_digit) {
                rest = behind;
            }
        }
        let usec = bracketed(rest, b'[', b']').and_then(|(time, behind)| {
            let usec = clock(time.trim_ascii())?;
            rest = behind;
            Some(usec)
        });
        let caller = bracketed(rest, b'[', b']').filter(|_| usec.is_some());
        let caller = caller.and_then(|(caller, behind)| {
            let caller = caller.trim_ascii();
            let (kind, number) = caller.split_first()?;
            let legal = matches!(kind, b'T' | b'C') && number.iter().all(u8::is_ascii_digit);
            if !legal || number.is_empty() {
                return None;
            }
            rest = behind;
            Some(caller)
        });
        if usec.is_some() {
            rest = rest.strip_prefix(b" ").unwrap_or(rest);
        }
        Self {
            usec,
            caller,
            text: rest,
            ..Self::default()
        }
    }
}

/// Splits off what is in brackets at the start, if that is short.
fn bracketed(line: &[u8], open: u8, close: u8) -> Option<(&[u8], &[u8])> {
    let inside = line.strip_prefix(&[open])?;
    let at = inside.iter().take(24).position(|&c| c == close)?;
    Some((&inside[..at], &inside[at + 1..]))
}

/// Parses seconds and microseconds.
fn clock(text: &[u8]) -> Option<u64> {
    let (seconds, rest) = std::str::from_utf8(text).ok()?.split_once('.')?;
    let micros: u64 = rest.parse().ok().filter(|_| rest.len() == 6)?;
    let seconds: u64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_console() {
        let parts = |line: &'static str| {
            let line = Line::plain(line.as_bytes());
            let text = |bytes| std::str::from_utf8(bytes).unwrap();
            (line.usec, line.caller.map(text), text(line.text))
        };
        for (line, usec, caller, text) in [
            ("a text", None, None, "a text"),
            ("[    1.000002] a", Some(1_000_002), None, "a"),
            (
                "<4>[   12.345678][  T123]  b",
                Some(12_345_678),
                Some("T123"),
                " b",
            ),
            ("[    0.5] c", None, None, "[    0.5] c"),
            ("[    1.000000][ffff] d", Some(1_000_000), None, "[ffff] d"),
            ("[T1] e", None, None, "[T1] e"),
            (
                "[99999999999999999999.000000] f",
                None,
                None,
                "[99999999999999999999.000000] f",
            ),
        ] {
            assert_eq!(parts(line), (usec, caller, text), "{line}");
        }
    }
}
