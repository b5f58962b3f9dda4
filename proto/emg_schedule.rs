// SPDX-License-Identifier: GPL-2.0

//! The schedule of emergency transmission: pure, `core` only.
//!
//! A logger that has acked and then falls silent is sent its unacked records again, for whatever
//! reason it is silent: one record an interval, from the one after its last ack to the end of what
//! was sent, then from the start at twice the interval, up to a maximum. An ack that moves forward
//! starts over. Emergency transmission ends when the oldest unacked record is younger than the
//! timeout.
//!
//! A logger from which nothing has come for [`GIVE_UP_ROUNDS`] rounds and [`GIVE_UP_MS`] may never
//! respond again: a passive tool may have taken its place. From then on the interval doubles with
//! each record, up to [`MAX_GIVEN_UP_MS`]. Any response that is believed starts over.
//!
//! This is the 2015 series' `netconsole_ack_timer_fn()`, with these differences:
//!
//! - The timeout runs from the time at which the oldest unacked record was sent. In the series it
//!   runs from the first record after the log was last fully acked, so that a busy stream whose
//!   acks lag a little looks late.
//! - An ack that does not move forward changes nothing; one that does may bring the next record
//!   forward.
//! - A maximum below the minimum counts as the minimum.
//! - In the series a logger that never responds again gets its records at the maximum interval for
//!   ever.

use super::ring::Next;

/// How many rounds, and for how long, in milliseconds, emergency transmission goes on in its usual
/// intervals without any response. Each alone would not do: a round over one record takes a second,
/// and one over a thousand a quarter of an hour.
pub(crate) const GIVE_UP_ROUNDS: u64 = 8;
pub(crate) const GIVE_UP_MS: u64 = 60_000;

/// The longest interval from record to record after that, in milliseconds.
pub(crate) const MAX_GIVEN_UP_MS: u64 = 120_000;

/// The intervals, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// The age of the oldest unacked record at which emergency transmission begins (the series'
    /// `ACK_TIMEOUT`).
    pub(crate) ack_timeout: u64,
    /// The interval from record to record in the first round (`EMG_TX_MIN_INTV`).
    pub(crate) min: u64,
    /// The longest interval from record to record (`EMG_TX_MAX_INTV`).
    pub(crate) max: u64,
}

#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
impl Intervals {
    /// The series' values: 10 s, 100 ms, and 1 s as in its code, not the 10 s of its text.
    pub(crate) const DEFAULT: Self = Self {
        ack_timeout: 10_000,
        min: 100,
        max: 1000,
    };
}

/// The state of the log for one logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The last record that has been acked.
    pub(crate) ack: u64,
    /// The number after the last record that has been sent.
    pub(crate) end: u64,
    /// When the oldest unacked record was first sent, if that is known.
    pub(crate) oldest_sent: Option<u64>,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait until this time, unless an ack or a record comes.
    Wait(u64),
    /// Send this record, marked as an emergency one, and poll again at once.
    Send(u64),
    /// Wait until a record is sent.
    Idle,
}

/// A time by which all records below a number had been sent: the age of the oldest unacked record
/// when no more exact time has been kept.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    end: u64,
    at: u64,
}

impl Mark {
    /// Returns a time by which the oldest unacked record, which has to exist, had been sent. It is
    /// at most one round trip too late, since a mark is set anew as soon as it is acked.
    fn oldest_sent(&mut self, now: u64, view: View) -> u64 {
        if view.ack.saturating_add(1) >= self.end {
            *self = Self {
                end: view.end,
                at: now,
            };
        }
        self.at
    }
}

/// The figures of an emergency transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Completed rounds.
    pub(crate) rounds: u64,
    /// Records sent.
    pub(crate) sent: u64,
}

/// An emergency transmission in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Emergency {
    interval: u64,
    /// The next record, if it exists.
    seq: u64,
    /// The time at which it is due.
    due: u64,
    tally: Tally,
    /// The time of the last response, or of the start, and the rounds completed by then.
    heard: (u64, u64),
}

impl Emergency {
    /// Returns whether the logger has not responded for long.
    fn is_given_up(&self, now: u64) -> bool {
        let (at, rounds) = self.heard;
        self.tally.rounds.saturating_sub(rounds) >= GIVE_UP_ROUNDS
            && now.saturating_sub(at) >= GIVE_UP_MS
    }
}

/// The schedule of one target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    emergency: Option<Emergency>,
    /// The figures of the last one that has ended.
    ended: Tally,
    /// Completed rounds of all of them.
    rounds: u64,
    mark: Mark,
    given_up: bool,
}

