// SPDX-License-Identifier: GPL-2.0

//! A processor that does not run any more.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::acker::{Config, Kind};
use nctest::vm::{VmConfig, MODULE};
use nctest_guest::Burst;

use super::{arrived, peer, sleep_ms, target};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("lockup_of_cpu_0", with_lkdtm, |scene| lockup(scene, 0)),
        trial_with("lockup_of_cpu_1", with_lkdtm, |scene| lockup(scene, 1)),
    ]
}

/// Gives the guest the kernel's own module for locking up a processor.
fn with_lkdtm(config: &mut VmConfig) -> Result<()> {
    config.kernel_module("drivers/misc/lkdtm/lkdtm.ko")
}

/// A log host that has acknowledged is silent, and one of two processors stops
/// for good, its interrupts off: emergency datagrams come as before.
fn lockup(scene: &mut Scene, cpu: u32) -> Result<()> {
    const INTERVALS: (u64, u64) = (50, 100);
    /// This ends well before the kernel complains of the processor.
    const WATCHED: Duration = Duration::from_secs(8);
    let (min, max) = INTERVALS;
    let (broken, sound) = (1 << cpu, 1 << (1 - cpu));
    let processors = scene.sh("grep -c ^processor /proc/cpuinfo")?;
    ensure!(processors.trim() == "2", "{processors} processors");
    let peer = peer(scene, PORT, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    // Work that the module binds to the processor it is loaded on would be lost with it.
    scene.sh(&format!(
        "insmod /lkdtm.ko
         taskset {broken} insmod {MODULE} netconsole={} \
             ack_timeout_ms=500 emg_min_intv_ms={min} emg_max_intv_ms={max}",
        target(PORT)
    ))?;
    let line = "cmdline0: ACK timeout enabled for ";
    scene.vm.serial.wait_for(line, said, SOON)?;
    scene.log("the log host answers")?;
    let seq = peer.logger.wait_for("the log host answers", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    sleep_ms(500);
    peer.set_silent(true);
    let burst = Burst::new(3, scene.seed, "unacked");
    scene.vm.agent.log(&burst, SOON)?;
    let line = "cmdline0: emergency transmission started, ";
    scene.vm.serial.wait_for(line, said, SOON)?;

    // The agent has to run on the other processor to end the script.
    scene.sh(&format!(
        "taskset -p {sound} 1; taskset -p {sound} $PPID
         (sleep 1; exec taskset {broken} sh -c '
             echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT') &"
    ))?;
    // The lockup is seen from outside: not even the serial console need be alive.
    scene.vm.wait_for_lockup(cpu, SOON)?;
    let (from, began) = (arrived(&peer), Instant::now());
    std::thread::sleep(WATCHED);
    let came: Vec<Instant> = {
        let collector = peer.logger.lock();
        let marked = collector.arrivals[from..].iter().filter(|a| a.emergency);
        marked.map(|a| a.at).collect()
    };
    let ends = [began, began + WATCHED];
    let mut times = came.clone();
    times.extend(ends);
    times.sort();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().unwrap_or(WATCHED);
    println!(
        "lockup: without CPU {cpu}: {} emergency datagrams in {WATCHED:?}, {longest:?} apart at \
         most; seed {}",
        came.len(),
        scene.seed
    );
    scene.vm.wait_for_lockup(cpu, SOON)?;
    // Each interval is right, but for the delays of an emulated machine with a spinning
    // processor.
    ensure!(
        longest < Duration::from_millis(max + 400),
        "none for {longest:?}"
    );
    let expected = (WATCHED.as_millis() / u128::from(max)) as usize;
    ensure!(
        (expected / 2..=expected * 6 / 5).contains(&came.len()),
        "{} emergency datagrams instead of {expected}",
        came.len()
    );
    let alarm = scene.vm.serial.alarm(&scene.vm.expected);
    ensure!(alarm.is_none(), "{alarm:?}");
    // The module cannot be unloaded any more.
    Ok(())
}
