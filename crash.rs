// SPDX-License-Identifier: GPL-2.0

//! When the kernel dies: its last records are sent, and sent again, before nothing can be any more.
//!
//! - **A panic.** printk does not call a console that is unsafe in atomic context before the reset
//!   has been asked for, and ours is while the kernel lives. So when the other CPUs have been
//!   stopped and the log is dumped, ours is said to be safe, which from then on it is: every lock
//!   is tried, and memory comes from the reserve. printk hands it all that waits and each line that
//!   follows. What it cannot hand over, because a CPU was stopped in the midst of a record, is
//!   taken from its log. Then all that may have been lost is sent again: see
//!   `proto/crash_schedule.rs`.
//! - **An oops** that the machine survives needs nothing but that nobody waits: the timer sends
//!   what printk's thread has not sent a tenth of a second after it.
//! - **A crash kernel** is jumped to before the log is dumped (unless `crash_kexec_post_notifiers`
//!   is set). Before that an oops is told of, and what it has logged is sent there and then, in
//!   case it is the last that is heard. For the lines after that, and for those of a panic that is
//!   no oops, see `crash/kdump.rs`.
//! - **A reboot** in good order waits a little for the last ack, and sends again what has none.
//!
//! A CPU that is stopped while it sends by a device would keep the lock of that queue for good, and
//! nothing could be sent by it any more: see `crash/tx_freeze.rs`.
//!
//! The targets on consoles of the basic format have no numbers, and get nothing again, nor anything
//! before a crash kernel runs.

pub(crate) mod kdump;
pub(crate) mod tx_freeze;

use core::ops::{
    ControlFlow,
    Range, //
};

use kernel::{
    interrupt::LocalInterruptDisabled,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        lock::spinlock::SpinLockGuard,
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    },
    time::{
        delay::{
            fsleep,
            udelay, //
        },
        Delta, //
    },
};

use crate::{
    crash::kdump::BEFORE_MS,
    log::{
        access::{
            Now,
            Wait, //
        },
        cursor::{
            Cursor,
            Found,
            Unsent, //
        },
        Buffer,
        Log, //
    },
    params,
    proto::{
        config::Settings,
        crash_schedule::{
            plan,
            Acked,
            Rounds,
            View,
            TIMES, //
        },
        printk_text,
        ring::Next, //
    },
    sys::{
        self,
        console,
        die_reboot::Ending,
        kmsg_dump::Dumper,
        panic::{
            self,
            Blink,
            Panic,
            Timeout, //
        },
        smp,
        time::now_ms, //
    },
    target::{
        list::Targets,
        SendFlags,
        Shared,
        Target,
        TxPermit, //
    }, //
};

/// What was logged so long before the last record of a panic is taken for a part of it, in
/// microseconds: the trace of an oops takes a slow serial console that long.
const CRASH_US: u64 = 2_000_000;

/// The most records that are.
const MAX_CRASH: u64 = 512;

/// For how long after an oops printk's thread is given less time, and how much, in milliseconds.
const OOPS_MS: u64 = 10_000;
const OOPS_PUSH_MS: u64 = 100;

/// How long a round may take for one target, in milliseconds: others have slower devices.
const ROUND_MS: u64 = 2000;

/// How often what only one at a time uses is tried, and how long after each, in microseconds: ten
/// milliseconds in all.
const STATE_TRIES: u32 = 200;
const STATE_US: i64 = 50;

/// How long an orderly end waits for the last acks, in milliseconds.
const GOODBYE_MS: u64 = 500;

/// How long it waits before it sends what is not acked again, in milliseconds.
const REPEAT_MS: u64 = 100;

/// What is known of a crash.
pub(crate) struct Crashed {
    /// The first record of the one that the machine ends with; `u64::MAX` before that.
    /// Changed only by who has [`Crash::state`], or when there is no panic after all.
    pub(crate) first: Atomic<u64>,
    /// The first record of an oops that may be what the machine ends with, and the CPU that it is
    /// on; [`u32::MAX`] if there is none.
    oops_first: Atomic<u64>,
    oops_cpu: Atomic<u32>,
    /// Until when it may be, in milliseconds.
    oops_until: Atomic<u64>,
    /// When the last oops was that the machine has survived, in milliseconds; 0 if there was none.
    oops_ms: Atomic<u64>,
}

