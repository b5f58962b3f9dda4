// SPDX-License-Identifier: GPL-2.0

//! Panics while another CPU holds locks for good.
//!
//! The NMI that panics hits either that CPU or another one, which then stops it. It keeps its locks
//! for good, and the console, which printk then cannot take over. All is sent even so, but not by a
//! device whose only queue is locked: the work under that lock may be half done, and going on there
//! could keep the machine from its reset.

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::vm::VmConfig;

use super::matrix::{finished, mortal_at_once};
use super::{all_lines_arrive, detached};
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("panic_while_the_ring_is_held", nmi_panics, |scene| {
            panics(scene, "debug_hold_ring")
        }),
        trial_with("panic_while_the_tx_permit_is_held", nmi_panics, |scene| {
            panics(scene, "debug_hold_permit")
        }),
    ];
    trials.into_iter().map(ours_only).collect()
}

fn nmi_panics(config: &mut VmConfig) -> Result<()> {
    config.sysctl("kernel.unknown_nmi_panic", 1);
    mortal_at_once(config)
}

fn panics(scene: &mut Scene, hold: &str) -> Result<()> {
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    scene.load(&format!("+@/eth0,{PORT}@{HOST}/"))?;
    scene.log("before it all")?;
    let seq = peer.logger.wait_for("before it all", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    let said = scene.vm.serial.len();
    // printk's thread for the console runs on one CPU, and everything else on the other.
    let parameters = format!("/sys/module/{}/parameters", module_name());
    scene.sh("for p in /proc/[0-9]*; do
             case $(cat $p/comm) in pr/netconx*) taskset -p 2 ${p#/proc/} ;; esac
         done")?;
    detached(
        scene,
        &format!(
            "exec taskset 1 sh -c '
                 echo 1 > {parameters}/{hold}
                 for n in $(seq 20); do echo \"behind it $n\" > /dev/kmsg; done'"
        ),
    )?;
    // Others may wait for it, interrupts off, and the machine hang: as it does until a watchdog's
    // NMI.
    scene.vm.wait_for_lockup(1, SOON)?;
    let before = peer.logger.lock().find("behind it 2").is_some();
    ensure!(!before, "nothing is held");
    scene.vm.inject_nmi()?;
    finished(scene, -1, said)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("panic with {hold}: {lines} lines");
    ensure!(lines > 40, "{lines} lines");
    Ok(())
}
