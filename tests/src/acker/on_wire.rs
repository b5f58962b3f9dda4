// SPDX-License-Identifier: GPL-2.0

//! A log host that answers, on a wire.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use super::{Acker, Config};
use crate::logger::{Listener, Logger};
use crate::wire::{Sender, Wire};

struct State {
    acker: Acker,
    /// Who it answers, as whom, and on which of its wires: as the last datagram
    /// came.
    ends: Option<(SocketAddr, SocketAddr, usize)>,
    running: bool,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// One for each wire, in a place of their own: what a wire runs must not hold the
/// wire.
type Senders = Arc<Mutex<Vec<Sender>>>;

/// A log host that collects, acknowledges, and asks for what is missing.
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
            ends: None,
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

    /// Look at what it knows.
    pub fn with<T>(&self, look: impl FnOnce(&mut Acker) -> T) -> T {
        look(&mut lock(&self.shared).acker)
    }

    /// Wait until nothing is missing up to `seq`.
    pub fn wait_for_all(&self, seq: u64, limit: Duration) -> Result<()> {
        self.wait(limit, &format!("all records up to {seq}"), |acker| {
            acker.contiguous().is_some_and(|have| have >= seq)
        })
    }

    /// Wait until `done` says so.
    pub fn wait(&self, limit: Duration, what: &str, done: impl Fn(&Acker) -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        let mut state = lock(&self.shared);
        while !done(&state.acker) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let acker = &state.acker;
                let missing: Vec<u64> = acker.missing().take(5).collect();
                bail!(
                    "not {what} within {limit:?}: all up to {:?}, the highest {:?}, {} missing, \
                     the first: {missing:?}",
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
    fn drop(&mut self) {
        // A test that failed may have poisoned it.
        if let Ok(mut state) = self.shared.0.lock() {
            state.running = false;
        }
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap()
}

/// What happens with a datagram that comes on the `n`th wire.
fn listener(shared: &Shared, n: usize) -> Listener {
    let theirs = Arc::clone(shared);
    Box::new(move |_, udp, _| {
        let mut state = lock(&theirs);
        state.ends = Some((udp.to, udp.from, n));
        state.acker.take(udp.at, &udp.payload);
        theirs.1.notify_all();
        Vec::new()
    })
}

/// The thread that speaks when it is time.
fn answer(shared: &Shared, senders: &Senders) {
    let mut state = lock(shared);
    while state.running {
        let responses = state.acker.poll(Instant::now());
        if let (Some((from, to, n)), false) = (state.ends, responses.is_empty()) {
            // The wire's thread calls us with the wire locked.
            drop(state);
            let sender = senders.lock().unwrap()[n].clone();
            for response in responses {
                let _ = sender.send_udp(from, to, response.as_bytes());
            }
            state = lock(shared);
            continue;
        }
        state = match state.acker.deadline() {
            None => shared.1.wait(state).unwrap(),
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                shared.1.wait_timeout(state, left).unwrap().0
            }
        };
    }
}
