// SPDX-License-Identifier: GPL-2.0

//! The port of a target: the device that its datagrams leave by, whatever state the machine is in
//! (neither a UDP port nor a port of a bridge).

use kernel::{
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
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
        delay::udelay,
        Delta, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    proto::{
        addr::MacAddr,
        config::Config,
        udp::{
            self,
            MAX_HEADERS, //
        },
        wire::MAX_DATAGRAM, //
    },
    sys::{
        napi,
        netdev::{
            NetDevice,
            Rtnl, //
        },
        netpoll::{
            self,
            Netpoll, //
        },
        panic::{
            self,
            Ending,
            Here,
            Panic, //
        },
        skb::{
            Frame,
            Headers,
            Reserve,
            Reused,
            SkBuff, //
        },
        tx_freeze::{
            self,
            Patience, //
        },
        workqueue::OwnedQueue,
        xmit::{
            self,
            Sharing, //
        }, //
    },
    target::stats::TxError, //
};

/// The most frames in netpoll's own queue. More are dropped.
///
/// netpoll puts every frame behind those that wait, without bound, while the link is down.
const MAX_QUEUED: u32 = 64;

/// The number of frames in netpoll's queue at which no more records are sent: half of the most, so
/// that a record in many fragments still fits. netpoll tries a device again every 100 ms.
const MANY_QUEUED: u32 = MAX_QUEUED / 2;

/// Room in a reserved buffer for a device that later wants more before or behind a frame.
const SLACK: usize = 128;

/// The number of buffers in reserve: enough for the trace of a crash, during which they are not
/// refilled.
const RESERVED: usize = 256;

/// The number of buffers that are used in turn: about what a burst leaves with a driver before that
/// frees any. They take up to 150 KB, for as long as there is a target on the device.
const REUSED: usize = 64;

/// Room before a frame in such a buffer beyond what the device asks for: a driver that wants more
/// cannot have another buffer for a frame that is shared. Half of [`SLACK`].
const MORE_HEADROOM: usize = 64;

/// How often the driver is asked to free what it has sent, before a datagram is given up for want
/// of memory (upstream's `find_skb()`).
const POLLS: usize = 10;

/// How often the driver is asked to take a frame when there is no later, each time after
/// [`ENDING_US`] microseconds: two milliseconds, in which any device sends some frames.
const ENDING_TRIES: u32 = 40;
const ENDING_US: i64 = 50;

/// The number of frames in a row refused by the driver after which it is asked only once for each:
/// the cable may be out.
const HOPELESS: u32 = 8;

/// The reserve of the ports on a device, and the work that refills it.
#[pin_data]
pub(crate) struct Pool {
    reserve: Reserve<RESERVED>,
    /// The buffers of a device that shares frames, while there may be a later.
    reused: Reused<REUSED>,
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

/// A device that a target sends by.
pub(crate) struct Port {
    netpoll: Pin<KBox<Netpoll>>,
    /// The configuration that the target was enabled with.
    config: Config,
    /// Whether the device was found in the first network namespace.
    initial: bool,
    pool: Arc<Pool>,
    queue: Arc<OwnedQueue>,
    /// The identification of the next IPv4 packet.
    ident: Atomic<u32>,
    /// The number of frames in a row that the driver has refused in a crash.
    refused: Atomic<u32>,
    /// Whether buffers were taken from the reserve in a crash.
    used: Atomic<bool>,
}

impl Port {
    /// Makes a device ready to send. `pool` is that of another port on it, if there is one. Process
    /// context; sleeps.
    pub(crate) fn new(
        name: &CStr,
        queue: Arc<OwnedQueue>,
        dev: &NetDevice,
        config: Config,
        initial: bool,
        pool: Option<Arc<Pool>>,
        rtnl: &Rtnl,
    ) -> Result<KBox<Self>> {
        let (before, after) = dev.reserved_space();
        let size = before + MAX_HEADERS + MAX_DATAGRAM + after + SLACK;
        let pool = match pool.filter(|pool| pool.reserve.size() >= size) {
            Some(pool) => pool,
            None => Arc::pin_init(
                pin_init!(Pool {
                    reserve: Reserve::new(size),
                    reused: Reused::new(size),
                    refill <- new_work!("Pool::refill"),
                }),
                GFP_KERNEL,
            )?,
        };
        let name = CString::try_from_fmt(fmt!("{}", name))?;
        let port = KBox::<Self>::new_uninit(GFP_KERNEL)?;
        // Half a megabyte: not while the lock is held.
        let _ = queue.enqueue(pool.clone());
        // Nothing may fail from here on: to drop netpoll the lock must not be held.
        Ok(port.write(Self {
            netpoll: Netpoll::new(name, dev, rtnl)?,
            config,
            initial,
            pool,
            queue,
            ident: Atomic::new(0),
            refused: Atomic::new(0),
            used: Atomic::new(false),
        }))
    }

