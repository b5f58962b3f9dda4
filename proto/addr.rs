// SPDX-License-Identifier: GPL-2.0

//! Ethernet addresses and names of network devices: pure, `core` only.

use core::{
    ffi::CStr,
    fmt,
    net::IpAddr, //
};

/// The longest name of a network device, without a terminator: that of an altname (`ALTIFNAMSIZ -
/// 1`).
pub(crate) const MAX_NAME: usize = 127;

/// An Ethernet address, printed as `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacAddr(pub(crate) [u8; 6]);

impl MacAddr {
    /// The address of all stations: upstream's default for `tgt-mac`.
    pub(crate) const BROADCAST: Self = Self([0xff; 6]);

    /// Parses six pairs of hexadecimal digits with colons between them, and nothing else.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(|&c| c == b':');
        for byte in &mut bytes {
            let &[high, low] = pairs.next()? else {
                return None;
            };
            let (high, low) = (
                char::from(high).to_digit(16)?,
                char::from(low).to_digit(16)?,
            );
            // Two digits are at most 0xff.
            *byte = ((high << 4) | low) as u8;
        }
        pairs.next().is_none().then_some(Self(bytes))
    }

    /// Returns whether a single station can have this address: it is no group's, and not all
    /// zeroes.
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
}

impl DevName {
    /// The default device (upstream's).
    pub(crate) const ETH0: Self = {
        let mut bytes = [0; MAX_NAME + 1];
        (bytes[0], bytes[1], bytes[2], bytes[3]) = (b'e', b't', b'h', b'0');
        Self { bytes }
    };

    /// Takes a name; [`None`] if a device cannot have it (`dev_valid_name()`).
    pub(crate) fn new(name: &[u8]) -> Option<Self> {
        let bad = |c: &u8| c.is_ascii_whitespace() || matches!(c, b'\0' | b'/' | b':' | 0x0b);
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(bad) {
            return None;
        }
        let mut bytes = [0; MAX_NAME + 1];
        bytes[..name.len()].copy_from_slice(name);
        Some(Self { bytes })
    }

    /// Returns the name with a NUL behind it.
    pub(crate) fn as_c_str(&self) -> &CStr {
        // There is a NUL, for the array is longer than any name, and none in the name.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"?")
    }
}

/// The device that a link-local IPv6 address is valid on, written behind it: `fe80::1%eth0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The device with this number.
    Index(i32),
    /// The device with this name.
    Name(DevName),
}

/// Reads an IPv4 or IPv6 address; a link-local one may have a scope (RFC 4007, 11).
pub(crate) fn scoped_address(text: &[u8]) -> Option<(IpAddr, Option<Scope>)> {
    let Some(at) = text.iter().position(|&c| c == b'%') else {
        return Some((core::str::from_utf8(text).ok()?.parse().ok()?, None));
    };
    let (ip, scope) = (&text[..at], &text[at + 1..]);
    let ip: IpAddr = core::str::from_utf8(ip).ok()?.parse().ok()?;
    let IpAddr::V6(v6) = ip else { return None };
    let first = v6.segments()[0];
    if first & 0xffc0 != 0xfe80 && first & 0xff0f != 0xff02 {
        return None;
    }
    let scope = match scope.iter().all(u8::is_ascii_digit) {
        true => Scope::Index(core::str::from_utf8(scope).ok()?.parse().ok()?),
        false => Scope::Name(DevName::new(scope)?),
    };
    Some((ip, Some(scope)))
}

impl fmt::Display for DevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_c_str().to_bytes().escape_ascii().fmt(f)
    }
}

impl fmt::Debug for DevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
