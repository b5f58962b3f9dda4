// SPDX-License-Identifier: GPL-2.0

//! Confirmation, record by record, and the acks that follow.

use std::time::Duration;

use ncrx::{Output, SeqRange, Standing, Token};

use super::{no_history, Test};

/// Returns the tokens of all records that are handed out.
fn tokens(test: &mut Test) -> Vec<Token> {
    let mut all = Vec::new();
    while let Some(output) = test.receiver.next_output() {
        if let Output::Record(record) = output {
            all.push(record.token());
        }
    }
    all
}

/// Returns the responses of this number of milliseconds.
fn said(test: &mut Test, ms: u64) -> Vec<String> {
    let mut all = Vec::new();
    // A keepalive shows that the sender is there.
    test.receiver.feed(test.now, test.from, b"").unwrap();
    let end = test.now + Duration::from_millis(ms);
    loop {
        test.receiver.tick(test.now);
        while let Some((_, bytes)) = test.receiver.next_response() {
            all.push(String::from_utf8(bytes.into()).unwrap());
        }
        match test.receiver.deadline() {
            Some(at) if at <= end => test.now = test.now.max(at),
            _ => break,
        }
    }
    test.now = end;
    all
}

#[test]
fn an_ack_stops_before_what_is_not_confirmed() {
    let mut test = Test::new(no_history());
    for seq in 1..=6 {
        test.feed(seq, seq, "");
    }
    let all = tokens(&mut test);
    assert_eq!(all.len(), 6);
    let first = said(&mut test, 1000);
    assert!(first.iter().all(|text| text == "nca ~"), "{first:?}");
    // Confirmations come from another thread, in any order, and twice.
    let which = [all[3], all[1], all[1], all[5]];
    let which = std::thread::spawn(move || which).join().unwrap();
    which.map(|token| test.receiver.confirm(token, test.now));
    assert_eq!(test.sender().settled, Some(0));
    // A sender that has answered no request is acknowledged every five seconds at most.
    test.receiver.confirm(all[0], test.now);
    assert_eq!(said(&mut test, 6000).last().unwrap(), "nca2 ~");
    test.receiver.confirm(all[2], test.now);
    assert_eq!(said(&mut test, 6000).last().unwrap(), "nca4 ~");
    test.receiver.confirm(all[4], test.now);
    assert_eq!(said(&mut test, 6000).last().unwrap(), "nca6 ~");
}

#[test]
fn what_comes_late_is_confirmed_by_itself() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000aa";
    test.feed(1, 1, session);
    test.feed(3, 3, session);
    said(&mut test, 20_000);
    test.feed(2, 2, session);
    let all = tokens(&mut test);
    all[..2]
        .iter()
        .for_each(|&token| test.receiver.confirm(token, test.now));
    assert_eq!(
        said(&mut test, 1000).last().unwrap(),
        "nca1 ~00000000000000aa"
    );
    test.receiver.confirm(all[2], test.now);
    assert_eq!(
        said(&mut test, 1000).last().unwrap(),
        "nca3 ~00000000000000aa"
    );
}

/// An output could not take some records, and can now.
#[test]
fn what_was_not_taken_comes_again() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000aa";
    for seq in 1..=6 {
        test.feed(seq, seq, session);
    }
    let all = tokens(&mut test);
    for token in &all {
        if ![3, 4].contains(&token.seq()) {
            test.receiver.confirm(*token, test.now);
        }
    }
    assert_eq!(
        said(&mut test, 1000).last().unwrap(),
        "nca2 ~00000000000000aa"
    );
    let numbers = SeqRange { first: 3, last: 4 };
    [all[2], all[3]].map(|token| test.receiver.refuse(token));
    test.receiver.ask_again(all[2], numbers, test.now);
    let asked = said(&mut test, 1000);
    assert!(
        asked.iter().any(|text| text.starts_with("nca2 3-4 ")),
        "{asked:?}"
    );
    // The sender has lost 4.
    test.feed(3, 3, session);
    test.feed(7, 7, &format!("{session},nclost=4-4"));
    let again = tokens(&mut test);
    assert_eq!(
        again.iter().map(|token| token.seq()).collect::<Vec<_>>(),
        [3, 7]
    );
    // The former token is no longer valid.
    test.receiver.confirm(all[2], test.now);
    test.receiver.confirm(again[1], test.now);
    let still = said(&mut test, 1000);
    assert!(
        still.iter().all(|text| text.starts_with("nca2 ")),
        "{still:?}"
    );
    test.receiver.confirm(again[0], test.now);
    assert_eq!(
        said(&mut test, 1000).last().unwrap(),
        "nca7 ~00000000000000aa"
    );
}

