// SPDX-License-Identifier: GPL-2.0

//! Frames to a driver without netpoll: in a panic, or just before.
//!
//! netpoll does not serve then. It puts a frame that the device does not take at once, with all
//! later ones, into a queue that is never emptied again, behind a lock that a stopped CPU may hold.
//! It arms work. And it refuses a device whose poll this CPU has interrupted. Here every lock is
//! tried, nothing is queued, and a frame that is not taken comes back.
//!
//! A driver's poll function waits for the locks of the device's queues, so a device is polled only
//! while all of them are free.
//!
//! A stacked device (bond, bridge, VLAN, team) hands the frame to netpoll for a device below. So it
//! is used only while all devices below would take the frame at once: their queues are free and
//! have room, and netpoll has queued nothing for them.
//!
//! A device that hands the frame to the network stack (macsec, a tunnel) waits for locks there, and
//! is not used at all: see [`may_wait`].
//!
//! Not controlled, as with netpoll: locks of a driver's own, and memory that a driver or a stacked
//! device (a bond that broadcasts, a bridge that floods) may ask for.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/netpoll.h`](srctree/include/linux/netpoll.h)

use core::ptr::NonNull;

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        rcu, //
    },
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
    skb::{
        Frame,
        Lent, //
    },
    smp,
    tx_global_lock::GlobalLock, //
};

/// The most queues of a device that are tried for one frame.
const MAX_QUEUES: usize = 16;

/// The most frames of netpoll's queue that are sent before a new one; it rarely has as many.
const MAX_DRAIN: usize = 256;

/// `poll_owner` while no CPU polls.
pub(super) const NOBODY: c_int = -1;

/// The start of `struct sk_buff` and of `struct sk_buff_head`, which the C code keeps the same.
#[repr(C)]
struct Links {
    next: *mut Links,
    prev: *mut Links,
}

/// A device whose driver allows others to keep a reference to a frame while it sends it
/// (`IFF_TX_SKB_SHARING`). Of a stacked device those below have to allow it, too; the device
/// changes the frame, but the frame is not sent again before it has been taken back.
///
/// A device may come to be below it meanwhile, of which this is not known; pktgen looks only once,
/// too, for as long as it runs.
///
/// # Invariants
///
/// The device was one of these when this was created.
pub(crate) struct Sharing<'a>(&'a NetDevice);

impl<'a> Sharing<'a> {
    /// Returns the device as one of these, if it is. Any context.
    pub(crate) fn new(dev: &'a NetDevice) -> Option<Self> {
        let (mut below, mut all) = (false, true);
        for_each_below(dev, &mut |dev| {
            below = true;
            all &= shares(dev) || is_stacked(dev);
        });
        let shares = if below { all } else { shares(dev) };
        // INVARIANT: As has just been seen.
        shares.then_some(Self(dev))
    }

    /// Returns the device as one of these, if it is one, and a driver of hardware: not stacked on
    /// others, which may do more with a frame than to send it. Any context; cheap.
    pub(crate) fn hardware(dev: &'a NetDevice) -> Option<Self> {
        let raw = dev.as_ptr();
        // SAFETY: The device is valid. Its operations are constant; the list is only compared with
        // its own address, which it has while it is empty.
        let plain = unsafe {
            let below = &raw mut (*raw).adj_list.lower;
            (*raw).rtnl_link_ops.is_null() && (&raw const (*below).next).read_volatile() == below
        };
        // INVARIANT: As has just been seen; there is none below.
        (plain && shares(dev)).then_some(Self(dev))
    }

    /// Hands a frame to the driver, which may be had back from the [`Lent`]. As [`send`].
    pub(crate) fn lend(
        self,
        frame: Frame,
        _ending: &Ending,
        _off: &LocalInterruptDisabled,
    ) -> Result<Lent, Frame> {
        let lent = frame.lend();
        // SAFETY: The reference is the driver's if it has taken it, which by the type invariants
        // does not mind that there is another one. Interrupts are off.
        if unsafe { start(self.0, lent.as_ptr()) } {
            return Ok(lent);
        }
        Err(lent.take_back())
    }
}

fn shares(dev: &NetDevice) -> bool {
    dev.private_flags() & u64::from(bindings::DEV_TX_SKB_SHARING) != 0
}

fn is_stacked(dev: &NetDevice) -> bool {
    let mut below = false;
    for_each_below(dev, &mut |_| below = true);
    below
}

