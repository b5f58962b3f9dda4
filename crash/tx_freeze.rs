// SPDX-License-Identifier: GPL-2.0

//! Freezing all devices with a panic's first line, while the other CPUs still run.
//!
//! A CPU that is stopped keeps its locks, and a busy sender holds the lock of its TX queue most of
//! the time: then no other CPU can send by that queue. So no CPU may begin to send by the devices
//! or to poll them, and those that do are waited for a little. The devices are thawed when the
//! other CPUs have been stopped. A panic always gets there: no line is logged between
//! `crash_kexec()` finding no crash kernel and the panic that follows it.
//!
//! Not helped: the driver call that the panic itself has interrupted; a CPU that does not leave the
//! driver within a tenth of a second; locks that a driver has beside those of its queues.

use core::ops::ControlFlow;

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

use crate::{
    sys::{
        panic::{
            Here,
            Panic, //
        },
        tx_freeze::Patience, //
    },
    target::{
        list::Targets,
        port::Port, //
    }, //
};

/// Whether the devices are not frozen yet, frozen, or thawed. Once thawed they are not frozen
/// again, however late a line comes.
static STATE: Atomic<u32> = Atomic::new(NOT_YET);
const NOT_YET: u32 = 0;
const FROZEN: u32 = 1;
const THAWED: u32 = 2;

/// Whether a device was in use when a crash began, or could not be seen not to be.
static FOUND_USED: Atomic<bool> = Atomic::new(false);

/// Freezes all devices that targets send by, unless that has been done. Any context.
pub(crate) fn freeze(targets: &Targets, here: Here, off: &LocalInterruptDisabled) {
    if STATE.cmpxchg(NOT_YET, FROZEN, Full).is_err() {
        return;
    }
    find_used(targets, |port, patience| port.freeze(patience, here, off));
}

/// Looks whether a device that targets send by is in use as an oops begins. Any context on a CPU
/// that does not go on with what it was doing.
pub(crate) fn look(targets: &Targets, off: &LocalInterruptDisabled) {
    find_used(targets, |port, patience| port.is_unused(patience, off));
}

/// Returns whether a device was in use when a crash began, this one or an earlier one: what the
/// crash has interrupted may hold locks of the driver for good, so that sending could hang. Any
/// context.
pub(crate) fn found_used() -> bool {
    FOUND_USED.load(Relaxed)
}

fn find_used(targets: &Targets, mut is_unused: impl FnMut(&Port, &mut Patience) -> bool) {
    let mut patience = Patience::new();
    for_each_port(targets, |port| {
        if !is_unused(port, &mut patience) {
            FOUND_USED.store(true, Relaxed);
        }
    });
}

/// Returns whether the devices are frozen. Any context.
pub(crate) fn is_frozen() -> bool {
    STATE.load(Relaxed) == FROZEN
}

/// Thaws the devices, for good. Any context.
pub(crate) fn thaw(targets: &Targets, panic: &Panic) {
    if STATE.xchg(THAWED, Full) == FROZEN {
        for_each_port(targets, |port| port.thaw(panic));
    }
}

fn for_each_port(targets: &Targets, mut f: impl FnMut(&Port)) {
    targets.for_each(|target| {
        target.with_port(&mut f);
        ControlFlow::Continue(())
    });
}
