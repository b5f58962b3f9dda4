// SPDX-License-Identifier: GPL-2.0

//! UDP sockets of the kernel's own, with a callback for arrivals.
//!
//! C headers: [`include/linux/net.h`](srctree/include/linux/net.h),
//! [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use core::{
    mem::{
        offset_of,
        MaybeUninit, //
    },
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
    error::to_result,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        new_mutex,
        rcu,
        Arc,
        Mutex, //
    },
    types::Opaque, //
};

use super::{
    bindings,
    network::Network,
    sockaddr::{
        Address,
        Storage, //
    },
};

// bindgen overlooks members of some structures (those that `-fms-extensions` is about), and the
// kernel crate does not check: let the fields be where C has them.
const _: () = {
    assert!(offset_of!(bindings::net, ns) == bindings::NET_NS_OFFSET);
    assert!(offset_of!(bindings::net_device, nd_net) == bindings::NET_DEVICE_ND_NET_OFFSET);
    assert!(offset_of!(bindings::net_device, ifindex) == bindings::NET_DEVICE_IFINDEX_OFFSET);
    assert!(offset_of!(bindings::net_device, mtu) == bindings::NET_DEVICE_MTU_OFFSET);
    assert!(offset_of!(bindings::net_device, flags) == bindings::NET_DEVICE_FLAGS_OFFSET);
    assert!(
        offset_of!(bindings::net_device, rtnl_link_ops) == bindings::NET_DEVICE_LINK_OPS_OFFSET
    );
    assert!(offset_of!(bindings::socket, sk) == bindings::SOCKET_SK_OFFSET);
    assert!(offset_of!(bindings::msghdr, msg_flags) == bindings::MSGHDR_MSG_FLAGS_OFFSET);
    assert!(size_of::<bindings::msghdr>() == bindings::MSGHDR_SIZE);
};

/// A socket with one owner; released when dropped, in process context.
///
/// # Invariants
///
/// `socket` comes from `sock_create_kern()`, has a `sk`, and is ours.
pub(super) struct RawSocket(NonNull<bindings::socket>);

// SAFETY: The functions that take a socket lock it, and do not mind the thread.
unsafe impl Send for RawSocket {}

impl RawSocket {
    /// Creates a UDP socket. Process context, without the lock of [`super::netdev::Rtnl`]: the
    /// protocol may have to be loaded.
    pub(super) fn new(net: &Network, family: u32) -> Result<Self> {
        let mut socket = ptr::null_mut();
        // SAFETY: The namespace is valid, and the pointer for the result, too.
        to_result(unsafe {
            bindings::sock_create_kern(
                net.as_ptr(),
                family as c_int,
                bindings::sock_type_SOCK_DGRAM as c_int,
                bindings::IPPROTO_UDP as c_int,
                &mut socket,
            )
        })?;
        // INVARIANT: It has just been created.
        NonNull::new(socket).map(Self).ok_or(ENOMEM)
    }

    /// Returns the part that protocols work with; valid as long as the socket.
    pub(super) fn sk(&self) -> *mut bindings::sock {
        // SAFETY: By the type invariants the socket is valid, and it keeps its `sk`.
        unsafe { (*self.0.as_ptr()).sk }
    }

    /// Shares the port with others of the same user that do the same (`SO_REUSEPORT`).
    fn share_port(&self) {
        // SAFETY: The `sk` is valid.
        unsafe { bindings::sock_set_reuseport(self.sk()) };
    }

    /// Binds the socket to the device of its namespace that has this index, or to all devices of
    /// that VRF. Process context; to be called once, before [`Self::bind`] and [`Self::connect`].
    pub(super) fn bind_to_device(&self, index: u32) -> Result {
        // Positive in C, too.
        let index = index as c_int;
        // SAFETY: The `sk` is valid, and not locked by us.
        to_result(unsafe { bindings::sock_bindtoindex(self.sk(), index, true) })
    }

    /// Binds the socket to a local address. Process context.
    pub(super) fn bind(&self, local: &Address) -> Result {
        let (address, len) = local.as_raw();
        // SAFETY: By the type invariants the socket is valid; the address is only read.
        to_result(unsafe { bindings::kernel_bind(self.0.as_ptr(), address, len) })
    }

    /// Connects the socket to a remote address, and looks up the route. Process context.
    pub(super) fn connect(&self, remote: &Address) -> Result {
        let (address, len) = remote.as_raw();
        // SAFETY: As above. Nothing is waited for, UDP being what it is.
        to_result(unsafe { bindings::kernel_connect(self.0.as_ptr(), address, len, 0) })
    }

