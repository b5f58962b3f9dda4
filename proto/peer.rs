// SPDX-License-Identifier: GPL-2.0

//! What is known of a logger from its responses: pure, `core` only.
//!
//! Times are milliseconds of one clock that does not go backwards.

use super::wire::{
    Dialect,
    Range,
    Response,
    Session,
    MAX_DATAGRAM, //
};

/// How long a peer that has named our session is not believed without it (`session=auto`).
const SESSION_HOLD_MS: u64 = 60_000;

/// Whether responses have to name our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Once a peer has done so, and until it has not for [`SESSION_HOLD_MS`].
    Auto,
    /// Always.
    Require,
    /// Never; records do not carry it either.
    Off,
}

impl Policy {
    /// The policy of this name.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"auto" => Some(Self::Auto),
            b"require" => Some(Self::Require),
            b"off" => Some(Self::Off),
            _ => None,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Require => "require",
            Self::Off => "off",
        }
    }
}

/// What a response has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, for it does not name our session: what it asks for is not sent.
    Void,
    /// It is believed.
    Believed {
        /// Acks are on since this response.
        first_ack: bool,
        /// More records are acked than before.
        forward: bool,
    },
}

/// What is known of a logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    policy: Policy,
    /// The dialect to speak, if it does not depend on the peer.
    fixed: Option<Dialect>,
    /// The session of this load of the module.
    ours: Session,
    heard: Option<Dialect>,
    /// Whether the peer knows sessions.
    knows: bool,
    /// When the peer last named our session.
    named_at: Option<u64>,
    ack: Option<u64>,
}

impl Peer {
    /// A peer that has not spoken yet. `fixed` is [`None`] for `dialect=auto`.
    pub(crate) const fn new(fixed: Option<Dialect>, policy: Policy, ours: Session) -> Self {
        Self {
            policy,
            fixed,
            ours,
            heard: None,
            knows: false,
            named_at: None,
            ack: None,
        }
    }

    /// The last record that has been acked; [`None`] while acks are off.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.ack
    }

    /// The dialect to speak.
    ///
    /// Whoever has said nothing is a passive tool of today, which knows upstream's form only.
    pub(crate) fn dialect(&self) -> Dialect {
        self.fixed.or(self.heard).unwrap_or(Dialect::Ncrx)
    }

    /// The session to put into records: for peers that know sessions.
    pub(crate) fn session(&self) -> Option<Session> {
        self.knows.then_some(self.ours)
    }

    /// Takes a response. `end` is the number after the last record in the log.
    pub(crate) fn respond(&mut self, now: u64, response: &Response<'_>, end: u64) -> Verdict {
        if !self.believes(now, response.session) {
            return Verdict::Void;
        }
        self.heard = Some(response.dialect);

        // A number that has not been logged yet cannot have arrived, and 0 says nothing.
        let Some(ack) = response.ack.filter(|&ack| 0 < ack && ack < end) else {
            return Verdict::Believed {
                first_ack: false,
                forward: false,
            };
        };
        let first_ack = self.ack.is_none();
        // libncrx by default acks nothing but with its requests, and would then fall silent.
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

    /// Whether a response with this session mark is believed; takes note of the mark.
    fn believes(&mut self, now: u64, mark: Option<Option<Session>>) -> bool {
        if self.policy == Policy::Off {
            return true;
        }
        match mark {
            Some(Some(named)) if named == self.ours => {
                self.knows = true;
                self.named_at = Some(now);
                return true;
            }
            // That of another boot or load, or of somebody who guesses.
            Some(Some(_)) => {
                self.knows = true;
                return false;
            }
            Some(None) => self.knows = true,
            None => {}
        }
        if self.policy == Policy::Require {
            return false;
        }
        let held = self
            .named_at
            .is_some_and(|at| now.saturating_sub(at) < SESSION_HOLD_MS);
        if !held {
            self.named_at = None;
            self.knows = mark.is_some();
        }
        !held
    }
}

/// How many datagrams may be sent again: so many a second, and some at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Datagrams a second.
    rate: u64,
    /// Datagrams at once, in thousandths.
    burst: u64,
    /// What is left, in thousandths of a datagram.
    left: u64,
    /// What has been sent beyond that, in thousandths: it is paid off first.
    debt: u64,
    at: u64,
}

