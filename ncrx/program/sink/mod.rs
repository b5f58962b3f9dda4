// SPDX-License-Identifier: GPL-2.0

//! An output: standard output, a file, or a file for each host. A thread of its own writes, behind
//! a queue; nobody else ever waits for a file, a pipe or a disk.

mod check;
mod compress;
mod file;
mod old;
mod pool;
mod queue;
mod strangers;
mod template;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub use check::{check, check_directory, check_file};
pub use compress::Compressor;
use file::LogFile;
pub use file::Policy;
pub use old::{open, tidy, with_rotated, Bounds};
pub use pool::Pool;
pub use queue::{Batch, Doubt, Parcel, Queue, Settled, Status};
use strangers::Strangers;
pub use template::{day, safe, Facts, Field, Part, Template, FIELDS};
use writer::Writer;

/// The part of a path that stands for the host's name.
pub const HOST: &str = "{host}";

/// The longest wait for an output to be opened before all else begins.
const OPENS: Duration = Duration::from_secs(2);

/// The place of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `-`
    Stdout,
    /// One file for all.
    File(PathBuf),
    /// A file for each host: a path with fields in braces, a [`Template`].
    PerHost(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
            Self::PerHost(template) => f.write_str(template),
        }
    }
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

/// The end of each entry, and what is done about a file that is there and does not end like this: a
/// crash has torn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Lines. A torn one gets its newline, so that the next is not glued to it.
    Newline,
    /// Entries of some lines and a blank one, with binary data in them. A torn one cannot be ended
    /// so that the next can still be read: the file is renamed to `<path>.1`, however many there
    /// are.
    BlankLine,
}

/// One output, shared by all workers. Lines of one batch are never torn apart.
pub struct Sink {
    /// Its number.
    pub nth: usize,
    /// Its place.
    pub place: Place,
    /// Whether records are acknowledged only when they are here.
    pub promised: bool,
    /// Its queue.
    pub queue: Arc<Queue>,
    policy: Arc<Mutex<Policy>>,
    reopened: Arc<AtomicU64>,
}

/// An output that is to be opened.
pub struct Opening {
    /// Its number.
    pub nth: usize,
    /// Its place.
    pub place: Place,
    /// The policy of its files.
    pub policy: Policy,
    /// The thread that compresses old ones.
    pub compressor: Compressor,
    /// Whether records are acknowledged only when they are here.
    pub promised: bool,
    /// Whether there are no others.
    pub alone: bool,
    /// The number of bytes that may wait for it.
    pub limit: usize,
}

impl Sink {
    /// Opens it and begins to write, or says why that cannot be. `closed` is called when the output
    /// will never be read any more.
    ///
    /// Files are appended to, and made (with their directories) when they are not there; files of
    /// hosts when something is written to them. If what would be written makes a file longer than
    /// the policy has it, it is renamed to `<path>.1` before, an older `.1` to `.2`, and so on; the
    /// one beyond `keep` is removed.
    pub fn open(
        opening: Opening,
        pool: &Arc<Pool>,
        closed: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let Opening {
            nth,
            place,
            policy,
            compressor,
            promised,
            alone,
            limit,
        } = opening;
        let queue = Arc::new(Queue::new(limit));
        let policy = Arc::new(Mutex::new(policy));
        let reopened = Arc::new(AtomicU64::new(0));
        let only = match &place {
            Place::Stdout => Some(LogFile::stdout()?),
            Place::File(path) => Some(LogFile::new(path.clone())),
            Place::PerHost(_) => None,
        };
        let writer = Writer {
            nth,
            place: place.clone(),
            policy: policy.clone(),
            compressor,
            promised,
            alone,
            queue: queue.clone(),
            pool: pool.clone(),
            only: only.map(|file| Arc::new(Mutex::new(file))),
            reopened: reopened.clone(),
            closed,
            failing: 0,
            files: HashMap::new(),
            strangers: Strangers::default(),
        };
        let (opened, result) = mpsc::channel();
        thread::Builder::new()
            .name(format!("output-{nth}"))
            .spawn(move || {
                // The worker does not wait for it any more if that took too long.
                let _ = opened.send(writer.begin());
                writer.run();
            })?;
        match result.recv_timeout(OPENS) {
            Ok(result) => result?,
            Err(RecvTimeoutError::Disconnected) => return Err(ErrorKind::Other.into()),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("{place} cannot be opened yet: does its disk hang?");
            }
        }
        Ok(Self {
            nth,
            place,
            promised,
            queue,
            policy,
            reopened,
        })
    }

    /// SIGHUP: files are opened anew at the next write (logrotate has moved them).
    pub fn reopen(&self) {
        self.reopened.fetch_add(1, Relaxed);
    }

    /// Has it keep this policy from its next write on.
    pub fn set_policy(&self, policy: Policy) {
        *queue::lock(&self.policy) = policy;
    }

    /// Returns its policy.
    pub fn policy(&self) -> Policy {
        *queue::lock(&self.policy)
    }

    /// Returns its status.
    pub fn status(&self) -> &Status {
        &self.queue.status
    }
}

impl Writer {
    /// Opens what can be opened before there is something to write.
    fn begin(&self) -> io::Result<()> {
        let Some(only) = &self.only else {
            return probe(&self.place);
        };
        let mut file = queue::lock(only);
        match file.open(&self.policy(), 0) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tracing::warn!("{error}: it is waited for");
                Ok(())
            }
            opened => opened,
        }
    }
}

/// Returns the directory of a place that is to be there before any host is known.
fn directory(place: &Place) -> PathBuf {
    let directory = match place {
        Place::Stdout => None,
        Place::File(path) => path.parent().map(Path::to_owned),
        Place::PerHost(path) => Template::parse(path).ok().and_then(|path| path.directory()),
    };
    match directory {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => ".".into(),
    }
}

/// Finds out whether files can be made in the directory of a place, which is made, too.
fn probe(place: &Place) -> io::Result<()> {
    let directory = directory(place);
    let test = || {
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!(".ncrx-{}", std::process::id()));
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        fs::remove_file(&path)
    };
    test().map_err(|e| at(&directory, "cannot make files there", &e))
}

/// The error, with the file that it is of.
fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
}
