// SPDX-License-Identifier: GPL-2.0

//! The mark of a crash: the first record of a panic, or of an oops that may become one.

use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

use crate::sys::{
    smp,
    time::now_ms, //
};

/// How long after an oops the console thread is given less time, and how much, in milliseconds.
const OOPS_MS: u64 = 10_000;
const OOPS_PUSH_MS: u64 = 100;

/// No record, and no CPU.
const NO_RECORD: u64 = u64::MAX;
const NO_CPU: u32 = u32::MAX;

/// The mark of this machine, which crashes once.
pub(crate) static MARK: Mark = Mark {
    first: Atomic::new(NO_RECORD),
    oops_first: Atomic::new(NO_RECORD),
    oops_cpu: Atomic::new(NO_CPU),
    oops_until: Atomic::new(0),
    oops_ms: Atomic::new(0),
};

/// The state of the crash.
pub(crate) struct Mark {
    /// The first record of the panic.
    first: Atomic<u64>,
    /// The first record of an oops that a panic may follow at once, and the CPU that it is on.
    oops_first: Atomic<u64>,
    oops_cpu: Atomic<u32>,
    /// The end of the time in which one may, in milliseconds.
    oops_until: Atomic<u64>,
    /// The time of the last oops that the machine has survived, in milliseconds; 0 if there was
    /// none.
    oops_ms: Atomic<u64>,
}

impl Mark {
    /// Returns whether record `seq` belongs to the panic. Any context.
    pub(crate) fn has(&self, seq: u64) -> bool {
        seq >= self.first()
    }

    /// Returns the first record of the panic; `u64::MAX` before one. Any context.
    pub(crate) fn first(&self) -> u64 {
        self.first.load(Relaxed)
    }

    /// Returns whether there is a panic whose beginning is known. Any context.
    pub(crate) fn is_set(&self) -> bool {
        self.first() != NO_RECORD
    }

    /// Sets the first record of the panic, unless an earlier one is known. Any context in a panic.
    pub(crate) fn set(&self, first: u64) {
        self.first.store(first.min(self.first()), Relaxed);
    }

    /// Notes an oops on this CPU, which a panic may follow within `until`, in milliseconds. Any
    /// context.
    pub(crate) fn set_oops(&self, first: u64, until: u64) {
        self.oops_first.store(first, Relaxed);
        self.oops_until.store(until, Relaxed);
        self.oops_cpu.store(smp::this_cpu(), Relaxed);
    }

    /// Returns the first record of an oops on this CPU of which not all has been logged yet. Any
    /// context.
    pub(crate) fn oops_here(&self) -> Option<u64> {
        let here = self.oops_cpu.load(Relaxed) == smp::this_cpu();
        let here = here && now_ms() < self.oops_until.load(Relaxed);
        here.then(|| self.oops_first.load(Relaxed))
    }

    /// Notes that the machine has survived an oops, of which all has been logged. Any context.
    pub(crate) fn survived(&self) {
        self.oops_ms.store(now_ms().max(1), Relaxed);
        // Mostly this is still the CPU of the oops.
        let _ = self.oops_cpu.cmpxchg(smp::this_cpu(), NO_CPU, Full);
    }

    /// Returns how long the console thread may take, in milliseconds, if that is `ms` at other
    /// times. Any context.
    pub(crate) fn patience(&self, now: u64, ms: u64) -> u64 {
        match self.oops_ms.load(Relaxed) {
            0 => ms,
            oops if now.saturating_sub(oops) > OOPS_MS => ms,
            _ => ms.min(OOPS_PUSH_MS),
        }
    }
}
