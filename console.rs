// SPDX-License-Identifier: GPL-2.0

//! The two consoles that write: for extended and for basic targets. The third, which only listens,
//! is in `crash/kdump.rs`.

use core::{
    convert::Infallible,
    ops::ControlFlow, //
};

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

use crate::{
    crash::{
        kdump::FirstLines,
        send::Replay, //
    },
    log::{
        access::{
            Access,
            Now,
            Wait, //
        },
        Buffer,
        Log,
        Stored, //
    },
    params,
    proto::{
        ring::{
            self,
            Meta, //
        },
        wire::{
            self,
            Record, //
        }, //
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
        list::Targets,
        Given,
        Shared,
        Target, //
    },
    test_hooks, //
};

/// A console that sends records to the targets of one kind.
#[pin_data]
struct Netcon<const EXTENDED: bool> {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    /// Whether a record has been written, or the console did not begin with the log's first.
    begun: Atomic<bool>,
    /// Room for a record that is stored already.
    #[pin]
    buffer: SpinLockIrq<Buffer>,
}

/// Stores a record, to be sent now and whenever it is sent again. Returns its number, what is kept
/// with it, and the outcome of storing; the record is sent in any case.
fn store(
    log: &Log,
    record: &[u8],
    origin: Option<ring::Origin>,
    access: impl Access<Error = Infallible>,
) -> Option<(u64, Meta, Stored)> {
    let seq = Record::parse(record).ok()?.seq()?;
    let meta = Meta {
        origin,
        ..Meta::at(now_ms())
    };
    let Ok((meta, stored)) = log.store(seq, record, meta, access);
    Some((seq, meta, stored))
}

/// Returns a text without printk's notice that it has dropped records before this one.
fn without_remark(text: &[u8]) -> &[u8] {
    const END: &[u8] = b" printk messages dropped **\n";
    let end = text.windows(END.len()).position(|part| part == END);
    match end {
        Some(at) if text.starts_with(b"** ") => &text[at + END.len()..],
        _ => text,
    }
}

impl<const EXTENDED: bool> Netcon<EXTENDED> {
    /// Calls `send` for each target of this console's kind, each time with the record.
    ///
    /// One section a target, so that a panic on another CPU need not wait for all.
    fn for_each_target(&self, write: &mut Write<'_>, mut send: impl FnMut(&Arc<Target>, &[u8])) {
        self.targets.for_each(|target| {
            if !target.is(EXTENDED) {
                return ControlFlow::Continue(());
            }
            let Some(section) = write.enter() else {
                return ControlFlow::Break(());
            };
            send(target, section.record());
            ControlFlow::Continue(())
        });
    }

    fn write_extended(&self, mut write: Write<'_>, access: impl Access<Error = Infallible>) {
        let off = write.interrupts_off();
        let at_once = write.is_atomic().then_some(off);
        let origin = write
            .origin()
            .map(|Origin { cpu, comm }| ring::Origin { cpu, comm });
        let is_echo;
        let stored = match write.enter() {
            Some(section) => {
                let record = wire::without_remark(section.record());
                is_echo = self.targets.is_echo(record);
                store(&self.shared.log, record, origin, access)
            }
            None => return,
        };
        let Some((seq, meta, stored)) = stored else {
            return;
        };
        // A record that is stored already was sent to some target by the watchdog, which knew it
        // only from printk's buffer. The other targets get the same bytes.
        let mut buffer = match stored {
            Stored::Known => self.buffer.try_lock_with(off),
            _ => None,
        };
        let known = buffer.as_mut().and_then(|buffer| {
            let Ok(found) = self.shared.log.get(seq, buffer, access);
            Some(found?.0)
        });
        let given = Given {
            // The watchdog has taken it for a hidden record and skipped it.
            late: stored == Stored::Old,
            echo: is_echo,
        };
        self.for_each_target(&mut write, |target, record| {
            let record = known.unwrap_or(record);
            Target::transmit_from_console(target, seq, record, &meta, given, at_once);
        });
    }

