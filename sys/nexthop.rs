// SPDX-License-Identifier: GPL-2.0

//! The next hop to an address, from the route and neighbour tables.
//!
//! C headers: [`include/net/dst.h`](srctree/include/net/dst.h),
//! [`include/net/neighbour.h`](srctree/include/net/neighbour.h)

use core::{
    hint,
    mem::offset_of,
    net::{
        IpAddr,
        SocketAddr, //
    },
    ptr::{
        self,
        NonNull, //
    },
};

use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed, //
        },
        barrier::{
            smp_mb,
            Read, //
        },
        rcu, //
    },
};

use super::{
    bindings,
    netdev::NetDevice,
    network::Network,
    rcu::dereference,
    sockaddr::Address,
    socket::RawSocket, //
};

// As in `socket.rs`: let the fields be where C has them.
const _: () = {
    use bindings::*;

    assert!(offset_of!(dst_entry, ops) == DST_ENTRY_OPS_OFFSET);
    assert!(offset_of!(dst_ops, family) == DST_OPS_FAMILY_OFFSET);
    assert!(offset_of!(dst_ops, neigh_lookup) == DST_OPS_NEIGH_LOOKUP_OFFSET);
    assert!(offset_of!(neighbour, refcnt) == NEIGHBOUR_REFCNT_OFFSET);
    assert!(offset_of!(neighbour, used) == NEIGHBOUR_USED_OFFSET);
    assert!(offset_of!(neighbour, nud_state) == NEIGHBOUR_NUD_STATE_OFFSET);
    assert!(
        offset_of!(neighbour, ha_lock.seqcount.seqcount.sequence) == NEIGHBOUR_HA_SEQUENCE_OFFSET
    );
    assert!(offset_of!(neighbour, ha) == NEIGHBOUR_HA_OFFSET);
    assert!(offset_of!(neighbour, dev) == NEIGHBOUR_DEV_OFFSET);
};

/// The port that routes are looked up for; nothing is sent to it (discard, RFC 863).
const PORT: u16 = 9;

/// Returns the Ethernet address of the next hop to `remote` by the device of `net`: that of
/// `remote` itself, or of the gateway to it.
///
/// [`None`]: the neighbour is not known yet, or not any more. In any case the kernel is told that
/// the neighbour is going to be used: it resolves an unknown one and confirms an old address, by
/// ARP or neighbour discovery. So a neighbour that does not answer any more becomes [`None`] some
/// time later; to learn of an answer listen with [`super::notifier`], or call again. Nothing else
/// is sent.
///
/// The route is that of a UDP socket of the kernel's own that is bound to the device, and to
/// `local` if that is given, which some routing rules depend on. Without a route by the device an
/// IPv4 address is taken for a neighbour, as for all sockets that are bound to a device. The routes
/// of a device in a VRF are those of the VRF.
///
/// Link-local addresses are those of the device. A multicast address is its own next hop, and is
/// always known.
///
/// Process context, without the lock of [`super::netdev::Rtnl`], since the protocol may have to be
/// loaded. Waits for no answer.
///
/// # Errors
///
/// - `EACCES`: `remote` is a broadcast address, so all are the next hop.
/// - `EADDRNOTAVAIL`: `local` is not an address of this machine, or not yet (IPv6: not of this
///   device, or while it is checked for duplicates).
/// - `ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`: there is no route to `remote`, or not yet. The
///   device may be down, or have no address.
/// - `EXDEV`: the route does not lead through the device: `remote` is this machine.
/// - `ENODEV`: the device has gone.
/// - `EOPNOTSUPP`: the device is not an Ethernet device.
/// - `EAFNOSUPPORT`: the addresses are of different families, or there is no IPv6 here.
/// - `EINVAL`: there is something wrong with an address; `remote` must not be 0. Or the device has
///   just lost its addresses.
/// - `EAGAIN`: the route or the neighbour has just gone, or there is no free port, or (IPv6) no
///   room for another neighbour. `ENOBUFS`: there is no such room (IPv4).
/// - Others that say what they say, such as `ENOMEM`, or that a firewall in BPF has forbidden it
///   (`EPERM`).
///
/// # Examples
///
/// ```ignore
/// match next_hop(&Network::of(dev)?, None, remote) {
///     Ok(Some(address)) => send_to(address),
///     Ok(None) => try_later(),
///     Err(EACCES) => send_to([0xff; 6]),
///     Err(e) => return Err(e),
/// }
/// ```
pub(crate) fn next_hop(
    net: &Network,
    local: Option<IpAddr>,
    remote: IpAddr,
) -> Result<Option<[u8; 6]>> {
    // An IPv4 address in IPv6's form would have a route of IPv4's.
    let [local, remote] = [local, Some(remote)].map(|ip| ip.map(|ip| ip.to_canonical()));
    let remote = remote.ok_or(EINVAL)?;
    if remote.is_unspecified() {
        return Err(EINVAL);
    }
    if local.is_some_and(|local| local.is_ipv4() != remote.is_ipv4()) {
        return Err(EAFNOSUPPORT);
    }

    let address = |ip, port| Address::new(SocketAddr::new(ip, port), net.index());
    let raw_remote = address(remote, PORT);
    let socket = RawSocket::new(net, raw_remote.family())?;
    socket.bind_to_device(net.index())?;
    if let Some(local) = local {
        socket.bind(&address(local, 0))?;
    }
    socket.connect(&raw_remote)?;

    let neighbour = Neighbour::of(&socket, remote)?;
    if !net.contains(neighbour.device()) {
        return Err(EXDEV);
    }
    if neighbour.device().ethernet_address().is_none() {
        return Err(EOPNOTSUPP);
    }
    neighbour.announce_use();
    Ok(neighbour.ethernet_address())
}

