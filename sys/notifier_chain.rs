// SPDX-License-Identifier: GPL-2.0

//! Notifier chains in C, and their listeners.
//!
//! C header: [`include/linux/notifier.h`](srctree/include/linux/notifier.h)

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

/// A chain of notifiers in C, to which a `T` can listen.
///
/// # Safety
///
/// [`Self::register`] must be to register with a chain that does not sleep in an atomic context,
/// and [`Self::unregister`] to take out what has been registered, and to wait for callbacks.
pub(super) unsafe trait Chain<T>: 'static {
    /// The order of the calls: higher priorities come first.
    const PRIORITY: c_int = 0;

    /// Adds a block.
    ///
    /// # Safety
    ///
    /// Process context. The block must be initialized and in no chain. It must stay where it is
    /// until it has been unregistered, and its callback be sound for this chain.
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int;

    /// Takes a block out; no callback is running when this returns.
    ///
    /// # Safety
    ///
    /// Process context. The block must be in this chain.
    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int;

    /// Calls the listener with an event, in the context of the chain.
    ///
    /// # Safety
    ///
    /// The event and the data must be what a callback of this chain has got.
    unsafe fn tell(listener: &T, event: c_ulong, data: *mut c_void);
}

/// A listener in one chain; taken out when dropped, which is for process context.
///
/// # Invariants
///
/// `block` is in the chain `C`, and its callback is [`Self::call`].
///
/// # Examples
///
/// ```ignore
/// let link = KBox::pin_init(Link::<_, Reboot>::new(listener.clone()), GFP_KERNEL)?;
/// ```
#[pin_data(PinnedDrop)]
pub(super) struct Link<T: Send + Sync + 'static, C: Chain<T>> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    listener: Arc<T>,
    _chain: PhantomData<C>,
}

// SAFETY: A block can be unregistered from any thread, and `Arc<T>: Send`.
unsafe impl<T: Send + Sync + 'static, C: Chain<T>> Send for Link<T, C> {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Send + Sync + 'static, C: Chain<T>> Sync for Link<T, C> {}

impl<T: Send + Sync + 'static, C: Chain<T>> Link<T, C> {
    /// Registers a listener, which may be called before this returns. Process context.
    ///
    /// # Errors
    ///
    /// Those of the chain.
    pub(super) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        // The block comes last, so that all of it is there when it is called.
        try_pin_init!(Self {
            listener,
            _chain: PhantomData,
            // INVARIANT: Registered with this callback, or not initialized.
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: The place is valid and ours, and zeroes are a valid value of it.
                unsafe {
                    block.write_bytes(0, 1);
                    (*block).notifier_call = Some(Self::call);
                    (*block).priority = C::PRIORITY;
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
        data: *mut c_void,
    ) -> c_int {
        // `NOTIFY_DONE`: go on.
        const DONE: c_int = 0;
        // SAFETY: The block is registered, so it is in a `Self` that waits for us before it goes
        // away, and of which the rest was there before.
        let listener = unsafe {
            let this = container_of!(Opaque::cast_from(block), Self, block);
            &(*this).listener
        };
        // SAFETY: This is what the chain has passed.
        unsafe { C::tell(listener, event, data) };
        DONE
    }
}

#[pinned_drop]
impl<T: Send + Sync + 'static, C: Chain<T>> PinnedDrop for Link<T, C> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Process context, as the users promise; by the type invariants it is registered.
        // The result is of interest only if it was not.
        unsafe { C::unregister(self.block.get()) };
    }
}
