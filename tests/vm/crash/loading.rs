// SPDX-License-Identifier: GPL-2.0

//! Panics while the module is loaded and unloaded all the time, in an interrupt, at any moment of
//! it.

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::vm::MODULE;

use super::matrix::{finished, mortal_at_once};
use super::{all_lines_arrive, detached};
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file: as many moments.
pub fn trials() -> Vec<Trial> {
    let trials = ["a", "b", "c", "d"].map(|moment| {
        let name = format!("panic_while_loading_{moment}");
        trial_with(name, mortal_at_once, panics)
    });
    trials.into_iter().map(ours_only).collect()
}

/// The machine is reset from any moment of loading; if the module was loaded, all is sent.
fn panics(scene: &mut Scene) -> Result<()> {
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    detached(
        scene,
        &format!(
            "while :; do
                 insmod {MODULE} 'netconsole=\"+@/eth0,{PORT}@{HOST}/\"'
                 echo 'the module is loaded' > /dev/kmsg
                 usleep 100000
                 echo 'the module is unloaded' > /dev/kmsg
                 rmmod {}
             done",
            module_name()
        ),
    )?;
    scene
        .vm
        .serial
        .wait_for("the module is loaded", said, SOON)?;
    let at = scene.seed % 1500;
    std::thread::sleep(Duration::from_millis(at));
    scene.vm.serial.sysrq('c')?;
    finished(scene, -1, said)?;
    let lines = scene.vm.serial.lines(said);
    let panic = lines.iter().position(|line| line.contains("sysrq: "));
    let panic = panic.unwrap_or(lines.len());
    let state = lines[..panic]
        .iter()
        .rposition(|l| l.contains("the module is"));
    let loaded = state.is_some_and(|n| lines[n].contains("is loaded"));
    println!("panic after {at} ms of loading: loaded: {loaded}");
    if loaded {
        let lines = all_lines_arrive(scene, &peer.logger, said + panic, SOON)?;
        ensure!(lines > 20, "{lines} lines");
    }
    Ok(())
}
