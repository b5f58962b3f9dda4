// SPDX-License-Identifier: GPL-2.0

//! Which stream a datagram is of, if it does not say: a sender that knows no sessions starts anew
//! without a word.
//!
//! What a datagram shows against one stream is an [`Evidence`], and [`decide`] is all that there is
//! to decide; `docs/streams.md` has the same as a table, which the test reads. Timestamps go on
//! with the numbers of one boot, and begin anew with the next: a lower number and a much lower
//! timestamp is another boot. A copy of a record that came is exactly that: its timestamp and the
//! beginning of its text are remembered for as long as the network may bring one.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::datagram::Datagram;

/// How far a record's timestamp may be behind that of one before it: it is read before the number
/// is drawn, on another processor.
pub(crate) const SLACK_USEC: u64 = 1_000_000;

/// How long after a request or a record the network may still bring a copy.
pub(crate) const COPIES: Duration = Duration::from_secs(10);

/// How a datagram's number stands to those of a stream.
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
    /// It is complete, and what it was is not remembered.
    Old,
}

/// How a datagram's timestamp stands to those of the numbers before and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// Between them.
    Fits,
    /// Earlier than before it, or later than now.
    Impossible,
    /// Nothing is known of theirs.
    Unknown,
    /// It has none: it stands for a record that is gone.
    None,
}

/// What a datagram shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Whether the stream has told a session with this number, so that it would with this datagram.
    pub(crate) told: bool,
    pub(crate) number: Number,
    pub(crate) timestamp: Timestamp,
    /// Whether there is a reason why it should come again: a request, an emergency, the network.
    pub(crate) again: bool,
}

/// Whether a datagram belongs to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Member,
    /// It is a copy of something that came.
    Copy,
    /// It is of another one.
    Other,
    /// Nothing tells. If it is of this one, it comes again with its session.
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
        (N::Old, _) if again => V::Copy,
        (N::Same | N::Different | N::Old, _) => V::Other,
    }
}

/// Of how many records what they were is remembered, at first and at most.
const FEWEST: usize = 64;
const MOST: usize = 4096;

/// How much memory there must be in all for each of them, in bytes.
const SHARE: usize = 16 << 10;

/// A record that came: the low half of its number, what it was, and when, in 16ths of a second. The
/// fourth part of a cache line.
#[derive(Clone, Copy, Debug)]
struct Known {
    seq: u32,
    print: u32,
    at: u32,
}

const NOTHING: Known = Known {
    seq: u32::MAX,
    print: 0,
    at: 0,
};

/// A short print of a record: of its timestamp, and of how its text begins (0 if that is not known,
/// for it is only a fragment).
fn print(datagram: &Datagram<'_>) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let usec = (datagram.usec.wrapping_add(1).wrapping_mul(K) >> 44) as u32;
    if datagram.fragment.is_some() {
        return usec << 12;
    }
    let body = datagram.body();
    let begin = match body.first_chunk() {
        Some(&chunk) => u64::from_le_bytes(chunk),
        None => body.iter().fold(0, |all, &c| (all << 8) | u64::from(c)),
    };
    let text = (begin.wrapping_add(1).wrapping_mul(K) >> 52) as u32;
    (usec << 12) | text.max(1)
}

/// Whether these may be of one record.
fn is_same(a: u32, b: u32) -> bool {
    let text = |print: u32| print & 0xfff;
    a >> 12 == b >> 12 && (text(a) == text(b) || text(a) == 0 || text(b) == 0)
}

/// What the records were that came of late.
#[derive(Debug)]
pub(crate) struct Recent {
    known: Vec<Known>,
    epoch: Instant,
    /// Since when nothing was forgotten; [`None`] if nothing ever was.
    complete_since: Option<Instant>,
}

impl Recent {
    /// One that knows all, since nothing came before it; or not.
    pub(crate) fn new(now: Instant, all: bool) -> Self {
        Self {
            known: vec![NOTHING; FEWEST],
            epoch: now,
            complete_since: (!all).then_some(now),
        }
    }

    fn time(&self, now: Instant) -> u32 {
        // Some years.
        (now.saturating_duration_since(self.epoch).as_millis() / 64) as u32
    }

