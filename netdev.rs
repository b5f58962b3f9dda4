// SPDX-License-Identifier: GPL-2.0

//! A target's device: made ready, used, and let go when it goes away.

use core::net::{
    IpAddr,
    SocketAddr, //
};

use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    params::{
        Device,
        MacAddr, //
    },
    sys::{
        netdev::{
            Event,
            Index,
            Listener,
            Namespace,
            NetDevice,
            Rtnl, //
        },
        netpoll::{
            self,
            Netpoll, //
        },
        printk,
        skb::{
            Headers,
            Reserve,
            SkBuff, //
        },
        time::now_ms,
        workqueue::OwnedQueue, //
    },
    target::{
        say,
        Lost,
        Target,
        Targets, //
    },
    udp::{
        Addresses,
        Path,
        MAX_HEADERS, //
    },
    wire::MAX_DATAGRAM,
};

/// How many frames may wait in netpoll's own queue before more are dropped.
///
/// netpoll puts every frame behind those that wait, without bound, while the link is down.
const MAX_QUEUED: u32 = 64;

/// How many frames may wait in it before printk's thread waits for the device: half of them, so
/// that there is room for a record in many fragments.
const MANY_QUEUED: u32 = MAX_QUEUED / 2;

/// For how long a device may have so many before it is not waited for any more, in milliseconds: it
/// would hold up the targets on other devices. netpoll tries a device again every 100 ms.
const PATIENCE_MS: u64 = 1000;

/// Room in a reserved buffer for a device that later wants more before or behind a frame.
const SLACK: usize = 128;

/// How many buffers are kept for when there is no memory: enough for the trace of a crash, during
/// which nothing refills them.
const RESERVED: usize = 256;

/// How often the driver is asked to free what it has sent before a datagram is given up for want
/// of memory (upstream's `find_skb()`).
const POLLS: usize = 10;

/// The buffers that a port keeps in reserve, and the work that refills them.
#[pin_data]
struct Pool {
    reserve: Reserve<RESERVED>,
    #[pin]
    refill: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Pool { self.refill }
}

impl WorkItem for Pool {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.reserve.fill();
    }
}

/// The way to a logger: a device that can send, and the addresses.
pub(crate) struct Port {
    netpoll: Pin<KBox<Netpoll>>,
    path: Path,
    pool: Arc<Pool>,
    queue: Arc<OwnedQueue>,
    /// The identification of the next IPv4 packet.
    ident: Atomic<u32>,
    /// Since when the device has had many frames queued, in milliseconds; 0 if it has not.
    congested_since: Atomic<u64>,
}

impl Port {
    fn new(target: &Target, dev: &NetDevice, path: Path, rtnl: &Rtnl) -> Result<KBox<Self>> {
        let queue = target.shared().queue.clone();
        let (before, after) = dev.reserved_space();
        let size = before + MAX_HEADERS + MAX_DATAGRAM + after + SLACK;
        let pool = Arc::pin_init(
            pin_init!(Pool {
                reserve: Reserve::new(size),
                refill <- new_work!("Pool::refill"),
            }),
            GFP_KERNEL,
        )?;
        let name = CString::try_from_fmt(fmt!("{}", target.name()))?;
        let port = KBox::<Self>::new_uninit(GFP_KERNEL)?;
        // Half a megabyte: not while the lock is held.
        let _ = queue.enqueue(pool.clone());
        // Nothing may fail from here on: to drop netpoll the lock must not be held.
        Ok(port.write(Self {
            netpoll: Netpoll::new(name, dev, rtnl)?,
            path,
            pool,
            queue,
            ident: Atomic::new(0),
            congested_since: Atomic::new(0),
        }))
    }

    /// Lets the device go. Process context.
    pub(crate) fn release(this: KBox<Self>, rtnl: &Rtnl) {
        KBox::into_inner(this).netpoll.release(rtnl);
    }

