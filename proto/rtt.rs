// SPDX-License-Identifier: GPL-2.0

//! The round trip time to a logger, estimated: pure, `core` only.
//!
//! A sample is the time from when a record was last sent to the first response that shows that it
//! has arrived:
//!
//! - an ack that moves forward to it, unless any record has been sent again since: acks are
//!   cumulative, so that this one may have waited for any record before its own (Karn's rule);
//! - the first request for the record before it, as the last in a response, unless that one has
//!   been sent again since: a record is missed only after a later one has come. Other
//!   retransmissions have no part in it, so there are such samples on a bad line, too. Further
//!   requests for that record only tell that it has not been sent again: each would be a longer
//!   sample, and a longer hold would put off the retransmission that ends them.
//!
//! As in TCP (RFC 6298) the first sample counts as it is, and later ones are smoothed. Unlike in
//! TCP, the estimate decides how long a requested record is *not* sent again: one that is too long
//! holds up the recovery, while one that is too short costs a datagram. Loggers respond late, since
//! they wait out reordering, or have more to ack, or since a request is lost, and never early. So a
//! shorter sample is believed at once, and a longer one only with a gain of 1/32.

use core::ops::{
    Deref,
    RangeInclusive, //
};

use super::last_sent::{
    LastSent,
    Word, //
};

/// The bounds of [`Rtt::hold`], in milliseconds. Below the least, a request that has waited on a
/// busy machine looks like a new one. The most is a geostationary satellite's round trip and some
/// more: no logger is to wait longer for a record that has been lost again.
const HOLD: RangeInclusive<u64> = 50..=750;

/// The estimate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    /// In eighths of a millisecond.
    smoothed: Option<u64>,
    /// The time of the last retransmission.
    resent_at: Option<u64>,
    /// The highest number whose request was looked at.
    requested: Option<u64>,
}

impl Rtt {
    /// Notes a retransmission.
    pub(crate) fn resent(&mut self, now: u64) {
        self.resent_at = Some(now);
    }

    /// Takes the samples of a response: `acked` is the last record that it acks, if that is more
    /// than before, and `requested` the highest number that it asks for.
    pub(crate) fn respond<W: Word, S: Deref<Target = [W]>>(
        &mut self,
        now: u64,
        acked: Option<u64>,
        requested: Option<u64>,
        last_sent: &LastSent<S>,
    ) {
        let age = |seq| last_sent.age(seq, now);
        if let Some(age) = acked.and_then(age) {
            let sent_at = now.saturating_sub(age);
            if self.resent_at.is_none_or(|resent_at| resent_at < sent_at) {
                self.sample(age);
            }
        }
        let after = requested.and_then(|seq| Some((seq, age(seq.checked_add(1)?)?)));
        let is_first = |seq| self.requested.is_none_or(|known| seq > known);
        if let Some((seq, after)) = after.filter(|&(seq, _)| is_first(seq)) {
            self.requested = Some(seq);
            if age(seq).is_none_or(|own| own >= after) {
                self.sample(after);
            }
        }
    }

    fn sample(&mut self, ms: u64) {
        // A response that comes so late was not written when the record came.
        if ms > *HOLD.end() {
            return;
        }
        let new = ms * 8;
        self.smoothed = Some(match self.smoothed {
            Some(old) if new > old => old + (new - old) / 32,
            _ => new,
        });
    }

    /// Returns how long a record that has been sent is not sent again on request, in milliseconds:
    /// a round trip, and an eighth for longer ones.
    pub(crate) fn hold(&self) -> u64 {
        let smoothed = self.smoothed.map_or(0, |smoothed| smoothed / 8);
        (smoothed + smoothed / 8).clamp(*HOLD.start(), *HOLD.end())
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_rtt)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::super::last_sent::NEVER;
    use super::*;
    use core::cell::Cell;

    #[test]
    fn the_estimate_rises_slowly_and_falls_at_once() {
        let mut rtt = Rtt::default();
        assert!(rtt.hold() == 50);
        for (sample, holds) in [
            (300, 337..=337),
            // One that was held up; and then the logger has moved.
            (751, 337..=337),
            (80, 90..=90),
            (3, 50..=50),
            (300, 50..=50),
            (u64::MAX, 50..=50),
        ] {
            rtt.sample(sample);
            assert!(holds.contains(&rtt.hold()));
        }
        (0..100).for_each(|_| rtt.sample(300));
        assert!((320..=337).contains(&rtt.hold()));
        (0..100).for_each(|_| rtt.sample(u64::MAX));
        assert!((320..=337).contains(&rtt.hold()));
        (0..200).for_each(|_| rtt.sample(750));
        assert!(rtt.hold() == 750);
    }

    #[test]
    fn what_is_a_sample() {
        // Records 5 to 7 were sent at 1000, 1010 and 1020. What was sent again, and when, if that
        // is a request's answer; the response's ack and request at 1300; the hold.
        for (resent, acked, requested, hold) in [
            (None, Some(7), None, 315),
            (None, Some(5), None, 337),
            // Nothing is known of when it was sent.
            (None, Some(8), None, 50),
            (None, None, Some(5), 326),
            (None, None, Some(4), 337),
            (None, None, Some(7), 50),
            (None, None, Some(u64::MAX), 50),
            // The ack may have waited for any that was sent again; the request only for its own.
            (Some((2, 1100)), Some(7), None, 50),
            (Some((2, 1100)), None, Some(5), 326),
            (Some((5, 1100)), None, Some(5), 50),
            (Some((6, 1100)), None, Some(5), 225),
            (Some((2, 1015)), Some(7), None, 315),
            (Some((2, 1020)), Some(7), None, 50),
            // The shorter one of two.
            (None, Some(7), Some(4), 315),
            (None, Some(5), Some(6), 315),
        ] {
            let words = [const { Cell::new(NEVER) }; 16];
            let (last_sent, mut rtt) = (LastSent::new(&words[..]), Rtt::default());
            for seq in 5..8 {
                last_sent.note(seq, 950 + seq * 10);
            }
            if let Some((seq, at)) = resent {
                last_sent.note(seq, at);
                rtt.resent(at);
            }
            rtt.respond(1300, acked, requested, &last_sent);
            assert!(rtt.hold() == hold);
            // The same again is no sample.
            (1310..1500).for_each(|now| rtt.respond(now, None, requested, &last_sent));
            assert!(rtt.hold() == hold);
        }
    }
}
