// SPDX-License-Identifier: GPL-2.0

//! The tests that boot a machine.

mod scene;
mod targets;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // Emulated machines are busy ones: two at a time unless told otherwise.
    arguments.test_threads.get_or_insert(2);
    let trials = [targets::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}
