// SPDX-License-Identifier: GPL-2.0

//! Oopses that the machine survives, and orderly ends.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::Direction;

use super::{all_lines_arrive, attach, detached, gone, mortal, OOPS};
use crate::contexts::dated;
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("oops_survived", mortal, |scene| survived(scene, OOPS)),
        trial_with("oops_of_the_printer", mortal, |scene| {
            let module = module_name();
            let switch = format!("/sys/module/{module}/parameters/debug_bug_printer");
            survived(scene, &format!("echo 1 > {switch}; echo x > /dev/kmsg"))
        }),
        trial_with("reboot_waits_for_the_ack", leaves, |scene| {
            leave(scene, "echo 1 > /proc/sys/kernel/sysrq; reboot -f")
        }),
        trial_with("poweroff_waits_for_the_ack", leaves, |scene| {
            leave(scene, "poweroff -f")
        }),
        trial_with("reboot_sends_the_last_again", leaves, last_words_lost),
        trial_with("reboot_oops_only", leaves, nothing_to_wait_for),
    ];
    trials.into_iter().map(ours_only).collect()
}

fn leaves(_config: &mut VmConfig) -> Result<()> {
    Ok(())
}

/// An oops is complete at the logger within two seconds of the console, and the machine goes on.
fn survived(scene: &mut Scene, script: &str) -> Result<()> {
    scene.sh("insmod /lkdtm.ko")?;
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    detached(scene, script)?;
    scene.vm.serial.wait_for("---[ end trace", said, SOON)?;
    let began = Instant::now();
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    let took = began.elapsed();
    println!("oops: {lines} lines, {took:.2?} after the console");
    ensure!(lines > 20, "an oops of {lines} lines");
    // The goal is two seconds; an emulated machine on a busy host gets more.
    ensure!(took < Duration::from_secs(10), "{took:?} after the console");
    scene.log("and all goes on")?;
    let seq = peer.logger.wait_for("and all goes on", SOON)?;
    peer.wait_for_all(seq, SOON)
}

/// The last records are lost, and with them everything that could show the logger that they exist.
fn last_words_lost(scene: &mut Scene) -> Result<()> {
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    let lose = |scene: &Scene, loss| {
        let faults = Faults {
            loss,
            ..Faults::default()
        };
        scene.wire().set_faults(Direction::FromGuest, faults);
    };
    lose(scene, 1.0);
    detached(
        scene,
        "for n in $(seq 20); do echo \"last words $n\" > /dev/kmsg; done
         usleep 200000; echo 1 > /proc/sys/kernel/sysrq; reboot -f",
    )?;
    scene.vm.serial.wait_for("last words 20", said, SOON)?;
    // They were sent when they were logged.
    std::thread::sleep(Duration::from_millis(100));
    ensure!(
        peer.logger.lock().find("last words").is_none(),
        "nothing is lost"
    );
    lose(scene, 0.0);
    gone(scene)?;
    let seq = peer.logger.wait_for("last words 20", Duration::ZERO)?;
    peer.wait_for_all(seq, Duration::ZERO)
}

/// With `oops_only` nothing of the log is sent at the end, and nothing is waited for.
fn nothing_to_wait_for(scene: &mut Scene) -> Result<()> {
    scene.load_with(&format!("+@/eth0,{PORT}@{HOST}/"), "oops_only=1")?;
    let said = scene.vm.serial.len();
    detached(
        scene,
        "echo 1 > /proc/sys/kernel/sysrq; echo \"last words\" > /dev/kmsg; reboot -f",
    )?;
    gone(scene)?;
    let lines = scene.vm.serial.lines(said);
    let time = |text: &str| {
        let mut lines = lines.iter().filter_map(|line| dated(line));
        let line = lines.find(|(_, line)| line.contains(text));
        line.map(|(usec, _)| usec).context("not logged")
    };
    let took = time("reboot: Restarting system")?.saturating_sub(time("last words")?);
    println!("reboot_oops_only: {} ms", took / 1000);
    // A wait for records that are never to be sent would take half a second.
    ensure!(took < 450_000, "the reboot took {took} us");
    Ok(())
}

/// Records from just before an orderly end have been acked by then.
fn leave(scene: &mut Scene, script: &str) -> Result<()> {
    let peer = attach(scene, "")?;
    detached(
        scene,
        &format!("for n in $(seq 100); do echo \"last words $n\" > /dev/kmsg; done; {script}"),
    )?;
    gone(scene)?;
    let seq = peer.logger.wait_for("last words 100", Duration::ZERO)?;
    peer.wait_for_all(seq, Duration::ZERO)
}
