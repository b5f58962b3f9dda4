// SPDX-License-Identifier: GPL-2.0

//! The `netconsole=` string: pure, `core` only.
//!
//! The grammar is upstream's (`Documentation/networking/netconsole.rst`):
//!
//! ```text
//! netconsole=<target>[;<target>]...
//! <target> = [+][r][src-port]@[src-ip]/[<dev>],[tgt-port]@<tgt-ip>/[tgt-mac]
//! ```
//!
//! `+` asks for the extended format, `r` for the kernel release before each record. The device is
//! given by its name or its Ethernet address. Parts that are left out have defaults: see
//! [`Target::parse`].
//!
//! Upstream accepts some strings that can only be mistakes: it cuts an over-long device name, and
//! ignores text behind the last address. Here they are errors, with the place and the reason.

use core::{
    fmt,
    net::IpAddr, //
};

use super::addr::{
    self,
    DevName,
    MacAddr,
    Scope, //
};

/// The default port that datagrams come from (upstream's).
pub(crate) const DEFAULT_LOCAL_PORT: u16 = 6665;

/// The default port that datagrams go to (upstream's).
pub(crate) const DEFAULT_REMOTE_PORT: u16 = 6666;

/// How a target finds its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// The device of this name.
    Name(DevName),
    /// The device with this Ethernet address.
    Mac(MacAddr),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

/// One target as its string describes it: nothing has been looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Records in the extended format, with header and dictionary.
    pub(crate) extended: bool,
    /// The kernel release before each record. Only with `extended`.
    pub(crate) release: bool,
    /// The UDP port that datagrams are sent from and responses come to.
    pub(crate) local_port: u16,
    /// The address that datagrams are sent from; [`None`]: the device's own.
    pub(crate) local_ip: Option<IpAddr>,
    /// The device that sends.
    pub(crate) device: Device,
    /// The logger's UDP port.
    pub(crate) remote_port: u16,
    /// The logger's address, of the same family as `local_ip`.
    pub(crate) remote_ip: IpAddr,
    /// The Ethernet address of the next hop; [`None`]: to be found.
    pub(crate) remote_mac: Option<MacAddr>,
    /// The scope that `local_ip` was given with: `device`, or the target cannot be enabled.
    pub(crate) local_scope: Option<Scope>,
    /// The scope that `remote_ip` was given with.
    pub(crate) remote_scope: Option<Scope>,
}

/// Why a string is not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A separator is missing.
    Missing(char),
    /// The string has a blank, which upstream does not allow either.
    Blank,
    /// `r` without `+`.
    ReleaseNeedsExtended,
    /// Not a number from 1 to 65535.
    Port,
    /// Neither an IPv4 nor an IPv6 address.
    Address,
    /// The logger's address is missing.
    NoRemoteAddress,
    /// An IPv4 and an IPv6 address in one target.
    Families,
    /// A device name that no device can have.
    DeviceName,
    /// Not an Ethernet address that a device can have.
    StationAddress,
    /// Not an Ethernet address.
    EthernetAddress,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing('@') => "'@' expected",
            Self::Missing('/') => "'/' expected",
            Self::Missing(_) => "',' expected",
            Self::Blank => "whitespace is not allowed",
            Self::ReleaseNeedsExtended => {
                "release feature requires extended log message, put '+' first"
            }
            Self::Port => "a port is a number from 1 to 65535",
            Self::Address => "not an IPv4 or IPv6 address",
            Self::NoRemoteAddress => "the address of the logger is missing",
            Self::Families => "local and remote address are not of the same family",
            Self::DeviceName => "a device name has at most 127 characters",
            Self::StationAddress => "not the Ethernet address of a device, like 02:bb:cc:dd:ee:ff",
            Self::EthernetAddress => "not an Ethernet address like aa:bb:cc:dd:ee:ff",
        })
    }
}

/// The error of a string that is not a target: the place and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParseError<'a> {
    /// The rest of the string, from the part that cannot be read on.
    pub(crate) rest: &'a [u8],
    /// The reason.
    pub(crate) reason: Reason,
}

/// Reads a target from left to right.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, reason: Reason) -> Result<T, ParseError<'a>> {
        Err(ParseError {
            rest: self.rest,
            reason,
        })
    }

    /// Takes `c` if it comes next.
    fn take(&mut self, c: u8) -> bool {
        match self.rest.strip_prefix(&[c]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the bytes up to the next `end`, and `end`; an empty field is [`None`].
    ///
    /// `read` turns the field into its value, or returns the reason why it cannot.
    fn field<T>(
        &mut self,
        end: u8,
        read: impl FnOnce(&[u8]) -> Result<T, Reason>,
    ) -> Result<Option<T>, ParseError<'a>> {
        let Some(at) = self.rest.iter().position(|&c| c == end) else {
            return self.fail(Reason::Missing(char::from(end)));
        };
        let (field, rest) = (&self.rest[..at], &self.rest[at + 1..]);
        let value = if field.is_empty() {
            None
        } else {
            match read(field) {
                Ok(value) => Some(value),
                Err(reason) => return self.fail(reason),
            }
        };
        self.rest = rest;
        Ok(value)
    }
}

