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
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
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
        Buffer,
        Log,
        NotStored, //
    },
    ring::{
        self,
        Meta, //
    },
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
    target::{
        Shared,
        Target,
        Targets, //
    },
    wire::{
        self,
        Record, //
    },
};

/// A console that sends records to the targets of one kind.
#[pin_data]
struct Netcon<const EXTENDED: bool> {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    /// Whether a record has been written.
    begun: Atomic<bool>,
    /// For a record that is in the log already.
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

/// How far a write may go for a lock.
fn access<'a>(write: &Write<'a>) -> Access<'a> {
    if write.is_atomic() {
        Access::Now(write.interrupts_off())
    } else {
        Access::Wait
    }
}

/// Keeps a record, as it is to be sent now and whenever it is sent again; gives its number.
fn store(
    log: &Log,
    record: &[u8],
    origin: Option<Origin>,
    access: Access<'_>,
) -> Option<(u64, Result<(), NotStored>)> {
    let seq = Record::parse(record).ok()?.seq()?;
    let mut meta = Meta::at(now_ms());
    if let Some(origin) = origin {
        (meta.cpu, meta.pid, meta.comm) = (origin.cpu, origin.pid, origin.comm);
    }
    // One that is not kept is sent all the same, and can be had from printk's log.
    Some((seq, log.store(seq, record, meta, access)))
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

impl<const EXTENDED: bool> Netcon<EXTENDED> {
    /// Calls `send` for each target of our kind, each time with the record.
    ///
    /// One section a target, so that a panic on another CPU need not wait for all.
    fn for_each_target(&self, write: &mut Write<'_>, mut send: impl FnMut(&Target, &[u8])) {
        self.targets.for_each(|target| {
            if target.config().extended != EXTENDED || !target.is_enabled() {
                return ControlFlow::Continue(());
            }
            let Some(section) = write.enter() else {
                return ControlFlow::Break(());
            };
            send(target, section.record());
            ControlFlow::Continue(())
        });
    }

    fn write_extended(&self, mut write: Write<'_>) {
        let (access, off, origin) = (access(&write), write.interrupts_off(), write.origin());
        let stored = match write.enter() {
            Some(section) => {
                let record = wire::without_remark(section.record());
                store(&self.shared.log, record, origin, access)
            }
            None => return,
        };
        let Some((seq, stored)) = stored else { return };
        // What has been stored under this number is what has been sent to some target already, by
        // the timer, which knew it only from printk's log: so the others get that, too.
        let mut buffer = match stored {
            Err(NotStored::Refused(ring::NotStored::Known)) => self.buffer.try_lock_with(off),
            _ => None,
        };
        let known = buffer
            .as_mut()
            .and_then(|buffer| Some(self.shared.log.get(seq, buffer, access).ok()??.0));
        // The timer has passed over it, mistaking it for a hidden one.
        let late = stored == Err(NotStored::Refused(ring::NotStored::Old));
        self.for_each_target(&mut write, |target, record| {
            let record = known.unwrap_or(wire::without_remark(record));
            target.send(record, seq, late, access);
        });
    }

    fn write_basic(&self, mut write: Write<'_>) {
        // The log is sent from its oldest record; what was before is no loss of this console's.
        let first = !self.begun.xchg(true, Relaxed);
        self.for_each_target(&mut write, |target, text| {
            target.send_basic(if first { without_remark(text) } else { text });
        });
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

    fn write(&self, write: Write<'_>) {
        if crate::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return;
        }
        if EXTENDED {
            self.write_extended(write);
        } else {
            self.write_basic(write);
        }
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
    pub(crate) fn new(targets: &Arc<Targets>, shared: &Arc<Shared>) -> Result<Self> {
        Ok(Self {
            _extended: register(targets, shared)?,
            _basic: register(targets, shared)?,
        })
    }
}

fn register<const EXTENDED: bool>(
    targets: &Arc<Targets>,
    shared: &Arc<Shared>,
) -> Result<Option<Pin<KBox<Registration<Netcon<EXTENDED>>>>>> {
    let mut needed = false;
    targets.for_each(|target| {
        needed |= target.is_enabled() && target.config().extended == EXTENDED;
        ControlFlow::Continue(())
    });
    needed
        .then(|| {
            let console = try_pin_init!(Netcon {
                targets: targets.clone(),
                shared: shared.clone(),
                begun: Atomic::new(false),
                buffer <- new_spinlock_irq!(Buffer::new()?, "Netcon::buffer"),
            }? Error);
            Registration::new(console, true)
        })
        .transpose()
}