    /// Returns the callbacks.
    fn callbacks(&self) -> Callbacks {
        let fields = Fields::of(self.sk());
        // SAFETY: The `sk` is valid, and only we change these fields of it.
        unsafe {
            Callbacks {
                data_ready: *fields.data_ready,
                error_report: *fields.error_report,
            }
        }
    }

    /// Replaces the callbacks and their data.
    ///
    /// # Safety
    ///
    /// The callbacks must be prepared for these data, for null, and for the data before; all three
    /// must stay as they are until another call of this and a grace period after it.
    unsafe fn set_callbacks(&self, callbacks: Callbacks, data: *mut c_void) {
        let sk = self.sk();
        // SAFETY: The `sk` is valid.
        unsafe { bindings::lock_sock_nested(sk, 0) };
        let fields = Fields::of(sk);
        // Pointers are read by whoever calls them without the lock, each as a whole.
        //
        // SAFETY: As above. The user data are a pointer that C code accesses atomically, too.
        unsafe {
            Atomic::from_ptr(fields.user_data).store(data, Release);
            fields.data_ready.write_volatile(callbacks.data_ready);
            fields.error_report.write_volatile(callbacks.error_report);
        }
        // SAFETY: It has been locked above.
        unsafe { bindings::release_sock(sk) };
    }

    /// Receives a datagram, and its sender's address in `from`.
    fn recv(&self, buf: &mut [u8], from: &mut Storage) -> Result<Received> {
        // SAFETY: Zeroes are a valid value of it.
        let mut msg: bindings::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        msg.msg_name = from.as_mut_ptr();
        let mut vec = bindings::kvec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: By the type invariants the socket is valid; the header has room for a name, and
        // the vector is one buffer that is ours.
        let len = unsafe {
            bindings::kernel_recvmsg(
                self.0.as_ptr(),
                &mut msg,
                &mut vec,
                1,
                buf.len(),
                bindings::MSG_DONTWAIT as c_int,
            )
        };
        to_result(len)?;
        Ok(Received {
            // Not negative, and at most the length of the buffer.
            len: len as usize,
            truncated: msg.msg_flags & bindings::MSG_TRUNC != 0,
        })
    }

    fn send(&self, datagram: &[u8]) -> Result<usize> {
        // SAFETY: Zeroes are a valid value of it.
        let mut msg: bindings::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        msg.msg_flags = bindings::MSG_DONTWAIT;
        let mut vec = bindings::kvec {
            iov_base: datagram.as_ptr().cast_mut().cast(),
            iov_len: datagram.len(),
        };
        // SAFETY: By the type invariants the socket is valid; the vector is one buffer, which is
        // only read.
        let len = unsafe {
            bindings::kernel_sendmsg(self.0.as_ptr(), &mut msg, &mut vec, 1, datagram.len())
        };
        to_result(len)?;
        Ok(len as usize)
    }
}

impl Drop for RawSocket {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is ours.
        unsafe { bindings::sock_release(self.0.as_ptr()) };
    }
}

/// A callback of a socket.
type Callback = Option<unsafe extern "C" fn(*mut bindings::sock)>;

/// The callbacks of a socket for arrivals.
#[derive(Clone, Copy)]
struct Callbacks {
    data_ready: Callback,
    error_report: Callback,
}

/// The offsets of these fields in `struct sock`, which bindgen gets wrong.
struct Fields {
    data_ready: *mut Callback,
    error_report: *mut Callback,
    user_data: *mut *mut c_void,
}

impl Fields {
    fn of(sk: *mut bindings::sock) -> Self {
        let sk = sk.cast::<u8>();
        Self {
            data_ready: sk.wrapping_add(bindings::SOCK_DATA_READY_OFFSET).cast(),
            error_report: sk.wrapping_add(bindings::SOCK_ERROR_REPORT_OFFSET).cast(),
            user_data: sk.wrapping_add(bindings::SOCK_USER_DATA_OFFSET).cast(),
        }
    }
}

/// An open socket. When dropped it gets its original callbacks back before it is released.
struct Open {
    /// The original callbacks.
    original: Callbacks,
    socket: RawSocket,
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: A socket's own callbacks do not use the data.
        unsafe { self.socket.set_callbacks(self.original, ptr::null_mut()) };
        // Callbacks run in RCU read-side critical sections, or (`udp_abort()`) with the socket
        // locked: none has begun since, and here the last one ends. Expedited while the routing
        // netlink lock is held, which others wait for.
        //
        // SAFETY: Process context.
        unsafe { bindings::synchronize_net() };
    }
}