    /// Whether it sends by this device.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        self.netpoll.is_on(dev)
    }

    /// The device, unless it has been let go. Any context.
    pub(crate) fn device(&self) -> Option<&NetDevice> {
        self.netpoll.device()
    }

    /// The address and port that datagrams are sent from. Any context.
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.path.addresses.local(), self.path.local_port)
    }

    /// The logger's address and port. Any context.
    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.path.addresses.remote(), self.path.remote_port)
    }

    /// Whether the device is slow, but sends, and has not been slow for long. Any context.
    pub(crate) fn is_congested(&self) -> bool {
        let sends = |dev: &NetDevice| dev.is_running() && dev.has_carrier();
        if self.netpoll.queue_len() < MANY_QUEUED || !self.netpoll.device().is_some_and(sends) {
            self.congested_since.store(0, Relaxed);
            return false;
        }
        let now = now_ms();
        let since = match self.congested_since.load(Relaxed) {
            0 => {
                self.congested_since.store(now, Relaxed);
                now
            }
            since => since,
        };
        now.saturating_sub(since) < PATIENCE_MS
    }

    /// Sends a datagram of `len` bytes that `write` fills in.
    ///
    /// Any context in a panic: then this module waits for no lock and allocates nothing. Else any but
    /// NMI.
    pub(crate) fn send(&self, len: usize, write: impl FnOnce(&mut [u8])) -> Result<(), Lost> {
        let dev = self.netpoll.device().ok_or(Lost::Down)?;
        let local_mac = dev.ethernet_address().map(MacAddr).ok_or(Lost::Down)?;
        if !dev.is_running() {
            return Err(Lost::Down);
        }
        if self.netpoll.queue_len() >= MAX_QUEUED {
            return Err(Lost::Dropped);
        }

        let at = self.path.offsets();
        let frame_len = at.payload + len;
        let (before, after) = dev.reserved_space();
        // The room before the frame counts from the IP header, which the driver wants aligned.
        let headroom = before.checked_sub(at.network).ok_or(Lost::TooLong)?;
        let headers = Headers {
            protocol: self.path.addresses.ether_type(),
            network: at.network,
            transport: at.transport,
        };
        let ident = self.ident.fetch_add(1, Relaxed) as u16;
        let frame = self
            .buffer(headroom + frame_len + after)?
            .into_frame(headroom, frame_len, headers, |frame| {
                write(&mut frame[at.payload..]);
                self.path.write_headers(local_mac, ident, frame)
            })
            .ok_or(Lost::TooLong)?;
        if self.netpoll.send(frame) {
            Ok(())
        } else {
            Err(Lost::Dropped)
        }
    }

    /// A buffer from the allocator, or from the reserve.
    fn buffer(&self, size: usize) -> Result<SkBuff, Lost> {
        if printk::panic_in_progress() {
            // The allocator's locks may be held by what this context has interrupted, or by a CPU
            // that has been stopped.
            return self.pool.reserve.take(size).ok_or(Lost::NoMemory);
        }
        netpoll::zap_completion_queue();
        if let Some(skb) = SkBuff::new_atomic(size) {
            return Ok(skb);
        }
        // Ours is not the last slot that it fills if it is queued already.
        let _ = self.queue.enqueue(self.pool.clone());
        let irqs_off = local_interrupt_disable();
        for _ in 0..POLLS {
            let skb = self.pool.reserve.take(size);
            if let Some(skb) = skb.or_else(|| SkBuff::new_atomic(size)) {
                return Ok(skb);
            }
            self.netpoll.poll(&irqs_off);
        }
        Err(Lost::NoMemory)
    }
}

