// SPDX-License-Identifier: GPL-2.0

//! Records that some outputs have refused because they were full. They are asked for again when
//! they can be taken, and only the outputs that lack them get them. Those that no sender can send
//! any more are lost to these outputs.
//!
//! Nothing but a try tells whether an output takes more. So a try asks for few records of a stream,
//! as TCP's slow start does: each that an output takes has one more asked for, and one that it
//! refuses has the next try begin small, and late.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use ncrx::{Event, GapReason, Output, Receiver, SeqRange, Session, StreamId, Token};

/// The time to the next try of what was refused, at first and at last: it doubles when what comes
/// again is refused.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The same while what comes again is taken.
const PACE: Duration = Duration::from_millis(50);
/// The number of records that are asked for at a time, at first and at most: in [`PACE`] a sender
/// sends about as many again.
const WINDOW: (u64, u64) = (16, 512);

/// Outputs, a bit for each.
pub type Ends = u64;

/// Some numbers of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lack {
    /// A record of the stream.
    token: Token,
    numbers: SeqRange,
    /// The outputs that lack them.
    ends: Ends,
    /// Whether they are asked for.
    asked: bool,
}

/// Records that outputs lack for good.
#[derive(Debug)]
pub struct Lost {
    stream: StreamId,
    /// Their numbers.
    pub numbers: SeqRange,
    /// The outputs that lack them.
    pub ends: Ends,
    /// The sender and the session, unless they are forgotten.
    sender: Option<(SocketAddr, Option<Session>)>,
}

impl Lost {
    /// Returns the gap that these outputs have.
    pub fn gap(&self, now: Instant) -> Option<Output<'static>> {
        let (host, session) = self.sender?;
        Some(Output::Event {
            stream: self.stream,
            host,
            session,
            at: now,
            event: Event::Gap {
                range: self.numbers,
                reason: GapReason::Refused,
            },
        })
    }
}

impl Lack {
    /// Returns whether the records may come again: their sender may be asked, or is being asked.
    fn may_come(&self, receiver: &mut Receiver, now: Instant) -> bool {
        receiver.may_send_again(self.token, now)
            && (!self.asked || receiver.is_asked_again(self.token, self.numbers))
    }

    /// Leaves so many records here; returns the others.
    fn split_off(&mut self, count: u64) -> Option<Self> {
        let SeqRange { first, last } = self.numbers;
        if count > last - first {
            return None;
        }
        self.numbers.last = first + count - 1;
        let first = first + count;
        let numbers = SeqRange { first, last };
        Some(Self { numbers, ..*self })
    }

    /// Gives the records up.
    fn lose(&self, receiver: &mut Receiver, now: Instant) -> Lost {
        Lost {
            stream: self.token.stream(),
            numbers: self.numbers,
            ends: self.ends,
            sender: receiver.give_up(self.token, self.numbers, now),
        }
    }
}

/// The records of a stream that outputs lack.
struct Lacks {
    /// In ascending order.
    all: Vec<Lack>,
    /// When the next try is, and the wait after it.
    due: Instant,
    wait: Duration,
    /// The most records that may be asked for at a time.
    window: u64,
    /// The last number that was asked for, unless one up to it was refused since.
    tried: Option<u64>,
}

impl Lacks {
    fn new(now: Instant) -> Self {
        Self {
            all: Vec::new(),
            due: now + AGAIN.0,
            wait: AGAIN.0,
            window: WINDOW.0,
            tried: None,
        }
    }

    /// Adds a record; returns whether it is a range of its own.
    fn add(&mut self, token: Token, ends: Ends, now: Instant) -> bool {
        let seq = token.seq();
        if self.tried.take_if(|tried| seq <= *tried).is_some() {
            // In vain.
            self.wait = (self.wait * 2).min(AGAIN.1);
            (self.due, self.window) = (now + self.wait, WINDOW.0);
        }
        let at = self.all.partition_point(|lack| lack.numbers.last < seq);
        let before = at.checked_sub(1).map(|before| &mut self.all[before]);
        match before {
            Some(lack) if lack.numbers.last + 1 == seq && lack.ends == ends && !lack.asked => {
                lack.numbers.last = seq;
                return false;
            }
            _ => {}
        }
        let lack = Lack {
            token,
            numbers: SeqRange {
                first: seq,
                last: seq,
            },
            ends,
            asked: false,
        };
        self.all.insert(at, lack);
        true
    }

    /// Takes note that the outputs have a record.
    fn took(&mut self, seq: u64, now: Instant) {
        let wait = match self.tried {
            Some(tried) if seq <= tried => {
                (self.wait, self.window) = (AGAIN.0, (self.window + 1).min(WINDOW.1));
                PACE
            }
            // They may have room for what was refused.
            _ => AGAIN.0,
        };
        self.due = self.due.min(now + wait);
    }

    /// Gives up what cannot come any more, and returns it. Records with the numbers in `held` have
    /// come, and are about to be [taken](Again::take).
    fn judge(&mut self, held: &[u64], receiver: &mut Receiver, now: Instant) -> Vec<Lost> {
        let mut lost = Vec::new();
        self.all.retain(|lack| {
            let numbers = lack.numbers.first..=lack.numbers.last;
            let has_come = held.iter().any(|seq| numbers.contains(seq));
            let may_come = has_come || lack.may_come(receiver, now);
            lost.extend((!may_come).then(|| lack.lose(receiver, now)));
            may_come
        });
        if !lost.is_empty() {
            // It is the sender that is at its end, which says so of many at a time.
            self.window = WINDOW.1;
            self.due = self.due.min(now + PACE);
        }
        lost
    }

