// SPDX-License-Identifier: GPL-2.0

//! Addresses as people write them: a link-local one with its link, with a port or without.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::{if_indextoname, if_nametoindex};

/// A machine's address: two links may have the same link-local one. As a socket's address, whose
/// port means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(SocketAddr);

impl Address {
    /// Returns the address of a sender.
    pub fn of(sender: SocketAddr) -> Self {
        Self(match sender {
            SocketAddr::V4(v4) => (*v4.ip(), 0).into(),
            SocketAddr::V6(v6) => match v6.ip().to_canonical() {
                IpAddr::V4(ip) => (ip, 0).into(),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, v6.scope_id()).into(),
            },
        })
    }

    /// Returns the sender that uses this port there.
    pub fn with_port(self, port: u16) -> SocketAddr {
        let mut sender = self.0;
        sender.set_port(port);
        sender
    }

    /// Returns the address, without the link.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }
}

/// `10.0.0.2` or `fe80::1%eth0`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SocketAddr::V6(v6) = self.0 else {
            return self.0.ip().fmt(f);
        };
        match v6.scope_id() {
            0 => v6.ip().fmt(f),
            link => match if_indextoname(link) {
                // Of one that is not there it is empty.
                Ok(name) if !name.is_empty() => {
                    write!(f, "{}%{}", v6.ip(), name.to_string_lossy())
                }
                _ => write!(f, "{}%{link}", v6.ip()),
            },
        }
    }
}

/// An address with or without a port: `10.0.0.2`, `10.0.0.2:6665`, `fe80::1%eth0`,
/// `[fe80::1%eth0]:6665`. The links' names are looked up.
pub fn parse(text: &str) -> Option<(Address, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    let Some((ip, link)) = host.split_once('%') else {
        return Some((Address::of((host.parse::<IpAddr>().ok()?, 0).into()), port));
    };
    let link = link.parse().or_else(|_| if_nametoindex(link)).ok()?;
    let ip = ip.parse::<Ipv6Addr>().ok()?;
    let address = SocketAddrV6::new(ip, 0, 0, link);
    Some((Address::of(address.into()), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        for (text, address, port) in [
            ("10.0.0.2", "10.0.0.2", None),
            ("10.0.0.2:40001", "10.0.0.2", Some(40001)),
            ("::ffff:10.0.0.2", "10.0.0.2", None),
            ("[::1]", "::1", None),
            ("[::1]:2", "::1", Some(2)),
            ("fe80::1%lo", "fe80::1%lo", None),
            ("[fe80::1%lo]:7", "fe80::1%lo", Some(7)),
            ("fe80::1%1", "fe80::1%lo", None),
        ] {
            let (parsed, at) = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parsed.to_string().as_str(), at), (address, port), "{text}");
        }
        for text in [
            "web1",
            "10.0.0.2:x",
            "10.0.0",
            "fe80::1%nowhere",
            "[::1]2",
            "",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
