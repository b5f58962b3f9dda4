// SPDX-License-Identifier: GPL-2.0

//! Resuming: the state of a stream that another receiver goes on with.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::recent::Recent;
use super::restart::COPIES;
use super::schedule::ACK_PASSIVE;
use super::Stream;
use crate::config::Config;
use crate::datagram::MAX_SEQ;
use crate::queue::{Of, Queue};
use crate::record::SeqRange;
use crate::resume::Resume;
use crate::stats::Sender;

/// The most ranges of numbers beyond a missing one that the state has. Records behind them come
/// again.
const BEYOND: usize = 1024;

/// The time in which a sender without a session is expected to name one: by then it has had enough
/// responses that show that sessions are known. Most others lose ever more records, and are not
/// asked for them.
const TELLS: Duration = ACK_PASSIVE.saturating_mul(10);

/// Filters ranges between two numbers that are in order.
fn in_order<T>(
    ranges: impl IntoIterator<Item = (SeqRange, T)>,
    mut from: u64,
    to: u64,
) -> impl Iterator<Item = (SeqRange, T)> {
    ranges.into_iter().filter(move |(numbers, _)| {
        let good = from <= numbers.first && numbers.first <= numbers.last && numbers.last <= to;
        if good {
            from = numbers.last + 1;
        }
        good
    })
}

impl Stream {
    /// Returns a stream that another receiver has received before.
    pub(crate) fn resume(of: Of, now: Instant, from: Resume, config: &Config) -> Self {
        let settled = from.settled.filter(|&settled| settled <= MAX_SEQ);
        let base = settled.map_or(0, |settled| settled + 1);
        let mut stream = Self::with_base(of, now, base, config);
        (stream.restart.usec, stream.since) = (from.usec, from.usec);
        stream.restart.newest_usec = from.newest_usec;
        stream.restart.recent = Some(Box::new(Recent::new(base)));
        stream.proven = from.session.is_some();
        (stream.complete, stream.settled_usec) = (from.usec, from.usec);
        stream.restart.lately[0].usec = from.usec;
        // Copies may come of records that the other receiver had of late.
        let before = from.usec.saturating_sub(COPIES.as_micros() as u64);
        (stream.restart.lately[1].seq, stream.restart.lately[1].usec) = (0, before);
        // A record behind that is missing, or its clock tells that it is a copy.
        if let Some(last) = settled.filter(|_| from.session.is_none()) {
            let asked = from.asked.filter(|asked| asked.first <= last);
            if let Some(SeqRange { first, last: end }) = asked {
                let last = end.clamp(first, last);
                stream
                    .requests(config)
                    .resume(now, SeqRange { first, last });
            }
        }
        let passed = if settled.is_some() {
            from.passed
        } else {
            Vec::new()
        };
        for (numbers, usec) in in_order(passed, 0, base.saturating_sub(1)) {
            match usec {
                None => stream.before.push(numbers, 0),
                Some(usec) => stream.gone.push(numbers, usec),
            }
        }
        if let Some(session) = from.session {
            stream.adopt(now, session, config);
        }
        let beyond = from.beyond.into_iter().map(|numbers| (numbers, ()));
        let beyond: Vec<_> = in_order(beyond, base, MAX_SEQ).map(|(n, ())| n).collect();
        stream.window.resume(&beyond);
        if stream.window.is_behind() {
            (stream.restart.usec, stream.since) = (from.last_usec, from.last_usec);
            // The passed numbers have been reported, and may still come.
            let mut seq = base;
            while let Some(missing) = stream.window.next_missing(seq, u64::MAX) {
                stream.gone.push(missing, from.usec);
                stream.miss(config, now, missing);
                seq = missing.last + 1;
            }
        }
        if from.clockless {
            stream.restart.clockless = stream.window.end();
        }
        stream
    }

    /// Returns the complete numbers above `settled`: see [`Sender::beyond`](crate::Sender::beyond).
    fn beyond(&self, settled: Option<u64>) -> Vec<SeqRange> {
        let out = self.window.out();
        let mut from = settled.map_or(0, |settled| settled + 1);
        let mut beyond = Vec::new();
        // Without a session nothing may be expected of the time before it was heard: a new start of
        // the log would have those numbers, and no clock would tell.
        let known = self.session.is_some() || from >= self.first && self.complete > 0;
        while known && from < out && beyond.len() < BEYOND {
            let missing = self.next_missing(from, out - 1);
            let end = missing.map_or(out, |missing| missing.first);
            if from < end {
                let (first, last) = (from, end - 1);
                beyond.push(SeqRange { first, last });
            }
            from = missing.map_or(out, |missing| missing.last + 1);
        }
        beyond
    }

    /// Returns the numbers up to `settled` that were passed over: see
    /// [`Sender::passed`](crate::Sender::passed).
    pub(super) fn passed(&self, settled: Option<u64>) -> Vec<(SeqRange, Option<u64>)> {
        let may_tell = self.session.is_none() && self.heard < self.began + TELLS;
        let Some(last) = settled.filter(|_| may_tell || self.owed) else {
            return Vec::new();
        };
        let before = self.before.iter().map(|numbers| (numbers, None));
        let gone = self.gone.with_clocks();
        let all = before.chain(gone.map(|(numbers, usec)| (numbers, Some(usec))));
        let mut passed: Vec<_> = all.filter(|(gone, _)| gone.first <= last).collect();
        passed
            .iter_mut()
            .for_each(|(gone, _)| gone.last = gone.last.min(last));
        passed.sort_unstable_by_key(|(gone, _)| gone.first);
        passed
    }

    /// Returns the first of these numbers that are missing, or were passed over and may still come.
    pub(super) fn next_missing(&self, first: u64, last: u64) -> Option<SeqRange> {
        // Below `base` the window knows nothing.
        let below = self.window.base().checked_sub(1);
        below
            .and_then(|below| self.gone.next(first, below.min(last)))
            .or_else(|| self.window.next_missing(first, last))
    }

    /// Returns the state of the sender: see [`Sender`].
    pub(crate) fn describe(&self, host: SocketAddr, queue: &Queue) -> Sender {
        let is_confirmed = self.is_confirmed(queue);
        let (settled, usec) = match is_confirmed {
            true => (self.complete_to(), self.complete),
            false => (self.settled, self.settled_usec),
        };
        let beyond = match is_confirmed {
            true => self.beyond(settled),
            false => Vec::new(),
        };
        let all = |last: &SeqRange| last.last + 1 == self.window.out();
        Sender {
            host,
            stream: self.id,
            session: self.session,
            manner: self.manner,
            settled,
            usec,
            // Of the last that is named, or of one before that.
            last_usec: match beyond.last().is_some_and(all) {
                true => self.since,
                false => usec,
            },
            beyond,
            passed: self.passed(settled),
            asked: (self.requests.as_ref().filter(|_| self.session.is_none()))
                .and_then(|requests| requests.lately(self.heard)),
            clockless: self.window.end() > 0 && self.restart.clockless == self.window.end(),
            newest_usec: self.restart.usec.max(self.restart.newest_usec),
            highest: self.window.end().checked_sub(1),
            missing: self.window.missing(),
            records: self.records,
            lost: self.lost,
            bytes: self.window.bytes(),
            heard: self.heard,
        }
    }
}
