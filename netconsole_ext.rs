// SPDX-License-Identifier: GPL-2.0

//! netconsole_ext: every kernel log record reaches the remote logger.
//!
//! # Map
//!
//! Data goes one way, from printk to the network:
//!
//! ```text
//! printk -> console.rs -> log.rs -> target.rs -> proto/wire.rs -> target/port.rs, proto/udp.rs -> driver
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `console.rs` | what printk calls: the extended and the basic console |
//! | `target.rs` | one remote logger: its state, and sending to it |
//! | `target/list.rs` | the list of all targets |
//! | `target/stats.rs`, `target/status.rs` | what has become of a target's records; how it does |
//! | `target/extradata.rs` | what is sent behind a target's records: userdata and sysdata |
//! | `proto/extradata.rs` | pure: those lines, and what they may be |
//! | `proto/wire.rs` | pure: the protocol, records to datagrams and responses to what they say |
//! | `target/port.rs` | a device that is sent by |
//! | `proto/udp.rs` | pure: Ethernet, IPv4, IPv6, UDP, checksums |
//! | `log.rs` | records by number: those sent, and printk's log |
//! | `proto/ring.rs` | pure: records by number in memory of a fixed size |
//! | `proto/printk_text.rs` | pure: extended records made of what printk's log gives |
//!
//! What comes back, and what is done when nothing does:
//!
//! | file | what it is |
//! |---|---|
//! | `target/worker.rs` | a target's work item, which does what is below |
//! | `ack.rs` | responses: the socket, and what is sent again for them |
//! | `proto/budget.rs` | pure: how much may be sent again |
//! | `proto/missing.rs` | pure: what a response asks for |
//! | `proto/peer.rs` | pure: what is known of a logger from its responses |
//! | `target/catch_up.rs` | records that were logged while a target could not be sent any |
//! | `target/path_refresh.rs` | addresses and next hops that change |
//! | `timer.rs` | the timers of emergency transmission and of stuck printers |
//! | `proto/emg_schedule.rs` | pure: the schedule of emergency transmission |
//! | `crash.rs` | when the kernel dies, and when the machine is about to end in good order |
//! | `proto/crash_schedule.rs` | pure: what is sent again then, and when |
//! | `crash/kdump.rs` | the console that is told of a panic before it stops the other CPUs |
//! | `crash/tx_freeze.rs` | devices that are claimed then |
//!
//! And what the user says:
//!
//! | file | what it is |
//! |---|---|
//! | `proto/cmdline.rs` | pure: the `netconsole=` string |
//! | `proto/config.rs` | pure: what is wanted of a target, its bounds, how it is read |
//! | `params.rs` | the module's parameters |
//! | `configfs.rs` | targets as directories |
//! | `control.rs` | who enables and disables targets: the user, and what happens to devices |
//! | `target/enable.rs` | enabling: a device is found and made ready |
//! | `test_hooks.rs` | only in builds for tests: hooks that hold locks and bring about bugs |
//! | `sys/` | safe wrappers of C interfaces; all `unsafe` is there |
//!
//! Pure files touch only `core`: their tests run under KUnit and on the host.
//!
//! # Contexts and locks
//!
//! Records are sent by printk's thread for the console, with its `device` lock held and so
//! interrupts off (PREEMPT_RT, where they are not, is not supported), or, in a panic, by
//! `write_atomic` in whatever context that happens, NMI included. The list of targets and a
//! target's port are read under RCU. What netpoll does, it does: it tries the locks of the device's
//! queues, and takes that of its own queue if the device does not take a frame. In a panic it is
//! not used (`sys/xmit.rs`): then all locks are tried, those of the driver as well (a queue's,
//! inside of the one that is held while queues are frozen), but for what the driver itself takes.
//! So it is when an oops is told of that a crash kernel may follow, by the die notifier or by a
//! console in whatever context. From the panic's first line until its log is dumped the device's
//! queues are frozen, and nobody else polls it (`crash/tx_freeze.rs`).
//!
//! | lock | taken by | inside of |
//! |---|---|---|
//! | configfs' of the subsystem | mkdir and rmdir of targets and keys | |
//! | `Control::printing` | enabling, disabling and configuring targets, by the user or when a device is back | configfs' |
//! | `Extras::wanted` | changing what is sent behind records | configfs' |
//! | `rtnl` | enabling and disabling, device events, unloading; the work item | `Control::printing`, `Acks::work` |
//! | `Targets::all` | adding, finding and removing a target, device events, unloading | configfs', `Control::printing`, `rtnl` |
//! | `Target::config` | a leaf | `Control::printing`, `rtnl`, `Targets::all` |
//! | `console::device` | printk's thread; registering and unregistering the console | printk's `console_list_lock` or `console_srcu` |
//! | `Acks::work` | the work item, all the time that it runs; enabling | `Control::printing` |
//! | `Acks::socket` | the work item; stopping a target | `rtnl`, `Targets::all`, `Acks::work` |
//! | `Sockets::all` | opening and closing a socket, its namespace ending | `pernet_ops_rwsem`, `rtnl`, `Acks::socket` |
//! | `UdpSocket::open` | using and closing a socket, its namespace ending | `Acks::socket`, `Sockets::all` |
//! | `Crash::state` | a reboot; a panic and an oops, which only try it | |
//! | `Acks::state` | the work item, enabling, showing, a reboot; the timers and a panic, which only try it | `Control::printing`, `Targets::all`, `Acks::work`, `Tick::buffer`, `Crash::state` |
//! | `Target::turn` | who sends a record for the first time; the timers and a panic, which only try it | `console::device`, `Tick::buffer`, `Extras::wanted`, `rtnl`, `Crash::state` |
//! | `Tick::buffer` | the timers, which only try it | |
//! | `Netcon::buffer` | printk's thread, which only tries it | `console::device` |
//! | `Log::ring` | whoever sends a record, for the first time or again | any |
//!
//! Work runs on two queues: the targets' own on one that makes progress without memory, and what
//! brings devices up on another.

