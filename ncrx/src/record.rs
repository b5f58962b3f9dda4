// SPDX-License-Identifier: GPL-2.0

//! Records as they are kept, and records and events as they are returned.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use crate::datagram::{fields, flags, is_ours, Datagram};
pub use crate::proto::wire::{Range as SeqRange, Session};
use crate::stream::Token;

/// A stream: a sender's records from one start of its log, or one load of its module, to the next.
/// Numbers are meaningful only within one. A receiver never uses an id twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub(crate) u32);

/// The evidence that a stream is genuine, and not forged: more is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There is none.
    Stranger,
    /// It has named a session, which needs no proof.
    Named,
    /// It has proven itself: it has shown that it hears the receiver, or has kept a session for ten
    /// seconds, or goes on from what another receiver has known.
    Proven,
}

/// The memory of a record's bytes is a multiple of this, a power of two.
const ROOM: usize = 64;

/// A record that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The header, with the release and our keys; a semicolon; the body. Or the text.
    pub(crate) bytes: Vec<u8>,
    /// The index of the semicolon.
    pub(crate) semicolon: u32,
    /// The length of the text, without its last newline.
    pub(crate) text: u32,
    pub(crate) prio: u32,
    pub(crate) seq: u64,
    pub(crate) usec: u64,
    pub(crate) arrived: Instant,
    /// The length of the release, with its comma; 0 without one.
    pub(crate) release: u16,
    pub(crate) kind: Kind,
    pub(crate) emergency: bool,
    pub(crate) crash: bool,
    /// Whether it is returned late. This, its stream and all of that are set when it is returned.
    pub(crate) late: bool,
    pub(crate) stream: StreamId,
    /// The place of its sender.
    pub(crate) source: u32,
    pub(crate) session: Option<Session>,
    pub(crate) standing: Standing,
    /// The number in its token.
    pub(crate) nth: u32,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole,
    /// Fragments of it are missing.
    Partial,
    /// Text of a basic target.
    Text,
}

impl Stored {
    /// Returns a record to be filled.
    pub(crate) fn empty(arrived: Instant) -> Self {
        Self {
            bytes: Vec::new(),
            semicolon: 0,
            text: 0,
            prio: 0,
            seq: 0,
            usec: 0,
            arrived,
            release: 0,
            kind: Kind::Whole,
            emergency: false,
            crash: false,
            late: false,
            stream: StreamId(0),
            source: 0,
            session: None,
            standing: Standing::Stranger,
            nth: 0,
        }
    }

    /// Takes over the record of a datagram.
    #[inline(always)] // Into the fast path.
    pub(crate) fn fill(&mut self, datagram: &Datagram<'_>, arrived: Instant) {
        self.bytes.clear();
        if self.bytes.capacity() < datagram.bytes.len() {
            self.grow(datagram.bytes.len());
        }
        self.bytes.extend_from_slice(datagram.bytes);
        // All are less than the longest datagram.
        self.semicolon = datagram.semicolon as u32;
        self.text = datagram.text as u32;
        self.release = datagram.release as u16;
        self.emergency = datagram.emergency;
        self.crash = datagram.crash;
        self.kind = Kind::Whole;
        self.prio = datagram.prio;
        self.seq = datagram.seq;
        self.usec = datagram.usec;
        self.arrived = arrived;
    }

    /// Makes room for so many bytes: rounded up, so that memory that is used again mostly fits.
    #[inline(never)]
    fn grow(&mut self, len: usize) {
        self.bytes.reserve_exact((len | (ROOM - 1)) + 1);
    }

    /// Returns the text of a basic target as a record.
    pub(crate) fn text(text: &[u8], arrived: Instant) -> Box<Self> {
        Box::new(Self {
            bytes: text.into(),
            text: text.strip_suffix(b"\n").unwrap_or(text).len() as u32,
            kind: Kind::Text,
            ..Self::empty(arrived)
        })
    }

    /// Returns the bytes of memory that it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }
}

/// A record, returned once.
///
/// [`fmt::Display`] writes it as `dmesg` would, without a newline.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(crate) stored: &'a Stored,
    pub(crate) host: &'a SocketAddr,
}

impl<'a> Record<'a> {
    /// Returns the sender's address.
    pub fn host(&self) -> SocketAddr {
        *self.host
    }

    /// Returns the stream. Numbers are meaningful only within it.
    pub fn stream(&self) -> StreamId {
        self.stored.stream
    }

    /// Returns the token to confirm it by: see [`Receiver::confirm`](crate::Receiver::confirm).
    pub fn token(&self) -> Token {
        Token {
            source: self.stored.source,
            stream: self.stored.stream,
            seq: self.stored.seq,
            nth: self.stored.nth,
        }
    }

