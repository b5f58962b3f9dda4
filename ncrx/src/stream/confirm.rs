// SPDX-License-Identifier: GPL-2.0

//! Records that were returned and are not confirmed yet: an ack stops before them.

use std::collections::{BTreeSet, VecDeque};

use crate::record::{SeqRange, StreamId};

/// Names one returned record, for [`Receiver::confirm`](crate::Receiver::confirm).
///
/// May be copied and sent to other threads. Valid only for the receiver that has returned the
/// record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The place of the stream at that time.
    pub(crate) source: u32,
    pub(crate) stream: StreamId,
    pub(crate) seq: u64,
    /// Tells late records of one number apart; 0 for the record that was returned in order.
    pub(crate) nth: u32,
}

/// Numbers, as ranges in ascending order, apart from each other.
#[derive(Debug, Default)]
struct Numbers(VecDeque<SeqRange>);

impl Numbers {
    /// Returns the place of the first range that ends at this number or behind it.
    fn place(&self, seq: u64) -> usize {
        match self.0.front() {
            Some(front) if seq <= front.last => 0,
            _ => self.0.partition_point(|range| range.last < seq),
        }
    }

    /// Adds a number.
    #[inline(always)] // Into the fast path.
    fn add(&mut self, seq: u64) {
        match self.0.back_mut() {
            // Mostly.
            Some(back) if seq.checked_sub(1) == Some(back.last) => back.last = seq,
            _ => self.insert(seq),
        }
    }

    /// Adds a number that does not follow the last.
    #[inline(never)]
    fn insert(&mut self, seq: u64) {
        let at = match self.0.back() {
            Some(back) if seq <= back.last => self.place(seq),
            _ => self.0.len(),
        };
        if self.0.get(at).is_some_and(|range| range.first <= seq) {
            return;
        }
        let joins = |range: &SeqRange| range.first.checked_sub(1) == Some(seq);
        let last = match self.0.get(at).copied().filter(joins) {
            Some(behind) => {
                self.0.remove(at);
                behind.last
            }
            None => seq,
        };
        match at.checked_sub(1).and_then(|before| self.0.get_mut(before)) {
            Some(before) if before.last + 1 == seq => before.last = last,
            _ => self.0.insert(at, SeqRange { first: seq, last }),
        }
    }

    /// Takes a number out; returns whether it was there.
    fn remove(&mut self, seq: u64) -> bool {
        let at = self.place(seq);
        let Some(range) = self.0.get_mut(at).filter(|range| range.first <= seq) else {
            return false;
        };
        match (range.first == seq, range.last == seq) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => range.first += 1,
            (false, true) => range.last -= 1,
            (false, false) => {
                let first = std::mem::replace(&mut range.first, seq + 1);
                let before = SeqRange {
                    first,
                    last: seq - 1,
                };
                self.0.insert(at, before);
            }
        }
        true
    }

    /// Takes numbers out, as far as they are there.
    fn cut(&mut self, numbers: SeqRange) {
        let at = self.place(numbers.first);
        while let Some(range) = self.0.get_mut(at).filter(|at| at.first <= numbers.last) {
            let SeqRange { first, last } = *range;
            if last > numbers.last {
                range.first = numbers.last + 1;
            } else {
                self.0.remove(at);
            }
            if first < numbers.first {
                let last = numbers.first - 1;
                self.0.insert(at, SeqRange { first, last });
                return self.cut(numbers);
            }
        }
    }

    /// Returns the lowest.
    fn first(&self) -> Option<u64> {
        self.0.front().map(|range| range.first)
    }
}

/// The numbers of one stream's records that were returned and are not confirmed.
///
/// Mostly records are confirmed in the order in which they were returned. Then both adding and
/// confirming one changes a number at an end of a queue.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    in_order: Numbers,
    late: BTreeSet<(u64, u32)>,
    nth: u32,
    /// Those of which a token was refused, and that have not come again.
    refused: Numbers,
}

impl Token {
    /// The stream of the record.
    pub fn stream(self) -> StreamId {
        self.stream
    }

    /// The record's number.
    pub fn seq(self) -> u64 {
        self.seq
    }
}

impl Unconfirmed {
    /// Adds a record returned in order: its number is above all earlier ones.
    #[inline]
    pub(crate) fn add(&mut self, seq: u64) {
        self.in_order.add(seq);
    }

    /// Adds a record returned late. What was returned of its number before has to be confirmed as
    /// well, unless it was refused: an output may still be about to write a part of the record.
    /// Returns the number for its token.
    pub(crate) fn add_late(&mut self, seq: u64) -> u32 {
        self.refused.remove(seq);
        self.nth = self.nth.wrapping_add(1).max(1);
        self.late.insert((seq, self.nth));
        self.nth
    }

    /// Confirms a record; returns whether that had to be.
    pub(crate) fn confirm(&mut self, seq: u64, nth: u32) -> bool {
        match nth {
            0 => self.in_order.remove(seq),
            nth => self.late.remove(&(seq, nth)),
        }
    }

    /// Notes that the record has to come again, and to be confirmed then.
    pub(crate) fn refuse(&mut self, seq: u64, nth: u32) {
        if self.confirm(seq, nth) {
            self.refused.add(seq);
        }
    }

    /// Notes that these numbers will never be confirmed.
    pub(crate) fn forget(&mut self, numbers: SeqRange) {
        self.in_order.cut(numbers);
        self.refused.cut(numbers);
        self.late
            .retain(|&(seq, _)| seq < numbers.first || numbers.last < seq);
    }

    /// Confirms all.
    pub(crate) fn clear(&mut self) {
        self.in_order.0.clear();
        self.refused.0.clear();
        self.late.clear();
    }

    /// Returns the lowest number that is not confirmed.
    pub(crate) fn first(&self) -> Option<u64> {
        let late = self.late.first().map(|&(seq, _)| seq);
        let all = [self.in_order.first(), self.refused.first(), late];
        all.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a set of all that is not confirmed; what was refused has no token in it.
        #[test]
        fn the_lowest_is_known_whatever_is_confirmed_when(
            steps in prop::collection::vec((0..6u8, 0..3u64, any::<prop::sample::Index>()), 1..300)
        ) {
            let (mut unconfirmed, mut next) = (Unconfirmed::default(), 0);
            let (mut model, mut all) = (BTreeSet::new(), Vec::new());
            for (what, skip, which) in steps {
                match what {
                    0 | 1 => {
                        next += 1 + skip / 2;
                        unconfirmed.add(next);
                        all.push((next, 0));
                        model.insert((next, Some(0)));
                    }
                    2 => {
                        let seq = next.saturating_sub(5 * skip);
                        let nth = unconfirmed.add_late(seq);
                        all.push((seq, nth));
                        model.remove(&(seq, None));
                        model.insert((seq, Some(nth)));
                    }
                    3 => {
                        let first = next.saturating_sub(5 * skip);
                        let last = first + 3;
                        unconfirmed.forget(SeqRange { first, last });
                        model.retain(|(seq, _)| *seq < first || last < *seq);
                    }
                    _ if all.is_empty() => {}
                    4 => {
                        let (seq, nth) = *which.get(&all);
                        unconfirmed.refuse(seq, nth);
                        if model.remove(&(seq, Some(nth))) {
                            model.insert((seq, None));
                        }
                    }
                    _ => {
                        let (seq, nth) = *which.get(&all);
                        unconfirmed.confirm(seq, nth);
                        model.remove(&(seq, Some(nth)));
                    }
                }
                prop_assert_eq!(unconfirmed.first(), model.first().map(|&(seq, _)| seq));
            }
        }
    }
}
