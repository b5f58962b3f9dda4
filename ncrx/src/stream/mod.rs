// SPDX-License-Identifier: GPL-2.0

//! One stream: a sender's records from one start of its log to the next.
//!
//! This file takes datagrams in; the parts deliver, respond, detect restarts and resume.

mod confirm;
mod delivery;
mod responses;
pub(crate) mod restart;
mod resume;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

pub use confirm::Token;
use confirm::Unconfirmed;
use responses::{Acks, CRASH_WAIT, LOOK_QUIET};
pub(crate) use restart::Verdict;
use restart::{
    decide, Evidence, Mark, Number, Recent, RestartDetector, Timestamp, COPIES, SLACK_USEC,
};

use crate::assembly::{Added, Assembly, Contradiction, MAX_BODY};
use crate::config::Config;
use crate::datagram::{Datagram, Fragment, Rejected};
use crate::path::{Credit, AMONG};
use crate::pool::Pool;
use crate::queue::{Of, Queue};
use crate::ranges::Ranges;
use crate::record::{Event, GapReason, SeqRange, Session, Stored, StreamId};
use crate::requests::Requests;
use crate::stats::PeerMode;
use crate::window::{Place, Window, MAX_SPAN};

/// The most records passed over for good whose fragments are kept.
const LATE: usize = 16;

/// How many numbers before a missing one are looked at for one whose timestamp is known.
const NEAR: u64 = 64;

/// What a stream may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Nothing.
    None,
    /// It may ask, and acknowledge what cannot be taken for more of another one's.
    UpTo(Option<u64>),
    /// All.
    Full,
}

/// The time, and what all streams of a receiver share.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) queue: &'a mut Queue,
    /// The memory of all other streams' windows, in bytes.
    pub(crate) windows: usize,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// The place of the sender.
    pub(crate) source: u32,
    pub(crate) session: Option<Session>,
    restart: RestartDetector,
    window: Window,
    /// Numbers that were passed over, and may come late.
    gone: Ranges,
    /// Numbers from before the sender was first heard that were passed over.
    before: Ranges,
    /// Whether all of `gone` is asked for. Then it comes, or the sender says that it is lost.
    owed: bool,
    /// Fragments of records that were passed over for good and are behind the window.
    late: Vec<(u64, Assembly)>,
    requests: Option<Box<Requests>>,
    manner: PeerMode,
    pub(crate) began: Instant,
    pub(crate) heard: Instant,
    /// Whether it has proven itself by more than a session: it has answered what it was asked, or
    /// goes on from what was known of it.
    pub(crate) proven: bool,
    /// Where it was before it moved here, until this place has shown that it hears us.
    pub(crate) home: Option<Box<(SocketAddr, Credit)>>,
    pub(crate) credit: Credit,
    /// Whether it has ended. It may yet go on.
    pub(crate) ended: bool,
    /// The clock of the last record that was handed out in order: none from `out` on has one much
    /// before that.
    since: u64,
    /// The clock of the last record with none missing before it, and the same when `settled` was
    /// set.
    complete: u64,
    settled_usec: u64,
    /// A number that was complete at some time, and its clock: `settled_usec`, once all up to there
    /// is confirmed.
    noted: (u64, u64),
    /// The first number that came, and its clock: none above it has one much before that.
    first: u64,
    first_usec: u64,
    /// The number of the stream's last output.
    last_output: u64,
    /// Records returned and not confirmed.
    unconfirmed: Unconfirmed,
    /// The gaps that are not told yet: the number of the output, and the first that is missing.
    gaps: VecDeque<(u64, u64)>,
    /// The last record that may be acknowledged.
    settled: Option<u64>,
    acks: Acks,
    /// When to look ahead; and when a new number last came by itself, or the last look was.
    look: Option<Instant>,
    grown: Instant,
    /// Whether it was written out because of the sender's silence.
    silent: bool,
    /// Until when a silent sender is asked for nothing.
    quiet_until: Option<Instant>,
    /// When it is written out because the sender has crashed.
    crashed: Option<Instant>,
    /// A number far from all others.
    suspect: Option<u64>,
    records: u64,
    lost: u64,
    /// Whether something may be due earlier than when the deadline was last asked for.
    changed: bool,
}