    /// Returns the sender's session, if a record has named it.
    pub fn session(&self) -> Option<Session> {
        self.stored.session
    }

    /// Returns the evidence that its stream is genuine, as it was when the record was ready.
    pub fn standing(&self) -> Standing {
        self.stored.standing
    }

    /// Returns a copy that may be kept while others are taken.
    pub fn keep(&self) -> KeptRecord {
        KeptRecord {
            stored: Box::new(self.stored.clone()),
            host: *self.host,
        }
    }

    /// Returns when it arrived; of a record in fragments, the last one.
    pub fn arrived(&self) -> Instant {
        self.stored.arrived
    }

    /// Returns the record's number; [`None`] for the text of a basic target, which has no header.
    pub fn seq(&self) -> Option<u64> {
        (!self.is_text()).then_some(self.stored.seq)
    }

    /// Returns facility and level, as syslog has them: facility * 8 + level.
    pub fn priority(&self) -> Option<u32> {
        (!self.is_text()).then_some(self.stored.prio)
    }

    /// Returns the level, 0 (emergency) to 7 (debug).
    pub fn level(&self) -> Option<u8> {
        Some((self.priority()? & 7) as u8)
    }

    /// Returns the facility; 0 is the kernel.
    pub fn facility(&self) -> Option<u32> {
        Some(self.priority()? >> 3)
    }

    /// Returns the sender's clock when it was logged, in microseconds since about its boot.
    pub fn usec(&self) -> Option<u64> {
        (!self.is_text()).then_some(self.stored.usec)
    }

    /// Returns whether it comes out of order, after it had been given up or after its stream had
    /// ended. Records returned before it have larger numbers, or are of a later stream.
    pub fn is_late(&self) -> bool {
        self.stored.late
    }

    /// Returns whether it was sent because nothing had been acknowledged; of a record in fragments,
    /// the last one.
    pub fn is_emergency(&self) -> bool {
        self.stored.emergency
    }

    /// Returns whether the sender has marked it as part of the crash that it ends with. No records
    /// follow these before the machine starts again.
    pub fn is_crash(&self) -> bool {
        self.stored.crash
    }

    /// Returns whether it is text of a basic target: a line, or a part of a long one.
    pub fn is_text(&self) -> bool {
        self.stored.kind == Kind::Text
    }

    /// Returns whether it is only the first part of a record whose rest has not arrived in time. If
    /// the rest still comes, the whole record is returned as a late one.
    pub fn is_partial(&self) -> bool {
        self.stored.kind == Kind::Partial
    }

    /// Returns the kernel's release, if the sender adds it to records.
    pub fn release(&self) -> Option<&'a [u8]> {
        let release = usize::from(self.stored.release);
        (release > 0).then(|| &self.stored.bytes[..release - 1])
    }

    /// Returns the flag: `-`, or `c` for a record that continues the one before.
    pub fn flag(&self) -> Option<&'a [u8]> {
        (!self.is_text()).then(|| flags(self.behind_numbers()).0)
    }

    /// Returns the other keys and values of the header, like `caller`, without those that the
    /// sender of the datagrams has added.
    pub fn keys(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let keys = match self.is_text() {
            true => &[],
            false => flags(self.behind_numbers()).1,
        };
        let ours = |field: &&[u8]| !is_ours(field);
        fields(keys).filter(ours).map(|field| split(&field[1..]))
    }

    /// Returns the header from the flag on.
    fn behind_numbers(&self) -> &'a [u8] {
        let header = &self.stored.bytes[usize::from(self.stored.release)..];
        let header = &header[..self.stored.semicolon as usize - usize::from(self.stored.release)];
        let mut commas = memchr::memchr_iter(b',', header);
        commas.nth(2).map_or(&[], |at| &header[at + 1..])
    }

    /// Returns all after the header: the text, a newline, and the dictionary, userdata and sysdata.
    pub fn body(&self) -> &'a [u8] {
        match self.is_text() {
            true => &self.stored.bytes,
            false => &self.stored.bytes[self.stored.semicolon as usize + 1..],
        }
    }

    /// Returns the text without its last newline. printk has escaped control bytes and backslashes
    /// as `\x..`: see [`unescape`](crate::unescape).
    pub fn text(&self) -> &'a [u8] {
        &self.body()[..self.stored.text as usize]
    }

    /// Returns the lines ` KEY=value` behind the text: the dictionary, then userdata and sysdata.
    pub fn dictionary(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let body = if self.is_text() { &[] } else { self.body() };
        let mut lines = body.split(|&c| c == b'\n');
        lines.next();
        lines.filter_map(|line| line.strip_prefix(b" ")).map(split)
    }

    /// Appends the record in the form of `/dev/kmsg` to `out`: without the release, and without the
    /// keys that the sender of the datagrams has added.
    pub fn write_kmsg(&self, out: &mut Vec<u8>) {
        if self.is_text() {
            out.extend_from_slice(self.body());
            return;
        }
        let start = usize::from(self.stored.release);
        let behind = self.behind_numbers();
        let (flag, keys) = flags(behind);
        let numbers = self.stored.semicolon as usize - behind.len();
        out.extend_from_slice(&self.stored.bytes[start..numbers]);
        out.extend_from_slice(flag);
        for field in fields(keys).filter(|field| !is_ours(field)) {
            out.extend_from_slice(field);
        }
        out.push(b';');
        out.extend_from_slice(self.body());
    }
}

