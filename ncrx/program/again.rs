// SPDX-License-Identifier: GPL-2.0

//! Records that some outputs have refused because they were full. They are asked for again when
//! they can be taken, and only the outputs that lack them get them. Those that no sender can send
//! any more are lost to these outputs.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use ncrx::{Event, GapReason, Output, Receiver, SeqRange, Session, StreamId, Token};

/// The time to the next try of an output that was full, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

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
    all: Vec<Lack>,
    /// When the next try is, and the wait after it.
    due: Instant,
    wait: Duration,
    /// Whether something was asked for since it was last refused.
    tried: bool,
}

/// The records that outputs lack, of all streams.
#[derive(Default)]
pub struct Again {
    streams: HashMap<StreamId, Lacks>,
    /// How many ranges they lack in all.
    count: usize,
    /// No stream is due before this.
    due: Option<Instant>,
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
            let (first, last) = (token.seq(), token.seq());
            let new = || Lacks {
                all: Vec::new(),
                due: now + AGAIN.0,
                wait: AGAIN.0,
                tried: false,
            };
            let lacks = self.streams.entry(token.stream()).or_insert_with(new);
            if std::mem::take(&mut lacks.tried) {
                // In vain.
                lacks.wait = (lacks.wait * 2).min(AGAIN.1);
                lacks.due = now + lacks.wait;
            }
            self.due = Some(self.due.map_or(lacks.due, |due| due.min(lacks.due)));
            match lacks.all.last_mut() {
                Some(lack)
                    if lack.numbers.last + 1 == first && lack.ends == ends && !lack.asked =>
                {
                    lack.numbers.last = last;
                }
                _ => {
                    self.count += 1;
                    lacks.all.push(Lack {
                        token: *token,
                        numbers: SeqRange { first, last },
                        ends,
                        asked: false,
                    });
                }
            }
        }
    }

    /// Returns the outputs that lack this record, if some have it; they get it now.
    pub fn take(&mut self, stream: StreamId, seq: u64) -> Option<Ends> {
        let lacks = &mut self.streams.get_mut(&stream)?.all;
        let has = |lack: &Lack| lack.numbers.first <= seq && seq <= lack.numbers.last;
        let at = lacks.iter().position(has)?;
        let lack = lacks[at];
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

    /// Asks for all that can be taken by these outputs, of the streams for which it is time for
    /// that. Returns what is lost, if that can be judged: all that came again was
    /// [taken](Self::take).
    pub fn ask(
        &mut self,
        able: Ends,
        judges: bool,
        receiver: &mut Receiver,
        now: Instant,
    ) -> Vec<Lost> {
        let mut lost = Vec::new();
        if self.due.is_none_or(|due| now < due) {
            return lost;
        }
        let mut next = None;
        self.streams.retain(|_, lacks| {
            if lacks.due <= now {
                if lacks.all.is_empty() {
                    // Nothing was refused since it came again.
                    return false;
                }
                lacks.all.retain_mut(|lack| {
                    if judges && !lack.may_come(receiver, now) {
                        lost.push(lack.lose(receiver, now));
                        return false;
                    }
                    if lack.ends & !able == 0 && !lack.asked {
                        (lack.asked, lacks.tried) = (true, true);
                        receiver.ask_again(lack.token, lack.numbers, now);
                    }
                    true
                });
                lacks.due = now + lacks.wait;
            }
            next = Some(next.map_or(lacks.due, |next: Instant| next.min(lacks.due)));
            true
        });
        self.due = next;
        self.count -= lost.len();
        lost
    }
}
