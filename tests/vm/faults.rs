// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail, each in turn and by chance: what the user does then
//! fails with an error or does not, and leaves nothing behind.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use libtest_mimic::Trial;
use nctest::env::full;
use nctest::vm::{VmConfig, MODULE};

use crate::scene::{module_name, ours_only, trial_with, Scene, HOST, PORT};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("each_allocation_fails", leaks_are_seen, each_allocation),
        trial_with("allocations_fail_by_chance", warned_of, by_chance),
    ];
    trials.into_iter().map(ours_only).collect()
}

fn leaks_are_seen(config: &mut VmConfig) -> Result<()> {
    config.append.push_str(" kmemleak=on");
    config.memory = 1024;
    config.boot_limit = Duration::from_secs(300);
    Ok(())
}

/// The same one; the kernel itself warns of some failures, such as that of a stack.
fn warned_of(config: &mut VmConfig) -> Result<()> {
    config.expected.push("Call Trace:".into());
    leaks_are_seen(config)
}

/// All allocations may fail, also those that wait; nothing is said of it.
const QUIET: &str = "
    for kind in failslab fail_page_alloc; do
        cd /sys/kernel/debug/$kind || exit 1
        echo N > ignore-gfp-wait; echo 0 > verbose; echo Y > task-filter
        echo 0 > probability; echo 1 > interval; echo -1 > times; echo 0 > space
    done
    echo 0 > /sys/kernel/debug/fail_page_alloc/min-order
    cd /; mkdir -p /run";

/// More allocations than anything takes.
const MANY: u64 = 1_000_000;

/// Do something of which the `n`th allocation fails. The error, and how many more allocations
/// there would have had to be for one to fail.
fn fail_nth(scene: &mut Scene, n: u64, what: &str) -> Result<(i32, u64)> {
    let text = scene.sh(&format!("/init fail-nth {n} {what}"))?;
    let numbers = text.trim().split_once(' ');
    let numbers = numbers.and_then(|(errno, left)| Some((errno.parse().ok()?, left.parse().ok()?)));
    numbers.with_context(|| format!("{what}, allocation {n}: {text}"))
}

/// Each of the last allocations of `what` fails, of which there are `most` at most by default, and
/// after each time `undo` is run if it has been done all the same. It has to fail with `ENOMEM`
/// or not at all. How often did it fail?
fn each(scene: &mut Scene, what: &str, undo: &str, most: u64) -> Result<()> {
    const ENOMEM: i32 = 12;
    let (errno, left) = fail_nth(scene, MANY, what)?;
    ensure!(errno == 0, "{what}: error {errno} with nothing failing");
    scene.sh(undo)?;
    let all = MANY - left;
    let first = if full() {
        1
    } else {
        all.saturating_sub(most) + 1
    };
    let mut failed = 0;
    for n in first..=all {
        let (errno, left) = fail_nth(scene, n, what)?;
        ensure!(
            errno == 0 || errno == ENOMEM,
            "{what}: allocation {n} of {all} failed, and the error is {errno}"
        );
        // From one time to the next it may take one more or less.
        failed += u64::from(left == 0 && errno != 0);
        if errno == 0 {
            scene.sh(undo)?;
        }
        let modules = scene.sh("cat /proc/modules")?;
        ensure!(
            !what.starts_with("load") || !modules.contains(module_name()),
            "allocation {n} of {all}: {modules}"
        );
    }
    println!("faults: {what}: {all} allocations, {first} to {all} tried, {failed} errors");
    Ok(())
}

