// SPDX-License-Identifier: GPL-2.0

//! The protocol, both ways: pure, `core` only. This is its text of reference.
//!
//! # Records
//!
//! printk's extended format of a record is a header, a semicolon and a body:
//!
//! ```text
//! <prio>,<seq>,<usec>,<flags>[,<key>=<value>]*;<text>\n[ <KEY>=<value>\n]*
//! ```
//!
//! A datagram of at most [`MAX_DATAGRAM`] bytes carries one record, or one fragment of one. What
//! this module adds to the header stands behind printk's keys, in this order:
//!
//! | | dialect `nca` (the 2015 series') | dialect `ncrx` (Meta's libncrx, upstream) |
//! |---|---|---|
//! | session | `,ncs=<16 hex digits>` | the same |
//! | hidden records | `,ncskip=<a>-<b>` | the same |
//! | lost records | `,nclost=<a>-<b>` | the same |
//! | of a crash | `,nccrash=1` | the same |
//! | emergency | `,emg=1` | `,ncemg=1` |
//! | fragment | `,ncfrag=<byte-offset>@<index>/<count>` | `,ncfrag=<byte-offset>/<total-bytes>` |
//!
//! The first three are sent only to a peer that has shown that it knows them (see below).
//! Hidden records are those that the console log level hides from the console; they are sent in
//! full if they are asked for. Lost ones are gone everywhere. The numbers mostly are those just
//! before the record that tells of them; but hidden ones at the end of the log are told of on the
//! last record again, and lost ones that were asked for on whatever record there is.
//!
//! A peer that does not know of such is sent hidden records in full when it asks, and for a lost
//! one a record of that number that says so: see [`substitute`].
//!
//! Behind a record's own body there may be lines ` <key>=<value>\n`, as those of its dictionary:
//! first the user's ("userdata"), then those that the sender fills in for each record ("sysdata":
//! `cpu`, `taskname`, `release`, `msgid`). They are upstream's, in upstream's place. Where printk
//! has cut the newline off the end of a long record, one is put before them.
//!
//! The offset counts bytes of the body, which is all after the first semicolon, these lines
//! included. Every fragment repeats the whole header. A record that fits is sent as it is, unless
//! something is added to its header. The kernel release, if asked for, stands before all:
//! `<release>,<prio>,...`.
//!
//! # Responses
//!
//! ```text
//! nca[<ack>] [<missing> ...] [~[<session>]]
//! ncrx[<ack>] [<missing> ...] [~[<session>]]
//! ```
//!
//! Between the words are blanks, as many as there are; blanks and a terminating NUL may follow. At
//! most [`MAX_DATAGRAM`] bytes in all.
//!
//! - `<ack>`, a decimal number directly behind the first word: every record up to and including it
//!   has arrived.
//! - `<missing>`, a number or, our extension, a range `<first>-<last>`: to be sent again.
//! - `~` (our extension): the peer knows sessions; with 16 hex digits, the session it means.
//!
//! An ack counts only if it is greater than 0 and less than the number of the next record, and
//! never moves back. In the dialect `ncrx` only one without a missing list turns acks on, since
//! libncrx by default acks nothing but with its requests.
//!
//! A session is one load of the module: 64 random bits. Once a peer has named ours, a response
//! without it changes nothing, for it may be late, or forged by somebody who cannot see the
//! records. With `session=auto` a plain peer is believed again when none has named it for 60 s;
//! `peer.rs` has the rules.
//!
//! What is not of this form is no response, and changes nothing. `wire_tests.rs` has tables of
//! examples of records, of responses, and of what is none.

use core::fmt::{
    self,
    Write, //
};

/// The most bytes in a datagram: upstream's `MAX_PRINT_CHUNK`, which receivers count on.
pub(crate) const MAX_DATAGRAM: usize = 1000;

/// The most bytes of a header, with the release and the keys added here.
///
/// A header from printk has about 60 bytes and a release at most 65. With this limit every
/// fragment carries at least half a datagram of the body, so that no header, however absurd, turns
/// one record into thousands of datagrams.
pub(crate) const MAX_HEADER: usize = MAX_DATAGRAM / 2;

/// The keys that are added to a header, with what stands before their values.
pub(crate) mod key {
    /// The session.
    pub(crate) const SESSION: &[u8] = b",ncs=";
    /// Hidden records.
    pub(crate) const SKIP: &[u8] = b",ncskip=";
    /// Lost records.
    pub(crate) const LOST: &[u8] = b",nclost=";
    /// The mark of a crash's own records, all of it.
    pub(crate) const CRASH: &[u8] = b",nccrash=1";
    /// The emergency mark in the dialect `nca`, all of it.
    pub(crate) const EMERGENCY_NCA: &[u8] = b",emg=1";
    /// The same in the dialect `ncrx`.
    pub(crate) const EMERGENCY_NCRX: &[u8] = b",ncemg=1";
    /// The fragment's place.
    pub(crate) const FRAGMENT: &[u8] = b",ncfrag=";
}

