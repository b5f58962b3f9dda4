// SPDX-License-Identifier: GPL-2.0

//! The tests that boot a machine. Each has a guest of its own.
//!
//! `NCTEST_UPSTREAM=1` runs those that make sense for it with upstream's C
//! netconsole: what fails there too is the test's fault or the kernel's.

mod contexts;
mod devices;
mod errors;
mod lifecycle;
mod records;
mod reliable;
mod scene;
mod stress;
mod targets;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Emulated machines are busy ones: two at a time unless told otherwise.
    arguments.test_threads.get_or_insert(2);
    let trials = [
        stress::trials(),
        targets::trials(),
        records::trials(),
        devices::trials(),
        errors::trials(),
        contexts::trials(),
        lifecycle::trials(),
        reliable(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Upstream's module is not reliable in this sense.
fn reliable() -> Vec<Trial> {
    if nctest::env::upstream() {
        return Vec::new();
    }
    reliable::trials()
}
