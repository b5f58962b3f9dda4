// SPDX-License-Identifier: GPL-2.0

//! A passive log host on a wire, which listens and never responds.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::collector::{contains, Collector};
use crate::wire::{Reply, Udp, Wire};

/// A function that is called with every datagram after it has been collected, and with the
/// number of the record that it completes; its replies are sent to the guest.
pub type Listener = Box<dyn FnMut(&Collector, &Udp, Option<u64>) -> Vec<Reply> + Send>;

/// A log host's extended receiver on one UDP port.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<(Mutex<Collector>, Condvar)>,
}

impl Logger {
    /// Listens on `port` of every host of `wire`, and sends nothing.
    pub fn attach(wire: &Wire, port: u16) -> Self {
        Self::attach_with(wire, port, Box::new(|_, _, _| Vec::new()))
    }

    /// Listens on `port`, with a listener that may answer.
    pub fn attach_with(wire: &Wire, port: u16, listener: Listener) -> Self {
        let logger = Self {
            shared: Arc::default(),
        };
        logger.also_with(wire, port, listener);
        logger
    }

    /// Listens on another wire too: the log host has two cables, or the guest.
    pub fn also(&self, wire: &Wire, port: u16) {
        self.also_with(wire, port, Box::new(|_, _, _| Vec::new()));
    }

    /// The same with a listener that may answer.
    pub fn also_with(&self, wire: &Wire, port: u16, mut listener: Listener) {
        let theirs = Arc::clone(&self.shared);
        wire.serve(
            port,
            Box::new(move |udp| {
                let mut collector = theirs.0.lock().unwrap();
                let completed = collector.take(udp);
                let replies = listener(&collector, udp, completed);
                theirs.1.notify_all();
                replies
            }),
        );
    }

    /// Returns the collection, locked: nothing is added while the guard is held.
    pub fn lock(&self) -> MutexGuard<'_, Collector> {
        self.shared.0.lock().unwrap()
    }

    /// Waits for a record with `text` in it, and returns its number.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<u64> {
        let mut next = 0;
        self.wait(limit, &format!("a record with {text:?}"), |collector| {
            let new = collector.order[next..].iter();
            next = collector.order.len();
            new.copied()
                .find(|seq| contains(&collector.records[seq].bytes, text.as_bytes()))
        })
    }

    /// Waits until `look` finds something; `what` names it in the error.
    pub fn wait<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&Collector) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        let mut collector = self.lock();
        loop {
            if let Some(found) = look(&collector) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (records, datagrams) = (collector.records.len(), collector.arrivals.len());
                bail!("no {what} within {limit:?} among {records} records ({datagrams} datagrams)");
            }
            collector = self.shared.1.wait_timeout(collector, left).unwrap().0;
        }
    }

    /// Fails unless everything in `/dev/kmsg` with a number in `numbers` has arrived byte for byte,
    /// each datagram in good form.
    pub fn assert_equal(
        &self,
        kmsg: &[Vec<u8>],
        numbers: impl std::ops::RangeBounds<u64>,
    ) -> Result<usize> {
        let collector = self.lock();
        let comparison = collector.compare(kmsg, numbers);
        ensure!(
            comparison.is_perfect(),
            "not all as in /dev/kmsg: {}",
            comparison.describe()
        );
        self.no_errors(&collector)?;
        Ok(comparison.equal)
    }

    fn no_errors(&self, collector: &Collector) -> Result<()> {
        let errors = &collector.errors;
        match errors.first() {
            None => Ok(()),
            Some(first) => bail!(
                "{} datagrams break the format, the first: {first}",
                errors.len()
            ),
        }
    }

    /// Returns the record with `text` in it.
    pub fn record(&self, text: &str) -> Result<crate::collector::Record> {
        let collector = self.lock();
        collector
            .find(text)
            .cloned()
            .with_context(|| format!("no record with {text:?}"))
    }
}

/// A UDP port of a log host that keeps every datagram as it is: for basic
/// targets, whose datagrams are text and nothing else.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<(Mutex<Vec<Udp>>, Condvar)>,
}

impl Sink {
    /// Listens on `port` of every host of `wire`.
    pub fn attach(wire: &Wire, port: u16) -> Self {
        let shared = Arc::<(Mutex<Vec<Udp>>, Condvar)>::default();
        let theirs = Arc::clone(&shared);
        wire.serve(
            port,
            Box::new(move |udp| {
                theirs.0.lock().unwrap().push(udp.clone());
                theirs.1.notify_all();
                Vec::new()
            }),
        );
        Self { shared }
    }

    /// Returns all datagrams so far.
    pub fn datagrams(&self) -> Vec<Udp> {
        self.shared.0.lock().unwrap().clone()
    }

    /// Waits for a datagram with `text` in it.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<Udp> {
        let until = Instant::now() + limit;
        let mut datagrams = self.shared.0.lock().unwrap();
        let mut next = 0;
        loop {
            let mut new = datagrams[next..].iter();
            if let Some(udp) = new.find(|udp| contains(&udp.payload, text.as_bytes())) {
                return Ok(udp.clone());
            }
            next = datagrams.len();
            let left = until.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "no datagram with {text:?} within {limit:?} among {next}"
            );
            datagrams = self.shared.1.wait_timeout(datagrams, left).unwrap().0;
        }
    }
}
