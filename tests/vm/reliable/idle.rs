// SPDX-License-Identifier: GPL-2.0

//! A machine that logs nothing.

use anyhow::{ensure, Context, Result};
use nctest::acker::Kind;

use super::{load_acked, sleep_ms, unload_one};
use crate::scene::{Scene, SOON};
use crate::trial::{ours_only, trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![ours_only(trial("idle_machine", idle_machine))]
}

/// The activity of a machine in some seconds: timer interrupts and context switches.
#[derive(Clone, Copy, Debug)]
struct Activity {
    timers: u64,
    switches: u64,
}

/// The time in which they are counted, in seconds.
const SECONDS: u64 = 5;

/// Counts three times, and takes the least of each: the machine has work of its own.
fn quietest(scene: &mut Scene) -> Result<Activity> {
    let look = "awk '/LOC:/ { for (i = 2; i < NF - 3; i++) n += $i; print n }' /proc/interrupts
                awk '/^ctxt/ { print $2 }' /proc/stat";
    let mut least = Activity {
        timers: u64::MAX,
        switches: u64::MAX,
    };
    for _ in 0..3 {
        let text = scene.sh(&format!("{look}; sleep {SECONDS}; {look}"))?;
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("not numbers: {text}"))?;
        let [timers, switches, timers_after, switches_after] = numbers[..] else {
            anyhow::bail!("{text}");
        };
        least.timers = least.timers.min(timers_after - timers);
        least.switches = least.switches.min(switches_after - switches);
    }
    Ok(least)
}

/// With all acked, the module adds at most one wake-up a second, and starts its timers again with
/// the next record.
fn idle_machine(scene: &mut Scene) -> Result<()> {
    let without = quietest(scene)?;
    let peer = load_acked(scene, Kind::Session, "")?;
    // The module's own records are acked by then, and its work item has nothing more to report.
    sleep_ms(6000);
    let with = quietest(scene)?;
    println!(
        "idle_machine: in {SECONDS} s {without:?} without, {with:?} with; seed {}",
        scene.seed
    );
    ensure!(
        with.timers <= without.timers + SECONDS && with.switches <= without.switches + SECONDS,
        "{with:?} instead of {without:?} in {SECONDS} s"
    );
    // A record that waits for an ack is sent again although the machine was idle.
    peer.set_silent(true);
    scene.log("is anybody there")?;
    let seq = peer.logger.wait_for("is anybody there", SOON)?;
    peer.logger
        .wait(SOON, "it again, as an emergency", |collector| {
            (collector.records[&seq].emergencies > 0).then_some(())
        })?;
    peer.set_silent(false);
    peer.wait_for_all(seq, SOON)?;
    unload_one(scene)?;
    scene.vm.settle()
}
