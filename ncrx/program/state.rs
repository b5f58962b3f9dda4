// SPDX-License-Identifier: GPL-2.0

//! What has been received, kept from one run to the next.
//!
//! Each worker has a file of its own. At the start all are merged into one, which stays until the
//! next: a worker's file has only whom that worker has heard, and the kernel may deal the senders
//! out in another way this time.

use std::collections::hash_map::Entry as Slot;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use foldhash::HashMap;
use ncrx::{Numbers, Resume, Sender, Session};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// What was not heard for so long is forgotten.
const FORGET: Duration = Duration::from_secs(30 * 24 * 3600);
/// For how long what a sender was asked for means something: see [`Sender::asked`].
const COPIES: Duration = Duration::from_secs(10);
/// How often a worker saves, at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// With many senders it takes some time to save: how much of all time that may be.
const SHARE: u32 = 20;
/// What all files had at the start.
const MERGED: &str = "merged.json";

/// A file.
#[derive(Deserialize, Serialize)]
struct Saved {
    version: u32,
    senders: Vec<Entry>,
}

/// Up to where a sender's records are written.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    /// The port that it writes to.
    port: u16,
    host: SocketAddr,
    session: Option<u64>,
    settled: Option<u64>,
    usec: u64,
    /// What is written beyond that, while something between is missing: first and last numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    beyond: Vec<(u64, u64)>,
    /// What was passed over before that, and may come if a session is told: first and last numbers,
    /// and a clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    passed: Vec<(u64, u64, Option<u64>)>,
    /// The first and last number that it may have been asked for lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<(u64, u64)>,
    /// Whether the last of all has no clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    clockless: bool,
    #[serde(default)]
    last_usec: u64,
    /// Not in files of earlier versions.
    #[serde(default)]
    newest_usec: u64,
    /// When it was heard, in seconds since 1970.
    heard: u64,
}

impl Entry {
    /// How far it has got. What is settled may go back when it turns out that something is to come
    /// after all.
    fn reach(&self) -> (Option<u64>, Option<u64>) {
        let beyond = self.beyond.last().map(|&(_, last)| last);
        (beyond.max(self.settled), self.settled)
    }

    /// Whether its numbers are in order: no others are ever saved.
    fn is_sound(&self) -> bool {
        let ascend = |ranges: &[(u64, u64)]| {
            let apart = ranges.windows(2).all(|two| two[0].1 < two[1].0);
            apart && ranges.iter().all(|&(first, last)| first <= last)
        };
        let passed: Vec<_> = (self.passed.iter().map(|&(first, last, _)| (first, last))).collect();
        let settled_last = passed
            .last()
            .is_none_or(|&(_, last)| Some(last) <= self.settled);
        let beyond_settled =
            (self.beyond.first()).is_none_or(|&(first, _)| Some(first) > self.settled);
        ascend(&self.beyond) && ascend(&passed) && settled_last && beyond_settled
    }
}

/// The directory, locked.
pub struct State {
    directory: PathBuf,
    fsync: bool,
    entries: Vec<Entry>,
    _lock: Flock<File>,
}

