// SPDX-License-Identifier: GPL-2.0

//! netconsole_ext: every kernel log record reaches the remote logger.
//!
//! # Map
//!
//! Data goes one way, from printk to the network:
//!
//! ```text
//! printk -> console.rs -> log.rs -> target/transmit.rs -> proto/wire.rs
//!        -> target/port.rs, proto/udp.rs -> driver
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `console.rs` | the two consoles that write, for extended and for basic targets |
//! | `target.rs` | one remote logger: its state |
//! | `target/transmit.rs` | transmission of records, for the first time and again |
//! | `target/list.rs` | the list of all targets |
//! | `target/stats.rs`, `target/status.rs` | the counts of a target's records; its state for the user |
//! | `target/extradata_versions.rs` | versions of the text behind a target's records |
//! | `target/userdata.rs` | the user's changes of that text |
//! | `proto/extradata.rs` | pure: the lines of that text, and what they may be |
//! | `proto/wire.rs` | pure: the protocol, records to datagrams |
//! | `proto/response.rs` | pure: the protocol, responses to acks and requests |
//! | `target/port.rs` | the device that a target sends by |
//! | `proto/udp.rs` | pure: Ethernet, IPv4, IPv6, UDP, checksums |
//! | `log.rs` | records by number: the ring, then printk's log |
//! | `log/access.rs` | the ways to the ring's lock: wait, try, do without |
//! | `log/cursor.rs` | the loop over unsent records |
//! | `proto/ring.rs` | pure: records by number in memory of a fixed size |
//! | `proto/parts.rs` | pure: the text of a basic target in datagrams |
//! | `proto/printk_text.rs` | pure: extended records from the text of printk's log |
//!
//! Acknowledgements and recovery:
//!
//! | file | contents |
//! |---|---|
//! | `target/worker.rs` | a target's work item: it calls `path_refresh`, `ack` and `catch_up` |
//! | `ack.rs` | responses: the socket, and the records that they ask for |
//! | `target/acks.rs` | a target's knowledge of its logger, and of what it was sent |
//! | `target/catch_up.rs` | records that were logged while a target could not be sent any |
//! | `target/path_refresh.rs` | addresses and next hops that change |
//! | `proto/budget.rs` | pure: how much may be sent again |
//! | `proto/missing.rs` | pure: the records that responses ask for |
//! | `proto/last_sent.rs` | pure: when records were last sent to a target |
//! | `proto/rtt.rs` | pure: the round trip to a logger |
//! | `proto/peer.rs` | pure: what a logger's responses have shown of it |
//! | `timer.rs` | what the timers call: `emg_tx`, `watchdog`, and the work items |
//! | `target/alarm.rs` | when the timers fire: not on an idle machine |
//! | `emg_tx.rs` | emergency transmission of one target |
//! | `watchdog.rs` | a stuck printk thread |
//! | `proto/emg_schedule.rs` | pure: the schedule of emergency transmission |
//! | `crash.rs` | panic, oops, reboot: the listeners |
//! | `crash/mark.rs` | which records belong to a crash |
//! | `crash/send.rs` | transmission in a crash, and retransmission |
//! | `crash/kdump.rs` | the third console, `netconx_panic`: every panic's first line, before the other CPUs are stopped; all lines before a crash kernel |
//! | `crash/tx_freeze.rs` | the freezing of devices in a panic |
//! | `proto/crash_schedule.rs` | pure: the rounds of retransmission in a crash |
//!
//! The user's side:
//!
//! | file | contents |
//! |---|---|
//! | `params.rs` | the module's parameters |
//! | `proto/addr.rs` | pure: Ethernet addresses, names of devices |
//! | `proto/cmdline.rs` | pure: the `netconsole=` string |
//! | `proto/config.rs` | pure: a target's configuration, its bounds, how it is read |
//! | `configfs.rs` | targets as directories |
//! | `control.rs` | enabling, disabling and resuming targets |
//! | `control/net_events.rs` | devices, addresses and neighbours that change |
//! | `target/enable.rs` | the device of a target is found and made ready |
//! | `test_hooks.rs` | only in builds for tests: hooks that hold locks and bring about bugs |
//! | `sys/` | safe wrappers of C interfaces; all `unsafe` is there |
//!
//! Pure files touch only `core`: their tests run under KUnit and on the host. No file imports
//! another in a circle (`scripts/lint.sh import-circles`).
//!
//! # Contexts
//!
//! | code | context | waits for locks | memory |
//! |---|---|---|---|
//! | a console, from printk's thread | process, interrupts off under its `device` lock | yes | allocates the skb, or takes one of the reserve |
//! | a console, in a panic or an oops (`write_atomic`) | any, NMI too | no: all are tried, the driver's as well | takes an skb of the reserve |
//! | the timers | softirq | no, but netpoll's own queue | allocates the skb, or takes one of the reserve |
//! | the panic's dumper, die notifiers | any | no | takes an skb of the reserve |
//! | the reboot notifier | process | yes | none |
//! | a target's work item | process | yes | yes |
//! | configfs, device and address notifiers | process; addresses of IPv6 and neighbours: softirq | yes; in softirq no | yes; in softirq no |
//!
//! The reserve is 256 skbs of each target, allocated when it is enabled and taken without a lock.
//!
//! The list of targets and a target's port are read under RCU. netpoll tries the locks of the
//! device's queues, and takes that of its own queue if the device does not take a frame. In a
//! panic, and in an oops that a crash kernel may follow, `sys/xmit.rs` stands in for netpoll: it
//! only tries locks, but for those that the driver itself takes. From a panic's first line until
//! its log is dumped the device's TX queues are frozen, and no other CPU polls the device
//! (`crash/tx_freeze.rs`). PREEMPT_RT, where interrupts stay on, is not supported.
//!
//! # Locks
//!
//! | lock | taken by | inside of |
//! |---|---|---|
//! | configfs' of the subsystem | mkdir and rmdir of targets and keys | |
//! | `Control::printing` | enabling, disabling and configuring targets, by the user or when a device is back | configfs' |
//! | `Extradata::wanted` | changing the text behind records | configfs' |
//! | `rtnl` | enabling and disabling, device events, unloading; the work item | `Control::printing`, `Acks::work` |
//! | `Targets::all` | adding, finding and removing a target, device events, unloading | configfs', `Control::printing`, `rtnl` |
//! | `Target::config` | a leaf | `Control::printing`, `rtnl`, `Targets::all` |
//! | `console::device` | printk's thread; registering and unregistering the console | printk's `console_list_lock` or `console_srcu` |
//! | `Acks::work` | the work item, all the time that it runs; enabling | `Control::printing` |
//! | `Acks::socket` | the work item; stopping a target | `rtnl`, `Targets::all`, `Acks::work` |
//! | `Sockets::all` | opening and closing a socket, its namespace ending | `pernet_ops_rwsem`, `rtnl`, `Acks::socket` |
//! | `UdpSocket::open` | using and closing a socket, its namespace ending | `Acks::socket`, `Sockets::all` |
//! | `Replay::state` | a reboot; a panic and an oops, which only try it | |
//! | `Acks::state` | the work item, enabling, showing, a reboot; printk's thread for some records; the timers and a panic, which only try it | `Control::printing`, `Targets::all`, `Acks::work`, `Target::tx_lock`, `Tick::buffer`, `Replay::state` |
//! | `Shared::buffer` | the work item, while it sends records again, or a backlog | `Acks::work` |
//! | `Target::tx_lock` | transmission of a record for the first time; the timers and a panic, which only try it | `console::device`, `Shared::buffer`, `Tick::buffer`, `Extradata::wanted`, `rtnl`, `Replay::state` |
//! | `Tick::buffer` | the timers, which only try it | |
//! | `Alarm::changing` | the timers and who tells of a record, which only try it | |
//! | `Timers::callback` | arming a timer, for a moment; a leaf | any |
//! | `Netcon::buffer` | printk's thread, which only tries it | `console::device` |
//! | `Log::ring` | transmission of a record, for the first time or again | any |
//!
//! Work runs on two queues: the targets' own on one that makes progress without memory, and what
//! brings devices up on another.

