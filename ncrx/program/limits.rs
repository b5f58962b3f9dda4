// SPDX-License-Identifier: GPL-2.0

//! `--host-rate`: of a host that logs more than so many records a second the rest of the second is
//! dropped, with a gap in its place. What is dropped is acknowledged: it was not wanted. Records of
//! a crash are not dropped, whether the sender says so or they are seen to be; but nobody floods
//! with those.

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

/// The records of crashes of a host that are never dropped within this time: as many as a report has
/// at most.
const CRASH: u32 = 600;
const CRASH_TIME: Duration = Duration::from_secs(10);

/// The records of a host in one second.
struct Second {
    since: Instant,
    /// Whether the last record has begun it.
    is_new: bool,
    count: u32,
    /// Texts without numbers, of all seconds: they are numbered by that.
    texts: u64,
    /// Those that were dropped.
    dropped: Option<(StreamId, Option<Session>, SeqRange)>,
    /// Records of crashes, and since when they are counted.
    crash: (u32, Instant),
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

    /// Counts a record, which may be of a crash that is seen. Returns whether it is to be dropped,
    /// and the gap that is to be written before it.
    pub fn count(
        &mut self,
        record: &Record<'_>,
        in_crash: bool,
        now: Instant,
    ) -> (bool, Option<Output<'static>>) {
        let Some(most) = self.most else {
            return (false, None);
        };
        let host = record.host();
        let second = self.hosts.get_or_insert_mut(host, || Second::new(now));
        let drops = second.count(record, in_crash, most, now);
        // A gap claims nothing that is written, and nothing of another stream.
        let other = |(stream, ..): &(StreamId, _, _)| *stream != record.stream();
        let ends = !drops || second.dropped.as_ref().is_some_and(other) || second.is_new;
        let gap = match ends && second.dropped.is_some() {
            true => self.end(host, now),
            false => None,
        };
        if drops {
            self.drop(record);
        }
        (drops, gap)
    }

    /// Takes note of a record that is dropped.
    fn drop(&mut self, record: &Record<'_>) {
        let host = record.host();
        // A late one was told missing when it did not come.
        let Some(second) = self.hosts.get_mut(&host).filter(|_| !record.is_late()) else {
            return;
        };
        let seq = record.seq().unwrap_or(second.texts);
        let new = SeqRange {
            first: seq,
            last: seq,
        };
        let dropped = (record.stream(), record.session(), new);
        let (_, _, range) = second.dropped.get_or_insert(dropped);
        range.last = range.last.max(seq);
        self.open.insert(host);
    }

    /// Returns the gap of what was dropped of a host.
    fn end(&mut self, host: SocketAddr, now: Instant) -> Option<Output<'static>> {
        self.open.remove(&host);
        let second = self.hosts.get_mut(&host)?;
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
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            is_new: false,
            count: 0,
            texts: 0,
            dropped: None,
            crash: (0, now),
        }
    }

    /// Counts a record, in a new second if this one is over; returns whether to drop it.
    fn count(&mut self, record: &Record<'_>, in_crash: bool, most: u32, now: Instant) -> bool {
        self.is_new = self.is_over(now);
        if self.is_new {
            (self.since, self.count) = (now, 0);
        }
        self.texts += u64::from(record.seq().is_none());
        if in_crash || record.is_crash() {
            if now >= self.crash.1 + CRASH_TIME {
                self.crash = (0, now);
            }
            self.crash.0 = self.crash.0.saturating_add(1);
            if self.crash.0 <= CRASH {
                return false;
            }
        }
        self.count = self.count.saturating_add(1);
        self.count > most
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.since + SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ncrx::{Config, Receiver};

    /// Feeds records, and returns the numbers of those that are kept, and the gaps.
    fn run(records: impl Iterator<Item = (u64, &'static str, bool)>) -> (Vec<u64>, Vec<SeqRange>) {
        let now = Instant::now();
        let mut receiver = Receiver::new(Config::default());
        let mut limits = Limits::new(Some(10));
        let (mut kept, mut gaps) = (Vec::new(), Vec::new());
        let mut tell = |gap: Option<Output<'static>>| {
            if let Some(Output::Event {
                event: Event::Gap { range, .. },
                ..
            }) = gap
            {
                gaps.push(range);
            }
        };
        for (seq, keys, in_crash) in records {
            let datagram = format!("4,{seq},{seq},-{keys};text\n");
            let from = "10.0.0.2:6665".parse().unwrap();
            receiver.feed(now, from, datagram.as_bytes()).unwrap();
            while let Some(output) = receiver.next_output() {
                if let Output::Record(record) = output {
                    let (drops, gap) = limits.count(&record, in_crash, now);
                    tell(gap);
                    kept.extend(record.seq().filter(|_| !drops));
                }
            }
        }
        limits
            .gaps(now, true)
            .into_iter()
            .for_each(|gap| tell(Some(gap)));
        (kept, gaps)
    }

    #[test]
    fn records_of_a_crash_are_kept_and_no_gap_claims_them() {
        let record = |seq| (seq, "", (20..25).contains(&seq));
        let (kept, gaps) = run((0..40).map(record));
        assert_eq!(kept, (0..10).chain(20..25).collect::<Vec<_>>());
        let gap = |first, last| SeqRange { first, last };
        assert_eq!(gaps, [gap(10, 19), gap(25, 39)]);
    }

    #[test]
    fn nobody_floods_with_crashes() {
        let (seen, _) = run((0..1000).map(|seq| (seq, "", true)));
        assert_eq!(seen.len(), 610);
    }
}