/// The place of a socket, with its namespace.
#[pin_data]
struct Place {
    /// For comparison only.
    net: *const bindings::net,
    /// [`None`] once it has been closed.
    #[pin]
    open: Mutex<Option<Open>>,
}

// SAFETY: The pointer is never dereferenced; the rest can be sent.
unsafe impl Send for Place {}
// SAFETY: As above.
unsafe impl Sync for Place {}

impl Place {
    fn new(net: &Network, open: Open) -> impl PinInit<Self> {
        let net = net.as_ptr();
        pin_init!(Self {
            net,
            open <- new_mutex!(Some(open), "UdpSocket::open"),
        })
    }

    fn close(&self) {
        let open = self.open.lock().take();
        drop(open);
    }
}

/// All sockets, so that those in a network namespace that ends are closed before it does.
///
/// A socket of the kernel's own does not keep its namespace, which would live for ever otherwise.
/// So the socket must be closed before the namespace ends.
///
/// There is at most one object of this type at a time. When the last reference is dropped the
/// thread must be in process context, without the lock of [`super::netdev::Rtnl`]: it waits for
/// namespaces that are ending, and they wait for that lock.
///
/// # Invariants
///
/// `ops` is registered. Each entry of `all` points to the place of a [`UdpSocket`] that takes it
/// out before it goes away.
#[pin_data(PinnedDrop)]
pub(crate) struct Sockets {
    #[pin]
    all: Mutex<KVec<Entry>>,
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
}

/// The address of a place in a list.
struct Entry(NonNull<Place>);

// SAFETY: `Place: Sync`.
unsafe impl Send for Entry {}

// SAFETY: They can be unregistered from any thread.
unsafe impl Send for Sockets {}
// SAFETY: `ops` is not touched while it is registered, and the rest is `Sync`.
unsafe impl Sync for Sockets {}

/// The registered object, or null: the callback for namespaces gets no pointer to it.
static SOCKETS: Atomic<*mut Sockets> = Atomic::new(ptr::null_mut());

