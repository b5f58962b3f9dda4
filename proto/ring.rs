// SPDX-License-Identifier: GPL-2.0

//! The ring of records by number, in memory of a fixed size: pure, `core` only.
//!
//! A new record takes the place of the oldest ones. Numbers ascend, with gaps, since a console is
//! not given every record; a record is found by binary search.
//!
//! A record is kept in one piece: one that does not fit between the newest and the end of the
//! memory is put at its start. That wastes less than one record, and spares all readers the
//! handling of two halves.

use core::ops::DerefMut;

/// The origin of a record: who has logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The CPU.
    pub(crate) cpu: u32,
    /// The name of the task, padded with zeroes.
    pub(crate) comm: [u8; 16],
}

/// The facts about a record that are kept with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// When it was first sent, in nanoseconds of the caller's clock.
    pub(crate) sent_ns: u64,
    /// Its number among the stored records, from 1, modulo 2^32.
    pub(crate) nth: u32,
    /// Its origin, if known.
    pub(crate) origin: Option<Origin>,
}

impl Meta {
    /// Returns that of a record first sent at this time, in milliseconds.
    pub(crate) fn at(ms: u64) -> Self {
        Self {
            sent_ns: ms.saturating_mul(1_000_000),
            nth: 0,
            origin: None,
        }
    }

    /// Returns when it was first sent, in milliseconds.
    pub(crate) fn sent_ms(&self) -> u64 {
        self.sent_ns / 1_000_000
    }
}

/// The place of a record: an element of the ring's second piece of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    seq: u64,
    start: usize,
    len: usize,
    meta: Meta,
}

impl Entry {
    /// An empty entry, to fill memory with.
    pub(crate) const EMPTY: Self = Self {
        seq: 0,
        start: 0,
        len: 0,
        meta: Meta {
            sent_ns: 0,
            nth: 0,
            origin: None,
        },
    };
}

/// Returns the number of bytes that a record of `len` takes. An empty one takes one as well, so
/// that no two records begin at the same place.
fn size(len: usize) -> usize {
    if len == 0 {
        1
    } else {
        len
    }
}

/// The next record to send, from some number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This record.
    Record(u64),
    /// None before this number; from it on the search has to go on.
    NotBefore(u64),
    /// None.
    Nothing,
}

/// The place of a number among those of the records in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its record is in the ring.
    Here,
    /// Its record is not, but one before it is, and this is the next one.
    Between(u64),
    /// It is older than all records, of which this is the first.
    Older(u64),
    /// It is newer than all records.
    Newer,
}

/// Why the ring has refused a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// A record of this number is stored already, and stays.
    Known,
    /// The number is below the newest, and no record of it is stored.
    Old,
    /// The record is longer than the whole ring.
    TooLong,
}

/// A ring of records over memory of the caller's.
///
/// # Invariants
///
/// - `count <= entries.len()`, and `first < entries.len()` or both are 0.
/// - The `count` entries from `first` on, past the end of `entries` going on at its start, have
///   ascending numbers. Each has its [`size`] bytes within `bytes`, from its `start` on; no
///   two of them share a byte.
/// - In this order each entry begins where the one before it ends, except for one at most, which
///   begins at 0.
/// - `newest` is the number of the last of them, and `end` where that ends in `bytes`; [`None`] and
///   0 if there are none.
pub(crate) struct Ring<B, E> {
    bytes: B,
    entries: E,
    /// The place of the oldest record in `entries`.
    first: usize,
    /// The number of records.
    count: usize,
    /// The facts about the newest record that each new one needs.
    newest: Option<u64>,
    end: usize,
}

