// SPDX-License-Identifier: GPL-2.0

//! What printk calls: two consoles, for the two formats of records.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

#[cfg(CONFIG_KUNIT)]
use kernel::time::{
    delay::fsleep,
    Delta, //
};

use crate::{
    log::{
        Access,
        Log, //
    },
    ring::Meta,
    sys::{
        console::{
            Console,
            Origin,
            Registration,
            Write, //
        },
        printk,
        time::now_ms, //
    },
    target::Targets,
    wire::{
        self,
        Record, //
    },
};

/// A console that sends records to the targets of one kind.
struct Netcon<const EXTENDED: bool> {
    targets: Arc<Targets>,
    /// Whether a record has been written.
    begun: Atomic<bool>,
}

/// How far a write may go for a lock.
fn access<'a>(write: &Write<'a>) -> Access<'a> {
    if write.is_atomic() {
        Access::Try(write.interrupts_off())
    } else {
        Access::Wait
    }
}

/// Keeps a record, as it is to be sent now and whenever it is sent again; gives its number.
fn store(log: &Log, record: &[u8], origin: Option<Origin>, access: Access<'_>) -> Option<u64> {
    let seq = Record::parse(record).ok()?.seq()?;
    let mut meta = Meta::at(now_ms());
    if let Some(origin) = origin {
        (meta.cpu, meta.pid, meta.comm) = (origin.cpu, origin.pid, origin.comm);
    }
    // One that is not kept is sent all the same, and can be had from printk's log.
    let _ = log.store(seq, record, meta, access);
    Some(seq)
}

/// Leaves out printk's remark that it has dropped records before this one.
fn without_remark(text: &[u8]) -> &[u8] {
    const END: &[u8] = b" printk messages dropped **\n";
    let end = text.windows(END.len()).position(|part| part == END);
    match end {
        Some(at) if text.starts_with(b"** ") => &text[at + END.len()..],
        _ => text,
    }
}

impl<const EXTENDED: bool> Console for Netcon<EXTENDED> {
    const NAME: &'static CStr = if EXTENDED { c"netconx_ext" } else { c"netconx" };
    const EXTENDED: bool = EXTENDED;

    fn throttle(&self) {
        #[cfg(CONFIG_KUNIT)]
        while EXTENDED && crate::DEBUG_STOP_PRINTER.value() {
            fsleep(Delta::from_millis(10));
        }
        self.targets.wait_for_devices(EXTENDED);
    }

    fn write(&self, mut write: Write<'_>) {
        if crate::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return;
        }
        let access = access(&write);
        let origin = write.origin();
        // The log is sent from its oldest record; what was before is no loss of this console's.
        let first = !self.begun.xchg(true, Relaxed);
        let mut stored = None;
        self.targets.for_each(|target| {
            if target.config().extended != EXTENDED || !target.is_enabled() {
                return ControlFlow::Continue(());
            }
            // One section a target, so that a panic on another CPU need not wait for all.
            let Some(section) = write.enter() else {
                return ControlFlow::Break(());
            };
            let record = section.record();
            if EXTENDED {
                let record = wire::without_remark(record);
                stored = stored.or_else(|| store(&target.shared().log, record, origin, access));
                if let Some(seq) = stored {
                    target.send(record, seq, access);
                }
            } else if first {
                target.send_basic(without_remark(record));
            } else {
                target.send_basic(record);
            }
            ControlFlow::Continue(())
        });
    }
}

/// The consoles that are registered: only those that have a target.
pub(crate) struct Consoles {
    _extended: Option<Pin<KBox<Registration<Netcon<true>>>>>,
    _basic: Option<Pin<KBox<Registration<Netcon<false>>>>>,
}

impl Consoles {
    /// Registers the consoles that the targets need; they begin with the oldest record in the log.
    ///
    /// Process context.
    pub(crate) fn new(targets: &Arc<Targets>) -> Result<Self> {
        Ok(Self {
            _extended: register(targets)?,
            _basic: register(targets)?,
        })
    }
}

fn register<const EXTENDED: bool>(
    targets: &Arc<Targets>,
) -> Result<Option<Pin<KBox<Registration<Netcon<EXTENDED>>>>>> {
    let mut needed = false;
    targets.for_each(|target| {
        needed |= target.is_enabled() && target.config().extended == EXTENDED;
        ControlFlow::Continue(())
    });
    needed
        .then(|| {
            let console = Netcon {
                targets: targets.clone(),
                begun: Atomic::new(false),
            };
            Registration::new(console, true)
        })
        .transpose()
}