mod ack;
mod configfs;
mod console;
mod control;
mod crash;
mod log;
mod params;
mod proto;
mod sys;
mod target;
mod test_hooks;
mod timer;

use kernel::{
    prelude::*,
    str::{
        BStr,
        CString, //
    },
    sync::Arc, //
};

use configfs::Root;
use control::{
    Control,
    Watch, //
};
use crash::{
    Crash,
    Crashed, //
};
use log::Log;
use proto::{
    cmdline,
    config::Config,
    wire::Session, //
};
use sys::{
    configfs::Subsystem,
    netdev::Rtnl,
    socket::Sockets,
    workqueue::OwnedQueue, //
};
use target::{
    Shared,
    State, //
};
use timer::{
    Tick,
    Timers, //
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
        panic_hold_ms: u32 {
            default: 1000,
            description: "For how long a machine that is reset at once sends a panic's records again",
        },
        crash_repeats: u32 {
            default: 2,
            description: "How often a crash's records are sent again to a logger that does not ack",
        },
    },
}

/// The module while it is loaded.
///
/// The order of the fields is the order of tearing down: the user changes nothing any more, nobody
/// prints, nobody is told of crashes, nothing is sent again by itself, nobody sends, nobody tells
/// of devices, no work is left. The last two are in [`Control`] and [`Shared`], of which these are
/// the last references then.
struct NetconsoleExt {
    _directories: Pin<KBox<Subsystem<Root>>>,
    _printing: Printing,
    _endings: Pin<KBox<sys::die_reboot::Notifier<Crash>>>,
    _crashes: Pin<KBox<sys::kmsg_dump::Registration<Crash>>>,
    _timers: Timers,
    _sending: Sending,
    _devices: Pin<KBox<sys::netdev::Notifier<Watch>>>,
    _addresses: Pin<KBox<sys::notifier::Notifier<Watch>>>,
    _working: Working,
}

/// Consoles may be registered; when dropped, they are so no longer.
struct Printing(Arc<Control>);

impl Drop for Printing {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Targets may be enabled; when dropped, they are so no longer.
struct Sending(Arc<Control>);

impl Drop for Sending {
    fn drop(&mut self) {
        let rtnl = Rtnl::lock();
        let targets = self.0.targets();
        targets.for_each_locked(|target| target.stop(State::Disabled, &rtnl));
    }
}

/// There may be work; when dropped there is none any more, and it is said what the targets have
/// done.
struct Working(Arc<Control>);

impl Drop for Working {
    fn drop(&mut self) {
        // Nobody enqueues work any more but work items themselves, which hold references: the last
        // one must not be dropped by the queue's own worker.
        self.0.drain();
        self.0.shared().queue.drain();
        self.0
            .targets()
            .for_each_locked(|target| target.print_stats());
    }
}

/// The targets of the module's parameter, enabled as far as that can be.
fn add_targets(control: &Control) -> Result {
    let mut count: u32 = 0;
    for spec in cmdline::targets(params::NETCONSOLE.value()) {
        match cmdline::Target::parse(spec) {
            // As upstream's: those that cannot be parsed have no number.
            Ok(target) => {
                let name = CString::try_from_fmt(fmt!("cmdline{count}"))?;
                let settings = control.shared().settings;
                let target = control.add(name, Config { target, settings })?;
                control.enable_at_load(&target);
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
    Ok(())
}

impl kernel::Module for NetconsoleExt {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if cfg!(CONFIG_PREEMPT_RT) || !cfg!(CONFIG_SMP) {
            pr_err!("not made for kernels with PREEMPT_RT or without SMP\n");
            return Err(EOPNOTSUPP);
        }
        let shared = Arc::new(
            Shared {
                settings: params::settings()?,
                session: Session(sys::random::u64()),
                log: Log::new(module_parameters::log_buf_kb.value())?,
                queue: Arc::new(OwnedQueue::new(c"netconsole_ext", true)?, GFP_KERNEL)?,
                sockets: Sockets::new()?,
                crashed: Crashed::not(),
            },
            GFP_KERNEL,
        )?;
        let control = Control::new(shared.clone())?;
        // What fails from here on is torn down in the order of the fields.
        let working = Working(control.clone());
        let hints = Arc::new(Watch(control.clone()), GFP_KERNEL)?;
        let addresses = KBox::pin_init(sys::notifier::Notifier::new(hints), GFP_KERNEL)?;
        let devices = sys::netdev::Notifier::new(Watch(control.clone()))?;
        let sending = Sending(control.clone());
        add_targets(&control)?;
        let timers = Tick::start(control.targets(), &shared)?;
        let crash = control.crash();
        let crashes = sys::kmsg_dump::Registration::new(crash.clone());
        let crashes = KBox::pin_init(crashes, GFP_KERNEL)?;
        let endings = KBox::pin_init(sys::die_reboot::Notifier::new(crash.clone()), GFP_KERNEL)?;
        let printing = Printing(control.clone());
        let directories = configfs::register(control.clone(), module)?;
        // Nothing fails any more, so nobody sees a target that goes away again. The timers wait for
        // longer than this takes before they take printk's thread for stuck.
        Control::begin(&control);
        pr_info!("network logging started\n");
        Ok(Self {
            _directories: directories,
            _printing: printing,
            _endings: endings,
            _crashes: crashes,
            _timers: timers,
            _sending: sending,
            _devices: devices,
            _addresses: addresses,
            _working: working,
        })
    }
}
