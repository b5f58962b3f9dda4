// SPDX-License-Identifier: GPL-2.0

//! Panics on devices of other kinds: another driver, and devices that are made of others, which
//! hand a frame on by netpoll; and while another CPU sends all the time, by the only queue there
//! is. The machine is reset at once.

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;

use super::matrix::{finished, mortal_at_once};
use super::{all_lines_arrive, detached, mortal};
use crate::lifecycle::{sh, IP};
use crate::scene::{Scene, GUEST, HOST, HOST_MAC, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("panic_on_e1000", e1000, |scene| panics(scene, "eth0", HOST)),
        trial_with("panic_on_a_vlan", real_ip, on_a_vlan),
        trial_with("panic_on_a_bond", real_ip, on_a_bond),
        trial_with(
            "panic_while_another_cpu_sends",
            for_ever,
            while_another_cpu_sends,
        ),
        trial_with(
            "panic_while_another_cpu_sends_on_e1000",
            e1000_for_ever,
            while_another_cpu_sends,
        ),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// Configures a guest that is not reset when it has died, and has the spinlocks of a real machine:
/// a CPU that waits for one keeps its place in the queue even if it is stopped.
fn for_ever(config: &mut VmConfig) -> Result<()> {
    config.cpu += ",-hypervisor";
    config.sysctl("kernel.panic", 0);
    mortal(config)
}

fn e1000_for_ever(config: &mut VmConfig) -> Result<()> {
    for_ever(config)?;
    on_e1000(config)
}

fn e1000(config: &mut VmConfig) -> Result<()> {
    mortal_at_once(config)?;
    on_e1000(config)
}

fn on_e1000(config: &mut VmConfig) -> Result<()> {
    config.nics = vec![NicModel::E1000];
    // See devices.rs of the directory above: a mistake of the 7.3 kernel.
    config.expected.push("at napi_skb_cache_put+".into());
    Ok(())
}

fn real_ip(config: &mut VmConfig) -> Result<()> {
    config.program(IP)?;
    mortal_at_once(config)
}

/// The device that [`vlan`] makes.
pub(super) const VLAN: &str = "eth0.7";

/// Makes a device on a VLAN; returns the address at its other end.
pub(super) fn vlan(scene: &mut Scene) -> Result<&'static str> {
    const PEER: &str = "10.0.4.1";
    let host = Host::new(HOST_MAC, &[PEER]).in_vlan(7);
    scene.wire().add_host(host);
    sh(
        scene,
        &format!(
            "ip link add link eth0 name {VLAN} type vlan id 7
             ip link set {VLAN} up
             ip addr add 10.0.4.15/24 dev {VLAN}"
        ),
    )?;
    Ok(PEER)
}

fn on_a_vlan(scene: &mut Scene) -> Result<()> {
    let peer = vlan(scene)?;
    panics(scene, VLAN, peer)
}

fn on_a_bond(scene: &mut Scene) -> Result<()> {
    sh(
        scene,
        &format!(
            "ip addr flush dev eth0
             ip link del bond0 2> /dev/null || true
             ip link add bond0 type bond mode active-backup miimon 100
             ip link set eth0 down
             ip link set eth0 master bond0
             ip link set bond0 up
             until grep -q eth /sys/class/net/bond0/bonding/active_slave; do usleep 50000; done
             ip addr add {GUEST}/24 dev bond0"
        ),
    )?;
    panics(scene, "bond0", HOST)
}

fn while_another_cpu_sends(scene: &mut Scene) -> Result<()> {
    let queues = scene.sh("ls -d /sys/class/net/eth0/queues/tx-* | wc -l")?;
    ensure!(queues.trim() == "1", "{queues} queues");
    scene.vm.agent.flood(&format!("{HOST}:9"), 1)?;
    scene.sh("sent() { cat /sys/class/net/eth0/statistics/tx_packets; }
         enough=$(($(sent) + 1000))
         until [ $(sent) -gt $enough ]; do usleep 10000; done")?;
    // The machine is not reset: frames that QEMU has not handed on by then would be lost.
    panics_in(scene, 0, "eth0", HOST)
}

fn panics(scene: &mut Scene, device: &str, peer: &str) -> Result<()> {
    panics_in(scene, -1, device, peer)
}

fn panics_in(scene: &mut Scene, timeout: i32, device: &str, peer: &str) -> Result<()> {
    let logger = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    scene.load(&format!("+@/{device},{PORT}@{peer}/"))?;
    scene.log("before it all")?;
    let seq = logger.logger.wait_for("before it all", SOON)?;
    logger.wait_for_all(seq, SOON)?;
    let said = scene.vm.serial.len();
    detached(scene, "exec taskset 1 sh -c 'echo c > /proc/sysrq-trigger'")?;
    finished(scene, timeout, said)?;
    let lines = all_lines_arrive(scene, &logger.logger, said, SOON)?;
    println!("panic on {device}: {lines} lines");
    Ok(())
}
