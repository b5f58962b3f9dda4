// SPDX-License-Identifier: GPL-2.0

//! Hosts that should be heard (`--expect`).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};

use crate::addr::{parse, Address};
use crate::names::Given;

/// The time from one look-up of a name to the next, at first and at last.
const RESOLVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// All hosts that should be heard. Shared by all workers.
#[derive(Debug)]
pub struct Expect {
    began: Instant,
    after: Duration,
    file: PathBuf,
    hosts: RwLock<Arc<Hosts>>,
    /// When senders were heard in another run, in milliseconds since this one began; and for how
    /// long no run has listened in between.
    former: Mutex<(HashMap<Address, i64>, i64)>,
    /// Wakes the thread that looks up names.
    resolve: Mutex<Option<Sender<()>>>,
}

/// The hosts of one reading of the file.
#[derive(Debug, Default)]
pub struct Hosts {
    hosts: Vec<Arc<Host>>,
    addresses: HashMap<Address, usize>,
    senders: HashMap<SocketAddr, usize>,
    /// Names whose addresses are not known yet.
    unknown: Vec<usize>,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// When it was last heard, in milliseconds since this run began; by another run if that is less
    /// than 0.
    heard: AtomicI64,
    missing: AtomicBool,
    /// Whether the log says that its address is not known.
    sought: AtomicBool,
}

impl Host {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            heard: 0.into(),
            missing: false.into(),
            sought: false.into(),
        })
    }
}

impl Hosts {
    /// Reads addresses or names of hosts, one a line; or lines of `/etc/hosts`.
    fn read(path: &Path, given: &Given) -> io::Result<Self> {
        let mut all = Self::default();
        for (nth, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else {
                continue;
            };
            let (name, addresses) = match (parse(first), words.next()) {
                (Some(address), name) => (name.unwrap_or(first), vec![address]),
                (None, None) => (first, given.addresses(first)),
                (None, Some(_)) => {
                    let what = format!("line {}: `{first}` is no address", nth + 1);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            };
            let nth = all.hosts.len();
            all.hosts.push(Host::new(name));
            if addresses.is_empty() {
                all.unknown.push(nth);
            }
            all.add(nth, addresses);
        }
        Ok(all)
    }

    fn add(&mut self, nth: usize, addresses: Vec<(Address, Option<u16>)>) {
        for (address, port) in addresses {
            match port {
                None => self.addresses.insert(address, nth),
                Some(port) => self.senders.insert(address.with_port(port), nth),
            };
        }
    }

    fn find(&self, sender: SocketAddr) -> Option<&Host> {
        let nth = self.senders.get(&sender);
        let nth = nth.or_else(|| self.addresses.get(&Address::of(sender)));
        nth.map(|nth| &*self.hosts[*nth])
    }
}

impl Expect {
    /// Expects the hosts in this file. They are missing when they are silent this long.
    pub fn new(path: &Path, after: Duration, given: &Given) -> io::Result<Self> {
        Ok(Self {
            began: Instant::now(),
            after,
            file: path.into(),
            hosts: RwLock::new(Arc::new(Hosts::read(path, given)?)),
            former: Mutex::new((HashMap::new(), 0)),
            resolve: Mutex::new(None),
        })
    }

    /// Reads the file again, and looks up all names again.
    pub fn reload(&self, given: &Given) -> io::Result<()> {
        let mut new = Hosts::read(&self.file, given)?;
        let old = self.hosts();
        let known: HashMap<_, _> = old.hosts.iter().map(|host| (&host.name, host)).collect();
        let began = self.since_began(Instant::now());
        for host in &mut new.hosts {
            match known.get(&host.name) {
                Some(old) => *host = (*old).clone(),
                // It has some time to be heard.
                None => host.heard.store(began, Relaxed),
            }
        }
        self.set(new, None);
        if let Some(resolve) = &*lock(&self.resolve) {
            let _ = resolve.send(());
        }
        Ok(())
    }

