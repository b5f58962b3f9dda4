// SPDX-License-Identifier: GPL-2.0

//! One sender's records, from one start of its log to the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::assembly::{Added, Assembly, Contradiction};
use crate::config::{Config, Dialect};
use crate::datagram::{Datagram, Fragment, Rejected};
use crate::identity::{Recent, COPIES, SLACK_USEC};
use crate::queue::Queue;
use crate::ranges::Ranges;
use crate::record::{Event, Numbers, Session, Stored, StreamId, Why};
use crate::requests::Requests;
use crate::response;
use crate::stats::{Manner, Resume};
use crate::window::{Place, Turn, Window, MAX_SPAN};
use crate::wire;

/// The longest time from one acknowledgement to the next to a sender that has shown no sign that it
/// listens: half of the time after which one that does would begin to send again.
const ACK_UNKNOWN: Duration = Duration::from_secs(5);
/// The same for one that has not answered: it may have learnt to.
const ACK_PASSIVE: Duration = Duration::from_secs(60);

/// How long after the last acknowledgement it is said again, each time twice as long, and how often.
const ACK_AGAIN: Duration = Duration::from_secs(1);
const ACK_REPEATS: u32 = 3;

/// An emergency datagram says that something is missing, which may be what comes after all that is
/// known: so many numbers are asked for in case they are used, once no new one has come for so long.
/// While they still come, what is missing among them shows by itself, and what is behind them may
/// be on its way.
const LOOK_AHEAD: u64 = 10_000;
const LOOK_QUIET: Duration = Duration::from_millis(500);

/// How many numbers before a missing one are looked at for one whose clock is known.
const NEAR: u64 = 64;

/// How often a number is asked for before it is given up, if the sender answers but knows no way to
/// say that it has not got it: if nothing else is answered either for so long, or while it is. One
/// with a small budget may take minutes to answer all.
const VAIN: u32 = 80;
const VAIN_QUIET: Duration = Duration::from_secs(5);
const VAIN_BUSY: u32 = 8 * VAIN;

/// Of how many records that were passed over for good fragments are kept.
const LATE: usize = 16;

/// What all streams of a receiver share.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    pub(crate) queue: &'a mut Queue,
    /// What the windows of all other streams take, in bytes.
    pub(crate) windows: usize,
}

/// Acknowledgements.
#[derive(Debug)]
struct Acks {
    due: Option<Instant>,
    interval: Duration,
    /// What was acknowledged last.
    sent: Option<u64>,
    repeats: u32,
}

/// A time, the number after the last that had been handed out then, and the clock of that.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    seq: u64,
    usec: u64,
}

/// Whether a datagram is of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    No,
    Yes,
    /// It may well be a copy of something that came long ago.
    Copy,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) session: Option<Session>,
    /// When the session was first seen.
    adopted: Option<Instant>,
    window: Window,
    /// What was passed over, and may come late.
    gone: Ranges,
    /// What had been logged before it was heard, and was passed over.
    before: Option<Numbers>,
    /// Fragments of what was passed over for good: the window is beyond it.
    late: Vec<(u64, Assembly)>,
    /// Without a session: the records that came last.
    recent: Option<Box<Recent>>,
    requests: Option<Box<Requests>>,
    manner: Manner,
    pub(crate) heard: Instant,
    /// The clock of the record with the highest number.
    usec: u64,
    /// The clock of the last record that was handed out in order: none from `out` on has one much
    /// before that.
    since: u64,
    /// The same of the last one with none missing before it, and as it was when `settled` was set.
    complete: u64,
    settled_usec: u64,
    /// Where it was at some time within the last [`COPIES`], and that long before: of what has come
    /// since then the network may bring copies.
    lately: [Mark; 2],
    /// The first number that came, and its clock: none above it has one much before that.
    first: u64,
    first_usec: u64,
    /// The number of the last output that is its own.
    last_output: u64,
    /// What may be acknowledged.
    settled: Option<u64>,
    acks: Acks,
    /// When to look ahead; and when a new number last came by itself, or that was last done.
    look: Option<Instant>,
    grown: Instant,
    /// Whether it was written out for its silence.
    silent: bool,
    /// A number out of nowhere.
    suspect: Option<u64>,
    records: u64,
    lost: u64,
    /// Whether something may be due earlier than was known when it was last asked.
    changed: bool,
}

