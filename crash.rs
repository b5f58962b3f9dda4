// SPDX-License-Identifier: GPL-2.0

//! Panics, oopses and reboots: the listeners. What they bring about is in `crash/`:
//!
//! | file | contents |
//! |---|---|
//! | `mark.rs` | the mark of a crash's records |
//! | `send.rs` | transmission in a crash: records that are not sent yet, then repeats |
//! | `kdump.rs` | the console that hears of every panic's first line; lines before a crash kernel |
//! | `tx_freeze.rs` | the freezing of all devices with a panic's first line |
//!
//! | event | what the module does |
//! |---|---|
//! | panic | sends the log to its last line, then repeats it in rounds (`proto/crash_schedule.rs`) |
//! | oops | gives the console thread less time: the watchdog sends records that wait for over 100 ms |
//! | crash kernel | sends an oops from the die notifier, and lines after it and of a panic in `crash/kdump.rs`: the kernel jumps before the log is dumped, unless `crash_kexec_post_notifiers` is set |
//! | reboot | waits a little for the last acks, and retransmits records without one |
//!
//! **A panic.** printk flushes a console that is unsafe in atomic context only after the reset has
//! been asked for, and our consoles are while the kernel lives. The dumper is called when the other
//! CPUs have been stopped. It clears that flag, which from then on is true: every lock is only
//! tried, and memory comes from the reserve. printk then hands over all records that wait and each
//! line that follows. A record that it cannot hand over, because a CPU was stopped in the midst of
//! it, is read from printk's buffer.
//!
//! A CPU that is stopped while it transmits would keep the lock of that TX queue for good: see
//! `crash/tx_freeze.rs`.
//!
//! Basic targets have no numbers. They get nothing again, nor anything before a crash kernel.

pub(crate) mod kdump;
pub(crate) mod mark;
pub(crate) mod send;
pub(crate) mod tx_freeze;

use kernel::{
    interrupt::LocalInterruptDisabled,
    prelude::*,
    sync::Arc,
    time::{
        delay::{
            fsleep,
            udelay, //
        },
        Delta, //
    },
};

use crate::{
    crash::{
        mark::MARK,
        send::{
            is_crash_kernel_first,
            is_wanted_before_kdump,
            Episode,
            Replay,
            State, //
        }, //
    },
    params,
    proto::crash_schedule::{
        Rounds,
        TIMES, //
    },
    sys::{
        console,
        die_reboot::Ending,
        kmsg_dump::Dumper,
        panic::{
            self,
            Blink,
            Panic,
            Timeout, //
        },
        time::now_ms, //
    },
    target::Target, //
};

/// The longest wait for the last acks before a reboot, in milliseconds.
const GOODBYE_MS: u64 = 500;

/// The interval at which unacked records are retransmitted meanwhile, in milliseconds.
const REPEAT_MS: u64 = 100;

/// The listener to crashes and reboots.
pub(crate) struct Crash(Arc<Replay>);

impl Crash {
    /// Creates a listener. Process context.
    pub(crate) fn new(replay: &Arc<Replay>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(replay.clone()), GFP_KERNEL)?)
    }

    /// Sends what is due in a panic, but no repeats after `end`.
    fn step(&self, end: u64, off: &LocalInterruptDisabled) {
        let replay = &self.0;
        let Some(mut state) = replay.try_state(off) else {
            return;
        };
        let State { buffer, rounds, .. } = &mut *state;
        replay.push(panic_until(u64::MAX), buffer, off);
        if let Some(round) = rounds.poll(now_ms()) {
            replay.repeat(panic_until(end), round, buffer, off);
        }
    }

    /// Sends the quick rounds here and now, which takes `hold` milliseconds.
    fn hold(&self, hold: u64, off: &LocalInterruptDisabled) {
        let end = now_ms().saturating_add(hold);
        // A clock that stands still is no reason to stay here.
        for _ in 0..=hold {
            self.step(end, off);
            if now_ms() >= end {
                break;
            }
            udelay(Delta::from_millis(1));
        }
    }
}

/// Returns the panic, if there is one, to be sent until a time in milliseconds.
fn panic_until(until: u64) -> Episode {
    Episode {
        first: MARK.first(),
        until,
    }
}

impl Dumper for Crash {
    fn panic(this: &Arc<Self>, panic: &Panic) {
        let off = panic.interrupts_off();
        panic::stop_lockdep();
        let replay = &this.0;
        tx_freeze::thaw(replay.targets(), panic);
        let mut hold = replay.longest_hold();
        if panic::crash_kernel_is_loaded() {
            if is_crash_kernel_first() {
                return;
            }
            hold = hold.min(params::kdump_send_ms());
        }
        if let Some(mut state) = replay.try_state(off) {
            MARK.set(replay.first_record(&mut state.buffer));
        }
        console::atomic_is_safe_now(panic);
        // With this line printk hands over all records that wait.
        pr_notice!("sending the log of the panic\n");
        if let Some(mut state) = replay.try_state(off) {
            replay.push(panic_until(u64::MAX), &mut state.buffer, off);
            // The first transmission may have taken long. The rounds begin after it.
            state.rounds = Rounds::new(now_ms(), hold);
        }
        if panic.timeout() == Timeout::None || panic::crash_kernel_is_loaded() {
            this.hold(hold, off);
        } else {
            panic.on_blink(this.clone());
        }
    }

    fn oops(&self) {
        MARK.survived();
    }
}

impl Blink for Crash {
    fn blink(&self, off: &LocalInterruptDisabled) -> u32 {
        let began = now_ms();
        self.step(u64::MAX, off);
        u32::try_from(now_ms().saturating_sub(began)).unwrap_or(0)
    }
}

impl Ending for Crash {
    fn died(&self) {
        if !is_wanted_before_kdump() {
            return;
        }
        panic::while_ending(|off| {
            let (replay, began) = (&self.0, now_ms());
            tx_freeze::look(replay.targets(), off);
            if tx_freeze::found_used() {
                return;
            }
            let Some(mut state) = replay.try_state(off) else {
                return;
            };
            let until = state.start_before_kdump(began);
            let buffer = &mut state.buffer;
            let first = replay.first_record(buffer).min(MARK.first());
            let oops = Episode { first, until };
            replay.push(oops, buffer, off);
            let mut rounds = TIMES;
            replay.for_each(|_, settings| rounds = rounds.max(settings.crash_repeats));
            for round in 0..rounds {
                replay.repeat(oops, round, buffer, off);
            }
            MARK.set_oops(first, until);
        });
    }

    fn shut_down(&self) {
        self.0.for_each(|target, _| Target::end_hold(target));
        let began = now_ms();
        let until = began.saturating_add(GOODBYE_MS);
        let mut next = began.saturating_add(REPEAT_MS);
        while now_ms() < until && self.0.owes() {
            if now_ms() >= next {
                next = now_ms().saturating_add(REPEAT_MS);
                // The last records are not asked for if they are lost.
                panic::while_ending(|off| {
                    if let Some(mut state) = self.0.try_state(off) {
                        (self.0).repeat(panic_until(until), 0, &mut state.buffer, off);
                    }
                });
            }
            fsleep(Delta::from_millis(5));
        }
    }
}
