// SPDX-License-Identifier: GPL-2.0

//! Datagrams, read without copying.
//!
//! `docs/protocol.md` is the reference of the format; the module's `proto/wire.rs` is the other
//! end.

use crate::proto::wire::{self, key, Range, Session};

/// The longest datagram that is taken, in bytes. Our senders never send more than 1000, but there
/// is no reason to refuse senders that do.
pub(crate) const MAX_DATAGRAM: usize = 9000;

/// The highest number of a record that is taken: no record has a number of the upper half, so that
/// there are always numbers behind a record's.
pub(crate) const MAX_SEQ: u64 = u64::MAX >> 1;

/// The line that printk puts before a record that it prints a second time.
const REPLAYED: &[u8] = b"** replaying previous printk message **\n";

/// The reason why a datagram was dropped. Each kind is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// An extended record with one of our keys in a form that it does not have.
    #[error("a record with a bad `{0}=`")]
    BadKey(&'static str),
    /// More bytes than any sender sends.
    #[error("a datagram of {0} bytes")]
    TooLong(usize),
    /// A number too far beyond all that are known; believed if the next one is near it.
    #[error("record {0} is out of nowhere")]
    OutOfNowhere(u64),
    /// Too many senders are known already.
    #[error("too many senders")]
    TooManySenders,
    /// There is no memory left for it; it will be asked for again.
    #[error("no memory left for record {0}")]
    NoMemory(u64),
}

/// A fragment's place in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// The body's bytes before it.
    pub(crate) offset: usize,
    /// The length of the body in bytes, if the fragment tells it.
    pub(crate) total: Option<usize>,
}

/// An extended record or a fragment of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    /// Facility and level.
    pub(crate) prio: u32,
    pub(crate) seq: u64,
    /// The sender's clock, in microseconds.
    pub(crate) usec: u64,
    /// All of it from the release on, if there is one: the header, a semicolon, the body.
    pub(crate) bytes: &'a [u8],
    pub(crate) semicolon: usize,
    /// The length of the text: the body's first line, without its newline.
    pub(crate) text: usize,
    /// The length of the text up to its first escape.
    pub(crate) unescaped: usize,
    /// The length of the release, with its comma; or 0.
    pub(crate) release: usize,
    /// Whether it has any of the following marks, the session not counted.
    marked: bool,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) emergency: bool,
    /// It is of the crash that the sender ends with.
    pub(crate) crash: bool,
    pub(crate) session: Option<Session>,
    pub(crate) skip: Option<Range>,
    pub(crate) lost: Option<Range>,
}

/// The kind of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A keepalive.
    Empty,
    /// A record, or a part of one.
    Record,
    /// Everything else: a line of a basic target, or a part of one, or any other bytes.
    Text,
}

/// Reads digits from the start, of at most eight bytes: the number, and how many they were.
///
/// All at once: three numbers are in each record, and this is most of what it takes to read one.
fn leading8(bytes: [u8; 8]) -> (u64, usize) {
    const ONES: u64 = u64::MAX / 0xff;
    // Digits become 0 to 9. A byte above 9 gets its high bit by the sum, or had it; a carry changes
    // only bytes behind the first such one.
    let digits = u64::from_le_bytes(bytes) ^ (ONES * 0x30);
    let others = (digits | digits.wrapping_add(ONES * 0x76)) & (ONES * 0x80);
    let len = others.trailing_zeros() / 8;
    // The first is the lowest byte: zeros come before it.
    let n = digits.checked_shl(64 - 8 * len).unwrap_or(0);
    // Numbers of two digits in every other byte; then of four, and of eight.
    let n = n.wrapping_mul(10).wrapping_add(n >> 8) & 0x00ff_00ff_00ff_00ff;
    let n = n.wrapping_mul(100).wrapping_add(n >> 16) & 0x0000_ffff_0000_ffff;
    let n = n.wrapping_mul(10_000).wrapping_add(n >> 32) & 0xffff_ffff;
    (n, len as usize)
}

