// SPDX-License-Identifier: GPL-2.0

//! Restart detection: which start of a log a datagram belongs to.

use super::*;

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
    let before = test.receiver.stats().streams;
    test.feed(7, 2_000_000, ",ncs=00000000000000aa");
    // The record is of a stream of its own.
    test.run(10);
    assert_eq!(test.receiver.stats().streams, before + 1);
}

#[test]
fn a_stream_goes_on_from_before_its_newest_record() {
    let mut test = Test::new(no_history());
    test.feed(1, 1_000_000, "");
    test.feed(3, 9_000_000, "");
    test.run(10);
    let from = test.sender();
    assert_eq!((from.settled, from.usec), (Some(1), 1_000_000));
    let from = from.resume().unwrap();
    let mut test = Test::new(no_history());
    test.receiver.resume(test.now, test.from, from);
    test.feed(2, 3_000_000, "");
    assert_eq!(test.run(10), ["2@3000000"]);
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
fn what_was_logged_before_it_was_heard_is_not_waited_for_over_a_silence() {
    let mut test = Test::new(Config::default());
    for seq in [2, 3] {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(40);
    // This record is an answer, which shows that the sender listens.
    test.feed(1, 50_000_001, "");
    test.run(30_000);
    test.feed(0, 2_000_000, "");
    let all = test.run(10);
    assert!(!all.contains(&"0@2000000 late".into()), "{all:?}");
}

#[test]
fn copies_from_before_a_receiver_goes_on_are_no_new_boot() {
    let mut test = Test::new(no_history());
    let from = settled_to_100(json!({}));
    test.receiver.resume(test.now, test.from, from);
    test.feed(100, 50_000_000, "");
    test.feed(90, 49_999_000, "");
    test.feed(101, 50_001_000, "");
    assert_eq!(test.run(10), ["101@50001000"]);
}

#[test]
fn what_was_missing_when_a_receiver_stopped_is_no_new_boot() {
    let mut test = Test::new(no_history());
    // 104 and later ones had come in part, with clocks seconds later, and are not settled.
    let from = settled_to_100(json!({
        "beyond": [[103, 103]], "last_usec": 50_003_000, "newest_usec": 58_000_000,
    }));
    test.receiver.resume(test.now, test.from, from);
    test.feed(102, 57_900_000, "");
    test.feed(103, 57_950_000, "");
    test.feed(101, 57_800_000, "");
    assert_eq!(test.run(10), ["102@57900000 late", "101@57800000 late"]);
}

#[test]
fn who_seemed_not_to_listen_is_asked_again_when_it_tells_its_session() {
    let mut test = Test::new(Config::default());
    test.feed(3, 3000, "");
    // The sender answers nothing: it has `session=require`, and no new record to name its session.
    let out = [test.run(10_000), test.run(0)].concat().join(" ");
    assert!(out.contains("Before") && out.contains("3@3000"), "{out}");
    assert_eq!(test.sender().manner, PeerMode::Passive);
    let before = test.receiver.stats().requested;
    let session = ",ncs=0000000000000001";
    test.feed(4, 4000, session);
    test.run(50);
    assert_eq!(test.receiver.stats().requested - before, 3);
    // The records that are still missing are not acknowledged.
    assert_eq!(test.sender().settled, None);
    test.feed(1, 1000, &format!("{session},ncfrag=4/8"));
    test.feed(0, 500, session);
    let out = test.run(100).join(" ");
    assert!(out.contains("0@500 late"), "{out}");
    assert_eq!(test.sender().settled, Some(0));
    // A record in fragments comes late as well.
    test.feed(1, 1000, &format!("{session},ncfrag=0/8"));
    let out = test.run(100).join(" ");
    assert!(out.contains("1@1000 late"), "{out}");
    assert_eq!(test.sender().settled, Some(1));
    // A record that the sender has lost is not asked for any more.
    test.feed(5, 5000, &format!("{session},nclost=2-2"));
    test.run(100);
    assert_eq!(test.sender().settled, Some(5));
    let before = test.receiver.stats().requested;
    test.run(10_000);
    assert_eq!(test.receiver.stats().requested, before);
}

#[test]
fn what_came_of_the_past_is_not_asked_for_again_when_a_session_is_told() {
    let mut test = Test::new(Config::default());
    test.feed(9, 9000, "");
    test.run(50);
    // Only one of the requested records arrives, and the sender falls silent.
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
fn what_was_passed_over_before_a_receiver_stopped_is_asked_for_when_a_session_is_told() {
    let mut test = Test::new(Config::default());
    test.feed(5, 5000, "");
    test.feed(7, 7000, "");
    // The sender answers nothing: 6 is given up, and so are the records before the first that came.
    test.run(10_000);
    test.run(0);
    let from = test.sender();
    assert_eq!((from.settled, from.passed.len()), (Some(7), 2));
    let from = from.resume().unwrap();
    let mut test = Test::new(Config::default());
    test.receiver.resume(test.now, test.from, from);
    test.run(1000);
    assert_eq!(test.receiver.stats().requested, 0);
    let session = ",ncs=00000000000000aa";
    test.feed(8, 8000, session);
    test.run(50);
    assert_eq!(test.receiver.stats().requested, 6);
    // Another receiver that goes on before they have come asks for them, too.
    test.run(0);
    let from = test.sender();
    assert_eq!((from.settled, from.beyond.len()), (None, 2));
    let from = from.resume().unwrap();
    let mut test = Test::new(Config::default());
    test.receiver.resume(test.now, test.from, from);
    test.run(50);
    assert_eq!(test.receiver.stats().requested, 6);
    test.feed(6, 6000, session);
    test.feed(0, 500, session);
    let out = test.run(100);
    assert_eq!(out, ["6@6000 late", "0@500 late"]);
}

#[test]
fn what_another_receiver_has_asked_for_is_no_new_boot() {
    let mut test = Test::new(no_history());
    let (first, last) = (20, 30);
    let from = settled_to_100(json!({"asked": [first, last]}));
    test.receiver.resume(test.now, test.from, from);
    test.feed(25, 10_000_000, "");
    test.feed(101, 50_001_000, "");
    assert_eq!(test.run(15_000), ["101@50001000"]);
    // An answer does not take so long: this one is a new boot.
    test.feed(26, 10_000_000, "");
    let out = test.run(10);
    assert!(out[0].starts_with("Ended"), "{out:?}");
}

#[test]
fn what_stands_for_the_newest_record_says_nothing_of_the_clock_before_it() {
    let mut test = Test::new(no_history());
    test.feed(1, 1_000_000, "");
    let substitute = b"4,9,0,-;netconsole_ext: record 9 was lost at the source\n";
    test.receiver.feed(test.now, test.from, substitute).unwrap();
    test.feed(8, 7_000_000, "");
    let out = test.run(10_000);
    assert!(!out.contains(&"Ended".into()), "{out:?}");
    // The newest record itself does.
    test.feed(10, 8_000_000, "");
    test.feed(5, 10_000_000, "");
    let out = test.run(10);
    assert!(out.contains(&"Ended".into()), "{out:?}");
}

#[test]
fn without_a_clock_nothing_is_of_a_session_that_it_does_not_name() {
    let mut test = Test::new(Config::default());
    // Only marks of hidden records had come in order, which have no clock.
    let from = settled_to_100(json!({"session": 0xaa, "usec": 0, "last_usec": 0}));
    test.receiver.resume(test.now, test.from, from);
    // The sender has just started anew, and has not named its session yet.
    test.feed(101, 2_000_000, "");
    assert!(test.run(11_000).is_empty());
    test.feed(102, 2_000_100, "");
    let out = test.run(10);
    // The new boot has proven nothing, so the one before has not ended.
    assert!(out[0].starts_with("Began"), "{out:?}");
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

#[test]
fn a_copy_of_what_was_before_the_first_that_came_is_no_new_boot() {
    let mut test = Test::new(Config {
        dialect: ncrx::Dialect::Ncrx,
        ..Config::default()
    });
    // The end of a burst comes first.
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
    let from = settled_to_100(json!({"settled": 10}));
    test.receiver.resume(test.now, test.from, from);
    let substitute = b"4,12,0,-;netconsole_ext: record 12 was lost at the source\n";
    test.receiver.feed(test.now, test.from, substitute).unwrap();
    test.feed(11, 50_000_011, "");
    test.feed(13, 50_000_013, "");
    assert_eq!(test.run(10), ["11@50000011", "12@0", "13@50000013"]);
}

#[test]
fn an_emergency_record_of_a_new_boot_is_no_copy() {
    // These are more than the receiver remembers, so that only the timestamp tells boots apart.
    let mut test = Test::new(no_history());
    for seq in 0..10_000 {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(2000);
    for seq in 0..10 {
        test.feed(seq, 2_000_000 + seq, ",ncemg=1");
    }
    // A late record of the boot before is still taken for a copy.
    test.feed(5000, 50_005_000, "");
    let all = test.run(1000);
    let records = all.iter().filter(|text| text.contains("@2000"));
    assert_eq!(records.count(), 10, "{all:?}");
    assert!(!all.contains(&"5000@50005000".into()), "{all:?}");
}

/// Sends two boots with the same numbers, the second `gap` milliseconds after the first, their
/// clocks `apart` microseconds apart; returns the texts that do not come out.
fn lost_of_two_boots(records: [u64; 2], gap: u64, apart: i64, texts: [&str; 2]) -> Vec<String> {
    let mut test = Test::new(no_history());
    let mut sent = Vec::new();
    let mut come = Vec::new();
    for boot in [0, 1] {
        for seq in 0..records[boot] {
            let base = 500_000 + if boot == 1 { apart } else { 0 };
            let usec = base.unsigned_abs() + seq * 1000;
            let text = texts[boot].replace('N', &seq.to_string());
            let datagram = format!("6,{seq},{usec},-;{text}");
            let _ = test.receiver.feed(test.now, test.from, datagram.as_bytes());
            sent.push(text);
            come.extend(texts_of(&mut test, 1));
        }
        come.extend(texts_of(&mut test, gap));
    }
    come.extend(texts_of(&mut test, 30_000));
    sent.retain(|text| !come.contains(text));
    sent
}

/// Returns the texts that come out in this number of milliseconds.
fn texts_of(test: &mut Test, ms: u64) -> Vec<String> {
    let mut texts = Vec::new();
    let end = test.now + Duration::from_millis(ms);
    loop {
        while let Some(output) = test.receiver.next_output() {
            if let Output::Record(record) = output {
                texts.push(String::from_utf8_lossy(record.text()).into_owned());
            }
        }
        test.receiver.written();
        test.receiver.tick(test.now);
        while test.receiver.next_response().is_some() {}
        match test.receiver.deadline() {
            Some(at) if at <= end => test.now = test.now.max(at),
            _ => break,
        }
    }
    test.now = end;
    texts
}

#[test]
fn nothing_is_lost_of_a_boot_that_follows_at_once() {
    let mut faults = Vec::new();
    let texts = [
        ["one N of the first", "one N of the second"],
        ["usb 1-1: number 5 at N", "usb 1-1: number 6 at N"],
        ["first N", "second N"],
    ];
    for texts in texts {
        for first in [1, 2, 3, 8] {
            for second in [1, 2, 3, 9] {
                for gap in [0, 1, 100, 900] {
                    for apart in [-400_000, -1000, -1, 0, 1, 500, 1000, 900_000] {
                        let lost = lost_of_two_boots([first, second], gap, apart, texts);
                        if !lost.is_empty() {
                            faults.push(format!("{first} {second} {gap} {apart}: {lost:?}"));
                        }
                    }
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{}: {:#?}",
        faults.len(),
        &faults[..faults.len().min(20)]
    );
}

/// Early in a boot records have no timestamp, and are the same in each: a short one, and the
/// command line in two parts.
fn early(seq: u64) -> Vec<String> {
    match seq {
        1 => ["0/8;Comm", "4/8;and\n"]
            .map(|part| format!("6,1,0,-,ncfrag={part}"))
            .to_vec(),
        _ => vec![format!("6,{seq},0,-;early {seq}\n")],
    }
}

#[test]
fn what_is_the_same_in_each_boot_is_of_each() {
    for config in [no_history(), Config::default()] {
        for (wait, lost, swapped) in [(0, 0, false), (2000, 1, false), (5000, 3, true)] {
            let mut test = Test::new(config.clone());
            let mut all = Vec::new();
            for (boot, lost) in [(1, 0), (2, lost)] {
                let mut datagrams: Vec<_> = (lost..10).flat_map(early).collect();
                if swapped {
                    datagrams.swap(2, 3);
                }
                datagrams
                    .extend((10..30).map(|seq| format!("6,{seq},{},-;late\n", boot + 1000 * seq)));
                for datagram in datagrams {
                    let _ = test.receiver.feed(test.now, test.from, datagram.as_bytes());
                    all.extend(test.run(1));
                }
                all.extend(test.run(wait));
            }
            all.extend(test.run(30_000));
            let count = |seq: u64| {
                let is = |text: &&String| text.split('@').next() == Some(&seq.to_string());
                all.iter().filter(is).count() as u64
            };
            let counts: Vec<_> = (0..30).map(count).collect();
            let expected: Vec<_> = (0..30).map(|seq| 2 - u64::from(seq < lost)).collect();
            assert_eq!(counts, expected, "{wait} {lost}: {all:?}");
            assert!(!all.iter().any(|text| text.ends_with("late")), "{all:?}");
            assert_eq!(test.receiver.stats().duplicates, 0);
        }
    }
}

#[test]
fn copies_without_a_timestamp_are_of_no_boot() {
    let mut test = Test::new(no_history());
    let mut all = Vec::new();
    let mut feed = |test: &mut Test, datagram: &str| {
        let _ = test.receiver.feed(test.now, test.from, datagram.as_bytes());
        all.extend(test.run(1));
    };
    for seq in (0..10).filter(|seq| *seq != 1) {
        // The network brings each twice, and once more later.
        feed(&mut test, &early(seq)[0]);
        feed(&mut test, &early(seq)[0]);
    }
    feed(&mut test, "6,10,1000,-;x");
    (2..10).for_each(|seq| feed(&mut test, &early(seq)[0]));
    feed(&mut test, "6,11,1001,-;x");
    // The next boot has lost its first records.
    test.run(2000);
    feed(&mut test, "6,5,2000,-;x");
    all.extend(test.run(30_000));
    let of_first = |text: &&String| text.ends_with("@0");
    assert_eq!(all.iter().filter(of_first).count(), 9, "{all:?}");
    assert_eq!(all.last().unwrap(), "5@2000", "{all:?}");
}
