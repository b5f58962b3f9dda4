// SPDX-License-Identifier: GPL-2.0

//! Network devices, and the lock of their configuration (`rtnl`).
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/rtnetlink.h`](srctree/include/linux/rtnetlink.h)

use core::{
    ffi::CStr,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    str::CStrExt,
    sync::{
        rcu,
        Arc, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

use super::{
    bindings,
    notifier_chain::{
        Chain,
        Link, //
    },
    rcu::dereference, //
};

/// The routing netlink lock: evidence that the configuration of devices does not change.
///
/// # Invariants
///
/// The lock is held by this thread as long as the object exists.
pub(crate) struct Rtnl(NotThreadSafe);

impl Rtnl {
    /// Takes the lock. Process context; sleeps.
    pub(crate) fn lock() -> RtnlGuard {
        // SAFETY: No requirements but process context.
        unsafe { bindings::rtnl_lock() };
        // INVARIANT: It has just been taken.
        RtnlGuard(Rtnl(NotThreadSafe))
    }

    /// Returns the device that has this name, or this altname.
    pub(crate) fn find_by_name<'a>(
        &'a self,
        net: &Namespace,
        name: &CStr,
    ) -> Option<&'a NetDevice> {
        // SAFETY: The namespace is valid, the name terminated, and the lock held.
        let dev = unsafe { bindings::__dev_get_by_name(net.0.as_ptr(), name.as_char_ptr()) };
        // SAFETY: The device does not go away while the lock is held.
        unsafe { NetDevice::from_raw(dev) }
    }

    /// Returns the Ethernet device with this address.
    pub(crate) fn find_by_address<'a>(
        &'a self,
        net: &Namespace,
        address: &[u8; 6],
    ) -> Option<&'a NetDevice> {
        // SAFETY: The namespace is valid, the address as long as an Ethernet device's, and the lock
        // held.
        let dev = unsafe {
            bindings::dev_getbyhwaddr(
                net.0.as_ptr(),
                bindings::ARPHRD_ETHER as u16,
                address.as_ptr().cast(),
            )
        };
        // SAFETY: The device does not go away while the lock is held.
        unsafe { NetDevice::from_raw(dev) }
    }
}

/// A lock taken by [`Rtnl::lock`]; released when dropped.
pub(crate) struct RtnlGuard(Rtnl);

impl core::ops::Deref for RtnlGuard {
    type Target = Rtnl;

    fn deref(&self) -> &Rtnl {
        &self.0
    }
}

impl Drop for RtnlGuard {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held.
        unsafe { bindings::rtnl_unlock() };
    }
}

/// The network namespace of the current task.
///
/// # Invariants
///
/// The pointer is valid for this thread, which keeps the namespace alive.
pub(crate) struct Namespace(NonNull<bindings::net>, NotThreadSafe);

impl Namespace {
    /// Returns the namespace of the current task; [`None`] if the task is exiting. Process context.
    pub(crate) fn current() -> Option<Self> {
        // SAFETY: Only the task itself changes the pointer, and it holds the namespaces.
        let nsproxy = unsafe { (*kernel::current!().as_ptr()).nsproxy };
        let nsproxy = NonNull::new(nsproxy.cast::<bindings::nsproxy>())?;
        // SAFETY: As above.
        let net = unsafe { (*nsproxy.as_ptr()).net_ns };
        // INVARIANT: The task holds a reference to its namespace.
        NonNull::new(net).map(|net| Self(net, NotThreadSafe))
    }

    /// Returns whether this is the first namespace (`init_net`). Any context.
    pub(crate) fn is_initial(&self) -> bool {
        ptr::eq(self.0.as_ptr(), &raw const bindings::init_net)
    }

    /// Returns whether the device with this index has a carrier; [`None`] if it is gone. Any
    /// context.
    pub(crate) fn has_carrier(&self, index: Index) -> Option<bool> {
        let _guard = rcu::read_lock();
        // SAFETY: The namespace is valid, and the RCU read lock held, which keeps the device.
        let dev = unsafe {
            NetDevice::from_raw(bindings::dev_get_by_index_rcu(self.0.as_ptr(), index.0))
        };
        dev.map(NetDevice::has_carrier)
    }
}

/// The index of a device in its namespace, a positive number.
///
/// Devices in different namespaces may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index(c_int);

impl Index {
    /// Returns the index as an unsigned number, as most functions want it.
    pub(super) fn as_u32(self) -> u32 {
        // It is positive.
        self.0 as u32
    }
}

impl From<Index> for i32 {
    fn from(index: Index) -> Self {
        index.0
    }
}

/// A network device.
///
/// # Invariants
///
/// References exist only while the device cannot go away.
#[repr(transparent)]
pub(crate) struct NetDevice(Opaque<bindings::net_device>);

impl NetDevice {
    /// # Safety
    ///
    /// `dev` must be null or a device that does not go away during `'a`.
    pub(super) unsafe fn from_raw<'a>(dev: *mut bindings::net_device) -> Option<&'a Self> {
        // SAFETY: The type is transparent, and the caller promises the rest.
        unsafe { dev.cast::<Self>().as_ref() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::net_device {
        self.0.get()
    }

    /// Returns a bit of the link state (`enum netdev_state_t`).
    fn state(&self, bit: bindings::netdev_state_t) -> bool {
        // SAFETY: The device is valid; C code changes the word with atomic operations.
        let state = unsafe { (&raw const (*self.as_ptr()).state).read_volatile() };
        state & (1 << bit) != 0
    }

    /// Returns whether the device is up (`netif_running()`). Any context.
    pub(crate) fn is_running(&self) -> bool {
        self.state(bindings::netdev_state_t___LINK_STATE_START)
    }

    /// Returns whether the device is there, and not suspended (`netif_device_present()`). Any
    /// context.
    pub(super) fn is_present(&self) -> bool {
        self.state(bindings::netdev_state_t___LINK_STATE_PRESENT)
    }

    /// Returns whether the device has a carrier (`netif_carrier_ok()`). Any context.
    pub(crate) fn has_carrier(&self) -> bool {
        !self.state(bindings::netdev_state_t___LINK_STATE_NOCARRIER)
    }

    /// Returns the name, which may change when the lock is not held.
    pub(crate) fn name<'a>(&'a self, _rtnl: &'a Rtnl) -> &'a CStr {
        // SAFETY: The device is valid, its name terminated, and not changed while the lock is held.
        unsafe { CStr::from_char_ptr((&raw const (*self.as_ptr()).name).cast()) }
    }

    /// Returns the index, which changes with the namespace. Any context.
    pub(crate) fn index(&self) -> Index {
        // SAFETY: The device is valid.
        Index(unsafe { (&raw const (*self.as_ptr()).ifindex).read_volatile() })
    }

    /// Returns the Ethernet address; [`None`] if it is another kind of device. Any context.
    ///
    /// An address that changes meanwhile may be seen half changed, as by C code.
    pub(crate) fn ethernet_address(&self) -> Option<[u8; 6]> {
        // SAFETY: The device is valid; a bond may change its kind. The pointer stays as it is, and
        // there are `MAX_ADDR_LEN` bytes, 32, whatever the length of the address.
        unsafe {
            let dev = self.as_ptr();
            let kind = u32::from((&raw const (*dev).type_).read_volatile());
            let len = (&raw const (*dev).addr_len).read_volatile();
            let ethernet = kind == bindings::ARPHRD_ETHER || kind == bindings::ARPHRD_LOOPBACK;
            (ethernet && len == 6).then(|| (*dev).dev_addr.cast::<[u8; 6]>().read_volatile())
        }
    }

    /// Returns the room that the driver wants before an Ethernet frame without its header
    /// (`LL_RESERVED_SPACE()`), and behind it.
    pub(crate) fn reserved_space(&self) -> (usize, usize) {
        // The alignment of `LL_RESERVED_SPACE()`, `HH_DATA_MOD`.
        const ALIGN: usize = 16;
        let dev = self.as_ptr();
        // SAFETY: The device is valid; C code reads these with `READ_ONCE()`.
        let (header, head, tail) = unsafe {
            (
                (&raw const (*dev).hard_header_len).read_volatile(),
                (&raw const (*dev).needed_headroom).read_volatile(),
                (&raw const (*dev).needed_tailroom).read_volatile(),
            )
        };
        let before = usize::from(header) + usize::from(head);
        ((before & !(ALIGN - 1)) + ALIGN, usize::from(tail))
    }

    /// Returns the private flags: `priv_flags` in the low 32 bits, and `lltx` above them. Any
    /// context.
    pub(super) fn private_flags(&self) -> u64 {
        // SAFETY: The device is valid, and the group of these bit fields is one `unsigned long`.
        unsafe {
            let group = self
                .as_ptr()
                .byte_add(bindings::NET_DEVICE_PRIV_FLAGS_OFFSET);
            group.cast::<u64>().read_volatile()
        }
    }

    /// Returns the device that this one is part of: a bond, a bridge, a VRF or the like.
    pub(crate) fn master<'a>(&self, _rtnl: &'a Rtnl) -> Option<&'a NetDevice> {
        // SAFETY: The device is valid, and the lock held, which keeps the master, too.
        unsafe { Self::from_raw(bindings::netdev_master_upper_dev_get(self.as_ptr())) }
    }

    /// Returns whether the device is a port of a bond, a bridge, a team or a failover device, which
    /// send and receive by it. Devices in a VRF, Open vSwitch or batman-adv are none.
    pub(crate) fn is_port(&self, rtnl: &Rtnl) -> bool {
        // A bond and Hyper-V's driver mark their ports; a team does, too, but only after it has
        // told that it has one.
        //
        // SAFETY: The device is valid; C code reads the flags so, too.
        let flags = unsafe { (&raw const (*self.as_ptr()).flags).read_volatile() };
        let takes = |master: &Self| {
            master.private_flags() & u64::from(bindings::DEV_HAS_PORTS) != 0
                || flags & bindings::DEV_SLAVE != 0
        };
        self.master(rtnl).is_some_and(takes)
    }

    /// Returns the index of the VRF that the device is part of; [`None`] if it is in none. Any
    /// context.
    pub(crate) fn vrf(&self) -> Option<Index> {
        let _guard = rcu::read_lock();
        // SAFETY: The device is valid, and the RCU read lock held, which keeps the master.
        let master =
            unsafe { Self::from_raw(bindings::netdev_master_upper_dev_get_rcu(self.as_ptr())) };
        master
            .filter(|master| master.private_flags() & u64::from(bindings::DEV_VRF) != 0)
            .map(Self::index)
    }

    /// Returns whether this is one of the names of the device (`ip link property add altname`).
    pub(crate) fn is_called(&self, name: &CStr, _rtnl: &Rtnl) -> bool {
        // SAFETY: The device is valid, its namespace is there as long as the device is in it, which
        // is so while the lock is held, and the name is terminated.
        let named = unsafe {
            let net = (&raw const (*self.as_ptr()).nd_net.net).read_volatile();
            bindings::__dev_get_by_name(net, name.as_char_ptr())
        };
        ptr::eq(named, self.as_ptr())
    }

    /// Returns whether the device is of this kind (`DEVTYPE` in its `uevent`). Any context.
    pub(super) fn is_of_kind(&self, kind: &CStr) -> bool {
        // SAFETY: The device is valid; its kind is set before it is registered, and has a
        // terminated name or none.
        unsafe {
            let ours = (*self.as_ptr()).dev.type_;
            let name = match ours.is_null() {
                true => ptr::null(),
                false => (*ours).name,
            };
            !name.is_null() && CStr::from_char_ptr(name) == kind
        }
    }

    /// Returns the longest packet that the device is to be given, in bytes, without its Ethernet
    /// header. Any context.
    pub(crate) fn mtu(&self) -> usize {
        // SAFETY: The device is valid; C code reads this with `READ_ONCE()`.
        unsafe { (&raw const (*self.as_ptr()).mtu).read_volatile() as usize }
    }

    /// Returns whether the device is neither being set up nor going away.
    pub(crate) fn is_registered(&self, _rtnl: &Rtnl) -> bool {
        // SAFETY: The device is valid.
        let state = unsafe { (*self.as_ptr()).reg_state };
        bindings::netdev_reg_state::from(state) == bindings::netdev_reg_state_NETREG_REGISTERED
    }

    /// Brings the device up. Process context.
    pub(crate) fn open(&self, _rtnl: &Rtnl) -> Result {
        // SAFETY: The device is valid, and the lock held.
        to_result(unsafe { bindings::dev_open(self.as_ptr(), ptr::null_mut()) })
    }

    /// Returns an IPv4 address of the device: `keep` if it has that, else the first, which is a
    /// primary one. Any context.
    ///
    /// Addresses are removed and added one by one, so there may be none for a moment.
    pub(crate) fn ipv4(&self, keep: Option<Ipv4Addr>, guard: &rcu::Guard) -> Option<Ipv4Addr> {
        // SAFETY: The device is valid, and this part of it is freed only after a grace period.
        let in_dev = unsafe { dereference(&raw mut (*self.as_ptr()).ip_ptr, guard) };
        if in_dev.is_null() {
            return None;
        }
        let mut first = None;
        // SAFETY: It is valid, as above. Addresses, too, are freed only after a grace period.
        let mut address = unsafe { dereference(&raw mut (*in_dev).ifa_list, guard) };
        while !address.is_null() {
            // SAFETY: It is valid, as above. Other fields of it may change, so there is no
            // reference.
            let local = unsafe { (&raw const (*address).ifa_local).read_volatile() };
            let ip = Ipv4Addr::from(u32::from_be(local));
            if Some(ip) == keep {
                return keep;
            }
            first = first.or(Some(ip));
            // SAFETY: As above.
            address = unsafe { dereference(&raw mut (*address).ifa_next, guard) };
        }
        first
    }

    /// Returns an IPv6 address of the device to reach `remote` with: of the same scope, link-local
    /// or not. Any context.
    ///
    /// In order of preference: one in use for good, a deprecated one (RFC 4862), a temporary one
    /// (RFC 8981), one that is still being checked for duplicates; of several, `keep`, else the
    /// first. A duplicate of another host's is never taken. [`super::notifier`] tells that an
    /// address comes or goes, not that its check has ended.
    pub(crate) fn ipv6(
        &self,
        remote: Ipv6Addr,
        keep: Option<Ipv6Addr>,
        guard: &rcu::Guard,
    ) -> Option<Ipv6Addr> {
        /// From the best, 0, to the worst.
        fn rank(flags: u32) -> u8 {
            if flags & bindings::IFA_F_TENTATIVE != 0 {
                3
            } else if flags & bindings::IFA_F_TEMPORARY != 0 {
                2
            } else if flags & bindings::IFA_F_DEPRECATED != 0 {
                1
            } else {
                0
            }
        }

        let link_local = is_link_local(remote);
        let mut best: Option<((u8, bool), Ipv6Addr)> = None;
        // SAFETY: The device is valid, and this part of it is freed only after a grace period.
        let idev = unsafe { dereference(&raw mut (*self.as_ptr()).ip6_ptr, guard) };
        if idev.is_null() {
            return None;
        }
        // SAFETY: `idev` is valid, as above.
        let head = unsafe { &raw mut (*idev).addr_list };
        // SAFETY: The head is valid. Entries of this list are freed only after a grace period, and
        // until then their `next` leads on.
        let mut entry = unsafe { dereference(&raw mut (*head).next, guard) };
        while entry != head {
            // SAFETY: The entry is not the head, so it is in an address that is not freed yet. Its
            // address does not change; its flags may.
            let (ip, flags) = unsafe {
                let address = container_of!(entry, bindings::inet6_ifaddr, if_list);
                (
                    (&raw const (*address).addr.in6_u.u6_addr8).read(),
                    (&raw const (*address).flags).read_volatile(),
                )
            };
            let ip = Ipv6Addr::from(ip);
            let rank = (rank(flags), Some(ip) != keep);
            let usable = flags & bindings::IFA_F_DADFAILED == 0;
            if usable
                && is_link_local(ip) == link_local
                && best.is_none_or(|(other, _)| rank < other)
            {
                best = Some((rank, ip));
            }
            // SAFETY: As above.
            entry = unsafe { dereference(&raw mut (*entry).next, guard) };
        }
        best.map(|(_, ip)| ip)
    }

    /// Returns an address of the device to reach `remote` with, of the same family: see
    /// [`Self::ipv4`] and [`Self::ipv6`]. Any context.
    pub(crate) fn address_for(
        &self,
        remote: IpAddr,
        keep: Option<IpAddr>,
        guard: &rcu::Guard,
    ) -> Option<IpAddr> {
        match (remote, keep) {
            (IpAddr::V4(_), Some(IpAddr::V4(keep))) => self.ipv4(Some(keep), guard).map(IpAddr::V4),
            (IpAddr::V4(_), _) => self.ipv4(None, guard).map(IpAddr::V4),
            (IpAddr::V6(remote), Some(IpAddr::V6(keep))) => {
                self.ipv6(remote, Some(keep), guard).map(IpAddr::V6)
            }
            (IpAddr::V6(remote), _) => self.ipv6(remote, None, guard).map(IpAddr::V6),
        }
    }
}

