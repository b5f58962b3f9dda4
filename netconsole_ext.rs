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
//! | `wire.rs` | pure: records to datagrams, both dialects |
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
//! Records are sent by printk's thread for the console, with its `device` lock held and so (but for
//! PREEMPT_RT) interrupts off, or, in a panic, by `write_atomic` in whatever context that happens,
//! NMI included. Sending takes no lock of ours: the list of targets and a target's port are read
//! under RCU. What netpoll does, it does: it tries the locks of the device's queues, and takes that
//! of its own queue if the device does not take a frame.
//!
//! | lock | taken by | inside of |
//! |---|---|---|
//! | `rtnl` | enabling a target, device events, unloading | |
//! | `Targets::all` | adding a target, device events, unloading | `rtnl` |
//! | `console::device` | printk's thread; registering and unregistering the console | printk's `console_list_lock` or `console_srcu` |
//! | `Log::ring` | whoever sends a record, for the first time or again | any |

mod console;
mod kmsg;
#[cfg_attr(not(CONFIG_KUNIT), expect(dead_code))]
mod log;
mod netdev;
mod params;
mod ring;
mod sys;
mod target;
mod udp;
#[cfg_attr(
    not(CONFIG_KUNIT),
    expect(dead_code, reason = "responses are read by ack.rs, which is to come")
)]
mod wire;
mod wire_tests;

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    str::{
        BStr,
        CString, //
    },
    sync::Arc, //
};

use console::Consoles;
use netdev::Watch;
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
    workqueue::OwnedQueue, //
};
use target::{
    Target,
    Targets, //
};

module! {
    type: NetconsoleExt,
    name: "netconsole_ext",
    authors: ["the netconsole_ext developers"],
    description: "Reliable console driver for network interfaces",
    license: "GPL",
    imports_ns: ["NETDEV_INTERNAL"],
}

module_param! {
    module: "netconsole_ext",
    /// The targets; the grammar is in `params.rs`. Upstream has room for 255 bytes.
    string NETCONSOLE: StringParam<1024> = "netconsole",
        " netconsole=[+][r][src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...]";
    /// Whether only records that are printed during an oops are sent, as upstream's.
    bool OOPS_ONLY: BoolParam = "oops_only", "Only log oops messages";
}

/// The module while it is loaded.
///
/// The order of the fields is the order of tearing down: nobody prints, nobody sends, nobody
/// listens to devices, no work is left.
struct NetconsoleExt {
    _consoles: Consoles,
    _stop: StopAll,
    _watch: Pin<KBox<Notifier<Watch>>>,
    _queue: Arc<OwnedQueue>,
}

/// Stops all targets when dropped, and says what they have done.
struct StopAll(Arc<Targets>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_if(&Rtnl::lock(), |_| true);
        self.0.for_each(|target| {
            target.print_stats();
            ControlFlow::Continue(())
        });
    }
}

impl kernel::Module for NetconsoleExt {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let queue = Arc::new(OwnedQueue::new(c"netconsole_ext")?, GFP_KERNEL)?;
        let targets = Targets::new()?;
        let watch = Notifier::new(Watch(targets.clone()))?;
        let stop = StopAll(targets.clone());

        let mut count = 0;
        for spec in params::targets(NETCONSOLE.value()) {
            match params::Target::parse(spec) {
                // As upstream's: those that cannot be parsed have no number.
                Ok(config) => {
                    if let Err(e) = add_target(count, config, &targets, &queue) {
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

        let consoles = Consoles::new(&targets)?;
        pr_info!("network logging started\n");
        Ok(Self {
            _consoles: consoles,
            _stop: stop,
            _watch: watch,
            _queue: queue,
        })
    }
}

/// Adds target `n` of the module's parameter, and enables it.
///
/// Only what goes wrong before it can be enabled is an error: the rest has been said in the log.
fn add_target(
    n: u32,
    config: params::Target,
    targets: &Targets,
    queue: &Arc<OwnedQueue>,
) -> Result {
    let target = Target::new(CString::try_from_fmt(fmt!("cmdline{n}"))?, config)?;
    target.print_banner();
    // It has to be in the list first, so that it is told when the device goes away.
    targets.add(target.clone())?;
    let _ = netdev::enable(&target, queue);
    Ok(())
}
