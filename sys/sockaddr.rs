// SPDX-License-Identifier: GPL-2.0

//! Socket addresses in the kernel's form.
//!
//! C headers: [`include/linux/in.h`](srctree/include/linux/in.h),
//! [`include/linux/in6.h`](srctree/include/linux/in6.h)

use core::{
    mem::MaybeUninit,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr, //
    },
    ptr, //
};

use kernel::ffi::{
    c_int,
    c_void, //
};

use super::bindings;

/// A `struct sockaddr_in` or `struct sockaddr_in6`.
pub(super) enum Address {
    V4(bindings::sockaddr_in),
    V6(bindings::sockaddr_in6),
}

impl Address {
    /// Converts an address; `scope` is the device of a link-local address that names none.
    pub(super) fn new(address: SocketAddr, scope: u32) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(bindings::sockaddr_in {
                sin_family: bindings::AF_INET as bindings::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: bindings::in_addr {
                    s_addr: u32::from(*address.ip()).to_be(),
                },
                __pad: Default::default(),
            }),
            SocketAddr::V6(address) => Self::V6(bindings::sockaddr_in6 {
                sin6_family: bindings::AF_INET6 as bindings::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo().to_be(),
                sin6_addr: bindings::in6_addr {
                    in6_u: bindings::in6_addr__bindgen_ty_1 {
                        u6_addr8: address.ip().octets(),
                    },
                },
                sin6_scope_id: match address.scope_id() {
                    0 if address.ip().is_unicast_link_local() => scope,
                    scope => scope,
                },
            }),
        }
    }

    pub(super) fn family(&self) -> u32 {
        match self {
            Self::V4(_) => bindings::AF_INET,
            Self::V6(_) => bindings::AF_INET6,
        }
    }

    /// Returns the address and its length, for C functions that only read it.
    pub(super) fn as_raw(&self) -> (*mut bindings::sockaddr_unsized, c_int) {
        // Both lengths are far below the largest `c_int`.
        match self {
            Self::V4(v4) => (
                ptr::from_ref(v4).cast_mut().cast(),
                size_of_val(v4) as c_int,
            ),
            Self::V6(v6) => (
                ptr::from_ref(v6).cast_mut().cast(),
                size_of_val(v6) as c_int,
            ),
        }
    }
}

/// Room for any address that C code writes.
pub(super) struct Storage(MaybeUninit<bindings::__kernel_sockaddr_storage>);

impl Storage {
    pub(super) fn new() -> Self {
        Self(MaybeUninit::zeroed())
    }

    /// Returns the place for C code to write to.
    pub(super) fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Returns the IP address and the port; [`None`] if it is of another family.
    pub(super) fn get(&self) -> Option<(IpAddr, u16)> {
        let any = self.0.as_ptr();
        // SAFETY: The storage is large enough for, and aligned as, any address. It was initialized
        // with zeroes, and all of these are made of integers, whatever has been written.
        unsafe {
            match u32::from(*any.cast::<bindings::sa_family_t>()) {
                bindings::AF_INET => {
                    let v4 = &*any.cast::<bindings::sockaddr_in>();
                    let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                    Some((ip.into(), u16::from_be(v4.sin_port)))
                }
                bindings::AF_INET6 => {
                    let v6 = &*any.cast::<bindings::sockaddr_in6>();
                    let ip = Ipv6Addr::from(v6.sin6_addr.in6_u.u6_addr8);
                    Some((ip.into(), u16::from_be(v6.sin6_port)))
                }
                _ => None,
            }
        }
    }
}
