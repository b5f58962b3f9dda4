// SPDX-License-Identifier: GPL-2.0

//! The output queue: records and events in order; and the responses.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

use crate::config::Config;
use crate::pool::Pool;
use crate::record::{Event, Kind, SeqRange, Session, Standing, Stored, StreamId};
use crate::stats::Stats;

/// An output.
#[derive(Debug)]
pub(crate) enum Item {
    Record(Box<Stored>),
    Event(Box<QueuedEvent>),
}

/// The stream of an output, and its sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of {
    pub(crate) stream: StreamId,
    /// The place of its sender.
    pub(crate) source: u32,
    pub(crate) session: Option<Session>,
    pub(crate) standing: Standing,
}

/// An event, with its stream.
#[derive(Debug)]
pub(crate) struct QueuedEvent {
    pub(crate) of: Of,
    pub(crate) at: Instant,
    pub(crate) event: Event,
}

impl Item {
    fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Record(record) => record.size(),
                Self::Event(_) => size_of::<QueuedEvent>(),
            }
    }
}

/// The two queues, and the count of all outputs.
#[derive(Debug)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// The numbers of outputs so far, of those that were taken, and of those that are written.
    queued: u64,
    taken: u64,
    written: u64,
    responses: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Memory for missing numbers, to be used again.
    pub(crate) missing: Vec<SeqRange>,
    pub(crate) hasher: RandomState,
    dice: u64,
    pub(crate) pool: Pool,
    pub(crate) stats: Stats,
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            queued: 0,
            taken: 0,
            written: 0,
            responses: VecDeque::new(),
            missing: Vec::new(),
            hasher: RandomState::new(),
            dice: 0,
            pool: Pool::new(config),
            stats: Stats::default(),
        }
    }

    /// Returns whether no output should be added until one is taken.
    pub(crate) fn is_full(&self, config: &Config) -> bool {
        self.bytes >= config.total_memory
    }

    /// Queues a record; the number of the item.
    #[inline(always)] // Into the fast path.
    pub(crate) fn record(&mut self, of: Of, mut record: Box<Stored>, late: bool) -> u64 {
        (record.stream, record.source) = (of.stream, of.source);
        (record.session, record.standing) = (of.session, of.standing);
        record.late = late;
        self.push(Item::Record(record))
    }

    /// Queues an event; the number of the item.
    pub(crate) fn event(&mut self, of: Of, at: Instant, event: Event) -> u64 {
        self.push(Item::Event(Box::new(QueuedEvent { of, at, event })))
    }

    #[inline(always)] // Into the fast path.
    fn push(&mut self, item: Item) -> u64 {
        self.bytes += item.size();
        self.items.push_back(item);
        self.queued += 1;
        self.queued
    }

    /// Takes the next output.
    pub(crate) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.taken += 1;
        self.bytes -= item.size();
        if let Item::Record(record) = &item {
            let stats = &mut self.stats;
            stats.records += 1;
            if record.late || record.kind != Kind::Whole {
                stats.late += u64::from(record.late);
                stats.partial += u64::from(record.kind == Kind::Partial);
                stats.texts += u64::from(record.kind == Kind::Text);
            }
        }
        Some(item)
    }

    /// Returns the memory of the queued outputs, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that all outputs that were taken are written.
    pub(crate) fn set_written(&mut self) {
        self.written = self.taken;
    }

    /// Returns the number of the last output that is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the number of the last event that counts as reported: events are confirmed by
    /// `written`, or, for callers that confirm single records, when they are taken.
    pub(crate) fn told(&self) -> u64 {
        match self.written {
            0 => self.taken,
            written => written,
        }
    }

    /// Returns the number of the last output that was taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Queues a response.
    pub(crate) fn respond(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.stats.responses += 1;
        self.responses.push_back((to, bytes));
    }

    /// Returns a number that cannot be guessed, unless there is a seed.
    pub(crate) fn random(&mut self, config: &Config) -> u64 {
        self.dice += 1;
        match config.seed {
            None => self.hasher.hash_one(self.dice),
            Some(seed) => {
                let mut n = (seed ^ self.dice).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                n = (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                n ^ (n >> 32)
            }
        }
    }

    /// Takes a response.
    pub(crate) fn response(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.responses.pop_front()
    }
}
