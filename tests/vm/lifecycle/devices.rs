// SPDX-License-Identifier: GPL-2.0

//! Devices that are renamed, that go and come back, that join others, and that
//! move to another namespace.

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::logger::Logger;
use nctest::qemu::nic_mac;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use super::{
    answering, each_once, load_for_eth1, nothing_happens, ours, prepare_eth1, reaches, sh,
    two_cards, Target, GUEST1, HOST1,
};
use crate::scene::{Scene, HOST_MAC, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("rename_is_followed", two_cards, rename_is_followed),
        trial_with("rests_and_resumes", two_cards, rests_and_resumes),
        ours_only(trial_with(
            "waits_for_an_address",
            two_cards,
            waits_for_an_address,
        )),
        ours_only(trial_with(
            "configured_while_resting",
            two_cards,
            configured_while_resting,
        )),
        ours_only(trial_with(
            "unloaded_while_resuming",
            two_cards,
            unloaded_while_resuming,
        )),
        trial_with("resumes_by_rename", two_cards, resumes_by_rename),
        trial_with("resumes_by_mac", two_cards, resumes_by_mac),
        trial_with("resting_ended_by_hand", two_cards, resting_ended_by_hand),
        trial_with("joining_stops", two_cards, joining_stops),
        trial_with("namespace_move", two_cards, namespace_move),
        ours_only(trial_with(
            "namespace_ends_without_its_address",
            two_cards,
            namespace_ends_without_its_address,
        )),
        ours_only(trial_with("states", two_cards, states)),
    ]
}

/// The kernel's message when the device of a target goes.
const STOPPED: &str = "network logging stopped on interface eth1 as it unregistered";
/// The message when the target is served again.
const RESUMED: &str = "network logging resumed on interface eth1";

/// Unplugs `eth1` and waits until its targets rest; returns the device to plug in again.
fn unplug(scene: &mut Scene, target: &Target) -> Result<String> {
    let said = scene.vm.serial.len();
    let device = sh(scene, "unplug eth1")?;
    scene.vm.serial.wait_for(STOPPED, said, SOON)?;
    target.says(scene, "enabled", "0")?;
    Ok(device.trim_end().to_string())
}

/// Puts a card in again and waits until the target is served.
fn plug(scene: &mut Scene, device: &str, target: &Target) -> Result<()> {
    let said = scene.vm.serial.len();
    sh(scene, &format!("plug {device}"))?;
    resumed(scene, target, said)
}

/// Waits until the target is served again, with the line after the `said`th.
fn resumed(scene: &mut Scene, target: &Target, said: usize) -> Result<()> {
    scene.vm.serial.wait_for(RESUMED, said, SOON)?;
    target.until(scene, "enabled", "1", SOON).map(drop)
}

