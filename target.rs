// SPDX-License-Identifier: GPL-2.0

//! One remote logger: what it is to be sent, and its way there.

pub(crate) mod acks;
pub(crate) mod catch_up;
pub(crate) mod enable;
pub(crate) mod extradata;
pub(crate) mod list;
pub(crate) mod path_refresh;
pub(crate) mod port;
pub(crate) mod stats;
pub(crate) mod status;
mod transmit;
pub(crate) mod userdata;
pub(crate) mod worker;

use core::net::IpAddr;

use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        new_spinlock_irq,
        rcu,
        Arc,
        Mutex,
        SpinLockIrq, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue::{
        new_work,
        Work, //
    },
};

use crate::{
    log::Log,
    params,
    proto::{
        cmdline::Device,
        config::{
            Config,
            Settings, //
        },
        udp::Path,
        wire::Session, //
    },
    sys::{
        netdev::{
            NetDevice,
            Rtnl, //
        },
        rcu::RcuOption,
        socket::{
            Receiver,
            Sockets, //
        },
        workqueue::OwnedQueue, //
    },
    target::{
        acks::Acks,
        extradata::Extradata,
        port::Port,
        stats::Stats, //
    },
};

pub(crate) use transmit::{
    SendFlags,
    TxPermit, //
};

/// A line about a target in the log.
macro_rules! say {
    ($level:ident, $target:expr, $format:literal $(, $arg:expr)* $(,)?) => {
        $level!("{}: {}\n", $target.name(), format_args!($format $(, $arg)*))
    };
}
pub(crate) use say;

/// The longest that a record waits for devices before it is sent.
pub(crate) const MAX_WAIT: Delta = Delta::from_millis(100);

/// What all targets share.
pub(crate) struct Shared {
    /// What is wanted of a target that does not say it.
    pub(crate) settings: Settings,
    /// This load of the module.
    pub(crate) session: Session,
    /// Records by number.
    pub(crate) log: Arc<Log>,
    /// Where their work is done.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Their sockets.
    pub(crate) sockets: Arc<Sockets>,
}

/// What the timer remembers of a target, to see whether records wait without being sent.
pub(crate) struct Progress {
    /// What [`Target::sent_end`] was.
    pub(crate) end: Atomic<u64>,
    /// Since when it has been that, in milliseconds.
    pub(crate) since: Atomic<u64>,
    /// The record to go on with, if some after the last one sent are hidden.
    pub(crate) from: Atomic<u64>,
    /// In a panic: the last record of the backlog that has been sent again.
    pub(crate) repeated: Atomic<u64>,
}

/// The first record that a target is sent when it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartAt {
    /// The oldest in the log.
    Oldest,
    /// The next that is logged; older ones can be asked for.
    Now,
    /// The one after the last that it was sent before it was stopped.
    LastTime,
}

/// Whether a target sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No, and it will not by itself.
    Disabled,
    /// Yes.
    Enabled,
    /// Its device is not there: it is enabled again when that is back.
    Deactivated,
}

/// One remote logger.
///
/// Transmitting takes no lock but for the permit: everything that it reads is constant, atomic, or
/// under RCU.
#[pin_data]
pub(crate) struct Target {
    name: CString,
    shared: Arc<Shared>,
    /// What the user wants. A leaf lock.
    #[pin]
    config: Mutex<Config>,
    /// A [`State`]; changed with [`Rtnl`] held.
    state: Atomic<u32>,
    /// The device, while the target is enabled. Changed with [`Rtnl`] held, so that a device that
    /// goes away is always let go.
    port: RcuOption<Port>,
    /// The addresses, while the target is enabled. Changed with [`Rtnl`] held.
    path: RcuOption<Path>,
    /// What is sent behind records.
    #[pin]
    extradata: Extradata,
    /// The number after the last record that has been sent; 0 if none has.
    sent_end: Atomic<u64>,
    /// The number of the first record that it is sent without being asked for.
    first_seq: Atomic<u64>,
    /// Whether records wait that were logged while it could not be sent any: see
    /// `target/catch_up.rs`.
    behind: Atomic<bool>,
    /// Held by who transmits records for the first time: printk's thread, the work item, or, if
    /// they are stuck, the timer. See [`TxPermit`].
    #[pin]
    tx_lock: SpinLockIrq<()>,
    /// How the timer finds out that the thread is stuck.
    pub(crate) progress: Progress,
    #[pin]
    acks: Acks<Wake>,
    /// Run by `target/worker.rs`.
    #[pin]
    pub(crate) work: Work<Self>,
    stats: Stats,
}

