// SPDX-License-Identifier: GPL-2.0

//! The schedule of a crash's repeats: pure, `core` only.
//!
//! No response can be heard in a panic, so records that may have been lost are sent again blindly,
//! in rounds: [`QUICK`] ones within `panic_hold_ms`, for a machine that is reset at once, so that
//! each record is sent 17 times with the first; then [`SLOW`] ones in intervals that double, for a
//! machine that waits and whose logger may have been away. After these a machine that hangs in a
//! panic for days is silent.
//!
//! Each round begins with the crash's own records. A part of the unacked records before the crash
//! follows: a long backlog comes bit by bit, and does not starve the crash.
//!
//! Before a crash kernel any line may be the last one. So with each line of the panic the last
//! [`LINES`] are sent again, [`TIMES`] times.

use core::ops::Range;

/// The number of quick rounds.
pub(crate) const QUICK: u32 = 16;
/// The number of slow rounds.
pub(crate) const SLOW: u32 = 8;

/// The longest interval between quick rounds: that of the calls on a machine that waits.
const MAX_QUICK_MS: u64 = 200;

/// The most older records in a round.
pub(crate) const BACKLOG: u64 = 128;

/// The number of lines that are sent again with each line of a panic, before a crash kernel.
pub(crate) const LINES: u64 = 4;
/// How often these are sent, and an oops before a crash kernel.
pub(crate) const TIMES: u32 = 8;

/// The rounds of one crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    done: u32,
    interval: u64,
    due: u64,
}

impl Rounds {
    /// The first round is due one interval from `now`; the quick rounds take `hold` milliseconds.
    pub(crate) fn new(now: u64, hold: u64) -> Self {
        let interval = (hold / u64::from(QUICK)).clamp(1, MAX_QUICK_MS);
        Self {
            done: 0,
            interval,
            due: now.saturating_add(interval),
        }
    }

    /// Returns the number of the round that is due, from 0, for the caller to send.
    pub(crate) fn poll(&mut self, now: u64) -> Option<u32> {
        if self.is_over() || now < self.due {
            return None;
        }
        let round = self.done;
        self.done += 1;
        if self.done >= QUICK {
            self.interval = self.interval.saturating_mul(2);
        }
        self.due = now.saturating_add(self.interval);
        Some(round)
    }

    /// Returns whether no round is left.
    pub(crate) fn is_over(&self) -> bool {
        self.done >= QUICK + SLOW
    }
}

/// The ack of a logger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It has never acked.
    Never,
    /// This record, and all before it.
    Up(u64),
    /// Unknown: the CPU that was changing it has been stopped.
    Unknown,
}

/// The records of a log, by number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The first record that the logger is to have.
    pub(crate) first: u64,
    /// The first record of the crash.
    pub(crate) crash: u64,
    /// The number after the last record that has been sent.
    pub(crate) end: u64,
}

/// The records of a round: those of the crash, then a part of the backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Records of the crash.
    pub(crate) crash: Range<u64>,
    /// Records before the crash.
    pub(crate) backlog: Range<u64>,
}

/// Plans round `round` for a logger. `last` is the record of the backlog that the last round ended
/// with; a logger that does not ack gets `repeats` rounds.
pub(crate) fn plan(round: u32, repeats: u32, acked: Acked, view: View, last: u64) -> Plan {
    let start = match acked {
        Acked::Up(ack) => ack.saturating_add(1).max(view.first),
        Acked::Never if round >= repeats => view.end,
        Acked::Never | Acked::Unknown => view.crash,
    };
    let crash = view.crash.max(start)..view.end;
    let old = start..view.crash.min(view.end);
    // The backlog goes on after the last round, and from its start after its end.
    let next = last.saturating_add(1);
    let from = if old.contains(&next) { next } else { old.start };
    let backlog = from..old.end.min(from.saturating_add(BACKLOG));
    Plan { crash, backlog }
}

