// SPDX-License-Identifier: GPL-2.0

//! Suspend to RAM while records are unacked (ACPI S3: devices are off, and lose their settings).

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;

use super::{attach, detached};
use crate::scene::{module_name, Scene, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("suspend_with_unacked_records", |_| Ok(()), sleeps),
        trial_with("suspend_with_unacked_records_e1000", e1000, sleeps),
    ];
    trials.into_iter().map(ours_only).collect()
}

fn e1000(config: &mut VmConfig) -> Result<()> {
    config.nics = vec![NicModel::E1000];
    Ok(())
}

/// The number of times that it sleeps.
const TIMES: u32 = 3;

/// Records that the logger has not got when the machine goes to sleep, in the midst of emergency
/// transmission, come afterwards, and so do those that are logged on the way into sleep and out of
/// it.
fn sleeps(scene: &mut Scene) -> Result<()> {
    let quick = "ack_timeout_ms=500 emg_min_intv_ms=20 emg_max_intv_ms=50";
    let peer = attach(scene, quick)?;
    let said = scene.vm.serial.len();
    // The agent's port does not survive its first sleep.
    detached(
        scene,
        &format!(
            "for time in $(seq {TIMES}); do
                 sleep 3
                 for n in $(seq 60); do echo \"unacked $n before sleep $time\" > /dev/kmsg; done
                 sleep 2
                 echo mem > /sys/power/state
                 echo \"awake $time\" > /dev/kmsg
             done
             sleep 5
             rmmod {}
             echo unloaded > /dev/kmsg",
            module_name()
        ),
    )?;
    for time in 1..=TIMES {
        let from = scene.vm.serial.len();
        scene.wire().cut();
        let started = "cmdline0: emergency transmission started, ";
        scene.vm.serial.wait_for(started, from, SOON)?;
        scene.vm.wait_for_sleep(SOON)?;
        std::thread::sleep(Duration::from_secs(1));
        scene.wire().restore();
        scene.vm.wake()?;
        scene.vm.serial.wait_for("PM: suspend exit", from, SOON)?;
        let seq = peer.logger.wait_for(&format!("awake {time}"), SOON)?;
        peer.wait_for_all(seq, SOON)?;
        // The module knows of the ack as well.
        let ended = "cmdline0: emergency transmission ended, ";
        scene.vm.serial.wait_for(ended, from, SOON)?;
    }
    // No number is missing by now. (The serial console itself loses characters as it is suspended.)
    let lines = scene.vm.serial.lines(said).len();
    let records = peer.logger.lock().records.len();
    println!("asleep {TIMES} times: {lines} lines, {records} records");
    ensure!(records > 200, "{records} records");
    let unloaded = scene.vm.serial.wait_for("unloaded", said, SOON);
    unloaded.map(drop)
}