    /// Asks for as much as may be asked for and can be taken by these outputs.
    fn ask(&mut self, able: Ends, receiver: &mut Receiver, now: Instant) {
        let asked = self.all.iter().filter(|lack| lack.asked);
        let asked: u64 = asked.map(|lack| lack.numbers.count()).sum();
        let mut room = self.window.saturating_sub(asked);
        let mut tries = false;
        for mut lack in std::mem::take(&mut self.all) {
            let mut rest = None;
            if lack.ends & !able == 0 && !lack.asked && room > 0 {
                rest = lack.split_off(room);
                room -= lack.numbers.count();
                lack.asked = true;
                receiver.ask_again(lack.token, lack.numbers, now);
                self.tried = self.tried.max(Some(lack.numbers.last));
                tries = true;
            }
            self.all.push(lack);
            self.all.extend(rest);
        }
        // An output that is not able may be so soon.
        self.due = now + if tries { self.wait } else { AGAIN.0 };
    }
}

/// The records that outputs lack, of all streams.
#[derive(Default)]
pub struct Again {
    streams: HashMap<StreamId, Lacks>,
    /// How many ranges they lack in all.
    count: usize,
    /// No stream is due before this.
    due: Option<Instant>,
    /// When it was judged last what is lost, or first asked.
    judged: Option<Instant>,
}

impl Again {
    /// Returns whether no output lacks anything.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns when to try again.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes note that these outputs have not taken these records.
    pub fn add(&mut self, tokens: &[Token], ends: Ends, now: Instant) {
        for token in tokens {
            let lacks = self.streams.entry(token.stream());
            let lacks = lacks.or_insert_with(|| Lacks::new(now));
            self.count += usize::from(lacks.add(*token, ends, now));
            self.due = Some(self.due.map_or(lacks.due, |due| due.min(lacks.due)));
        }
    }

    /// Takes note that all outputs that wanted these records have them.
    pub fn took(&mut self, tokens: &[Token], now: Instant) {
        if self.is_empty() {
            return;
        }
        for token in tokens {
            if let Some(lacks) = self.streams.get_mut(&token.stream()) {
                lacks.took(token.seq(), now);
                self.due = Some(self.due.map_or(lacks.due, |due| due.min(lacks.due)));
            }
        }
    }

    /// Returns the outputs that lack this record, if some have it; they get it now.
    pub fn take(&mut self, stream: StreamId, seq: u64) -> Option<Ends> {
        let lacks = &mut self.streams.get_mut(&stream)?.all;
        let at = lacks.partition_point(|lack| lack.numbers.last < seq);
        let lack = *lacks.get(at).filter(|lack| lack.numbers.first <= seq)?;
        let SeqRange { first, last } = lack.numbers;
        match (first == seq, last == seq) {
            (true, true) => {
                lacks.remove(at);
                self.count -= 1;
            }
            (true, false) => lacks[at].numbers.first = seq + 1,
            (false, true) => lacks[at].numbers.last = seq - 1,
            (false, false) => {
                lacks[at].numbers.first = seq + 1;
                let numbers = SeqRange {
                    first,
                    last: seq - 1,
                };
                lacks.insert(at, Lack { numbers, ..lack });
                self.count += 1;
            }
        }
        Some(lack.ends)
    }

    /// Gives up what cannot come any more, unless it was looked for just now, and returns it. All
    /// that came again has to be [taken](Self::take) before, or to be in what `held` returns: the
    /// numbers of a stream's records that are held back.
    pub fn lost(
        &mut self,
        held: impl FnOnce() -> HashMap<StreamId, Vec<u64>>,
        receiver: &mut Receiver,
        now: Instant,
    ) -> Vec<Lost> {
        let judged = *self.judged.get_or_insert(now);
        if self.is_empty() || now < judged + AGAIN.0 {
            return Vec::new();
        }
        self.judged = Some(now);
        let held = held();
        let judge = |(stream, lacks): (&StreamId, &mut Lacks)| {
            let held = held.get(stream).map_or(&[][..], Vec::as_slice);
            lacks.judge(held, receiver, now)
        };
        let lost: Vec<_> = self.streams.iter_mut().flat_map(judge).collect();
        self.recount();
        lost
    }

    /// Asks for what can be taken by these outputs, of the streams for which it is time for that.
    pub fn ask(&mut self, able: Ends, receiver: &mut Receiver, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.streams.retain(|_, lacks| {
            if lacks.due <= now && !lacks.all.is_empty() {
                lacks.ask(able, receiver, now);
            }
            // Unless nothing was refused since it came again.
            now < lacks.due
        });
        self.recount();
    }

    /// Finds out anew how much is missing, and when to try next.
    fn recount(&mut self) {
        let lacks = self.streams.values();
        (self.count, self.due) = (
            lacks.clone().map(|lacks| lacks.all.len()).sum(),
            lacks.map(|lacks| lacks.due).min(),
        );
    }
}
