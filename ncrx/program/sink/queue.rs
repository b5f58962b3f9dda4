// SPDX-License-Identifier: GPL-2.0

//! The queue of an output: bounded, from workers to the output's thread; and the way back of what
//! has been written.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ncrx::Token;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Records that are settled together: each of their outputs has all of them, or none.
pub struct Parcel {
    tokens: Vec<Token>,
    /// The outputs that do not take them, a bit for each.
    refused: AtomicU64,
    /// Whether their sender has proven itself since.
    proven: AtomicBool,
    settled: Arc<Settled>,
}

impl Parcel {
    /// Returns a parcel of these records, of the worker that has this inbox. Each output that wants
    /// them gets a clone.
    pub fn new(tokens: Vec<Token>, settled: Arc<Settled>) -> Arc<Self> {
        Arc::new(Self {
            tokens,
            refused: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            settled,
        })
    }

    /// Tells the worker that an output takes them only once their sender has proven itself.
    fn doubt(self: &Arc<Self>) {
        if let Some(&token) = self.tokens.last() {
            let parcel = Arc::downgrade(self);
            self.settled
                .push(|inbox| inbox.doubts.push(Doubt { token, parcel }));
        }
    }

    /// Takes note that an output has them. The last one tells the worker.
    pub fn written(self: Arc<Self>) {
        if let Some(parcel) = Arc::into_inner(self) {
            let refused = parcel.refused.into_inner();
            let outcome = (parcel.tokens, refused);
            parcel.settled.push(|inbox| inbox.outcomes.push(outcome));
        }
    }

    /// Takes note that this output does not take them: they are not acknowledged, so the sender
    /// keeps them.
    pub fn refuse(self: Arc<Self>, output: usize) {
        self.refused.fetch_or(1 << output, Relaxed);
        self.written();
    }
}

/// Records, and the outputs that have refused them, a bit for each.
pub type Outcome = (Vec<Token>, u64);

/// A parcel that an output takes only once its sender has proven itself, and its last record.
pub struct Doubt {
    /// The record.
    pub token: Token,
    parcel: Weak<Parcel>,
}

impl Doubt {
    /// Takes note that the sender has proven itself.
    pub fn resolve(&self) {
        if let Some(parcel) = self.parcel.upgrade() {
            parcel.proven.store(true, Relaxed);
            // It may have been settled by the others meanwhile.
            parcel.written();
        }
    }

    /// Returns whether an output still waits for that.
    pub fn is_open(&self) -> bool {
        self.parcel.strong_count() > 0
    }
}

/// The news of outputs for a worker.
#[derive(Default)]
pub struct Inbox {
    /// The outcome of records.
    pub outcomes: Vec<Outcome>,
    /// Records whose sender has to prove itself.
    pub doubts: Vec<Doubt>,
}

