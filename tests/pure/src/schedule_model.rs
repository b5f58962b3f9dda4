// SPDX-License-Identifier: GPL-2.0

//! `emg_schedule.rs` against `netconsole_ack_timer_fn()` of the 2015 series, and against its own
//! promises.

extern crate std;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::proto::emg_schedule::{
    Intervals, Schedule, Step, Tally, View, GIVE_UP_MS, GIVE_UP_ROUNDS, MAX_GIVEN_UP_MS,
};
use crate::proto::ring::Next;

/// A log, as far as it has been sent and acked. The records of missing numbers are hidden.
#[derive(Default)]
struct Log {
    ack: u64,
    end: u64,
    /// The time at which each record was first sent: of all records, of those that still exist, of
    /// those whose time is known.
    sent_at: BTreeMap<u64, u64>,
    there: BTreeMap<u64, u64>,
    known: BTreeMap<u64, u64>,
    /// The numbers that are looked at in one call.
    reach: u64,
}

impl Log {
    fn next(&self, seq: u64) -> Next {
        match self.there.range(seq..).next() {
            Some((&next, _)) if next - seq < self.reach => Next::Record(next),
            None if self.end - seq <= self.reach => Next::Nothing,
            _ => Next::NotBefore(seq.saturating_add(self.reach)),
        }
    }
}

/// `struct netconsole_target`, where an interval of 0 is [`None`].
#[derive(Default)]
struct Seed {
    /// A number and a time by which all records below it had been sent: the value of `ack_tstmp`
    /// if that is not known.
    sent_by: (u64, u64),
    emg_tx_intv: Option<u64>,
    emg_tx_seq: u64,
    next_at: u64,
    tally: Option<Tally>,
    ended: Tally,
    rounds: u64,
    /// Our addition: the last response, and the rounds that this emergency had had by then.
    heard: (u64, u64),
    given_up: bool,
}

impl Seed {
    fn end(&mut self) {
        self.ended = self.tally.take().unwrap_or(self.ended);
        (self.emg_tx_intv, self.next_at, self.given_up) = (None, 0, false);
    }

    /// Takes an ack that moves forward, or a response after long silence. In C the next datagram
    /// stays due at its old time.
    fn start_over(&mut self, now: u64, intervals: Intervals) {
        self.emg_tx_intv = None;
        self.next_at = self.next_at.min(now.saturating_add(intervals.min));
    }

    /// `netconsole_ack_timer_fn()`, but for `ack_tstmp`, which is of the oldest unacked record, and
    /// while that is not old nothing is left of what was; for a maximum below the minimum, which is
    /// as if it were the minimum; for a long search, which goes on after a millisecond; and for a
    /// logger that does not respond for long.
    fn ack_timer_fn(&mut self, now: u64, log: &Log, view: View, intervals: Intervals) -> Step {
        let start = log.ack + 1;
        if start >= log.end {
            self.end();
            return Step::Idle;
        }
        if start >= self.sent_by.0 {
            self.sent_by = (log.end, now);
        }
        let ack_tstmp = view.oldest_sent.unwrap_or(u64::MAX).min(self.sent_by.1);
        let timeout = ack_tstmp.saturating_add(intervals.ack_timeout);
        if now < timeout {
            self.end();
            return Step::Wait(timeout);
        }
        if now < self.next_at {
            return Step::Wait(self.next_at);
        }
        if self.emg_tx_intv.is_none() {
            self.emg_tx_seq = start;
        }
        let mut intv = *self.emg_tx_intv.get_or_insert(intervals.min);
        if self.tally.is_none() {
            self.heard = (now, 0);
        }
        let tally = self.tally.get_or_insert_default();
        let far = log.end.min(self.emg_tx_seq.saturating_add(log.reach));
        let found = (self.emg_tx_seq..far).find(|seq| log.there.contains_key(seq));
        self.emg_tx_seq = found.map_or(far, |seq| seq + 1);
        if found.is_none() && far < log.end {
            return Step::Wait(now.saturating_add(1));
        }
        tally.sent += u64::from(found.is_some());
        let mut doubles = false;
        if self.emg_tx_seq >= log.end {
            doubles = true;
            self.emg_tx_seq = start;
            tally.rounds += 1;
            self.rounds += 1;
        }
        let (at, rounds) = self.heard;
        let (silent_rounds, silent_ms) = (tally.rounds - rounds, now.saturating_sub(at));
        self.given_up = silent_rounds >= GIVE_UP_ROUNDS && silent_ms >= GIVE_UP_MS;
        let mut max = intervals.max.max(intervals.min);
        if self.given_up {
            doubles = true;
            max = max.max(MAX_GIVEN_UP_MS);
        }
        if doubles {
            intv = intv.saturating_mul(2).min(max);
            self.emg_tx_intv = Some(intv);
        }
        self.next_at = now.saturating_add(intv.max(1));
        found.map_or(Step::Wait(self.next_at), Step::Send)
    }
}

