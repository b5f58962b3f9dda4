// SPDX-License-Identifier: GPL-2.0

//! Cases that the random tests, or reading, have found.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ncrx::{Config, Event, Manner, Output, Receiver, Resume, Sender};

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

    /// What comes out until so much time has passed: records by number, late ones marked; and events.
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

#[test]
fn a_record_out_of_order_is_no_answer() {
    let mut test = Test::new(Config::default());
    // 0 is asked for at once, 2 is only late.
    test.feed(1, 1, "");
    test.run(10);
    test.feed(3, 3, "");
    test.feed(2, 2, "");
    test.run(10);
    assert_eq!(test.sender().manner, Manner::Unknown);
}

#[test]
fn what_is_asked_for_in_vain_is_given_up_even_after_a_silence() {
    let mut test = Test::new(no_history());
    test.feed(1, 1, "");
    test.feed(4, 4, "");
    test.run(100);
    // An answer.
    test.feed(3, 3, "");
    test.run(300_000);
    assert_eq!((test.sender().missing, test.sender().settled), (0, Some(4)));
}

#[test]
fn a_new_boot_is_not_taken_for_what_is_missing() {
    for wait in [0, 15_000] {
        let mut test = Test::new(no_history());
        for seq in (0..100).filter(|seq| seq % 10 != 5) {
            test.feed(seq, 50_000_000 + seq * 1000, "");
        }
        test.run(wait);
        test.feed(25, 2_000_000, "");
        let all = test.run(20);
        assert!(all.contains(&"25@2000000".into()), "{all:?}");
    }
}

