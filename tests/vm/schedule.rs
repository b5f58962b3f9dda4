// SPDX-License-Identifier: GPL-2.0

//! When a trial runs: the longest first, as far as is known from earlier runs, so that at the end
//! no processor waits for one that is long; as many at a time as there are processors, and more
//! while one of these has nothing to do, since many trials wait most of the time.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nctest::env;

/// The long trials, where nothing is known yet.
const LONG: [&str; 4] = ["lossy::", "lifecycle::torture", "stress::", "allocations::"];

/// The durations of this run's trials.
static TOOK: Mutex<BTreeMap<String, Duration>> = Mutex::new(BTreeMap::new());

/// The fewest and the most guests that may run at a time, how many do, and when a processor was
/// last seen at work or a guest was started.
struct Running {
    least: usize,
    most: usize,
    now: usize,
    since: Instant,
    /// The time for which all processors together had been idle by then.
    idle: Duration,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// How long a processor must have been idle for one more guest.
const IDLE: Duration = Duration::from_secs(3);

/// The turn of a trial, which ends when dropped.
pub struct Turn(());

/// Sets how many guests run at a time: as many as there are processors, or up to twice as many
/// while a processor is idle; with `asked` exactly so many. Returns the most there may be.
pub fn at_a_time(asked: Option<usize>) -> Result<usize> {
    // Each guest has two processors: with more of them at work printk's thread waits for seconds
    // now and then, and what it would have sent in full is sent from printk's buffer.
    let processors = available_parallelism()?.get();
    let (least, most) = asked.map_or((processors, 2 * processors), |n| (n, n));
    let (now, since, idle) = (0, Instant::now(), idle_time()?);
    *RUNNING.lock().unwrap() = Some(Running {
        least,
        most,
        now,
        since,
        idle,
    });
    Ok(most)
}

/// Waits until another guest may run.
pub fn turn() -> Result<Turn> {
    loop {
        if let Some(running) = RUNNING.lock().unwrap().as_mut() {
            if running.admits(Instant::now(), idle_time()?) {
                return Ok(Turn(()));
            }
        }
        sleep(IDLE / 10);
    }
}

impl Running {
    /// Returns whether another guest may start now, and counts it.
    fn admits(&mut self, now: Instant, idle: Duration) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let was_idle = idle.saturating_sub(self.idle) >= passed.mul_f64(0.8);
        let may = self.now < self.least || (self.now < self.most && passed >= IDLE && was_idle);
        if may || !was_idle {
            (self.since, self.idle) = (now, idle);
        }
        self.now += usize::from(may);
        may
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(running) = RUNNING.lock().unwrap().as_mut() {
            running.now -= 1;
        }
    }
}

/// How long all processors together have been idle since the host started: /proc/uptime.
fn idle_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let idle = text.split_whitespace().nth(1).context("/proc/uptime")?;
    Ok(Duration::from_secs_f64(idle.parse()?))
}

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