#[derive(Default)]
struct Pair {
    log: Log,
    schedule: Schedule,
    seed: Seed,
    /// The last record sent in this emergency, when, and in which round.
    last: Option<(u64, u64, u64)>,
    /// The time of the first poll after the last ack.
    asked_at: Option<u64>,
}

impl Pair {
    /// Returns the time that was named.
    fn poll(&mut self, now: u64, intervals: Intervals) -> Result<u64, TestCaseError> {
        let (log, ack, end) = (&self.log, self.log.ack, self.log.end);
        let view = View {
            ack,
            end,
            oldest_sent: log.known.range(ack + 1..).next().map(|(_, &at)| at),
        };
        let (round, schedule, seed) = (self.seed.rounds, &mut self.schedule, &mut self.seed);
        let step = schedule.poll(now, view, intervals, |seq| log.next(seq));
        prop_assert_eq!(step, seed.ack_timer_fn(now, log, view, intervals));
        let emergency = schedule.is_emergency();
        prop_assert_eq!(emergency, seed.tally.is_some());
        prop_assert_eq!(schedule.ended(), seed.ended);
        prop_assert_eq!(schedule.rounds(), seed.rounds);
        prop_assert_eq!(schedule.is_given_up(), seed.given_up);
        self.last = self.last.filter(|_| emergency);
        let Some((oldest, &at)) = log.sent_at.range(..end).find(|&(&seq, _)| seq > ack) else {
            prop_assert_eq!(step, Step::Idle);
            return Ok(now);
        };
        let late_at = at.saturating_add(intervals.ack_timeout);
        let asked_at = *self.asked_at.get_or_insert(now);
        match step {
            Step::Idle => Err(TestCaseError::fail("idle, though some are unacked")),
            Step::Wait(until) => {
                prop_assert!(now < until || now == u64::MAX);
                let by = log.known.get(oldest).copied().unwrap_or(asked_at);
                let in_time = late_at <= until && until <= by.saturating_add(intervals.ack_timeout);
                prop_assert!(emergency && late_at <= now || !emergency && in_time);
                Ok(until)
            }
            Step::Send(seq) => {
                prop_assert!(late_at <= now && ack < seq && seq < end);
                prop_assert!(log.there.contains_key(&seq));
                if let Some((last, at, last_round)) = self.last {
                    prop_assert!(seq > last || round > last_round);
                    prop_assert!(now - at >= intervals.min || now == u64::MAX);
                }
                self.last = Some((seq, now, round));
                Ok(now)
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A poll at the time that was named, less and plus this, if it is not past already.
    Poll(u64, u64),
    /// A record after this time, after this number of hidden ones; whether it is sent.
    Record(u64, u64, bool),
    Ack(u64),
    /// A response that acks nothing new.
    Response,
    /// The loss of this number of records from the ring; whether from printk's log, too.
    Drop(usize, bool),
}

fn edges() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, u64::MAX - 300..=u64::MAX, any::<u64>()]
}

fn times() -> impl Strategy<Value = u64> {
    prop_oneof![200 => 0..6u64, 100 => 0..1500u64, 100 => 0..15_000u64, 1 => edges()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn unacked_records_are_sent_as_in_2015(
        ack in edges().prop_map(|n| n.min(u64::MAX - 1)),
        mut now in prop_oneof![3 => times(), 1 => edges()],
        reach in prop_oneof![1..5u64, Just(128)],
        ack_timeout in prop_oneof![Just(10_000), times()],
        [min, max] in prop_oneof![Just([100, 1000]), [times(), times()], [edges(), edges()]],
        events in vec(prop_oneof![
            8 => Just(Event::Poll(0, 0)),
            3 => (times(), times()).prop_map(|(less, plus)| Event::Poll(less, plus)),
            4 => (times(), 0..3u64, any::<bool>()).prop_map(|(t, n, s)| Event::Record(t, n, s)),
            1 => (0..9u64).prop_map(Event::Ack),
            1 => Just(Event::Response),
            1 => (0..9usize, any::<bool>()).prop_map(|(n, gone)| Event::Drop(n, gone)),
        ], 0..200),
        garbage in vec([edges(), edges(), edges(), edges()], 0..20),
    ) {
        let intervals = Intervals { ack_timeout, min, max };
        let log = Log { ack, end: ack + 1, reach, ..Log::default() };
        let (mut pair, mut named) = (Pair { log, ..Pair::default() }, now);
        for event in events {
            let log = &mut pair.log;
            let newest = log.sent_at.keys().next_back().map_or(log.ack, |&seq| seq.max(log.ack));
            match event {
                Event::Poll(less, plus) => {
                    now = now.max(named.saturating_sub(less).saturating_add(plus));
                    named = pair.poll(now, intervals)?;
                }
                Event::Record(after, gap, sent) if newest < u64::MAX - 5 => {
                    let seq = newest + gap + 1;
                    now = now.saturating_add(after);
                    [&mut log.sent_at, &mut log.there, &mut log.known].map(|m| m.insert(seq, now));
                    log.end = if sent { seq + 1 } else { log.end };
                }
                Event::Ack(n) if n > 0 && log.ack < newest => {
                    log.ack = newest.min(log.ack.saturating_add(n));
                    pair.schedule.ack(now, intervals);
                    pair.seed.start_over(now, intervals);
                    pair.last = pair.last.map(|(_, at, round)| (0, at, round));
                    pair.asked_at = None;
                }
                Event::Response => {
                    pair.schedule.respond(now, intervals);
                    pair.seed.heard = (now, pair.seed.tally.map_or(0, |tally| tally.rounds));
                    if std::mem::take(&mut pair.seed.given_up) {
                        pair.seed.start_over(now, intervals);
                        pair.last = pair.last.map(|(_, at, round)| (0, at, round));
                    }
                }
                Event::Drop(n, gone) => {
                    (0..n).for_each(|_| _ = log.known.pop_first());
                    log.there = if gone { &log.known } else { &log.there }.clone();
                }
                _ => {}
            }
        }
        // All are sent within two rounds if nothing else happens; each may end without a record.
        let log = &pair.log;
        let mut unacked = log.there.clone();
        unacked.retain(|&seq, _| log.ack < seq && seq < log.end);
        for _ in 0..4 + 4 * unacked.len() as u64 + log.end.saturating_sub(log.ack) / reach * 2 {
            now = pair.poll(now, intervals)?;
            unacked.remove(&pair.last.map_or(0, |(seq, ..)| seq));
        }
        prop_assert!(unacked.is_empty(), "{unacked:?} not sent");
        // Impossible states make it neither panic nor spin.
        for [now, ack, end, n] in garbage {
            let view = View { ack, end, oldest_sent: (n % 5 > 0).then_some(n) };
            let next = [Next::Nothing, Next::NotBefore(n), Next::Record(n)];
            match pair.schedule.poll(now, view, intervals, |_| next[n as usize % 3]) {
                Step::Idle => prop_assert!(ack.saturating_add(1) >= end),
                Step::Wait(until) => prop_assert!(now < until || now == u64::MAX),
                Step::Send(seq) => prop_assert!(seq < end),
            }
            pair.schedule.ack(n, intervals);
        }
    }
}
