// SPDX-License-Identifier: GPL-2.0

//! The protocol, both ways: records to datagrams, responses to acks and requests. Pure, `core`
//! only.
//!
//! `docs/protocol.md` is the reference, for people who write receivers as well; `examples.md` has
//! tables of records and responses, which `wire_tests.rs` reads. In short:
//!
//! A datagram of at most [`MAX_DATAGRAM`] bytes carries one record in printk's extended format, or
//! one fragment of one:
//!
//! ```text
//! [<release>,]<prio>,<seq>,<usec>,<flag>[,<key>=<value>]*;<text>\n[ <KEY>=<value>\n]*
//! ```
//!
//! Keys of the sender's follow printk's, in this order:
//!
//! | | dialect `nca` (the 2015 series') | dialect `ncrx` (Meta's libncrx, upstream) |
//! |---|---|---|
//! | session | `,ncs=<16 hex digits>` | the same |
//! | hidden records | `,ncskip=<a>-<b>` | the same |
//! | lost records | `,nclost=<a>-<b>` | the same |
//! | crash | `,nccrash=1` | the same |
//! | emergency | `,emg=1` | `,ncemg=1` |
//! | fragment | `,ncfrag=<byte-offset>@<index>/<count>` | `,ncfrag=<byte-offset>/<total-bytes>` |
//!
//! The first four are only for a peer that knows sessions. Userdata and sysdata follow the record's
//! own body. Offsets of fragments count bytes of the body with these lines; every fragment repeats
//! the header.
//!
//! A response is:
//!
//! ```text
//! nca[<ack>] [<missing> ...] [~[<session>]]
//! ncrx[<ack>] [<missing> ...] [~[<session>]]
//! ```
//!
//! `peer.rs` decides what a response changes.

use core::{
    fmt::{
        self,
        Write, //
    },
    mem, //
};

/// The most bytes in a datagram: upstream's `MAX_PRINT_CHUNK`, which receivers count on.
pub(crate) const MAX_DATAGRAM: usize = 1000;

/// The most bytes of a header, with the release and the keys added here.
///
/// A header from printk has about 60 bytes and a release at most 65. The limit leaves every
/// fragment at least half a datagram for the body, so a long header cannot turn one record into
/// thousands of datagrams.
pub(crate) const MAX_HEADER: usize = MAX_DATAGRAM / 2;

/// The keys that the sender adds to a header, each with its comma and `=`.
pub(crate) mod key {
    /// The session.
    pub(crate) const SESSION: &[u8] = b",ncs=";
    /// Hidden records.
    pub(crate) const SKIP: &[u8] = b",ncskip=";
    /// Lost records.
    pub(crate) const LOST: &[u8] = b",nclost=";
    /// The mark of a crash's own records, complete.
    pub(crate) const CRASH: &[u8] = b",nccrash=1";
    /// The emergency mark of the dialect `nca`, complete.
    pub(crate) const EMERGENCY_NCA: &[u8] = b",emg=1";
    /// The emergency mark of the dialect `ncrx`, complete.
    pub(crate) const EMERGENCY_NCRX: &[u8] = b",ncemg=1";
    /// The place of a fragment.
    pub(crate) const FRAGMENT: &[u8] = b",ncfrag=";
}

/// One of the two protocols, which a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // The receiver's library has it in its interface.
pub enum Dialect {
    /// That of the 2015 series.
    Nca,
    /// That of libncrx and, for fragments, of upstream's netconsole: what a logger that has not
    /// responded yet is assumed to understand.
    Ncrx,
}

/// Why a record cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    /// No semicolon: not in the extended format.
    NoHeader,
    /// A header that leaves too little of a datagram for the body.
    HeaderTooLong,
}

/// A record in printk's extended format.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    /// The bytes before the first semicolon.
    pub(crate) header: &'a [u8],
    /// The bytes after the first semicolon.
    pub(crate) body: &'a [u8],
}

/// The prefix that printk gives to a record that a console repeats after a takeover
/// (`printk_buffers`, `console_prepend_replay()` in kernel/printk/printk.c), in both formats.
const REPLAY: &[u8] = b"** replaying previous printk message **\n";

/// Returns a record without printk's replay prefix.
pub(crate) fn without_remark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(REPLAY).unwrap_or(bytes)
}

/// The most bytes of a substitute record.
pub(crate) const MAX_SUBSTITUTE: usize = 128;

