// SPDX-License-Identifier: GPL-2.0

//! Intake: datagrams of this stream, and records from fragments.

use std::time::Instant;

use super::schedule::{CRASH_WAIT, LOOK_QUIET};
use super::{Context, Stream};
use crate::assembly::{Added, Assembly, Contradiction, MAX_BODY};
use crate::datagram::{Datagram, Fragment, Rejected};
use crate::record::{Event, GapReason, SeqRange, Stored};
use crate::window::Place;

/// The state of a record's number in its stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Behind all numbers that the sender has used.
    New,
    /// It has not come, or was passed over and may still.
    Missing,
    /// It came, or is not wanted any more.
    Copy,
}

/// The most records passed over for good whose fragments are kept.
const LATE: usize = 16;

impl Stream {
    /// Takes a datagram of this stream: its marks, then its record.
    pub(crate) fn take(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        let seq = datagram.seq;
        self.hear(cx);
        if self.ended && seq >= self.window.end() {
            self.ended = false;
            self.event(cx, Event::Resumed);
        }
        if self.window.is_too_far(seq) {
            self.jump(cx, seq)?;
        }
        if datagram.emergency {
            self.take_emergency(cx);
        }
        if datagram.crash {
            self.crashed.get_or_insert(cx.now + CRASH_WAIT);
            self.changed = true;
        }
        let case = self.case(seq);
        if case == Case::New {
            self.take_new_number(cx, datagram);
        }
        if let Some(hidden) = datagram.skip {
            self.mark(cx, hidden, GapReason::Hidden);
        }
        if let Some(lost) = datagram.lost {
            self.mark(cx, lost, GapReason::Lost);
        }
        match self.case(seq) {
            Case::Copy => {
                self.take_copy(cx, datagram);
                Ok(())
            }
            Case::New | Case::Missing => self.take_wanted(cx, datagram, case == Case::New),
        }
    }

    /// Returns the state of this number in the stream.
    fn case(&self, seq: u64) -> Case {
        match self.window.place(seq) {
            _ if seq >= self.window.end() => Case::New,
            Place::Settled if !self.gone.contains(seq) => Case::Copy,
            _ => Case::Missing,
        }
    }

    /// Answers an emergency datagram: the sender has had no acknowledgement for long, so it gets
    /// one at once, and is asked for records that may be behind the last known number.
    fn take_emergency(&mut self, cx: &mut Context<'_>) {
        cx.queue.stats.emergencies += 1;
        self.activate(cx.now, cx.config);
        (self.acks.due, self.acks.urgent) = (Some(cx.now), true);
        self.changed = true;
        self.look = Some(cx.now.max(self.grown + LOOK_QUIET));
    }

    /// Takes a number behind all that the sender has used: those between are missing.
    fn take_new_number(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) {
        let seq = datagram.seq;
        let sent_again = datagram.emergency || datagram.is_marked() || self.was_asked(cx.now, seq);
        if datagram.is_substitute() {
            self.restart.clockless = seq + 1;
        } else if sent_again {
            self.restart.see_old(datagram, cx.now);
        } else {
            self.restart.see_new(datagram, cx.now);
        }
        if !datagram.emergency {
            self.grown = cx.now;
        }
        if let Some(gap) = self.window.notice(seq) {
            self.miss(cx.config, cx.now, gap);
        }
    }

    /// Counts a copy of a record that came, or was passed over for good: it shows only that the
    /// network brings copies, or that a request was not needed.
    fn take_copy(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) {
        cx.queue.stats.duplicates += 1;
        if self.may_be_of_next_boot(cx, datagram) {
            self.restart.keep_repeat(datagram, cx.now, self.grown);
        }
        if let Some(requests) = self.requests.as_mut().filter(|_| !datagram.emergency) {
            if requests.may_bring(cx.now, datagram.seq) {
                requests.copy(cx.config);
            }
        }
    }

    /// Returns whether what looks like a copy may be a record of the next boot: it has no timestamp
    /// to tell, and there is no reason to send it again.
    fn may_be_of_next_boot(&self, cx: &Context<'_>, datagram: &Datagram<'_>) -> bool {
        let sent_again =
            datagram.emergency || datagram.is_marked() || self.was_asked(cx.now, datagram.seq);
        datagram.session.is_none()
            && datagram.usec == 0
            && !sent_again
            && !datagram.is_substitute()
            && self.room(cx, datagram.seq, datagram.bytes.len())
    }

    /// Returns the datagrams that looked like copies, and are of the boot that begins with this
    /// record.
    pub(crate) fn take_repeats(&mut self, now: Instant, datagram: &Datagram<'_>) -> Vec<Box<[u8]>> {
        let repeats = self.restart.take_repeats(now);
        repeats.map_or_else(Vec::new, |repeats| repeats.before(datagram.seq, self.grown))
    }

