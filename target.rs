// SPDX-License-Identifier: GPL-2.0

//! One remote logger: what it is to be sent, and its way there.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        rcu,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

use crate::{
    netdev::Port,
    params::{
        self,
        Device,
        MacAddr, //
    },
    sys::{
        netdev::{
            NetDevice,
            Rtnl, //
        },
        rcu::RcuOption,
        utsname, //
    },
    wire::{
        BadRecord,
        Datagrams,
        Dialect,
        Form,
        Record,
        MAX_DATAGRAM, //
    },
};

/// A line about a target in the log.
macro_rules! say {
    ($level:ident, $target:expr, $format:literal $(, $arg:expr)* $(,)?) => {
        $level!("{}: {}\n", $target.name(), format_args!($format $(, $arg)*))
    };
}
pub(crate) use say;

/// The longest that a record waits for devices before it is sent.
const MAX_WAIT: Delta = Delta::from_millis(100);

/// Why a datagram has not been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The device is down.
    Down,
    /// No memory, and the reserve is used up.
    NoMemory,
    /// netpoll has too many frames waiting for the device, or dropped this one.
    Dropped,
    /// It cannot be a datagram.
    TooLong,
}

/// A count that any context may add to.
struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What has become of a target's records.
struct Stats {
    /// Datagrams handed to the device, or to netpoll's queue for it.
    datagrams: Counter,
    /// Datagrams that found neither memory nor a buffer in reserve (upstream's `enomem_count`).
    no_memory: Counter,
    /// Datagrams that the device or netpoll's queue had no room for (upstream's
    /// `xmit_drop_count`).
    dropped: Counter,
    /// Datagrams that were not sent because the device was down.
    down: Counter,
    /// Records and parts of records that cannot be sent: see [`BadRecord`] and [`Lost::TooLong`].
    bad: Counter,
}

/// One remote logger.
///
/// Sending takes no lock: everything that it reads is constant, atomic, or under RCU.
pub(crate) struct Target {
    name: CString,
    config: params::Target,
    /// The way to the logger, while the target is enabled. Changed with [`Rtnl`] held, so that a
    /// device that goes away is always let go.
    port: RcuOption<Port>,
    stats: Stats,
}

impl Target {
    /// Creates a target that is not enabled.
    pub(crate) fn new(name: CString, config: params::Target) -> Result<Arc<Self>> {
        let target = Self {
            name,
            config,
            port: RcuOption::new(None),
            stats: Stats {
                datagrams: Counter::new(),
                no_memory: Counter::new(),
                dropped: Counter::new(),
                down: Counter::new(),
                bad: Counter::new(),
            },
        };
        Ok(Arc::new(target, GFP_KERNEL)?)
    }

    /// The name of its directory in configfs, and in messages.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What the user wants of it.
    pub(crate) fn config(&self) -> &params::Target {
        &self.config
    }

    /// Says what it is, as upstream does.
    pub(crate) fn print_banner(&self) {
        let config = &self.config;
        let ip = if config.remote_ip.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        say!(pr_info, self, "local port {}", config.local_port);
        match config.local_ip {
            Some(local) => say!(pr_info, self, "local {} address {}", ip, local),
            None => say!(pr_info, self, "local {} address of the interface", ip),
        }
        match config.device {
            Device::Name(name) => say!(pr_info, self, "interface name '{}'", name),
            Device::Mac(mac) => say!(pr_info, self, "local ethernet address '{}'", mac),
        }
        say!(pr_info, self, "remote port {}", config.remote_port);
        say!(pr_info, self, "remote {} address {}", ip, config.remote_ip);
        let mac = config.remote_mac.unwrap_or(MacAddr::BROADCAST);
        say!(pr_info, self, "remote ethernet address {}", mac);
    }

    /// Says what has become of its records.
    pub(crate) fn print_stats(&self) {
        let stats = &self.stats;
        say!(
            pr_info,
            self,
            "{} datagrams handed to the device, {} dropped, {} without memory, {} while down, {} bad",
            stats.datagrams.get(),
            stats.dropped.get(),
            stats.no_memory.get(),
            stats.down.get(),
            stats.bad.get()
        );
    }

    /// Whether records are sent. Any context.
    pub(crate) fn is_enabled(&self) -> bool {
        self.port.is_some()
    }

    /// Begins to send by `port`. Process context.
    pub(crate) fn start(&self, port: KBox<Port>, rtnl: &Rtnl) {
        if let Some(old) = self.port.replace(Some(port)) {
            Port::release(old, rtnl);
        }
    }

