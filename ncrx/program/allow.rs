// SPDX-License-Identifier: GPL-2.0

//! Senders that may write: the networks of `--allow` and `--allow-file`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use foldhash::{HashSet, HashSetExt};
use ipnet::{IpNet, Ipv4Net};

/// The most strangers that the log names, and that are counted: a forger of addresses is not to
/// fill memory or log.
const NAMED: usize = 256;
const COUNTED: usize = 1 << 16;

/// The networks whose senders are answered and written; all if there are none.
#[derive(Debug)]
pub struct Networks(Option<Vec<IpNet>>);

impl Networks {
    /// Returns whether an address may write.
    pub fn admit(&self, address: IpAddr) -> bool {
        let networks = self.0.as_ref();
        networks.is_none_or(|networks| networks.iter().any(|net| net.contains(&address)))
    }
}

/// The networks that may send, by the options and a file. Shared by all workers.
#[derive(Debug)]
pub struct Allow {
    given: Mutex<Vec<IpNet>>,
    file: Option<PathBuf>,
    networks: RwLock<Arc<Networks>>,
    strangers: Mutex<HashSet<IpAddr>>,
}

impl Allow {
    /// Allows only these networks and those in the file, if there are any or a file.
    pub fn new(given: Vec<IpNet>, file: Option<&Path>) -> io::Result<Self> {
        let file = file.map(Path::to_owned);
        let networks = Self::read(&given, file.as_deref())?;
        Ok(Self {
            given: Mutex::new(given),
            file,
            networks: RwLock::new(Arc::new(networks)),
            strangers: Mutex::new(HashSet::new()),
        })
    }

    fn read(given: &[IpNet], file: Option<&Path>) -> io::Result<Networks> {
        let mut all = given.to_vec();
        let Some(file) = file else {
            return Ok(Networks((!all.is_empty()).then_some(all)));
        };
        for (nth, line) in std::fs::read_to_string(file)?.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            all.push(network(text).map_err(|e| {
                let what = format!("line {}: `{text}`: {e}", nth + 1);
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?);
        }
        Ok(Networks(Some(all)))
    }

    /// Has other networks than those of the file allowed, when that is read again.
    pub fn set_given(&self, given: Vec<IpNet>) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = given;
    }

    /// Reads the file again.
    pub fn reload(&self) -> io::Result<()> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let networks = Arc::new(Self::read(&given, self.file.as_deref())?);
        let open = networks.0.is_none();
        let now = self.networks.write();
        let mut now = now.unwrap_or_else(PoisonError::into_inner);
        if open && now.0.is_some() {
            tracing::warn!("--allow is gone: whoever reaches the port is written from now on");
        }
        *now = networks;
        Ok(())
    }

    /// Returns the networks of now.
    pub fn networks(&self) -> Arc<Networks> {
        let networks = self.networks.read();
        networks.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts an address that may not write, and names it in the log once.
    pub fn refuse(&self, address: IpAddr) {
        let strangers = self.strangers.lock();
        let mut strangers = strangers.unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= COUNTED || !strangers.insert(address) || strangers.len() > NAMED {
            return;
        }
        tracing::warn!("{address} is not in a network of --allow: it is ignored");
        if strangers.len() == NAMED {
            tracing::warn!("no more senders that are not in --allow will be named");
        }
    }

    /// Returns the number of addresses that have tried in vain.
    pub fn strangers(&self) -> usize {
        let strangers = self.strangers.lock();
        strangers.unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A prefix, or an address alone. IPv4's may be written as IPv6's.
pub fn network(text: &str) -> Result<IpNet, String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| "write a network or an address: 10.0.0.0/8, fd00::/8, 10.0.0.2")?;
    let mapped = match net {
        IpNet::V6(v6) => v6
            .addr()
            .to_ipv4_mapped()
            .zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let mapped = mapped.and_then(|(ip, length)| Ipv4Net::new(ip, length).ok());
    Ok(mapped.map_or(net, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(networks: &[&str]) -> Allow {
        let networks = networks.iter().map(|text| network(text).unwrap());
        Allow::new(networks.collect(), None).unwrap()
    }

    #[test]
    fn admits_those_in_networks() {
        let networks = allow(&["10.0.0.0/8", "fd00::/8", "::ffff:192.168.0.0/112"]).networks();
        for (address, admitted) in [
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.168.7.7", true),
            ("192.169.7.7", false),
            ("fd00::1", true),
            ("::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(networks.admit(address), admitted, "{address}");
        }
        let all = allow(&[]).networks();
        assert!(all.admit("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn reads_a_file_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let admits = |allow: &Allow| allow.networks().admit("10.0.0.1".parse().unwrap());
        // A file that names nobody admits nobody.
        let allow = Allow::new(Vec::new(), Some(file.path())).unwrap();
        assert!(!admits(&allow));
        std::fs::write(file.path(), "# ours\n10.0.0.0/8\n").unwrap();
        allow.reload().unwrap();
        assert!(admits(&allow));
        std::fs::write(file.path(), "10.0.0.0/33\n").unwrap();
        assert!(allow.reload().unwrap_err().to_string().contains("line 1"));
        assert!(admits(&allow));
    }

    #[test]
    fn counts_only_so_many() {
        let allow = allow(&["fd00::/8"]);
        for n in 0..2 * COUNTED as u32 {
            allow.refuse(IpAddr::V4(n.into()));
        }
        assert_eq!(allow.strangers(), COUNTED);
    }
}