/// The inbox of a worker, which its outputs fill.
pub struct Settled {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

impl Settled {
    /// Returns an empty one.
    pub fn new() -> nix::Result<Self> {
        Ok(Self {
            inbox: Mutex::default(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Returns the descriptor that is readable when there is something in it.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn push(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        put(&mut inbox);
        if inbox.outcomes.len() + inbox.doubts.len() == 1 {
            // It cannot be full: it counts to 2^64.
            let _ = self.wake.write(1);
        }
    }

    /// Takes all that is in it.
    pub fn take(&self) -> Inbox {
        let inbox = mem::take(&mut *lock(&self.inbox));
        if !(inbox.outcomes.is_empty() && inbox.doubts.is_empty()) {
            let _ = self.wake.read();
        }
        inbox
    }
}

/// Text that is to be written to one file.
#[derive(Default)]
pub struct Batch {
    /// The path, if each host has a file of its own.
    pub file: Arc<str>,
    /// The host's name then.
    pub host: Arc<str>,
    /// Whole lines, or entries.
    pub bytes: Vec<u8>,
    /// The number of records and events in it.
    pub records: u64,
    /// Whether a sender has proven itself of which something is here.
    pub proven: bool,
    /// The parcels that wait for this output; none if it is `--best-effort`.
    pub parcels: Vec<Arc<Parcel>>,
}

impl Batch {
    /// Returns whether a sender has proven itself, by now, of which something is here.
    pub fn is_proven(&self) -> bool {
        let proven = |parcel: &Arc<Parcel>| parcel.proven.load(Relaxed);
        self.proven || self.parcels.iter().any(proven)
    }

    /// Tells the workers that it has to wait until its sender has proven itself.
    pub fn doubt(&self) {
        self.parcels.iter().for_each(Parcel::doubt);
    }

    /// Takes note that it is written.
    pub fn written(self) {
        self.parcels.into_iter().for_each(Parcel::written);
    }

    /// Takes note that it is dropped: the output takes no more.
    pub fn refuse(self, output: usize) {
        let parcels = self.parcels.into_iter();
        parcels.for_each(|parcel| parcel.refuse(output));
    }
}

/// The status of an output, for metrics and the log. Times are microseconds since 1970; 0 for none.
#[derive(Debug, Default)]
pub struct Status {
    /// Bytes that it holds, in the queue or about to be written.
    pub bytes: AtomicUsize,
    /// The same, in records and events.
    pub records: AtomicU64,
    /// Records and events that it has not taken because it was full; a `--best-effort` output has
    /// lost them.
    pub refused: AtomicU64,
    /// Records of those that their senders could not send again.
    pub lost: AtomicU64,
    /// Times that something could not be written.
    pub errors: AtomicU64,
    /// The number of files that cannot be written just now.
    pub failing: AtomicUsize,
    /// The time since when something cannot be written, for whatever reason.
    blocked: AtomicU64,
    /// The time since when a call that writes has not returned.
    busy: AtomicU64,
    /// Whether the log says why something cannot be written.
    pub told: AtomicBool,
    /// Whether it will never be read any more.
    pub closed: AtomicBool,
}

impl Status {
    /// Takes note that a call begins that may take long, or returns.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(if busy { now() } else { 0 }, Relaxed);
    }

    /// Takes note that something cannot be written, or that all can be.
    pub fn set_blocked(&self, blocked: bool) {
        let since = self.blocked.load(Relaxed);
        if !blocked {
            self.told.store(false, Relaxed);
        }
        if blocked != (since > 0) {
            self.blocked.store(if blocked { now() } else { 0 }, Relaxed);
        }
    }

    /// Returns since when it is blocked, if it is, in seconds since 1970.
    pub fn blocked_since(&self) -> Option<f64> {
        let busy = self.busy.load(Relaxed);
        let stuck = busy > 0 && now().saturating_sub(busy) > STUCK.as_micros() as u64;
        let since = match self.blocked.load(Relaxed) {
            0 if stuck => busy,
            since => since,
        };
        (since > 0).then(|| since as f64 / 1e6)
    }
}

/// The duration after which a call is stuck.
const STUCK: Duration = Duration::from_secs(1);

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros().max(1) as u64)
}

#[derive(Default)]
struct Inner {
    batches: VecDeque<Batch>,
    /// Whether the thread sleeps.
    waits: bool,
    /// Whether some sender has proven itself.
    resolved: bool,
}

/// The queue of an output, from all workers.
pub struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
    limit: usize,
    /// The status of the output.
    pub status: Status,
}

impl Queue {
    /// Returns an empty one, for so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Mutex::default(),
            ready: Condvar::new(),
            limit,
            status: Status::default(),
        }
    }

    /// Returns the number of bytes that may wait.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns whether it takes more. A batch that is pushed then may have any length.
    pub fn has_room(&self) -> bool {
        self.status.bytes.load(Relaxed) < self.limit
    }

    /// Whether it is more than half full.
    pub fn is_crowded(&self) -> bool {
        self.status.bytes.load(Relaxed) > self.limit / 2
    }

    /// Returns whether something cannot be written, for whatever reason.
    pub fn is_blocked(&self) -> bool {
        self.status.blocked.load(Relaxed) > 0
    }

    /// Puts something in.
    pub fn push(&self, batch: Batch) {
        self.status.bytes.fetch_add(batch.bytes.len(), Relaxed);
        self.status.records.fetch_add(batch.records, Relaxed);
        let mut inner = lock(&self.inner);
        inner.batches.push_back(batch);
        if mem::take(&mut inner.waits) {
            self.ready.notify_one();
        }
    }

    /// Takes note that a sender has proven itself of which something waits.
    pub fn resolve(&self) {
        let mut inner = lock(&self.inner);
        inner.resolved = true;
        if mem::take(&mut inner.waits) {
            self.ready.notify_one();
        }
    }

    /// Takes all that there is, and whether a sender has proven itself; waits until then if there
    /// is neither.
    pub fn take(&self, until: Option<Instant>) -> (VecDeque<Batch>, bool) {
        let mut inner = lock(&self.inner);
        if inner.batches.is_empty() && !inner.resolved {
            inner.waits = true;
            while inner.waits {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                if left.is_some_and(|left| left.is_zero()) {
                    break;
                }
                let left = left.unwrap_or(Duration::from_secs(3600));
                let woken = self.ready.wait_timeout(inner, left);
                inner = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            inner.waits = false;
        }
        let resolved = mem::take(&mut inner.resolved);
        (mem::take(&mut inner.batches), resolved)
    }

    /// This is no more held, written or not.
    pub fn let_go(&self, batch: &Batch) {
        self.status.bytes.fetch_sub(batch.bytes.len(), Relaxed);
        self.status.records.fetch_sub(batch.records, Relaxed);
    }
}

/// Locks, also after a panic: the data is right whenever something may panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
