// SPDX-License-Identifier: GPL-2.0

//! Ethernet frames with a UDP datagram: pure, `core` only.
//!
//! RFC 768 (UDP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 1071 (the checksum). Time to live, hop limit
//! and identification are as in upstream's netconsole.

use core::net::{
    IpAddr,
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr, //
};

use super::addr::MacAddr;

const ETH_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

/// The protocol number of UDP.
const UDP: u8 = 17;
/// Upstream's time to live of IPv4 packets and hop limit of IPv6 ones.
const IPV4_TTL: u8 = 64;
const IPV6_HOP_LIMIT: u8 = 32;

/// The most bytes of headers before a datagram's payload.
pub(crate) const MAX_HEADERS: usize = ETH_LEN + IPV6_LEN + UDP_LEN;

/// The addresses of both ends, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// IPv4.
    V4 {
        /// The sender's address.
        local: Ipv4Addr,
        /// The receiver's address.
        remote: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// The sender's address.
        local: Ipv6Addr,
        /// The receiver's address.
        remote: Ipv6Addr,
    },
}

impl Addresses {
    /// Returns two addresses of one family, else [`None`].
    pub(crate) fn new(local: IpAddr, remote: IpAddr) -> Option<Self> {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(Self::V4 { local, remote }),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Some(Self::V6 { local, remote }),
            _ => None,
        }
    }

    /// Returns the sender's address.
    pub(crate) fn local(&self) -> IpAddr {
        match *self {
            Self::V4 { local, .. } => local.into(),
            Self::V6 { local, .. } => local.into(),
        }
    }

    /// Returns the receiver's address.
    pub(crate) fn remote(&self) -> IpAddr {
        match *self {
            Self::V4 { remote, .. } => remote.into(),
            Self::V6 { remote, .. } => remote.into(),
        }
    }

    /// Returns the type of an Ethernet frame with these addresses (`ETH_P_IP`, `ETH_P_IPV6`).
    pub(crate) fn ether_type(&self) -> u16 {
        match self {
            Self::V4 { .. } => 0x0800,
            Self::V6 { .. } => 0x86dd,
        }
    }

    fn ip_len(&self) -> usize {
        match self {
            Self::V4 { .. } => IPV4_LEN,
            Self::V6 { .. } => IPV6_LEN,
        }
    }
}

/// The path of a datagram: the addresses of both ends and of the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The addresses of both ends.
    pub(crate) addresses: Addresses,
    /// The sender's port.
    pub(crate) local_port: u16,
    /// The receiver's port.
    pub(crate) remote_port: u16,
    /// The Ethernet address of the next hop: the receiver, or the gateway to it.
    pub(crate) remote_mac: MacAddr,
}

/// The offsets of the headers in a frame.
#[derive(Clone, Copy)]
pub(crate) struct Offsets {
    /// The IP header.
    pub(crate) network: usize,
    /// The UDP header.
    pub(crate) transport: usize,
    /// The payload.
    pub(crate) payload: usize,
}

impl Path {
    /// Returns the address and port that datagrams are sent from.
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.addresses.local(), self.local_port)
    }

    /// Returns the receiver's address and port.
    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.addresses.remote(), self.remote_port)
    }

    /// Returns the offsets of the headers and the payload.
    pub(crate) fn offsets(&self) -> Offsets {
        let transport = ETH_LEN + self.addresses.ip_len();
        Offsets {
            network: ETH_LEN,
            transport,
            payload: transport + UDP_LEN,
        }
    }
}

/// The headers of all frames on a path, as far as they are the same: the rest is the sender's
/// Ethernet address, which may change at any time, lengths, identification and checksums.
pub(crate) struct Headers {
    path: Path,
    bytes: [u8; MAX_HEADERS],
    /// The sum of what is in `bytes` of an IPv4 header.
    ipv4_sum: Checksum,
    /// The sum of the same part of the UDP header, and of the pseudo-header: addresses, protocol.
    udp_sum: Checksum,
}

