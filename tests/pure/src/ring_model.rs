// SPDX-License-Identifier: GPL-2.0

//! `ring.rs` against a model that keeps every record.

extern crate std;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::proto::ring::{Entry, Meta, NotStored, Origin, Ring};

/// A number, as its distance above the newest or below the end.
#[derive(Clone, Debug)]
enum Seq {
    Next(u64),
    Back(u64),
    Any(u64),
}

fn seqs() -> impl Strategy<Value = Seq> {
    prop_oneof![
        8 => (1..4u64).prop_map(Seq::Next),
        2 => (0..40u64).prop_map(Seq::Back),
        1 => prop_oneof![Just(u64::MAX), any::<u64>(), 0..50u64].prop_map(Seq::Any),
    ]
}

fn records() -> impl Strategy<Value = (Seq, Vec<u8>, u64)> {
    let bytes = prop_oneof![
        6 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 0..400),
    ];
    (seqs(), bytes, any::<u64>())
}

fn meta(n: u64) -> Meta {
    Meta {
        sent_ns: n,
        nth: 0,
        origin: (n % 3 > 0).then(|| Origin {
            cpu: n as u32,
            comm: std::array::from_fn(|i| n as u8 ^ i as u8),
        }),
    }
}

/// Returns the bytes of memory that a record takes up.
fn size(bytes: &[u8]) -> usize {
    bytes.len().max(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_newest_records_are_kept(
        memory in prop_oneof![0..20usize, 0..300usize],
        entries in prop_oneof![0..4usize, 0..40usize],
        stream in vec(records(), 0..200),
    ) {
        let mut ring = Ring::new(vec![0; memory], vec![Entry::EMPTY; entries]);
        // Every record that was stored, dropped or not.
        let mut all: BTreeMap<u64, (Vec<u8>, Meta)> = BTreeMap::new();
        let mut kept: Vec<u64> = Vec::new();
        for (seq, bytes, n) in stream {
            let newest = kept.last().copied();
            let seq = match seq {
                Seq::Next(step) => newest.map_or(step, |newest| newest.saturating_add(step)),
                Seq::Back(step) => newest.unwrap_or(0).saturating_sub(step),
                Seq::Any(seq) => seq,
            };
            let expected = if kept.contains(&seq) {
                Err(NotStored::Known)
            } else if newest.is_some_and(|newest| seq < newest) {
                Err(NotStored::Old)
            } else if size(&bytes) > memory || entries == 0 {
                Err(NotStored::TooLong)
            } else {
                Ok(())
            };
            prop_assert_eq!(ring.push(seq, &bytes, meta(n)), expected);
            let before = kept.clone();
            if expected.is_ok() {
                kept.push(seq);
                all.insert(seq, (bytes, meta(n)));
            }
            // The ring holds a run of the newest records, each as it was stored.
            let oldest = ring.oldest();
            kept.retain(|&seq| oldest.is_some_and(|oldest| seq >= oldest));
            prop_assert_eq!(oldest, kept.first().copied());
            prop_assert_eq!(ring.newest(), kept.last().copied());
            for (&seq, (bytes, meta)) in &all {
                let there = kept.contains(&seq).then_some((&bytes[..], *meta));
                let next = oldest.and_then(|o| all.range(seq.max(o)..).next());
                prop_assert_eq!(ring.next(seq), next.map(|(&n, (_, meta))| (n, *meta)));
                let kept = oldest.map(|oldest| all.range(oldest..).map(|(&n, _)| n));
                let before = kept.and_then(|kept| kept.take_while(|&n| n < seq).last());
                prop_assert_eq!(ring.before(seq), before);
                prop_assert_eq!(ring.get(seq), there);
            }
            prop_assert!(kept.len() <= entries);
            let used: usize = kept.iter().map(|seq| size(&all[seq].0)).sum();
            prop_assert!(used <= memory);
            if expected.is_err() {
                prop_assert_eq!(&kept, &before);
            } else if kept.len() <= before.len() {
                // It was necessary to drop the last one dropped: with it there would be too many
                // records, or less room than a record in one piece may need.
                let dropped = before[before.len() - kept.len()];
                let longest = kept.iter().map(|seq| size(&all[seq].0)).max().unwrap_or(0);
                let with = used + size(&all[&dropped].0);
                prop_assert!(kept.len() == entries || with + 2 * longest > memory);
            }
            let gap = kept.iter().map(|seq| seq.wrapping_add(1)).find(|seq| !kept.contains(seq));
            if let Some(gap) = gap {
                prop_assert_eq!(ring.get(gap), None);
            }
        }
    }
}
