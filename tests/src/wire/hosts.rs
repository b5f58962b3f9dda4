// SPDX-License-Identifier: GPL-2.0

//! Simulated hosts: their addresses, and the answers that any host gives.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{bail, Result};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::{DestUnreachableCode, NeighborAdvertisementHeader};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv4Type, Icmpv6Type, LinkSlice, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};

use super::{check, Udp};

/// The hardware address of frames whose sender is no host of the wire.
pub const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0, 0xff];

const BROADCAST: [u8; 6] = [0xff; 6];
/// The multicast group of all IPv6 hosts of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const TTL: u8 = 64;
/// The hop limit that neighbour discovery demands: no router has forwarded the packet.
const ND_HOP_LIMIT: u8 = 255;

/// A host at the far end of the wire.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The addresses that lie behind it: it is their router.
    pub behind: Vec<IpAddr>,
    /// The VLAN that it is in; `None`: its frames have no tag.
    pub vlan: Option<u16>,
}

impl Host {
    /// Returns a host with one hardware address and several others.
    pub fn new(mac: [u8; 6], ips: &[&str]) -> Self {
        Self {
            mac,
            ips: addresses(ips),
            behind: Vec::new(),
            vlan: None,
        }
    }

    /// Returns the same host, being the router to other addresses as well.
    pub fn router_to(mut self, ips: &[&str]) -> Self {
        self.behind = addresses(ips);
        self
    }

    /// Returns the same host in a VLAN.
    pub fn in_vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// Returns whether this is one of its addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
    }

    /// Returns whether packets from this address come through it.
    pub fn speaks_for(&self, ip: IpAddr) -> bool {
        self.owns(ip) || self.behind.contains(&ip)
    }

    /// Returns whether a packet to `ip` in a frame to `mac` gets to its end through it. As any
    /// router, it forwards nothing that was broadcast.
    pub fn takes(&self, ip: IpAddr, mac: [u8; 6]) -> bool {
        let own = self.owns(ip) && (mac == self.mac || mac == BROADCAST);
        own || (self.behind.contains(&ip) && mac == self.mac)
    }

    /// Returns the frame that announces `ip` at its hardware address: a gratuitous ARP, or an
    /// unsolicited neighbour advertisement.
    pub fn announcement(&self, ip: IpAddr) -> Option<Vec<u8>> {
        match ip {
            IpAddr::V4(ip) => {
                let arp = ArpEthIpv4Packet {
                    operation: ArpOperation::REQUEST,
                    sender_mac: self.mac,
                    sender_ipv4: ip.octets(),
                    target_mac: [0; 6],
                    target_ipv4: ip.octets(),
                };
                let mut frame = Vec::new();
                PacketBuilder::ethernet2(self.mac, BROADCAST)
                    .arp(arp.into())
                    .write(&mut frame)
                    .ok()?;
                Some(frame)
            }
            IpAddr::V6(ip) => self.advertise(ALL_NODES_MAC, ALL_NODES, ip, false),
        }
    }

    /// Returns its answer to an ARP request or a neighbour solicitation, if `frame` is one for it.
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        match (packet.net?, packet.transport) {
            (NetSlice::Arp(arp), _) => self.answer_arp(arp.to_packet().try_eth_ipv4().ok()?),
            (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
                let asks = matches!(icmp.icmp_type(), Icmpv6Type::NeighborSolicitation);
                let source = ip.header().source_addr();
                // A solicitation from nowhere is duplicate address detection:
                // an answer would take the guest's address away.
                if !asks || source.is_unspecified() {
                    return None;
                }
                let target = Ipv6Addr::from(*icmp.payload().first_chunk::<16>()?);
                self.advertise(ethernet(&packet.link)?.0, source, target, true)
            }
            _ => None,
        }
    }

    fn answer_arp(&self, request: ArpEthIpv4Packet) -> Option<Vec<u8>> {
        let wanted = request.operation == ArpOperation::REQUEST
            && self.owns(IpAddr::from(request.target_ipv4));
        let reply = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: self.mac,
            sender_ipv4: request.target_ipv4,
            target_mac: request.sender_mac,
            target_ipv4: request.sender_ipv4,
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.mac, request.sender_mac)
            .arp(reply.into())
            .write(&mut frame)
            .ok()?;
        wanted.then_some(frame)
    }

    fn advertise(
        &self,
        mac: [u8; 6],
        to: Ipv6Addr,
        target: Ipv6Addr,
        solicited: bool,
    ) -> Option<Vec<u8>> {
        if !self.owns(target.into()) {
            return None;
        }
        let header = NeighborAdvertisementHeader {
            router: !self.behind.is_empty(),
            solicited,
            r#override: true,
        };
        // The target, and the option "target link-layer address".
        let mut payload = target.octets().to_vec();
        payload.extend([2, 1]);
        payload.extend(self.mac);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.mac, mac)
            .ipv6(target.octets(), to.octets(), ND_HOP_LIMIT)
            .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
            .write(&mut frame, &payload)
            .ok()?;
        Some(frame)
    }
}

