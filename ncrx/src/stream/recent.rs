// SPDX-License-Identifier: GPL-2.0

//! Prints of the records that came of late: the network may bring copies of them.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use crate::datagram::Datagram;

/// The number of records whose prints are remembered, at first and at most.
const FEWEST: usize = 32;
const MOST: usize = 4096;

/// The total memory that the limit must have for each of them, in bytes.
const SHARE: usize = 16 << 10;

/// The bits of a print that are a hash of the text; the others are the timestamp, plus 1.
const TEXT: u32 = 24;

/// Returns a short print of a record, which is not 0: of its timestamp, and of its text (0 for a
/// fragment, whose text is not known). Boots that follow each other have the same texts with the
/// same numbers, so the timestamp is not hashed: all of the 12 days that fit tells them apart.
/// Early in a boot the timestamp is 0 and texts begin alike, so the whole line counts; but not the
/// lines behind it, which a record lacks that the sender has made anew.
#[inline(always)] // Into the fast path.
fn print(datagram: &Datagram<'_>) -> u64 {
    let usec = datagram.usec.wrapping_add(1) << TEXT;
    if datagram.fragment.is_some() {
        return usec;
    }
    let line = &datagram.body()[..datagram.unescaped];
    let mut hasher = FixedState::default().build_hasher();
    // The length counts by itself.
    hasher.write(line);
    usec | (hasher.finish() & ((1 << TEXT) - 1)).max(1)
}

/// Returns whether these prints may be of one record.
fn is_same(a: u64, b: u64) -> bool {
    let text = |print: u64| print & ((1 << TEXT) - 1);
    a >> TEXT == b >> TEXT && (text(a) == text(b) || text(a) == 0 || text(b) == 0)
}

/// The prints of a stream's newest records: a ring, by number.
#[derive(Debug)]
pub(crate) struct Recent {
    /// 0 where nothing came.
    prints: Vec<u64>,
    /// The number after the highest.
    end: u64,
    /// The first number from which on all that came is remembered, as far as there is room.
    from: u64,
    /// Whether it has grown as far as it may.
    is_full_size: bool,
}

impl Recent {
    /// Returns a ring without prints; records before `from` are not known.
    pub(crate) fn new(from: u64) -> Self {
        Self {
            prints: vec![0; FEWEST],
            end: from,
            from,
            is_full_size: false,
        }
    }

    /// Returns the first number that there is room for.
    fn first(&self) -> u64 {
        self.end.saturating_sub(self.prints.len() as u64)
    }

    fn place(&self, seq: u64) -> usize {
        seq as usize & (self.prints.len() - 1)
    }

    /// Remembers a record. There is to be room for all from `lately` on, as far as the memory goes.
    /// Returns whether the ring may have grown for that.
    #[inline(always)] // Into the fast path.
    pub(crate) fn push(&mut self, datagram: &Datagram<'_>, lately: u64, memory: usize) -> bool {
        let seq = datagram.seq;
        let fits = self.is_full_size || seq.wrapping_sub(lately) < self.prints.len() as u64;
        let is_next = seq == self.end && fits;
        if is_next {
            self.end = seq + 1;
        } else {
            self.make_room(seq, lately, memory);
        }
        let place = self.place(seq);
        if is_next || seq >= self.first() {
            if let Some(known) = self.prints.get_mut(place) {
                *known = print(datagram);
            }
        }
        !is_next
    }

    /// Makes the ring end behind this number: nothing came of those between.
    #[cold]
    fn make_room(&mut self, seq: u64, lately: u64, memory: usize) {
        let most = (memory / SHARE).clamp(FEWEST, MOST);
        self.is_full_size = 2 * self.prints.len() > most;
        while seq.saturating_sub(lately) >= self.prints.len() as u64
            && 2 * self.prints.len() <= most
        {
            self.grow();
        }
        if seq >= self.end {
            let first = (seq + 1).saturating_sub(self.prints.len() as u64);
            for between in self.end.max(first)..seq {
                let place = self.place(between);
                self.prints[place] = 0;
            }
            self.end = seq + 1;
        }
    }