    /// Takes a record that has not come; `new` if its number is new.
    fn take_wanted(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &Datagram<'_>,
        new: bool,
    ) -> Result<(), Rejected> {
        let seq = datagram.seq;
        if !datagram.is_substitute() {
            for mark in self.restart.lately.iter_mut().filter(|mark| seq < mark.seq) {
                // The record is from before the first that came, and was not asked for.
                (mark.seq, mark.usec) = (seq, datagram.usec.min(mark.usec));
            }
        }
        let kept = self.keep(cx, datagram);
        if kept.is_err() && new {
            // No other record shows that it is missing.
            let (first, last) = (seq, seq);
            self.miss(cx.config, cx.now, SeqRange { first, last });
        }
        kept
    }

    /// Keeps or returns a record, or a fragment of one, that is not settled or was passed over.
    pub(super) fn keep(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        if cx.queue.is_full(cx.config) {
            // The record is an answer even so.
            self.answered(cx, datagram);
            return Err(Rejected::NoMemory(datagram.seq));
        }
        let record = match datagram.fragment {
            None => {
                let lost = datagram.is_substitute();
                let partial = lost.then(|| self.window.partial(datagram.seq, cx.now));
                let partial = partial.flatten();
                partial.unwrap_or_else(|| cx.queue.pool.whole(datagram, cx.now))
            }
            Some(fragment) => match self.take_fragment(cx, datagram, fragment)? {
                Some(record) => record,
                None => return Ok(()),
            },
        };
        self.answered(cx, datagram);
        if !datagram.is_substitute() {
            self.restart.see(datagram, cx.config);
        }
        self.settle(cx, record)
    }

    /// Takes a fragment of a record that is not settled or was passed over. Returns the record if
    /// it is whole.
    pub(super) fn take_fragment(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &Datagram<'_>,
        fragment: Fragment,
    ) -> Result<Option<Box<Stored>>, Rejected> {
        let seq = datagram.seq;
        cx.queue.stats.fragments += 1;
        // Memory is taken from the body's start to the fragment's end.
        let end = fragment.offset.saturating_add(datagram.body().len());
        let size = end.min(MAX_BODY) + datagram.header().len() + 1024;
        let mut contradicted = false;
        let now = cx.now;
        let mut add = |parts: &mut Assembly| {
            let added = parts.add(datagram, fragment, &mut contradicted)?;
            let whole = added == Added::Whole;
            Ok((added, parts.record(seq, now).filter(|_| whole)))
        };
        if self.window.place(seq) != Place::Settled {
            self.make_room(cx, seq, size)?;
        }
        // The record itself may have been given up to make room.
        let added: Result<_, Contradiction> = if self.window.place(seq) != Place::Settled {
            if self.window.parts(seq).is_none() {
                let (first, last) = (seq, seq);
                self.miss(cx.config, cx.now, SeqRange { first, last });
            }
            self.window.with_parts(seq, add)
        } else {
            if !self.room(cx, seq, size) {
                return Err(Rejected::NoMemory(seq));
            }
            let at = self.late.iter().position(|(late, _)| *late == seq);
            let (_, mut parts) = at.map_or_else(Default::default, |at| self.late.remove(at));
            let added = add(&mut parts);
            if !matches!(added, Ok((Added::Whole, _))) {
                if self.late.len() == LATE {
                    // The oldest record is asked for again.
                    self.late.remove(0);
                }
                self.late.push((seq, parts));
            }
            added
        };
        let stats = &mut cx.queue.stats;
        stats.contradictions += u64::from(contradicted || added.is_err());
        let Ok((added, record)) = added else {
            return Ok(None);
        };
        stats.duplicates += u64::from(added == Added::Again);
        Ok(record)
    }

    /// Counts a record that was missing as an answer, if it was asked for.
    pub(super) fn answered(&mut self, cx: &Context<'_>, datagram: &Datagram<'_>) {
        let Some(requests) = &mut self.requests else {
            return;
        };
        if requests.is_answer(datagram.seq) {
            self.changed |= requests.answer(cx.now, datagram.seq, cx.config);
            self.activate(cx.now, cx.config);
        }
    }

    /// Returns or keeps a whole record.
    pub(super) fn settle(
        &mut self,
        cx: &mut Context<'_>,
        record: Box<Stored>,
    ) -> Result<(), Rejected> {
        let seq = record.seq;
        self.give_up_passed(cx, seq);
        match self.window.place(seq) {
            Place::Settled => {
                self.gone.remove(seq);
                self.hand_out_late(cx, record);
            }
            Place::Late => {
                self.gone.remove(seq);
                self.hand_out_late(cx, record);
                self.window.settle(seq);
            }
            Place::Next => {
                self.hand_out(cx, record);
                self.window.settle(seq);
            }
            Place::Ahead => {
                self.make_room(cx, seq, record.size())?;
                match self.window.place(seq) {
                    Place::Ahead => self.window.keep(record),
                    _ => {
                        self.hand_out(cx, record);
                        self.window.settle(seq);
                    }
                }
            }
        }
        if self.window.is_turn() {
            self.turn(cx);
        }
        self.want_ack(cx.now, cx.config);
        Ok(())
    }
}
