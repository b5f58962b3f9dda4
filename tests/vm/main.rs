// SPDX-License-Identifier: GPL-2.0

//! The tests that boot a machine. Each has a guest of its own.
//!
//! `NCTEST_UPSTREAM=1` runs those that make sense for it with upstream's C
//! netconsole: what fails there too is the test's fault or the kernel's.

mod configfs;
mod contexts;
mod crash;
mod devices;
mod errors;
mod faults;
mod lifecycle;
mod lossy;
mod program;
mod records;
mod reliable;
mod scene;
mod selftest;
mod stress;
mod systemd;
mod targets;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let (filters, mut arguments) = arguments();
    // Emulated machines are busy ones: two at a time unless told otherwise.
    arguments.test_threads.get_or_insert(2);
    let trials = [
        stress::trials(),
        targets::trials(),
        records::trials(),
        devices::trials(),
        errors::trials(),
        faults::trials(),
        contexts::trials(),
        configfs::trials(),
        selftest::trials(),
        lifecycle::trials(),
        crash::trials(),
        reliable(program::trials),
        reliable(systemd::trials),
        reliable(reliable::trials),
        reliable(lossy::trials),
    ];
    let mut trials: Vec<Trial> = trials.into_iter().flatten().collect();
    if !filters.is_empty() {
        trials.retain(|trial| filters.iter().any(|f| trial.name().contains(f.as_str())));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// What is on the command line: parts of names, of which libtest takes one at
/// most, and the rest.
fn arguments() -> (Vec<String>, Arguments) {
    let is_filter = |word: &String| !word.starts_with('-');
    let (filters, rest): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(is_filter);
    let program = std::iter::once("vm".to_string());
    (filters, Arguments::from_iter(program.chain(rest)))
}

/// Upstream's module is not reliable in this sense.
fn reliable(trials: fn() -> Vec<Trial>) -> Vec<Trial> {
    if nctest::env::upstream() {
        return Vec::new();
    }
    trials()
}
