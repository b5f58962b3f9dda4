// SPDX-License-Identifier: GPL-2.0

//! Counters of a receiver, and the state of each sender.

use std::net::SocketAddr;
use std::time::Instant;

use crate::datagram::Rejected;
use crate::record::{SeqRange, Session, StreamId};
use crate::resume::Resume;

/// The counters of a receiver. They never go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// All datagrams.
    pub datagrams: u64,
    /// The bytes of all datagrams.
    pub bytes: u64,
    /// Empty datagrams, which keep firewalls open.
    pub keepalives: u64,
    /// Records that were returned, those of the next three counters included.
    pub records: u64,
    /// Texts of basic targets.
    pub texts: u64,
    /// Late records.
    pub late: u64,
    /// Records of which a part was missing.
    pub partial: u64,
    /// Datagrams without news.
    pub duplicates: u64,
    /// Datagrams marked as emergency transmission.
    pub emergencies: u64,
    /// Fragments of records.
    pub fragments: u64,
    /// Fragments that contradicted others of the same record.
    pub contradictions: u64,
    /// Numbers that the sender says it hides.
    pub hidden: u64,
    /// Numbers that the sender says are lost.
    pub lost: u64,
    /// Numbers passed over for any other reason, even if they came late.
    pub passed_over: u64,
    /// Responses.
    pub responses: u64,
    /// Numbers that responses asked for.
    pub requested: u64,
    /// Streams that have begun.
    pub streams: u64,
    /// Texts with bytes that are no UTF-8, or with controls.
    pub garbage: u64,
    /// Records with a key in a bad form, or of too many bytes: taken as texts.
    pub malformed: u64,
    /// Datagrams dropped because they had a number out of nowhere,
    pub out_of_nowhere: u64,
    /// Senders that had proven nothing, and were forgotten to make room for others.
    pub evicted: u64,
    /// Streams that made room for others of the same sender.
    pub evicted_streams: u64,
    /// Bytes of responses that were held back, since their sender had not shown that it hears us.
    pub unvalidated_bytes: u64,
    /// Datagrams dropped because they came from one sender too many,
    pub too_many_senders: u64,
    /// Datagrams dropped for want of memory.
    pub no_memory: u64,
}

impl Stats {
    pub(crate) fn reject(&mut self, rejected: Rejected) {
        *match rejected {
            Rejected::BadKey(_) | Rejected::TooLong(_) => &mut self.malformed,
            Rejected::OutOfNowhere(_) => &mut self.out_of_nowhere,
            Rejected::TooManySenders => &mut self.too_many_senders,
            Rejected::NoMemory(_) => &mut self.no_memory,
        } += 1;
    }
}

/// Whether a sender answers requests.
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

/// The state of a sender.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sender {
    /// Its address.
    pub host: SocketAddr,
    /// Its stream.
    pub stream: StreamId,
    /// The stream's session, if a record has named it.
    pub session: Option<Session>,
    /// Whether the sender answers requests.
    pub manner: PeerMode,
    /// All records up to this one are complete and written. It is acknowledged, and a restarted
    /// receiver goes on behind it.
    pub settled: Option<u64>,
    /// The clock of the last record up to `settled` that was returned in order, in microseconds.
    pub usec: u64,
    /// Numbers above `settled` that are complete and written as well, in order. Those between were
    /// passed over and may still come.
    pub beyond: Vec<SeqRange>,
    /// Numbers up to `settled` that were passed over and are asked for once the sender names a
    /// session, in order. Each with the clock of a record before it, in microseconds; [`None`] if
    /// it was logged before the sender was first heard.
    pub passed: Vec<(SeqRange, Option<u64>)>,
    /// Without a session: the range of numbers that the sender was asked for within ten seconds
    /// before it was last heard. The network may bring copies of those; ten seconds later this
    /// means nothing any more.
    pub asked: Option<SeqRange>,
    /// Whether the highest number has no clock. Then records missing before it may be newer than
    /// `newest_usec`.
    pub clockless: bool,
    /// The clock of the last record of `beyond`, or of one before it, in microseconds.
    pub last_usec: u64,
    /// The clock of the record with the highest number, in microseconds. No missing record was
    /// logged much later.
    pub newest_usec: u64,
    /// The highest number of the stream.
    pub highest: Option<u64>,
    /// The number of records below `highest` that are missing.
    pub missing: u64,
    /// Records returned.
    pub records: u64,
    /// Numbers that the sender has lost, or that were passed over.
    pub lost: u64,
    /// Bytes kept of the sender.
    pub bytes: usize,
    /// The time at which it was last heard.
    pub heard: Instant,
}

impl Sender {
    /// Returns the state that another receiver goes on with; [`None`] if nothing is complete, so
    /// that any receiver would begin there.
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
