// SPDX-License-Identifier: GPL-2.0

//! The first lines of a panic, while the other CPUs still run.
//!
//! They are said before anything else is done about the panic, and printk calls each console that is
//! safe in atomic context for them at once. This is one that writes nothing of what it is given: it
//! says to `crash.rs` that there is a panic, and that there is another line of it, or of an oops. The
//! consoles that do write are made safe only later.
//!
//! The price is one more thread of printk's, for which each record is formatted, and which does
//! nothing with it.

use kernel::sync::Arc;

use crate::{
    crash::Crash,
    sys::{
        console::{
            Console,
            Write, //
        },
        panic, //
    },
    wire::{
        self,
        Record, //
    },
};

/// The console that writes nothing.
pub(crate) struct FirstLines(Arc<Crash>);

impl FirstLines {
    /// Creates one.
    pub(crate) fn new(crash: &Arc<Crash>) -> Self {
        Self(crash.clone())
    }
}

impl Console for FirstLines {
    const NAME: &'static kernel::str::CStr = c"netconx_panic";
    const EXTENDED: bool = true;
    const AT_ONCE: bool = true;

    fn write(&self, mut write: Write<'_>) {
        let off = write.interrupts_off();
        if !write.is_atomic() {
            self.0.goes_on();
            return;
        }
        let seq = write.enter().and_then(|section| {
            let record = wire::without_remark(section.record());
            Record::parse(record).ok()?.seq()
        });
        if panic::is_here() {
            self.0.first_line(seq, off);
        } else {
            self.0.line_of_oops(seq);
        }
    }
}
