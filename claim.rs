// SPDX-License-Identifier: GPL-2.0

//! The first word of a panic: devices are claimed while the other CPUs still run.
//!
//! A CPU that is stopped keeps what it holds, and one that sends much holds the lock of its device's
//! queue most of the time; nobody else can send by that queue then. But the other CPUs are stopped
//! only after the panic has said its first lines, and printk calls each console that is safe in
//! atomic context for them at once. So here is one that writes nothing: it has nobody begin to send
//! by the devices or to poll them, and waits a little for who is at it. `crash.rs` lets go of them
//! when the others have been stopped.
//!
//! What remains: what the panic itself has interrupted; a CPU that does not come to an end in a tenth
//! of a second; locks that a driver has beside that of its queue; and `panic_force_cpu=`, with which
//! the first lines are said by a CPU that does not panic then.
//!
//! The price is one more thread of printk's, for which each record is formatted, and which does
//! nothing with it.

use core::ops::ControlFlow;

use kernel::sync::{
    atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    Arc, //
};

use crate::{
    port::Port,
    sys::{
        claim::Patience,
        console::{
            Console,
            Write, //
        },
        panic, //
    },
    targets::Targets,
};

/// Whether there was no panic yet, the devices are claimed, or that is over: once they have been let
/// go of they are not claimed again, however late a console comes to be called.
static STATE: Atomic<u32> = Atomic::new(OPEN);
const OPEN: u32 = 0;
const CLAIMED: u32 = 1;
const OVER: u32 = 2;

/// The console that writes nothing.
pub(crate) struct Claimer(Arc<Targets>);

impl Claimer {
    /// Creates one.
    pub(crate) fn new(targets: &Arc<Targets>) -> Self {
        Self(targets.clone())
    }
}

impl Console for Claimer {
    const NAME: &'static kernel::str::CStr = c"netconx_claim";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn write(&self, write: Write<'_>) {
        if !write.is_atomic() {
            // `crash_kexec()` begins as a panic does, and may come back.
            let claimed = STATE.load(Relaxed) == CLAIMED && !panic::is_ending();
            if claimed && STATE.cmpxchg(CLAIMED, OPEN, Full).is_ok() {
                let_go(&self.0);
            }
            return;
        }
        if !panic::is_here() || STATE.cmpxchg(OPEN, CLAIMED, Full).is_err() {
            return;
        }
        panic::stop_lockdep();
        let off = write.interrupts_off();
        let mut patience = Patience::new();
        self.0.for_each(|target| {
            target.with_port(|port| port.claim(&mut patience, off));
            ControlFlow::Continue(())
        });
    }
}

/// Lets go of all that has been claimed, for good. Any context in a panic.
pub(crate) fn release(targets: &Targets) {
    if STATE.xchg(OVER, Full) == CLAIMED {
        let_go(targets);
    }
}

fn let_go(targets: &Targets) {
    targets.for_each(|target| {
        target.with_port(Port::release_claim);
        ControlFlow::Continue(())
    });
}
