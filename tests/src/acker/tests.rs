// SPDX-License-Identifier: GPL-2.0

//! Tests of the log host against a simulated sender on a simulated wire, in simulated time.

use super::*;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::wire::faults::{FaultModel, Faults};

const SESSION: &str = "0123456789abcdef";
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A datagram on its way: the time it is due, its number, whether it is a response, its bytes.
type InFlight = (Instant, u64, bool, Vec<u8>);

/// A sender that does no more than it must: it sends each record once, again if it is asked for,
/// and the oldest unacknowledged one again and again.
struct Simulation {
    start: Instant,
    now: Instant,
    acker: Acker,
    kind: Kind,
    models: [FaultModel; 2],
    in_flight: BinaryHeap<Reverse<InFlight>>,
    numbered: u64,
    /// The time at which each record was first sent.
    sent: Vec<Instant>,
    records: u64,
    acked: Option<u64>,
    acks_on: bool,
    sessions: bool,
    emergency_at: Option<Instant>,
    emergency_seq: u64,
    datagrams: u64,
    /// The fragments of each record that are still to come, counted apart from the acker.
    outstanding: Vec<BTreeSet<u64>>,
}

impl Simulation {
    fn new(config: Config, seed: u64, faults: Faults, records: u64) -> Self {
        let start = Instant::now();
        let mut models = [FaultModel::new(seed, 0), FaultModel::new(seed, 1)];
        for model in &mut models {
            model.faults = faults;
        }
        Self {
            start,
            now: start,
            acker: Acker::new(config),
            kind: config.kind,
            models,
            in_flight: BinaryHeap::new(),
            numbered: 0,
            sent: Vec::new(),
            records,
            acked: None,
            acks_on: false,
            sessions: false,
            emergency_at: None,
            emergency_seq: 0,
            datagrams: 0,
            outstanding: (0..records).map(|n| pieces(n).collect()).collect(),
        }
    }

    /// Runs until everything has been acknowledged; returns the time it took.
    fn run(&mut self, limit: Duration) -> Duration {
        while self.acked != Some(self.records - 1) {
            let next_record = (self.sent.len() < self.records as usize)
                .then(|| self.start + ms(self.sent.len() as u64));
            let emergency = self.emergency_due();
            let arrival = self.in_flight.peek().map(|Reverse(next)| next.0);
            let times = [next_record, emergency, arrival, self.acker.deadline()];
            let next = times.into_iter().flatten().min();
            let next = next.expect("both sides wait for ever");
            self.now = self.now.max(next);
            assert!(self.now - self.start < limit, "{:#?}", self.acker);
            if arrival.is_some_and(|at| at <= self.now) {
                self.arrive();
            } else if next_record.is_some_and(|at| at <= self.now) {
                self.sent.push(self.now);
                self.send_record(self.sent.len() as u64 - 1, false);
            } else if emergency.is_some_and(|at| at <= self.now) {
                self.send_emergency();
            }
            for response in self.acker.poll(self.now) {
                self.check_response(&response);
                self.send(true, response.into_bytes());
            }
        }
        self.now - self.start
    }

    fn oldest_unacked(&self) -> u64 {
        self.acked.map_or(0, |n| n + 1)
    }

    fn emergency_due(&self) -> Option<Instant> {
        let sent = self.sent.get(self.oldest_unacked() as usize)?;
        let due = self.emergency_at.unwrap_or(*sent + ACK_TIMEOUT);
        self.acks_on.then_some(due)
    }

    fn send_emergency(&mut self) {
        let seq = self.emergency_seq.max(self.oldest_unacked());
        self.send_record(seq, true);
        let round_ends = seq + 1 >= self.sent.len() as u64;
        self.emergency_seq = if round_ends { 0 } else { seq + 1 };
        self.emergency_at = Some(self.now + ms(100));
    }