fn read_port(field: &[u8]) -> Result<u16, Reason> {
    // `u16::from_str` would take a sign.
    if !field.iter().all(u8::is_ascii_digit) {
        return Err(Reason::Port);
    }
    match core::str::from_utf8(field).unwrap_or("").parse() {
        Ok(0) | Err(_) => Err(Reason::Port),
        Ok(port) => Ok(port),
    }
}

fn read_address(field: &[u8]) -> Result<(IpAddr, Option<Scope>), Reason> {
    addr::scoped_address(field).ok_or(Reason::Address)
}

fn read_device(field: &[u8]) -> Result<Device, Reason> {
    if field.contains(&b':') {
        return MacAddr::parse(field)
            .filter(|mac| mac.is_station())
            .map(Device::Mac)
            .ok_or(Reason::StationAddress);
    }
    DevName::new(field)
        .map(Device::Name)
        .ok_or(Reason::DeviceName)
}

impl Target {
    /// Follows a renamed device; a device that was given by its address stays so, as does a name
    /// that it still has (`is_current`).
    pub(crate) fn follow_rename(&mut self, name: DevName, is_current: impl Fn(DevName) -> bool) {
        let scopes = [&mut self.local_scope, &mut self.remote_scope];
        let scopes = scopes.into_iter().filter_map(|scope| match scope {
            Some(Scope::Name(old)) => Some(old),
            _ => None,
        });
        let device = match &mut self.device {
            Device::Name(old) => Some(old),
            Device::Mac(_) => None,
        };
        for old in scopes.chain(device) {
            if !is_current(*old) {
                *old = name;
            }
        }
    }

    /// Returns the scopes that addresses were given with.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = Scope> {
        [self.local_scope, self.remote_scope].into_iter().flatten()
    }

    /// Parses one target.
    ///
    /// Defaults, as upstream's: source port 6665, target port 6666, device `eth0`, the device's own
    /// address. Without a `tgt-mac` the next hop is looked up, where upstream broadcasts.
    pub(crate) fn parse(spec: &[u8]) -> Result<Self, ParseError<'_>> {
        if let Some(at) = spec.iter().position(u8::is_ascii_whitespace) {
            let blank = Cursor { rest: &spec[at..] };
            return blank.fail(Reason::Blank);
        }
        let mut at = Cursor { rest: spec };

        let extended = at.take(b'+');
        if !extended && at.rest.starts_with(b"r") {
            return at.fail(Reason::ReleaseNeedsExtended);
        }
        let release = at.take(b'r');

        let local_port = at.field(b'@', read_port)?.unwrap_or(DEFAULT_LOCAL_PORT);
        let local = at.field(b'/', read_address)?;
        let device = at
            .field(b',', read_device)?
            .unwrap_or(Device::Name(DevName::ETH0));
        let remote_port = at.field(b'@', read_port)?.unwrap_or(DEFAULT_REMOTE_PORT);
        let address = Cursor { rest: at.rest };
        let Some((remote_ip, remote_scope)) = at.field(b'/', read_address)? else {
            return address.fail(Reason::NoRemoteAddress);
        };
        let (local_ip, local_scope) = local.unzip();
        if local_ip.is_some_and(|local: IpAddr| local.is_ipv4() != remote_ip.is_ipv4()) {
            return address.fail(Reason::Families);
        }
        // As upstream has it: the unspecified address is as good as none.
        let local_ip = local_ip.filter(|local| !local.is_unspecified());
        let remote_mac = match at.rest {
            b"" => None,
            mac => match MacAddr::parse(mac) {
                Some(mac) => Some(mac),
                None => return at.fail(Reason::EthernetAddress),
            },
        };

        Ok(Self {
            extended,
            release,
            local_port,
            local_ip,
            device,
            remote_port,
            remote_ip,
            remote_mac,
            local_scope: local_scope.flatten(),
            remote_scope,
        })
    }
}