impl Stream {
    fn with_base(of: Of, now: Instant, base: u64, config: &Config) -> Self {
        Self {
            id: of.stream,
            source: of.source,
            session: None,
            restart: RestartDetector::new(now, base),
            window: Window::new(base),
            gone: Ranges::default(),
            before: Ranges::default(),
            owed: false,
            late: Vec::new(),
            requests: None,
            manner: PeerMode::Unknown,
            began: now,
            heard: now,
            proven: false,
            home: None,
            credit: Credit::default(),
            ended: false,
            since: 0,
            complete: 0,
            settled_usec: 0,
            first: base,
            first_usec: 0,
            last_output: 0,
            unconfirmed: Unconfirmed::default(),
            gaps: VecDeque::new(),
            noted: (base.saturating_sub(1), 0),
            settled: base.checked_sub(1),
            acks: Acks {
                due: None,
                interval: config.ack_interval,
                sent: None,
                repeats: 0,
                urgent: false,
            },
            look: None,
            grown: now,
            silent: false,
            quiet_until: None,
            crashed: None,
            suspect: None,
            records: 0,
            lost: 0,
            changed: true,
        }
    }

    /// Returns a stream that begins with this record, which the caller takes in next.
    pub(crate) fn begin(
        cx: &mut Context<'_>,
        of: Of,
        datagram: &Datagram<'_>,
        again: bool,
    ) -> Self {
        let first = datagram.seq;
        let base = match cx.config.history {
            // Records that are logged meanwhile have to have a place as well.
            true => first.saturating_sub(MAX_SPAN / 2),
            false => first,
        };
        let mut stream = Self::with_base(of, cx.now, base, cx.config);
        (stream.first, stream.first_usec) = (first, datagram.usec);
        for mark in &mut stream.restart.lately {
            // What was before it comes only for a request.
            (mark.seq, mark.usec) = (first, datagram.usec);
        }
        if let Some(session) = datagram.session {
            // Before the stream is reported.
            stream.adopt(cx.now, session, cx.config);
        }
        if base < first {
            // No wait: a receiver that does not ask for history gets none.
            let long_ago = cx.now.checked_sub(cx.config.reorder).unwrap_or(cx.now);
            let past = SeqRange {
                first: base,
                last: first - 1,
            };
            let _ = stream.window.notice(first - 1);
            stream.miss(cx.config, long_ago, past);
        }
        // The first response says that sessions are known.
        (stream.acks.due, stream.acks.urgent) = (Some(cx.now), true);
        let first = Some(base);
        stream.event(cx, Event::Began { first, again });
        stream
    }

    /// The sender has named its session.
    pub(crate) fn adopt(&mut self, now: Instant, session: Session, config: &Config) {
        self.session = Some(session);
        self.restart.adopted = Some(now);
        // With a session nothing else can be taken for it.
        self.gone.merge(std::mem::take(&mut self.before));
        if !self.gone.is_empty() {
            // It was passed over because no answer came.
            self.manner = PeerMode::Passive;
        }
        self.activate(now, config);
    }

    /// The sender has shown that it listens. If it had counted as passive, the numbers that were
    /// passed over for that are asked for.
    fn activate(&mut self, now: Instant, config: &Config) {
        if std::mem::replace(&mut self.manner, PeerMode::Active) != PeerMode::Passive {
            return;
        }
        let base = self.window.base();
        let gone: Vec<_> = self.gone.iter().filter(|gone| gone.first < base).collect();
        self.owed = self.session.is_some();
        for numbers in gone {
            self.miss(config, now, numbers);
        }
    }

    /// Notes that these numbers are missing from now on.
    fn miss(&mut self, config: &Config, now: Instant, numbers: SeqRange) {
        self.changed |= self.requests(config).notice(now, numbers);
    }