/// Each allocation of loading the module, of making, enabling and changing a target fails once,
/// and then none any more.
fn each_allocation(scene: &mut Scene) -> Result<()> {
    scene.sh(QUIET)?;
    let module = module_name();
    let targets = format!("+@/eth0,@{HOST}/;@/eth0,6667@{HOST}/");
    let load = format!("load {MODULE} 'netconsole={targets}'");
    each(scene, &load, &format!("rmmod {module}"), 25)?;

    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let base = format!("/sys/kernel/config/{module}");
    let target = format!("{base}/tgt");
    each(
        scene,
        &format!("mkdir {target}"),
        &format!("rmdir {target}"),
        100,
    )?;
    scene.sh(&format!(
        "mkdir {target}; echo {HOST} > {target}/remote_ip; echo 6668 > {target}/remote_port"
    ))?;
    for (file, text, undo) in [
        ("dev_name", "eth0", "true"),
        ("remote_ip", HOST, "true"),
        ("ack_timeout_ms", "5000", "true"),
        ("enabled", "1", &format!("echo 0 > {target}/enabled")),
    ] {
        each(scene, &format!("write {target}/{file} {text}"), undo, 25)?;
    }
    let key = format!("{target}/userdata/key");
    each(scene, &format!("mkdir {key}"), &format!("rmdir {key}"), 25)?;
    scene.sh(&format!("mkdir {key}"))?;
    each(scene, &format!("write {key}/value value"), "true", 25)?;
    scene.sh(&format!("rmdir {key} {target}"))?;
    scene.all_has_arrived(0)?;
    scene.leaks_nothing()?;
    scene.unload_and_settle()
}

/// Again and again: load, make a target, enable it, log, be answered, unload, while every so
/// many allocations fail, of those who do so and, by turns, of everybody else, interrupts
/// included. Then none fails, and all arrives.
fn by_chance(scene: &mut Scene) -> Result<()> {
    let module = module_name();
    let base = format!("/sys/kernel/config/{module}");
    let rounds = if full() { 200 } else { 12 };
    scene.sh(QUIET)?;
    // Who is to fail is this shell and what it starts.
    let script = format!(
        "RANDOM={} loaded=0 enabled=0
         k=/sys/kernel/debug
         for i in $(seq {rounds}); do
             odds=$((1 + RANDOM % 10)); filter=Y; [ $((i % 3)) != 0 ] || {{ filter=N; odds=1; }}
             (
                 # This shell may end at any line; the one around it forks only in calm.
                 echo 1 > /proc/self/make-it-fail
                 for kind in failslab fail_page_alloc; do
                     echo $filter > $k/$kind/task-filter; echo $odds > $k/$kind/probability
                 done
                 insmod {MODULE} 'netconsole=+@/eth0,{PORT}@{HOST}/' && echo loaded
                 mkdir {base}/tgt; echo {HOST} > {base}/tgt/remote_ip
                 echo 6668 > {base}/tgt/remote_port
                 echo 1 > {base}/tgt/enabled && echo enabled
                 mkdir {base}/tgt/userdata/key; echo value > {base}/tgt/userdata/key/value
                 for n in 1 2 3 4 5; do echo \"by chance $i $n\" > /dev/kmsg; done
                 cat {base}/tgt/stats/*
             ) > /run/said 2> /run/errors
             for kind in failslab fail_page_alloc; do
                 until echo 0 > $k/$kind/probability; do :; done
             done
             ! grep -q '^loaded' /run/said || loaded=$((loaded + 1))
             ! grep -q '^enabled' /run/said || enabled=$((enabled + 1))
             [ ! -d {base}/tgt/userdata/key ] || rmdir {base}/tgt/userdata/key || exit 3
             [ ! -d {base}/tgt ] || rmdir {base}/tgt || exit 4
             ! grep -q '^{module} ' /proc/modules || rmmod {module} || exit 5
         done
         echo $loaded $enabled",
        scene.seed % 32749 + 1
    );
    let output = scene.vm.agent.exec(&script, Duration::from_secs(400))?;
    ensure!(output.code == 0, "{output:?}");
    println!(
        "faults: of {rounds} rounds, loaded and enabled: {}; seed {}",
        output.text.trim(),
        scene.seed
    );
    scene.load(&format!("+@/eth0,{PORT}@{HOST}/"))?;
    let first = scene.newest()?;
    scene.log("nothing fails any more")?;
    scene.all_has_arrived(first)?;
    scene.leaks_nothing()?;
    scene.unload_and_settle()
}
