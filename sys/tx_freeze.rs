// SPDX-License-Identifier: GPL-2.0

//! Claiming a device in a panic, before the other CPUs are stopped, for [`super::xmit`] to have it
//! afterwards.
//!
//! The queues are frozen, which is how `netif_tx_lock()` keeps others from the driver: whoever
//! holds a queue's lock leaves it alone and lets go. It is not by holding the lock: one who waits
//! for it when it is stopped has a place in its line for good, and nobody can take it after that.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/netpoll.h`](srctree/include/linux/netpoll.h)

use kernel::{
    ffi::c_int,
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::Full,
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
        change,
        cpu,
        for_each_in_stack,
        for_each_napi,
        owner_and_state,
        queue_state,
        queues,
        GlobalLock,
        QueueLock,
        CLAIMED,
        NOBODY, //
    },
};

/// How long those are waited for who are at a device, in steps: a tenth of a second in all. A CPU
/// that has not left it in that time has its interrupts off, or is an emulated one that has to wait
/// for its turn.
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

/// Has nobody send by the queues of a device and of those below it, nor poll them, as far as that
/// can be had. netpoll does not care for the former; it has interrupts off while it sends, and is
/// not stopped in the midst of it.
///
/// Any context in a panic on this CPU, while the others run.
pub(crate) fn claim(dev: &NetDevice, patience: &mut Patience, _off: &LocalInterruptDisabled) {
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's.
            change(unsafe { queue_state(queue) }, |bits| {
                bits | bindings::TXQ_FROZEN
            });
        }
        for queue in queues(dev, usize::MAX) {
            // SAFETY: As above.
            patience.wait(|| unsafe { is_left(queue) });
        }
        for_each_napi(dev, &guard, |napi, cpu| {
            // SAFETY: It is valid.
            patience.wait(|| unsafe { claim_napi(napi, cpu) });
        });
    });
}

/// Whether nobody is in the driver with a queue, or it is what the panic has interrupted.
///
/// # Safety
///
/// The queue must be valid.
unsafe fn is_left(queue: *mut bindings::netdev_queue) -> bool {
    // SAFETY: The queue is valid, as the caller promises.
    unsafe { QueueLock::take(queue).is_some() || QueueLock::owner(queue) == cpu() }
}

/// Whether nobody else will poll a NAPI instance.
///
/// # Safety
///
/// It must be valid, and this be CPU number `cpu`.
unsafe fn claim_napi(napi: *mut bindings::napi_struct, cpu: c_int) -> bool {
    // SAFETY: It is valid, as the caller promises.
    let (owner, _) = unsafe { owner_and_state(napi) };
    match owner.cmpxchg(NOBODY, CLAIMED, Full) {
        Ok(_) => true,
        // For another target, or what the panic has interrupted.
        Err(other) => other == CLAIMED || other == cpu,
    }
}

/// Lets go of what was claimed.
///
/// Any context.
pub(crate) fn release(dev: &NetDevice) {
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        thaw(dev);
        for_each_napi(dev, &guard, |napi, _| {
            // SAFETY: It is valid.
            let (owner, _) = unsafe { owner_and_state(napi) };
            let _ = owner.cmpxchg(CLAIMED, NOBODY, Full);
        });
    });
}

/// Has the queues of a device no longer frozen, unless another CPU is holding them so: that has the
/// driver in its hands, and if it has been stopped, for good.
fn thaw(dev: &NetDevice) {
    let Some(_lock) = GlobalLock::take(dev) else {
        return;
    };
    for queue in queues(dev, usize::MAX) {
        // SAFETY: The queue is one of the device's.
        change(unsafe { queue_state(queue) }, |bits| {
            bits & !bindings::TXQ_FROZEN
        });
    }
}
