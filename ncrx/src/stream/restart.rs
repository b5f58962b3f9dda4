// SPDX-License-Identifier: GPL-2.0

//! Restart detection: the stream of a datagram that names no session. A sender that knows no
//! sessions starts anew without saying so.
//!
//! The [`Evidence`] compares a datagram with one stream, and [`decide`] makes the whole decision;
//! `docs/streams.md` has the same as a table, which the test reads. Timestamps go on
//! with the numbers of one boot, and begin anew with the next: a lower number and a much lower
//! timestamp is another boot. A copy of a record that came is exactly that: its timestamp and its
//! text are remembered for as long as the network may bring one.

use std::time::{Duration, Instant};

use super::recent::Recent;
use super::repeats::Repeats;
use super::Stream;
use crate::config::Config;
use crate::datagram::Datagram;
use crate::stats::PeerMode;
use crate::window::Place;

/// The most that a record's timestamp may be behind that of one before it: it is read before the
/// number is drawn, on another processor.
pub(crate) const SLACK_USEC: u64 = 1_000_000;

/// The time after a request or a record in which the network may still bring a copy.
pub(crate) const COPIES: Duration = Duration::from_secs(10);

/// The most numbers before a missing one that are searched for one whose timestamp is known.
const NEAR: u64 = 64;

/// The place of a datagram's number among those of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// Behind all that the stream has used.
    New,
    /// It came, with this timestamp and this text.
    Same,
    /// It came, with another timestamp or text.
    Different,
    /// It is missing and waited for.
    Missing,
    /// It was passed over, and may still come.
    Passed,
    /// It is complete, and its timestamp and text are not remembered.
    Old,
}

/// The place of a datagram's timestamp among those of the numbers before and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// Between them.
    Fits,
    /// Earlier than before it, or later than now.
    Impossible,
    /// Their timestamps are not known.
    Unknown,
    /// It has none: it stands for a record that is gone.
    None,
}

/// The evidence of a datagram against one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Whether the stream names its session with this number, so that this datagram would.
    pub(crate) told: bool,
    pub(crate) number: Number,
    pub(crate) timestamp: Timestamp,
    /// Whether there is a reason why it should come again: a request, an emergency, the network.
    pub(crate) again: bool,
}

/// The decision whether a datagram belongs to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Member,
    /// It is a copy of something that came.
    Copy,
    /// It may be a copy of something that came, if it is nearer to this stream's clock than to
    /// another's.
    Likely,
    /// It is of another one.
    Other,
    /// Not known. If it is of this one, it comes again with its session.
    Unclear,
}

/// Decides whether a datagram that names no session, or the first session of its sender, is of a
/// stream.
pub(crate) fn decide(evidence: Evidence) -> Verdict {
    use {Number as N, Timestamp as T, Verdict as V};
    let Evidence {
        told,
        number,
        timestamp,
        again,
    } = evidence;
    match (number, timestamp) {
        _ if told => V::Other,
        (N::Same, _) if again => V::Copy,
        (N::New | N::Missing | N::Passed, T::Fits) | (_, T::None) => V::Member,
        (N::New | N::Missing | N::Passed, T::Unknown) => V::Unclear,
        (N::New | N::Missing | N::Passed, T::Impossible) => V::Other,
        (N::Old, T::Fits | T::Unknown) if again => V::Likely,
        (N::Same | N::Different | N::Old, _) => V::Other,
    }
}

/// The number after the last that had been handed out at some time, and the timestamp of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) usec: u64,
}

/// The state that tells a stream's own records from those of another start of the log.
#[derive(Debug)]
pub(crate) struct RestartDetector {
    /// The time at which the session was first seen, and the first number that the sender has named
    /// it with from the start: all above that name it.
    pub(crate) adopted: Option<Instant>,
    pub(crate) told_from: Option<u64>,
    /// The records that came of late; none once all records name the session.
    pub(crate) recent: Option<Box<Recent>>,
    /// Those without a timestamp that came again, and may be of the next boot.
    pub(crate) repeats: Option<Box<Repeats>>,
    /// The memory of both, in bytes.
    pub(crate) recent_bytes: usize,
    /// The timestamp of the record with the highest number, and the time at which it came.
    pub(crate) usec: u64,
    pub(crate) newest_at: Instant,
    /// The number after the last datagram without a timestamp: if that is the last of all, the
    /// records that are missing before it may be newer than `usec`.
    pub(crate) clockless: u64,
    /// The timestamp of the newest record that came to the receiver before this one, or 0.
    pub(crate) newest_usec: u64,
    /// The time at which to note its place again. The marks have its place at some time within the
    /// last [`COPIES`], and that long before: the network may bring copies of later records.
    pub(crate) mark: Instant,
    pub(crate) lately: [Mark; 2],
}

