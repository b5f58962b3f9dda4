// SPDX-License-Identifier: GPL-2.0

//! The real time of a record.
//!
//! A record carries its sender's clock: microseconds since a moment that is called the boot here,
//! though the clock starts somewhat later. The boot's real time is not told. But a record can only
//! arrive after it was logged, never before; so no record of a stream was logged later than
//! `arrival - usec` says, and the boot is taken to be the smallest such difference that any record
//! of the stream has shown. A record's time is then `boot + usec`, which by this is never after its
//! arrival.
//!
//! The sender's clock stands still while it is suspended, and may go slow: then the boot seems to
//! get later. So the boot is taken to be later when two records that were not sent again have shown
//! that the sender's clock and ours are in step, at least [`IN_STEP`] apart, more than [`SLACK`]
//! behind it. Records that were kept back for a while and come all at once do not show that:
//! between them the sender's clock goes faster than ours.
//!
//! A record that seems to have been logged long before it came is in doubt: was it kept back, or
//! did the sender's clock stand still? What follows within [`DOUBT`] tells, so the caller holds it
//! back for as long. If nothing does it was logged when it came, as the last of what was kept back
//! would have been: what is sent for the first time is seldom alone and late.
//!
//! Consequences:
//!
//! - Each time is late by what the quickest record so far took on its way. The records of a backlog
//!   that is sent when the receiver first hears of a sender therefore seem to be logged when they
//!   arrive, until the first one comes that has just been logged.
//! - Times of a stream can go back when the boot is corrected. Its numbers and its own clock tell
//!   the order.
//! - After a suspend no time is further from the arrival than [`SLACK`] and what the record took.
//! - A clock that would have the boot before 1970 is not believed: such a record was logged when it
//!   arrived.
//! - Text of a basic target has no clock: it was logged when it arrived.
//!
//! Every worker has its [`Clocks`], which begin to learn when they are made; nothing is stored.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use ncrx::{Event, Output, Session, StreamId};
use std::net::IpAddr;
use uuid::Uuid;

use super::Clock;

/// The most streams that are remembered: more than senders are known by default. Ended ones make
/// place first, then those that were not heard for the longest time.
const STREAMS: usize = 1 << 17;

/// The latest time that can be written: RFC 3339 has four digits for the year.
const LATEST: u64 = 253_402_300_799_999_999;

/// The distance from the assumed boot that a record may have without a doubt: networks delay, and
/// so do senders that have much to do.
const SLACK: i64 = 1_000_000;

/// The time for which the sender's clock and ours have to be in step to be believed, and how much
/// of that time they may differ by.
const IN_STEP: i64 = 250_000;
const STEP_PART: i64 = 8;

/// The longest that a record is in doubt.
pub const DOUBT: Duration = Duration::from_millis(300);

/// The name space of our boot ids; a random number.
const BOOTS: Uuid = Uuid::from_u128(0x6d9f_3c52_8d0e_4b0b_9c57_41e2_0f0a_7713);

/// When something was; all in microseconds, real times since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The real time when it arrived, or happened.
    pub(super) received: u64,
    /// The real time when it was logged; not after `received`.
    pub(super) logged: u64,
    /// The sender's clock. If that is not known, how long the stream has been known. Never less
    /// than it was before in the same stream.
    pub(super) monotonic: u64,
    /// The real time when the first of the stream came.
    pub(super) began: u64,
}

impl When {
    /// Returns when it was logged, in microseconds since 1970.
    pub fn logged(&self) -> u64 {
        self.logged
    }
}

/// The memory of a stream.
struct Stream {
    /// The real time when the first of it came.
    began: u64,
    /// The boot, in microseconds behind the origin.
    boot: Option<i64>,
    /// A later boot that a record has shown, and when that arrived.
    later: Option<(i64, i64)>,
    /// The latest of [`When::monotonic`].
    monotonic: u64,
}

impl Stream {
    /// Learns from a record that has arrived at `at`, and shows this boot. Returns whether the
    /// record is in doubt.
    fn learn(&mut self, shown: i64, at: i64, sent_again: bool) -> bool {
        let boot = *self.boot.get_or_insert(shown);
        if shown <= boot + SLACK {
            (self.boot, self.later) = (Some(boot.min(shown)), None);
            return false;
        }
        if sent_again {
            return false;
        }
        match self.later {
            Some((later, since))
                if (shown - later).abs() <= SLACK.min((at - since) / STEP_PART) =>
            {
                if at - since >= IN_STEP {
                    (self.boot, self.later) = (Some(shown.min(later)), None);
                }
            }
            _ => self.later = Some((shown, at)),
        }
        self.later.is_some()
    }
}

/// All streams' clocks.
pub struct Clocks {
    /// Some instant. All else is reckoned from here.
    origin: Instant,
    /// The time that the wall clock showed then, or would have shown had it been right.
    system: i64,
    streams: LruCache<StreamId, Stream>,
}

impl Clocks {
    /// Returns some that have learnt nothing yet.
    pub fn new(clock: Clock) -> Self {
        let mut streams = Self {
            origin: clock.instant,
            system: 0,
            streams: LruCache::unbounded(),
        };
        streams.set_clock(clock);
        streams
    }

