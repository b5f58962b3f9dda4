// SPDX-License-Identifier: GPL-2.0

//! The state of all senders, kept from one run to the next.
//!
//! Each worker has a file of its own. At the start all are merged into one, which stays until the
//! next: a worker's file has only the senders that it has heard, and the kernel may deal them out
//! in another way this time. So a worker claims the state of a sender when it first hears that
//! sender, by its address or by its session.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use foldhash::{HashMap, HashMapExt};
use ncrx::{Resume, Sender, Session};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sink;

/// The silence after which a sender is forgotten.
const FORGET: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time for which what a sender was asked for means something.
const COPIES: Duration = Duration::from_secs(10);
/// The shortest time from one saving of a worker to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// With many senders it takes some time to save: how much of all time that may be.
const SHARE: u32 = 20;
/// The file that all others are merged into at the start.
const MERGED: &str = "merged.json";

/// The version of the format.
const VERSION: u32 = 1;
/// The bytes that each file begins with, and those that its senders are behind.
const BEGINNING: &[u8] = b"{\"version\":";
const LIST: &[u8] = b"\"senders\":[";

/// A file.
#[derive(Default, Deserialize)]
struct Saved {
    version: u32,
    /// When it was, in seconds since 1970. Not in files of earlier versions.
    #[serde(default)]
    saved: u64,
    senders: Vec<Entry>,
}

/// A sender, and the records of it that are written.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    /// The port that it writes to.
    port: u16,
    host: SocketAddr,
    #[serde(flatten)]
    from: Resume,
    /// When it was heard, in seconds since 1970.
    heard: u64,
    /// Whether its address is its name, without the port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    holds: bool,
}

/// The directory, locked, and its senders that no worker has claimed yet. Shared by all workers.
pub struct State {
    directory: PathBuf,
    fsync: bool,
    /// When the last run has last saved, in seconds since 1970; 0 if it is not known.
    saved: u64,
    unclaimed: Mutex<Unclaimed>,
    count: AtomicUsize,
    _lock: Flock<File>,
}

/// The streams of each sender, by the port that it writes to and by its address.
type Senders = HashMap<(u16, SocketAddr), Vec<Entry>>;

/// The senders that no worker has claimed.
#[derive(Default)]
struct Unclaimed {
    senders: Senders,
    by_session: HashMap<(u16, Session), SocketAddr>,
}

/// A sender that another run has heard.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    /// The sender.
    pub host: SocketAddr,
    /// Its session, if it has told one.
    pub session: Option<Session>,
    /// The time since it was heard.
    pub silent: Duration,
    /// Whether its address is its name.
    pub holds: bool,
}