/// Enables a target: finds its device, brings it up, and sends by it from now on.
///
/// Process context. What goes wrong is said in the log.
pub(crate) fn enable(target: &Target) -> Result {
    let config = target.config();
    let net = Namespace::current().ok_or(ENODEV)?;
    let mut rtnl = Rtnl::lock();
    let mut dev = find(target, &net, &rtnl)?;
    if !dev.is_running() {
        say!(
            pr_info,
            target,
            "device {} not up yet, forcing it",
            config.device
        );
        let index = dev.index();
        dev.open(&rtnl)
            .inspect_err(|_| say!(pr_err, target, "failed to open {}", config.device))?;
        drop(rtnl);
        wait_for_carrier(target, &net, index);
        rtnl = Rtnl::lock();
        // Anything may have happened to it while the lock was not held.
        dev = find(target, &net, &rtnl)?;
    }

    let local_ip = match config.local_ip {
        Some(ip) => ip,
        None => take_address(target, dev)?,
    };
    let path = Path {
        addresses: Addresses::new(local_ip, config.remote_ip).ok_or(EINVAL)?,
        local_port: config.local_port,
        remote_port: config.remote_port,
        remote_mac: config.remote_mac.unwrap_or(MacAddr::BROADCAST),
    };
    let port = Port::new(target, dev, path, &rtnl).inspect_err(|e| {
        say!(
            pr_err,
            target,
            "netpoll setup failed (error {})",
            e.to_errno()
        )
    })?;
    target.start(port, &rtnl);
    Ok(())
}

/// Finds a target's device and sees whether it can be used.
fn find<'a>(target: &Target, net: &Namespace, rtnl: &'a Rtnl) -> Result<&'a NetDevice> {
    let device = &target.config().device;
    let dev = match device {
        Device::Name(name) => rtnl.find_by_name(net, name.as_c_str()),
        Device::Mac(MacAddr(address)) => rtnl.find_by_address(net, address),
    };
    let Some(dev) = dev else {
        say!(pr_err, target, "{} doesn't exist, aborting", device);
        return Err(ENODEV);
    };
    if dev.is_enslaved(rtnl) {
        say!(pr_err, target, "{} is a slave device, aborting", device);
        return Err(EBUSY);
    }
    if dev.ethernet_address().is_none() {
        say!(
            pr_err,
            target,
            "{} is not an Ethernet device, aborting",
            device
        );
        return Err(EOPNOTSUPP);
    }
    Ok(dev)
}

/// Waits for a device's carrier, for as long as netpoll's parameter says.
fn wait_for_carrier(target: &Target, net: &Namespace, index: Index) {
    let at_most = Delta::from_secs(netpoll::carrier_timeout().into());
    let began = Instant::<Monotonic>::now();
    while net.has_carrier(index) == Some(false) {
        if began.elapsed() > at_most {
            say!(pr_notice, target, "timeout waiting for carrier");
            return;
        }
        fsleep(Delta::from_millis(1));
    }
}

/// The address of the device to send from, if none was given.
fn take_address(target: &Target, dev: &NetDevice) -> Result<IpAddr> {
    let config = target.config();
    let address = dev.address_for(config.remote_ip, &rcu::read_lock());
    match address {
        Some(ip) => {
            let version = if ip.is_ipv4() { "IP" } else { "IPv6" };
            say!(pr_info, target, "local {} {}", version, ip);
            Ok(ip)
        }
        None => {
            let version = if config.remote_ip.is_ipv4() {
                "IP"
            } else {
                "IPv6"
            };
            say!(
                pr_err,
                target,
                "no {} address for {}, aborting",
                version,
                config.device
            );
            Err(EDESTADDRREQ)
        }
    }
}

/// Stops the targets whose device goes away or becomes part of another.
pub(crate) struct Watch(pub(crate) Arc<Targets>);

impl Listener for Watch {
    fn event(&self, dev: &NetDevice, event: Event, rtnl: &Rtnl) {
        let why = match event {
            Event::Unregister => "unregistered",
            Event::Release => "released slaves",
            Event::Join => "is joining a master device",
            _ => return,
        };
        if self.0.stop_if(rtnl, |target| target.is_on(dev)) {
            let name = dev.name(rtnl);
            pr_info!(
                "network logging stopped on interface {} as it {}\n",
                name,
                why
            );
        }
    }
}