impl Stream {
    fn with_base(id: StreamId, now: Instant, base: u64, config: &Config) -> Self {
        Self {
            id,
            session: None,
            adopted: None,
            window: Window::new(base),
            gone: Ranges::default(),
            before: None,
            late: Vec::new(),
            recent: Some(Recent::new()),
            requests: None,
            manner: Manner::Unknown,
            heard: now,
            usec: 0,
            since: 0,
            complete: 0,
            settled_usec: 0,
            lately: [Mark {
                at: now,
                seq: base,
                usec: 0,
            }; 2],
            first: base,
            first_usec: 0,
            last_output: 0,
            settled: base.checked_sub(1),
            acks: Acks {
                due: None,
                interval: config.ack_interval,
                sent: None,
                repeats: 0,
            },
            look: None,
            grown: now,
            silent: false,
            suspect: None,
            records: 0,
            lost: 0,
            changed: true,
        }
    }

    /// A stream whose first record that came is this one, which is to be taken next.
    pub(crate) fn begin(
        cx: &mut Context<'_>,
        id: StreamId,
        now: Instant,
        datagram: &Datagram<'_>,
        again: bool,
    ) -> Self {
        let first = datagram.seq;
        let base = match cx.config.history {
            true => first.saturating_sub(MAX_SPAN - 1),
            false => first,
        };
        let mut stream = Self::with_base(id, now, base, cx.config);
        (stream.first, stream.first_usec) = (first, datagram.usec);
        for mark in &mut stream.lately {
            // What was before it comes only for a request.
            (mark.seq, mark.usec) = (first, datagram.usec);
        }
        if base < first {
            // It need not be waited for: who does not ask for the past gets none.
            let long_ago = now.checked_sub(cx.config.reorder).unwrap_or(now);
            let past = Numbers {
                first: base,
                last: first - 1,
            };
            let _ = stream.window.notice(first - 1);
            stream.requests(cx.config).notice(long_ago, past);
        }
        // The first thing that is said is that sessions are known.
        stream.acks.due = Some(now);
        let first = Some(base);
        stream.event(cx, now, Event::Began { first, again });
        stream
    }

    /// A stream that was received before.
    pub(crate) fn resume(id: StreamId, now: Instant, from: Resume, config: &Config) -> Self {
        let mut stream = Self::with_base(id, now, from.settled.saturating_add(1), config);
        (stream.usec, stream.since) = (from.usec, from.usec);
        (stream.complete, stream.settled_usec) = (from.usec, from.usec);
        stream.lately[0].usec = from.usec;
        // Copies may come of what the other receiver had of late.
        let before = from.usec.saturating_sub(COPIES.as_micros() as u64);
        (stream.lately[1].seq, stream.lately[1].usec) = (0, before);
        if let Some(session) = from.session {
            stream.adopt(now, session, config);
        }
        stream
    }

    /// The sender has told its session.
    pub(crate) fn adopt(&mut self, now: Instant, session: Session, config: &Config) {
        self.session = Some(session);
        self.adopted = Some(now);
        // With a session nothing else can be taken for it.
        if let Some(before) = self.before.take() {
            self.gone.push_front(before, 0);
            // It was passed over because no answer came.
            self.manner = Manner::Passive;
        }
        self.activate(now, config);
    }

    /// The sender has shown that it listens. If it had seemed not to, what was passed over for that
    /// is asked for.
    fn activate(&mut self, now: Instant, config: &Config) {
        if std::mem::replace(&mut self.manner, Manner::Active) != Manner::Passive {
            return;
        }
        let base = self.window.base();
        let gone: Vec<_> = self.gone.iter().filter(|gone| gone.first < base).collect();
        for numbers in gone {
            self.requests(config).notice(now, numbers);
        }
    }

    fn requests(&mut self, config: &Config) -> &mut Requests {
        self.changed = true;
        self.requests
            .get_or_insert_with(|| Box::new(Requests::new(config)))
    }

