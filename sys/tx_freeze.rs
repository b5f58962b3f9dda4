// SPDX-License-Identifier: GPL-2.0

//! Freezing the TX queues of a device in a panic, before the other CPUs are stopped, so that
//! [`super::xmit`] can use them afterwards.
//!
//! A frozen queue keeps others from the driver, as `netif_tx_lock()` does: a CPU that takes the
//! queue's lock leaves the driver alone and drops the lock. Holding the lock would not do: a CPU
//! that is stopped while it waits for the lock has its place in the line for good, and nobody can
//! take the lock after that. `tx_global_lock` is held as long as the queues are frozen, or else the
//! next CPU that is done with it (the watchdog, a driver) would thaw them.
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
    napi::{
        for_each_napi,
        owner_and_state,
        OWNED, //
    },
    netdev::NetDevice,
    panic::{
        Here,
        Panic, //
    },
    tx_global_lock::GlobalLock,
    xmit::{
        change,
        cpu,
        for_each_in_stack,
        freeze_queues,
        queue_state,
        queues,
        QueueLock,
        NOBODY, //
    },
};

/// How often a CPU that uses a device is waited for, and how long each time: a tenth of a second in
/// all. A CPU that has not left it in that time has its interrupts off, or is an emulated one that
/// has to wait for its turn.
const TRIES: u32 = 10_000;
const PAUSE: Delta = Delta::from_micros(10);

/// The time that is left for all devices together.
pub(crate) struct Patience(u32);

impl Patience {
    /// All of it.
    pub(crate) fn new() -> Self {
        Self(TRIES)
    }

    /// Tries something until it is done, as long as there is any left. Returns whether it is done.
    fn wait(&mut self, mut try_it: impl FnMut() -> bool) -> bool {
        while !try_it() {
            if self.0 == 0 {
                return false;
            }
            self.0 -= 1;
            udelay(PAUSE);
        }
        true
    }
}

/// Freezes the TX queues and takes NAPI ownership of `dev` and its lower devices, best effort.
/// Returns whether nobody uses the devices now: no CPU has been waited for in vain, and the panic
/// has not interrupted the driver, as far as the locks of its queues and its NAPI instances tell.
///
/// netpoll ignores the former; it has interrupts off while it sends, and is not stopped in the
/// midst of it.
///
/// Any context, while the other CPUs run.
pub(crate) fn freeze(
    dev: &NetDevice,
    patience: &mut Patience,
    here: Here,
    _off: &LocalInterruptDisabled,
) -> bool {
    let guard = rcu::read_lock();
    let mut unused = true;
    for_each_in_stack(dev, &mut |dev| {
        unused &= patience.wait(|| freeze_queues(dev, here));
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's.
            unused &= unsafe { wait_for_queue(queue, patience) };
        }
        for_each_napi(dev, &guard, |napi, cpu| {
            // SAFETY: It is valid.
            unused &= patience.wait(|| unsafe { take_napi(napi, cpu) });
            // SAFETY: It is valid.
            unused &= unsafe { napi_owner(napi) } != cpu;
        });
    });
    unused
}

/// Returns whether nobody uses `dev` and its lower devices, after waiting for other CPUs as
/// [`freeze`] does, but without freezing anything: they may use them again.
///
/// Any context on a CPU that does not go on with what it was doing, as after an oops.
pub(crate) fn is_unused(
    dev: &NetDevice,
    patience: &mut Patience,
    _off: &LocalInterruptDisabled,
) -> bool {
    let guard = rcu::read_lock();
    let mut unused = true;
    for_each_in_stack(dev, &mut |dev| {
        unused &= patience.wait(|| GlobalLock::is_kept(dev) || GlobalLock::take(dev).is_some());
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's.
            unused &= unsafe { wait_for_queue(queue, patience) };
        }
        for_each_napi(dev, &guard, |napi, cpu| {
            // SAFETY: It is valid.
            let owner = || unsafe { napi_owner(napi) };
            unused &= patience.wait(|| [NOBODY, OWNED, cpu].contains(&owner())) && owner() != cpu;
        });
    });
    unused
}

/// Waits until no other CPU is in the driver with a queue. Returns whether this one is not either.
///
/// # Safety
///
/// The queue must be valid.
unsafe fn wait_for_queue(queue: *mut bindings::netdev_queue, patience: &mut Patience) -> bool {
    // SAFETY: The queue is valid, as the caller promises.
    unsafe { patience.wait(|| is_left(queue)) && QueueLock::owner(queue) != cpu() }
}

/// Returns the CPU that polls a NAPI instance.
///
/// # Safety
///
/// It must be valid.
unsafe fn napi_owner(napi: *mut bindings::napi_struct) -> c_int {
    // SAFETY: It is valid, as the caller promises.
    let (owner, _) = unsafe { owner_and_state(napi) };
    owner.load(Relaxed)
}

/// Returns whether no other CPU is in the driver with a queue. The CPU of the panic may be: that is
/// what the panic has interrupted.
///
/// # Safety
///
/// The queue must be valid.
unsafe fn is_left(queue: *mut bindings::netdev_queue) -> bool {
    // SAFETY: The queue is valid, as the caller promises.
    unsafe { QueueLock::take(queue).is_some() || QueueLock::owner(queue) == cpu() }
}

/// Takes ownership of a NAPI instance. Returns whether nobody else will poll it.
///
/// # Safety
///
/// It must be valid, and this be CPU number `cpu`.
unsafe fn take_napi(napi: *mut bindings::napi_struct, cpu: c_int) -> bool {
    // SAFETY: It is valid, as the caller promises.
    let (owner, _) = unsafe { owner_and_state(napi) };
    match owner.cmpxchg(NOBODY, OWNED, Full) {
        Ok(_) => true,
        // Taken for another target, or by what the panic has interrupted.
        Err(other) => other == OWNED || other == cpu,
    }
}

/// Thaws the TX queues of `dev` and its lower devices, and gives up NAPI ownership.
///
/// Any context.
pub(crate) fn thaw(dev: &NetDevice, panic: &Panic) {
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        thaw_queues(dev, panic.here());
        for_each_napi(dev, &guard, |napi, _| {
            // SAFETY: It is valid.
            let (owner, _) = unsafe { owner_and_state(napi) };
            let _ = owner.cmpxchg(OWNED, NOBODY, Full);
        });
    });
}

/// Thaws the queues of a device, unless another CPU keeps them frozen: that one uses the driver,
/// and if it has been stopped, for good.
///
/// Unlike `netif_unfreeze_queues()` this schedules no queue: the machine is at its end, no qdisc
/// will run any more, and to wake the softirq's thread takes locks that a stopped CPU may hold.
fn thaw_queues(dev: &NetDevice, here: Here) {
    let lock = GlobalLock::take_kept(dev, here).or_else(|| GlobalLock::take(dev));
    let Some(_lock) = lock else {
        return;
    };
    for queue in queues(dev, usize::MAX) {
        // SAFETY: The queue is one of the device's.
        change(unsafe { queue_state(queue) }, |bits| {
            bits & !bindings::TXQ_FROZEN
        });
    }
}
