// SPDX-License-Identifier: GPL-2.0

//! Records that some outputs have refused because they were full. They are asked for again when
//! they can be taken, and only the outputs that lack them get them. Those that no sender can send
//! any more are lost to these outputs.

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

    /// A sender of five records, of which an output lacks the second to the fourth.
    struct Case {
        receiver: Receiver,
        again: Again,
        tokens: Vec<Token>,
        now: Instant,
        /// The keys of its headers.
        keys: &'static str,
    }

    const RECORDS: SeqRange = SeqRange { first: 1, last: 3 };

    impl Case {
        fn new(keys: &'static str) -> Self {
            let config = Config {
                history: false,
                max_hosts: 2,
                ..Config::default()
            };
            let mut case = Self {
                receiver: Receiver::new(config),
                again: Again::default(),
                tokens: Vec::new(),
                now: Instant::now(),
                keys,
            };
            for seq in 0..5 {
                case.feed(2, &format!("6,{seq},{},-{keys};x\n", seq + 1));
            }
            case.again.add(&case.tokens[1..4], 0b10, case.now);
            for token in [0, 4].map(|seq| case.tokens[seq]) {
                case.receiver.confirm(token, case.now);
            }
            case
        }

        /// Takes a datagram of this host; returns the outputs that get its record.
        fn feed(&mut self, host: u8, datagram: &str) -> Option<Ends> {
            let from = ([10, 0, 0, host], 6665).into();
            let bytes = datagram.as_bytes();
            self.receiver.feed(self.now, from, bytes).unwrap();
            let mut ends = None;
            while let Some(output) = self.receiver.next_output() {
                if let Output::Record(record) = output {
                    let token = record.token();
                    self.tokens.push(token);
                    ends = self.again.take(token.stream(), token.seq());
                }
            }
            ends
        }

        /// Lets so many seconds pass; returns what is lost until then.
        fn pass(&mut self, seconds: u64, able: Ends) -> Vec<Lost> {
            let end = self.now + Duration::from_secs(seconds);
            let mut lost = Vec::new();
            while self.now < end {
                self.receiver.tick(self.now);
                while self.receiver.next_response().is_some() {}
                lost.extend(self.again.ask(able, true, &mut self.receiver, self.now));
                let due = [self.receiver.deadline(), self.again.due(), Some(end)];
                let due = due.into_iter().flatten().min().unwrap();
                self.now = due.max(self.now + Duration::from_millis(1));
            }
            lost
        }
    }

    fn is_all_lost(lost: &[Lost], gap: bool) {
        let told: Vec<_> = lost.iter().map(|lost| (lost.numbers, lost.ends)).collect();
        assert_eq!(told, [(RECORDS, 0b10)]);
        assert_eq!(lost[0].gap(Instant::now()).is_some(), gap);
    }

    const SESSION: &str = ",ncs=00000000000000aa";

    #[test]
    fn what_is_lost_at_the_sender_is_lost() {
        let mut case = Case::new(SESSION);
        assert!(case.pass(3, 0b10).is_empty());
        case.feed(2, "6,5,6,-,ncs=00000000000000aa,nclost=1-3;x\n");
        is_all_lost(&case.pass(2, 0b10), true);
        assert!(case.again.is_empty() && case.pass(60, 0b10).is_empty());
        // The last one is not confirmed.
        assert_eq!(case.receiver.senders().next().unwrap().settled, Some(4));
        // Records that come even so are of no use.
        let records = case.receiver.stats().records;
        case.feed(2, "6,2,3,-,ncs=00000000000000aa;x\n");
        assert_eq!(case.receiver.stats().records, records);
    }

    #[test]
    fn what_a_sender_never_sends_again_is_lost() {
        let mut case = Case::new("");
        is_all_lost(&case.pass(30, 0b10), true);
        assert!(case.again.is_empty());
    }

    #[test]
    fn what_is_of_a_former_boot_is_lost_whether_or_not_the_output_is_mended() {
        for able in [0b10, 0] {
            let mut case = Case::new(SESSION);
            let mut lost = Vec::new();
            for seq in 0..30 {
                lost.extend(case.pass(1, able));
                let _ = case.feed(2, &format!("6,{seq},{seq},-,ncs=00000000000000bb;y\n"));
            }
            is_all_lost(&lost, true);
        }
    }

    #[test]
    fn what_is_of_a_sender_that_is_gone_is_lost() {
        // Silent for a day, or forgotten for others.
        let mut case = Case::new(SESSION);
        assert!(case.pass(23 * 3600, 0b10).is_empty());
        is_all_lost(&case.pass(2 * 3600, 0b10), true);
        let mut case = Case::new(SESSION);
        for host in 3..6 {
            let _ = case.feed(host, "6,0,1,-;y\n");
        }
        is_all_lost(&case.pass(2, 0), false);
    }

    #[test]
    fn what_may_come_is_waited_for() {
        let mut case = Case::new(SESSION);
        // The output is full for an hour, and the sender silent for another.
        assert!(case.pass(3600, 0).is_empty());
        assert!(case.pass(3600, 0b10).is_empty());
        for seq in 1..4 {
            let usec = seq + 1;
            let record = format!("6,{seq},{usec},-{};x\n", case.keys);
            assert_eq!(case.feed(2, &record), Some(0b10));
        }
        assert!(case.again.is_empty() && case.pass(60, 0b10).is_empty());
    }
}
