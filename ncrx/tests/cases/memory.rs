// SPDX-License-Identifier: GPL-2.0

//! Receivers with little memory.

use super::*;

#[test]
fn a_hole_that_stays_takes_no_more_memory_than_it_may() {
    let config = Config {
        host_memory: 64 << 10,
        silence: Duration::from_millis(100),
        ..no_history()
    };
    let mut test = Test::new(config);
    // Record 2 is passed over for silence, but never given up: the sender knows sessions, and would
    // say that it is lost.
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
    // At some length there is just room for 128, and none for the fragment.
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
        // 6 has the same place in its page as 70.
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
    // Many numbers behind it are hidden, which takes all memory, for some of these numbers just
    // when the table of pages has to grow.
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

/// Returns the bytes that are kept of many senders when each has sent these datagrams.
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
    // A fragment of the record that is next in turn always has room, up to printk's length.
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
