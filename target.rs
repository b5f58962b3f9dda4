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
pub(crate) mod userdata;
pub(crate) mod worker;

use core::net::IpAddr;

use kernel::{
    interrupt::LocalInterruptDisabled,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        lock::spinlock::{
            SpinLockGuard,
            SpinLockIrqGuard, //
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
    crash::mark,
    log::Log,
    params,
    proto::{
        cmdline::Device,
        config::{
            Config,
            Settings, //
        },
        extradata::{
            sysdata,
            Context,
            MAX_SYSDATA, //
        },
        ring::Meta,
        udp::Path,
        wire::{
            Datagrams,
            Extra,
            Form,
            Range,
            Record,
            Session,
            MAX_DATAGRAM, //
        }, //
    },
    sys::{
        kmsg,
        netdev::{
            NetDevice,
            Rtnl, //
        },
        rcu::RcuOption,
        socket::{
            Receiver,
            Sockets, //
        },
        utsname,
        workqueue::OwnedQueue, //
    },
    target::{
        acks::Acks,
        extradata::Extradata,
        port::Port,
        stats::{
            Stats, //
            TxError,
        }, //
    },
    test_hooks, //
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

/// What a record's header says besides the record: how it is sent, and what it tells of others.
#[derive(Clone, Copy, Default)]
pub(crate) struct SendFlags {
    /// It is sent because no ack has come.
    pub(crate) emergency: bool,
    /// It belongs to a crash that the machine may end with.
    pub(crate) crash: bool,
    /// Records that are hidden.
    pub(crate) skip: Option<Range>,
    /// Records that are gone.
    pub(crate) lost: Option<Range>,
}

/// The permission to transmit records for the first time: printk's thread, the work item and the
/// timer take it by turns.
pub(crate) enum TxPermit<'a> {
    /// The lock, waited for.
    Waited(#[expect(dead_code)] SpinLockIrqGuard<'a, ()>),
    /// The lock, which was free.
    Tried(#[expect(dead_code)] SpinLockGuard<'a, ()>),
    /// None, in a panic: the CPU that holds the lock may be stopped for good.
    Taken,
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

    /// Transmits one record of a basic target, as printk has formatted it. Contexts as
    /// [`Port::send`].
    pub(crate) fn transmit_basic(&self, text: &[u8]) {
        let guard = rcu::read_lock();
        if let Some((port, path)) = self.port_and_path(&guard) {
            for part in text.chunks(MAX_DATAGRAM) {
                let sent = port.send(path, part.len(), |out| out.copy_from_slice(part));
                self.stats.count(sent);
            }
        }
        self.stats.records.inc();
    }

    /// Returns what the target sends with; counts a datagram that is not sent if it is not enabled.
    fn port_and_path<'g>(&'g self, guard: &'g rcu::Guard) -> Option<(&'g Port, &'g Path)> {
        let both = self.port.read(guard).zip(self.path.read(guard));
        if both.is_none() {
            self.stats.count(Err(TxError::Down));
        }
        both
    }

    /// Transmits record `seq`, in the extended format, as printk has given it to the console; not
    /// if it has been sent.
    ///
    /// `late` is whether it has not been, as far as the log can tell, although later ones have.
    /// `at_once` is for whom there may be no later, as in a panic: any context. Else any but NMI.
    pub(crate) fn transmit_from_console(
        this: &Arc<Self>,
        seq: u64,
        record: &[u8],
        meta: &Meta,
        late: bool,
        at_once: Option<&LocalInterruptDisabled>,
    ) {
        if late && seq < this.sent_end() {
            if seq >= this.first_seq() {
                this.transmit(seq, record, Some(meta), SendFlags::default());
                this.stats.records.inc();
            }
            return;
        }
        match at_once {
            None => {
                let permit = this.tx_permit();
                if this.is_left_to_backlog(seq) {
                    Self::wake(this);
                } else {
                    this.transmit_first(seq, record, Some(meta), SendFlags::default(), &permit);
                }
            }
            // What is before it comes first: all of it is sent from printk's log in a moment.
            Some(_) if this.is_behind() => {}
            Some(off) => {
                let permit = this.try_tx_permit(off).unwrap_or(TxPermit::Taken);
                this.transmit_first(seq, record, Some(meta), SendFlags::default(), &permit);
            }
        }
    }

    /// Whether record `seq` has to wait for others, which the work item sends: see
    /// `target/catch_up.rs`.
    fn is_left_to_backlog(&self, seq: u64) -> bool {
        // An oops does not wait for what is not to be sent.
        if params::OOPS_ONLY.value() {
            return false;
        }
        // Those between are hidden, and wanted.
        if seq > self.sent_end() && self.settings().is_some_and(|settings| settings.full_log) {
            self.behind.store(true, Relaxed);
        }
        self.is_behind()
    }

    /// Whether there is a backlog. Any context.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Relaxed)
    }

    /// Says whether there is a backlog.
    pub(crate) fn set_behind(&self, behind: bool, _permit: &TxPermit<'_>) {
        self.behind.store(behind, Relaxed);
    }

    /// Waits for the permit to transmit records for the first time. Any context but hardirq and
    /// NMI.
    pub(crate) fn tx_permit(&self) -> TxPermit<'_> {
        TxPermit::Waited(self.tx_lock.lock())
    }

    /// Returns the permit to transmit records for the first time; [`None`] while it is taken. Any
    /// context that has interrupts off.
    pub(crate) fn try_tx_permit<'a>(
        &'a self,
        off: &'a LocalInterruptDisabled,
    ) -> Option<TxPermit<'a>> {
        self.tx_lock.try_lock_with(off).map(TxPermit::Tried)
    }

    /// Transmits record `seq` for the first time, unless that has been done; then `seq + 1` is the
    /// next. As [`Self::transmit`].
    pub(crate) fn transmit_first(
        &self,
        seq: u64,
        record: &[u8],
        meta: Option<&Meta>,
        mut flags: SendFlags,
        permit: &TxPermit<'_>,
    ) {
        let end = self.sent_end();
        // One that has just been stopped goes on here when it is started again.
        if seq < end || !self.is_enabled() {
            return;
        }
        if matches!(permit, TxPermit::Waited(_)) {
            test_hooks::tx_permit();
        }
        // Those between have not been given to the console, for they are hidden or gone.
        if end > 0 && seq > end && self.acks.form().1 {
            let begin = kmsg::begin().clamp(end, seq);
            let range = |first: u64, next: u64| {
                (first < next).then(|| Range {
                    first,
                    last: next - 1,
                })
            };
            flags.lost = range(end, begin);
            flags.skip = range(begin, seq);
        }
        self.transmit(seq, record, meta, flags);
        self.stats.records.inc();
        self.sent_end.store(seq.saturating_add(1), Relaxed);
    }

    /// Transmits record `seq`, whether for the first time or not; returns the number of datagrams.
    /// Contexts as [`Port::send`].
    ///
    /// Without `meta`, lines of which the values depend on it are left out.
    pub(crate) fn transmit(
        &self,
        seq: u64,
        record: &[u8],
        meta: Option<&Meta>,
        mut flags: SendFlags,
    ) -> u32 {
        self.acks.note_sent(seq);
        let guard = rcu::read_lock();
        let (user, fields) = self.extradata.of(seq, &guard);
        let origin = meta.and_then(|meta| meta.origin.as_ref());
        let context = Context {
            cpu: origin.map(|origin| origin.cpu),
            comm: origin.map(|origin| &origin.comm),
            release: utsname::release().to_bytes(),
            msgid: meta.and_then(|meta| self.extradata.msgid(meta.nth)),
        };
        let sys = &mut [0; MAX_SYSDATA];
        let extra = Extra {
            user,
            sys: sysdata(fields, &context, sys),
        };
        flags.crash |= mark::MARK.has(seq);
        self.send_datagrams(record, extra, flags, &guard)
    }

    /// Transmits a text that stands for a record that is gone, without extradata. As
    /// [`Self::transmit`].
    pub(crate) fn transmit_substitute(&self, record: &[u8]) -> u32 {
        let (extra, flags) = (Extra::default(), SendFlags::default());
        self.send_datagrams(record, extra, flags, &rcu::read_lock())
    }

    fn send_datagrams(
        &self,
        record: &[u8],
        extra: Extra<'_>,
        flags: SendFlags,
        guard: &rcu::Guard,
    ) -> u32 {
        let Some((port, path)) = self.port_and_path(guard) else {
            return 0;
        };
        let (dialect, sessions) = self.acks.form();
        let release = port.config().target.release;
        let form = Form {
            dialect,
            release: release.then(|| utsname::release().to_bytes()),
            emergency: flags.emergency,
            session: sessions.then_some(self.shared.session),
            crash: flags.crash && sessions,
            skip: flags.skip,
            lost: flags.lost,
            extra,
        };
        let Ok(datagrams) = Record::parse(record).and_then(|r| Datagrams::new(r, form)) else {
            self.stats.bad.inc();
            return 0;
        };
        let mut count: u32 = 0;
        for datagram in datagrams {
            let sent = port.send(path, datagram.len(), |out| datagram.write(out));
            self.stats.count(sent);
            count = count.saturating_add(1);
        }
        count
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