    /// Returns the hosts of now.
    pub fn hosts(&self) -> Arc<Hosts> {
        let hosts = self.hosts.read();
        hosts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the hosts, if those of now are still the old ones.
    fn set(&self, hosts: Hosts, old: Option<&Arc<Hosts>>) -> bool {
        for (address, heard) in &lock(&self.former).0 {
            let host = hosts.addresses.get(address).map(|nth| &hosts.hosts[*nth]);
            if let Some(host) = host.filter(|host| host.heard.load(Relaxed) == 0) {
                host.heard.store(*heard, Relaxed);
            }
        }
        let mut current = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let right = old.is_none_or(|old| Arc::ptr_eq(old, &current));
        if right {
            *current = Arc::new(hosts);
        }
        right
    }

    /// Takes note that another run has heard this sender, so long before this one began, and that
    /// it has ended so long before.
    pub fn was_heard(&self, sender: SocketAddr, before: Duration, ended: Duration) {
        let heard = -(before.as_millis() as i64).max(1);
        if let Some(host) = self.hosts().find(sender) {
            if matches!(host.heard.load(Relaxed), old if old == 0 || old < heard) {
                host.heard.store(heard, Relaxed);
            }
        }
        let mut former = lock(&self.former);
        let address = former.0.entry(Address::of(sender)).or_insert(heard);
        *address = heard.max(*address);
        former.1 = ended.as_millis() as i64;
    }

    /// Takes note that this sender is heard.
    pub fn heard(&self, hosts: &Hosts, sender: SocketAddr, now: Instant) {
        if let Some(host) = hosts.find(sender) {
            host.heard.store(self.since_began(now).max(1), Relaxed);
        }
    }

    /// Returns the number of hosts that are missing, and of all.
    pub fn missing(&self) -> (usize, usize) {
        let hosts = self.hosts();
        let missing = hosts.hosts.iter().filter(|host| host.missing.load(Relaxed));
        (missing.count(), hosts.hosts.len())
    }

    /// Returns the time from one look for missing hosts to the next.
    pub fn interval(&self) -> Duration {
        self.after / 4
    }

    /// Logs hosts that are missing, once, and hosts that are back.
    pub fn look(&self, now: Instant) {
        let now = self.since_began(now);
        let down = lock(&self.former).1;
        for host in &self.hosts().hosts {
            let heard = host.heard.load(Relaxed);
            // While no run listened it cannot have been heard.
            let deaf = if heard < 0 { down.min(-heard) } else { 0 };
            let missing = i128::from(now - heard - deaf) >= self.after.as_millis() as i128;
            let (name, silent) = (&host.name, (now - heard) / 1000);
            match (host.missing.swap(missing, Relaxed), missing) {
                (false, true) => tracing::warn!("{name} is missing: not heard for {silent} s"),
                (true, false) => tracing::info!("{name} is heard again"),
                _ => {}
            }
        }
    }

    /// Looks up names until all are known, and again when the file was read again; for ever.
    pub fn look_up_names(&self) {
        let (to, wake) = channel();
        *lock(&self.resolve) = Some(to);
        let mut wait = RESOLVE.0;
        loop {
            let open = self.look_up();
            if !sleep(&wake, open.then_some(wait)) {
                wait = (wait * 2).min(RESOLVE.1);
                continue;
            }
            wait = RESOLVE.0;
        }
    }

    /// Looks up the names that are not known; returns whether some still are not.
    fn look_up(&self) -> bool {
        let old = self.hosts();
        let mut found = Vec::new();
        for &nth in &old.unknown {
            let host = &old.hosts[nth];
            match (host.name.as_str(), 0).to_socket_addrs() {
                Ok(addresses) => {
                    let addresses: Vec<_> = addresses.map(|at| (Address::of(at), None)).collect();
                    found.push((nth, addresses));
                }
                Err(e) if !host.sought.swap(true, Relaxed) => tracing::warn!(
                    "no address of {} can be found ({e}): it counts as silent until then",
                    host.name
                ),
                Err(_) => {}
            }
        }
        if found.is_empty() {
            return !old.unknown.is_empty();
        }
        let mut new = Hosts {
            hosts: old.hosts.clone(),
            addresses: old.addresses.clone(),
            senders: old.senders.clone(),
            unknown: old.unknown.clone(),
        };
        for (nth, addresses) in found {
            if old.hosts[nth].sought.load(Relaxed) {
                tracing::info!("the address of {} is known now", old.hosts[nth].name);
            }
            new.unknown.retain(|unknown| *unknown != nth);
            new.add(nth, addresses);
        }
        let open = !new.unknown.is_empty();
        !self.set(new, Some(&old)) || open
    }

    fn since_began(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.began).as_millis() as i64
    }
}

/// Waits, at most so long; returns whether it was woken.
fn sleep(wake: &Receiver<()>, time: Option<Duration>) -> bool {
    match time {
        Some(time) => wake.recv_timeout(time).is_ok(),
        None => wake.recv().is_ok(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(lines: &str) -> (tempfile::NamedTempFile, Expect) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        let after = Duration::from_secs(60);
        let expect = Expect::new(file.path(), after, &Given::default()).unwrap();
        (file, expect)
    }

    #[test]
    fn missing_and_back() {
        let (_file, expect) = expect("10.0.0.1 web1 web1.example # the first\n");
        let at = |seconds| expect.began + Duration::from_secs(seconds);
        expect.look(at(59));
        assert_eq!(expect.missing(), (0, 1));
        expect.look(at(60));
        assert_eq!(expect.missing(), (1, 1));
        let hosts = expect.hosts();
        assert_eq!(hosts.hosts[0].name, "web1");
        expect.heard(&hosts, "10.0.0.1:7".parse().unwrap(), at(61));
        expect.heard(&hosts, "10.0.0.2:7".parse().unwrap(), at(61));
        expect.look(at(62));
        assert_eq!(expect.missing(), (0, 1));
    }

    #[test]
    fn ports_of_one_address_are_told_apart() {
        let (_file, expect) = expect("10.0.0.1:40001\n10.0.0.1:40002\n");
        let at = |seconds| expect.began + Duration::from_secs(seconds);
        expect.heard(&expect.hosts(), "10.0.0.1:40002".parse().unwrap(), at(50));
        expect.look(at(61));
        assert_eq!(expect.missing(), (1, 2));
    }

    #[test]
    fn silence_goes_on_over_a_restart() {
        let (_file, expect) = expect("10.0.0.1\n10.0.0.2\n");
        let seconds = Duration::from_secs;
        // Both were silent while nobody listened; the second was before.
        expect.was_heard("10.0.0.1:1".parse().unwrap(), seconds(1001), seconds(1000));
        expect.was_heard("10.0.0.2:1".parse().unwrap(), seconds(1070), seconds(1000));
        expect.look(expect.began);
        assert_eq!(expect.missing(), (1, 2));
        expect.look(expect.began + seconds(59));
        assert_eq!(expect.missing(), (2, 2));
    }

    #[test]
    fn read_again() {
        let (file, expect) = expect("10.0.0.1\n10.0.0.2\n");
        let at = |seconds| expect.began + Duration::from_secs(seconds);
        expect.look(at(100));
        assert_eq!(expect.missing(), (2, 2));
        std::fs::write(file.path(), "10.0.0.2\n10.0.0.3\nno-such-name.invalid\n").unwrap();
        expect.reload(&Given::default()).unwrap();
        assert_eq!(expect.missing(), (1, 3));
        std::fs::write(file.path(), "web1 web2\n").unwrap();
        let error = expect.reload(&Given::default()).unwrap_err();
        assert!(error.to_string().contains("line 1: `web1` is no address"));
        assert_eq!(expect.missing(), (1, 3));
    }
}
