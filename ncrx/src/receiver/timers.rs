// SPDX-License-Identifier: GPL-2.0

//! Timers: the heap of the times at which senders are due, and the responses then.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::Receiver;
use crate::proto::wire::Dialect;
use crate::response;
use crate::stream::Voice;

/// The longest time from one look at a sender to the next. Without it, senders that are put off
/// again and again would fill the heap with the times at which they are to be forgotten.
const LOOK: Duration = Duration::from_secs(60);

impl Receiver {
    /// Puts a sender into the heap for the time at which it is due.
    pub(super) fn schedule(&mut self, index: u32) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let changed = host.streams.iter_mut().fold(false, |any, stream| {
            let changed = stream.take_changed();
            any | changed
        });
        if host.due.is_some() && !changed {
            // A sender that is put off is found so when its earlier time has come.
            return;
        }
        let due = host.next(&self.config).min(host.heard + LOOK);
        if host.due.is_none_or(|old| due < old) {
            host.due = Some(due);
            self.heap.push(Reverse((due, index)));
        }
    }

    /// As [`Self::schedule`], but not for now again: due work that cannot be done has to wait.
    pub(super) fn schedule_after(&mut self, index: u32, now: Instant) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let soonest = match host.evicted {
            true => Duration::from_millis(100),
            false => Duration::from_millis(1),
        };
        let due = host.next(&self.config).clamp(now + soonest, now + LOOK);
        host.due = Some(due);
        self.heap.push(Reverse((due, index)));
    }

    /// Handles the sender that is due first.
    #[inline(never)] // Mostly none is due.
    pub(super) fn look_at_next(&mut self, now: Instant) {
        let Some(Reverse((due, index))) = self.heap.pop() else {
            return;
        };
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        if host.due != Some(due) {
            // The sender has been handled earlier.
            return;
        }
        host.due = None;
        let forget = host.evicted || host.heard + self.config.forget <= now;
        if let Some(of) = host.texts_of {
            host.text.poll(&mut self.queue, of, now);
        }
        self.end_superseded(now, index);
        self.poll_streams(now, index);
        if !forget || !self.forget(index) {
            self.schedule_after(index, now);
        }
    }

    /// Ends the streams that others have taken the place of.
    pub(super) fn end_superseded(&mut self, now: Instant, index: u32) {
        while let Some(n) = (self.hosts.get(index as usize))
            .and_then(Option::as_ref)
            .and_then(|host| host.superseded(now))
        {
            self.with_stream(now, index, n, |cx, stream| stream.end(cx));
        }
    }

    /// Has each stream send the responses that are due: to this place, or to its former place until
    /// this one has shown that it hears us.
    fn poll_streams(&mut self, now: Instant, index: u32) {
        let dialect = self.config.dialect;
        for n in 0.. {
            let Some(host) = self.hosts.get_mut(index as usize).and_then(Option::as_mut) else {
                return;
            };
            let Some(home) = host.streams.get(n).map(|stream| stream.home.as_ref()) else {
                break;
            };
            let home = home.map(|home| home.0);
            let voice = host.voice(now, dialect, n);
            let place = match home {
                None => Some(index),
                Some(addr) => self.by_addr.get(&addr).copied(),
            };
            match place {
                Some(place) => self.poll_stream(now, index, n, place, voice),
                // The former place is forgotten.
                None => host.streams[n].home = None,
            }
        }
        self.challenge(now, index);
    }

    /// Has a stream send the responses to a place that are due.
    fn poll_stream(&mut self, now: Instant, index: u32, n: usize, place: u32, voice: Voice) {
        let Some(host) = self.source(place) else {
            return;
        };
        let (addr, mut path) = (host.addr, std::mem::take(&mut host.path));
        self.with_stream(now, index, n, |cx, stream| {
            stream.poll(cx, addr, &mut path, voice);
        });
        if let Some(host) = self.source(place) {
            host.path = path;
        }
    }

    /// Asks a place to show that it hears us, if it is time.
    pub(super) fn challenge(&mut self, now: Instant, index: u32) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let due = host.path.deadline().is_some_and(|due| due <= now);
        let Some(n) = host.last_heard().filter(|_| due) else {
            return;
        };
        let voice = host.voice(now, self.config.dialect, n);
        let stream = &mut host.streams[n];
        let (session, settled) = (stream.session, voice.limit(stream.acknowledged()));
        let among = stream.some_that_came();
        let (queue, config) = (&mut self.queue, &self.config);
        let asked = host.path.challenge(now, among, || queue.random(config));
        if asked.is_empty() {
            return;
        }
        let ack = match config.dialect {
            Dialect::Nca => None,
            Dialect::Ncrx => Some(settled.unwrap_or(0)),
        };
        response::write(config.dialect, ack, &asked, session, usize::MAX, |bytes| {
            if host.path.allows(now, &mut stream.credit, queue, &bytes) {
                queue.respond(host.addr, bytes);
            }
        });
    }
}