/// Returns whether transmission by a device, or by one that it is made of, may wait for locks that
/// a stopped CPU may hold, because it goes by the network stack. Any context.
///
/// As a rule: the device has no queue of its own, it does not care for netpoll (as bonds, bridges,
/// VLANs, teams and macvlans do), and it either is made of other devices (macsec, ipvlan, a
/// failover device) or wants room for headers (vxlan, geneve, gretap). One that ends in itself
/// (dummy, netdevsim, tap) does not match. Two kinds show none of this: see [`is_known_to_wait`].
pub(crate) fn may_wait(dev: &NetDevice) -> bool {
    let mut waits = false;
    for_each_in_stack(dev, &mut |dev| waits |= sends_by_stack(dev));
    waits
}

/// Returns whether a device is one of Open vSwitch's own, which are tied to no other, or an L2TP
/// tunnel of Ethernet, which looks like hardware.
fn is_known_to_wait(dev: &NetDevice) -> bool {
    let open_vswitch = u64::from(bindings::DEV_OPEN_VSWITCH);
    dev.private_flags() & open_vswitch != 0 || dev.is_of_kind(c"l2tpeth")
}

fn sends_by_stack(dev: &NetDevice) -> bool {
    if is_known_to_wait(dev) {
        return true;
    }
    let raw = dev.as_ptr();
    // SAFETY: The device is valid, and has operations; these fields are set before it is
    // registered, but for the room, which C code reads so, too.
    let (cares, is_virtual, room) = unsafe {
        (
            (*(*raw).netdev_ops).ndo_netpoll_setup.is_some(),
            !(*raw).rtnl_link_ops.is_null(),
            (&raw const (*raw).needed_headroom).read_volatile(),
        )
    };
    let queueless = bindings::DEV_LLTX | u64::from(bindings::DEV_NO_QUEUE);
    !cares && dev.private_flags() & queueless != 0 && (is_stacked(dev) || is_virtual && room != 0)
}

/// Hands a frame to the driver, which frees it when it has been sent.
///
/// Any context; the frame comes back if the driver cannot take it now.
pub(crate) fn send(
    dev: &NetDevice,
    frame: Frame,
    _ending: &Ending,
    _off: &LocalInterruptDisabled,
) -> Result<(), Frame> {
    let skb = frame.into_raw();
    // SAFETY: The buffer is ours, and given away if the driver has taken it. Interrupts are off.
    if unsafe { start(dev, skb) } {
        return Ok(());
    }
    // SAFETY: It has just been one, and nobody has taken it.
    Err(unsafe { Frame::from_raw(skb) })
}

/// Changes bits that others may change at the same time; returns what they were.
pub(super) fn change(bits: &Atomic<usize>, to: impl Fn(usize) -> usize) -> usize {
    let mut old = bits.load(Relaxed);
    loop {
        match bits.cmpxchg(old, to(old), Full) {
            Ok(old) => return old,
            Err(now) => old = now,
        }
    }
}

/// Returns netpoll's state of a device; null if netpoll is not set up.
fn npinfo(dev: &NetDevice, guard: &rcu::Guard) -> *mut bindings::netpoll_info {
    // SAFETY: The device is valid; what this points to is freed after a grace period.
    unsafe { dereference(&raw mut (*dev.as_ptr()).npinfo, guard) }
}

/// Returns whether a device is being brought up or down, when netpoll does not poll it either.
pub(super) fn is_changing(dev: &NetDevice, guard: &rcu::Guard) -> bool {
    let npinfo = npinfo(dev, guard);
    // SAFETY: It is valid while the guard exists.
    !npinfo.is_null() && unsafe { (&raw const (*npinfo).dev_lock.count).read_volatile() } == 0
}

/// Returns how many frames netpoll has queued for a device.
fn waiting(dev: &NetDevice, guard: &rcu::Guard) -> u32 {
    let npinfo = npinfo(dev, guard);
    if npinfo.is_null() {
        return 0;
    }
    // SAFETY: It is valid while the guard exists.
    unsafe { (&raw const (*npinfo).txq.qlen).read_volatile() }
}

/// Sends netpoll's queues of a device and of those below it, as far as the devices take frames now:
/// no CPU will empty them later.
///
/// Any context. Does nothing except in a panic on this CPU: before that netpoll sends them.
pub(crate) fn drain(dev: &NetDevice, _ending: &Ending, _off: &LocalInterruptDisabled) {
    if !panic::is_here() {
        return;
    }
    let guard = rcu::read_lock();
    for_each_in_stack(dev, &mut |dev| {
        for _ in 0..MAX_DRAIN {
            if waiting(dev, &guard) == 0 || !dev.is_running() || !have_room(dev) {
                return;
            }
            let Some(skb) = take_waiting(dev, &guard) else {
                return;
            };
            // SAFETY: It is a buffer, of which this is a field.
            let tag = unsafe {
                skb.byte_add(bindings::SKB_VLAN_ALL_OFFSET)
                    .cast::<u32>()
                    .read()
            };
            // The tag of a VLAN would still have to be put into the frame. A frame that is not sent
            // is leaked: freeing memory may need a lock.
            if tag == 0 {
                // SAFETY: It is a frame, and ours. Interrupts are off.
                unsafe { start(dev, skb) };
            }
        }
    });
}