/// Reads digits from the start: the number, and how many they were.
fn leading(bytes: &[u8]) -> Option<(u64, usize)> {
    let (mut n, mut len) = bytes.first_chunk().map_or((0, 0), |&chunk| leading8(chunk));
    if len == 8 || bytes.len() < 8 {
        for &c in &bytes[len..] {
            let digit = c.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            n = n.checked_mul(10)?.checked_add(u64::from(digit))?;
            len += 1;
        }
    }
    (len > 0).then_some((n, len))
}

/// Reads a number with a comma behind it: returns the number, and the rest behind the comma.
#[inline]
fn field(bytes: &[u8]) -> Option<(u64, &[u8])> {
    // The usual case, with nothing looked at twice.
    if let Some(&chunk) = bytes.first_chunk() {
        let (n, len) = leading8(chunk);
        if len > 0 && len < 8 && bytes[len] == b',' {
            return Some((n, &bytes[len + 1..]));
        }
    }
    let (n, len) = leading(bytes)?;
    (bytes.get(len) == Some(&b',')).then(|| (n, &bytes[len + 1..]))
}

/// The same of a number that mostly has one or two digits.
fn short_field(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digit = |c: u8| u64::from(c.wrapping_sub(b'0'));
    match *bytes {
        [a @ b'0'..=b'9', b',', ref rest @ ..] => Some((digit(a), rest)),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b',', ref rest @ ..] => {
            Some((10 * digit(a) + digit(b), rest))
        }
        _ => field(bytes),
    }
}

/// Reads `<prio>,<seq>,<usec>,`; returns the numbers and the rest, which begins with the flags.
#[inline(always)] // They go where they are kept.
fn numbers(bytes: &[u8]) -> Option<(u32, u64, u64, &[u8])> {
    let (prio, rest) = short_field(bytes)?;
    let (seq, rest) = field(rest)?;
    let (usec, rest) = field(rest)?;
    (seq <= MAX_SEQ).then_some((u32::try_from(prio).ok()?, seq, usec, rest))
}

/// Leaves out what printk says before a record.
fn without_notices(mut bytes: &[u8]) -> &[u8] {
    while bytes.first() == Some(&b'*') {
        if let Some(rest) = bytes.strip_prefix(REPLAYED) {
            bytes = rest;
            continue;
        }
        let Some((_, len)) = bytes.strip_prefix(b"** ").and_then(leading) else {
            break;
        };
        match bytes[3 + len..].strip_prefix(b" printk messages dropped **\n") {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    bytes
}

/// `<offset>/<total>` or `<offset>@<index>/<count>`, where `len` bytes are carried.
fn fragment(value: &[u8], len: usize) -> Option<Fragment> {
    let slash = value.iter().position(|&c| c == b'/')?;
    let (left, right) = (&value[..slash], &value[slash + 1..]);
    let right = usize::try_from(wire::number(right)?).ok()?;
    let Some(at) = left.iter().position(|&c| c == b'@') else {
        let offset = usize::try_from(wire::number(left)?).ok()?;
        return (offset.checked_add(len)? <= right).then_some(Fragment {
            offset,
            total: Some(right),
        });
    };
    let offset = usize::try_from(wire::number(&left[..at])?).ok()?;
    let index = usize::try_from(wire::number(&left[at + 1..])?).ok()?;
    let end = offset.checked_add(len)?;
    let after = index.checked_add(1)?;
    (after <= right).then_some(Fragment {
        offset,
        // The last one ends where the body does.
        total: (after == right).then_some(end),
    })
}

/// The value of our key at the start of a header's field, which begins with a comma.
fn value<'a>(field: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    field.strip_prefix(key)
}

/// Returns whether the field of a header is one that the sender has added.
pub(crate) fn is_ours(field: &[u8]) -> bool {
    field == key::EMERGENCY_NCA
        || field == key::CRASH
        || field == key::EMERGENCY_NCRX
        || [key::SESSION, key::SKIP, key::LOST, key::FRAGMENT]
            .iter()
            .any(|key| field.starts_with(key))
}

/// A header's fields behind the flags, each with the comma before it.
pub(crate) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = memchr::memchr(b',', &bytes[1..]).map_or(bytes.len(), |at| at + 1);
        let (field, rest) = bytes.split_at(end);
        bytes = rest;
        Some(field)
    })
}