impl State {
    /// Reads all that is there. Of a file that is damaged what can be read is used, and it is put
    /// aside; files that are not ours are left alone.
    pub fn open(directory: &Path, fsync: bool) -> anyhow::Result<Self> {
        let shown = directory.display();
        fs::create_dir_all(directory).with_context(|| format!("cannot make --state {shown}"))?;
        let lock = File::create(directory.join("lock"))
            .with_context(|| format!("cannot write to --state {shown}"))?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
                Errno::EWOULDBLOCK => {
                    anyhow::anyhow!(
                        "--state {shown} is another ncrx's that runs: each needs its own"
                    )
                }
                e => anyhow::anyhow!("cannot lock --state {shown}: {e}"),
            })?;
        let mut files = Vec::new();
        let (mut senders, mut last) = (Senders::new(), 0);
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            if !has_our_name(&path) {
                continue;
            }
            let bytes = fs::read(&path)
                .with_context(|| format!("cannot read {} of --state", path.display()))?;
            if !is_ours(&bytes) {
                if path.ends_with(MERGED) {
                    refuse_foreign(&path)?;
                }
                tracing::warn!("{} is not ncrx's: it is left alone", path.display());
                continue;
            }
            let (saved, damage) = read(&bytes);
            last = last.max(saved.saved);
            let known = saved.senders.len();
            merge(&mut senders, by_sender(saved.senders));
            match damage {
                None => files.push(path),
                Some(e) => {
                    let aside = put_aside(&path)?;
                    tracing::warn!(
                        "{} is damaged ({e}): it is kept as {}. {known} streams could be read of \
                         it; what other senders still have may be written for a second time",
                        path.display(),
                        aside.display()
                    );
                }
            }
        }
        let oldest = unix(SystemTime::now() - FORGET);
        senders.retain(|_, streams| streams.iter().any(|entry| entry.heard >= oldest));
        let merged = directory.join(MERGED);
        let entries: Vec<_> = senders.values().flatten().collect();
        replace(&merged, fsync, last, &entries)
            .with_context(|| format!("cannot write to --state {shown}"))?;
        for path in files.iter().filter(|path| **path != merged) {
            fs::remove_file(path)?;
        }
        let session = |entry: &Entry| Some(((entry.port, entry.from.session()?), entry.host));
        let by_session = entries.into_iter().filter_map(session).collect();
        Ok(Self {
            directory: directory.into(),
            fsync,
            saved: last,
            count: senders.len().into(),
            unclaimed: Mutex::new(Unclaimed {
                senders,
                by_session,
            }),
            _lock: lock,
        })
    }

    /// Returns the error that [`Self::open`] would have, or [`Self::file`] of so many workers, if
    /// they would have one; changes nothing.
    pub fn check(directory: &Path, workers: usize) -> anyhow::Result<()> {
        let lock = sink::check_file(&directory.join("lock"));
        lock.and_then(|()| sink::check_directory(directory))
            .with_context(|| format!("--state {}", directory.display()))?;
        let names = (0..workers).map(worker_name).chain([MERGED.into()]);
        names
            .map(|name| directory.join(name))
            .try_for_each(|path| refuse_foreign(&path))
    }

    /// Returns whether there may be a sender that no worker has claimed.
    pub fn has_unclaimed(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Returns where the streams of a sender go on that writes to this port, and where it was then;
    /// only the first who asks is told.
    pub fn claim(
        &self,
        port: u16,
        host: SocketAddr,
        session: Option<u64>,
    ) -> Vec<(SocketAddr, Resume)> {
        let mut unclaimed = lock(&self.unclaimed);
        let streams = unclaimed.senders.remove(&(port, host)).or_else(|| {
            let host = *unclaimed.by_session.get(&(port, Session(session?)))?;
            unclaimed.senders.remove(&(port, host))
        });
        let streams = streams.unwrap_or_default();
        for session in streams.iter().filter_map(|entry| entry.from.session()) {
            unclaimed.by_session.remove(&(port, session));
        }
        self.count.store(unclaimed.senders.len(), Relaxed);
        drop(unclaimed);
        let lately = unix(SystemTime::now() - COPIES);
        let from = |mut entry: Entry| {
            if entry.heard < lately {
                entry.from.forget_asked();
            }
            (entry.host, entry.from)
        };
        streams.into_iter().map(from).collect()
    }

    /// Returns all senders that no worker has claimed.
    pub fn unclaimed(&self) -> Vec<Former> {
        let now = unix(SystemTime::now());
        let unclaimed = lock(&self.unclaimed);
        let former = |entry: &Entry| Former {
            host: entry.host,
            session: entry.from.session(),
            silent: Duration::from_secs(now.saturating_sub(entry.heard)),
            holds: entry.holds,
        };
        unclaimed.senders.values().flatten().map(former).collect()
    }

    /// Returns the time since anything was saved; [`None`] if that is not known.
    pub fn idle(&self) -> Option<Duration> {
        let now = unix(SystemTime::now());
        (self.saved > 0).then(|| Duration::from_secs(now.saturating_sub(self.saved)))
    }

    /// The file of a worker, whose senders write to this port.
    /// A sender that was not heard since `began` is not in it, for another worker may hear it.
    pub fn file(&self, worker: usize, port: u16, began: Instant) -> anyhow::Result<StateFile> {
        let path = self.directory.join(worker_name(worker));
        refuse_foreign(&path)?;
        Ok(StateFile::new(path, self.fsync, port, began)?)
    }
}

/// The name of a worker's file.
fn worker_name(worker: usize) -> String {
    format!("worker-{worker}.json")
}