/// Returns whether an address is valid on one link only: a link-local one, or a group of that scope
/// (RFC 4291, 2.5.6 and 2.7).
fn is_link_local(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02
}

/// An event of a device.
///
/// A device that is moved to another namespace goes away there and appears here, maybe with another
/// name and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The device has appeared.
    Register,
    /// The device goes away: all who hold it must let it go. May come more than once.
    Unregister,
    /// The device has another name.
    Rename,
    /// The device has another hardware address.
    ChangeAddress,
    /// The device has been brought up.
    Up,
    /// The device has been brought down.
    Down,
    /// The carrier, the flags, or an altname of a device that is up have changed.
    Change,
    /// The device becomes part of a bond, a bridge or the like. Not all of these send it.
    Join,
    /// The device has become part of another one, or is no longer: see [`NetDevice::master`].
    ChangeUpper,
    /// The device loses the devices that it was made of.
    Release,
}

impl Event {
    /// Returns the event of this number in C, if it is one of these.
    fn from_raw(event: c_ulong) -> Option<Self> {
        Some(match bindings::netdev_cmd::try_from(event).ok()? {
            bindings::netdev_cmd_NETDEV_REGISTER => Self::Register,
            bindings::netdev_cmd_NETDEV_UNREGISTER => Self::Unregister,
            bindings::netdev_cmd_NETDEV_CHANGENAME => Self::Rename,
            bindings::netdev_cmd_NETDEV_CHANGEADDR => Self::ChangeAddress,
            bindings::netdev_cmd_NETDEV_UP => Self::Up,
            bindings::netdev_cmd_NETDEV_DOWN => Self::Down,
            bindings::netdev_cmd_NETDEV_CHANGE => Self::Change,
            bindings::netdev_cmd_NETDEV_JOIN => Self::Join,
            bindings::netdev_cmd_NETDEV_CHANGEUPPER => Self::ChangeUpper,
            bindings::netdev_cmd_NETDEV_RELEASE => Self::Release,
            _ => return None,
        })
    }
}