/// Splits the value of `netconsole=` into the strings of its targets; empty ones (a `;` at the end)
/// are skipped.
pub(crate) fn targets(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&c| c == b';').filter(|spec| !spec.is_empty())
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_params)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    const LOGGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const LOGGER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 1));
    const MAC: MacAddr = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);

    /// The target that `@/,@10.0.0.2/` means.
    const PLAIN: Target = Target {
        extended: false,
        release: false,
        local_port: 6665,
        local_ip: None,
        device: Device::Name(DevName::ETH0),
        remote_port: 6666,
        remote_ip: LOGGER,
        remote_mac: None,
        local_scope: None,
        remote_scope: None,
    };

    fn good(spec: &str, expected: Target) -> bool {
        Target::parse(spec.as_bytes()) == Ok(expected)
    }

    fn bad(spec: &[u8], rest: &str, reason: Reason) -> bool {
        let rest = rest.as_bytes();
        Target::parse(spec) == Err(ParseError { rest, reason })
    }

    #[test]
    fn defaults_are_upstreams() {
        assert!(good("@/,@10.0.0.2/", PLAIN));
        assert!(good("@/eth0,@10.0.0.2/", PLAIN));
        assert!(good("6665@/eth0,6666@10.0.0.2/", PLAIN));
    }

    #[test]
    fn scopes() {
        let eth0 = Some(Scope::Name(DevName::ETH0));
        let link_local = |last| IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last));
        let scoped = Target {
            local_ip: Some(link_local(1)),
            local_scope: Some(Scope::Index(2)),
            remote_ip: link_local(2),
            remote_scope: eth0,
            ..PLAIN
        };
        assert!(good("@fe80::1%2/,@fe80::2%eth0/", scoped));
        assert!(scoped
            .scopes()
            .eq([Scope::Index(2), Scope::Name(DevName::ETH0)]));

        let lan = DevName::new(b"lan").unwrap();
        let mut renamed = scoped;
        renamed.follow_rename(lan, |_| false);
        assert!(renamed.device == Device::Name(lan));
        assert!(renamed.scopes().eq([Scope::Index(2), Scope::Name(lan)]));
        let mut kept = scoped;
        kept.follow_rename(lan, |name| name == DevName::ETH0);
        assert!(kept == scoped);
    }

    #[test]
    fn flags() {
        let extended = Target {
            extended: true,
            ..PLAIN
        };
        assert!(good("+@/,@10.0.0.2/", extended));
        let release = Target {
            release: true,
            ..extended
        };
        assert!(good("+r@/,@10.0.0.2/", release));
    }

    #[test]
    fn every_field() {
        let full = Target {
            extended: true,
            release: true,
            local_port: 4444,
            local_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
            device: Device::Name(DevName::new(b"eth1").unwrap()),
            remote_port: 9353,
            remote_ip: LOGGER,
            remote_mac: Some(MAC),
            local_scope: None,
            remote_scope: None,
        };
        assert!(good(
            "+r4444@10.0.0.1/eth1,9353@10.0.0.2/12:34:56:78:9a:bc",
            full
        ));
        let by_mac = Target {
            device: Device::Mac(MacAddr([0x22, 0x33, 0x44, 0x55, 0x66, 0x77])),
            ..full
        };
        assert!(good(
            "+r4444@10.0.0.1/22:33:44:55:66:77,9353@10.0.0.2/12:34:56:78:9A:BC",
            by_mac
        ));
    }

    #[test]
    fn ipv6() {
        let v6 = Target {
            remote_ip: LOGGER6,
            ..PLAIN
        };
        assert!(good("@/,@fd00:1:2:3::1/", v6));
        let local = Target {
            local_ip: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ..v6
        };
        assert!(good("@::1/,@fd00:1:2:3::1/", local));
    }

    #[test]
    fn an_unspecified_address_is_none() {
        assert!(good("6665@0.0.0.0/,@10.0.0.2/", PLAIN));
        let v6 = Target {
            remote_ip: LOGGER6,
            ..PLAIN
        };
        assert!(good("@::/,@fd00:1:2:3::1/", v6));
    }

    #[test]
    fn device_names_are_any_bytes_that_a_device_can_have() {
        let named = Target {
            device: DevName::new("büro.7".as_bytes()).map_or(PLAIN.device, Device::Name),
            ..PLAIN
        };
        assert!(good("@/büro.7,@10.0.0.2/", named));
        assert!(named != PLAIN);
        assert!(DevName::new(&[b'x'; 127]).is_some());
        for bad in [
            b"".as_slice(),
            b"a b",
            b"a/b",
            b"a:b",
            b"a\0b",
            &[b'x'; 128],
        ] {
            assert!(DevName::new(bad).is_none());
        }
    }

    /// Strings that are no targets, where they are wrong, and why.
    const BAD: &[(&[u8], &str, Reason)] = &[
        (b"", "", Reason::Missing('@')),
        (b"+", "", Reason::Missing('@')),
        (b"eth0", "eth0", Reason::Missing('@')),
        (
            b"r@/,@10.0.0.2/",
            "r@/,@10.0.0.2/",
            Reason::ReleaseNeedsExtended,
        ),
        (
            b"r+@/,@10.0.0.2/",
            "r+@/,@10.0.0.2/",
            Reason::ReleaseNeedsExtended,
        ),
        (b"@", "", Reason::Missing('/')),
        (b"@/", "", Reason::Missing(',')),
        (b"@/,", "", Reason::Missing('@')),
        (b"@/,@", "", Reason::Missing('/')),
        (b"@/,@10.0.0.2", "10.0.0.2", Reason::Missing('/')),
        (b"@/,@/", "/", Reason::NoRemoteAddress),
        (b"0@/,@10.0.0.2/", "0@/,@10.0.0.2/", Reason::Port),
        (b"65536@/,@10.0.0.2/", "65536@/,@10.0.0.2/", Reason::Port),
        (b"-1@/,@10.0.0.2/", "-1@/,@10.0.0.2/", Reason::Port),
        (b"++1@/,@10.0.0.2/", "+1@/,@10.0.0.2/", Reason::Port),
        (b"@/,0x1a0a@10.0.0.2/", "0x1a0a@10.0.0.2/", Reason::Port),
        (
            b"@/,99999999999999999999@10.0.0.2/",
            "99999999999999999999@10.0.0.2/",
            Reason::Port,
        ),
        (
            b"@10.0.0/,@10.0.0.2/",
            "10.0.0/,@10.0.0.2/",
            Reason::Address,
        ),
        (b"@/,@10.0.0.256/", "10.0.0.256/", Reason::Address),
        (b"@/,@logger/", "logger/", Reason::Address),
        (b"@/,@fd00::1::2/", "fd00::1::2/", Reason::Address),
        (b"@/,@fd00::1%eth0/", "fd00::1%eth0/", Reason::Address),
        (b"@/,@10.0.0.2%eth0/", "10.0.0.2%eth0/", Reason::Address),
        (b"@/,@fe80::1%/", "fe80::1%/", Reason::Address),
        (b"@::1/,@10.0.0.2/", "10.0.0.2/", Reason::Families),
        (b"@10.0.0.1/,@::1/", "::1/", Reason::Families),
        (
            b"@/eth\x0b0,@10.0.0.2/",
            "eth\x0b0,@10.0.0.2/",
            Reason::DeviceName,
        ),
        (
            b"@/22:33:44:55:66,@10.0.0.2/",
            "22:33:44:55:66,@10.0.0.2/",
            Reason::StationAddress,
        ),
        (
            b"@/,@10.0.0.2/12:34:56:78:9a",
            "12:34:56:78:9a",
            Reason::EthernetAddress,
        ),
        (
            b"@/,@10.0.0.2/12:34:56:78:9a:bc:de",
            "12:34:56:78:9a:bc:de",
            Reason::EthernetAddress,
        ),
        (
            b"@/,@10.0.0.2/12:34:56:78:9a:+c",
            "12:34:56:78:9a:+c",
            Reason::EthernetAddress,
        ),
        (
            b"@/,@10.0.0.2/123456789abc",
            "123456789abc",
            Reason::EthernetAddress,
        ),
        (b" @/,@10.0.0.2/", " @/,@10.0.0.2/", Reason::Blank),
        (b"@/, @10.0.0.2/", " @10.0.0.2/", Reason::Blank),
        (b"@/,@10.0.0.2/\n", "\n", Reason::Blank),
    ];

    #[test]
    fn errors_show_place_and_reason() {
        for &(spec, rest, reason) in BAD {
            assert!(bad(spec, rest, reason));
        }
        // Bytes that are no text at all.
        assert!(Target::parse(b"@\xff\xfe/,@10.0.0.2/")
            .is_err_and(|e| e.reason == Reason::Address && e.rest.len() == 14));
    }

    #[test]
    fn several_targets() {
        assert!(targets(b"").next().is_none());
        assert!(targets(b";;").next().is_none());
        let mut two = targets(b"+@/,@10.0.0.2/;@/eth1,6892@10.0.0.3/;");
        assert!(two.next() == Some(b"+@/,@10.0.0.2/".as_slice()));
        assert!(two.next() == Some(b"@/eth1,6892@10.0.0.3/".as_slice()));
        assert!(two.next().is_none());
    }

    #[test]
    fn ethernet_addresses() {
        assert!(MacAddr::parse(b"12:34:56:78:9a:bc") == Some(MAC));
        assert!(MAC.is_station());
        assert!(!MacAddr::BROADCAST.is_station());
        assert!(!MacAddr([0; 6]).is_station());
    }
}