/// Returns whether a file has a name that we give.
fn has_our_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let worker = |name: &str| {
        let number = name.strip_prefix("worker-")?.strip_suffix(".json")?;
        // `worker-01.json` is none.
        number
            .parse()
            .ok()
            .filter(|worker| worker_name(*worker) == name)
    };
    name.is_some_and(|name| name == MERGED || worker(name).is_some())
}

/// Returns whether a file of our name is ours, be it damaged: unless it begins with JSON that we do
/// not write.
fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGINNING) || {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
        !matches!(values.next(), Some(Ok(_)))
    }
}

/// Returns an error if the file would be overwritten, and is not ours.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    match fs::read(path) {
        Ok(bytes) if !is_ours(&bytes) => anyhow::bail!(
            "{} is not ncrx's, which would overwrite it: move it, or name another --state",
            path.display()
        ),
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot read {} of --state", path.display()))
        }
        _ => Ok(()),
    }
}

/// Renames a file so that it is not read again, and nothing is overwritten.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let mut names = (0u32..).map(|n| match n {
        0 => path.with_extension("bad"),
        n => path.with_extension(format!("bad.{n}")),
    });
    // No other process makes one meanwhile: the directory is locked.
    let free = names.find(|aside| fs::symlink_metadata(aside).is_err());
    let aside = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// A worker's file, which a thread of its own writes: a disk that hangs keeps no worker waiting.
pub struct StateFile {
    port: u16,
    began: Instant,
    due: Instant,
    to: SyncSender<Vec<Entry>>,
    /// The time that the thread has taken, once it has saved.
    took: mpsc::Receiver<Duration>,
    busy: bool,
}

impl StateFile {
    fn new(path: PathBuf, fsync: bool, port: u16, began: Instant) -> io::Result<Self> {
        let (to, entries) = mpsc::sync_channel(1);
        let (done, took) = mpsc::channel();
        thread::Builder::new()
            .name("state".into())
            .spawn(move || write(&path, fsync, &entries, &done))?;
        Ok(Self {
            port,
            began,
            due: Instant::now(),
            to,
            took,
            busy: false,
        })
    }

    /// Returns when it may be saved again.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Saves these senders; `holds` tells whose address is its name. Returns whether it does: not
    /// while it still saves others.
    pub fn save(
        &mut self,
        senders: impl Iterator<Item = Sender>,
        holds: impl Fn(SocketAddr) -> bool,
    ) -> bool {
        let (began, clock) = (Instant::now(), SystemTime::now());
        self.due = began + INTERVAL;
        if let Ok(took) = self.took.try_recv() {
            self.busy = false;
            self.due = began + INTERVAL.max(took * SHARE);
        }
        if self.busy {
            return false;
        }
        let entry = |sender: Sender| {
            Some(Entry {
                port: self.port,
                host: sender.host,
                from: sender.resume()?,
                heard: unix(clock - began.saturating_duration_since(sender.heard)),
                holds: holds(sender.host),
            })
        };
        let heard = senders.filter(|sender| sender.heard > self.began);
        self.busy = self.to.try_send(heard.filter_map(entry).collect()).is_ok();
        self.due = self.due.max(Instant::now() + began.elapsed() * SHARE);
        self.busy
    }

    /// Saves these at the end, and waits for that, but not for long.
    pub fn save_last(
        &mut self,
        senders: impl Iterator<Item = Sender>,
        holds: impl Fn(SocketAddr) -> bool,
        patience: Duration,
    ) {
        if self.busy && self.took.recv_timeout(patience).is_ok() {
            self.busy = false;
        }
        if !self.save(senders, holds) || self.took.recv_timeout(patience).is_err() {
            tracing::warn!("the last state is not saved: its disk hangs, or cannot be written");
        }
    }
}

/// Writes what comes to a file, for ever. If that is not possible it is said, once.
fn write(
    path: &Path,
    fsync: bool,
    entries: &mpsc::Receiver<Vec<Entry>>,
    done: &mpsc::Sender<Duration>,
) {
    let mut failed = false;
    for senders in entries {
        let began = Instant::now();
        let result = replace(path, fsync, unix(SystemTime::now()), &senders);
        match (&result, failed) {
            (Err(e), false) => tracing::error!(
                "cannot save to {}: {e}. After a restart some records may be written for a second time",
                path.display()
            ),
            (Ok(()), true) => tracing::info!("{} can be saved again", path.display()),
            _ => {}
        }
        failed = result.is_err();
        if done.send(began.elapsed()).is_err() {
            return;
        }
    }
}

