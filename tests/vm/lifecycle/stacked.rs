// SPDX-License-Identifier: GPL-2.0

//! Targets on devices that are made of others: a bond that loses a slave, a
//! bridge, a VLAN, and a VLAN on a bond in a bridge. Acks come back the same way.

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use super::{ours, sh, two_cards, Target, IP};
use crate::scene::{Scene, HOST_MAC, PORT, SOON};
use crate::trial::{trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("on_a_bond", two_cards, on_a_bond),
        trial_with("on_a_bond_of_e1000", two_e1000, on_a_bond),
        trial_with("on_a_bridge", two_cards, on_a_bridge),
        trial_with("on_a_vlan", two_cards, on_a_vlan),
        trial_with("on_all_of_them", two_cards, on_all_of_them),
    ]
}

fn two_e1000(config: &mut VmConfig) -> Result<()> {
    config.nics = vec![NicModel::E1000, NicModel::E1000];
    // See devices.rs of the directory above: a mistake of the 7.3 kernel.
    config.expected = vec!["at napi_skb_cache_put+".into(), "Call Trace:".into()];
    config.program(IP)
}

/// The log host of this file, and the guest's address.
const PEER: &str = "10.0.4.1";
const LOCAL: &str = "10.0.4.15";

/// A log host on both wires, in a VLAN if need be; and a target for it on
/// `device`, to which everything is acknowledged.
fn served(
    scene: &mut Scene,
    device: &str,
    vlan: Option<u16>,
) -> Result<(AckingLogger, Target, u64)> {
    for wire in &scene.vm.wires {
        let host = Host::new(HOST_MAC, &[PEER]);
        wire.add_host(match vlan {
            Some(id) => host.in_vlan(id),
            None => host,
        });
    }
    let mut config = Config::new(Kind::Session);
    config.first = None;
    let peer = AckingLogger::attach(scene.wire(), PORT, config)?;
    peer.also(&scene.vm.wires[1]);
    scene.load("")?;
    let target = Target::to(scene, "t", device, PEER)?;
    target.set(scene, "enabled", "1")?;
    target.says(scene, "local_ip", LOCAL)?;
    let first = reliably(scene, &peer, &target, "the first one")?;
    Ok((peer, target, first))
}

/// Checks that records arrive and are acknowledged; returns the number of the last one.
fn reliably(scene: &mut Scene, peer: &AckingLogger, target: &Target, text: &str) -> Result<u64> {
    let burst = Burst::new(50, scene.seed, text);
    scene.vm.agent.log(&burst, SOON)?;
    let marker = format!("{text}: the end");
    scene.log(&marker)?;
    let seq = peer.logger.wait_for(&marker, Duration::from_secs(60))?;
    if ours(scene, "acks") {
        peer.wait_for_all(seq, Duration::from_secs(60))?;
        target.until_acked(scene, seq)?;
    }
    Ok(seq)
}