/// A copy of a record: see [`Record::keep`].
#[derive(Clone, Debug)]
pub struct KeptRecord {
    stored: Box<Stored>,
    host: SocketAddr,
}

impl KeptRecord {
    /// Returns the record.
    pub fn record(&self) -> Record<'_> {
        Record {
            stored: &self.stored,
            host: &self.host,
        }
    }
}

/// Splits `key=value`; a key alone has an empty value.
fn split(field: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', field) {
        Some(at) => (&field[..at], &field[at + 1..]),
        None => (field, b""),
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(usec) = self.usec() {
            write!(f, "[{:5}.{:06}] ", usec / 1_000_000, usec % 1_000_000)?;
        }
        f.write_str(&String::from_utf8_lossy(&crate::unescape(self.text())))
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("host", self.host)
            .field("session", &self.stored.session)
            .field("late", &self.stored.late)
            .field("bytes", &self.stored.bytes.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

impl SeqRange {
    /// Returns how many numbers there are.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// The reason why records are missing from the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The sender says that the console log level hides them. Nothing is wrong.
    Hidden,
    /// The sender says that they are lost.
    Lost,
    /// The sender has been silent for too long. They are still asked for when it is heard again.
    Silence,
    /// The sender has crashed: its records do not wait for others that may never come.
    Crash,
    /// The stream has ended: the sender has started anew.
    Ended,
    /// No memory is left to wait for them.
    Memory,
    /// The sender does not answer requests.
    Passive,
    /// The sender has answered many requests, but never this one, and cannot say why.
    Unanswered,
    /// They were logged before the sender was first heard, and it does not answer requests.
    Before,
    /// The receiver stops.
    Stopped,
    /// The program has dropped them: they were more than it is to take. The receiver never does.
    Rate,
    /// An output of the program could not take them when they came, and their sender cannot send
    /// them again. The receiver has returned them.
    Refused,
}

impl GapReason {
    /// Returns the reason in words, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Hidden => "hidden by the sender's log level",
            Self::Lost => "lost at the sender",
            Self::Silence => "not received before the sender fell silent",
            Self::Crash => "not received before the sender crashed",
            Self::Ended => "not received before the sender started anew",
            Self::Memory => "not received, and no memory left to wait for them",
            Self::Passive => "not received from a sender that sends nothing again",
            Self::Unanswered => "not received although asked for many times",
            Self::Before => "logged before this sender was first heard",
            Self::Stopped => "not received before the receiver stopped",
            Self::Rate => "dropped, since they were more than --host-rate",
            Self::Refused => "not taken by this output when they came, and not sent again",
        }
    }

    /// Returns the reason in one word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Lost => "lost",
            Self::Silence => "silence",
            Self::Crash => "crash",
            Self::Ended => "ended",
            Self::Memory => "memory",
            Self::Passive => "passive",
            Self::Unanswered => "unanswered",
            Self::Before => "before",
            Self::Stopped => "stopped",
            Self::Rate => "rate",
            Self::Refused => "refused",
        }
    }
}

/// An event of a stream, in order with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The stream begins.
    Began {
        /// The number of its first record, as far as is known; [`None`] without numbers.
        first: Option<u64>,
        /// Whether another stream of this sender came before: it has started anew.
        again: bool,
    },
    /// Records are missing at this place.
    Gap {
        /// Their numbers.
        range: SeqRange,
        /// The reason.
        reason: GapReason,
    },
    /// The sender is heard again after its stream was written out for its silence.
    Resumed,
    /// The stream has ended; only late records may still come.
    Ended,
}

/// An output of the receiver.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A record.
    Record(Record<'a>),
    /// An event of a stream.
    Event {
        /// The stream.
        stream: StreamId,
        /// Its sender.
        host: SocketAddr,
        /// Its session, if known by then.
        session: Option<Session>,
        /// The time, by the clock that the receiver is fed with.
        at: Instant,
        /// The event.
        event: Event,
    },
}
