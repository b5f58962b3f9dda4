// SPDX-License-Identifier: GPL-2.0

//! The protocol's examples, read by the receiver: those that the module's own tests send.

use std::net::SocketAddr;
use std::time::Instant;

use ncrx::{Config, Output, Receiver, Session};

const EXAMPLES: &str = include_str!("../src/proto/examples.md");

/// A record, the form in which it is sent, and its datagrams.
struct Example {
    body: Vec<u8>,
    seq: u64,
    sent_as: String,
    datagrams: Vec<Vec<u8>>,
}

/// Returns the bytes that a cell between backticks stands for.
fn bytes(cell: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = cell.trim_matches('`');
    while let Some(c) = rest.chars().next() {
        let escape = rest.strip_prefix('\\');
        let (byte, times, len) = match escape.and_then(|escape| escape.chars().next()) {
            Some('n') => (b'\n', 1, 2),
            Some('x') => (u8::from_str_radix(&rest[2..4], 16).unwrap(), 1, 4),
            Some('{') => {
                let end = rest.find('}').unwrap();
                let times: usize = rest[2..end].parse().unwrap();
                (*out.last().unwrap(), times - 1, end + 1)
            }
            _ => (u8::try_from(c).unwrap(), 1, 1),
        };
        out.resize(out.len() + times, byte);
        rest = &rest[len..];
    }
    out
}

fn examples() -> Vec<Example> {
    let table = EXAMPLES
        .split("\n## ")
        .find(|part| part.starts_with("Records\n"));
    let rows = table.unwrap().lines().filter(|line| line.starts_with('|'));
    let mut all: Vec<Example> = Vec::new();
    for row in rows.skip(2) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim_matches(' ')).collect();
        let [_, record, sent_as, lines, datagram, _] = cells[..] else {
            panic!("{row}");
        };
        if record.is_empty() {
            all.last_mut().unwrap().datagrams.push(bytes(datagram));
            continue;
        }
        let record = bytes(record);
        let replay = b"** replaying previous printk message **\n";
        let record = record.strip_prefix(replay).unwrap_or(&record);
        let semicolon = record.iter().position(|&c| c == b';').unwrap();
        let (header, body) = (&record[..semicolon], &record[semicolon + 1..]);
        let mut body = body.to_vec();
        // printk has cut it off.
        if !lines.is_empty() && !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        body.extend(bytes(lines));
        let seq = std::str::from_utf8(header)
            .unwrap()
            .split(',')
            .nth(1)
            .unwrap();
        all.push(Example {
            body,
            seq: seq.parse().unwrap(),
            sent_as: sent_as.into(),
            datagrams: vec![bytes(datagram)],
        });
    }
    all
}

/// Checks that a receiver returns the record of an example's datagrams, in this order.
fn receive<'a>(example: &Example, datagrams: impl Iterator<Item = &'a Vec<u8>>) {
    let name = format!("record {}, {}", example.seq, example.sent_as);
    let (now, from) = (Instant::now(), SocketAddr::from(([10, 0, 0, 2], 6665)));
    let config = Config {
        history: false,
        ..Config::default()
    };
    let mut receiver = Receiver::new(config);
    for datagram in datagrams {
        receiver.feed(now, from, datagram).unwrap();
    }
    let mut records = 0;
    while let Some(output) = receiver.next_output() {
        let Output::Record(record) = output else {
            continue;
        };
        records += 1;
        let has = |word| example.sent_as.split(' ').any(|w| w == word);
        assert_eq!(record.seq(), Some(example.seq), "{name}");
        assert_eq!(record.body(), example.body, "{name}");
        assert_eq!(record.is_emergency(), has("emergency"), "{name}");
        assert_eq!(record.is_crash(), has("crash"), "{name}");
        let session = has("session").then_some(Session(0x1f));
        assert_eq!(record.session(), session, "{name}");
        let release = example
            .sent_as
            .contains("release=7.3.4")
            .then_some(&b"7.3.4"[..]);
        assert_eq!(record.release(), release, "{name}");
    }
    assert_eq!(records, 1, "{name}");
}

#[test]
fn a_record_is_what_the_example_says() {
    let all = examples();
    assert!(all.len() > 12);
    for example in &all {
        receive(example, example.datagrams.iter());
        receive(example, example.datagrams.iter().rev());
    }
}