/// A listener to device events.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Called in process context for every device in every namespace, with the lock held.
    ///
    /// A new listener gets [`Event::Register`] for every device there is, and [`Event::Up`] if it
    /// is up; when it is unregistered, [`Event::Down`] if the device is up and
    /// [`Event::Unregister`].
    fn event(&self, dev: &NetDevice, event: Event, rtnl: &Rtnl);
}

/// The events of network devices. A blocking chain.
struct Devices;

// SAFETY: These functions are for one chain. It is a blocking one, of which the lock is waited for.
unsafe impl<T: Listener> Chain<T> for Devices {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::register_netdevice_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { bindings::unregister_netdevice_notifier(block) }
    }

    unsafe fn tell(listener: &T, event: c_ulong, data: *mut c_void) {
        let Some(event) = Event::from_raw(event) else {
            return;
        };
        // SAFETY: The chain passes this kind of information, with a device that is valid for the
        // time of the call.
        let dev =
            unsafe { NetDevice::from_raw((*data.cast::<bindings::netdev_notifier_info>()).dev) };
        if let Some(dev) = dev {
            // INVARIANT: The chain is called with the lock held; it is not released here.
            listener.event(dev, event, &Rtnl(NotThreadSafe));
        }
    }
}

/// A registered [`Listener`]; unregistered when dropped. Then the listener gets [`Event::Down`] and
/// [`Event::Unregister`] for every device once more.
#[pin_data]
pub(crate) struct Notifier<T: Listener> {
    #[pin]
    link: Link<T, Devices>,
}

impl<T: Listener> Notifier<T> {
    /// Registers a listener, which is called for the existing devices before this returns. Process
    /// context, without the lock.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            link <- Link::new(listener),
        }? Error)
    }
}