    fn requests(&mut self, config: &Config) -> &mut Requests {
        self.requests
            .get_or_insert_with(|| Box::new(Requests::new(config)))
    }

    /// Takes a record on the fast path: one without marks, of this stream, with room in the output
    /// queue. Returns `false`, and does nothing, if it needs more thought.
    pub(crate) fn take_plain(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let same = datagram.session == self.session && !self.ended;
        match same && datagram.seq >= self.window.end() {
            true => self.take_next(cx, datagram),
            false => same && self.take_missing(cx, datagram),
        }
    }

    /// As [`Self::take_plain`], for a record after all that the sender has used.
    fn take_next(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        // What names no session must be later than what came before.
        let after =
            self.session.is_some() || datagram.usec.saturating_add(SLACK_USEC) >= self.restart.usec;
        let waits = !self.window.is_next(seq);
        if !after || waits && !self.may_wait(cx, datagram) {
            return false;
        }
        self.hear(cx);
        self.credit.hear(datagram.bytes.len());
        self.grown = cx.now;
        self.restart.see_new(datagram, cx.now);
        self.restart.see(datagram, cx.now, cx.config);
        let record = cx.queue.pool.whole(datagram, cx.now);
        if waits {
            if let Some(gap) = self.window.push(record) {
                self.miss(cx.config, cx.now, gap);
            }
        } else {
            self.hand_out(cx, record, false);
            self.window.settle_next();
        }
        self.want_ack(cx.now, cx.config);
        true
    }

    /// As [`Self::take_plain`], for a missing record of which nothing had come.
    #[inline(never)] // Mostly none is missing.
    fn take_missing(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        if !self.window.is_lacking(seq)
            // It was before the first that came.
            || self.restart.lately.iter().any(|mark| seq < mark.seq)
            || self.session.is_none()
                && self.judge(cx.now, datagram, false) != Verdict::Member
            || !self.room(cx, seq, Pool::most(datagram))
        {
            return false;
        }
        self.hear(cx);
        self.credit.hear(datagram.bytes.len());
        self.answered(cx, datagram);
        self.restart.see(datagram, cx.now, cx.config);
        let record = cx.queue.pool.whole(datagram, cx.now);
        if seq > self.window.out() {
            self.window.fill(record);
        } else {
            self.hand_out(cx, record, false);
            self.window.settle(seq);
            self.turn(cx);
        }
        self.want_ack(cx.now, cx.config);
        true
    }

    /// Returns whether a record after all others only has to wait for those missing before it.
    fn may_wait(&self, cx: &Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        let is_answer = |requests: &Requests| requests.is_answer(seq);
        (self.window.is_waiting() || seq > self.window.end())
            && !self.window.is_too_far(seq)
            && !self.requests.as_deref().is_some_and(is_answer)
            && self.room(cx, seq, Pool::most(datagram))
    }

