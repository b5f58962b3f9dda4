// SPDX-License-Identifier: GPL-2.0

//! Tests of the fast path, which most records take through the receiver: its results equal those of
//! the long way, for any datagrams. Two receivers get the same, and one of them must not take the
//! fast path.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::{Config, Dialect, Receiver, Resume, SeqRange, Session};

/// A step of a test.
#[derive(Clone, Debug)]
enum Step {
    /// A datagram of one of two senders.
    Feed {
        sender: u8,
        seq: Seq,
        clock: Clock,
        session: Which,
        words: Words,
    },
    /// The passing of this number of milliseconds.
    Wait(u64),
    /// The caller takes all outputs.
    Take,
    /// The caller has written them.
    Written,
}

/// A number, relative to the highest so far.
#[derive(Clone, Copy, Debug)]
enum Seq {
    Ahead(u64),
    Behind(u64),
    Any(u64),
}

/// A clock: that of the number, or another one.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Right,
    Early(u64),
    Late(u64),
    None,
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Usual,
    None,
    Other,
}

/// The other keys of a header.
#[derive(Clone, Copy, Debug)]
enum Words {
    None,
    Emergency,
    Crash,
    Skip(u64),
    Lost(u64),
    Fragment(u64),
    Substitute,
}

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![
        10 => Just(Seq::Ahead(1)),
        4 => (2u64..8).prop_map(Seq::Ahead),
        8 => (0u64..40).prop_map(Seq::Behind),
        1 => (0u64..20).prop_map(Seq::Any),
        1 => prop_oneof![100u64..5000, Just(1 << 22), Just(u64::MAX >> 1)].prop_map(Seq::Ahead),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let clock = prop_oneof![
        20 => Just(Clock::Right),
        1 => (1u64..3_000_000).prop_map(Clock::Early),
        1 => (1u64..3_000_000).prop_map(Clock::Late),
        1 => Just(Clock::None),
    ];
    let session = prop_oneof![
        20 => Just(Which::Usual),
        1 => Just(Which::None),
        1 => Just(Which::Other),
    ];
    let words = prop_oneof![
        30 => Just(Words::None),
        1 => Just(Words::Emergency),
        1 => Just(Words::Crash),
        1 => (1u64..200).prop_map(Words::Skip),
        1 => (1u64..200).prop_map(Words::Lost),
        3 => (0u64..3).prop_map(Words::Fragment),
        1 => Just(Words::Substitute),
    ];
    let sender = prop_oneof![9 => Just(0u8), 1 => Just(1)];
    let feed =
        (sender, seq(), clock, session, words).prop_map(|(sender, seq, clock, session, words)| {
            Step::Feed {
                sender,
                seq,
                clock,
                session,
                words,
            }
        });
    prop_oneof![
        40 => feed,
        6 => prop_oneof![8 => 0u64..60, 2 => 60u64..2000, 1 => 2000u64..15_000]
            .prop_map(Step::Wait),
        6 => Just(Step::Take),
        2 => Just(Step::Written),
    ]
}

/// Returns the state of another receiver, which ends about where the numbers begin here.
fn resume() -> impl Strategy<Value = Resume> {
    let range = |from: u64, to: u64| {
        (from..to, 0u64..12).prop_map(|(first, more)| SeqRange {
            first,
            last: first + more,
        })
    };
    let clock = |seq: u64| seq * 10_000 + 1_000_000;
    (
        prop::option::of(Just(Session(1))),
        90u64..105,
        prop::collection::vec(range(90, 130), 0..3),
        prop::collection::vec((range(60, 100), prop::option::of(Just(clock(60)))), 0..3),
        prop::option::of(range(60, 120)),
        any::<bool>(),
    )
        .prop_map(
            move |(session, settled, beyond, passed, asked, clockless)| Resume {
                session,
                settled: Some(settled),
                usec: clock(settled),
                beyond,
                passed,
                asked,
                clockless,
                last_usec: clock(settled + 10),
                newest_usec: clock(settled + 20),
            },
        )
}