/// Takes the first frame of netpoll's queue for a device; [`None`] if there is none, or if the
/// queue is locked.
fn take_waiting(dev: &NetDevice, guard: &rcu::Guard) -> Option<*mut bindings::sk_buff> {
    let npinfo = npinfo(dev, guard);
    if npinfo.is_null() {
        return None;
    }
    // SAFETY: It is valid while the guard exists. The lock is tried and released; while it is held
    // the list is ours, and its links are those of buffers.
    unsafe {
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
        (first != head).then_some(first.cast())
    }
}

/// Calls `f` with a device and all those below it.
pub(super) fn for_each_in_stack(dev: &NetDevice, f: &mut dyn FnMut(&NetDevice)) {
    f(dev);
    for_each_below(dev, f);
}

/// Calls `f` with all devices below this one.
fn for_each_below(dev: &NetDevice, mut f: &mut dyn FnMut(&NetDevice)) {
    /// # Safety
    ///
    /// The device must be valid, and `private` point to a pointer to a `&mut dyn FnMut`.
    unsafe extern "C" fn call(
        dev: *mut bindings::net_device,
        private: *mut bindings::netdev_nested_priv,
    ) -> c_int {
        // SAFETY: As the caller promises.
        unsafe {
            let f = (*private).data.cast::<&mut dyn FnMut(&NetDevice)>();
            if let Some(dev) = NetDevice::from_raw(dev) {
                (*f)(dev);
            }
        }
        0
    }

    let mut private = bindings::netdev_nested_priv {
        flags: 0,
        data: (&raw mut f).cast(),
    };
    let _guard = rcu::read_lock();
    // SAFETY: The device is valid, and the RCU read lock held, which keeps the others; the function
    // is for these data.
    unsafe { bindings::netdev_walk_all_lower_dev_rcu(dev.as_ptr(), Some(call), &mut private) };
}

/// Returns the number of this CPU.
pub(super) fn cpu() -> c_int {
    c_int::try_from(smp::this_cpu()).unwrap_or(c_int::MAX)
}

/// The lock of a device's queue; released when dropped.
///
/// # Invariants
///
/// The lock is held by this CPU, and its owner told, as `__netif_tx_trylock()` does it.
pub(super) struct QueueLock(*mut bindings::netdev_queue);

impl QueueLock {
    /// Takes the lock, if it is free.
    ///
    /// # Safety
    ///
    /// The queue must be valid as long as the lock is held.
    pub(super) unsafe fn take(queue: *mut bindings::netdev_queue) -> Option<Self> {
        // SAFETY: The queue is valid, as the caller promises.
        unsafe {
            if bindings::spin_trylock((&raw mut (*queue)._xmit_lock).cast()) == 0 {
                return None;
            }
            (&raw mut (*queue).xmit_lock_owner).write_volatile(cpu());
        }
        // INVARIANT: As has just been done.
        Some(Self(queue))
    }

    /// Returns the owner of the lock.
    ///
    /// # Safety
    ///
    /// The queue must be valid.
    pub(super) unsafe fn owner(queue: *mut bindings::netdev_queue) -> c_int {
        // SAFETY: The queue is valid, as the caller promises.
        unsafe { (&raw const (*queue).xmit_lock_owner).read_volatile() }
    }

    /// Returns whether none of these bits stops the driver from taking a frame. (Byte limits do not
    /// matter now.)
    fn has_room(&self, stopped: usize) -> bool {
        // SAFETY: By the type invariants the queue is valid.
        unsafe { queue_state(self.0).load(Relaxed) & stopped == 0 }
    }
}

impl Drop for QueueLock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held.
        unsafe {
            (&raw mut (*self.0).xmit_lock_owner).write_volatile(NOBODY);
            bindings::spin_unlock((&raw mut (*self.0)._xmit_lock).cast());
        }
    }
}

/// Returns the state of a queue, some bits of which stop transmission.
///
/// # Safety
///
/// The queue must be valid for all of `'a`.
pub(super) unsafe fn queue_state<'a>(queue: *mut bindings::netdev_queue) -> &'a Atomic<usize> {
    // SAFETY: As the caller promises; C code changes it with atomic operations.
    unsafe { Atomic::from_ptr((&raw mut (*queue).state).cast()) }
}