    /// Whether a datagram that names no session, or the first session of a sender, is of this stream.
    pub(crate) fn fits(&self, now: Instant, datagram: &Datagram<'_>) -> Fit {
        let (seq, usec) = (datagram.seq, datagram.usec);
        if self.adopted.is_some_and(|adopted| now > adopted + COPIES) {
            // It has named its session with every record since, and would go on to.
            return Fit::No;
        }
        let after = |clock| usec.saturating_add(SLACK_USEC) >= clock;
        let yes = |fits| if fits { Fit::Yes } else { Fit::No };
        if seq >= self.window.end() {
            return yes(after(self.usec));
        }
        if datagram.is_substitute() {
            // It has no clock.
            return Fit::Yes;
        }
        if let Some((known, at)) = self.recent.as_ref().and_then(|recent| recent.get(seq)) {
            return yes(usec == known
                && (now < at + COPIES || datagram.emergency || self.manner == Manner::Active));
        }
        if let Some(known) = self.window.usec(seq) {
            // The record itself may come after what stands for it, which has no clock.
            return yes(usec == known || known == 0);
        }
        let missing_since = match self.window.place(seq) {
            Place::Next | Place::Ahead => Some(self.clock_before(seq)),
            // What was logged before it was heard comes only for a request.
            Place::Late => {
                let answers = self.manner == Manner::Active;
                self.gone.since(seq).or(answers.then_some(0))
            }
            Place::Settled => self.gone.since(seq),
        };
        if let Some(since) = missing_since {
            return yes(after(since) && usec <= self.usec.saturating_add(SLACK_USEC));
        }
        if self.window.place(seq) == Place::Late {
            return Fit::No;
        }
        let requests = self.requests.as_ref();
        let last = |mark: &Mark| usec > 0 && usec == mark.usec && seq < mark.seq;
        if self.lately.iter().any(last) {
            // That of which the clock was remembered when a receiver goes on.
            return Fit::Yes;
        }
        let [_, mark] = self.lately;
        if seq >= mark.seq && after(mark.usec) && usec <= self.usec.saturating_add(SLACK_USEC) {
            return Fit::Copy;
        }
        match datagram.emergency || requests.is_some_and(|requests| requests.may_bring(now, seq)) {
            true => Fit::Copy,
            false => Fit::No,
        }
    }

    /// The clock of a record before this one, which is missing.
    fn clock_before(&self, seq: u64) -> u64 {
        let known = |seq| {
            let recent = self.recent.as_ref()?.get(seq).map(|(usec, _)| usec);
            recent.or_else(|| self.window.usec(seq))
        };
        let near = (seq.saturating_sub(NEAR)..seq).rev().find_map(known);
        near.unwrap_or(self.since)
    }

    /// Takes a datagram of this stream.
    pub(crate) fn take(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        self.hear(cx, now);
        let seq = datagram.seq;
        if self.window.is_too_far(seq) {
            self.jump(cx, now, seq)?;
        }
        if datagram.emergency {
            cx.queue.stats.emergencies += 1;
            self.activate(now, cx.config);
            self.acks.due = Some(now);
            self.changed = true;
            self.look = Some(now.max(self.grown + LOOK_QUIET));
        }
        if seq >= self.window.end() {
            self.usec = datagram.usec;
            if !datagram.emergency {
                self.grown = now;
            }
            if let Some(gap) = self.window.notice(seq) {
                self.requests(cx.config).notice(now, gap);
            }
        }
        for (marked, why) in [(datagram.skip, Why::Hidden), (datagram.lost, Why::Lost)] {
            if let Some(marked) = marked {
                self.mark(cx, now, marked, why);
            }
        }
        let place = self.window.place(seq);
        if place == Place::Settled && !self.gone.contains(seq) {
            cx.queue.stats.duplicates += 1;
            if let Some(requests) = self.requests.as_mut().filter(|_| !datagram.emergency) {
                if requests.may_bring(now, seq) {
                    requests.copy(cx.config);
                }
            }
            return Ok(());
        }
        let record = match datagram.fragment {
            None => Stored::whole(datagram, now),
            Some(fragment) => match self.take_fragment(cx, now, datagram, fragment)? {
                Some(record) => record,
                None => return Ok(()),
            },
        };
        self.answered(cx, now, datagram);
        if let Some(recent) = self.recent.as_mut().filter(|_| !datagram.is_substitute()) {
            recent.push(datagram, now);
        }
        self.settle(cx, now, record)
    }

