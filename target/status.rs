// SPDX-License-Identifier: GPL-2.0

//! The status of a target: a word, and figures of its unacked records.

use crate::{
    log::access::Wait,
    sys::time::now_ms,
    target::{
        State,
        Target, //
    },
};

/// The age of an unacked record from which a target lags, in milliseconds: a healthy logger acks
/// within a second.
const LAGGING_MS: u64 = 1000;

/// Records that a logger has not acked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unacked {
    /// The number of them.
    pub(crate) count: u64,
    /// The age of the oldest, in milliseconds.
    pub(crate) oldest_ms: u64,
}

/// The status of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The target is not enabled.
    Disabled,
    /// The device is not there, or not up.
    Down,
    /// The device has no carrier.
    NoCarrier,
    /// The logger has never acked.
    NeverAcked,
    /// All is well.
    Acked,
    /// A record has been unacked for over a second.
    Lagging,
    /// Unacked records are being sent again.
    Emergency,
}

impl Status {
    /// Returns the word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Down => "down",
            Self::NoCarrier => "no-carrier",
            Self::NeverAcked => "never-acked",
            Self::Acked => "acked",
            Self::Lagging => "lagging",
            Self::Emergency => "emergency",
        }
    }
}

impl Target {
    /// Returns the status.
    ///
    /// Process context.
    pub(crate) fn status(&self) -> Status {
        if !self.is_enabled() {
            return match self.state() {
                State::Deactivated => Status::Down,
                _ => Status::Disabled,
            };
        }
        let link = self.with_port(|port| {
            let dev = port.device()?;
            Some((dev.is_running(), dev.has_carrier()))
        });
        match link.flatten() {
            Some((true, true)) => {}
            Some((true, false)) => return Status::NoCarrier,
            _ => return Status::Down,
        }
        let unacked = self.unacked();
        let state = self.acks().state().lock();
        match state.peer.acked() {
            None => Status::NeverAcked,
            Some(_) if state.schedule.is_emergency() => Status::Emergency,
            Some(_) if unacked.is_some_and(|u| u.oldest_ms >= LAGGING_MS) => Status::Lagging,
            Some(_) => Status::Acked,
        }
    }

    /// Returns figures of the unacked records; [`None`] if there are none, or if acks are off.
    /// Process context.
    pub(crate) fn unacked(&self) -> Option<Unacked> {
        let (ack, marked) = {
            let state = self.acks().state().lock();
            let ack = state.peer.acked()?;
            (ack, state.schedule.marked(ack))
        };
        let first = ack.saturating_add(1).max(self.first_seq());
        let count = self.sent_end().checked_sub(first).filter(|&n| n > 0)?;
        let Ok(stored) = self.shared().log.next_sent(first, Wait);
        let sent = stored.map(|(_, meta)| meta.sent_ms());
        // Records whose time of transmission is not known yet are not old.
        let oldest = sent.into_iter().chain(marked).min();
        Some(Unacked {
            count,
            oldest_ms: oldest.map_or(0, |at| now_ms().saturating_sub(at)),
        })
    }
}