/// Which of the two protocols a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// That of the series of 2015 which had the idea.
    Nca,
    /// That of libncrx and, for fragments, of upstream's netconsole: what a peer that has never
    /// spoken is taken to understand.
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
    /// All before the first semicolon.
    pub(crate) header: &'a [u8],
    /// All after it.
    pub(crate) body: &'a [u8],
}

/// What a console that has taken over from another prefixes to the record that it repeats
/// (`printk_buffers` in kernel/printk/printk.c, `console_prepend_replay()`), extended or not.
const REPLAY: &[u8] = b"** replaying previous printk message **\n";

/// A record as it is without printk's remark that it repeats it.
pub(crate) fn without_remark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(REPLAY).unwrap_or(bytes)
}

/// The most bytes of a record that stands for one that is gone.
pub(crate) const MAX_SUBSTITUTE: usize = 128;

/// Writes a record that stands for record `seq`, which is gone, to a peer that does not know of
/// lost records: a warning. It is always the same for a number, so that it can be sent again; the
/// time is not known, and 0.
pub(crate) fn substitute(seq: u64, out: &mut [u8; MAX_SUBSTITUTE]) -> &[u8] {
    let mut buffer = Buffer { out, len: 0 };
    // Two numbers of at most 20 digits each and 59 other bytes.
    let _ = writeln!(
        buffer,
        "4,{seq},0,-;netconsole_ext: record {seq} was lost at the source"
    );
    let len = buffer.len;
    &out[..len]
}

impl<'a> Record<'a> {
    /// The record's number.
    pub(crate) fn seq(&self) -> Option<u64> {
        number(self.header.split(|&c| c == b',').nth(1)?)
    }

    /// The record's level (`KERN_*`), 0 to 7.
    pub(crate) fn level(&self) -> Option<u8> {
        let prio = number(self.header.split(|&c| c == b',').next()?)?;
        Some((prio & 7) as u8)
    }

    /// Splits what printk hands to an extended console.
    ///
    /// printk's remark that it repeats a record is not part of the record, and left out. To make
    /// room for it printk may have cut the end of a record of about 2000 bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BadRecord> {
        let bytes = without_remark(bytes);
        let at = bytes
            .iter()
            .position(|&c| c == b';')
            .ok_or(BadRecord::NoHeader)?;
        Ok(Self {
            header: &bytes[..at],
            body: &bytes[at + 1..],
        })
    }
}

/// Some consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first of them.
    pub(crate) first: u64,
    /// The last of them, not less than `first`.
    pub(crate) last: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A boot of the machine, or a load of the module: a random number that records carry, so that a
/// response to another one is told from a response to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session(pub(crate) u64);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a record is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    /// How fragments and emergency records are marked.
    pub(crate) dialect: Dialect,
    /// The kernel release to put before each datagram.
    pub(crate) release: Option<&'a [u8]>,
    /// Whether it is sent because no ack came for it.
    pub(crate) emergency: bool,
    /// The session, for a peer that knows sessions. The next three are for such a peer only.
    pub(crate) session: Option<Session>,
    /// Whether it is of the crash that the machine ends with: nothing comes after these, so there
    /// is no point in waiting for what is missing before them.
    pub(crate) crash: bool,
    /// Records that are hidden by the log level.
    pub(crate) skip: Option<Range>,
    /// Records that are gone.
    pub(crate) lost: Option<Range>,
    /// What is sent behind it.
    pub(crate) extra: Extra<'a>,
}

/// What is sent behind a record: complete lines ` <key>=<value>\n`, or nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// The user's.
    pub(crate) user: &'a [u8],
    /// Those that the sender fills in.
    pub(crate) sys: &'a [u8],
}

/// All that is sent behind the header, in pieces.
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
        for piece in self.0 {
            let from = skip.min(piece.len());
            let bytes = &piece[from..];
            let bytes = &bytes[..left.min(bytes.len())];
            out.bytes(bytes);
            skip -= from;
            left -= bytes.len();
        }
    }
}

#[cfg(any(test, CONFIG_KUNIT))]
impl Form<'static> {
    /// A record as it is, in a dialect.
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

/// Something that a datagram is written to, or measured with.
trait Sink: Write {
    fn bytes(&mut self, bytes: &[u8]);
}

/// Only counts.
struct Length(usize);

