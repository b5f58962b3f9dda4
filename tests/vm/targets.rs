// SPDX-License-Identifier: GPL-2.0

//! One target, several, of each kind.

use anyhow::{ensure, Context, Result};
use nctest::collector::Collector;
use nctest::env;
use nctest::logger::{Logger, Sink};
use nctest::qemu::{nic_mac, NicModel};
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;

use crate::scene::{module_name, Memory, Scene, GUEST, HOST, HOST6, HOST_MAC, HOST_MAC_TEXT, SOON};
use crate::trial::{ours_only, stock_trial, trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("ipv4_extended", ipv4_extended),
        trial("ipv6_extended", ipv6_extended),
        // The test kernel's configuration makes all of upstream's extended.
        ours_only(trial("two_targets_one_basic", two_targets_one_basic)),
        trial("everything_spelt_out", everything_spelt_out),
        trial("release_prepended", release_prepended),
        trial_with("device_by_mac", second_card, device_by_mac),
        ours_only(trial(
            "history_that_syslog_has_read",
            history_that_syslog_has_read,
        )),
        ours_only(trial("many_targets", many_targets)),
        stock_trial("stock_smoke", stock_smoke),
    ]
}

/// The number of targets for one log host, each from a port of its own, and the most memory of one,
/// in KiB: each sends each record, and all but the first share the reserve of buffers.
const MANY: usize = 32;
const EACH_KIB: u64 = 112;

/// Makes the other targets, and waits for a record by each.
fn send_by_all(scene: &mut Scene, others: &str, text: &str) -> Result<()> {
    scene.sh(others)?;
    scene.log(text)?;
    let seq = scene.logger.wait_for(text, SOON)?;
    let all = |collector: &Collector| (collector.records[&seq].copies == MANY).then_some(());
    scene.logger.wait(SOON, "a copy of each target", all)
}

fn many_targets(scene: &mut Scene) -> Result<()> {
    scene.load("")?;
    let make = |n: usize| {
        format!(
            "mkdir t{n}; (cd t{n}; echo 1 > extended; echo eth0 > dev_name
             echo {HOST} > remote_ip; echo {HOST_MAC_TEXT} > remote_mac
             echo {} > local_port; echo 1 > enabled)\n",
            7000 + n
        )
    };
    let root = format!("set -e; cd /sys/kernel/config/{}", module_name());
    scene.sh(&format!("{root}\n{}", make(0)))?;
    scene.log("one of many")?;
    scene.logger.wait_for("one of many", SOON)?;
    let others: String = (1..MANY).map(make).collect();
    // A first run, so that the kernel has allocated what it keeps for the files.
    send_by_all(scene, &format!("{root}\n{others}"), "once before")?;
    scene.sh(&format!("{root}; rmdir t[1-9]*"))?;
    let before = scene.memory()?;
    send_by_all(scene, &format!("{root}\n{others}"), "many of many")?;
    let after = scene.memory()?;
    // Memory for frames in flight comes and goes, and belongs to no target.
    let taken = |memory: &Memory| memory.slab + memory.vmalloc;
    let each = taken(&after).saturating_sub(taken(&before)) / (MANY as u64 - 1);
    println!(
        "many_targets: {each} KiB each, {before:?}, {after:?}; seed {}",
        scene.seed
    );
    ensure!(env::kasan() || each <= EACH_KIB, "{each} KiB each");
    let remove = format!("{root}; time rmdir t* 2>&1");
    println!(
        "many_targets: removed in {}",
        scene.sh(&remove)?.replace('\n', " ")
    );
    scene.unload_and_settle()
}

fn second_card(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::Virtio);
    Ok(())
}

/// The whole log, from its first record, arrives over IPv4.
fn ipv4_extended(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    let first = scene.logger.lock().arrivals[0].clone();
    ensure!(
        first.from == format!("{GUEST}:6665").parse()?,
        "sent from {}",
        first.from
    );
    ensure!(
        first.to == format!("{HOST}:6666").parse()?,
        "sent to {}",
        first.to
    );
    // Frames are broadcast only until the log host's address is known.
    let last = scene.logger.lock().arrivals.last().context("none")?.mac;
    let (all, one) = ((nic_mac(0), [0xff; 6]), (nic_mac(0), HOST_MAC));
    ensure!(
        (first.mac == all || first.mac == one) && last == one,
        "the Ethernet addresses are first {:x?}, then {last:x?}",
        first.mac
    );
    scene.unload_and_settle()
}

