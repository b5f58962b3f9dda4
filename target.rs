// SPDX-License-Identifier: GPL-2.0

//! A target: one remote logger, and the state of transmission to it.

pub(crate) mod acks;
pub(crate) mod alarm;
pub(crate) mod catch_up;
pub(crate) mod enable;
pub(crate) mod extradata_versions;
pub(crate) mod list;
pub(crate) mod path_refresh;
pub(crate) mod port;
pub(crate) mod stats;
pub(crate) mod status;
mod transmit;
pub(crate) mod userdata;
pub(crate) mod worker;

use core::{
    mem::size_of,
    net::IpAddr, //
};

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
    workqueue::{
        new_work,
        Work, //
    },
};

use crate::{
    log::{
        Buffer,
        Log, //
    },
    params,
    proto::{
        cmdline::Device,
        config::{
            Config,
            Settings, //
        },
        last_sent::PLACES,
        missing::ROOM,
        udp::{
            Headers,
            Path, //
        },
        wire::{
            Range,
            Session, //
        }, //
    },
    sys::{
        netdev::{
            NetDevice,
            Rtnl, //
        },
        rcu::RcuOption,
        socket::{
            Receiver,
            Sockets,
            UdpSocket, //
        },
        workqueue::OwnedQueue, //
    },
    target::{
        acks::Acks,
        alarm::Alarm,
        extradata_versions::Extradata,
        port::Port,
        stats::Stats, //
    },
};

pub(crate) use transmit::{
    Given,
    SendFlags,
    TxPermit, //
};

// A further target on a device takes no more memory of this module than this, its userdata aside:
// the objects of one, and the tables that they point to.
const _: () = {
    const MAX_TARGET: usize = 96 * 1024;
    let tables = PLACES * size_of::<u64>() + ROOM * size_of::<Range>();
    let objects = size_of::<Target>() + size_of::<Port>() + size_of::<Headers>();
    assert!(tables + objects + size_of::<UdpSocket<Wake>>() <= MAX_TARGET);
};

/// A line about a target in the log.
macro_rules! say {
    ($level:ident, $target:expr, $format:literal $(, $arg:expr)* $(,)?) => {
        $level!("{}: {}\n", $target.name(), format_args!($format $(, $arg)*))
    };
}
pub(crate) use say;

/// A time that never comes, in milliseconds.
pub(crate) const NEVER: u64 = u64::MAX;

/// The time to a work item's next look while something is amiss, in milliseconds.
pub(crate) const CHECK_MS: u64 = 1000;

/// The state that all targets share.
#[pin_data]
pub(crate) struct Shared {
    /// The settings of targets that have none of their own.
    pub(crate) settings: Settings,
    /// The session: this load of the module.
    pub(crate) session: Session,
    /// Records by number.
    pub(crate) log: Arc<Log>,
    /// The queue of their work.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Their sockets.
    pub(crate) sockets: Arc<Sockets>,
    /// Room for a record that a work item reads: one for all, so that a target takes no more.
    ///
    /// Taken inside of `Acks::work`; nothing waits for a device while it is held.
    #[pin]
    pub(crate) buffer: Mutex<Buffer>,
    /// The timers of all targets.
    #[pin]
    pub(crate) alarm: Alarm,
}

/// The watchdog's memory of a target, to see whether records wait without being sent.
pub(crate) struct Progress {
    /// The last [`Target::sent_end`] seen.
    pub(crate) end: Atomic<u64>,
    /// The time since which it has been that, in milliseconds.
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

/// The means to reach the logger of an enabled target, looked up once for a record.
#[derive(Clone, Copy)]
pub(crate) struct Link<'g> {
    port: &'g Port,
    headers: &'g Headers,
    guard: &'g rcu::Guard,
}

impl Link<'_> {
    /// Returns whether the target is an extended one.
    pub(crate) fn is_extended(&self) -> bool {
        self.port.config().target.extended
    }
}

/// The state of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It does not send, and will not by itself.
    Disabled,
    /// It sends.
    Enabled,
    /// Its device is not there. It is enabled again when the device is back.
    Deactivated,
}

