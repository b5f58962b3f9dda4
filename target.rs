// SPDX-License-Identifier: GPL-2.0

//! One remote logger: what it is to be sent, and its way there.

use core::{
    fmt,
    ops::ControlFlow, //
};

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
    ack::Acks,
    emg_tx::Intervals,
    log::{
        Access,
        Log, //
    },
    netdev::Port,
    params::{
        self,
        Device,
        MacAddr, //
    },
    peer::Policy,
    sys::{
        kmsg,
        netdev::{
            NetDevice,
            Rtnl, //
        },
        rcu::RcuOption,
        socket::Sockets,
        utsname,
        workqueue::OwnedQueue, //
    },
    wire::{
        Datagrams,
        Dialect,
        Form,
        Range,
        Record,
        Session,
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
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Counts one more.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Counts `n` more.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What has become of a target's records.
pub(crate) struct Stats {
    /// Records sent for the first time.
    records: Counter,
    /// Datagrams handed to the device, or to netpoll's queue for it.
    datagrams: Counter,
    /// Records sent again because they were asked for.
    pub(crate) retransmitted: Counter,
    /// Records that were asked for and not sent again because the budget was used up.
    pub(crate) over_budget: Counter,
    /// Records sent again because no ack came for them.
    pub(crate) emergency: Counter,
    /// Responses that were believed.
    pub(crate) responses: Counter,
    /// What came from the logger and was no response, or one that was not believed.
    pub(crate) bad_responses: Counter,
    /// Records that were asked for and gone.
    pub(crate) lost: Counter,
    /// Datagrams that found neither memory nor a buffer in reserve (upstream's `enomem_count`).
    no_memory: Counter,
    /// Datagrams that the device or netpoll's queue had no room for (upstream's
    /// `xmit_drop_count`).
    dropped: Counter,
    /// Datagrams that were not sent because the device was down.
    down: Counter,
    /// Records and parts of records that cannot be sent: see [`crate::wire::BadRecord`] and [`Lost::TooLong`].
    bad: Counter,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("records", &self.records),
            ("datagrams", &self.datagrams),
            ("retransmitted", &self.retransmitted),
            ("over_budget", &self.over_budget),
            ("emergency", &self.emergency),
            ("responses", &self.responses),
            ("bad_responses", &self.bad_responses),
            ("lost", &self.lost),
            ("dropped", &self.dropped),
            ("no_memory", &self.no_memory),
            ("down", &self.down),
            ("bad", &self.bad),
        ];
        for (i, (name, count)) in counts.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{name}={}", count.get())?;
        }
        Ok(())
    }
}

/// What the user wants of all targets.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Of emergency transmission.
    pub(crate) intervals: Intervals,
    /// Datagrams a second that are sent again on request.
    pub(crate) retransmit_rate: u32,
    /// Datagrams at once that are sent again on request.
    pub(crate) retransmit_burst: u32,
    /// For how long records may wait without being sent before the timer sends them.
    pub(crate) push_after_ms: u64,
    /// From one keepalive to the next, in seconds; 0: none.
    pub(crate) keepalive_s: u32,
    /// The dialect; [`None`]: the peer's.
    pub(crate) dialect: Option<Dialect>,
    /// Whether responses have to name our session.
    pub(crate) policy: Policy,
}

/// What all targets share.
pub(crate) struct Shared {
    /// What the user wants of them.
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

/// What is said on a record besides the record.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks {
    /// It is sent because no ack has come.
    pub(crate) emergency: bool,
    /// Records that are hidden.
    pub(crate) skip: Option<Range>,
    /// Records that are gone.
    pub(crate) lost: Option<Range>,
}

