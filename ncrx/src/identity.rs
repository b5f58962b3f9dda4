// SPDX-License-Identifier: GPL-2.0

//! Which stream a datagram is of, if it does not say: senders that know no sessions start anew
//! without a word.
//!
//! A record that came before has the same clock as then. A new one has a later clock than those
//! before it. What does neither is of a new stream. What has come long ago is remembered no more:
//! such a record is a copy only if there is a reason for copies.

use std::time::{Duration, Instant};

use crate::datagram::Datagram;

/// How far a record's clock may be behind that of one before it: it is read before the number is
/// drawn, on another processor.
pub(crate) const SLACK_USEC: u64 = 1_000_000;

/// For how long after a request or a record the network may still bring a copy.
pub(crate) const COPIES: Duration = Duration::from_secs(10);

/// How many records are remembered.
const MOST: usize = 64;

/// A record that came.
#[derive(Clone, Copy, Debug)]
struct Known {
    seq: u64,
    usec: u64,
    at: Instant,
}

/// The clocks of the records that came last.
#[derive(Debug)]
pub(crate) struct Recent([Option<Known>; MOST]);

impl Recent {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([None; MOST]))
    }

    /// A record has come.
    pub(crate) fn push(&mut self, datagram: &Datagram<'_>, at: Instant) {
        let (seq, usec) = (datagram.seq, datagram.usec);
        self.0[(seq % MOST as u64) as usize] = Some(Known { seq, usec, at });
    }

    /// The clock of a record that came lately, and when.
    pub(crate) fn get(&self, seq: u64) -> Option<(u64, Instant)> {
        let known = self.0[(seq % MOST as u64) as usize]?;
        (known.seq == seq).then_some((known.usec, known.at))
    }
}
