// SPDX-License-Identifier: GPL-2.0

//! Receivers that go on where another one has stopped.

use ncrx::Config;
use serde_json::json;

use crate::{no_history, settled_to_100, Test};

/// Stops a receiver, and returns another that goes on from its state.
fn next(mut test: Test) -> Test {
    test.receiver.stop(test.now);
    test.run(0);
    let from = test.sender().resume().unwrap();
    let mut next = Test::new(no_history());
    next.receiver.resume(next.now, next.from, from);
    next
}

#[test]
fn what_stood_for_the_newest_record_is_remembered() {
    let mut test = Test::new(no_history());
    for (seq, usec) in [(0, 1_000_000), (2, 1_500_000), (1, 1_200_000)] {
        test.feed(seq, usec, "");
    }
    let substitute = b"4,9,0,-;netconsole_ext: record 9 was lost at the source\n";
    test.receiver.feed(test.now, test.from, substitute).unwrap();
    test.run(11_000);
    let mut test = next(test);
    test.feed(8, 7_000_000, "");
    assert_eq!(test.run(10), ["8@7000000 late"]);
}

#[test]
fn what_was_passed_over_before_any_clock_is_still_taken() {
    let mut test = Test::new(no_history());
    for seq in (0..30).filter(|&seq| seq != 10) {
        test.feed(seq, if seq < 20 { 0 } else { seq * 1000 }, "");
    }
    // The sender does not answer.
    test.run(20_000);
    let mut test = next(test);
    test.feed(10, 0, "");
    assert_eq!(test.run(10), ["10@0 late"]);
}

#[test]
fn what_was_asked_for_does_not_make_answers_of_what_comes_by_itself() {
    let mut test = Test::new(Config::default());
    let from = settled_to_100(json!({"asked": [90, 110]}));
    test.receiver.resume(test.now, test.from, from);
    for seq in [102, 101, 103] {
        test.feed(seq, 50_000_000 + seq, "");
    }
    test.run(10);
    assert_eq!(test.sender().manner, ncrx::PeerMode::Unknown);
}

#[test]
fn numbers_in_disorder_are_left_out() {
    let bad = [
        vec![(1, 5), (9, 3)],
        vec![(20, 20), (10, 10)],
        vec![(90, 110)],
        vec![(u64::MAX - 10, u64::MAX - 3)],
        vec![(5, u64::MAX), (0, 0)],
    ];
    for ranges in &bad {
        for last in [0, 100, u64::MAX - 20, u64::MAX] {
            // 90 to 110 are in disorder only behind 100.
            let beyond = ranges.iter().filter(|n| last == 100 || n.1 != 110);
            let passed = ranges.iter().map(|&(first, last)| (first, last, 5));
            let from = settled_to_100(json!({
                "beyond": beyond.collect::<Vec<_>>(),
                "passed": passed.collect::<Vec<_>>(),
                "asked": ranges[0],
                "settled": last,
                "session": (last > 50).then_some(0xaa),
            }));
            let mut test = Test::new(Config::default());
            test.receiver.resume(test.now, test.from, from);
            let session = ",ncs=00000000000000aa";
            for seq in [101, 102, 101] {
                test.feed(seq, 50_000_000 + seq, &format!("{session},nclost=0-30"));
            }
            let out = test.run(20_000);
            let came = |text| out.iter().filter(|line| line.starts_with(text)).count();
            assert_eq!(
                (came("101@"), came("102@")),
                (1, 1),
                "{ranges:?} {last} {out:?}"
            );
        }
    }
}
