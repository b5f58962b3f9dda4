// SPDX-License-Identifier: GPL-2.0

//! Claiming a device in a panic, before the other CPUs are stopped, for [`super::xmit`] to have it
//! afterwards.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/netpoll.h`](srctree/include/linux/netpoll.h)

use kernel::{
    ffi::c_int,
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::{
            Full,
            Relaxed, //
        },
        rcu, //
    },
    time::{
        delay::udelay,
        Delta, //
    },
};

use super::{
    bindings,
    netdev::NetDevice,
    xmit::{
        for_each_in_stack,
        for_each_napi,
        forget_poll,
        owner_and_state,
        queues,
        QueueLock,
        NOBODY, //
    },
};

/// What the owner of a queue's lock is while it is claimed: no CPU.
const CLAIMED: c_int = c_int::MAX;

/// How long the locks are waited for, in steps: a tenth of a second in all. A CPU that does not let
/// go of one in that time has its interrupts off, or is an emulated one that has to wait for its turn.
const TRIES: u32 = 10_000;
const PAUSE: Delta = Delta::from_micros(10);

/// What is left of the time for all that is to be claimed.
pub(crate) struct Patience(u32);

impl Patience {
    /// All of it.
    pub(crate) fn new() -> Self {
        Self(TRIES)
    }

    /// Tries something until it is done, as long as there is any left.
    fn wait(&mut self, mut try_it: impl FnMut() -> bool) {
        while !try_it() && self.0 > 0 {
            self.0 -= 1;
            udelay(PAUSE);
        }
    }
}

/// Takes the locks of the queues of a device and of those below it, and has nobody else poll them,
/// as far as that can be had.
///
/// Any context in a panic on this CPU, while the others run.
pub(crate) fn claim(dev: &NetDevice, patience: &mut Patience, _off: &LocalInterruptDisabled) {
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        // In this order: one who polls may wait for a queue.
        for_each_napi(dev, &guard, |napi, cpu| {
            // SAFETY: It is valid, and this is that CPU.
            patience.wait(|| unsafe { claim_napi(napi, cpu) });
        });
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's.
            patience.wait(|| unsafe { claim_queue(queue) });
        }
    });
}

/// Whether a queue has been claimed, or there is no point in waiting for it.
///
/// # Safety
///
/// The queue must be valid.
unsafe fn claim_queue(queue: *mut bindings::netdev_queue) -> bool {
    // SAFETY: The queue is valid, as the caller promises.
    if let Some(lock) = unsafe { QueueLock::take(queue) } {
        lock.leave_to(CLAIMED);
        return true;
    }
    // SAFETY: As above.
    let owner = unsafe { QueueLock::owner(queue) };
    // It may be for another target, or what the panic has interrupted.
    owner == CLAIMED || owner == super::xmit::cpu()
}

/// Whether a NAPI instance has been claimed, or is disabled.
///
/// # Safety
///
/// It must be valid, and this be CPU number `cpu`, with interrupts off.
unsafe fn claim_napi(napi: *mut bindings::napi_struct, cpu: c_int) -> bool {
    // SAFETY: It is valid, as the caller promises.
    let (owner, state) = unsafe { owner_and_state(napi) };
    state.load(Relaxed) & bindings::NAPI_NPSVC != 0
        || owner.load(Relaxed) == cpu
        || owner.cmpxchg(NOBODY, cpu, Full).is_ok()
}

/// Lets go of what was claimed.
///
/// Any context in a panic on this CPU.
pub(crate) fn release(dev: &NetDevice) {
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's, and the lock was left to nobody else.
            unsafe {
                if QueueLock::owner(queue) == CLAIMED {
                    drop(QueueLock::had(queue));
                }
            }
        }
        // SAFETY: They are valid, and this CPU does not go on with what it was doing.
        for_each_napi(dev, &guard, |napi, cpu| unsafe { forget_poll(napi, cpu) });
    });
}