mod ack;
mod configfs;
mod console;
mod control;
mod crash;
mod emg_tx;
mod log;
mod params;
mod proto;
mod sys;
mod target;
mod test_hooks;
mod timer;
mod watchdog;

use kernel::{
    prelude::*,
    str::{
        BStr,
        CString, //
    },
    sync::{
        new_mutex,
        Arc, //
    },
};

use configfs::Root;
use control::{
    net_events::NetEvents,
    Control, //
};
use crash::Crash;
use log::{
    Buffer,
    Log, //
};
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
    alarm::Alarm,
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
        kdump_send_ms: u32 {
            default: 300,
            description: "For how long a crash may be sent before a crash kernel runs; 0: not at all",
        },
        crash_repeats: u32 {
            default: 2,
            description: "How often a crash's records are sent again to a logger that does not ack",
        },
    },
}

/// The module while it is loaded.
///
/// The fields are in the order of tearing down:
///
/// | field | when it is dropped |
/// |---|---|
/// | `_directories` | the user can change nothing any more |
/// | `_printing` | printk hands over no records |
/// | `_endings`, `_crashes` | no crash or reboot is handled |
/// | `_timers` | no emergency transmission, no watchdog |
/// | `_sending` | all targets are stopped |
/// | `_devices`, `_addresses` | no device event is handled |
/// | `_working` | no work is left |
///
/// [`Control`] and [`Shared`] go with their last references in the last one.
struct NetconsoleExt {
    _directories: Pin<KBox<Subsystem<Root>>>,
    _printing: Printing,
    _endings: Pin<KBox<sys::die_reboot::Notifier<Crash>>>,
    _crashes: Pin<KBox<sys::kmsg_dump::Registration<Crash>>>,
    _timers: Timers,
    _sending: Sending,
    _devices: Pin<KBox<sys::netdev::Notifier<NetEvents>>>,
    _addresses: Pin<KBox<sys::notifier::Notifier<NetEvents>>>,
    _working: Working,
}

