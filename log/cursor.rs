// SPDX-License-Identifier: GPL-2.0

//! The way through the records that a target has not been sent: the next one, with what is stored
//! with it.

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
    /// Whether records count that the console log level hides.
    full: bool,
    /// The number to go on with.
    seq: u64,
}

/// What a step has come to.
pub(crate) enum Found<'b> {
    /// This record.
    Record(Unsent<'b>),
    /// Nothing yet; there may be more from [`Cursor::seq`] on.
    Searching,
    /// Nothing before the end.
    End,
}

/// A record that is to be sent.
pub(crate) struct Unsent<'b> {
    pub(crate) seq: u64,
    pub(crate) record: &'b [u8],
    /// What was stored with it, unless it has been made from printk's log.
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

    /// Passes over the records before number `seq`.
    pub(crate) fn skip_to(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    /// Reads the next record before number `end`, and goes past it. On an error it stays.
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
                // One that is gone meanwhile is passed over.
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

    /// Returns what is stored with a record that is sent at `now`, in milliseconds; stores it if
    /// that has not been done, as it is sent now it will be sent again. [`None`]: the ring does not
    /// take it.
    pub(crate) fn keep(&self, unsent: &Unsent<'_>, now: u64) -> Result<Option<Meta>, A::Error> {
        if unsent.meta.is_some() {
            return Ok(unsent.meta);
        }
        let (meta, stored) =
            self.log
                .store(unsent.seq, unsent.record, Meta::at(now), self.access)?;
        Ok(matches!(stored, Stored::Kept | Stored::Known).then_some(meta))
    }
}
