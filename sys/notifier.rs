// SPDX-License-Identifier: GPL-2.0

//! What changes in the tables of addresses and of neighbours.
//!
//! C headers: [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h),
//! [`include/net/addrconf.h`](srctree/include/net/addrconf.h),
//! [`include/net/netevent.h`](srctree/include/net/netevent.h)

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

use super::{
    bindings,
    netdev::{
        Index,
        NetDevice, //
    },
};

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// The addresses of a device.
    Addresses,
    /// The neighbours that it reaches.
    Neighbours,
}

/// Who wants to know that an address or a neighbour has changed.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Something about the addresses of a device, or about neighbours that it reaches, has changed.
    ///
    /// Told of in every namespace: devices in several may have this index. It is nothing but a
    /// hint: when the change is about to be, or has been, made; often several times for one; and
    /// what is not told of is that an IPv6 address has been checked for duplicates or become
    /// deprecated, and that routes have changed.
    ///
    /// Any context but NMI and hardirq: for IPv4 addresses process context with the lock of
    /// [`super::netdev::Rtnl`]; for the others often softirq, with spinlocks of the tables held.
    /// Nothing may be waited for, nothing be looked up in these tables, and nothing be said about
    /// it by a console that sends by the network. What one does is to enqueue a work item.
    fn changed(&self, table: Table, device: Index);
}

/// A chain of notifiers in C.
///
/// # Safety
///
/// [`Self::register`] must be to register with a chain that does not sleep in an atomic context,
/// and [`Self::unregister`] to take out what has been registered, and to wait for callbacks.
unsafe trait Chain: 'static {
    /// What it tells of.
    const TABLE: Table = Table::Addresses;

    /// Adds a block.
    ///
    /// # Safety
    ///
    /// Process context. The block must be initialized and in no chain. It must stay where it is
    /// until it has been unregistered, and its callback be sound for this chain.
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int;

    /// Takes a block out; no callback is running any more when it returns.
    ///
    /// # Safety
    ///
    /// Process context. The block must be in this chain.
    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int;

    /// The device that an event is about; null if it is not of interest.
    ///
    /// # Safety
    ///
    /// The event and the data must be what a callback of this chain has got.
    unsafe fn device(event: c_ulong, data: *mut c_void) -> *mut bindings::net_device;
}

/// IPv4 addresses that are added or removed. A blocking chain.
struct Inet;

// SAFETY: These functions are for one chain. It is a blocking one, of which the lock is waited for.
unsafe impl Chain for Inet {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_inetaddr_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_inetaddr_notifier(block) }
    }

    unsafe fn device(_event: c_ulong, data: *mut c_void) -> *mut bindings::net_device {
        // SAFETY: The chain passes an address. It holds the part of a device that it is in, which
        // holds the device.
        unsafe { (*(*data.cast::<bindings::in_ifaddr>()).ifa_dev).dev }
    }
}

/// IPv6 addresses that are added or removed. An atomic chain; silent if there is no IPv6.
struct Inet6;

// SAFETY: These functions are for one chain. It is an atomic one, of which RCU is waited for.
unsafe impl Chain for Inet6 {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_inet6addr_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_inet6addr_notifier(block) }
    }

    unsafe fn device(_event: c_ulong, data: *mut c_void) -> *mut bindings::net_device {
        // SAFETY: As for IPv4.
        unsafe { (*(*data.cast::<bindings::inet6_ifaddr>()).idev).dev }
    }
}

/// Neighbours that become known, change or are forgotten, and redirects. An atomic chain.
struct Netevent;

// SAFETY: As for IPv6 addresses.
unsafe impl Chain for Netevent {
    const TABLE: Table = Table::Neighbours;

    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_netevent_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_netevent_notifier(block) }
    }

    unsafe fn device(event: c_ulong, data: *mut c_void) -> *mut bindings::net_device {
        const UPDATE: bindings::netevent_notif_type =
            bindings::netevent_notif_type_NETEVENT_NEIGH_UPDATE;
        const REDIRECT: bindings::netevent_notif_type =
            bindings::netevent_notif_type_NETEVENT_REDIRECT;

        let neighbour = match bindings::netevent_notif_type::try_from(event) {
            Ok(UPDATE) => data.cast::<bindings::neighbour>(),
            // SAFETY: This is what is passed with it, with a neighbour.
            Ok(REDIRECT) => unsafe { (*data.cast::<bindings::netevent_redirect>()).neigh },
            _ => return core::ptr::null_mut(),
        };
        // SAFETY: The neighbour is valid, and holds its device.
        unsafe { (*neighbour).dev }
    }
}

/// A listener in one chain.
///
/// # Invariants
///
/// `block` is in the chain `C`, and its callback is [`Self::call`].
#[pin_data(PinnedDrop)]
struct Link<T: Listener, C: Chain> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    listener: Arc<T>,
    _chain: PhantomData<C>,
}

impl<T: Listener, C: Chain> Link<T, C> {
    fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
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
        // SAFETY: This is what the chain has passed; the device is valid during the call.
        if let Some(dev) = unsafe { NetDevice::from_raw(C::device(event, data)) } {
            listener.changed(C::TABLE, dev.index());
        }
        DONE
    }
}

#[pinned_drop]
impl<T: Listener, C: Chain> PinnedDrop for Link<T, C> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Process context, as the notifier's users promise; by the type invariants it is
        // registered. The result is of interest only if it was not.
        unsafe { C::unregister(self.block.get()) };
    }
}

/// A [`Listener`] that is told of changes until dropped, which is for process context, too, and
/// waits for callbacks that are running. The listener goes away there and then, unless somebody
/// else has a reference to it.
///
/// # Examples
///
/// ```ignore
/// struct Wake(Arc<OwnedQueue>, Arc<Update>);
///
/// impl Listener for Wake {
///     fn changed(&self, _table: Table, _device: Index) {
///         // An item that is queued already will see this change, too.
///         let _ = self.0.enqueue(self.1.clone());
///     }
/// }
///
/// let notifier = KBox::pin_init(
///     Notifier::new(Arc::new(Wake(queue, update), GFP_KERNEL)?),
///     GFP_KERNEL,
/// )?;
/// ```
#[pin_data]
pub(crate) struct Notifier<T: Listener> {
    #[pin]
    inet: Link<T, Inet>,
    #[pin]
    inet6: Link<T, Inet6>,
    #[pin]
    netevent: Link<T, Netevent>,
}

// SAFETY: Blocks can be unregistered from any thread, and `Arc<T>: Send`.
unsafe impl<T: Listener> Send for Notifier<T> {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Listener> Sync for Notifier<T> {}

impl<T: Listener> Notifier<T> {
    /// Registers a listener, which may be told of changes before this is done. Process context.
    ///
    /// May be dropped with the lock of [`super::netdev::Rtnl`] held or without it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what else the chains say.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inet <- Link::new(listener.clone()),
            inet6 <- Link::new(listener.clone()),
            netevent <- Link::new(listener),
        }? Error)
    }
}
