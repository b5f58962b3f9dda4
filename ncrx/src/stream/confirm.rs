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

/// The numbers of one stream's records that were returned and are not confirmed.
///
/// Mostly records are confirmed in the order in which they were returned. Then both adding and
/// confirming one changes a number at an end of a queue.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    /// In ascending order, apart from each other.
    in_order: VecDeque<SeqRange>,
    late: BTreeSet<(u64, u32)>,
    nth: u32,
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
    pub(crate) fn add(&mut self, seq: u64) {
        match self.in_order.back_mut() {
            Some(last) if last.last + 1 == seq => last.last = seq,
            _ => self.in_order.push_back(SeqRange {
                first: seq,
                last: seq,
            }),
        }
    }

    /// Adds a record returned late. If its number was returned before, that has to be confirmed
    /// anew, by this token alone: an output may have refused it more than once. Returns the number
    /// for its token.
    pub(crate) fn add_late(&mut self, seq: u64) -> u32 {
        self.confirm(seq, 0);
        let former = self.late.range((seq, 0)..=(seq, u32::MAX));
        for late in former.copied().collect::<Vec<_>>() {
            self.late.remove(&late);
        }
        self.nth = self.nth.wrapping_add(1).max(1);
        self.late.insert((seq, self.nth));
        self.nth
    }

    /// Confirms a record; it may be confirmed already.
    pub(crate) fn confirm(&mut self, seq: u64, nth: u32) {
        if nth > 0 {
            self.late.remove(&(seq, nth));
            return;
        }
        let at = match self.in_order.front() {
            Some(front) if seq <= front.last => 0,
            _ => self.in_order.partition_point(|range| range.last < seq),
        };
        let Some(range) = self.in_order.get_mut(at).filter(|range| range.first <= seq) else {
            return;
        };
        match (range.first == seq, range.last == seq) {
            (true, true) => drop(self.in_order.remove(at)),
            (true, false) => range.first += 1,
            (false, true) => range.last -= 1,
            (false, false) => {
                let first = std::mem::replace(&mut range.first, seq + 1);
                let before = SeqRange {
                    first,
                    last: seq - 1,
                };
                self.in_order.insert(at, before);
            }
        }
    }

    /// Notes that these numbers will never be confirmed.
    pub(crate) fn forget(&mut self, numbers: SeqRange) {
        let overlaps =
            |range: &SeqRange| range.first <= numbers.last && numbers.first <= range.last;
        let mut seq = numbers.first;
        while let Some(range) = self.in_order.iter().find(|range| overlaps(range)) {
            seq = seq.max(range.first);
            self.confirm(seq, 0);
            if seq == numbers.last {
                break;
            }
            seq += 1;
        }
        self.late
            .retain(|&(seq, _)| seq < numbers.first || numbers.last < seq);
    }

    /// Confirms all.
    pub(crate) fn clear(&mut self) {
        self.in_order.clear();
        self.late.clear();
    }

    /// Returns the lowest number that is not confirmed.
    pub(crate) fn first(&self) -> Option<u64> {
        let in_order = self.in_order.front().map(|range| range.first);
        let late = self.late.first().map(|&(seq, _)| seq);
        in_order.into_iter().chain(late).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a set of all that is not confirmed.
        #[test]
        fn the_lowest_is_known_whatever_is_confirmed_when(
            steps in prop::collection::vec((0..4u8, 0..3u64, any::<prop::sample::Index>()), 1..300)
        ) {
            let (mut unconfirmed, mut next) = (Unconfirmed::default(), 0);
            let (mut model, mut all) = (BTreeSet::new(), Vec::new());
            for (what, skip, which) in steps {
                match what {
                    0 | 1 => {
                        next += 1 + skip / 2;
                        unconfirmed.add(next);
                        all.push((next, 0));
                        model.insert((next, 0));
                    }
                    2 => {
                        let seq = next.saturating_sub(5 * skip);
                        all.push((seq, unconfirmed.add_late(seq)));
                        model.retain(|&(former, _)| former != seq);
                        model.extend(all.last());
                    }
                    _ if all.is_empty() => {}
                    _ => {
                        let (seq, nth) = *which.get(&all);
                        unconfirmed.confirm(seq, nth);
                        model.remove(&(seq, nth));
                    }
                }
                prop_assert_eq!(unconfirmed.first(), model.first().map(|&(seq, _)| seq));
            }
        }
    }
}
