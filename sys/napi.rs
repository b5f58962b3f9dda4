// SPDX-License-Identifier: GPL-2.0

//! NAPI instances: polling a device without netpoll, in a panic or just before.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use kernel::{
    container_of,
    ffi::c_int,
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu, //
    },
};

#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
use super::xmit::{
    queues,
    QueueLock, //
};
use super::{
    bindings,
    netdev::NetDevice,
    panic::{
        self,
        Ending,
        Here, //
    },
    rcu::dereference,
    tx_global_lock::GlobalLock,
    xmit::{
        are_free,
        change,
        cpu,
        for_each_in_stack,
        freeze_queues,
        is_changing,
        NOBODY, //
    }, //
};

/// `poll_owner` while the device is frozen in a panic: no CPU, so that only this module polls.
pub(super) const OWNED: c_int = c_int::MAX;

/// Makes the drivers of a device and of those below it clean up what they have sent, as netpoll
/// does. Only devices whose queues are all free, and that are not being brought up or down.
///
/// In a panic this CPU never goes on with what it was doing, so a poll that it has interrupted is
/// over.
///
/// Any context.
pub(crate) fn poll(dev: &NetDevice, _ending: &Ending, _off: &LocalInterruptDisabled) {
    let guard = rcu::read_lock();
    let here = Here::now();
    for_each_in_stack(dev, &mut |dev| {
        if here.is_some() {
            // SAFETY: They are valid, and this CPU does not go on with what it was doing.
            for_each_napi(dev, &guard, |napi, cpu| unsafe { forget_poll(napi, cpu) });
        }
        if dev.is_running() && !is_changing(dev, &guard) && are_free(dev, 0) {
            // A poll function may freeze the queues itself.
            let kept = here.filter(|&here| GlobalLock::take_kept(dev, here).is_some());
            // SAFETY: They are of a device that is up.
            for_each_napi(dev, &guard, |napi, cpu| unsafe { poll_one(napi, cpu) });
            if let Some(here) = kept {
                freeze_queues(dev, here);
            }
        }
    });
}

/// Calls `f` with each NAPI instance of a device, and the number of this CPU.
pub(super) fn for_each_napi(
    dev: &NetDevice,
    guard: &rcu::Guard,
    mut f: impl FnMut(*mut bindings::napi_struct, c_int),
) {
    let cpu = cpu();
    // SAFETY: The device is valid, and with it its list; entries of it are freed after a grace
    // period, and until then their `next` leads on.
    unsafe {
        let head = &raw mut (*dev.as_ptr()).napi_list;
        let mut entry = dereference(&raw mut (*head).next, guard);
        while entry != head {
            f(container_of!(entry, bindings::napi_struct, dev_list), cpu);
            entry = dereference(&raw mut (*entry).next, guard);
        }
    }
}

/// Takes over the poll that this CPU has interrupted: from then on only this module polls.
///
/// # Safety
///
/// `napi` must be valid. This must be CPU number `cpu`, and not go on with what it was doing.
unsafe fn forget_poll(napi: *mut bindings::napi_struct, cpu: c_int) {
    // SAFETY: It is valid, as the caller promises.
    let (owner, state) = unsafe { owner_and_state(napi) };
    if owner.load(Relaxed) == cpu {
        // netpoll may have been polling.
        change(state, |bits| bits & !bindings::NAPI_NPSVC);
        // Other CPUs may still run.
        owner.store(OWNED, Release);
    }
}

/// Polls, unless another CPU does.
///
/// # Safety
///
/// `napi` must be of a device that is up, and this be CPU number `cpu`, with interrupts off.
unsafe fn poll_one(napi: *mut bindings::napi_struct, cpu: c_int) {
    // SAFETY: It is valid, as the caller promises.
    let (owner, state) = unsafe { owner_and_state(napi) };
    let before = owner.load(Relaxed);
    let free = before == NOBODY || before == OWNED && panic::is_here();
    if !free || owner.cmpxchg(before, cpu, Full).is_err() {
        return;
    }
    // If the bit was set, it is disabled.
    if change(state, |bits| bits | bindings::NAPI_NPSVC) & bindings::NAPI_NPSVC == 0 {
        // SAFETY: It is valid, and we are its owner. With a budget of 0 it only cleans up.
        unsafe {
            if let Some(poll) = (*napi).poll {
                poll(napi, 0);
            }
        }
        change(state, |bits| bits & !bindings::NAPI_NPSVC);
    }
    owner.store(before, Release);
}

/// Returns the CPU that polls a NAPI instance, and the instance's state.
///
/// # Safety
///
/// It must be valid for all of `'a`.
pub(super) unsafe fn owner_and_state<'a>(
    napi: *mut bindings::napi_struct,
) -> (&'a Atomic<i32>, &'a Atomic<usize>) {
    // SAFETY: As the caller promises; C code changes both with atomic operations.
    unsafe {
        (
            Atomic::from_ptr(&raw mut (*napi).poll_owner),
            Atomic::from_ptr((&raw mut (*napi).state).cast()),
        )
    }
}

/// Calls `f`, which does not return, as if from the driver of a device on this CPU: while it polls,
/// or while it transmits by all queues. For tests.
#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
pub(crate) fn inside_the_driver(dev: &NetDevice, polls: bool, f: impl FnOnce()) {
    let guard = rcu::read_lock();
    let _off = kernel::interrupt::local_interrupt_disable();
    if polls {
        for_each_napi(dev, &guard, |napi, cpu| {
            // SAFETY: It is valid.
            let (owner, _) = unsafe { owner_and_state(napi) };
            let _ = owner.cmpxchg(NOBODY, cpu, Full);
        });
    } else {
        for queue in queues(dev, usize::MAX) {
            // SAFETY: The queue is one of the device's.
            core::mem::forget(unsafe { QueueLock::take(queue) });
        }
    }
    f();
}