impl Headers {
    /// Creates the headers of a path.
    pub(crate) fn new(path: Path) -> Self {
        let at = path.offsets();
        let mut bytes = [0; MAX_HEADERS];
        bytes[..6].copy_from_slice(&path.remote_mac.0);
        bytes[12..ETH_LEN].copy_from_slice(&path.addresses.ether_type().to_be_bytes());
        let (ip, udp) = bytes[ETH_LEN..].split_at_mut(path.addresses.ip_len());
        let (mut ipv4_sum, mut udp_sum) = (Checksum::default(), Checksum::default());
        match path.addresses {
            Addresses::V4 { local, remote } => {
                ip[0] = 0x45;
                ip[8] = IPV4_TTL;
                ip[9] = UDP;
                ip[12..16].copy_from_slice(&local.octets());
                ip[16..].copy_from_slice(&remote.octets());
                ipv4_sum.add(ip);
                udp_sum.add(&ip[12..]);
            }
            Addresses::V6 { local, remote } => {
                ip[0] = 0x60;
                ip[6] = UDP;
                ip[7] = IPV6_HOP_LIMIT;
                ip[8..24].copy_from_slice(&local.octets());
                ip[24..].copy_from_slice(&remote.octets());
                udp_sum.add(&ip[8..]);
            }
        }
        udp[..2].copy_from_slice(&path.local_port.to_be_bytes());
        udp[2..4].copy_from_slice(&path.remote_port.to_be_bytes());
        udp_sum.add(&bytes[at.transport..at.transport + 4]);
        udp_sum.add_word(UDP.into());
        Self {
            path,
            bytes,
            ipv4_sum,
            udp_sum,
        }
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the headers, with checksums, before the payload that `frame` has already.
    ///
    /// `ident` is the identification of the IPv4 packet. Returns `false`, and leaves the frame as
    /// it is, if it is shorter than its headers or longer than an IP packet can be.
    #[must_use]
    pub(crate) fn write(&self, local_mac: MacAddr, ident: u16, frame: &mut [u8]) -> bool {
        const V4_LEN: usize = ETH_LEN + IPV4_LEN + UDP_LEN;
        let len = |from: usize| u16::try_from(frame.len().checked_sub(from)?).ok();
        let at = self.path.offsets();
        let (Some(packet_len), Some(udp_len)) = (len(at.network), len(at.transport)) else {
            return false;
        };
        // Copies of a length that the compiler knows need no call.
        match self.path.addresses {
            Addresses::V4 { .. } => {
                let Some(headers) = frame.first_chunk_mut::<V4_LEN>() else {
                    return false;
                };
                headers.copy_from_slice(&self.bytes[..V4_LEN]);
                headers[16..18].copy_from_slice(&packet_len.to_be_bytes());
                headers[18..20].copy_from_slice(&ident.to_be_bytes());
                let mut sum = self.ipv4_sum;
                sum.add_word(u32::from(ident) + u32::from(packet_len));
                headers[24..26].copy_from_slice(&sum.finish().to_be_bytes());
            }
            Addresses::V6 { .. } => {
                let Some(headers) = frame.first_chunk_mut() else {
                    return false;
                };
                *headers = self.bytes;
                headers[18..20].copy_from_slice(&udp_len.to_be_bytes());
            }
        }
        frame[6..12].copy_from_slice(&local_mac.0);
        let Some((header, payload)) = frame[at.transport..].split_first_chunk_mut::<UDP_LEN>()
        else {
            return false;
        };
        let mut sum = self.udp_sum;
        // In the header, and in the pseudo-header.
        sum.add_word(2 * u32::from(udp_len));
        sum.add(payload);
        // RFC 768: a checksum of zero says that there is none, so a computed zero is sent as ones.
        let checksum = match sum.finish() {
            0 => 0xffff,
            sum => sum,
        };
        header[4..6].copy_from_slice(&udp_len.to_be_bytes());
        header[6..].copy_from_slice(&checksum.to_be_bytes());
        true
    }
}

/// The Internet checksum (RFC 1071): a sum with end-around carry, of words as they are in memory,
/// whatever their order of bytes (section 2).
#[derive(Clone, Copy, Default)]
struct Checksum(u64);

impl Checksum {
    fn add_eight(&mut self, word: u64) {
        let (sum, carry) = self.0.overflowing_add(word);
        // A sum that has overflowed is not all ones.
        self.0 = sum.wrapping_add(carry.into());
    }