    /// A record has come.
    pub(crate) fn push(&mut self, datagram: &Datagram<'_>, now: Instant, memory: usize) {
        let at = self.time(now);
        let known = Known {
            seq: datagram.seq as u32,
            print: print(datagram),
            at,
        };
        let old = self.known[self.place(known.seq)];
        if old.seq != known.seq
            && old.seq != u32::MAX
            && at - old.at <= COPIES.as_millis() as u32 / 64
        {
            self.forget(now, memory);
        }
        let place = self.place(known.seq);
        self.known[place] = known;
    }

    /// Makes room for twice as many, or notes that something is forgotten.
    #[cold]
    fn forget(&mut self, now: Instant, memory: usize) {
        if self.known.len() >= (memory / SHARE).clamp(FEWEST, MOST) {
            self.complete_since = Some(now);
            return;
        }
        let old = std::mem::take(&mut self.known);
        self.known = vec![NOTHING; 2 * old.len()];
        for known in old.into_iter().filter(|known| known.seq != u32::MAX) {
            let place = self.place(known.seq);
            self.known[place] = known;
        }
    }

    fn place(&self, seq: u32) -> usize {
        seq as usize & (self.known.len() - 1)
    }

    /// Whether this is the record that came with its number, and whether that was of late.
    pub(crate) fn get(&self, datagram: &Datagram<'_>, now: Instant) -> Option<(bool, bool)> {
        let seq = datagram.seq as u32;
        let known = self.known[self.place(seq)];
        let lately = self.time(now) - known.at <= COPIES.as_millis() as u32 / 64;
        (known.seq == seq).then(|| (is_same(known.print, print(datagram)), lately))
    }

    /// Whether a record with this number came of late.
    pub(crate) fn has(&self, seq: u64) -> bool {
        self.known[self.place(seq as u32)].seq == seq as u32
    }

    /// Whether all is remembered of which there may be copies.
    pub(crate) fn is_complete(&self, now: Instant) -> bool {
        self.complete_since.is_none_or(|since| since + COPIES < now)
    }

    /// What it takes in memory, beside what each sender has.
    pub(crate) fn bytes(&self) -> usize {
        (self.known.capacity() - FEWEST) * size_of::<Known>()
    }
}

/// The number after the last that had been handed out at some time, and the timestamp of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) usec: u64,
}

/// What a stream keeps to tell its own records from those of another start of the log.
#[derive(Debug)]
pub(crate) struct RestartDetector {
    /// When the session was first seen, and the first number that the sender has told it with from
    /// the start: all above that are told with it.
    pub(crate) adopted: Option<Instant>,
    pub(crate) told_from: Option<u64>,
    /// What came of late; nothing once the session tells.
    pub(crate) recent: Option<Box<Recent>>,
    /// The timestamp of the record with the highest number, and when it came.
    pub(crate) usec: u64,
    pub(crate) newest_at: Instant,
    /// The number after the last for which something came that has no timestamp: if it is the last
    /// of all, what is missing before it may be newer than `usec`.
    pub(crate) clockless: u64,
    /// The timestamp of the newest that came to the receiver before this one, or 0.
    pub(crate) newest_usec: u64,
    /// Where it was at some time within the last [`COPIES`], and that long before: of what has come
    /// since then the network may bring copies. When this is to be noted again.
    pub(crate) mark: Instant,
    pub(crate) lately: [Mark; 2],
}

impl RestartDetector {
    pub(crate) fn new(now: Instant, base: u64) -> Self {
        Self {
            adopted: None,
            told_from: None,
            recent: Some(Box::new(Recent::new(now, true))),
            usec: 0,
            newest_at: now,
            clockless: 0,
            newest_usec: 0,
            mark: now + COPIES,
            lately: [Mark { seq: base, usec: 0 }; 2],
        }
    }

    /// A record of a new number came by itself.
    pub(crate) fn see_new(&mut self, datagram: &Datagram<'_>, now: Instant) {
        (self.usec, self.newest_at) = (datagram.usec, now);
        if datagram.session.is_some() && self.told_from.is_none() {
            self.told_from = Some(datagram.seq);
        }
    }

