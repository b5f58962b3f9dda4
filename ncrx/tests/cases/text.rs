// SPDX-License-Identifier: GPL-2.0

//! Datagrams that are no record are text: none is dropped.

use std::time::Duration;

use ncrx::Output;

use super::{no_history, Test};

/// Returns the texts that come out when these datagrams have come and this time has passed.
fn texts(datagrams: &[&[u8]], ms: u64) -> Vec<Vec<u8>> {
    let mut test = Test::new(no_history());
    for datagram in datagrams {
        test.receiver.feed(test.now, test.from, datagram).unwrap();
        test.now += Duration::from_millis(ms);
        test.receiver.tick(test.now);
    }
    test.receiver.stop(test.now);
    let mut all = Vec::new();
    while let Some(output) = test.receiver.next_output() {
        if let Output::Record(record) = output {
            assert!(record.is_text());
            all.push(record.body().to_vec());
        }
    }
    all
}

#[test]
fn whatever_bytes_come_are_handed_out_as_they_are() {
    let odd: [&[u8]; 9] = [
        b"[   12.3] usb: Product: Caf\xe9\n",
        b"bell \x07\n",
        b"back\x08space",
        b"nul\0nul",
        b"\0",
        b"\xff\xfe",
        b"U",
        b"6,1,2,-,ncs=nonsense;of a record",
        b"6,99999999999999999999,2,-;a number too large",
    ];
    assert_eq!(texts(&odd, 1), odd);
    let long = [b'a'; 20_000];
    assert_eq!(texts(&[&long], 1), [long]);
}

#[test]
fn a_character_that_was_cut_is_whole_again() {
    let line = format!("{}\u{e9}{}\n", "x".repeat(999), "y".repeat(50));
    let (first, second) = line.as_bytes().split_at(1000);
    assert_eq!(texts(&[first, second], 1).concat(), line.as_bytes());
    assert!(texts(&[first, second], 1)
        .iter()
        .all(|text| std::str::from_utf8(text).is_ok()));
    // A character in four datagrams, byte for byte.
    let face: Vec<&[u8]> = "\u{1f600}".as_bytes().chunks(1).collect();
    assert_eq!(texts(&face, 1), ["\u{1f600}".as_bytes()]);
}

#[test]
fn half_a_character_is_not_kept_from_who_reads() {
    // The other half of a character never comes, is of another line, or comes too late.
    assert_eq!(texts(&[b"caf\xc3"], 1), [&b"caf"[..], b"\xc3"]);
    assert_eq!(
        texts(&[b"caf\xc3", b"next\n"], 1),
        [&b"caf"[..], b"\xc3", b"next\n"]
    );
    assert_eq!(
        texts(&[b"caf\xc3", b"\xa9\n"], 2000),
        [&b"caf"[..], b"\xc3", b"\xa9\n"]
    );
}
