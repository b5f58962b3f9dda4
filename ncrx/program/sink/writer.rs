// SPDX-License-Identifier: GPL-2.0

//! The thread of an output: it alone writes there, and may take as long as that takes.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::compress::Compressor;
use super::file::{LogFile, Policy, OUT_OF_FILES};
use super::pool::Pool;
use super::queue::{lock, Batch, Queue};
use super::strangers::Strangers;
use super::Place;

/// The time to the next try after an error, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The same for a pipe that is not read just now.
const AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// The number of files that cannot be written that the log names one by one.
const NAMED: usize = 10;
/// The eighths of the queue's limit that files that cannot be written may hold: together, and each.
/// With what strangers may it is a half, so that these never have the queue look crowded.
const HELD: (usize, usize) = (3, 1);

/// The thread's data.
pub struct Writer {
    /// The output's number.
    pub nth: usize,
    /// The output's place.
    pub place: Place,
    /// The policy of its files, which may change.
    pub policy: Arc<Mutex<Policy>>,
    /// The thread that compresses old ones.
    pub compressor: Compressor,
    /// Whether records are acknowledged only when they are here.
    pub promised: bool,
    /// Whether there are no others.
    pub alone: bool,
    /// The queue that it empties.
    pub queue: Arc<Queue>,
    /// The files of hosts.
    pub pool: Arc<Pool>,
    /// The only file, if it has not one for each host.
    pub only: Option<Arc<Mutex<LogFile>>>,
    /// The number of times that all files were to be opened anew.
    pub reopened: Arc<AtomicU64>,
    /// The number of files that could not be written, when they were last tried.
    pub failing: usize,
    /// Called when the output will never be read any more.
    pub closed: Box<dyn Fn() + Send>,
    /// Batches that are not written yet, by file.
    pub files: HashMap<Arc<str>, Pending>,
    /// Those for which no file may be made yet.
    pub strangers: Strangers,
}

/// Batches that are to be written to a file.
#[derive(Default)]
pub struct Pending {
    /// The host, if it has a file of its own.
    host: Arc<str>,
    /// The bytes to be written.
    pub batches: VecDeque<Batch>,
    /// The bytes of all of them.
    pub bytes: usize,
    /// The number of batches that are written, but may not be on the disk, and of bytes of the
    /// next.
    done: usize,
    offset: usize,
    /// After an error: when to try again, and how long to wait then.
    retry: Option<(Instant, Duration)>,
    /// Whether the log has the error.
    told: bool,
}

impl Pending {
    /// Takes one more batch.
    pub fn push(&mut self, batch: Batch) {
        self.host = batch.host.clone();
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
    }

    /// Returns whether a sender has proven itself that it is of.
    pub fn is_proven(&self) -> bool {
        self.batches.iter().any(Batch::is_proven)
    }
}

impl Writer {
    /// Writes, for ever.
    pub fn run(mut self) {
        loop {
            let retry = self.files.values().filter_map(|file| file.retry).min();
            let retry = retry.map(|(at, _)| at);
            let waits = self.strangers.len() > 0;
            let minute = waits.then(|| self.pool.next_minute());
            let (batches, resolved) = self.queue.take(retry.into_iter().chain(minute).min());
            let now = Instant::now();
            let all = minute.is_some_and(|minute| minute <= now);
            if all || resolved {
                self.files.extend(self.strangers.take_all(!all));
            }
            for batch in batches {
                self.put(batch);
            }
            self.write_all(now);
        }
    }

    /// Takes a batch, unless its file cannot be written and holds enough.
    fn put(&mut self, batch: Batch) {
        let limit = self.queue.limit();
        let Some(batch) = self.strangers.put(batch, limit) else {
            return;
        };
        let waits = self.strangers.has(&batch.file);
        if waits && batch.is_proven() {
            let pending = self.strangers.take(&batch.file);
            self.files
                .extend(pending.map(|pending| (batch.file.clone(), pending)));
        } else if waits || self.holds_enough(&batch) {
            return self.refuse(batch);
        }
        let file = self.files.entry(batch.file.clone()).or_default();
        file.push(batch);
    }

