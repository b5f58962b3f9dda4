// SPDX-License-Identifier: GPL-2.0

//! Tests of what is asked for again.

use ncrx::{Config, Output};

use super::*;

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
    /// The numbers of the records that are held back.
    held: HashMap<StreamId, Vec<u64>>,
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
            held: HashMap::default(),
            now: Instant::now(),
            keys,
        };
        for seq in 0..5 {
            case.feed(2, &format!("6,{seq},{},-{keys};x\n", seq + 1));
        }
        for token in &case.tokens[1..4] {
            case.receiver.refuse(*token);
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
            let held = || self.held.clone();
            lost.extend(self.again.lost(held, &mut self.receiver, self.now));
            self.again.ask(able, &mut self.receiver, self.now);
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

/// A number that is held back keeps its own lack from being judged; other numbers of the stream do
/// not.
#[test]
fn what_is_held_back_is_not_lost() {
    for (seq, waits) in [(2, true), (4, false)] {
        let mut case = Case::new(SESSION);
        assert!(case.pass(3, 0b10).is_empty());
        case.held.insert(case.tokens[0].stream(), vec![seq]);
        case.feed(2, "6,5,6,-,ncs=00000000000000aa,nclost=1-3;x\n");
        let lost = case.pass(2, 0b10);
        assert_eq!(lost.is_empty(), waits);
        case.held.clear();
        let rest = case.pass(2, 0b10);
        is_all_lost(if waits { &rest } else { &lost }, true);
    }
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

/// A sender that logs 50 records a second and answers all requests, but for one record; and an
/// output that it has for itself.
struct Load {
    receiver: Receiver,
    again: Again,
    now: Instant,
    next: u64,
    /// The records that were sent again, and those that the output has refused in all.
    sent_again: u64,
}

impl Load {
    const STEP: Duration = Duration::from_millis(20);
    /// The record that is not sent again.
    const DEAF: u64 = 3;

    fn new() -> Self {
        let config = Config {
            history: false,
            ..Config::default()
        };
        Self {
            receiver: Receiver::new(config),
            again: Again::default(),
            now: Instant::now(),
            next: 0,
            sent_again: 0,
        }
    }

    fn send(&mut self, seq: u64) {
        let from = ([10, 0, 0, 2], 6665).into();
        let record = format!("6,{seq},{},-{SESSION};x\n", 20_000 * seq + 1);
        self.receiver
            .feed(self.now, from, record.as_bytes())
            .unwrap();
    }

    /// Lets so much time pass, with an output that takes a record or not.
    fn pass(&mut self, time: Duration, mut takes: impl FnMut() -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.send(self.next);
            self.next += 1;
            self.receiver.tick(self.now);
            let mut asked = Vec::new();
            while let Some((_, response)) = self.receiver.next_response() {
                let words = std::str::from_utf8(response).unwrap().split(' ').skip(1);
                asked.extend(
                    words
                        .filter(|word| !word.starts_with('~'))
                        .map(str::to_owned),
                );
            }
            for range in asked {
                let (first, last) = range.split_once('-').unwrap_or((&range, &range));
                let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
                for seq in (first..self.next.min(last + 1)).filter(|seq| *seq != Self::DEAF) {
                    self.sent_again += 1;
                    self.send(seq);
                }
            }
            let mut tokens = Vec::new();
            while let Some(output) = self.receiver.next_output() {
                if let Output::Record(record) = output {
                    tokens.push(record.token());
                }
            }
            for token in tokens {
                let _ = self.again.take(token.stream(), token.seq());
                if takes() {
                    self.again.took(&[token], self.now);
                    self.receiver.confirm(token, self.now);
                } else {
                    self.receiver.refuse(token);
                    self.again.add(&[token], 0b1, self.now);
                }
            }
            self.again.ask(0b1, &mut self.receiver, self.now);
            self.now += Self::STEP;
        }
    }

    /// Returns the number of records that the output lacks.
    fn lacks(&self) -> u64 {
        let all = self.again.streams.values().flat_map(|lacks| &lacks.all);
        all.map(|lack| lack.numbers.count()).sum()
    }
}

#[test]
fn an_output_that_works_again_has_all_soon_however_often_it_was_full() {
    let mut load = Load::new();
    for _ in 0..10 {
        load.pass(Duration::from_secs(8), || false);
        assert!(load.lacks() >= 400);
        load.pass(Duration::from_secs(2), || true);
        assert_eq!(load.lacks(), 1);
        load.pass(Duration::from_secs(28), || true);
    }
}

#[test]
fn an_output_that_takes_little_has_little_sent_again() {
    let mut load = Load::new();
    load.pass(Duration::from_secs(60), || false);
    let (before, mut offered) = (load.sent_again, 0);
    assert!(before < 100, "{before}");
    load.pass(Duration::from_secs(60), || {
        offered += 1;
        offered % 10 == 0
    });
    let again = load.sent_again - before;
    assert!(again < 2 * 16 * 60, "{again}");
}
