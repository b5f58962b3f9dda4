// SPDX-License-Identifier: GPL-2.0

//! The first lines of a panic, while the other CPUs still run, and the last ones of an oops.
//!
//! They are said before anything else is done about a panic, and printk calls each console that is
//! safe in atomic context for them at once. This is one that writes nothing of what it is given,
//! but hears that there is a panic: then it freezes the devices (see
//! `crash/tx_freeze.rs`). The
//! consoles that do write are made safe only later.
//!
//! If a crash kernel is loaded it may be jumped to after any of these lines, before anybody dumps
//! the log. So with each what waits is sent there and then, and the last few lines again. Of an
//! oops the most is sent by the die notifier in `crash.rs`, and here what is logged after that.
//! What is not done in two seconds is left: the crash kernel is to run. It may be kept from
//! running all the same, by a lock of the driver that the panic has interrupted: `kdump_first` says
//! that nothing is to be sent before.
//!
//! The price is one more thread of printk's, for which each record is formatted, and which does
//! nothing with it.

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::Arc, //
};

use crate::{
    crash::{
        mark::MARK,
        replay::{
            is_wanted_before_kdump,
            Episode,
            Replay, //
        },
        tx_freeze, //
    },
    log::Log,
    proto::wire::{
        self,
        Record, //
    },
    sys::{
        console::{
            Console,
            Write, //
        },
        panic, //
    }, //
};

/// The console that writes nothing.
pub(crate) struct FirstLines(Arc<Replay>);

impl FirstLines {
    /// Creates one.
    pub(crate) fn new(replay: &Arc<Replay>) -> Self {
        Self(replay.clone())
    }

    /// Handles record `seq` of a panic on this CPU.
    fn panics(&self, seq: Option<u64>, off: &LocalInterruptDisabled) {
        panic::stop_lockdep();
        let replay = &self.0;
        tx_freeze::freeze(replay.targets(), off);
        if !tx_freeze::is_frozen() || !is_wanted_before_kdump() {
            return;
        }
        // Another CPU may be sending what an oops has logged. It breaks that off.
        let Some(mut state) = replay.wait_for_state(off) else {
            return;
        };
        let begins = !MARK.is_set();
        if begins {
            MARK.set(replay.first_record(&mut state.buffer));
            state.start_before_kdump();
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

    /// Handles record `seq` of something on this CPU that does not go by printk's thread: the end
    /// of an oops, perhaps.
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

/// Returns a record's number if it is the newest: the lines that waited for this console are not
/// worth more than once.
fn newest(seq: Option<u64>) -> Option<u64> {
    seq.filter(|seq| seq.saturating_add(1) == Log::end())
}

impl Console for FirstLines {
    const NAME: &'static kernel::str::CStr = c"netconx_panic";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn write(&self, mut write: Write<'_>) {
        let off = write.interrupts_off();
        if !write.is_atomic() {
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
