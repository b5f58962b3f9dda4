// SPDX-License-Identifier: GPL-2.0

//! The fast path: a plain record of this stream, which is the usual case.

use super::restart::{Verdict, SLACK_USEC};
use super::{Context, Stream};
use crate::datagram::Datagram;
use crate::pool::Pool;
use crate::requests::Requests;

impl Stream {
    /// Takes a record on the fast path: one without marks, of this stream, with room in the output
    /// queue. Returns `false`, and does nothing, if it needs the long way.
    #[inline(always)]
    pub(crate) fn take_plain(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let same = datagram.session == self.session && !self.ended;
        match same && datagram.seq >= self.window.end() {
            true => self.take_next(cx, datagram),
            false => same && self.take_missing(cx, datagram),
        }
    }

    /// As [`Self::take_plain`], for a record behind all numbers that the sender has used.
    #[inline(always)]
    pub(super) fn take_next(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        // A record that names no session must be later than those that came before.
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
        self.restart.see(datagram, cx.config);
        let record = cx.queue.pool.whole(datagram, cx.now);
        if waits {
            if let Some(gap) = self.window.push(record) {
                self.miss(cx.config, cx.now, gap);
            }
        } else {
            self.hand_out(cx, record);
            self.window.settle_next();
        }
        self.want_ack(cx.now, cx.config);
        true
    }

    /// As [`Self::take_plain`], for a missing record of which nothing had come.
    #[inline(never)] // Mostly none is missing.
    pub(super) fn take_missing(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        if !self.window.is_lacking(seq)
            // The record is from before the first that came.
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
        self.restart.see(datagram, cx.config);
        let record = cx.queue.pool.whole(datagram, cx.now);
        if seq > self.window.out() {
            self.window.fill(record);
        } else {
            self.hand_out(cx, record);
            self.window.settle(seq);
            self.turn(cx);
        }
        self.want_ack(cx.now, cx.config);
        true
    }

    /// Returns whether a record after all others only has to wait for those missing before it.
    pub(super) fn may_wait(&self, cx: &Context<'_>, datagram: &Datagram<'_>) -> bool {
        let seq = datagram.seq;
        let is_answer = |requests: &Requests| requests.is_answer(seq);
        (self.window.is_waiting() || seq > self.window.end())
            && !self.window.is_too_far(seq)
            && !self.requests.as_deref().is_some_and(is_answer)
            && self.room(cx, seq, Pool::most(datagram))
    }
}
