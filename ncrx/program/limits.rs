// SPDX-License-Identifier: GPL-2.0

//! `--host-rate`: of a host that logs more than so many records a second the rest of the second is
//! dropped, with a gap in its place. What is dropped is acknowledged: it was not wanted. Records of
//! a crash are never dropped.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use lru::LruCache;
use ncrx::{Event, GapReason, Output, Record, SeqRange, Session, StreamId};

/// The most hosts that are counted at a time.
const HOSTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// The time in which records are counted.
const SECOND: Duration = Duration::from_secs(1);

/// The records of a host in one second.
struct Second {
    since: Instant,
    count: u32,
    /// Texts without numbers, of all seconds: they are numbered by that.
    texts: u64,
    /// Those that were dropped.
    dropped: Option<(StreamId, Option<Session>, SeqRange)>,
}

/// The limits of all hosts of a worker.
pub struct Limits {
    /// Records a second; all if there is none.
    most: Option<u32>,
    hosts: LruCache<SocketAddr, Second>,
    /// Those of which something was dropped that no gap tells of yet.
    open: HashSet<SocketAddr>,
}

impl Limits {
    /// Returns the limits of so many records a second.
    pub fn new(most: Option<u32>) -> Self {
        Self {
            most,
            hosts: LruCache::new(HOSTS),
            open: HashSet::default(),
        }
    }

    /// Counts a record. Returns whether it is to be dropped, and the gap that is to be written
    /// before it.
    pub fn count(&mut self, record: &Record<'_>, now: Instant) -> (bool, Option<Output<'static>>) {
        let Some(most) = self.most.filter(|_| !record.is_crash()) else {
            return (false, None);
        };
        let host = record.host();
        let new = || Second {
            since: now,
            count: 0,
            texts: 0,
            dropped: None,
        };
        let gap = match self
            .hosts
            .get(&host)
            .is_some_and(|second| second.is_over(now))
        {
            true => self.end(host, now),
            false => None,
        };
        let second = self.hosts.get_or_insert_mut(host, new);
        second.texts += u64::from(record.seq().is_none());
        second.count = second.count.saturating_add(1);
        if second.count <= most {
            return (false, gap);
        }
        let seq = record.seq().unwrap_or(second.texts);
        let (_, _, range) = second.dropped.get_or_insert((
            record.stream(),
            record.session(),
            SeqRange {
                first: seq,
                last: seq,
            },
        ));
        (range.first, range.last) = (range.first.min(seq), range.last.max(seq));
        self.open.insert(host);
        (true, gap)
    }

    /// Begins a new second of a host; returns the gap of the one before.
    fn end(&mut self, host: SocketAddr, now: Instant) -> Option<Output<'static>> {
        self.open.remove(&host);
        let second = self.hosts.get_mut(&host)?;
        (second.since, second.count) = (now, 0);
        let (stream, session, range) = second.dropped.take()?;
        let event = Event::Gap {
            range,
            reason: GapReason::Rate,
        };
        Some(Output::Event {
            stream,
            host,
            session,
            at: now,
            event,
        })
    }

    /// Returns when a gap is due.
    pub fn due(&self) -> Option<Instant> {
        let seconds = self.open.iter().filter_map(|host| self.hosts.peek(host));
        seconds.map(|second| second.since + SECOND).min()
    }

    /// Returns the gaps that are due, or all.
    pub fn gaps(&mut self, now: Instant, all: bool) -> Vec<Output<'static>> {
        let over = |host: &&SocketAddr| {
            let second = self.hosts.peek(host);
            all || second.is_none_or(|second| second.is_over(now))
        };
        let over: Vec<_> = self.open.iter().filter(over).copied().collect();
        over.into_iter()
            .filter_map(|host| self.end(host, now))
            .collect()
    }
}

impl Second {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.since + SECOND
    }
}
