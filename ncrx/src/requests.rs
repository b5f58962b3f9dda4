// SPDX-License-Identifier: GPL-2.0

//! Requests for missing records: which numbers, and when.
//!
//! A gap is noticed once, and put at the end of a queue; when it is due, the numbers that are still
//! missing in it are asked for, and put at the end of the next queue. All gaps of a queue wait
//! equally long, so its first is always the one that is due first, and nothing is ever searched. A
//! record that comes costs nothing here.
//!
//! While a sender answers at all, a lost request or answer is best repeated at once; while it has
//! not answered for long, a longer interval is better. So the interval doubles with each round that
//! had no answer, and is the shortest again with the first answer. A number that is asked for over
//! and over while others come is asked for less often, unless the sender knows sessions and so
//! would say that it is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::record::SeqRange;
use crate::stream::restart::COPIES;

/// The number of requests after which a number is asked for less often, by the factor `SLOW`, and
/// after as many more once more.
const PATIENCE: u32 = 16;
const SLOW: u32 = 4;
const QUEUES: usize = 4;

/// The numbers that are due within this part of the reorder time are asked for together.
const TOGETHER: u32 = 8;

/// The shortest interval, and its length in round trips: a record that is asked for again while it
/// is on its way comes twice.
const SHORTEST: Duration = Duration::from_millis(5);
const ROUND_TRIPS: u32 = 3;
/// The same as a part of the usual one, if no round trip is known.
const UNKNOWN: u32 = 3;

/// The number of answers that are counted to find out whether the interval is too short.
const SAMPLE: u32 = 32;

/// The time after an answer for which a sender is taken to be there.
const LATELY: Duration = Duration::from_secs(10);

/// A gap that is waited for.
#[derive(Clone, Copy, Debug)]
struct Gap {
    numbers: SeqRange,
    /// The time at which it was noticed, or last asked for.
    since: Instant,
    /// The number of requests for it.
    tries: u32,
}

/// The decision on a gap that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is asked for, and waits for the answer in this queue.
    Ask { queue: usize },
    /// It was asked for often enough.
    GiveUp,
}

/// Decides on a gap that was asked for `tries` times. After `vain` times it is given up, unless
/// that is [`u32::MAX`]: a sender that would say that a record is lost is only hard to reach.
fn step(tries: u32, vain: u32) -> Step {
    match tries {
        _ if vain == u32::MAX => Step::Ask { queue: 1 },
        tries if tries >= vain => Step::GiveUp,
        tries => {
            let slower = ((tries + 1) / PATIENCE) as usize;
            Step::Ask {
                queue: (1 + slower).min(QUEUES - 1),
            }
        }
    }
}

/// The gaps of one stream.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The gaps that were never asked for; then those that were, at longer and longer intervals.
    queues: [VecDeque<Gap>; QUEUES],
    /// The shortest useful interval: see [`Self::copy`].
    pace: Duration,
    interval: Duration,
    /// A number that was asked for once, and the time, to measure a round trip; and the longest
    /// round trip of late.
    probe: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    /// The requested numbers that came, and those that came again.
    came: u32,
    copies: u32,
    /// The time at which the next request may be sent.
    next: Option<Instant>,
    /// Whether there was an answer since `round` began.
    answered: bool,
    answered_at: Option<Instant>,
    round: Option<Instant>,
    /// The number of rounds since the last answer, and the time at which the first of them began.
    unanswered: u32,
    unanswered_since: Option<Instant>,
    /// The time of the last request, and the highest number that was ever asked for.
    asked: Option<Instant>,
    highest: u64,
    /// The lowest numbers that were asked for in this and in the last stretch of [`COPIES`], and
    /// the time at which this one began.
    lowest: [u64; 2],
    stretch: Option<Instant>,
}

