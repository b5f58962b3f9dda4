// SPDX-License-Identifier: GPL-2.0

//! The timer that drives emergency transmission, and wakes the targets' work once a second.
//!
//! It runs in softirq context, as that of the 2015 series: a driver's own locks are not safe against
//! hard interrupts. It waits for no lock that what it has interrupted may hold; what it cannot have
//! it comes back for. While a panic is in progress it does nothing.

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
            RelativeSoftMode, //
        },
        Delta,
        Monotonic, //
    },
};

use crate::{
    emg_tx::{
        Step,
        View, //
    },
    log::{
        Access,
        Buffer,
        Log, //
    },
    ring::Meta,
    sys::{
        printk,
        time::now_ms, //
    },
    target::{
        Marks,
        Shared,
        Target,
        Targets, //
    },
    wire::Record,
};

/// How many records the timer sends or passes over at once if printk's thread does not.
const MAX_PUSH: u64 = 32;

/// How often targets have their work item run, in milliseconds.
const WAKE_MS: u64 = 1000;

/// How long until a lock that was taken is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

/// The timer, while it runs.
#[pin_data]
pub(crate) struct Tick {
    #[pin]
    timer: HrTimer<Self>,
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    woken_at: Atomic<u64>,
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Tick {
        mode: RelativeSoftMode<Monotonic>, field: self.timer
    }
}

impl Tick {
    /// Starts the timer; it runs until the handle is dropped. Process context.
    pub(crate) fn start(
        targets: &Arc<Targets>,
        shared: &Arc<Shared>,
    ) -> Result<ArcHrTimerHandle<Self>> {
        let this = Arc::pin_init(
            try_pin_init!(Self {
                timer <- HrTimer::new(),
                targets: targets.clone(),
                shared: shared.clone(),
                woken_at: Atomic::new(0),
                buffer <- new_spinlock_irq!(Buffer::new()?, "Tick::buffer"),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(this.start(Delta::from_millis(1)))
    }

    /// Does what is due, and says in how many milliseconds there may be more.
    fn run(&self, off: &LocalInterruptDisabled) -> u64 {
        let now = now_ms();
        let wake = now.saturating_sub(self.woken_at.load(Relaxed)) >= WAKE_MS;
        if wake {
            self.woken_at.store(now, Relaxed);
        }
        let Some(mut buffer) = self.buffer.try_lock_with(off) else {
            return RETRY_MS;
        };
        // A timeout that begins meanwhile is not noticed later than a tenth of it.
        let settings = &self.shared.settings;
        let shortest = settings.intervals.ack_timeout.min(settings.push_after_ms);
        let mut next = (shortest / 10).clamp(10, WAKE_MS);
        self.targets.for_each(|target| {
            if target.is_enabled() && target.config().extended {
                if wake {
                    Target::wake(target);
                }
                next = next.min(self.emergency(target, now, &mut buffer, off));
                self.push(target, now, &mut buffer, off);
            }
            ControlFlow::Continue(())
        });
        next
    }

    /// Sends records that wait although printk's thread has sent none for long: it is starved, or
    /// dead.
    ///
    /// What counts is progress, not age: a healthy burst takes longer than that to be sent.
    fn push(&self, target: &Target, now: u64, buffer: &mut Buffer, off: &LocalInterruptDisabled) {
        let progress = &target.progress;
        let sent_end = target.sent_end();
        if progress.end.xchg(sent_end, Relaxed) != sent_end {
            progress.since.store(now, Relaxed);
            progress.from.store(sent_end, Relaxed);
            return;
        }
        let since = progress.since.load(Relaxed);
        let from = progress.from.load(Relaxed).max(sent_end);
        let end = Log::end();
        if from >= end || now.saturating_sub(since) < self.shared.settings.push_after_ms {
            if from >= end {
                progress.since.store(now, Relaxed);
            }
            return;
        }
        let log = &self.shared.log;
        let access = Access::Try(off);
        for seq in from..end.min(from.saturating_add(MAX_PUSH)) {
            if let Some((record, _)) = log.get(seq, buffer, access) {
                let level = Record::parse(record).ok().and_then(|r| r.level());
                let hidden =
                    level.is_some_and(|level| i32::from(level) >= printk::console_loglevel());
                if !hidden {
                    // As it is sent now it will be sent again.
                    let _ = log.store(seq, record, Meta::at(now), access);
                    if !target.try_send(record, seq, off) {
                        return;
                    }
                }
            }
            progress.from.store(seq.saturating_add(1), Relaxed);
        }
        progress.end.store(target.sent_end(), Relaxed);
    }

    /// Sends the record of a target's emergency transmission that is due, and says in how many
    /// milliseconds the next one is.
    fn emergency(
        &self,
        target: &Arc<Target>,
        now: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) -> u64 {
        let log = &self.shared.log;
        let access = Access::Try(off);
        let step = {
            let Some(mut state) = target.acks().state().try_lock_with(off) else {
                return RETRY_MS;
            };
            // Emergency records go only to a peer that has acked.
            let Some(ack) = state.peer.acked() else {
                return WAKE_MS;
            };
            let end = target.sent_end();
            let unacked = |seq: u64| {
                let (seq, meta) = log.next_sent(seq, access)?;
                (seq < end).then_some((seq, meta))
            };
            let view = View {
                ack,
                end,
                oldest_sent: unacked(ack.saturating_add(1)).map(|(_, m)| m.sent_ns / 1_000_000),
            };
            let began = state.schedule.emergency().is_none();
            let intervals = self.shared.settings.intervals;
            let step = state
                .schedule
                .poll(now, view, intervals, |seq| unacked(seq).map(|(seq, _)| seq));
            if began && state.schedule.emergency().is_some() {
                // It says so in the log, which is nothing for this context.
                Target::wake(target);
            }
            step
        };
        match step {
            Step::Idle => WAKE_MS,
            Step::Wait(until) => until.saturating_sub(now).max(RETRY_MS),
            Step::Send(seq) => {
                if let Some((record, _)) = log.get(seq, buffer, access) {
                    let marks = Marks {
                        emergency: true,
                        ..Marks::default()
                    };
                    target.send_again(record, marks);
                    target.stats().emergency.inc();
                }
                RETRY_MS
            }
        }
    }
}

impl HrTimerCallback for Tick {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        let next = if printk::panic_in_progress() {
            WAKE_MS
        } else {
            let off = local_interrupt_disable();
            Tick::run(&this, &off)
        };
        // At most a second or an interval of the user's.
        context.forward_now(Delta::from_millis(i64::try_from(next).unwrap_or(1000)));
        HrTimerRestart::Restart
    }
}
