// SPDX-License-Identifier: GPL-2.0

//! The reorder window of one stream: which numbers are settled, and the records that wait for
//! others.
//!
//! Two cursors run along the numbers. All below `base` are settled: their records have arrived, or
//! never will; these may be acknowledged. All below `out` have been returned or passed over. The
//! cursors are equal until a number is passed over that may still come.
//!
//! From `base` on the numbers are kept in pages of 64, and these in chapters of 64; empty pages and
//! chapters are not allocated. So any operation on one number takes the same time, however many are
//! missing, and one on many numbers takes a step a page at most.

use std::collections::VecDeque;
use std::time::Instant;

use crate::assembly::Assembly;
use crate::pages::{
    in_chapter, in_page, mask, At, Chapter, Page, Slot, Slots, CHAPTER, PAGE, PAGES,
};
use crate::record::{GapReason, Kind, SeqRange, Stored};

/// The longest stretch of numbers that is kept: its list of chapters takes 8 KiB. printk's log has
/// at most some millions of records.
pub(crate) const MAX_SPAN: u64 = 1 << 22;

/// The place of a number relative to the cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Below `base`, or its record has come.
    Settled,
    /// The next to be returned.
    Next,
    /// Has to wait for others.
    Ahead,
    /// Passed over.
    Late,
}

/// The next step.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Return this record.
    Record(Box<Stored>),
    /// Report that these numbers have no record.
    Never(SeqRange, GapReason),
}

/// The numbers of one stream.
///
/// # Invariants
///
/// `base <= out <= end`, and `end - base <= MAX_SPAN`. The first chapter has `base`. No number from
/// `end` on is settled, nor `base`, but between a call that settles it and the end of
/// [`Window::turn`].
#[derive(Debug)]
pub(crate) struct Window {
    base: u64,
    out: u64,
    end: u64,
    chapters: VecDeque<Option<Box<Chapter>>>,
    /// The number of numbers from `base` to `end` that are not settled.
    missing: u64,
    /// The number of records of which there are fragments.
    parts: usize,
    /// The memory of all records, fragments, chapters and slots, in bytes.
    bytes: usize,
    /// Slots to be used again: with few missing records those of one page come as others go.
    spare: Option<Box<Slots>>,
}

impl Window {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            out: base,
            end: base,
            chapters: VecDeque::new(),
            missing: 0,
            parts: 0,
            bytes: 0,
            spare: None,
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn out(&self) -> u64 {
        self.out
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.chapters.capacity() * size_of::<usize>()
    }

    /// Returns whether a record waits to be returned.
    pub(crate) fn is_waiting(&self) -> bool {
        self.out < self.end
    }

    fn at(&self, seq: u64) -> At {
        At {
            // At most MAX_SPAN / CHAPTER.
            chapter: (seq / CHAPTER).saturating_sub(self.base / CHAPTER) as usize,
            page: (seq / PAGE % PAGES) as usize,
            slot: (seq % PAGE) as usize,
        }
    }

    fn chapter(&self, at: At) -> Option<&Chapter> {
        self.chapters.get(at.chapter)?.as_deref()
    }

    /// Returns the settled numbers of the page of `seq >= base`.
    fn settled(&self, at: At) -> u64 {
        self.chapter(at)
            .map_or(0, |chapter| chapter.settled[at.page])
    }

    /// Returns a chapter, which is allocated if necessary.
    fn chapter_mut(&mut self, at: At) -> &mut Chapter {
        if at.chapter >= self.chapters.len() {
            self.chapters.resize_with(at.chapter + 1, || None);
        }
        let bytes = &mut self.bytes;
        self.chapters[at.chapter].get_or_insert_with(|| {
            *bytes += size_of::<Chapter>();
            Chapter::new()
        })
    }

    /// Returns the slot of a number that is not below `base`, and the settled numbers of its page;
    /// both are allocated if necessary.
    fn slot_mut(&mut self, at: At) -> (&mut Slot, &mut u64) {
        if !matches!(self.chapters.get(at.chapter), Some(Some(_))) {
            self.chapter_mut(at);
        }
        let (spare, bytes) = (&mut self.spare, &mut self.bytes);
        let chapter = self.chapters[at.chapter].get_or_insert_with(Chapter::new);
        let slots = chapter.pages[at.page].slots(spare, bytes);
        (&mut slots[at.slot], &mut chapter.settled[at.page])
    }