impl Requests {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            queues: [const { VecDeque::new() }; QUEUES],
            pace: config.request_interval,
            interval: config.request_interval,
            probe: None,
            round_trip: None,
            came: 0,
            copies: 0,
            next: None,
            answered: false,
            answered_at: None,
            round: None,
            unanswered: 0,
            unanswered_since: None,
            asked: None,
            highest: 0,
            lowest: [u64::MAX; 2],
            stretch: None,
        }
    }

    /// Notes that these numbers are missing from now on. Returns whether something is due earlier.
    pub(crate) fn notice(&mut self, now: Instant, numbers: SeqRange) -> bool {
        // A gap that is noticed later is due later.
        let first = self.queues[0].is_empty();
        self.queues[0].push_back(Gap {
            numbers,
            since: now,
            tries: 0,
        });
        first
    }

    /// Returns whether some of these numbers are waited for.
    pub(crate) fn has(&self, numbers: SeqRange) -> bool {
        let overlaps =
            |gap: &Gap| gap.numbers.first <= numbers.last && numbers.first <= gap.numbers.last;
        self.queues.iter().flatten().any(overlaps)
    }

    /// Notes that a requested number has come. Returns whether others are due earlier now.
    pub(crate) fn answer(&mut self, now: Instant, seq: u64, config: &Config) -> bool {
        if let Some((_, asked)) = self.probe.filter(|&(probe, _)| probe == seq) {
            let new = now.saturating_duration_since(asked);
            // The round trip falls slowly.
            let old = self.round_trip.map_or(new, |old| old * 7 / 8);
            self.round_trip = Some(new.max(old));
            self.probe = None;
        }
        self.answered = true;
        self.answered_at = Some(now);
        (self.unanswered, self.unanswered_since) = (0, None);
        self.came += 1;
        self.keep_pace(config);
        let sooner = self.interval > self.pace;
        self.interval = self.pace;
        sooner
    }

    /// Notes that a number has come again that may have been asked for: an answer to a request that
    /// was sent while the answer to the one before was on its way.
    pub(crate) fn copy(&mut self, config: &Config) {
        self.copies += 1;
        self.keep_pace(config);
        self.interval = self.interval.max(self.pace);
    }

    /// Returns the shortest useful interval: some round trips, as far as they can be told from
    /// losses, and no longer than is usual. At high loss, copies show that it is too short.
    fn shortest(&self, config: &Config) -> Duration {
        let usual = config.request_interval;
        let known = self
            .round_trip
            .map(|time| (time * ROUND_TRIPS).max(SHORTEST));
        known.unwrap_or(usual / UNKNOWN).min(usual)
    }

    /// Asks more rarely if much of what comes has come before, and more often if hardly any has.
    fn keep_pace(&mut self, config: &Config) {
        let all = self.came + self.copies;
        if all < SAMPLE {
            return;
        }
        if self.copies >= all / 4 {
            self.pace = (self.pace * 2).min(config.request_interval_max);
        } else if self.copies <= all / 16 {
            self.pace = (self.pace * 7 / 8).max(self.shortest(config));
        }
        (self.came, self.copies) = (0, 0);
    }

    /// Returns whether nothing has been answered for this time.
    pub(crate) fn is_unanswered(&self, now: Instant, long: Duration) -> bool {
        self.answered_at
            .is_none_or(|at| now.saturating_duration_since(at) >= long)
    }

    /// Returns whether this number may have been asked for lately, so that the network may still
    /// bring a copy.
    pub(crate) fn may_bring(&self, now: Instant, seq: u64) -> bool {
        self.lately(now)
            .is_some_and(|lately| lately.first <= seq && seq <= lately.last)
    }

    /// Returns the range that has all numbers that were asked for lately.
    pub(crate) fn lately(&self, now: Instant) -> Option<SeqRange> {
        let lately = self.asked.is_some_and(|asked| now < asked + COPIES);
        lately.then_some(SeqRange {
            first: self.lowest[0].min(self.lowest[1]),
            last: self.highest,
        })
    }

    /// Notes that another receiver has asked for some of these until now.
    pub(crate) fn resume(&mut self, now: Instant, numbers: SeqRange) {
        self.asked = Some(now);
        (self.lowest[0], self.highest) = (numbers.first, numbers.last);
    }

    fn note(&mut self, now: Instant, numbers: SeqRange, tries: u32) {
        match self.probe {
            None if tries == 1 => self.probe = Some((numbers.first, now)),
            // An answer could be to either request, and so measures nothing.
            Some((probe, _)) if tries > 1 && numbers.first <= probe && probe <= numbers.last => {
                self.probe = None;
            }
            None | Some(_) => {}
        }
        if self.stretch.is_none_or(|began| now >= began + COPIES) {
            self.stretch = Some(now);
            self.lowest = [u64::MAX, self.lowest[0]];
        }
        self.lowest[0] = self.lowest[0].min(numbers.first);
        self.highest = self.highest.max(numbers.last);
    }

    /// Returns whether a record of this number, that was missing, is an answer. One that was never
    /// asked for is only out of order.
    pub(crate) fn is_answer(&self, seq: u64) -> bool {
        self.asked.is_some() && seq <= self.highest
    }

    /// Returns whether several requests, over at least this time, have all gone unanswered.
    pub(crate) fn in_vain(&self, now: Instant, long: Duration) -> bool {
        self.unanswered >= 4
            && self
                .unanswered_since
                .is_some_and(|since| now.saturating_duration_since(since) >= long)
    }

    /// Returns the time that a gap waits in this queue.
    fn wait(&self, queue: usize, config: &Config) -> Duration {
        match queue {
            0 => config.reorder,
            1 => self.interval,
            // At most SLOW^2 * interval; a sender that answers quickly is not given up earlier.
            _ => (self.interval.max(config.request_interval) * SLOW.pow(queue as u32 - 1))
                .min(config.request_interval_max.max(self.interval)),
        }
    }

    /// Returns the time at which something is due.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        let due = self
            .queues
            .iter()
            .enumerate()
            .filter_map(|(n, queue)| Some(queue.front()?.since + self.wait(n, config)));
        let due = due.min()?;
        Some(self.next.map_or(due, |next| due.max(next)))
    }

    /// Takes out the gaps that have waited for this long, and all before them; for a sender that is
    /// not asked.
    pub(crate) fn expired(&mut self, now: Instant, hold: Duration) -> Option<SeqRange> {
        for queue in self.queues.iter_mut().skip(1) {
            if let Some(gap) = queue.pop_front() {
                return Some(gap.numbers);
            }
        }
        let front = self.queues[0].front()?;
        (front.since + hold <= now)
            .then(|| self.queues[0].pop_front())?
            .map(|gap| gap.numbers)
    }

    /// Returns the time at which [`Self::expired`] will have something.
    pub(crate) fn expires(&self, hold: Duration) -> Option<Instant> {
        let asked = self.queues[1..].iter().find_map(|queue| queue.front());
        asked
            .map(|gap| gap.since)
            .or_else(|| self.queues[0].front().map(|gap| gap.since + hold))
    }

    /// Asks for the gaps that are due, up to the most numbers at a time. `missing` returns the
    /// first numbers that are still missing of a stretch; `ask` gets the numbers to ask for, and
    /// `give_up` those that were asked for `vain` times. Returns the count of numbers asked for.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        config: &Config,
        vain: u32,
        missing: impl Fn(u64, u64) -> Option<SeqRange>,
        mut ask: impl FnMut(SeqRange),
        mut give_up: impl FnMut(SeqRange),
    ) -> u64 {
        if self.next.is_some_and(|next| now < next) {
            return 0;
        }
        let rate = u64::from(config.request_rate.max(1));
        let most = (rate / 10).max(1);
        let mut left = most;
        while let Some((queue, gap)) = self.pop_due(now, config) {
            let step = step(gap.tries, vain);
            let mut from = gap.numbers.first;
            while let Some(found) = missing(from, gap.numbers.last) {
                if left == 0 {
                    // The rest comes first next time.
                    let (first, last) = (found.first, gap.numbers.last);
                    let numbers = SeqRange { first, last };
                    self.queues[queue].push_front(Gap { numbers, ..gap });
                    break;
                }
                let last = found.last.min(found.first.saturating_add(left - 1));
                let numbers = SeqRange { last, ..found };
                match step {
                    Step::GiveUp => give_up(numbers),
                    Step::Ask { queue } => {
                        ask(numbers);
                        left -= numbers.count();
                        self.put_off(now, queue, numbers, gap.tries + 1);
                    }
                }
                if last >= gap.numbers.last {
                    break;
                }
                from = last + 1;
            }
            if left == 0 {
                break;
            }
        }
        let asked = most - left;
        if asked > 0 {
            self.asked = Some(now);
            self.begin_round(now, config);
            // The pause keeps requests below the sender's rate, with many numbers in each.
            let pause = Duration::from_nanos(asked.saturating_mul(1_000_000_000 / rate));
            self.next = Some(now + pause.max(config.reorder / TOGETHER));
        }
        asked
    }

    /// Takes the next gap out that is due, and returns its queue.
    fn pop_due(&mut self, now: Instant, config: &Config) -> Option<(usize, Gap)> {
        (0..QUEUES).find_map(|n| {
            // A clock that has not run that long has no gap that old.
            let due = now.checked_sub(self.wait(n, config))?;
            let front = self.queues[n].front().filter(|gap| gap.since <= due);
            let gap = *front?;
            self.queues[n].pop_front();
            Some((n, gap))
        })
    }

    /// Puts numbers that are asked for now into the queue in which they wait for the answer.
    fn put_off(&mut self, now: Instant, queue: usize, numbers: SeqRange, tries: u32) {
        self.note(now, numbers, tries);
        self.queues[queue].push_back(Gap {
            numbers,
            since: now,
            tries,
        });
    }

    fn begin_round(&mut self, now: Instant, config: &Config) {
        let over = |round: Instant| now >= round + self.interval;
        if !self.round.is_none_or(over) {
            return;
        }
        // A sender that has never answered is soon given up; until then the interval is short.
        let new = self.answered_at.is_none() && !self.in_vain(now, config.passive_after);
        // The same holds for a sender that has answered lately.
        let lately = self.answered_at.is_some_and(|at| now < at + LATELY);
        if self.round.is_some() && !self.answered && !new && !lately {
            self.interval = (self.interval * 2).min(config.request_interval_max);
        }
        self.round = Some(now);
        self.answered = false;
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_with_a_gap_that_is_due() {
        let ask = |queue| Step::Ask { queue };
        for (tries, vain, then) in [
            (0, 80, ask(1)),
            (14, 80, ask(1)),
            (15, 80, ask(2)),
            (30, 80, ask(2)),
            (31, 80, ask(3)),
            (79, 80, ask(3)),
            (80, 80, Step::GiveUp),
            (0, 1, ask(1)),
            (1, 1, Step::GiveUp),
            (1000, u32::MAX, ask(1)),
        ] {
            assert_eq!(step(tries, vain), then, "{tries} {vain}");
        }
    }

    #[test]
    fn no_more_is_asked_for_at_a_time_than_the_sender_sends() {
        let config = Config::default();
        let (begin, mut requests) = (Instant::now(), Requests::new(&config));
        let (first, last) = (0, 2499);
        requests.notice(begin, SeqRange { first, last });
        let mut now = begin + config.reorder;
        let mut asked = Vec::new();
        while asked.len() < 3 {
            let missing = |from, to| {
                let numbers = SeqRange {
                    first: from,
                    last: to,
                };
                (from <= to).then_some(numbers)
            };
            requests.poll(now, &config, 80, missing, |r| asked.push(r), |_| panic!());
            now = requests.deadline(&config).unwrap();
        }
        let ranges = asked.iter().map(|range| (range.first, range.last));
        let ranges: Vec<_> = ranges.take(3).collect();
        // The numbers of a tenth of a second, those that were never asked for first.
        assert_eq!(ranges, [(0, 999), (1000, 1999), (2000, 2499)]);
    }
}