impl<B, E> Ring<B, E>
where
    B: DerefMut<Target = [u8]>,
    E: DerefMut<Target = [Entry]>,
{
    /// Creates an empty ring of at most `bytes.len()` bytes and `entries.len()` records.
    ///
    /// With either of them 0 it stores nothing.
    pub(crate) fn new(bytes: B, entries: E) -> Self {
        // INVARIANT: There are no records.
        Self {
            bytes,
            entries,
            first: 0,
            count: 0,
            newest: None,
            end: 0,
        }
    }

    /// Returns the record at place `index`, counted from the oldest.
    fn entry(&self, index: usize) -> Option<&Entry> {
        if index >= self.count {
            return None;
        }
        self.entries.get(self.slot(index))
    }

    /// Returns the index into `entries` of the record at place `index <= count`.
    fn slot(&self, index: usize) -> usize {
        // Both are at most the length of a slice of things that have a size: the sum fits.
        let slot = self.first + index;
        if slot >= self.entries.len() {
            slot - self.entries.len()
        } else {
            slot
        }
    }

    /// Returns the number of the oldest record.
    pub(crate) fn oldest(&self) -> Option<u64> {
        Some(self.entry(0)?.seq)
    }

    /// Returns the number of the newest record.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// Returns the place of the oldest record of number `seq` or above; `count` if there is none.
    fn place(&self, seq: u64) -> usize {
        // Mostly it is the next one, or the newest.
        if self.newest().is_none_or(|newest| seq > newest) {
            return self.count;
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle).is_some_and(|entry| entry.seq < seq) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn find(&self, seq: u64) -> Option<&Entry> {
        self.entry(self.place(seq)).filter(|entry| entry.seq == seq)
    }

    /// Returns the number of the oldest record of number `seq` or above, and what is kept with it.
    pub(crate) fn next(&self, seq: u64) -> Option<(u64, Meta)> {
        let entry = self.entry(self.place(seq))?;
        Some((entry.seq, entry.meta))
    }

    /// Returns where number `seq` is.
    pub(crate) fn place_of(&self, seq: u64) -> Place {
        let index = self.place(seq);
        match self.entry(index) {
            None => Place::Newer,
            Some(entry) if entry.seq == seq => Place::Here,
            Some(entry) if index == 0 => Place::Older(entry.seq),
            Some(entry) => Place::Between(entry.seq),
        }
    }

    /// Returns the number of the newest record before `seq`.
    pub(crate) fn before(&self, seq: u64) -> Option<u64> {
        Some(self.entry(self.place(seq).checked_sub(1)?)?.seq)
    }

    /// Returns the record of this number.
    pub(crate) fn get(&self, seq: u64) -> Option<(&[u8], Meta)> {
        let entry = self.find(seq)?;
        // By the invariants the bytes are there, and no sum passes the end of the slice.
        let bytes = self.bytes.get(entry.start..entry.start + entry.len)?;
        Some((bytes, entry.meta))
    }

    /// Adds a record, and drops as many of the oldest as it needs the place of.
    ///
    /// An error leaves the ring as it was.
    pub(crate) fn push(&mut self, seq: u64, bytes: &[u8], meta: Meta) -> Result<(), NotStored> {
        if self.newest.is_some_and(|newest| seq <= newest) {
            return Err(match self.find(seq) {
                Some(_) => NotStored::Known,
                None => NotStored::Old,
            });
        }
        if size(bytes.len()) > self.bytes.len() || self.entries.is_empty() {
            return Err(NotStored::TooLong);
        }
        let start = loop {
            match self.free(size(bytes.len())) {
                Some(start) => break start,
                None => self.drop_oldest(),
            }
        };
        let slot = self.slot(self.count);
        let to = self.bytes.get_mut(start..start + bytes.len());
        // By what `free()` guarantees both are there.
        if let (Some(to), Some(entry)) = (to, self.entries.get_mut(slot)) {
            to.copy_from_slice(bytes);
            // INVARIANT: The number is above all others, the bytes are nobody's and within the
            // ring, and `count` was below the number of entries.
            *entry = Entry {
                seq,
                start,
                len: bytes.len(),
                meta,
            };
            self.count += 1;
            (self.newest, self.end) = (Some(seq), start + size(bytes.len()));
        }
        Ok(())
    }

    /// Returns where `size` bytes in one piece and an entry are free; `0 < size <= bytes.len()`.
    ///
    /// Never [`None`] if the ring is empty.
    fn free(&self, size: usize) -> Option<usize> {
        if self.count >= self.entries.len() {
            return None;
        }
        let Some(oldest) = self.entry(0) else {
            return Some(0);
        };
        // By the invariants this is at most `bytes.len()`.
        let end = self.end;
        if end > oldest.start {
            // The records are in one piece: free is what is behind and before it.
            if size <= self.bytes.len() - end {
                Some(end)
            } else {
                (size <= oldest.start).then_some(0)
            }
        } else {
            (size <= oldest.start - end).then_some(end)
        }
    }

    fn drop_oldest(&mut self) {
        // INVARIANT: Of a sequence of entries the rest is one as well.
        self.first = self.slot(1);
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            (self.newest, self.end) = (None, 0);
        }
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_ring)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    /// Memory as the ring wants it, without an allocator.
    struct Array<T, const N: usize>([T; N]);

    impl<T, const N: usize> core::ops::Deref for Array<T, N> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }

    impl<T, const N: usize> DerefMut for Array<T, N> {
        fn deref_mut(&mut self) -> &mut [T] {
            &mut self.0
        }
    }

    type Small<const BYTES: usize, const ENTRIES: usize> =
        Ring<Array<u8, BYTES>, Array<Entry, ENTRIES>>;

    fn ring<const BYTES: usize, const ENTRIES: usize>() -> Small<BYTES, ENTRIES> {
        Ring::new(Array([0; BYTES]), Array([Entry::EMPTY; ENTRIES]))
    }

    fn meta(n: u64) -> Meta {
        Meta {
            sent_ns: n,
            nth: 0,
            origin: Some(Origin {
                cpu: 3,
                comm: *b"swapper/3\0\0\0\0\0\0\0",
            }),
        }
    }

    #[test]
    fn places() {
        let mut ring = ring::<10, 3>();
        assert!(ring.place_of(7) == Place::Newer);
        for seq in [5, 7] {
            assert!(ring.push(seq, b"x", meta(seq)).is_ok());
        }
        for (seq, place) in [
            (0, Place::Older(5)),
            (4, Place::Older(5)),
            (5, Place::Here),
            (6, Place::Between(7)),
            (7, Place::Here),
            (8, Place::Newer),
            (u64::MAX, Place::Newer),
        ] {
            assert!(ring.place_of(seq) == place);
        }
    }

    #[test]
    fn keeps_what_fits_and_drops_the_oldest() {
        let mut ring = ring::<10, 8>();
        assert!(ring.oldest().is_none() && ring.newest().is_none());
        assert!(ring.push(5, b"five", meta(5)).is_ok());
        assert!(ring.push(6, b"six", meta(6)).is_ok());
        assert!(ring.get(5) == Some((&b"five"[..], meta(5))));
        assert!(ring.get(6) == Some((&b"six"[..], meta(6))));
        // Three bytes are left behind the newest, too few: it goes to where 5 has been.
        assert!(ring.push(9, b"nine", meta(9)).is_ok());
        assert!(ring.get(5).is_none());
        assert!(ring.get(6) == Some((&b"six"[..], meta(6))));
        assert!(ring.get(9) == Some((&b"nine"[..], meta(9))));
        assert!((ring.oldest(), ring.newest()) == (Some(6), Some(9)));
        // The gap, and what has never been there.
        assert!(ring.get(7).is_none() && ring.get(8).is_none());
        assert!(ring.get(0).is_none() && ring.get(u64::MAX).is_none());
        assert!(ring.push(10, b"0123456789", meta(10)).is_ok());
        assert!((ring.oldest(), ring.newest()) == (Some(10), Some(10)));
        assert!(ring.get(10) == Some((&b"0123456789"[..], meta(10))));
    }

    #[test]
    fn entries_can_be_what_runs_out() {
        let mut ring = ring::<100, 3>();
        for seq in 0..1000 {
            assert!(ring.push(seq, &[seq as u8], meta(seq)).is_ok());
            assert!(ring.oldest() == Some(seq.saturating_sub(2)));
            for old in seq.saturating_sub(2)..=seq {
                assert!(ring.get(old) == Some((&[old as u8][..], meta(old))));
            }
        }
    }

    #[test]
    fn what_was_first_stays() {
        let mut ring = ring::<100, 8>();
        assert!(ring.push(7, b"first", meta(1)).is_ok());
        assert!(ring.push(9, b"nine", meta(2)).is_ok());
        assert!(ring.push(7, b"again", meta(3)) == Err(NotStored::Known));
        assert!(ring.push(9, b"again", meta(3)) == Err(NotStored::Known));
        assert!(ring.push(8, b"late", meta(3)) == Err(NotStored::Old));
        assert!(ring.push(0, b"late", meta(3)) == Err(NotStored::Old));
        assert!(ring.get(7) == Some((&b"first"[..], meta(1))));
        assert!(ring.get(9) == Some((&b"nine"[..], meta(2))));
        assert!(ring.get(8).is_none());
    }

    #[test]
    fn a_record_longer_than_the_ring_drops_nothing() {
        let mut ring = ring::<8, 8>();
        assert!(ring.push(1, b"one", meta(1)).is_ok());
        assert!(ring.push(2, b"012345678", meta(2)) == Err(NotStored::TooLong));
        assert!(ring.get(1) == Some((&b"one"[..], meta(1))));
        assert!(ring.push(2, b"01234567", meta(2)).is_ok());
        assert!(ring.get(1).is_none());
        assert!(ring.get(2) == Some((&b"01234567"[..], meta(2))));
    }

    #[test]
    fn no_memory_keeps_nothing() {
        let mut none = ring::<0, 0>();
        assert!(none.push(1, b"one", meta(1)) == Err(NotStored::TooLong));
        assert!(none.push(1, b"", meta(1)) == Err(NotStored::TooLong));
        let mut no_bytes = ring::<0, 2>();
        assert!(no_bytes.push(1, b"", meta(1)) == Err(NotStored::TooLong));
        let mut no_entries = ring::<10, 0>();
        assert!(no_entries.push(1, b"one", meta(1)) == Err(NotStored::TooLong));
        assert!(none.get(1).is_none() && no_bytes.get(1).is_none() && no_entries.get(1).is_none());
        assert!(none.oldest().is_none() && none.newest().is_none());
    }

    #[test]
    fn empty_records_and_the_last_number() {
        let mut ring = ring::<4, 8>();
        for seq in [0, 1, 2, 3, 4] {
            assert!(ring.push(seq, b"", meta(seq)).is_ok());
        }
        assert!(ring.oldest() == Some(1));
        assert!(ring.get(4) == Some((&b""[..], meta(4))));
        assert!(ring.push(u64::MAX, b"last", meta(9)).is_ok());
        assert!(ring.get(u64::MAX) == Some((&b"last"[..], meta(9))));
        assert!(ring.push(u64::MAX, b"last", meta(9)) == Err(NotStored::Known));
        assert!(ring.push(0, b"last", meta(9)) == Err(NotStored::Old));
    }

    /// Record `seq` of a stream: its bytes, all of a length and a value that the number gives.
    fn record(seq: u64) -> ([u8; 40], usize) {
        ([(seq * 31 % 251) as u8; 40], (seq * 17 % 41) as usize)
    }

    #[test]
    fn a_long_stream_with_gaps() {
        let mut ring = ring::<257, 13>();
        let mut seq: u64 = 0;
        for step in 0..5000 {
            seq += 1 + step % 3;
            let (bytes, len) = record(seq);
            assert!(ring.push(seq, &bytes[..len], meta(seq)).is_ok());
            let oldest = ring.oldest().unwrap_or(u64::MAX);
            assert!(oldest <= seq && ring.newest() == Some(seq));
            let mut kept = 0;
            for n in oldest.saturating_sub(3)..=seq + 1 {
                if let Some(got) = ring.get(n) {
                    let (bytes, len) = record(n);
                    assert!(got == (&bytes[..len], meta(n)));
                    kept += 1;
                }
            }
            // Never less than what the memory surely holds of records of at most 40 bytes.
            assert!(kept == ring.count && (kept >= 4 || step < 4));
        }
    }
}
