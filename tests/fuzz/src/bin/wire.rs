// SPDX-License-Identifier: GPL-2.0

//! Records as the module sends them, in any form and order, with copies, cut in two ways: the
//! receiver returns the record and the lines behind it, byte for byte.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use ncrx::{Config, Output, Receiver};
use proto::wire::{BadRecord, Datagrams, Dialect, Extra, Form, Range, Record, Session};
use proto::wire::{MAX_DATAGRAM, MAX_HEADER};

#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../../proto/mod.rs"]
mod proto;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    prio: u32,
    seq: u64,
    usec: u64,
    /// The flags and the keys.
    keys: &'a [u8],
    body: &'a [u8],
    /// The number of times that the body is repeated, so that it fills datagrams.
    repeat: u8,
    lines: u8,
    release: Option<&'a [u8]>,
    forms: [Shape; 2],
    /// The datagram that comes next, of those that are left.
    order: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Shape {
    nca: bool,
    emergency: bool,
    session: Option<u64>,
    skip: Option<(u64, u64)>,
    lost: Option<(u64, u64)>,
}

fn range((a, b): (u64, u64)) -> Range {
    Range {
        first: a.min(b),
        last: a.max(b),
    }
}

/// The datagrams of a record in this form.
fn send(record: Record<'_>, form: Form<'_>) -> Result<Vec<Vec<u8>>, BadRecord> {
    let datagrams = Datagrams::new(record, form)?;
    let all = datagrams.iter().map(|datagram| {
        assert!(datagram.len() <= MAX_DATAGRAM);
        let mut out = vec![0; datagram.len()];
        datagram.write(&mut out);
        out
    });
    let all: Vec<_> = all.collect();
    let len = record.body.len() + 1 + form.extra.user.len();
    assert!(all.len() <= len / (MAX_DATAGRAM - MAX_HEADER) + 1);
    Ok(all)
}

fuzz_target!(|input: Input<'_>| {
    // The bytes that printk puts into a header, which escapes all others. The module's own keys are
    // left out.
    let keys: Vec<u8> = input
        .keys
        .iter()
        .copied()
        .filter(|c| (b' '..=b'~').contains(c) && *c != b';')
        .collect();
    if [",nc", ",emg="]
        .iter()
        .any(|ours| keys.windows(ours.len()).any(|w| w == ours.as_bytes()))
    {
        return;
    }
    let (prio, seq, usec) = (input.prio, input.seq >> 1, input.usec);
    let mut header = format!("{prio},{seq},{usec},").into_bytes();
    header.extend_from_slice(&keys);
    let body = input.body.repeat(1 + usize::from(input.repeat) % 32);
    let user = b" key=value\n".repeat(usize::from(input.lines));
    let release: Option<Vec<u8>> = input.release.map(|release| {
        let plain = |c: &u8| c.is_ascii_alphanumeric() || b".-+_~".contains(c);
        let name = release.iter().copied().filter(plain).take(62);
        b"7.".iter().copied().chain(name).collect()
    });
    let record = Record {
        header: &header,
        body: &body,
    };
    let mut expected = [&header[..], b";", &body].concat();
    if !user.is_empty() {
        if body.last() != Some(&b'\n') {
            expected.push(b'\n');
        }
        expected.extend_from_slice(&user);
    }

    // One session, or none; the marks name others than this record.
    let session = input.forms[0].session;
    let other = |numbers| {
        let range = range(numbers);
        (range.last < seq || range.first > seq).then_some(range)
    };
    let mut left = Vec::new();
    for shape in &input.forms {
        let form = Form {
            dialect: if shape.nca {
                Dialect::Nca
            } else {
                Dialect::Ncrx
            },
            release: release.as_deref(),
            emergency: shape.emergency,
            session: session.map(Session),
            crash: false,
            skip: shape.skip.and_then(other),
            lost: shape.lost.and_then(other),
            extra: Extra {
                user: &user,
                sys: b"",
            },
        };
        match send(record, form) {
            Ok(datagrams) => left.extend(datagrams),
            // The other form fails as well: the keys that forms add always have room.
            Err(BadRecord::HeaderTooLong) => assert!(header.len() > MAX_HEADER - 350),
            Err(BadRecord::NoHeader) => unreachable!(),
        }
    }

    let config = Config {
        history: false,
        ..Config::default()
    };
    let mut receiver = Receiver::new(config);
    let now = Instant::now();
    let from = ([10, 0, 0, 2], 6665).into();
    let mut order = input.order.iter();
    let mut sent = false;
    while !left.is_empty() {
        let at = usize::from(order.next().copied().unwrap_or(0)) % left.len();
        let datagram = left.swap_remove(at);
        receiver.feed(now, from, &datagram).expect("a record");
        sent = true;
    }
    // Other numbers that it tells of may have to come first.
    receiver.tick(now + Duration::from_secs(11));
    let mut got = Vec::new();
    while let Some(output) = receiver.next_output() {
        if let Output::Record(record) = output {
            assert_eq!(record.seq(), Some(seq));
            assert_eq!(record.session().map(|session| session.0), session);
            let mut bytes = Vec::new();
            record.write_kmsg(&mut bytes);
            got.push(bytes);
        }
    }
    match sent {
        true => assert!(got == [expected], "{got:?}"),
        false => assert!(got.is_empty()),
    }
});
