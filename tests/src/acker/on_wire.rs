// SPDX-License-Identifier: GPL-2.0

//! A responding log host on a wire.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use super::library::Library;
use super::{Acker, Config, Kind};
use crate::logger::{Listener, Logger};
use crate::wire::{Sender, Wire};

struct State {
    acker: Acker,
    /// The library that answers in place of the acker, if it does.
    library: Option<Library>,
    /// The sender that was heard last.
    last: Option<SocketAddr>,
    /// For each sender, the address and the wire that its last datagram came to: responses leave
    /// from there.
    ends: HashMap<SocketAddr, (SocketAddr, usize)>,
    running: bool,
}

impl State {
    /// Returns the responses that are due, each with its destination.
    fn poll(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        match (&mut self.library, self.last) {
            _ if self.acker.silent => Vec::new(),
            (Some(library), _) => library.poll(&mut self.acker, now),
            (None, Some(to)) => {
                let responses = self.acker.poll(now).into_iter();
                responses.map(|text| (to, text.into_bytes())).collect()
            }
            (None, None) => Vec::new(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.library {
            _ if self.acker.silent => None,
            Some(library) => library.deadline(),
            None => self.acker.deadline(),
        }
    }

    /// Returns whether nothing is missing up to `seq`.
    fn has_all(&self, seq: u64) -> bool {
        match (&self.library, self.last) {
            // The witness does not tell the loads of a module apart.
            (Some(library), Some(host)) if library.has_several_streams() => {
                library.settled(host) >= Some(seq)
            }
            (Some(library), Some(host)) => {
                self.acker.contiguous() >= Some(seq) && library.settled(host) >= Some(seq)
            }
            _ => self.acker.contiguous() >= Some(seq),
        }
    }
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// A sender for each wire, behind a lock of their own: a service of a wire must not hold the wire.
type Senders = Arc<Mutex<Vec<Sender>>>;

/// A log host that collects, acknowledges, and asks for what is missing: the
/// library ncrx if it is to know sessions, else an [`Acker`].
pub struct AckingLogger {
    /// The records that it has collected.
    pub logger: Logger,
    port: u16,
    shared: Shared,
    senders: Senders,
    thread: Option<JoinHandle<()>>,
}

impl AckingLogger {
    /// Listens on `port` of every host of `wire`, and answers as `config` says.
    pub fn attach(wire: &Wire, port: u16, config: Config) -> Result<Self> {
        let state = State {
            acker: Acker::new(config),
            library: (config.kind == Kind::Session).then(|| Library::new(&config)),
            last: None,
            ends: HashMap::new(),
            running: true,
        };
        let shared: Shared = Arc::new((Mutex::new(state), Condvar::new()));
        let logger = Logger::attach_with(wire, port, listener(&shared, 0));
        let senders: Senders = Arc::new(Mutex::new(vec![wire.sender()]));
        let (theirs, hands) = (Arc::clone(&shared), Arc::clone(&senders));
        let thread = thread::Builder::new().name(format!("acker-{port}"));
        let thread = thread.spawn(move || answer(&theirs, &hands))?;
        Ok(Self {
            logger,
            port,
            shared,
            senders,
            thread: Some(thread),
        })
    }

    /// Listens again, after the port was refused, with all that it knows of the sender. The
    /// collection starts empty.
    pub fn attach_again(&mut self, wire: &Wire) {
        self.logger = Logger::attach_with(wire, self.port, listener(&self.shared, 0));
    }

    /// Listens on another wire too, and answers on the wire of the last datagram.
    pub fn also(&self, wire: &Wire) {
        let mut senders = self.senders.lock().unwrap();
        let listener = listener(&self.shared, senders.len());
        senders.push(wire.sender());
        self.logger.also_with(wire, self.port, listener);
    }

    /// Stops sending responses, or starts again.
    pub fn set_silent(&self, silent: bool) {
        self.with(|acker| acker.silent = silent);
        self.shared.1.notify_all();
    }

    /// Changes the configuration; the kind stays the same.
    pub fn configure(&self, config: Config) {
        let mut state = lock(&self.shared);
        state.acker.config = config;
        if let Some(library) = &mut state.library {
            library.restart(Instant::now(), &config);
        }
        self.shared.1.notify_all();
    }

    /// Calls `look` with the acker.
    pub fn with<T>(&self, look: impl FnOnce(&mut Acker) -> T) -> T {
        look(&mut lock(&self.shared).acker)
    }

    /// Waits until nothing is missing up to `seq`.
    pub fn wait_for_all(&self, seq: u64, limit: Duration) -> Result<()> {
        self.wait_until(limit, &format!("all records up to {seq}"), |state| {
            state.has_all(seq)
        })
    }

    /// Waits until `done` returns true.
    pub fn wait(&self, limit: Duration, what: &str, done: impl Fn(&Acker) -> bool) -> Result<()> {
        self.wait_until(limit, what, |state| done(&state.acker))
    }

    fn wait_until(&self, limit: Duration, what: &str, done: impl Fn(&State) -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        let mut state = lock(&self.shared);
        while !done(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let acker = &state.acker;
                let missing: Vec<u64> = acker.missing().take(5).collect();
                let library = state
                    .library
                    .as_ref()
                    .map_or(String::new(), Library::describe);
                bail!(
                    "not {what} within {limit:?}: all up to {:?}, the highest {:?}, {} missing, \
                     the first: {missing:?}{library}",
                    acker.contiguous(),
                    acker.highest(),
                    acker.missing().count()
                );
            }
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
        Ok(())
    }
}

impl Drop for AckingLogger {
    /// Fails the trial if the library did anything wrong, no matter what the trial is about.
    fn drop(&mut self) {
        let mut faults = Vec::new();
        // A test that failed may have poisoned the lock.
        if let Ok(mut state) = self.shared.0.lock() {
            state.running = false;
            if let Some(library) = &mut state.library {
                faults = std::mem::take(&mut library.faults);
            }
        }
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let (Some(first), false) = (faults.first(), thread::panicking()) {
            panic!("ncrx did {} things wrong, the first: {first}", faults.len());
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap()
}

/// Returns the listener that takes the datagrams of the `n`th wire.
fn listener(shared: &Shared, n: usize) -> Listener {
    let theirs = Arc::clone(shared);
    Box::new(move |collector, udp, completed| {
        let mut state = lock(&theirs);
        let state = &mut *state;
        state.last = Some(udp.from);
        state.ends.insert(udp.from, (udp.to, n));
        state.acker.take(udp.at, &udp.payload);
        if let Some(library) = &mut state.library {
            let completed = completed.map(|seq| &collector.records[&seq]);
            library.take(&state.acker, udp, completed);
        }
        theirs.1.notify_all();
        Vec::new()
    })
}

/// The thread that sends responses when they are due.
fn answer(shared: &Shared, senders: &Senders) {
    let mut state = lock(shared);
    while state.running {
        let mut due = Vec::new();
        for (to, response) in state.poll(Instant::now()) {
            due.extend(state.ends.get(&to).map(|&ends| (to, ends, response)));
        }
        if !due.is_empty() {
            // The wire's thread calls us with the wire locked.
            drop(state);
            for (to, (from, n), response) in due {
                let sender = senders.lock().unwrap()[n].clone();
                let _ = sender.send_udp(from, to, &response);
            }
            state = lock(shared);
            continue;
        }
        state = match state.deadline() {
            None => shared.1.wait(state).unwrap(),
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                shared.1.wait_timeout(state, left).unwrap().0
            }
        };
    }
}
