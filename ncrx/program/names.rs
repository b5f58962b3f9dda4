// SPDX-License-Identifier: GPL-2.0

//! Names of senders in the output: given ones, or addresses.
//!
//! Senders at one address, behind a NAT, have different ports. One of them is called by the address
//! alone, for most are alone and their ports tell nobody anything; others have their port behind
//! it. The first that is heard has it, until another one there has more evidence for it: a stray or
//! forged datagram has none. A sender that has been silent for [`SILENT`] yields it to one that has
//! come to have as much: it has been started anew. A session that goes on from another port of the
//! same address keeps the name of that.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use lru::LruCache;
use ncrx::{Session, Standing};
use std::net::SocketAddr;

use crate::addr::{parse, Address};

/// The silence of a sender after which another one that has as much evidence takes over its name.
const SILENT: Duration = Duration::from_secs(60);

/// The time for which a sender has to have been heard to be more than a stray datagram.
const LASTING: Duration = Duration::from_secs(10);

/// The most senders that are remembered, of all that were ever heard.
const SENDERS: NonZeroUsize = NonZeroUsize::new(1 << 18).unwrap();

/// Names that are given: by address, or by address and port.
#[derive(Debug, Default)]
pub struct Given {
    addresses: HashMap<Address, String>,
    senders: HashMap<SocketAddr, String>,
}

impl Given {
    /// Reads a file in the format of `/etc/hosts`: an address, its name, other names. The first
    /// name of an address is taken. An address may have a port.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut given = Self::default();
        for (nth, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next() else {
                continue;
            };
            let entry = parse(address).zip(words.next());
            // The name may become a part of a path.
            let Some(((address, port), name)) = entry.filter(|(_, name)| !name.contains('/'))
            else {
                let what = format!("line {}: an address and a name are expected", nth + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            let slot = match port {
                Some(port) => given.senders.entry(address.with_port(port)).or_default(),
                None => given.addresses.entry(address).or_default(),
            };
            if slot.is_empty() {
                slot.push_str(name);
            }
        }
        Ok(given)
    }

    /// Returns all names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.addresses.values().chain(self.senders.values());
        all.map(String::as_str)
    }

    /// Returns the addresses that have this name, with or without a port.
    pub fn addresses(&self, name: &str) -> Vec<(Address, Option<u16>)> {
        let named = |given: &&String| *given == name;
        let addresses = self.addresses.iter().filter(|(_, given)| named(given));
        let senders = self.senders.iter().filter(|(_, given)| named(given));
        let senders = senders.map(|(at, _)| (Address::of(*at), Some(at.port())));
        addresses
            .map(|(at, _)| (*at, None))
            .chain(senders)
            .collect()
    }
}

/// The evidence for a sender, more is greater: its [`Standing`], and whether it was heard for long.
type Rank = (u8, bool);

/// A sender with its name.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: Arc<str>,
    /// When it was first and last heard, in milliseconds since the names were made; [`None`] if it
    /// is of another run.
    since: Option<u64>,
    heard: AtomicU64,
    /// The most of its standings.
    standing: AtomicU8,
}

impl Named {
    fn new(name: String, since: Option<u64>, standing: Standing) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            since,
            heard: since.unwrap_or(0).into(),
            standing: (standing as u8).into(),
        })
    }

    fn renamed(&self, name: String) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            since: self.since,
            heard: self.heard.load(Relaxed).into(),
            standing: self.standing.load(Relaxed).into(),
        })
    }

    /// Returns the evidence for it, if it is heard then with this standing.
    fn rank(&self, standing: Standing, heard: u64) -> Rank {
        let lasts = |since| heard.saturating_sub(since) >= LASTING.as_millis() as u64;
        let standing = self.standing.load(Relaxed).max(standing as u8);
        let lasts = self.since.is_none_or(lasts) || standing == Standing::Proven as u8;
        (standing, lasts)
    }

    fn rank_so_far(&self) -> Rank {
        self.rank(Standing::Stranger, self.heard.load(Relaxed))
    }

    fn hear(&self, standing: Standing, now: u64) {
        self.heard.store(now, Relaxed);
        self.standing.fetch_max(standing as u8, Relaxed);
    }
}

/// Names of all senders. Shared by all workers.
#[derive(Debug)]
pub struct Names {
    began: Instant,
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// Changes whenever a name does.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Known {
    given: Arc<Given>,
    senders: LruCache<SocketAddr, Arc<Named>, foldhash::fast::RandomState>,
    /// The port that has the name of an address to itself.
    holders: HashMap<Address, u16>,
    /// The names that senders have given themselves (`--host-key`).
    claimed: LruCache<SocketAddr, String, foldhash::fast::RandomState>,
    /// The senders from which sessions were last heard.
    sessions: LruCache<Session, SocketAddr, foldhash::fast::RandomState>,
}

