// SPDX-License-Identifier: GPL-2.0

//! Dumpers of printk's buffer: callbacks for oopses and panics.
//!
//! C header: [`include/linux/kmsg_dump.h`](srctree/include/linux/kmsg_dump.h)

use kernel::{
    container_of,
    error::to_result,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::{
    bindings,
    panic::{
        self,
        Panic, //
    },
};

/// A callback for crashes.
pub(crate) trait Dumper: Send + Sync + 'static {
    /// Called in a panic, in whatever context that is, NMI included: after the other CPUs have been
    /// stopped and before a reset. The log is complete except for lines about the reset. Not called
    /// if a crash kernel is loaded, unless `crash_kexec_post_notifiers` is set.
    fn panic(this: &Arc<Self>, panic: &Panic);

    /// Called after an oops has been logged, which the machine may survive. Any context, with any
    /// lock held: waiting for a lock, or arming a timer, may never end.
    fn oops(&self);
}

/// A registered [`Dumper`]; unregistered when dropped.
///
/// # Invariants
///
/// `raw` is registered, and its function is [`Self::dump`].
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Dumper> {
    #[pin]
    raw: Opaque<bindings::kmsg_dumper>,
    dumper: Arc<T>,
}

// SAFETY: It can be unregistered from any thread, and `Arc<T>: Send`.
unsafe impl<T: Dumper> Send for Registration<T> {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Dumper> Sync for Registration<T> {}

impl<T: Dumper> Registration<T> {
    /// Registers a dumper. Process context; to be dropped there as well, which sleeps.
    pub(crate) fn new(dumper: Arc<T>) -> impl PinInit<Self, Error> {
        // The raw one comes last, so that all of it is there when it is called.
        try_pin_init!(Self {
            dumper,
            // INVARIANT: Registered with this function, or not initialized.
            raw <- Opaque::try_ffi_init(|raw: *mut bindings::kmsg_dumper| {
                // SAFETY: The place is valid and ours, and zeroes are a valid value of it.
                unsafe {
                    raw.write_bytes(0, 1);
                    (*raw).dump = Some(Self::dump);
                    (*raw).max_reason = bindings::kmsg_dump_reason_KMSG_DUMP_OOPS;
                }
                // SAFETY: It stays where it is until `drop()` unregisters it.
                to_result(unsafe { bindings::kmsg_dump_register(raw) })
            }),
        }? Error)
    }

    /// # Safety
    ///
    /// Only the kernel may call this, with the raw dumper of a [`Self`].
    unsafe extern "C" fn dump(
        raw: *mut bindings::kmsg_dumper,
        detail: *mut bindings::kmsg_dump_detail,
    ) {
        // SAFETY: It is registered, so it is in a `Self` that waits for us before it goes away, and
        // of which the rest was there before.
        let dumper = unsafe { &(*container_of!(Opaque::cast_from(raw), Self, raw)).dumper };
        // SAFETY: The kernel passes a valid one.
        match unsafe { (*detail).reason } {
            // A CPU that does not panic may say so all the same.
            bindings::kmsg_dump_reason_KMSG_DUMP_PANIC if panic::is_here() => {
                // SAFETY: This is what `panic()` does last before it resets the machine or waits.
                T::panic(dumper, &unsafe { Panic::assume() });
            }
            bindings::kmsg_dump_reason_KMSG_DUMP_OOPS => dumper.oops(),
            _ => {}
        }
    }
}

#[pinned_drop]
impl<T: Dumper> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered. Waits for those that run.
        unsafe { bindings::kmsg_dump_unregister(self.raw.get()) };
    }
}
