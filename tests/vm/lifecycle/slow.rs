// SPDX-License-Identifier: GPL-2.0

//! A device that has a link but takes few frames, beside one that takes all.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::logger::Logger;
use nctest_guest::Burst;

use super::{each_once, load_with_for_eth1, reaches, sh, two_cards, Target, HOST1};
use crate::scene::{module_name, Scene, HOST, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = vec![
        trial_with("slow_device", two_cards, slow_device),
        trial_with("end_on_a_slow_device", two_cards, end_on_a_slow_device),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// The slow device takes one frame in a fifth of a second.
const PACE: Duration = Duration::from_millis(200);

/// More records than the queues below us hold: 256 frames of the card, and 512 of QEMU's socket.
const RECORDS: u64 = 2000;

/// The longest time that the guest may take to end a target or the module: two seconds of waiting
/// for unsent records, and the delays of a busy machine. The device would take minutes to send all.
const END: Duration = Duration::from_secs(5);

/// Sets up a logger behind a fast device and one behind a slow device, each with a target.
fn fast_and_slow(scene: &mut Scene) -> Result<(Target, Target, Logger)> {
    let logger = load_with_for_eth1(scene, "log_buf_kb=8192 keepalive_s=0")?;
    let fast = Target::to(scene, "fast", "eth0", HOST)?;
    fast.set(scene, "enabled", "1")?;
    let slow = Target::on_eth1(scene, "slow")?;
    Ok((fast, slow, logger))
}

/// Logs more than the slow device takes in minutes.
fn log_much(scene: &mut Scene) -> Result<()> {
    scene.vm.wires[1].set_pace(Some(PACE));
    let mut burst = Burst::new(RECORDS, scene.seed, "much");
    (burst.min_len, burst.max_len) = (800, 900);
    scene.vm.agent.log(&burst, SOON).map(drop)
}

/// The other target does not wait for the slow device; the target that is behind catches up by
/// itself, with every record, when the device is fast again.
fn slow_device(scene: &mut Scene) -> Result<()> {
    let (fast, slow, logger) = fast_and_slow(scene)?;
    let first = reaches(scene, &logger, "both are fast")?;
    scene.logger.wait_for("both are fast", SOON)?;
    log_much(scene)?;
    let began = Instant::now();
    scene.log("the end of much")?;
    scene.logger.wait_for("the end of much", SOON)?;
    println!(
        "slow_device: the fast one had all {:?} later; seed {}",
        began.elapsed(),
        scene.seed
    );
    let waits: u64 = slow.get(scene, "stats/backlog")?.parse()?;
    ensure!(waits > RECORDS / 4, "only {waits} records wait");
    fast.says(scene, "stats/backlog", "0")?;

    scene.vm.wires[1].set_pace(None);
    let last = reaches(scene, &logger, "both are fast again")?;
    each_once(scene, &logger, first, last)?;
    slow.until(scene, "stats/backlog", "0", SOON)?;
    slow.says(scene, "stats/dropped", "0")?;
    slow.remove(scene)?;
    fast.remove(scene)?;
    scene.unload_and_settle()
}

/// Returns the time that a script takes in the guest.
fn takes(scene: &mut Scene, script: &str) -> Result<Duration> {
    let uptime = "cut -d' ' -f1 /proc/uptime";
    let text = sh(
        scene,
        &format!("{uptime}; ({script}) > /dev/null; {uptime}"),
    )?;
    let times: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(times.len() == 2, "{text}");
    Ok(Duration::from_secs_f64(times[1] - times[0]))
}

/// Disabling a target on a slow device, and unloading the module, take a bounded time.
fn end_on_a_slow_device(scene: &mut Scene) -> Result<()> {
    let (fast, slow, logger) = fast_and_slow(scene)?;
    reaches(scene, &logger, "both are fast")?;
    log_much(scene)?;
    let took = takes(scene, &format!("echo 0 > {}/enabled", slow.path))?;
    println!(
        "end_on_a_slow_device: disabled in {took:?}; seed {}",
        scene.seed
    );
    ensure!(took < END, "disabling took {took:?}");
    scene.vm.wires[1].set_pace(None);
    slow.remove(scene)?;
    fast.remove(scene)?;
    scene.unload()?;

    scene.load_with(
        &format!("+@/eth0,@{HOST}/;+@/eth1,@{HOST1}/"),
        "log_buf_kb=8192",
    )?;
    reaches(scene, &logger, "by the command line")?;
    log_much(scene)?;
    let took = takes(scene, &format!("rmmod {}", module_name()))?;
    println!(
        "end_on_a_slow_device: unloaded in {took:?}; seed {}",
        scene.seed
    );
    ensure!(took < END, "unloading took {took:?}");
    // QEMU's queue holds the frames that were sent.
    scene.vm.wires[1].set_pace(None);
    scene.vm.settle()
}