/// Writes the substitute for record `seq`, which is lost, for a peer that does not know `nclost`: a
/// warning with the time 0. A number always gets the same bytes, so that it can be sent again.
pub(crate) fn substitute(seq: u64, out: &mut [u8; MAX_SUBSTITUTE]) -> &[u8] {
    let mut buffer = Buffer(out);
    // Two numbers of at most 20 digits each and 59 other bytes.
    let _ = writeln!(
        buffer,
        "4,{seq},0,-;netconsole_ext: record {seq} was lost at the source"
    );
    let len = MAX_SUBSTITUTE - buffer.0.len();
    &out[..len]
}

impl<'a> Record<'a> {
    /// Returns the record's number.
    pub(crate) fn seq(&self) -> Option<u64> {
        let at = find(self.header, b',')?;
        let rest = &self.header[at + 1..];
        number(&rest[..find(rest, b',').unwrap_or(rest.len())])
    }

    /// Splits the bytes that printk hands to an extended console.
    ///
    /// printk's replay prefix is left out. To make room for it printk may have cut the end of a
    /// record of about 2000 bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BadRecord> {
        let bytes = without_remark(bytes);
        let at = find(bytes, b';').ok_or(BadRecord::NoHeader)?;
        Ok(Self {
            header: &bytes[..at],
            body: &bytes[at + 1..],
        })
    }
}

/// Returns the place of the first byte `wanted`: eight bytes at a time, since a header is looked
/// through for each record.
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let same = u64::from(wanted) * ONES;
    let mut words = bytes.chunks_exact(8);
    for (n, word) in words.by_ref().enumerate() {
        let word = word.try_into().map_or(0, u64::from_le_bytes) ^ same;
        // The lowest bit set is that of the first zero byte; higher ones may be set by borrowing.
        let zeroes = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeroes != 0 {
            return Some(n * 8 + zeroes.trailing_zeros() as usize / 8);
        }
    }
    let rest = words.remainder();
    let at = rest.iter().position(|&c| c == wanted)?;
    Some(bytes.len() - rest.len() + at)
}

/// Consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // As the dialect.
pub struct Range {
    /// The first number.
    pub first: u64,
    /// The last number, not less than `first`.
    pub last: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A load of the module: a random number that its records carry. Responses that name another
/// session are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(unreachable_pub)] // As the dialect.
pub struct Session(pub u64);

impl Session {
    /// Returns the 16 hexadecimal digits.
    pub(super) fn digits(self) -> [u8; 16] {
        let mut rest = self.0;
        let mut digits = [0; 16];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        digits
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The form in which a record is sent.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Decides the marks of fragments and emergency records.
    pub(crate) dialect: Dialect,
    /// The kernel release to put before each datagram.
    pub(crate) release: Option<&'a [u8]>,
    /// Whether the record is sent because no ack came for it.
    pub(crate) emergency: bool,
    /// The session, for a peer that knows sessions. The next three fields are for such a peer only.
    pub(crate) session: Option<Session>,
    /// Whether the record is of the crash that the machine ends with. No records follow these, so
    /// the receiver need not wait for missing ones before them.
    pub(crate) crash: bool,
    /// Records that the console log level hides.
    pub(crate) skip: Option<Range>,
    /// Records that are lost.
    pub(crate) lost: Option<Range>,
    /// Lines behind the record.
    pub(crate) extra: Extra<'a>,
}

/// Lines that are sent behind a record: complete lines ` <key>=<value>\n`, or nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// Userdata.
    pub(crate) user: &'a [u8],
    /// Sysdata.
    pub(crate) sys: &'a [u8],
}

/// The body in pieces: the record's own, a newline if that lacks one, userdata, sysdata.
#[derive(Clone, Copy)]
struct Body<'a>([&'a [u8]; 4]);

impl<'a> Body<'a> {
    fn new(record: &'a [u8], extra: Extra<'a>) -> Self {
        let extended = !(extra.user.is_empty() && extra.sys.is_empty());
        let newline: &[u8] = if extended && !record.ends_with(b"\n") {
            b"\n"
        } else {
            b""
        };
        Self([record, newline, extra.user, extra.sys])
    }

    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Writes the bytes from `start` on, `len` of them.
    fn write(&self, out: &mut impl Sink, start: usize, len: usize) {
        let (mut skip, mut left) = (start, len);
        for piece in self.0.iter().filter(|piece| !piece.is_empty()) {
            let from = skip.min(piece.len());
            let bytes = &piece[from..];
            let bytes = &bytes[..left.min(bytes.len())];
            out.bytes(bytes);
            skip -= from;
            left -= bytes.len();
        }
    }
}