/// An output was full again when the records came again.
#[test]
fn what_was_not_taken_twice_comes_again() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000aa";
    (1..=4).for_each(|seq| test.feed(seq, seq, session));
    let all = tokens(&mut test);
    for token in all.iter().filter(|token| ![2, 3].contains(&token.seq())) {
        test.receiver.confirm(*token, test.now);
    }
    let numbers = SeqRange { first: 2, last: 3 };
    let mut refused = vec![all[1], all[2]];
    for _ in 0..4 {
        for token in &refused {
            test.receiver.refuse(*token);
        }
        test.receiver.ask_again(refused[0], numbers, test.now);
        said(&mut test, 1000);
        (2..=3).for_each(|seq| test.feed(seq, seq, session));
        refused = tokens(&mut test);
    }
    for token in refused {
        test.receiver.confirm(token, test.now);
    }
    assert_eq!(
        said(&mut test, 1000).last().unwrap(),
        "nca4 ~00000000000000aa"
    );
}

/// An output is about to write the part of a record that had come, and hangs. The whole record
/// comes and is written by this one, but refused by another.
#[test]
fn what_was_refused_has_no_ack_overtake_an_output_that_hangs() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000aa";
    test.feed(1, 1, session);
    test.feed(2, 2, &format!("{session},ncfrag=0@0/2"));
    test.feed(3, 3, session);
    said(&mut test, 20_000);
    let all = tokens(&mut test);
    let [first, part, last] = all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(part.seq(), 2);
    test.feed(2, 2, session);
    let whole = tokens(&mut test)[0];
    for token in [first, last] {
        test.receiver.confirm(token, test.now);
    }
    test.receiver.refuse(whole);
    let numbers = SeqRange { first: 2, last: 2 };
    test.receiver.ask_again(whole, numbers, test.now);
    said(&mut test, 1000);
    test.feed(2, 2, session);
    let again = tokens(&mut test)[0];
    test.receiver.confirm(again, test.now);
    assert_eq!(test.sender().settled, Some(1));
    test.receiver.confirm(part, test.now);
    assert_eq!(test.sender().settled, Some(3));
}

/// An output takes a record only once its sender has proven itself, though nothing is missing.
#[test]
fn who_has_to_prove_itself_is_asked_at_once() {
    let mut test = Test::new(no_history());
    let session = ",ncs=00000000000000aa";
    (1..=30).for_each(|seq| test.feed(seq, seq, session));
    let token = tokens(&mut test)[0];
    let asked = |test: &mut Test| -> Vec<u64> {
        let all = said(test, 100).join(" ");
        let words = all.split_whitespace();
        let ranges = words.filter(|word| !word.starts_with(['n', '~']));
        let ends = ranges.flat_map(|range| range.split('-'));
        ends.map(|end| end.parse().unwrap()).collect()
    };
    assert!(asked(&mut test).is_empty());
    assert_eq!(test.receiver.validate(token, test.now), Standing::Named);
    let mut numbers = asked(&mut test);
    assert!((1..=4).contains(&numbers.len()), "{numbers:?}");
    let mut rounds = 0;
    while test.receiver.validate(token, test.now) != Standing::Proven {
        numbers.iter().for_each(|&seq| test.feed(seq, seq, session));
        numbers = asked(&mut test);
        rounds += 1;
        assert!(rounds < 20, "it has not proven itself");
    }
}
