// SPDX-License-Identifier: GPL-2.0

//! The first lines of a panic, while the other CPUs still run, and the last ones of an oops.
//!
//! They are said before anything else is done about a panic, and printk calls each console that is
//! safe in atomic context for them at once. This is one that writes nothing of what it is given,
//! but hears that there is a panic: then it claims the devices (see `crash/tx_freeze.rs`). The
//! consoles that do write are made safe only later.
//!
//! If a crash kernel is loaded it may be jumped to after any of these lines, before anybody dumps
//! the log. So with each what waits is sent there and then, and the last few lines again. Of an
//! oops the most is sent by the die notifier in `crash.rs`, and here what is logged after that.
//! What is not done in [`BEFORE_MS`] is left: the crash kernel is to run. It may be kept from
//! running all the same, by a lock of the driver that the panic has interrupted: `kdump_first` says
//! that nothing is to be sent before.
//!
//! The price is one more thread of printk's, for which each record is formatted, and which does
//! nothing with it.

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

use crate::{
    crash::{
        tx_freeze,
        Crash,
        State, //
    },
    log::Log,
    params,
    proto::{
        crash_schedule::with_line,
        wire::{
            self,
            Record, //
        }, //
    },
    sys::{
        console::{
            Console,
            Write, //
        },
        panic,
        time::now_ms, //
    }, //
};

/// How long sending may take in all before a crash kernel runs, in milliseconds.
pub(crate) const BEFORE_MS: u64 = 2000;

/// Whether a crash is to be sent before a crash kernel runs. Any context.
pub(crate) fn is_wanted() -> bool {
    panic::crash_kernel_is_loaded() && !params::KDUMP_FIRST.value()
}

/// The console that writes nothing.
pub(crate) struct FirstLines(Arc<Crash>);

impl FirstLines {
    /// Creates one.
    pub(crate) fn new(crash: &Arc<Crash>) -> Self {
        Self(crash.clone())
    }

    /// The panic on this CPU has logged record `seq`.
    fn panics(&self, seq: Option<u64>, off: &LocalInterruptDisabled) {
        panic::stop_lockdep();
        tx_freeze::claim(self.0.targets(), off);
        if tx_freeze::is_claimed() && is_wanted() {
            self.send(seq, None, off);
        }
    }

    /// Something on this CPU that does not go by printk's thread has logged record `seq`: the end
    /// of an oops, perhaps.
    fn warns(&self, seq: Option<u64>) {
        if let Some(first) = self.0.shared().crashed.oops_here().filter(|_| is_wanted()) {
            panic::while_ending(|off| self.send(seq, Some(first), off));
        }
    }

    /// Sends what waits, and lines up to `seq` again; the crash begins with record `oops` if that
    /// is no panic.
    fn send(&self, seq: Option<u64>, oops: Option<u64>, off: &LocalInterruptDisabled) {
        let crash = &*self.0;
        // Another CPU may be sending what an oops has logged. It breaks that off.
        let Some(mut state) = crash.wait_for_state(off) else {
            return;
        };
        let State { buffer, until, .. } = &mut *state;
        let first = &crash.shared().crashed.first;
        let begins = oops.is_none() && first.load(Relaxed) == u64::MAX;
        if let Some(oops) = oops {
            first.store(oops, Relaxed);
        }
        if begins {
            crash.begin(buffer);
            *until = now_ms().saturating_add(BEFORE_MS);
        }
        let until = *until;
        crash.push(until, buffer, off);
        if begins {
            crash.repeat(0, until, buffer, off);
        }
        // Not with each of those that were waiting for this console.
        if let Some(seq) = seq.filter(|seq| seq.saturating_add(1) == Log::end()) {
            let begin = first.load(Relaxed);
            crash.for_each(|target, settings| {
                let acked = Crash::acked(target, off);
                let (lines, times) = with_line(seq, settings.crash_repeats, acked, begin);
                for _ in 0..times {
                    crash.send(target, lines.clone(), settings.full_log, until, buffer, off);
                }
            });
        }
        if oops.is_some() {
            first.store(u64::MAX, Relaxed);
        }
    }
}

impl Console for FirstLines {
    const NAME: &'static kernel::str::CStr = c"netconx_panic";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn write(&self, mut write: Write<'_>) {
        let off = write.interrupts_off();
        if !write.is_atomic() {
            if tx_freeze::undo(self.0.targets()) {
                self.0.shared().crashed.first.store(u64::MAX, Relaxed);
            }
            return;
        }
        let seq = write.enter().and_then(|section| {
            let record = wire::without_remark(section.record());
            Record::parse(record).ok()?.seq()
        });
        if panic::is_here() {
            self.panics(seq, off);
        } else {
            self.warns(seq);
        }
    }
}
