// SPDX-License-Identifier: GPL-2.0

//! Stress: bursts, load and unload again and again, no memory for packets.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use nctest::collector::contains;
use nctest::logger::Sink;
use nctest::vm::{VmConfig, MODULE};
use nctest_guest::Burst;

use crate::scene::{module_name, Scene, HOST, SOON};
use crate::trial::{trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("burst_of_20000", burst_of_20000),
        trial("unload_sends_what_is_pending", unload_sends_what_is_pending),
        trial_with("wrapped_log", small_log, wrapped_log),
        trial("load_and_unload_100_times", load_and_unload_100_times),
        trial("no_memory_for_packets", no_memory_for_packets),
    ]
}

/// Every record of a burst arrives, or printk itself says that it dropped it.
fn burst_of_20000(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let burst = Burst::new(20_000, scene.seed, "burst");
    let written = scene.vm.agent.log(&burst, Duration::from_secs(240))?;
    ensure!(written.written == burst.count, "{written:?}");
    let marker = "the burst is over";
    scene.log(marker)?;
    let last = scene.logger.wait_for(marker, Duration::from_secs(120))?;
    let kmsg = scene.vm.agent.kmsg()?;
    ensure!(
        kmsg.overwritten == 0,
        "the log's buffer is too small for this test"
    );
    let collector = scene.logger.lock();
    let comparison = collector.compare(&kmsg.records, ..=last);
    let (missing, dropped) = (comparison.missing.len() as u64, collector.dropped);
    ensure!(comparison.different.is_empty(), "{}", comparison.describe());
    ensure!(
        missing == dropped,
        "{dropped} dropped by printk; {}",
        comparison.describe()
    );
    // The texts that arrived are compared with those written, not only with /dev/kmsg.
    let mut bodies = collector.records.values().filter_map(|record| {
        let text = std::str::from_utf8(&record.bytes).ok()?;
        text.split_once(';')?.1.strip_suffix('\n')
    });
    for text in burst.texts() {
        let found = bodies.any(|body| body == text) || dropped > 0;
        ensure!(found, "{text:?} is not where it belongs");
    }
    let rate = burst.count as f64 / written.took.as_secs_f64();
    println!("burst_of_20000: {rate:.0} records a second were accepted, {dropped} dropped");
    drop(collector);
    scene.unload_and_settle()
}

/// Records that wait when the module is unloaded are sent first.
fn unload_sends_what_is_pending(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    let first = scene.newest()? + 1;
    let burst = Burst::new(3000, scene.seed, "pending");
    scene.vm.agent.log(&burst, Duration::from_secs(60))?;
    scene.unload()?;
    let last = scene.logger.wait_for("pending 2999 ", SOON)?;
    let kmsg = scene.vm.agent.kmsg()?;
    scene.logger.assert_equal(&kmsg.records, first..=last)?;
    scene.vm.settle()
}

fn small_log(config: &mut VmConfig) -> Result<()> {
    // The last `log_buf_len=` counts, if it is larger than the built-in buffer.
    config.append.push_str(" log_buf_len=256K");
    Ok(())
}

/// A log that has lost its oldest records is sent from the oldest that is left, and a basic target
/// is not told that any were dropped.
fn wrapped_log(scene: &mut Scene) -> Result<()> {
    let burst = Burst::new(6000, scene.seed, "wrapped");
    scene.vm.agent.log(&burst, Duration::from_secs(60))?;
    let basic = Sink::attach(scene.wire(), 6667);
    scene.load(&format!("+@/eth0,@{HOST}/;@/eth0,6667@{HOST}/"))?;
    scene.log("after the burst")?;
    basic.wait_for("after the burst", SOON)?;
    let last = scene.logger.wait_for("after the burst", SOON)?;
    let kmsg = scene.vm.agent.kmsg()?;
    let oldest = kmsg.records.first().context("an empty log")?;
    let oldest = nctest::record::parse(oldest).map_err(|e| anyhow!(e))?.seq;
    ensure!(oldest > 1000, "the log has not wrapped: {oldest}");
    // Loading has logged something, and so pushed out a little more.
    scene.logger.assert_equal(&kmsg.records, oldest..=last)?;
    let dropped = basic
        .datagrams()
        .iter()
        .any(|udp| contains(&udp.payload, b"dropped"));
    ensure!(
        !dropped,
        "a basic target was told of records that were never its own"
    );
    scene.unload_and_settle()
}

