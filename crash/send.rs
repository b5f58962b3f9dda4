// SPDX-License-Identifier: GPL-2.0

//! Transmission in a crash: unsent records first, then repeats of those that may have been lost.
//!
//! Every lock is only tried; without the ring's, records come from printk's buffer.
//! `proto/crash_schedule.rs` plans the rounds.

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
            Relaxed, //
        },
        lock::spinlock::SpinLockGuard,
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    },
    time::{
        delay::udelay,
        Delta, //
    },
};

use crate::{
    crash::tx_freeze,
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
            with_line,
            Acked,
            Rounds,
            View, //
        },
        printk_text,
        ring::Next, //
    },
    sys::{
        kmsg,
        panic,
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

/// The age, relative to a panic's last record, from which records do not belong to it, in
/// microseconds: the trace of an oops takes a slow serial console that long.
const CRASH_US: u64 = 2_000_000;

/// The most records that belong to a panic.
const MAX_CRASH: u64 = 512;

/// The longest time of a round for one target, in milliseconds: others have slower devices.
const ROUND_MS: u64 = 2000;

/// How often the state is tried, and the pause after each try, in microseconds: ten milliseconds in
/// all.
const STATE_TRIES: u32 = 200;
const STATE_US: i64 = 50;

/// Returns whether a crash is to be sent before a crash kernel runs. Any context.
pub(crate) fn is_wanted_before_kdump() -> bool {
    panic::crash_kernel_is_loaded() && !is_crash_kernel_first()
}

/// Returns whether a crash kernel, if one is loaded, is to run before anything is sent: the user
/// wants it so, or sending might keep it from running. Any context.
pub(crate) fn is_crash_kernel_first() -> bool {
    params::KDUMP_FIRST.value() || params::kdump_send_ms() == 0 || tx_freeze::found_used()
}

/// A crash that is sent.
#[derive(Clone, Copy)]
pub(crate) struct Episode {
    /// Its first record; `u64::MAX` if there is no crash.
    pub(crate) first: u64,
    /// The end of the time in which it is sent, in milliseconds.
    pub(crate) until: u64,
}

/// The state that only one CPU uses at a time.
pub(crate) struct State {
    pub(crate) buffer: Buffer,
    pub(crate) rounds: Rounds,
    /// The end of the time before a crash kernel, in milliseconds.
    pub(crate) until: u64,
}

impl State {
    /// Starts the time before a crash kernel, of a crash that began at `began`; returns its end.
    pub(crate) fn start_before_kdump(&mut self, began: u64) -> u64 {
        self.until = began.saturating_add(params::kdump_send_ms());
        self.until
    }
}

/// The targets, and the state of transmission in a crash.
#[pin_data]
pub(crate) struct Replay {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    /// Whether `state` was waited for in vain.
    waited: Atomic<bool>,
    /// Only tried, except in process context.
    #[pin]
    state: SpinLockIrq<State>,
}

impl Replay {
    /// Creates it. Process context.
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
                    "Replay::state"
                ),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns all targets.
    pub(crate) fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Returns the state that targets share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tries to take the state. Any context with interrupts off.
    pub(crate) fn try_state<'a>(
        &'a self,
        off: &'a LocalInterruptDisabled,
    ) -> Option<SpinLockGuard<'a, State>> {
        self.state.try_lock_with(off)
    }

    /// Takes the state if it can be had in some milliseconds. After one failure it is only tried:
    /// its owner may be stopped. Any context with interrupts off.
    pub(crate) fn wait_for_state<'a>(
        &'a self,
        off: &'a LocalInterruptDisabled,
    ) -> Option<SpinLockGuard<'a, State>> {
        let tries = match self.waited.load(Relaxed) {
            true => 1,
            false => STATE_TRIES,
        };
        for _ in 0..tries {
            if let Some(state) = self.try_state(off) {
                return Some(state);
            }
            udelay(Delta::from_micros(STATE_US));
        }
        self.waited.store(true, Relaxed);
        None
    }

    /// Calls `f` for each target with numbers that is enabled. Any context.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Arc<Target>, &Settings)) {
        self.targets.for_each(|target| {
            let config = target.with_port(|port| *port.config());
            if let Some(config) = config.filter(|config| config.target.extended) {
                f(target, &config.settings);
            }
            ControlFlow::Continue(())
        });
    }

    /// Returns the longest hold of all targets, in milliseconds. A basic target has no repeats in
    /// it, but its device comes to send its frames. Any context.
    pub(crate) fn longest_hold(&self) -> u64 {
        let mut hold = 0;
        self.targets.for_each(|target| {
            let settings = target.settings();
            hold = hold.max(settings.map_or(0, |settings| settings.panic_hold_ms));
            ControlFlow::Continue(())
        });
        hold.into()
    }

    /// Returns the first record of a crash that has just been logged. Any context.
    pub(crate) fn first_record(&self, buffer: &mut Buffer) -> u64 {
        let end = Log::end();
        let (mut first, mut newest) = (end, None);
        for seq in (end.saturating_sub(MAX_CRASH)..end).rev() {
            let time = kmsg::read(seq, buffer.lines()).and_then(printk_text::time);
            let Some(time) = time else { break };
            if time.saturating_add(CRASH_US) < *newest.get_or_insert(time) {
                break;
            }
            first = seq;
        }
        if params::OOPS_ONLY.value() && newest.is_some() {
            return first;
        }
        // Unsent records belong to it, and in a log without times only these.
        self.for_each(|target, _| {
            let sent = target.sent_end();
            if sent < first && end - sent <= MAX_CRASH {
                first = sent;
            }
        });
        first
    }

    /// Sends all unsent records. Any context.
    pub(crate) fn push(&self, crash: Episode, buffer: &mut Buffer, off: &LocalInterruptDisabled) {
        let mut keeps = true;
        self.for_each(|target, settings| {
            let permit = target.try_tx_permit(off).unwrap_or(TxPermit::Taken);
            let sent_end = target.sent_end();
            let Ok(stored_end) = self.shared.log.stored_end(Now(off));
            keeps &= stored_end >= Some(sent_end);
            let first = match params::OOPS_ONLY.value() {
                true => sent_end.max(crash.first),
                false => sent_end,
            };
            let records = first..Log::end();
            self.walk(
                records,
                settings,
                crash.until,
                buffer,
                off,
                |cursor, unsent| {
                    let mut meta = unsent.meta;
                    if keeps {
                        let Ok(kept) = cursor.keep(&unsent, now_ms());
                        meta = kept;
                        // A later record would make the missing one look hidden.
                        keeps = meta.is_some();
                    }
                    let flags = SendFlags {
                        crash: unsent.seq >= crash.first,
                        ..SendFlags::default()
                    };
                    target.transmit_first(unsent.seq, unsent.record, meta.as_ref(), flags, &permit);
                    ControlFlow::Continue(())
                },
            );
        });
    }

    /// Sends the records of round `round` to all targets. Any context.
    pub(crate) fn repeat(
        &self,
        crash: Episode,
        round: u32,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) {
        self.for_each(|target, settings| {
            let until = now_ms().saturating_add(ROUND_MS).min(crash.until);
            let crash = Episode { until, ..crash };
            let view = View {
                first: match params::OOPS_ONLY.value() && crash.first < u64::MAX {
                    true => crash.first,
                    false => target.first_seq(),
                },
                crash: crash.first,
                end: target.sent_end(),
            };
            let last = &target.progress.repeated;
            let plan = plan(
                round,
                settings.crash_repeats,
                acked(target, off),
                view,
                last.load(Relaxed),
            );
            self.retransmit(target, settings, plan.crash, crash, buffer, off);
            let done = self.retransmit(target, settings, plan.backlog, crash, buffer, off);
            last.store(done.saturating_sub(1), Relaxed);
        });
    }

    /// Sends the last lines up to `seq` again, since a crash kernel may follow any of them. Any
    /// context.
    pub(crate) fn repeat_last_lines(
        &self,
        crash: Episode,
        seq: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) {
        self.for_each(|target, settings| {
            let (lines, times) =
                with_line(seq, settings.crash_repeats, acked(target, off), crash.first);
            for _ in 0..times {
                self.retransmit(target, settings, lines.clone(), crash, buffer, off);
            }
        });
    }

    /// Retransmits records; returns the number to continue with.
    fn retransmit(
        &self,
        target: &Target,
        settings: &Settings,
        records: Range<u64>,
        crash: Episode,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
    ) -> u64 {
        self.walk(records, settings, crash.until, buffer, off, |_, unsent| {
            if !target.may_repeat() {
                return ControlFlow::Break(());
            }
            let flags = SendFlags {
                emergency: true,
                crash: unsent.seq >= crash.first,
                ..SendFlags::default()
            };
            target.transmit(unsent.seq, unsent.record, unsent.meta.as_ref(), flags);
            target.stats().emergency.inc();
            ControlFlow::Continue(())
        })
    }

    /// Calls `f` with each of these records that can be sent, until it breaks off or until the time
    /// `until`, in milliseconds. Returns the number to continue with.
    fn walk(
        &self,
        records: Range<u64>,
        settings: &Settings,
        until: u64,
        buffer: &mut Buffer,
        off: &LocalInterruptDisabled,
        mut f: impl FnMut(&Cursor<'_, Now<'_>>, Unsent<'_>) -> ControlFlow<()>,
    ) -> u64 {
        let (log, full) = (&self.shared.log, settings.full_log);
        let mut cursor = Cursor::new(log, records.start, full, Now(off));
        // A panic on another CPU needs the locks that this one holds, and stops this CPU.
        while cursor.seq() < records.end && !panic::is_elsewhere() {
            let Ok(found) = cursor.step(records.end, buffer);
            let Found::Record(unsent) = found else {
                continue;
            };
            let seq = unsent.seq;
            if now_ms() >= until || f(&cursor, unsent).is_break() {
                return seq;
            }
        }
        cursor.seq()
    }

    /// Returns whether a target has unsent records, or unacked ones though it acks. Process
    /// context.
    pub(crate) fn owes(&self) -> bool {
        let end = Log::end();
        let mut state = self.state.lock();
        let mut owes = false;
        self.for_each(|target, settings| {
            let (sent, full) = (target.sent_end(), settings.full_log);
            let Ok(next) = (self.shared.log).next(sent, end, full, &mut state.buffer, Wait);
            let acked = target.acks().state().lock().peer.acked();
            // Of a log of which only oopses are wanted the rest is never sent.
            let unsent = next != Next::Nothing && !params::OOPS_ONLY.value();
            let unacked = acked.is_some() && acked < target.sent_seq();
            // Without a link it would be waited for in vain.
            owes |= (unsent || unacked) && target.has_link();
        });
        owes
    }
}

/// Returns what a target has acked, if its lock can be had. Any context.
fn acked(target: &Target, off: &LocalInterruptDisabled) -> Acked {
    let state = target.acks().state().try_lock_with(off);
    match state.map(|state| state.peer.acked()) {
        Some(Some(ack)) => Acked::Up(ack),
        Some(None) => Acked::Never,
        None => Acked::Unknown,
    }
}