    fn send_record(&mut self, seq: u64, emergency: bool) {
        let mut head = format!("6,{seq},{},-", 1000 + seq);
        if self.sessions {
            head += &format!(",ncs={SESSION}");
        }
        if emergency {
            head += ",emg=1";
        }
        let body = body(seq);
        let count = pieces(seq).count();
        for (n, piece) in pieces(seq).enumerate() {
            let from = n * body.len() / count;
            let to = (n + 1) * body.len() / count;
            let place = match (count, self.kind) {
                (1, _) => String::new(),
                (_, Kind::Nca) => format!(",ncfrag={from}@{piece}/{count}"),
                _ => format!(",ncfrag={from}/{}", body.len()),
            };
            let text = format!("{head}{place};{}", &body[from..to]);
            self.datagrams += 1;
            self.send(false, text.into_bytes());
        }
    }

    fn send(&mut self, response: bool, bytes: Vec<u8>) {
        let fate = self.models[usize::from(response)].fate(bytes.len());
        for (delay, bytes) in fate.apply(bytes) {
            self.numbered += 1;
            let due = self.now + ms(1) + delay;
            self.in_flight
                .push(Reverse((due, self.numbered, response, bytes)));
        }
    }

    fn arrive(&mut self) {
        let Some(Reverse((_, _, response, bytes))) = self.in_flight.pop() else {
            return;
        };
        if response {
            self.read_response(&String::from_utf8(bytes).unwrap());
            return;
        }
        let datagram = parse(&bytes).unwrap();
        let piece = datagram.fragment.map_or(0, |fragment| {
            let count = pieces(datagram.seq).count();
            (0..count)
                .find(|n| n * body(datagram.seq).len() / count == fragment.offset)
                .unwrap() as u64
        });
        self.outstanding[datagram.seq as usize].remove(&piece);
        self.acker.take(self.now, &bytes);
        assert!(
            self.acker.complaints.is_empty(),
            "{:?}",
            self.acker.complaints
        );
    }

    /// Checks that a response is well formed, acknowledges nothing that has not come, and asks for
    /// nothing that has.
    fn check_response(&self, response: &str) {
        assert!(response.len() <= RESPONSE_MAX, "{} bytes", response.len());
        let (ack, missing) = read(response);
        if let Some(ack) = ack {
            for seq in 0..=ack {
                assert!(self.outstanding[seq as usize].is_empty(), "{response}");
            }
        }
        for run in missing {
            for seq in run.take_while(|seq| *seq < self.records) {
                assert!(!self.outstanding[seq as usize].is_empty(), "{response}");
            }
        }
        let has_trailer = response.contains('~');
        assert_eq!(has_trailer, self.kind == Kind::Session, "{response}");
    }

    fn read_response(&mut self, response: &str) {
        let (ack, missing) = read(response);
        self.sessions |= response.contains('~');
        if let Some(ack) = ack {
            self.acks_on |= self.kind == Kind::Nca || missing.is_empty();
            if self.acked < Some(ack) {
                (self.acked, self.emergency_at) = (Some(ack), None);
            }
        }
        let end = self.sent.len() as u64;
        for run in missing {
            for seq in run.take_while(|seq| *seq < end) {
                self.send_record(seq, false);
            }
        }
    }
}

/// Returns the fragments of a record: three for every tenth one.
fn pieces(seq: u64) -> std::ops::Range<u64> {
    0..if seq % 10 == 3 { 3 } else { 1 }
}

fn body(seq: u64) -> String {
    format!("the body of record {seq}\n")
}

/// Reads a response as a sender does.
fn read(response: &str) -> (Option<u64>, Vec<RangeInclusive<u64>>) {
    let mut tokens = response.split(' ');
    let head = tokens.next().unwrap();
    let ack = head.strip_prefix("ncrx").or(head.strip_prefix("nca"));
    let ack = ack.unwrap();
    let missing = tokens.filter(|token| !token.starts_with('~')).map(|token| {
        let (a, b) = token.split_once('-').unwrap_or((token, token));
        a.parse().unwrap()..=b.parse().unwrap()
    });
    let ack = (!ack.is_empty()).then(|| ack.parse().unwrap());
    (ack, missing.collect())
}

