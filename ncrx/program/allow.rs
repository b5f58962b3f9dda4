// SPDX-License-Identifier: GPL-2.0

//! Who may write.

use std::net::IpAddr;

use foldhash::HashSet;
use ipnet::IpNet;

/// How many strangers are named: whoever makes up addresses shall not fill memory or log.
const NAMED: usize = 256;

/// The networks whose senders are answered and written; all if there are none.
#[derive(Debug)]
pub struct Allow {
    networks: Vec<IpNet>,
    named: HashSet<IpAddr>,
}

impl Allow {
    /// Only these networks, if any.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            named: HashSet::default(),
        }
    }

    /// May this sender write? Each stranger is named once in the log.
    pub fn admits(&mut self, address: IpAddr) -> bool {
        if self.networks.is_empty() || self.networks.iter().any(|net| net.contains(&address)) {
            return true;
        }
        if self.named.len() < NAMED && self.named.insert(address) {
            tracing::warn!("{address} is not in a network of --allow: it is ignored");
            if self.named.len() == NAMED {
                tracing::warn!("no more senders that are not in --allow will be named");
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_those_in_networks() {
        let mut allow = Allow::new(vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ]);
        for (address, admitted) in [
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("fd00::1", true),
            ("::1", false),
        ] {
            assert_eq!(
                allow.admits(address.parse().unwrap()),
                admitted,
                "{address}"
            );
        }
        assert!(Allow::new(Vec::new()).admits("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn names_only_so_many() {
        let mut allow = Allow::new(vec!["fd00::/8".parse().unwrap()]);
        for n in 0..2 * NAMED as u32 {
            assert!(!allow.admits(IpAddr::V4(n.into())));
        }
        assert_eq!(allow.named.len(), NAMED);
    }
}