impl Crashed {
    /// Nothing has happened.
    pub(crate) fn not() -> Self {
        Self {
            first: Atomic::new(u64::MAX),
            oops_first: Atomic::new(u64::MAX),
            oops_cpu: Atomic::new(u32::MAX),
            oops_until: Atomic::new(0),
            oops_ms: Atomic::new(0),
        }
    }

    /// Whether record `seq` is of the crash that the machine ends with. Any context.
    pub(crate) fn has(&self, seq: u64) -> bool {
        seq >= self.first.load(Relaxed)
    }

    /// The first record of an oops on this CPU of which not all has been logged yet. Any context.
    pub(crate) fn oops_here(&self) -> Option<u64> {
        let here = self.oops_cpu.load(Relaxed) == smp::this_cpu();
        let here = here && now_ms() < self.oops_until.load(Relaxed);
        here.then(|| self.oops_first.load(Relaxed))
    }

    /// How long printk's thread may take, if it may take `ms` milliseconds at other times. Any
    /// context.
    pub(crate) fn patience(&self, now: u64, ms: u64) -> u64 {
        match self.oops_ms.load(Relaxed) {
            0 => ms,
            oops if now.saturating_sub(oops) > OOPS_MS => ms,
            _ => ms.min(OOPS_PUSH_MS),
        }
    }
}

/// What only one at a time uses.
pub(crate) struct State {
    pub(crate) buffer: Buffer,
    rounds: Rounds,
    /// Until when something may be sent before a crash kernel runs, in milliseconds.
    pub(crate) until: u64,
}

/// Who is told of crashes.
#[pin_data]
pub(crate) struct Crash {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    /// Whether `state` was waited for in vain.
    waited: Atomic<bool>,
    /// Tried only, but in process context.
    #[pin]
    state: SpinLockIrq<State>,
}

