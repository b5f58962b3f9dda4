// SPDX-License-Identifier: GPL-2.0

//! What is handed out in its turn, and what is passed over: why, and whether it may still come.

use super::{Context, Stream};
use crate::assembly::Assembly;
use crate::datagram::Rejected;
use crate::pages::in_page;
use crate::proto::wire;
use crate::record::{Event, GapReason, Kind, SeqRange};
use crate::window::{Place, Turn, Window, MAX_SPAN};

/// A record of which it is the turn is taken in even if the others have all the memory, or they
/// might wait for each other; but only if its fragments take no more than this. printk's records
/// have at most 2 KiB.
const SMALL: usize = 4096;

impl Stream {
    /// Hands out all whose turn it is.
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
                        // It was only asked for in vain.
                        let (first, last) = (record.seq, record.seq);
                        let since = self.since.max(self.first_usec);
                        self.gone.push(SeqRange { first, last }, since);
                    }
                    self.hand_out(cx, record, false);
                    // Mostly many have waited for the one that was missing.
                    let (id, session) = (self.id, self.session);
                    self.window.turn_run(|mut record| {
                        self.records += 1;
                        self.unconfirmed.add(record.seq);
                        record.nth = 0;
                        if record.usec > 0 {
                            self.since = record.usec;
                        }
                        self.last_output = cx.queue.record(id, session, record, false);
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

    /// Says that numbers will never come; they still may if it is only not known why.
    pub(super) fn name_never(&mut self, cx: &mut Context<'_>, numbers: SeqRange, why: GapReason) {
        if why == GapReason::Unanswered {
            self.gone.push(numbers, self.since.max(self.first_usec));
        }
        self.name(cx, numbers, why);
    }

    /// Says that numbers were passed over.
    pub(super) fn name(&mut self, cx: &mut Context<'_>, numbers: SeqRange, why: GapReason) {
        // Whoever makes the numbers up can leave out more of them than can be counted.
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

    /// Passes over the missing numbers that are next, up to `last`, and hands out what is behind
    /// them. For good, or they may still come. Was there anything?
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
        // The numbers of what was logged before it was heard are those that a new start of the log
        // would have: unless a session is told nothing is expected of it any more.
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

    /// Names numbers that were passed over, and hands out what there is of them in fragments: that
    /// is better than nothing.
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
                    Some(record) => self.hand_out(cx, record, false),
                    None => self.name_past(cx, seq, seq + 1, why),
                }
            }
            from = end + 1;
        }
    }

    /// Names the numbers from `from` to before `end`, those before the first that came by
    /// themselves.
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

    /// The sender says that there are no records of these numbers.
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
            }
        }
        self.end_late(cx, marked);
        // The usual case: they are next.
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

    /// Nothing more will come of the numbers among these that are missing. What there is of a
    /// record is handed out in its turn, or at once if it was passed over.
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

    /// Nothing more will come of these numbers, which are of one page and have been named.
    fn end_passed(&mut self, cx: &mut Context<'_>, numbers: SeqRange) {
        self.give_up_passed(cx, numbers.first);
        while let Some(seq) = self.window.next_parts(numbers) {
            if let Some(record) = self.window.partial(seq, cx.now) {
                self.hand_out(cx, record, true);
            }
            self.window.settle(seq);
        }
        self.window.end_late(numbers);
    }

    /// Nothing more will come of numbers that were passed over for good: hands out what has come
    /// since.
    fn end_late(&mut self, cx: &mut Context<'_>, marked: wire::Range) {
        let marked = marked.first..=marked.last;
        while let Some(at) = self.late.iter().position(|(seq, _)| marked.contains(seq)) {
            let (seq, mut parts) = self.late.remove(at);
            if let Some(record) = parts.partial(seq, cx.now) {
                self.hand_out(cx, record, true);
            }
        }
    }

    pub(super) fn room(&self, cx: &Context<'_>, seq: u64, size: usize) -> bool {
        let own = self.bytes().saturating_add(size);
        let is_room = |cost| {
            let own = own.saturating_add(cost);
            own <= cx.config.host_memory && own.saturating_add(cx.windows) <= cx.config.total_memory
        };
        // Mostly there is much.
        is_room(Window::MOST) || is_room(self.window.cost(seq))
    }

    /// Numbers that were passed over, and may still come, are not kept apart from those behind them
    /// if there is no more memory for that.
    pub(super) fn give_up_passed(&mut self, cx: &mut Context<'_>, seq: u64) {
        if self.window.base() < self.window.out() && !self.room(cx, seq, 0) {
            self.window.abandon();
        }
    }

    /// Makes room for a record that has to wait: gives up the oldest that are waited for.
    pub(super) fn make_room(
        &mut self,
        cx: &mut Context<'_>,
        seq: u64,
        size: usize,
    ) -> Result<(), Rejected> {
        self.give_up_passed(cx, seq);
        while !self.room(cx, seq, size) {
            if self.window.place(seq) != Place::Ahead {
                // It need not wait any more; or there is nothing else to be given up. What there is
                // of itself, and its page, are not held against it.
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

    /// A number too far away to be kept. If the next one is as well, all that is between is given
    /// up.
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

    /// Hands out all there is.
    pub(super) fn write_out(&mut self, cx: &mut Context<'_>, why: GapReason, for_good: bool) {
        self.turn(cx);
        while self.pass_over(cx, u64::MAX - 1, why, for_good) {}
        if for_good {
            self.window.abandon();
            let _ = self.window.turn();
        }
    }
}