impl Names {
    /// Reads the names of this file.
    pub fn new(file: Option<&Path>) -> io::Result<Self> {
        let given = file.map_or(Ok(Given::default()), Given::read)?;
        let random = foldhash::fast::RandomState::default();
        Ok(Self {
            began: Instant::now(),
            file: file.map(Path::to_owned),
            known: Mutex::new(Known {
                given: Arc::new(given),
                senders: LruCache::with_hasher(SENDERS, random),
                holders: HashMap::new(),
                claimed: LruCache::with_hasher(SENDERS, random),
                sessions: LruCache::with_hasher(SENDERS, random),
            }),
            generation: AtomicU64::new(0),
        })
    }

    /// Reads the file again, and takes its names if they suit.
    pub fn reload(&self, suits: impl Fn(&Given) -> io::Result<()>) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let given = Arc::new(Given::read(file)?);
        suits(&given)?;
        let mut known = self.known();
        known.given = given;
        let senders: Vec<_> = known.senders.iter().map(|(sender, _)| *sender).collect();
        senders.into_iter().for_each(|sender| known.rename(sender));
        self.generation.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Returns the names that are given.
    pub fn given(&self) -> Arc<Given> {
        self.known().given.clone()
    }

    /// Returns whether names are still as they were at this generation, and sets it to the one of
    /// now.
    pub fn are_as_at(&self, generation: &mut u64) -> bool {
        let now = self.generation.load(Relaxed);
        std::mem::replace(generation, now) == now
    }

    /// Returns the name of a sender that is heard now.
    pub fn name(
        &self,
        sender: SocketAddr,
        session: Option<Session>,
        standing: Standing,
        now: Instant,
    ) -> Arc<Named> {
        let now = self.since_began(now);
        let mut known = self.known();
        let mut changed = known.follow(sender, session);
        let before = match known.senders.get(&sender) {
            Some(named) => {
                let before = named.rank_so_far();
                named.hear(standing, now);
                Some(before)
            }
            None => {
                let named = Named::new(String::new(), Some(now), standing);
                known.senders.put(sender, named);
                known.rename(sender);
                None
            }
        };
        changed |= known.claim(sender, before, now);
        if changed {
            self.generation.fetch_add(1, Relaxed);
        }
        let named = known.senders.get(&sender).cloned();
        named.unwrap_or_else(|| Named::new(known.called(sender, None), Some(now), standing))
    }

    /// Calls a sender what it calls itself, unless a name is given to it.
    pub fn call(&self, sender: SocketAddr, name: &str) {
        let mut known = self.known();
        known.claimed.put(sender, name.to_owned());
        known.rename(sender);
        self.generation.fetch_add(1, Relaxed);
    }

    /// Returns the name that a sender has, or would have.
    pub fn look_up(&self, sender: SocketAddr) -> String {
        let known = self.known();
        match known.senders.peek(&sender) {
            Some(named) => named.name.to_string(),
            None => known.called(sender, known.holders.get(&Address::of(sender)).copied()),
        }
    }

    /// Takes note that a sender has been heard again. Returns whether that makes its name worth
    /// another look, by [`Self::name`].
    pub fn heard(&self, named: &Named, standing: Standing, now: Instant) -> bool {
        let now = self.since_began(now);
        let rises = named.rank(standing, now) > named.rank_so_far();
        if !rises {
            named.heard.store(now, Relaxed);
        }
        rises
    }

    /// Gives a sender of another run the name of its address, if no other has it yet.
    pub fn hold(&self, sender: SocketAddr, session: Option<Session>) {
        let mut known = self.known();
        let holder = known.holders.entry(Address::of(sender));
        if *holder.or_insert(sender.port()) == sender.port() {
            let standing = match session {
                Some(_) => Standing::Proven,
                None => Standing::Stranger,
            };
            // It may go on from another port.
            session.map(|session| known.sessions.put(session, sender));
            known
                .senders
                .put(sender, Named::new(String::new(), None, standing));
            known.rename(sender);
        }
    }

    /// Returns whether this sender has the name of its address.
    pub fn holds(&self, sender: SocketAddr) -> bool {
        self.known().holders.get(&Address::of(sender)) == Some(&sender.port())
    }

