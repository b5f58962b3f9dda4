// SPDX-License-Identifier: GPL-2.0

//! What may be set.

use std::time::Duration;

/// Which of the two languages of responses is spoken. Records are understood in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// netconsole_ext's: `nca`, with sessions and ranges.
    Nca,
    /// That of Meta's libncrx, which its sender `nctx` understands: `ncrx`, single numbers.
    Ncrx,
}

/// How a receiver behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The language of the responses.
    pub dialect: Dialect,
    /// Whether a sender that is not known is asked for what it logged before the first record that
    /// came of it.
    pub history: bool,
    /// For how long a missing record may just be late: then it is asked for.
    pub reorder: Duration,
    /// How long to wait for an answer before it is asked for again, until it is known that answers
    /// come sooner. While no answer comes at all this doubles from time to time, ...
    pub request_interval: Duration,
    /// ... up to this.
    pub request_interval_max: Duration,
    /// How many records a second a sender is asked for. The module sends at most
    /// `retransmit_rate`, by default 10,000 datagrams, a second, and drops requests for more.
    pub request_rate: u32,
    /// For how long a sender may leave all requests unanswered before it is taken for one that
    /// never answers.
    pub passive_after: Duration,
    /// How long a missing record of such a sender is waited for.
    pub passive_hold: Duration,
    /// How long an acknowledgement may wait.
    pub ack_interval: Duration,
    /// For how long a sender may be silent before all that there is of it is handed out.
    pub silence: Duration,
    /// For how long a sender may be silent before it is forgotten.
    pub forget: Duration,
    /// How many bytes may be kept for one sender, to be put in order.
    pub host_memory: usize,
    /// The same for all senders.
    pub total_memory: usize,
    /// How many senders may be known at a time.
    pub max_hosts: usize,
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
        }
    }
}
