// SPDX-License-Identifier: GPL-2.0

//! A pointer that is read under RCU.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use core::{
    marker::PhantomData,
    ptr, //
};

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        rcu, //
    },
};

use super::bindings;

/// Reads a pointer that C code changes under RCU (`rcu_dereference()`). Any context.
///
/// # Safety
///
/// `ptr` must be valid and aligned, and written atomically at most. What it points to may be used
/// only while the guard exists, and only if it is freed after a grace period.
pub(super) unsafe fn dereference<T>(ptr: *const *mut T, _guard: &rcu::Guard) -> *mut T {
    // SAFETY: As the caller promises; the pointer is only read.
    unsafe { Atomic::from_ptr(ptr.cast_mut()) }.load(Acquire)
}

/// An optional value that readers see without a lock and writers replace as a whole.
///
/// Reading works in every context, NMI included.
///
/// # Invariants
///
/// `ptr` is null or comes from [`KBox::into_raw`], and is then owned by this object; a value that
/// has been taken out is freed only after a grace period.
///
/// # Examples
///
/// ```ignore
/// let cell = RcuOption::new(None);
/// cell.replace(Some(KBox::new(1, GFP_KERNEL)?));
/// assert_eq!(cell.read(&rcu::read_lock()), Some(&1));
/// ```
pub(crate) struct RcuOption<T> {
    ptr: Atomic<*mut T>,
    _owns: PhantomData<KBox<T>>,
}

// SAFETY: The value can be dropped by the thread that drops the object, which is what `T: Send`
// allows.
unsafe impl<T: Send> Send for RcuOption<T> {}

// SAFETY: Through a shared reference, readers on several threads get `&T`, and a writer gets a `T`
// that another thread has put in.
unsafe impl<T: Send + Sync> Sync for RcuOption<T> {}

impl<T> RcuOption<T> {
    /// Creates the pointer with its first value.
    pub(crate) fn new(value: Option<KBox<T>>) -> Self {
        // INVARIANT: As the type says.
        Self {
            ptr: Atomic::new(value.map_or(ptr::null_mut(), KBox::into_raw)),
            _owns: PhantomData,
        }
    }

    /// Returns the value, for as long as the RCU read lock is held. Any context.
    pub(crate) fn read<'g>(&'g self, _guard: &'g rcu::Guard) -> Option<&'g T> {
        // SAFETY: By the type invariants the pointer is valid when it is not null, and whoever
        // takes it out waits for the end of our read-side critical section before freeing it.
        unsafe { self.ptr.load(Acquire).as_ref() }
    }

    /// Returns whether there is a value. Any context.
    pub(crate) fn is_some(&self) -> bool {
        !self.ptr.load(Relaxed).is_null()
    }

    /// Replaces the value, and returns the old one when no reader can see it any more.
    ///
    /// Process context; sleeps for a grace period if there was a value, an expedited one while the
    /// routing netlink lock is held, which others wait for.
    pub(crate) fn replace(&self, value: Option<KBox<T>>) -> Option<KBox<T>> {
        let new = value.map_or(ptr::null_mut(), KBox::into_raw);
        // INVARIANT: The new pointer comes from `KBox::into_raw`.
        let old = self.ptr.xchg(new, Full);
        if old.is_null() {
            return None;
        }
        // SAFETY: Process context.
        unsafe { bindings::synchronize_net() };
        // SAFETY: By the type invariants `old` comes from `KBox::into_raw`; the exchange made it
        // ours alone, and no reader is left after the grace period.
        Some(unsafe { KBox::from_raw(old) })
    }
}

impl<T> Drop for RcuOption<T> {
    fn drop(&mut self) {
        // There is no other reference to us, so there are no readers to wait for.
        let ptr = self.ptr.load(Relaxed);
        if !ptr.is_null() {
            // SAFETY: By the type invariants it comes from `KBox::into_raw` and is ours.
            drop(unsafe { KBox::from_raw(ptr) });
        }
    }
}