impl Crash {
    /// Creates one. Process context.
    pub(crate) fn new(targets: &Arc<Targets>, shared: &Arc<Shared>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                targets: targets.clone(),
                shared: shared.clone(),
                waited: Atomic::new(false),
                state <- new_spinlock_irq!(
                    State {
                        buffer: Buffer::new()?,
                        rounds: Rounds::new(0, 0),
                        until: 0,
                    },
                    "Crash::state"
                ),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// All targets.
    pub(crate) fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// What they share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What only one at a time uses, if it can be had in some milliseconds; who has it when that is
    /// tried again may never let go of it. Any context.
    pub(crate) fn wait_for_state<'a>(
        &'a self,
        off: &'a LocalInterruptDisabled,
    ) -> Option<SpinLockGuard<'a, State>> {
        let tries = match self.waited.load(Relaxed) {
            true => 1,
            false => STATE_TRIES,
        };
        for _ in 0..tries {
            if let Some(state) = self.state.try_lock_with(off) {
                return Some(state);
            }
            udelay(Delta::from_micros(STATE_US));
        }
        self.waited.store(true, Relaxed);
        None
    }

    /// Marks the records of the crash that has just been logged.
    pub(crate) fn begin(&self, buffer: &mut Buffer) {
        // Its beginning may have been marked long ago.
        let known = &self.shared.crashed.first;
        known.store(self.first_record(buffer).min(known.load(Relaxed)), Relaxed);
    }

    /// Calls `f` for each target with numbers that is enabled.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Arc<Target>, &Settings)) {
        self.targets.for_each(|target| {
            let config = target.with_port(|port| *port.config());
            if let Some(config) = config.filter(|config| config.target.extended) {
                f(target, &config.settings);
            }
            ControlFlow::Continue(())
        });
    }

    /// The longest hold that a target wants, in milliseconds. One without numbers gets nothing
    /// again in it, but its device comes to send what it has been given.
    fn longest_hold(&self) -> u64 {
        let mut hold = 0;
        self.targets.for_each(|target| {
            let settings = target.settings();
            hold = hold.max(settings.map_or(0, |settings| settings.panic_hold_ms));
            ControlFlow::Continue(())
        });
        hold.into()
    }

    /// The first record of a crash that has just been logged.
    fn first_record(&self, buffer: &mut Buffer) -> u64 {
        let end = Log::end();
        let (mut first, mut newest) = (end, None);
        for seq in (end.saturating_sub(MAX_CRASH)..end).rev() {
            let time = sys::kmsg::read(seq, buffer.lines()).and_then(printk_text::time);
            let Some(time) = time else { break };
            if time.saturating_add(CRASH_US) < *newest.get_or_insert(time) {
                break;
            }
            first = seq;
        }
        if params::OOPS_ONLY.value() && newest.is_some() {
            return first;
        }
        // What some target has not been sent yet belongs to it, and without times that is all.
        self.for_each(|target, _| {
            let sent = target.sent_end();
            if sent < first && end - sent <= MAX_CRASH {
                first = sent;
            }
        });
        first
    }

    /// Calls `f` with each of these records that is to be sent until it breaks off; up to which
    /// one?
    fn walk(
        &self,
        records: Range<u64>,
        full: bool,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
        mut f: impl FnMut(&Cursor<'_, Now<'_>>, Unsent<'_>) -> ControlFlow<()>,
    ) -> u64 {
        let mut cursor = Cursor::new(&self.shared.log, records.start, full, Now(off));
        // Who panics elsewhere needs what this uses, and will stop this CPU.
        while cursor.seq() < records.end && !panic::is_elsewhere() {
            let Ok(step) = cursor.step(records.end, buffer);
            if let Found::Record(unsent) = step {
                let seq = unsent.seq;
                if f(&cursor, unsent).is_break() {
                    return seq;
                }
            }
        }
        cursor.seq()
    }

    /// Sends all that has not been sent to some target, taken from printk's log, but not after
    /// `until`.
    pub(crate) fn push(&self, until: u64, buffer: &mut Buffer, off: &LocalInterruptDisabled) {
        let log = &self.shared.log;
        let mut keeps = true;
        self.for_each(|target, settings| {
            let permit = target.try_tx_permit(off).unwrap_or(TxPermit::Taken);
            let mut first = target.sent_end();
            let Ok(stored) = log.stored_end(Now(off));
            keeps &= stored >= Some(first);
            if params::OOPS_ONLY.value() {
                first = first.max(self.shared.crashed.first.load(Relaxed));
            }
            let full = settings.full_log;
            self.walk(first..Log::end(), full, buffer, off, |cursor, unsent| {
                if now_ms() >= until {
                    return ControlFlow::Break(());
                }
                let mut meta = unsent.meta;
                if keeps {
                    let Ok(kept) = cursor.keep(&unsent, now_ms());
                    meta = kept;
                    // What comes after one that is not there would be taken for the next.
                    keeps = meta.is_some();
                }
                target.transmit_first(unsent.seq, unsent.record, meta.as_ref(), &permit);
                ControlFlow::Continue(())
            });
        });
    }

    /// What is known of a target's acks.
    pub(crate) fn acked(target: &Target, off: &LocalInterruptDisabled) -> Acked {
        let state = target.acks().state().try_lock_with(off);
        match state.map(|state| state.peer.acked()) {
            Some(Some(ack)) => Acked::Up(ack),
            Some(None) => Acked::Never,
            None => Acked::Unknown,
        }
    }

    /// Sends everybody what they may not have, for the `round`th time, but not after `end`.
    pub(crate) fn repeat(
        &self,
        round: u32,
        end: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) {
        self.for_each(|target, settings| {
            let until = now_ms().saturating_add(ROUND_MS).min(end);
            let acked = Self::acked(target, off);
            let crash = self.shared.crashed.first.load(Relaxed);
            let view = View {
                first: match params::OOPS_ONLY.value() && crash < u64::MAX {
                    true => crash,
                    false => target.first_seq(),
                },
                crash,
                end: target.sent_end(),
            };
            let last = &target.progress.repeated;
            let plan = plan(
                round,
                settings.crash_repeats,
                acked,
                view,
                last.load(Relaxed),
            );
            let full = settings.full_log;
            self.send(target, plan.crash, full, until, buffer, off);
            let done = self.send(target, plan.backlog, full, until, buffer, off);
            last.store(done.saturating_sub(1), Relaxed);
        });
    }

    /// Sends records again, until that takes too long; up to which one?
    pub(crate) fn send(
        &self,
        target: &Target,
        records: Range<u64>,
        full: bool,
        until: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) -> u64 {
        let flags = SendFlags {
            emergency: true,
            ..SendFlags::default()
        };
        self.walk(records, full, buffer, off, |_, unsent| {
            if now_ms() >= until || !target.may_repeat() {
                return ControlFlow::Break(());
            }
            target.transmit(unsent.seq, unsent.record, unsent.meta.as_ref(), flags);
            target.stats().emergency.inc();
            ControlFlow::Continue(())
        })
    }

    /// Whether a target has not been sent all, or has not acked it though it acks. Process context.
    fn owes(&self) -> bool {
        let end = Log::end();
        let mut state = self.state.lock();
        let mut owes = false;
        self.for_each(|target, settings| {
            let (sent, full) = (target.sent_end(), settings.full_log);
            let Ok(next) = (self.shared.log).next(sent, end, full, &mut state.buffer, Wait);
            let acked = target.acks().state().lock().peer.acked();
            let last = target.sent_seq();
            owes |= next != Next::Nothing || acked.is_some() && acked < last;
        });
        owes
    }

    /// Does what is due in a panic, but repeats nothing after `end`.
    fn step(&self, end: u64, off: &LocalInterruptDisabled) {
        let Some(mut state) = self.state.try_lock_with(off) else {
            return;
        };
        let State { buffer, rounds, .. } = &mut *state;
        self.push(u64::MAX, buffer, off);
        if let Some(round) = rounds.poll(now_ms()) {
            self.repeat(round, end, buffer, off);
        }
    }

    /// Does the quick rounds here and now, for as long as they take.
    fn hold(&self, hold: u64, off: &LocalInterruptDisabled) {
        let end = now_ms().saturating_add(hold);
        // A clock that stands still is no reason to stay here.
        for _ in 0..=hold {
            self.step(end, off);
            if now_ms() >= end {
                break;
            }
            udelay(Delta::from_millis(1));
        }
    }
}