    /// Adds two 16-bit words, or one, or a sum of some.
    fn add_word(&mut self, word: u32) {
        self.add_eight(word.to_be().into());
    }

    /// Adds 16-bit words. Only the last slice added may have an odd number of bytes.
    fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            self.add_eight(word.try_into().map_or(0, u64::from_ne_bytes));
        }
        let rest = words.remainder();
        let last = match bytes.last_chunk() {
            // The bytes before the rest are shifted out.
            Some(_) if rest.is_empty() => 0,
            Some(last) => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
            None => {
                let mut last = [0; 8];
                last[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(last)
            }
        };
        self.add_eight(last.to_le());
    }

    /// Returns the complement of the sum.
    fn finish(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        // Of 33 bits, then 18, then 17, and then of 16.
        for _ in 0..3 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::from_be(sum as u16)
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_udp)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    fn checksum(bytes: &[u8]) -> u16 {
        let mut sum = Checksum::default();
        sum.add(bytes);
        sum.finish()
    }

    #[test]
    fn rfc_1071_example() {
        // RFC 1071, section 3: the sum of these words is 0xddf2.
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert!(checksum(&words) == !0xddf2);
        // An odd byte counts as the high half of a word.
        assert!(checksum(&[0x12, 0x34, 0x56]) == !(0x1234 + 0x5600));
        assert!(checksum(&[]) == 0xffff);
    }

    #[test]
    fn ipv4_header_example() {
        // The header that textbooks verify: its checksum field is 0xb861.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert!(checksum(&header) == 0xb861);
    }

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

    fn path(addresses: Addresses) -> Path {
        Path {
            addresses,
            local_port: 6665,
            remote_port: 6666,
            remote_mac: MacAddr::BROADCAST,
        }
    }

    const V4: Addresses = Addresses::V4 {
        local: Ipv4Addr::new(10, 0, 0, 1),
        remote: Ipv4Addr::new(10, 0, 0, 2),
    };
    const V6: Addresses = Addresses::V6 {
        local: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        remote: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    };

    /// The sum that a receiver computes, over pseudo-header and datagram: 0.
    fn verifies(addresses: Addresses, packet: &[u8]) -> bool {
        let mut sum = Checksum::default();
        let ip_len = addresses.ip_len();
        let udp = &packet[ip_len..];
        let ends = match addresses {
            Addresses::V4 { .. } => &packet[12..20],
            Addresses::V6 { .. } => &packet[8..40],
        };
        sum.add(ends);
        sum.add(&[0, UDP]);
        sum.add(&(udp.len() as u16).to_be_bytes());
        sum.add(udp);
        let header_ok = match addresses {
            Addresses::V4 { .. } => checksum(&packet[..ip_len]) == 0,
            Addresses::V6 { .. } => true,
        };
        sum.finish() == 0 && header_ok && packet[ip_len + 6..ip_len + 8] != [0, 0]
    }

