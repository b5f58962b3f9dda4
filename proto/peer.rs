// SPDX-License-Identifier: GPL-2.0

//! The state of a logger, as its responses tell: pure, `core` only.
//!
//! Times are milliseconds of one clock that does not go backwards.

use super::wire::{
    Dialect,
    Response,
    Session, //
};

/// How long responses without our session are void after one that named it (`session=auto`), in
/// milliseconds.
const SESSION_HOLD_MS: u64 = 60_000;

/// Whether responses have to name our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Once a response has named it, until none has for [`SESSION_HOLD_MS`].
    Auto,
    /// Always; records always carry it.
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

/// The form of records that a logger understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerForm {
    /// The dialect.
    pub(crate) dialect: Dialect,
    /// Whether the logger knows sessions.
    pub(crate) sessions: bool,
}

/// The state of one logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    policy: Policy,
    /// The dialect, if it does not depend on responses.
    fixed: Option<Dialect>,
    /// The session of this load of the module.
    ours: Session,
    /// The form of the last response that says who is there: see [`Self::respond`].
    heard: Option<PeerForm>,
    /// The form of the last response that was believed.
    asked: Option<PeerForm>,
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
            named_at: None,
            ack: None,
        }
    }

    /// Returns the last record that has been acked; [`None`] while acks are off.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.ack
    }

    /// Returns the form to send in.
    ///
    /// A logger that has not responded is a passive tool, which knows upstream's form only.
    pub(crate) fn form(&self) -> PeerForm {
        self.form_like(self.heard)
    }

    /// Returns the form to answer requests in: that of the last response. It is how a logger that
    /// knows sessions learns ours when it has nothing to ack yet.
    pub(crate) fn answer_form(&self) -> PeerForm {
        self.form_like(self.asked.or(self.heard))
    }

    fn form_like(&self, response: Option<PeerForm>) -> PeerForm {
        let dialect = self.fixed.or(response.map(|form| form.dialect));
        PeerForm {
            dialect: dialect.unwrap_or(Dialect::Ncrx),
            sessions: match self.policy {
                Policy::Auto => response.is_some_and(|form| form.sessions),
                Policy::Require => true,
                Policy::Off => false,
            },
        }
    }

    /// Takes a response at time `now`. `end` is the number after the last record in the log.
    ///
    /// The form of records changes only with an ack that counts or with our session: anybody can
    /// send one datagram in the name of a logger that never responds. Answers to requests have the
    /// form of the request.
    pub(crate) fn respond(&mut self, now: u64, response: &Response<'_>, end: u64) -> Verdict {
        let named = self.policy != Policy::Off && response.session == Some(Some(self.ours));
        if !named && !self.believes_without_our_session(now, response.session) {
            return Verdict::Void;
        }
        // A record that has not been logged cannot have arrived, and 0 says nothing. libncrx by
        // default acks only along with its requests, and would then fall silent.
        let first_ack = self.ack.is_none();
        let only_asks =
            first_ack && response.dialect == Dialect::Ncrx && response.missing().next().is_some();
        let ack = response
            .ack
            .filter(|&ack| 0 < ack && ack < end && !only_asks);
        self.asked = Some(PeerForm {
            dialect: response.dialect,
            sessions: response.session.is_some(),
        });
        if named || ack.is_some() {
            self.heard = self.asked;
            self.named_at = named.then_some(now);
        }
        let Some(ack) = ack else {
            return Verdict::Believed {
                first_ack: false,
                forward: false,
            };
        };
        let forward = self.ack.is_none_or(|old| ack > old);
        if forward {
            self.ack = Some(ack);
        }
        Verdict::Believed { first_ack, forward }
    }

    /// Returns whether a response with this mark, which does not name our session, is believed.
    fn believes_without_our_session(&self, now: u64, mark: Option<Option<Session>>) -> bool {
        let held = |at| now.saturating_sub(at) < SESSION_HOLD_MS;
        match self.policy {
            Policy::Off => true,
            Policy::Require => false,
            // A session that is not ours is that of another boot or load, or a guess.
            Policy::Auto => !matches!(mark, Some(Some(_))) && !self.named_at.is_some_and(held),
        }
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
        assert!(auto.form().dialect == Dialect::Ncrx);
        hear(auto, 0, "nca4");
        assert!(auto.form().dialect == Dialect::Nca);
        hear(auto, 0, "ncrx5");
        assert!(auto.form().dialect == Dialect::Ncrx);
        let fixed = &mut Peer::new(Some(Dialect::Nca), Policy::Auto, OURS);
        hear(fixed, 0, "ncrx5");
        assert!(fixed.form().dialect == Dialect::Nca);
    }

    #[test]
    fn a_forged_datagram_changes_nothing_for_a_passive_logger() {
        for (datagram, verdict) in [
            ("nca", STILL),
            ("nca0", STILL),
            ("nca100", STILL),
            ("nca 5-7", STILL),
            ("nca ~", STILL),
            ("nca 1 ~", STILL),
            ("nca100 ~", STILL),
            ("ncrx ~", STILL),
            ("ncrx7 8 ~", STILL),
            ("nca ~0000000000000def", Verdict::Void),
            ("nca5 ~0000000000000def", Verdict::Void),
        ] {
            let peer = &mut peer(Policy::Auto);
            assert!(hear(peer, 0, datagram) == verdict);
            assert!(peer.form().dialect == Dialect::Ncrx);
            assert!(!peer.form().sessions && peer.acked().is_none());
        }
    }

    #[test]
    fn an_answer_has_the_form_of_the_request() {
        for (datagram, dialect, sessions) in [
            ("nca 1", Dialect::Nca, false),
            ("nca 1 ~", Dialect::Nca, true),
            ("ncrx7 8 ~", Dialect::Ncrx, true),
            ("nca 1 ~0000000000000def", Dialect::Ncrx, false),
        ] {
            let peer = &mut peer(Policy::Auto);
            hear(peer, 0, datagram);
            assert!(peer.answer_form() == PeerForm { dialect, sessions });
        }
        let off = &mut peer(Policy::Off);
        hear(off, 0, "nca5 7 ~");
        assert!(!off.answer_form().sessions);
        let fixed = &mut Peer::new(Some(Dialect::Ncrx), Policy::Auto, OURS);
        hear(fixed, 0, "nca 7 ~");
        assert!(fixed.answer_form().dialect == Dialect::Ncrx);
    }

    #[test]
    fn the_form_follows_an_ack_that_counts_or_our_session() {
        for (datagram, dialect, knows) in [
            ("nca5", Dialect::Nca, false),
            ("nca5 ~", Dialect::Nca, true),
            ("nca5 7 ~", Dialect::Nca, true),
            ("ncrx5 ~", Dialect::Ncrx, true),
            ("nca ~0000000000000abc", Dialect::Nca, true),
            ("nca 1 ~0000000000000abc", Dialect::Nca, true),
        ] {
            let peer = &mut peer(Policy::Auto);
            assert!(hear(peer, 0, datagram) != Verdict::Void);
            assert!(peer.form().dialect == dialect);
            assert!(peer.form().sessions == knows);
            assert!(peer.answer_form() == peer.form());
        }
    }

    #[test]
    fn a_session_once_named_is_needed() {
        let peer = &mut peer(Policy::Auto);
        assert!(hear(peer, 0, "nca1") == FIRST);
        assert!(!peer.form().sessions);
        // That of an earlier load is void.
        assert!(hear(peer, 0, "nca2 ~0000000000000def") == Verdict::Void);
        assert!(!peer.form().sessions);
        assert!(hear(peer, 0, "nca3 ~") == FORWARD);
        assert!(peer.form().sessions);
        assert!(hear(peer, 1000, "nca4 ~0000000000000abc") == FORWARD);
        assert!(hear(peer, 2000, "nca5") == Verdict::Void);
        assert!(hear(peer, 2000, "nca5 ~") == Verdict::Void);
        assert!(hear(peer, 2000, "nca5 ~0000000000000abd") == Verdict::Void);
        assert!(peer.acked() == Some(4));
        assert!(hear(peer, 60_999, "nca5") == Verdict::Void);
        // What acks nothing says nothing of who is there now.
        assert!(hear(peer, 61_000, "nca") == STILL);
        assert!(peer.form().sessions);
        // A plain peer has taken the place of the one that knew sessions.
        assert!(hear(peer, 61_000, "nca5") == FORWARD);
        assert!(!peer.form().sessions);
    }

    #[test]
    fn session_policies() {
        let strict = &mut peer(Policy::Require);
        assert!(strict.form().sessions);
        assert!(hear(strict, 0, "nca5") == Verdict::Void);
        assert!(hear(strict, 0, "nca5 ~") == Verdict::Void);
        assert!(hear(strict, 0, "nca5 ~0000000000000def") == Verdict::Void);
        assert!(strict.form().dialect == Dialect::Ncrx);
        assert!(hear(strict, 0, "nca5 ~0000000000000abc") == FIRST);
        assert!(strict.form().dialect == Dialect::Nca);
        assert!(hear(strict, 1 << 40, "nca6") == Verdict::Void);
        assert!(strict.form().sessions);

        let off = &mut peer(Policy::Off);
        assert!(hear(off, 0, "nca5 ~0000000000000def") == FIRST);
        assert!(hear(off, 0, "nca6 ~0000000000000abc") == FORWARD);
        assert!(!off.form().sessions);

        for policy in [Policy::Auto, Policy::Require, Policy::Off] {
            assert!(Policy::parse(policy.name().as_bytes()) == Some(policy));
        }
        assert!(Policy::parse(b"Require").is_none());
    }
}
