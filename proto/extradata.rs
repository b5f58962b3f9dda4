// SPDX-License-Identifier: GPL-2.0

//! The lines that are sent behind a record: pure, `core` only.
//!
//! They are upstream's, whose names and limits these are: "userdata" is what the user has
//! configured, "sysdata" what the kernel fills in for each record (`drivers/net/netconsole.c`,
//! `prepare_sysdata()`). `wire.rs` says where in a record they are.

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

/// A line that the kernel fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysdata {
    /// ` cpu=<n>`: where it was logged.
    Cpu = 1,
    /// ` taskname=<comm>`: by which task.
    Taskname = 2,
    /// ` release=<release>`: the kernel's.
    Release = 4,
    /// ` msgid=<n>`: which one it is of those that the target has been sent.
    MsgId = 8,
}

/// Some of these lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SysdataSet(u8);

impl SysdataSet {
    /// Whether this line is one of them.
    pub(crate) fn contains(self, line: Sysdata) -> bool {
        self.0 & line as u8 != 0
    }

    /// The same with this line, or without it.
    pub(crate) fn with(self, line: Sysdata, on: bool) -> Self {
        let rest = self.0 & !(line as u8);
        Self(if on { rest | line as u8 } else { rest })
    }
}

/// What is known about a record. A line of which the value is not known is left out.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The CPU that logged it.
    pub(crate) cpu: Option<u32>,
    /// The name of the task that logged it, filled up with zeroes.
    pub(crate) comm: Option<&'a [u8; 16]>,
    /// The kernel's release.
    pub(crate) release: &'a [u8],
    /// Which one it is of those that the target has been sent.
    pub(crate) msgid: Option<u32>,
}

/// The most bytes of all these lines: their names, two numbers of 10 digits, 15 bytes of a name of
/// a task, each escaped fourfold, and a release of 64 (`__NEW_UTS_LEN`), likewise.
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

    /// Text of somebody else's: escaped as printk does it (`msg_add_ext_text()`), since a newline
    /// in the name of a task would make a line of its own. Upstream does not escape.
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

/// Writes the lines that the kernel fills in, in upstream's order.
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

/// Hands the pieces of a line of the user's to `out`.
pub(crate) fn line(key: &[u8], value: &[u8], out: &mut impl FnMut(&[u8])) {
    for piece in [b" ", key, b"=", value, b"\n"] {
        out(piece);
    }
}

/// Whether this is a key of which lines can be made: without control bytes and without `=`.
pub(crate) fn is_key(key: &[u8]) -> bool {
    !key.iter().any(|&c| c.is_ascii_control() || c == b'=')
}

/// Why something is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadValue {
    /// Longer than [`MAX_VALUE`].
    TooLong,
    /// It has a control byte other than a tab: a newline would make another line.
    Control,
}

/// The value that is meant by what has been written, which may end in a newline, or in a NUL.
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

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_userdata))]
#[cfg(any(test, CONFIG_KUNIT))]
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
