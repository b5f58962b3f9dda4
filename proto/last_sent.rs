// SPDX-License-Identifier: GPL-2.0

//! The times at which records were last sent to a target, and how often: pure, `core` only.
//!
//! A request for a record that was sent less than a round trip ago was made before that record can
//! have arrived, and is not answered: the record is on its way. (Senders of video that answer
//! negative acknowledgements do the same.)
//!
//! A record that is asked for although it was sent many times is on a line that loses most
//! datagrams, requests among them. So an answer that was in vain several times is sent more than
//! once: see [`copies`].
//!
//! A table has a place for each of the newest records. A record whose place another one has taken
//! counts as not sent lately, and is sent again on request. Access is lock-free, so that every
//! sender can note the time, in any context.

use core::ops::Deref;

/// The number of places for a target: enough for the records that are sent in a second by the
/// default budget. They take 64 KiB.
pub(crate) const PLACES: usize = 8192;

/// A word of memory that several contexts read and write, each time all of it.
pub(crate) trait Word {
    /// Returns the word.
    fn load(&self) -> u64;
    /// Replaces the word.
    fn store(&self, value: u64);
}

/// The table, in memory of the caller's, which at first is filled with [`NEVER`].
///
/// A place has 24 upper bits of a number, 8 bits for how often it was sent, and 32 lower bits of a
/// time. So a record is mistaken for another one after 137,000,000,000 records, or for one sent
/// lately after 49 days at the very millisecond, and is then sent a round trip later.
pub(crate) struct LastSent<S>(S);

/// The parts of a place: see [`LastSent`].
const TIME_BITS: u32 = 32;
const TIMES_BITS: u32 = 8;
const SEQ_BITS: u32 = 24;

/// The most that is counted: with all bits set a place might be [`NEVER`].
const MAX_TIMES: u32 = (1 << TIMES_BITS) - 2;

/// The most datagrams of one record at a time.
const MAX_COPIES: u32 = 8;

/// How often a record must have been sent for each copy.
///
/// At a loss of 50 % a record in 256 is sent twice at a time, which costs nothing. At 90 % all of
/// them arrive after 20 requests instead of 80, for half as many datagrams again.
const FOR_EACH_COPY: u32 = 4;

/// Returns how often at a time a record is sent on request that was sent `times` times before.
pub(crate) fn copies(times: u32) -> u32 {
    (times / FOR_EACH_COPY).clamp(1, MAX_COPIES)
}

/// The place of no record.
pub(crate) const NEVER: u64 = u64::MAX;

impl<W: Word, S: Deref<Target = [W]>> LastSent<S> {
    /// Creates a table with as many places as there are words.
    pub(crate) fn new(words: S) -> Self {
        Self(words)
    }

    /// Returns the place of a record, and the part of its number that is kept there.
    fn place(&self, seq: u64) -> Option<(&W, u32)> {
        let places = u64::try_from(self.0.len()).ok()?;
        let index = usize::try_from(seq.checked_rem(places)?).ok()?;
        let upper = (seq / places) as u32 & ((1 << SEQ_BITS) - 1);
        Some((self.0.get(index)?, upper))
    }

    /// Returns how often record `seq` was sent, and when; [`None`] if that is not known.
    fn sent(&self, seq: u64) -> Option<(u32, u32)> {
        let (word, upper) = self.place(seq)?;
        let word = word.load();
        let known = word != NEVER && word >> (TIME_BITS + TIMES_BITS) == u64::from(upper);
        let times = (word >> TIME_BITS) as u32 & ((1 << TIMES_BITS) - 1);
        known.then_some((times, word as u32))
    }

    /// Notes that record `seq` is sent now. Any context; of two at once one may not be counted.
    pub(crate) fn note(&self, seq: u64, now: u64) {
        let times = self.times(seq).saturating_add(1).min(MAX_TIMES);
        if let Some((word, upper)) = self.place(seq) {
            let upper = (upper << TIMES_BITS) | times;
            word.store((u64::from(upper) << TIME_BITS) | u64::from(now as u32));
        }
    }

    /// Returns how many milliseconds ago record `seq` was last sent; [`None`] if that is not known.
    /// Any context.
    pub(crate) fn age(&self, seq: u64, now: u64) -> Option<u64> {
        let (_, sent_at) = self.sent(seq)?;
        Some(u64::from((now as u32).wrapping_sub(sent_at)))
    }

    /// Returns how often record `seq` was sent, as far as that is known. Any context.
    pub(crate) fn times(&self, seq: u64) -> u32 {
        self.sent(seq).map_or(0, |(times, _)| times)
    }

    /// Forgets all times.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(NEVER));
    }
}

#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
impl Word for core::cell::Cell<u64> {
    fn load(&self) -> u64 {
        self.get()
    }

    fn store(&self, value: u64) {
        self.set(value);
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_last_sent)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn the_newest_of_each_place_is_known() {
        let words = [const { Cell::new(NEVER) }; 8];
        let sent = LastSent::new(&words[..]);
        for seq in [0, 1, 7, 8, u64::MAX] {
            assert!(sent.age(seq, 1000).is_none());
        }
        for seq in 0..8 {
            sent.note(seq, 1000 + seq);
        }
        for seq in 0..8 {
            assert!(sent.age(seq, 1100) == Some(100 - seq));
        }
        // Sent again, and another one in the place of one.
        sent.note(3, 1100);
        sent.note(12, 1100);
        assert!(sent.age(3, 1150) == Some(50));
        assert!(sent.age(12, 1150) == Some(50));
        assert!(sent.age(4, 1150).is_none() && sent.age(5, 1150) == Some(145));
        sent.clear();
        assert!((0..16).all(|seq| sent.age(seq, 1150).is_none()));
    }

    #[test]
    fn what_is_sent_in_vain_is_sent_more_often() {
        let cases = [
            (0, 1),
            (1, 1),
            (7, 1),
            (8, 2),
            (12, 3),
            (31, 7),
            (32, 8),
            (254, 8),
        ];
        for (times, expected) in cases {
            assert!(copies(times) == expected);
        }
        let words = [const { Cell::new(NEVER) }; 8];
        let sent = LastSent::new(&words[..]);
        assert!(sent.times(3) == 0);
        for n in 1..=300 {
            sent.note(3, 1000 + u64::from(n));
            assert!(sent.times(3) == n.min(MAX_TIMES));
            assert!(sent.age(3, 2000) == Some(1000 - u64::from(n)));
        }
        // Another one in its place begins anew.
        sent.note(11, 1000);
        assert!(sent.times(11) == 1 && sent.times(3) == 0);
    }

    #[test]
    fn numbers_and_times_of_any_size() {
        let words = [const { Cell::new(NEVER) }; 8];
        let sent = LastSent::new(&words[..]);
        let now = u64::from(u32::MAX) - 9;
        for seq in [0, 1 << 33, u64::MAX - 1] {
            sent.note(seq, now);
            assert!(sent.age(seq, now) == Some(0));
            assert!(sent.age(seq, now + 20) == Some(20));
        }
        let none: [Cell<u64>; 0] = [];
        let nowhere = LastSent::new(&none[..]);
        nowhere.note(5, 1);
        assert!(nowhere.age(5, 1).is_none());
    }
}
