// SPDX-License-Identifier: GPL-2.0

//! When the kernel dies.
//!
//! | file | what is tried |
//! |---|---|
//! | `held.rs` | panics while another CPU holds what is needed |
//! | `matrix.rs` | panics in every context, with each way to go on after it, with loss |
//! | `devices.rs` | panics on other devices |
//! | `survived.rs` | oopses that the machine survives, and orderly ends |

mod devices;
mod held;
mod matrix;
mod survived;

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use libtest_mimic::Trial;
use nctest::logger::Logger;
use nctest::vm::VmConfig;

use crate::contexts::{arrived_lines, dated};
use crate::scene::Scene;

/// The trials of this directory.
pub fn trials() -> Vec<Trial> {
    [
        matrix::trials(),
        devices::trials(),
        held::trials(),
        survived::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A guest that may oops, with the kernel's own means of breaking it.
fn mortal(config: &mut VmConfig) -> Result<()> {
    let alarms = ["Kernel panic", "Call Trace:", "BUG:", "Oops:"];
    config.expected = alarms.map(String::from).to_vec();
    config.kernel_module("drivers/misc/lkdtm/lkdtm.ko")
}

/// Have a script run when its caller is out of the way: there may be no coming back.
fn detached(scene: &mut Scene, script: &str) -> Result<()> {
    scene
        .sh(&format!("(usleep 200000; {script}) > /dev/null 2>&1 &"))
        .map(drop)
}

/// What the console says before a line that it prints once more.
const REPLAYED: &str = "** replaying previous printk message **";

/// Wait until every line that the console shows from the `said`th on has arrived. How many are
/// they? The first that has not arrived is told.
fn all_lines_arrive(scene: &Scene, logger: &Logger, said: usize, limit: Duration) -> Result<usize> {
    let until = Instant::now() + limit;
    loop {
        let lines = scene.vm.serial.lines(said);
        // A line that another CPU was printing is printed again, whole.
        let again = |n: usize| {
            lines
                .get(n + 1)
                .is_some_and(|next| next.starts_with(REPLAYED))
        };
        let lines = lines.iter().enumerate().filter(|&(n, _)| !again(n));
        let lines: Vec<_> = lines.filter_map(|(_, line)| dated(line)).collect();
        let arrived = arrived_lines(logger)?;
        let missing: Vec<_> = lines
            .iter()
            .filter(|line| !arrived.contains(line))
            .collect();
        if missing.is_empty() {
            return Ok(lines.len());
        }
        ensure!(
            Instant::now() < until,
            "{} of {} lines have not arrived, the first: {:?}",
            missing.len(),
            lines.len(),
            missing[0]
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