/// Checks that everything from `first` to `last` has arrived; removes the target and the module.
fn finish(
    scene: &mut Scene,
    peer: &AckingLogger,
    target: Target,
    (first, last): (u64, u64),
) -> Result<()> {
    target.says(scene, "enabled", "1")?;
    if ours(scene, "that everything has arrived") {
        let kmsg = scene.vm.agent.kmsg()?;
        peer.logger.assert_equal(&kmsg.records, first..=last)?;
    }
    target.set(scene, "enabled", "0")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// Returns the number of datagrams that have come on the wires so far.
fn on_wires(scene: &Scene) -> [u64; 2] {
    [0, 1].map(|n| scene.vm.wires[n].stats().udp)
}

/// An active-backup bond fails over when the cable in use is cut, and back.
fn on_a_bond(scene: &mut Scene) -> Result<()> {
    sh(scene, &bond())?;
    sh(scene, &format!("ip addr add {LOCAL}/24 dev bond0"))?;
    let (peer, target, first) = served(scene, "bond0", None)?;
    let mut last = first;
    for round in 0..4 {
        let before = on_wires(scene);
        let (from, to) = fail_over(scene, &format!("is anybody there? {round}"))?;
        last = reliably(scene, &peer, &target, &format!("after cut {round}"))?;
        let after = on_wires(scene);
        println!("round {round}: datagrams on the wires {before:?} and then {after:?}");
        ensure!(after[to] >= before[to] + 50, "not by the other cable");
        let said = scene.vm.serial.len();
        scene.vm.set_link(from, true)?;
        let line = format!("(slave eth{from}): link status definitely up");
        scene.vm.serial.wait_for(&line, said, SOON)?;
        let text = format!("mended {round}");
        last = last.max(reliably(scene, &peer, &target, &text)?);
    }
    finish(scene, &peer, target, (first, last))
}

/// Cuts the cable of `bond0`'s active card, and logs `text` before the bond has noticed. Returns
/// the active card before and after.
fn fail_over(scene: &mut Scene, text: &str) -> Result<(usize, usize)> {
    const ACTIVE: &str = "cat /sys/class/net/bond0/bonding/active_slave";
    let from = usize::from(sh(scene, ACTIVE)?.trim_end() == "eth1");
    let to = 1 - from;
    // A card that the bond thinks is down would not be taken.
    let status = format!("/sys/class/net/eth{to}/bonding_slave/mii_status");
    sh(
        scene,
        &format!("until grep -q up {status}; do usleep 50000; done"),
    )?;
    let said = scene.vm.serial.len();
    scene.vm.set_link(from, false)?;
    scene.log(text)?;
    let line = format!("(slave eth{to}): making interface the new active one");
    scene.vm.serial.wait_for(&line, said, SOON)?;
    Ok((from, to))
}

/// The script for a bond of both cards, whose own addresses are gone.
fn bond() -> String {
    // There is one from the beginning, of another kind.
    "ip addr flush dev eth0
     ip link del bond0 2> /dev/null || true
     ip link add bond0 type bond mode active-backup miimon 100
     for card in eth0 eth1; do ip link set $card down; ip link set $card master bond0; done
     ip link set bond0 up
     until grep -q eth /sys/class/net/bond0/bonding/active_slave; do usleep 50000; done"
        .into()
}

/// A bridge of both cards. The log host is at one of them; when it is plugged in
/// at the other one, the bridge learns that.
fn on_a_bridge(scene: &mut Scene) -> Result<()> {
    sh(
        scene,
        &format!(
            "ip addr flush dev eth0
             ip link add br0 type bridge
             for card in eth0 eth1; do ip link set $card master br0; ip link set $card up; done
             ip link set br0 up
             ip addr add {LOCAL}/24 dev br0"
        ),
    )?;
    scene.vm.set_link(1, false)?;
    let (peer, target, first) = served(scene, "br0", None)?;
    scene.vm.set_link(1, true)?;
    scene.vm.set_link(0, false)?;
    let last = reliably(scene, &peer, &target, "at the other port")?;
    finish(scene, &peer, target, (first, last))
}

/// Tagged frames go out and come back.
fn on_a_vlan(scene: &mut Scene) -> Result<()> {
    sh(
        scene,
        &format!(
            "ip link add link eth0 name eth0.7 type vlan id 7
             ip link set eth0.7 up
             ip addr add {LOCAL}/24 dev eth0.7"
        ),
    )?;
    let (peer, target, first) = served(scene, "eth0.7", Some(7))?;
    // The lower device goes down and comes back, the upper one with it.
    sh(
        scene,
        "ip link set eth0 down; ip link set eth0 up; ip link set eth0.7 up",
    )?;
    let last = reliably(scene, &peer, &target, "down and up again")?;
    finish(scene, &peer, target, (first, last))
}

/// A bridge on a VLAN on a bond, as servers have it.
fn on_all_of_them(scene: &mut Scene) -> Result<()> {
    sh(scene, &bond())?;
    sh(
        scene,
        &format!(
            "ip link add link bond0 name bond0.7 type vlan id 7
             ip link add br7 type bridge
             ip link set bond0.7 master br7
             ip link set bond0.7 up; ip link set br7 up
             ip addr add {LOCAL}/24 dev br7"
        ),
    )?;
    let (peer, target, first) = served(scene, "br7", Some(7))?;
    fail_over(scene, "is anybody there?")?;
    let last = reliably(scene, &peer, &target, "by the other card")?;
    finish(scene, &peer, target, (first, last))
}