#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
impl Form<'static> {
    /// Returns the form of a record without marks, in a dialect.
    pub(crate) const fn plain(dialect: Dialect) -> Self {
        Self {
            dialect,
            release: None,
            emergency: false,
            session: None,
            crash: false,
            skip: None,
            lost: None,
            extra: Extra {
                user: b"",
                sys: b"",
            },
        }
    }
}

/// A place that a datagram is written to, or measured with.
trait Sink: Write {
    fn bytes(&mut self, bytes: &[u8]);
}

/// Counts bytes.
struct Length(usize);

impl Sink for Length {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Writes from the start of a slice, and never beyond its end.
struct Buffer<'b>(&'b mut [u8]);

impl Sink for Buffer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        // The slice is as long as `Length` has counted, so there is always room.
        if let Some((to, rest)) = mem::take(&mut self.0).split_at_mut_checked(bytes.len()) {
            to.copy_from_slice(bytes);
            self.0 = rest;
        }
    }
}

impl Write for Length {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

impl Write for Buffer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// Whether and where a record is cut.
#[derive(Clone, Copy)]
enum Cut {
    /// One datagram.
    Whole,
    /// `count` fragments of `size` body bytes, the last one shorter.
    Fragments { size: usize, count: usize },
}

/// The datagrams of one record.
///
/// Holds references only: a datagram is written directly into the buffer that it is sent from.
///
/// # Invariants
///
/// No datagram is longer than [`MAX_DATAGRAM`], and there are at most
/// `body.len() / (MAX_DATAGRAM - MAX_HEADER) + 1` of them.
pub(crate) struct Datagrams<'a> {
    header: &'a [u8],
    body: Body<'a>,
    form: Form<'a>,
    /// The bytes of a header without the place of a fragment.
    head_len: usize,
    cut: Cut,
}

/// Returns the number of decimal digits of `n`.
fn digits(n: usize) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl<'a> Datagrams<'a> {
    /// Cuts a record into datagrams.
    ///
    /// # Errors
    ///
    /// [`BadRecord::HeaderTooLong`]: the header leaves too little of a datagram for the body.
    pub(crate) fn new(record: Record<'a>, form: Form<'a>) -> Result<Self, BadRecord> {
        let body = Body::new(record.body, form.extra);
        let mut whole = Self {
            header: record.header,
            body,
            form,
            head_len: 0,
            cut: Cut::Whole,
        };
        let mut header = Length(0);
        whole.head(&mut header, 0);
        whole.head_len = header.0;
        // The longest fragment key of this record: an offset, an index and a count have at most as
        // many digits as the length of the body.
        let total = digits(body.len());
        let longest = match form.dialect {
            Dialect::Nca => key::FRAGMENT.len() + "@/".len() + 3 * total,
            Dialect::Ncrx => key::FRAGMENT.len() + "/".len() + 2 * total,
        };
        if header.0 + longest > MAX_HEADER {
            return Err(BadRecord::HeaderTooLong);
        }
        if header.0 + body.len() > MAX_DATAGRAM {
            // INVARIANT: At least MAX_DATAGRAM - MAX_HEADER bytes, by the check above.
            let size = MAX_DATAGRAM - header.0 - longest;
            let count = body.len().div_ceil(size);
            whole.cut = Cut::Fragments { size, count };
        }
        Ok(whole)
    }

    /// Writes the header of datagram `index`, with the semicolon.
    fn head(&self, out: &mut impl Sink, index: usize) {
        if let Some(release) = self.form.release {
            out.bytes(release);
            out.bytes(b",");
        }
        out.bytes(self.header);
        // Writing to a sink cannot fail.
        if let Some(session) = self.form.session {
            out.bytes(key::SESSION);
            out.bytes(&session.digits());
        }
        if let Some(skip) = self.form.skip {
            out.bytes(key::SKIP);
            let _ = write!(out, "{}-{}", skip.first, skip.last);
        }
        if let Some(lost) = self.form.lost {
            out.bytes(key::LOST);
            let _ = write!(out, "{}-{}", lost.first, lost.last);
        }
        if self.form.crash {
            out.bytes(key::CRASH);
        }
        if self.form.emergency {
            out.bytes(match self.form.dialect {
                Dialect::Nca => key::EMERGENCY_NCA,
                Dialect::Ncrx => key::EMERGENCY_NCRX,
            });
        }
        self.place(out, index);
        out.bytes(b";");
    }

    /// Writes the place of fragment `index`; nothing if the record is whole.
    fn place(&self, out: &mut impl Sink, index: usize) {
        if let Cut::Fragments { size, count } = self.cut {
            let offset = index * size;
            out.bytes(key::FRAGMENT);
            // Writing to a sink cannot fail.
            let _ = match self.form.dialect {
                Dialect::Nca => write!(out, "{offset}@{index}/{count}"),
                Dialect::Ncrx => write!(out, "{offset}/{}", self.body.len()),
            };
        }
    }

    /// Returns the first byte of the body in datagram `index`, and their number.
    fn part(&self, index: usize) -> (usize, usize) {
        match self.cut {
            Cut::Whole => (0, self.body.len()),
            Cut::Fragments { size, .. } => {
                let start = index * size;
                (start, size.min(self.body.len().saturating_sub(start)))
            }
        }
    }

    /// Returns the number of datagrams.
    fn count(&self) -> usize {
        match self.cut {
            Cut::Whole => 1,
            Cut::Fragments { count, .. } => count,
        }
    }

    /// Returns the datagrams in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.count()).map(|index| {
            let mut place = Length(0);
            self.place(&mut place, index);
            Datagram {
                record: self,
                index,
                len: self.head_len + place.0 + self.part(index).1,
            }
        })
    }
}

