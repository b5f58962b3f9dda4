// SPDX-License-Identifier: GPL-2.0

//! The lock of a device that is held while its TX queues are frozen (`tx_global_lock`), as
//! `netif_tx_lock()` holds it.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

use super::{
    bindings,
    netdev::NetDevice,
    panic::Here, //
};

/// The most devices of which the lock can be kept; of a stack each counts.
const MAX_KEPT: usize = 32;

/// The devices of which the lock is kept, by their address; 0 for none.
static KEPT: [Atomic<usize>; MAX_KEPT] = [const { Atomic::new(0) }; MAX_KEPT];

/// The lock; released when dropped.
///
/// # Invariants
///
/// The lock is held by this CPU.
///
/// # Examples
///
/// ```ignore
/// // The panic's first line: nobody thaws the queues that are frozen now ...
/// if let Some(lock) = GlobalLock::take(dev) {
///     lock.keep(here);
/// }
/// // ... until the other CPUs are stopped.
/// drop(GlobalLock::take_kept(dev, here));
/// ```
pub(super) struct GlobalLock<'a>(&'a NetDevice);

impl<'a> GlobalLock<'a> {
    /// Returns the lock if it is free. Any context.
    pub(super) fn take(dev: &'a NetDevice) -> Option<Self> {
        // SAFETY: The device is valid.
        let taken =
            unsafe { bindings::spin_trylock((&raw mut (*dev.as_ptr()).tx_global_lock).cast()) };
        // INVARIANT: As has just been done.
        (taken != 0).then_some(Self(dev))
    }

    /// Keeps the lock for [`Self::take_kept`], if there is a place to note that; else it is
    /// released. Any context.
    pub(super) fn keep(self, _here: Here) {
        let address = self.0.as_ptr().addr();
        let mut places = KEPT.iter();
        if places.any(|place| place.cmpxchg(0, address, Full).is_ok()) {
            core::mem::forget(self);
        }
    }

    /// Returns whether the lock of a device is kept. Any context.
    pub(super) fn is_kept(dev: &NetDevice) -> bool {
        let address = dev.as_ptr().addr();
        KEPT.iter().any(|place| place.load(Relaxed) == address)
    }

    /// Returns the lock if it has been kept. Any context.
    pub(super) fn take_kept(dev: &'a NetDevice, _here: Here) -> Option<Self> {
        let address = dev.as_ptr().addr();
        let kept = |place: &&Atomic<usize>| place.cmpxchg(address, 0, Full).is_ok();
        // INVARIANT: Whoever kept the lock held it, on the CPU that panics, which is this one.
        KEPT.iter().find(kept).map(|_| Self(dev))
    }
}

impl Drop for GlobalLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is held.
        unsafe { bindings::spin_unlock((&raw mut (*self.0.as_ptr()).tx_global_lock).cast()) };
    }
}
