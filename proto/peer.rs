// SPDX-License-Identifier: GPL-2.0

//! The state of a logger, as its responses tell: pure, `core` only.
//!
//! Times are milliseconds of one clock that does not go backwards.

use super::{
    response::Response,
    wire::{
        Dialect,
        Session, //
    }, //
};

/// How long responses without our session are void after one that named it (`session=auto`), in
/// milliseconds.
const SESSION_HOLD_MS: u64 = 60_000;

/// Whether responses have to name our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Once a response has named it, until none has for [`SESSION_HOLD_MS`].
    Auto,
    /// Always.
    Require,
    /// Never; records do not carry it either.
    Off,
}

impl Policy {
    /// Returns the policy of this name.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"auto" => Some(Self::Auto),
            b"require" => Some(Self::Require),
            b"off" => Some(Self::Off),
            _ => None,
        }
    }

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Require => "require",
            Self::Off => "off",
        }
    }
}

/// The effect of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// None: it does not name our session. Its requests are not served.
    Void,
    /// The response is believed.
    Believed {
        /// This response has turned acks on.
        first_ack: bool,
        /// The ack has moved forward.
        forward: bool,
    },
}

/// The state of one logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    policy: Policy,
    /// The dialect, if it does not depend on responses.
    fixed: Option<Dialect>,
    /// The session of this load of the module.
    ours: Session,
    /// The dialect of the last response with an ack that counts or with our session.
    heard: Option<Dialect>,
    /// The dialect of the last response that was believed.
    asked: Option<Dialect>,
    /// Whether the peer knows sessions.
    knows: bool,
    /// When the peer last named our session.
    named_at: Option<u64>,
    ack: Option<u64>,
}

impl Peer {
    /// Returns a logger that has not responded yet. `fixed` is [`None`] for `dialect=auto`.
    pub(crate) const fn new(fixed: Option<Dialect>, policy: Policy, ours: Session) -> Self {
        Self {
            policy,
            fixed,
            ours,
            heard: None,
            asked: None,
            knows: false,
            named_at: None,
            ack: None,
        }
    }