/// One datagram of a record, not written yet.
pub(crate) struct Datagram<'a> {
    record: &'a Datagrams<'a>,
    index: usize,
    len: usize,
}

impl Datagram<'_> {
    /// Returns the length in bytes, at most [`MAX_DATAGRAM`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes the datagram to `out`, which has [`Self::len`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let mut out = Buffer(out);
        self.record.head(&mut out, self.index);
        let (start, len) = self.record.part(self.index);
        self.record.body.write(&mut out, start, len);
    }
}

/// A response: the ack and the requests of a logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    /// The dialect of the response.
    pub(crate) dialect: Dialect,
    /// The ack: every record up to and including this one has arrived.
    pub(crate) ack: Option<u64>,
    /// The session mark: whether the peer knows sessions, and the session that it names.
    pub(crate) session: Option<Option<Session>>,
    /// The words between the first one and the session mark: numbers and ranges.
    missing: &'a [u8],
}

/// Reads a decimal number that is all of `word`.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    // `from_str` would take a sign, and want to know first whether it is UTF-8.
    let add = |sum: u64, &c: &u8| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0, add)
}

/// Reads a number or a range that is all of `word`.
pub(crate) fn range(word: &[u8]) -> Option<Range> {
    let (first, last) = match word.iter().position(|&c| c == b'-') {
        None => (number(word)?, number(word)?),
        Some(at) => (number(&word[..at])?, number(&word[at + 1..])?),
    };
    (first <= last).then_some(Range { first, last })
}

/// Reads a session mark that is all of `word`.
pub(crate) fn session(word: &[u8]) -> Option<Option<Session>> {
    let digits = word.strip_prefix(b"~")?;
    if digits.is_empty() {
        return Some(None);
    }
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let id = u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
    Some(Some(Session(id)))
}

fn words(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

impl<'a> Response<'a> {
    /// Parses a datagram; [`None`] if it is no response.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > MAX_DATAGRAM {
            return None;
        }
        // Some senders count the terminator of their string.
        let text = datagram.strip_suffix(b"\0").unwrap_or(datagram);
        let text = text.trim_ascii();
        let end = text
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(text.len());
        let (first, rest) = text.split_at(end);
        let (dialect, ack) = match first.strip_prefix(b"ncrx") {
            Some(ack) => (Dialect::Ncrx, ack),
            None => (Dialect::Nca, first.strip_prefix(b"nca")?),
        };
        let ack = match ack {
            b"" => None,
            ack => Some(number(ack)?),
        };
        let last = words(rest).next_back();
        let mark = match last {
            Some(word) if word.starts_with(b"~") => Some(session(word)?),
            _ => None,
        };
        let missing = match (mark, last) {
            (Some(_), Some(word)) => &rest[..rest.len() - word.len()],
            _ => rest,
        };
        words(missing)
            .all(|word| range(word).is_some())
            .then_some(Self {
                dialect,
                ack,
                session: mark,
                missing,
            })
    }

    /// Returns the ranges that are asked for, in the order of the response.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Range> + 'a {
        words(self.missing).filter_map(range)
    }
}
