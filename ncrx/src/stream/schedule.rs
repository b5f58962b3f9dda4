// SPDX-License-Identifier: GPL-2.0

//! Responses: acknowledgements and requests, and their times.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Context, Stream, Voice};
use crate::config::Config;
use crate::path::Path;
use crate::proto::wire::Dialect;
use crate::record::{GapReason, SeqRange};
use crate::response;
use crate::stats::PeerMode;

/// The longest time between acknowledgements to a sender that has not shown that it listens: half
/// of the time after which a sender that does would begin emergency transmission.
const ACK_UNKNOWN: Duration = Duration::from_secs(5);

/// The same for a passive sender, which may have learnt to listen.
pub(super) const ACK_PASSIVE: Duration = Duration::from_secs(60);

/// The first repeat of an acknowledgement, each later one twice as long after the last; and their
/// number.
const ACK_AGAIN: Duration = Duration::from_secs(1);
const ACK_REPEATS: u32 = 3;

/// The time that a crash's records wait for missing ones, from the first of them on: the sender's
/// next rounds bring most, and a machine that is reset at once sends for no longer than a second.
pub(super) const CRASH_WAIT: Duration = Duration::from_millis(300);

/// Looking ahead: an emergency datagram shows that a record is missing, which may be one after all
/// that are known. So this many numbers are asked for in case they are used, once no new one has
/// come for `LOOK_QUIET`. While new ones still come, they show the gaps among them.
const LOOK_AHEAD: u64 = 10_000;
pub(super) const LOOK_QUIET: Duration = Duration::from_millis(500);

/// The number of requests after which a number of a sender without sessions is given up, as such a
/// sender cannot say that a record is lost: if no other answers come for `VAIN_QUIET`, and if they
/// do. A sender with a small budget may take minutes to answer all.
const VAIN: u32 = 80;
const VAIN_QUIET: Duration = Duration::from_secs(5);
const VAIN_BUSY: u32 = 8 * VAIN;

/// The longest time for which a silent sender is asked for nothing.
const QUIET_MOST: Duration = Duration::from_secs(3600);

/// The silence after which a sender without sessions has been asked often enough.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The state of acknowledgements.
#[derive(Debug)]
pub(super) struct Acks {
    pub(super) due: Option<Instant>,
    pub(super) interval: Duration,
    /// The last acknowledgement.
    pub(super) sent: Option<u64>,
    pub(super) repeats: u32,
    /// Whether to send one even if it was sent before.
    pub(super) urgent: bool,
}

impl Stream {
    #[inline(always)] // Into the fast path.
    pub(super) fn want_ack(&mut self, now: Instant, config: &Config) {
        // A planned one is due no later than a new one would be.
        if self.acks.due.is_none() || self.acks.repeats > 0 {
            self.plan_ack(now, config);
        }
    }

    #[inline(never)]
    fn plan_ack(&mut self, now: Instant, config: &Config) {
        self.acks.repeats = 0;
        let due = now + self.acks.interval.max(config.ack_interval);
        let due = self.acks.due.map_or(due, |old| old.min(due));
        self.acks.due = Some(due);
        self.changed = true;
    }

    /// Updates the acknowledgement: the last complete record before the first that is not
    /// confirmed.
    pub(super) fn update_settled(&mut self, cx: &Context<'_>) {
        if self.last_output <= cx.queue.written() {
            self.unconfirmed.clear();
        }
        let told = cx.queue.told();
        while self.gaps.front().is_some_and(|&(output, _)| output <= told) {
            self.gaps.pop_front();
        }
        let complete = self.complete_to();
        let open = self.gaps.front().map(|&(_, first)| first);
        self.settled = match open.into_iter().chain(self.unconfirmed.first()).min() {
            None => complete,
            Some(first) => complete.min(first.checked_sub(1)),
        };
        if self.settled == complete {
            self.settled_usec = self.complete;
        } else if self.settled >= Some(self.noted.0) {
            self.settled_usec = self.noted.1;
            self.noted = (complete.unwrap_or(0), self.complete);
        }
    }

    /// Returns the last record with none missing before it that the sender may still have. Numbers
    /// passed over while the sender seemed passive come in the end, or are reported as lost.
    pub(super) fn complete_to(&self) -> Option<u64> {
        let base = self.window.base();
        let owed = self.gone.iter().next().filter(|_| self.owed);
        owed.map_or(base, |numbers| numbers.first.min(base))
            .checked_sub(1)
    }

