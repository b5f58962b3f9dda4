// SPDX-License-Identifier: GPL-2.0

//! The time that a record takes: in order, and at some losses with all requests answered; of one
//! sender and of many.
//!
//! `scripts/cargo.sh bench -p ncrx --bench receive -- --quick` prints the time for 100,000 records
//! of one sender, so that 6 ms are 60 ns a record; and for 900,000 of many.
//!
//! A record is about 110 bytes and a sender logs one each 10 us of simulated time; a requested
//! record comes 1 ms later, if it is not lost again. The datagrams are recorded beforehand, in a
//! run with a sender that answers; the measured receiver gets the same at the same times, and so
//! sends the same responses. Its outputs are taken after each datagram, and its clock advances each
//! 10 us.
//!
//! On a machine that others use as well, instructions tell more than times; for 100,000 records,
//! with the program that cargo names:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect="receive::replay*" receive-... --bench --test "one sender/5 %"
//! ```

#![allow(missing_docs)] // criterion's macros make public functions.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use ncrx::{Config, Output, Receiver};

const RECORDS: u64 = 100_000;
/// The round trip time in records: 1 ms.
const ROUND_TRIP: u64 = 100;

fn datagrams(records: u64) -> Vec<Vec<u8>> {
    let record = |i| {
        let usec = 1_000_000 + 10 * i;
        format!(
            "6,{i},{usec},-;benchmark record {i}: eth0: link is up at 10000 Mbps, full duplex, \
             flow control\n"
        )
        .into_bytes()
    };
    (0..records).map(record).collect()
}

/// xorshift64*, as in the program that measures the peer on the same workload.
struct Dice(u64);

impl Dice {
    fn loses(&mut self, probability: f64) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let r = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (r >> 11) as f64 * (1.0 / (1u64 << 53) as f64) < probability
    }
}

/// Takes all outputs; returns the number of records.
fn drain(receiver: &mut Receiver) -> u64 {
    let mut records = 0;
    while let Some(output) = receiver.next_output() {
        if let Output::Record(record) = output {
            records += 1;
            black_box(record.text());
        }
    }
    receiver.written();
    records
}

/// Appends the numbers in a response's missing list.
fn missing(response: &[u8], answers: &mut Vec<u64>) {
    let text = std::str::from_utf8(response).unwrap_or_default();
    for word in text
        .split(' ')
        .skip(1)
        .filter(|word| !word.starts_with('~'))
    {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) {
            answers.extend(first..=last);
        }
    }
}

/// The datagrams of one sender's log that come over a link that loses.
#[derive(Default)]
struct Trace {
    /// The number of datagrams in each 10 us.
    counts: Vec<u32>,
    /// The end of each one, and the bytes of all, one behind the other as from a socket, so that
    /// the cost of reading them does not depend on their order.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    requested: u64,
}

const STEP: Duration = Duration::from_micros(10);
const FROM: ([u8; 4], u16) = ([10, 0, 0, 2], 6665);

fn receiver() -> Receiver {
    // A sender that logs 100,000 records a second has to send a third of them again, at most.
    Receiver::new(Config {
        request_rate: 100_000,
        // The records of half a second wait behind a number that is lost eight times.
        host_memory: 64 << 20,
        ..Config::default()
    })
}

fn record(datagrams: &[Vec<u8>], loss: f64) -> Trace {
    let mut receiver = receiver();
    let mut now = Instant::now();
    let mut dice = Dice(42);
    let (mut pending, mut asked) = (VecDeque::new(), Vec::new());
    let (mut records, mut i) = (0, 0);
    let total = datagrams.len() as u64;
    let mut trace = Trace::default();
    while records < total && i < 3 * total {
        let mut new = (i < total).then_some(i);
        let mut count = 0;
        loop {
            let answer = match pending.front() {
                Some(&(due, _)) if due <= i => pending.pop_front(),
                _ => None,
            };
            let Some(seq) = answer.map(|(_, seq)| seq).or_else(|| new.take()) else {
                break;
            };
            // The last record is never lost: no later one would show that it is missing.
            if seq + 1 == total || !dice.loses(loss) {
                let _ = receiver.feed(now, FROM.into(), &datagrams[seq as usize]);
                records += drain(&mut receiver);
                trace.bytes.extend_from_slice(&datagrams[seq as usize]);
                trace.ends.push(trace.bytes.len() as u32);
                count += 1;
            }
        }
        trace.counts.push(count);
        receiver.tick(now);
        while let Some((_, response)) = receiver.next_response() {
            missing(response, &mut asked);
        }
        pending.extend(asked.drain(..).map(|seq| (i + ROUND_TRIP, seq)));
        now += STEP;
        i += 1;
    }
    assert_eq!(records, total, "{:?}", receiver.stats());
    trace.requested = receiver.stats().requested;
    trace
}

