// SPDX-License-Identifier: GPL-2.0

//! Records that some outputs have refused because they were full. They are asked for again when
//! they can be taken, and only the outputs that lack them get them.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use ncrx::{Receiver, SeqRange, StreamId, Token};

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
    /// that.
    pub fn ask(&mut self, able: Ends, receiver: &mut Receiver, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let mut next = None;
        self.streams.retain(|_, lacks| {
            if lacks.due <= now {
                if lacks.all.is_empty() {
                    // Nothing was refused since it came again.
                    return false;
                }
                let can = |lack: &&mut Lack| lack.ends & !able == 0 && !lack.asked;
                for lack in lacks.all.iter_mut().filter(can) {
                    (lack.asked, lacks.tried) = (true, true);
                    receiver.ask_again(lack.token, lack.numbers, now);
                }
                lacks.due = now + lacks.wait;
            }
            next = Some(next.map_or(lacks.due, |next: Instant| next.min(lacks.due)));
            true
        });
        self.due = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ncrx::{Config, Output};

    #[test]
    fn who_lacks_a_record_gets_it() {
        let now = Instant::now();
        let mut receiver = Receiver::new(Config {
            history: false,
            ..Config::default()
        });
        let from = "10.0.0.2:6665".parse().unwrap();
        for seq in 0..9 {
            let record = format!("6,{seq},{seq},-,ncs=00000000000000aa;x\n");
            receiver.feed(now, from, record.as_bytes()).unwrap();
        }
        let mut tokens = Vec::new();
        while let Some(output) = receiver.next_output() {
            if let Output::Record(record) = output {
                tokens.push(record.token());
            }
        }
        let stream = tokens[0].stream();
        let mut again = Again::default();
        again.add(&tokens[..2], 0b01, now);
        again.add(&tokens[2..6], 0b10, now);
        assert_eq!(again.streams[&stream].all.len(), 2);
        assert_eq!(again.take(stream, 1), Some(0b01));
        assert_eq!(again.take(stream, 1), None);
        assert_eq!(again.take(stream, 3), Some(0b10));
        assert_eq!(again.take(stream, 7), None);
        let left: Vec<_> = again.streams[&stream]
            .all
            .iter()
            .map(|lack| lack.numbers)
            .collect();
        let range = |first, last| SeqRange { first, last };
        assert_eq!(left, [range(0, 0), range(2, 2), range(4, 5)]);
        assert_eq!(again.take(stream, 0), Some(0b01));
        for seq in [2, 4, 5] {
            assert_eq!(again.take(stream, seq), Some(0b10));
        }
        assert!(again.is_empty());
    }
}