    fn write_basic(&self, mut write: Write<'_>) {
        // This console sends the log from its oldest record. Records before that are no loss of its
        // own.
        let first = !self.begun.xchg(true, Relaxed);
        self.for_each_target(&mut write, |target, text| {
            target.transmit_basic(if first { without_remark(text) } else { text });
        });
    }
}

impl<const EXTENDED: bool> Console for Netcon<EXTENDED> {
    const NAME: &'static CStr = if EXTENDED { c"netconx_ext" } else { c"netconx" };
    const EXTENDED: bool = EXTENDED;

    fn throttle(&self) {
        if EXTENDED {
            test_hooks::printer();
        } else {
            // An extended target falls behind instead.
            self.targets.wait_for_basic();
        }
    }

    fn write(&self, write: Write<'_>) {
        if params::OOPS_ONLY.value() && !printk::oops_in_progress() {
            return;
        }
        if EXTENDED {
            match write.is_atomic() {
                true => {
                    let now = Now(write.interrupts_off());
                    self.write_extended(write, now);
                }
                false => self.write_extended(write, Wait),
            }
        } else {
            self.write_basic(write);
        }
    }
}

/// The registered consoles: only those that have a target.
#[derive(Default)]
pub(crate) struct Consoles {
    extended: Option<Pin<KBox<Registration<Netcon<true>>>>>,
    basic: Option<Pin<KBox<Registration<Netcon<false>>>>>,
    /// Registered as long as one of the others is.
    first_lines: Option<Pin<KBox<Registration<FirstLines>>>>,
}

impl Consoles {
    /// Registers the console of this kind if necessary; with `history` it begins with the oldest
    /// record in the log.
    ///
    /// Process context. `ENOMEM`: there is no memory for it, or for its thread.
    pub(crate) fn register(
        &mut self,
        extended: bool,
        history: bool,
        replay: &Arc<Replay>,
    ) -> Result {
        let (targets, shared) = (replay.targets(), replay.shared());
        if extended {
            register(&mut self.extended, history, targets, shared)?;
        } else {
            register(&mut self.basic, history, targets, shared)?;
        }
        if self.first_lines.is_none() {
            match Registration::new(Ok(FirstLines::new(replay)), false) {
                Ok(first_lines) => {
                    self.first_lines = Some(first_lines);
                    shared.alarm.set_deaf(false);
                }
                Err(e) => pr_warn!(
                    "no console for the first lines of a panic ({:?}): a CPU that is stopped while it \
                     sends may keep the device from all others, and nothing is sent before a crash \
                     kernel runs but the trace of an oops\n",
                    e
                ),
            }
        }
        Ok(())
    }

    /// Unregisters the console of this kind, once the log so far is sent.
    ///
    /// Process context; sleeps.
    pub(crate) fn unregister(&mut self, extended: bool, shared: &Shared) {
        if extended {
            self.extended = None;
        } else {
            self.basic = None;
        }
        if self.extended.is_none() && self.basic.is_none() {
            self.first_lines = None;
            shared.alarm.set_deaf(true);
        }
    }

    /// Waits until the log so far is sent, for a bounded time. Process context.
    pub(crate) fn flush(&self, extended: bool) {
        if extended {
            self.extended.iter().for_each(|console| console.flush());
        } else {
            self.basic.iter().for_each(|console| console.flush());
        }
    }
}

fn register<const EXTENDED: bool>(
    place: &mut Option<Pin<KBox<Registration<Netcon<EXTENDED>>>>>,
    history: bool,
    targets: &Arc<Targets>,
    shared: &Arc<Shared>,
) -> Result {
    if place.is_none() {
        let console = try_pin_init!(Netcon {
            targets: targets.clone(),
            shared: shared.clone(),
            begun: Atomic::new(!history),
            buffer <- new_spinlock_irq!(Buffer::new()?, "Netcon::buffer"),
        }? Error);
        *place = Some(Registration::new(console, history)?);
    }
    Ok(())
}