impl Target {
    /// Creates a target that is not enabled.
    pub(crate) fn new(name: CString, config: Config, shared: Arc<Shared>) -> Result<Arc<Self>> {
        let (session, settings) = (shared.session, config.settings);
        Arc::pin_init(
            try_pin_init!(Self {
                name,
                shared,
                config <- new_mutex!(config, "Target::config"),
                state: Atomic::new(State::Disabled as u32),
                port: RcuOption::new(None),
                path: RcuOption::new(None),
                extradata <- Extradata::new(),
                sent_end: Atomic::new(0),
                first_seq: Atomic::new(0),
                behind: Atomic::new(false),
                tx_lock <- new_spinlock_irq!((), "Target::tx_lock"),
                progress: Progress {
                    end: Atomic::new(0),
                    since: Atomic::new(0),
                    from: Atomic::new(0),
                    repeated: Atomic::new(0),
                },
                acks <- Acks::new(&settings, session),
                work <- new_work!("Target::work"),
                stats: Stats::default(),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Has its work item run: see `target/worker.rs`. Any context but NMI.
    pub(crate) fn wake(this: &Arc<Self>) {
        // If it is queued already it will see what has happened.
        let _ = this.shared.queue.enqueue(this.clone());
    }

    /// The name of its directory in configfs, and in messages.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What it shares with the others.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What has to do with responses.
    pub(crate) fn acks(&self) -> &Acks<Wake> {
        &self.acks
    }

    /// What is sent behind records.
    pub(crate) fn extradata(&self) -> &Extradata {
        &self.extradata
    }

    /// The counts.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the user wants of it. Process context.
    pub(crate) fn config(&self) -> Config {
        *self.config.lock()
    }

    /// Changes what the user wants of it. Process context.
    ///
    /// While it is enabled this changes what is shown, and what it does when it is enabled again.
    pub(crate) fn configure<R>(&self, change: impl FnOnce(&mut Config) -> R) -> R {
        change(&mut self.config.lock())
    }

    /// What it was enabled with; [`None`] if it is not. Any context.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.with_port(|port| port.config().settings)
    }

    /// Whether it is enabled, and of this kind. Any context.
    pub(crate) fn is(&self, extended: bool) -> bool {
        self.with_port(|port| port.config().target.extended) == Some(extended)
    }

    /// Whether it sends. Any context.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            n if n == State::Enabled as u32 => State::Enabled,
            n if n == State::Deactivated as u32 => State::Deactivated,
            _ => State::Disabled,
        }
    }

    /// Whether records are sent. Any context.
    pub(crate) fn is_enabled(&self) -> bool {
        self.port.is_some()
    }

    /// The number after the last record that has been sent; 0 if none has. Any context.
    pub(crate) fn sent_end(&self) -> u64 {
        self.sent_end.load(Relaxed)
    }

    /// The number of the last record that has been sent; [`None`] if none has since it began. Any
    /// context.
    pub(crate) fn sent_seq(&self) -> Option<u64> {
        let end = self.sent_end();
        (end > self.first_seq()).then(|| end - 1)
    }

    /// The number of the first record that it is sent without being asked for. Any context.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq.load(Relaxed)
    }

    /// Looks at the device; [`None`] if the target is not enabled. Any context.
    pub(crate) fn with_port<R>(&self, f: impl FnOnce(&Port) -> R) -> Option<R> {
        let guard = rcu::read_lock();
        self.port.read(&guard).map(f)
    }

    /// The addresses; [`None`] if the target is not enabled. Any context.
    pub(crate) fn path(&self) -> Option<Path> {
        let guard = rcu::read_lock();
        self.path.read(&guard).copied()
    }