/// The flags' field, and what is behind it.
pub(crate) fn flags(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(memchr::memchr(b',', bytes).unwrap_or(bytes.len()))
}

/// Returns the place of this byte; it mostly is the first.
fn memchr_short(byte: u8, bytes: &[u8]) -> Option<usize> {
    match bytes.first() == Some(&byte) {
        true => Some(0),
        false => memchr::memchr(byte, bytes),
    }
}

/// Returns the first line, without its newline.
pub(crate) fn line(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(b'\n', bytes).unwrap_or(bytes.len())]
}

/// Returns whether there are bytes in a text that are no UTF-8, or controls that printk does not
/// use.
pub(crate) fn is_odd(text: &[u8]) -> bool {
    let odd = |c: &u8| *c < b' ' && !matches!(c, b'\n' | b'\t' | b'\r' | b'\x1b');
    std::str::from_utf8(text).is_err() || text.iter().any(odd)
}

impl<'a> Datagram<'a> {
    /// One of which nothing is known but its bytes.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            prio: 0,
            seq: 0,
            usec: 0,
            bytes,
            semicolon: 0,
            text: 0,
            unescaped: 0,
            release: 0,
            marked: false,
            fragment: None,
            emergency: false,
            crash: false,
            session: None,
            skip: None,
            lost: None,
        }
    }

    /// Finds out its kind. If it is no record, only its bytes mean something.
    ///
    /// It is read in place: moving it to the caller would take as long as reading it.
    #[inline(always)] // Into the fast path.
    pub(crate) fn read(&mut self) -> Result<Message, Rejected> {
        if self.bytes.is_empty() {
            return Ok(Message::Empty);
        }
        if self.bytes.len() > MAX_DATAGRAM {
            return Err(Rejected::TooLong(self.bytes.len()));
        }
        let all = self.bytes;
        if all.first() == Some(&b'*') {
            self.bytes = without_notices(all);
        }
        if self.read_record()? {
            return Ok(Message::Record);
        }
        self.bytes = all;
        Ok(Message::Text)
    }

    /// The header, with the release.
    pub(crate) fn header(&self) -> &'a [u8] {
        &self.bytes[..self.semicolon]
    }

    /// Returns the bytes behind the semicolon.
    pub(crate) fn body(&self) -> &'a [u8] {
        &self.bytes[self.semicolon + 1..]
    }

    /// Returns whether it is a whole record and says nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        !self.marked && self.usec > 0
    }

    /// Returns whether it says something that a record does not when it is sent for the first time.
    pub(crate) fn is_marked(&self) -> bool {
        self.marked && self.fragment.is_none()
    }

    /// Returns whether it stands for a record that is gone at a sender that cannot say so
    /// otherwise.
    pub(crate) fn is_substitute(&self) -> bool {
        self.usec == 0 && self.body().starts_with(b"netconsole_ext: record ")
    }

    /// Reads an extended record; returns whether it is one.
    #[inline(always)] // Into the fast path.
    fn read_record(&mut self) -> Result<bool, Rejected> {
        let bytes = self.bytes;
        let rest = match numbers(bytes) {
            Some((prio, seq, usec, rest)) => {
                (self.prio, self.seq, self.usec) = (prio, seq, usec);
                rest
            }
            None => match self.behind_release() {
                Some(rest) => rest,
                None => return Ok(false),
            },
        };
        // The flags are mostly one byte, and nothing else is in the header.
        let ends = |c: &u8| matches!(c, b',' | b';');
        let flags = match rest {
            [flag, end, ..] if ends(end) && !ends(flag) => Some(1),
            _ => rest.iter().position(ends),
        };
        let Some(flags) = flags else {
            return Ok(false);
        };
        let Some(keys) = memchr_short(b';', &rest[flags..]) else {
            return Ok(false);
        };
        let semicolon = flags + keys;
        self.semicolon = bytes.len() - rest.len() + semicolon;
        if keys > 0 {
            self.read_keys(&rest[flags..semicolon])?;
        }
        self.find_text();
        Ok(true)
    }

    /// Finds the end of the text. Mostly it has no escape, and is looked at once.
    #[inline]
    fn find_text(&mut self) {
        let body = self.body();
        let end = memchr::memchr2(b'\n', b'\\', body).unwrap_or(body.len());
        self.unescaped = end;
        self.text = match body.get(end) {
            Some(b'\\') => line(body).len(),
            _ => end,
        };
    }

    /// Reads the numbers behind the release, which begins with a digit like the priority, but has
    /// no digit alone.
    #[inline(never)] // So that what is usual is short.
    fn behind_release(&mut self) -> Option<&'a [u8]> {
        let release = memchr::memchr(b',', self.bytes)? + 1;
        let (prio, seq, usec, rest) = numbers(&self.bytes[release..])?;
        (self.prio, self.seq, self.usec, self.release) = (prio, seq, usec, release);
        Some(rest)
    }

    fn read_keys(&mut self, keys: &'a [u8]) -> Result<(), Rejected> {
        for field in fields(keys) {
            if let Some(digits) = value(field, key::SESSION) {
                self.session = Some(session(digits).ok_or(Rejected::BadKey("ncs"))?);
                continue;
            }
            if let Some(range) = value(field, key::SKIP) {
                self.skip = Some(wire::range(range).ok_or(Rejected::BadKey("ncskip"))?);
            } else if let Some(range) = value(field, key::LOST) {
                self.lost = Some(wire::range(range).ok_or(Rejected::BadKey("nclost"))?);
            } else if let Some(place) = value(field, key::FRAGMENT) {
                let fragment = fragment(place, self.body().len());
                self.fragment = Some(fragment.ok_or(Rejected::BadKey("ncfrag"))?);
            } else if field == key::CRASH {
                self.crash = true;
            } else if field == key::EMERGENCY_NCA || field == key::EMERGENCY_NCRX {
                self.emergency = true;
            } else {
                continue;
            }
            self.marked = true;
        }
        Ok(())
    }
}

