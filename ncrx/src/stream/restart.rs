// SPDX-License-Identifier: GPL-2.0

//! Restart detection: whether a datagram without a session belongs to a stream. Senders that know
//! no sessions start anew without notice.
//!
//! - A copy has the same clock as the record that came before.
//! - A new record has a later clock than those before it.
//! - Any other record belongs to a new stream.
//!
//! Old records are not remembered: a record of an old number counts as a copy only if there is a
//! reason for copies.

use std::time::{Duration, Instant};

use super::Stream;
use crate::datagram::Datagram;
use crate::stats::PeerMode;
use crate::window::Place;

/// How far a record's clock may be behind that of one before it: printk reads the clock before it
/// draws the number, and CPUs race.
pub(crate) const SLACK_USEC: u64 = 1_000_000;

/// How long after a request or a record the network may still bring a copy.
pub(crate) const COPIES: Duration = Duration::from_secs(10);

/// The number of records that are remembered.
const MOST: usize = 64;

/// A record that came.
#[derive(Clone, Copy, Debug)]
struct Known {
    seq: u64,
    usec: u64,
    at: Instant,
}

/// The clocks of the latest records.
#[derive(Debug)]
pub(crate) struct Recent([Option<Known>; MOST]);

impl Recent {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([None; MOST]))
    }

    /// Notes a record.
    pub(crate) fn push(&mut self, datagram: &Datagram<'_>, at: Instant) {
        let (seq, usec) = (datagram.seq, datagram.usec);
        self.0[(seq % MOST as u64) as usize] = Some(Known { seq, usec, at });
    }

    /// Returns the clock of a recent record, and when it came.
    pub(crate) fn get(&self, seq: u64) -> Option<(u64, Instant)> {
        let known = self.0[(seq % MOST as u64) as usize]?;
        (known.seq == seq).then_some((known.usec, known.at))
    }
}

/// How many numbers before a missing one are searched for a known clock.
const NEAR: u64 = 64;

/// The number after the last one that had been returned at some time, and its clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) seq: u64,
    pub(super) usec: u64,
}

/// Whether a datagram belongs to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    No,
    Yes,
    /// Perhaps: it may be a copy of an old record.
    Copy,
    /// There is no clock to tell by. If it belongs to this stream, it comes again with its session.
    Unknown,
}

impl Stream {
    /// Whether a datagram that names no session, or the first session of a sender, is of this
    /// stream.
    pub(crate) fn fits(&self, now: Instant, datagram: &Datagram<'_>) -> Fit {
        let (seq, usec) = (datagram.seq, datagram.usec);
        if self.adopted.is_some_and(|adopted| now > adopted + COPIES) {
            // It has named its session with every record since, and would go on to.
            return Fit::No;
        }
        let after = |clock| usec.saturating_add(SLACK_USEC) >= clock;
        let newest = self.usec.max(self.newest_usec);
        let before_now =
            usec <= newest.saturating_add(SLACK_USEC) || self.clockless == self.window.end();
        let yes = |fits| if fits { Fit::Yes } else { Fit::No };
        let not_before = |clock| match after(clock) {
            true if clock == 0 && self.session.is_some() => Fit::Unknown,
            fits => yes(fits),
        };
        if datagram.is_substitute() {
            // It has no clock; and of a new start nothing is asked for yet.
            return Fit::Yes;
        }
        if seq >= self.window.end() {
            return not_before(self.usec);
        }
        if let Some((known, at)) = self.recent.as_ref().and_then(|recent| recent.get(seq)) {
            return yes(usec == known
                && (now < at + COPIES || datagram.emergency || self.manner == PeerMode::Active));
        }
        if let Some(known) = self.window.usec(seq) {
            // The record itself may come after what stands for it, which has no clock.
            return yes(usec == known || known == 0);
        }
        let missing_since = match self.window.place(seq) {
            // Not earlier than any that came is not earlier than the one before it.
            Place::Next | Place::Ahead if after(self.usec) => Some(self.usec),
            Place::Next | Place::Ahead => Some(self.clock_before(seq)),
            // What was logged before it was heard comes only for a request.
            Place::Late => {
                let answers = self.manner == PeerMode::Active;
                self.gone.since(seq).or(answers.then_some(0))
            }
            Place::Settled => self.gone.since(seq),
        };
        if let Some(since) = missing_since {
            return match before_now {
                true => not_before(since),
                false => Fit::No,
            };
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
        if seq >= mark.seq && after(mark.usec) && before_now {
            return Fit::Copy;
        }
        match datagram.emergency || requests.is_some_and(|requests| requests.may_bring(now, seq)) {
            true => Fit::Copy,
            false => Fit::No,
        }
    }

    /// Whether a datagram of a number that is missing, and of which nothing came lately, has so
    /// nearly the clock of the newest record that no other record's need be looked for: the usual
    /// case of what [`Self::fits`] says yes to.
    pub(super) fn is_near(&self, datagram: &Datagram<'_>) -> bool {
        let came = |recent: &Recent| recent.get(datagram.seq).is_some();
        self.adopted.is_none()
            && datagram.usec.abs_diff(self.usec) <= SLACK_USEC
            && !self.recent.as_deref().is_some_and(came)
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
}
