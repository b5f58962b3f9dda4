// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, and the settings that they give.
//!
//! Integers are declared in `module!`, in `netconsole_ext.rs`.

use core::ops::RangeInclusive;

use kernel::{
    prelude::*,
    str::BStr, //
};

use crate::{
    module_parameters as given,
    proto::{
        config::{
            self,
            bounds,
            Settings, //
        },
        emg_schedule::Intervals,
        peer::Policy, //
    },
    sys::param::{
        module_param,
        BoolParam,
        StringParam, //
    }, //
};

module_param! {
    module: "netconsole_ext",
    /// The targets; the grammar is in `proto/cmdline.rs`. Upstream has room for 255 bytes.
    string NETCONSOLE: StringParam<1024> = "netconsole",
        " netconsole=[+][r][src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...]";
    /// Whether only records that are printed during an oops are sent, as upstream's.
    bool OOPS_ONLY: BoolParam = "oops_only", "Only log oops messages";
    /// The dialect of all targets.
    string DIALECT: StringParam<8> = "dialect", "auto (the logger's), nca or ncrx";
    /// Whether responses have to name our session.
    string SESSION: StringParam<8> = "session",
        "auto (once the logger has named it), require or off";
    /// Whether records are sent that the console log level hides.
    bool FULL_LOG: BoolParam = "full_log", "Send what the console log level hides";
    /// Whether a crash kernel is to run before anything of a crash is sent.
    bool KDUMP_FIRST: BoolParam = "kdump_first",
        "Send nothing of a crash before a crash kernel runs";
}

/// Returns the settings of targets that have none of their own. Process context.
///
/// `EINVAL`: a value is not valid; the log names it, and what is.
pub(crate) fn settings() -> Result<Settings> {
    let dialect = match DIALECT.value() {
        b"" => None,
        name => config::dialect(name).ok_or_else(|| {
            let name = BStr::from_bytes(name);
            pr_err!("dialect={}: must be auto, nca or ncrx\n", name);
            EINVAL
        })?,
    };
    let policy = match SESSION.value() {
        b"" => Policy::Auto,
        name => Policy::parse(name).ok_or_else(|| {
            let name = BStr::from_bytes(name);
            pr_err!("session={}: must be auto, require or off\n", name);
            EINVAL
        })?,
    };
    let timeout = given::ack_timeout_ms.value();
    let (min, max) = (
        given::emg_min_intv_ms.value(),
        given::emg_max_intv_ms.value(),
    );
    let intervals = Intervals {
        ack_timeout: bounded("ack_timeout_ms", timeout, bounds::ACK_TIMEOUT_MS)?.into(),
        min: bounded("emg_min_intv_ms", min, bounds::EMG_INTV_MS)?.into(),
        max: bounded("emg_max_intv_ms", max, bounds::EMG_INTV_MS)?.into(),
    };
    let rate = given::retransmit_rate.value();
    let burst = given::retransmit_burst.value();
    let push_after = given::push_after_ms.value();
    let keepalive = given::keepalive_s.value();
    let hold = given::panic_hold_ms.value();
    let repeats = given::crash_repeats.value();
    let before = given::kdump_send_ms.value();
    bounded("kdump_send_ms", before, bounds::KDUMP_SEND_MS)?;
    Ok(Settings {
        intervals,
        retransmit_rate: bounded("retransmit_rate", rate, bounds::RETRANSMIT)?,
        retransmit_burst: bounded("retransmit_burst", burst, bounds::RETRANSMIT)?,
        push_after_ms: bounded("push_after_ms", push_after, bounds::PUSH_AFTER_MS)?.into(),
        keepalive_s: bounded("keepalive_s", keepalive, bounds::KEEPALIVE_S)?,
        panic_hold_ms: bounded("panic_hold_ms", hold, bounds::PANIC_HOLD_MS)?,
        crash_repeats: bounded("crash_repeats", repeats, bounds::CRASH_REPEATS)?,
        dialect,
        policy,
        full_log: FULL_LOG.value(),
    })
}

/// Returns for how long a crash may be sent before a crash kernel runs, in milliseconds. Any
/// context.
pub(crate) fn kdump_send_ms() -> u64 {
    given::kdump_send_ms.value().into()
}

/// Returns a parameter's value if it is within its bounds; else logs them.
fn bounded(name: &str, value: u32, bounds: RangeInclusive<u32>) -> Result<u32> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (first, last) = (bounds.start(), bounds.end());
    pr_err!("{}={}: must be from {} to {}\n", name, value, first, last);
    Err(EINVAL)
}
