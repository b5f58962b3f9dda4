// SPDX-License-Identifier: GPL-2.0

//! Devices as other people's machines have them: in a VRF, under a bridge that
//! has their address, with altnames, without netpoll, with a small MTU, or with
//! frames that leave by the network stack.

use anyhow::{ensure, Result};
use nctest::env;
use nctest::logger::Logger;
use nctest::qemu::{nic_mac, NicModel};
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use super::{
    answering, each_once, load_for_eth1, nothing_happens, prepare_eth1, reaches, sh, two_cards,
    Target, GUEST1, HOST1, IP,
};
use crate::scene::{Scene, HOST_MAC, HOST_MAC_TEXT, PORT, SOON};
use crate::trial::{ours_only, stock_trial_with, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = vec![
        stock_trial_with("vrf_goes_on_stock", with_vrf, vrf_goes_on),
        stock_trial_with("sends_by_the_stack_stock", with_macsec, sends_by_the_stack),
        trial_with("mac_of_a_bridge", two_cards, mac_of_a_bridge),
        trial_with("free_again", two_cards, free_again),
        trial_with("altnames", two_cards, altnames),
        trial_with("without_netpoll", two_cards, without_netpoll),
        trial_with("scope_and_mtu", two_cards, scope_and_mtu),
        trial_with("bridge_that_learns", two_cards, bridge_that_learns),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// A guest of Debian's kernel with two cards, `ip`, and a module of that kernel.
fn with_stock_module(config: &mut VmConfig, module: &str) -> Result<()> {
    let from = env::stock_kernel_module(module)?;
    config.files.push(("/extra.ko.xz".into(), from));
    config.nics.push(NicModel::Virtio);
    config.program(IP)
}

fn with_vrf(config: &mut VmConfig) -> Result<()> {
    with_stock_module(config, "drivers/net/vrf.ko.xz")
}

fn with_macsec(config: &mut VmConfig) -> Result<()> {
    with_stock_module(config, "drivers/net/macsec.ko.xz")
}

/// The script that loads that module.
const LOAD_EXTRA: &str = "unxz /extra.ko.xz; insmod /extra.ko";

/// A target goes on, and is acknowledged, when its device joins a VRF and when it
/// leaves it; and can be enabled inside.
fn vrf_goes_on(scene: &mut Scene) -> Result<()> {
    sh(scene, LOAD_EXTRA)?;
    drop(load_for_eth1(scene)?);
    let peer = answering(scene, 1)?;
    let target = Target::on_eth1(scene, "t")?;
    let first = reaches(scene, &peer.logger, "outside")?;
    target.until_acked(scene, first)?;
    let steps = [
        "ip link add mgmt type vrf table 10; ip link set mgmt up; ip link set eth1 master mgmt",
        "ip link set eth1 nomaster",
        "ip link set eth1 master mgmt",
    ];
    let mut last = first;
    for (n, step) in steps.into_iter().enumerate() {
        sh(scene, step)?;
        let burst = Burst::new(20, scene.seed, &format!("after step {n}"));
        scene.vm.agent.log(&burst, SOON)?;
        last = reaches(scene, &peer.logger, &format!("step {n} is over"))?;
        target.says(scene, "enabled", "1")?;
        target.until_acked(scene, last)?;
    }
    let kmsg = scene.vm.agent.kmsg()?;
    peer.logger.assert_equal(&kmsg.records, first..=last)?;
    target.set(scene, "enabled", "0")?;
    target.set(scene, "enabled", "1")?;
    let last = reaches(scene, &peer.logger, "enabled inside")?;
    target.until_acked(scene, last)?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A device that sends by the network stack may be used, but not in a panic, and
/// the log says so; not of a card.
fn sends_by_the_stack(scene: &mut Scene) -> Result<()> {
    const LINE: &str = "in a panic nothing is sent by ";
    sh(scene, LOAD_EXTRA)?;
    drop(load_for_eth1(scene)?);
    sh(
        scene,
        "ip link add link eth1 macsec0 type macsec; ip link set macsec0 up
         ip addr add 10.0.4.15/24 dev macsec0",
    )?;
    let said = scene.vm.serial.len();
    let card = Target::on_eth1(scene, "card")?;
    let target = Target::to(scene, "t", "macsec0", "10.0.4.1")?;
    target.set(scene, "enabled", "1")?;
    let line = format!("t: {LINE}macsec0");
    scene.vm.serial.wait_for(&line, said, SOON)?;
    let lines = scene.vm.serial.lines(said);
    let count = lines.iter().filter(|line| line.contains(LINE)).count();
    ensure!(count == 1, "{count} such lines in\n{}", lines.join("\n"));
    target.says(scene, "enabled", "1")?;
    target.remove(scene)?;
    card.remove(scene)?;
    scene.unload_and_settle()
}

/// A hardware address that a bridge shares with a port stands for the bridge.
fn mac_of_a_bridge(scene: &mut Scene) -> Result<()> {
    let logger = prepare_eth1(scene)?;
    sh(
        scene,
        &format!(
            "ip addr flush dev eth1
             ip link add br0 type bridge; ip link set eth1 master br0; ip link set br0 up
             ip addr add {GUEST1}/24 dev br0"
        ),
    )?;
    scene.load(&format!("+@/{},@{HOST1}/", mac_text(1)))?;
    reaches(scene, &logger, "by the bridge")?;
    let target = Target::make(scene, "cmdline0")?;
    target.says(scene, "dev_name", "br0")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// The address of card `n`, as `ip` writes it.
fn mac_text(n: usize) -> String {
    let bytes = nic_mac(n).map(|byte| format!("{byte:02x}"));
    bytes.join(":")
}

/// A target of the command line that waits for an address goes on by itself when
/// a bridge has taken its device and given it back.
fn free_again(scene: &mut Scene) -> Result<()> {
    scene.vm.wires[1].add_host(Host::new(HOST_MAC, &[HOST1]));
    let logger = Logger::attach(&scene.vm.wires[1], PORT);
    let load = format!("+@/eth1,@{HOST1}/");
    sh(scene, "ip link set eth1 up; ip link add br0 type bridge")?;
    scene.load(&load)?;
    let target = Target::make(scene, "cmdline0")?;
    target.says(scene, "stats/state", "down")?;
    sh(
        scene,
        &format!("ip link set eth1 master br0; ip addr add {GUEST1}/24 dev eth1"),
    )?;
    nothing_happens();
    target.says(scene, "stats/state", "down")?;
    sh(scene, "ip link set eth1 nomaster")?;
    target.until(scene, "enabled", "1", SOON)?;
    let last = reaches(scene, &logger, "free again")?;
    each_once(scene, &logger, 0, last)?;
    target.remove(scene)?;
    scene.unload()?;

    // It may be a port already when the module is loaded.
    sh(scene, "ip link set eth1 master br0")?;
    let said = scene.vm.serial.len();
    scene.load(&load)?;
    for line in ["eth1 is a slave device", "enabled when the device is free"] {
        scene.vm.serial.wait_for(line, said, SOON)?;
    }
    sh(scene, "ip link set eth1 nomaster")?;
    reaches(scene, &logger, "free once more")?;
    scene.unload_and_settle()
}

/// A device is found by an altname, however long, that it is given later; the
/// target keeps that name as long as the device has it.
fn altnames(scene: &mut Scene) -> Result<()> {
    let long = "the_uplink_to_the_log_host_in_rack_7";
    let logger = prepare_eth1(scene)?;
    let said = scene.vm.serial.len();
    scene.load(&format!("+@/{long},@{HOST1}/"))?;
    let line = format!("{long} doesn't exist");
    scene.vm.serial.wait_for(&line, said, SOON)?;
    let target = Target::make(scene, "cmdline0")?;
    target.says(scene, "stats/state", "down")?;
    sh(
        scene,
        &format!("ip link property add dev eth1 altname {long}"),
    )?;
    target.until(scene, "enabled", "1", SOON)?;
    reaches(scene, &logger, "by its altname")?;
    sh(scene, "ip link set eth1 name lan1")?;
    target.says(scene, "dev_name", long)?;
    sh(
        scene,
        &format!("ip link property del dev lan1 altname {long}; ip link set lan1 name lan2"),
    )?;
    target.says(scene, "dev_name", "lan2")?;
    reaches(scene, &logger, "under another name")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A device without netpoll is refused with a sentence and a known error.
fn without_netpoll(scene: &mut Scene) -> Result<()> {
    drop(load_for_eth1(scene)?);
    sh(
        scene,
        "ip link add veth0 type veth peer name veth1; ip link set veth1 up
         ip link set veth0 up; ip addr add 10.0.4.15/24 dev veth0",
    )?;
    let target = Target::to(scene, "t", "veth0", "10.0.4.1")?;
    let said = scene.vm.serial.len();
    target.refuses(scene, "enabled", "1", "not supported")?;
    let line = "t: netpoll setup failed: veth0, or a device that it is made of, cannot send";
    scene.vm.serial.wait_for(line, said, SOON)?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// An address may be written with its scope, which has to be the device; and a
/// small MTU is said.
fn scope_and_mtu(scene: &mut Scene) -> Result<()> {
    scene.vm.wires[1].add_host(Host::new(HOST_MAC, &["fe80::1"]));
    let logger = Logger::attach(&scene.vm.wires[1], PORT);
    sh(
        scene,
        "ip link set eth1 up; ip -6 addr add fe80::15/64 dev eth1 nodad",
    )?;
    scene.load("")?;
    let target = Target::to(scene, "t", "eth1", "fe80::1%eth0")?;
    target.set(scene, "remote_mac", HOST_MAC_TEXT)?;
    target.refuses(scene, "remote_ip", "10.0.3.1%eth1", "nvalid argument")?;
    let said = scene.vm.serial.len();
    target.refuses(scene, "enabled", "1", "nvalid argument")?;
    let line = "is another device than eth1";
    scene.vm.serial.wait_for(line, said, SOON)?;
    let index = sh(scene, "cat /sys/class/net/eth1/ifindex")?;
    for scope in ["eth1", index.trim_end()] {
        target.set(scene, "remote_ip", &format!("fe80::1%{scope}"))?;
        target.set(scene, "local_ip", &format!("fe80::15%{scope}"))?;
        target.set(scene, "enabled", "1")?;
        reaches(scene, &logger, &format!("with scope {scope}"))?;
        target.set(scene, "enabled", "0")?;
    }
    let lines = scene.vm.serial.lines(said);
    let said_mtu = lines.iter().any(|line| line.contains("the MTU of"));
    ensure!(!said_mtu, "in\n{}", lines.join("\n"));
    target.remove(scene)?;

    sh(
        scene,
        "ip addr add 10.0.3.15/24 dev eth1; ip link set eth1 mtu 900",
    )?;
    let said = scene.vm.serial.len();
    let small = Target::on_eth1(scene, "small")?;
    let line = "small: the MTU of eth1 is 900";
    scene.vm.serial.wait_for(line, said, SOON)?;
    small.remove(scene)?;
    scene.unload_and_settle()
}

/// Records from before a bridge's port forwards are sent then, to a logger that asks for nothing.
fn bridge_that_learns(scene: &mut Scene) -> Result<()> {
    let logger = prepare_eth1(scene)?;
    sh(
        scene,
        &format!(
            "ip addr flush dev eth1
             ip link add br0 type bridge stp_state 1 forward_delay 800
             ip link set eth1 master br0; ip link set br0 up
             ip addr add {GUEST1}/24 dev br0"
        ),
    )?;
    scene.load(&format!("+@/br0,@{HOST1}/"))?;
    let target = Target::make(scene, "cmdline0")?;
    target.says(scene, "stats/state", "no-carrier")?;
    let burst = Burst::new(100, scene.seed, "while the port learns");
    scene.vm.agent.log(&burst, SOON)?;
    let waits: u64 = target.get(scene, "stats/backlog")?.parse()?;
    ensure!(waits >= 100, "only {waits} records wait");
    target.until(scene, "stats/state", "never-acked", SOON)?;
    let last = reaches(scene, &logger, "the port forwards")?;
    each_once(scene, &logger, 0, last)?;
    target.says(scene, "stats/backlog", "0")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}