    fn slot(&self, seq: u64) -> Option<&Slot> {
        if seq < self.base {
            return None;
        }
        let at = self.at(seq);
        match &self.chapter(at)?.pages[at.page] {
            Page::Slots(slots) => Some(&slots[at.slot]),
            Page::Empty | Page::Never(_) => None,
        }
    }

    /// The most memory that keeping a record of any number takes, besides its own size.
    pub(crate) const MOST: usize = size_of::<Chapter>()
        + size_of::<Slots>()
        + 2 * (MAX_SPAN / CHAPTER) as usize * size_of::<usize>();

    /// As [`Self::MOST`], for this number.
    pub(crate) fn cost(&self, seq: u64) -> usize {
        let (chapter, capacity) = (self.at(seq).chapter, self.chapters.capacity());
        // The list doubles, or grows to the length needed.
        let more = match chapter < capacity {
            true => 0,
            false => (chapter + 1).max(2 * capacity).max(4) - capacity,
        };
        size_of::<Chapter>() + size_of::<Slots>() + more * size_of::<usize>()
    }

    fn is_settled(&self, seq: u64) -> bool {
        let at = self.at(seq);
        seq < self.base || self.settled(at) & at.bit() != 0
    }

    /// Returns the place of a number.
    pub(crate) fn place(&self, seq: u64) -> Place {
        if seq < self.base {
            Place::Settled
        } else if seq == self.out && seq == self.end {
            Place::Next
        } else if self.is_settled(seq) {
            Place::Settled
        } else if seq < self.out {
            Place::Late
        } else if seq == self.out {
            Place::Next
        } else {
            Place::Ahead
        }
    }

    /// Returns whether a number is used and missing, without fragments, and none was passed over.
    pub(crate) fn is_lacking(&self, seq: u64) -> bool {
        if self.base != self.out || seq < self.out || seq >= self.end {
            return false;
        }
        let at = self.at(seq);
        let Some(chapter) = self.chapter(at) else {
            return true;
        };
        let parts = match &chapter.pages[at.page] {
            Page::Slots(slots) => matches!(slots[at.slot], Slot::Parts(_)),
            Page::Empty | Page::Never(_) => false,
        };
        chapter.settled[at.page] & at.bit() == 0 && !parts
    }

    /// Returns whether a number is too far away to be kept.
    pub(crate) fn is_too_far(&self, seq: u64) -> bool {
        seq >= self.base.saturating_add(MAX_SPAN)
    }

    /// Notes that the sender has used this number, which is not too far. Returns the numbers that
    /// are missing because of it.
    pub(crate) fn notice(&mut self, seq: u64) -> Option<SeqRange> {
        if seq < self.end {
            return None;
        }
        let first = self.end;
        self.end = seq + 1;
        self.missing += self.end - first;
        (first < seq).then(|| SeqRange {
            first,
            last: seq - 1,
        })
    }

    /// Returns whether this is the number after all that the sender has used, with none of those
    /// missing or waiting.
    pub(crate) fn is_next(&self, seq: u64) -> bool {
        seq == self.end && seq == self.base && self.parts == 0
    }

    /// Settles the number of [`Self::is_next`].
    #[inline(always)] // Into the fast path.
    pub(crate) fn settle_next(&mut self) {
        self.end += 1;
        self.out = self.end;
        self.move_base(self.end);
    }

    /// Settles a number from `base` to `end` for which nothing is to be returned, or the caller is
    /// returning it.
    ///
    /// [`Self::turn`] is to be called then.
    pub(crate) fn settle(&mut self, seq: u64) {
        if seq == self.base && seq + 1 == self.end && self.parts == 0 {
            // In order, with nothing waiting.
            self.missing -= 1;
            self.end = seq;
            self.settle_next();
            return;
        }
        self.settle_with(seq, Slot::Empty);
    }

    /// Keeps a record after all that the sender has used, which is not too far and has to wait.
    /// Returns the numbers that are missing because of it.
    pub(crate) fn push(&mut self, record: Box<Stored>) -> Option<SeqRange> {
        let (first, seq) = (self.end, record.seq);
        self.end = seq + 1;
        self.missing += self.end - first;
        self.fill(record);
        (first < seq).then(|| SeqRange {
            first,
            last: seq - 1,
        })
    }