/// Returns whether all queues of a device are unlocked, with none of these bits.
pub(super) fn are_free(dev: &NetDevice, stopped: usize) -> bool {
    queues(dev, usize::MAX).all(|queue| {
        // SAFETY: The queue is one of the device's.
        let lock = unsafe { QueueLock::take(queue) };
        lock.is_some_and(|lock| lock.has_room(stopped))
    })
}

/// Returns whether all queues of a device take frames from this CPU.
fn have_room(dev: &NetDevice) -> bool {
    let (stopped, _lock) = stopped(dev);
    are_free(dev, stopped)
}

/// The bits of a queue that takes no frames, for everybody but the CPU that panics.
const STOPPED_OR_FROZEN: usize = bindings::TXQ_STOPPED | bindings::TXQ_FROZEN;

/// Returns the bits with which a queue of the device takes no frames, valid as long as the guard
/// that comes with them.
///
/// A CPU that freezes queues holds a lock as long as that lasts (`netif_tx_lock()`). If the lock is
/// free, or kept by [`super::tx_freeze`], the queues are frozen for the CPU that panics.
fn stopped(dev: &NetDevice) -> (usize, Option<GlobalLock<'_>>) {
    if !panic::is_here() {
        return (STOPPED_OR_FROZEN, None);
    }
    if GlobalLock::is_kept(dev) {
        return (bindings::TXQ_STOPPED, None);
    }
    match GlobalLock::take(dev) {
        Some(lock) => (bindings::TXQ_STOPPED, Some(lock)),
        None => (STOPPED_OR_FROZEN, None),
    }
}

/// Freezes the TX queues of a device. Returns whether no other CPU will thaw them. Any context.
pub(super) fn freeze_queues(dev: &NetDevice, here: Here) -> bool {
    // Taken for another target, perhaps.
    if !GlobalLock::is_kept(dev) {
        if let Some(lock) = GlobalLock::take(dev) {
            lock.keep(here);
        }
    }
    for queue in queues(dev, usize::MAX) {
        // SAFETY: The queue is one of the device's.
        change(unsafe { queue_state(queue) }, |bits| {
            bits | bindings::TXQ_FROZEN
        });
    }
    GlobalLock::is_kept(dev)
}

/// Returns whether netpoll hands on at once what a stacked device gives it.
fn are_free_below(dev: &NetDevice, guard: &rcu::Guard) -> bool {
    let mut free = true;
    for_each_below(dev, &mut |dev| {
        // netpoll itself ignores whether they are frozen.
        free &= !dev.is_running() || waiting(dev, guard) == 0 && have_room(dev);
    });
    free
}

/// Returns queues of the device, from that of this CPU on, `most` at most.
pub(super) fn queues(
    dev: &NetDevice,
    most: usize,
) -> impl Iterator<Item = *mut bindings::netdev_queue> {
    let raw = dev.as_ptr();
    // SAFETY: The device is valid, and has so many queues.
    let (first, count) = unsafe {
        (
            (*raw)._tx,
            (&raw const (*raw).real_num_tx_queues).read_volatile() as usize,
        )
    };
    let from = smp::this_cpu() as usize;
    (0..count.min(most)).map(move |n| {
        // SAFETY: The number is less than that of the queues.
        unsafe { first.add((from + n) % count) }
    })
}

/// Hands a buffer to the driver by whichever queue is free. Returns whether the driver has taken
/// it.
///
/// # Safety
///
/// `skb` must be a frame of which the caller gives a reference away if this is true. Interrupts
/// must be off.
unsafe fn start(dev: &NetDevice, skb: *mut bindings::sk_buff) -> bool {
    let raw = dev.as_ptr();
    // SAFETY: The device is valid, and has these.
    let Some(start_xmit) = (unsafe { (*(*raw).netdev_ops).ndo_start_xmit }) else {
        return false;
    };
    let guard = rcu::read_lock();
    // A device that is down has no rings, and one may have been suspended.
    let is_up = dev.is_running() && dev.is_present();
    if !is_up || may_wait(dev) || !are_free_below(dev, &guard) {
        return false;
    }
    // SAFETY: The device is valid.
    let first = unsafe { (*raw)._tx };
    let (stopped, _global) = stopped(dev);
    queues(dev, MAX_QUEUES).any(|queue| {
        // SAFETY: The queue is one of the device's.
        let lock = unsafe { QueueLock::take(queue) };
        let Some(_lock) = lock.filter(|lock| lock.has_room(stopped)) else {
            return false;
        };
        // SAFETY: While the lock is held the driver may be called. The buffer is a frame, of which
        // these are fields.
        unsafe {
            skb.byte_add(bindings::SKB_DEV_OFFSET)
                .cast::<*mut bindings::net_device>()
                .write(raw);
            let number = queue.offset_from(first) as u16;
            skb.byte_add(bindings::SKB_QUEUE_MAPPING_OFFSET)
                .cast::<u16>()
                .write(number);
            no_more_follow();
            let status = start_xmit(skb, raw);
            if status == bindings::netdev_tx_NETDEV_TX_OK {
                update_trans_start(dev, queue);
            }
            is_complete(status)
        }
    })
}