impl RestartDetector {
    pub(crate) fn new(now: Instant, base: u64) -> Self {
        Self {
            adopted: None,
            told_from: None,
            recent: Some(Box::new(Recent::new(0))),
            repeats: None,
            recent_bytes: 0,
            usec: 0,
            newest_at: now,
            clockless: 0,
            newest_usec: 0,
            mark: now + COPIES,
            lately: [Mark { seq: base, usec: 0 }; 2],
        }
    }

    /// Notes a record of a new number that came by itself.
    pub(crate) fn see_new(&mut self, datagram: &Datagram<'_>, now: Instant) {
        (self.usec, self.newest_at) = (datagram.usec, now);
        if datagram.session.is_some() && self.told_from.is_none() {
            self.told_from = Some(datagram.seq);
        }
    }

    /// Notes a record of a new number that may have been logged long before.
    pub(crate) fn see_old(&mut self, datagram: &Datagram<'_>, now: Instant) {
        let expected = self.expected(now);
        // The clock is at least there; else it goes on as it did.
        let behind = Duration::from_micros(expected.saturating_sub(datagram.usec));
        self.newest_at = now.checked_sub(behind).unwrap_or(self.newest_at);
        self.usec = datagram.usec;
    }

    /// Notes a record; substitutes do not count.
    #[inline(always)] // Into the fast path.
    pub(crate) fn see(&mut self, datagram: &Datagram<'_>, config: &Config) {
        // A record that names the session is compared with none that does not.
        if self.told_from.is_some_and(|from| datagram.seq >= from) {
            return;
        }
        if let Some(recent) = &mut self.recent {
            if recent.push(datagram, self.lately[1].seq, config.total_memory) {
                self.count_bytes();
            }
        }
    }

    fn count_bytes(&mut self) {
        let recent = self.recent.as_ref().map_or(0, |recent| recent.bytes());
        let repeats = self.repeats.as_ref().map_or(0, |repeats| repeats.bytes());
        self.recent_bytes = recent + repeats;
    }

    /// Keeps a record that looks like a copy, and may be of the next boot.
    pub(crate) fn keep_repeat(&mut self, datagram: &Datagram<'_>, now: Instant, grown: Instant) {
        let new = || Box::new(Repeats::new(now));
        let repeats = self.repeats.get_or_insert_with(new);
        repeats.push(datagram, now, grown);
        self.count_bytes();
    }

    /// Returns the repeats, which are not kept any more, if it is not too late for the next boot.
    pub(crate) fn take_repeats(&mut self, now: Instant) -> Option<Repeats> {
        let repeats = self.repeats.take();
        self.count_bytes();
        repeats
            .map(|repeats| *repeats)
            .filter(|repeats| !repeats.is_over(now))
    }

    /// Forgets copies: the session tells records of another boot from these.
    pub(crate) fn forget_copies(&mut self) {
        (self.recent, self.repeats, self.recent_bytes) = (None, None, 0);
    }

    /// Returns whether the sender would have named its session with this number.
    pub(crate) fn has_told(&self, now: Instant, seq: u64) -> bool {
        self.told_from.is_some_and(|from| seq >= from)
            || self.adopted.is_some_and(|adopted| now > adopted + COPIES)
    }