    /// A record of a new number came that may have been logged long before.
    pub(crate) fn see_old(&mut self, datagram: &Datagram<'_>, now: Instant) {
        let expected = self.expected(now);
        // The clock is at least there; else it goes on as it did.
        let behind = Duration::from_micros(expected.saturating_sub(datagram.usec));
        self.newest_at = now.checked_sub(behind).unwrap_or(self.newest_at);
        self.usec = datagram.usec;
    }

    /// A record came; substitutes do not count.
    #[inline]
    pub(crate) fn see(&mut self, datagram: &Datagram<'_>, now: Instant, config: &Config) {
        if let Some(recent) = &mut self.recent {
            recent.push(datagram, now, config.total_memory);
        }
    }

    /// Whether the sender would have told its session with this number.
    pub(crate) fn has_told(&self, now: Instant, seq: u64) -> bool {
        self.told_from.is_some_and(|from| seq >= from)
            || self.adopted.is_some_and(|adopted| now > adopted + COPIES)
    }

    /// Whether a timestamp is possible for a number that comes after a record with this one, or
    /// [`None`] if no such record is known.
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

    /// What the sender's clock should show by now.
    fn expected(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.newest_at).as_micros() as u64;
        self.usec.max(self.newest_usec).saturating_add(since)
    }

    /// How far a timestamp is from what the sender's clock should show by now.
    pub(crate) fn distance(&self, now: Instant, usec: u64) -> u64 {
        self.expected(now).abs_diff(usec)
    }

    /// Whether a copy of this number may be under way although it is not remembered that it came.
    pub(crate) fn may_be_forgotten(&self, now: Instant, seq: u64, usec: u64) -> bool {
        let exact = |mark: &Mark| usec > 0 && usec == mark.usec && seq < mark.seq;
        let [_, mark] = self.lately;
        let newest = self.usec.max(self.newest_usec).saturating_add(SLACK_USEC);
        let lately =
            seq >= mark.seq && usec.saturating_add(SLACK_USEC) >= mark.usec && usec <= newest;
        let complete = |recent: &Recent| recent.is_complete(now);
        self.lately.iter().any(exact) || lately && !self.recent.as_deref().is_some_and(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Message;

    fn word<T: std::fmt::Debug>(value: T) -> String {
        format!("{value:?}").to_lowercase()
    }

    /// Every row of the page decides as it says; `any` is each value there is.
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

    #[test]
    fn what_came_is_remembered_while_copies_may_come() {
        let begin = Instant::now();
        let mut recent = Recent::new(begin, true);
        let text = |seq: u64, usec: u64, text: &str| format!("6,{seq},{usec},-;{text}");
        let with = |bytes: &str, act: &mut dyn FnMut(&Datagram<'_>)| {
            let mut datagram = Datagram::new(bytes.as_bytes());
            assert_eq!(datagram.read(), Ok(Message::Record));
            act(&datagram);
        };
        for seq in 0..2000 {
            with(&text(seq, 100 * seq, "a text"), &mut |d| {
                recent.push(d, begin, 1 << 30)
            });
        }
        let ask = |recent: &Recent, text: String, now: Instant| {
            let mut got = None;
            with(&text, &mut |d| got = recent.get(d, now));
            got
        };
        let now = begin + Duration::from_secs(2);
        assert_eq!(
            ask(&recent, text(3, 300, "a text"), now),
            Some((true, true))
        );
        assert_eq!(
            ask(&recent, text(3, 300, "another"), now),
            Some((false, true))
        );
        assert_eq!(
            ask(&recent, text(3, 301, "a text"), now),
            Some((false, true))
        );
        assert!(recent.is_complete(now) && recent.bytes() < 64 << 10);
        // More than it keeps.
        for seq in 2000..10_000 {
            with(&text(seq, 100 * seq, "a text"), &mut |d| {
                recent.push(d, now, 1 << 30)
            });
        }
        assert!(!recent.is_complete(now));
        assert_eq!(ask(&recent, text(3, 300, "a text"), now), None);
        assert!(recent.is_complete(now + COPIES + Duration::from_secs(1)));
    }
}