    /// Does not take a batch: its senders keep what is in it.
    fn refuse(&self, batch: Batch) {
        self.queue.let_go(&batch);
        self.queue.status.refused.fetch_add(batch.records, Relaxed);
        batch.refuse(self.nth);
    }

    /// Returns whether the file of a batch cannot be written, and this would be too much to hold.
    fn holds_enough(&self, batch: &Batch) -> bool {
        let (limit, bytes) = (self.queue.limit(), batch.bytes.len());
        let fails = |file: &&Pending| file.retry.is_some();
        let file = self.files.get(&batch.file).filter(fails);
        let held = || {
            let failing = self.files.values().filter(fails);
            failing.map(|file| file.bytes).sum::<usize>()
        };
        matches!(self.place, Place::PerHost(_))
            && file.is_some_and(|file| {
                file.bytes + bytes > limit * HELD.1 / 8 || held() + bytes > limit * HELD.0 / 8
            })
    }

    /// Writes to each file that is due.
    fn write_all(&mut self, now: Instant) {
        let mut files = std::mem::take(&mut self.files);
        let mut strangers = std::mem::take(&mut self.strangers);
        files.retain(|path, file| {
            if file.retry.is_some_and(|(at, _)| at > now) {
                return true;
            }
            if file.retry.is_none() && self.is_strange(path, file, now) {
                let file = std::mem::take(file);
                let refused = strangers.add(path.clone(), file, self.queue.limit());
                let refused = refused.into_iter().flat_map(|file| file.batches);
                refused.for_each(|batch| self.refuse(batch));
                return false;
            }
            let result = self.write(path, file);
            self.judge(path, file, result);
            !file.batches.is_empty() || file.retry.is_some()
        });
        (self.files, self.strangers) = (files, strangers);
        self.queue.status.set_busy(false);
        let failing = self.files.values().filter(|file| file.retry.is_some());
        self.failing = failing.count();
        let failing = self.failing + self.strangers.len();
        self.queue.status.failing.store(failing, Relaxed);
        self.queue.status.set_blocked(failing > 0);
    }

    /// Returns whether it would be a new file, of a sender that has proven nothing, and there are
    /// to be no more of those for now.
    fn is_strange(&self, path: &Arc<str>, pending: &Pending, now: Instant) -> bool {
        self.only.is_none()
            && !pending.is_proven()
            && !self.pool.knows(&(self.nth, path.clone()))
            && !Path::new(&**path).exists()
            && !self.pool.may_be_made(now)
    }

    /// Writes all that there is for a file, and tells of what is safe.
    fn write(&self, path: &Arc<str>, pending: &mut Pending) -> io::Result<()> {
        let status = &self.queue.status;
        status.set_busy(true);
        let file = self.file(path);
        let mut file = lock(&file);
        let reopened = self.reopened.load(Relaxed);
        if file.is_outdated(reopened) {
            file.close();
        }
        let result = self.open(&mut file, reopened);
        let result = result.and_then(|()| self.write_to(&mut file, pending));
        // Written batches are reported, even if not all could be written.
        let synced = file.sync();
        if synced.is_err() {
            // All since the last time may be gone.
            (pending.done, pending.offset) = (0, 0);
        }
        self.settle(pending);
        file.partial = pending.offset > 0;
        result.and(synced)
    }

    fn write_to(&self, file: &mut LogFile, pending: &mut Pending) -> io::Result<()> {
        let policy = self.policy();
        while let Some(batch) = pending.batches.get(pending.done) {
            if pending.offset == 0 && file.is_full(batch.bytes.len() as u64, &policy) {
                file.sync()?;
                self.settle(pending);
                file.rotate(&policy)?;
                if policy.compress {
                    self.compressor.rotated(file.path());
                }
                continue;
            }
            self.queue.status.set_busy(true);
            while pending.offset < batch.bytes.len() {
                pending.offset += file.write(&batch.bytes[pending.offset..], &policy)?;
            }
            (pending.done, pending.offset) = (pending.done + 1, 0);
        }
        Ok(())
    }