    /// Takes a datagram of this stream.
    pub(crate) fn take(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        self.hear(cx);
        let seq = datagram.seq;
        if self.ended && seq >= self.window.end() {
            self.ended = false;
            self.event(cx, Event::Resumed);
        }
        if self.window.is_too_far(seq) {
            self.jump(cx, seq)?;
        }
        if datagram.emergency {
            cx.queue.stats.emergencies += 1;
            self.activate(cx.now, cx.config);
            (self.acks.due, self.acks.urgent) = (Some(cx.now), true);
            self.changed = true;
            self.look = Some(cx.now.max(self.grown + LOOK_QUIET));
        }
        if datagram.crash {
            self.crashed.get_or_insert(cx.now + CRASH_WAIT);
            self.changed = true;
        }
        let new = seq >= self.window.end();
        if new {
            match datagram.is_substitute() {
                true => self.restart.clockless = seq + 1,
                false
                    if datagram.emergency
                        || datagram.is_marked()
                        || self.was_asked(cx.now, seq) =>
                {
                    self.restart.see_old(datagram, cx.now);
                }
                false => self.restart.see_new(datagram, cx.now),
            }
            if !datagram.emergency {
                self.grown = cx.now;
            }
            if let Some(gap) = self.window.notice(seq) {
                self.miss(cx.config, cx.now, gap);
            }
        }
        if let Some(hidden) = datagram.skip {
            self.mark(cx, hidden, GapReason::Hidden);
        }
        if let Some(lost) = datagram.lost {
            self.mark(cx, lost, GapReason::Lost);
        }
        let place = self.window.place(seq);
        if place == Place::Settled && !self.gone.contains(seq) {
            cx.queue.stats.duplicates += 1;
            if let Some(requests) = self.requests.as_mut().filter(|_| !datagram.emergency) {
                if requests.may_bring(cx.now, seq) {
                    requests.copy(cx.config);
                }
            }
            return Ok(());
        }
        if !datagram.is_substitute() {
            for mark in self.restart.lately.iter_mut().filter(|mark| seq < mark.seq) {
                // It was before the first that came, and was not asked for.
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
    fn keep(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> Result<(), Rejected> {
        if cx.queue.is_full(cx.config) {
            // It is an answer even so.
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
            self.restart.see(datagram, cx.now, cx.config);
        }
        self.settle(cx, record)
    }

    /// Takes a fragment of a record that is not settled or was passed over. Returns the record if
    /// it is whole.
    fn take_fragment(
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
        // It may itself have been given up to make room.
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

    /// Notes that the sender has been heard.
    pub(crate) fn hear(&mut self, cx: &mut Context<'_>) {
        self.heard = cx.now;
        if self.silent || self.quiet_until.is_some() || cx.now >= self.restart.mark {
            self.hear_again(cx);
        }
    }

    /// The part of hearing that is rarely needed.
    #[cold]
    fn hear_again(&mut self, cx: &mut Context<'_>) {
        self.changed |= self.quiet_until.take().is_some();
        let restart = &mut self.restart;
        if cx.now >= restart.mark {
            restart.mark = cx.now + COPIES;
            let at = Mark {
                seq: self.window.out(),
                usec: self.since,
            };
            restart.lately = [at, restart.lately[0]];
        }
        if restart
            .adopted
            .is_some_and(|adopted| cx.now > adopted + COPIES)
        {
            restart.recent = None;
        }
        if self.silent {
            self.silent = false;
            self.event(cx, Event::Resumed);
        }
    }

    /// Counts a record that was missing as an answer, if it was asked for.
    fn answered(&mut self, cx: &Context<'_>, datagram: &Datagram<'_>) {
        let Some(requests) = &mut self.requests else {
            return;
        };
        if requests.is_answer(datagram.seq) {
            self.changed |= requests.answer(cx.now, datagram.seq, cx.config);
            self.activate(cx.now, cx.config);
        }
    }

    /// Returns or keeps a whole record.
    fn settle(&mut self, cx: &mut Context<'_>, record: Box<Stored>) -> Result<(), Rejected> {
        let seq = record.seq;
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
                self.make_room(cx, seq, record.size())?;
                match self.window.place(seq) {
                    Place::Ahead => self.window.keep(record),
                    _ => {
                        self.hand_out(cx, record, false);
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

    fn hand_out(&mut self, cx: &mut Context<'_>, record: Box<Stored>, late: bool) {
        self.records += 1;
        if !late && record.usec > 0 {
            self.since = record.usec;
            if self.window.base() == self.window.out() {
                self.complete = record.usec;
            }
        }
        let seq = record.seq;
        let mut record = record;
        record.nth = match late {
            true => {
                // If it was handed out before, it has to be confirmed anew.
                self.unconfirmed.confirm(seq, 0);
                self.unconfirmed.add_late(seq)
            }
            false => {
                self.unconfirmed.add(seq);
                0
            }
        };
        self.last_output = cx.queue.record(self.of(), record, late);
    }

    /// These numbers were handed out, but somebody has not got their records: they are asked for
    /// again, and handed out as late ones. What is not there any more is left out.
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

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        self.last_output = cx.queue.event(self.of(), cx.now, event);
        if let Event::Gap { range, .. } = event {
            self.gaps.push_back((self.last_output, range.first));
        }
    }

    /// The stream has ended: hands out all there is.
    pub(crate) fn end(&mut self, cx: &mut Context<'_>) {
        self.write_out(cx, GapReason::Ended, true);
        self.event(cx, Event::Ended);
        self.ended = true;
    }

    /// What may be acknowledged.
    pub(crate) fn acknowledged(&self) -> Option<u64> {
        self.settled
    }

    /// The number of the last output that is its own.
    pub(crate) fn last_output(&self) -> u64 {
        self.last_output
    }

    /// Whether a datagram of its session that comes from another place shows that the sender is
    /// there by now: with something that had not come, or that is sent again since nothing was
    /// heard of us. A mere copy may come from anywhere.
    pub(crate) fn moves(&self, datagram: &Datagram<'_>, from: Option<SocketAddr>) -> bool {
        let home = self.home.as_ref().map(|home| home.0);
        let lacks = self.window.place(datagram.seq) != Place::Settled;
        let news = datagram.emergency || lacks && !self.window.is_too_far(datagram.seq);
        news || home.is_some() && home == from
    }

    /// Whether a record that is of none of the sender's streams shows that this one has ended: it
    /// has an earlier timestamp, and this one has proven nothing.
    pub(crate) fn is_ended_by(&self, datagram: &Datagram<'_>) -> bool {
        let earlier = datagram.usec.saturating_add(SLACK_USEC) < self.restart.usec;
        let unproven = self.session.is_none() && !self.is_proven();
        // Who knows no sessions can be told from another one by nothing else.
        (earlier || datagram.session.is_none()) && unproven && !self.ended
    }

    /// Of which stream, and where, what is handed out is.
    fn of(&self) -> Of {
        Of {
            stream: self.id,
            source: self.source,
            session: self.session,
        }
    }

    /// Whether no stream that has proven nothing may end it.
    pub(crate) fn is_proven(&self) -> bool {
        self.has_shown() || self.manner == PeerMode::Active
    }

    /// Whether it has proven itself in a way that nobody can who does not hear us, or has kept a
    /// session for a while.
    pub(crate) fn has_shown(&self) -> bool {
        let kept = |adopted| self.heard >= adopted + COPIES;
        self.proven || self.session.is_some() && self.restart.adopted.is_some_and(kept)
    }

    /// Some records that came, so that the sender can be asked for some of them again.
    pub(crate) fn some_that_came(&self) -> Vec<u64> {
        let out = self.window.out();
        let range = SeqRange {
            first: self.first.max(out.saturating_sub(2 * AMONG as u64)),
            last: out.saturating_sub(1),
        };
        let came = |&seq: &u64| self.next_missing(seq, seq).is_none() && !self.was_hidden(seq);
        let all = (range.first..=range.last)
            .rev()
            .filter(|_| out > self.first);
        all.filter(came).take(AMONG).collect()
    }

    /// Whether nothing came of this number, as far as is remembered.
    fn was_hidden(&self, seq: u64) -> bool {
        let known = |recent: &Recent| recent.has(seq);
        self.restart
            .recent
            .as_deref()
            .is_some_and(|recent| !known(recent))
    }

    /// Whether this number was asked for lately, as far as that means something.
    pub(crate) fn was_asked(&self, now: Instant, seq: u64) -> bool {
        let asked = |requests: &Requests| requests.may_bring(now, seq);
        self.manner != PeerMode::Passive && self.requests.as_deref().is_some_and(asked)
    }

    /// Whether a datagram that names no session, or the first session of its sender, is of this
    /// stream.
    pub(crate) fn judge(&self, now: Instant, datagram: &Datagram<'_>, challenged: bool) -> Verdict {
        let (seq, usec, restart) = (datagram.seq, datagram.usec, &self.restart);
        let end = self.window.end();
        let emergency = datagram.emergency || challenged;
        let resent = emergency || datagram.is_marked() || self.was_asked(now, seq);
        let came = restart
            .recent
            .as_deref()
            .and_then(|recent| recent.get(datagram, now));
        let (number, since) = match self.window.place(seq) {
            _ if seq >= end => (Number::New, Some(restart.usec)),
            _ if came == Some((true, false)) && self.manner == PeerMode::Passive && !emergency => {
                (Number::Different, None)
            }
            _ if came.is_some_and(|(same, _)| same) => (Number::Same, None),
            _ if came.is_some() => (Number::Different, None),
            Place::Next | Place::Ahead => match self.window.usec(seq) {
                // The record itself may come after what stands for it, which has no timestamp.
                Some(known) if known == 0 || known == usec => (Number::Missing, Some(usec.max(1))),
                Some(_) => (Number::Different, None),
                None => (Number::Missing, Some(self.timestamp_before(seq))),
            },
            // What was logged before it was heard comes only for a request.
            Place::Late if self.manner == PeerMode::Active => {
                (Number::Passed, self.gone.since(seq).or(Some(0)))
            }
            Place::Late | Place::Settled => match self.gone.since(seq) {
                Some(since) => (Number::Passed, Some(since)),
                None => (Number::Old, None),
            },
        };
        let timestamp = match datagram.is_substitute() {
            true => Timestamp::None,
            false => restart.timestamp(usec, since, number == Number::New, end),
        };
        let again = match (number, datagram.session) {
            (Number::Same, None) => true,
            // Whoever sends something for the first time does not send a copy of it.
            (Number::Same, Some(_)) => resent,
            _ => emergency || self.was_asked(now, seq) || restart.may_be_forgotten(now, seq, usec),
        };
        let verdict = decide(Evidence {
            told: self.session.is_some() && restart.has_told(now, seq),
            number,
            timestamp,
            again,
        });
        match verdict {
            // What proves nothing is no reason to believe that the session is this stream's.
            Verdict::Copy if number == Number::Old && datagram.session.is_some() => {
                Verdict::Unclear
            }
            verdict => verdict,
        }
    }

    /// The timestamp of a record before this one, which is missing: the nearest that waits, or of
    /// the last that was handed out.
    fn timestamp_before(&self, seq: u64) -> u64 {
        let waiting = self.window.out().max(seq.saturating_sub(NEAR))..seq;
        let known = |seq| self.window.usec(seq).filter(|&usec| usec > 0);
        // Nothing may have been handed out yet, but something has come.
        let first = if seq > self.first { self.first_usec } else { 0 };
        let before = waiting.rev().find_map(known).unwrap_or(self.since);
        before.max(first)
    }

    /// How far a datagram's timestamp is from what the sender's clock should show.
    pub(crate) fn distance(&self, now: Instant, datagram: &Datagram<'_>) -> u64 {
        self.restart.distance(now, datagram.usec)
    }

    /// The receiver stops: hands out all there is.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>) {
        self.update_settled(cx);
        self.write_out(cx, GapReason::Stopped, false);
    }

    /// Returns the bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        let late = self.late.iter().map(|(_, parts)| parts.size());
        let recent = self.restart.recent.as_deref();
        self.window.bytes() + late.sum::<usize>() + recent.map_or(0, |recent| recent.bytes())
    }

    /// Returns whether all records that were returned are confirmed.
    pub(crate) fn is_confirmed(&self, queue: &Queue) -> bool {
        self.last_output <= queue.written()
            || self.unconfirmed.first().is_none() && self.last_output <= queue.taken()
    }

    /// Confirms a record.
    pub(crate) fn confirm(&mut self, cx: &mut Context<'_>, token: Token) {
        self.unconfirmed.confirm(token.seq, token.nth);
        let before = self.settled;
        self.update_settled(cx);
        if self.settled > before {
            self.want_ack(cx.now, cx.config);
        }
    }
}