    /// Keeps a record whose number [is lacking](Self::is_lacking).
    pub(crate) fn fill(&mut self, record: Box<Stored>) {
        self.missing -= 1;
        self.bytes += record.size();
        let at = self.at(record.seq);
        let (slot, settled) = self.slot_mut(at);
        *settled |= at.bit();
        if let old @ (Slot::Whole(_) | Slot::Parts(_)) =
            std::mem::replace(slot, Slot::Whole(record))
        {
            debug_assert!(false, "there was nothing of it: {old:?}");
        }
    }

    /// Keeps a record that has to wait.
    pub(crate) fn keep(&mut self, record: Box<Stored>) {
        self.settle_with(record.seq, Slot::Whole(record));
    }

    fn settle_with(&mut self, seq: u64, slot: Slot) {
        let at = self.at(seq);
        let (there, settled) = self.slot_mut(at);
        if *settled & at.bit() != 0 {
            return;
        }
        *settled |= at.bit();
        let size = slot.size();
        let old = std::mem::replace(there, slot);
        self.missing -= 1;
        self.bytes = self.bytes + size - old.size();
        self.parts -= usize::from(matches!(old, Slot::Parts(_)));
        if seq < self.out {
            self.advance();
        }
    }

    /// Gives up numbers of one page that were passed over.
    pub(crate) fn end_late(&mut self, numbers: SeqRange) {
        let (first, last) = (numbers.first.max(self.base), numbers.last);
        if first > last {
            return;
        }
        let numbers = SeqRange { first, last };
        let at = self.at(first);
        let mask = mask(numbers);
        let settled = &mut self.chapter_mut(at).settled[at.page];
        let new = mask & !*settled;
        *settled |= mask;
        self.missing -= u64::from(new.count_ones());
        self.clear(numbers);
        self.advance();
    }

    /// Drops records and fragments of these numbers, which are of one page.
    fn clear(&mut self, numbers: SeqRange) {
        let at = self.at(numbers.first);
        let chapter = self.chapters.get_mut(at.chapter).and_then(Option::as_mut);
        if let Some(Page::Slots(slots)) = chapter.map(|chapter| &mut chapter.pages[at.page]) {
            for slot in &mut slots[at.slot..at.slot + numbers.count() as usize] {
                self.bytes -= slot.size();
                self.parts -= usize::from(matches!(slot, Slot::Parts(_)));
                *slot = Slot::Empty;
            }
        }
    }

    /// Gives up missing numbers of one page that are not below `out`: the fragments that have come
    /// have to do.
    pub(crate) fn never(&mut self, numbers: SeqRange, why: GapReason, now: Instant) {
        let at = self.at(numbers.first);
        if mask(numbers) == u64::MAX && matches!(self.chapter_mut(at).pages[at.page], Page::Empty) {
            let chapter = self.chapter_mut(at);
            chapter.settled[at.page] = u64::MAX;
            chapter.pages[at.page] = Page::Never(why);
            self.missing -= PAGE;
            return;
        }
        for seq in numbers.first..=numbers.last {
            let slot = match self.partial(seq, now) {
                Some(record) => Slot::Whole(record),
                None => Slot::Never(why),
            };
            self.settle_with(seq, slot);
        }
    }

    /// Changes the fragments of a record; empty at first.
    pub(crate) fn with_parts<T>(&mut self, seq: u64, change: impl FnOnce(&mut Assembly) -> T) -> T {
        let at = self.at(seq);
        let mut parts = match std::mem::replace(self.slot_mut(at).0, Slot::Empty) {
            Slot::Parts(parts) => {
                self.bytes -= parts.size();
                parts
            }
            Slot::Empty | Slot::Never(_) | Slot::Whole(_) => {
                self.parts += 1;
                Box::default()
            }
        };
        let result = change(&mut parts);
        self.bytes += parts.size();
        *self.slot_mut(at).0 = Slot::Parts(parts);
        result
    }

    /// Returns the fragments of a record.
    pub(crate) fn parts(&self, seq: u64) -> Option<&Assembly> {
        match self.slot(seq)? {
            Slot::Parts(parts) => Some(parts),
            Slot::Whole(_) | Slot::Never(_) | Slot::Empty => None,
        }
    }

    /// See [`Assembly::partial`].
    pub(crate) fn partial(&mut self, seq: u64, now: Instant) -> Option<Box<Stored>> {
        self.parts(seq)?;
        self.with_parts(seq, |parts| parts.partial(seq, now))
    }

