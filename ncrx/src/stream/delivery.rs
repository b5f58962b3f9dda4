// SPDX-License-Identifier: GPL-2.0

//! Delivery: records in order, and the numbers that are passed over, for good or not.

use std::time::Instant;

use super::{Context, Stream};
use crate::assembly::Assembly;
use crate::config::Config;
use crate::datagram::Rejected;
use crate::pages::in_page;
use crate::proto::wire;
use crate::record::{Event, GapReason, Kind, SeqRange, Stored};
use crate::stats::PeerMode;
use crate::window::{Place, Turn, Window, MAX_SPAN};

/// The most bytes of fragments of the next record in turn that are taken even if others use all the
/// memory: they might wait for each other otherwise. printk's records have at most 2 KiB, many
/// senders have as much userdata behind them, and the memory of fragments grows by doubling.
const SMALL: usize = 8192;

impl Stream {
    /// Hands out a record in its turn.
    #[inline(always)] // Into the fast path.
    pub(super) fn hand_out(&mut self, cx: &mut Context<'_>, mut record: Box<Stored>) {
        self.records += 1;
        if record.usec > 0 {
            self.since = record.usec;
            if self.window.base() == self.window.out() {
                self.complete = record.usec;
            }
        }
        self.unconfirmed.add(record.seq);
        record.nth = 0;
        self.last_output = cx.queue.record(self.of(), record, false);
    }

    /// Hands out a record whose number was passed over, or whose record an output lacks.
    pub(super) fn hand_out_late(&mut self, cx: &mut Context<'_>, mut record: Box<Stored>) {
        self.records += 1;
        record.nth = self.unconfirmed.add_late(record.seq);
        self.last_output = cx.queue.record(self.of(), record, true);
    }

    /// Asks again for numbers whose records were handed out, but are missing at an output; they are
    /// handed out as late ones. Numbers that the stream does not have any more are left out.
    pub(crate) fn ask_again(&mut self, cx: &mut Context<'_>, numbers: SeqRange) {
        let Some(out) = self.window.out().checked_sub(1) else {
            return;
        };
        let (first, last) = (numbers.first, numbers.last.min(out));
        if first <= last {
            let numbers = SeqRange { first, last };
            self.gone.add(numbers, self.first_usec);
            self.owed |= self.session.is_some();
            self.miss(cx.config, cx.now, numbers);
        }
    }

    /// Returns whether the sender may send records again that were handed out: it goes on with this
    /// stream, has not shown that it never answers, and was heard of late.
    pub(crate) fn may_send_again(&self, now: Instant, config: &Config) -> bool {
        let passive = self.manner == PeerMode::Passive;
        !self.ended && !passive && now < self.heard + config.forget
    }

    /// Returns whether it is still being asked for some of these numbers, which it was asked for
    /// again: it has not said that they are lost, and was not asked in vain.
    pub(crate) fn is_asked_again(&self, numbers: SeqRange) -> bool {
        let wanted = self.gone.next(numbers.first, numbers.last);
        let requests = self.requests.as_deref();
        wanted.is_some_and(|wanted| requests.is_some_and(|requests| requests.has(wanted)))
    }

    /// Gives up numbers that were handed out, but are missing at an output: they count as
    /// confirmed, and are not taken any more.
    pub(crate) fn give_up(&mut self, cx: &mut Context<'_>, numbers: SeqRange) {
        while let Some(gone) = self.gone.next(numbers.first, numbers.last) {
            self.gone.cut(gone);
        }
        self.unconfirmed.forget(numbers);
        self.update_settled(cx);
        self.want_ack(cx.now, cx.config);
    }