impl Sockets {
    /// Begins to listen to namespaces that end. Process context.
    ///
    /// `EBUSY`: there is an object already.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(&this in Self {
                // INVARIANT: Empty.
                all <- new_mutex!(KVec::new(), "Sockets::all"),
                // INVARIANT: Registered, or not initialized.
                ops <- Opaque::try_ffi_init(move |ops: *mut bindings::pernet_operations| {
                    // SAFETY: The place is valid and ours, and zeroes are a valid value of it.
                    unsafe {
                        ops.write_bytes(0, 1);
                        (*ops).pre_exit = Some(Self::pre_exit);
                    }
                    SOCKETS
                        .cmpxchg(ptr::null_mut(), this.as_ptr(), Full)
                        .map_err(|_| EBUSY)?;
                    // SAFETY: The operations stay where they are until `drop()` unregisters them,
                    // and what the callback uses is initialized.
                    to_result(unsafe { bindings::register_pernet_subsys(ops) })
                        .inspect_err(|_| SOCKETS.store(ptr::null_mut(), Release))
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Adds a place.
    ///
    /// # Safety
    ///
    /// It must be taken out by [`Self::close`] before it goes away, and its namespace must not
    /// begin to end during the call.
    unsafe fn add(&self, place: &Place) -> Result {
        // INVARIANT: As the caller promises.
        Ok(self.all.lock().push(Entry(place.into()), GFP_KERNEL)?)
    }

    /// Closes a place and takes it out of the list, if it is there.
    ///
    /// In this order, with the list locked: a namespace that ends looks for its sockets in the
    /// list, and waits for its lock. One that it does not find is closed, so nothing of the
    /// namespace is used once its parts (the per-CPU counts of sockets, say) are freed.
    fn close(&self, place: &Place) {
        let mut all = self.all.lock();
        place.close();
        all.retain(|entry| entry.0 != place.into());
    }

    /// # Safety
    ///
    /// Only the end of a namespace may call this.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: The object was there before the operations were registered, and waits for this
        // callback when it unregisters them.
        let Some(this) = (unsafe { SOCKETS.load(Acquire).as_ref() }) else {
            return;
        };
        for entry in this.all.lock().iter() {
            // SAFETY: By the type invariants the place is there as long as the list is locked.
            let place = unsafe { entry.0.as_ref() };
            if ptr::eq(place.net, net) {
                place.close();
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Sockets {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants they are registered.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
        SOCKETS.store(ptr::null_mut(), Release);
    }
}

/// A callback for arrivals.
pub(crate) trait Receiver: Send + Sync + 'static {
    /// Called when datagrams or errors (ICMP) have arrived, once for each or less.
    ///
    /// Usually in softirq context, sometimes in process context with locks of the socket held: may
    /// neither sleep nor use the socket. A receiver enqueues a work item that calls
    /// [`UdpSocket::recv`] until that returns `EAGAIN`.
    fn data_ready(&self);
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The length of the datagram in the buffer.
    pub(crate) len: usize,
    /// Whether it has been cut to fit into the buffer.
    pub(crate) truncated: bool,
}

/// The data of a socket's callbacks.
struct Hook<T> {
    /// The original callbacks, which are called as well.
    original: Callbacks,
    receiver: T,
}

impl<T: Receiver> Hook<T> {
    const CALLBACKS: Callbacks = Callbacks {
        data_ready: Some(Self::data_ready),
        error_report: Some(Self::error_report),
    };

    /// # Safety
    ///
    /// `sk` must be a valid socket whose user data is null or a `Self` that stays until a grace
    /// period after it has been made null.
    unsafe fn call(sk: *mut bindings::sock, original: impl FnOnce(&Callbacks) -> Callback) {
        let _guard = rcu::read_lock();
        // SAFETY: The socket is valid, and C code accesses the pointer atomically, too.
        let data = unsafe { Atomic::from_ptr(Fields::of(sk).user_data) }.load(Acquire);
        // SAFETY: As the caller promises, and we are in an RCU read-side critical section.
        if let Some(this) = unsafe { data.cast::<Self>().as_ref() } {
            this.receiver.data_ready();
            if let Some(original) = original(&this.original) {
                // SAFETY: It was to be called with this socket from here.
                unsafe { original(sk) };
            }
        }
    }

    /// # Safety
    ///
    /// Only a socket with [`Self::CALLBACKS`] may call this.
    unsafe extern "C" fn data_ready(sk: *mut bindings::sock) {
        // SAFETY: A socket calls us.
        unsafe { Self::call(sk, |original| original.data_ready) };
    }

    /// # Safety
    ///
    /// Only a socket with [`Self::CALLBACKS`] may call this.
    unsafe extern "C" fn error_report(sk: *mut bindings::sock) {
        // SAFETY: A socket calls us.
        unsafe { Self::call(sk, |original| original.error_report) };
    }
}

/// A UDP socket that exchanges datagrams with one other, and tells a [`Receiver`] when to look.
///
/// It does not keep its network namespace: when that ends, the socket is closed, and all methods
/// say `ESHUTDOWN` from then on. It keeps no device either.
///
/// All of it is for process context; it may be dropped with the lock of [`super::netdev::Rtnl`]
/// held.
///
/// # Invariants
///
/// While the socket in `place` has the callbacks of `hook`, its user data points to `hook`.
///
/// # Examples
///
/// ```ignore
/// struct Wake(Arc<OwnedQueue>, Arc<Drain>);
///
/// impl Receiver for Wake {
///     fn data_ready(&self) {
///         // An item that is queued already will see the new datagram, too.
///         let _ = self.0.enqueue(self.1.clone());
///     }
/// }
///
/// let sockets = Sockets::new()?;
/// let socket = UdpSocket::new(&sockets, &Network::of(dev)?, local, remote, Wake(queue, drain))?;
///
/// // In the work item, and once after the socket has been created:
/// let mut buf = [0; 1500];
/// loop {
///     match socket.recv(&mut buf) {
///         Ok(got) => handle(&buf[..got.len]),
///         Err(EAGAIN | ESHUTDOWN) => break,
///         Err(e) => count(e),
///     }
/// }
/// ```
#[pin_data(PinnedDrop)]
pub(crate) struct UdpSocket<T: Receiver> {
    #[pin]
    place: Place,
    remote: (IpAddr, u16),
    hook: Hook<T>,
    sockets: Arc<Sockets>,
}

impl<T: Receiver> UdpSocket<T> {
    /// Creates a socket in the namespace of a device, bound to `local`, connected to `remote`.
    ///
    /// The port can be shared with other sockets of the same user that allow it (`SO_REUSEPORT`).
    /// The socket is not bound to the device: what comes by another one is received as well, but
    /// only by one of the same VRF. Link-local addresses without a scope are those of the device.
    ///
    /// Not to be called with the lock of [`super::netdev::Rtnl`] held, since the protocol may have
    /// to be loaded. What has arrived meanwhile waits for [`Self::recv`], without the receiver
    /// having been told.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: somebody has the port who does not share it, or not with us.
    /// - `EADDRNOTAVAIL`: `local` is not an address of this machine, or not yet (IPv6: while it is
    ///   checked for duplicates).
    /// - `ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`: there is no route to `remote`, or not yet.
    /// - `EAFNOSUPPORT`: the addresses are of different families, or there is no IPv6 here.
    /// - `EACCES`: `remote` is a broadcast address.
    /// - `EINVAL`: there is something wrong with an address. The address and the port of `remote`
    ///   must not be 0, which would mean anybody.
    /// - `ENODEV`: the scope of an address is no device, or the device has gone.
    /// - Others that say what they say, such as `ENOMEM`.
    pub(crate) fn new(
        sockets: &Arc<Sockets>,
        net: &Network,
        local: SocketAddr,
        remote: SocketAddr,
        receiver: T,
    ) -> Result<Pin<KBox<Self>>> {
        if remote.port() == 0 || remote.ip().is_unspecified() {
            return Err(EINVAL);
        }
        let [raw_local, raw_remote] = [local, remote].map(|ip| Address::new(ip, net.index()));
        let socket = RawSocket::new(net, raw_local.family())?;
        socket.share_port();
        if let Some(vrf) = net.vrf() {
            socket.bind_to_device(vrf.as_u32())?;
        }
        socket.bind(&raw_local)?;
        socket.connect(&raw_remote)?;
        let original = socket.callbacks();

        // INVARIANT: The socket has its original callbacks.
        let this = KBox::pin_init(
            pin_init!(Self {
                place <- Place::new(net, Open { original, socket }),
                remote: (remote.ip(), remote.port()),
                hook: Hook { original, receiver },
                sockets: sockets.clone(),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: `drop()` takes it out. `net` keeps the namespace from ending.
        unsafe { sockets.add(&this.place) }?;
        if let Some(open) = &*this.place.open.lock() {
            let hook = (&raw const this.hook).cast_mut().cast();
            // INVARIANT: These are the callbacks of `hook`, with it.
            //
            // SAFETY: The callbacks mind null. The data before were null; `hook` is pinned, and
            // stays until the socket has been closed, which `drop()` sees to.
            unsafe { open.socket.set_callbacks(Hook::<T>::CALLBACKS, hook) };
        }
        Ok(this)
    }

    fn with<R>(&self, f: impl FnOnce(&RawSocket) -> Result<R>) -> Result<R> {
        let open = self.place.open.lock();
        f(&open.as_ref().ok_or(ESHUTDOWN)?.socket)
    }

    /// Receives a datagram if there is one. Process context; waits for no datagram.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is nothing left; the receiver will be told when there is.
    /// - `ENOTCONN`: a datagram was from somebody else, who sent it before the socket was
    ///   connected. It has been thrown away.
    /// - `ESHUTDOWN`: the namespace of the socket has ended.
    /// - Any other: what ICMP has said of what was sent, such as `ECONNREFUSED`. It is reported
    ///   once, *before* datagrams that are waiting: go on.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> Result<Received> {
        let mut from = Storage::new();
        let received = self.with(|socket| socket.recv(buf, &mut from))?;
        if from.get() == Some(self.remote) {
            Ok(received)
        } else {
            Err(ENOTCONN)
        }
    }

    /// Sends a datagram, which may be empty, and says how many bytes it had. Process context; does
    /// not wait for room.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: too much is waiting to be sent.
    /// - `ESHUTDOWN`: the namespace of the socket has ended.
    /// - Any other: why it could not be sent, or what ICMP has said of one before; this one has not
    ///   been sent.
    pub(crate) fn send(&self, datagram: &[u8]) -> Result<usize> {
        self.with(|socket| socket.send(datagram))
    }
}

#[pinned_drop]
impl<T: Receiver> PinnedDrop for UdpSocket<T> {
    fn drop(self: Pin<&mut Self>) {
        // No callback is left when the receiver goes away.
        self.sockets.close(&self.place);
    }
}