/// One remote logger.
///
/// Transmission takes no lock but the permit: all that it reads is constant, atomic, or under RCU.
#[pin_data]
pub(crate) struct Target {
    name: CString,
    shared: Arc<Shared>,
    /// The configuration. A leaf lock.
    #[pin]
    config: Mutex<Config>,
    /// A [`State`]; changed with [`Rtnl`] held.
    state: Atomic<u32>,
    /// The device, while the target is enabled. Changed with [`Rtnl`] held, so that a device that
    /// goes away is always let go.
    port: RcuOption<Port>,
    /// The addresses, while the target is enabled. Changed with [`Rtnl`] held.
    headers: RcuOption<Headers>,
    /// The text behind records.
    #[pin]
    extradata: Extradata,
    /// The number after the last record that has been sent; 0 if none has.
    sent_end: Atomic<u64>,
    /// The number of the first record that it is sent without a request.
    first_seq: Atomic<u64>,
    /// Whether there is a backlog: see `target/catch_up.rs`.
    behind: Atomic<bool>,
    /// Whether a record about a response waits: see `proto/echo.rs`.
    held: Atomic<bool>,
    /// Whether the work item waits for room in the device's queue.
    awaits_room: Atomic<bool>,
    /// The time by which the work item is to run, in milliseconds; [`NEVER`]: whenever it is woken.
    work_due: Atomic<u64>,
    /// The number after the last record that the console has left to the backlog. Changed with the
    /// permit.
    left_end: Atomic<u64>,
    /// Held during first transmissions: by printk's thread, by the work item, or, if they are
    /// stuck, by a timer. See [`TxPermit`].
    #[pin]
    tx_lock: SpinLockIrq<()>,
    /// The watchdog's memory.
    pub(crate) progress: Progress,
    #[pin]
    acks: Acks<Wake>,
    /// The work item: see `target/worker.rs`.
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
                headers: RcuOption::new(None),
                extradata <- Extradata::new(),
                sent_end: Atomic::new(0),
                first_seq: Atomic::new(0),
                behind: Atomic::new(false),
                held: Atomic::new(false),
                awaits_room: Atomic::new(false),
                work_due: Atomic::new(0),
                left_end: Atomic::new(0),
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

    /// Queues its work item: see `target/worker.rs`. Any context but NMI.
    pub(crate) fn wake(this: &Arc<Self>) {
        // A work item that is queued already will see the change.
        let _ = this.shared.queue.enqueue(this.clone());
    }

    /// Returns the time by which the work item is to run, in milliseconds. Any context.
    pub(crate) fn work_due(&self) -> u64 {
        self.work_due.load(Relaxed)
    }

    /// Sets that time; the caller has the timer armed for it.
    pub(crate) fn set_work_due(&self, due: u64) {
        self.work_due.store(due, Relaxed);
    }

    /// Returns the name of its directory in configfs, which messages use as well.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Returns the state that targets share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns the state of responses.
    pub(crate) fn acks(&self) -> &Acks<Wake> {
        &self.acks
    }

    /// Returns the text behind records.
    pub(crate) fn extradata(&self) -> &Extradata {
        &self.extradata
    }

    /// Returns the counts.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the configuration. Process context.
    pub(crate) fn config(&self) -> Config {
        *self.config.lock()
    }

    /// Changes the configuration. Process context.
    ///
    /// While the target is enabled this changes what is shown, and what it is enabled with the next
    /// time.
    pub(crate) fn configure<R>(&self, change: impl FnOnce(&mut Config) -> R) -> R {
        change(&mut self.config.lock())
    }