impl Schedule {
    /// Returns whether records are sent more and more rarely, since no response comes.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Returns whether unacked records are being sent again.
    pub(crate) fn is_emergency(&self) -> bool {
        self.emergency.is_some()
    }

    /// Returns the figures of the last emergency transmission that has ended.
    pub(crate) fn ended(&self) -> Tally {
        self.ended
    }

    /// Returns the number of completed rounds, of all emergency transmissions.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Returns a time by which the first record after `ack` had been sent; [`None`] if
    /// [`Self::poll`] has not seen that record yet.
    pub(crate) fn marked(&self, ack: u64) -> Option<u64> {
        (ack.saturating_add(1) < self.mark.end).then_some(self.mark.at)
    }

    fn end(&mut self) {
        self.given_up = false;
        if let Some(emergency) = self.emergency.take() {
            self.ended = emergency.tally;
        }
    }

    /// Takes note of a response that is believed. If the logger had been given up this starts over
    /// as [`Self::ack`].
    pub(crate) fn respond(&mut self, now: u64, intervals: Intervals) {
        if let Some(emergency) = &mut self.emergency {
            emergency.heard = (now, emergency.tally.rounds);
        }
        if core::mem::take(&mut self.given_up) {
            self.ack(now, intervals);
        }
    }

    /// Starts over with the first round: an ack has moved forward.
    ///
    /// The next record still comes when it is due, or after the shortest interval. The acks of a
    /// backlog that is being caught up follow each other closely, and would have one record sent
    /// each otherwise.
    pub(crate) fn ack(&mut self, now: u64, intervals: Intervals) {
        if let Some(emergency) = &mut self.emergency {
            emergency.interval = intervals.min;
            emergency.seq = 0;
            emergency.due = emergency.due.min(now.saturating_add(intervals.min));
        }
    }

    /// Returns the next step. To be called at least once a second.
    ///
    /// `next` finds the first record from a number on that can be sent; the records that it skips
    /// take no time.
    pub(crate) fn poll(
        &mut self,
        now: u64,
        view: View,
        intervals: Intervals,
        next: impl FnOnce(u64) -> Next,
    ) -> Step {
        let start = view.ack.saturating_add(1);
        if start >= view.end {
            self.end();
            return Step::Idle;
        }
        let by = self.mark.oldest_sent(now, view);
        let oldest_sent = view.oldest_sent.map_or(by, |at| at.min(by));
        let late_at = oldest_sent.saturating_add(intervals.ack_timeout);
        if now < late_at {
            self.end();
            return Step::Wait(late_at);
        }
        let mut emergency = self.emergency.unwrap_or(Emergency {
            interval: intervals.min,
            seq: start,
            due: now,
            tally: Tally::default(),
            heard: (now, 0),
        });
        if now < emergency.due {
            return Step::Wait(emergency.due);
        }
        emergency.seq = emergency.seq.max(start);

        let found = match next(emergency.seq) {
            Next::Record(seq) if seq < view.end => Some(seq),
            Next::NotBefore(seq) if seq < view.end => {
                emergency.seq = seq;
                self.emergency = Some(emergency);
                return Step::Wait(now.saturating_add(1));
            }
            _ => None,
        };
        match found {
            Some(seq) => {
                emergency.seq = seq.saturating_add(1);
                emergency.tally.sent = emergency.tally.sent.saturating_add(1);
            }
            None => emergency.seq = view.end,
        }
        let completes = emergency.seq >= view.end;
        if completes {
            emergency.seq = start;
            emergency.tally.rounds = emergency.tally.rounds.saturating_add(1);
            self.rounds = self.rounds.saturating_add(1);
        }
        self.given_up = emergency.is_given_up(now);
        let max = match self.given_up {
            true => intervals.max.max(MAX_GIVEN_UP_MS),
            false => intervals.max,
        };
        if completes || self.given_up {
            let doubled = emergency.interval.saturating_mul(2);
            emergency.interval = doubled.min(max).max(intervals.min);
        }
        // At least a millisecond: an interval of 0 must not make the caller spin.
        emergency.due = now.saturating_add(emergency.interval.max(1));
        self.emergency = Some(emergency);
        match found {
            Some(seq) => Step::Send(seq),
            None => Step::Wait(emergency.due),
        }
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_emg_tx)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const INTERVALS: Intervals = Intervals::DEFAULT;

    /// A logger that has acked 3 of the records below 7 and fallen silent; 5 is hidden.
    const SILENT: View = View {
        ack: 3,
        end: 7,
        oldest_sent: Some(500),
    };

    fn there(seq: u64) -> Next {
        Next::Record(if seq == 5 { 6 } else { seq })
    }

