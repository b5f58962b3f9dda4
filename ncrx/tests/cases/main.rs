// SPDX-License-Identifier: GPL-2.0

//! Cases that the random tests, or reviews, have found.
//!
//! | file | subject |
//! |---|---|
//! | `boots.rs` | the start of a log that a datagram is of |
//! | `amplification.rs` | responses to senders that have proven nothing, and memory for them |
//! | `confirm.rs` | confirmations, and the acks that follow |
//! | `memory.rs` | little memory |
//! | `restarts.rs` | a receiver that goes on where another one has stopped |
//! | `streams.rs` | several streams of one sender, and their effect on each other |
//! | `text.rs` | datagrams that are no record |
//! | `main.rs` | the rest |

mod amplification;
mod boots;
mod confirm;
mod memory;
mod restarts;
mod streams;
mod text;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ncrx::{Config, Event, Output, PeerMode, Receiver, Resume, Sender};
use serde_json::{json, Value};

/// A receiver of one sender, and its clock.
struct Test {
    receiver: Receiver,
    now: Instant,
    from: SocketAddr,
}

impl Test {
    fn new(config: Config) -> Self {
        Self {
            receiver: Receiver::new(config),
            now: Instant::now(),
            from: ([10, 0, 0, 2], 6665).into(),
        }
    }

    fn feed(&mut self, seq: u64, usec: u64, keys: &str) {
        let datagram = format!("6,{seq},{usec},-{keys};{usec}");
        let _ = self.receiver.feed(self.now, self.from, datagram.as_bytes());
    }

