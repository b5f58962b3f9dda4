// SPDX-License-Identifier: GPL-2.0

//! Hosts that should be heard.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::names::Names;

/// How often it is looked who is missing, at least.
const LOOK: Duration = Duration::from_secs(1);

/// All hosts that should be heard. Shared by all workers.
#[derive(Debug)]
pub struct Expect {
    began: Instant,
    after: Duration,
    hosts: Vec<Host>,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// When it was last heard, in milliseconds since we began.
    heard: AtomicU64,
    missing: AtomicBool,
}

impl Expect {
    /// Reads their addresses or names, one a line. They are missing when they are silent this long.
    pub fn read(path: &Path, after: Duration, names: &Names) -> io::Result<Self> {
        let mut hosts = Vec::new();
        let mut by_address = HashMap::default();
        for (nth, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let name = line.split('#').next().unwrap_or_default().trim();
            if name.is_empty() {
                continue;
            }
            let addresses = addresses(name, names);
            if addresses.is_empty() {
                let what = format!(
                    "line {}: `{name}` is no address, nor the name of one",
                    nth + 1
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            by_address.extend(addresses.iter().map(|address| (*address, hosts.len())));
            hosts.push(Host {
                name: name.into(),
                heard: 0.into(),
                missing: false.into(),
            });
        }
        Ok(Self {
            began: Instant::now(),
            after,
            hosts,
            by_address,
        })
    }

    /// This host is there.
    pub fn heard(&self, address: IpAddr, now: Instant) {
        if let Some(&nth) = self.by_address.get(&address) {
            self.hosts[nth].heard.store(self.since_began(now), Relaxed);
        }
    }

    /// How many are missing, of how many.
    pub fn missing(&self) -> (usize, usize) {
        (
            self.hosts
                .iter()
                .filter(|host| host.missing.load(Relaxed))
                .count(),
            self.hosts.len(),
        )
    }

    /// Says who is missing, once, and who is back; for ever.
    pub fn watch(&self) -> ! {
        loop {
            std::thread::sleep(LOOK.min(self.after / 4));
            self.look(Instant::now());
        }
    }

    fn look(&self, now: Instant) {
        let now = self.since_began(now);
        for host in &self.hosts {
            let silent = now.saturating_sub(host.heard.load(Relaxed));
            let missing = u128::from(silent) >= self.after.as_millis();
            let name = &host.name;
            match (host.missing.swap(missing, Relaxed), missing) {
                (false, true) => {
                    tracing::warn!("{name} is missing: not heard for {} s", silent / 1000)
                }
                (true, false) => tracing::info!("{name} is heard again"),
                _ => {}
            }
        }
    }

    fn since_began(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }
}

/// Our own names come first, then what the system knows.
fn addresses(name: &str, names: &Names) -> Vec<IpAddr> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return vec![address.to_canonical()];
    }
    let ours: Vec<_> = names.addresses(name).collect();
    match (name, 0).to_socket_addrs() {
        Ok(found) if ours.is_empty() => found.map(|address| address.ip().to_canonical()).collect(),
        _ => ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_back() {
        let host = Host {
            name: "a".into(),
            heard: 0.into(),
            missing: false.into(),
        };
        let address = "10.0.0.1".parse().unwrap();
        let began = Instant::now();
        let expect = Expect {
            began,
            after: Duration::from_secs(60),
            hosts: vec![host],
            by_address: [(address, 0)].into_iter().collect(),
        };
        let at = |seconds| began + Duration::from_secs(seconds);
        expect.look(at(59));
        assert_eq!(expect.missing(), (0, 1));
        expect.look(at(60));
        assert_eq!(expect.missing(), (1, 1));
        expect.heard(address, at(61));
        expect.heard("10.0.0.2".parse().unwrap(), at(61));
        expect.look(at(62));
        assert_eq!(expect.missing(), (0, 1));
    }
}
