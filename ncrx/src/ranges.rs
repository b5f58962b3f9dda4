// SPDX-License-Identifier: GPL-2.0

//! Sets of ranges of numbers, bounded: the newest are kept.

use std::collections::VecDeque;

use crate::record::SeqRange;

/// The most ranges in a set.
const MOST: usize = 1024;

/// Ranges of numbers that were passed over, ascending and apart from each other, each with the
/// clock of a record before it.
#[derive(Debug, Default)]
pub(crate) struct Ranges(VecDeque<(SeqRange, u64)>);

impl Ranges {
    /// Adds numbers above all others.
    pub(crate) fn push(&mut self, numbers: SeqRange, usec: u64) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((numbers, usec));
    }

    /// Adds numbers wherever they belong; some of them may be there.
    pub(crate) fn add(&mut self, numbers: SeqRange, usec: u64) {
        let SeqRange {
            mut first,
            mut last,
        } = numbers;
        let touches = |(range, _): &(SeqRange, u64)| {
            range.first <= last.saturating_add(1) && first <= range.last.saturating_add(1)
        };
        let at = self
            .0
            .partition_point(|(range, _)| range.last.saturating_add(1) < first);
        let end = at
            + self
                .0
                .range(at..)
                .take_while(|range| touches(range))
                .count();
        for (range, _) in self.0.drain(at..end) {
            (first, last) = (first.min(range.first), last.max(range.last));
        }
        self.0.insert(at, (SeqRange { first, last }, usec));
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }

    /// Adds ranges that are apart from those of the set.
    pub(crate) fn merge(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0
            .make_contiguous()
            .sort_unstable_by_key(|(numbers, _)| numbers.first);
        self.0.drain(..self.0.len().saturating_sub(MOST));
    }

    /// Returns whether the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all ranges, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SeqRange> + '_ {
        self.with_clocks().map(|(numbers, _)| numbers)
    }

    /// Returns all ranges, ascending, with their clocks.
    pub(crate) fn with_clocks(&self) -> impl Iterator<Item = (SeqRange, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Returns the part of the first range that lies between two numbers.
    pub(crate) fn next(&self, first: u64, last: u64) -> Option<SeqRange> {
        let at = self.0.partition_point(|(numbers, _)| numbers.last < first);
        let found = self.0.get(at)?.0;
        (found.first <= last && first <= last).then(|| SeqRange {
            first: found.first.max(first),
            last: found.last.min(last),
        })
    }

    fn place(&self, seq: u64) -> Option<usize> {
        let at = self.0.partition_point(|(numbers, _)| numbers.last < seq);
        (self.0.get(at)?.0.first <= seq).then_some(at)
    }

    /// Returns the clock of a record before this number, if it is in the set.
    pub(crate) fn since(&self, seq: u64) -> Option<u64> {
        Some(self.0[self.place(seq)?].1)
    }

    /// Returns whether it is in one of them.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.place(seq).is_some()
    }

    /// Takes a number out; returns whether it was there.
    pub(crate) fn remove(&mut self, seq: u64) -> bool {
        let is_there = self.contains(seq);
        if is_there {
            let (first, last) = (seq, seq);
            self.cut(SeqRange { first, last });
        }
        is_there
    }

    /// Takes numbers out, which are all in one of them.
    pub(crate) fn cut(&mut self, numbers: SeqRange) {
        let Some(at) = self.place(numbers.first) else {
            return;
        };
        let (SeqRange { first, last }, usec) = self.0[at];
        match (first == numbers.first, last == numbers.last) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => self.0[at].0.first = numbers.last + 1,
            (false, true) => self.0[at].0.last = numbers.first - 1,
            (false, false) => {
                self.0[at].0.first = numbers.last + 1;
                let last = numbers.first - 1;
                self.0.insert(at, (SeqRange { first, last }, usec));
                if self.0.len() > MOST {
                    self.0.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_out_one_by_one() {
        let mut ranges = Ranges::default();
        for (first, last) in [(1, 1), (5, 9), (20, 21)] {
            ranges.push(SeqRange { first, last }, first);
        }
        let all = |ranges: &Ranges| (0..30).filter(|&n| ranges.contains(n)).collect::<Vec<_>>();
        assert_eq!(all(&ranges), [1, 5, 6, 7, 8, 9, 20, 21]);
        for n in [7, 1, 21, 20, 5, 9] {
            assert!(ranges.remove(n) && !ranges.remove(n));
        }
        assert_eq!(all(&ranges), [6, 8]);
        let range = |first, last| Some(SeqRange { first, last });
        assert_eq!((ranges.next(0, 5), ranges.next(6, 5)), (None, None));
        assert_eq!(
            (ranges.next(0, 7), ranges.next(7, 9)),
            (range(6, 6), range(8, 8))
        );
        let mut others = Ranges::default();
        for (first, last) in [(0, 4), (7, 7)] {
            others.push(SeqRange { first, last }, 0);
        }
        ranges.merge(others);
        assert!(ranges.remove(7));
        ranges.cut(SeqRange { first: 1, last: 3 });
        assert_eq!(all(&ranges), [0, 4, 6, 8]);
        assert_eq!([6, 7, 8].map(|n| ranges.since(n)), [Some(5), None, Some(5)]);
        for (first, last) in [(5, 5), (7, 9), (2, 3), (12, 13)] {
            ranges.add(SeqRange { first, last }, 0);
        }
        assert_eq!(all(&ranges), [0, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]);
        assert_eq!(ranges.iter().count(), 3);
        for n in 0..2000 {
            let first = 100 + 3 * n;
            let last = first + 1;
            ranges.push(SeqRange { first, last }, 0);
        }
        assert!(ranges.0.len() <= MOST && ranges.contains(100 + 3 * 1999));
    }
}
