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

/// The records of crashes of a host that are never dropped within this time: as many as a report
/// has at most.
const CRASH: u32 = 600;
const CRASH_TIME: Duration = Duration::from_secs(10);

/// The most streams of a host of which a gap in one second tells.
const STREAMS: usize = 8;

/// The records of a host in one second.
struct Second {
    since: Instant,
    /// Whether the last record has begun it.
    is_new: bool,
    count: u32,
    /// Texts without numbers, of all seconds: they are numbered by that.
    texts: u64,
    /// Those that were dropped, by stream.
    dropped: Vec<Dropped>,
    /// Records of crashes, and since when they are counted.
    crash: (u32, Instant),
}

/// Records of a stream that were dropped.
struct Dropped {
    stream: StreamId,
    host: SocketAddr,
    session: Option<Session>,
    range: SeqRange,
}

/// The limits of all hosts of a worker.
pub struct Limits {
    /// Records a second; all if there is none.
    most: Option<u32>,
    hosts: LruCache<String, Second>,
    /// Those of which something was dropped that no gap tells of yet.
    open: HashSet<String>,
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

    /// Sets them, for what comes from now on.
    pub fn set(&mut self, most: Option<u32>) {
        self.most = most;
    }

    /// Counts a record of the sender that is called so, which may be of a crash that is seen.
    /// Returns whether it is to be dropped, and the gaps that are to be written before it.
    pub fn count(
        &mut self,
        record: &Record<'_>,
        name: &str,
        in_crash: bool,
        now: Instant,
    ) -> (bool, Vec<Output<'static>>) {
        let Some(most) = self.most else {
            return (false, Vec::new());
        };
        let host = host(name, record.host());
        let second = self.hosts.get_or_insert_mut_ref(host, || Second::new(now));
        let drops = second.count(record, in_crash, most, now);
        let (all, stream) = (second.is_new, record.stream());
        // A gap claims nothing that is written.
        let ends = |dropped: &Dropped| all || !drops && dropped.stream == stream;
        let (ended, goes_on): (Vec<_>, Vec<_>) = second.dropped.drain(..).partition(ends);
        second.dropped = goes_on;
        let gaps = ended.into_iter().map(|dropped| dropped.gap(now));
        let gaps = gaps.collect();
        if drops {
            second.drop(record);
        }
        match second.dropped.is_empty() {
            true => self.open.remove(host),
            false => !self.open.contains(host) && self.open.insert(host.into()),
        };
        (drops, gaps)
    }

    /// Returns when a gap is due.
    pub fn due(&self) -> Option<Instant> {
        let seconds = self.open.iter().filter_map(|host| self.hosts.peek(host));
        seconds.map(|second| second.since + SECOND).min()
    }

    /// Returns the gaps that are due, or all.
    pub fn gaps(&mut self, now: Instant, all: bool) -> Vec<Output<'static>> {
        let mut gaps = Vec::new();
        let hosts = &mut self.hosts;
        self.open.retain(|host| {
            let second = hosts
                .peek_mut(host)
                .filter(|second| !second.dropped.is_empty());
            let Some(second) = second else {
                return false;
            };
            let ends = all || second.is_over(now);
            if ends {
                gaps.extend(second.dropped.drain(..).map(|dropped| dropped.gap(now)));
            }
            !ends
        });
        gaps
    }
}

/// Returns the host of a sender that is called so: senders at one address are one, whatever their
/// ports are.
fn host(name: &str, sender: SocketAddr) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if port.parse() == Ok(sender.port()) => host.trim_matches(['[', ']']),
        _ => name,
    }
}

impl Dropped {
    fn gap(self, now: Instant) -> Output<'static> {
        let event = Event::Gap {
            range: self.range,
            reason: GapReason::Rate,
        };
        Output::Event {
            stream: self.stream,
            host: self.host,
            session: self.session,
            at: now,
            event,
        }
    }
}

impl Second {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            is_new: false,
            count: 0,
            texts: 0,
            dropped: Vec::new(),
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

    /// Takes note of a record that is dropped.
    fn drop(&mut self, record: &Record<'_>) {
        if record.is_late() {
            // It was told missing when it did not come.
            return;
        }
        let seq = record.seq().unwrap_or(self.texts);
        let same = |dropped: &&mut Dropped| dropped.stream == record.stream();
        if let Some(dropped) = self.dropped.iter_mut().find(same) {
            dropped.range.last = dropped.range.last.max(seq);
        } else if self.dropped.len() < STREAMS {
            self.dropped.push(Dropped {
                stream: record.stream(),
                host: record.host(),
                session: record.session(),
                range: SeqRange {
                    first: seq,
                    last: seq,
                },
            });
        }
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
        let mut tell = |told: Vec<Output<'static>>| {
            gaps.extend(told.iter().filter_map(|output| match output {
                Output::Event {
                    event: Event::Gap { range, .. },
                    ..
                } => Some(*range),
                _ => None,
            }));
        };
        for (seq, keys, in_crash) in records {
            let datagram = format!("4,{seq},{seq},-{keys};text\n");
            let from = "10.0.0.2:6665".parse().unwrap();
            receiver.feed(now, from, datagram.as_bytes()).unwrap();
            while let Some(output) = receiver.next_output() {
                if let Output::Record(record) = output {
                    let (drops, gap) = limits.count(&record, "h", in_crash, now);
                    tell(gap);
                    kept.extend(record.seq().filter(|_| !drops));
                }
            }
        }
        tell(limits.gaps(now, true));
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

    #[test]
    fn ports_make_no_hosts() {
        for (name, host_of, sender) in [
            ("10.0.0.2", "10.0.0.2", "10.0.0.2:6665"),
            ("10.0.0.2:6666", "10.0.0.2", "10.0.0.2:6666"),
            ("[fe80::1]:6666", "fe80::1", "[fe80::1]:6666"),
            ("web", "web", "10.0.0.2:6666"),
            ("web:1", "web:1", "10.0.0.2:6666"),
        ] {
            assert_eq!(host(name, sender.parse().unwrap()), host_of);
        }
    }

    /// Streams that take turns make no gap for each record.
    #[test]
    fn gaps_are_few() {
        let now = Instant::now();
        let mut receiver = Receiver::new(Config::default());
        let mut limits = Limits::new(Some(10));
        let mut gaps = 0;
        for n in 0..200 {
            let from = format!("10.0.0.2:{}", 6665 + n % 20).parse().unwrap();
            let datagram = format!("4,{},{n},-;text\n", n / 20);
            receiver.feed(now, from, datagram.as_bytes()).unwrap();
            while let Some(output) = receiver.next_output() {
                if let Output::Record(record) = output {
                    gaps += limits.count(&record, "h", false, now).1.len();
                }
            }
        }
        gaps += limits.gaps(now, true).len();
        assert_eq!(gaps, STREAMS);
    }
}
