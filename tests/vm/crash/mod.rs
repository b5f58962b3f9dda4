// SPDX-License-Identifier: GPL-2.0

//! Crashes: panics, oopses, crash kernels, reboots.
//!
//! | file | what is tried |
//! |---|---|
//! | `held.rs` | panics while another CPU holds locks that are needed |
//! | `matrix.rs` | panics in every context, with each way to go on after it, with loss |
//! | `devices.rs` | panics on other devices |
//! | `loading.rs` | panics while the module is loaded and unloaded |
//! | `next_kernel.rs` | crash kernels, and kexec |
//! | `obstacles.rs` | panics without memory, in an emergency round, with the link down, in a flood |
//! | `suspended.rs` | the machine sleeps, and goes on |
//! | `survived.rs` | oopses that the machine survives, and orderly ends |

mod devices;
mod held;
mod loading;
mod matrix;
mod next_kernel;
mod obstacles;
mod survived;
mod suspended;

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::logger::Logger;
use nctest::vm::VmConfig;

use crate::contexts::{arrived_lines, dated};
use crate::scene::{Scene, HOST, PORT, SOON};
use crate::trial::Trial;

/// The trials of this directory.
pub fn trials() -> Vec<Trial> {
    [
        matrix::trials(),
        devices::trials(),
        held::trials(),
        loading::trials(),
        next_kernel::trials(),
        obstacles::trials(),
        survived::trials(),
        suspended::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Configures a guest that may oops, with the kernel's own crash module.
pub fn mortal(config: &mut VmConfig) -> Result<()> {
    let alarms = ["Kernel panic", "Call Trace:", "BUG:", "Oops:"];
    config.expected = alarms.map(String::from).to_vec();
    config.kernel_module("drivers/misc/lkdtm/lkdtm.ko")
}

/// Loads the module with a target whose logger acks, and waits until it has acked and been heard.
pub(crate) fn attach(scene: &mut Scene, parameters: &str) -> Result<AckingLogger> {
    attach_to(scene, "eth0", HOST, parameters)
}

fn attach_to(
    scene: &mut Scene,
    device: &str,
    host: &str,
    parameters: &str,
) -> Result<AckingLogger> {
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    scene.load_with(&format!("+@/{device},{PORT}@{host}/"), parameters)?;
    let heard = format!("cmdline0: ACK timeout enabled for {host}:{PORT}");
    scene.vm.serial.wait_for(&heard, said, SOON)?;
    scene.log("before it all")?;
    let seq = peer.logger.wait_for("before it all", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    Ok(peer)
}

/// A panic in process context.
pub(crate) const SYSRQ: &str = "echo c > /proc/sysrq-trigger";

/// An access to nothing, by a task that can be spared.
const OOPS: &str = "echo EXCEPTION > /sys/kernel/debug/provoke-crash/DIRECT";

/// Waits until the machine is gone.
pub(crate) fn gone(scene: &Scene) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(90);
    while !scene.vm.serial.is_closed() {
        ensure!(Instant::now() < until, "the machine does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Starts a script in the background, as it may never return.
pub fn detached(scene: &mut Scene, script: &str) -> Result<()> {
    scene
        .sh(&format!("(usleep 200000; {script}) > /dev/null 2>&1 &"))
        .map(drop)
}

/// The console's text before a line that it prints once more.
const REPLAYED: &str = "** replaying previous printk message **";

/// The text in the first line of each kernel.
const NEXT_KERNEL: &str = "Linux version ";

/// Waits until every line that the console shows from the `said`th on has arrived, up to the next
/// kernel's. Returns their number, or an error with the first that has not arrived.
pub(crate) fn all_lines_arrive(
    scene: &Scene,
    logger: &Logger,
    said: usize,
    limit: Duration,
) -> Result<usize> {
    let until = Instant::now() + limit;
    loop {
        let mut lines = scene.vm.serial.lines(said);
        let end = lines.iter().position(|line| line.contains(NEXT_KERNEL));
        lines.truncate(end.unwrap_or(lines.len()));
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
