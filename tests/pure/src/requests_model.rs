// SPDX-License-Identifier: GPL-2.0

//! `missing.rs` and `last_sent.rs` against models that keep everything there ever was.

extern crate std;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::vec;
use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::proto::last_sent::{LastSent, NEVER};
use crate::proto::missing::{Missing, MAX_RANGES, ROOM};
use crate::proto::response::Response;
use crate::proto::wire::Range;

#[derive(Clone, Debug)]
enum Step {
    /// A response asks for these numbers, each with this many after it.
    Ask(Vec<(u64, u64)>),
    /// This many numbers are answered.
    Answer(usize),
    /// A number is answered, and the numbers that are gone with it.
    Run {
        begin: u64,
    },
    Clear,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec((0..300u64, 0..20u64), 0..20).prop_map(Step::Ask),
        1 => vec((0..3000u64, 0..2u64), 60..120).prop_map(Step::Ask),
        4 => (0..50usize).prop_map(Step::Answer),
        1 => (0..300u64).prop_map(|begin| Step::Run { begin }),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A number that is asked for comes out once, in order; no other does. A response finds no room
    /// only if there is hardly any.
    #[test]
    fn what_is_asked_for_comes_out_once(end in 200..2000u64, steps in vec(steps(), 0..60)) {
        let mut missing = Missing::new(vec![Range { first: 0, last: 0 }; ROOM]);
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Ask(asked) => {
                    let words: Vec<_> = asked
                        .iter()
                        .map(|(first, more)| format!(" {first}-{}", first + more))
                        .collect();
                    let datagram = format!("nca{}", words.concat());
                    let response = Response::parse(datagram.as_bytes());
                    prop_assume!(response.is_some());
                    if missing.merge(&response.unwrap(), end) {
                        for (first, more) in asked {
                            model.extend((first..=first + more).filter(|&seq| seq < end));
                        }
                    } else {
                        let pairs = model.iter().zip(model.iter().skip(1));
                        let runs = 1 + pairs.filter(|(a, b)| *a + 1 < **b).count();
                        prop_assert!(runs > ROOM - MAX_RANGES);
                    }
                }
                Step::Answer(count) => {
                    for _ in 0..count {
                        prop_assert_eq!(missing.next(), model.pop_first());
                    }
                }
                Step::Run { begin } => {
                    let first = missing.next();
                    prop_assert_eq!(first, model.pop_first());
                    let Some(first) = first else { continue };
                    let run = missing.take_run(first, begin);
                    let mut last = first;
                    while last + 1 < begin && model.remove(&(last + 1)) {
                        last += 1;
                    }
                    prop_assert_eq!(run, Range { first, last });
                }
                Step::Clear => {
                    missing.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(missing.left(), model.len() as u64);
            prop_assert_eq!(missing.is_empty(), model.is_empty());
        }
    }

    /// A time that is known is right, and the newest of each place are known.
    #[test]
    fn when_records_were_sent(
        places in 1..40usize,
        sent in vec((0..60u64, 0..1000u64), 0..200),
    ) {
        let table = LastSent::new(vec![Cell::new(NEVER); places]);
        let (mut now, mut model) = (u64::from(u32::MAX) - 50_000, BTreeMap::new());
        let mut newest = BTreeMap::new();
        for (seq, later) in sent {
            now += later;
            table.note(seq, now);
            model.insert(seq, now);
            newest.insert(seq % places as u64, seq);
        }
        for seq in 0..60 {
            let known = newest.get(&(seq % places as u64)) == Some(&seq);
            let age = model.get(&seq).filter(|_| known).map(|at| now - at);
            prop_assert_eq!(table.age(seq, now), age);
        }
    }
}
