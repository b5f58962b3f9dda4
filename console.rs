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
        rcu,
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
            WaitOff, //
        },
        Buffer,
        Stored, //
    },
    params,
    proto::{
        ring::{
            self,
            Meta, //
        },
        wire, //
    },
    sys::{
        console::{
            Console,
            Origin,
            Registration,
            Section,
            Write, //
        },
        printk,
        time::now_ms, //
    },
    target::{
        list::Targets,
        Given,
        Link,
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
    /// One section a target, so that a panic on another CPU need not wait for all; `section` is for
    /// the first one.
    fn for_each_target<'g>(
        &'g self,
        section: Section<'_>,
        guard: &'g rcu::Guard,
        mut send: impl FnMut(&Arc<Target>, Link<'_>, &[u8]),
    ) {
        let (mut section, mut is_first) = (Some(section), true);
        self.targets.for_each_under(guard, |target| {
            let link = target.link(guard);
            let Some(link) = link.filter(|link| link.is_extended() == EXTENDED) else {
                return ControlFlow::Continue(());
            };
            if !is_first {
                section = section.take().and_then(Section::renew);
            }
            is_first = false;
            let Some(section) = &section else {
                return ControlFlow::Break(());
            };
            send(target, link, section.record());
            ControlFlow::Continue(())
        });
    }

    fn write_extended(&self, mut write: Write<'_>, access: impl Access<Error = Infallible>) {
        let off = write.interrupts_off();
        let at_once = write.is_atomic();
        let origin = write
            .origin()
            .map(|Origin { cpu, comm }| ring::Origin { cpu, comm });
        let Some(section) = write.enter() else { return };
        let record = wire::without_remark(section.record());
        let Some(seq) = wire::seq(record) else { return };
        let guard = rcu::read_lock();
        let echo = self.targets.is_echo(record, &guard);
        let now = now_ms();
        let mut meta = Meta {
            origin,
            ..Meta::at(now)
        };
        // The record is sent whatever comes of storing it.
        let Ok(stored) = self.shared.log.store(seq, record, &mut meta, access);
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
            seq,
            meta: &meta,
            now,
            off,
            at_once,
            // The watchdog has taken it for a hidden record and skipped it.
            late: stored == Stored::Old,
            echo,
        };
        self.for_each_target(section, &guard, |target, link, record| {
            let record = known.unwrap_or(record);
            Target::transmit_from_console(target, link, record, &given);
        });
    }

    fn write_basic(&self, mut write: Write<'_>) {
        // This console sends the log from its oldest record. Records before that are no loss of its
        // own.
        let first = !self.begun.xchg(true, Relaxed);
        let Some(section) = write.enter() else { return };
        let guard = rcu::read_lock();
        self.for_each_target(section, &guard, |target, link, text| {
            target.transmit_basic(link, if first { without_remark(text) } else { text });
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
                false => {
                    let wait = WaitOff(write.interrupts_off());
                    self.write_extended(write, wait);
                }
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