/// A target stays on its device, and shows its new name. A device that takes the old name is
/// another one.
fn rename_is_followed(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    let target = Target::on_eth1(scene, "t")?;
    let first = reaches(scene, &logger, "under the old name")?;
    sh(scene, "ip link set eth1 name lan1")?;
    target.says(scene, "dev_name", "lan1")?;
    target.says(scene, "enabled", "1")?;
    reaches(scene, &logger, "under the new name")?;
    sh(scene, "ip link set eth0 name eth1")?;
    target.says(scene, "dev_name", "lan1")?;
    reaches(scene, &logger, "still there")?;
    sh(
        scene,
        "ip link set eth1 name eth0; ip link set lan1 name eth1",
    )?;
    target.says(scene, "dev_name", "eth1")?;
    let last = reaches(scene, &logger, "under the old name again")?;
    each_once(scene, &logger, first, last)?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// The device goes and comes back, several times, and the target with it, which then sends the
/// records that were logged meanwhile.
fn rests_and_resumes(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    let target = Target::on_eth1(scene, "t")?;
    let first = reaches(scene, &logger, "before all")?;
    for round in 0..4 {
        let device = unplug(scene, &target)?;
        target.says(scene, "dev_name", "eth1")?;
        let burst = Burst::new(100, scene.seed + round, &format!("meanwhile {round}"));
        scene.vm.agent.log(&burst, SOON)?;
        plug(scene, &device, &target)?;
        let last = reaches(scene, &logger, &format!("back again {round}"))?;
        if ours(scene, "what was logged while the target rested") {
            each_once(scene, &logger, first, last)?;
        }
    }
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A target that takes its address from the device resumes when there is one.
fn waits_for_an_address(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    let target = Target::to(scene, "t", "eth1", HOST1)?;
    target.set(scene, "enabled", "1")?;
    let first = reaches(scene, &logger, "with the first address")?;
    target.says(scene, "local_ip", GUEST1)?;
    let device = unplug(scene, &target)?;
    sh(scene, &format!("plug {device}"))?;
    scene.log("nobody can have this yet")?;
    nothing_happens();
    target.says(scene, "enabled", "0")?;
    let said = scene.vm.serial.len();
    sh(scene, "ip addr add 10.0.3.99/24 dev eth1")?;
    resumed(scene, &target, said)?;
    target.says(scene, "local_ip", "10.0.3.99")?;
    let last = reaches(scene, &logger, "with the second address")?;
    let arrival = logger.lock().arrivals.last().cloned();
    let from = arrival.map(|arrival| arrival.from);
    ensure!(
        from == Some("10.0.3.99:6665".parse()?),
        "sent from {from:?}"
    );
    each_once(scene, &logger, first, last)?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A configuration that is changed while a target is deactivated holds when it resumes; knowledge
/// of the old log host does not.
fn configured_while_resting(scene: &mut Scene) -> Result<()> {
    load_for_eth1(scene)?;
    let old = answering(scene, 1)?;
    let target = Target::on_eth1(scene, "t")?;
    let seq = reaches(scene, &old.logger, "to the old log host")?;
    target.until_acked(scene, seq)?;
    let device = unplug(scene, &target)?;
    target.set(scene, "remote_port", &(PORT + 1).to_string())?;
    target.set(scene, "ack_timeout_ms", "500")?;
    let new = Logger::attach(&scene.vm.wires[1], PORT + 1);
    scene.log("while it rests")?;
    let before = old.logger.lock().arrivals.len();
    plug(scene, &device, &target)?;
    new.wait_for("while it rests", SOON)?;
    reaches(scene, &new, "to the new log host")?;
    target.says(scene, "stats/state", "never-acked")?;
    target.says(scene, "stats/acked_seq", "0")?;
    // An emergency would come in this time if the old log host's acks were still known.
    nothing_happens();
    target.says(scene, "stats/emergency", "0")?;
    let after = old.logger.lock().arrivals.len();
    ensure!(after == before, "{} more for the old one", after - before);
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// The module is unloaded while a target is being resumed on a device that has
/// no carrier yet, which takes seconds: nothing is left of either.
fn unloaded_while_resuming(scene: &mut Scene) -> Result<()> {
    let logger = prepare_eth1(scene)?;
    for round in 0..3 {
        scene.load(&format!("+@{GUEST1}/eth1,@{HOST1}/"))?;
        reaches(scene, &logger, &format!("loaded {round}"))?;
        let said = scene.vm.serial.len();
        let device = sh(scene, "unplug eth1")?;
        scene.vm.serial.wait_for(STOPPED, said, SOON)?;
        scene.vm.set_link(1, false)?;
        sh(scene, &format!("plug {}", device.trim_end()))?;
        let forcing = "device eth1 not up yet, forcing it";
        scene.vm.serial.wait_for(forcing, said, SOON)?;
        scene.unload()?;
        scene.vm.set_link(1, true)?;
        // A device that is still held cannot go.
        let device = sh(scene, "unplug eth1")?;
        sh(
            scene,
            &format!(
                "plug {}
                 ip link set eth1 up
                 ip addr add {GUEST1}/24 dev eth1",
                device.trim_end()
            ),
        )?;
    }
    scene.vm.settle()
}

/// The target resumes on another device that takes the name of the one that has gone.
fn resumes_by_rename(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    scene.wire().add_host(Host::new(HOST_MAC, &[HOST1]));
    logger.also(scene.wire(), PORT);
    let target = Target::on_eth1(scene, "t")?;
    let first = reaches(scene, &logger, "on its own card")?;
    let device = unplug(scene, &target)?;
    scene.log("on no card")?;
    // A name that no target waits for changes nothing.
    sh(scene, "ip link set eth0 name lan0")?;
    nothing_happens();
    target.says(scene, "enabled", "0")?;
    let said = scene.vm.serial.len();
    sh(scene, "ip link set lan0 name eth1")?;
    resumed(scene, &target, said)?;
    let last = reaches(scene, &logger, "on the other card")?;
    let from = logger.lock().arrivals.last().map(|arrival| arrival.mac.0);
    ensure!(from == Some(nic_mac(0)), "sent by {from:x?}");
    target.says(scene, "local_mac", "52:54:00:00:00:01")?;
    if ours(scene, "what was logged while the target rested") {
        each_once(scene, &logger, first, last)?;
    }
    // The first one comes back under another name, and is not taken.
    sh(scene, &format!("plug {device}; ip link set eth0 up"))?;
    reaches(scene, &logger, "still on the other card")?;
    target.says(scene, "local_mac", "52:54:00:00:00:01")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A target for a hardware address waits for that address, under any name.
fn resumes_by_mac(scene: &mut Scene) -> Result<()> {
    let logger = prepare_eth1(scene)?;
    scene.wire().add_host(Host::new(HOST_MAC, &[HOST1]));
    logger.also(scene.wire(), PORT);
    scene.load(&format!("+@{GUEST1}/52:54:00:00:00:02,@{HOST1}/"))?;
    let target = Target::make(scene, "cmdline0")?;
    target.says(scene, "enabled", "1")?;
    let first = reaches(scene, &logger, "by its address")?;
    let device = unplug(scene, &target)?;
    // eth0 gets the name, but only the address counts.
    sh(scene, "ip link set eth0 name eth1")?;
    nothing_happens();
    target.says(scene, "enabled", "0")?;
    let said = scene.vm.serial.len();
    sh(scene, &format!("plug {device}"))?;
    let line = "network logging resumed on interface eth0";
    scene.vm.serial.wait_for(line, said, SOON)?;
    target.until(scene, "enabled", "1", SOON)?;
    target.says(scene, "dev_name", "eth0")?;
    let last = reaches(scene, &logger, "under another name")?;
    let from = logger.lock().arrivals.last().map(|arrival| arrival.mac.0);
    ensure!(from == Some(nic_mac(1)), "sent by {from:x?}");
    if ours(scene, "a device that gets the hardware address later") {
        each_once(scene, &logger, first, last)?;
        let said = scene.vm.serial.len();
        sh(scene, "unplug eth0")?;
        let line = "network logging stopped on interface eth0 as it unregistered";
        scene.vm.serial.wait_for(line, said, SOON)?;
        scene.log("at no address")?;
        sh(scene, "ip link set eth1 address 52:54:00:00:00:02")?;
        resumed(scene, &target, said)?;
        target.says(scene, "dev_name", "eth1")?;
        let last = reaches(scene, &logger, "on the card that has the address now")?;
        each_once(scene, &logger, first, last)?;
    }
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A write to `enabled` of a resting target ends the rest, and so does its removal.
fn resting_ended_by_hand(scene: &mut Scene) -> Result<()> {
    load_for_eth1(scene)?;
    let target = Target::on_eth1(scene, "t")?;
    let cases = [
        (
            "0",
            "Invalid argument",
            "network logging has already stopped",
        ),
        ("1", "No such device", "eth1 doesn't exist, aborting"),
    ];
    for (value, error, line) in cases {
        let device = unplug(scene, &target)?;
        let said = scene.vm.serial.len();
        target.refuses(scene, "enabled", value, error)?;
        scene.vm.serial.wait_for(line, said, SOON)?;
        still_off(scene, &device)?;
        target.says(scene, "enabled", "0")?;
        // It works as any other disabled target.
        sh(
            scene,
            &format!("ip link set eth1 up; ip addr add {GUEST1}/24 dev eth1"),
        )?;
        target.set(scene, "remote_port", "6666")?;
        target.set(scene, "enabled", "1")?;
    }
    // Another target that is removed meanwhile does not affect the one that rests.
    let other = Target::on_eth1(scene, "other")?;
    let device = unplug(scene, &target)?;
    other.remove(scene)?;
    plug(scene, &device, &target)?;
    let device = unplug(scene, &target)?;
    target.remove(scene)?;
    still_off(scene, &device)?;
    scene.unload_and_settle()
}

/// Plugs the card in, and checks that the target does not resume.
fn still_off(scene: &mut Scene, device: &str) -> Result<()> {
    let said = scene.vm.serial.len();
    sh(scene, &format!("plug {device}; ip link set eth1 up"))?;
    nothing_happens();
    let lines = scene.vm.serial.lines(said);
    let resumed = lines.iter().any(|line| line.contains("resumed"));
    ensure!(!resumed, "resumed:\n{}", lines.join("\n"));
    Ok(())
}

/// The targets of a device that joins another one stop, and do not resume when it leaves.
fn joining_stops(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    let target = Target::on_eth1(scene, "t")?;
    let mut masters = vec!["bridge", "bond mode active-backup"];
    if ours(scene, "joining a team, of which upstream's hears nothing") {
        masters.push("team");
    }
    for kind in masters {
        let text = format!("before it joins a {kind}");
        reaches(scene, &logger, &text)?;
        let said = scene.vm.serial.len();
        // Some of them do not accept a device that is up.
        sh(
            scene,
            &format!(
                "ip link add m0 type {kind}
                 ip link set eth1 down
                 ip link set eth1 master m0"
            ),
        )?;
        let line = "network logging stopped on interface eth1 as it is joining a master device";
        scene.vm.serial.wait_for(line, said, SOON)?;
        target.says(scene, "enabled", "0")?;
        // The target cannot be enabled while its device belongs to another.
        let busy = "resource busy";
        target.refuses(scene, "enabled", "1", busy)?;
        sh(scene, "ip link set eth1 up; ip link set m0 up")?;
        sh(
            scene,
            "ip link set eth1 nomaster; ip link del m0; ip link set eth1 up",
        )?;
        nothing_happens();
        target.says(scene, "enabled", "0")?;
        let before = logger.lock().arrivals.len();
        scene.log(&format!("after it left the {kind}"))?;
        nothing_happens();
        let after = logger.lock().arrivals.len();
        ensure!(after == before, "{} datagrams", after - before);
        target.set(scene, "enabled", "1")?;
    }
    reaches(scene, &logger, "enabled by hand")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// A device that moves to another namespace has gone, for targets, until it is
/// back; one of the same name in another namespace is not it.
fn namespace_move(scene: &mut Scene) -> Result<()> {
    let logger = load_for_eth1(scene)?;
    let target = Target::on_eth1(scene, "t")?;
    let first = reaches(scene, &logger, "at home")?;
    let pid = sh(
        scene,
        "unshare -n sleep 10000 > /dev/null 2>&1 &
         home=$(readlink /proc/self/ns/net)
         while [ \"$(readlink /proc/$!/ns/net)\" = \"$home\" ]; do usleep 20000; done
         echo $!",
    )?;
    let pid = pid.trim_end().to_string();
    let said = scene.vm.serial.len();
    sh(scene, &format!("ip link set eth1 netns {pid}"))?;
    scene.vm.serial.wait_for(STOPPED, said, SOON)?;
    let line = scene.newest()?;
    nothing_happens();
    target.says(scene, "enabled", "0")?;
    println!("namespace_move: the newest record then was {line}");
    if ours(scene, "a device that comes back from another namespace") {
        let away = |scene: &mut Scene, what: &str| {
            sh(
                scene,
                &format!("nsenter -t {pid} -n /usr/sbin/ip link {what}"),
            )
        };
        scene.log("abroad")?;
        away(scene, "set eth1 name other")?;
        away(scene, "set other name eth1")?;
        nothing_happens();
        target.says(scene, "enabled", "0")?;
        let said = scene.vm.serial.len();
        away(scene, "set eth1 netns 1")?;
        resumed(scene, &target, said)?;
        let last = reaches(scene, &logger, "at home again")?;
        each_once(scene, &logger, first, last)?;
        // Real cards return to the initial namespace when theirs ends.
        sh(scene, &format!("ip link set eth1 netns {pid}"))?;
        target.until(scene, "enabled", "0", SOON)?;
        let said = scene.vm.serial.len();
        sh(scene, &format!("kill {pid}"))?;
        resumed(scene, &target, said)?;
        let last = reaches(scene, &logger, "sent home")?;
        each_once(scene, &logger, first, last)?;
    }
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// The address of a target in another namespace goes, then the namespace, then the target: its
/// socket is closed before what it uses is freed, of which KASAN would tell.
fn namespace_ends_without_its_address(scene: &mut Scene) -> Result<()> {
    drop(load_for_eth1(scene)?);
    let peer = answering(scene, 1)?;
    for round in 0..3 {
        let pid = sh(
            scene,
            "unshare -n sleep 10000 > /dev/null 2>&1 &
             home=$(readlink /proc/self/ns/net)
             while [ \"$(readlink /proc/$!/ns/net)\" = \"$home\" ]; do usleep 20000; done
             echo $!",
        )?;
        let pid = pid.trim_end().to_string();
        let inside = |scene: &mut Scene, script: &str| {
            sh(scene, &format!("nsenter -t {pid} -n sh -c '{script}'"))
        };
        sh(scene, &format!("ip link set eth1 netns {pid}"))?;
        let ip = "/usr/sbin/ip";
        inside(
            scene,
            &format!("{ip} link set eth1 up; {ip} addr add {GUEST1}/24 dev eth1"),
        )?;
        let target = Target::to(scene, "t", "eth1", HOST1)?;
        target.set(scene, "local_ip", GUEST1)?;
        inside(scene, &format!("echo 1 > {}/enabled", target.path))?;
        let last = reaches(scene, &peer.logger, &format!("from inside, round {round}"))?;
        target.until_acked(scene, last)?;
        inside(scene, &format!("{ip} addr del {GUEST1}/24 dev eth1"))?;
        if round == 2 {
            // The work item may look at the socket meanwhile.
            scene.log("without an address")?;
        }
        sh(scene, &format!("kill {pid}"))?;
        let home = "until [ -e /sys/class/net/eth1 ]; do usleep 20000; done";
        sh(scene, home)?;
        target.remove(scene)?;
    }
    scene.unload_and_settle()
}

/// `stats/state` names the problem, and records that were logged while the link was gone are sent
/// afterwards.
fn states(scene: &mut Scene) -> Result<()> {
    let is = |target: &Target, scene: &mut Scene, state: &str| {
        target.until(scene, "stats/state", state, SOON).map(drop)
    };
    drop(load_for_eth1(scene)?);
    let peer = answering(scene, 1)?;
    peer.set_silent(true);
    let target = Target::to(scene, "t", "eth1", HOST1)?;
    target.set(scene, "ack_timeout_ms", "2000")?;
    is(&target, scene, "disabled")?;
    target.set(scene, "enabled", "1")?;
    is(&target, scene, "never-acked")?;
    let first = reaches(scene, &peer.logger, "to a silent log host")?;
    peer.set_silent(false);
    is(&target, scene, "acked")?;

    scene.vm.set_link(1, false)?;
    is(&target, scene, "no-carrier")?;
    scene.log("without a cable")?;
    scene.vm.set_link(1, true)?;
    peer.logger.wait_for("without a cable", SOON)?;
    is(&target, scene, "acked")?;

    sh(scene, "ip link set eth1 down")?;
    is(&target, scene, "down")?;
    target.says(scene, "enabled", "1")?;
    scene.log("while the device is down")?;
    sh(scene, "ip link set eth1 up")?;
    peer.logger.wait_for("while the device is down", SOON)?;
    is(&target, scene, "acked")?;

    // Records stay unacked for longer and longer.
    scene.vm.wires[1].cut();
    scene.log("into a cut cable")?;
    is(&target, scene, "lagging")?;
    is(&target, scene, "emergency")?;
    scene.vm.wires[1].restore();
    is(&target, scene, "acked")?;
    let last = reaches(scene, &peer.logger, "all is well")?;
    peer.wait_for_all(last, Duration::from_secs(60))?;
    target.until_acked(scene, last)?;
    let kmsg = scene.vm.agent.kmsg()?;
    peer.logger.assert_equal(&kmsg.records, first..=last)?;
    target.set(scene, "enabled", "0")?;
    is(&target, scene, "disabled")?;
    target.remove(scene)?;
    scene.unload_and_settle()
}