    /// Returns whether [`Self::deadline`] may be earlier than at the last call of this.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// As [`Self::take_changed`], without resetting it.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Returns the time at which [`Self::poll`] has something to do.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        let asks = self
            .requests
            .as_ref()
            .and_then(|requests| match self.manner {
                PeerMode::Passive => requests.expires(config.passive_hold),
                PeerMode::Unknown | PeerMode::Active => requests.deadline(config),
            });
        let asks = asks.map(|due| self.quiet_until.map_or(due, |until| due.max(until)));
        let silence =
            (self.window.is_waiting() && !self.silent).then(|| self.heard + config.silence);
        [asks, silence, self.crashed, self.acks.due, self.look]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        host: SocketAddr,
        path: &mut Path,
        voice: Voice,
    ) {
        if self.ended {
            return;
        }
        if self.window.is_waiting() && !self.silent && cx.now >= self.heard + cx.config.silence {
            let passive = self.manner == PeerMode::Passive;
            // If the sender is silent because it starts anew, only a session tells its new records
            // from those from before the first that came.
            if let (None, Some(before)) = (self.session, self.first.checked_sub(1)) {
                while self.pass_over(cx, before, GapReason::Silence, true) {}
            }
            self.write_out(cx, GapReason::Silence, passive);
            self.silent = true;
        }
        if self.crashed.take_if(|due| *due <= cx.now).is_some() {
            self.write_out(cx, GapReason::Crash, false);
        }
        let mut missing = std::mem::take(&mut cx.queue.missing);
        missing.clear();
        if self.manner == PeerMode::Passive {
            self.expire(cx);
        } else {
            self.ask(cx, &mut missing);
        }
        let ack = self.acks.due.is_some_and(|due| due <= cx.now);
        self.update_settled(cx);
        // The same ack would only be repeated while nothing more is confirmed.
        let open = self.complete_to() != self.settled;
        let news = !open || self.acks.urgent || self.acks.sent != self.settled;
        if voice != Voice::None && (ack && news || !missing.is_empty()) {
            self.acks.urgent &= !ack;
            self.respond(cx, host, path, &missing, voice);
        }
        if ack {
            self.acked(cx.config, cx.now);
        }
        cx.queue.missing = missing;
    }

    /// Sends the ack and the missing numbers.
    fn respond(
        &mut self,
        cx: &mut Context<'_>,
        host: SocketAddr,
        path: &mut Path,
        missing: &[SeqRange],
        voice: Voice,
    ) {
        self.update_settled(cx);
        let (dialect, session) = (cx.config.dialect, self.session);
        let settled = voice.limit(self.settled);
        let settled = match dialect {
            // An ack of 0 means nothing to our senders.
            Dialect::Nca => settled.filter(|&seq| seq > 0),
            // nctx takes a response without an ack for one that acks everything. (This one acks
            // record 0, which may be missing.)
            Dialect::Ncrx => Some(settled.unwrap_or(0)),
        };
        cx.queue.stats.requested += missing.iter().map(SeqRange::count).sum::<u64>();
        let credit = match &mut self.home {
            Some(home) => &mut home.1,
            None => &mut self.credit,
        };
        let room = path.room(credit);
        response::write(dialect, settled, missing, session, room, |bytes| {
            if path.allows(cx.now, credit, cx.queue, &bytes) {
                cx.queue.respond(host, bytes);
            }
        });
    }

    /// Schedules the next acknowledgement after one has been sent.
    pub(super) fn acked(&mut self, config: &Config, now: Instant) {
        let open = self.complete_to() != self.settled;
        let acks = &mut self.acks;
        let most = match self.manner {
            PeerMode::Active => config.ack_interval,
            PeerMode::Unknown => ACK_UNKNOWN,
            PeerMode::Passive => ACK_PASSIVE,
        };
        acks.interval =
            (acks.interval * 2).clamp(config.ack_interval, most.max(config.ack_interval));
        if acks.sent != self.settled {
            (acks.sent, acks.repeats) = (self.settled, 0);
        }
        acks.due = if open && self.manner == PeerMode::Active {
            // Records are still to be written.
            Some(now + config.ack_interval)
        } else if acks.repeats < ACK_REPEATS && self.manner != PeerMode::Passive {
            let wait = (ACK_AGAIN * (1 << acks.repeats)).max(acks.interval);
            acks.repeats += 1;
            Some(now + wait)
        } else {
            None
        };
    }

    /// Gives up missing records of a passive sender that were waited for long enough.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>) {
        let hold = cx.config.passive_hold;
        let mut last = None;
        // All at once, so that a gap is named once.
        while let Some(numbers) = self.requests(cx.config).expired(cx.now, hold) {
            last = last.max(Some(numbers.last));
        }
        if let Some(last) = last {
            while self.pass_over(cx, last, GapReason::Passive, true) {}
        }
    }

    /// Collects the numbers to ask for now.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>, missing: &mut Vec<SeqRange>) {
        let mut vain = Vec::new();
        if self.quiet_until.is_some_and(|until| cx.now < until) {
            return;
        }
        let silence = cx.now.saturating_duration_since(self.heard);
        if silence >= cx.config.silence {
            // The sender is asked again when it has been silent for twice as long.
            self.quiet_until = Some(cx.now + silence.min(QUIET_MOST));
        }
        if let Some(requests) = &mut self.requests {
            // A sender with sessions says that a record is lost.
            let most = if self.session.is_some() {
                u32::MAX
            } else if silence >= GIVE_UP {
                1
            } else if requests.is_unanswered(cx.now, VAIN_QUIET) {
                VAIN
            } else {
                VAIN_BUSY
            };
            let (window, gone) = (&self.window, &self.gone);
            requests.poll(
                cx.now,
                cx.config,
                most,
                |first, last| {
                    // Below `base` the window knows nothing.
                    let below = window.base().checked_sub(1).filter(|_| !gone.is_empty());
                    below
                        .and_then(|below| gone.next(first, below.min(last)))
                        .or_else(|| window.next_missing(first, last))
                },
                |numbers| missing.push(numbers),
                |numbers| vain.push(numbers),
            );
            if self.manner == PeerMode::Unknown && requests.in_vain(cx.now, cx.config.passive_after)
            {
                self.manner = PeerMode::Passive;
                missing.clear();
                self.window.abandon();
                self.turn(cx);
                self.expire(cx);
                return;
            }
        }
        for numbers in vain {
            self.never(cx, numbers.first, numbers.last, GapReason::Unanswered);
            self.turn(cx);
        }
        if self.look.is_some_and(|due| due <= cx.now) {
            self.look = None;
            let quiet = cx.now >= self.grown + LOOK_QUIET;
            if quiet && self.session.is_some() && cx.config.dialect == Dialect::Nca {
                self.grown = cx.now;
                let first = self.window.end();
                let last = first.saturating_add(LOOK_AHEAD - 1);
                missing.push(SeqRange { first, last });
            }
        }
    }
}