#[test]
fn copies_of_the_boot_before_are_none_of_this() {
    let mut test = Test::new(no_history());
    for seq in 0..100 {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(2000);
    test.feed(3, 2_000_000, "");
    test.feed(50, 50_000_050, "");
    test.feed(4, 2_000_001, "");
    let all = test.run(20_000);
    assert_eq!(all.last().unwrap(), "4@2000001", "{all:?}");
}

#[test]
fn a_session_is_not_learnt_from_what_may_be_of_another_boot() {
    let mut test = Test::new(Config::default());
    test.feed(9, 50_000_009, "");
    test.run(50);
    for seq in (0..9).chain(10..100) {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(50);
    // 7 was asked for: it may be a copy.
    test.feed(7, 2_000_000, ",ncs=00000000000000aa");
    test.run(10);
    assert_eq!(test.sender().session, None);
}

#[test]
fn a_stream_goes_on_from_before_its_newest_record() {
    let mut test = Test::new(no_history());
    test.feed(1, 1_000_000, "");
    test.feed(3, 9_000_000, "");
    test.run(10);
    let from = test.sender().resume().unwrap();
    assert_eq!((from.settled, from.usec), (1, 1_000_000));
    let mut test = Test::new(no_history());
    test.receiver.resume(test.now, test.from, from);
    test.feed(2, 3_000_000, "");
    assert_eq!(test.run(10), ["2@3000000"]);
}

#[test]
fn a_hole_that_stays_takes_no_more_memory_than_it_may() {
    let config = Config {
        host_memory: 64 << 10,
        silence: Duration::from_millis(100),
        ..no_history()
    };
    let mut test = Test::new(config);
    // Passed over for silence, but never given up: it knows sessions, and would tell.
    test.feed(1, 1, ",ncs=00000000000000aa");
    for seq in 3..100_000 {
        test.feed(seq, seq, ",ncs=00000000000000aa");
        if seq == 3 {
            test.run(200);
        }
        if seq % 100 == 0 {
            test.run(1);
        }
        assert!(test.sender().bytes <= 66 << 10, "{}", test.sender().bytes);
    }
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
fn a_copy_of_what_came_before_a_burst_is_no_new_boot() {
    let mut test = Test::new(no_history());
    for seq in 0..1000 {
        test.feed(seq, 1_000_000 + seq, "");
    }
    test.feed(500, 1_000_500, "");
    assert_eq!(test.run(10).len(), 1 + 1000);
}

#[test]
fn a_sender_with_little_to_spend_is_waited_for() {
    let mut test = Test::new(no_history());
    test.feed(0, 0, "");
    test.feed(300, 300, "");
    // One number in half a second, the latest first: the others are asked for often.
    for seq in (1..300).rev() {
        test.run(500);
        test.feed(seq, seq, "");
    }
    assert_eq!(test.receiver.stats().passed_over, 0);
}

#[test]
fn what_was_logged_before_it_was_heard_is_not_waited_for_over_a_silence() {
    let mut test = Test::new(Config::default());
    for seq in [2, 3] {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(40);
    // An answer: it listens.
    test.feed(1, 50_000_001, "");
    test.run(30_000);
    test.feed(0, 2_000_000, "");
    let all = test.run(10);
    assert!(!all.contains(&"0@2000000 late".into()), "{all:?}");
}

#[test]
fn copies_from_before_a_receiver_goes_on_are_no_new_boot() {
    let mut test = Test::new(no_history());
    let from = Resume {
        session: None,
        settled: 100,
        usec: 50_000_000,
    };
    test.receiver.resume(test.now, test.from, from);
    test.feed(100, 50_000_000, "");
    test.feed(90, 49_999_000, "");
    test.feed(101, 50_001_000, "");
    assert_eq!(test.run(10), ["101@50001000"]);
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
    let named = "Gap(Numbers { first: 5, last: 5 }, Unanswered)";
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
        // The sender has not heard of it yet.
        test.feed(seq, 1000 * seq, &format!("{session},emg=1"));
        test.run(10);
    }
    assert_eq!(test.receiver.stats().requested, 0);
    // Now the rest has been lost, of which only such a one tells.
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
    // The sender tells of what it has not heard of in turn: each is new.
    for seq in 2..20 {
        test.feed(seq, 1000 * seq, &format!("{session},emg=1"));
        test.run(100);
    }
    assert!(test.receiver.stats().requested > 1000);
}

#[test]
fn who_seemed_not_to_listen_is_asked_again_when_it_tells_its_session() {
    let mut test = Test::new(Config::default());
    test.feed(3, 3000, "");
    // It answers nothing: `session=require`, and nothing new to put the session on.
    let out = [test.run(10_000), test.run(0)].concat().join(" ");
    assert!(out.contains("Before") && out.contains("3@3000"), "{out}");
    assert_eq!(test.sender().manner, Manner::Passive);
    let before = test.receiver.stats().requested;
    let session = ",ncs=0000000000000001";
    test.feed(4, 4000, session);
    test.run(50);
    assert_eq!(test.receiver.stats().requested - before, 3);
    // What it still owes is not acknowledged.
    assert_eq!(test.sender().settled, None);
    test.feed(1, 1000, &format!("{session},ncfrag=4/8"));
    test.feed(0, 500, session);
    let out = test.run(100).join(" ");
    assert!(out.contains("0@500 late"), "{out}");
    assert_eq!(test.sender().settled, Some(0));
    // In fragments as well.
    test.feed(1, 1000, &format!("{session},ncfrag=0/8"));
    let out = test.run(100).join(" ");
    assert!(out.contains("1@1000 late"), "{out}");
    assert_eq!(test.sender().settled, Some(1));
    // What it has not got is asked for no more.
    test.feed(5, 5000, &format!("{session},nclost=2-2"));
    test.run(100);
    assert_eq!(test.sender().settled, Some(5));
    let before = test.receiver.stats().requested;
    test.run(10_000);
    assert_eq!(test.receiver.stats().requested, before);
}

#[test]
fn what_is_late_of_a_former_stream_takes_no_more_memory_than_it_may() {
    let config = Config {
        total_memory: 64 << 10,
        ..no_history()
    };
    let mut test = Test::new(config);
    test.feed(1, 1, ",ncs=00000000000000aa");
    test.feed(1, 1, ",ncs=00000000000000bb");
    for seq in 2..1000 {
        test.feed(seq, seq, ",ncs=00000000000000aa");
    }
    let bytes = test.receiver.bytes();
    assert!(bytes <= 66 << 10, "{bytes}");
    assert!(test.receiver.stats().no_memory > 0);
}

#[test]
fn fragments_of_what_is_given_up_for_want_of_memory_spoil_nothing() {
    let session = ",ncs=00000000000000aa";
    // At some length there just is room for 128, and none for the fragment.
    for len in (0..8500).step_by(100) {
        let mut test = Test::new(Config {
            host_memory: 10 << 10,
            ..no_history()
        });
        // 1 to 64 are passed over, and may still come.
        test.feed(0, 0, session);
        test.feed(65, 65, session);
        test.run(11_000);
        test.feed(70, 70, session);
        test.feed(71, 71, &format!("{session},x={}", "x".repeat(len)));
        test.feed(128, 128, session);
        // Its place in its page is that of 70.
        test.feed(6, 6, &format!("{session},ncfrag=0/900"));
        for seq in 66..70 {
            test.feed(seq, seq, session);
        }
        let all = test.run(100);
        assert!(all.contains(&"70@70".into()), "{len}: {all:?}");
    }
}

#[test]
fn a_record_in_fragments_whose_turn_it_is_has_room() {
    let session = ",ncs=00000000000000aa";
    // Much behind it is hidden, which takes all the memory that there is: for some of these numbers
    // just when the table of pages has to grow.
    for first in (500_000..520_000).step_by(1000) {
        let mut test = Test::new(Config {
            host_memory: 256 << 10,
            ..no_history()
        });
        let last = first + 1_200_000;
        test.feed(1, 1, &format!("{session},ncskip={first}-{last},ncfrag=0/2"));
        let bytes = test.receiver.bytes();
        assert!(bytes <= (256 << 10) + 4096, "{first}: {bytes}");
        test.feed(1, 1, &format!("{session},ncfrag=1/2"));
        let all = test.run(100);
        assert!(all.contains(&"1@1".into()), "{first}: {all:?}");
    }
}

#[test]
fn a_record_in_fragments_that_finds_no_room_is_not_handed_out_twice() {
    let mut test = Test::new(Config {
        total_memory: 16 << 10,
        ..no_history()
    });
    let session = ",ncs=00000000000000aa";
    let mut seq = 0;
    while test.receiver.stats().no_memory == 0 {
        seq += 1;
        test.feed(seq, 10, session);
    }
    test.feed(seq, 10, &format!("{session},ncfrag=0/2"));
    let mut all = test.run(20_000);
    test.feed(seq, 10, session);
    all.extend(test.run(100));
    let name = format!("{seq}@10");
    let times = all.iter().filter(|text| text.starts_with(&name)).count();
    assert_eq!(times, 1, "{all:?}");
}

#[test]
fn what_finds_no_room_is_asked_for_once_however_often_it_comes() {
    let mut test = Test::new(Config {
        total_memory: 16 << 10,
        ..no_history()
    });
    let mut seq = 0;
    while test.receiver.stats().no_memory < 1000 {
        seq += u64::from(test.receiver.stats().no_memory == 0);
        test.feed(seq, 10, "");
    }
    test.run(40);
    assert_eq!(test.receiver.stats().requested, 1);
}

#[test]
fn fragments_that_are_given_up_do_not_fill_the_queue() {
    let mut test = Test::new(Config {
        host_memory: 16 << 10,
        total_memory: 32 << 10,
        ..no_history()
    });
    for seq in (1..2000).step_by(2) {
        test.feed(seq, 10, &format!(",caller={},ncfrag=0/9", "x".repeat(400)));
        let bytes = test.receiver.bytes();
        assert!(bytes <= 64 << 10, "{bytes}");
    }
}

#[test]
fn what_came_of_the_past_is_not_asked_for_again_when_a_session_is_told() {
    let mut test = Test::new(Config::default());
    test.feed(9, 9000, "");
    test.run(50);
    // Of what it is asked for only one arrives, and it falls silent.
    test.feed(4, 4000, "");
    let mut all = test.run(20_000);
    let session = ",ncs=00000000000000aa";
    test.feed(10, 10_000, session);
    let before = test.receiver.stats().requested;
    test.run(50);
    assert_eq!(test.receiver.stats().requested - before, 8);
    for seq in 0..9 {
        test.feed(seq, seq * 1000, session);
    }
    all.extend(test.run(100));
    let times = |seq: u64| {
        let name = format!("{seq}@{seq}000");
        all.iter().filter(|text| text.starts_with(&name)).count()
    };
    assert_eq!((times(3), times(4), times(5)), (1, 1, 1), "{all:?}");
}

#[test]
fn fragments_that_are_given_up_take_no_memory() {
    let mut test = Test::new(Config {
        host_memory: 4 << 20,
        total_memory: 200 << 10,
        ..no_history()
    });
    for seq in 0..64 {
        test.feed(seq, 10, ",ncfrag=60000/60002");
    }
    let bytes = test.receiver.bytes();
    assert!(bytes <= 300 << 10, "{bytes}");
}

#[test]
fn a_stream_begins_with_its_session() {
    let mut test = Test::new(no_history());
    test.feed(5, 5, ",ncs=00000000000000aa");
    let Some(Output::Event { session, event, .. }) = test.receiver.next_output() else {
        panic!("nothing has begun");
    };
    assert!(matches!(event, Event::Began { .. }));
    assert_eq!(session.map(|session| session.0), Some(0xaa));
}

/// What is kept of many senders of which each has sent this.
fn kept_of(senders: u8, datagrams: &[&str]) -> usize {
    let mut receiver = Receiver::new(Config {
        total_memory: 1 << 20,
        ..no_history()
    });
    let now = Instant::now();
    for sender in 0..senders {
        for datagram in datagrams {
            let from = ([10, 0, 0, sender], 6665).into();
            let _ = receiver.feed(now, from, datagram.as_bytes());
            while receiver.next_output().is_some() {}
        }
    }
    receiver.bytes()
}

#[test]
fn the_end_of_a_long_record_takes_no_more_memory_than_there_is() {
    let end = "6,0,1,-,ncfrag=131000/131072;x";
    assert!(kept_of(100, &[end]) <= 1 << 20);
    let end = "6,5,1,-,ncfrag=131000/131072;x";
    assert!(kept_of(100, &["6,0,1,-;x", end]) <= 1 << 20);
    // One of which it is the turn, and that is not longer than printk's, is always taken.
    assert!(kept_of(100, &["6,0,1,-,ncfrag=1500/2000;x"]) >= 100 * 1500);
}

#[test]
fn streams_that_begin_while_nothing_is_taken_take_no_more_memory_than_there_is() {
    let mut test = Test::new(Config {
        total_memory: 64 << 10,
        ..no_history()
    });
    for session in 0..10_000 {
        test.feed(1, 1, &format!(",ncs={session:016x}"));
    }
    let bytes = test.receiver.bytes();
    assert!(bytes <= 66 << 10, "{bytes}");
    let out = test.run(0);
    assert!(out.len() < 1000, "{}", out.len());
}

#[test]
fn what_a_crash_says_is_not_kept_waiting() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000ab";
    test.feed(1, 1, session);
    test.run(10);
    // Its last words, with a hole before them and one among them.
    for seq in [4, 5, 7] {
        test.feed(seq, seq, &format!("{session},nccrash=1"));
    }
    let at_once = test.run(100);
    assert!(at_once.is_empty(), "{at_once:?}");
    // The hole among them is filled by the next round.
    test.feed(6, 6, &format!("{session},nccrash=1,emg=1"));
    let soon = test.run(400);
    assert_eq!(
        soon,
        [
            "Gap(Numbers { first: 2, last: 3 }, Crash)",
            "4@4",
            "5@5",
            "6@6",
            "7@7"
        ]
    );
    // And what comes even so is not lost.
    test.feed(2, 2, session);
    assert_eq!(test.run(100), ["2@2 late"]);
}

/// What is left of records in fragments when no more of them comes.
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
    // Next in turn; and behind another that is missing.
    let mut test = begin(no_history());
    test.feed(2, 2, &format!("{session},ncfrag=0/9"));
    test.feed(5, 5, &format!("{session},ncfrag=0/9"));
    test.feed(6, 6, &format!("{session},ncfrag=3/9"));
    test.run(40);
    test.feed(7, 7, &format!("{session},nclost=5-6"));
    test.feed(7, 7, &format!("{session},nclost=2-2"));
    test.feed(3, 3, session);
    test.feed(4, 4, session);
    let lost = "Gap(Numbers { first: 6, last: 6 }, Lost)";
    let all = ["2 partial", "2@2", "3@3", "4@4", "5@5", lost, "7@7"];
    assert_eq!(partials(&mut test, 40), all);
    // A fragment that comes after that is a copy.
    test.feed(5, 5, &format!("{session},ncfrag=1/9"));
    assert_eq!(partials(&mut test, 40), ["0 partial"]);
    assert_eq!(test.sender().settled, Some(7));

    // Passed over for silence: once, and once more if there is more of it.
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
    // The whole one may still come.
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

#[test]
fn a_copy_of_what_was_before_the_first_that_came_is_no_new_boot() {
    let mut test = Test::new(Config {
        dialect: ncrx::Dialect::Ncrx,
        ..Config::default()
    });
    // A burst, whose end comes first.
    test.feed(1874, 1_160_000, "");
    test.run(1);
    for seq in 0..1874 {
        test.feed(seq, 1_001_000, "");
    }
    test.run(100);
    test.feed(1022, 1_001_000, "");
    assert!(test.run(100).is_empty());
}

#[test]
fn what_stands_for_a_record_that_another_receiver_has_asked_for_is_no_new_boot() {
    let mut test = Test::new(no_history());
    let from = Resume {
        session: None,
        settled: 10,
        usec: 50_000_000,
    };
    test.receiver.resume(test.now, test.from, from);
    let substitute = b"4,12,0,-;netconsole_ext: record 12 was lost at the source\n";
    test.receiver.feed(test.now, test.from, substitute).unwrap();
    test.feed(11, 50_000_011, "");
    test.feed(13, 50_000_013, "");
    assert_eq!(test.run(10), ["11@50000011", "12@0", "13@50000013"]);
}

/// How many numbers before the first that comes are asked for.
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
        // Behind a hole that stays; and what was logged before it was heard.
        let mut test = Test::new(no_history());
        test.feed(1, 1, session);
        test.feed(4_000_000, 3, &format!("{session},ncskip=3-3999999"));
        test.run(1);
        test.feed(2, 2, session);
        let all = test.run(1);
        let hidden = "Gap(Numbers { first: 3, last: 3999999 }, Hidden)";
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
