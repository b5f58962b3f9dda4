// SPDX-License-Identifier: GPL-2.0

//! Devices are claimed with a panic's first line, while the other CPUs still run.
//!
//! A CPU that is stopped keeps what it holds, and one that sends much holds the lock of its
//! device's queue most of the time; nobody else can send by that queue then. So nobody may begin to
//! send by the devices or to poll them, and who is at it is waited for a little. They are let go of
//! when the others have been stopped.
//!
//! What remains: what the panic itself has interrupted; a CPU that does not come to an end in a
//! tenth of a second; locks that a driver has beside that of its queue.

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
        panic,
        tx_freeze::Patience, //
    },
    target::{
        list::Targets,
        port::Port, //
    }, //
};

/// Whether there was no panic yet, the devices are claimed, or that is over: once they have been
/// let go of they are not claimed again, however late a line comes.
static STATE: Atomic<u32> = Atomic::new(OPEN);
const OPEN: u32 = 0;
const CLAIMED: u32 = 1;
const OVER: u32 = 2;

/// Claims all devices that targets send by, unless that has been done. Any context in a panic on
/// this CPU.
pub(crate) fn claim(targets: &Targets, off: &LocalInterruptDisabled) {
    if STATE.cmpxchg(OPEN, CLAIMED, Full).is_err() {
        return;
    }
    let mut patience = Patience::new();
    for_each_port(targets, |port| port.claim(&mut patience, off));
}

/// Whether the devices are claimed. Any context.
pub(crate) fn is_claimed() -> bool {
    STATE.load(Relaxed) == CLAIMED
}

/// Lets go of all that has been claimed, for good. Any context in a panic.
pub(crate) fn release(targets: &Targets) {
    if STATE.xchg(OVER, Full) == CLAIMED {
        let_go(targets);
    }
}

/// Lets go of it if it turns out that there is no panic: `crash_kexec()` begins as one does, and
/// may come back. Says whether that was so. Process context.
pub(crate) fn undo(targets: &Targets) -> bool {
    let was_none =
        is_claimed() && !panic::is_ending() && STATE.cmpxchg(CLAIMED, OPEN, Full).is_ok();
    if was_none {
        let_go(targets);
    }
    was_none
}

fn let_go(targets: &Targets) {
    for_each_port(targets, Port::release_claim);
}

fn for_each_port(targets: &Targets, mut f: impl FnMut(&Port)) {
    targets.for_each(|target| {
        target.with_port(&mut f);
        ControlFlow::Continue(())
    });
}
