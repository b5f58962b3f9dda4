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
    /// Who speaks in place of the acker, if anybody does.
    library: Option<Library>,
    /// Who has spoken last.
    last: Option<SocketAddr>,
    /// As whom each is answered, and on which wire: as its last datagram came.
    ends: HashMap<SocketAddr, (SocketAddr, usize)>,
    running: bool,
}

impl State {
    /// The responses that are due, and to whom.
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

    /// Is nothing missing up to `seq`?
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

/// One for each wire, in a place of their own: what a wire runs must not hold the
/// wire.
type Senders = Arc<Mutex<Vec<Sender>>>;

/// A log host that collects, acknowledges, and asks for what is missing: the
/// library ncrx if it is to know sessions, else an [`Acker`].
pub struct AckingLogger {
    /// What it has collected.
    pub logger: Logger,
    port: u16,
    shared: Shared,
    senders: Senders,
    thread: Option<JoinHandle<()>>,
}

impl AckingLogger {
    /// Listen on `port` of every host of `wire`, and answer as `config` says.
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

    /// Listen again, after the port was refused, with all that it knows. What
    /// it has collected begins anew.
    pub fn attach_again(&mut self, wire: &Wire) {
        self.logger = Logger::attach_with(wire, self.port, listener(&self.shared, 0));
    }

    /// Listen on another wire too, and answer on the one that was last spoken on.
    pub fn also(&self, wire: &Wire) {
        let mut senders = self.senders.lock().unwrap();
        let listener = listener(&self.shared, senders.len());
        senders.push(wire.sender());
        self.logger.also_with(wire, self.port, listener);
    }

    /// Say nothing from now on, or speak again.
    pub fn set_silent(&self, silent: bool) {
        self.with(|acker| acker.silent = silent);
        self.shared.1.notify_all();
    }

    /// Behave like this from now on; the kind stays the same.
    pub fn configure(&self, config: Config) {
        let mut state = lock(&self.shared);
        state.acker.config = config;
        if let Some(library) = &mut state.library {
            library.restart(Instant::now(), &config);
        }
        self.shared.1.notify_all();
    }

    /// Look at what it knows.
    pub fn with<T>(&self, look: impl FnOnce(&mut Acker) -> T) -> T {
        look(&mut lock(&self.shared).acker)
    }

    /// Wait until nothing is missing up to `seq`.
    pub fn wait_for_all(&self, seq: u64, limit: Duration) -> Result<()> {
        self.wait_until(limit, &format!("all records up to {seq}"), |state| {
            state.has_all(seq)
        })
    }

    /// Wait until `done` says so.
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
    /// Whatever a trial looks at: it fails if the library did anything wrong.
    fn drop(&mut self) {
        let mut faults = Vec::new();
        // A test that failed may have poisoned it.
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

/// What happens with a datagram that comes on the `n`th wire.
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

/// The thread that speaks when it is time.
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