    /// Whether it sends by this device. Any context.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        self.with_port(|port| port.is_on(dev)) == Some(true)
    }

    /// Says what it is, as upstream does.
    pub(crate) fn print_banner(&self) {
        let config = self.config().target;
        let ip = ip_version(config.remote_ip);
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
        match config.remote_mac {
            Some(mac) => say!(pr_info, self, "remote ethernet address {}", mac),
            None => say!(pr_info, self, "remote ethernet address of the next hop"),
        }
    }

    /// Says what has become of its records.
    pub(crate) fn print_stats(&self) {
        let (acked, rounds) = {
            let state = self.acks.state().lock();
            (state.peer.acked().unwrap_or(0), state.schedule.rounds())
        };
        let sent = self.sent_seq().unwrap_or(0);
        let stats = &self.stats;
        say!(
            pr_info,
            self,
            "acked_seq={} sent_seq={} {} emergency_rounds={}",
            acked,
            sent,
            stats,
            rounds
        );
    }

    /// Says that it does not send, and whether it will by itself. Process context.
    pub(crate) fn set_idle(&self, state: State, _rtnl: &Rtnl) {
        if !self.is_enabled() {
            self.state.store(state as u32, Relaxed);
        }
    }

    /// Begins to send. Process context; sleeps.
    pub(crate) fn start(&self, port: KBox<Port>, path: KBox<Path>, start_at: StartAt, rtnl: &Rtnl) {
        match start_at {
            // What was logged meanwhile was no oops, or nobody is left to wait for it.
            StartAt::LastTime if params::OOPS_ONLY.value() => self.begin_with(Log::end()),
            StartAt::LastTime => self.behind.store(true, Relaxed),
            StartAt::Oldest => self.begin_with(0),
            StartAt::Now => self.begin_with(Log::end()),
        }
        // The timer gives printk's thread its time anew.
        self.progress.since.store(0, Relaxed);
        drop(self.path.replace(Some(path)));
        if let Some(old) = self.port.replace(Some(port)) {
            Port::release(old, rtnl);
        }
        self.state.store(State::Enabled as u32, Relaxed);
    }

    fn begin_with(&self, seq: u64) {
        let _permit = self.tx_lock.lock();
        self.first_seq.store(seq, Relaxed);
        self.sent_end.store(seq, Relaxed);
        self.behind.store(false, Relaxed);
        self.extradata.begin_with(self.shared.log.count());
    }

    /// Stops sending, closes the socket, and lets the device go. Process context; sleeps.
    pub(crate) fn stop(&self, then: State, rtnl: &Rtnl) {
        self.state.store(then as u32, Relaxed);
        let old = self.port.replace(None);
        self.acks.close();
        if let Some(old) = old {
            Port::release(old, rtnl);
        }
        drop(self.path.replace(None));
    }

    /// Changes what it sends with, if that is still `old`. Process context; sleeps.
    pub(crate) fn redirect(&self, old: &Path, new: KBox<Path>, _rtnl: &Rtnl) {
        if self.is_enabled() && self.path() == Some(*old) {
            drop(self.path.replace(Some(new)));
        }
    }

    /// See [`Port::may_repeat`]. Any context.
    pub(crate) fn may_repeat(&self) -> bool {
        self.with_port(Port::may_repeat) == Some(true)
    }

    /// Whether its device is slow; see [`Port::is_congested`]. Any context.
    pub(crate) fn is_congested(&self) -> bool {
        self.with_port(Port::is_congested) == Some(true)
    }

    /// Waits while the device has many frames queued, but not for long. Process context.
    pub(crate) fn wait_for_device(&self) {
        let began = Instant::<Monotonic>::now();
        while self.is_congested() && began.elapsed() < MAX_WAIT {
            fsleep(Delta::from_millis(1));
        }
    }
}

/// Wakes a target's work item when something has arrived.
pub(crate) struct Wake(pub(crate) Arc<Target>);

impl Receiver for Wake {
    fn data_ready(&self) {
        Target::wake(&self.0);
    }
}

/// The version of IP of an address, in words.
pub(crate) fn ip_version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() {
        "IPv4"
    } else {
        "IPv6"
    }
}
