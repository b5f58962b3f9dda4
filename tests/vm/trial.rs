// SPDX-License-Identifier: GPL-2.0

//! A trial: a name, a guest, and what happens in it; how it is run, and run once more when it is
//! the emulator that has failed.

use std::any::Any;
use std::fmt::{self, Display, Formatter};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Instant;

use anyhow::{anyhow, Error, Result};
use libtest_mimic::Failed;
use nctest::env::{self, Guest};
use nctest::vm::VmConfig;

use crate::scene::Scene;
use crate::schedule;

/// The two parts of a trial: before a guest is there, and in it.
type Configure = dyn Fn(&mut VmConfig) -> Result<()> + Send;
type Body = dyn Fn(&mut Scene) -> Result<()> + Send;

/// A trial, named within its area.
pub struct Trial {
    name: String,
    ignored: bool,
    guest: fn() -> Result<Guest>,
    configure: Box<Configure>,
    body: Box<Body>,
}

/// A trial on the test kernel with one card that has addresses.
pub fn trial(name: &str, body: fn(&mut Scene) -> Result<()>) -> Trial {
    trial_with(name, |_| Ok(()), body)
}

/// A trial whose guest is not the usual one.
pub fn trial_with(
    name: impl Into<String>,
    configure: impl Fn(&mut VmConfig) -> Result<()> + Send + 'static,
    body: impl Fn(&mut Scene) -> Result<()> + Send + 'static,
) -> Trial {
    Trial {
        name: name.into(),
        ignored: false,
        guest: Guest::test,
        configure: Box::new(configure),
        body: Box::new(body),
    }
}

/// A trial on Debian's kernel.
pub fn stock_trial(name: &str, body: fn(&mut Scene) -> Result<()>) -> Trial {
    stock_trial_with(name, |_| Ok(()), body)
}

/// A trial on Debian's kernel whose guest is not the usual one.
pub fn stock_trial_with(
    name: &str,
    configure: fn(&mut VmConfig) -> Result<()>,
    body: fn(&mut Scene) -> Result<()>,
) -> Trial {
    Trial {
        guest: Guest::stock,
        ignored: !Guest::stock_is_configured(),
        ..trial_with(name, configure, body)
    }
}

/// A trial that upstream's module cannot pass.
pub fn ours_only(trial: Trial) -> Trial {
    Trial {
        ignored: trial.ignored || env::upstream(),
        ..trial
    }
}

/// Returns the guest of a trial, as it is before anything special is made of it.
pub fn config(name: &str, guest: Guest, seed: u64) -> VmConfig {
    let mut config = VmConfig::new(name, guest);
    config.seed = seed;
    // KUnit suites have a command of their own, and take time.
    config.append = "kunit.enable=0".into();
    config.from_snapshot = !env::boot();
    config
}

impl Trial {
    /// The trial as libtest runs it, with its area in front of its name.
    pub fn of_area(self, area: &str) -> libtest_mimic::Trial {
        let name = format!("{area}::{}", self.name);
        let ignored = self.ignored;
        let run = {
            let name = name.clone();
            move || self.run(&name)
        };
        libtest_mimic::Trial::test(name, run).with_ignored_flag(ignored)
    }

    fn run(&self, name: &str) -> Result<(), Failed> {
        let seed = env::seed()?;
        let _turn = schedule::turn()?;
        let mut outcome = self.attempt(name, seed, false);
        if let Err(failure) = &outcome {
            if failure.is::<EmulatorFault>() {
                println!("{name}: {failure:#}\n{name}: once more, with thread=single");
                outcome = self.attempt(name, seed, true);
            }
        }
        outcome.map_err(|e| {
            format!("{e:#}\n(make trial ARGS=\"{name} --seed {seed}\" replays it)").into()
        })
    }

    fn attempt(&self, name: &str, seed: u64, one_thread: bool) -> Result<()> {
        let began = Instant::now();
        let mut config = config(name, (self.guest)()?, seed);
        config.one_thread = one_thread;
        (self.configure)(&mut config)?;
        let mut scene = Scene::set(config).map_err(|e| {
            // The error has the console's last lines.
            let text = format!("{e:#}");
            blame(e, |words| text.contains(words))
        })?;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            (self.body)(&mut scene)?;
            scene.vm.check()
        }))
        .unwrap_or_else(|panic| Err(anyhow!("{}", panic_text(&*panic))));
        let saved = scene.vm.save_captures();
        let (took, start, cpu) = (began.elapsed(), scene.vm.start_time, scene.vm.cpu_time());
        println!("{name}: {took:.1?}, of which the start {start:.1?}; {cpu:.1?} of processor time; seed {seed}");
        schedule::took(name, took);
        outcome.and(saved).map_err(|e| {
            let e = anyhow!("{e:#}\n{}", scene.vm.report());
            blame(e, |words| scene.vm.serial.says(words))
        })
    }
}

/// QEMU's failure, not the trial's. Where the kernel patches its own code it puts an int3 over an
/// instruction, has all CPUs see it, and puts the new instruction there. A CPU that QEMU emulates
/// by a thread of its own (7.2 does so) now and then runs the int3 afterwards, from a translation
/// that should be gone, and the kernel knows nothing of it any more. Our code has no int3.
#[derive(Debug)]
struct EmulatorFault;

impl Display for EmulatorFault {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("the emulator's fault (an int3 that the kernel had replaced)")
    }
}

/// Says whose fault it is: the console, or what is known of it, has the words.
fn blame(failure: Error, console_has: impl Fn(&str) -> bool) -> Error {
    if console_has("Oops: int3: 0000") {
        return failure.context(EmulatorFault);
    }
    failure
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".into())
}
