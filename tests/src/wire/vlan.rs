// SPDX-License-Identifier: GPL-2.0

//! VLAN tags (802.1Q): removed from frames, and inserted.

use etherparse::{EtherType, Ethernet2Header, SingleVlanHeader, SlicedPacket, VlanId, VlanPcp};

/// The length of both Ethernet addresses.
const ADDRESSES: usize = 12;

/// Returns the VLAN that a frame is of, and the frame as it is without the tag. A frame that cannot
/// be read, or has two tags, is left as it is.
pub fn untag(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    let whole = || (None, frame.to_vec());
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return whole();
    };
    let [id] = packet.vlan_ids()[..] else {
        return whole();
    };
    let after = ADDRESSES + SingleVlanHeader::LEN;
    let bare = [&frame[..ADDRESSES], &frame[after..]].concat();
    (Some(id.value()), bare)
}

/// Returns the frame with the tag of `vlan`, if there is one to put on.
pub fn tag(frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    let Some(id) = vlan else { return frame };
    let id = VlanId::try_new(id).expect("a VLAN's number has 12 bits");
    let Ok((mut ethernet, rest)) = Ethernet2Header::from_slice(&frame) else {
        return frame;
    };
    let header = SingleVlanHeader {
        pcp: VlanPcp::ZERO,
        drop_eligible_indicator: false,
        vlan_id: id,
        ether_type: ethernet.ether_type,
    };
    ethernet.ether_type = EtherType::VLAN_TAGGED_FRAME;
    [&ethernet.to_bytes()[..], &header.to_bytes()[..], rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{check, hosts};

    #[test]
    fn a_tag_comes_off_as_it_was_put_on() {
        let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let bare = hosts::udp_frame(([2; 6], [4; 6]), from, to, b"a payload of a length").unwrap();
        let tagged = tag(bare.clone(), Some(7));
        assert_eq!(tagged.len(), bare.len() + 4);
        assert_eq!(check::frame(&tagged), Ok(()));
        assert_eq!(untag(&tagged), (Some(7), bare.clone()));
        assert_eq!(untag(&bare), (None, bare.clone()));
        assert_eq!(tag(bare.clone(), None), bare);
        let twice = tag(tagged.clone(), Some(8));
        assert_eq!(untag(&twice), (None, twice.clone()));
    }

    #[test]
    fn damage_under_a_tag_is_noticed() {
        let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let bare = hosts::udp_frame(([2; 6], [4; 6]), from, to, b"a payload of a length").unwrap();
        let mut tagged = tag(bare, Some(7));
        *tagged.last_mut().unwrap() ^= 1;
        assert!(check::frame(&tagged).is_err());
    }
}
