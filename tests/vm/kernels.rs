// SPDX-License-Identifier: GPL-2.0

//! Debian's kernels: the module does its work on each. `make test-kernels` has these trials run on
//! one after the other (`NCTEST_KERNELS=1`); they are part of no other run.

use anyhow::{ensure, Result};
use nctest::vm::VmConfig;

use crate::crash::{all_lines_arrive, attach, detached, gone, SYSRQ};
use crate::lossy::half_lost;
use crate::scene::{Scene, HOST, SOON};
use crate::targets::stock_smoke;
use crate::trial::{stock_trial, stock_trial_with, Trial};

/// The trials of this file: `works_` for the kernels that the module is for.
pub fn trials() -> Vec<Trial> {
    vec![
        stock_trial("works_smoke", stock_smoke),
        stock_trial("works_lossy", half_lost),
        stock_trial_with("works_panic", mortal, panic),
        stock_trial("refused", refused),
    ]
}

/// Configures a guest that is reset five seconds after a panic, as most servers are.
fn mortal(config: &mut VmConfig) -> Result<()> {
    config.sysctl("kernel.panic", 5);
    config.expected = ["Kernel panic", "Call Trace:", "Call trace:"]
        .map(String::from)
        .to_vec();
    Ok(())
}

/// Each line that the console shows of a panic arrives.
fn panic(scene: &mut Scene) -> Result<()> {
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    detached(scene, SYSRQ)?;
    let serial = &scene.vm.serial;
    serial.wait_for("Kernel panic - not syncing", said, SOON)?;
    gone(scene)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    ensure!(lines > 10, "a crash of {lines} lines");
    Ok(())
}

/// A kernel that the module is not for does not load it, and says why.
fn refused(scene: &mut Scene) -> Result<()> {
    let said = scene.vm.serial.len();
    let loaded = scene.load(&format!("+@/eth0,@{HOST}/"));
    ensure!(loaded.is_err(), "it was loaded");
    let reason = "not made for kernels with PREEMPT_RT";
    scene.vm.serial.wait_for(reason, said, SOON)?;
    scene.vm.settle()
}
