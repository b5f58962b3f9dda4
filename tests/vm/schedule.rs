// SPDX-License-Identifier: GPL-2.0

//! The order of trials: the longest first, as far as is known from earlier runs, so that at the end
//! no processor waits for one that is long.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Trial;
use nctest::env;

/// The long trials, where nothing is known yet.
const LONG: [&str; 4] = ["lossy::", "lifecycle::torture", "stress::", "allocations::"];

/// The durations of this run's trials.
static TOOK: Mutex<BTreeMap<String, Duration>> = Mutex::new(BTreeMap::new());

/// Takes note of how long a trial took.
pub fn took(name: &str, time: Duration) {
    TOOK.lock().unwrap().insert(name.into(), time);
}

/// Sorts trials, the longest first.
pub fn longest_first(trials: &mut [Trial]) {
    let known = remembered().unwrap_or_default();
    trials.sort_by_key(|trial| {
        let name = trial.name();
        let guess = || {
            let long = LONG.iter().any(|long| name.starts_with(long));
            Duration::from_secs(if long { 300 } else { 30 })
        };
        std::cmp::Reverse(known.get(name).copied().unwrap_or_else(guess))
    });
}

/// Remembers what this run has told, and says which trials took longest.
pub fn finish() -> Result<()> {
    let took = TOOK.lock().unwrap().clone();
    let mut slowest: Vec<_> = took.iter().collect();
    slowest.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
    let sum: Duration = took.values().sum();
    println!("{} guests, {:.0?} in all; the slowest:", took.len(), sum);
    for (name, time) in slowest.into_iter().take(10) {
        println!("{:8.1} s  {name}", time.as_secs_f64());
    }
    let mut known = remembered().unwrap_or_default();
    known.extend(took);
    let lines: Vec<_> = known
        .iter()
        .map(|(name, time)| format!("{} {name}\n", time.as_millis()))
        .collect();
    Ok(fs::write(file()?, lines.concat())?)
}

/// The times of earlier runs; none that cannot be read.
fn remembered() -> Result<BTreeMap<String, Duration>> {
    let text = fs::read_to_string(file()?)?;
    let entry = |line: &str| {
        let (ms, name) = line.split_once(' ')?;
        Some((name.to_string(), Duration::from_millis(ms.parse().ok()?)))
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn file() -> Result<PathBuf> {
    Ok(env::out_dir()?.join("durations"))
}
