// SPDX-License-Identifier: GPL-2.0

//! The lines behind a record, userdata and sysdata: pure, `core` only.
//!
//! Names and limits are upstream's (`drivers/net/netconsole.c`, `prepare_sysdata()`): "userdata" is
//! configured by the user, "sysdata" is filled in by the kernel for each record. `wire.rs` puts
//! them behind the record.

use core::fmt::{
    self,
    Write, //
};

/// The most bytes of a key (upstream's `MAX_EXTRADATA_NAME_LEN`).
pub(crate) const MAX_KEY: usize = 53;

/// The most bytes of a value: upstream's `MAX_EXTRADATA_VALUE_LEN` counts a terminator.
pub(crate) const MAX_VALUE: usize = 199;

/// The most keys of a target (upstream's `MAX_USERDATA_ITEMS`).
pub(crate) const MAX_KEYS: usize = 256;

/// A line of sysdata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysdata {
    /// ` cpu=<n>`: the CPU that logged the record.
    Cpu = 1,
    /// ` taskname=<comm>`: the task that logged it.
    Taskname = 2,
    /// ` release=<release>`: the kernel's release.
    Release = 4,
    /// ` msgid=<n>`: the record's number among those that the target was sent.
    MsgId = 8,
}

/// A set of sysdata lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SysdataSet(u8);

impl SysdataSet {
    /// Returns whether there is no line in the set.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether this line is in the set.
    pub(crate) fn contains(self, line: Sysdata) -> bool {
        self.0 & line as u8 != 0
    }

    /// Returns the set with this line, or without it.
    pub(crate) fn with(self, line: Sysdata, on: bool) -> Self {
        let rest = self.0 & !(line as u8);
        Self(if on { rest | line as u8 } else { rest })
    }
}

/// The values for a record's sysdata. A line whose value is not known is left out.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The CPU that logged it.
    pub(crate) cpu: Option<u32>,
    /// The name of the task that logged it, padded with zeroes.
    pub(crate) comm: Option<&'a [u8; 16]>,
    /// The kernel's release.
    pub(crate) release: &'a [u8],
    /// The record's number among those that the target was sent.
    pub(crate) msgid: Option<u32>,
}

/// The most bytes of all sysdata: the names, two numbers of 10 digits, 15 bytes of a task's name
/// and 64 of a release (`__NEW_UTS_LEN`), both escaped fourfold.
pub(crate) const MAX_SYSDATA: usize =
    " cpu=\n taskname=\n release=\n msgid=\n".len() + 2 * 10 + 4 * 15 + 4 * 64;

/// A slice that is filled from its start.
struct Lines<'b> {
    out: &'b mut [u8; MAX_SYSDATA],
    len: usize,
}

impl Lines<'_> {
    fn byte(&mut self, byte: u8) {
        if let Some(to) = self.out.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    /// Writes text of unknown origin, escaped as printk does (`msg_add_ext_text()`): a newline in a
    /// task's name would make another line. Upstream does not escape.
    fn text(&mut self, text: &[u8]) {
        for &c in text {
            if (b' '..0x7f).contains(&c) && c != b'\\' {
                self.byte(c);
            } else {
                // Writing here cannot fail.
                let _ = write!(self, "\\x{c:02x}");
            }
        }
    }
}

impl Write for Lines<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

/// Writes sysdata, in upstream's order.
pub(crate) fn sysdata<'b>(
    lines: SysdataSet,
    context: &Context<'_>,
    out: &'b mut [u8; MAX_SYSDATA],
) -> &'b [u8] {
    let mut to = Lines { out, len: 0 };
    // Writing here cannot fail.
    if let Some(cpu) = context.cpu.filter(|_| lines.contains(Sysdata::Cpu)) {
        let _ = writeln!(to, " cpu={cpu}");
    }
    if let Some(comm) = context.comm.filter(|_| lines.contains(Sysdata::Taskname)) {
        let name = comm.split(|&c| c == 0).next().unwrap_or_default();
        let _ = to.write_str(" taskname=");
        to.text(name);
        to.byte(b'\n');
    }
    if lines.contains(Sysdata::Release) {
        let _ = to.write_str(" release=");
        to.text(context.release);
        to.byte(b'\n');
    }
    if let Some(msgid) = context.msgid.filter(|_| lines.contains(Sysdata::MsgId)) {
        let _ = writeln!(to, " msgid={msgid}");
    }
    let Lines { out, len } = to;
    &out[..len]
}

/// Hands the pieces of a line of userdata to `out`.
pub(crate) fn line(key: &[u8], value: &[u8], out: &mut impl FnMut(&[u8])) {
    for piece in [b" ", key, b"=", value, b"\n"] {
        out(piece);
    }
}

/// Returns whether lines can be made of this key: it has no control bytes and no `=`.
pub(crate) fn is_key(key: &[u8]) -> bool {
    !key.iter().any(|&c| c.is_ascii_control() || c == b'=')
}

/// Why a text is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadValue {
    /// The text is longer than [`MAX_VALUE`].
    TooLong,
    /// The text has a control byte other than a tab: a newline would make another line.
    Control,
}

/// Returns the value in a text that was written, which may end with a newline or a NUL.
pub(crate) fn value(text: &[u8]) -> Result<&[u8], BadValue> {
    // Upstream counts the newline.
    if text.len() > MAX_VALUE {
        return Err(BadValue::TooLong);
    }
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.iter().any(|&c| c.is_ascii_control() && c != b'\t') {
        return Err(BadValue::Control);
    }
    Ok(text)
}

