// SPDX-License-Identifier: GPL-2.0

//! A target's device: made ready, used, and let go when it goes away.

use core::net::IpAddr;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
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
        skb::{
            Headers,
            Reserve,
            SkBuff, //
        },
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
/// netpoll puts every frame behind those that wait, without bound, while the link is down. While it
/// is up printk's thread waits for the queue to drain: see [`Port::backlog`].
const MAX_QUEUED: u32 = 64;

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
    /// Whether waiting for the device has been in vain since its queue was last empty.
    given_up: Atomic<bool>,
}

impl Port {
    fn new(dev: &NetDevice, path: Path, queue: Arc<OwnedQueue>, rtnl: &Rtnl) -> Result<KBox<Self>> {
        let (before, after) = dev.reserved_space();
        let size = before + MAX_HEADERS + MAX_DATAGRAM + after;
        let pool = Arc::pin_init(
            pin_init!(Pool {
                reserve: Reserve::new(size),
                refill <- new_work!("Pool::refill"),
            }),
            GFP_KERNEL,
        )?;
        pool.reserve.fill();
        let port = KBox::<Self>::new_uninit(GFP_KERNEL)?;
        Ok(port.write(Self {
            netpoll: Netpoll::new(dev, rtnl)?,
            path,
            pool,
            queue,
            ident: Atomic::new(0),
            given_up: Atomic::new(false),
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

    /// How many frames are worth waiting for, because the device is slow but does send. Any context.
    pub(crate) fn backlog(&self) -> u32 {
        let queued = self.netpoll.queue_len();
        if queued == 0 {
            self.given_up.store(false, Relaxed);
            return 0;
        }
        let sends = self
            .netpoll
            .device()
            .is_some_and(|dev| dev.is_running() && dev.has_carrier());
        if sends && !self.given_up.load(Relaxed) {
            queued
        } else {
            0
        }
    }

    /// Does not have the device waited for until its queue has been empty. Any context.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// Sends a datagram of `len` bytes that `write` fills in.
    ///
    /// Any context. With `atomic`, no lock is waited for and no memory allocated.
    pub(crate) fn send(
        &self,
        len: usize,
        write: impl FnOnce(&mut [u8]),
        atomic: bool,
    ) -> Result<(), Lost> {
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
        let mut skb = self.buffer(headroom + frame_len + after, atomic)?;

        let frame = skb.frame(headroom, frame_len).ok_or(Lost::TooLong)?;
        write(&mut frame[at.payload..]);
        let ident = self.ident.fetch_add(1, Relaxed) as u16;
        if !self.path.write_headers(local_mac, ident, frame) {
            return Err(Lost::TooLong);
        }
        skb.set_headers(Headers {
            protocol: self.path.addresses.ether_type(),
            // Offsets into a frame of at most 62 bytes of headers.
            network: at.network as u16,
            transport: at.transport as u16,
        });
        if self.netpoll.send(skb) {
            Ok(())
        } else {
            Err(Lost::Dropped)
        }
    }

    /// A buffer from the allocator, or from the reserve.
    fn buffer(&self, size: usize, atomic: bool) -> Result<SkBuff, Lost> {
        netpoll::zap_completion_queue();
        for _ in 0..POLLS {
            let fresh = if atomic {
                // The allocator's locks may be held by what this context has interrupted.
                None
            } else {
                SkBuff::new_atomic(size)
            };
            if let Some(skb) = fresh {
                return Ok(skb);
            }
            let reserved = self.pool.reserve.take(size);
            if !atomic {
                // If it is queued already it will see our slot as well.
                let _ = self.queue.enqueue(self.pool.clone());
            }
            if let Some(skb) = reserved {
                return Ok(skb);
            }
            self.netpoll.poll();
        }
        Err(Lost::NoMemory)
    }
}

/// Enables a target: finds its device, brings it up, and sends by it from now on.
///
/// Process context. What goes wrong is said in the log.
pub(crate) fn enable(target: &Target, queue: &Arc<OwnedQueue>) -> Result {
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
        None => take_address(target, dev, &rtnl)?,
    };
    let path = Path {
        addresses: Addresses::new(local_ip, config.remote_ip).ok_or(EINVAL)?,
        local_port: config.local_port,
        remote_port: config.remote_port,
        remote_mac: config.remote_mac.unwrap_or(MacAddr::BROADCAST),
    };
    target.start(Port::new(dev, path, queue.clone(), &rtnl)?, &rtnl);
    Ok(())
}

/// Finds a target's device and sees whether it can be used.
fn find<'a>(target: &Target, net: &Namespace, rtnl: &'a Rtnl) -> Result<&'a NetDevice> {
    let device = &target.config().device;
    let dev = match device {
        Device::Name(name) => CStr::from_bytes_until_nul(name.as_bytes_with_nul())
            .ok()
            .and_then(|name| rtnl.find_by_name(net, name)),
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
fn take_address(target: &Target, dev: &NetDevice, rtnl: &Rtnl) -> Result<IpAddr> {
    let config = target.config();
    match dev.address_for(config.remote_ip, rtnl) {
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
        if self.0.stop_if(rtnl, |target| target.is_on(dev)) {
            let why = match event {
                Event::Unregister => "unregistered",
                Event::Release => "released slaves",
                Event::Join => "is joining a master device",
            };
            let name = dev.name(rtnl);
            pr_info!(
                "network logging stopped on interface {} as it {}\n",
                name,
                why
            );
        }
    }
}
