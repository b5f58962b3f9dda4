// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail, each in turn and by chance: the user's action then fails with an error or
//! succeeds, and leaves nothing behind.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env::full;
use nctest::vm::{VmConfig, MODULE};

use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("each_allocation_fails", faulty, each_allocation),
        trial_with("allocations_fail_by_chance", faulty, by_chance),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// Configures a guest that reports leaks. The kernel itself warns of some failures, such as
/// vmalloc's, with a call trace.
fn faulty(config: &mut VmConfig) -> Result<()> {
    config.append.push_str(" kmemleak=on");
    config.expected.push("Call Trace:".into());
    config.memory = 1024;
    config.boot_limit = Duration::from_secs(300);
    Ok(())
}

/// All allocations may fail, also those that wait; the kernel does not log that.
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

/// Does something of which the `n`th allocation fails. Returns the error, and the number of further
/// allocations that it would have taken for one to fail.
fn fail_nth(scene: &mut Scene, n: u64, what: &str) -> Result<(i32, u64)> {
    let text = scene.sh(&format!("/init fail-nth {n} {what}"))?;
    let numbers = text.trim().split_once(' ');
    let numbers = numbers.and_then(|(errno, left)| Some((errno.parse().ok()?, left.parse().ok()?)));
    numbers.with_context(|| format!("{what}, allocation {n}: {text}"))
}

/// Has every `step`th of the last `most` allocations of `what` fail, or all with `NCTEST_FULL=1`.
/// Each time `what` has to succeed, and is undone by `undo`, or to fail with `ENOMEM`.
fn each(scene: &mut Scene, what: &str, undo: &str, most: u64, step: usize) -> Result<()> {
    const ENOMEM: i32 = 12;
    let (errno, left) = fail_nth(scene, MANY, what)?;
    ensure!(errno == 0, "{what}: error {errno} with nothing failing");
    scene.sh(undo)?;
    let all = MANY - left;
    let (first, step) = if full() {
        (1, 1)
    } else {
        (all.saturating_sub(most) + 1, step)
    };
    let mut failed = 0;
    for n in (first..=all).step_by(step) {
        let (errno, left) = fail_nth(scene, n, what)?;
        ensure!(
            errno == 0 || errno == ENOMEM,
            "{what}: allocation {n} of {all} failed, and the error is {errno}"
        );
        // The number of allocations may differ by one from one time to the next.
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
    println!("faults: {what}: {all} allocations, {first} to {all} tried in steps of {step}, {failed} errors");
    Ok(())
}

/// Each allocation of loading the module, of making, enabling and changing a target fails once,
/// and then none any more.
fn each_allocation(scene: &mut Scene) -> Result<()> {
    scene.sh(QUIET)?;
    let module = module_name();
    let targets = format!("+@/eth0,@{HOST}/;@/eth0,6667@{HOST}/");
    let load = format!("load {MODULE} 'netconsole={targets}'");
    each(scene, &load, &format!("rmmod {module}"), 480, 13)?;

    // The watchdog would send what was logged before the load without its dictionaries.
    scene.load_with(&format!("+@/eth0,@{HOST}/"), "push_after_ms=60000")?;
    let base = format!("/sys/kernel/config/{module}");
    let target = format!("{base}/tgt");
    each(
        scene,
        &format!("mkdir {target}"),
        &format!("rmdir {target}"),
        100,
        1,
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
        each(scene, &format!("write {target}/{file} {text}"), undo, 25, 1)?;
    }
    let key = format!("{target}/userdata/key");
    each(
        scene,
        &format!("mkdir {key}"),
        &format!("rmdir {key}"),
        25,
        1,
    )?;
    scene.sh(&format!("mkdir {key}"))?;
    each(scene, &format!("write {key}/value value"), "true", 25, 1)?;
    scene.sh(&format!("rmdir {key} {target}"))?;
    scene.all_has_arrived(0)?;
    scene.leaks_nothing()?;
    scene.unload_and_settle()
}

/// Loads, makes a target, enables it, logs, is answered, disables it, and unloads, again and again,
/// while some of the module's allocations fail, in any context. Then none fails, and all arrives.
fn by_chance(scene: &mut Scene) -> Result<()> {
    const PLENTY: u64 = 1_000_000_000;
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    let module = module_name();
    let base = format!("/sys/kernel/config/{module}");
    let rounds = if full() { 200 } else { 12 };
    scene.sh(QUIET)?;
    let script = format!(
        "RANDOM={seed} enabled=0
         k=/sys/kernel/debug
         each() {{ for kind in failslab fail_page_alloc; do echo $2 > $k/$kind/$1; done; }}
         each task-filter N; each times {PLENTY}
         for i in $(seq {rounds}); do
             insmod {MODULE} 'netconsole=+@/eth0,{PORT}@{HOST}/' || exit 2
             start=$(cat /sys/module/{module}/sections/.text)
             each require-start $start
             each require-end $(printf '0x%x' $((start + $(cat /sys/module/{module}/coresize))))
             each probability $((1 + RANDOM % 3))
             mkdir {base}/tgt && {{
                 echo {HOST} > {base}/tgt/remote_ip
                 echo 6668 > {base}/tgt/remote_port
                 echo 1 > {base}/tgt/enabled && enabled=$((enabled + 1))
                 mkdir {base}/tgt/userdata/key && echo value > {base}/tgt/userdata/key/value
             }}
             each probability $((5 + RANDOM % 60))
             for n in 1 2 3 4 5; do echo \"by chance $i $n\" > /dev/kmsg; done
             cat {base}/cmdline0/stats/* > /dev/null
             usleep 300000
             [ ! -d {base}/tgt/userdata/key ] || rmdir {base}/tgt/userdata/key || exit 3
             [ ! -d {base}/tgt ] || rmdir {base}/tgt || exit 4
             rmmod {module} || exit 5
             each probability 0
         done 2> /run/errors
         each require-start 0; each require-end 0xffffffffffffffff
         echo $enabled $(($(cat $k/failslab/times) + $(cat $k/fail_page_alloc/times)))",
        seed = scene.seed % 32749 + 1
    );
    let output = scene.vm.agent.exec(&script, Duration::from_secs(400))?;
    ensure!(output.code == 0, "{output:?}");
    let numbers = output.text.trim().split_once(' ');
    let (enabled, left) = numbers.with_context(|| output.text.clone())?;
    let (enabled, left): (u32, u64) = (enabled.parse()?, left.parse()?);
    let failed = 2 * PLENTY - left;
    println!(
        "faults: {failed} allocations failed in {rounds} rounds, in {enabled} a target was enabled; \
         seed {}",
        scene.seed
    );
    ensure!(enabled > 0 && failed > rounds, "too few to tell");
    scene.load(&format!("+@/eth0,{PORT}@{HOST}/"))?;
    scene.log("nothing fails any more")?;
    let seq = peer.logger.wait_for("nothing fails any more", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    scene.leaks_nothing()?;
    scene.unload_and_settle()
}