/// An entry in a table of neighbours.
///
/// # Invariants
///
/// The pointer is valid, and one reference that is counted is ours.
struct Neighbour(NonNull<bindings::neighbour>);

impl Neighbour {
    /// The neighbour that a connected socket sends to when it sends to `remote`, the address that
    /// it is connected to.
    fn of(socket: &RawSocket, remote: IpAddr) -> Result<Self> {
        /// As aligned as C code has an address.
        #[repr(align(4))]
        struct Octets([u8; 16]);

        let mut octets = Octets([0; 16]);
        let family = match remote {
            IpAddr::V4(ip) => {
                octets.0[..4].copy_from_slice(&ip.octets());
                bindings::AF_INET
            }
            IpAddr::V6(ip) => {
                octets.0 = ip.octets();
                bindings::AF_INET6
            }
        };

        let guard = rcu::read_lock();
        let cache = socket
            .sk()
            .cast::<u8>()
            .wrapping_add(bindings::SOCK_DST_CACHE_OFFSET)
            .cast::<*mut bindings::dst_entry>();
        // SAFETY: The `sk` is valid, and the field there. A route that is taken out of it (when
        // ICMP says so) is freed only after a grace period.
        let dst = NonNull::new(unsafe { dereference(cache, &guard) }).ok_or(EAGAIN)?;
        // SAFETY: The route is valid as long as the guard exists, and its operations are those of
        // a family in a namespace, which the socket is in.
        let (of, lookup) = unsafe {
            let ops = (*dst.as_ptr()).ops;
            ((*ops).family, (*ops).neigh_lookup)
        };
        if u32::from(of) != family {
            return Err(EAFNOSUPPORT);
        }
        let lookup = lookup.ok_or(EOPNOTSUPP)?;
        // SAFETY: The route is valid, as above; without a packet the address is used, which is one
        // of its family, and aligned. It allocates with `GFP_ATOMIC` and does not sleep.
        let neighbour = unsafe { lookup(dst.as_ptr(), ptr::null_mut(), octets.0.as_ptr().cast()) };
        // INVARIANT: A neighbour that is returned has been counted for us.
        NonNull::new(from_err_ptr(neighbour)?)
            .map(Self)
            .ok_or(EAGAIN)
    }

    /// The device that it is reached by.
    fn device(&self) -> &NetDevice {
        // SAFETY: By the type invariants it is valid; it has a device from the beginning to the
        // end, and counts itself there.
        unsafe { &*(*self.0.as_ptr()).dev.cast::<NetDevice>() }
    }

    /// Its state (`NUD_*`) now.
    fn state(&self) -> u32 {
        // SAFETY: By the type invariants it is valid; C code reads it so, too.
        u32::from(unsafe { (&raw const (*self.0.as_ptr()).nud_state).read_volatile() })
    }

    /// Says that it is going to be used (`neigh_event_send()`): so it is looked for if it is not
    /// known, and confirmed if its address is old.
    fn announce_use(&self) {
        const SETTLED: u32 = bindings::NUD_CONNECTED | bindings::NUD_DELAY | bindings::NUD_PROBE;

        // SAFETY: By the type invariants it is valid; C code accesses this field so, too, from
        // wherever it likes. The kernel's clock can be read at any time.
        unsafe {
            let used = &raw mut (*self.0.as_ptr()).used;
            let now = (&raw const bindings::jiffies).read_volatile();
            if used.read_volatile() != now {
                used.write_volatile(now);
            }
        }
        if self.state() & SETTLED == 0 {
            // SAFETY: It is valid, and its lock not held by us. There is no packet to send.
            unsafe { bindings::__neigh_event_send(self.0.as_ptr(), ptr::null_mut(), true) };
        }
    }

    /// Its address, if that is known, of which the first six bytes are looked at
    /// (`neigh_ha_snapshot()`).
    fn ethernet_address(&self) -> Option<[u8; 6]> {
        /// For a writer that has been interrupted: it writes a few bytes, without preemption. With
        /// PREEMPT_RT it may be preempted, and we be what does it.
        const TRIES: usize = 1000;

        if self.state() & bindings::NUD_VALID == 0 {
            return None;
        }
        let neighbour = self.0.as_ptr();
        // SAFETY: By the type invariants it is valid. C code accesses the counter so, too.
        let sequence =
            unsafe { Atomic::from_ptr(&raw mut (*neighbour).ha_lock.seqcount.seqcount.sequence) };
        for _ in 0..TRIES {
            let before = sequence.load(Acquire);
            if before % 2 == 0 {
                // SAFETY: As above, and there are more bytes than these. What is read while it
                // changes is not used.
                let address = unsafe {
                    (&raw const (*neighbour).ha)
                        .cast::<[u8; 6]>()
                        .read_volatile()
                };
                smp_mb(Read);
                if sequence.load(Relaxed) == before {
                    // The state is written before the address (`__neigh_update()`): a new entry is
                    // valid for a moment without having one.
                    return (address != [0; 6]).then_some(address);
                }
            }
            hint::spin_loop();
        }
        None
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let neighbour = self.0.as_ptr();
        // The same as `neigh_release()`, which is inline.
        //
        // SAFETY: By the type invariants it is valid, and the reference ours. If it was the last,
        // nobody else knows of the neighbour.
        unsafe {
            if bindings::refcount_dec_and_test((&raw mut (*neighbour).refcnt).cast()) {
                bindings::neigh_destroy(neighbour);
            }
        }
    }
}