/// Returns the records that are sent again with line `seq` of a panic before a crash kernel, and
/// how often. A logger that does not ack gets the line alone, `repeats` times. The crash begins
/// with record `crash`.
pub(crate) fn with_line(seq: u64, repeats: u32, acked: Acked, crash: u64) -> (Range<u64>, u32) {
    let end = seq.saturating_add(1);
    let last_few = end.saturating_sub(LINES).max(crash);
    match acked {
        Acked::Never => (seq..end, repeats),
        Acked::Up(ack) => (last_few.max(ack.saturating_add(1))..end, TIMES),
        Acked::Unknown => (last_few..end, TIMES),
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_crash_tx)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const VIEW: View = View {
        first: 10,
        crash: 1000,
        end: 1040,
    };

    /// When there were rounds, if it is asked each `step` milliseconds until `until`.
    fn times<const N: usize>(hold: u64, step: u64, until: u64) -> ([u64; N], usize) {
        let (mut rounds, mut times, mut count) = (Rounds::new(0, hold), [0; N], 0);
        let mut now = 0;
        while now <= until {
            if rounds.poll(now) == Some(count as u32) {
                times[count % N] = now;
                count += 1;
            }
            now += step;
        }
        (times, count)
    }

    /// How often each of ten lines of a panic is sent again.
    fn lines(repeats: u32, acked: Acked) -> [u32; 10] {
        let mut times = [0; 10];
        for seq in 0..10 {
            let (range, count) = with_line(1000 + seq, repeats, acked, 1000);
            for seq in range {
                times[(seq - 1000) as usize] += count;
            }
        }
        times
    }

    #[test]
    fn the_last_lines_are_sent_again_with_each_line() {
        let expected = [32, 32, 32, 32, 32, 32, 32, 24, 16, 8];
        assert!(lines(2, Acked::Up(990)) == expected);
        assert!(lines(0, Acked::Unknown) == expected);
        let acked = [0, 0, 0, 32, 32, 32, 32, 24, 16, 8];
        assert!(lines(2, Acked::Up(1002)) == acked);
    }

    #[test]
    fn without_acks_each_line_is_sent_again_as_often_as_wanted() {
        assert!(lines(2, Acked::Never) == [2; 10]);
        assert!(lines(0, Acked::Never) == [0; 10]);
    }

    #[test]
    fn quick_rounds_fit_the_hold() {
        let (_, count) = times::<32>(1000, 1, 1000);
        assert!(count == QUICK as usize);
        let (_, count) = times::<32>(16, 1, 16);
        assert!(count == QUICK as usize);
        // No hold at all is no round in that time.
        let (_, count) = times::<32>(0, 1, 0);
        assert!(count == 0);
    }

    #[test]
    fn a_machine_that_waits_has_them_all_and_then_no_more() {
        // In a countdown of five seconds.
        let (_, count) = times::<32>(1000, 200, 5000);
        assert!(count > QUICK as usize);
        let (times, count) = times::<32>(1000, 200, 1 << 20);
        assert!(count == (QUICK + SLOW) as usize);
        // 62 ms, doubled eight times, each a little late.
        let last = times[count - 1] - times[count - 2];
        assert!((62 << 8..(62 << 8) + 400).contains(&last));
    }

    #[test]
    fn the_crash_comes_first_and_the_backlog_bit_by_bit() {
        let up = |ack, last| plan(3, 2, Acked::Up(ack), VIEW, last);
        assert!(up(1019, 0).crash == (1020..1040) && up(1019, 0).backlog.is_empty());
        assert!(up(999, 0).crash == (1000..1040) && up(999, 0).backlog.is_empty());
        assert!(up(989, 0).backlog == (990..1000));
        assert!(up(499, 0).backlog == (500..628));
        assert!(up(499, 627).backlog == (628..756));
        assert!(up(499, 950).backlog == (951..1000));
        assert!(up(499, 999).backlog == (500..628));
        // Records that it was not to have are not sent.
        assert!(up(3, 0).backlog == (10..138));
        // All that was sent has been acked.
        assert!(up(1039, 0).crash.is_empty() && up(u64::MAX, 0).backlog.is_empty());
    }

    #[test]
    fn who_does_not_ack_gets_the_crash_a_fixed_number_of_times() {
        for round in 0..QUICK {
            let silent = plan(round, 2, Acked::Never, VIEW, 0);
            assert!(silent.crash.is_empty() == (round >= 2) && silent.backlog.is_empty());
            let unknown = plan(round, 2, Acked::Unknown, VIEW, 0);
            assert!(unknown.crash == (1000..1040) && unknown.backlog.is_empty());
        }
    }
}