    /// Takes a fragment of a record that is not settled, or was passed over. The record, if it is whole.
    fn take_fragment(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        datagram: &Datagram<'_>,
        fragment: Fragment,
    ) -> Result<Option<Stored>, Rejected> {
        let seq = datagram.seq;
        cx.queue.stats.fragments += 1;
        let size = datagram.body.len() + datagram.header.len() + 1024;
        let mut contradicted = false;
        let mut add = |parts: &mut Assembly| {
            let added = parts.add(datagram, fragment, &mut contradicted)?;
            let whole = added == Added::Whole;
            Ok((added, parts.record(seq, now).filter(|_| whole)))
        };
        let added: Result<_, Contradiction> = if self.window.place(seq) != Place::Settled {
            self.make_room(cx, now, seq, size)?;
            if self.window.parts(seq).is_none() {
                let (first, last) = (seq, seq);
                self.requests(cx.config).notice(now, Numbers { first, last });
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
                    // It is asked for again.
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

    /// Something of the sender has come.
    pub(crate) fn hear(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.heard = now;
        if now >= self.lately[0].at + COPIES {
            let mark = Mark {
                at: now,
                seq: self.window.out(),
                usec: self.since,
            };
            self.lately = [mark, self.lately[0]];
        }
        if self.silent {
            self.silent = false;
            self.event(cx, now, Event::Resumed);
        }
        if self.recent.is_some() && self.adopted.is_some_and(|adopted| now > adopted + COPIES) {
            self.recent = None;
        }
    }

    /// A record of a number that was missing is an answer, if it was asked for.
    fn answered(&mut self, cx: &Context<'_>, now: Instant, datagram: &Datagram<'_>) {
        let Some(requests) = &mut self.requests else {
            return;
        };
        if requests.is_answer(datagram.seq) {
            self.changed |= requests.answer(now, cx.config);
            self.activate(now, cx.config);
        }
    }

    /// The record is whole: hands it out, or keeps it.
    fn settle(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        record: Stored,
    ) -> Result<(), Rejected> {
        let seq = record.seq;
        if cx.queue.is_full(cx.config) {
            self.requests(cx.config).notice(
                now,
                Numbers {
                    first: seq,
                    last: seq,
                },
            );
            return Err(Rejected::NoMemory(seq));
        }
        self.give_up_passed(cx, seq);
        match self.window.place(seq) {
            Place::Settled => {
                self.gone.remove(seq);
                self.hand_out(cx, record, true);
            }
            Place::Late => {
                self.gone.remove(seq);
                self.hand_out(cx, record, true);
                self.window.settle(seq);
            }
            Place::Next => {
                self.hand_out(cx, record, false);
                self.window.settle(seq);
            }
            Place::Ahead => {
                self.make_room(cx, now, seq, record.size())?;
                match self.window.place(seq) {
                    Place::Ahead => self.window.keep(record),
                    _ => {
                        self.hand_out(cx, record, false);
                        self.window.settle(seq);
                    }
                }
            }
        }
        self.turn(cx, now);
        self.want_ack(now, cx.config);
        Ok(())
    }

    fn hand_out(&mut self, cx: &mut Context<'_>, record: Stored, late: bool) {
        self.records += 1;
        if !late && record.usec > 0 {
            self.since = record.usec;
            if self.window.base() == self.window.out() {
                self.complete = record.usec;
            }
        }
        self.last_output = cx.queue.record(self.id, self.session, record, late);
    }

    fn event(&mut self, cx: &mut Context<'_>, now: Instant, event: Event) {
        self.last_output = cx.queue.event(self.id, self.session, now, event);
    }

    /// Hands out all whose turn it is.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut gap: Option<(Numbers, Why)> = None;
        while let Some(turn) = self.window.turn() {
            match turn {
                Turn::Never(seq, why) => {
                    if let Some((numbers, known)) = &mut gap {
                        if *known == why && numbers.last + 1 == seq {
                            numbers.last = seq;
                            continue;
                        }
                        self.name_never(cx, now, *numbers, *known);
                    }
                    gap = Some((
                        Numbers {
                            first: seq,
                            last: seq,
                        },
                        why,
                    ));
                }
                Turn::Record(record) => {
                    if let Some((numbers, why)) = gap.take() {
                        self.name_never(cx, now, numbers, why);
                    }
                    self.hand_out(cx, *record, false);
                }
            }
        }
        if let Some((numbers, why)) = gap {
            self.name_never(cx, now, numbers, why);
        }
    }

    /// Says that numbers will never come; they still may if it is only not known why.
    fn name_never(&mut self, cx: &mut Context<'_>, now: Instant, numbers: Numbers, why: Why) {
        if why == Why::Unanswered {
            self.gone.push(numbers, self.since.max(self.first_usec));
        }
        self.name(cx, now, numbers, why);
    }

    /// Says that numbers were passed over.
    fn name(&mut self, cx: &mut Context<'_>, now: Instant, numbers: Numbers, why: Why) {
        // Whoever makes the numbers up can leave out more of them than can be counted.
        let add = |sum: &mut u64| *sum = sum.saturating_add(numbers.count());
        let stats = &mut cx.queue.stats;
        add(match why {
            Why::Hidden => &mut stats.hidden,
            Why::Lost => &mut stats.lost,
            _ => &mut stats.passed_over,
        });
        if why != Why::Hidden {
            add(&mut self.lost);
        }
        self.event(cx, now, Event::Gap(numbers, why));
    }

    /// Passes over the missing numbers that are next, up to `last`, and hands out what is behind
    /// them. For good, or they may still come. Was there anything?
    fn pass_over(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        last: u64,
        why: Why,
        for_good: bool,
    ) -> bool {
        let since = self.since;
        let Some(passed) = self.window.pass_over(last) else {
            return false;
        };
        let mut from = passed.first;
        while from <= passed.last {
            let rest = Numbers {
                first: from,
                last: passed.last,
            };
            // What there is of a record in fragments is better than nothing.
            let partial = self.window.next_parts(rest);
            let end = partial.unwrap_or(passed.last + 1);
            self.name_past(cx, now, from, end, why);
            if let Some(seq) = partial {
                match self
                    .window
                    .parts(seq)
                    .and_then(|parts| parts.record(seq, now))
                {
                    Some(record) => self.hand_out(cx, record, false),
                    None => self.name_past(cx, now, seq, seq + 1, why),
                }
            }
            from = end + 1;
        }
        // The numbers of what was logged before it was heard are those that a new start of the log
        // would have: unless a session is told nothing is expected of it any more.
        if let Some(last) = self.first.checked_sub(1).filter(|&last| passed.first <= last) {
            let first = self.before.map_or(passed.first, |before| before.first);
            let last = last.min(passed.last);
            self.before = Some(Numbers { first, last });
        }
        let (first, last) = (passed.first.max(self.first), passed.last);
        if first <= last {
            let since = since.max(self.first_usec);
            self.gone.push(Numbers { first, last }, since);
        }
        if for_good {
            self.window.abandon();
        }
        self.turn(cx, now);
        true
    }

    /// Names the numbers from `from` to before `end`, those before the first that came by
    /// themselves.
    fn name_past(&mut self, cx: &mut Context<'_>, now: Instant, from: u64, end: u64, why: Why) {
        let middle = match why {
            Why::Hidden | Why::Lost => from,
            _ => self.first.clamp(from, end),
        };
        if from < middle {
            self.name(
                cx,
                now,
                Numbers {
                    first: from,
                    last: middle - 1,
                },
                Why::Before,
            );
        }
        if middle < end {
            self.name(
                cx,
                now,
                Numbers {
                    first: middle,
                    last: end - 1,
                },
                why,
            );
        }
    }

    /// The sender says that there are no records of these numbers.
    fn mark(&mut self, cx: &mut Context<'_>, now: Instant, marked: wire::Range, why: Why) {
        self.activate(now, cx.config);
        if marked.last == u64::MAX || self.window.is_too_far(marked.last) {
            return;
        }
        if let Some(gap) = self.window.notice(marked.last) {
            self.requests(cx.config).notice(now, gap);
        }
        let mut from = marked.first.max(self.window.base());
        if let Some(last) = self.window.base().checked_sub(1) {
            while let Some(gone) = self.gone.next(marked.first, marked.last.min(last)) {
                self.gone.cut(gone);
            }
        }
        while let Some(numbers) = self.window.next_missing(from, marked.last) {
            from = numbers.last + 1;
            if numbers.first == self.window.out() && numbers.first == self.window.base() {
                if let Some(passed) = self.window.pass_over(numbers.last) {
                    self.name(cx, now, passed, why);
                    self.window.abandon();
                    self.turn(cx, now);
                }
                continue;
            }
            for seq in numbers.first..=numbers.last {
                if seq < self.window.out() {
                    self.gone.remove(seq);
                    self.window.settle(seq);
                } else if self.room(cx, seq, 0) {
                    self.window.never(seq, why);
                }
            }
        }
        if let Some(requests) = &mut self.requests {
            self.changed |= requests.answer(now, cx.config);
        }
        self.turn(cx, now);
        self.want_ack(now, cx.config);
    }

    fn room(&self, cx: &Context<'_>, seq: u64, size: usize) -> bool {
        let own = self
            .bytes()
            .saturating_add(size)
            .saturating_add(self.window.cost(seq));
        own <= cx.config.host_memory && own.saturating_add(cx.windows) <= cx.config.total_memory
    }

    /// Numbers that were passed over, and may still come, are not kept apart from those behind them if
    /// there is no more memory for that.
    fn give_up_passed(&mut self, cx: &mut Context<'_>, seq: u64) {
        if self.window.base() < self.window.out() && !self.room(cx, seq, 0) {
            self.window.abandon();
        }
    }

    /// Makes room for a record that has to wait: gives up the oldest that are waited for.
    fn make_room(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        seq: u64,
        size: usize,
    ) -> Result<(), Rejected> {
        self.give_up_passed(cx, seq);
        while !self.room(cx, seq, size) {
            if self.window.place(seq) != Place::Ahead {
                // It need not wait any more; or there is nothing else to be given up.
                return match self.window.bytes() <= cx.config.host_memory {
                    true => Ok(()),
                    false => Err(Rejected::NoMemory(seq)),
                };
            }
            if !self.pass_over(cx, now, seq - 1, Why::Memory, true) {
                return Err(Rejected::NoMemory(seq));
            }
        }
        Ok(())
    }

    /// A number too far away to be kept. If the next one is as well, all that is between is given up.
    fn jump(&mut self, cx: &mut Context<'_>, now: Instant, seq: u64) -> Result<(), Rejected> {
        let near = self
            .suspect
            .is_some_and(|suspect| seq.abs_diff(suspect) < 4096);
        self.suspect = Some(seq);
        if !near {
            return Err(Rejected::OutOfNowhere(seq));
        }
        self.write_out(cx, now, Why::Memory, true);
        let first = self.window.end();
        let base = (seq + 1).saturating_sub(MAX_SPAN);
        if first < base {
            self.name(
                cx,
                now,
                Numbers {
                    first,
                    last: base - 1,
                },
                Why::Memory,
            );
        }
        self.window.restart(base.max(first));
        Ok(())
    }

    /// Hands out all there is.
    fn write_out(&mut self, cx: &mut Context<'_>, now: Instant, why: Why, for_good: bool) {
        self.turn(cx, now);
        while self.pass_over(cx, now, u64::MAX - 1, why, for_good) {}
        if for_good {
            self.window.abandon();
            let _ = self.window.turn();
        }
    }

    /// The stream has ended: hands out all there is. What may still come is told by what is returned.
    pub(crate) fn end(mut self, cx: &mut Context<'_>, now: Instant) -> Former {
        self.write_out(cx, now, Why::Ended, true);
        self.event(cx, now, Event::Ended);
        Former {
            id: self.id,
            session: self.session,
            gone: self.gone,
            end: self.window.end(),
            usec: self.usec,
            ended: now,
            last_output: self.last_output,
        }
    }

    /// The receiver stops: hands out all there is.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.update_settled(cx);
        self.write_out(cx, now, Why::Stopped, false);
    }

    fn want_ack(&mut self, now: Instant, config: &Config) {
        if self.acks.due.is_some() && self.acks.repeats == 0 {
            // It is due no later than one from now on would be.
            return;
        }
        self.acks.repeats = 0;
        let due = now + self.acks.interval.max(config.ack_interval);
        let due = self.acks.due.map_or(due, |old| old.min(due));
        self.acks.due = Some(due);
        self.changed = true;
    }

    /// What may be acknowledged: what is settled, once all that was handed out is written.
    fn update_settled(&mut self, cx: &Context<'_>) {
        if self.last_output <= cx.queue.written() {
            self.settled = self.window.base().checked_sub(1);
            self.settled_usec = self.complete;
        }
    }

    /// Whether [`Self::deadline`] may be earlier than it was when this was last called.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// When [`Self::poll`] has something to do.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        let asks = self
            .requests
            .as_ref()
            .and_then(|requests| match self.manner {
                Manner::Passive => requests.expires(config.passive_hold),
                Manner::Unknown | Manner::Active => requests.deadline(config),
            });
        let silence =
            (self.window.is_waiting() && !self.silent).then(|| self.heard + config.silence);
        [asks, silence, self.acks.due, self.look]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Instant, host: SocketAddr) {
        if self.window.is_waiting() && !self.silent && now >= self.heard + cx.config.silence {
            let passive = self.manner == Manner::Passive;
            // If it is silent since it starts anew, nothing but a session tells what it logs then
            // from what it had logged before it was heard.
            if let (None, Some(before)) = (self.session, self.first.checked_sub(1)) {
                while self.pass_over(cx, now, before, Why::Silence, true) {}
            }
            self.write_out(cx, now, Why::Silence, passive);
            self.silent = true;
        }
        let mut missing = Vec::new();
        if self.manner == Manner::Passive {
            self.expire(cx, now);
        } else {
            self.ask(cx, now, &mut missing);
        }
        let ack = self.acks.due.is_some_and(|due| due <= now);
        if !ack && missing.is_empty() {
            return;
        }
        self.update_settled(cx);
        let (dialect, session) = (cx.config.dialect, self.session);
        let settled = match dialect {
            // To our senders a 0 says nothing.
            Dialect::Nca => self.settled.filter(|&seq| seq > 0),
            // nctx takes a response without an ack for one that acks everything. (This one acks
            // record 0, which may be missing.)
            Dialect::Ncrx => Some(self.settled.unwrap_or(0)),
        };
        cx.queue.stats.requested += missing.iter().map(Numbers::count).sum::<u64>();
        response::write(dialect, settled, &missing, session, |bytes| {
            cx.queue.respond(host, bytes);
        });
        if ack {
            self.acked(cx.config, now);
        }
    }

