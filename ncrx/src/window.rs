// SPDX-License-Identifier: GPL-2.0

//! The numbers of one stream: which are settled, and the records that wait for others.
//!
//! Two cursors run along the numbers. All below `base` are settled: they have arrived, or never
//! will; this is what may be acknowledged. All below `out` have been handed out or passed over.
//! They are one and the same until something is passed over that may still come.
//!
//! From `base` on the numbers are kept in pages of 64, of which those that nothing is known of are
//! not there. So whatever is done with one number takes the same time, however many are missing.

use std::collections::VecDeque;
use std::time::Instant;

use crate::assembly::Assembly;
use crate::record::{Numbers, Stored, Why};

/// Numbers in a page.
const PAGE: u64 = 64;

/// The longest stretch of numbers that is kept: a page's place takes 8 bytes even if it is empty,
/// so these are 512 KiB. printk's log has at most some millions of records.
pub(crate) const MAX_SPAN: u64 = 1 << 22;

/// What is kept for a number.
#[derive(Debug)]
enum Slot {
    /// Nothing, or what was handed out at once.
    Empty,
    /// No record will come, for this reason.
    Never(Why),
    /// A record that waits for others: whole, or as much of it as there will be.
    Whole(Box<Stored>),
    /// A record of which fragments are missing.
    Parts(Box<Assembly>),
}

impl Slot {
    fn size(&self) -> usize {
        match self {
            Self::Empty | Self::Never(_) => 0,
            Self::Whole(record) => record.size(),
            Self::Parts(parts) => parts.size(),
        }
    }
}

#[derive(Debug)]
struct Page {
    /// The numbers that are settled, the first at the lowest bit.
    settled: u64,
    slots: [Slot; PAGE as usize],
}

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self {
            settled: 0,
            slots: [const { Slot::Empty }; PAGE as usize],
        })
    }
}

/// What becomes of a number that a datagram has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has been settled before.
    Settled,
    /// It is the next to be handed out.
    Next,
    /// It has to wait.
    Ahead,
    /// It was passed over.
    Late,
}

/// What is next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// This record is to be handed out.
    Record(Box<Stored>),
    /// For this number there is none.
    Never(u64, Why),
}

/// The numbers of one stream.
///
/// # Invariants
///
/// `base <= out <= end`, and `end - base <= MAX_SPAN`. `pages[0]` has `base`. No number from `end` on
/// is settled. Between calls of [`Window::turn`] that give nothing, `base` itself is not, either.
#[derive(Debug)]
pub(crate) struct Window {
    base: u64,
    out: u64,
    end: u64,
    pages: VecDeque<Option<Box<Page>>>,
    /// Of the numbers from `base` to `end`, how many are not settled.
    missing: u64,
    /// What all records and parts in it take, in bytes, and the pages themselves.
    bytes: usize,
    /// A page to be used again: at the end of a run without losses one comes and goes.
    spare: Option<Box<Page>>,
}