#[test]
fn all_arrives_whatever_the_wire_does() {
    let mut seed = 0;
    for kind in Kind::ACKING {
        for loss in [0.0, 0.1, 0.5, 0.9] {
            for (reorder, duplicate) in [(0.0, 0.0), (0.3, 0.2)] {
                seed += 1;
                let faults = Faults {
                    loss,
                    reorder,
                    duplicate,
                    ..Faults::default()
                };
                let records = if loss > 0.8 { 300 } else { 2000 };
                let config = Config::for_loss(kind, loss);
                let mut simulation = Simulation::new(config, seed, faults, records);
                let took = simulation.run(Duration::from_secs(1200));
                let Simulation {
                    datagrams, acker, ..
                } = &simulation;
                println!(
                    "seed {seed}: {kind:?}, loss {loss}, reordering {reorder}: {records} records \
                     in {took:.1?}, {datagrams} datagrams, {} responses",
                    acker.responses
                );
                // Requests for the last number, which stay unanswered, cost more than they should.
                let fair = (2200 + (records / 5) as usize * 2) as f64 / (1.0 - loss);
                assert!(loss > 0.8 || (*datagrams as f64) < 2.0 * fair);
            }
        }
    }
}

#[test]
fn a_seed_replays() {
    let faults = Faults {
        loss: 0.3,
        reorder: 0.3,
        ..Faults::default()
    };
    let run = |seed| {
        let mut simulation = Simulation::new(Config::new(Kind::Session), seed, faults, 500);
        let took = simulation.run(Duration::from_secs(60));
        (took, simulation.datagrams, simulation.acker.responses)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

/// Returns a log host that has received these datagrams, 1 ms after each other.
fn fed(kind: Kind, payloads: &[&str]) -> (Acker, Instant) {
    let mut acker = Acker::new(Config::new(kind));
    let mut now = Instant::now();
    for payload in payloads {
        now += ms(1);
        acker.take(now, payload.as_bytes());
    }
    (acker, now)
}

/// Returns all responses until `until`, each with its time in milliseconds.
fn said(acker: &mut Acker, from: Instant, until: Duration) -> Vec<(u128, String)> {
    let mut said = Vec::new();
    while let Some(due) = acker.deadline().filter(|due| *due <= from + until) {
        let responses = acker.poll(due);
        said.extend(responses.into_iter().map(|r| ((due - from).as_millis(), r)));
    }
    said
}

#[test]
fn what_each_kind_says() {
    let records = ["6,0,1,-;a", "6,1,1,-;b", "6,3,1,-;d", "6,7,1,-;e"];
    let said = |kind, until| {
        let (mut acker, now) = fed(kind, &records);
        let said = said(&mut acker, now, ms(until));
        said.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(said(Kind::Nca, 60), ["nca1 2", "nca1", "nca1 4 5 6"]);
    assert_eq!(said(Kind::Ncrx, 60), ["ncrx1 2", "ncrx1", "ncrx1 4 5 6"]);
    assert_eq!(said(Kind::NcrxOnRequest, 60), ["ncrx1 2", "ncrx1 4 5 6"]);
    assert_eq!(
        said(Kind::Session, 60),
        ["ncrx1 2 ~", "ncrx1 ~", "ncrx1 4-6 ~"]
    );
}

#[test]
fn it_asks_again_ever_more_slowly() {
    let (mut acker, now) = fed(Kind::Nca, &["6,0,1,-;a", "6,2,1,-;c"]);
    let asks: Vec<u128> = said(&mut acker, now, ms(1600))
        .into_iter()
        .filter(|(_, text)| text == "nca0 1")
        .map(|(at, _)| at)
        .collect();
    assert_eq!(asks, [30, 130, 330, 730, 1130, 1530]);
    acker.take(now + ms(1601), b"6,1,1,-;b");
    let rest = said(&mut acker, now, ms(60_000));
    assert_eq!(rest[0], (1651, "nca2".to_string()));
    // The ack is repeated for a while, and then no more.
    assert_eq!(rest.len(), 1 + REPEATS as usize);
    assert_eq!(acker.deadline(), None);
}

#[test]
fn nothing_contiguous_is_no_acknowledgement() {
    let (mut acker, now) = fed(Kind::Nca, &["6,5,1,-;f"]);
    assert_eq!(said(&mut acker, now, ms(30))[0].1, "nca 0 1 2 3 4");
    assert_eq!(acker.contiguous(), None);
}

#[test]
fn requests_are_split() {
    let payload = ["6,0,1,-;a", "6,1000,1,-;b"];
    let (mut acker, now) = fed(Kind::Nca, &payload);
    acker.config.ask_at_once = 999;
    let said = said(&mut acker, now, ms(31));
    let numbers: Vec<u64> = said
        .iter()
        .flat_map(|(_, text)| text.split(' ').skip(1))
        .map(|n| n.parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..1000).collect::<Vec<_>>());
    assert!(said.iter().all(|(_, text)| text.len() <= RESPONSE_MAX));
    assert!(said.len() < 5);
}

#[test]
fn marks_fill_holes() {
    let marked = format!("6,9,1,-,ncs={SESSION},ncskip=1-4,nclost=5-8;j");
    let (mut acker, now) = fed(Kind::Session, &["6,0,1,-;a", &marked]);
    assert_eq!(acker.contiguous(), Some(9));
    assert_eq!((acker.skipped.count(), acker.lost.count()), (4, 4));
    let said = said(&mut acker, now, ms(100));
    assert_eq!(said[0].1, format!("ncrx9 ~{SESSION}"));
    assert!(acker.complaints.is_empty());
    for wrong in ["4-1", "x", "9", "1-", "3-20"] {
        let text = format!("6,9,1,-,ncskip={wrong};j");
        let (acker, _) = fed(Kind::Session, &[&text]);
        assert_eq!(acker.complaints.len(), 1, "{wrong}");
        assert_eq!(acker.contiguous(), None, "{wrong}");
    }
}

#[test]
fn a_new_session_begins_anew() {
    let other = "fedcba9876543210";
    let (mut acker, now) = fed(
        Kind::Session,
        &[
            "6,0,1,-;a",
            &format!("6,1,1,-,ncs={SESSION};b"),
            &format!("6,0,1,-,ncs={other};A"),
            &format!("6,2,1,-,ncs={SESSION};late"),
        ],
    );
    assert_eq!(acker.session(), Some(other));
    assert_eq!((acker.contiguous(), acker.stale), (Some(0), 1));
    let said = said(&mut acker, now, ms(100));
    assert_eq!(said[0].1, format!("ncrx0 ~{other}"));
}

#[test]
fn an_emergency_datagram_is_answered() {
    let again = "6,1,1,-,emg=1;b";
    let (mut acker, now) = fed(Kind::Nca, &["6,0,1,-;a", "6,1,1,-;b"]);
    assert!(!said(&mut acker, now, Duration::from_secs(60)).is_empty());
    acker.take(now + Duration::from_secs(60), again.as_bytes());
    let answer = said(&mut acker, now, Duration::from_millis(60_060));
    assert_eq!(answer, [(60_050, "nca1".to_string())]);
    // An emergency datagram shows that there is a record that the log host does not know of.
    let (mut acker, now) = fed(Kind::Session, &["6,0,1,-;a", "6,1,1,-,ncemg=1;b"]);
    let answers = said(&mut acker, now, ms(40));
    assert_eq!(answers, [(30, "ncrx1 2-10002 ~".to_string())]);
}

#[test]
fn silence() {
    let (mut acker, now) = fed(Kind::Nca, &["6,0,1,-;a", "6,3,1,-;b"]);
    acker.silent = true;
    assert!(said(&mut acker, now, Duration::from_secs(60)).is_empty());
    assert!(acker.poll(now + ms(100)).is_empty());
    acker.silent = false;
    assert_eq!(said(&mut acker, now, ms(40))[0].1, "nca0 1 2");
}

#[test]
fn rubbish() {
    let (mut acker, now) = fed(Kind::Nca, &["", "hello", "6,18446744073709551615,1,-;x"]);
    assert_eq!(acker.contiguous(), None);
    assert_eq!(acker.complaints.len(), 1);
    assert!(said(&mut acker, now, Duration::from_secs(60)).is_empty());
}
