// SPDX-License-Identifier: GPL-2.0

//! The alarm has the timer (`timer.rs`) look at the targets soon after a record is logged, and for
//! as long as something waits. So an idle machine has no timer of ours but keepalive's.
//!
//! One timer is in use, and the next one stands by on another CPU. If the CPU of the first hangs,
//! the other takes its place.

use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock_irq,
        SpinLockIrq, //
    },
};

use crate::sys::{
    smp,
    time::now_ms,
    timer::{
        Timers,
        TIMERS, //
    }, //
};

/// How long after the last record the timer looks once a second, in milliseconds: until work items
/// have told of hidden records, and of an emergency.
const ACTIVE_MS: u64 = 3000;

/// How long after the timer the one that stands by fires, in milliseconds: the first is overdue by
/// then if its CPU hangs.
const STANDBY_MS: u64 = 200;

/// The timers, and when they are wanted.
#[pin_data]
pub(crate) struct Alarm {
    /// The timers; [`TIMERS`] of them, so that a few CPUs may hang.
    #[pin]
    pub(crate) timers: Timers,
    /// The timer that is in use.
    current: Atomic<usize>,
    /// Held while another one takes its place.
    #[pin]
    changing: SpinLockIrq<()>,
    /// The time at which a record was last seen to be logged.
    logged_at: Atomic<u64>,
    /// Whether nobody calls [`Self::logged`].
    deaf: Atomic<bool>,
    /// How long after a record is logged the timer looks, in milliseconds.
    delay: Atomic<u64>,
}

impl Alarm {
    /// Creates the timers; none is armed.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            timers <- Timers::new(),
            current: Atomic::new(0),
            changing <- new_spinlock_irq!((), "Alarm::changing"),
            logged_at: Atomic::new(0),
            deaf: Atomic::new(true),
            delay: Atomic::new(1),
        })
    }

    /// Has the timer look soon: a record has been logged. Any context but NMI.
    pub(crate) fn logged(&self) {
        self.logged_at.store(now_ms(), Relaxed);
        let next = self.current.load(Relaxed).wrapping_add(1) % TIMERS;
        self.take_over(next);
        self.arm(self.delay());
    }

    /// Has the timer look in `ms` milliseconds at the latest. Any context but NMI.
    pub(crate) fn arm(&self, ms: u64) {
        self.timers.arm(self.current.load(Relaxed), ms);
    }

    /// Arms timer `index`, which is in use, for its next look in `ms` milliseconds, and the next
    /// one on another CPU. Softirq context.
    pub(crate) fn arm_both(&self, index: usize, ms: u64) {
        self.timers.arm(index, ms);
        let this = smp::this_cpu();
        if let Some(other) = smp::housekeeping_cpus().find(|&cpu| cpu != this) {
            let later = ms.saturating_add(STANDBY_MS);
            self.timers.arm_on((index + 1) % TIMERS, other, later);
        }
    }

    /// Returns whether timer `index` is the one in use: it takes the place of one whose CPU hangs.
    /// Any context but NMI.
    pub(crate) fn take_over(&self, index: usize) -> bool {
        let current = self.current.load(Relaxed);
        if index == current {
            return true;
        }
        if !self.timers.is_overdue(current) {
            return false;
        }
        let off = local_interrupt_disable();
        // Another CPU is about to do the same if this is taken.
        let changing = self.changing.try_lock_with(&off);
        let changes = changing.is_some() && self.current.load(Relaxed) == current;
        if changes {
            self.current.store(index, Relaxed);
        }
        changes
    }

    /// Arms timer `index`, which stands by and has fired, for a while after the one in use, if that
    /// is armed. Softirq context.
    pub(crate) fn stand_by(&self, index: usize) {
        if let Some(ms) = self.timers.due_in(self.current.load(Relaxed)) {
            self.timers.arm(index, ms.saturating_add(STANDBY_MS));
        }
    }

    /// Returns whether the timer is to look once a second although nothing may wait. Any context.
    pub(crate) fn is_active(&self, now: u64) -> bool {
        self.deaf.load(Relaxed) || now.saturating_sub(self.logged_at.load(Relaxed)) < ACTIVE_MS
    }

    /// Says whether nobody calls [`Self::logged`], so that the timer looks all the time. Any
    /// context.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Relaxed);
    }

    /// Returns how long after a record is logged the timer looks, in milliseconds. Any context.
    pub(crate) fn delay(&self) -> u64 {
        self.delay.load(Relaxed)
    }

    /// Sets that time.
    pub(crate) fn set_delay(&self, ms: u64) {
        self.delay.store(ms, Relaxed);
    }
}