impl State {
    /// Reads all that is there. A file that cannot be read is put aside.
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
        let mut entries = HashMap::default();
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(saved) => saved
                    .into_iter()
                    .for_each(|entry| merge(&mut entries, entry)),
                Err(e) => {
                    let aside = path.with_extension("bad");
                    fs::rename(&path, &aside)?;
                    tracing::warn!(
                        "{} cannot be understood ({e}): it is put aside as {}; what its senders \
                         still have may be written for a second time",
                        path.display(),
                        aside.display()
                    );
                    continue;
                }
            }
            files.push(path);
        }
        let oldest = unix(SystemTime::now() - FORGET);
        let entries = entries
            .into_values()
            .filter(|entry| entry.heard >= oldest)
            .collect();
        let state = Self {
            directory: directory.into(),
            fsync,
            entries,
            _lock: lock,
        };
        let merged = directory.join(MERGED);
        replace(&merged, fsync, state.entries.clone())
            .with_context(|| format!("cannot write to --state {shown}"))?;
        for path in files.iter().filter(|path| **path != merged) {
            fs::remove_file(path)?;
        }
        Ok(state)
    }

    /// Where the senders that write to this port go on.
    pub fn resume(&self, port: u16) -> impl Iterator<Item = (SocketAddr, Resume)> + '_ {
        let lately = unix(SystemTime::now() - COPIES);
        self.entries
            .iter()
            .filter(move |entry| entry.port == port)
            .map(move |entry| {
                let asked = entry.asked.filter(|_| entry.heard >= lately);
                let numbers = |&(first, last): &(u64, u64)| Numbers { first, last };
                (
                    entry.host,
                    Resume {
                        session: entry.session.map(Session),
                        settled: entry.settled,
                        usec: entry.usec,
                        beyond: entry.beyond.iter().map(numbers).collect(),
                        passed: (entry.passed.iter())
                            .map(|&(first, last, usec)| (Numbers { first, last }, usec))
                            .collect(),
                        asked: asked.as_ref().map(numbers),
                        clockless: entry.clockless,
                        last_usec: entry.last_usec,
                        newest_usec: entry.newest_usec,
                    },
                )
            })
    }

    /// The file of a worker, whose senders write to this port.
    /// Who has not been heard since `began` is not in it, for some other worker may hear him.
    pub fn file(&self, worker: usize, port: u16, began: Instant) -> StateFile {
        StateFile {
            path: self.directory.join(format!("worker-{worker}.json")),
            fsync: self.fsync,
            port,
            began,
            due: Instant::now(),
            failed: false,
        }
    }
}

/// A worker's file.
pub struct StateFile {
    path: PathBuf,
    fsync: bool,
    port: u16,
    began: Instant,
    due: Instant,
    failed: bool,
}

impl StateFile {
    /// When it may be saved again.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Saves these senders. If that is not possible it is said, once.
    pub fn save(&mut self, senders: impl Iterator<Item = Sender>) {
        let (began, clock) = (Instant::now(), SystemTime::now());
        let numbers = |numbers: &Numbers| (numbers.first, numbers.last);
        let entry = |sender: Sender| {
            let from = sender.resume()?;
            Some(Entry {
                port: self.port,
                host: sender.host,
                session: from.session.map(|session| session.0),
                settled: from.settled,
                usec: from.usec,
                beyond: from.beyond.iter().map(numbers).collect(),
                passed: (from.passed.iter())
                    .map(|(n, usec)| (n.first, n.last, *usec))
                    .collect(),
                asked: from.asked.as_ref().map(numbers),
                clockless: from.clockless,
                last_usec: from.last_usec,
                newest_usec: from.newest_usec,
                heard: unix(clock - began.saturating_duration_since(sender.heard)),
            })
        };
        let heard = senders.filter(|sender| sender.heard > self.began);
        let result = replace(&self.path, self.fsync, heard.filter_map(entry).collect());
        let now = Instant::now();
        self.due = now + INTERVAL.max((now - began) * SHARE);
        match (result, self.failed) {
            (Err(e), false) => tracing::error!(
                "cannot save to {}: {e}. After a restart some records may be written for a second time",
                self.path.display()
            ),
            (Ok(()), true) => tracing::info!("{} can be saved again", self.path.display()),
            (result, _) => return self.failed = result.is_err(),
        }
        self.failed = !self.failed;
    }
}