impl Budget {
    /// A budget that is full. At once there is no more than in a second.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let burst = u64::from(burst.min(rate)) * 1000;
        Self {
            rate: u64::from(rate),
            burst,
            left: burst,
            debt: 0,
            at: 0,
        }
    }

    /// Whether another datagram may be sent.
    pub(crate) fn allows(&mut self, now: u64) -> bool {
        // `rate` datagrams a second are `rate` thousandths a millisecond.
        let earned = now.saturating_sub(self.at).saturating_mul(self.rate);
        self.at = now;
        let paid = earned.min(self.debt);
        self.debt -= paid;
        self.left = self.left.saturating_add(earned - paid).min(self.burst);
        self.left >= 1000
    }

    /// Takes note that `n` datagrams have been sent: a record may have more of them than one
    /// could know.
    pub(crate) fn spend(&mut self, n: u32) {
        let n = u64::from(n) * 1000;
        let paid = n.min(self.left);
        self.left -= paid;
        self.debt = self.debt.saturating_add(n - paid);
    }
}

/// The most ranges in a response: each takes a digit and a blank.
pub(crate) const MAX_RANGES: usize = MAX_DATAGRAM / 2;

/// The numbers below `end` that a response asks for, in order, each once.
pub(crate) struct Missing<'a> {
    /// Sorted; ranges that share a number are one.
    ranges: &'a mut [Range],
}

impl<'a> Missing<'a> {
    /// The numbers that `response` asks for; `room` is what it needs to put them in order.
    pub(crate) fn new(
        response: &Response<'_>,
        end: u64,
        room: &'a mut [Range; MAX_RANGES],
    ) -> Self {
        let Some(newest) = end.checked_sub(1) else {
            return Self { ranges: &mut [] };
        };
        let mut count = 0;
        let asked = response.missing().filter(|range| range.first <= newest);
        for (to, range) in room.iter_mut().zip(asked) {
            *to = Range {
                first: range.first,
                last: range.last.min(newest),
            };
            count += 1;
        }
        let ranges = &mut room[..count];
        ranges.sort_unstable_by_key(|range| range.first);
        // What a range shares with those before it, which end in order then, is not of it.
        let mut next = Some(0);
        let mut kept = 0;
        for n in 0..ranges.len() {
            let Some(free) = next else { break };
            let range = Range {
                first: ranges[n].first.max(free),
                last: ranges[n].last,
            };
            if range.first <= range.last {
                ranges[kept] = range;
                kept += 1;
                next = range.last.checked_add(1);
            }
        }
        Self {
            ranges: &mut ranges[..kept],
        }
    }

    /// Passes over the numbers up to and including `last`.
    pub(crate) fn skip_to(&mut self, last: u64) {
        while let Some(range) = self.ranges.first_mut() {
            if range.last > last {
                range.first = range.first.max(last + 1);
                return;
            }
            self.pop();
        }
    }

    /// The last number of the range that begins with the next number.
    pub(crate) fn end_of_range(&self) -> Option<u64> {
        Some(self.ranges.first()?.last)
    }

    /// How many numbers are left.
    pub(crate) fn left(&self) -> u64 {
        let len = |range: &Range| (range.last - range.first).saturating_add(1);
        self.ranges.iter().map(len).fold(0, u64::saturating_add)
    }

    fn pop(&mut self) {
        let ranges = core::mem::take(&mut self.ranges);
        self.ranges = ranges.get_mut(1..).unwrap_or_default();
    }
}