    /// An acknowledgement has been said: when is the next?
    fn acked(&mut self, config: &Config, now: Instant) {
        let acks = &mut self.acks;
        let most = match self.manner {
            Manner::Active => config.ack_interval,
            Manner::Unknown => ACK_UNKNOWN,
            Manner::Passive => ACK_PASSIVE,
        };
        acks.interval =
            (acks.interval * 2).clamp(config.ack_interval, most.max(config.ack_interval));
        if acks.sent != self.settled {
            (acks.sent, acks.repeats) = (self.settled, 0);
        }
        let open = self.window.base().checked_sub(1) != self.settled;
        acks.due = if open && self.manner == Manner::Active {
            // Something is yet to be written.
            Some(now + config.ack_interval)
        } else if acks.repeats < ACK_REPEATS && self.manner != Manner::Passive {
            let wait = (ACK_AGAIN * (1 << acks.repeats)).max(acks.interval);
            acks.repeats += 1;
            Some(now + wait)
        } else {
            None
        };
    }

    /// Gives up what a sender that does not answer has been waited for long enough.
    fn expire(&mut self, cx: &mut Context<'_>, now: Instant) {
        loop {
            let hold = cx.config.passive_hold;
            let Some(numbers) = self.requests(cx.config).expired(now, hold) else {
                return;
            };
            while self.pass_over(cx, now, numbers.last, Why::Passive, true) {}
        }
    }

