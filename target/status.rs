// SPDX-License-Identifier: GPL-2.0

//! How a target does: in a word, and in numbers of what is unacked.

use crate::{
    log::access::Wait,
    sys::time::now_ms,
    target::{
        State,
        Target, //
    },
};

/// From when on unacked records make a target lag, in milliseconds: a healthy logger acks within a
/// second.
const LAGGING_MS: u64 = 1000;

/// What a logger has not acked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unacked {
    /// How many numbers.
    pub(crate) count: u64,
    /// How old the oldest is, in milliseconds.
    pub(crate) oldest_ms: u64,
}

/// How a target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is not enabled.
    Disabled,
    /// Its device is not there, or not up.
    Down,
    /// Its device has no carrier.
    NoCarrier,
    /// Its logger has never acked anything.
    NeverAcked,
    /// All is well.
    Acked,
    /// Something has been unacked for over a second.
    Lagging,
    /// Unacked records are being sent again.
    Emergency,
}

impl Status {
    /// Its word.
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
    /// How the target does, in a word.
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

    /// What has not been acked; [`None`] if all has, or if acks are off. Process context.
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
        // Of what nobody has seen yet nothing is old.
        let oldest = sent.into_iter().chain(marked).min();
        Some(Unacked {
            count,
            oldest_ms: oldest.map_or(0, |at| now_ms().saturating_sub(at)),
        })
    }
}
