// SPDX-License-Identifier: GPL-2.0

//! Sets of record numbers that are mostly runs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A set of numbers, kept as runs: first number to last number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// Puts all of `run` into the set.
    pub fn insert(&mut self, run: RangeInclusive<u64>) {
        let (mut first, mut last) = run.into_inner();
        if first > last {
            return;
        }
        // Runs that overlap this one, or touch it, become part of it.
        while let Some((&from, &to)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if to.saturating_add(1) < first {
                break;
            }
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.0.insert(first, last);
    }

    /// Returns whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        self.end_of_run(n).is_some()
    }

    /// Returns the last number of the run that `n` is in.
    pub fn end_of_run(&self, n: u64) -> Option<u64> {
        let (_, &last) = self.0.range(..=n).next_back()?;
        (n <= last).then_some(last)
    }

    /// Returns the runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.0.iter().map(|(&first, &last)| first..=last)
    }

    /// Returns the number of elements.
    pub fn count(&self) -> u64 {
        self.runs().map(|run| run.end() - run.start() + 1).sum()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use fastrand::Rng;

    #[test]
    fn like_a_set() {
        let mut dice = Rng::with_seed(1);
        for _ in 0..200 {
            let (mut numbers, mut set) = (Numbers::default(), BTreeSet::new());
            for _ in 0..20 {
                let first = dice.u64(0..60);
                let run = first..=first + dice.u64(0..6);
                numbers.insert(run.clone());
                set.extend(run);
            }
            for n in 0..70 {
                assert_eq!(numbers.contains(n), set.contains(&n));
            }
            assert_eq!(numbers.count(), set.len() as u64);
            let runs: Vec<_> = numbers.runs().collect();
            // Runs that touch would be one.
            assert!(runs.windows(2).all(|w| w[0].end() + 1 < *w[1].start()));
        }
    }

    #[test]
    fn the_largest_numbers() {
        let mut numbers = Numbers::default();
        numbers.insert(u64::MAX - 1..=u64::MAX);
        numbers.insert(0..=0);
        assert_eq!(numbers.end_of_run(u64::MAX - 1), Some(u64::MAX));
        assert!(!numbers.contains(1));
    }
}