/// Of two of the same session the one that has got further, else the one that was heard last.
/// Without sessions a reboot cannot be told, so there the latter holds always.
fn merge(entries: &mut HashMap<(u16, SocketAddr), Entry>, new: Entry) {
    match entries.entry((new.port, new.host)) {
        Slot::Vacant(slot) => drop(slot.insert(new)),
        Slot::Occupied(mut slot) => {
            let old = slot.get_mut();
            let same = old.session.is_some() && old.session == new.session;
            let further = new.reach() > old.reach();
            let heard = old.heard.max(new.heard);
            if if same {
                further
            } else {
                (new.heard, further) > (old.heard, false)
            } {
                *old = new;
            }
            if same {
                old.heard = heard;
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let saved: Saved = serde_json::from_slice(&fs::read(path)?)?;
    anyhow::ensure!(saved.version == 1, "it is of version {}", saved.version);
    if let Some(entry) = saved.senders.iter().find(|entry| !entry.is_sound()) {
        anyhow::bail!("the numbers of {} are in disorder", entry.host);
    }
    Ok(saved.senders)
}

/// Writes a new file and puts it in the place of the old one: there is always a whole one.
fn replace(path: &Path, fsync: bool, senders: Vec<Entry>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = BufWriter::new(File::create(&new)?);
    serde_json::to_writer(
        &mut file,
        &Saved {
            version: 1,
            senders,
        },
    )?;
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

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(session: Option<u64>, settled: u64, heard: u64) -> Entry {
        let host = "10.0.0.1:6665".parse().unwrap();
        Entry {
            port: 6666,
            host,
            session,
            settled: Some(settled),
            usec: settled,
            beyond: Vec::new(),
            passed: Vec::new(),
            asked: None,
            clockless: false,
            last_usec: settled,
            newest_usec: settled,
            heard,
        }
    }

    fn merged(all: &[Entry]) -> Entry {
        let mut entries = HashMap::default();
        all.iter()
            .for_each(|entry| merge(&mut entries, entry.clone()));
        assert_eq!(entries.len(), 1);
        entries.into_values().next().unwrap()
    }

    #[test]
    fn furthest_of_a_session() {
        let (far, late) = (entry(Some(1), 9, 100), entry(Some(1), 5, 200));
        for all in [[far.clone(), late.clone()], [late, far]] {
            assert_eq!(merged(&all), entry(Some(1), 9, 200));
        }
    }

    #[test]
    fn latest_of_two_sessions() {
        for session in [None, Some(2)] {
            let (old, new) = (entry(session.map(|_| 1), 9, 100), entry(session, 5, 200));
            for all in [[old.clone(), new.clone()], [new.clone(), old]] {
                assert_eq!(merged(&all), new);
            }
        }
    }

    #[test]
    fn what_has_gone_back_in_a_session_may_have_got_further() {
        let mut late = entry(Some(1), 5, 200);
        late.beyond = vec![(8, 12)];
        let far = entry(Some(1), 9, 100);
        for all in [[far.clone(), late.clone()], [late.clone(), far]] {
            assert_eq!(merged(&all), late);
        }
    }

    #[test]
    fn a_file_in_disorder_is_put_aside() {
        let good = Entry {
            beyond: vec![(11, 12), (14, 14)],
            passed: vec![(1, 2, None), (4, 9, Some(7))],
            ..entry(Some(1), 9, unix(SystemTime::now()))
        };
        let with = |change: fn(&mut Entry)| {
            let mut entry = good.clone();
            change(&mut entry);
            entry
        };
        let bad = [
            with(|entry| entry.beyond = vec![(12, 11)]),
            with(|entry| entry.beyond = vec![(11, 14), (14, 15)]),
            with(|entry| entry.beyond = vec![(9, 12)]),
            with(|entry| entry.passed = vec![(4, 9, None), (1, 2, None)]),
            with(|entry| entry.passed = vec![(1, 10, None)]),
        ];
        for (entry, sound) in bad.into_iter().map(|bad| (bad, 0)).chain([(good, 1)]) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("worker-0.json");
            replace(&path, false, vec![entry.clone()]).unwrap();
            let state = State::open(directory.path(), false).unwrap();
            assert_eq!(state.resume(6666).count(), sound, "{entry:?}");
            assert_eq!(path.with_extension("bad").exists(), sound == 0, "{entry:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_soon_forgotten() {
        let now = unix(SystemTime::now());
        for (heard, known) in [(now, true), (now - 60, false)] {
            let directory = tempfile::tempdir().unwrap();
            let entry = Entry {
                asked: Some((3, 4)),
                ..entry(None, 9, heard)
            };
            replace(&directory.path().join("worker-0.json"), false, vec![entry]).unwrap();
            let state = State::open(directory.path(), false).unwrap();
            let (_, from) = state.resume(6666).next().unwrap();
            assert_eq!(from.asked.is_some(), known);
        }
    }
}