    /// Lets the device go. Process context.
    pub(crate) fn release(this: KBox<Self>, rtnl: &Rtnl) {
        KBox::into_inner(this).netpoll.release(rtnl);
    }

    /// Returns its reserve, if it sends by this device.
    pub(crate) fn pool_on(&self, dev: &NetDevice) -> Option<Arc<Pool>> {
        self.is_on(dev).then(|| self.pool.clone())
    }

    /// Returns whether it sends by this device.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        self.netpoll.is_on(dev)
    }

    /// Returns the device, unless it has been let go. Any context.
    pub(crate) fn device(&self) -> Option<&NetDevice> {
        self.netpoll.device()
    }

    /// Returns the configuration that the target was enabled with. Any context.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns whether the device was found in the first network namespace, where a deactivated
    /// target looks for it. Any context.
    pub(crate) fn is_initial(&self) -> bool {
        self.initial
    }

    /// Returns whether the device is up and has a carrier: otherwise what it is given may be lost.
    /// A bridge has one when a port forwards. Any context.
    pub(crate) fn has_link(&self) -> bool {
        self.device()
            .is_some_and(|dev| dev.is_running() && dev.has_carrier())
    }

    /// Returns whether the device is congested: it has a link, but does not take frames as fast as
    /// they come. Any context.
    pub(crate) fn is_congested(&self, guard: &rcu::Guard) -> bool {
        self.netpoll.queue_len(guard) >= MANY_QUEUED && self.has_link()
    }

    /// Freezes the device in a panic, while the other CPUs run. Returns whether nobody uses it: see
    /// [`tx_freeze::freeze`]. Any context.
    pub(crate) fn freeze(
        &self,
        patience: &mut Patience,
        here: Here,
        off: &LocalInterruptDisabled,
    ) -> bool {
        self.device()
            .is_none_or(|dev| tx_freeze::freeze(dev, patience, here, off))
    }

    /// Returns whether nobody uses the device: see [`tx_freeze::is_unused`]. Any context on a CPU
    /// that does not go on with what it was doing.
    pub(crate) fn is_unused(&self, patience: &mut Patience, off: &LocalInterruptDisabled) -> bool {
        self.device()
            .is_none_or(|dev| tx_freeze::is_unused(dev, patience, off))
    }

    /// Thaws the device. Any context.
    pub(crate) fn thaw(&self, panic: &Panic) {
        if let Some(dev) = self.device() {
            tx_freeze::thaw(dev, panic);
        }
    }

    /// Returns whether buffers are left for repeats in a crash. Buffers that are lent to the driver
    /// come back, so there always are; otherwise half of them are for first transmissions. Any
    /// context.
    pub(crate) fn may_repeat(&self) -> bool {
        let lends = self.device().and_then(Sharing::new).is_some();
        lends || self.pool.reserve.count() > RESERVED / 2
    }

    /// Refills the reserve if a crash that the machine has survived has used it. Softirq or process
    /// context.
    pub(crate) fn refill(&self) {
        if self.used.load(Relaxed) && !panic::is_ending() {
            self.used.store(false, Relaxed);
            let _ = self.queue.enqueue(self.pool.clone());
        }
    }

