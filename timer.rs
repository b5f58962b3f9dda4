// SPDX-License-Identifier: GPL-2.0

//! The timers: they call emergency transmission (`emg_tx.rs`) and the watchdog (`watchdog.rs`), and
//! wake the targets' work items once a second.
//!
//! Two timers are pinned to different CPUs, so that one is left when a CPU hangs. Each does all
//! that is due. They run in softirq context, as that of the 2015 series: a driver's own locks are
//! not safe against hard interrupts. They only try locks that the interrupted context may hold, and
//! come back for those that are taken. While a panic is in progress they do nothing.

use core::ops::ControlFlow;

use kernel::{
    impl_has_hr_timer,
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
        ArcBorrow,
        SpinLockIrq, //
    },
    time::{
        hrtimer::{
            ArcHrTimerHandle,
            HrTimer,
            HrTimerCallback,
            HrTimerCallbackContext,
            HrTimerPointer,
            HrTimerRestart,
            RelativePinnedSoftMode, //
        },
        Delta,
        Monotonic, //
    },
};

use crate::{
    emg_tx,
    log::Buffer,
    proto::config::Config,
    sys::{
        printk,
        smp,
        time::now_ms, //
    },
    target::{
        list::Targets,
        port::Port,
        Target, //
    },
    test_hooks,
    watchdog, //
};

/// The number of timers, CPUs permitting.
const TIMERS: usize = 2;

/// The interval at which work items are woken, in milliseconds.
const WAKE_MS: u64 = 1000;

/// The time until a congested device is looked at again, in milliseconds.
const ROOM_MS: u64 = 10;

/// The time until a lock that was taken is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

/// A running timer.
#[pin_data]
struct Timer {
    #[pin]
    timer: HrTimer<Self>,
    tick: Arc<Tick>,
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Timer {
        mode: RelativePinnedSoftMode<Monotonic>, field: self.timer
    }
}

/// The timers; stopped when dropped.
pub(crate) struct Timers {
    _handles: [Option<ArcHrTimerHandle<Timer>>; TIMERS],
}

/// The state of the timers.
#[pin_data]
pub(crate) struct Tick {
    targets: Arc<Targets>,
    woken_at: Atomic<u64>,
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

impl Tick {
    /// Starts the timers, each on a CPU of its own as far as possible. Process context.
    pub(crate) fn start(targets: &Arc<Targets>) -> Result<Timers> {
        let tick = Arc::pin_init(
            try_pin_init!(Self {
                targets: targets.clone(),
                woken_at: Atomic::new(0),
                buffer <- new_spinlock_irq!(Buffer::new()?, "Tick::buffer"),
            }? Error),
            GFP_KERNEL,
        )?;
        let mut cpus = smp::online_cpus();
        let mut handles = [const { None }; TIMERS];
        for handle in &mut handles {
            let Some(cpu) = cpus.next() else { break };
            let tick = tick.clone();
            let timer = Arc::pin_init(
                pin_init!(Timer {
                    timer <- HrTimer::new(),
                    tick,
                }),
                GFP_KERNEL,
            )?;
            // A CPU that has just gone offline takes no timer; another one is left.
            *handle = smp::call_on(cpu, || timer.start(Delta::from_millis(1))).ok();
        }
        if handles.iter().all(Option::is_none) {
            return Err(ENXIO);
        }
        Ok(Timers { _handles: handles })
    }

    /// Does what is due. Returns in how many milliseconds to run again.
    fn run(&self, off: &LocalInterruptDisabled) -> u64 {
        // The other timer is running.
        let Some(mut buffer) = self.buffer.try_lock_with(off) else {
            return RETRY_MS;
        };
        let now = now_ms();
        let wake = now.saturating_sub(self.woken_at.load(Relaxed)) >= WAKE_MS;
        if wake {
            self.woken_at.store(now, Relaxed);
        }
        let mut next = WAKE_MS;
        self.targets.for_each(|target| {
            let config = target.with_port(|port| *port.config());
            let Some(Config {
                target: kind,
                settings,
            }) = config
            else {
                return ControlFlow::Continue(());
            };
            if wake {
                target.with_port(Port::refill);
                Target::wake(target);
            }
            if !kind.extended {
                return ControlFlow::Continue(());
            }
            if Target::wake_for_room(target) {
                next = next.min(ROOM_MS);
            }
            // A timeout is noticed no later than a tenth of it.
            let shortest = settings.intervals.ack_timeout.min(settings.push_after_ms);
            next = next.min((shortest / 10).max(10));
            let times = [
                emg_tx::run(target, &settings, now, &mut buffer, off),
                watchdog::run(target, &settings, now, &mut buffer, off),
            ];
            for time in times {
                let time = time.unwrap_or(Some(RETRY_MS)).unwrap_or(WAKE_MS);
                next = next.min(time.max(RETRY_MS));
            }
            ControlFlow::Continue(())
        });
        next
    }
}

impl HrTimerCallback for Timer {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        test_hooks::softirq();
        let next = if printk::panic_in_progress() {
            WAKE_MS
        } else {
            let off = local_interrupt_disable();
            this.tick.run(&off)
        };
        // At most a second or an interval of the user's.
        context.forward_now(Delta::from_millis(i64::try_from(next).unwrap_or(1000)));
        HrTimerRestart::Restart
    }
}