    /// Collects what is to be asked for now.
    fn ask(&mut self, cx: &mut Context<'_>, now: Instant, missing: &mut Vec<Numbers>) {
        let mut vain = Vec::new();
        if let Some(requests) = &mut self.requests {
            // A sender with sessions says if it has not got something.
            let most = if self.session.is_some() {
                u32::MAX
            } else if requests.is_unanswered(now, VAIN_QUIET) {
                VAIN
            } else {
                VAIN_BUSY
            };
            let (window, gone) = (&self.window, &self.gone);
            requests.poll(
                now,
                cx.config,
                most,
                |first, last| {
                    // Below `base` the window knows nothing.
                    let below = window.base().checked_sub(1);
                    below
                        .and_then(|below| gone.next(first, below.min(last)))
                        .or_else(|| window.next_missing(first, last))
                },
                |numbers| missing.push(numbers),
                |numbers| vain.push(numbers),
            );
            if self.manner == Manner::Unknown && requests.in_vain(now, cx.config.passive_after) {
                self.manner = Manner::Passive;
                missing.clear();
                self.window.abandon();
                self.turn(cx, now);
                self.expire(cx, now);
                return;
            }
        }
        for numbers in vain {
            for seq in numbers.first..=numbers.last {
                if self.window.place(seq) == Place::Settled {
                    // It is in two gaps.
                } else if seq < self.window.out() {
                    // It has been named.
                    self.window.settle(seq);
                } else if self.room(cx, seq, 0) {
                    self.window.never(seq, Why::Unanswered);
                } else {
                    self.pass_over(cx, now, seq, Why::Unanswered, true);
                }
            }
            self.turn(cx, now);
        }
        if self.look.is_some_and(|due| due <= now) {
            self.look = None;
            let quiet = now >= self.grown + LOOK_QUIET;
            if quiet && self.session.is_some() && cx.config.dialect == Dialect::Nca {
                self.grown = now;
                let first = self.window.end();
                let last = first.saturating_add(LOOK_AHEAD - 1);
                missing.push(Numbers { first, last });
            }
        }
    }