/// Replays a recorded trace; returns the number of records that are handed out.
#[inline(never)] // For callgrind.
fn replay(receiver: &mut Receiver, trace: &Trace, mut now: Instant) -> u64 {
    let (mut records, mut at, mut ends) = (0, 0, trace.ends.iter());
    for &count in &trace.counts {
        for &end in ends.by_ref().take(count as usize) {
            let datagram = &trace.bytes[at..end as usize];
            at = end as usize;
            let _ = receiver.feed(now, FROM.into(), datagram);
            records += drain(receiver);
        }
        receiver.tick(now);
        while let Some(response) = receiver.next_response() {
            black_box(response);
        }
        now += STEP;
    }
    records
}

fn one_sender(c: &mut Criterion) {
    let datagrams = datagrams(RECORDS);
    let mut group = c.benchmark_group("one sender");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(RECORDS));
    for percent in [0, 1, 5, 10, 30] {
        let mut recorded = None;
        group.bench_function(format!("{percent} % lost"), |b| {
            let loss = f64::from(percent) / 100.0;
            let trace = recorded.get_or_insert_with(|| record(&datagrams, loss));
            b.iter_custom(|times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    let mut receiver = receiver();
                    let begin = Instant::now();
                    let records = replay(&mut receiver, trace, begin);
                    took += begin.elapsed();
                    assert_eq!(
                        (records, receiver.stats().requested),
                        (RECORDS, trace.requested)
                    );
                }
                took
            });
        });
    }
    group.finish();
}

fn many_senders(c: &mut Criterion) {
    const SENDERS: u32 = 10_000;
    let datagrams = datagrams(100);
    let mut group = c.benchmark_group("10,000 senders");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(u64::from(SENDERS) * 90));
    for percent in [0, 5] {
        group.bench_function(format!("{percent} % lost"), |b| {
            let begin = || {
                let mut receiver = Receiver::new(Config::default());
                let now = Instant::now();
                for seq in &datagrams[..10] {
                    for host in 0..SENDERS {
                        let _ = receiver.feed(now, address(host), seq);
                    }
                    drain(&mut receiver);
                }
                (receiver, now)
            };
            b.iter_batched(
                begin,
                |(mut receiver, now)| {
                    many(
                        &mut receiver,
                        now,
                        &datagrams,
                        SENDERS,
                        f64::from(percent) / 100.0,
                    )
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn address(host: u32) -> SocketAddr {
    (std::net::Ipv4Addr::from(0x0a00_0000 + host), 6665).into()
}

/// Has all senders log in turn; lost records are sent again at once after each round.
fn many(
    receiver: &mut Receiver,
    mut now: Instant,
    datagrams: &[Vec<u8>],
    senders: u32,
    loss: f64,
) -> u64 {
    let mut dice = Dice(42);
    let (mut records, mut asked) = (0, Vec::new());
    for datagram in &datagrams[10..] {
        for host in 0..senders {
            if !dice.loses(loss) {
                let _ = receiver.feed(now, address(host), datagram);
                records += drain(receiver);
            }
        }
        now += Duration::from_millis(10);
        receiver.tick(now);
        let mut answers = Vec::new();
        while let Some((to, response)) = receiver.next_response() {
            missing(response, &mut asked);
            answers.extend(asked.drain(..).map(|seq| (to, seq)));
        }
        for (to, seq) in answers {
            let _ = receiver.feed(now, to, &datagrams[seq as usize]);
        }
    }
    records + drain(receiver)
}

criterion_group!(benches, one_sender, many_senders);
criterion_main!(benches);