    /// Returns the last record that has been acked; [`None`] while acks are off.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.ack
    }

    /// Returns the dialect to send in.
    ///
    /// A logger that has not responded is a passive tool, which knows upstream's form only.
    pub(crate) fn dialect(&self) -> Dialect {
        self.fixed.or(self.heard).unwrap_or(Dialect::Ncrx)
    }

    /// Returns the dialect to answer requests in: that of the last response.
    pub(crate) fn answer_dialect(&self) -> Dialect {
        self.fixed.or(self.asked).unwrap_or(Dialect::Ncrx)
    }

    /// Returns the session to put into records: only for a peer that knows sessions.
    pub(crate) fn session(&self) -> Option<Session> {
        (self.knows && self.policy != Policy::Off).then_some(self.ours)
    }

    /// Takes a response at time `now`. `end` is the number after the last record in the log.
    pub(crate) fn respond(&mut self, now: u64, response: &Response<'_>, end: u64) -> Verdict {
        // A record that has not been logged cannot have arrived, and 0 says nothing.
        let ack = response.ack.filter(|&ack| 0 < ack && ack < end);
        let asks = response.missing().any(|range| range.first < end);
        if !self.believes(now, response.session) {
            // A receiver may take the records of a new load for those of the last one, and answers
            // in the session of that. It has to hear of ours.
            self.knows |= response.session.is_some() && (ack.is_some() || asks);
            return Verdict::Void;
        }
        let names_ours = response.session == Some(Some(self.ours));
        // One datagram without these, from who knows where, must not change what a logger gets that
        // never responds.
        if ack.is_some() || names_ours {
            self.heard = Some(response.dialect);
        }
        self.asked = Some(response.dialect);
        // An answer has to be one that the peer understands.
        if ack.is_some() || names_ours || asks {
            self.knows = response.session.is_some();
        }

        let Some(ack) = ack else {
            return Verdict::Believed {
                first_ack: false,
                forward: false,
            };
        };
        let first_ack = self.ack.is_none();
        // libncrx by default acks only along with its requests, and would then fall silent.
        if first_ack && response.dialect == Dialect::Ncrx && response.missing().next().is_some() {
            return Verdict::Believed {
                first_ack: false,
                forward: false,
            };
        }
        let forward = self.ack.is_none_or(|old| ack > old);
        if forward {
            self.ack = Some(ack);
        }
        Verdict::Believed { first_ack, forward }
    }

    /// Returns whether a response with this session mark is believed, and remembers the session.
    fn believes(&mut self, now: u64, mark: Option<Option<Session>>) -> bool {
        if self.policy == Policy::Off {
            return true;
        }
        match mark {
            Some(Some(named)) if named == self.ours => {
                self.named_at = Some(now);
                return true;
            }
            // The session of another boot or load, or a guess.
            Some(Some(_)) => return false,
            _ => (),
        }
        if self.policy == Policy::Require {
            // Else it could not come to name our session.
            self.knows |= mark.is_some();
            return false;
        }
        let held = self
            .named_at
            .is_some_and(|at| now.saturating_sub(at) < SESSION_HOLD_MS);
        if !held {
            self.named_at = None;
        }
        !held
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_peer)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const OURS: Session = Session(0xabc);
    const END: u64 = 100;

    fn peer(policy: Policy) -> Peer {
        Peer::new(None, policy, OURS)
    }

    fn hear(peer: &mut Peer, now: u64, datagram: &str) -> Verdict {
        match Response::parse(datagram.as_bytes()) {
            Some(response) => peer.respond(now, &response, END),
            None => Verdict::Void,
        }
    }

    const FIRST: Verdict = Verdict::Believed {
        first_ack: true,
        forward: true,
    };
    const FORWARD: Verdict = Verdict::Believed {
        first_ack: false,
        forward: true,
    };
    const STILL: Verdict = Verdict::Believed {
        first_ack: false,
        forward: false,
    };

    #[test]
    fn acks_only_move_forward() {
        let peer = &mut peer(Policy::Auto);
        assert!(peer.acked().is_none());
        for (datagram, verdict, acked) in [
            ("nca", STILL, None),
            ("nca0", STILL, None),
            ("nca100", STILL, None),
            ("nca18446744073709551615", STILL, None),
            ("nca 5", STILL, None),
            ("nca7 9", FIRST, Some(7)),
            ("nca7", STILL, Some(7)),
            ("nca5", STILL, Some(7)),
            ("nca100", STILL, Some(7)),
            ("nca99", FORWARD, Some(99)),
            ("rubbish", Verdict::Void, Some(99)),
        ] {
            assert!(hear(peer, 0, datagram) == verdict);
            assert!(peer.acked() == acked);
        }
    }

    #[test]
    fn libncrx_turns_acks_on_without_a_request_only() {
        let peer = &mut peer(Policy::Auto);
        assert!(hear(peer, 0, "ncrx7 8") == STILL);
        assert!(peer.acked().is_none());
        assert!(hear(peer, 0, "ncrx7") == FIRST);
        assert!(hear(peer, 0, "ncrx9 11") == FORWARD);
    }

    #[test]
    fn dialects() {
        let auto = &mut peer(Policy::Auto);
        assert!(auto.dialect() == Dialect::Ncrx);
        for (response, records, answers) in [
            ("nca", Dialect::Ncrx, Dialect::Nca),
            ("nca 5", Dialect::Ncrx, Dialect::Nca),
            ("nca100", Dialect::Ncrx, Dialect::Nca),
            ("nca5 ~", Dialect::Nca, Dialect::Nca),
            ("ncrx 5", Dialect::Nca, Dialect::Ncrx),
            ("ncrx5", Dialect::Ncrx, Dialect::Ncrx),
            ("nca ~0000000000000def", Dialect::Ncrx, Dialect::Ncrx),
            ("nca ~0000000000000abc", Dialect::Nca, Dialect::Nca),
        ] {
            hear(auto, 0, response);
            assert!(auto.dialect() == records);
            assert!(auto.answer_dialect() == answers);
        }
        let fixed = &mut Peer::new(Some(Dialect::Nca), Policy::Auto, OURS);
        hear(fixed, 0, "ncrx5 6");
        assert!(fixed.dialect() == Dialect::Nca);
        assert!(fixed.answer_dialect() == Dialect::Nca);
    }

    #[test]
    fn records_name_the_session_for_who_acks_or_asks() {
        let peer = &mut peer(Policy::Auto);
        for (response, names) in [
            ("nca ~", false),
            ("nca100 ~", false),
            ("nca 100-200 ~", false),
            ("nca ~0000000000000def", false),
            ("nca100 100-200 ~0000000000000def", false),
            ("nca 5 ~", true),
            ("nca", true),
            ("nca100", true),
            ("nca 5", false),
            ("nca5 ~", true),
            ("nca5", false),
            ("nca5 ~0000000000000def", true),
            ("nca5", false),
            ("nca ~0000000000000abc", true),
        ] {
            hear(peer, 0, response);
            assert!(peer.session().is_some() == names);
        }
    }

    #[test]
    fn a_session_once_named_is_needed() {
        let peer = &mut peer(Policy::Auto);
        assert!(hear(peer, 0, "nca1") == FIRST);
        assert!(peer.session().is_none());
        // That of an earlier load is void, but for the evidence that the peer knows sessions.
        assert!(hear(peer, 0, "nca2 ~0000000000000def") == Verdict::Void);
        assert!(peer.session() == Some(OURS) && peer.acked() == Some(1));
        assert!(hear(peer, 0, "nca3 ~") == FORWARD);
        assert!(peer.session() == Some(OURS));
        assert!(hear(peer, 1000, "nca4 ~0000000000000abc") == FORWARD);
        assert!(hear(peer, 2000, "nca5") == Verdict::Void);
        assert!(hear(peer, 2000, "nca5 ~") == Verdict::Void);
        assert!(hear(peer, 2000, "nca5 ~0000000000000abd") == Verdict::Void);
        assert!(peer.acked() == Some(4));
        assert!(hear(peer, 60_999, "nca5") == Verdict::Void);
        // A plain peer has taken the place of the one that knew sessions.
        assert!(hear(peer, 61_000, "nca5") == FORWARD);
        assert!(peer.session().is_none());
    }

    #[test]
    fn session_policies() {
        let strict = &mut peer(Policy::Require);
        assert!(hear(strict, 0, "nca5") == Verdict::Void);
        assert!(strict.session().is_none());
        assert!(hear(strict, 0, "nca5 ~") == Verdict::Void);
        assert!(strict.session() == Some(OURS));
        assert!(hear(strict, 0, "nca5 ~0000000000000abc") == FIRST);
        assert!(hear(strict, 1 << 40, "nca6") == Verdict::Void);

        let off = &mut peer(Policy::Off);
        assert!(hear(off, 0, "nca5 ~0000000000000def") == FIRST);
        assert!(off.session().is_none());

        for policy in [Policy::Auto, Policy::Require, Policy::Off] {
            assert!(Policy::parse(policy.name().as_bytes()) == Some(policy));
        }
        assert!(Policy::parse(b"Require").is_none());
    }
}
