// SPDX-License-Identifier: GPL-2.0

//! Handing frames to a driver when nothing else works: in a panic, or just before.
//!
//! netpoll does not do then. It puts a frame that the device does not take at once behind a lock
//! that a stopped CPU may hold, into a queue that nobody empties any more, with all later ones; it
//! arms work; and it refuses a device that this CPU has interrupted the poll of. Here every lock is
//! tried, nothing is queued, and what is not taken comes back.
//!
//! A device made of others (bond, bridge, VLAN, team) hands the frame on by netpoll itself, to the
//! device below, so that for those netpoll's ways remain.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/netpoll.h`](srctree/include/linux/netpoll.h)

use core::ptr::NonNull;

use kernel::{
    container_of,
    ffi::{
        c_int,
        c_void, //
    },
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

use super::{
    bindings,
    netdev::NetDevice,
    skb::{
        Frame,
        Lent, //
    },
    smp, //
};

/// The most queues of a device that are tried for one frame.
const MAX_QUEUES: usize = 16;

/// What `poll_owner` is while nobody polls.
const NOBODY: c_int = -1;

/// The start of `struct sk_buff` and of `struct sk_buff_head`, which the C code keeps the same.
#[repr(C)]
struct Links {
    next: *mut Links,
    prev: *mut Links,
}

/// Whether the device's driver leaves a frame as it is, so that it may be sent more than once
/// (`IFF_TX_SKB_SHARING`). Any context.
pub(crate) fn may_lend(dev: &NetDevice) -> bool {
    // SAFETY: The device is valid. The flags are the first 32 bits of this word.
    let flags = unsafe {
        let group = dev
            .as_ptr()
            .byte_add(bindings::NET_DEVICE_PRIV_FLAGS_OFFSET);
        group.cast::<u32>().read_volatile()
    };
    flags & bindings::DEV_TX_SKB_SHARING != 0
}

/// Hands a frame to the driver, which frees it when it has been sent.
///
/// Any context in a panic; the frame comes back if the driver cannot take it now.
pub(crate) fn send(
    dev: &NetDevice,
    frame: Frame,
    _off: &LocalInterruptDisabled,
) -> Result<(), Frame> {
    let skb = frame.into_raw();
    // SAFETY: The buffer is ours, and given away if the driver has taken it.
    if unsafe { start(dev, skb) } {
        return Ok(());
    }
    // SAFETY: It has just been one, and nobody has taken it.
    Err(unsafe { Frame::from_raw(skb) })
}

/// Hands a frame to the driver of a device that [`may_lend`] is true of: it can be had back.
///
/// As [`send`].
pub(crate) fn lend(
    dev: &NetDevice,
    frame: Frame,
    _off: &LocalInterruptDisabled,
) -> Result<Lent, Frame> {
    let lent = frame.lend();
    // SAFETY: The reference is the driver's if it has taken it.
    if unsafe { start(dev, lent.as_ptr()) } {
        return Ok(lent);
    }
    Err(lent.take_back())
}

/// Has the driver free what it has sent, by polling the device as netpoll does: not if this CPU
/// was interrupted while it sent by the device, nor a part of it that is being polled, maybe by a
/// CPU that has been stopped.
///
/// Any context in a panic.
pub(crate) fn poll(dev: &NetDevice, _off: &LocalInterruptDisabled) {
    let _guard = rcu::read_lock();
    let (raw, cpu) = (dev.as_ptr(), smp::this_cpu());
    let owner = c_int::try_from(cpu).unwrap_or(c_int::MAX);
    let sending = queues(dev).any(|queue| {
        // SAFETY: The queue is one of the device's.
        let owner_of = unsafe { (&raw const (*queue).xmit_lock_owner).read_volatile() };
        owner_of == owner
    });
    if sending {
        return;
    }
    // SAFETY: The device is valid, and with it its list; entries of it are freed after a grace
    // period, and until then their `next` leads on.
    unsafe {
        let head = &raw mut (*raw).napi_list;
        let mut entry = (&raw const (*head).next).read_volatile();
        while entry != head {
            let napi = container_of!(entry, bindings::napi_struct, dev_list);
            poll_one(napi, owner);
            entry = (&raw const (*entry).next).read_volatile();
        }
    }
}

/// # Safety
///
/// `napi` must be of a device that is up, and this CPU be number `cpu`.
unsafe fn poll_one(napi: *mut bindings::napi_struct, cpu: c_int) {
    // SAFETY: It is valid, as the caller promises; C code changes both with atomic operations.
    let (owner, state) = unsafe {
        (
            Atomic::<i32>::from_ptr(&raw mut (*napi).poll_owner),
            Atomic::<usize>::from_ptr((&raw mut (*napi).state).cast()),
        )
    };
    if owner.cmpxchg(NOBODY, cpu, Full).is_err() {
        return;
    }
    // Set: it is disabled.
    if change(state, |bits| bits | bindings::NAPI_NPSVC) & bindings::NAPI_NPSVC == 0 {
        // SAFETY: It is valid, and we are its owner. With a budget of 0 it only cleans up.
        unsafe {
            if let Some(poll) = (*napi).poll {
                poll(napi, 0);
            }
        }
        change(state, |bits| bits & !bindings::NAPI_NPSVC);
    }
    owner.store(NOBODY, Release);
}

/// Changes bits that others may change at the same time; gives back what they were.
fn change(bits: &Atomic<usize>, to: impl Fn(usize) -> usize) -> usize {
    let mut old = bits.load(Relaxed);
    loop {
        match bits.cmpxchg(old, to(old), Full) {
            Ok(old) => return old,
            Err(now) => old = now,
        }
    }
}

/// The first frame that netpoll has put aside for the device, taken from it; [`None`] if there is
/// none, or if somebody who has been stopped holds that queue.
///
/// Any context in a panic.
pub(crate) fn take_queued(dev: &NetDevice) -> Option<Frame> {
    let _guard = rcu::read_lock();
    // SAFETY: The device is valid; its `npinfo` is freed after a grace period. The lock is tried
    // and released; while it is held the list is ours, and its links are those of buffers.
    unsafe {
        let npinfo = (&raw const (*dev.as_ptr()).npinfo).read_volatile();
        if npinfo.is_null() || (*npinfo).txq.qlen == 0 {
            return None;
        }
        let queue = &raw mut (*npinfo).txq;
        let lock = &raw mut (*queue).lock;
        if bindings::spin_trylock(lock.cast()) == 0 {
            return None;
        }
        let head = queue.cast::<Links>();
        let first = (*head).next;
        if first != head {
            let next = (*first).next;
            (*head).next = next;
            (*next).prev = head;
            (*queue).qlen -= 1;
            (*first).next = core::ptr::null_mut();
            (*first).prev = core::ptr::null_mut();
        }
        bindings::spin_unlock(lock.cast());
        (first != head).then(|| Frame::from_raw(first.cast()))
    }
}

/// The queues of the device, from that of this CPU on.
fn queues(dev: &NetDevice) -> impl Iterator<Item = *mut bindings::netdev_queue> {
    let raw = dev.as_ptr();
    // SAFETY: The device is valid, and has so many queues.
    let (first, count) = unsafe {
        (
            (*raw)._tx,
            (&raw const (*raw).real_num_tx_queues).read_volatile() as usize,
        )
    };
    let from = smp::this_cpu() as usize;
    (0..count.min(MAX_QUEUES)).map(move |n| {
        // SAFETY: The number is less than that of the queues.
        unsafe { first.add((from + n) % count) }
    })
}

/// Has the driver send a buffer by whichever queue is free; whether it has taken it.
///
/// # Safety
///
/// `skb` must be a frame of which the caller gives a reference away if this is true.
unsafe fn start(dev: &NetDevice, skb: *mut bindings::sk_buff) -> bool {
    let raw = dev.as_ptr();
    // SAFETY: The device is valid, and has these.
    let Some(start_xmit) = (unsafe { (*(*raw).netdev_ops).ndo_start_xmit }) else {
        return false;
    };
    let _guard = rcu::read_lock();
    // SAFETY: The device is valid.
    let first = unsafe { (*raw)._tx };
    for queue in queues(dev) {
        // SAFETY: The queue is one of the device's. Its lock is tried and released, with its owner
        // told as `__netif_tx_trylock()` does; while it is held the driver may be called. The
        // buffer is a frame, of which these are fields.
        let taken = unsafe {
            let lock = &raw mut (*queue)._xmit_lock;
            if bindings::spin_trylock(lock.cast()) == 0 {
                continue;
            }
            let owner = &raw mut (*queue).xmit_lock_owner;
            owner.write_volatile(c_int::try_from(smp::this_cpu()).unwrap_or(c_int::MAX));
            let state = (&raw const (*queue).state).read_volatile();
            let taken = state & bindings::TXQ_STOPPED == 0 && {
                (*skb)
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .dev = raw.cast();
                let number = queue.offset_from(first) as u16;
                skb.byte_add(bindings::SKB_QUEUE_MAPPING_OFFSET)
                    .cast::<u16>()
                    .write(number);
                no_more_follow();
                // `dev_xmit_complete()`
                (start_xmit(skb, raw) as u32) < bindings::XMIT_MASK
            };
            owner.write_volatile(NOBODY);
            bindings::spin_unlock(lock.cast());
            taken
        };
        if taken {
            return true;
        }
    }
    false
}

/// Says to the driver that no frame follows at once, so that it tells the device of this one
/// (`netdev_xmit_set_more()`): the panic may have interrupted one who had said the opposite.
fn no_more_follow() {
    extern "C" {
        /// `struct softnet_data`, for each CPU.
        static softnet_data: c_void;
    }
    // SAFETY: This CPU's copy is there for ever, and this is a boolean of it that only this CPU
    // uses.
    unsafe {
        let ours = smp::per_cpu(NonNull::from(&softnet_data));
        let more = ours.as_ptr().byte_add(bindings::SOFTNET_XMIT_MORE_OFFSET);
        more.cast::<bool>().write_volatile(false);
    }
}
