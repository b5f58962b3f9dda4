// SPDX-License-Identifier: GPL-2.0

//! Outputs that are held back until it is clear when they were logged ([`crate::format`]), or by
//! which host.

use std::collections::VecDeque;
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
    /// When each of them will have waited for long enough, in order. Some may be gone.
    order: VecDeque<(Instant, SocketAddr)>,
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
        let waiting = self.senders.entry(sender).or_insert_with(|| {
            let due = now + DOUBT;
            self.order.push_back((due, sender));
            Waiting {
                due,
                stream,
                outputs: Vec::new(),
            }
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

    /// Returns when to look whether the first of them have waited for long enough.
    pub fn due(&self) -> Option<Instant> {
        self.order.front().map(|(due, _)| *due)
    }

    /// Returns the senders whose outputs have waited for long enough; all, if none should
    /// wait. They are to be [taken out](Self::take).
    pub fn ready(&mut self, now: Option<Instant>) -> Vec<SocketAddr> {
        let is_ready = |due: Instant| now.is_none_or(|now| due <= now);
        let ready = self.order.iter().take_while(|(due, _)| is_ready(*due));
        let count = ready.count();
        let ready = self.order.drain(..count);
        let waits = |(due, sender): &(Instant, SocketAddr)| {
            let waiting = self.senders.get(sender);
            waiting.is_some_and(|waiting| waiting.due == *due)
        };
        ready.filter(waits).map(|(_, sender)| sender).collect()
    }
}
