// SPDX-License-Identifier: GPL-2.0

//! One stream: a sender's records from one start of its log to the next.
//!
//! This file has its state, its beginning and end, and the proof that the sender is there; the
//! parts take datagrams in, deliver, respond, detect restarts and resume.

mod confirm;
mod delivery;
mod fast;
mod recent;
mod repeats;
pub(crate) mod restart;
mod resume;
mod schedule;
mod take;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

pub use confirm::Token;
use confirm::Unconfirmed;
use recent::Recent;
pub(crate) use restart::Verdict;
use restart::{Mark, RestartDetector, COPIES, SLACK_USEC};
use schedule::Acks;

use crate::assembly::Assembly;
use crate::config::Config;
use crate::datagram::Datagram;
use crate::path::{Credit, AMONG};
use crate::queue::{Of, Queue};
use crate::ranges::Ranges;
use crate::record::{Event, GapReason, SeqRange, Session, Standing, StreamId};
use crate::requests::Requests;
use crate::stats::PeerMode;
use crate::window::{Place, Window, MAX_SPAN};

/// The responses that a stream may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Nothing.
    None,
    /// Requests, and acks up to this number, which cannot be taken for more of another stream's.
    UpTo(Option<u64>),
    /// All.
    Full,
}

impl Voice {
    /// Returns how much a response may acknowledge of this.
    pub(crate) fn limit(self, settled: Option<u64>) -> Option<u64> {
        match self {
            Self::None => None,
            Self::UpTo(most) => settled.min(most),
            Self::Full => settled,
        }
    }
}

