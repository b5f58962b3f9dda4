// SPDX-License-Identifier: GPL-2.0

//! What senders are called in the output: by their address, or a name given for it.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use foldhash::HashMap;

/// Names of addresses.
#[derive(Debug, Default)]
pub struct Names(HashMap<IpAddr, String>);

impl Names {
    /// Reads a file in the format of `/etc/hosts`: an address, its name, other names. The first
    /// name of an address is taken.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut names = HashMap::default();
        for (nth, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(address) = words.next() else {
                continue;
            };
            let entry = address.parse::<IpAddr>().ok().zip(words.next());
            // The name may become a part of a path.
            let Some((address, name)) = entry.filter(|(_, name)| !name.contains('/')) else {
                let what = format!("line {}: an address and a name are expected", nth + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            names
                .entry(address.to_canonical())
                .or_insert_with(|| name.into());
        }
        Ok(Self(names))
    }

    /// The addresses that have this name.
    pub fn addresses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        self.0
            .iter()
            .filter(move |(_, n)| *n == name)
            .map(|(address, _)| *address)
    }

    /// Puts the name of a sender into `to`.
    pub fn put(&self, address: IpAddr, to: &mut String) {
        to.clear();
        match self.0.get(&address) {
            Some(name) => to.push_str(name),
            // A string takes all that is written to it.
            None => drop(write!(to, "{address}")),
        }
    }
}
