// SPDX-License-Identifier: GPL-2.0

//! Obstacles to a panic: no memory, an emergency round, a link that is down, a flood.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::logger::Sink;
use nctest::vm::VmConfig;
use nctest_guest::Burst;

use super::matrix::{finished, mortal_at_once};
use super::{all_lines_arrive, attach, detached, mortal, SYSRQ};
use crate::contexts::dated;
use crate::scene::{Scene, GUEST, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("panic_without_memory", mortal_at_once, without_memory),
        trial_with("panic_in_an_emergency_round", countdown, in_an_emergency),
        trial_with("panic_while_the_link_is_down", countdown, link_is_down),
        trial_with("panic_in_a_flood", mortal_at_once, in_a_flood),
        trial_with("panic_with_a_basic_target", mortal_at_once, basic),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// Configures a guest that is reset five seconds after it has died.
fn countdown(config: &mut VmConfig) -> Result<()> {
    config.sysctl("kernel.panic", 5);
    mortal(config)
}

/// The panic is sent although every allocation fails from some moment on.
fn without_memory(scene: &mut Scene) -> Result<()> {
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    // Nothing can be opened then, so all is open before.
    detached(
        scene,
        "cd /sys/kernel/debug
         for what in failslab fail_page_alloc; do
             cd $what
             echo 0 > verbose; echo N > ignore-gfp-wait; echo -1 > times; echo 1 > interval
             cd ..
         done
         echo 0 > fail_page_alloc/min-order
         echo N > fail_page_alloc/ignore-gfp-highmem
         exec 3> failslab/probability 4> fail_page_alloc/probability 5> /proc/sysrq-trigger
         exec 6> /dev/kmsg
         echo no memory from here on >&6
         echo 100 >&4
         echo 100 >&3
         echo c >&5",
    )?;
    finished(scene, -1, said)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("panic without memory: {lines} lines");
    ensure!(lines > 25, "{lines} lines");
    peer.logger.record("no memory from here on").map(drop)
}

/// The panic is sent in an emergency, while records are sent again one by one for want of an ack.
fn in_an_emergency(scene: &mut Scene) -> Result<()> {
    let quick = "ack_timeout_ms=500 emg_min_intv_ms=20 emg_max_intv_ms=50";
    let peer = attach(scene, quick)?;
    let said = scene.vm.serial.len();
    scene.wire().cut();
    let burst = Burst::new(60, scene.seed, "unacked");
    scene.vm.agent.log(&burst, SOON)?;
    let started = "cmdline0: emergency transmission started, ";
    scene.vm.serial.wait_for(started, said, SOON)?;
    detached(scene, SYSRQ)?;
    let panic = "Kernel panic - not syncing";
    scene.vm.serial.wait_for(panic, said, SOON)?;
    scene.wire().restore();
    finished(scene, 5, said)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("panic in an emergency round: {lines} lines");
    ensure!(lines > 80, "{lines} lines");
    Ok(())
}

/// The link goes down as the kernel dies, and is up again two seconds later, within the countdown.
fn link_is_down(scene: &mut Scene) -> Result<()> {
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    detached(scene, SYSRQ)?;
    let panic = "sysrq: Trigger a crash";
    scene.vm.serial.wait_for(panic, said, SOON)?;
    scene.vm.set_link(0, false)?;
    std::thread::sleep(Duration::from_secs(2));
    scene.vm.set_link(0, true)?;
    finished(scene, 5, said)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("panic while the link is down: {lines} lines");
    ensure!(lines > 25, "{lines} lines");
    Ok(())
}

/// The device has frames to poll all the time, and may be in its poll when the panic happens, which
/// is in an interrupt of the serial line.
fn in_a_flood(scene: &mut Scene) -> Result<()> {
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    let sender = scene.wire().sender();
    let (from, to) = (format!("{HOST}:9"), format!("{GUEST}:9"));
    let (from, to) = (from.parse()?, to.parse()?);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let mut sent: u64 = 0;
        let go_on = Err(std::sync::mpsc::TryRecvError::Empty);
        // QEMU takes nothing once the machine is gone.
        while stopped.try_recv() == go_on {
            match sender.send_udp(from, to, &[0; 64]) {
                Ok(()) => sent += 1,
                Err(_) => break,
            }
        }
        sent
    });
    std::thread::sleep(Duration::from_secs(1));
    scene.vm.serial.sysrq('c')?;
    let ended = finished(scene, -1, said);
    drop(stop);
    let sent = flood.join().ok().context("the flood")?;
    ended?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("panic in a flood of {sent} datagrams: {lines} lines");
    ensure!(lines > 30 && sent > 100, "{lines} lines, {sent} datagrams");
    Ok(())
}

/// A target of the basic format gets each line once, and its device time to send them: the machine
/// is not reset with frames in it.
fn basic(scene: &mut Scene) -> Result<()> {
    let sink = Sink::attach(scene.wire(), PORT);
    scene.load_with(&format!("@/eth0,{PORT}@{HOST}/"), "panic_hold_ms=3000")?;
    scene.log("before it all")?;
    sink.wait_for("before it all", SOON)?;
    let said = scene.vm.serial.len();
    detached(scene, SYSRQ)?;
    sink.wait_for("sending the log of the panic", SOON)?;
    let heard = Instant::now();
    finished(scene, -1, said)?;
    let held = heard.elapsed();
    ensure!(held > Duration::from_secs(1), "held for {held:.2?} only");
    let datagrams = sink.datagrams();
    let lines = scene.vm.serial.lines(said);
    let texts: Vec<_> = lines.iter().filter_map(|line| dated(line)).collect();
    ensure!(texts.len() > 30, "{} lines", texts.len());
    for (_, text) in &texts {
        let times = datagrams.iter().filter(|udp| {
            let sent = String::from_utf8_lossy(&udp.payload);
            sent.lines().any(|line| line.ends_with(text.as_str()))
        });
        ensure!(times.count() > 0, "{text:?} is not at the logger");
    }
    println!("panic with a basic target: {} lines", texts.len());
    Ok(())
}