/// The permission to send records for the first time.
pub(crate) enum Turn<'a> {
    /// It was waited for.
    Waited(#[expect(dead_code)] SpinLockIrqGuard<'a, ()>),
    /// It was free.
    Tried(#[expect(dead_code)] SpinLockGuard<'a, ()>),
    /// In a panic: somebody else has it, who may be stopped for good.
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
}

/// One remote logger.
///
/// Sending takes no lock but for the turn: everything that it reads is constant, atomic, or under RCU.
#[pin_data]
pub(crate) struct Target {
    name: CString,
    config: params::Target,
    shared: Arc<Shared>,
    /// The way to the logger, while the target is enabled. Changed with [`Rtnl`] held, so that a
    /// device that goes away is always let go.
    port: RcuOption<Port>,
    /// The number after the last record that has been sent; 0 if none has.
    sent_end: Atomic<u64>,
    /// Whose turn it is to send records for the first time: printk's thread's, or, if that is
    /// stuck, the timer's.
    #[pin]
    turn: SpinLockIrq<()>,
    /// How the timer finds out that the thread is stuck.
    pub(crate) progress: Progress,
    #[pin]
    acks: Acks,
    /// Run by `ack.rs`.
    #[pin]
    pub(crate) work: Work<Self>,
    stats: Stats,
}

impl Target {
    /// Creates a target that is not enabled.
    pub(crate) fn new(
        name: CString,
        config: params::Target,
        shared: Arc<Shared>,
    ) -> Result<Arc<Self>> {
        let for_acks = shared.clone();
        Arc::pin_init(
            try_pin_init!(Self {
                name,
                config,
                shared,
                port: RcuOption::new(None),
                sent_end: Atomic::new(0),
                turn <- new_spinlock_irq!((), "Target::turn"),
                progress: Progress {
                    end: Atomic::new(0),
                    since: Atomic::new(0),
                    from: Atomic::new(0),
                },
                acks <- Acks::new(&for_acks),
                work <- new_work!("Target::work"),
                stats: Stats {
                    records: Counter::new(),
                    datagrams: Counter::new(),
                    retransmitted: Counter::new(),
                    over_budget: Counter::new(),
                    emergency: Counter::new(),
                    responses: Counter::new(),
                    bad_responses: Counter::new(),
                    lost: Counter::new(),
                    no_memory: Counter::new(),
                    dropped: Counter::new(),
                    down: Counter::new(),
                    bad: Counter::new(),
                },
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Has its work item run: see `ack.rs`. Any context but NMI.
    pub(crate) fn wake(this: &Arc<Self>) {
        if this.config.extended {
            // If it is queued already it will see what has happened.
            let _ = this.shared.queue.enqueue(this.clone());
        }
    }

    /// What it shares with the others.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What has to do with responses.
    pub(crate) fn acks(&self) -> &Acks {
        &self.acks
    }

    /// The counts.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The number after the last record that has been sent; 0 if none has. Any context.
    pub(crate) fn sent_end(&self) -> u64 {
        self.sent_end.load(Relaxed)
    }

    /// Looks at the way to the logger; [`None`] if the target is not enabled. Any context.
    pub(crate) fn with_port<R>(&self, f: impl FnOnce(&Port) -> R) -> Option<R> {
        let guard = rcu::read_lock();
        self.port.read(&guard).map(f)
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
        let (acked, rounds) = {
            let state = self.acks.state().lock();
            (state.peer.acked().unwrap_or(0), state.schedule.rounds())
        };
        let sent = self.sent_end().saturating_sub(1);
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

    /// Stops sending, closes the socket, and lets the device go. Process context; sleeps.
    pub(crate) fn stop(&self, rtnl: &Rtnl) {
        let old = self.port.replace(None);
        self.acks.close();
        if let Some(old) = old {
            Port::release(old, rtnl);
        }
    }

    /// Whether it sends by this device. Any context.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        let guard = rcu::read_lock();
        self.port.read(&guard).is_some_and(|port| port.is_on(dev))
    }

    /// Sends one record of a basic target, as printk has formatted it. As [`Port::send`].
    pub(crate) fn send_basic(&self, text: &[u8]) {
        self.with_port(|port| {
            for part in text.chunks(MAX_DATAGRAM) {
                let sent = port.send(part.len(), |out| out.copy_from_slice(part));
                self.count(sent);
            }
        });
        self.stats.records.inc();
    }

    /// Sends record `seq`, in the extended format, for the first time; not if it has been sent.
    ///
    /// `late` is whether it surely has not been, although later ones have. Any context, as `access`
    /// says, in a panic; else any but NMI.
    pub(crate) fn send(&self, record: &[u8], seq: u64, late: bool, access: Access<'_>) {
        if late && seq < self.sent_end() {
            self.send_again(record, Marks::default());
            self.stats.records.inc();
            return;
        }
        match access {
            Access::Wait => self.send_in_turn(record, seq, &Turn::Waited(self.turn.lock())),
            Access::Try(off) | Access::Now(off) => {
                // In a panic the one whose turn it is may be stopped for good.
                let turn = self.turn.try_lock_with(off);
                self.send_in_turn(record, seq, &turn.map_or(Turn::Taken, Turn::Tried));
            }
        }
    }

    /// The turn to send records for the first time, unless somebody else has it.
    pub(crate) fn try_turn<'a>(&'a self, off: &'a LocalInterruptDisabled) -> Option<Turn<'a>> {
        self.turn.try_lock_with(off).map(Turn::Tried)
    }

    /// As [`Self::send`] for whom has the turn.
    pub(crate) fn send_in_turn(&self, record: &[u8], seq: u64, _turn: &Turn<'_>) {
        let end = self.sent_end();
        if seq < end {
            return;
        }
        // Those between have not been given to the console, for they are hidden or gone.
        let mut marks = Marks::default();
        if end > 0 && seq > end && self.acks.form().1 {
            let begin = kmsg::begin().clamp(end, seq);
            let range = |first: u64, next: u64| {
                (first < next).then(|| Range {
                    first,
                    last: next - 1,
                })
            };
            marks.lost = range(end, begin);
            marks.skip = range(begin, seq);
        }
        self.send_again(record, marks);
        self.stats.records.inc();
        self.sent_end.store(seq.saturating_add(1), Relaxed);
    }

    /// Whether its device is slow; see [`Port::is_congested`]. Any context.
    pub(crate) fn is_congested(&self) -> bool {
        self.with_port(Port::is_congested) == Some(true)
    }

    /// Sends a record, and says how many datagrams it was. As [`Port::send`].
    pub(crate) fn send_again(&self, record: &[u8], marks: Marks) -> u32 {
        let (dialect, sessions) = self.acks.form();
        let form = Form {
            dialect,
            release: self.config.release.then(|| utsname::release().to_bytes()),
            emergency: marks.emergency,
            session: sessions.then_some(self.shared.session),
            skip: marks.skip,
            lost: marks.lost,
        };
        let Ok(datagrams) = Record::parse(record).and_then(|r| Datagrams::new(r, form)) else {
            self.stats.bad.inc();
            return 0;
        };
        let mut count: u32 = 0;
        self.with_port(|port| {
            for datagram in datagrams {
                let sent = port.send(datagram.len(), |out| datagram.write(out));
                self.count(sent);
                count = count.saturating_add(1);
            }
        });
        count
    }

    /// Waits while the device has many frames queued, but not for long. Process context.
    pub(crate) fn wait_for_device(&self) {
        let began = Instant::<Monotonic>::now();
        while self.is_congested() && began.elapsed() < MAX_WAIT {
            fsleep(Delta::from_millis(1));
        }
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
    pub(crate) fn for_each(&self, f: impl FnMut(&Arc<Target>) -> ControlFlow<()>) {
        let guard = rcu::read_lock();
        let Some(targets) = self.published.read(&guard) else {
            return;
        };
        let _ = targets.iter().try_for_each(f);
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
