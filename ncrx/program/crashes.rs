// SPDX-License-Identifier: GPL-2.0

//! Crashes in what a worker hands out: counted, told to the index and to `--on-crash`, and written
//! to JSON as events.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foldhash::HashSet;
use lru::LruCache;
use ncrx::crash::{Kind, Recognizer, Report};
use ncrx::{Event, GapReason, Output, Record, Session, StreamId};

use crate::hook::Hook;
use crate::index::{Index, Message};
use crate::web::Live;

/// The most streams in which crashes are looked for at a time. One that is forgotten loses what it
/// has logged before a crash.
const STREAMS: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();
/// The time without a line after which a crash has ended.
const IDLE: Duration = Duration::from_secs(5);
/// The most reports at once of one stream, and boots of one address that the index is told, and the
/// time after which there may be one more: no sender fills the disk with them.
const BURST: u32 = 32;
const REFILL: Duration = Duration::from_secs(10);

/// A crash of a host.
#[derive(Debug)]
pub struct Crash {
    /// The host's name.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its session.
    pub session: Option<Session>,
    /// When it was logged, in microseconds since 1970.
    pub time: u64,
    /// The rest.
    pub report: Report,
}

impl Crash {
    /// Returns the number of its first record.
    pub fn seq(&self) -> Option<u64> {
        self.report.lines.first()?.seq
    }
}

/// The place where the crashes of all workers come together.
#[derive(Default)]
pub struct Hub {
    counts: [AtomicU64; Kind::ALL.len()],
    /// Crashes of senders that had too many.
    untold: AtomicU64,
    /// Records that were more than --host-rate.
    limited: AtomicU64,
    /// The index.
    pub index: Option<Index>,
    /// The program that is run for each.
    pub hook: Hook,
    /// The people who look at what comes live.
    pub live: Arc<Live>,
}

impl Hub {
    /// Returns how many crashes of each kind there were.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        Kind::ALL.into_iter().zip(counts)
    }

    /// Returns how many crashes were only counted, since their sender had too many.
    pub fn untold(&self) -> u64 {
        self.untold.load(Relaxed)
    }

    /// Counts a record, if it was dropped.
    pub fn count_limited(&self, dropped: bool) {
        if dropped {
            self.limited.fetch_add(1, Relaxed);
        }
    }

    /// Returns how many records were dropped, since they were more than --host-rate.
    pub fn limited(&self) -> u64 {
        self.limited.load(Relaxed)
    }

    /// Waits until what was told is written, for a few seconds at most.
    pub fn finish(&self) {
        self.index.iter().for_each(Index::finish);
        self.hook.finish();
    }

    fn count(&self, kind: Kind) {
        if let Some(nth) = Kind::ALL.iter().position(|other| *other == kind) {
            self.counts[nth].fetch_add(1, Relaxed);
        }
    }

    fn tell(&self, crash: &Arc<Crash>) {
        if let Some(index) = &self.index {
            index.tell(Message::Crash(crash.clone()));
        }
        self.hook.tell(crash);
    }
}

/// A stream in which crashes are looked for.
struct Followed {
    recognizer: Recognizer,
    host: SocketAddr,
    session: Option<Session>,
    release: Option<Vec<u8>>,
    /// The sender's clock in the last record, and when that came.
    last: Option<(u64, Instant)>,
    touched: Instant,
    /// Reports that may still be told.
    budget: Budget,
}

/// So much that may still be told, and since when that is so.
struct Budget(u32, Instant);