    /// Frames that Linux's own stack sent over a veth pair, as tcpdump saw them.
    const PAYLOAD: &[u8] = b"6,416,1758426,-;hello\n";
    const CAPTURED_V4: [u8; 42] = [
        0xfa, 0xb8, 0x4a, 0xcf, 0xbc, 0x84, 0xb2, 0xf3, 0xf4, 0x54, 0x6a, 0xbf, 0x08, 0x00, 0x45,
        0x00, 0x00, 0x32, 0x47, 0x56, 0x40, 0x00, 0x40, 0x11, 0xdf, 0x62, 0x0a, 0x00, 0x00, 0x01,
        0x0a, 0x00, 0x00, 0x02, 0x1a, 0x09, 0x1a, 0x0a, 0x00, 0x1e, 0xd5, 0x2d,
    ];
    const CAPTURED_V6: [u8; 62] = [
        0xfa, 0xb8, 0x4a, 0xcf, 0xbc, 0x84, 0xb2, 0xf3, 0xf4, 0x54, 0x6a, 0xbf, 0x86, 0xdd, 0x60,
        0x08, 0x6b, 0x25, 0x00, 0x1e, 0x11, 0x40, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x1a, 0x09, 0x1a, 0x0a, 0x00, 0x1e,
        0xef, 0x2b,
    ];

    /// Whether our frame differs from a captured one in nothing but `different` bytes.
    fn is_like(captured: &[u8], addresses: Addresses, different: &[usize]) -> bool {
        let path = Path {
            remote_mac: MacAddr([0xfa, 0xb8, 0x4a, 0xcf, 0xbc, 0x84]),
            ..path(addresses)
        };
        let local_mac = MacAddr([0xb2, 0xf3, 0xf4, 0x54, 0x6a, 0xbf]);
        let mut frame = [0; MAX_HEADERS + PAYLOAD.len()];
        let frame = &mut frame[..captured.len() + PAYLOAD.len()];
        frame[captured.len()..].copy_from_slice(PAYLOAD);
        Headers::new(path).write(local_mac, 0x4756, frame)
            && (0..captured.len()).all(|i| captured[i] == frame[i] || different.contains(&i))
    }

    #[test]
    fn captured_frames() {
        // Linux sets "don't fragment", and so has another checksum of the IPv4 header.
        assert!(is_like(&CAPTURED_V4, V4, &[20, 24, 25]));
        assert!(checksum(&CAPTURED_V4[ETH_LEN..ETH_LEN + IPV4_LEN]) == 0);
        // Linux sets a flow label and another hop limit, which are in no checksum.
        assert!(is_like(&CAPTURED_V6, V6, &[15, 16, 17, 21]));
    }

    #[test]
    fn frames_verify_for_every_length() {
        for addresses in [V4, V6] {
            let path = path(addresses);
            let start = path.offsets().payload;
            for len in 0..=1000 {
                let mut frame = [0xa5; MAX_HEADERS + 1000];
                for (i, byte) in frame.iter_mut().enumerate() {
                    *byte = (i * len) as u8;
                }
                let frame = &mut frame[..start + len];
                assert!(Headers::new(path).write(MAC, len as u16, frame));
                assert!(verifies(addresses, &frame[ETH_LEN..]));
            }
        }
    }

    #[test]
    fn a_zero_checksum_is_sent_as_ones() {
        for addresses in [V4, V6] {
            let path = path(addresses);
            let start = path.offsets().payload;
            let mut frame = [0; MAX_HEADERS + 2];
            let frame = &mut frame[..start + 2];
            assert!(Headers::new(path).write(MAC, 0, frame));
            // With its own checksum as payload, the sum of the datagram is all ones.
            let checksum = [frame[start - 2], frame[start - 1]];
            frame[start..].copy_from_slice(&checksum);
            assert!(Headers::new(path).write(MAC, 0, frame));
            assert!(frame[start - 2..start] == [0xff, 0xff]);
            assert!(verifies(addresses, &frame[ETH_LEN..]));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let path = path(V4);
        let mut short = [0; ETH_LEN + IPV4_LEN + UDP_LEN - 1];
        assert!(!Headers::new(path).write(MAC, 0, &mut short));
        assert!(short == [0; ETH_LEN + IPV4_LEN + UDP_LEN - 1]);
        assert!(!Headers::new(path).write(MAC, 0, &mut []));
    }

    #[test]
    fn families_do_not_mix() {
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert!(Addresses::new(v4, v6).is_none());
        assert!(Addresses::new(v6, v4).is_none());
        assert!(Addresses::new(v6, v6).is_some());
    }
}
