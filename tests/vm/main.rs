// SPDX-License-Identifier: GPL-2.0

//! The tests that boot a machine. Each has a guest of its own, and a name with its area in front:
//! the file or the folder here that it is in.
//!
//! `NCTEST_UPSTREAM=1` runs those that make sense for it with upstream's C
//! netconsole: what fails there too is the test's fault or the kernel's.

mod allocations;
mod configfs;
mod contexts;
mod cost;
mod crash;
mod devices;
mod errors;
mod installed;
mod kernels;
mod lifecycle;
mod lossy;
mod program;
mod records;
mod reliable;
mod scene;
mod schedule;
mod selftest;
mod stress;
mod systemd;
mod targets;
mod trial;

use std::env::{args, set_var};
use std::process::exit;

use libtest_mimic::Arguments;
use trial::Trial;

/// An area: its name, and its trials.
type Area = (&'static str, fn() -> Vec<Trial>);

const AREAS: [Area; 15] = [
    ("allocations", allocations::trials),
    ("configfs", configfs::trials),
    ("contexts", contexts::trials),
    ("crash", crash::trials),
    ("devices", devices::trials),
    ("errors", errors::trials),
    ("lifecycle", lifecycle::trials),
    ("lossy", lossy::trials),
    ("program", program::trials),
    ("records", records::trials),
    ("reliable", reliable::trials),
    ("selftest", selftest::trials),
    ("stress", stress::trials),
    ("systemd", systemd::trials),
    ("targets", targets::trials),
];

/// The area of measurements, which are part of no test.
const COST: Area = ("cost", cost::trials);

/// The area of what is run on several of Debian's kernels.
const KERNELS: Area = ("kernels", kernels::trials);

/// The area of the packages on an installed system.
const INSTALLED: Area = ("installed", installed::trials);

/// The areas that upstream's module has nothing of.
const OURS_ALONE: [&str; 4] = ["lossy", "program", "reliable", "systemd"];

fn main() {
    let (filters, mut arguments) = arguments();
    let most = schedule::at_a_time(arguments.test_threads).expect("the host's processors");
    arguments.test_threads = Some(most);
    let mut trials = Vec::new();
    let measured = nctest::env::bench().then_some(COST);
    let kernels = nctest::env::kernels().then_some(KERNELS);
    let installed = nctest::env::installed().then_some(INSTALLED);
    let more = [measured, kernels, installed].into_iter().flatten();
    for (area, of_area) in AREAS.into_iter().chain(more) {
        if !(nctest::env::upstream() && OURS_ALONE.contains(&area)) {
            trials.extend(of_area().into_iter().map(|trial| trial.of_area(area)));
        }
    }
    if !filters.is_empty() {
        trials.retain(|trial| filters.iter().any(|f| trial.name().contains(f.as_str())));
    }
    schedule::longest_first(&mut trials);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        if let Err(e) = schedule::finish() {
            eprintln!("how long they took is not remembered: {e:#}");
        }
    }
    exit(if conclusion.has_failed() { 101 } else { 0 });
}

/// Returns the command line: parts of names, of which libtest takes one at most, and the rest.
/// `--seed N` is the same as `NCTEST_SEED=N`.
fn arguments() -> (Vec<String>, Arguments) {
    let mut words: Vec<String> = args().skip(1).collect();
    if let Some(at) = words.iter().position(|word| word == "--seed") {
        words.remove(at);
        if at < words.len() {
            set_var("NCTEST_SEED", words.remove(at));
        }
    }
    // libtest's options with a value are to be written with "=".
    let is_filter = |word: &String| !word.starts_with('-');
    let (filters, rest): (Vec<_>, Vec<_>) = words.into_iter().partition(is_filter);
    let program = std::iter::once("vm".to_string());
    (filters, Arguments::from_iter(program.chain(rest)))
}
