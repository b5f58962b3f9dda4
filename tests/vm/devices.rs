// SPDX-License-Identifier: GPL-2.0

//! Devices that are not ready, or not fit.

use anyhow::{ensure, Result};
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest_guest::Burst;

use crate::scene::{Scene, HOST, HOST6, SOON};
use crate::trial::{trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("device_down_is_brought_up", device_down_is_brought_up),
        trial_with("carrier_is_waited_for", e1000, carrier_is_waited_for),
        trial_with("unfit_devices", second_card, unfit_devices),
        trial_with("e1000", e1000, over_e1000),
    ]
}

fn e1000(config: &mut VmConfig) -> Result<()> {
    config.nics = vec![NicModel::E1000];
    // The driver frees what it has sent as if it were in its softirq, which
    // netpoll is not: a mistake of the 7.3 kernel that any netpoll user shows.
    config.expected = vec!["at napi_skb_cache_put+".into(), "Call Trace:".into()];
    Ok(())
}

fn second_card(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::Virtio);
    Ok(())
}

/// A device that is down is brought up, and says so.
fn device_down_is_brought_up(scene: &mut Scene) -> Result<()> {
    scene.sh("ip link set eth0 down")?;
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    scene.logger.record("device eth0 not up yet, forcing it")?;
    scene.unload_and_settle()
}

/// A card without a cable is waited for, for a while; what is logged meanwhile is sent, all of it,
/// when the cable is there, to a logger that asks for nothing.
fn carrier_is_waited_for(scene: &mut Scene) -> Result<()> {
    scene.sh("ip link set eth0 down")?;
    scene.vm.set_link(0, false)?;
    let said = scene.vm.serial.len();
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene
        .vm
        .serial
        .wait_for("timeout waiting for carrier", said, SOON)?;
    let burst = Burst::new(500, scene.seed, "without a cable");
    scene.vm.agent.log(&burst, SOON)?;
    let cut = scene.logger.lock().arrivals.len();
    ensure!(
        cut == 0,
        "{cut} datagrams through a cable that is not there"
    );
    scene.vm.set_link(0, true)?;
    scene.vm.serial.wait_for("NIC Link is Up", said, SOON)?;
    let burst = Burst::new(10, scene.seed, "the cable is there");
    scene.vm.agent.log(&burst, SOON)?;
    scene.all_has_arrived(0)?;
    scene.unload_and_settle()
}

/// Devices that cannot be used are refused with the reason, and the targets
/// beside them are served.
fn unfit_devices(scene: &mut Scene) -> Result<()> {
    let good = format!("+@/eth0,@{HOST}/");
    let cases = [
        ("true", "+@/eth7,@10.0.2.1/", "eth7 doesn't exist, aborting"),
        (
            "true",
            "+@/52:54:00:00:00:77,@10.0.2.1/",
            "52:54:00:00:00:77 doesn't exist, aborting",
        ),
        (
            "true",
            "+@/eth1,@10.0.3.1/",
            "no IP address for eth1, aborting",
        ),
        (
            "echo 1 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6",
            "+@/eth1,@fd00::1/",
            "no IPv6 address for eth1, aborting",
        ),
        (
            "ip link add br0 type bridge; ip link set eth1 master br0",
            "+@10.0.2.15/eth1,@10.0.2.1/",
            "eth1 is a slave device, aborting",
        ),
    ];
    for (n, (prepare, bad, reason)) in cases.into_iter().enumerate() {
        scene.sh(prepare)?;
        let said = scene.vm.serial.len();
        scene.load(&format!("{bad};{good}"))?;
        let text = format!("case {n} is over");
        scene.log(&text)?;
        scene.logger.wait_for(&text, SOON)?;
        scene.vm.serial.wait_for(&text, said, SOON)?;
        let lines = scene.vm.serial.lines(said);
        let reasons = lines.iter().filter(|line| line.contains(reason)).count();
        ensure!(
            reasons == 1,
            "{bad}: {reasons} lines with {reason:?} in\n{}",
            lines.join("\n")
        );
        scene.unload()?;
    }
    // The device that was refused is not held.
    scene.sh("ip link set eth1 nomaster; ip link del br0")?;
    scene.vm.settle()
}

/// A driver with a NAPI poll like any real one, both families at once.
fn over_e1000(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/;+@/eth0,6667@{HOST6}/"))?;
    let other = nctest::logger::Logger::attach(scene.wire(), 6667);
    scene.all_has_arrived(0)?;
    scene.log("on both")?;
    other.wait_for("on both", SOON)?;
    scene.unload_and_settle()
}
