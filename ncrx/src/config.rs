// SPDX-License-Identifier: GPL-2.0

//! The settings of a receiver.

use std::time::Duration;

use crate::proto::wire::Dialect;

/// The settings of a receiver.
#[derive(Clone, Debug)]
pub struct Config {
    /// The language of the responses.
    pub dialect: Dialect,
    /// Whether a new sender is asked for records from before its first one.
    pub history: bool,
    /// The reorder window: how long a missing record may just be late, before it is asked for.
    pub reorder: Duration,
    /// From one request for a record to the next, at first. The receiver shortens it when answers
    /// come sooner, and doubles it from time to time while none comes, ...
    pub request_interval: Duration,
    /// ... up to this.
    pub request_interval_max: Duration,
    /// The most records a second that a sender is asked for. The module sends at most
    /// `retransmit_rate` (by default 10,000) datagrams a second, and drops requests for more.
    pub request_rate: u32,
    /// The time without an answer to any request after which a sender counts as passive.
    pub passive_after: Duration,
    /// The time that a missing record of a passive sender is waited for.
    pub passive_hold: Duration,
    /// The longest delay of an acknowledgement.
    pub ack_interval: Duration,
    /// The silence of a sender after which all its records are returned, with gaps.
    pub silence: Duration,
    /// The silence of a sender after which it is forgotten.
    pub forget: Duration,
    /// The most bytes that are kept of one sender.
    pub host_memory: usize,
    /// The most bytes that are kept of all senders.
    pub total_memory: usize,
    /// The most senders at a time.
    pub max_hosts: usize,
    /// The seed of the choice of records that a place is asked for to show that it hears; [`None`]
    /// for a choice that cannot be guessed. Only for tests that are to be repeated.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dialect: Dialect::Nca,
            history: true,
            reorder: Duration::from_millis(30),
            request_interval: Duration::from_millis(50),
            request_interval_max: Duration::from_secs(1),
            request_rate: 10_000,
            passive_after: Duration::from_secs(3),
            passive_hold: Duration::from_millis(250),
            ack_interval: Duration::from_millis(100),
            silence: Duration::from_secs(10),
            forget: Duration::from_secs(24 * 3600),
            host_memory: 8 << 20,
            total_memory: 1 << 30,
            max_hosts: 100_000,
            seed: None,
        }
    }
}