impl Budget {
    fn new(now: Instant) -> Self {
        Self(BURST, now)
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let Self(left, since) = self;
        while *left < BURST && now.saturating_duration_since(*since) >= REFILL {
            *left += 1;
            *since += REFILL;
        }
        if *left == BURST {
            *since = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }
}

/// Finds the crashes in what one worker hands out.
pub struct Watcher {
    hub: Arc<Hub>,
    streams: LruCache<StreamId, Followed>,
    /// Boots of these senders that the index may still be told.
    boots: LruCache<IpAddr, Budget>,
    /// Those that may be in a crash.
    open: HashSet<StreamId>,
    found: Vec<Report>,
    /// Those that nobody has been told of yet.
    crashes: Vec<Arc<Crash>>,
}

impl Watcher {
    /// Returns one that tells this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            streams: LruCache::new(STREAMS),
            boots: LruCache::new(STREAMS),
            open: HashSet::default(),
            found: Vec::new(),
            crashes: Vec::new(),
        }
    }

    /// Looks at a record or an event of the host that is called so.
    pub fn see(&mut self, output: &Output<'_>, name: &str, now: Instant) {
        match *output {
            Output::Record(record) => self.see_record(&record, name, now),
            Output::Event {
                stream,
                host,
                session,
                at,
                event,
            } => match event {
                // Crashes are looked for in what is hidden from outputs, too.
                Event::Gap { range, reason }
                    if !matches!(reason, GapReason::Hidden | GapReason::Rate) =>
                {
                    if let Some(followed) = self.streams.get_mut(&stream) {
                        followed.recognizer.gap(range.count());
                    } else {
                        self.follow(stream, host, session, now);
                        let followed = self.streams.get_mut(&stream);
                        followed
                            .into_iter()
                            .for_each(|f| f.recognizer.gap(range.count()));
                    }
                }
                Event::Ended => {
                    self.finish(stream, name);
                    self.streams.pop(&stream);
                }
                Event::Began { first, .. } => {
                    let address = host.ip().to_canonical();
                    let boots = self.boots.get_or_insert_mut(address, || Budget::new(now));
                    if let Some(index) = self.hub.index.as_ref().filter(|_| boots.take(now)) {
                        index.tell(Message::Began {
                            host: name.to_owned(),
                            session,
                            at: real(at),
                            first,
                        });
                    }
                }
                _ => {}
            },
        }
    }

    fn follow(
        &mut self,
        stream: StreamId,
        host: SocketAddr,
        session: Option<Session>,
        now: Instant,
    ) {
        let followed = Followed {
            recognizer: Recognizer::default(),
            host,
            session,
            release: None,
            last: None,
            touched: now,
            budget: Budget::new(now),
        };
        if let Some((old, _)) = self.streams.push(stream, followed) {
            self.open.remove(&old);
        }
    }

    fn see_record(&mut self, record: &Record<'_>, name: &str, now: Instant) {
        let stream = record.stream();
        if !self.streams.contains(&stream) {
            self.follow(stream, record.host(), record.session(), now);
        }
        let Some(followed) = self.streams.get_mut(&stream) else {
            return;
        };
        if followed.release.is_none() {
            let release = record.release().or_else(|| booted(record));
            followed.release = release.map(|release| release[..release.len().min(128)].to_vec());
        }
        (followed.host, followed.touched) = (record.host(), now);
        followed.session = record.session().or(followed.session);
        followed.recognizer.record(record, &mut self.found);
        if !record.is_late() {
            followed.last = Some((record.usec().unwrap_or(0), record.arrived()));
        }
        if followed.recognizer.is_open() {
            self.open.insert(stream);
        }
        if !self.found.is_empty() {
            self.tell(stream, name);
        }
    }

    /// Ends what may go on in a stream.
    fn finish(&mut self, stream: StreamId, name: &str) {
        if let Some(followed) = self.streams.peek_mut(&stream) {
            followed.recognizer.finish(&mut self.found);
        }
        self.open.remove(&stream);
        self.tell(stream, name);
    }

    /// Returns whether a stream may be in a crash.
    pub fn is_in_crash(&self, stream: StreamId) -> bool {
        let is_open = |followed: &Followed| followed.recognizer.is_open();
        self.open.contains(&stream) && self.streams.peek(&stream).is_some_and(is_open)
    }

    /// Returns when to call [`Watcher::tick`] if nothing comes before.
    pub fn due(&self) -> Option<Instant> {
        let touched = self
            .open
            .iter()
            .filter_map(|stream| self.streams.peek(stream));
        touched.map(|followed| followed.touched + IDLE).min()
    }

    /// Ends crashes of which nothing has come for a while. Senders have these names.
    pub fn tick(&mut self, now: Instant, name: impl Fn(SocketAddr) -> String) {
        if self.open.is_empty() {
            return;
        }
        let over = |stream: &&StreamId| {
            let followed = self.streams.peek(stream);
            followed.is_none_or(|followed| {
                followed.touched + IDLE <= now || !followed.recognizer.is_open()
            })
        };
        let over: Vec<_> = self.open.iter().filter(over).copied().collect();
        for stream in over {
            let host = self.streams.peek(&stream).map(|followed| followed.host);
            self.finish(stream, &host.map(&name).unwrap_or_default());
        }
    }

    /// Ends all that may go on.
    pub fn end(&mut self, now: Instant, name: impl Fn(SocketAddr) -> String) {
        self.tick(now + 2 * IDLE, name);
    }

    /// Tells the hub of what was found in this stream.
    fn tell(&mut self, stream: StreamId, name: &str) {
        let Some(followed) = self.streams.peek_mut(&stream) else {
            return self.found.clear();
        };
        for report in self.found.drain(..) {
            self.hub.count(report.kind);
            if !followed.budget.take(Instant::now()) {
                self.hub.untold.fetch_add(1, Relaxed);
                continue;
            }
            let crash = Arc::new(Crash {
                host: name.to_owned(),
                address: followed.host,
                session: followed.session,
                time: followed.time(&report),
                report,
            });
            self.hub.tell(&crash);
            self.crashes.push(crash);
        }
    }

    /// Takes the crashes that outputs have not been told of.
    pub fn take(&mut self) -> Vec<Arc<Crash>> {
        std::mem::take(&mut self.crashes)
    }

    /// Returns the hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Returns the release and when the last record came, of a stream that is followed.
    pub fn last(&self, stream: StreamId) -> (Option<String>, Option<u64>) {
        let Some(followed) = self.streams.peek(&stream) else {
            return (None, None);
        };
        let release = followed.release.as_ref();
        let release = release.map(|release| String::from_utf8_lossy(release).into_owned());
        (release, followed.last.map(|(_, at)| real(at)))
    }
}

impl Followed {
    /// Returns when a crash was logged: as long before the last record came as the sender's clock
    /// says, an hour at most.
    fn time(&self, report: &Report) -> u64 {
        let Some((usec, arrived)) = self.last else {
            return real(self.touched);
        };
        let first = report.lines.first().and_then(|line| line.usec);
        let before = first.map_or(0, |first| usec.saturating_sub(first));
        real(arrived).saturating_sub(before.min(3_600_000_000))
    }
}

/// Returns the release in the first line of a kernel: `Linux version 6.12.48 (..) #1 SMP ..`.
fn booted<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    let kernel = record.facility().is_none_or(|facility| facility == 0);
    let rest = record.text().strip_prefix(b"Linux version ");
    rest.filter(|_| kernel)?.split(|c| *c == b' ').next()
}

/// Returns the real time of an instant, in microseconds since 1970.
pub fn real(at: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_micros() as u64);
    now.saturating_sub(at.elapsed().as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_for_a_burst_and_then_for_one_at_a_time() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 32);
        assert!(!budget.take(now + REFILL / 2));
        assert!(budget.take(now + REFILL) && !budget.take(now + REFILL));
        let later = now + 1000 * REFILL;
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 32);
    }
}