/// Returns whether a driver has consumed the buffer when its `ndo_start_xmit` returns `status`
/// (`dev_xmit_complete()`): it has sent it, has failed to (a negative errno: macsec, bnxt's
/// representors), or has had it queued to another device. Only `NETDEV_TX_BUSY` gives it back.
fn is_complete(status: c_int) -> bool {
    status < bindings::XMIT_MASK as c_int
}

/// Tells the watchdog of the device that a queue works (`txq_trans_update()`): the machine may live
/// on.
///
/// # Safety
///
/// The queue must be one of the device's, with its lock held.
unsafe fn update_trans_start(dev: &NetDevice, queue: *mut bindings::netdev_queue) {
    // A device without locks of its queues has no watchdog either.
    if dev.private_flags() & bindings::DEV_LLTX != 0 {
        return;
    }
    // SAFETY: `jiffies` is there for ever. The queue is valid, as the caller promises; others read
    // the field without the lock, as a whole.
    unsafe {
        let now = (&raw const bindings::jiffies).read_volatile();
        (&raw mut (*queue).trans_start).write_volatile(now);
    }
}

/// Tells the driver that no frame follows at once, so that it tells the device of this one
/// (`netdev_xmit_set_more()`): the panic may have interrupted a sender that had said the opposite.
fn no_more_follow() {
    extern "C" {
        /// `struct softnet_data`, for each CPU.
        static mut softnet_data: c_void;
    }
    // SAFETY: This CPU's copy is there for ever, and this is a boolean of it that only this CPU
    // uses.
    unsafe {
        // No reference: what is at this address is a template that no CPU uses.
        let ours = smp::per_cpu(NonNull::new_unchecked(&raw mut softnet_data));
        let more = ours.as_ptr().byte_add(bindings::SOFTNET_XMIT_MORE_OFFSET);
        more.cast::<bool>().write_volatile(false);
    }
}

#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
#[kernel::macros::kunit_tests(netconsole_ext_xmit)]
mod tests {
    use kernel::{
        prelude::*,
        str::CStrExt, //
    };

    use super::*;

    #[test]
    fn devices_that_show_nothing() -> Result {
        let mut dev = KBox::<bindings::net_device>::new_uninit(GFP_KERNEL)?;
        let mut kind = KBox::<kernel::bindings::device_type>::new_uninit(GFP_KERNEL)?;
        let (dev, kind) = (dev.as_mut_ptr(), kind.as_mut_ptr());
        // SAFETY: Both are there until the end of the test, and zeroes are valid values of them.
        // Only the kind and the flags are looked at.
        unsafe {
            dev.write_bytes(0, 1);
            kind.write_bytes(0, 1);
            (*dev).dev.type_ = kind;
            let flags = dev.byte_add(bindings::NET_DEVICE_PRIV_FLAGS_OFFSET);
            for (name, flag, expected) in [
                (c"l2tpeth", 0, true),
                (c"vlan", bindings::DEV_NO_QUEUE, false),
                (c"", bindings::DEV_OPEN_VSWITCH, true),
            ] {
                (*kind).name = name.as_char_ptr();
                flags.cast::<u64>().write(flag.into());
                let found = NetDevice::from_raw(dev).map(is_known_to_wait);
                assert_eq!(found, Some(expected));
            }
        }
        Ok(())
    }

    #[test]
    fn who_has_the_buffer_after_a_transmission() {
        const BUSY: c_int = bindings::netdev_tx_NETDEV_TX_BUSY;
        for (status, complete) in [
            (bindings::netdev_tx_NETDEV_TX_OK, true),
            // `NET_XMIT_DROP`, `NET_XMIT_CN`
            (1, true),
            (2, true),
            (-22, true),
            (-12, true),
            (c_int::MIN, true),
            (BUSY, false),
        ] {
            assert_eq!(is_complete(status), complete);
        }
    }
}
