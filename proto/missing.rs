// SPDX-License-Identifier: GPL-2.0

//! The records that responses ask for, merged and in order: pure, `core` only.
//!
//! Responses that wait in the socket are merged before any of them is answered, so that a number
//! that all of them ask for is answered once.

use core::ops::DerefMut;

use super::{
    response::Response,
    wire::{
        Range,
        MAX_DATAGRAM, //
    }, //
};

/// The most ranges in a response: each takes a digit and a blank.
pub(crate) const MAX_RANGES: usize = MAX_DATAGRAM / 2;

/// The number of ranges that there should be room for: those of one response beside those of
/// others.
pub(crate) const ROOM: usize = 2 * MAX_RANGES;

/// The requested numbers that are still to be answered, in memory of the caller's.
///
/// # Invariants
///
/// `next <= len <= ranges.len()`. The ranges from `next` to `len` are in order, and no two of them
/// share a number or adjoin.
pub(crate) struct Missing<R> {
    ranges: R,
    next: usize,
    len: usize,
}

impl<R: DerefMut<Target = [Range]>> Missing<R> {
    /// Creates a set of no numbers with room for as many ranges as there are in `ranges`: at least
    /// [`MAX_RANGES`], or no response is merged.
    pub(crate) fn new(ranges: R) -> Self {
        // INVARIANT: There are no ranges.
        Self {
            ranges,
            next: 0,
            len: 0,
        }
    }

    /// Adds the numbers below `end` that `response` asks for.
    ///
    /// Returns `false` and adds none if there is no room: the logger asks again.
    pub(crate) fn merge(&mut self, response: &Response<'_>, end: u64) -> bool {
        let Some(newest) = end.checked_sub(1) else {
            return true;
        };
        self.ranges.copy_within(self.next..self.len, 0);
        // INVARIANT: They are where they have been copied to.
        (self.next, self.len) = (0, self.len - self.next);
        if self.ranges.len() - self.len < MAX_RANGES {
            return false;
        }
        for range in response.missing().filter(|range| range.first <= newest) {
            self.insert(Range {
                first: range.first,
                last: range.last.min(newest),
            });
        }
        true
    }

    /// Adds a range where it belongs, and makes one of it and those that it touches. The ranges
    /// begin at the start of the memory. One without room is dropped: a response has no more than
    /// there was room for.
    fn insert(&mut self, new: Range) {
        let all = self.ranges.get(..self.len).unwrap_or_default();
        let from = all.partition_point(|range| range.last.saturating_add(1) < new.first);
        let to = all.partition_point(|range| range.first <= new.last.saturating_add(1));
        let touched = all.get(from..to).unwrap_or_default();
        if touched.is_empty() && self.len == self.ranges.len() {
            return;
        }
        let one = Range {
            first: touched
                .first()
                .map_or(new.first, |range| range.first.min(new.first)),
            last: touched
                .last()
                .map_or(new.last, |range| range.last.max(new.last)),
        };
        self.ranges.copy_within(to..self.len, from + 1);
        self.ranges[from] = one;
        // INVARIANT: The ranges before end below the new one, and those behind begin above it.
        self.len = self.len - to + from + 1;
    }

    /// Removes all numbers.
    pub(crate) fn clear(&mut self) {
        // INVARIANT: There are no ranges.
        (self.next, self.len) = (0, 0);
    }

    /// Returns whether there are no numbers.
    pub(crate) fn is_empty(&self) -> bool {
        self.next == self.len
    }

