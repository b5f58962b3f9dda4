// SPDX-License-Identifier: GPL-2.0

//! A file for each host, of which only so many are open at a time.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use super::file::LogFile;
use super::SharedFile;

/// What stands for the host's name in a path.
const HOST: &str = "{host}";

/// How long a host's name may be in a path: names of files have at most 255 bytes, and something
/// may be around it.
const NAME_MAX: usize = 200;

/// The most files that are open at a time, however many the system would allow.
const OPEN_MAX: u64 = 1 << 16;

/// The files of all hosts.
pub(super) struct Hosts {
    template: String,
    limit: usize,
    files: Mutex<LruCache<PathBuf, SharedFile>>,
}

impl Hosts {
    /// Raises this process' limit of open files as far as it goes, and takes half of that.
    pub(super) fn new(template: String) -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        };
        // Never more than there are numbers for.
        Self::with_limit(template, (limit / 2).clamp(1, OPEN_MAX) as usize)
    }

    /// With at most so many open files, if none is stuck.
    pub(super) fn with_limit(template: String, limit: usize) -> io::Result<Self> {
        if !template.contains(HOST) {
            let text = format!("{template}: there is no {HOST} in it");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            template,
            limit,
            files: Mutex::new(LruCache::unbounded()),
        })
    }

    /// The file of this host.
    pub(super) fn file(&self, host: &str) -> SharedFile {
        let path = PathBuf::from(self.template.replace(HOST, &name(host)));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&path) {
            return file.clone();
        }
        while files.len() >= self.limit {
            // Not one that somebody writes to: the count only grows under the lock that is held.
            // Nor one with something left to do.
            let idle = |file: &SharedFile| {
                Arc::strong_count(file) == 1 && file.try_lock().is_ok_and(|file| file.is_idle())
            };
            let oldest = files.iter().rev().find(|(_, file)| idle(file));
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else {
                break;
            };
            files.pop(&oldest);
        }
        let file = Arc::new(Mutex::new(LogFile::new(path.clone())));
        files.put(path, file.clone());
        file
    }

    /// How many files are known, and so open at most.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// The host's name as a part of a path that cannot lead elsewhere.
fn name(host: &str) -> String {
    let mut name = String::new();
    for c in host.chars() {
        let odd = c == '/' || c.is_control() || (name.is_empty() && c == '.');
        let c = if odd { '_' } else { c };
        if name.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        name.push(c);
    }
    if name.is_empty() {
        name.push('_');
    }
    name
}