/// Returns the bytes of a datagram, and its number.
fn datagram(last: u64, usual: Option<u64>, step: &Step) -> (u64, Vec<u8>) {
    let Step::Feed {
        seq,
        clock,
        session,
        words,
        ..
    } = *step
    else {
        unreachable!("nothing else is asked for");
    };
    let seq = match seq {
        Seq::Ahead(n) => last.saturating_add(n).min(u64::MAX >> 1),
        Seq::Behind(n) => last.saturating_sub(n),
        Seq::Any(seq) => seq,
    };
    let right = seq.saturating_mul(10_000).saturating_add(1_000_000);
    let usec = match clock {
        Clock::Right => right,
        Clock::Early(by) => right.saturating_sub(by),
        Clock::Late(by) => right.saturating_add(by),
        Clock::None => 0,
    };
    let mut header = format!("6,{seq},{usec},-,caller=T1");
    match (session, usual) {
        (Which::Usual, Some(id)) => header += &format!(",ncs={id:016x}"),
        (Which::Other, _) => header += ",ncs=00000000000000ff",
        (Which::Usual | Which::None, _) => {}
    }
    let before = |n: u64| (seq.saturating_sub(n), seq.saturating_sub(1));
    let mut body = format!("the record of number {seq}\n KEY=value\n");
    match words {
        Words::None => {}
        Words::Emergency => header += ",ncemg=1",
        Words::Crash => header += ",nccrash=1",
        Words::Skip(n) => header += &format!(",ncskip={}-{}", before(n).0, before(n).1),
        Words::Lost(n) => header += &format!(",nclost={}-{}", before(n).0, before(n).1),
        Words::Fragment(n) => {
            let (total, offset) = (body.len(), body.len() / 3 * n as usize);
            let end = if n == 2 { total } else { offset + total / 3 };
            header += &format!(",ncfrag={offset}/{total}");
            body = body[offset..end].into();
        }
        Words::Substitute => {
            header = format!("4,{seq},0,-");
            body = format!("netconsole_ext: record {seq} is gone\n");
        }
    }
    (seq, format!("{header};{body}").into_bytes())
}

/// Returns everything that a caller can see, but for the outputs.
fn seen(receiver: &Receiver) -> String {
    let senders: Vec<_> = receiver.senders().collect();
    let (stats, due, bytes) = (receiver.stats(), receiver.deadline(), receiver.bytes());
    format!("{stats:?} {due:?} {bytes} {senders:?}")
}

/// Takes the outputs, and returns them as text.
fn taken(receiver: &mut Receiver) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(output) = receiver.next_output() {
        all.push(format!("{output:?}"));
    }
    all
}

fn said(receiver: &mut Receiver) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((to, bytes)) = receiver.next_response() {
        all.push(format!("{to} {}", bytes.escape_ascii()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_short_way_is_the_long_way(
        steps in prop::collection::vec(step(), 1..120),
        usual in prop_oneof![Just(None), Just(Some(1))],
        history: bool,
        nca: bool,
        little_memory in prop::bool::weighted(0.2),
        resume in prop::option::of(resume()),
    ) {
        let mut config = Config {
            history,
            seed: Some(1),
            dialect: if nca { Dialect::Nca } else { Dialect::Ncrx },
            ..Config::default()
        };
        if little_memory {
            (config.host_memory, config.total_memory) = (6000, 9000);
        }
        let mut both = [Receiver::new(config.clone()), Receiver::new(config)];
        both[1].takes_short_way = false;
        let mut now = Instant::now();
        if let Some(resume) = resume {
            let from = SocketAddr::from(([10, 0, 0, 0], 6665));
            both.iter_mut().for_each(|one| one.resume(now, from, resume.clone()));
        }
        let mut last = [100u64; 2];
        for step in steps {
            match step {
                Step::Feed { sender, .. } => {
                    let last = &mut last[usize::from(sender)];
                    let (seq, bytes) = datagram(*last, usual, &step);
                    if seq < *last + 1000 {
                        *last = seq.max(*last);
                    }
                    let from = SocketAddr::from(([10, 0, 0, sender], 6665));
                    let [short, long] = both.each_mut().map(|one| one.feed(now, from, &bytes));
                    prop_assert_eq!(short, long, "{}", bytes.escape_ascii());
                }
                Step::Wait(ms) => {
                    let end = now + Duration::from_millis(ms);
                    while let Some(due) = both[1].deadline().filter(|&due| due <= end) {
                        now = now.max(due);
                        both.iter_mut().for_each(|one| one.tick(now));
                        let [short, long] = both.each_mut().map(said);
                        prop_assert_eq!(short, long);
                    }
                    now = end;
                }
                Step::Take => {
                    let [short, long] = both.each_mut().map(taken);
                    prop_assert_eq!(short, long);
                }
                Step::Written => both.iter_mut().for_each(Receiver::written),
            }
            let [short, long] = both.each_ref().map(seen);
            prop_assert_eq!(short, long);
        }
        both.iter_mut().for_each(|one| one.stop(now));
        let [short, long] = both.each_mut().map(taken);
        prop_assert_eq!(short, long);
    }
}
