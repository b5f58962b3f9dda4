// SPDX-License-Identifier: GPL-2.0

//! Die and reboot notifiers: callbacks for oopses, and for an orderly end of the machine.
//!
//! C headers: [`include/linux/kdebug.h`](srctree/include/linux/kdebug.h),
//! [`include/linux/reboot.h`](srctree/include/linux/reboot.h)

use kernel::{
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc, //
};

use super::{
    bindings,
    notifier_chain::{
        Chain,
        Link, //
    },
};

/// A listener to both chains.
pub(crate) trait Ending: Send + Sync + 'static {
    /// Called when an oops has been logged, before anything is done about it. Any context, with any
    /// lock held.
    fn died(&self);

    /// Called when the machine is about to be restarted, halted or powered off, or to start another
    /// kernel. Process context; may sleep, but not for long. Devices are still there.
    fn shut_down(&self);
}

/// The lowest priority, so that the output of the other listeners is sent as well.
const LAST: c_int = c_int::MIN;

/// `die_chain`, an atomic one.
struct Die;

// SAFETY: These functions are for one chain. It is an atomic one, of which RCU is waited for.
unsafe impl<T: Ending> Chain<T> for Die {
    const PRIORITY: c_int = LAST;

    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_die_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_die_notifier(block) }
    }

    unsafe fn tell(listener: &T, event: c_ulong, _data: *mut c_void) {
        if bindings::die_val::try_from(event) == Ok(bindings::die_val_DIE_OOPS) {
            listener.died();
        }
    }
}

/// `reboot_notifier_list`, a blocking one; kexec calls it as well.
struct Reboot;

// SAFETY: These functions are for one chain. It is a blocking one, of which the lock is waited for.
unsafe impl<T: Ending> Chain<T> for Reboot {
    const PRIORITY: c_int = LAST;

    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_reboot_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_reboot_notifier(block) }
    }

    unsafe fn tell(listener: &T, _event: c_ulong, _data: *mut c_void) {
        listener.shut_down();
    }
}

/// A registered [`Ending`]; unregistered when dropped, which is for process context.
#[pin_data]
pub(crate) struct Notifier<T: Ending> {
    #[pin]
    die: Link<T, Die>,
    #[pin]
    reboot: Link<T, Reboot>,
}

impl<T: Ending> Notifier<T> {
    /// Registers a listener. Process context.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            die <- Link::new(listener.clone()),
            reboot <- Link::new(listener),
        }? Error)
    }
}