/// The time, and the state that all streams of a receiver share.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) queue: &'a mut Queue,
    /// The memory of all other streams' windows, in bytes.
    pub(crate) windows: usize,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        now: Instant,
        config: &'a Config,
        queue: &'a mut Queue,
        windows: usize,
    ) -> Self {
        Self {
            now,
            config,
            queue,
            windows,
        }
    }
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
    /// Whether all of `gone` is asked for, so that it comes or is marked as lost.
    owed: bool,
    /// Fragments of records that were passed over for good and are behind the window.
    late: Vec<(u64, Assembly)>,
    requests: Option<Box<Requests>>,
    manner: PeerMode,
    pub(crate) began: Instant,
    pub(crate) heard: Instant,
    /// Whether it has proven itself by more than a session: it has answered requests, or goes on
    /// from a known state.
    pub(crate) proven: bool,
    /// The place where it was before it moved here, until this one has shown that it hears us.
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
    /// The gaps that are not reported yet: the number of the output, and the first missing number.
    gaps: VecDeque<(u64, u64)>,
    /// The last record that may be acknowledged.
    settled: Option<u64>,
    acks: Acks,
    /// The time at which to look ahead; and the time at which a new number last came by itself, or
    /// of the last look.
    look: Option<Instant>,
    grown: Instant,
    /// Whether it was written out because of the sender's silence.
    silent: bool,
    /// The time until which a silent sender is asked for nothing.
    quiet_until: Option<Instant>,
    /// The time at which it is written out because the sender has crashed.
    crashed: Option<Instant>,
    /// A number far from all others.
    suspect: Option<u64>,
    records: u64,
    lost: u64,
    /// Whether something may be due earlier than at the last query of the deadline.
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
            // Records before it come only for a request.
            (mark.seq, mark.usec) = (first, datagram.usec);
        }
        if let Some(session) = datagram.session {
            // This comes before the stream is reported.
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

    /// Notes that the sender has named its session.
    pub(crate) fn adopt(&mut self, now: Instant, session: Session, config: &Config) {
        self.session = Some(session);
        self.restart.adopted = Some(now);
        // With a session no record of another boot can be taken for one of these.
        self.gone.merge(std::mem::take(&mut self.before));
        if !self.gone.is_empty() {
            // Numbers were passed over because no answer came.
            self.manner = PeerMode::Passive;
        }
        self.activate(now, config);
    }

    /// Notes that the sender has shown that it listens. If it had counted as passive, the numbers
    /// that were passed over for that are asked for.
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

    /// Notes that the sender has been heard.
    #[inline(always)] // Into the fast path.
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
            if restart
                .repeats
                .as_ref()
                .is_some_and(|repeats| repeats.is_over(cx.now))
            {
                restart.take_repeats(cx.now);
            }
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
            restart.forget_copies();
        }
        if self.silent {
            self.silent = false;
            self.event(cx, Event::Resumed);
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        self.last_output = cx.queue.event(self.of(), cx.now, event);
        if let Event::Gap { range, .. } = event {
            self.gaps.push_back((self.last_output, range.first));
        }
    }

    /// Ends the stream: hands out all records.
    pub(crate) fn end(&mut self, cx: &mut Context<'_>) {
        self.write_out(cx, GapReason::Ended, true);
        self.event(cx, Event::Ended);
        self.ended = true;
    }

    /// Returns the last record that may be acknowledged.
    pub(crate) fn acknowledged(&self) -> Option<u64> {
        self.settled
    }

    /// Returns the number of datagrams that have come of it, from its present place.
    pub(crate) fn datagrams(&self) -> u64 {
        self.credit.datagrams()
    }

    /// Returns the number of the last output that is its own.
    pub(crate) fn last_output(&self) -> u64 {
        self.last_output
    }

    /// Returns whether a datagram of its session that comes from another place shows that the
    /// sender is there now: with a record that had not come, or one that is sent again for want of
    /// an ack. A mere copy may come from anywhere.
    pub(crate) fn moves(&self, datagram: &Datagram<'_>, from: Option<SocketAddr>) -> bool {
        let home = self.home.as_ref().map(|home| home.0);
        let lacks = self.window.place(datagram.seq) != Place::Settled;
        let news = datagram.emergency || lacks && !self.window.is_too_far(datagram.seq);
        news || home.is_some() && home == from
    }

    /// Returns whether a record that belongs to none of the sender's streams shows that this one
    /// has ended: it has an earlier timestamp, and this one has proven nothing.
    pub(crate) fn is_ended_by(&self, datagram: &Datagram<'_>) -> bool {
        let earlier = datagram.usec.saturating_add(SLACK_USEC) < self.restart.usec;
        let unproven = self.session.is_none() && !self.is_proven();
        // Without sessions nothing else tells two senders apart.
        (earlier || datagram.session.is_none()) && unproven && !self.ended
    }

    /// Returns the stream and the sender of its outputs.
    #[inline(always)] // Into the fast path.
    fn of(&self) -> Of {
        Of {
            stream: self.id,
            source: self.source,
            session: self.session,
            standing: self.standing(),
        }
    }

    /// Returns the evidence that it is what it seems.
    #[inline(always)] // Into the fast path.
    pub(crate) fn standing(&self) -> Standing {
        match self.session {
            _ if self.has_shown() => Standing::Proven,
            Some(_) => Standing::Named,
            None => Standing::Stranger,
        }
    }

    /// Has the time at which its sender is due be found anew.
    pub(crate) fn look_anew(&mut self) {
        self.changed = true;
    }

    /// Returns whether no stream that has proven nothing may end it.
    pub(crate) fn is_proven(&self) -> bool {
        self.has_shown() || self.manner == PeerMode::Active
    }

    /// Returns whether it has proven itself in a way that needs our responses, or has kept a
    /// session for a while.
    pub(crate) fn has_shown(&self) -> bool {
        let kept = |adopted| self.heard >= adopted + COPIES;
        self.proven || self.session.is_some() && self.restart.adopted.is_some_and(kept)
    }

    /// Returns some records that came, so that the sender can be asked for some of them again: of
    /// those that were handed out since it was first heard, or, if there are none, of those that
    /// wait for others.
    pub(crate) fn some_that_came(&self) -> Vec<u64> {
        const LOOK: u64 = 2 * AMONG as u64;
        let came = |&seq: &u64| self.next_missing(seq, seq).is_none() && !self.was_hidden(seq);
        let last = |from: u64, end: u64| {
            let numbers = from.max(end.saturating_sub(LOOK))..end;
            numbers.rev().filter(came).take(AMONG).collect()
        };
        let (out, end) = (self.window.out(), self.window.end());
        let mut all: Vec<u64> = last(self.first, out);
        if all.is_empty() {
            all = last(out.max(self.first), end);
        }
        all
    }

    /// Returns whether it is remembered that nothing came of this number.
    fn was_hidden(&self, seq: u64) -> bool {
        let told = self.restart.told_from.is_some_and(|from| seq >= from);
        let lacks = |recent: &Recent| recent.is_complete(seq) && !recent.has(seq);
        !told && self.restart.recent.as_deref().is_some_and(lacks)
    }

    /// Returns whether this number was asked for lately, as far as that means something.
    pub(crate) fn was_asked(&self, now: Instant, seq: u64) -> bool {
        let asked = |requests: &Requests| requests.may_bring(now, seq);
        self.manner != PeerMode::Passive && self.requests.as_deref().is_some_and(asked)
    }

    /// Stops the stream with the receiver: hands out all records.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>) {
        self.update_settled(cx);
        self.write_out(cx, GapReason::Stopped, false);
    }

    /// Returns the bytes that are kept.
    #[inline(always)] // Into the fast path.
    pub(crate) fn bytes(&self) -> usize {
        let beside = match self.late.is_empty() {
            // Mostly there are none.
            true => 0,
            false => self.late.iter().map(|(_, parts)| parts.size()).sum(),
        };
        self.window.bytes() + self.restart.recent_bytes + beside
    }

    /// Returns whether all records that were returned are confirmed.
    pub(crate) fn is_confirmed(&self, queue: &Queue) -> bool {
        self.last_output <= queue.written()
            || self.unconfirmed.first().is_none() && self.last_output <= queue.taken()
    }

    /// Notes that a record has to come again.
    pub(crate) fn refuse(&mut self, token: Token) {
        self.unconfirmed.refuse(token.seq, token.nth);
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