impl Sink for Length {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Writes from the start of a slice, and never beyond its end.
struct Buffer<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl Sink for Buffer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        // The slice is as long as `Length` has counted, so `n` is always `bytes.len()`.
        let room = &mut self.out[self.len..];
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
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

/// How a record is cut.
#[derive(Clone, Copy)]
enum Cut {
    /// Not at all.
    Whole,
    /// Into `count` fragments of `size` body bytes, the last one shorter.
    Fragments { size: usize, count: usize },
}

/// The datagrams of one record, in order.
///
/// Holds nothing but references: a datagram is written only where it is to be sent from.
///
/// # Invariants
///
/// No datagram is longer than [`MAX_DATAGRAM`], and the number of fragments is at most
/// `body.len() / (MAX_DATAGRAM - MAX_HEADER) + 1`.
#[derive(Clone)]
pub(crate) struct Datagrams<'a> {
    header: &'a [u8],
    body: Body<'a>,
    form: Form<'a>,
    cut: Cut,
    next: usize,
}

/// The number of decimal digits of `n`.
fn digits(n: usize) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl<'a> Datagrams<'a> {
    /// Cuts a record into datagrams.
    pub(crate) fn new(record: Record<'a>, form: Form<'a>) -> Result<Self, BadRecord> {
        let body = Body::new(record.body, form.extra);
        let mut whole = Self {
            header: record.header,
            body,
            form,
            cut: Cut::Whole,
            next: 0,
        };
        let mut header = Length(0);
        whole.head(&mut header, 0);
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

    /// The header of datagram `index`, with the semicolon.
    fn head(&self, out: &mut impl Sink, index: usize) {
        if let Some(release) = self.form.release {
            out.bytes(release);
            out.bytes(b",");
        }
        out.bytes(self.header);
        // Writing to a sink cannot fail.
        if let Some(session) = self.form.session {
            out.bytes(key::SESSION);
            let _ = write!(out, "{session}");
        }
        if let Some(skip) = self.form.skip {
            out.bytes(key::SKIP);
            let _ = write!(out, "{skip}");
        }
        if let Some(lost) = self.form.lost {
            out.bytes(key::LOST);
            let _ = write!(out, "{lost}");
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
        if let Cut::Fragments { size, count } = self.cut {
            let offset = index * size;
            out.bytes(key::FRAGMENT);
            let _ = match self.form.dialect {
                Dialect::Nca => write!(out, "{offset}@{index}/{count}"),
                Dialect::Ncrx => write!(out, "{offset}/{}", self.body.len()),
            };
        }
        out.bytes(b";");
    }

    /// Where the part of the body begins that datagram `index` carries, and its length.
    fn part(&self, index: usize) -> (usize, usize) {
        match self.cut {
            Cut::Whole => (0, self.body.len()),
            Cut::Fragments { size, .. } => {
                let start = index * size;
                (start, size.min(self.body.len().saturating_sub(start)))
            }
        }
    }
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = Datagram<'a>;

    fn next(&mut self) -> Option<Datagram<'a>> {
        let count = match self.cut {
            Cut::Whole => 1,
            Cut::Fragments { count, .. } => count,
        };
        let index = self.next;
        (index < count).then(|| {
            self.next += 1;
            let record = self.clone();
            let mut head = Length(0);
            record.head(&mut head, index);
            let len = head.0 + record.part(index).1;
            Datagram { record, index, len }
        })
    }
}

/// One datagram of a record, not yet written anywhere.
pub(crate) struct Datagram<'a> {
    record: Datagrams<'a>,
    index: usize,
    len: usize,
}

impl Datagram<'_> {
    /// Its length in bytes, at most [`MAX_DATAGRAM`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes it to `out`, which has [`Self::len`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let mut out = Buffer { out, len: 0 };
        self.record.head(&mut out, self.index);
        let (start, len) = self.record.part(self.index);
        self.record.body.write(&mut out, start, len);
    }
}

/// A response: what a logger says of the records it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    /// The dialect it is in.
    pub(crate) dialect: Dialect,
    /// Every record up to and including this one has arrived.
    pub(crate) ack: Option<u64>,
    /// Whether the peer knows sessions, and the session it means if it names one.
    pub(crate) session: Option<Option<Session>>,
    /// The words between the first and the session, all of them numbers or ranges.
    missing: &'a [u8],
}

/// A decimal number that is all of `word`.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    // `from_str` would take a sign.
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(word).ok()?.parse().ok()
}

/// A number or a range that is all of `word`.
pub(crate) fn range(word: &[u8]) -> Option<Range> {
    let (first, last) = match word.iter().position(|&c| c == b'-') {
        None => (number(word)?, number(word)?),
        Some(at) => (number(&word[..at])?, number(&word[at + 1..])?),
    };
    (first <= last).then_some(Range { first, last })
}

/// A session mark that is all of `word`.
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

    /// What is to be sent again, in the order of the response.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Range> + 'a {
        words(self.missing).filter_map(range)
    }
}