fn session(digits: &[u8]) -> Option<Session> {
    if digits.len() != 16 {
        return None;
    }
    let id = digits.iter().try_fold(0, |id: u64, &c| {
        let digit = char::from(c).to_digit(16)?;
        Some((id << 4) | u64::from(digit))
    })?;
    Some(Session(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> Result<Message, Rejected> {
        Datagram::new(bytes).read()
    }

    fn record(bytes: &[u8]) -> Datagram<'_> {
        let mut datagram = Datagram::new(bytes);
        let kind = datagram.read();
        assert_eq!(kind, Ok(Message::Record), "{}", bytes.escape_ascii());
        datagram
    }

    #[test]
    fn records() {
        let d = record(b"30,5,123,-,caller=T1;hello; you\n KEY=v\n");
        assert_eq!((d.prio, d.seq, d.usec, d.release), (30, 5, 123, 0));
        assert_eq!(d.header(), b"30,5,123,-,caller=T1");
        assert_eq!(d.body(), b"hello; you\n KEY=v\n");
        let d = record(
            b"7.3.4+deb13-cloud-amd64,6,7,8,c,ncs=00000000DEADbeef,ncskip=1-3,nclost=4-4,emg=1;",
        );
        assert_eq!((d.seq, d.usec, d.release), (7, 8, 24));
        assert_eq!(d.session, Some(Session(0xdead_beef)));
        assert_eq!((d.skip.unwrap().first, d.skip.unwrap().last), (1, 3));
        assert_eq!((d.lost.unwrap().first, d.emergency), (4, true));
        assert!(d.body().is_empty());
        let d = record(
            b"** replaying previous printk message **\n** 12 printk messages dropped **\n6,1,2,-;x",
        );
        assert_eq!(d.seq, 1);
    }

    #[test]
    fn numbers_of_any_length() {
        for n in (0..20).map(|len| 10u64.pow(len)) {
            for n in [n - 1, n, n + 1, 7 * (n / 7), u64::MAX - n] {
                for behind in [
                    "",
                    ",",
                    ";",
                    "/",
                    ":",
                    "a",
                    ",12345678",
                    "\u{ff}\u{ff}-------",
                ] {
                    let text = format!("{n}{behind}");
                    let len = text.len() - behind.len();
                    assert_eq!(leading(text.as_bytes()), Some((n, len)), "{text}");
                }
            }
        }
        for none in [
            "",
            ",",
            "-1",
            " 12345678",
            "18446744073709551616",
            "184467440737095516150",
        ] {
            assert_eq!(leading(none.as_bytes()), None, "{none}");
        }
        assert_eq!(leading(b"00000000000000000000000000001,"), Some((1, 29)));
    }

    #[test]
    fn fragments() {
        let most = "18446744073709551615";
        for place in [
            format!("0@{most}/{most}"),
            format!("{most}@0/1"),
            format!("{most}/{most}"),
        ] {
            let bytes = format!("6,3,3000,-,ncfrag={place};q");
            assert!(kind(bytes.as_bytes()).is_err(), "{bytes}");
        }
        let place = |bytes| {
            let fragment = record(bytes).fragment.unwrap();
            (fragment.offset, fragment.total)
        };
        assert_eq!(place(b"6,1,2,-,ncfrag=3/6;abc"), (3, Some(6)));
        assert_eq!(place(b"6,1,2,-,ncfrag=3@1/3;abc"), (3, None));
        assert_eq!(place(b"6,1,2,-,ncfrag=6@2/3;abc"), (6, Some(9)));
        for bad in [
            "",
            "1",
            "1/",
            "/1",
            "3/5",
            "1@/2",
            "a@1/2",
            "-1/2",
            "0@2/2",
            "0@0/0",
            "18446744073709551615/18446744073709551615",
            "18446744073709551615@0/2",
        ] {
            let text = format!("6,1,2,-,ncfrag={bad};abc");
            assert_eq!(
                kind(text.as_bytes()),
                Err(Rejected::BadKey("ncfrag")),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_no_record_is_text() {
        for text in [
            "hello\n",
            "6,1,2;x",
            "6,x,2,-;x",
            "6,1,2,-",
            "[   12.345678] a\tb\n",
            "7.3.4,a",
        ] {
            assert_eq!(kind(text.as_bytes()), Ok(Message::Text), "{text:?}");
        }
        for odd in [&b"\0"[..], b"a\0b", b"\xff\xfe", b"\x01", b"Caf\xe9\n"] {
            assert_eq!(kind(odd), Ok(Message::Text));
            assert!(is_odd(odd));
        }
        assert!(!is_odd("Caf\u{e9} \x1b[1m\n".as_bytes()));
        assert_eq!(kind(b""), Ok(Message::Empty));
        let long = [b'a'; MAX_DATAGRAM + 1];
        assert_eq!(kind(&long), Err(Rejected::TooLong(MAX_DATAGRAM + 1)));
        for bad in ["ncs=1", "ncs=000000000000000g", "ncskip=3-2", "nclost="] {
            let text = format!("6,1,2,-,{bad};abc");
            assert!(kind(text.as_bytes()).is_err(), "{bad}");
        }
    }
}
