// SPDX-License-Identifier: GPL-2.0

//! A stream that has ended: the network may still bring records of it.

use std::time::Instant;

use super::restart::{COPIES, SLACK_USEC};
use super::Stream;
use crate::config::Config;
use crate::datagram::{Datagram, Rejected};
use crate::queue::Queue;
use crate::ranges::Ranges;
use crate::record::{SeqRange, Session, StreamId};

/// A stream that has ended.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) id: StreamId,
    pub(crate) session: Option<Session>,
    pub(super) gone: Ranges,
    pub(super) end: u64,
    pub(super) usec: u64,
    pub(super) ended: Instant,
    pub(crate) last_output: u64,
}

impl Former {
    /// Returns whether a datagram without a session belongs to this stream and not to `current`,
    /// the one after it, whose clock cannot have come that far since it began.
    pub(crate) fn claims(&self, now: Instant, datagram: &Datagram<'_>, current: &Stream) -> bool {
        let elapsed = now.saturating_duration_since(self.ended);
        let usec = elapsed.as_secs() * 1_000_000;
        elapsed < COPIES
            && self.session.is_none()
            && datagram.usec > current.usec.saturating_add(usec + 10 * SLACK_USEC)
            && datagram.usec <= self.usec.saturating_add(usec + SLACK_USEC)
            && datagram.seq < self.end.saturating_add(4096)
    }

    /// Returns a record late; fragments are dropped.
    pub(crate) fn take(
        &mut self,
        config: &Config,
        queue: &mut Queue,
        now: Instant,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        let seq = datagram.seq;
        let new = seq >= self.end;
        if datagram.fragment.is_some() || !(new || self.gone.contains(seq)) {
            queue.stats.duplicates += 1;
            return Ok(());
        }
        if queue.is_full(config) {
            return Err(Rejected::NoMemory(seq));
        }
        if new {
            if self.end < seq {
                let (first, last) = (self.end, seq - 1);
                self.gone.push(SeqRange { first, last }, self.usec);
            }
            self.end = seq + 1;
        } else {
            self.gone.remove(seq);
        }
        let record = queue.pool.whole(datagram, now);
        self.last_output = queue.record(self.id, self.session, record, true);
        Ok(())
    }
}
