// SPDX-License-Identifier: GPL-2.0

//! Whether a place hears us, and the limits of responses to it until it has shown that: QUIC's
//! address validation (RFC 9000, section 8).
//!
//! Source addresses can be forged. So a place gets at most three times the bytes that have come
//! from it, and three times the datagrams, until it has shown that it hears us: it has to send
//! again just the records of a random request, and none of the others. Naming a session shows
//! nothing. A place that is silent gets next to nothing even afterwards, and the same response is
//! repeated at longer and longer intervals.
//!
//! A response that is not allowed counts as lost on its way: it is sent when it is due again.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::queue::Queue;
use crate::record::SeqRange;

/// The factor by which responses to a place may exceed the datagrams from it, until it has shown
/// that it hears us.
const FACTOR: u64 = 3;

/// The time after its last datagram from which on a place is silent.
const QUIET: Duration = Duration::from_secs(10);

/// The time until a silent place that has shown that it hears us gets a response again, at first
/// and at last: the one response that it would have answered may have been lost.
const PROBES: (Duration, Duration) = (QUIET, Duration::from_secs(3600));

/// The time until the same response is repeated if nothing has come since, at first and at last.
const REPEATS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The time until it is asked again to show that it hears us, at first and at last.
const CHALLENGES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// The number of records that it is asked for, and among how many.
pub(crate) const ASKED: usize = 4;
pub(crate) const AMONG: usize = 32;

/// The improbability of its answers, if they come by chance, that is enough, in bits: with a
/// session, which is not known by chance either, and without.
const BITS: (u32, u32) = (12, 18);

/// Some records that were asked for, of those that a place has sent.
#[derive(Debug)]
struct Challenge {
    /// All that it might have been asked for and that has not come since, in ascending order.
    among: Vec<u64>,
    asked: Vec<u64>,
    /// The evidence of one that was asked for, in bits.
    bits: u32,
}

/// The bytes and datagrams of one stream that came from a place, and those of the responses to it.
/// So made-up streams cannot use up the responses of others.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    came: (u64, u64),
    sent: (u64, u64),
}

impl Credit {
    /// Returns how many datagrams have come.
    pub(crate) fn datagrams(&self) -> u64 {
        self.came.1
    }

    /// Notes that a datagram has come.
    #[inline]
    pub(crate) fn hear(&mut self, bytes: usize) {
        self.came.0 += bytes as u64;
        self.came.1 += 1;
    }
}

/// The knowledge of a place.
#[derive(Debug, Default)]
pub(crate) struct Path {
    validated: bool,
    heard: Option<Instant>,
    /// The time at which a silent sender may get a response, and the time until the next.
    probe: Option<(Instant, Duration)>,
    /// The last response, since something came: a hash of it, the time at which it may be repeated,
    /// and the wait after that.
    last: Option<(u64, Instant, Duration)>,
    /// Whether it has to show that it hears us, because a decision depends on it.
    wanted: bool,
    challenge: Option<Box<Challenge>>,
    challenge_at: Option<(Instant, Duration)>,
    /// The records that it was asked for lately to show that, with the times; the last is the
    /// newest.
    asked: VecDeque<(Instant, u64)>,
    bits: u32,
}

