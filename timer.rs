// SPDX-License-Identifier: GPL-2.0

//! The timers that drive emergency transmission, and wake the targets' work once a second.
//!
//! There are two, pinned to different CPUs, so that one is left when a CPU hangs; each does all
//! that is due. They run in softirq context, as that of the 2015 series: a driver's own locks are
//! not safe against hard interrupts. They wait for no lock that what they have interrupted may
//! hold; what they cannot have they come back for. While a panic is in progress they do nothing.

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
    log::{
        access::{
            Busy,
            Try, //
        },
        cursor::{
            Cursor,
            Found, //
        },
        Buffer,
        Log, //
    },
    params,
    proto::{
        config::{
            Config,
            Settings, //
        },
        emg_schedule::{
            Step,
            View, //
        },
        ring::Next, //
    },
    sys::{
        printk,
        smp,
        time::now_ms, //
    },
    target::{
        list::Targets,
        port::Port,
        SendFlags,
        Shared,
        Target, //
    },
    test_hooks, //
};

/// How many timers there are, if there are so many CPUs.
const TIMERS: usize = 2;

/// How many records the timer sends or passes over at once if printk's thread does not.
const MAX_PUSH: u64 = 32;

/// How soon it goes on with that, in milliseconds.
const PUSH_MS: u64 = 10;

/// How long it waits for printk's thread to send what only that can still have, in milliseconds.
const CUT_MS: u64 = 10_000;

/// How often targets have their work item run, in milliseconds.
const WAKE_MS: u64 = 1000;

/// How long until a lock that was taken is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

/// One of the timers, while it runs.
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

/// What the timers do.
#[pin_data]
pub(crate) struct Tick {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    woken_at: Atomic<u64>,
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

impl Tick {
    /// Starts the timers, each on a CPU of its own as far as there are so many. Process context.
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

    /// Does what is due, and says in how many milliseconds there may be more.
    fn run(&self, off: &LocalInterruptDisabled) -> u64 {
        // The other timer is at it.
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
            // A timeout that begins meanwhile is not noticed later than a tenth of it.
            let shortest = settings.intervals.ack_timeout.min(settings.push_after_ms);
            next = next.min((shortest / 10).max(10));
            let times = [
                self.emergency(target, &settings, now, &mut buffer, off),
                self.push(target, &settings, now, &mut buffer, off),
            ];
            for time in times {
                next = next.min(time.unwrap_or(RETRY_MS));
            }
            ControlFlow::Continue(())
        });
        next
    }

    /// Sends records that wait although printk's thread has sent none for long: it is starved, or
    /// dead. Says in how many milliseconds there may be more to do.
    ///
    /// What counts is progress, not age: a healthy burst takes longer than that to be sent.
    fn push(
        &self,
        target: &Target,
        settings: &Settings,
        now: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) -> Result<u64, Busy> {
        if params::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return Ok(WAKE_MS);
        }
        let progress = &target.progress;
        let sent_end = target.sent_end();
        let end = Log::end();
        let seen = progress.end.xchg(sent_end, Relaxed) == sent_end;
        let from = progress.from.load(Relaxed).max(sent_end);
        let since = progress.since.load(Relaxed);
        // Nothing is known of a target that is seen for the first time.
        if !seen || since == 0 || from >= end {
            progress.since.store(now, Relaxed);
            progress.from.store(sent_end, Relaxed);
            return Ok(WAKE_MS);
        }
        let waited = now.saturating_sub(since);
        let patience = self.shared.crashed.patience(now, settings.push_after_ms);
        if waited < patience {
            return Ok(WAKE_MS);
        }
        let log = &self.shared.log;
        let permit = target.try_tx_permit(off).ok_or(Busy)?;
        let mut cursor = Cursor::new(log, from, settings.full_log, Try(off));
        for _ in 0..MAX_PUSH {
            let at = cursor.seq();
            if at >= end || target.is_congested() {
                break;
            }
            let is_gap = waited < CUT_MS && !log.has(at, buffer, Try(off))?;
            match cursor.step(end, buffer)? {
                // What is between has been cleared (`dmesg --clear`), and only printk's thread can
                // still have it; or it has been overwritten, and nobody has.
                Found::Record(_) if is_gap => {
                    cursor = Cursor::new(log, at, settings.full_log, Try(off));
                    break;
                }
                Found::Record(unsent) => {
                    let meta = cursor.keep(&unsent, now)?;
                    target.transmit_first(unsent.seq, unsent.record, meta.as_ref(), &permit);
                }
                Found::Searching | Found::End => {}
            }
        }
        progress.from.store(cursor.seq(), Relaxed);
        progress.end.store(target.sent_end(), Relaxed);
        Ok(PUSH_MS)
    }

    /// Sends the record of a target's emergency transmission that is due, and says in how many
    /// milliseconds the next one is.
    fn emergency(
        &self,
        target: &Arc<Target>,
        settings: &Settings,
        now: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) -> Result<u64, Busy> {
        let log = &self.shared.log;
        let access = Try(off);
        let (mut len, mut meta) = (0, None);
        let step = {
            let mut state = target.acks().state().try_lock_with(off).ok_or(Busy)?;
            // Emergency records go only to a peer that has acked.
            let Some(ack) = state.peer.acked() else {
                return Ok(WAKE_MS);
            };
            // What it was not to be sent need not be acked.
            let ack = ack.max(target.first_seq().saturating_sub(1));
            let end = target.sent_end();
            let oldest = log.next_sent(ack.saturating_add(1), access)?;
            let view = View {
                ack,
                end,
                oldest_sent: oldest.map(|(_, meta)| meta.sent_ms()),
            };
            let before = state.schedule.is_emergency();
            let step = state.schedule.poll(now, view, settings.intervals, |seq| {
                let mut cursor = Cursor::new(log, seq, settings.full_log, access);
                match cursor.step(end, buffer) {
                    Ok(Found::Record(unsent)) => {
                        (len, meta) = (unsent.record.len(), unsent.meta);
                        Next::Record(unsent.seq)
                    }
                    Ok(Found::Searching) => Next::NotBefore(cursor.seq()),
                    Ok(Found::End) => Next::Nothing,
                    // What cannot be had now is looked for again, and is not passed over.
                    Err(Busy) => Next::NotBefore(seq),
                }
            });
            if before != state.schedule.is_emergency() {
                // It says so in the log, which is nothing for this context.
                Target::wake(target);
            }
            step
        };
        match step {
            Step::Idle => Ok(WAKE_MS),
            Step::Wait(until) => Ok(until.saturating_sub(now).max(RETRY_MS)),
            Step::Send(seq) => {
                let flags = SendFlags {
                    emergency: true,
                    ..SendFlags::default()
                };
                target.transmit(seq, buffer.record(len), meta.as_ref(), flags);
                target.stats().emergency.inc();
                Ok(RETRY_MS)
            }
        }
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
