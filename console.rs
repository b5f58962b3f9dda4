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

use crate::{
    sys::{
        console::{
            Console,
            Registration,
            Write, //
        },
        printk, //
    },
    target::Targets, //
};

/// A console that sends records to the targets of one kind.
struct Netcon<const EXTENDED: bool> {
    targets: Arc<Targets>,
    /// Whether a record has been written.
    begun: Atomic<bool>,
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
        self.targets.wait_for_devices(EXTENDED);
    }

    fn write(&self, mut write: Write<'_>) {
        if crate::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return;
        }
        let atomic = write.is_atomic();
        // The log is sent from its oldest record; what was before is no loss of this console's.
        let first = !self.begun.xchg(true, Relaxed);
        self.targets.for_each(|target| {
            if target.config().extended == EXTENDED && target.is_enabled() {
                // One section a target, so that a panic on another CPU need not wait for all.
                let Some(section) = write.enter() else {
                    return ControlFlow::Break(());
                };
                let mut record = section.record();
                if first && !EXTENDED {
                    record = without_remark(record);
                }
                target.send(record, atomic);
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