    /// Stops sending and lets the device go. Process context; sleeps for a grace period.
    pub(crate) fn stop(&self, rtnl: &Rtnl) {
        if let Some(old) = self.port.replace(None) {
            Port::release(old, rtnl);
        }
    }

    /// Whether it sends by this device. Any context.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        let guard = rcu::read_lock();
        self.port.read(&guard).is_some_and(|port| port.is_on(dev))
    }

    /// Sends one record as printk has formatted it for this kind of target.
    ///
    /// Any context with `atomic`: then this module waits for no lock and allocates nothing. Else any
    /// but NMI.
    pub(crate) fn send(&self, record: &[u8], atomic: bool) {
        let guard = rcu::read_lock();
        let Some(port) = self.port.read(&guard) else {
            return;
        };
        if self.config.extended {
            if self.send_extended(port, record, atomic).is_err() {
                self.stats.bad.inc();
            }
        } else {
            for part in record.chunks(MAX_DATAGRAM) {
                let sent = port.send(part.len(), |out| out.copy_from_slice(part), atomic);
                self.count(sent);
            }
        }
    }

    fn send_extended(&self, port: &Port, record: &[u8], atomic: bool) -> Result<(), BadRecord> {
        let release = self.config.release.then(|| utsname::release().to_bytes());
        let form = Form {
            release,
            ..Form::plain(Dialect::Ncrx)
        };
        for datagram in Datagrams::new(Record::parse(record)?, form)? {
            let sent = port.send(datagram.len(), |out| datagram.write(out), atomic);
            self.count(sent);
        }
        Ok(())
    }

    fn count(&self, sent: Result<(), Lost>) {
        match sent {
            Ok(()) => &self.stats.datagrams,
            Err(Lost::Down) => &self.stats.down,
            Err(Lost::NoMemory) => &self.stats.no_memory,
            Err(Lost::Dropped) => &self.stats.dropped,
            Err(Lost::TooLong) => &self.stats.bad,
        }
        .inc();
    }
}

/// All targets.
#[pin_data]
pub(crate) struct Targets {
    /// What those who send see: the same as in `all`.
    published: RcuOption<KVec<Arc<Target>>>,
    /// Taken inside of [`Rtnl`].
    #[pin]
    all: Mutex<KVec<Arc<Target>>>,
}

impl Targets {
    /// Creates an empty list.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                published: RcuOption::new(None),
                all <- new_mutex!(KVec::new(), "Targets::all"),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a target. Process context; sleeps for a grace period.
    pub(crate) fn add(&self, target: Arc<Target>) -> Result {
        let mut all = self.all.lock();
        let mut published = KVec::with_capacity(all.len() + 1, GFP_KERNEL)?;
        all.reserve(1, GFP_KERNEL)?;
        for old in all.iter() {
            published.push(old.clone(), GFP_KERNEL)?;
        }
        published.push(target.clone(), GFP_KERNEL)?;
        let published = KBox::new(published, GFP_KERNEL)?;
        all.push(target, GFP_KERNEL)?;
        drop(self.published.replace(Some(published)));
        Ok(())
    }

    /// Calls `f` for each target until it breaks off. Any context.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Target) -> ControlFlow<()>) {
        let guard = rcu::read_lock();
        let Some(targets) = self.published.read(&guard) else {
            return;
        };
        let _ = targets.iter().try_for_each(|target| f(target));
    }

    /// Waits while a device has many frames queued that it is still to send, but not for long.
    ///
    /// Process context; sleeps. Without this a burst would be thrown away as soon as it is faster
    /// than a device.
    pub(crate) fn wait_for_devices(&self, extended: bool) {
        let began = Instant::<Monotonic>::now();
        while self.congested(extended) && began.elapsed() < MAX_WAIT {
            fsleep(Delta::from_millis(1));
        }
    }

    /// Whether a target of one kind has a device that is worth waiting for.
    fn congested(&self, extended: bool) -> bool {
        let guard = rcu::read_lock();
        let targets = self.published.read(&guard).into_iter().flatten();
        targets
            .filter(|target| target.config.extended == extended)
            .filter_map(|target| target.port.read(&guard))
            .any(Port::is_congested)
    }

    /// Stops the targets that are to be stopped, and says whether there were any.
    ///
    /// Process context; sleeps.
    pub(crate) fn stop_if(&self, rtnl: &Rtnl, stop: impl Fn(&Target) -> bool) -> bool {
        let mut stopped = false;
        for target in self.all.lock().iter() {
            if target.is_enabled() && stop(target) {
                target.stop(rtnl);
                stopped = true;
            }
        }
        stopped
    }
}