impl Path {
    /// Notes that a datagram has come.
    #[inline]
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
        if self.last.is_some() {
            // A response was sent since the last one.
            (self.last, self.probe) = (None, None);
        }
    }

    /// Returns whether the place has shown that it hears us.
    pub(crate) fn is_validated(&self) -> bool {
        self.validated
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.heard.is_none_or(|heard| now > heard + QUIET)
    }

    /// Returns whether this response may be sent now. If so it counts as sent; if it is too long
    /// for a place that has not shown that it hears us, that is counted.
    pub(crate) fn allows(
        &mut self,
        now: Instant,
        credit: &mut Credit,
        queue: &mut Queue,
        response: &[u8],
    ) -> bool {
        let len = response.len() as u64;
        if !self.validated {
            let (bytes, datagrams) = credit.came;
            let fits = credit.sent.0 + len <= FACTOR * bytes && credit.sent.1 < FACTOR * datagrams;
            if !fits || self.is_silent(now) {
                if !fits {
                    queue.stats.unvalidated_bytes += len;
                    self.want();
                }
                return false;
            }
        } else if self.is_silent(now) {
            let (at, wait) = self.probe.unwrap_or((now, PROBES.0));
            if now < at {
                return false;
            }
            self.probe = Some((now + wait, (wait * 2).min(PROBES.1)));
        }
        let hash = queue.hasher.hash_one(response);
        let again = self.last.filter(|&(last, ..)| last == hash);
        let (at, wait) = again.map_or((now, REPEATS.0), |(_, at, wait)| (at, wait));
        if now < at {
            return false;
        }
        self.last = Some((hash, now + wait, (wait * 2).min(REPEATS.1)));
        credit.sent.0 += len;
        credit.sent.1 += 1;
        true
    }

    /// Has it show that it hears us, even if it has shown that before: a new stream may be an
    /// attacker's.
    pub(crate) fn want(&mut self) {
        if !std::mem::replace(&mut self.wanted, true) {
            (self.bits, self.challenge_at) = (0, None);
        }
    }

    /// Returns the time at which to ask it to show that it hears us.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if !self.wanted {
            return None;
        }
        let heard = self.heard?;
        let at = self.challenge_at.map_or(heard, |(at, _)| at.max(heard));
        (at <= heard + QUIET).then_some(at)
    }

    /// Returns whether it is being asked that.
    pub(crate) fn is_challenged(&self, now: Instant) -> bool {
        self.challenge.is_some() && self.asked.back().is_some_and(|&(at, _)| now <= at + QUIET)
    }

    /// Returns whether it was asked for this lately, to show that.
    pub(crate) fn was_asked(&self, now: Instant, seq: u64) -> bool {
        let mut asked = self.asked.iter();
        asked.any(|&(at, asked)| asked == seq && now <= at + QUIET)
    }

    /// Returns the most bytes of a response.
    pub(crate) fn room(&self, credit: &Credit) -> usize {
        let left = (FACTOR * credit.came.0).saturating_sub(credit.sent.0);
        match self.validated {
            true => usize::MAX,
            false => usize::try_from(left).unwrap_or(usize::MAX),
        }
    }

    /// Chooses the records to ask it for, among those that have come.
    pub(crate) fn challenge(
        &mut self,
        now: Instant,
        mut among: Vec<u64>,
        mut random: impl FnMut() -> u64,
    ) -> Vec<SeqRange> {
        let (_, wait) = self.challenge_at.unwrap_or((now, CHALLENGES.0));
        self.challenge_at = Some((now + wait, (wait * 2).min(CHALLENGES.1)));
        let count = ASKED.min(among.len() / 2).max(1);
        for n in 0..count.min(among.len()) {
            let other = n + (random() % (among.len() - n) as u64) as usize;
            among.swap(n, other);
        }
        let mut asked = among[..count.min(among.len())].to_vec();
        asked.sort_unstable();
        self.asked.retain(|&(at, _)| now <= at + QUIET);
        self.asked.extend(asked.iter().map(|&seq| (now, seq)));
        among.sort_unstable();
        let ranges = asked.iter().map(|&seq| SeqRange {
            first: seq,
            last: seq,
        });
        let ranges = ranges.collect();
        let bits = (among.len() / asked.len().max(1)).max(1).ilog2();
        self.challenge = Some(Box::new(Challenge { among, asked, bits }));
        ranges
    }

    /// Takes a record that came again, or that the sender says that it has not got. Returns whether
    /// the place has shown by now that it hears us.
    ///
    /// Each of the records that it might have been asked for counts once: for it if it was, and
    /// as much against it if not, for it may send all that there is.
    pub(crate) fn answer(&mut self, seq: u64, has_session: bool) -> bool {
        let Some(challenge) = &mut self.challenge else {
            return false;
        };
        let Ok(at) = challenge.among.binary_search(&seq) else {
            return false;
        };
        challenge.among.remove(at);
        match challenge.asked.binary_search(&seq) {
            Ok(_) => self.bits += challenge.bits,
            Err(_) => self.bits = self.bits.saturating_sub(challenge.bits),
        }
        let (with, without) = BITS;
        let shown = self.bits >= if has_session { with } else { without };
        if shown {
            (self.validated, self.wanted) = (true, false);
            (self.challenge, self.challenge_at) = (None, None);
        }
        shown
    }

    /// As if it had shown that it hears us.
    #[cfg(test)]
    fn validate(&mut self) {
        self.validated = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_may_be_said() {
        let mut queue = Queue::new(&Config::default());
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let (mut path, mut credit) = (Path::default(), Credit::default());
        assert!(!path.allows(begin, &mut credit, &mut queue, b"nca ~"));
        path.hear(begin);
        credit.hear(10);
        // Three datagrams, and thirty bytes.
        for n in 0..3 {
            assert!(path.allows(
                at(n),
                &mut credit,
                &mut queue,
                format!("nca{n} ~").as_bytes()
            ));
        }
        assert!(!path.allows(at(9), &mut credit, &mut queue, b"nca ~"));
        let (mut path, mut credit) = (Path::default(), Credit::default());
        path.hear(begin);
        credit.hear(10);
        assert!(path.allows(begin, &mut credit, &mut queue, &[b'x'; 30]));
        assert!(!path.allows(begin, &mut credit, &mut queue, b"y"));
        assert_eq!(queue.stats.unvalidated_bytes, 5 + 5 + 1);
        // One that is silent gets nothing although it might.
        path.hear(begin);
        credit.hear(1000);
        assert!(!path.allows(at(10_001), &mut credit, &mut queue, b"y"));

        // Of one that hears us all is said, but not the same all the time.
        path.validate();
        path.hear(begin);
        let times =
            (0..10_000).filter(|&ms| path.allows(at(ms), &mut credit, &mut queue, b"nca ~"));
        let times: Vec<_> = times.collect();
        assert_eq!(times[..6], [0, 5, 15, 35, 75, 155]);
        assert!(times.len() < 20, "{times:?}");
        assert!(path.allows(at(9_999), &mut credit, &mut queue, b"nca1 ~"));
        path.hear(at(10_000));
        assert!(path.allows(at(10_000), &mut credit, &mut queue, b"nca1 ~"));
        // And of one that is silent next to nothing.
        let day = (0..24 * 3600).map(|s| 20_000 + 1000 * s);
        let said = day
            .filter(|&ms| path.allows(at(ms), &mut credit, &mut queue, format!("{ms}").as_bytes()));
        assert!(said.count() < 40);
    }

    #[test]
    fn what_shows_that_it_hears() {
        let now = Instant::now();
        let mut dice = 1u64;
        let mut random = || {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            dice >> 33
        };
        let among: Vec<u64> = (100..132).collect();
        let mut path = Path::default();
        let asked = path.challenge(now, among.clone(), &mut random);
        let all: Vec<_> = asked.iter().map(|range| range.first).collect();
        assert_eq!(all.len(), ASKED);
        // New records tell nothing; those asked for do, each once.
        assert!(!path.answer(132, true));
        let answers: Vec<_> = all.iter().map(|&seq| path.answer(seq, true)).collect();
        assert_eq!(answers, [false, false, false, true]);
        assert!(!path.answer(all[0], true));
        // Some may be lost.
        let mut path = Path::default();
        let shown = (0..10).position(|_| {
            let asked = path.challenge(now, among.clone(), &mut random);
            path.answer(asked[0].first, false)
        });
        assert_eq!(shown, Some(5));
        // A place that sends all that there is shows nothing.
        let mut hits = 0;
        for _ in 0..1000 {
            let mut path = Path::default();
            path.challenge(now, among.clone(), &mut random);
            hits += u32::from(among.iter().any(|&seq| path.answer(seq, true)));
        }
        assert!(hits <= 1, "{hits}");
        // Few records need several rounds.
        let mut path = Path::default();
        for round in 1.. {
            let asked = path.challenge(now, vec![1, 2, 3, 4], &mut random);
            if asked.iter().any(|range| path.answer(range.first, false)) {
                assert_eq!(round, 9);
                break;
            }
        }
    }
}