    /// Returns whether a timestamp is possible for a number that comes after a record with this
    /// one, or [`None`] if no such record is known.
    pub(crate) fn timestamp(
        &self,
        usec: u64,
        since: Option<u64>,
        new: bool,
        end: u64,
    ) -> Timestamp {
        let Some(since) = since else {
            return Timestamp::Impossible;
        };
        let newest = self.usec.max(self.newest_usec).saturating_add(SLACK_USEC);
        let is_after = usec.saturating_add(SLACK_USEC) >= since;
        let is_before_now = new || usec <= newest || self.clockless == end;
        match is_after && is_before_now {
            true if since == 0 && self.adopted.is_some() => Timestamp::Unknown,
            true => Timestamp::Fits,
            false => Timestamp::Impossible,
        }
    }

    /// Returns the time that the sender's clock should show by now.
    fn expected(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.newest_at).as_micros() as u64;
        self.usec.max(self.newest_usec).saturating_add(since)
    }

    /// Returns the distance of a timestamp from the time that the sender's clock should show by
    /// now.
    pub(crate) fn distance(&self, now: Instant, usec: u64) -> u64 {
        self.expected(now).abs_diff(usec)
    }

    /// Returns the latest known place of the stream from before the last [`COPIES`]: the network
    /// may bring copies of the records since then.
    fn lately(&self, now: Instant) -> Option<Mark> {
        match self.mark {
            next if now < next => Some(self.lately[1]),
            next if now < next + COPIES => Some(self.lately[0]),
            _ => None,
        }
    }

    /// Returns whether this number came of late.
    fn is_late(&self, now: Instant, seq: u64) -> bool {
        self.lately(now).is_some_and(|mark| seq >= mark.seq)
    }

    /// Returns whether a copy of this number may be on its way although it is not remembered that
    /// it came.
    fn may_be_forgotten(&self, now: Instant, seq: u64, usec: u64) -> bool {
        let exact = |mark: &Mark| usec > 0 && usec == mark.usec && seq < mark.seq;
        let newest = self.usec.max(self.newest_usec).saturating_add(SLACK_USEC);
        let complete = |mark: Mark| {
            let recent = self.recent.as_deref();
            recent.is_some_and(|recent| recent.is_complete(mark.seq))
        };
        let forgotten = self.lately(now).is_some_and(|mark| {
            let is_after = seq >= mark.seq && usec.saturating_add(SLACK_USEC) >= mark.usec;
            is_after && usec <= newest && !complete(mark)
        });
        self.lately.iter().any(exact) || forgotten
    }
}

impl Stream {
    /// Returns whether a datagram that names no session, or the first session of its sender, is of
    /// this stream.
    pub(crate) fn judge(&self, now: Instant, datagram: &Datagram<'_>, challenged: bool) -> Verdict {
        let (seq, usec, restart) = (datagram.seq, datagram.usec, &self.restart);
        let end = self.window.end();
        let emergency = datagram.emergency || challenged;
        let resent = emergency || datagram.is_marked() || self.was_asked(now, seq);
        let recent = restart.recent.as_deref();
        let same = recent.and_then(|recent| recent.is_same(datagram));
        let (number, since) = match self.window.place(seq) {
            _ if seq >= end => (Number::New, Some(restart.usec)),
            // A sender that answers nothing sends nothing again, and the network brings it no more.
            _ if same == Some(true)
                && self.manner == PeerMode::Passive
                && !emergency
                && !restart.is_late(now, seq) =>
            {
                (Number::Different, None)
            }
            _ if same == Some(true) => (Number::Same, None),
            _ if same == Some(false) => (Number::Different, None),
            Place::Next | Place::Ahead => match self.window.usec(seq) {
                // The record itself may come after its substitute, which has no timestamp.
                Some(known) if known == 0 || known == usec => (Number::Missing, Some(usec.max(1))),
                Some(_) => (Number::Different, None),
                None => (Number::Missing, Some(self.timestamp_before(seq))),
            },
            // Records from before the first that came come only for a request.
            Place::Late if self.manner == PeerMode::Active => {
                (Number::Passed, self.gone.since(seq).or(Some(0)))
            }
            Place::Late | Place::Settled => match self.gone.since(seq) {
                Some(since) => (Number::Passed, Some(since)),
                None => (Number::Old, Some(0)),
            },
        };
        let timestamp = match datagram.is_substitute() {
            true => Timestamp::None,
            false if number != Number::New && !self.is_between_marks(seq, usec) => {
                Timestamp::Impossible
            }
            false => restart.timestamp(usec, since, number == Number::New, end),
        };
        let again = match (number, datagram.session) {
            (Number::Same, None) => true,
            // A record that is sent for the first time is no copy.
            (Number::Same, Some(_)) => resent,
            _ => emergency || self.was_asked(now, seq) || restart.may_be_forgotten(now, seq, usec),
        };
        let verdict = decide(Evidence {
            told: self.session.is_some() && restart.has_told(now, seq),
            number,
            timestamp,
            again,
        });
        match verdict {
            // A copy that is only likely is no reason to believe that the session is this stream's.
            Verdict::Likely if datagram.session.is_some() => Verdict::Unclear,
            verdict => verdict,
        }
    }