/// Returns the places of the versions of the extradata that are still needed, and of these no more
/// than the `max` newest.
///
/// `start` is the number of the first record that a version is for, up to the start of the next
/// one; [`None`] beyond `count`. `begin` is the number of the oldest record that may be sent.
pub(crate) fn needed_versions(
    count: usize,
    start: impl Fn(usize) -> Option<u64> + Copy,
    begin: u64,
    max: usize,
) -> impl Iterator<Item = usize> {
    let is_needed = move |&n: &usize| match start(n + 1) {
        // The newest version is for all records to come.
        None => true,
        // Not if all of its records are gone, or if it was for none, as it was changed again
        // before.
        Some(end) => end > begin && Some(end) != start(n),
    };
    let needed = (0..count).filter(is_needed).count();
    (0..count)
        .filter(is_needed)
        .skip(needed.saturating_sub(max))
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_userdata)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const ALL: SysdataSet = SysdataSet(15);

    const CONTEXT: Context<'_> = Context {
        cpu: Some(3),
        comm: Some(b"insmod\0rubbish\0\0"),
        release: b"7.3.4",
        msgid: Some(17),
    };

    #[test]
    fn versions_that_are_needed() {
        // The versions' starts, the oldest record, the most versions; the places of those kept.
        for (starts, begin, max, kept) in [
            (&[][..], 0, 3, &[][..]),
            (&[5], 0, 3, &[0]),
            (&[5], 100, 3, &[0]),
            (&[5, 10], 0, 3, &[0, 1]),
            (&[5, 10], 9, 3, &[0, 1]),
            // Its last record was 9.
            (&[5, 10], 10, 3, &[1]),
            (&[5, 10, 20], 15, 3, &[1, 2]),
            // The second one was changed before any record was sent with it.
            (&[5, 10, 10], 0, 3, &[0, 2]),
            (&[5, 5, 5, 5], 0, 3, &[3]),
            // The oldest ones give way.
            (&[5, 10, 15, 20], 0, 3, &[1, 2, 3]),
            (&[5, 10, 15, 20], 10, 2, &[2, 3]),
        ] {
            let start = |n: usize| starts.get(n).copied();
            let needed = needed_versions(starts.len(), start, begin, max);
            assert!(needed.eq(kept.iter().copied()));
        }
    }

    #[test]
    fn sets() {
        let none = SysdataSet::default();
        for line in [
            Sysdata::Cpu,
            Sysdata::Taskname,
            Sysdata::Release,
            Sysdata::MsgId,
        ] {
            assert!(ALL.contains(line) && !none.contains(line));
            assert!(none.with(line, true).contains(line));
            assert!(none.with(line, true).with(line, false) == none);
            assert!(!ALL.with(line, false).contains(line));
            assert!(ALL.with(line, true) == ALL);
        }
    }

    #[test]
    fn lines_in_upstreams_order() {
        let out = &mut [0; MAX_SYSDATA];
        let lines = b" cpu=3\n taskname=insmod\n release=7.3.4\n msgid=17\n";
        assert!(sysdata(ALL, &CONTEXT, out) == lines);
        assert!(sysdata(SysdataSet::default(), &CONTEXT, out).is_empty());
        let some = SysdataSet::default()
            .with(Sysdata::MsgId, true)
            .with(Sysdata::Cpu, true);
        assert!(sysdata(some, &CONTEXT, out) == b" cpu=3\n msgid=17\n");
        let unknown = Context {
            cpu: None,
            comm: None,
            msgid: None,
            ..CONTEXT
        };
        assert!(sysdata(ALL, &unknown, out) == b" release=7.3.4\n");
    }

    #[test]
    fn nobody_forges_a_line() {
        let out = &mut [0; MAX_SYSDATA];
        let forged = Context {
            comm: Some(b"a\n cpu=9\\\xff\0\0\0\0\0\0"),
            ..CONTEXT
        };
        let line = SysdataSet::default().with(Sysdata::Taskname, true);
        assert!(sysdata(line, &forged, out) == b" taskname=a\\x0a cpu=9\\x5c\\xff\n");
    }

    #[test]
    fn there_is_room_for_the_longest() {
        let out = &mut [0; MAX_SYSDATA];
        let longest = Context {
            cpu: Some(u32::MAX),
            comm: Some(b"\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\0"),
            release: &[b'\n'; 64],
            msgid: Some(u32::MAX),
        };
        let lines = sysdata(ALL, &longest, out);
        assert!(lines.len() == MAX_SYSDATA && lines.ends_with(b" msgid=4294967295\n"));
    }

    #[test]
    fn values() {
        assert!(value(b"hello world\n") == Ok(b"hello world"));
        assert!(value(b"\tx") == Ok(b"\tx"));
        assert!(value(b"\n") == Ok(b""));
        assert!(value(b"") == Ok(b""));
        assert!(value(b"one\n\0") == Ok(b"one"));
        assert!(value(b"one\0two") == Err(BadValue::Control));
        assert!(value(b"one\n two=2\n") == Err(BadValue::Control));
        assert!(value(b"one\n\n") == Err(BadValue::Control));
        assert!(value(b"\x1b[0m") == Err(BadValue::Control));
        assert!(value(&[b'x'; MAX_VALUE]).is_ok());
        assert!(value(&[b'x'; MAX_VALUE + 1]) == Err(BadValue::TooLong));
    }

    #[test]
    fn keys() {
        assert!(is_key(b"rack.7 (left)") && is_key("schlüssel".as_bytes()));
        for bad in ["a\nb", "a=b", "\t", "a\x7f"] {
            assert!(!is_key(bad.as_bytes()));
        }
    }

    #[test]
    fn a_users_line() {
        let mut all = [0; 9];
        let mut len = 0;
        line(b"key", b"one", &mut |piece: &[u8]| {
            all[len..len + piece.len()].copy_from_slice(piece);
            len += piece.len();
        });
        assert!(&all[..len] == b" key=one\n");
    }
}
