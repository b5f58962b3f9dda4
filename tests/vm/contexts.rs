// SPDX-License-Identifier: GPL-2.0

//! Contexts that allow little: records that are logged in interrupts, NMIs and oopses.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::logger::Logger;
use nctest::vm::VmConfig;
use nctest_guest::Burst;

use crate::scene::{Scene, HOST, SOON};
use crate::trial::{trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("hard_interrupt", hard_interrupt),
        trial("nmi", nmi),
        trial_with("panic_in_hard_interrupt", mortal, panic_in_hard_interrupt),
        trial_with("oops_only", mortal, oops_only),
    ]
}

/// A guest that may die, and then stays as it is.
fn mortal(config: &mut VmConfig) -> Result<()> {
    config.sysctl("kernel.panic", 0);
    config.expected = vec!["Kernel panic".into(), "Call Trace:".into()];
    Ok(())
}

/// SysRq's help is logged by the serial port's interrupt handler.
fn hard_interrupt(scene: &mut Scene) -> Result<()> {
    const TIMES: usize = 50;
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    for n in 1..=TIMES {
        scene.vm.serial.sysrq('h')?;
        scene
            .logger
            .wait(SOON, &format!("help number {n}"), |collector| {
                // From the end: help is the last thing that was logged.
                let helps = collector
                    .records
                    .values()
                    .filter(|record| nctest::collector::contains(&record.bytes, b"sysrq: HELP : "));
                (helps.count() >= n).then_some(())
            })?;
    }
    scene.all_has_arrived(0)?;
    scene.unload_and_settle()
}

/// Both processors are hit by a non-maskable interrupt, and say so from there.
fn nmi(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    for _ in 0..10 {
        let said = scene.vm.serial.len();
        scene.vm.inject_nmi()?;
        scene.vm.serial.wait_for("Dazed and confused", said, SOON)?;
    }
    scene.logger.wait_for("Dazed and confused", SOON)?;
    scene.all_has_arrived(0)?;
    scene.unload_and_settle()
}

/// SysRq's crash: the kernel dies in an interrupt handler, interrupts off. Every
/// line that it says on its serial console arrives.
fn panic_in_hard_interrupt(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    let said = scene.vm.serial.len();
    scene.vm.serial.sysrq('c')?;
    let last = scene
        .vm
        .serial
        .wait_for("---[ end Kernel panic", said, SOON)?;
    scene.logger.wait_for("---[ end Kernel panic", SOON)?;
    let lines = scene.vm.serial.lines(said);
    let lines = &lines[..=last - said];
    let arrived = arrived_lines(&scene.logger)?;
    let dated: Vec<_> = lines.iter().filter_map(|line| dated(line)).collect();
    ensure!(dated.len() > 10, "a panic of {} lines", dated.len());
    for line in &dated {
        ensure!(arrived.contains(line), "{line:?} has not arrived");
    }
    println!("panic_in_hard_interrupt: {} lines", dated.len());
    Ok(())
}

/// With `oops_only` nothing is sent until the kernel is in trouble.
fn oops_only(scene: &mut Scene) -> Result<()> {
    scene.load_with(&format!("+@/eth0,@{HOST}/"), "oops_only=1")?;
    let said = scene.vm.serial.len();
    scene.log("all is well")?;
    scene.vm.serial.wait_for("all is well", said, SOON)?;
    let burst = Burst::new(50, scene.seed, "waits");
    scene.vm.agent.log(&burst, SOON)?;
    // Longer than records may wait for printk's thread elsewhere.
    std::thread::sleep(Duration::from_secs(5));
    // A keepalive, which is empty, is no record: it lets responses through later.
    let collector = scene.logger.lock();
    let records = collector.arrivals.iter().filter(|a| a.len > 0);
    let sent = records.count();
    drop(collector);
    ensure!(sent == 0, "{sent} datagrams before any trouble");
    scene.vm.serial.sysrq('c')?;
    scene
        .logger
        .wait_for("---[ end Kernel panic", Duration::from_secs(60))?;
    scene.logger.record("Kernel panic - not syncing")?;
    let early = scene.logger.lock().find("all is well").is_some();
    ensure!(!early, "a record from before the trouble was sent");
    Ok(())
}

/// The lines of all records that have arrived, each with its time in
/// microseconds.
pub(crate) fn arrived_lines(logger: &Logger) -> Result<HashSet<(u64, String)>> {
    let mut lines = HashSet::new();
    for record in logger.lock().records.values() {
        let text = String::from_utf8_lossy(&record.bytes);
        let (header, body) = text.split_once(';').context("no header")?;
        let usec = header.split(',').nth(2).context("no time")?.parse()?;
        let first = body.split('\n').next().unwrap_or_default();
        for line in first.replace("\\x5c", "\\").split("\\x0a") {
            lines.insert((usec, line.replace("\\x09", "\t")));
        }
    }
    Ok(lines)
}

/// A line of the serial console as its time and its text.
pub(crate) fn dated(line: &str) -> Option<(u64, String)> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = time.trim().split_once('.')?;
    let usec = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    Some((usec, text.to_string()))
}