    /// What is kept of it, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let late = self.late.iter().map(|(_, parts)| parts.size());
        self.window.bytes() + late.sum::<usize>()
    }

    /// Whether everything that was handed out of it is written.
    pub(crate) fn is_written(&self, queue: &Queue) -> bool {
        self.last_output <= queue.written()
    }

    /// What is known of it: see [`Sender`](crate::Sender).
    pub(crate) fn describe(&self, host: SocketAddr, queue: &Queue) -> crate::stats::Sender {
        let (settled, usec) = match self.is_written(queue) {
            true => (self.window.base().checked_sub(1), self.complete),
            false => (self.settled, self.settled_usec),
        };
        crate::stats::Sender {
            host,
            stream: self.id,
            session: self.session,
            manner: self.manner,
            settled,
            usec,
            highest: self.window.end().checked_sub(1),
            missing: self.window.missing(),
            records: self.records,
            lost: self.lost,
            bytes: self.window.bytes(),
            heard: self.heard,
        }
    }
}

/// A stream that has ended: the network may still bring something of it.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) id: StreamId,
    pub(crate) session: Option<Session>,
    gone: Ranges,
    end: u64,
    usec: u64,
    ended: Instant,
    pub(crate) last_output: u64,
}

impl Former {
    /// Whether a datagram that names no session is of this stream and not of `current`, whose clock
    /// cannot have come that far since it began, after this one.
    pub(crate) fn claims(&self, now: Instant, datagram: &Datagram<'_>, current: &Stream) -> bool {
        let elapsed = now.saturating_duration_since(self.ended);
        let usec = elapsed.as_secs() * 1_000_000;
        elapsed < COPIES
            && self.session.is_none()
            && datagram.usec > current.usec.saturating_add(usec + 10 * SLACK_USEC)
            && datagram.usec <= self.usec.saturating_add(usec + SLACK_USEC)
            && datagram.seq < self.end.saturating_add(4096)
    }

    /// Hands out a record that comes late; of one in fragments nothing is kept.
    pub(crate) fn take(&mut self, queue: &mut Queue, now: Instant, datagram: &Datagram<'_>) {
        let seq = datagram.seq;
        let new = seq >= self.end;
        if datagram.fragment.is_some() || !(new || self.gone.remove(seq)) {
            queue.stats.duplicates += 1;
            return;
        }
        if new {
            if self.end < seq {
                let (first, last) = (self.end, seq - 1);
                self.gone.push(Numbers { first, last }, self.usec);
            }
            self.end = seq + 1;
        }
        let record = Stored::whole(datagram, now);
        self.last_output = queue.record(self.id, self.session, record, true);
    }
}