    /// Returns the output of this number of milliseconds: records by number, late ones marked;
    /// and events.
    fn run(&mut self, ms: u64) -> Vec<String> {
        let mut all = Vec::new();
        let end = self.now + Duration::from_millis(ms);
        loop {
            while let Some(output) = self.receiver.next_output() {
                all.push(match output {
                    Output::Record(record) if record.is_text() => continue,
                    Output::Record(record) => {
                        let late = if record.is_late() { " late" } else { "" };
                        format!("{}@{}{late}", record.seq().unwrap(), record.usec().unwrap())
                    }
                    Output::Event { event, .. } => format!("{event:?}"),
                });
            }
            self.receiver.written();
            self.receiver.tick(self.now);
            while self.receiver.next_response().is_some() {}
            match self.receiver.deadline() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
        all
    }

    fn sender(&self) -> Sender {
        self.receiver.senders().next().unwrap()
    }
}

fn no_history() -> Config {
    Config {
        history: false,
        ..Config::default()
    }
}

/// Returns the state of a receiver that stopped with nothing missing up to 100, with these keys
/// changed.
fn settled_to_100(keys: Value) -> Resume {
    let mut from = json!({
        "session": null, "settled": 100, "usec": 50_000_000, "last_usec": 50_000_000,
        "newest_usec": 50_000_000,
    });
    let keys = keys.as_object().unwrap().clone();
    from.as_object_mut().unwrap().extend(keys);
    serde_json::from_value(from).unwrap()
}

#[test]
fn a_record_out_of_order_is_no_answer() {
    let mut test = Test::new(Config::default());
    // 0 is asked for at once; 2 may only be late.
    test.feed(1, 1, "");
    test.run(10);
    test.feed(3, 3, "");
    test.feed(2, 2, "");
    test.run(10);
    assert_eq!(test.sender().manner, PeerMode::Unknown);
}

#[test]
fn what_is_asked_for_in_vain_is_given_up_even_after_a_silence() {
    let mut test = Test::new(no_history());
    test.feed(1, 1, "");
    test.feed(4, 4, "");
    test.run(100);
    // This one is an answer.
    test.feed(3, 3, "");
    test.run(300_000);
    assert_eq!((test.sender().missing, test.sender().settled), (0, Some(4)));
}

#[test]
fn numbers_that_nobody_has_do_not_overflow() {
    let mut test = Test::new(Config::default());
    for seq in [u64::MAX - 1, u64::MAX - 1, 1 << 62, 1 << 62] {
        test.feed(seq, 0, "");
        test.feed(0, 0, &format!(",nclost={}-{}", seq - 1, seq));
        test.run(20_000);
    }
}

#[test]
fn a_sender_with_little_to_spend_is_waited_for() {
    let mut test = Test::new(no_history());
    test.feed(0, 0, "");
    test.feed(300, 300, "");
    // One number comes each half second, the latest first: the others are asked for often.
    for seq in (1..300).rev() {
        test.run(500);
        test.feed(seq, seq, "");
    }
    assert_eq!(test.receiver.stats().passed_over, 0);
}

#[test]
fn what_was_asked_for_in_vain_may_still_come() {
    let mut test = Test::new(no_history());
    for seq in (0..200).filter(|&seq| seq != 5 && seq != 50) {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(100);
    test.feed(50, 50_000_050, "");
    let mut all = Vec::new();
    for seq in 200..350 {
        all.extend(test.run(1000));
        test.feed(seq, 50_000_000 + seq, "");
    }
    let named = "Gap { range: Range { first: 5, last: 5 }, reason: Unanswered }";
    assert!(all.iter().any(|text| text == named), "{all:?}");
    test.run(12_000);
    test.feed(5, 50_000_005, "");
    assert_eq!(test.run(10).last().unwrap(), "5@50000005 late");
}

#[test]
fn it_looks_ahead_only_when_nothing_new_comes() {
    let mut test = Test::new(no_history());
    let session = ",ncs=0000000000000001";
    for seq in 1..200 {
        test.feed(seq, 1000 * seq, session);
        // The sender has not had an ack for it yet.
        test.feed(seq, 1000 * seq, &format!("{session},emg=1"));
        test.run(10);
    }
    assert_eq!(test.receiver.stats().requested, 0);
    // Now later records are lost, which only an emergency record shows.
    test.run(1000);
    test.feed(199, 199_000, &format!("{session},emg=1"));
    test.run(10);
    let once = test.receiver.stats().requested;
    assert!(once >= 1000);
    test.feed(199, 199_000, &format!("{session},emg=1"));
    test.run(100);
    assert_eq!(test.receiver.stats().requested, once);
}

#[test]
fn a_lost_end_is_not_waited_for_one_by_one() {
    let mut test = Test::new(no_history());
    let session = ",ncs=0000000000000001";
    test.feed(1, 1000, session);
    test.run(10_000);
    // The sender sends its unacknowledged records one after the other: each is new here.
    for seq in 2..20 {
        test.feed(seq, 1000 * seq, &format!("{session},emg=1"));
        test.run(100);
    }
    assert!(test.receiver.stats().requested > 1000);
}

#[test]
fn what_a_crash_says_is_not_kept_waiting() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000ab";
    test.feed(1, 1, session);
    test.run(10);
    // The crash's records, with a gap before them and one among them.
    for seq in [4, 5, 7] {
        test.feed(seq, seq, &format!("{session},nccrash=1"));
    }
    let at_once = test.run(100);
    assert!(at_once.is_empty(), "{at_once:?}");
    // The next round fills the gap among them.
    test.feed(6, 6, &format!("{session},nccrash=1,emg=1"));
    let soon = test.run(400);
    assert_eq!(
        soon,
        [
            "Gap { range: Range { first: 2, last: 3 }, reason: Crash }",
            "4@4",
            "5@5",
            "6@6",
            "7@7"
        ]
    );
    // A record that comes afterwards is handed out late.
    test.feed(2, 2, session);
    assert_eq!(test.run(100), ["2@2 late"]);
}

/// Returns the number of partial records and the output of this number of milliseconds.
fn partials(test: &mut Test, ms: u64) -> Vec<String> {
    let before = test.receiver.stats().partial;
    let out = test.run(ms);
    let partial = test.receiver.stats().partial - before;
    [vec![format!("{partial} partial")], out].concat()
}

#[test]
fn what_there_is_of_a_record_that_is_lost_is_written() {
    let session = ",ncs=00000000000000aa";
    let begin = |history: Config| {
        let mut test = Test::new(history);
        test.feed(1, 1, session);
        test
    };
    // One partial record is the next in turn, one is behind another that is missing.
    let mut test = begin(no_history());
    test.feed(2, 2, &format!("{session},ncfrag=0/9"));
    test.feed(5, 5, &format!("{session},ncfrag=0/9"));
    test.feed(6, 6, &format!("{session},ncfrag=3/9"));
    test.run(40);
    test.feed(7, 7, &format!("{session},nclost=5-6"));
    test.feed(7, 7, &format!("{session},nclost=2-2"));
    test.feed(3, 3, session);
    test.feed(4, 4, session);
    let lost = "Gap { range: Range { first: 6, last: 6 }, reason: Lost }";
    let all = ["2 partial", "2@2", "3@3", "4@4", "5@5", lost, "7@7"];
    assert_eq!(partials(&mut test, 40), all);
    // A fragment that comes afterwards is a copy.
    test.feed(5, 5, &format!("{session},ncfrag=1/9"));
    assert_eq!(partials(&mut test, 40), ["0 partial"]);
    assert_eq!(test.sender().settled, Some(7));

    // A partial record is handed out once when it is passed over for silence, and once more if more
    // of it has come.
    let mut test = begin(no_history());
    test.feed(2, 2, &format!("{session},ncfrag=0/9"));
    test.feed(4, 4, session);
    assert_eq!(test.run(20_000).len(), 2 + 3);
    test.feed(5, 5, session);
    test.feed(3, 3, &format!("{session},ncfrag=0/9"));
    test.run(40);
    test.feed(5, 5, &format!("{session},nclost=2-3"));
    assert_eq!(partials(&mut test, 40), ["1 partial", "3@3 late"]);
    assert_eq!(test.sender().settled, Some(5));
}

#[test]
fn what_there_is_of_a_record_asked_for_in_vain_is_written() {
    let mut test = Test::new(no_history());
    for seq in (0..200).filter(|&seq| seq != 5 && seq != 50) {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.feed(5, 50_000_005, ",ncfrag=0/9");
    test.run(100);
    test.feed(50, 50_000_050, "");
    let mut all = Vec::new();
    for seq in 200..350 {
        all.extend(test.run(1000));
        test.feed(seq, 50_000_000 + seq, "");
    }
    assert!(all.contains(&"5@50000005".into()), "{all:?}");
    // The whole record may still come.
    test.feed(5, 50_000_005, "");
    assert_eq!(test.run(10).last().unwrap(), "5@50000005 late");
}

#[test]
fn what_there_is_of_a_record_is_better_than_what_stands_for_it() {
    let mut test = Test::new(no_history());
    test.feed(0, 50_000_000, "");
    test.feed(2, 50_000_002, "");
    test.feed(1, 50_000_001, ",ncfrag=0/90");
    let substitute = b"6,1,0,-;netconsole_ext: record 1 was lost at the source\n";
    test.receiver.feed(test.now, test.from, substitute).unwrap();
    let out = partials(&mut test, 10);
    assert_eq!(out[0], "1 partial");
    assert_eq!(out[2..], ["0@50000000", "1@50000001", "2@50000002"]);
}

/// The most numbers before the first that comes for which requests are sent.
const HISTORY: u64 = 1 << 21;

#[test]
fn many_numbers_at_once_are_not_work_for_each() {
    let cpu = || {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        Duration::from(time)
    };
    let session = ",ncs=00000000000000aa";
    let begin = cpu();
    for _ in 0..20 {
        // Hidden numbers behind a gap that stays; and the history before the first that comes.
        let mut test = Test::new(no_history());
        test.feed(1, 1, session);
        test.feed(4_000_000, 3, &format!("{session},ncskip=3-3999999"));
        test.run(1);
        test.feed(2, 2, session);
        let all = test.run(1);
        let hidden = "Gap { range: Range { first: 3, last: 3999999 }, reason: Hidden }";
        assert_eq!(all, ["2@2", hidden, "4000000@3"]);
        let mut test = Test::new(Config::default());
        test.feed(5_000_000, 3, session);
        test.run(300);
        test.feed(5_000_001, 4, &format!("{session},nclost=3000000-4999999"));
        test.run(1000);
        assert_eq!(test.sender().missing, 3_000_000 - (5_000_000 - HISTORY));
    }
    let took = cpu() - begin;
    assert!(took < Duration::from_millis(400), "{took:?}");
}

/// The tests that the table of situations names are there.
#[test]
fn what_is_listed_is_there() {
    fn read(dir: &Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut all = String::new();
    for dir in ["src", "program", "tests"] {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut all);
    }
    let quoted = include_str!("../README.md").split('`').skip(1).step_by(2);
    let names = quoted.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let names: Vec<_> = names.filter(|name| name.contains('_')).collect();
    assert!(names.len() > 60, "{}", names.len());
    for name in names {
        assert!(all.contains(&format!("fn {name}(")), "{name} is not there");
    }
}