    /// Returns the first number in this range that has fragments.
    pub(crate) fn next_parts(&self, range: SeqRange) -> Option<u64> {
        let mut seq = range.first;
        while self.parts > 0 && seq <= range.last {
            let at = self.at(seq);
            match self.chapter(at).map(|chapter| &chapter.pages[at.page]) {
                None => seq = in_chapter(seq, u64::MAX).last + 1,
                Some(Page::Empty | Page::Never(_)) => {
                    seq = in_page(seq, u64::MAX).last + 1;
                }
                Some(Page::Slots(slots)) if matches!(slots[at.slot], Slot::Parts(_)) => {
                    return Some(seq)
                }
                Some(Page::Slots(_)) => seq += 1,
            }
        }
        None
    }

    /// Returns the clock of a record that waits.
    pub(crate) fn usec(&self, seq: u64) -> Option<u64> {
        match self.slot(seq)? {
            Slot::Whole(record) => Some(record.usec),
            Slot::Parts(parts) => parts.usec(),
            Slot::Never(_) | Slot::Empty => None,
        }
    }

    /// Returns whether [`Self::turn`] has something to return or to do.
    pub(crate) fn is_turn(&self) -> bool {
        self.out < self.end && self.is_settled(self.out)
    }

    /// Hands whole records to `each` as long as they are next, and in one page.
    pub(crate) fn turn_run(&mut self, mut each: impl FnMut(Box<Stored>)) {
        let at = self.at(self.out);
        let Some(Some(chapter)) = self.chapters.get_mut(at.chapter) else {
            return;
        };
        let Page::Slots(slots) = &mut chapter.pages[at.page] else {
            return;
        };
        let run = (chapter.settled[at.page] >> at.slot).trailing_ones() as usize;
        for slot in &mut slots[at.slot..at.slot + run] {
            match std::mem::replace(slot, Slot::Empty) {
                Slot::Whole(record) if record.kind == Kind::Whole => {
                    self.bytes -= record.size();
                    self.out += 1;
                    each(record);
                }
                other => {
                    *slot = other;
                    break;
                }
            }
        }
    }

    /// Returns the next step; [`None`] if the next record is missing, or there is none. To be
    /// called until then.
    pub(crate) fn turn(&mut self) -> Option<Turn> {
        while self.is_turn() {
            let (seq, at) = (self.out, self.at(self.out));
            let Some(chapter) = self.chapters[at.chapter].as_deref_mut() else {
                break;
            };
            let mut turn = None;
            self.out += 1;
            match &mut chapter.pages[at.page] {
                Page::Empty => {}
                Page::Never(why) => {
                    let numbers = in_page(seq, u64::MAX);
                    turn = Some(Turn::Never(numbers, *why));
                    self.out = numbers.last + 1;
                }
                Page::Slots(slots) => match std::mem::replace(&mut slots[at.slot], Slot::Empty) {
                    Slot::Whole(record) => {
                        self.bytes -= record.size();
                        turn = Some(Turn::Record(record));
                    }
                    Slot::Never(why) => {
                        let (first, last) = (seq, seq);
                        turn = Some(Turn::Never(SeqRange { first, last }, why));
                    }
                    Slot::Empty | Slot::Parts(_) => {}
                },
            }
            if turn.is_some() {
                return turn;
            }
        }
        self.advance();
        None
    }

    /// Moves `base` over numbers that are settled and returned.
    fn advance(&mut self) {
        while self.base < self.out {
            let at = self.at(self.base);
            let run = (!(self.settled(at) >> at.slot)).trailing_zeros();
            let step = u64::from(run)
                .min(PAGE - at.slot as u64)
                .min(self.out - self.base);
            if step == 0 {
                break;
            }
            self.move_base(self.base + step);
        }
    }

    /// Moves `base` on, to the beginning of the next page at most, or over empty chapters. The page
    /// that it leaves is dropped.
    fn move_base(&mut self, to: u64) {
        let from = std::mem::replace(&mut self.base, to);
        if to % PAGE == 0 {
            self.leave_page(from, to);
        }
    }