impl Window {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            out: base,
            end: base,
            pages: VecDeque::new(),
            missing: 0,
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
        self.bytes + self.pages.capacity() * size_of::<usize>()
    }

    /// Whether something waits to be handed out.
    pub(crate) fn is_waiting(&self) -> bool {
        self.out < self.end
    }

    fn index(&self, seq: u64) -> (usize, usize) {
        // At most MAX_SPAN / PAGE.
        let page = (seq / PAGE).saturating_sub(self.base / PAGE) as usize;
        (page, (seq % PAGE) as usize)
    }

    fn page(&self, seq: u64) -> Option<(&Page, usize)> {
        let (page, slot) = self.index(seq);
        Some((self.pages.get(page)?.as_deref()?, slot))
    }

    /// The page of `seq >= base`, which is made if need be.
    fn page_mut(&mut self, seq: u64) -> (&mut Page, usize) {
        let (page, slot) = self.index(seq);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let (spare, bytes) = (&mut self.spare, &mut self.bytes);
        let page = self.pages[page].get_or_insert_with(|| {
            *bytes += size_of::<Page>();
            spare.take().unwrap_or_else(Page::new)
        });
        (page, slot)
    }

    /// What a record of this number would add to what is kept, at most, beside its own size.
    pub(crate) fn cost(&self, seq: u64) -> usize {
        let (page, _) = self.index(seq);
        let capacity = self.pages.capacity();
        // It grows to twice of what it was, or to what is needed.
        let more = match page < capacity {
            true => 0,
            false => (page + 1).max(2 * capacity).max(4) - capacity,
        };
        size_of::<Page>() + more * size_of::<usize>()
    }

    fn is_settled(&self, seq: u64) -> bool {
        seq < self.base
            || self
                .page(seq)
                .is_some_and(|(page, slot)| (page.settled >> slot) & 1 == 1)
    }

    /// What becomes of this number.
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

    /// Whether this number is too far away to be kept.
    pub(crate) fn is_too_far(&self, seq: u64) -> bool {
        seq >= self.base.saturating_add(MAX_SPAN)
    }

    /// The sender has used this number, which is not too far: which ones are missing since?
    pub(crate) fn notice(&mut self, seq: u64) -> Option<Numbers> {
        if seq < self.end {
            return None;
        }
        let first = self.end;
        self.end = seq + 1;
        self.missing += self.end - first;
        (first < seq).then(|| Numbers {
            first,
            last: seq - 1,
        })
    }

    /// This number, from `base` to `end`, is settled; there is nothing to be handed out for it, or
    /// that is being done.
    ///
    /// [`Self::turn`] is to be called then.
    pub(crate) fn settle(&mut self, seq: u64) {
        if seq == self.base && self.pages.is_empty() {
            // In order, with nothing waiting: the usual case.
            self.base += 1;
            self.out = self.out.max(self.base);
            self.missing -= 1;
            return;
        }
        self.settle_with(seq, Slot::Empty);
    }

    /// This record has to wait.
    pub(crate) fn keep(&mut self, record: Box<Stored>) {
        self.settle_with(record.seq, Slot::Whole(record));
    }

    /// Nothing more will come of this number, which is missing and not below `out`: what there is of
    /// its record has to do.
    pub(crate) fn never(&mut self, seq: u64, why: Why, now: Instant) {
        let slot = match self.partial(seq, now) {
            Some(record) => Slot::Whole(record),
            None => Slot::Never(why),
        };
        self.settle_with(seq, slot);
    }

    fn settle_with(&mut self, seq: u64, slot: Slot) {
        let (page, at) = self.page_mut(seq);
        let bit = 1 << at;
        if page.settled & bit != 0 {
            return;
        }
        page.settled |= bit;
        let size = slot.size();
        let old = std::mem::replace(&mut page.slots[at], slot);
        self.bytes = self.bytes + size - old.size();
        self.missing -= 1;
    }

    /// Changes what there is of a record of which fragments are missing; nothing, at first.
    pub(crate) fn with_parts<T>(&mut self, seq: u64, change: impl FnOnce(&mut Assembly) -> T) -> T {
        let (page, at) = self.page_mut(seq);
        let old = std::mem::replace(&mut page.slots[at], Slot::Empty);
        let before = old.size();
        let mut parts = match old {
            Slot::Parts(parts) => parts,
            Slot::Empty | Slot::Never(_) | Slot::Whole(_) => Box::default(),
        };
        let result = change(&mut parts);
        let parts = Slot::Parts(parts);
        let after = parts.size();
        page.slots[at] = parts;
        self.bytes = self.bytes + after - before;
        result
    }

    /// What there is of a record of which fragments are missing.
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

    /// The first number in this range of which there are parts.
    pub(crate) fn next_parts(&self, range: Numbers) -> Option<u64> {
        let mut seq = range.first;
        while seq <= range.last {
            if self.page(seq).is_none() {
                seq = (seq / PAGE + 1) * PAGE;
                continue;
            }
            if self.parts(seq).is_some() {
                return Some(seq);
            }
            seq += 1;
        }
        None
    }

    fn slot(&self, seq: u64) -> Option<&Slot> {
        if seq < self.base {
            return None;
        }
        let (page, at) = self.page(seq)?;
        Some(&page.slots[at])
    }

    /// The clock of a record that waits.
    pub(crate) fn usec(&self, seq: u64) -> Option<u64> {
        match self.slot(seq)? {
            Slot::Whole(record) => Some(record.usec),
            Slot::Parts(parts) => parts.usec(),
            Slot::Never(_) | Slot::Empty => None,
        }
    }

    /// What is next; [`None`] if it is missing, or there is nothing.
    pub(crate) fn turn(&mut self) -> Option<Turn> {
        while self.out < self.end && self.is_settled(self.out) {
            let seq = self.out;
            let (index, at) = self.index(seq);
            self.out += 1;
            let page = self.pages.get_mut(index).and_then(Option::as_mut);
            let slot = page.map(|page| std::mem::replace(&mut page.slots[at], Slot::Empty));
            self.advance();
            match slot {
                Some(Slot::Whole(record)) => {
                    self.bytes -= record.size();
                    return Some(Turn::Record(record));
                }
                Some(Slot::Never(why)) => return Some(Turn::Never(seq, why)),
                Some(Slot::Empty | Slot::Parts(_)) | None => {}
            }
        }
        self.advance();
        None
    }

    /// Moves `base` over what is settled and handed out.
    fn advance(&mut self) {
        while self.base < self.out {
            let Some(front) = self.pages.front_mut() else {
                break;
            };
            let at = self.base % PAGE;
            let run = match front {
                Some(page) => u64::from((!(page.settled >> at)).trailing_zeros()),
                None => 0,
            };
            let step = run.min(PAGE - at).min(self.out - self.base);
            self.base += step;
            if step == 0 || self.base % PAGE != 0 {
                break;
            }
            self.drop_front();
        }
        // Nothing is left to keep.
        if self.base == self.end {
            while !self.pages.is_empty() {
                self.drop_front();
            }
        }
    }

    fn drop_front(&mut self) {
        if let Some(Some(mut page)) = self.pages.pop_front() {
            self.bytes -= size_of::<Page>();
            // Nothing else is left in a page whose numbers are all handed out.
            for slot in &mut page.slots {
                if !matches!(slot, Slot::Empty) {
                    self.bytes -= slot.size();
                    *slot = Slot::Empty;
                }
            }
            page.settled = 0;
            self.spare = Some(page);
        }
    }

    /// Passes over the missing numbers that are next, `last` at most; which they were. They may still
    /// come: `base` stays. [`None`] if the next number is not missing.
    pub(crate) fn pass_over(&mut self, last: u64) -> Option<Numbers> {
        if self.out >= self.end || self.out > last || self.is_settled(self.out) {
            return None;
        }
        let first = self.out;
        self.out = self.next_settled(first).min(last.saturating_add(1));
        Some(Numbers {
            first,
            last: self.out - 1,
        })
    }

    /// Gives the numbers below `out` up: `base` moves there, and they are not missing any more.
    ///
    /// [`Self::turn`] is to be called then.
    pub(crate) fn abandon(&mut self) {
        while self.base < self.out {
            let next = (self.base / PAGE + 1) * PAGE;
            let to = next.min(self.out);
            let count = to - self.base;
            let mask = u64::MAX >> (PAGE - count) << (self.base % PAGE);
            if let Some(Some(page)) = self.pages.front_mut() {
                self.missing -= u64::from((mask & !page.settled).count_ones());
                page.settled |= mask;
                // What there was of them is of no use any more.
                let at = (self.base % PAGE) as usize;
                for slot in &mut page.slots[at..at + count as usize] {
                    self.bytes -= slot.size();
                    *slot = Slot::Empty;
                }
            } else {
                self.missing -= count;
            }
            self.base = to;
            if to == next {
                self.drop_front();
            }
        }
    }

    /// The next number from `seq` on that is settled, or `end`.
    fn next_settled(&self, mut seq: u64) -> u64 {
        while seq < self.end {
            let at = seq % PAGE;
            let left = PAGE - at;
            let step = match self.page(seq) {
                None => left,
                Some((page, slot)) => u64::from((page.settled >> slot).trailing_zeros()).min(left),
            };
            seq = seq.saturating_add(step);
            if step < left {
                break;
            }
        }
        seq.min(self.end)
    }

    /// The next numbers from `seq` to `last` that are missing.
    pub(crate) fn next_missing(&self, seq: u64, last: u64) -> Option<Numbers> {
        let mut first = seq.max(self.base);
        let end = self.end.min(last.saturating_add(1));
        while first < end {
            let Some((page, slot)) = self.page(first) else {
                break;
            };
            let run = u64::from((!(page.settled >> slot)).trailing_zeros());
            let step = run.min(PAGE - first % PAGE);
            first += step;
            if step == 0 || first % PAGE != 0 {
                break;
            }
        }
        (first < end).then(|| Numbers {
            first,
            last: self.next_settled(first).min(end) - 1,
        })
    }

    /// The first number after `last` at which the window, of which nothing is left, begins anew.
    pub(crate) fn restart(&mut self, base: u64) {
        debug_assert!(self.base == self.end && base >= self.end);
        // INVARIANT: There are no pages, for `base == end`.
        (self.base, self.out, self.end) = (base, base, base);
    }
}
