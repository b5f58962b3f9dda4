// SPDX-License-Identifier: GPL-2.0

//! The open files of hosts, of all outputs: a bounded number.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use lru::LruCache;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use super::file::LogFile;
use super::queue::lock;

/// The most files that are open at a time, however many the system would allow.
const OPEN_MAX: u64 = 1 << 16;

/// The number that are left for all else: sockets, clients of the metrics, the state.
const RESERVED: u64 = 64;

/// The time over which new files are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// The time after which a file that nothing was written to is closed, and from one look to the
/// next.
const IDLE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(30);

/// The output whose file it is, and its path.
type Key = (usize, Arc<str>);

/// All files that are open, or about to be.
pub struct Pool {
    files: Mutex<Files>,
    new_files: Mutex<NewFiles>,
    evicted: AtomicU64,
}

struct Files {
    limit: usize,
    by_use: LruCache<Key, Used>,
    /// When it is looked for files that are idle.
    next_look: Instant,
}

/// A file, and when it was last asked for.
struct Used {
    file: Arc<Mutex<LogFile>>,
    at: Instant,
}

/// The count of files that were made in the minute that began then.
struct NewFiles {
    since: Instant,
    count: u32,
    limit: u32,
    said: bool,
}

impl Pool {
    /// Raises this process' limit of open files as far as it goes, and takes what is not needed for
    /// anything else. So many files may be made a minute for
    /// senders that have proven nothing.
    pub fn new(new_files: u32) -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        };
        let open = fs::read_dir("/proc/self/fd").map_or(16, |files| files.count() as u64);
        let ours = limit.saturating_sub(open + RESERVED.min(limit / 4));
        // Never more than there are numbers for.
        Ok(Self::with_limit(
            ours.clamp(1, OPEN_MAX) as usize,
            new_files,
        ))
    }

    /// Returns a pool of at most so many open files, if none is stuck.
    pub fn with_limit(limit: usize, new_files: u32) -> Self {
        let files = Files {
            limit,
            by_use: LruCache::unbounded(),
            next_look: Instant::now(),
        };
        let new_files = NewFiles {
            since: Instant::now(),
            count: 0,
            limit: new_files,
            said: false,
        };
        Self {
            files: Mutex::new(files),
            new_files: Mutex::new(new_files),
            evicted: AtomicU64::new(0),
        }
    }

    /// The file of this key, which `new` makes if it is not there. Those that nobody has asked for
    /// for minutes are closed.
    pub fn file(
        &self,
        key: &Key,
        now: Instant,
        new: impl FnOnce() -> LogFile,
    ) -> Arc<Mutex<LogFile>> {
        let mut files = lock(&self.files);
        if let Some(used) = files.by_use.get_mut(key) {
            used.at = now;
            let file = used.file.clone();
            let idle = files.take_idle(now);
            drop(files);
            drop(idle);
            return file;
        }
        let mut old = Vec::new();
        while files.by_use.len() >= files.limit {
            match files.evict() {
                Some(file) => old.push(file),
                None => break,
            }
        }
        self.evicted.fetch_add(old.len() as u64, Relaxed);
        old.extend(files.take_idle(now));
        let file = Arc::new(Mutex::new(new()));
        let used = Used {
            file: file.clone(),
            at: now,
        };
        files.by_use.put(key.clone(), used);
        drop(files);
        // To close a file may take long: not under the lock.
        drop(old);
        file
    }

    /// The system has no more: the limit is less than was thought. Was one closed?
    pub fn shrink(&self) -> bool {
        let mut files = lock(&self.files);
        let old = files.evict();
        // One is about to be opened, and does not count.
        files.limit = files.by_use.len().max(1);
        drop(files);
        self.evicted.fetch_add(old.iter().count() as u64, Relaxed);
        old.is_some()
    }

    /// Forgets a file that nothing is written to.
    pub fn forget(&self, key: &Key) {
        let file = lock(&self.files).by_use.pop(key);
        drop(file);
    }

    /// Closes a file that is to be removed; returns whether nothing is left to do with it.
    pub fn release(&self, key: &Key) -> bool {
        let mut files = lock(&self.files);
        let may = files.by_use.peek(key).is_none_or(Used::is_idle);
        let file = may.then(|| files.by_use.pop(key));
        drop(files);
        drop(file);
        may
    }

    /// Returns the number of files that were closed to make room for others.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Returns whether this file is known, and so open or about to be.
    pub fn knows(&self, key: &Key) -> bool {
        lock(&self.files).by_use.contains(key)
    }

    /// Returns when more files may be made than now.
    pub fn next_minute(&self) -> Instant {
        lock(&self.new_files).since + MINUTE
    }

    /// Returns whether one more file may be made by now for one that has proven nothing, and counts
    /// it.
    pub fn may_be_made(&self, now: Instant) -> bool {
        let mut new_files = lock(&self.new_files);
        if now >= new_files.since + MINUTE {
            (new_files.since, new_files.count, new_files.said) = (now, 0, false);
        }
        if new_files.count >= new_files.limit {
            if !new_files.said {
                new_files.said = true;
                tracing::warn!(
                    "{} files were made within a minute for senders that have proven nothing: more \
                     have to wait. --new-files lets it be more, --allow keeps strangers out",
                    new_files.limit
                );
            }
            return false;
        }
        new_files.count += 1;
        true
    }

    /// Returns the number of files that are known, and so open at most.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        lock(&self.files).by_use.len()
    }
}

