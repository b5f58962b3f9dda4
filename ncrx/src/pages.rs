// SPDX-License-Identifier: GPL-2.0

//! The memory of a window: pages of 64 numbers, and chapters of 64 pages.

use crate::assembly::Assembly;
use crate::record::{GapReason, SeqRange, Stored};

/// Numbers in a page, pages in a chapter, and numbers in a chapter.
pub(crate) const PAGE: u64 = 64;
pub(crate) const PAGES: u64 = 64;
pub(crate) const CHAPTER: u64 = PAGE * PAGES;

/// The content of a number's slot.
#[derive(Debug)]
pub(crate) enum Slot {
    /// Nothing, or a record that was returned at once.
    Empty,
    /// No record will come, for this reason.
    Never(GapReason),
    /// A record that waits for others: whole, or given up with the fragments that came.
    Whole(Box<Stored>),
    /// A record of which fragments are missing.
    Parts(Box<Assembly>),
}

impl Slot {
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Empty | Self::Never(_) => 0,
            Self::Whole(record) => record.size(),
            Self::Parts(parts) => parts.size(),
        }
    }
}

pub(crate) type Slots = [Slot; PAGE as usize];

/// The content of a page.
#[derive(Debug)]
pub(crate) enum Page {
    Empty,
    /// No record will come for any number, for this reason.
    Never(GapReason),
    Slots(Box<Slots>),
}

impl Page {
    /// Returns the slots, which are allocated if necessary.
    pub(crate) fn slots(
        &mut self,
        spare: &mut Option<Box<Slots>>,
        bytes: &mut usize,
    ) -> &mut Slots {
        if !matches!(self, Self::Slots(_)) {
            *bytes += size_of::<Slots>();
            let empty = || Box::new([const { Slot::Empty }; PAGE as usize]);
            let mut slots = spare.take().unwrap_or_else(empty);
            if let Self::Never(why) = *self {
                slots.fill_with(|| Slot::Never(why));
            }
            *self = Self::Slots(slots);
        }
        match self {
            Self::Slots(slots) => slots,
            Self::Empty | Self::Never(_) => unreachable!("it has just been made"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Chapter {
    /// The settled numbers, a word a page, the first number at the lowest bit.
    pub(crate) settled: [u64; PAGES as usize],
    pub(crate) pages: [Page; PAGES as usize],
}

impl Chapter {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            settled: [0; PAGES as usize],
            pages: [const { Page::Empty }; PAGES as usize],
        })
    }
}

/// The place of a number: its chapter, page and slot.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) chapter: usize,
    pub(crate) page: usize,
    pub(crate) slot: usize,
}

impl At {
    pub(crate) fn bit(self) -> u64 {
        1 << self.slot
    }
}

/// Returns the part of a range that is in the page of its first number.
pub(crate) fn in_page(first: u64, last: u64) -> SeqRange {
    let last = last.min(first | (PAGE - 1));
    SeqRange { first, last }
}

/// Returns the part of a range that is in the chapter of its first number.
pub(crate) fn in_chapter(first: u64, last: u64) -> SeqRange {
    let last = last.min(first | (CHAPTER - 1));
    SeqRange { first, last }
}

/// Returns the bits of numbers of one page.
pub(crate) fn mask(numbers: SeqRange) -> u64 {
    u64::MAX >> (PAGE - numbers.count()) << (numbers.first % PAGE)
}
