// SPDX-License-Identifier: GPL-2.0

//! netconsole_ext: every kernel log record reaches the remote logger.
//!
//! # Map
//!
//! Data goes one way, from printk to the network:
//!
//! ```text
//! printk -> console.rs -> target.rs -> wire.rs -> netdev.rs, udp.rs -> driver
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `console.rs` | what printk calls: the extended and the basic console |
//! | `target.rs` | one remote logger: configuration, sending, counts; the list of all |
//! | `wire.rs` | pure: the protocol, records to datagrams and responses to what they say |
//! | `ack.rs` | responses: the socket, and what is sent again for them |
//! | `peer.rs` | pure: what is known of a logger from its responses |
//! | `tick.rs` | the timers of emergency transmission and of stuck printers |
//! | `emg_tx.rs` | pure: the schedule of emergency transmission |
//! | `log.rs` | records by number: those sent, and printk's log |
//! | `ring.rs` | pure: records by number in memory of a fixed size |
//! | `kmsg.rs` | pure: extended records made of what printk's log gives |
//! | `netdev.rs` | a target's device: made ready, used, let go |
//! | `udp.rs` | pure: Ethernet, IPv4, IPv6, UDP, checksums |
//! | `params.rs` | pure: the `netconsole=` string |
//! | `sys/` | safe wrappers of C interfaces; all `unsafe` is there |
//!
//! Pure files touch only `core`: their tests run under KUnit and on the host.
//!
//! # Contexts and locks
//!
//! Records are sent by printk's thread for the console, with its `device` lock held and so interrupts
//! off (PREEMPT_RT, where they are not, is not supported), or, in a panic, by `write_atomic` in
//! whatever context that happens, NMI included. The list of targets and a target's port are read
//! under RCU. What netpoll does, it does: it tries the locks of the device's queues, and takes that
//! of its own queue if the device does not take a frame.
//!
//! | lock | taken by | inside of |
//! |---|---|---|
//! | `rtnl` | enabling a target, device events, unloading; the work item | `Acks::work` |
//! | `Targets::all` | adding a target, device events, unloading | `rtnl` |
//! | `console::device` | printk's thread; registering and unregistering the console | printk's `console_list_lock` or `console_srcu` |
//! | `Acks::socket` | the work item; stopping a target | `rtnl`, `Acks::work` |
//! | `UdpSocket::open` | using and closing a socket, its namespace ending | `Acks::socket`, `Sockets::all` |
//! | `Sockets::all` | opening and closing a socket, its namespace ending | `rtnl`, `Acks::socket` |
//! | `Acks::work` | the work item, all the time that it runs | |
//! | `Acks::state` | the work item; the timer, which only tries it | `Tick::buffer` |
//! | `Target::turn` | printk's thread while it sends a record; the timer, which only tries it | `console::device`, `Tick::buffer` |
//! | `Tick::buffer` | the timers, which only try it | |
//! | `Netcon::buffer` | printk's thread, which only tries it | `console::device` |
//! | `Log::ring` | whoever sends a record, for the first time or again | any |

mod ack;
mod console;
mod emg_tx;
mod kmsg;
mod log;
mod netdev;
mod params;
mod peer;
mod ring;
mod sys;
mod target;
mod tick;
mod udp;
mod wire;
mod wire_tests;

use core::ops::{
    ControlFlow,
    RangeInclusive, //
};

use kernel::{
    prelude::*,
    str::{
        BStr,
        CString, //
    },
    sync::Arc, //
};

use console::Consoles;
use emg_tx::Intervals;
use log::Log;
use netdev::Watch;
use peer::Policy;
use sys::{
    netdev::{
        Notifier,
        Rtnl, //
    },
    param::{
        module_param,
        BoolParam,
        StringParam, //
    },
    socket::Sockets,
    workqueue::OwnedQueue, //
};
use target::{
    Settings,
    Shared,
    Target,
    Targets, //
};
use tick::{
    Tick,
    Timers, //
};
use wire::{
    Dialect,
    Session, //
};

