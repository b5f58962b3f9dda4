// SPDX-License-Identifier: GPL-2.0

//! Being told that the machine is about to end in an orderly way, or to be taken over by a crash
//! kernel.
//!
//! C headers: [`include/linux/kdebug.h`](srctree/include/linux/kdebug.h),
//! [`include/linux/reboot.h`](srctree/include/linux/reboot.h)

use core::marker::PhantomData;

use kernel::{
    container_of,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::bindings;

/// Who wants to be told.
pub(crate) trait Ending: Send + Sync + 'static {
    /// An oops has been logged, and nothing has been done about it yet. Any context, with any lock
    /// held.
    fn died(&self);

    /// The machine is about to be restarted, halted or powered off, or another kernel be started.
    /// Process context; may sleep, but not for long. Devices are still there.
    fn shut_down(&self);
}

/// A chain of notifiers in C.
///
/// # Safety
///
/// [`Self::register`] must be to register with a chain, and [`Self::unregister`] to take out what
/// has been registered, and to wait for callbacks.
unsafe trait Chain: 'static {
    /// # Safety
    ///
    /// Process context. The block must be initialized and in no chain. It must stay where it is
    /// until it has been unregistered, and its callback be sound for this chain.
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int;

    /// # Safety
    ///
    /// Process context. The block must be in this chain.
    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int;

    /// Tells the listener of an event.
    fn tell<T: Ending>(listener: &T, event: c_ulong);
}

/// `die_chain`, an atomic one.
struct Die;

// SAFETY: These functions are for one chain. It is an atomic one, of which RCU is waited for.
unsafe impl Chain for Die {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_die_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_die_notifier(block) }
    }

    fn tell<T: Ending>(listener: &T, event: c_ulong) {
        if bindings::die_val::try_from(event) == Ok(bindings::die_val_DIE_OOPS) {
            listener.died();
        }
    }
}

/// `reboot_notifier_list`, a blocking one; kexec calls it as well.
struct Reboot;

// SAFETY: These functions are for one chain. It is a blocking one, of which the lock is waited for.
unsafe impl Chain for Reboot {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_reboot_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_reboot_notifier(block) }
    }

    fn tell<T: Ending>(listener: &T, _event: c_ulong) {
        listener.shut_down();
    }
}

/// A listener in one chain.
///
/// # Invariants
///
/// `block` is in the chain `C`, and its callback is [`Self::call`].
#[pin_data(PinnedDrop)]
struct Link<T: Ending, C: Chain> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    listener: Arc<T>,
    _chain: PhantomData<C>,
}

impl<T: Ending, C: Chain> Link<T, C> {
    fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        // The block comes last, so that all of it is there when it is called.
        try_pin_init!(Self {
            listener,
            _chain: PhantomData,
            // INVARIANT: Registered with this callback, or not initialized.
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: The place is valid and ours, and zeroes are a valid value of it. The
                // lowest priority: what the others say is to be heard as well.
                unsafe {
                    block.write_bytes(0, 1);
                    (*block).notifier_call = Some(Self::call);
                    (*block).priority = c_int::MIN;
                }
                // SAFETY: Process context, as for the caller. The block stays where it is until
                // `drop()` unregisters it, and the callback is for this chain.
                to_result(unsafe { C::register(block) })
            }),
        }? Error)
    }

    /// # Safety
    ///
    /// Only the chain `C` may call this, with the block of a [`Self`].
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // `NOTIFY_DONE`: go on.
        const DONE: c_int = 0;
        // SAFETY: The block is registered, so it is in a `Self` that waits for us before it goes
        // away, and of which the rest was there before.
        let listener = unsafe {
            let this = container_of!(Opaque::cast_from(block), Self, block);
            &(*this).listener
        };
        C::tell(&**listener, event);
        DONE
    }
}

#[pinned_drop]
impl<T: Ending, C: Chain> PinnedDrop for Link<T, C> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Process context, as the notifier's users promise; by the type invariants it is
        // registered. The result is of interest only if it was not.
        unsafe { C::unregister(self.block.get()) };
    }
}

/// An [`Ending`] that is told until this is dropped, which is for process context.
#[pin_data]
pub(crate) struct Notifier<T: Ending> {
    #[pin]
    die: Link<T, Die>,
    #[pin]
    reboot: Link<T, Reboot>,
}

// SAFETY: Blocks can be unregistered from any thread, and `Arc<T>: Send`.
unsafe impl<T: Ending> Send for Notifier<T> {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Ending> Sync for Notifier<T> {}

impl<T: Ending> Notifier<T> {
    /// Registers a listener. Process context.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            die <- Link::new(listener.clone()),
            reboot <- Link::new(listener),
        }? Error)
    }
}
