// SPDX-License-Identifier: GPL-2.0

//! What has happened, in numbers.

use std::net::SocketAddr;
use std::time::Instant;

use crate::datagram::Rejected;
use crate::record::{SeqRange, Session, StreamId};

/// Counters of a receiver; none ever goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams, all of them.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams without a byte, which keep firewalls open.
    pub keepalives: u64,
    /// Records that were handed out, with those below.
    pub records: u64,
    /// Of these, basic targets' texts.
    pub texts: u64,
    /// Of these, late ones.
    pub late: u64,
    /// Of these, those of which a part was missing.
    pub partial: u64,
    /// Datagrams that told nothing new.
    pub duplicates: u64,
    /// Datagrams marked as emergency transmission.
    pub emergencies: u64,
    /// Fragments, and
    pub fragments: u64,
    /// fragments that contradicted others of the same record.
    pub contradictions: u64,
    /// Numbers that the sender says it hides.
    pub hidden: u64,
    /// Numbers that the sender says are lost.
    pub lost: u64,
    /// Numbers passed over for any other reason, even if they came late.
    pub passed_over: u64,
    /// Responses, and
    pub responses: u64,
    /// the numbers that they asked for.
    pub requested: u64,
    /// Streams that have begun.
    pub streams: u64,
    /// Datagrams dropped because they were garbage,
    pub garbage: u64,
    /// had a key in a bad form or too many bytes,
    pub malformed: u64,
    /// had a number out of nowhere,
    pub out_of_nowhere: u64,
    /// came from one sender too many,
    pub too_many_senders: u64,
    /// or found no memory left.
    pub no_memory: u64,
}

impl Stats {
    pub(crate) fn reject(&mut self, rejected: Rejected) {
        *match rejected {
            Rejected::Garbage => &mut self.garbage,
            Rejected::BadKey(_) | Rejected::TooLong(_) => &mut self.malformed,
            Rejected::OutOfNowhere(_) => &mut self.out_of_nowhere,
            Rejected::TooManySenders => &mut self.too_many_senders,
            Rejected::NoMemory(_) => &mut self.no_memory,
        } += 1;
    }
}

/// How a sender takes responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerMode {
    /// Not known yet.
    Unknown,
    /// It has answered a request, or shown otherwise that it listens.
    Active,
    /// It has not answered.
    Passive,
}

/// What is known of a sender.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sender {
    /// Its address.
    pub host: SocketAddr,
    /// Its stream.
    pub stream: StreamId,
    /// The stream's session, if it has told.
    pub session: Option<Session>,
    /// How it takes responses.
    pub manner: PeerMode,
    /// All records up to this one are settled and written: what is acknowledged, and where a
    /// receiver that is restarted goes on.
    pub settled: Option<u64>,
    /// The clock of the last record up to there that was handed out in order, in microseconds.
    pub usec: u64,
    /// Numbers above `settled` that are settled and written as well, since those between were
    /// passed over and may still come; in order.
    pub beyond: Vec<SeqRange>,
    /// Numbers up to `settled` that were passed over, and are asked for: once the sender tells a
    /// session, as it would soon, or since it has; in order. Each with the clock of a record before
    /// them, in microseconds; [`None`] if they were logged before the sender was first heard.
    pub passed: Vec<(SeqRange, Option<u64>)>,
    /// Without a session: among which numbers are those that it was asked for in the last ten
    /// seconds before it was heard, and of which the network may bring copies. Ten seconds later
    /// this says nothing any more.
    pub asked: Option<SeqRange>,
    /// Whether what came for the highest number has no clock: then what is missing before it may be
    /// newer than `newest_usec`.
    pub clockless: bool,
    /// The clock of the last record of `beyond`, or of one before it, in microseconds.
    pub last_usec: u64,
    /// The clock of the record of the highest number that came, in microseconds: whether or not it
    /// is settled, nothing that is missing was logged much later.
    pub newest_usec: u64,
    /// The highest number that it has used.
    pub highest: Option<u64>,
    /// How many numbers below that are missing.
    pub missing: u64,
    /// Records handed out.
    pub records: u64,
    /// Numbers that were lost there, or passed over.
    pub lost: u64,
    /// What is kept of it, in bytes.
    pub bytes: usize,
    /// When it was last heard.
    pub heard: Instant,
}

impl Sender {
    /// Where another receiver goes on; [`None`] if that is where any would begin, for nothing is
    /// settled.
    ///
    /// ```
    /// # use std::{net::SocketAddr, time::Instant};
    /// # use ncrx::{Config, Receiver};
    /// let (now, from) = (Instant::now(), SocketAddr::from(([10, 0, 0, 2], 6665)));
    /// let mut old = Receiver::new(Config::default());
    /// old.feed(now, from, b"6,0,1000,-;one\n").unwrap();
    /// while old.next_output().is_some() {}
    /// old.written();
    ///
    /// let mut new = Receiver::new(Config::default());
    /// for sender in old.senders() {
    ///     if let Some(resume) = sender.resume() {
    ///         new.resume(now, sender.host, resume);
    ///     }
    /// }
    /// assert_eq!(new.senders().next().unwrap().settled, Some(0));
    /// ```
    pub fn resume(&self) -> Option<Resume> {
        let any = self.settled.is_some() || !self.beyond.is_empty();
        any.then(|| Resume {
            session: self.session,
            settled: self.settled,
            usec: self.usec,
            beyond: self.beyond.clone(),
            passed: self.passed.clone(),
            asked: self.asked,
            clockless: self.clockless,
            last_usec: self.last_usec,
            newest_usec: self.newest_usec,
        })
    }
}

/// Where a stream that was received before goes on: see [`Sender::resume`] and
/// [`Receiver::resume`](crate::Receiver::resume). Of numbers that are not in order, or that no
/// record can have, nothing is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// [`Sender::session`].
    pub session: Option<Session>,
    /// [`Sender::settled`].
    pub settled: Option<u64>,
    /// [`Sender::usec`].
    pub usec: u64,
    /// [`Sender::beyond`].
    pub beyond: Vec<SeqRange>,
    /// [`Sender::passed`].
    pub passed: Vec<(SeqRange, Option<u64>)>,
    /// [`Sender::asked`]; [`None`] if that is longer ago.
    pub asked: Option<SeqRange>,
    /// [`Sender::clockless`].
    pub clockless: bool,
    /// [`Sender::last_usec`].
    pub last_usec: u64,
    /// [`Sender::newest_usec`]; 0 if that is not known.
    pub newest_usec: u64,
}
