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
//! `+` asks for the extended format, `r` to prepend the kernel release to it. The device is named
//! or given by its Ethernet address. What is left out has a default: see [`Target::parse`].
//!
//! Upstream accepts some strings that can only be mistakes (an over-long device name is cut, what
//! follows the last address is ignored); here each is an error that says where and why.

use core::fmt;
use core::net::IpAddr;

/// The port that datagrams come from if none is given (upstream's).
pub(crate) const DEFAULT_LOCAL_PORT: u16 = 6665;

/// The port that datagrams go to if none is given (upstream's).
pub(crate) const DEFAULT_REMOTE_PORT: u16 = 6666;

/// The longest name of a network device, without a terminator (`IFNAMSIZ - 1`).
pub(crate) const MAX_NAME: usize = 15;

/// An Ethernet address, printed as `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacAddr(pub(crate) [u8; 6]);

impl MacAddr {
    /// The address of all stations: upstream's default for `tgt-mac`.
    pub(crate) const BROADCAST: Self = Self([0xff; 6]);

    /// Parses six pairs of hexadecimal digits with colons between them, and nothing else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next()?;
            // `from_str_radix` alone would take a sign or a single digit.
            if pair.len() != 2 || !pair.bytes().all(|c| c.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self(bytes))
    }

    /// Whether one station can have this address: neither a group's nor all zeroes.
    pub(crate) fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The name of a network device: 1 to [`MAX_NAME`] bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DevName {
    bytes: [u8; MAX_NAME + 1],
    len: u8,
}

impl DevName {
    /// The device that is used if none is given (upstream's).
    pub(crate) const ETH0: Self = {
        let mut bytes = [0; MAX_NAME + 1];
        (bytes[0], bytes[1], bytes[2], bytes[3]) = (b'e', b't', b'h', b'0');
        Self { bytes, len: 4 }
    };

    /// Takes a name; [`None`] if it is empty or too long for a device.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let mut bytes = [0; MAX_NAME + 1];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        // Built from a `&str` only, so never the fallback.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }

    /// The name with a NUL behind it and up to the end.
    pub(crate) fn as_bytes_with_nul(&self) -> &[u8; MAX_NAME + 1] {
        &self.bytes
    }
}

impl fmt::Debug for DevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

/// One target, as its string says: nothing is looked up here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Records in the extended format, with header and dictionary.
    pub(crate) extended: bool,
    /// The kernel release before each record. Only with `extended`.
    pub(crate) release: bool,
    /// The UDP port datagrams are sent from, and responses come to.
    pub(crate) local_port: u16,
    /// The address datagrams are sent from; [`None`]: the device's own.
    pub(crate) local_ip: Option<IpAddr>,
    /// The device they leave by.
    pub(crate) device: Device,
    /// The logger's UDP port.
    pub(crate) remote_port: u16,
    /// The logger's address, of the same family as `local_ip`.
    pub(crate) remote_ip: IpAddr,
    /// The Ethernet address of the logger or of the gateway to it; [`None`]: broadcast.
    pub(crate) remote_mac: Option<MacAddr>,
}

/// Why a string is not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The separator is not there.
    Missing(char),
    /// A blank, which upstream does not allow either.
    Blank,
    /// Not ASCII, or a control character.
    NotText,
    /// `r` without `+`.
    ReleaseNeedsExtended,
    /// Not a number from 1 to 65535.
    Port,
    /// Neither an IPv4 nor an IPv6 address.
    Address,
    /// The logger's address has been left out.
    NoRemoteAddress,
    /// An IPv4 and an IPv6 address in one target.
    Families,
    /// A device name that no device can have.
    DeviceName,
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
            Self::NotText => "not a printable ASCII character",
            Self::ReleaseNeedsExtended => {
                "release feature requires extended log message, put '+' first"
            }
            Self::Port => "a port is a number from 1 to 65535",
            Self::Address => "not an IPv4 or IPv6 address",
            Self::NoRemoteAddress => "the address of the logger is missing",
            Self::Families => "local and remote address are not of the same family",
            Self::DeviceName => "a device name has at most 15 characters",
            Self::EthernetAddress => "not an Ethernet address like aa:bb:cc:dd:ee:ff",
        })
    }
}

/// A string that is not a target: where it went wrong, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParseError<'a> {
    /// The rest of the string, from the part that cannot be read.
    pub(crate) rest: &'a [u8],
    /// What is wrong with it.
    pub(crate) reason: Reason,
}

/// Reads a target from left to right.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, reason: Reason) -> Result<T, ParseError<'a>> {
        Err(ParseError {
            rest: self.rest.as_bytes(),
            reason,
        })
    }

    /// Takes `c` if it comes next.
    fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes what stands before the next `end`, and `end`; an empty field is [`None`].
    ///
    /// `read` turns the field into its value, or says what is wrong with it.
    fn field<T>(
        &mut self,
        end: char,
        read: impl FnOnce(&str) -> Result<T, Reason>,
    ) -> Result<Option<T>, ParseError<'a>> {
        let Some((field, rest)) = self.rest.split_once(end) else {
            return self.fail(Reason::Missing(end));
        };
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

