// SPDX-License-Identifier: GPL-2.0

//! Emergency transmission, the schedule: pure, `core` only.
//!
//! A logger that has acked and then falls silent is sent the records that it has not acked again
//! and again, whatever the cause of its silence may be: one record an interval, from the one after
//! its last ack to the end of what it has been sent, and then from the start at twice the interval,
//! up to a maximum. An ack that moves forward ends it.
//!
//! This is the 2015 series' `netconsole_ack_timer_fn()`, with one difference: there the timeout
//! runs from the first record after the log was last fully acked, so that a busy stream whose acks
//! lag a little looks late. Here it runs from when the oldest unacked record was sent.
//!
//! Times are milliseconds of one clock that does not go backwards.

/// The intervals, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// How old the oldest unacked record may be (the series' `ACK_TIMEOUT`).
    pub(crate) ack_timeout: u64,
    /// From record to record in the first round (`EMG_TX_MIN_INTV`).
    pub(crate) min: u64,
    /// The longest from record to record (`EMG_TX_MAX_INTV`).
    pub(crate) max: u64,
}

#[cfg(any(test, CONFIG_KUNIT))]
impl Intervals {
    /// The series' values: 10 s, 100 ms, and 1 s as in its code, not the 10 s of its text.
    pub(crate) const DEFAULT: Self = Self {
        ack_timeout: 10_000,
        min: 100,
        max: 1000,
    };
}

/// What has been sent and acked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The last record that has been acked.
    pub(crate) ack: u64,
    /// The number after the last record that has been sent.
    pub(crate) end: u64,
    /// When the oldest unacked record was first sent; [`None`] if all are acked.
    pub(crate) oldest_sent: Option<u64>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before this time, unless an ack or a record comes.
    Wait(u64),
    /// Send this record, marked as an emergency one; and ask again at once.
    Send(u64),
    /// Nothing until a record is sent.
    Idle,
}

/// The emergency transmission that is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Emergency {
    interval: u64,
    /// The next record, if it is there.
    seq: u64,
    /// When it is due.
    due: u64,
    rounds: u64,
    sent: u64,
}

/// What an emergency transmission has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Rounds that were completed.
    pub(crate) rounds: u64,
    /// Records that were sent.
    pub(crate) sent: u64,
}

/// The schedule of one target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    emergency: Option<Emergency>,
}

impl Schedule {
    /// Whether unacked records are being sent again, and how it goes.
    pub(crate) fn emergency(&self) -> Option<Tally> {
        self.emergency.map(|e| Tally {
            rounds: e.rounds,
            sent: e.sent,
        })
    }

    /// An ack has moved forward. Ends an emergency transmission; says what it has come to.
    pub(crate) fn ack(&mut self) -> Option<Tally> {
        let tally = self.emergency();
        self.emergency = None;
        tally
    }

    /// Says what is to be done now.
    ///
    /// `next` finds the first record from a number on that there still is to send; what it passes
    /// over takes no time.
    pub(crate) fn poll(
        &mut self,
        now: u64,
        view: View,
        intervals: Intervals,
        next: impl FnOnce(u64) -> Option<u64>,
    ) -> Step {
        let Some(oldest_sent) = view.oldest_sent else {
            self.emergency = None;
            return Step::Idle;
        };
        let late_at = oldest_sent.saturating_add(intervals.ack_timeout);
        let start = view.ack.saturating_add(1);
        let mut emergency = match self.emergency {
            Some(emergency) => emergency,
            None if now < late_at => return Step::Wait(late_at),
            None => Emergency {
                interval: intervals.min,
                seq: start,
                due: now,
                rounds: 0,
                sent: 0,
            },
        };
        if now < emergency.due {
            return Step::Wait(emergency.due);
        }

        let found = next(emergency.seq).filter(|&seq| seq < view.end);
        match found {
            Some(seq) => {
                emergency.seq = seq.saturating_add(1);
                emergency.sent = emergency.sent.saturating_add(1);
            }
            None => emergency.seq = view.end,
        }
        if emergency.seq >= view.end {
            emergency.seq = start;
            emergency.rounds = emergency.rounds.saturating_add(1);
            emergency.interval = emergency
                .interval
                .saturating_mul(2)
                .min(intervals.max)
                .max(intervals.min);
        }
        // At least a millisecond, so that an interval of 0 cannot make the caller spin.
        emergency.due = now.saturating_add(emergency.interval.max(1));
        self.emergency = Some(emergency);
        match found {
            Some(seq) => Step::Send(seq),
            None => Step::Wait(emergency.due),
        }
    }
}

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_emg_tx))]
#[cfg(any(test, CONFIG_KUNIT))]
mod tests {
    use super::*;

    const INTERVALS: Intervals = Intervals::DEFAULT;

    /// A logger that has acked 3 of the records below 7 and fallen silent; 5 is hidden.
    const SILENT: View = View {
        ack: 3,
        end: 7,
        oldest_sent: Some(500),
    };

    fn there(seq: u64) -> Option<u64> {
        Some(if seq == 5 { 6 } else { seq })
    }

    /// Polls at each time that the schedule names, and compares what it sends.
    fn sends(schedule: &mut Schedule, view: View, expected: &[(u64, u64)]) -> bool {
        let mut now = 0;
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
        assert!(schedule.emergency() == Some(tally));
        // An ack that moves forward ends it; the timeout runs anew.
        assert!(schedule.ack() == Some(tally));
        assert!(schedule.ack().is_none());
        let view = View {
            ack: 4,
            oldest_sent: Some(9000),
            ..SILENT
        };
        assert!(schedule.poll(16_500, view, INTERVALS, there) == Step::Wait(19_000));
        assert!(schedule.poll(19_000, view, INTERVALS, there) == Step::Send(6));
    }

    #[test]
    fn all_acked_is_idle() {
        let mut schedule = Schedule::default();
        let view = View {
            oldest_sent: None,
            ..SILENT
        };
        assert!(schedule.poll(1 << 40, view, INTERVALS, there) == Step::Idle);
        assert!(schedule.emergency().is_none());
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
            assert!(matches!(
                schedule.poll(now, view, INTERVALS, Some),
                Step::Wait(_)
            ));
            schedule.ack();
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
            let step = schedule.poll(now, SILENT, none, |_| None);
            assert!(matches!(step, Step::Wait(until) if until > now));
            if let Step::Wait(until) = step {
                now = until;
            }
        }
        // The ends of the numbers do not overflow.
        let last = View {
            ack: u64::MAX,
            end: u64::MAX,
            oldest_sent: Some(u64::MAX),
        };
        let step = Schedule::default().poll(u64::MAX, last, INTERVALS, Some);
        assert!(step == Step::Wait(u64::MAX));
    }
}