impl Files {
    /// Takes out the file that has not been written to for longest, of those with nothing left to
    /// do.
    fn evict(&mut self) -> Option<Arc<Mutex<LogFile>>> {
        let oldest = self.by_use.iter().rev().find(|(_, used)| used.is_idle());
        let oldest = oldest.map(|(key, _)| key.clone())?;
        self.by_use.pop(&oldest).map(|used| used.file)
    }

    /// Takes out the files that nobody has asked for for minutes, if it is time to look for them.
    fn take_idle(&mut self, now: Instant) -> Vec<Arc<Mutex<LogFile>>> {
        if now < self.next_look {
            return Vec::new();
        }
        self.next_look = now + LOOK;
        let oldest = self.by_use.iter().rev();
        let old = oldest.take_while(|(_, used)| now >= used.at + IDLE);
        let idle = old.filter(|(_, used)| used.is_idle());
        let keys: Vec<_> = idle.map(|(key, _)| key.clone()).collect();
        let taken = keys.iter().filter_map(|key| self.by_use.pop(key));
        taken.map(|used| used.file).collect()
    }
}

impl Used {
    /// Returns whether it is not being written to, and nothing is lost when it is closed. The count
    /// only grows under the pool's lock.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.file) == 1
            && match self.file.try_lock() {
                Ok(file) => file.is_idle(),
                Err(TryLockError::Poisoned(_)) => true,
                Err(TryLockError::WouldBlock) => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_idle_are_closed() {
        let pool = Pool::with_limit(100, 10);
        let begin = Instant::now();
        let ask = |path: &str, after: u64| {
            let now = begin + Duration::from_secs(after);
            pool.file(&(0, path.into()), now, || LogFile::new(path.into()))
        };
        let held = ask("being-written", 0);
        ask("yesterday", 0);
        ask("today", 200);
        assert_eq!(pool.len(), 3);
        ask("today", 400);
        assert_eq!(pool.len(), 2);
        assert!(!pool.knows(&(0, "yesterday".into())));
        // One that is to be removed is closed, if it can be.
        let key = |path: &str| (0, path.into());
        assert!(!pool.release(&key("being-written")));
        drop(held);
        assert!(pool.release(&key("being-written")) && pool.release(&key("nothing")));
        assert_eq!(pool.len(), 1);
    }
}