/// Loading and unloading while a process logs leaves nothing behind.
fn load_and_unload_100_times(scene: &mut Scene) -> Result<()> {
    scene.sh("ip link add d0 type dummy; ip link set d0 up; ip addr add 10.0.9.2/24 dev d0")?;
    // Each load sends the whole log three times: a log that grows faster costs time and shows
    // nothing more.
    reload(
        scene,
        100,
        "(while :; do echo 'somebody logs' > /dev/kmsg; usleep 100000; done) > /dev/null 2>&1 &",
    )?;
    let arrived = scene.logger.lock().arrivals.len();
    ensure!(
        arrived > 1000,
        "only {arrived} datagrams: did it log at all?"
    );
    for file in ["/proc/modules", "/proc/consoles", "/proc/vmallocinfo"] {
        let text = scene.sh(&format!("cat {file}"))?;
        ensure!(!text.contains("netcon"), "left in {file}:\n{text}");
    }
    // Memory is counted while nothing else allocates any, after the kernel's permanent
    // allocations; nothing is shown, so nothing is sent.
    scene.sh("dmesg -n 1")?;
    reload(scene, 10, ":")?;
    // A leak is there each time. A CPU that needs an object of some kind for the first time keeps a
    // whole slab of them, of up to 32 KiB; several kinds now and then do so in one of these rounds.
    let (mut quickest, mut grown) = (Duration::MAX, Vec::new());
    while grown.last().is_none_or(|grown| *grown >= LEAK_KIB) {
        ensure!(grown.len() < 4, "the slabs grow by {grown:?} KiB a round");
        let before = scene.slab_kib()?;
        quickest = quickest.min(reload(scene, 20, ":")?);
        grown.push(scene.slab_kib()?.saturating_sub(before));
    }
    println!("load_and_unload: the slabs grew by {grown:?} KiB a round");
    // printk waits a second for a console that is behind; none of ours is, with nothing to send.
    ensure!(
        quickest < Duration::from_secs(1),
        "no unloading took less than {quickest:?}"
    );
    // A device that is still held would keep this waiting.
    scene.sh("dmesg -n 8; ip link del d0")?;
    scene.vm.settle()
}

/// The bytes that 20 loads and unloads may leave in the slabs each time, in KiB.
const LEAK_KIB: u64 = 128;

/// The longest that one load and unload may take. Each load sends the whole log from its beginning,
/// to three targets, and unloading waits until that is done; the log grows with each.
const ONCE: Duration = Duration::from_secs(60);

/// Loads and unloads the module `times` times, beside the programs that `beside` starts. Returns
/// the time of the quickest unloading.
fn reload(scene: &mut Scene, times: u32, beside: &str) -> Result<Duration> {
    let targets = format!("+@/eth0,@{HOST}/;@/d0,@10.0.9.1/;+@/eth0,6667@fd00::1/");
    let load = format!("insmod {MODULE} 'netconsole={targets}'");
    let unload = format!("rmmod {}", module_name());
    let began = Instant::now();
    let started = scene.sh(&format!("{beside}\necho $!"))?;
    let (mut slowest, mut quickest) = (Duration::ZERO, Duration::MAX);
    for n in 0..times {
        let since = Instant::now();
        for (script, is_unload) in [(&load, false), (&unload, true)] {
            let since = Instant::now();
            let output = scene.vm.agent.exec(script, ONCE)?;
            ensure!(output.code == 0, "the {n}th time: {output:?}");
            if is_unload {
                quickest = quickest.min(since.elapsed());
            }
        }
        slowest = slowest.max(since.elapsed());
    }
    println!(
        "reload: {times} times in {:.1?}, the slowest in {slowest:.1?}; the quickest unloading in \
         {quickest:.1?}",
        began.elapsed()
    );
    scene.sh(&format!("[ -z '{0}' ] || kill {0}", started.trim()))?;
    Ok(quickest)
}

/// Every allocation of the thread that sends fails: the reserve serves a while,
/// and afterwards all is as before.
fn no_memory_for_packets(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    let first = scene.newest()? + 1;
    scene.sh("cd /sys/kernel/debug/failslab
         echo Y > task-filter; echo N > ignore-gfp-wait; echo 0 > verbose
         echo 1 > interval; echo -1 > times; echo 0 > space
         pids=$(grep -l '^pr/netcon' /proc/[0-9]*/comm | grep -o '[0-9]*')
         [ -n \"$pids\" ] || exit 1
         for pid in $pids; do echo 1 > /proc/$pid/make-it-fail; done
         echo 100 > probability")?;
    // These records are few enough for any reserve.
    scene
        .vm
        .agent
        .log(&Burst::new(20, scene.seed, "lean"), SOON)?;
    scene.logger.wait_for("lean 19 ", SOON)?;
    scene.all_has_arrived(first)?;
    // These are too many for it: some are lost, but the machine lives.
    scene
        .vm
        .agent
        .log(&Burst::new(2000, scene.seed, "famine"), SOON)?;
    scene.sh("echo 0 > /sys/kernel/debug/failslab/probability")?;
    let said = scene.vm.serial.len();
    scene.log("plenty again")?;
    scene.vm.serial.wait_for("plenty again", said, SOON)?;
    scene.logger.wait_for("plenty again", SOON)?;
    let first = scene.newest()?;
    scene
        .vm
        .agent
        .log(&Burst::new(200, scene.seed, "plenty"), SOON)?;
    scene.all_has_arrived(first)?;
    let collector = scene.logger.lock();
    let famine = (0..2000).filter(|n| collector.find(&format!("famine {n} ")).is_some());
    println!(
        "no_memory_for_packets: {} of 2000 records arrived all the same",
        famine.count()
    );
    drop(collector);
    scene.unload_and_settle()
}