    /// Polls at each time that the schedule names, and compares what it sends.
    fn sends(schedule: &mut Schedule, view: View, expected: &[(u64, u64)]) -> bool {
        let mut now = 500;
        for &sent in expected {
            loop {
                match schedule.poll(now, view, INTERVALS, there) {
                    Step::Wait(until) if until > now => now = until,
                    Step::Send(seq) if (now, seq) == sent => break,
                    _ => return false,
                }
            }
        }
        true
    }

    #[test]
    fn rounds_of_doubling_intervals() {
        let mut schedule = Schedule::default();
        assert!(sends(
            &mut schedule,
            SILENT,
            &[
                (10_500, 4),
                (10_600, 6),
                (10_800, 4),
                (11_000, 6),
                (11_400, 4),
                (11_800, 6),
                (12_600, 4),
                (13_400, 6),
                (14_400, 4),
                (15_400, 6),
                (16_400, 4),
            ]
        ));
        let tally = Tally {
            rounds: 5,
            sent: 11,
        };
        assert!(schedule.is_emergency() && schedule.emergency.map(|e| e.tally) == Some(tally));
        // An ack that moves forward starts it over, but not at once.
        let view = View {
            ack: 5,
            end: 9,
            oldest_sent: Some(600),
        };
        schedule.ack(16_450, INTERVALS);
        assert!(schedule.poll(16_450, view, INTERVALS, there) == Step::Wait(16_550));
        assert!(schedule.poll(16_550, view, INTERVALS, there) == Step::Send(6));
        assert!(schedule.poll(16_650, view, INTERVALS, there) == Step::Send(7));
        // The rest is not old: the emergency is over, and the timeout runs anew.
        let view = View {
            ack: 6,
            oldest_sent: Some(9000),
            ..view
        };
        schedule.ack(16_700, INTERVALS);
        assert!(schedule.poll(16_700, view, INTERVALS, there) == Step::Wait(19_000));
        assert!(!schedule.is_emergency() && schedule.rounds() == 5);
        let tally = Tally {
            rounds: 5,
            sent: 13,
        };
        assert!(schedule.ended() == tally);
        assert!(schedule.poll(19_000, view, INTERVALS, there) == Step::Send(7));
    }

    /// The times at which something is sent from `now` on, until one is after `end`.
    fn times(schedule: &mut Schedule, mut now: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        let view = View { end: 5, ..SILENT };
        core::iter::from_fn(move || {
            while now <= end {
                match schedule.poll(now, view, INTERVALS, there) {
                    Step::Wait(until) => now = until,
                    Step::Send(_) => return Some(now),
                    Step::Idle => return None,
                }
            }
            None
        })
    }

    #[test]
    fn a_logger_that_never_responds_again_is_given_up() {
        let mut schedule = Schedule::default();
        // At 10,500, 10,700, 11,100, 11,900 and then every 1,000 ms.
        assert!(times(&mut schedule, 500, 70_000).last() == Some(69_900));
        assert!(!schedule.is_given_up());
        let mut at = 70_900;
        for interval in [
            2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000, 120_000,
        ] {
            assert!(times(&mut schedule, at - 1, at).last() == Some(at));
            assert!(schedule.is_given_up());
            at += interval;
        }
        // Any response starts over.
        at -= 60_000;
        schedule.respond(at, INTERVALS);
        assert!(!schedule.is_given_up() && schedule.is_emergency());
        let mut again = times(&mut schedule, at, at + 10_000);
        assert!(again.next() == Some(at + 100) && again.next() == Some(at + 300));
        assert!(again.count() > 8);
        assert!(!schedule.is_given_up());
    }

    #[test]
    fn a_logger_that_responds_is_not_given_up() {
        let mut schedule = Schedule::default();
        for minute in 0..60 {
            let now = 10_500 + minute * 59_000;
            let sent = times(&mut schedule, now, now + 58_999).count();
            assert!((58..64).contains(&sent));
            schedule.respond(now + 59_000, INTERVALS);
            assert!(!schedule.is_given_up());
        }
        // Nor one that is sent its records for the first time in a long round.
        let mut schedule = Schedule::default();
        let view = View {
            end: 2000,
            ..SILENT
        };
        let mut now = 10_500;
        while schedule.rounds() == 0 {
            match schedule.poll(now, view, INTERVALS, there) {
                Step::Wait(until) => now = until,
                _ => assert!(!schedule.is_given_up()),
            }
        }
        assert!(now > 200_000);
    }