/// Consoles may be registered; ends that when dropped.
struct Printing(Arc<Control>);

impl Drop for Printing {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Targets may be enabled; stops them all when dropped.
struct Sending(Arc<Control>);

impl Drop for Sending {
    fn drop(&mut self) {
        let rtnl = Rtnl::lock();
        let targets = self.0.targets();
        targets.for_each_locked(|target| target.stop(State::Disabled, &rtnl));
    }
}

/// Work may be queued; waits for it when dropped, and logs the counts of all targets.
struct Working(Arc<Control>);

impl Drop for Working {
    fn drop(&mut self) {
        // Only work items enqueue work from here on. They hold references, and the last one must
        // not be dropped by the queue's own worker.
        self.0.drain();
        self.0.shared().queue.drain();
        self.0
            .targets()
            .for_each_locked(|target| target.print_stats());
    }
}

/// Adds the targets of the module's parameter, and enables those that can be.
fn add_targets(control: &Control) -> Result {
    let mut count: u32 = 0;
    for spec in cmdline::targets(params::NETCONSOLE.value()) {
        match cmdline::Target::parse(spec) {
            // As upstream: targets that cannot be parsed have no number.
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
        let shared = Arc::pin_init(
            try_pin_init!(Shared {
                settings: params::settings()?,
                session: Session(sys::random::u64()),
                log: Log::new(module_parameters::log_buf_kb.value())?,
                queue: Arc::new(OwnedQueue::new(c"netconsole_ext", true)?, GFP_KERNEL)?,
                sockets: Sockets::new()?,
                buffer <- new_mutex!(Buffer::new()?, "Shared::buffer"),
                alarm <- Alarm::new(),
            }? Error),
            GFP_KERNEL,
        )?;
        let control = Control::new(shared.clone())?;
        // From here on an error is torn down in the order of the fields.
        let working = Working(control.clone());
        let events = Arc::new(NetEvents(control.clone()), GFP_KERNEL)?;
        let addresses = KBox::pin_init(sys::notifier::Notifier::new(events.clone()), GFP_KERNEL)?;
        let devices = KBox::pin_init(sys::netdev::Notifier::new(events), GFP_KERNEL)?;
        let sending = Sending(control.clone());
        add_targets(&control)?;
        let timers = Tick::start(control.targets(), &shared)?;
        let crash = Crash::new(control.replay())?;
        let crashes = sys::kmsg_dump::Registration::new(crash.clone());
        let crashes = KBox::pin_init(crashes, GFP_KERNEL)?;
        let endings = KBox::pin_init(sys::die_reboot::Notifier::new(crash), GFP_KERNEL)?;
        let printing = Printing(control.clone());
        let directories = configfs::register(control.clone(), module)?;
        // Last, so that no log is sent by a module that is then not loaded. The timers wait longer
        // than this takes before the watchdog acts.
        Control::begin(&control)?;
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
