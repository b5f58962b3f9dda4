// SPDX-License-Identifier: GPL-2.0

//! Amplification: forged datagrams cause little traffic to the host that they name.

use std::time::Duration;

use ncrx::{Config, Dialect, Output};

use super::Test;

/// Returns the bytes and the datagrams of the responses to these over a day; everything is
/// confirmed.
fn said_for(config: Config, datagrams: &[(u64, String)]) -> (usize, usize) {
    let mut test = Test::new(config);
    let begin = test.now;
    let mut said = (0, 0);
    let mut until = |test: &mut Test, end| loop {
        let mut tokens = Vec::new();
        while let Some(output) = test.receiver.next_output() {
            if let Output::Record(record) = output {
                tokens.push(record.token());
            }
        }
        for token in tokens {
            test.receiver.confirm(token, test.now);
        }
        test.receiver.tick(test.now);
        while let Some((_, bytes)) = test.receiver.next_response() {
            said = (said.0 + bytes.len(), said.1 + 1);
        }
        match test.receiver.deadline() {
            Some(at) if at <= end => test.now = test.now.max(at),
            _ => {
                test.now = end;
                break;
            }
        }
    };
    for (ms, datagram) in datagrams {
        until(&mut test, begin + Duration::from_millis(*ms));
        let _ = (test.receiver).feed(test.now, test.from, datagram.as_bytes());
    }
    until(&mut test, begin + Duration::from_secs(24 * 3600));
    said
}

fn configs() -> [Config; 2] {
    [Dialect::Nca, Dialect::Ncrx].map(|dialect| Config {
        dialect,
        ..Config::default()
    })
}

#[test]
fn one_forged_datagram_brings_three_times_its_bytes_at_most() {
    for config in configs() {
        for keys in [
            "",
            ",ncs=aaaaaaaaaaaaaaaa",
            ",ncs=aaaaaaaaaaaaaaaa,ncemg=1",
            ",emg=1",
        ] {
            let datagram = format!("6,100000,1,-{keys};x");
            let len = datagram.len();
            let (bytes, datagrams) = said_for(config.clone(), &[(0, datagram)]);
            assert!(
                bytes <= 3 * len && datagrams <= 3,
                "{keys}: {bytes} {datagrams}"
            );
            assert!(datagrams >= 1);
        }
    }
}

#[test]
fn who_forges_answers_gets_no_more() {
    // An attacker that hears nothing can make up all of this: a gap and its records, emergencies,
    // marks, a session that is kept, the whole history.
    for config in configs() {
        for session in ["", ",ncs=aaaaaaaaaaaaaaaa"] {
            let mut all = vec![(0, format!("6,5000,900,-{session};x"))];
            for n in 0..100u64 {
                all.push((200 * n, format!("6,{},{},-{session};x", 4999 - n, 800 - n)));
                all.push((
                    200 * n,
                    format!("6,{},{},-{session};x", 5001 + 2 * n, 901 + n),
                ));
                all.push((
                    200 * n + 100,
                    format!("6,{},{},-{session},emg=1;x", 5001 + n, 901 + n),
                ));
                let lost = format!("6,5001,901,-{session},nclost={}-{};x", 10 * n, 10 * n + 9);
                all.push((200 * n + 150, lost));
            }
            let came: usize = all.iter().map(|(_, datagram)| datagram.len()).sum();
            let (bytes, datagrams) = said_for(config.clone(), &all);
            assert!(bytes <= 3 * came, "{bytes} of {came}");
            assert!(datagrams <= 3 * all.len(), "{datagrams} of {}", all.len());
        }
    }
}

#[test]
fn a_jump_at_first_contact_is_one_gap() {
    let mut test = Test::new(Config::default());
    let datagram = b"6,100000,100,-;hi";
    test.receiver.feed(test.now, test.from, datagram).unwrap();
    let out = test.run(60_000);
    let gaps = out.iter().filter(|text| text.starts_with("Gap")).count();
    assert!(gaps <= 1, "{out:?}");
    assert_eq!(out.last().unwrap(), "100000@100");
}

#[test]
fn who_has_proven_nothing_makes_room_for_others() {
    let mut test = Test::new(Config {
        max_hosts: 100,
        ..Config::default()
    });
    // A steady sender, and a flood of others.
    let steady = test.from;
    for n in 0..1000u32 {
        test.from = (std::net::Ipv4Addr::from(0x0b00_0000 + n), 6665).into();
        // Some of them name a session, which proves nothing.
        let forged = match n % 2 {
            0 => "6,3,100,-;x".to_string(),
            _ => format!("6,3,100,-,ncs={n:016x}f;x").replace(",ncs=0", ",ncs="),
        };
        let _ = (test.receiver).feed(test.now, test.from, forged.as_bytes());
        test.from = steady;
        let steady = format!("6,{n},{},-,ncs=00000000000000aa;x", 1000 * u64::from(n));
        test.receiver
            .feed(test.now, test.from, steady.as_bytes())
            .unwrap();
        test.run(100);
    }
    assert_eq!(test.receiver.stats().too_many_senders, 0);
    assert!(test.receiver.stats().evicted > 800);
    test.run(5000);
    let steady = test.receiver.senders().find(|sender| sender.host == steady);
    assert_eq!(steady.unwrap().settled, Some(999));
    // All records that came are handed out even so; those that wait for others of their session,
    // after a silence.
    test.run(20_000);
    assert_eq!(test.receiver.stats().records, 2000);
}
