// SPDX-License-Identifier: GPL-2.0

//! The first word of a panic: devices are claimed while the other CPUs still run.
//!
//! A CPU that is stopped keeps what it holds, and one that sends much holds the lock of its device's
//! queue most of the time; nobody else can send by that queue then. But the other CPUs are stopped
//! only after the panic has said its first lines, and printk calls each console that is safe in
//! atomic context for them at once. So here is one that writes nothing: it takes the locks of the
//! devices' queues, and has nobody poll the devices, for which it need not wait for long while
//! everybody runs. `crash.rs` lets go of them when the others have been stopped, and cannot have
//! them any more.
//!
//! The price is one more thread of printk's, which gets each record and does nothing with it.

use core::ops::ControlFlow;

use kernel::sync::{
    atomic::{
        Atomic,
        Full, //
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

/// The console that writes nothing.
pub(crate) struct Claimer {
    targets: Arc<Targets>,
    done: Atomic<bool>,
}

impl Claimer {
    /// Creates one.
    pub(crate) fn new(targets: &Arc<Targets>) -> Self {
        Self {
            targets: targets.clone(),
            done: Atomic::new(false),
        }
    }
}

impl Console for Claimer {
    const NAME: &'static kernel::str::CStr = c"netconx_claim";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn write(&self, write: Write<'_>) {
        if !write.is_atomic() || !panic::is_here() || self.done.xchg(true, Full) {
            return;
        }
        panic::stop_lockdep();
        let off = write.interrupts_off();
        let mut patience = Patience::new();
        self.targets.for_each(|target| {
            target.with_port(|port| port.claim(&mut patience, off));
            ControlFlow::Continue(())
        });
    }
}

/// Lets go of all that has been claimed, when nobody else can have it any more. Any context in a
/// panic.
pub(crate) fn release(targets: &Targets) {
    targets.for_each(|target| {
        target.with_port(Port::release_claim);
        ControlFlow::Continue(())
    });
}