    /// Frees the page of `from`, whose numbers are all below `base` by now, and its chapter if `to`
    /// begins the next.
    #[inline(never)] // One of 64 numbers is the last of its page.
    fn leave_page(&mut self, from: u64, to: u64) {
        if let Some(Some(chapter)) = self.chapters.front_mut() {
            let page = (from / PAGE % PAGES) as usize;
            chapter.settled[page] = 0;
            if let Page::Slots(slots) = std::mem::replace(&mut chapter.pages[page], Page::Empty) {
                // Slots of numbers that were returned or given up are empty.
                self.bytes -= size_of::<Slots>();
                self.spare = Some(slots);
            }
        }
        if to % CHAPTER == 0 {
            if let Some(Some(_)) = self.chapters.pop_front() {
                self.bytes -= size_of::<Chapter>();
            }
        }
    }

    /// Passes over the next missing numbers, up to `last`, and returns them. They may still come:
    /// `base` stays. [`None`] if the next number is not missing.
    pub(crate) fn pass_over(&mut self, last: u64) -> Option<SeqRange> {
        if self.out >= self.end || self.out > last || self.is_settled(self.out) {
            return None;
        }
        let first = self.out;
        self.out = self.next_settled(first).min(last.saturating_add(1));
        Some(SeqRange {
            first,
            last: self.out - 1,
        })
    }

    /// Returns whether numbers were passed over that may still come.
    pub(crate) fn is_behind(&self) -> bool {
        self.base < self.out
    }

    /// Goes on where another window stopped, of which nothing is left but these settled numbers;
    /// the others up to the last of them were passed over. This window must be empty.
    pub(crate) fn resume(&mut self, settled: &[SeqRange]) {
        debug_assert!(self.base == self.end);
        for numbers in settled {
            let mut first = numbers.first.max(self.end);
            if self.is_too_far(numbers.last) || first > numbers.last {
                continue;
            }
            let _ = self.notice(numbers.last);
            self.out = self.end;
            while first <= numbers.last {
                let page = in_page(first, numbers.last);
                self.end_late(page);
                first = page.last + 1;
            }
        }
    }

    /// Gives up the numbers below `out`: `base` moves there, and they are not missing any more.
    ///
    /// [`Self::turn`] is to be called then.
    pub(crate) fn abandon(&mut self) {
        while self.base < self.out {
            let at = self.at(self.base);
            let numbers = match self.chapter(at) {
                Some(_) => in_page(self.base, self.out - 1),
                None => in_chapter(self.base, self.out - 1),
            };
            self.missing -= match self.chapter(at) {
                Some(chapter) => {
                    let missing = mask(numbers) & !chapter.settled[at.page];
                    u64::from(missing.count_ones())
                }
                None => numbers.count(),
            };
            self.clear(numbers);
            self.move_base(numbers.last + 1);
        }
    }

    /// Returns the next settled number from `seq` on, or `end`.
    fn next_settled(&self, mut seq: u64) -> u64 {
        while seq < self.end {
            let at = self.at(seq);
            let Some(chapter) = self.chapter(at) else {
                seq = in_chapter(seq, u64::MAX).last + 1;
                continue;
            };
            let settled = chapter.settled[at.page] >> at.slot;
            if settled != 0 {
                seq += u64::from(settled.trailing_zeros());
                break;
            }
            seq = in_page(seq, u64::MAX).last + 1;
        }
        seq.min(self.end)
    }

    /// Returns the next missing numbers from `seq` to `last`.
    pub(crate) fn next_missing(&self, seq: u64, last: u64) -> Option<SeqRange> {
        if seq == last {
            // Mostly one is asked for.
            let missing = seq < self.end && !self.is_settled(seq);
            return missing.then_some(SeqRange { first: seq, last });
        }
        let mut first = seq.max(self.base);
        let end = self.end.min(last.saturating_add(1));
        while first < end {
            let at = self.at(first);
            let missing = !self.settled(at) >> at.slot;
            if missing != 0 {
                first += u64::from(missing.trailing_zeros());
                break;
            }
            first = in_page(first, u64::MAX).last + 1;
        }
        (first < end).then(|| SeqRange {
            first,
            last: self.next_settled(first).min(end) - 1,
        })
    }

    /// Begins anew at the first number after `last`, with the window empty.
    pub(crate) fn restart(&mut self, base: u64) {
        debug_assert!(self.base == self.end && base >= self.end);
        self.chapters.clear();
        (self.bytes, self.spare) = (0, None);
        (self.base, self.out, self.end) = (base, base, base);
    }
}