impl Iterator for Missing<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let range = self.ranges.first_mut()?;
        let seq = range.first;
        if seq < range.last {
            range.first += 1;
        } else {
            self.pop();
        }
        Some(seq)
    }
}

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_peer))]
#[cfg(any(test, CONFIG_KUNIT))]
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
        hear(auto, 0, "nca");
        assert!(auto.dialect() == Dialect::Nca);
        hear(auto, 0, "ncrx5");
        assert!(auto.dialect() == Dialect::Ncrx);
        let fixed = &mut Peer::new(Some(Dialect::Nca), Policy::Auto, OURS);
        hear(fixed, 0, "ncrx5");
        assert!(fixed.dialect() == Dialect::Nca);
    }

    #[test]
    fn a_session_once_named_is_needed() {
        let peer = &mut peer(Policy::Auto);
        assert!(hear(peer, 0, "nca1") == FIRST);
        assert!(peer.session().is_none());
        // That of an earlier load is void, and shows that the peer knows sessions.
        assert!(hear(peer, 0, "nca2 ~0000000000000def") == Verdict::Void);
        assert!(peer.session() == Some(OURS));
        assert!(hear(peer, 0, "nca3 ~") == FORWARD);
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

    const ROOM: [Range; MAX_RANGES] = [Range { first: 0, last: 0 }; MAX_RANGES];

    fn asks(datagram: &str, end: u64, expected: &[u64]) -> bool {
        let room = &mut ROOM.clone();
        Response::parse(datagram.as_bytes()).is_some_and(|r| {
            let missing = Missing::new(&r, end, room);
            missing.left() == expected.len() as u64 && missing.eq(expected.iter().copied())
        })
    }

    #[test]
    fn each_number_once_and_in_order() {
        assert!(asks("nca", END, &[]));
        assert!(asks("nca 0", 0, &[]));
        assert!(asks("nca5 7 9-11 7 10 8-12", END, &[7, 8, 9, 10, 11, 12]));
        assert!(asks("nca 98-102", END, &[98, 99]));
        assert!(asks("nca 100 18446744073709551615", END, &[]));
        assert!(asks(
            "nca 99-18446744073709551615 0-0 90-18446744073709551615 98",
            END,
            &[0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]
        ));
        assert!(asks("nca 7-9 8 20 7-7 9-10", END, &[7, 8, 9, 10, 20]));
        let last = u64::MAX - 1;
        assert!(asks(
            "nca 18446744073709551614-18446744073709551615 18446744073709551613-18446744073709551614",
            u64::MAX,
            &[last - 1, last]
        ));
    }

    #[test]
    fn as_many_ranges_as_there_can_be() {
        let mut datagram = [b' '; MAX_DATAGRAM];
        datagram[..3].copy_from_slice(b"nca");
        for digit in datagram[4..].iter_mut().step_by(2) {
            *digit = b'7';
        }
        let room = &mut ROOM.clone();
        let response = Response::parse(&datagram);
        assert!(response.is_some_and(|r| Missing::new(&r, END, room).eq([7])));
    }

    #[test]
    fn passing_over_what_is_gone() {
        let room = &mut ROOM.clone();
        let response = Response::parse(b"nca 5-20 30 40");
        assert!(response.is_some());
        let Some(response) = response else { return };
        let mut missing = Missing::new(&response, END, room);
        assert!(missing.next() == Some(5));
        assert!(missing.end_of_range() == Some(20) && missing.left() == 17);
        missing.skip_to(18);
        assert!(missing.next() == Some(19));
        missing.skip_to(3);
        assert!(missing.next() == Some(20));
        missing.skip_to(30);
        assert!(missing.next() == Some(40));
        assert!(missing.next().is_none() && missing.left() == 0);
        missing.skip_to(u64::MAX);
        assert!(missing.end_of_range().is_none());
    }

    #[test]
    fn a_budget_is_kept() {
        let mut budget = Budget::new(1000, 20);
        let mut send = |now, n| {
            let allowed = budget.allows(now);
            if allowed {
                budget.spend(n);
            }
            allowed
        };
        assert!((0..100).filter(|_| send(5000, 1)).count() == 20);
        // A datagram a millisecond.
        assert!((5001..6001).filter(|&now| send(now, 1)).count() == 1000);
        // What has been sent in excess is made up for.
        assert!((6001..6301).filter(|&now| send(now, 3)).count() == 100);
        assert!((0..100).filter(|_| send(u64::MAX, 1)).count() == 20);
        // A clock that stands still or goes back earns nothing.
        assert!(!send(0, 1));
        assert!(!Budget::new(0, 0).allows(u64::MAX));
        let mut slow = Budget::new(1, 2000);
        assert!(slow.allows(5000));
        slow.spend(1);
        assert!(!slow.allows(5999) && slow.allows(6000));
    }
}
