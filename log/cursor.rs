// SPDX-License-Identifier: GPL-2.0

//! The loop over records that a target has not been sent: one step reads the next of them, with
//! what is kept of it.

use super::{
    access::Access,
    Buffer,
    Log,
    Stored, //
};
use crate::proto::ring::{
    Meta,
    Next, //
};

/// A place in the log.
pub(crate) struct Cursor<'a, A> {
    log: &'a Log,
    access: A,
    /// Whether records that the console log level hides are included.
    full: bool,
    /// The number to continue with.
    seq: u64,
}

/// The outcome of a step.
pub(crate) enum Found<'b> {
    /// This record.
    Record(Unsent<'b>),
    /// None yet; [`Cursor::seq`] is where to continue.
    Searching,
    /// No record before the end.
    End,
}

/// A record to be sent.
pub(crate) struct Unsent<'b> {
    pub(crate) seq: u64,
    pub(crate) record: &'b [u8],
    /// The ring's entry for it; [`None`] if it comes from printk's buffer.
    pub(crate) meta: Option<Meta>,
}

impl<'a, A: Access> Cursor<'a, A> {
    /// Creates a cursor that begins with record `seq`. Contexts as `access` says.
    pub(crate) fn new(log: &'a Log, seq: u64, full: bool, access: A) -> Self {
        Self {
            log,
            access,
            full,
            seq,
        }
    }

    /// Returns the number to continue with.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Skips the records before number `seq`.
    pub(crate) fn skip_to(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    /// Reads the next record before number `end`, and goes past it. On an error the cursor stays.
    pub(crate) fn step<'b>(
        &mut self,
        end: u64,
        buffer: &'b mut Buffer,
    ) -> Result<Found<'b>, A::Error> {
        match self
            .log
            .next(self.seq, end, self.full, buffer, self.access)?
        {
            Next::Record(seq) => {
                let found = self.log.get(seq, buffer, self.access)?;
                self.seq = seq.saturating_add(1);
                // A record that is gone by now is skipped.
                Ok(found.map_or(Found::Searching, |(record, meta)| {
                    Found::Record(Unsent { seq, record, meta })
                }))
            }
            Next::NotBefore(seq) => {
                self.seq = seq;
                Ok(Found::Searching)
            }
            Next::Nothing => {
                self.seq = self.seq.max(end);
                Ok(Found::End)
            }
        }
    }

    /// Returns what is kept with a record that is sent at `now`, in milliseconds. Stores the record
    /// if necessary, so that the same bytes are sent again. [`None`]: the ring does not take it.
    pub(crate) fn keep(&self, unsent: &Unsent<'_>, now: u64) -> Result<Option<Meta>, A::Error> {
        if unsent.meta.is_some() {
            return Ok(unsent.meta);
        }
        let mut meta = Meta::at(now);
        let stored = self
            .log
            .store(unsent.seq, unsent.record, &mut meta, self.access)?;
        Ok(matches!(stored, Stored::Kept | Stored::Known).then_some(meta))
    }
}
