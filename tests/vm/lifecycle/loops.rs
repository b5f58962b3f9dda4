// SPDX-License-Identifier: GPL-2.0

//! Loops of the guest's shell that run side by side, each watched.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::{sh, PRELUDE};
use crate::scene::Scene;

/// The longest that one turn of a loop may take on a busy machine, and how much longer
/// than they were to run all may have to until each has done enough.
const PATIENCE: Duration = Duration::from_secs(90);

/// The commands that a loop's body may use beside [`PRELUDE`]: `did COMMAND...` counts the
/// command if it succeeds; `put VALUE FILE` writes; `nap` sleeps for up to 30
/// ms; `one_of WORD...` sets `$word`.
const HELPERS: &str = r#"
    did() { "$@" && did=$((did + 1)); }
    put() { echo "$1" > "$2"; }
    nap() { usleep $((RANDOM % 30000)); }
    one_of() { shift $((RANDOM % $#)); word=$1; }
    now() { read -r now rest < /proc/uptime; now=${now%.*}${now#*.}; }
"#;

/// Loops that are to run together.
pub struct Loops {
    seed: u64,
    bodies: Vec<(String, String)>,
    /// The count that each loop has to reach.
    enough: BTreeMap<String, u64>,
}

/// The work of a loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The number of times that its body ran.
    turns: u64,
    /// The counts of its `did`.
    pub did: u64,
    /// The longest turn, in hundredths of a second.
    slowest: u64,
}

impl Loops {
    /// Returns an empty set; the loops' random numbers follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            bodies: Vec::new(),
            enough: BTreeMap::new(),
        }
    }

    /// Adds a loop. A command that fails in its body is not an error.
    pub fn with(mut self, name: &str, body: &str) -> Self {
        self.bodies.push((name.into(), body.into()));
        self
    }

    /// Adds a loop that has to count `enough` before the trial ends, however slow the machine is.
    pub fn counting(mut self, name: &str, enough: u64, body: &str) -> Self {
        self.enough.insert(name.into(), enough);
        self.with(name, body)
    }

    /// Starts them all.
    fn start(&self, scene: &mut Scene) -> Result<()> {
        sh(scene, "rm -rf /run/loops; mkdir /run/loops")?;
        for (n, (name, body)) in self.bodies.iter().enumerate() {
            let file = format!("/run/loops/{name}");
            // Each loop has random numbers of its own.
            let dice = (self.seed + n as u64 * 7919) % 32749 + 1;
            let script = format!(
                "{PRELUDE}{HELPERS}
                RANDOM={dice} turns=0 did=0 slowest=0
                now
                while [ ! -e /run/loops/stop ]; do
                    before=$now
                    {{\n{body}\n}} > {file}.said 2>&1
                    turns=$((turns + 1))
                    now
                    [ $((now - before)) -le $slowest ] || slowest=$((now - before))
                    echo $turns $did $slowest > {file}.turns
                done
                touch {file}.over"
            );
            sh(
                scene,
                &format!(
                    "cat > {file}.sh <<'END-OF-LOOP'\n{script}\nEND-OF-LOOP\n\
                     setsid sh {file}.sh < /dev/null > {file}.broken 2>&1 &"
                ),
            )?;
        }
        Ok(())
    }

    /// Runs them for `time`, and on until each has counted enough; then stops them, and returns the
    /// counts of each.
    pub fn run(&self, scene: &mut Scene, time: Duration) -> Result<BTreeMap<String, Done>> {
        self.start(scene)?;
        let began = Instant::now();
        let mut seen: BTreeMap<String, (Done, Instant)> = BTreeMap::new();
        while began.elapsed() < time || self.short_of(&seen).is_some() {
            if began.elapsed() > time + PATIENCE {
                bail!("too little was done: {:?}", self.short_of(&seen));
            }
            sleep(Duration::from_secs(1));
            let now = Instant::now();
            for (name, done) in turns(scene)? {
                match seen.get_mut(&name) {
                    Some((last, at)) if *last != done => (*last, *at) = (done, now),
                    Some(_) => {}
                    None => drop(seen.insert(name, (done, now))),
                }
            }
            for (name, _) in &self.bodies {
                let since = seen.get(name).map_or(began, |(_, at)| *at);
                if since.elapsed() > PATIENCE {
                    bail!("the loop {name} hangs:\n{}", hanging(scene, name));
                }
            }
        }
        sh(scene, "touch /run/loops/stop")?;
        for (name, _) in &self.bodies {
            let file = format!("/run/loops/{name}");
            let began = Instant::now();
            while !sh(scene, &format!("ls {file}.over 2> /dev/null || true"))?.contains("over") {
                if began.elapsed() > PATIENCE {
                    bail!("the loop {name} does not end:\n{}", hanging(scene, name));
                }
                sleep(Duration::from_millis(100));
            }
        }
        let done = turns(scene)?;
        for (name, _) in &self.bodies {
            let Done {
                turns,
                did,
                slowest,
            } = done.get(name).copied().context("a loop without a turn")?;
            let slowest = slowest as f64 / 100.0;
            println!("  loop {name}: {turns} turns, {did} counted, the slowest {slowest:.2} s");
            let broken = sh(scene, &format!("cat /run/loops/{name}.broken"))?;
            ensure!(broken.is_empty(), "the loop {name} says: {broken}");
        }
        Ok(done)
    }

    /// Returns a loop that has not yet counted enough, and its count.
    fn short_of(&self, seen: &BTreeMap<String, (Done, Instant)>) -> Option<(&str, Option<Done>)> {
        self.enough.iter().find_map(|(name, enough)| {
            let done = seen.get(name).map(|(done, _)| *done);
            (done.map_or(0, |done| done.did) < *enough).then_some((name.as_str(), done))
        })
    }
}

/// Returns the progress of each loop.
fn turns(scene: &mut Scene) -> Result<BTreeMap<String, Done>> {
    let text = sh(scene, "cd /run/loops; grep . *.turns || true")?;
    let mut all = BTreeMap::new();
    for line in text.lines() {
        // A file that is just being written is empty, and comes the next time.
        let Some((name, numbers)) = line.split_once(".turns:") else {
            continue;
        };
        let numbers: Result<Vec<u64>, _> = numbers.split(' ').map(str::parse).collect();
        let Ok([turns, did, slowest]) = numbers.as_deref() else {
            continue;
        };
        let done = Done {
            turns: *turns,
            did: *did,
            slowest: *slowest,
        };
        all.insert(name.to_string(), done);
    }
    Ok(all)
}

/// Returns the output of a loop, the processes, and the kernel stacks of all tasks that wait.
fn hanging(scene: &mut Scene, name: &str) -> String {
    let script = format!(
        "cat /run/loops/{name}.said; ps -o pid,stat,args | tail -n 40
         echo w > /proc/sysrq-trigger; dmesg | tail -n 120"
    );
    sh(scene, &script).unwrap_or_else(|e| format!("and the guest does not say why: {e:#}"))
}
