// SPDX-License-Identifier: GPL-2.0

//! The network namespace of a device, held for a short time.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    container_of,
    error::from_err_ptr,
    prelude::*,
    sync::rcu, //
};

use super::{
    bindings,
    netdev::{
        Index,
        NetDevice, //
    }, //
};

/// The network namespace of a device, and the device's index and VRF in it.
///
/// Keeps the namespace, with all that is in it, from ending: to be held for a short time only.
///
/// # Invariants
///
/// `ns` is that of a valid namespace, and the reference counted.
pub(crate) struct Network {
    ns: NonNull<bindings::ns_common>,
    index: u32,
    vrf: Option<Index>,
}

// SAFETY: References to namespaces are atomic counts.
unsafe impl Send for Network {}
// SAFETY: As above.
unsafe impl Sync for Network {}

impl Network {
    /// Returns the device's index in the namespace. Any context.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Returns the index of the VRF that the device was part of; [`None`] if it was in none. Any
    /// context.
    pub(crate) fn vrf(&self) -> Option<Index> {
        self.vrf
    }

    /// Returns whether `dev` is the device, in this namespace. Any context.
    pub(super) fn contains(&self, dev: &NetDevice) -> bool {
        // SAFETY: The device is valid. The pointer is only compared.
        let net = unsafe { (&raw const (*dev.as_ptr()).nd_net.net).read_volatile() };
        ptr::eq(net, self.as_ptr()) && dev.index().as_u32() == self.index
    }

    /// Returns the namespace of a device; `ENODEV` if it has begun to end. Any context but NMI.
    pub(crate) fn of(dev: &NetDevice) -> Result<Self> {
        let _guard = rcu::read_lock();
        // SAFETY: The device is valid. Its namespace can be changed meanwhile, but the old one is
        // freed only after a grace period.
        let ns = unsafe {
            let net = (&raw const (*dev.as_ptr()).nd_net.net).read_volatile();
            bindings::get_net_ns((&raw mut (*net).ns).cast())
        };
        let ns = from_err_ptr(ns).map_err(|_| ENODEV)?;
        // INVARIANT: `get_net_ns()` gives back what it was given, and has counted us.
        Ok(Self {
            ns: NonNull::new(ns).ok_or(ENODEV)?,
            index: dev.index().as_u32(),
            vrf: dev.vrf(),
        })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::net {
        // SAFETY: By the type invariants it is in a namespace.
        unsafe {
            container_of!(
                self.ns.as_ptr().cast::<kernel::bindings::ns_common>(),
                bindings::net,
                ns
            )
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The same as `put_net()`, which is inline, by way of the operations that it has for /proc.
        //
        // SAFETY: By the type invariants the namespace is valid and the reference ours; the
        // operations of a namespace live for ever.
        unsafe {
            if let Some(put) = (*self.ns.as_ref().ops).put {
                put(self.ns.as_ptr());
            }
        }
    }
}