    /// Tells of all that is done.
    fn settle(&self, pending: &mut Pending) {
        for batch in pending.batches.drain(..std::mem::take(&mut pending.done)) {
            pending.bytes -= batch.bytes.len();
            self.queue.let_go(&batch);
            batch.written();
        }
    }

    fn file(&self, path: &Arc<str>) -> Arc<Mutex<LogFile>> {
        match &self.only {
            Some(file) => file.clone(),
            None => {
                let new = || LogFile::new(PathBuf::from(&**path));
                self.pool
                    .file(&(self.nth, path.clone()), Instant::now(), new)
            }
        }
    }

    /// Returns the policy as it is now.
    pub fn policy(&self) -> Policy {
        *lock(&self.policy)
    }

    /// Opens the file, if need be in the place of others.
    fn open(&self, file: &mut LogFile, reopened: u64) -> io::Result<()> {
        loop {
            match file.open(&self.policy(), reopened) {
                Err(e) if e.kind() == OUT_OF_FILES && self.pool.shrink() => {}
                opened => return opened,
            }
        }
    }

    /// Says what has become of it, and when to try again.
    fn judge(&self, path: &Arc<str>, pending: &mut Pending, result: io::Result<()>) {
        let named = self.failing < NAMED;
        let whose = match &self.place {
            Place::PerHost(_) => format!(" of {}", pending.host),
            _ => String::new(),
        };
        let error = match result {
            Ok(()) => {
                pending.retry = None;
                if std::mem::take(&mut pending.told) {
                    tracing::info!("{}{whose} can be written again", self.place);
                }
                return;
            }
            Err(error) => error,
        };
        if self.is_end(&error) {
            // No file has to wait for it.
            for batch in pending.batches.drain(..) {
                self.queue.let_go(&batch);
                batch.refuse(self.nth);
            }
            *pending = Pending::default();
            return;
        }
        let waits = error.kind() == ErrorKind::WouldBlock;
        let now = Instant::now();
        let wait = match pending.retry {
            Some((_, wait)) if waits => (wait * 2).min(AGAIN.1),
            None if waits => AGAIN.0,
            Some((_, wait)) => (wait * 2).min(RETRY.1),
            None => RETRY.0,
        };
        if !waits {
            self.queue.status.errors.fetch_add(1, Relaxed);
            if self.only.is_none() && pending.offset == 0 {
                // A bad file is not to take the place of others.
                self.pool.forget(&(self.nth, path.clone()));
            }
        }
        if !pending.told && !waits && named {
            pending.told = true;
            self.queue.status.told.store(true, Relaxed);
            let remedy = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there",
                ErrorKind::FileTooLarge => "let files be larger (ulimit -f, LimitFSIZE=)",
                ErrorKind::PermissionDenied => "let ncrx write there",
                OUT_OF_FILES => "let it have more of them (ulimit -n, LimitNOFILE=)",
                _ => "mend it",
            };
            // The error names the file.
            if self.promised {
                let of = match &self.place {
                    Place::PerHost(_) => format!(" to {}", pending.host),
                    _ => String::new(),
                };
                tracing::error!("{error}. Nothing is acknowledged{of} until that works; {remedy}");
            } else {
                tracing::error!(
                    "{error}. What is too much to be kept until that works is dropped; {remedy}"
                );
            }
        }
        pending.retry = Some((now + wait, wait));
    }

    /// Returns whether the output will never be read any more: the reader of our standard output
    /// has closed it.
    fn is_end(&self, error: &io::Error) -> bool {
        let end = self.place == Place::Stdout && error.kind() == ErrorKind::BrokenPipe;
        if end && self.alone {
            self.queue.status.closed.store(true, Relaxed);
            (self.closed)();
        }
        end && self.alone
    }
}
