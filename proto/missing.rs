// SPDX-License-Identifier: GPL-2.0

//! The records that a response asks for, in order and each once: pure, `core` only.

use super::wire::{
    Range,
    Response,
    MAX_DATAGRAM, //
};

/// The most ranges in a response: each takes a digit and a blank.
pub(crate) const MAX_RANGES: usize = MAX_DATAGRAM / 2;

/// The numbers below `end` that a response asks for, in order, each once.
pub(crate) struct Missing<'a> {
    /// Sorted; ranges that share a number are one.
    ranges: &'a mut [Range],
}

impl<'a> Missing<'a> {
    /// Sorts the numbers that `response` asks for into `room`.
    pub(crate) fn new(
        response: &Response<'_>,
        end: u64,
        room: &'a mut [Range; MAX_RANGES],
    ) -> Self {
        let Some(newest) = end.checked_sub(1) else {
            return Self { ranges: &mut [] };
        };
        let mut count = 0;
        let asked = response.missing().filter(|range| range.first <= newest);
        for (to, range) in room.iter_mut().zip(asked) {
            *to = Range {
                first: range.first,
                last: range.last.min(newest),
            };
            count += 1;
        }
        let ranges = &mut room[..count];
        ranges.sort_unstable_by_key(|range| range.first);
        // Numbers that a range shares with earlier ranges are not counted twice. In this order the
        // earlier ones end first.
        let mut next = Some(0);
        let mut kept = 0;
        for n in 0..ranges.len() {
            let Some(free) = next else { break };
            let range = Range {
                first: ranges[n].first.max(free),
                last: ranges[n].last,
            };
            if range.first <= range.last {
                ranges[kept] = range;
                kept += 1;
                next = range.last.checked_add(1);
            }
        }
        Self {
            ranges: &mut ranges[..kept],
        }
    }

    /// Skips the numbers up to and including `last`.
    pub(crate) fn skip_to(&mut self, last: u64) {
        while let Some(range) = self.ranges.first_mut() {
            if range.last > last {
                range.first = range.first.max(last + 1);
                return;
            }
            self.pop();
        }
    }

    /// Returns the last number of the range that begins with the next number.
    pub(crate) fn end_of_range(&self) -> Option<u64> {
        Some(self.ranges.first()?.last)
    }

    /// Returns how many numbers are left.
    pub(crate) fn left(&self) -> u64 {
        let len = |range: &Range| (range.last - range.first).saturating_add(1);
        self.ranges.iter().map(len).fold(0, u64::saturating_add)
    }

    fn pop(&mut self) {
        let ranges = core::mem::take(&mut self.ranges);
        self.ranges = ranges.get_mut(1..).unwrap_or_default();
    }
}

impl Iterator for Missing<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let range = self.ranges.first_mut()?;
        let seq = range.first;
        if seq < range.last {
            range.first += 1;
        } else {
            self.pop();
        }
        Some(seq)
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

    const ROOM: [Range; MAX_RANGES] = [Range { first: 0, last: 0 }; MAX_RANGES];

    fn asks(datagram: &str, end: u64, expected: &[u64]) -> bool {
        let room = &mut ROOM.clone();
        Response::parse(datagram.as_bytes()).is_some_and(|r| {
            let missing = Missing::new(&r, end, room);
            missing.left() == expected.len() as u64 && missing.eq(expected.iter().copied())
        })
    }

    #[test]
    fn each_number_once_and_in_order() {
        assert!(asks("nca", END, &[]));
        assert!(asks("nca 0", 0, &[]));
        assert!(asks("nca5 7 9-11 7 10 8-12", END, &[7, 8, 9, 10, 11, 12]));
        assert!(asks("nca 98-102", END, &[98, 99]));
        assert!(asks("nca 100 18446744073709551615", END, &[]));
        assert!(asks(
            "nca 99-18446744073709551615 0-0 90-18446744073709551615 98",
            END,
            &[0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]
        ));
        assert!(asks("nca 7-9 8 20 7-7 9-10", END, &[7, 8, 9, 10, 20]));
        let last = u64::MAX - 1;
        assert!(asks(
            "nca 18446744073709551614-18446744073709551615 18446744073709551613-18446744073709551614",
            u64::MAX,
            &[last - 1, last]
        ));
    }

    #[test]
    fn as_many_ranges_as_there_can_be() {
        let mut datagram = [b' '; MAX_DATAGRAM];
        datagram[..3].copy_from_slice(b"nca");
        for digit in datagram[4..].iter_mut().step_by(2) {
            *digit = b'7';
        }
        let room = &mut ROOM.clone();
        let response = Response::parse(&datagram);
        assert!(response.is_some_and(|r| Missing::new(&r, END, room).eq([7])));
    }

    #[test]
    fn passing_over_what_is_gone() {
        let room = &mut ROOM.clone();
        let response = Response::parse(b"nca 5-20 30 40");
        assert!(response.is_some());
        let Some(response) = response else { return };
        let mut missing = Missing::new(&response, END, room);
        assert!(missing.next() == Some(5));
        assert!(missing.end_of_range() == Some(20) && missing.left() == 17);
        missing.skip_to(18);
        assert!(missing.next() == Some(19));
        missing.skip_to(3);
        assert!(missing.next() == Some(20));
        missing.skip_to(30);
        assert!(missing.next() == Some(40));
        assert!(missing.next().is_none() && missing.left() == 0);
        missing.skip_to(u64::MAX);
        assert!(missing.end_of_range().is_none());
    }
}
