// SPDX-License-Identifier: GPL-2.0

//! What printk calls: two consoles, for the two formats of records.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    sync::Arc, //
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
}

impl<const EXTENDED: bool> Console for Netcon<EXTENDED> {
    const NAME: &'static CStr = if EXTENDED { c"netconx_ext" } else { c"netconx" };
    const EXTENDED: bool = EXTENDED;

    fn throttle(&self) {
        self.targets.wait_for_devices();
    }

    fn write(&self, mut write: Write<'_>) {
        if crate::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return;
        }
        let atomic = write.is_atomic();
        self.targets.for_each(|target| {
            if target.config().extended == EXTENDED && target.is_enabled() {
                // One section a target, so that a panic on another CPU need not wait for all.
                let Some(section) = write.enter() else {
                    return ControlFlow::Break(());
                };
                target.send(section.record(), atomic);
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
            let targets = targets.clone();
            Registration::new(Netcon { targets }, true)
        })
        .transpose()
}
