// SPDX-License-Identifier: GPL-2.0

//! The counts of a target.

use core::fmt;

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// Why a datagram was not handed to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxError {
    /// The device is down.
    Down,
    /// There is no memory, and the reserve is used up.
    NoMemory,
    /// netpoll's queue is full, or netpoll has dropped the frame.
    Dropped,
    /// The datagram is too long.
    TooLong,
}

/// A counter. Any context.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Returns the count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counts of one target since it was created.
#[derive(Default)]
pub(crate) struct Stats {
    /// Records sent for the first time.
    pub(crate) records: Counter,
    /// Datagrams handed to the device, or to netpoll's queue for it.
    pub(crate) datagrams: Counter,
    /// Records sent again on request.
    pub(crate) retransmitted: Counter,
    /// Records asked for and not sent again because the budget was used up.
    pub(crate) over_budget: Counter,
    /// Records sent again because no ack came for them.
    pub(crate) emergency: Counter,
    /// Responses that were believed.
    pub(crate) responses: Counter,
    /// Datagrams from the logger that were no response, or were not believed.
    pub(crate) bad_responses: Counter,
    /// Records asked for and lost.
    pub(crate) lost: Counter,
    /// Datagrams that found neither memory nor a buffer in reserve (upstream's `enomem_count`).
    no_memory: Counter,
    /// Datagrams that the device or netpoll's queue had no room for (upstream's
    /// `xmit_drop_count`).
    dropped: Counter,
    /// Datagrams that were not sent because the device was down.
    down: Counter,
    /// Records and parts of records that cannot be sent: see [`crate::proto::wire::BadRecord`] and
    /// [`TxError::TooLong`].
    pub(crate) bad: Counter,
}

impl Stats {
    /// Counts a datagram as sent, or by its error.
    pub(crate) fn count(&self, sent: Result<(), TxError>) {
        match sent {
            Ok(()) => &self.datagrams,
            Err(TxError::Down) => &self.down,
            Err(TxError::NoMemory) => &self.no_memory,
            Err(TxError::Dropped) => &self.dropped,
            Err(TxError::TooLong) => &self.bad,
        }
        .inc();
    }

    /// Returns the number of datagrams that could not be sent although the device was up
    /// (upstream's `transmit_errors`).
    pub(crate) fn transmit_errors(&self) -> u64 {
        self.no_memory.get().saturating_add(self.dropped.get())
    }

    /// Returns the number of datagrams that were not sent, for any reason.
    pub(crate) fn not_sent(&self) -> u64 {
        self.transmit_errors().saturating_add(self.down.get())
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("records", &self.records),
            ("datagrams", &self.datagrams),
            ("retransmitted", &self.retransmitted),
            ("over_budget", &self.over_budget),
            ("emergency", &self.emergency),
            ("responses", &self.responses),
            ("bad_responses", &self.bad_responses),
            ("lost", &self.lost),
            ("dropped", &self.dropped),
            ("no_memory", &self.no_memory),
            ("down", &self.down),
            ("bad", &self.bad),
        ];
        for (i, (name, count)) in counts.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{name}={}", count.get())?;
        }
        Ok(())
    }
}
