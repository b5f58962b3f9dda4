// SPDX-License-Identifier: GPL-2.0

//! The console `netconx_panic`, which writes nothing: it hears of every panic's first line, while
//! the other CPUs still run, and of an oops' last ones.
//!
//! A panic logs its first lines before it stops the other CPUs, and printk calls every console that
//! is safe in atomic context for each at once. This console is such a one. It writes nothing; with
//! the first line it freezes the devices (`crash/tx_freeze.rs`). The consoles that do write are
//! made safe only later.
//!
//! If a crash kernel is loaded, the kernel may jump to it after any of these lines, before the log
//! is dumped. So with each line the records that wait are sent, and the last few lines again. Of an
//! oops the die notifier in `crash.rs` sends most, and this console the lines after that.
//!
//! The crash kernel is to run whatever happens. So sending takes `kdump_send_ms` at most in all,
//! and nothing is sent if a device was in use when the crash began: the crash may have interrupted
//! its driver, whose locks are then held for good. Locks of a driver that neither a queue nor a
//! NAPI instance shows, as those of its interrupt handler, are a risk that is left: with
//! `kdump_first` nothing is sent at all.
//!
//! Its printk thread sleeps, so that the console costs nothing while there is no panic. Of the
//! first record after a while it tells the timer (`timer.rs`).

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::Arc, //
};

use crate::{
    crash::{
        mark::MARK,
        send::{
            is_wanted_before_kdump,
            Episode,
            Replay, //
        },
        tx_freeze, //
    },
    log::Log,
    proto::wire,
    sys::{
        console::{
            Console,
            Write, //
        },
        panic::{
            self,
            Here, //
        },
        time::now_ms, //
    }, //
};

/// The console `netconx_panic`, which writes nothing.
pub(crate) struct FirstLines(Arc<Replay>);

impl FirstLines {
    /// Creates the console.
    pub(crate) fn new(replay: &Arc<Replay>) -> Self {
        Self(replay.clone())
    }

    /// Handles record `seq` of a panic on this CPU.
    fn panics(&self, seq: Option<u64>, here: Here, off: &LocalInterruptDisabled) {
        panic::stop_lockdep();
        let (replay, began) = (&self.0, now_ms());
        tx_freeze::freeze(replay.targets(), here, off);
        if !tx_freeze::is_frozen() || !is_wanted_before_kdump() {
            return;
        }
        // Another CPU may be sending an oops. It breaks that off.
        let Some(mut state) = replay.wait_for_state(off) else {
            return;
        };
        let begins = !MARK.is_set();
        if begins {
            MARK.set(replay.first_record(&mut state.buffer));
            state.start_before_kdump(began);
        }
        let panic = Episode {
            first: MARK.first(),
            until: state.until,
        };
        let buffer = &mut state.buffer;
        replay.push(panic, buffer, off);
        if begins {
            replay.repeat(panic, 0, buffer, off);
        }
        if let Some(seq) = newest(seq) {
            replay.repeat_last_lines(panic, seq, buffer, off);
        }
    }

    /// Handles record `seq` of a context on this CPU that prints without printk's thread: perhaps
    /// the end of an oops.
    fn warns(&self, seq: Option<u64>) {
        let Some(first) = MARK.oops_here().filter(|_| is_wanted_before_kdump()) else {
            return;
        };
        panic::while_ending(|off| {
            let Some(mut state) = self.0.wait_for_state(off) else {
                return;
            };
            let until = state.until;
            let (oops, buffer) = (Episode { first, until }, &mut state.buffer);
            self.0.push(oops, buffer, off);
            if let Some(seq) = newest(seq) {
                self.0.repeat_last_lines(oops, seq, buffer, off);
            }
        });
    }
}

/// Returns a record's number if it is the newest. The lines that had to wait for this console are
/// repeated once, not each.
fn newest(seq: Option<u64>) -> Option<u64> {
    seq.filter(|seq| seq.saturating_add(1) == Log::end())
}

impl Console for FirstLines {
    const NAME: &'static kernel::str::CStr = c"netconx_panic";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn logged(&self) {
        self.0.shared().alarm.logged();
    }

    fn write(&self, mut write: Write<'_>) {
        let off = write.interrupts_off();
        if !write.is_atomic() {
            return;
        }
        let seq = write
            .enter()
            .and_then(|section| wire::seq(section.record()));
        match Here::now() {
            Some(here) => self.panics(seq, here, off),
            None => self.warns(seq),
        }
    }
}