module! {
    type: NetconsoleExt,
    name: "netconsole_ext",
    authors: ["the netconsole_ext developers"],
    description: "Reliable console driver for network interfaces",
    license: "GPL",
    imports_ns: ["NETDEV_INTERNAL"],
    params: {
        log_buf_kb: u32 {
            default: 1024,
            description: "Records kept to be sent again, in KiB; 0: only printk's own log",
        },
        ack_timeout_ms: u32 {
            default: 10000,
            description: "How old an unacked record may be before emergency transmission",
        },
        emg_min_intv_ms: u32 {
            default: 100,
            description: "From record to record in the first round of emergency transmission",
        },
        emg_max_intv_ms: u32 {
            default: 1000,
            description: "From record to record in emergency transmission at most",
        },
        retransmit_rate: u32 {
            default: 10000,
            description: "Datagrams a second sent again on request, for each target",
        },
        retransmit_burst: u32 {
            default: 2000,
            description: "Datagrams at once sent again on request, for each target",
        },
        push_after_ms: u32 {
            default: 1000,
            description: "For how long records may wait for printk's thread",
        },
        keepalive_s: u32 {
            default: 20,
            description: "From one empty datagram that keeps firewalls open to the next; 0: none",
        },
    },
}

module_param! {
    module: "netconsole_ext",
    /// The targets; the grammar is in `params.rs`. Upstream has room for 255 bytes.
    string NETCONSOLE: StringParam<1024> = "netconsole",
        " netconsole=[+][r][src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...]";
    /// Whether only records that are printed during an oops are sent, as upstream's.
    bool OOPS_ONLY: BoolParam = "oops_only", "Only log oops messages";
    /// The dialect of all targets.
    string DIALECT: StringParam<8> = "dialect", "auto (the logger's), nca or ncrx";
    /// Whether responses have to name our session.
    string SESSION: StringParam<8> = "session",
        "auto (once the logger has named it), require or off";
}

#[cfg(CONFIG_KUNIT)]
module_param! {
    module: "netconsole_ext",
    /// For tests: holds printk's thread for the extended console, as if it were starved.
    bool DEBUG_STOP_PRINTER: BoolParam = "debug_stop_printer", "Hold the printer thread (tests only)";
}

/// The module while it is loaded.
///
/// The order of the fields is the order of tearing down: nobody prints, nothing is sent again by
/// itself, nobody sends, nobody listens to devices, no work is left. The last two are in
/// [`Shared`], of which this holds the last reference then.
struct NetconsoleExt {
    _consoles: Consoles,
    _timers: Timers,
    _stop: StopAll,
    _watch: Pin<KBox<Notifier<Watch>>>,
    _shared: Arc<Shared>,
}

/// Stops all targets when dropped, and says what they have done.
struct StopAll {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
}

impl Drop for StopAll {
    fn drop(&mut self) {
        self.targets.stop_if(&Rtnl::lock(), |_| true);
        // Nobody wakes a target any more but its work item itself, which holds a reference to it:
        // the last one must not be dropped by the queue's own worker.
        self.shared.queue.drain();
        self.targets.for_each(|target| {
            target.print_stats();
            ControlFlow::Continue(())
        });
    }
}