    fn since_began(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Moves the name of the address to this sender if its session was heard from another port of
    /// the address, and had that name; returns whether it does.
    fn follow(&mut self, sender: SocketAddr, session: Option<Session>) -> bool {
        let before = session.and_then(|session| self.sessions.put(session, sender));
        let address = Address::of(sender);
        let before = before.filter(|before| *before != sender && Address::of(*before) == address);
        let holder = self.holders.get_mut(&address);
        // A name with a port in it would tell a lie.
        let holder = holder
            .zip(before)
            .filter(|(port, before)| **port == before.port());
        let Some((port, before)) = holder else {
            return false;
        };
        *port = sender.port();
        let named = self.senders.pop(&before);
        named.map(|named| self.senders.put(sender, named));
        self.rename(sender);
        true
    }

    /// Gives a sender whose evidence was less before the name of its address, if that is more than
    /// the evidence for the one that has it. Returns whether that one has lost it.
    fn claim(&mut self, sender: SocketAddr, before: Option<Rank>, now: u64) -> bool {
        let address = Address::of(sender);
        let holder = self.holders.get(&address).copied();
        let former = holder.map(|port| address.with_port(port));
        let Some(rank) = self.senders.peek(&sender).map(|named| named.rank_so_far()) else {
            return false;
        };
        let rises = before.is_none_or(|before| rank > before);
        let keeps = |holder: &Arc<Named>| {
            let silence = now.saturating_sub(holder.heard.load(Relaxed));
            let rests = silence >= SILENT.as_millis() as u64;
            let least = holder.rank_so_far();
            !(rank > least || rises && rests && rank == least)
        };
        let named = former.and_then(|former| self.senders.peek(&former));
        if former == Some(sender) || named.is_some_and(keeps) {
            return false;
        }
        self.holders.insert(address, sender.port());
        if self.holders.len() > 2 * SENDERS.get() {
            let senders = &self.senders;
            self.holders
                .retain(|address, port| senders.contains(&address.with_port(*port)));
        }
        former
            .into_iter()
            .chain([sender])
            .for_each(|sender| self.rename(sender));
        former.is_some()
    }

    /// Gives a sender that is known the name that it has by now.
    fn rename(&mut self, sender: SocketAddr) {
        let holder = self.holders.get(&Address::of(sender)).copied();
        let name = self.called(sender, holder);
        if let Some(named) = self.senders.peek_mut(&sender) {
            *named = named.renamed(name);
        }
    }

    fn called(&self, sender: SocketAddr, holder: Option<u16>) -> String {
        if let Some(name) = self.given.senders.get(&sender) {
            return name.clone();
        }
        let address = Address::of(sender);
        let given = self.given.addresses.get(&address);
        let given = given.or_else(|| {
            self.given
                .addresses
                .get(&Address::of((address.ip(), 0).into()))
        });
        if let (None, Some(name)) = (given, self.claimed.peek(&sender)) {
            return name.clone();
        }
        let port = holder.filter(|holder| *holder != sender.port());
        match (given, port) {
            (Some(name), None) => name.clone(),
            (Some(name), Some(_)) => format!("{name}:{}", sender.port()),
            (None, None) => address.to_string(),
            (None, Some(_)) if sender.is_ipv6() => format!("[{address}]:{}", sender.port()),
            (None, Some(_)) => format!("{address}:{}", sender.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Standing::{Proven, Stranger};

    /// Returns what names senders at ports of an address, at a time in seconds.
    fn namer(names: &Names) -> impl Fn(u16, Standing, u64) -> String + '_ {
        |port, standing, seconds| {
            let now = names.began + Duration::from_secs(seconds);
            let sender = ([10, 0, 0, 2], port).into();
            names.name(sender, None, standing, now).name.to_string()
        }
    }

    #[test]
    fn senders_at_one_address_are_told_apart() {
        let names = Names::new(None).unwrap();
        let name = namer(&names);
        for standing in [Stranger, Proven] {
            let [one, two, three] = [1, 2, 3].map(|port| port + 10 * standing as u16);
            let at = |seconds| 1_000_000 * (standing as u64) + seconds;
            assert_eq!(name(one, standing, at(0)), "10.0.0.2");
            assert_eq!(name(two, standing, at(1)), format!("10.0.0.2:{two}"));
            assert_eq!(name(one, standing, at(15)), "10.0.0.2");
            assert_eq!(name(two, standing, at(16)), format!("10.0.0.2:{two}"));
            // However long they are silent.
            assert_eq!(name(two, standing, at(10_000)), format!("10.0.0.2:{two}"));
            assert_eq!(name(one, standing, at(20_000)), "10.0.0.2");
            let mut generation = 0;
            names.are_as_at(&mut generation);
            // One is not heard any more, but another: it has been started anew.
            name(three, standing, at(30_000));
            assert_eq!(name(three, standing, at(30_010)), "10.0.0.2");
            assert!(!names.are_as_at(&mut generation));
            assert_eq!(name(one, standing, at(30_011)), format!("10.0.0.2:{one}"));
            assert_eq!(name(two, standing, at(30_012)), format!("10.0.0.2:{two}"));
        }
    }

    #[test]
    fn a_stray_datagram_takes_no_name() {
        let names = Names::new(None).unwrap();
        let name = namer(&names);
        // It is the first, and the real one comes: by its session, by its proof, or since it stays.
        assert_eq!(name(1, Stranger, 0), "10.0.0.2");
        assert_eq!(name(2, Stranger, 1), "10.0.0.2:2");
        assert_eq!(name(2, Stranger, 11), "10.0.0.2");
        assert_eq!(name(1, Stranger, 12), "10.0.0.2:1");
        assert_eq!(name(3, Standing::Named, 13), "10.0.0.2");
        assert_eq!(name(4, Standing::Named, 14), "10.0.0.2:4");
        assert_eq!(name(4, Proven, 24), "10.0.0.2");
        // However long it is silent then.
        assert_eq!(name(5, Stranger, 100_000), "10.0.0.2:5");
        assert_eq!(name(5, Standing::Named, 100_001), "10.0.0.2:5");
        assert_eq!(name(4, Standing::Named, 100_002), "10.0.0.2");
    }

    #[test]
    fn what_another_run_knew_keeps_its_name() {
        let names = Names::new(None).unwrap();
        names.hold(([10, 0, 0, 2], 1).into(), Some(Session(7)));
        let name = namer(&names);
        assert_eq!(name(2, Stranger, 100), "10.0.0.2:2");
        assert_eq!(name(2, Standing::Named, 101), "10.0.0.2:2");
        assert_eq!(name(1, Standing::Named, 102), "10.0.0.2");
        // It goes on from another port.
        let named = names.name(
            ([10, 0, 0, 2], 3).into(),
            Some(Session(7)),
            Standing::Named,
            names.began,
        );
        assert_eq!(&*named.name, "10.0.0.2");
    }

    #[test]
    fn a_session_keeps_its_name_when_it_moves() {
        let names = Names::new(None).unwrap();
        let [one, two, three] = [17001, 17002, 17003].map(|port| ([10, 0, 0, 2], port).into());
        let name = |sender, session| {
            let named = names.name(sender, Some(Session(session)), Standing::Named, names.began);
            named.name.to_string()
        };
        assert_eq!(name(one, 1), "10.0.0.2");
        assert_eq!(name(two, 2), "10.0.0.2:17002");
        assert_eq!(name(three, 1), "10.0.0.2");
        assert_eq!(name(one, 2), "10.0.0.2:17001");
        assert_eq!(name(two, 3), "10.0.0.2:17002");
        assert!(names.holds(three));
        // At another address it is another machine, or one that has another name now.
        let other = ([10, 0, 0, 3], 17001).into();
        assert_eq!(name(other, 1), "10.0.0.3");
    }

    #[test]
    fn names_are_given_to_addresses_and_ports() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hosts = "10.0.0.2 nat nat.example # a gateway\n10.0.0.2:40002 web2\nfe80::1%lo link\n";
        std::fs::write(file.path(), hosts).unwrap();
        let names = Names::new(Some(file.path())).unwrap();
        let name = |text: &str| {
            let (address, port) = parse(text).unwrap();
            let sender = address.with_port(port.unwrap_or(6665));
            let named = names.name(sender, None, Standing::Stranger, names.began);
            named.name.to_string()
        };
        assert_eq!(name("10.0.0.2:40001"), "nat");
        assert_eq!(name("10.0.0.2:40002"), "web2");
        assert_eq!(name("10.0.0.2:40003"), "nat:40003");
        assert_eq!(name("fe80::1%lo"), "link");
        assert_eq!(name("fe80::1%7777"), "fe80::1%7777");
        std::fs::write(file.path(), "10.0.0.2 other\n").unwrap();
        names.reload(|_| Ok(())).unwrap();
        assert_eq!(name("10.0.0.2:40001"), "other");
        std::fs::write(file.path(), "nonsense\n").unwrap();
        let error = names.reload(|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("line 1"));
    }
}