    /// Returns whether a timestamp is possible for a number that is not new, beside those that are
    /// known of some numbers.
    fn is_between_marks(&self, seq: u64, usec: u64) -> bool {
        let is_after = |mark: Mark| usec.saturating_add(SLACK_USEC) >= mark.usec;
        let marks = self.restart.lately.into_iter();
        let mut before = marks.filter(|mark| 0 < mark.seq && mark.seq <= seq);
        let first = Mark {
            seq: self.first,
            usec: self.first_usec,
        };
        // A substitute has no timestamp, so of the others only the first is a bound.
        let is_on_its_side = match seq < first.seq {
            true => first.usec == 0 || usec <= first.usec.saturating_add(SLACK_USEC),
            false => is_after(first),
        };
        before.all(is_after) && is_on_its_side
    }

    /// Returns the timestamp of a record before this one, which is missing: of the nearest that
    /// waits, or of the last that was handed out.
    pub(super) fn timestamp_before(&self, seq: u64) -> u64 {
        let waiting = self.window.out().max(seq.saturating_sub(NEAR))..seq;
        let known = |seq| self.window.usec(seq).filter(|&usec| usec > 0);
        waiting.rev().find_map(known).unwrap_or(self.since)
    }

    /// Returns the distance of a datagram's timestamp from the time that the sender's clock should
    /// show.
    pub(crate) fn distance(&self, now: Instant, datagram: &Datagram<'_>) -> u64 {
        self.restart.distance(now, datagram.usec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word<T: std::fmt::Debug>(value: T) -> String {
        format!("{value:?}").to_lowercase()
    }

    /// Every row of the page decides as written there; `any` stands for each value.
    #[test]
    fn the_table_of_the_page() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/streams.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let is_row = cells.len() == 6 && cells[0].parse::<u32>().is_ok();
            is_row.then(|| cells.into_iter().map(String::from).collect::<Vec<_>>())
        });
        let rows: Vec<_> = rows.collect();
        assert!(rows.len() >= 8, "{rows:?}");
        let numbers = [
            Number::New,
            Number::Same,
            Number::Different,
            Number::Missing,
            Number::Passed,
            Number::Old,
        ];
        let timestamps = [
            Timestamp::Fits,
            Timestamp::Impossible,
            Timestamp::Unknown,
            Timestamp::None,
        ];
        let is = |cell: &str, value: &str| cell == "any" || cell.split(", ").any(|c| c == value);
        let mut used = vec![0; rows.len()];
        for number in numbers {
            for timestamp in timestamps {
                for told in [false, true] {
                    for again in [false, true] {
                        let evidence = Evidence {
                            told,
                            number,
                            timestamp,
                            again,
                        };
                        let yes = |yes| if yes { "yes" } else { "no" };
                        // The first row that is true decides.
                        let row = rows.iter().position(|row| {
                            is(&row[1], &word(number))
                                && is(&row[2], &word(timestamp))
                                && is(&row[3], yes(again))
                                && is(&row[4], yes(told))
                        });
                        let row = row.unwrap_or_else(|| panic!("no row for {evidence:?}"));
                        used[row] += 1;
                        assert_eq!(word(decide(evidence)), rows[row][5], "{evidence:?}");
                    }
                }
            }
        }
        assert!(used.iter().all(|&times| times > 0), "{used:?}");
    }
}
