// SPDX-License-Identifier: GPL-2.0

//! Where the output goes: standard output, a file, a file per host.

mod file;
mod hosts;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use file::{LogFile, Policy};
use hosts::Hosts;

/// Where the output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `-`
    Stdout,
    /// One file for all.
    File(PathBuf),
    /// A file for each host: a path with `{host}` in it. Of a host's name, `/`, control characters
    /// and dots at the start become `_` there.
    PerHost(String),
}

/// When written output is forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Never: what the kernel has is as good as written. It survives a crash of this program, not
    /// one of the machine.
    Never,
    /// Before anything is acknowledged.
    Always,
}

/// How all that is written ends, each by itself, and what is done about a file that is there and
/// does not end like this: a crash has torn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Lines. A torn one gets its newline, so that the next is not glued to it.
    Newline,
    /// Entries of some lines and a blank one, with binary data in them. A torn one cannot be ended
    /// so that the next can still be read: the file is renamed to `<path>.1`, however many there
    /// are.
    BlankLine,
}

/// One output, shared by all workers (clone it). Lines of one `write` call are never torn apart.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
}

/// A file, as it is shared between workers.
type SharedFile = Arc<Mutex<LogFile>>;

struct Shared {
    place: Place,
    policy: Policy,
    /// How often all files were to be opened anew.
    reopened: AtomicU64,
}

enum Place {
    One(SharedFile),
    PerHost(Hosts),
}

impl Sink {
    /// Opens it, or says why that cannot be.
    ///
    /// Files are appended to, and made (with their directories) when they are not there; files of
    /// hosts when something is written to them. If what would be written makes a file longer than
    /// `rotate_bytes`, it is renamed to `<path>.1` before, an older `.1` to `.2`, and so on; the
    /// one beyond `keep` is removed. What one commit writes to one file always goes to the same.
    ///
    /// What is written ends with newlines: see [`Ending`].
    #[cfg(test)]
    pub fn open(
        target: Target,
        fsync: Fsync,
        rotate_bytes: Option<u64>,
        keep: u32,
    ) -> io::Result<Self> {
        Self::open_ending(target, fsync, rotate_bytes, keep, Ending::Newline)
    }

    /// The same for what ends with this.
    pub fn open_ending(
        target: Target,
        fsync: Fsync,
        rotate_bytes: Option<u64>,
        keep: u32,
        ending: Ending,
    ) -> io::Result<Self> {
        let policy = Policy {
            sync: fsync == Fsync::Always,
            rotate_bytes,
            keep,
            ending,
        };
        let place = match target {
            Target::Stdout => Place::One(Arc::new(Mutex::new(LogFile::stdout()?))),
            Target::File(path) => {
                let mut file = LogFile::new(path);
                file.open(&policy, 0)?;
                Place::One(Arc::new(Mutex::new(file)))
            }
            Target::PerHost(template) => Place::PerHost(Hosts::new(template)?),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                place,
                policy,
                reopened: AtomicU64::new(0),
            }),
        })
    }

    /// A worker's own end of it, with its own buffer.
    pub fn writer(&self) -> Writer {
        Writer {
            shared: self.shared.clone(),
            buffers: HashMap::new(),
        }
    }

    /// SIGHUP: files are opened anew at the next write (logrotate has moved them).
    pub fn reopen(&self) {
        self.shared.reopened.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Writes it to the host's file, and to the disk if that is wanted. See [`LogFile::append`].
    fn append(&self, host: &str, bytes: &mut Vec<u8>) -> io::Result<()> {
        let file = match &self.place {
            Place::One(file) => file.clone(),
            Place::PerHost(hosts) => hosts.file(host),
        };
        // A file's state is right whenever something in it may panic.
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let reopened = self.reopened.load(Ordering::Relaxed);
        file.append(bytes, &self.policy, reopened)
    }
}

/// A worker's end of a sink: collects, and commits. What was not committed when it is dropped is
/// not written.
pub struct Writer {
    shared: Arc<Shared>,
    /// For each host; for none if all have the same file.
    buffers: HashMap<Box<str>, Buffer>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many bytes the file has taken over, but not written yet.
    owed: usize,
}

impl Writer {
    /// Puts this into the buffer, for the file of `host`. Cannot fail.
    pub fn write(&mut self, host: &str, bytes: &[u8]) {
        let host = match self.shared.place {
            Place::One(_) => "",
            Place::PerHost(_) => host,
        };
        if let Some(buffer) = self.buffers.get_mut(host) {
            buffer.bytes.extend_from_slice(bytes);
        } else {
            let bytes = bytes.to_vec();
            self.buffers.insert(host.into(), Buffer { bytes, owed: 0 });
        }
    }

    /// Writes out all that is in the buffer; by the policy also to the disk. After an error what
    /// was not written is still in the buffer, and the next call goes on exactly where this one
    /// stopped (a partly written line is completed, nothing is written twice).
    ///
    /// An error is of the first file that has one; it names the file. All others are written.
    pub fn commit(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        self.buffers.retain(|host, buffer| {
            let before = buffer.bytes.len();
            let written = self.shared.append(host, &mut buffer.bytes);
            if written.is_ok() {
                return false;
            }
            buffer.owed += before - buffer.bytes.len();
            if result.is_ok() {
                result = written;
            }
            true
        });
        result
    }

    /// How much is in the buffer.
    #[cfg(test)]
    pub fn pending(&self) -> usize {
        let pending = |buffer: &Buffer| buffer.bytes.len() + buffer.owed;
        self.buffers.values().map(pending).sum()
    }
}

/// The error, with the file that it is of.
fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
}