    #[test]
    fn all_acked_is_idle() {
        let mut schedule = Schedule::default();
        let view = View { ack: 6, ..SILENT };
        assert!(schedule.poll(1 << 40, view, INTERVALS, there) == Step::Idle);
        assert!(!schedule.is_emergency());
    }

    #[test]
    fn a_mark_is_of_what_was_unacked_when_it_was_set() {
        let mut schedule = Schedule::default();
        let view = View {
            ack: 3,
            end: 5,
            oldest_sent: None,
        };
        schedule.poll(100, view, INTERVALS, there);
        assert!(schedule.marked(3) == Some(100));
        // A record sent after all was acked is not as old as that.
        assert!(schedule.marked(4).is_none());
        let view = View {
            ack: 4,
            end: 6,
            ..view
        };
        schedule.poll(9000, view, INTERVALS, there);
        assert!(schedule.marked(4) == Some(9000));
    }

    #[test]
    fn a_busy_stream_with_late_acks_is_no_emergency() {
        let mut schedule = Schedule::default();
        for now in 0..100_000 {
            // A record each millisecond, acked after a second.
            let view = View {
                ack: u64::saturating_sub(now, 1000),
                end: now + 1,
                oldest_sent: Some(u64::saturating_sub(now, 999)),
            };
            let step = schedule.poll(now, view, INTERVALS, Next::Record);
            assert!(!matches!(step, Step::Send(_)));
            schedule.ack(now, INTERVALS);
        }
    }

    #[test]
    fn records_that_come_meanwhile_are_of_the_round() {
        let mut schedule = Schedule::default();
        assert!(sends(&mut schedule, SILENT, &[(10_500, 4)]));
        let longer = View { end: 9, ..SILENT };
        for (now, seq) in [(10_600, 6), (10_700, 7), (10_800, 8), (11_000, 4)] {
            assert!(schedule.poll(now, longer, INTERVALS, there) == Step::Send(seq));
        }
    }

    #[test]
    fn nothing_left_to_send_does_not_spin() {
        let mut schedule = Schedule::default();
        let none = Intervals {
            ack_timeout: 0,
            min: 0,
            max: 0,
        };
        let mut now = 1000;
        for _ in 0..100 {
            let step = schedule.poll(now, SILENT, none, |_| Next::Nothing);
            assert!(matches!(step, Step::Wait(until) if until > now));
            if let Step::Wait(until) = step {
                now = until;
            }
        }
        // The ends of the numbers do not overflow.
        let last = View {
            ack: u64::MAX - 2,
            end: u64::MAX,
            oldest_sent: Some(u64::MAX),
        };
        let step = Schedule::default().poll(u64::MAX - 1, last, INTERVALS, Next::Record);
        assert!(step == Step::Wait(u64::MAX));
        let none = View {
            ack: u64::MAX,
            ..last
        };
        let step = Schedule::default().poll(u64::MAX, none, INTERVALS, Next::Record);
        assert!(step == Step::Idle);
    }

    #[test]
    fn what_is_long_to_find_is_found_later() {
        let mut schedule = Schedule::default();
        let step = schedule.poll(10_500, SILENT, INTERVALS, |seq| Next::NotBefore(seq + 1));
        assert!(step == Step::Wait(10_501));
        let step = schedule.poll(10_501, SILENT, INTERVALS, |seq| {
            assert!(seq == 5);
            there(seq)
        });
        assert!(step == Step::Send(6));
        assert!(schedule.poll(10_700, SILENT, INTERVALS, there) == Step::Wait(10_701));
    }

    #[test]
    fn the_time_of_sending_need_not_be_known() {
        let mut schedule = Schedule::default();
        let view = |ack, end| View {
            ack,
            end,
            oldest_sent: None,
        };
        // 4 to 6 had been sent by now.
        assert!(schedule.poll(100, view(3, 7), INTERVALS, there) == Step::Wait(10_100));
        // 5 has not been acked since; what came later does not matter.
        assert!(schedule.poll(900, view(4, 9), INTERVALS, there) == Step::Wait(10_100));
        // All of them have: 7 and 8 had been sent by now.
        assert!(schedule.poll(1000, view(6, 9), INTERVALS, there) == Step::Wait(11_000));
        assert!(schedule.poll(11_000, view(6, 9), INTERVALS, there) == Step::Send(7));
        // If the time is known, that is what counts.
        let mut schedule = Schedule::default();
        assert!(schedule.poll(100, SILENT, INTERVALS, there) == Step::Wait(10_100));
        let known = View {
            oldest_sent: Some(50),
            ..SILENT
        };
        assert!(schedule.poll(100, known, INTERVALS, there) == Step::Wait(10_050));
    }
}
