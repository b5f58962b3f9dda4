// SPDX-License-Identifier: GPL-2.0

//! The invariants of a receiver's outputs and responses: each number of a stream once and in order,
//! or reported as a gap and then late; nothing acknowledged that is not written.

use std::collections::HashMap;
use std::net::SocketAddr;

use ncrx::{Dialect, Event, GapReason, Output, Record, Sender, StreamId};

use crate::numbers::Numbers;
use crate::proto::response::Response;
use crate::proto::wire;
use crate::{text, WILD};

/// The progress of a stream's output.
#[derive(Default)]
struct Progress {
    begun: bool,
    /// The number that comes next, and its value when the output was last written.
    next: u64,
    written: u64,
    /// The numbers of whole records that were handed out.
    got: Numbers,
    /// The numbers that were passed over, and those of them that the sender says have no record.
    gone: Numbers,
    never: Numbers,
    ended: bool,
    /// The number that was acknowledged before the stream was seen to begin.
    early: Option<u64>,
}

#[derive(Default)]
pub struct Checker(HashMap<StreamId, Progress>);

impl Checker {
    /// Notes that a receiver has gone on where another one ended.
    pub fn resume(&mut self, sender: &Sender) {
        let from = sender.settled.map_or(0, |settled| settled + 1);
        let next = sender.highest.map_or(0, |highest| highest + 1);
        let mut progress = Progress {
            begun: true,
            next,
            written: next,
            ..Progress::default()
        };
        let mut first = from;
        for numbers in &sender.beyond {
            if first < numbers.first {
                progress.gone.insert(first..=numbers.first - 1);
            }
            first = numbers.last + 1;
        }
        self.0.insert(sender.stream, progress);
    }

    /// Checks an output that is handed out.
    pub fn output(&mut self, output: &Output<'_>) {
        let (stream, event) = match output {
            Output::Record(record) => {
                if record.seq().is_some() {
                    self.record(record);
                }
                return;
            }
            Output::Event { stream, event, .. } => (*stream, *event),
        };
        let progress = self.0.entry(stream).or_default();
        assert!(
            !progress.ended || event == Event::Resumed,
            "{event:?} after the end"
        );
        match event {
            // The stream of a basic target.
            Event::Began { first: None, .. } => {}
            Event::Began {
                first: Some(first), ..
            } => {
                assert!(!progress.begun, "begun twice");
                assert!(progress.early.is_none_or(|ack| ack < first));
                progress.begun = true;
                (progress.next, progress.written) = (first, first);
            }
            Event::Gap {
                range: gap,
                reason: why,
            } => {
                assert!(progress.begun && gap.first <= gap.last);
                assert_eq!(progress.next, gap.first, "{gap}: {why:?}");
                progress.next = gap.last + 1;
                match why {
                    GapReason::Hidden | GapReason::Lost => {
                        progress.never.insert(gap.first..=gap.last)
                    }
                    _ => progress.gone.insert(gap.first..=gap.last),
                }
            }
            Event::Resumed => {
                assert!(progress.begun);
                progress.ended = false;
            }
            Event::Ended => progress.ended = true,
            _ => {}
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        let (seq, usec) = (record.seq().unwrap(), record.usec().unwrap());
        let progress = self.0.entry(record.stream()).or_default();
        assert!(progress.begun, "before the beginning: {record:?}");
        if !record.is_late() {
            assert!(!progress.ended, "after the end: {record:?}");
            assert_eq!(progress.next, seq, "out of order: {record:?}");
            progress.next = seq + 1;
        } else if progress.ended && seq >= progress.next {
            // A record that was still on its way.
            if seq > progress.next {
                progress.gone.insert(progress.next..=seq - 1);
            }
            progress.next = seq + 1;
        } else {
            assert!(progress.gone.contains(seq), "not missing: {record:?}");
            assert!(!progress.never.contains(seq), "told to be gone: {record:?}");
            assert!(!progress.got.contains(seq), "twice: {record:?}");
        }
        match record.is_partial() {
            true => progress.gone.insert(seq..=seq),
            false => progress.got.insert(seq..=seq),
        }
        if record.host() != SocketAddr::from(WILD) {
            let body = record.body();
            assert!(
                text(seq, usec, 0, body.len()) == body,
                "changed: {record:?}"
            );
        }
    }

    /// Notes that all that was handed out is written.
    pub fn written(&mut self) {
        for progress in self.0.values_mut() {
            progress.written = progress.next;
        }
    }

    /// Checks that all records that the receiver has waited for are handed out.
    pub fn all_out(&self, sender: &Sender) {
        let progress = &self.0[&sender.stream];
        let end = sender.highest.map_or(0, |highest| highest + 1);
        assert!(progress.next >= end, "{} of {sender:?}", progress.next);
    }

    /// Checks the number up to which the receiver reports the sender as settled.
    pub fn settled(&mut self, sender: &Sender) {
        if let Some(settled) = sender.settled {
            self.acknowledge(sender, settled);
        }
    }

    fn acknowledge(&mut self, sender: &Sender, ack: u64) {
        let progress = self.0.entry(sender.stream).or_default();
        match progress.begun {
            true => assert!(ack < progress.written, "ack {ack} of {}", progress.written),
            false => progress.early = progress.early.max(Some(ack)),
        }
    }

    /// Checks a response to this sender; returns the numbers that it asks for.
    pub fn response(
        &mut self,
        dialect: Dialect,
        sender: &Sender,
        bytes: &[u8],
    ) -> Vec<wire::Range> {
        assert!(bytes.len() <= wire::MAX_DATAGRAM);
        let response = Response::parse(bytes).expect("a response");
        let (spoken, mark) = match dialect {
            Dialect::Nca => {
                let session = sender.session.map(|session| wire::Session(session.0));
                (wire::Dialect::Nca, Some(session))
            }
            Dialect::Ncrx => (wire::Dialect::Ncrx, None),
        };
        assert_eq!((response.dialect, response.session), (spoken, mark));
        // A 0 stands for no ack in the dialect ncrx, which has to have one.
        if let Some(ack) = response.ack.filter(|&ack| ack > 0) {
            self.acknowledge(sender, ack);
        }
        let progress = self.0.entry(sender.stream).or_default();
        let asked: Vec<_> = response.missing().collect();
        for range in &asked {
            for have in [&progress.got, &progress.never] {
                let known = have.runs().find(|run| *run.end() >= range.first);
                let known = known.filter(|run| *run.start() <= range.last);
                assert!(known.is_none(), "{range} is asked for, and {known:?} known");
            }
        }
        asked
    }
}