    /// Takes the least number.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let range = self.first_mut()?;
        let seq = range.first;
        if seq < range.last {
            range.first += 1;
        } else {
            self.pop();
        }
        Some(seq)
    }

    /// Takes the numbers that follow `first`, the last one taken, without a gap and are below
    /// `begin`; returns them with `first`.
    ///
    /// All records below `begin` are lost, and one datagram tells of all of them.
    pub(crate) fn take_run(&mut self, first: u64, begin: u64) -> Range {
        let mut run = Range { first, last: first };
        if let Some(range) = self.first_mut() {
            let follows = first.checked_add(1) == Some(range.first) && range.first < begin;
            if follows {
                run.last = range.last.min(begin - 1);
                if run.last < range.last {
                    range.first = run.last + 1;
                } else {
                    self.pop();
                }
            }
        }
        run
    }

    /// Returns how many numbers there are.
    pub(crate) fn left(&self) -> u64 {
        let len = |range: &Range| (range.last - range.first).saturating_add(1);
        let ranges = self.ranges.get(self.next..self.len).unwrap_or_default();
        ranges.iter().map(len).fold(0, u64::saturating_add)
    }

    fn first_mut(&mut self) -> Option<&mut Range> {
        self.ranges.get_mut(self.next..self.len)?.first_mut()
    }

    fn pop(&mut self) {
        // INVARIANT: There was one: see `first_mut()`.
        self.next += 1;
        if self.is_empty() {
            self.clear();
        }
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_missing)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const END: u64 = 100;

    type Small<'a> = Missing<&'a mut [Range]>;

    /// Memory for one response and some more; twice as much is more than the kernel's stack has.
    const FEW: [Range; MAX_RANGES + 8] = [Range { first: 0, last: 0 }; MAX_RANGES + 8];

    fn merge(missing: &mut Small<'_>, datagram: &str, end: u64) -> bool {
        Response::parse(datagram.as_bytes()).is_some_and(|r| missing.merge(&r, end))
    }

    fn is(missing: &mut Small<'_>, expected: &[u64]) -> bool {
        missing.left() == expected.len() as u64
            && expected.iter().all(|&seq| missing.next() == Some(seq))
            && missing.next().is_none()
    }

    #[test]
    fn each_number_once_and_in_order() {
        let (memory, last) = (&mut FEW.clone(), u64::MAX - 1);
        for (datagram, end, expected) in [
            ("nca", END, &[][..]),
            ("nca 0", 0, &[]),
            ("nca5 7 9-11 7 10 8-12", END, &[7, 8, 9, 10, 11, 12]),
            ("nca 98-102", END, &[98, 99]),
            ("nca 100 18446744073709551615", END, &[]),
            (
                "nca 99-18446744073709551615 0-0 90-18446744073709551615 98",
                END,
                &[0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99],
            ),
            ("nca 7-9 8 20 7-7 9-10", END, &[7, 8, 9, 10, 20]),
            (
                "nca 18446744073709551614-18446744073709551615 \
                 18446744073709551613-18446744073709551614",
                u64::MAX,
                &[last - 1, last],
            ),
        ] {
            let missing = &mut Missing::new(&mut memory[..]);
            assert!(merge(missing, datagram, end));
            assert!(is(missing, expected));
            assert!(missing.is_empty());
        }
    }

    #[test]
    fn responses_are_merged() {
        let memory = &mut FEW.clone();
        let missing = &mut Missing::new(&mut memory[..]);
        assert!(missing.is_empty());
        for datagram in ["nca 20 5-7", "nca1 6-9", "nca", "nca 8 21"] {
            assert!(merge(missing, datagram, END));
        }
        assert!(missing.left() == 7);
        assert!(missing.next() == Some(5) && missing.next() == Some(6));
        // A number that has been taken out is asked for again.
        assert!(merge(missing, "nca 5 7-8 22", END));
        assert!(is(missing, &[5, 7, 8, 9, 20, 21, 22]));
        assert!(merge(missing, "nca 1-50", END));
        missing.clear();
        assert!(missing.is_empty() && missing.left() == 0 && missing.next().is_none());
    }

    #[test]
    fn as_many_ranges_as_there_can_be() {
        let mut datagram = [b' '; MAX_DATAGRAM];
        datagram[..3].copy_from_slice(b"nca");
        for digit in datagram[4..].iter_mut().step_by(2) {
            *digit = b'7';
        }
        let response = Response::parse(&datagram);
        assert!(response.is_some());
        let Some(response) = response else { return };
        let memory = &mut FEW.clone();
        let missing = &mut Missing::new(&mut memory[..]);
        // Any number of them take no more room than one.
        for _ in 0..10 {
            assert!(missing.merge(&response, END));
        }
        assert!(is(missing, &[7]));
    }

    #[test]
    fn what_finds_no_room_is_left_out() {
        let memory = &mut FEW.clone();
        let missing = &mut Missing::new(&mut memory[..MAX_RANGES + 2]);
        for (datagram, fits) in [
            ("nca 1 3", true),
            ("nca 5", true),
            // Three ranges are there, which leave too little for any response.
            ("nca 7", false),
            ("nca 2", false),
        ] {
            assert!(merge(missing, datagram, END) == fits);
        }
        // The room of a range that is answered is free at once.
        assert!(missing.next() == Some(1));
        assert!(merge(missing, "nca 7", END));
        assert!(!merge(missing, "nca 2", END));
        assert!(is(missing, &[3, 5, 7]));
    }

    #[test]
    fn runs_of_what_is_gone() {
        let memory = &mut FEW.clone();
        for (asked, first, begin, last, next) in [
            ("nca 5-20", 5, 0, 5, Some(6)),
            ("nca 5-20", 5, 5, 5, Some(6)),
            ("nca 5-20", 5, 6, 5, Some(6)),
            ("nca 5-20", 5, 7, 6, Some(7)),
            ("nca 5-20", 5, 21, 20, None),
            ("nca 5-20", 5, u64::MAX, 20, None),
            ("nca 5 7-9", 5, 50, 5, Some(7)),
            ("nca 5", 5, 50, 5, None),
            ("nca 5 6-9", 5, 50, 9, None),
        ] {
            let missing = &mut Missing::new(&mut memory[..]);
            assert!(merge(missing, asked, END));
            assert!(missing.next() == Some(first));
            assert!(missing.take_run(first, begin) == Range { first, last });
            assert!(missing.next() == next);
        }
    }
}