/// The same over IPv6.
fn ipv6_extended(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST6}/"))?;
    scene.all_has_arrived(0)?;
    let first = scene.logger.lock().arrivals[0].clone();
    ensure!(
        first.from == "[fd00::15]:6665".parse()?,
        "sent from {}",
        first.from
    );
    scene.unload_and_settle()
}

/// An extended and a basic target, on two hosts, are served side by side; the
/// basic one with the text as `dmesg` shows it.
fn two_targets_one_basic(scene: &mut Scene) -> Result<()> {
    let other = Host::new([0x02, 0, 0, 0, 0, 0x02], &["10.0.2.2"]);
    scene.wire().add_host(other);
    let basic = Sink::attach(scene.wire(), 6667);
    scene.load(&format!("+@/eth0,@{HOST}/;@/eth0,6667@10.0.2.2/"))?;
    let text = "both of you should see this";
    scene.log(text)?;
    let udp = basic.wait_for(text, SOON)?;
    scene.logger.wait_for(text, SOON)?;
    scene.all_has_arrived(0)?;
    let record = scene.logger.record(text)?;
    let header = String::from_utf8(record.bytes)?;
    let usec: u64 = header.split(',').nth(2).context("no time")?.parse()?;
    let expected = format!("[{:5}.{:06}] {text}\n", usec / 1_000_000, usec % 1_000_000);
    let found = String::from_utf8_lossy(&udp.payload);
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    ensure!(udp.to == "10.0.2.2:6667".parse()?, "sent to {}", udp.to);
    scene.unload_and_settle()
}

/// A target with every field given.
fn everything_spelt_out(scene: &mut Scene) -> Result<()> {
    let logger = Logger::attach(scene.wire(), 4001);
    scene.load(&format!("+4000@{GUEST}/eth0,4001@{HOST}/{HOST_MAC_TEXT}"))?;
    scene.log("all is said")?;
    logger.wait_for("all is said", SOON)?;
    let arrivals = logger.lock().arrivals.clone();
    for arrival in &arrivals {
        ensure!(arrival.mac.1 == HOST_MAC, "sent to {:x?}", arrival.mac.1);
        ensure!(
            arrival.from == format!("{GUEST}:4000").parse()?,
            "from {}",
            arrival.from
        );
    }
    let elsewhere = scene.logger.lock().arrivals.len();
    ensure!(elsewhere == 0, "{elsewhere} datagrams to port 6666");
    scene.unload_and_settle()
}

/// With `r` each record begins with the kernel's release.
fn release_prepended(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+r@/eth0,@{HOST}/"))?;
    // A record of several fragments, too: each has the header.
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    scene.all_has_arrived(0)?;
    let collector = scene.logger.lock();
    for record in collector.records.values() {
        let release = record.release.as_ref();
        ensure!(
            release == Some(&scene.vm.release),
            "record {}: {release:?}",
            record.seq
        );
    }
    drop(collector);
    scene.unload_and_settle()
}

/// A hardware address chooses the device.
fn device_by_mac(scene: &mut Scene) -> Result<()> {
    let wire = &scene.vm.wires[1];
    wire.add_host(Host::new(HOST_MAC, &["10.0.3.1"]));
    scene.logger = Logger::attach(wire, 6666);
    scene.sh("ip link set eth1 up; ip addr add 10.0.3.15/24 dev eth1")?;
    scene.load("+@/52:54:00:00:00:02,@10.0.3.1/")?;
    scene.all_has_arrived(0)?;
    let first = scene.logger.lock().arrivals[0].clone();
    ensure!(
        first.from == "10.0.3.15:6665".parse()?,
        "sent from {}",
        first.from
    );
    scene.unload_and_settle()
}

/// A target given at load gets the log from its start, also when a program has read it by syslog
/// before: upstream's begins where that reader stopped.
fn history_that_syslog_has_read(scene: &mut Scene) -> Result<()> {
    scene.sh("timeout 1 cat /proc/kmsg > /dev/null; true")?;
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    scene.unload_and_settle()
}

/// A distribution's kernel is enough.
pub(crate) fn stock_smoke(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    scene.all_has_arrived(0)?;
    scene.unload_and_settle()
}
