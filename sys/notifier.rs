// SPDX-License-Identifier: GPL-2.0

//! Notifiers of changed addresses and neighbours.
//!
//! C headers: [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h),
//! [`include/net/addrconf.h`](srctree/include/net/addrconf.h),
//! [`include/net/netevent.h`](srctree/include/net/netevent.h)

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
    netdev::{
        Index,
        NetDevice, //
    },
    notifier_chain::{
        Chain,
        Link, //
    },
};

/// The table that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// The addresses of a device.
    Addresses,
    /// The neighbours of a device.
    Neighbours,
}

/// A listener to changed addresses and neighbours.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Called when the addresses of a device, or its neighbours, change.
    ///
    /// A hint only. It may come before or after the change, several times for one, and for every
    /// namespace: devices in several may have this index. No call tells that an IPv6 address has
    /// been checked for duplicates or become deprecated, or that routes have changed.
    ///
    /// | table | context | locks held |
    /// |---|---|---|
    /// | IPv4 addresses | process | [`super::netdev::Rtnl`] |
    /// | others | often softirq | spinlocks of the tables |
    ///
    /// May not sleep, look anything up in these tables, or log to a console that sends by the
    /// network. A listener enqueues a work item.
    fn changed(&self, table: Table, device: Index);
}

/// Tells a listener of a change at a device; null is none.
///
/// # Safety
///
/// The device must be null or valid.
unsafe fn tell<T: Listener>(listener: &T, table: Table, dev: *mut bindings::net_device) {
    // SAFETY: As the caller promises.
    if let Some(dev) = unsafe { NetDevice::from_raw(dev) } {
        listener.changed(table, dev.index());
    }
}

/// IPv4 addresses that are added or removed. A blocking chain.
struct Inet;

// SAFETY: These functions are for one chain. It is a blocking one, of which the lock is waited for.
unsafe impl<T: Listener> Chain<T> for Inet {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_inetaddr_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_inetaddr_notifier(block) }
    }

    unsafe fn tell(listener: &T, _event: c_ulong, data: *mut c_void) {
        // SAFETY: The chain passes an address. It holds the part of a device that it is in, which
        // holds the device.
        unsafe {
            let dev = (*(*data.cast::<bindings::in_ifaddr>()).ifa_dev).dev;
            tell(listener, Table::Addresses, dev);
        }
    }
}

/// IPv6 addresses that are added or removed. An atomic chain; silent if there is no IPv6.
struct Inet6;

// SAFETY: These functions are for one chain. It is an atomic one, of which RCU is waited for.
unsafe impl<T: Listener> Chain<T> for Inet6 {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_inet6addr_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_inet6addr_notifier(block) }
    }

    unsafe fn tell(listener: &T, _event: c_ulong, data: *mut c_void) {
        // SAFETY: As for IPv4.
        unsafe {
            let dev = (*(*data.cast::<bindings::inet6_ifaddr>()).idev).dev;
            tell(listener, Table::Addresses, dev);
        }
    }
}

/// Neighbours that become known, change or are forgotten, and redirects. An atomic chain.
struct Netevent;

// SAFETY: As for IPv6 addresses.
unsafe impl<T: Listener> Chain<T> for Netevent {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_netevent_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_netevent_notifier(block) }
    }

    unsafe fn tell(listener: &T, event: c_ulong, data: *mut c_void) {
        const UPDATE: bindings::netevent_notif_type =
            bindings::netevent_notif_type_NETEVENT_NEIGH_UPDATE;
        const REDIRECT: bindings::netevent_notif_type =
            bindings::netevent_notif_type_NETEVENT_REDIRECT;

        let neighbour = match bindings::netevent_notif_type::try_from(event) {
            Ok(UPDATE) => data.cast::<bindings::neighbour>(),
            // SAFETY: This is what is passed with it, with a neighbour.
            Ok(REDIRECT) => unsafe { (*data.cast::<bindings::netevent_redirect>()).neigh },
            _ => return,
        };
        // SAFETY: The neighbour is valid, and holds its device.
        unsafe { tell(listener, Table::Neighbours, (*neighbour).dev) };
    }
}

/// A registered [`Listener`]; unregistered when dropped, in process context, which waits for
/// running callbacks. The listener is dropped there and then, unless it has other references.
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

impl<T: Listener> Notifier<T> {
    /// Registers a listener, which may be called before this returns. Process context.
    ///
    /// May be dropped with the lock of [`super::netdev::Rtnl`] held or without it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or the errors of the chains.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inet <- Link::new(listener.clone()),
            inet6 <- Link::new(listener.clone()),
            netevent <- Link::new(listener),
        }? Error)
    }
}
