// SPDX-License-Identifier: GPL-2.0

//! Records without a timestamp that look like copies of those that came.
//!
//! Early in a boot records have none, and are the same in each boot. So whether they are copies
//! that the network has made, or of the next boot, shows only when that begins with what is no
//! copy.

use std::time::Instant;

use super::restart::COPIES;
use crate::datagram::Datagram;

/// The most bytes of them that are kept.
const MOST: usize = 64 << 10;

/// The datagrams of these records, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Repeats {
    began: Instant,
    datagrams: Vec<(u64, Box<[u8]>)>,
    bytes: usize,
}

impl Repeats {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: now,
            datagrams: Vec::new(),
            bytes: 0,
        }
    }

    /// Keeps a datagram. Those from before are copies if they are old, or if the stream has had a
    /// new number since, at this time.
    pub(crate) fn push(&mut self, datagram: &Datagram<'_>, now: Instant, grown: Instant) {
        if self.is_over(now) || self.began <= grown {
            *self = Self::new(now);
        }
        let bytes: Box<[u8]> = datagram.bytes.into();
        if self.bytes + bytes.len() <= MOST {
            self.bytes += bytes.len();
            self.datagrams.push((datagram.seq, bytes));
        }
    }

    /// Returns whether the next boot would have begun by now.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.began + COPIES
    }

    /// Returns the datagrams of a boot that begins with this number, in the order of their numbers,
    /// unless the stream has had a new number since, at this time.
    pub(crate) fn before(self, seq: u64, grown: Instant) -> Vec<Box<[u8]>> {
        let mut datagrams = match grown < self.began {
            true => self.datagrams,
            false => Vec::new(),
        };
        datagrams.retain(|&(repeated, _)| repeated < seq);
        datagrams.sort_by_key(|&(repeated, _)| repeated);
        datagrams.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// Returns the bytes of memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.bytes + self.datagrams.capacity() * size_of::<(u64, Box<[u8]>)>()
    }
}
