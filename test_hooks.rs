// SPDX-License-Identifier: GPL-2.0

//! Hooks for trials of rare events: a CPU that stays in a lock, a bug in an interrupt.
//!
//! Each is a parameter that root can write, so they exist only in a build for tests
//! (`CONFIG_NETCONSOLE_EXT_KUNIT_TEST`). In all others these functions are empty.

#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
use kernel::time::{
    delay::fsleep,
    Delta, //
};

use crate::sys::netdev::NetDevice;
#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
use crate::sys::{
    napi,
    panic,
    param::{
        module_param,
        BoolParam, //
    },
    smp, //
};

#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
module_param! {
    module: "netconsole_ext",
    /// Holds the console thread of the extended console, as if it were starved.
    bool STOP_PRINTER: BoolParam = "debug_stop_printer", "Hold the printer thread (tests only)";
    /// Holds a CPU that stores a record, with all its locks.
    bool HOLD_RING: BoolParam = "debug_hold_ring", "Hold the log's lock (tests only)";
    /// Holds a CPU that transmits a record for the first time.
    bool HOLD_TX_PERMIT: BoolParam = "debug_hold_permit", "Hold a tx permit (tests only)";
    /// A bug in the console thread of the extended console.
    bool BUG_PRINTER: BoolParam = "debug_bug_printer", "BUG() in the printer thread (tests only)";
    /// A bug in a softirq, the timer's.
    bool BUG_SOFTIRQ: BoolParam = "debug_bug_softirq", "BUG() in a softirq (tests only)";
    /// A bug in the driver of a target's device while it transmits.
    bool BUG_XMIT: BoolParam = "debug_bug_xmit", "BUG() while a driver transmits (tests only)";
    /// The same while it polls.
    bool BUG_POLL: BoolParam = "debug_bug_poll", "BUG() while a driver polls (tests only)";
    /// A bug in a hard interrupt, from another CPU.
    bool BUG_HARDIRQ: BoolParam = "debug_bug_hardirq", "BUG() in an interrupt (tests only)";
}

/// Called by the console thread of the extended console, without locks. Process context; sleeps.
pub(crate) fn printer() {
    #[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
    {
        if BUG_PRINTER.value() {
            panic::bug();
        }
        while STOP_PRINTER.value() {
            fsleep(Delta::from_millis(10));
        }
    }
}

/// Called with the lock of the log held, but not in a panic. Any context.
pub(crate) fn ring() {
    #[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
    while HOLD_RING.value() {
        core::hint::spin_loop();
    }
}

/// Called with a target's tx permit held, but not if that was only tried. Any context.
pub(crate) fn tx_permit() {
    #[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
    while HOLD_TX_PERMIT.value() {
        core::hint::spin_loop();
    }
}

/// Called by a timer. Softirq context.
pub(crate) fn softirq() {
    #[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
    if BUG_SOFTIRQ.value() {
        panic::bug();
    }
}

/// Called by a target's work item, without locks, with what gives a function the target's device.
/// Process context.
pub(crate) fn work(_with_device: impl FnOnce(&dyn Fn(&NetDevice))) {
    #[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
    {
        if BUG_HARDIRQ.value() {
            smp::interrupt_another(panic::bug);
        }
        let polls = BUG_POLL.value();
        if polls || BUG_XMIT.value() {
            _with_device(&|dev| napi::inside_the_driver(dev, polls, panic::bug));
        }
    }
}