fn by_sender(entries: Vec<Entry>) -> Senders {
    let mut senders = Senders::new();
    for entry in entries {
        senders
            .entry((entry.port, entry.host))
            .or_default()
            .push(entry);
    }
    senders
}

/// Returns when a sender was heard last, and how far it had got.
fn rank(streams: &[Entry]) -> impl PartialOrd {
    let heard = streams.iter().map(|entry| entry.heard).max();
    (
        heard.unwrap_or(0),
        streams.iter().map(|entry| entry.from.reach()).max(),
    )
}

/// Takes in another file. The streams of a sender are those of the file that has heard it last,
/// which knew the others; of one session the one that has got further holds. Without sessions a
/// reboot cannot be told, so there the latter holds always.
fn merge(senders: &mut Senders, file: Senders) {
    for (key, mut new) in file {
        let old = senders.entry(key).or_default();
        if rank(&new) > rank(old) {
            std::mem::swap(old, &mut new);
        }
        for entry in old
            .iter_mut()
            .filter(|entry| entry.from.session().is_some())
        {
            let same = new
                .iter()
                .find(|other| other.from.session() == entry.from.session());
            if let Some(further) = same.filter(|other| other.from.reach() > entry.from.reach()) {
                let heard = entry.heard.max(further.heard);
                *entry = further.clone();
                entry.heard = heard;
            }
        }
    }
}

/// Returns what a file of ours has, and how it is damaged, if it is: then that is what can be read.
fn read(bytes: &[u8]) -> (Saved, Option<String>) {
    match serde_json::from_slice::<Saved>(bytes) {
        Ok(saved) if saved.version != VERSION => {
            let damage = format!("it is of version {}", saved.version);
            (Saved::default(), Some(damage))
        }
        Ok(mut saved) => {
            let unsound = saved.senders.iter().find(|entry| !entry.from.is_sound());
            let damage = unsound.map(|e| format!("the numbers of {} are in disorder", e.host));
            saved.senders.retain(|entry| entry.from.is_sound());
            (saved, damage)
        }
        Err(e) => (salvage(bytes), Some(e.to_string())),
    }
}

/// Returns all senders that can be read of a damaged file.
fn salvage(bytes: &[u8]) -> Saved {
    let list = memchr::memmem::find(bytes, LIST);
    let (head, mut rest) = bytes.split_at(list.map_or(bytes.len(), |at| at + LIST.len()));
    // The list that is missing.
    let head = serde_json::from_slice([head, b"]}"].concat().as_slice());
    let Some(mut saved) = head.ok().filter(|head: &Saved| head.version == VERSION) else {
        return Saved::default();
    };
    // Each begins with a brace, and has none within.
    while let Some(at) = memchr::memchr(b'{', rest) {
        rest = &rest[at..];
        let mut entries = serde_json::Deserializer::from_slice(rest).into_iter::<Entry>();
        let entry = entries.next().and_then(Result::ok);
        saved
            .senders
            .extend(entry.filter(|entry| entry.from.is_sound()));
        rest = &rest[entries.byte_offset().max(1)..];
    }
    saved
}

/// Writes a new file and puts it in the place of the old one: there is always a whole one.
fn replace(path: &Path, fsync: bool, saved: u64, senders: &[impl Serialize]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Saving<'a, T> {
        version: u32,
        saved: u64,
        senders: &'a [T],
    }
    let new = path.with_extension("new");
    let mut file = BufWriter::new(File::create(&new)?);
    let saving = Saving {
        version: VERSION,
        saved,
        senders,
    };
    serde_json::to_writer(&mut file, &saving)?;
    file.write_all(b"\n")?;
    let file = file.into_inner()?;
    if fsync {
        file.sync_all()?;
    }
    fs::rename(new, path)?;
    match path.parent() {
        Some(directory) if fsync => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
