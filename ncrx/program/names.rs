// SPDX-License-Identifier: GPL-2.0

//! Names of senders in the output: given ones, or addresses.
//!
//! Senders at one address, behind a NAT, have different ports. The first that is heard there is
//! called by the address alone, for most are alone and their ports tell nobody anything. Others
//! have their port behind it, from when they are heard for as long as they are known. A new sender
//! takes over the name of one that has been silent for [`SILENT`]: it has been started anew. A
//! session that goes on from another port of the same address keeps the name of that.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use lru::LruCache;
use ncrx::Session;
use std::net::SocketAddr;

use crate::addr::{parse, Address};

/// The silence of a sender after which another one takes over its address's name.
const SILENT: Duration = Duration::from_secs(60);

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

/// A sender with its name.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: Arc<str>,
    /// When it was last heard, in milliseconds since the names were made.
    heard: AtomicU64,
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
        known.senders.clear();
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
    pub fn name(&self, sender: SocketAddr, session: Option<Session>, now: Instant) -> Arc<Named> {
        let now = self.since_began(now);
        let mut known = self.known();
        if known.follow(sender, session) {
            self.generation.fetch_add(1, Relaxed);
        }
        if let Some(named) = known.senders.get(&sender) {
            named.heard.store(now, Relaxed);
            return named.clone();
        }
        let (name, changed) = known.find(sender, now);
        if changed {
            self.generation.fetch_add(1, Relaxed);
        }
        let named = Arc::new(Named {
            name: name.into(),
            heard: now.into(),
        });
        known.senders.put(sender, named.clone());
        named
    }

    /// Returns the name that a sender has, or would have.
    pub fn look_up(&self, sender: SocketAddr) -> String {
        let known = self.known();
        match known.senders.peek(&sender) {
            Some(named) => named.name.to_string(),
            None => known.called(sender, known.holders.get(&Address::of(sender)).copied()),
        }
    }

    /// Takes note that a sender has been heard again.
    pub fn heard(&self, named: &Named, now: Instant) {
        named.heard.store(self.since_began(now), Relaxed);
    }

    /// Gives a sender of another run the name of its address, if no other has it yet.
    pub fn hold(&self, sender: SocketAddr) {
        let mut known = self.known();
        let holder = known.holders.entry(Address::of(sender));
        holder.or_insert(sender.port());
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
        true
    }

    /// Returns the name of a sender that is not known, and whether another one has lost it.
    fn find(&mut self, sender: SocketAddr, now: u64) -> (String, bool) {
        let address = Address::of(sender);
        let holder = self.holders.get(&address).copied();
        let rests = |port: u16| {
            let holder = self.senders.peek(&address.with_port(port));
            // One of another run has been heard when this began, so to say.
            let heard = holder.map_or(0, |holder| holder.heard.load(Relaxed));
            now.saturating_sub(heard) >= SILENT.as_millis() as u64
        };
        match holder {
            Some(port) if port != sender.port() && !rests(port) => {
                (self.called(sender, Some(port)), false)
            }
            holder => {
                self.holders.insert(address, sender.port());
                if self.holders.len() > 2 * SENDERS.get() {
                    let senders = &self.senders;
                    self.holders
                        .retain(|address, port| senders.contains(&address.with_port(*port)));
                }
                let other = holder.filter(|port| *port != sender.port());
                let former = other.and_then(|port| self.senders.pop(&address.with_port(port)));
                (self.called(sender, Some(sender.port())), former.is_some())
            }
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

    #[test]
    fn senders_at_one_address_are_told_apart() {
        let names = Names::new(None).unwrap();
        let [one, two, three] = [40001, 40002, 40003].map(|port| ([10, 0, 0, 2], port).into());
        let at = |seconds| names.began + Duration::from_secs(seconds);
        let name = |sender, seconds| names.name(sender, None, at(seconds)).name.to_string();
        assert_eq!(name(one, 0), "10.0.0.2");
        assert_eq!(name(two, 1), "10.0.0.2:40002");
        assert_eq!(name(one, 2), "10.0.0.2");
        // However long they are silent.
        assert_eq!(name(two, 10_000), "10.0.0.2:40002");
        assert_eq!(name(one, 20_000), "10.0.0.2");
        let mut generation = 0;
        assert!(names.are_as_at(&mut generation));
        // One is not heard any more, but another: it has been started anew.
        assert_eq!(name(three, 30_000), "10.0.0.2");
        assert!(!names.are_as_at(&mut generation));
        assert_eq!(name(one, 30_001), "10.0.0.2:40001");
        assert_eq!(name(two, 30_002), "10.0.0.2:40002");
    }

    #[test]
    fn a_session_keeps_its_name_when_it_moves() {
        let names = Names::new(None).unwrap();
        let [one, two, three] = [17001, 17002, 17003].map(|port| ([10, 0, 0, 2], port).into());
        let name = |sender, session| {
            let named = names.name(sender, Some(Session(session)), names.began);
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
            names.name(sender, None, names.began).name.to_string()
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
