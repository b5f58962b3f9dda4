// SPDX-License-Identifier: GPL-2.0

//! Checks of frames: every checksum and every length.

use etherparse::{checksum, NetSlice, SlicedPacket, TransportSlice, UdpSlice};

/// The length of the shortest Ethernet frame; shorter ones are padded on their way.
const SHORTEST_FRAME: usize = 60;

/// Returns an error that names what is wrong with a frame. Frames other than ARP and IP pass.
pub fn frame(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
    let Some(net) = &packet.net else {
        return Ok(());
    };
    let (payload, fragmented) = match net {
        NetSlice::Arp(_) => return Ok(()),
        NetSlice::Ipv4(ip) => {
            if !sums_up(ip.header().slice()) {
                return Err("wrong IPv4 header checksum".into());
            }
            (ip.payload().payload, ip.is_payload_fragmented())
        }
        NetSlice::Ipv6(ip) => (ip.payload().payload, ip.is_payload_fragmented()),
    };
    // The payload is a part of the frame.
    let end = payload.as_ptr_range().end as usize - frame.as_ptr() as usize;
    if end != frame.len() && frame.len() > SHORTEST_FRAME {
        return Err(format!("{} bytes after the IP packet", frame.len() - end));
    }
    if fragmented {
        return Ok(());
    }
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) => udp_datagram(net, udp, payload.len()),
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = match addresses(net) {
                Some(Addresses::V4(from, to)) => tcp.calc_checksum_ipv4(from, to),
                Some(Addresses::V6(from, to)) => tcp.calc_checksum_ipv6(from, to),
                None => return Ok(()),
            };
            equal("TCP", tcp.checksum(), computed.map_err(|e| e.to_string())?)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            if sums_up(icmp.slice()) {
                Ok(())
            } else {
                Err("wrong ICMP checksum".into())
            }
        }
        Some(TransportSlice::Icmpv6(icmp)) => match addresses(net) {
            Some(Addresses::V6(from, to)) if icmp.is_checksum_valid(from, to) => Ok(()),
            _ => Err("wrong ICMPv6 checksum".into()),
        },
        None => Ok(()),
    }
}

/// Returns whether the one's complement sum over all of `bytes`, checksum included, is right.
fn sums_up(bytes: &[u8]) -> bool {
    checksum::Sum16BitWords::new()
        .add_slice(bytes)
        .ones_complement()
        == 0
}

fn udp_datagram(net: &NetSlice, udp: &UdpSlice, payload: usize) -> Result<(), String> {
    if usize::from(udp.length()) != payload {
        return Err(format!(
            "a UDP length of {} in {payload} bytes",
            udp.length()
        ));
    }
    let header = udp.to_header();
    let computed = match addresses(net) {
        Some(Addresses::V4(from, to)) => header.calc_checksum_ipv4_raw(from, to, udp.payload()),
        Some(Addresses::V6(from, to)) => header.calc_checksum_ipv6_raw(from, to, udp.payload()),
        None => return Ok(()),
    };
    if udp.checksum() == 0 {
        return Err("no UDP checksum".into());
    }
    equal("UDP", udp.checksum(), computed.map_err(|e| e.to_string())?)
}

enum Addresses {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

fn addresses(net: &NetSlice) -> Option<Addresses> {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some(Addresses::V4(header.source(), header.destination()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some(Addresses::V6(header.source(), header.destination()))
        }
        NetSlice::Arp(_) => None,
    }
}

fn equal(what: &str, found: u16, computed: u16) -> Result<(), String> {
    if found == computed {
        return Ok(());
    }
    Err(format!(
        "wrong {what} checksum: {found:#06x} instead of {computed:#06x}"
    ))
}

#[cfg(test)]
mod tests {
    use crate::wire::hosts::udp_frame;

    const MACS: ([u8; 6], [u8; 6]) = ([2; 6], [4; 6]);

    fn frames() -> Vec<Vec<u8>> {
        [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")]
            .map(|(from, to)| {
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                udp_frame(MACS, from, to, b"a payload that is long enough").unwrap()
            })
            .to_vec()
    }

    #[test]
    fn every_flipped_bit_of_a_datagram_is_noticed() {
        for frame in frames() {
            assert_eq!(super::frame(&frame), Ok(()));
            let ipv6 = frame[12] == 0x86;
            for bit in 14 * 8..frame.len() * 8 {
                // No checksum covers these fields of IPv6: class, label, hops.
                if ipv6 && ((14 * 8 + 4..18 * 8).contains(&bit) || bit / 8 == 21) {
                    continue;
                }
                // Other protocols than UDP, fragments, and extension headers are
                // other packets, not damaged ones.
                if ipv6 && bit / 8 == 20 {
                    continue;
                }
                let mut damaged = frame.clone();
                damaged[bit / 8] ^= 0x80 >> (bit % 8);
                assert!(super::frame(&damaged).is_err(), "bit {bit}, IPv6: {ipv6}");
            }
        }
    }

    #[test]
    fn a_missing_checksum_is_an_error() {
        let mut frame = frames()[0].clone();
        let at = 14 + 20 + 6;
        frame[at..at + 2].fill(0);
        assert_eq!(super::frame(&frame), Err("no UDP checksum".into()));
    }

    #[test]
    fn rubbish_after_the_packet_is_an_error() {
        let mut frame = frames()[0].clone();
        frame.push(0);
        assert!(super::frame(&frame).is_err());
    }
}