/// What the parameters say of all targets; what is wrong with them in the log.
fn settings() -> Result<Settings> {
    let dialect = match DIALECT.value() {
        b"" | b"auto" => None,
        b"nca" => Some(Dialect::Nca),
        b"ncrx" => Some(Dialect::Ncrx),
        other => {
            let other = BStr::from_bytes(other);
            pr_err!("dialect={}: must be auto, nca or ncrx\n", other);
            return Err(EINVAL);
        }
    };
    let policy = match SESSION.value() {
        b"" => Policy::Auto,
        name => Policy::parse(name).ok_or_else(|| {
            let name = BStr::from_bytes(name);
            pr_err!("session={}: must be auto, require or off\n", name);
            EINVAL
        })?,
    };
    use module_parameters as given;
    let intervals = Intervals {
        ack_timeout: bounded(
            "ack_timeout_ms",
            given::ack_timeout_ms.value(),
            100..=3_600_000,
        )?
        .into(),
        min: bounded(
            "emg_min_intv_ms",
            given::emg_min_intv_ms.value(),
            1..=60_000,
        )?
        .into(),
        max: bounded(
            "emg_max_intv_ms",
            given::emg_max_intv_ms.value(),
            1..=60_000,
        )?
        .into(),
    };
    let rate = given::retransmit_rate.value();
    let burst = given::retransmit_burst.value();
    let push_after = given::push_after_ms.value();
    let keepalive = given::keepalive_s.value();
    Ok(Settings {
        intervals,
        retransmit_rate: bounded("retransmit_rate", rate, 1..=1_000_000)?,
        retransmit_burst: bounded("retransmit_burst", burst, 1..=1_000_000)?,
        push_after_ms: bounded("push_after_ms", push_after, 100..=3_600_000)?.into(),
        keepalive_s: bounded("keepalive_s", keepalive, 0..=86_400)?,
        dialect,
        policy,
    })
}

/// A parameter's value if it is within its bounds; else that is said in the log.
fn bounded(name: &str, value: u32, bounds: RangeInclusive<u32>) -> Result<u32> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (first, last) = (bounds.start(), bounds.end());
    pr_err!("{}={}: must be from {} to {}\n", name, value, first, last);
    Err(EINVAL)
}

impl kernel::Module for NetconsoleExt {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if cfg!(CONFIG_PREEMPT_RT) || !cfg!(CONFIG_SMP) {
            pr_err!("not made for kernels with PREEMPT_RT or without SMP\n");
            return Err(EOPNOTSUPP);
        }
        let shared = Arc::new(
            Shared {
                settings: settings()?,
                session: Session(sys::random::u64()),
                log: Log::new(module_parameters::log_buf_kb.value())?,
                queue: Arc::new(OwnedQueue::new(c"netconsole_ext")?, GFP_KERNEL)?,
                sockets: Sockets::new()?,
            },
            GFP_KERNEL,
        )?;
        let targets = Targets::new()?;
        let watch = Notifier::new(Watch(targets.clone()))?;
        let stop = StopAll {
            targets: targets.clone(),
            shared: shared.clone(),
        };

        let mut count = 0;
        for spec in params::targets(NETCONSOLE.value()) {
            match params::Target::parse(spec) {
                // As upstream's: those that cannot be parsed have no number.
                Ok(config) => {
                    if let Err(e) = add_target(count, config, &targets, &shared) {
                        pr_err!(
                            "Not enabling netconsole for cmdline{count} (error {})\n",
                            e.to_errno()
                        );
                    }
                    count += 1;
                }
                Err(e) => {
                    let (rest, reason) = (BStr::from_bytes(e.rest), e.reason);
                    pr_err!(
                        "netconsole: couldn't parse config at '{}': {}\n",
                        rest,
                        format_args!("{reason}")
                    );
                }
            }
        }

        // The consoles first, or the timers would take printk's thread for stuck.
        let consoles = Consoles::new(&targets, &shared)?;
        let timers = Tick::start(&targets, &shared)?;
        pr_info!("network logging started\n");
        Ok(Self {
            _consoles: consoles,
            _timers: timers,
            _stop: stop,
            _watch: watch,
            _shared: shared,
        })
    }
}

/// Adds target `n` of the module's parameter, and enables it.
///
/// Only what goes wrong before it can be enabled is an error: the rest has been said in the log.
fn add_target(n: u32, config: params::Target, targets: &Targets, shared: &Arc<Shared>) -> Result {
    let name = CString::try_from_fmt(fmt!("cmdline{n}"))?;
    let target = Target::new(name, config, shared.clone())?;
    target.print_banner();
    // It has to be in the list first, so that it is told when the device goes away.
    targets.add(target.clone())?;
    let _ = netdev::enable(&target);
    Ok(())
}