    fn grow(&mut self) {
        let (first, len) = (self.first(), self.prints.len());
        let old = std::mem::replace(&mut self.prints, vec![0; 2 * len]);
        for seq in first..self.end {
            let place = self.place(seq);
            self.prints[place] = old[seq as usize & (len - 1)];
        }
        // Records before it are not known any more.
        self.from = self.from.max(first);
    }

    fn get(&self, seq: u64) -> Option<u64> {
        let known = self.first() <= seq && seq < self.end;
        known
            .then(|| self.prints[self.place(seq)])
            .filter(|&print| print != 0)
    }

    /// Returns whether this is the record that came with its number, if that is remembered.
    pub(crate) fn is_same(&self, datagram: &Datagram<'_>) -> Option<bool> {
        Some(is_same(self.get(datagram.seq)?, print(datagram)))
    }

    /// Returns whether a record with this number is remembered.
    pub(crate) fn has(&self, seq: u64) -> bool {
        self.get(seq).is_some()
    }

    /// Returns whether all is remembered that came from this number on.
    pub(crate) fn is_complete(&self, from: u64) -> bool {
        from >= self.from.max(self.first())
    }

    /// Returns the bytes that it takes, beside those that each sender has.
    pub(crate) fn bytes(&self) -> usize {
        (self.prints.capacity() - FEWEST) * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Message;

    fn with<T>(seq: u64, usec: u64, text: &str, act: impl FnOnce(&Datagram<'_>) -> T) -> T {
        let bytes = format!("6,{seq},{usec},-;{text}");
        let mut datagram = Datagram::new(bytes.as_bytes());
        assert_eq!(datagram.read(), Ok(Message::Record));
        act(&datagram)
    }

    #[test]
    fn what_came_is_remembered_while_copies_may_come() {
        let mut recent = Recent::new(0);
        let push = |recent: &mut Recent, seq: u64, lately| {
            with(seq, 100 * seq, "a text", |d| {
                recent.push(d, lately, 1 << 30)
            });
        };
        let ask = |recent: &Recent, seq, usec, text| with(seq, usec, text, |d| recent.is_same(d));
        // 1000 to 1099 are missing, and of them one comes late.
        for seq in (0..1000).chain(1100..2000).chain([1050]) {
            push(&mut recent, seq, 0);
        }
        assert_eq!(ask(&recent, 3, 300, "a text"), Some(true));
        assert_eq!(ask(&recent, 3, 300, "another"), Some(false));
        assert_eq!(ask(&recent, 3, 301, "a text"), Some(false));
        assert_eq!(ask(&recent, 1049, 104_900, "a text"), None);
        assert_eq!(ask(&recent, 1050, 105_000, "a text"), Some(true));
        assert!(recent.is_complete(0) && recent.bytes() < 16 << 10);
        // These are more than the ring keeps.
        for seq in 2000..10_000 {
            push(&mut recent, seq, 0);
        }
        assert!(!recent.is_complete(0) && recent.is_complete(10_000 - MOST as u64));
        assert_eq!(ask(&recent, 3, 300, "a text"), None);
        // The former print in this place is gone.
        push(&mut recent, 10_000 + MOST as u64 / 2, 10_000);
        assert_eq!(ask(&recent, 10_001, 1_000_100, "a text"), None);
        assert_eq!(ask(&recent, 9_999, 999_900, "a text"), Some(true));
    }

    /// A boot that follows another has the same numbers and texts, somewhat earlier or later.
    #[test]
    fn the_same_text_at_any_other_time_is_another_record() {
        let mut recent = Recent::new(0);
        with(7, 1_000_000, "a text", |d| recent.push(d, 0, 1 << 30));
        let others = (0..300_000).filter(|&usec| usec != 1_000_000);
        let copies =
            others.filter(|&usec| with(7, usec, "a text", |d| recent.is_same(d)) != Some(false));
        assert_eq!(copies.collect::<Vec<_>>(), []);
    }
}