    /// Returns all records whose turn it is.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>) {
        let mut gap: Option<(SeqRange, GapReason)> = None;
        while let Some(turn) = self.window.turn() {
            match turn {
                Turn::Never(numbers, why) => {
                    if let Some((before, known)) = &mut gap {
                        if *known == why && before.last + 1 == numbers.first {
                            before.last = numbers.last;
                            continue;
                        }
                        self.name_never(cx, *before, *known);
                    }
                    gap = Some((numbers, why));
                }
                Turn::Record(record) => {
                    if let Some((numbers, why)) = gap.take() {
                        self.name_never(cx, numbers, why);
                    }
                    if record.kind == Kind::Partial && self.session.is_none() {
                        // The number was only asked for in vain.
                        let (first, last) = (record.seq, record.seq);
                        let since = self.since.max(self.first_usec);
                        self.gone.push(SeqRange { first, last }, since);
                    }
                    self.hand_out(cx, record);
                    // Mostly many records have waited for the one that was missing.
                    let of = self.of();
                    self.window.turn_run(|mut record| {
                        self.records += 1;
                        self.unconfirmed.add(record.seq);
                        record.nth = 0;
                        if record.usec > 0 {
                            self.since = record.usec;
                        }
                        self.last_output = cx.queue.record(of, record, false);
                    });
                }
            }
        }
        if let Some((numbers, why)) = gap {
            self.name_never(cx, numbers, why);
        }
        if self.window.base() == self.window.out() {
            self.complete = self.since;
        }
    }

    /// Reports numbers that will never come; they still may if only the reason is not known.
    pub(super) fn name_never(&mut self, cx: &mut Context<'_>, numbers: SeqRange, why: GapReason) {
        if why == GapReason::Unanswered {
            self.gone.push(numbers, self.since.max(self.first_usec));
        }
        self.name(cx, numbers, why);
    }

    /// Reports numbers that were passed over.
    pub(super) fn name(&mut self, cx: &mut Context<'_>, numbers: SeqRange, why: GapReason) {
        // An attacker can leave out more numbers than can be counted.
        let add = |sum: &mut u64| *sum = sum.saturating_add(numbers.count());
        let stats = &mut cx.queue.stats;
        add(match why {
            GapReason::Hidden => &mut stats.hidden,
            GapReason::Lost => &mut stats.lost,
            _ => &mut stats.passed_over,
        });
        if why != GapReason::Hidden {
            add(&mut self.lost);
        }
        self.event(
            cx,
            Event::Gap {
                range: numbers,
                reason: why,
            },
        );
    }

    /// Passes over the next missing numbers, up to `last`, and returns the records behind them; for
    /// good, or not. Returns whether there were any.
    pub(super) fn pass_over(
        &mut self,
        cx: &mut Context<'_>,
        last: u64,
        why: GapReason,
        for_good: bool,
    ) -> bool {
        let since = self.since;
        let Some(passed) = self.window.pass_over(last) else {
            return false;
        };
        self.name_passed(cx, passed, why);
        // A new start of the log would have the numbers from before the sender was first heard.
        // Without a session nothing is expected of them any more.
        if let Some(last) = self
            .first
            .checked_sub(1)
            .filter(|&last| passed.first <= last)
        {
            let (first, last) = (passed.first, last.min(passed.last));
            self.before.push(SeqRange { first, last }, 0);
        }
        let (first, last) = (passed.first.max(self.first), passed.last);
        if first <= last {
            let since = since.max(self.first_usec);
            self.gone.push(SeqRange { first, last }, since);
        }
        if for_good {
            self.window.abandon();
        }
        self.turn(cx);
        true
    }

    /// Reports numbers that were passed over, and returns the parts of them that have come in
    /// fragments.
    fn name_passed(&mut self, cx: &mut Context<'_>, passed: SeqRange, why: GapReason) {
        let mut from = passed.first;
        while from <= passed.last {
            let rest = SeqRange {
                first: from,
                last: passed.last,
            };
            let partial = self.window.next_parts(rest);
            let end = partial.unwrap_or(passed.last + 1);
            self.name_past(cx, from, end, why);
            if let Some(seq) = partial {
                match self.window.partial(seq, cx.now) {
                    Some(record) => self.hand_out(cx, record),
                    None => self.name_past(cx, seq, seq + 1, why),
                }
            }
            from = end + 1;
        }
    }

    /// Reports the numbers from `from` to before `end` that lie before the first record that came
    /// by itself.
    pub(super) fn name_past(&mut self, cx: &mut Context<'_>, from: u64, end: u64, why: GapReason) {
        let middle = match why {
            GapReason::Hidden | GapReason::Lost => from,
            _ => self.first.clamp(from, end),
        };
        if from < middle {
            self.name(
                cx,
                SeqRange {
                    first: from,
                    last: middle - 1,
                },
                GapReason::Before,
            );
        }
        if middle < end {
            self.name(
                cx,
                SeqRange {
                    first: middle,
                    last: end - 1,
                },
                why,
            );
        }
    }

    /// Takes numbers that the sender has marked as hidden or lost.
    pub(super) fn mark(&mut self, cx: &mut Context<'_>, marked: wire::Range, why: GapReason) {
        self.activate(cx.now, cx.config);
        if marked.last == u64::MAX || self.window.is_too_far(marked.last) {
            return;
        }
        if let Some(gap) = self.window.notice(marked.last) {
            self.miss(cx.config, cx.now, gap);
        }
        for ranges in [&mut self.gone, &mut self.before] {
            while let Some(gone) = ranges.next(marked.first, marked.last) {
                ranges.cut(gone);
                // A record that was asked for again cannot come.
                self.unconfirmed.forget(gone);
            }
        }
        self.end_late(cx, marked);
        // The usual case: the numbers are next in turn.
        while self.window.out() == self.window.base() && marked.first <= self.window.out() {
            let Some(passed) = self.window.pass_over(marked.last) else {
                break;
            };
            self.name_passed(cx, passed, why);
            self.window.abandon();
            self.turn(cx);
        }
        self.never(cx, marked.first, marked.last, why);
        if let Some(requests) = &mut self.requests {
            self.changed |= requests.answer(cx.now, marked.first, cx.config);
        }
        self.turn(cx);
        self.want_ack(cx.now, cx.config);
    }

    /// Gives up the missing ones among these numbers. The parts of a record are returned in its
    /// turn, or at once if it was passed over.
    pub(super) fn never(
        &mut self,
        cx: &mut Context<'_>,
        mut first: u64,
        last: u64,
        why: GapReason,
    ) {
        while let Some(missing) = self.window.next_missing(first, last) {
            first = missing.first;
            while first <= missing.last {
                let out = self.window.out();
                let end = match first < out {
                    true => missing.last.min(out - 1),
                    false => missing.last,
                };
                let numbers = in_page(first, end);
                first = numbers.last + 1;
                if numbers.last < out {
                    self.end_passed(cx, numbers);
                } else if self.room(cx, numbers.first, 0) {
                    self.window.never(numbers, why, cx.now);
                } else if why == GapReason::Unanswered {
                    self.pass_over(cx, numbers.last, why, true);
                    break;
                }
            }
        }
    }

    /// Gives up these numbers, which are of one page and have been reported.
    fn end_passed(&mut self, cx: &mut Context<'_>, numbers: SeqRange) {
        self.give_up_passed(cx, numbers.first);
        while let Some(seq) = self.window.next_parts(numbers) {
            if let Some(record) = self.window.partial(seq, cx.now) {
                self.hand_out_late(cx, record);
            }
            self.window.settle(seq);
        }
        self.window.end_late(numbers);
    }

    /// Gives up numbers that were passed over for good: returns the parts that have come since.
    fn end_late(&mut self, cx: &mut Context<'_>, marked: wire::Range) {
        let marked = marked.first..=marked.last;
        while let Some(at) = self.late.iter().position(|(seq, _)| marked.contains(seq)) {
            let (seq, mut parts) = self.late.remove(at);
            if let Some(record) = parts.partial(seq, cx.now) {
                self.hand_out_late(cx, record);
            }
        }
    }

    pub(super) fn room(&self, cx: &Context<'_>, seq: u64, size: usize) -> bool {
        let own = self.bytes().saturating_add(size);
        let is_room = |cost| {
            let own = own.saturating_add(cost);
            own <= cx.config.host_memory && own.saturating_add(cx.windows) <= cx.config.total_memory
        };
        // Mostly there is much memory.
        is_room(Window::MOST) || is_room(self.window.cost(seq))
    }

    /// Drops the distinction between numbers that were passed over and may still come, and those
    /// behind them, if there is no memory for it.
    pub(super) fn give_up_passed(&mut self, cx: &mut Context<'_>, seq: u64) {
        if self.window.base() < self.window.out() && !self.room(cx, seq, 0) {
            self.window.abandon();
        }
    }

    /// Makes room for a record that has to wait: gives up the oldest missing ones.
    pub(super) fn make_room(
        &mut self,
        cx: &mut Context<'_>,
        seq: u64,
        size: usize,
    ) -> Result<(), Rejected> {
        self.give_up_passed(cx, seq);
        while !self.room(cx, seq, size) {
            if self.window.place(seq) != Place::Ahead {
                // The record need not wait any more, or there is nothing else to give up. Its own
                // parts and page do not count against it.
                let own = self.window.parts(seq).map_or(0, Assembly::size) + self.window.cost(seq);
                let host = self.window.bytes() <= cx.config.host_memory.saturating_add(own);
                let total =
                    self.bytes().saturating_add(size + cx.windows) <= cx.config.total_memory;
                return match host && (total || size <= SMALL) {
                    true => Ok(()),
                    false => Err(Rejected::NoMemory(seq)),
                };
            }
            if !self.pass_over(cx, seq - 1, GapReason::Memory, true) {
                return Err(Rejected::NoMemory(seq));
            }
        }
        Ok(())
    }

    /// Handles a number too far away to be kept. If the next one is, too, all numbers between are
    /// given up.
    pub(super) fn jump(&mut self, cx: &mut Context<'_>, seq: u64) -> Result<(), Rejected> {
        let near = self
            .suspect
            .is_some_and(|suspect| seq.abs_diff(suspect) < 4096);
        self.suspect = Some(seq);
        if !near {
            return Err(Rejected::OutOfNowhere(seq));
        }
        self.write_out(cx, GapReason::Memory, true);
        let first = self.window.end();
        let base = (seq + 1).saturating_sub(MAX_SPAN);
        if first < base {
            self.name(
                cx,
                SeqRange {
                    first,
                    last: base - 1,
                },
                GapReason::Memory,
            );
        }
        self.window.restart(base.max(first));
        Ok(())
    }

    /// Returns all records of the stream.
    pub(super) fn write_out(&mut self, cx: &mut Context<'_>, why: GapReason, for_good: bool) {
        self.turn(cx);
        while self.pass_over(cx, u64::MAX - 1, why, for_good) {}
        if for_good {
            self.window.abandon();
            let _ = self.window.turn();
        }
    }
}
