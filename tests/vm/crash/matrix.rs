// SPDX-License-Identifier: GPL-2.0

//! Panics: in each context, with each value of `kernel.panic`, and with half of the network lost.
//!
//! Each line that a user sees on the serial console, from before the crash until the machine is
//! reset, has to be at the logger.
//!
//! With half of the datagrams lost and `kernel.panic=-1` the hold limits the rounds: a record is
//! sent 17 times, so that one is missing with a probability of 2^-17, one crash of 100 lines in
//! 1,300. An emulated machine on a busy host is too slow for 17 rounds in a second: the trial has
//! a longer hold.

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env::upstream;
use nctest::logger::Logger;
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::Direction;
use nctest_guest::Burst;

use super::{all_lines_arrive, detached, gone, mortal, SYSRQ};
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{trial_with, Trial};

/// The contexts in which the kernel panics, and how each is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In process context, by SysRq.
    Sysrq,
    /// `BUG()` in process context.
    Process,
    /// `BUG()` in a hard interrupt.
    Interrupt,
    /// `BUG()` in a softirq.
    Softirq,
    /// A CPU hangs with interrupts off, until an NMI panics.
    Nmi,
    /// An access to nothing, with `panic_on_oops`.
    Oops,
    /// `BUG()` in printk's thread for the console.
    Printer,
}

const PLACES: [(Place, &str); 7] = [
    (Place::Sysrq, "sysrq"),
    (Place::Process, "process"),
    (Place::Interrupt, "interrupt"),
    (Place::Softirq, "softirq"),
    (Place::Nmi, "nmi"),
    (Place::Oops, "oops"),
    (Place::Printer, "printer"),
];

/// `kernel.panic`: wait for ever, for five seconds, or not at all.
const TIMEOUTS: [(i32, &str); 3] = [(0, "stays"), (5, "in_5_s"), (-1, "at_once")];

/// The share of datagrams that are lost, both ways.
const LOSSES: [(f64, &str); 2] = [(0.0, ""), (0.5, "_lossy")];

/// The trials of this file: by default each place with each timeout, the loss by turns;
/// `NCTEST_FULL=1` for all.
pub fn trials() -> Vec<Trial> {
    let full = std::env::var_os("NCTEST_FULL").is_some_and(|v| v == "1");
    let mut trials = Vec::new();
    for (p, (place, name)) in PLACES.into_iter().enumerate() {
        // These places crash by switches of our module.
        if upstream() && matches!(place, Place::Interrupt | Place::Softirq | Place::Printer) {
            continue;
        }
        for (t, (timeout, then)) in TIMEOUTS.into_iter().enumerate() {
            for (l, (loss, lossy)) in LOSSES.into_iter().enumerate() {
                if !full && !upstream() && (p + t) % LOSSES.len() != l {
                    continue;
                }
                trials.push(trial_with(
                    format!("panic_{name}_{then}{lossy}"),
                    move |config| {
                        config.sysctl("kernel.panic", timeout);
                        config.sysctl("kernel.panic_on_oops", 1);
                        config.sysctl("kernel.unknown_nmi_panic", 1);
                        mortal(config)
                    },
                    move |scene| panics(scene, place, timeout, loss),
                ));
            }
        }
    }
    trials.push(trial_with(
        "panic_silent_logger",
        mortal_at_once,
        silent_logger,
    ));
    trials
}

/// Configures a guest that may die, and is reset at once then.
pub(super) fn mortal_at_once(config: &mut VmConfig) -> Result<()> {
    config.sysctl("kernel.panic_on_oops", 1);
    mortal(config)
}

/// Loads the module with the extended target.
fn load(scene: &mut Scene, parameters: &str) -> Result<()> {
    scene.sh("insmod /lkdtm.ko")?;
    scene.load_with(&format!("+@/eth0,{PORT}@{HOST}/"), parameters)
}

/// Has the kernel panic.
fn crash(scene: &mut Scene, place: Place) -> Result<()> {
    let debug = |what: &str| {
        let module = module_name();
        format!("echo 1 > /sys/module/{module}/parameters/debug_bug_{what}; echo x > /dev/kmsg")
    };
    let lkdtm = |what: &str| format!("echo {what} > /sys/kernel/debug/provoke-crash/DIRECT");
    match place {
        Place::Sysrq => detached(scene, SYSRQ),
        Place::Process => detached(scene, &lkdtm("BUG")),
        Place::Interrupt => detached(scene, &debug("hardirq")),
        Place::Softirq => detached(scene, &debug("softirq")),
        Place::Printer => detached(scene, &debug("printer")),
        Place::Oops => detached(scene, &lkdtm("EXCEPTION")),
        Place::Nmi => {
            detached(scene, &format!("taskset 2 sh -c '{}'", lkdtm("HARDLOCKUP")))?;
            scene.vm.wait_for_lockup(1, SOON)?;
            scene.vm.inject_nmi()
        }
    }
}

fn panics(scene: &mut Scene, place: Place, timeout: i32, loss: f64) -> Result<()> {
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    let patient = timeout < 0 && loss > 0.0 && !upstream();
    load(scene, if patient { "panic_hold_ms=10000" } else { "" })?;
    scene.log("before it all")?;
    if !upstream() {
        let seq = peer.logger.wait_for("before it all", SOON)?;
        peer.wait_for_all(seq, SOON)?;
    }
    let said = scene.vm.serial.len();
    for way in [Direction::FromGuest, Direction::ToGuest] {
        scene.wire().set_faults(
            way,
            Faults {
                loss,
                ..Faults::default()
            },
        );
    }
    // These records may be acked or even sent before the crash, or not.
    let burst = Burst::new(40, scene.seed, "just before");
    scene.vm.agent.log(&burst, SOON)?;
    crash(scene, place)?;
    finished(scene, timeout, said)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON);
    println!("panic: {place:?}, kernel.panic={timeout}, {loss} lost: {lines:?}");
    let lines = lines?;
    ensure!(lines > 50, "a crash of {lines} lines with what was before");
    Ok(())
}

/// Waits until the machine has ended: it is gone, or waits for ever.
pub(super) fn finished(scene: &mut Scene, timeout: i32, said: usize) -> Result<()> {
    let serial = &scene.vm.serial;
    serial
        .wait_for("Kernel panic - not syncing", said, SOON)
        .context("no panic")?;
    if timeout == 0 {
        serial.wait_for("---[ end Kernel panic", said, SOON)?;
        return Ok(());
    }
    gone(scene)
}

/// A logger that never answers gets the crash's own records once and twice more.
fn silent_logger(scene: &mut Scene) -> Result<()> {
    let logger = Logger::attach(scene.wire(), PORT);
    load(scene, "")?;
    scene.log("before it all")?;
    logger.wait_for("before it all", SOON)?;
    let said = scene.vm.serial.len();
    crash(scene, Place::Sysrq)?;
    finished(scene, -1, said)?;
    all_lines_arrive(scene, &logger, said, SOON)?;
    let collector = logger.lock();
    let panic = collector
        .find("Kernel panic - not syncing")
        .context("no panic")?;
    let copies: Vec<_> = (collector.records.range(panic.seq..))
        .map(|(_, record)| record.copies)
        .collect();
    ensure!(
        copies.iter().all(|copies| *copies == 3),
        "{copies:?} copies"
    );
    Ok(())
}