    /// Returns the settings that it was enabled with; [`None`] if it is not. Any context.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.with_port(|port| port.config().settings)
    }

    /// Returns the means to reach the logger; [`None`] if it is not enabled. Any context.
    pub(crate) fn link<'g>(&'g self, guard: &'g rcu::Guard) -> Option<Link<'g>> {
        let (port, headers) = (self.port.read(guard)?, self.headers.read(guard)?);
        Some(Link {
            port,
            headers,
            guard,
        })
    }

    /// Returns whether it is enabled, and of this kind. Any context.
    pub(crate) fn is(&self, extended: bool) -> bool {
        self.with_port(|port| port.config().target.extended) == Some(extended)
    }

    /// Returns its state. Any context.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            n if n == State::Enabled as u32 => State::Enabled,
            n if n == State::Deactivated as u32 => State::Deactivated,
            _ => State::Disabled,
        }
    }

    /// Returns whether it is enabled. Any context.
    pub(crate) fn is_enabled(&self) -> bool {
        self.port.is_some()
    }

    /// Returns the number after the last record that has been sent; 0 if none has. Any context.
    pub(crate) fn sent_end(&self) -> u64 {
        self.sent_end.load(Relaxed)
    }

    /// Returns the number of the last record that has been sent; [`None`] if none has since it
    /// began. Any context.
    pub(crate) fn sent_seq(&self) -> Option<u64> {
        let end = self.sent_end();
        (end > self.first_seq()).then(|| end - 1)
    }

    /// Returns the number of the first record that it is sent without a request. Any context.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq.load(Relaxed)
    }

    /// Calls `f` with the device; [`None`] if the target is not enabled. Any context.
    pub(crate) fn with_port<R>(&self, f: impl FnOnce(&Port) -> R) -> Option<R> {
        let guard = rcu::read_lock();
        self.port.read(&guard).map(f)
    }

    /// Returns the addresses; [`None`] if the target is not enabled. Any context.
    pub(crate) fn path(&self) -> Option<Path> {
        let guard = rcu::read_lock();
        self.headers.read(&guard).map(|headers| *headers.path())
    }

    /// Returns whether it sends by this device. Any context.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        self.with_port(|port| port.is_on(dev)) == Some(true)
    }

    /// Logs its configuration, as upstream does.
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

    /// Logs its counts.
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

    /// Sets the state of a target that is not enabled. Process context.
    pub(crate) fn set_idle(&self, state: State, _rtnl: &Rtnl) {
        if !self.is_enabled() {
            self.state.store(state as u32, Relaxed);
        }
    }

    /// Starts to send. Process context; sleeps.
    pub(crate) fn start(
        &self,
        port: KBox<Port>,
        headers: KBox<Headers>,
        start_at: StartAt,
        rtnl: &Rtnl,
    ) {
        match start_at {
            // Records that were logged meanwhile were no oops, or nothing waits for them any more.
            StartAt::LastTime if params::OOPS_ONLY.value() => self.begin_with(Log::end()),
            StartAt::LastTime => self.behind.store(true, Relaxed),
            StartAt::Oldest => self.begin_with(0),
            StartAt::Now => self.begin_with(Log::end()),
        }
        // The watchdog gives printk's thread its time anew.
        self.progress.since.store(0, Relaxed);
        drop(self.headers.replace(Some(headers)));
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
        drop(self.headers.replace(None));
    }

    /// Replaces the addresses, if they are still `old`. Process context; sleeps.
    pub(crate) fn redirect(&self, old: &Path, new: KBox<Headers>, _rtnl: &Rtnl) {
        if self.is_enabled() && self.path() == Some(*old) {
            drop(self.headers.replace(Some(new)));
        }
    }

    /// See [`Port::may_repeat`]. Any context.
    pub(crate) fn may_repeat(&self) -> bool {
        self.with_port(Port::may_repeat) == Some(true)
    }

    /// Returns whether its device is congested: see [`Port::is_congested`]. Any context.
    pub(crate) fn is_congested(&self) -> bool {
        let guard = rcu::read_lock();
        let port = self.port.read(&guard);
        port.is_some_and(|port| port.is_congested(&guard))
    }

    /// Returns whether its work item has to stop because the device is congested. A timer wakes it
    /// when there is room again. Process context.
    pub(crate) fn leaves_to_timer(&self) -> bool {
        let congested = self.is_congested();
        if congested {
            self.awaits_room.store(true, Relaxed);
        }
        congested
    }

    /// Wakes the work item if it has stopped because of a congested device that has room now.
    /// Returns whether it still waits. Any context but NMI.
    pub(crate) fn wake_for_room(this: &Arc<Self>) -> bool {
        if !this.awaits_room.load(Relaxed) {
            return false;
        }
        let congested = this.is_congested();
        if !congested {
            this.awaits_room.store(false, Relaxed);
            Self::wake(this);
        }
        congested
    }
}

/// Wakes a target's work item when datagrams arrive.
pub(crate) struct Wake(pub(crate) Arc<Target>);

impl Receiver for Wake {
    fn data_ready(&self) {
        Target::wake(&self.0);
    }
}

/// Returns the version of IP of an address, in words.
pub(crate) fn ip_version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() {
        "IPv4"
    } else {
        "IPv6"
    }
}