fn read_port(field: &str) -> Result<u16, Reason> {
    // `u16::from_str` would take a sign.
    if !field.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Reason::Port);
    }
    match field.parse() {
        Ok(0) | Err(_) => Err(Reason::Port),
        Ok(port) => Ok(port),
    }
}

fn read_address(field: &str) -> Result<IpAddr, Reason> {
    field.parse().map_err(|_| Reason::Address)
}

fn read_device(field: &str) -> Result<Device, Reason> {
    if field.contains(':') {
        return MacAddr::parse(field)
            .map(Device::Mac)
            .ok_or(Reason::EthernetAddress);
    }
    DevName::new(field)
        .map(Device::Name)
        .ok_or(Reason::DeviceName)
}

impl Target {
    /// Parses one target.
    ///
    /// Defaults, as upstream's: source port 6665, target port 6666, device `eth0`, the device's
    /// own address, Ethernet broadcast.
    pub(crate) fn parse(spec: &[u8]) -> Result<Self, ParseError<'_>> {
        if let Some(at) = spec.iter().position(|c| !c.is_ascii_graphic()) {
            let rest = &spec[at..];
            let reason = match rest[0] {
                b' ' | b'\t' | b'\n' | b'\r' => Reason::Blank,
                _ => Reason::NotText,
            };
            return Err(ParseError { rest, reason });
        }
        let mut at = Cursor {
            // All bytes are graphic ASCII.
            rest: core::str::from_utf8(spec).unwrap_or(""),
        };

        let extended = at.take('+');
        if !extended && at.rest.starts_with('r') {
            return at.fail(Reason::ReleaseNeedsExtended);
        }
        let release = at.take('r');

        let local_port = at.field('@', read_port)?.unwrap_or(DEFAULT_LOCAL_PORT);
        let local_ip = at.field('/', read_address)?;
        let device = at
            .field(',', read_device)?
            .unwrap_or(Device::Name(DevName::ETH0));
        let remote_port = at.field('@', read_port)?.unwrap_or(DEFAULT_REMOTE_PORT);
        let address = Cursor { rest: at.rest };
        let Some(remote_ip) = at.field('/', read_address)? else {
            return address.fail(Reason::NoRemoteAddress);
        };
        if local_ip.is_some_and(|local: IpAddr| local.is_ipv4() != remote_ip.is_ipv4()) {
            return address.fail(Reason::Families);
        }
        let remote_mac = match at.rest {
            "" => None,
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
        })
    }
}

/// The strings of the targets in the value of `netconsole=`; empty ones (a `;` at the end) are not
/// targets.
pub(crate) fn targets(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&c| c == b';').filter(|spec| !spec.is_empty())
}

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_params))]
#[cfg(any(test, CONFIG_KUNIT))]
mod tests {
    use super::*;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    const LOGGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const LOGGER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 1));
    const MAC: MacAddr = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);

    /// What `@/,@10.0.0.2/` means.
    const PLAIN: Target = Target {
        extended: false,
        release: false,
        local_port: 6665,
        local_ip: None,
        device: Device::Name(DevName::ETH0),
        remote_port: 6666,
        remote_ip: LOGGER,
        remote_mac: None,
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
    fn flags() {
        let extended = Target {
            extended: true,
            ..PLAIN
        };
        assert!(good("+@/,@10.0.0.2/", extended.clone()));
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
            device: Device::Name(DevName::new("eth1").unwrap()),
            remote_port: 9353,
            remote_ip: LOGGER,
            remote_mac: Some(MAC),
        };
        assert!(good(
            "+r4444@10.0.0.1/eth1,9353@10.0.0.2/12:34:56:78:9a:bc",
            full.clone()
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
        assert!(good("@/,@fd00:1:2:3::1/", v6.clone()));
        let local = Target {
            local_ip: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ..v6
        };
        assert!(good("@::1/,@fd00:1:2:3::1/", local));
    }

    #[test]
    fn errors_show_place_and_reason() {
        let table: &[(&[u8], &str, Reason)] = &[
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
            (b"@/,@fe80::1%eth0/", "fe80::1%eth0/", Reason::Address),
            (b"@::1/,@10.0.0.2/", "10.0.0.2/", Reason::Families),
            (b"@10.0.0.1/,@::1/", "::1/", Reason::Families),
            (
                b"@/a-name-of-16-byt,@10.0.0.2/",
                "a-name-of-16-byt,@10.0.0.2/",
                Reason::DeviceName,
            ),
            (
                b"@/22:33:44:55:66,@10.0.0.2/",
                "22:33:44:55:66,@10.0.0.2/",
                Reason::EthernetAddress,
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
            (b"@/eth\x01,@10.0.0.2/", "\x01,@10.0.0.2/", Reason::NotText),
        ];
        for &(spec, rest, reason) in table {
            assert!(bad(spec, rest, reason));
        }
        // Bytes that are no text at all.
        assert!(Target::parse(b"@/\xff\xfe,@10.0.0.2/")
            .is_err_and(|e| e.reason == Reason::NotText && e.rest.len() == 13));
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
        assert!(MacAddr::parse("12:34:56:78:9a:bc") == Some(MAC));
        assert!(MAC.is_station());
        assert!(!MacAddr::BROADCAST.is_station());
        assert!(!MacAddr([0; 6]).is_station());
    }
}