    /// Sets the time that the wall clock shows by now: it may have been set, and it goes on while
    /// the machine is suspended, which instants do not.
    pub fn set_clock(&mut self, clock: Clock) {
        let system = match clock.system.duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        };
        self.system = system - self.behind_origin(clock.instant);
    }

    /// Microseconds from the origin to then.
    fn behind_origin(&self, then: Instant) -> i64 {
        match then.checked_duration_since(self.origin) {
            Some(since) => micros(since),
            None => -micros(self.origin.duration_since(then)),
        }
    }

    /// The real time, at so many microseconds behind the origin.
    fn real(&self, behind_origin: i64) -> u64 {
        u64::try_from(self.system + behind_origin).map_or(0, |real| real.min(LATEST))
    }

    /// Returns the boot that a record shows, and when that came, in microseconds behind the origin.
    fn shown(&self, output: &Output<'_>) -> (Option<i64>, i64) {
        let (at, usec) = match output {
            Output::Record(record) => (record.arrived(), record.usec()),
            Output::Event { at, .. } => (*at, None),
        };
        let at = self.behind_origin(at);
        // A larger time is before 1970 anyway.
        let shown = usec.map(|usec| {
            at - i64::try_from(usec).map_or(i64::MAX / 2, |usec| usec.min(i64::MAX / 2))
        });
        (shown.filter(|&boot| boot >= -self.system), at)
    }

    fn stream(&mut self, id: StreamId, at: i64) -> &mut Stream {
        let received = self.real(at);
        self.streams.get_or_insert_mut(id, || Stream {
            began: received,
            boot: None,
            later: None,
            monotonic: 0,
        })
    }

    /// Learns from a record. Returns whether it is in doubt when that was logged: then what comes
    /// next of its sender may tell.
    pub fn learn(&mut self, output: &Output<'_>) -> bool {
        let Output::Record(record) = output else {
            return false;
        };
        let (Some(shown), at) = self.shown(output) else {
            return false;
        };
        let sent_again = record.is_emergency() || record.is_late();
        self.stream(record.stream(), at)
            .learn(shown, at, sent_again)
    }

    /// Returns whether a record of this stream was in doubt, and all that came since then was.
    pub fn is_in_doubt(&self, stream: StreamId) -> bool {
        let known = self.streams.peek(&stream);
        known.is_some_and(|stream| stream.later.is_some())
    }

    /// Ends the doubt: what came last of the stream had just been logged.
    pub fn believe(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.peek_mut(&stream) {
            stream.boot = stream.later.take().map(|(boot, _)| boot).or(stream.boot);
        }
    }

    /// Learns from a record or an event, and returns when it was, in doubt or not.
    #[cfg(test)]
    pub(super) fn see(&mut self, output: &Output<'_>) -> When {
        self.learn(output);
        self.date(output)
    }

    /// Returns when a record was logged, or an event happened, by what is known so far.
    pub fn date(&mut self, output: &Output<'_>) -> When {
        let (id, usec) = match output {
            Output::Record(record) => (record.stream(), record.usec()),
            Output::Event { stream, .. } => (*stream, None),
        };
        let (shown, at) = self.shown(output);
        let received = self.real(at);
        let stream = self.stream(id, at);
        let (began, boot) = (stream.began, stream.boot);
        let monotonic = match (usec, boot) {
            (Some(usec), _) => usec,
            (None, Some(boot)) => u64::try_from(at - boot).unwrap_or(0),
            (None, None) => received.saturating_sub(began),
        };
        stream.monotonic = stream.monotonic.max(monotonic);
        let monotonic = stream.monotonic;
        let logged = match (shown, boot) {
            // Of those that were in doubt one may have come quicker than the one that told the
            // boot.
            (Some(shown), Some(boot)) => self.real(at - (shown - boot).max(0)),
            _ => received,
        };
        if matches!(
            output,
            Output::Event {
                event: Event::Ended,
                ..
            }
        ) {
            // Late records may still come of it, but not if the place is needed.
            self.streams.demote(&id);
        }
        if self.streams.len() > STREAMS {
            self.streams.pop_lru();
        }
        When {
            received,
            logged,
            monotonic,
            began,
        }
    }
}

/// A stream's boot id: 128 bits, made of the sender's address and its session, and so the same
/// whenever the stream is received. Without a session it is made of the address and of when the
/// first of the stream came, and another one after the receiver was started anew.
pub(super) fn boot_id(address: IpAddr, session: Option<Session>, when: &When) -> Uuid {
    let stream = match session {
        Some(session) => format!("{address} session {session}"),
        None => format!("{address} since {}", when.began),
    };
    Uuid::new_v5(&BOOTS, stream.as_bytes())
}

/// A real time in microseconds, to be written by RFC 3339.
pub(super) fn rfc3339(real: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_micros(
        SystemTime::UNIX_EPOCH + Duration::from_micros(real.min(LATEST)),
    )
}

/// The same for many times, most of which are of the same second.
#[derive(Default)]
pub(super) struct WallClock {
    second: u64,
    /// The text of that, up to the fraction.
    text: String,
}

impl WallClock {
    /// Appends a real time in microseconds.
    pub(super) fn push(&mut self, real: u64, out: &mut Vec<u8>) {
        let real = real.min(LATEST);
        let second = real / 1_000_000;
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = rfc3339(second * 1_000_000).to_string();
            self.text.truncate(self.text.len() - "000000Z".len());
        }
        out.extend_from_slice(self.text.as_bytes());
        push_padded(real % 1_000_000, 6, b'0', out);
        out.push(b'Z');
    }
}

/// Appends a number, at least so wide.
pub(super) fn push_padded(number: u64, width: usize, pad: u8, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number).as_bytes();
    out.resize(out.len() + width.saturating_sub(digits.len()), pad);
    out.extend_from_slice(digits);
}

fn micros(duration: Duration) -> i64 {
    // Half of what there is, so that sums and differences of these do not overflow.
    i64::try_from(duration.as_micros()).map_or(i64::MAX / 4, |micros| micros.min(i64::MAX / 4))
}
