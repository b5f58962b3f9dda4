// SPDX-License-Identifier: GPL-2.0

//! Outputs that are held back until it is clear when they were logged ([`crate::format`]), or by
//! which host.

use std::net::SocketAddr;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use ncrx::{KeptRecord, Output, StreamId};

use crate::format::DOUBT;

/// The most outputs that are held back at a time.
const MOST: usize = 4096;

/// An output that is held back.
enum Kept {
    Record(KeptRecord),
    Event(Output<'static>),
}

/// Outputs of a sender, from the first that is in doubt on.
pub struct Waiting {
    due: Instant,
    /// The stream that is in doubt.
    pub stream: StreamId,
    outputs: Vec<Kept>,
}

impl Waiting {
    /// Returns the outputs, in order.
    pub fn outputs(&self) -> impl Iterator<Item = Output<'_>> {
        self.outputs.iter().map(|kept| match kept {
            Kept::Record(record) => Output::Record(record.record()),
            Kept::Event(event) => *event,
        })
    }
}

/// All outputs that are held back, by sender.
#[derive(Default)]
pub struct Held {
    senders: HashMap<SocketAddr, Waiting>,
    count: usize,
}

impl Held {
    /// Returns the stream that keeps the outputs of a sender waiting, if one does.
    pub fn stream(&self, sender: SocketAddr) -> Option<StreamId> {
        match self.senders.is_empty() {
            true => None,
            false => self.senders.get(&sender).map(|waiting| waiting.stream),
        }
    }

    /// Returns whether no more should be held back.
    pub fn is_full(&self) -> bool {
        self.count >= MOST
    }

    /// Holds back an output of this sender; if that is new here, the stream is the one in doubt.
    pub fn push(
        &mut self,
        sender: SocketAddr,
        stream: StreamId,
        output: &Output<'_>,
        now: Instant,
    ) {
        let kept = match *output {
            Output::Record(record) => Kept::Record(record.keep()),
            Output::Event {
                stream,
                host,
                session,
                at,
                event,
            } => Kept::Event(Output::Event {
                stream,
                host,
                session,
                at,
                event,
            }),
        };
        let waiting = self.senders.entry(sender).or_insert_with(|| Waiting {
            due: now + DOUBT,
            stream,
            outputs: Vec::new(),
        });
        waiting.outputs.push(kept);
        self.count += 1;
    }

    /// Takes out all of a sender.
    pub fn take(&mut self, sender: SocketAddr) -> Option<Waiting> {
        let waiting = self.senders.remove(&sender)?;
        self.count -= waiting.outputs.len();
        if self.senders.is_empty() {
            self.senders = HashMap::new();
        }
        Some(waiting)
    }

    /// Returns the numbers of the records that are held back, of each stream that has some.
    pub fn numbers(&self) -> HashMap<StreamId, Vec<u64>> {
        let mut numbers: HashMap<_, Vec<_>> = HashMap::new();
        for output in self.senders.values().flat_map(Waiting::outputs) {
            if let Output::Record(record) = output {
                let of = numbers.entry(record.stream()).or_default();
                of.extend(record.seq());
            }
        }
        numbers
    }

    /// Returns when the first of them have waited for long enough.
    pub fn due(&self) -> Option<Instant> {
        self.senders.values().map(|waiting| waiting.due).min()
    }

    /// Returns the senders whose outputs have waited for long enough; all, if none should wait.
    pub fn ready(&self, now: Option<Instant>) -> Vec<SocketAddr> {
        let is_ready = |waiting: &Waiting| now.is_none_or(|now| waiting.due <= now);
        let ready = self.senders.iter().filter(|(_, waiting)| is_ready(waiting));
        ready.map(|(sender, _)| *sender).collect()
    }
}