/// Returns the UDP datagram in a frame, unless something is wrong with either.
pub fn see(frame: &[u8]) -> Option<Udp> {
    check::frame(frame).ok()?;
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else {
        return None;
    };
    let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    Some(Udp {
        at: Instant::now(),
        mac: ethernet(&packet.link)?,
        from: SocketAddr::new(from, udp.source_port()),
        to: SocketAddr::new(to, udp.destination_port()),
        payload: udp.payload().to_vec(),
    })
}

/// Returns a UDP datagram as a frame.
pub fn udp_frame(
    (source, target): ([u8; 6], [u8; 6]),
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(source, target);
    let packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), TTL),
        _ => bail!("{from} and {to} do not go together"),
    };
    let mut frame = Vec::new();
    packet
        .udp(from.port(), to.port())
        .write(&mut frame, payload)?;
    Ok(frame)
}

/// Returns "port unreachable" in answer to a datagram that came in `frame`.
pub fn unreachable(udp: &Udp, frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(udp.mac.1, udp.mac.0);
    // The answer may quote this much of the packet.
    let mut quote = frame.get(14..)?;
    let mut answer = Vec::new();
    match (udp.to.ip(), udp.from.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            quote = &quote[..quote.len().min(28)];
            ethernet
                .ipv4(from.octets(), to.octets(), TTL)
                .icmpv4(Icmpv4Type::DestinationUnreachable(
                    DestUnreachableHeader::Port,
                ))
                .write(&mut answer, quote)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            quote = &quote[..quote.len().min(1232)];
            ethernet
                .ipv6(from.octets(), to.octets(), TTL)
                .icmpv6(Icmpv6Type::DestinationUnreachable(
                    DestUnreachableCode::Port,
                ))
                .write(&mut answer, quote)
        }
        _ => return None,
    }
    .ok()?;
    Some(answer)
}

fn addresses(ips: &[&str]) -> Vec<IpAddr> {
    let parse = |ip: &&str| ip.parse().expect("an IP address");
    ips.iter().map(parse).collect()
}

/// Returns the hardware addresses of a frame, source and destination.
fn ethernet(link: &Option<LinkSlice>) -> Option<([u8; 6], [u8; 6])> {
    match link {
        Some(LinkSlice::Ethernet2(header)) => Some((header.source(), header.destination())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_request_for_us_is_answered() {
        let host = Host::new([2; 6], &["10.0.2.1"]);
        let ask = |target_ipv4| {
            let request = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: [4; 6],
                sender_ipv4: [10, 0, 2, 15],
                target_mac: [0; 6],
                target_ipv4,
            };
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([4; 6], BROADCAST)
                .arp(request.into())
                .write(&mut frame)
                .unwrap();
            host.answer(&frame)
        };
        assert!(ask([10, 0, 2, 1]).is_some());
        assert!(ask([10, 0, 2, 2]).is_none());
    }

    #[test]
    fn a_router_forwards_what_is_addressed_to_it() {
        let router = Host::new([2; 6], &["10.0.2.254"]).router_to(&["10.9.9.9"]);
        let [own, far] = ["10.0.2.254", "10.9.9.9"].map(|ip| ip.parse().unwrap());
        assert!(router.takes(own, BROADCAST) && router.takes(own, [2; 6]));
        assert!(router.takes(far, [2; 6]) && !router.takes(far, BROADCAST));
        assert!(!router.takes(far, [4; 6]));
    }

    #[test]
    fn announcements_are_well_formed() {
        let host = Host::new([2; 6], &["10.0.2.1", "fd00::1"]);
        for ip in &host.ips {
            let frame = host.announcement(*ip).unwrap();
            assert_eq!(check::frame(&frame), Ok(()));
        }
    }

    #[test]
    fn a_solicitation_is_answered_and_duplicate_detection_is_not() {
        let host = Host::new([2; 6], &["fd00::1"]);
        let ask = |source: &str, target: &str| {
            let [source, target] = [source, target].map(|a| a.parse::<Ipv6Addr>().unwrap());
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([4; 6], [0x33, 0x33, 0, 0, 0, 1])
                .ipv6(source.octets(), target.octets(), ND_HOP_LIMIT)
                .icmpv6(Icmpv6Type::NeighborSolicitation)
                .write(&mut frame, &target.octets())
                .unwrap();
            host.answer(&frame)
        };
        let answer = ask("fd00::2", "fd00::1").unwrap();
        assert_eq!(check::frame(&answer), Ok(()));
        assert!(ask("::", "fd00::1").is_none());
        assert!(ask("fd00::2", "fd00::3").is_none());
    }
}