    /// Sends a datagram of `len` bytes that `write` fills in.
    ///
    /// | | context | locks | memory |
    /// |---|---|---|---|
    /// | normally | any but NMI | those of netpoll | the allocator, or the reserve |
    /// | in a panic | any | only tried | the reserve |
    pub(crate) fn send(
        &self,
        route: &udp::Headers,
        len: usize,
        write: &mut dyn FnMut(&mut [u8]),
        guard: &rcu::Guard,
    ) -> Result<(), TxError> {
        let dev = self.netpoll.device().ok_or(TxError::Down)?;
        let local_mac = dev.ethernet_address().map(MacAddr).ok_or(TxError::Down)?;
        if !dev.is_running() {
            return Err(TxError::Down);
        }
        let ending = Ending::now();
        if ending.is_none() && self.netpoll.queue_len(guard) >= MAX_QUEUED {
            return Err(TxError::Dropped);
        }

        let path = route.path();
        let at = path.offsets();
        let frame_len = at.payload + len;
        let (before, after) = dev.reserved_space();
        // The room before the frame counts from the IP header, which the driver wants aligned.
        let mut headroom = before.checked_sub(at.network).ok_or(TxError::TooLong)?;
        let headers = Headers {
            protocol: path.addresses.ether_type(),
            network: at.network,
            transport: at.transport,
        };
        let ident = self.ident.fetch_add(1, Relaxed) as u16;
        let size = headroom + frame_len + after;
        let mut lender = None;
        let mut reused = None;
        if let (None, Some(shares)) = (&ending, self.netpoll.lender()) {
            reused = self.pool.reused.take(ident, size + MORE_HEADROOM);
            if reused.is_some() {
                headroom += MORE_HEADROOM;
                lender = Some(shares);
            }
        }
        let buffer = match (reused, &ending) {
            (Some(buffer), _) => buffer,
            (None, Some(ending)) => self.reserved_buffer(dev, size, ending)?,
            (None, None) => self.buffer(size)?,
        };
        let frame = buffer
            .into_frame(headroom, frame_len, headers, &mut |frame| {
                write(&mut frame[at.payload..]);
                route.write(local_mac, ident, frame)
            })
            .ok_or(TxError::TooLong)?;
        let sent = match (ending, lender) {
            (Some(ending), _) => return self.send_at_the_end(dev, frame, &ending),
            (None, None) => self.netpoll.send(frame),
            (None, Some(lender)) => {
                let (lent, sent) = lender.lend(frame);
                self.pool.reused.put(ident, lent);
                sent
            }
        };
        sent.then_some(()).ok_or(TxError::Dropped)
    }

    /// Sends a frame without netpoll; in a panic after the frames that netpoll has queued.
    fn send_at_the_end(
        &self,
        dev: &NetDevice,
        frame: Frame,
        ending: &Ending,
    ) -> Result<(), TxError> {
        panic::with_interrupts_off(|off| {
            xmit::drain(dev, ending, off);
            let sent = self.hand_over(dev, frame, ending, off, |frame| match Sharing::new(dev) {
                Some(dev) => {
                    let lent = dev.lend(frame, ending, off)?;
                    self.pool.reserve.put(lent);
                    Ok(())
                }
                None => xmit::send(dev, frame, ending, off),
            });
            sent.map_err(|frame| {
                self.pool.reserve.put_back(frame);
                TxError::Dropped
            })
        })
    }

    /// Asks the driver to take a frame until it does, for a bounded time.
    fn hand_over(
        &self,
        dev: &NetDevice,
        mut frame: Frame,
        ending: &Ending,
        off: &LocalInterruptDisabled,
        mut send: impl FnMut(Frame) -> Result<(), Frame>,
    ) -> Result<(), Frame> {
        for _ in 0..self.patience() {
            match send(frame) {
                Ok(()) => {
                    self.refused.store(0, Relaxed);
                    return Ok(());
                }
                Err(back) => frame = back,
            }
            // Frames that have been sent may be in its way.
            napi::poll(dev, ending, off);
            udelay(Delta::from_micros(ENDING_US));
        }
        self.refused.fetch_add(1, Relaxed);
        Err(frame)
    }

    /// Returns how often something is tried when there is no later.
    fn patience(&self) -> u32 {
        if self.refused.load(Relaxed) >= HOPELESS {
            1
        } else {
            ENDING_TRIES
        }
    }

    /// Takes a buffer from the reserve: the allocator's locks may be held by the code that this
    /// context has interrupted, or by a CPU that has been stopped.
    fn reserved_buffer(
        &self,
        dev: &NetDevice,
        size: usize,
        ending: &Ending,
    ) -> Result<SkBuff, TxError> {
        for _ in 0..self.patience() {
            if let Some(skb) = self.pool.reserve.take(size) {
                self.used.store(true, Relaxed);
                return Ok(skb);
            }
            // The driver may have sent some of the lent ones.
            panic::with_interrupts_off(|off| napi::poll(dev, ending, off));
            udelay(Delta::from_micros(ENDING_US));
        }
        self.refused.fetch_add(1, Relaxed);
        Err(TxError::NoMemory)
    }

    /// Takes a buffer from the allocator, or from the reserve.
    fn buffer(&self, size: usize) -> Result<SkBuff, TxError> {
        netpoll::zap_completion_queue();
        if let Some(skb) = SkBuff::new_atomic(size) {
            return Ok(skb);
        }
        // If the refill is queued already, it may still fill this slot later.
        let _ = self.queue.enqueue(self.pool.clone());
        let irqs_off = local_interrupt_disable();
        for _ in 0..POLLS {
            let skb = self.pool.reserve.take(size);
            if let Some(skb) = skb.or_else(|| SkBuff::new_atomic(size)) {
                return Ok(skb);
            }
            self.netpoll.poll(&irqs_off);
        }
        Err(TxError::NoMemory)
    }
}
