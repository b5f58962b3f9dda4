// SPDX-License-Identifier: GPL-2.0

//! The timer: it calls emergency transmission (`emg_tx.rs`) and the watchdog (`watchdog.rs`), and
//! wakes the targets' work items. `target/alarm.rs` has when.
//!
//! It runs in softirq context, as that of the 2015 series: a driver's own locks are not safe
//! against hard interrupts. It only tries locks that the interrupted context may hold, and comes
//! back for those that are taken. While a panic is in progress it does nothing.

use core::ops::ControlFlow;

use kernel::{
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    },
};

use crate::{
    emg_tx,
    log::{
        access::Busy,
        Buffer,
        Log, //
    },
    proto::config::Config,
    sys::{
        console,
        printk,
        time::now_ms,
        timer::Callback, //
    },
    target::{
        list::Targets,
        port::Port,
        Shared,
        Target,
        NEVER, //
    },
    test_hooks,
    watchdog, //
};

/// The interval at which work items are woken while records are logged, in milliseconds.
const WAKE_MS: u64 = 1000;

/// The time until a congested device is looked at again, in milliseconds.
const ROOM_MS: u64 = 10;

/// The time until a lock that was taken is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

/// The work of the timers.
#[pin_data]
pub(crate) struct Tick {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    woken_at: Atomic<u64>,
    /// Held while a timer does what is due.
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

impl Tick {
    /// Starts the timers for these targets. Process context.
    pub(crate) fn start(targets: &Arc<Targets>, shared: &Arc<Shared>) -> Result<Timers> {
        let tick = Arc::pin_init(
            try_pin_init!(Self {
                targets: targets.clone(),
                shared: shared.clone(),
                woken_at: Atomic::new(0),
                buffer <- new_spinlock_irq!(Buffer::new()?, "Tick::buffer"),
            }? Error),
            GFP_KERNEL,
        )?;
        shared.alarm.timers.start(tick);
        shared.alarm.arm(1);
        Ok(Timers(shared.clone()))
    }

    /// Does what is due. Returns in how many milliseconds to look again, if at all.
    fn look(&self, now: u64, buffer: &mut Buffer, off: &LocalInterruptDisabled) -> Option<u64> {
        let active = self.shared.alarm.is_active(now);
        let woken_at = self.woken_at.load(Relaxed);
        let wake_in = woken_at.saturating_add(WAKE_MS).saturating_sub(now);
        let wake = wake_in == 0;
        if wake {
            self.woken_at.store(now, Relaxed);
        }
        let mut next = Next(active.then_some(WAKE_MS));
        let mut delay = WAKE_MS;
        self.targets.for_each(|target| {
            let config = target.with_port(|port| *port.config());
            let Some(Config {
                target: kind,
                settings,
            }) = config
            else {
                return ControlFlow::Continue(());
            };
            match target.work_due() {
                // The work item has the timer armed for its next time.
                due if wake && (active || due <= now) => {
                    target.with_port(Port::refill);
                    Target::wake(target);
                }
                NEVER => {}
                due => next.at_most(due.saturating_sub(now).max(wake_in)),
            }
            if !kind.extended {
                return ControlFlow::Continue(());
            }
            if Target::wake_for_room(target) {
                next.at_most(ROOM_MS);
            }
            // A timeout is noticed no later than a tenth of it.
            let shortest = settings.intervals.ack_timeout.min(settings.push_after_ms);
            let tenth = (shortest / 10).max(10);
            delay = delay.min(tenth);
            let emergency = emg_tx::run(target, &settings, now, buffer, off);
            next.after(emergency);
            next.after(watchdog::run(target, &settings, now, buffer, off));
            if watchdog::is_needed(target) {
                next.at_most(tenth);
            }
            ControlFlow::Continue(())
        });
        self.shared.alarm.set_delay(delay);
        next.0
    }
}

/// The time until the next look, in milliseconds; [`None`]: there is none.
struct Next(Option<u64>);

impl Next {
    fn at_most(&mut self, ms: u64) {
        self.0 = Some(self.0.map_or(ms, |next| next.min(ms)));
    }

    /// Takes the answer of something that is called.
    fn after(&mut self, answer: Result<Option<u64>, Busy>) {
        match answer {
            Ok(None) => {}
            Ok(Some(ms)) => self.at_most(ms.max(RETRY_MS)),
            Err(Busy) => self.at_most(RETRY_MS),
        }
    }
}

impl Callback for Tick {
    fn run(&self, index: usize) {
        test_hooks::softirq();
        let alarm = &self.shared.alarm;
        if printk::panic_in_progress() {
            return;
        }
        if !alarm.take_over(index) {
            alarm.stand_by(index);
            return;
        }
        let off = local_interrupt_disable();
        let Some(mut buffer) = self.buffer.try_lock_with(&off) else {
            alarm.timers.arm(index, RETRY_MS);
            return;
        };
        let end = Log::end();
        let next = self.look(now_ms(), &mut buffer, &off);
        if next.is_none_or(|ms| ms > alarm.delay()) {
            console::listen();
            if Log::end() != end {
                alarm.logged();
            }
        }
        if let Some(ms) = next {
            alarm.arm_both(index, ms);
        }
    }
}

/// The timers; stopped when dropped.
pub(crate) struct Timers(Arc<Shared>);

impl Drop for Timers {
    fn drop(&mut self) {
        self.0.alarm.timers.stop();
    }
}