impl Dumper for Crash {
    fn panic(this: &Arc<Self>, panic: &Panic) {
        let off = panic.interrupts_off();
        panic::stop_lockdep();
        tx_freeze::release(&this.targets);
        if panic::crash_kernel_is_loaded() && params::KDUMP_FIRST.value() {
            return;
        }
        let hold = this.longest_hold();
        if let Some(mut state) = this.state.try_lock_with(off) {
            this.begin(&mut state.buffer);
        }
        console::atomic_is_safe_now(panic);
        // Whatever this says, printk hands over all that waits with it.
        pr_notice!("sending the log of the panic\n");
        if let Some(mut state) = this.state.try_lock_with(off) {
            this.push(u64::MAX, &mut state.buffer, off);
            // The first time may have taken long; what is done again begins after it.
            state.rounds = Rounds::new(now_ms(), hold);
        }
        if panic.timeout() == Timeout::None || panic::crash_kernel_is_loaded() {
            this.hold(hold, off);
        } else {
            panic.on_blink(this.clone());
        }
    }

    fn oops(&self) {
        let crashed = &self.shared.crashed;
        crashed.oops_ms.store(now_ms().max(1), Relaxed);
        // All of it has been logged, and mostly this is the same CPU still.
        let _ = crashed.oops_cpu.cmpxchg(smp::this_cpu(), u32::MAX, Full);
    }
}

impl Blink for Crash {
    fn blink(&self, off: &LocalInterruptDisabled) -> u32 {
        let began = now_ms();
        self.step(u64::MAX, off);
        u32::try_from(now_ms().saturating_sub(began)).unwrap_or(0)
    }
}

impl Ending for Crash {
    fn died(&self) {
        if !kdump::is_wanted() {
            return;
        }
        panic::while_ending(|off| {
            let Some(mut state) = self.state.try_lock_with(off) else {
                return;
            };
            let State { buffer, until, .. } = &mut *state;
            self.begin(buffer);
            *until = now_ms().saturating_add(BEFORE_MS);
            self.push(*until, buffer, off);
            let mut rounds = TIMES;
            self.for_each(|_, settings| rounds = rounds.max(settings.crash_repeats));
            for round in 0..rounds {
                self.repeat(round, *until, buffer, off);
            }
            let crashed = &self.shared.crashed;
            let first = crashed.first.load(Relaxed);
            crashed.oops_first.store(first, Relaxed);
            crashed.oops_until.store(*until, Relaxed);
            crashed.oops_cpu.store(smp::this_cpu(), Relaxed);
            // Should the machine live on.
            crashed.first.store(u64::MAX, Relaxed);
        });
    }

    fn shut_down(&self) {
        let began = now_ms();
        let until = began.saturating_add(GOODBYE_MS);
        let mut next = began.saturating_add(REPEAT_MS);
        while now_ms() < until && self.owes() {
            if now_ms() >= next {
                next = now_ms().saturating_add(REPEAT_MS);
                // Nobody asks for the last records if they are lost.
                panic::while_ending(|off| {
                    if let Some(mut state) = self.state.try_lock_with(off) {
                        self.repeat(0, until, &mut state.buffer, off);
                    }
                });
            }
            fsleep(Delta::from_millis(5));
        }
    }
}
