// SPDX-License-Identifier: GPL-2.0

//! printk's thread for our console, when it does not run.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::Kind;
use nctest::collector::contains;
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest_guest::Burst;

use super::gaps::numbered;
use super::{kmsg, load_acked, respond, sleep_ms, target, unload_one};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("stuck_printer", with_second_card, stuck_printer),
        trial_with(
            "stuck_printer_in_an_emergency",
            with_second_card,
            stuck_printer_in_an_emergency,
        ),
        trial("asked_for_before_it_is_sent", asked_for_before_it_is_sent),
    ]
}

fn with_second_card(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::E1000);
    Ok(())
}

/// Holds the thread, in kernels with KUnit.
const SWITCH: &str = "/sys/module/netconsole_ext/parameters/debug_stop_printer";

/// Makes devices log records with a dictionary.
const DEVICES_SPEAK: &str = "cd /sys/bus/pci/drivers/e1000
     for device in 0000:*; do echo $device > unbind; echo $device > bind; done";

/// printk's thread for the console does not run: the records go out all the
/// same, soon, in order, and are not sent again when it does.
fn stuck_printer(scene: &mut Scene) -> Result<()> {
    scene.load(&target(PORT))?;
    scene.all_has_arrived(0)?;
    for round in 0..3 {
        let first = scene.newest()? + 1;
        let from = scene.logger.lock().arrivals.len();
        scene.sh(&format!("echo 1 > {SWITCH}"))?;
        // The thread is already waiting for a record: it may still send one.
        scene.log(&format!("wakes it up {round}"))?;
        sleep_ms(200);
        let burst = Burst::new(200, scene.seed + round, &format!("stuck {round}"));
        let began = Instant::now();
        scene.vm.agent.log(&burst, SOON)?;
        // The burst includes records of devices, whose dictionaries printk's log does not give
        // to readers by number: a copy must equal the record that was sent first.
        scene.sh(DEVICES_SPEAK)?;
        scene.log(&format!("stuck, the end of {round}"))?;
        let last = scene
            .logger
            .wait_for(&format!("stuck, the end of {round}"), SOON)?;
        let took = began.elapsed();
        let slow = {
            let collector = scene.logger.lock();
            let end = format!("stuck {round} 199 ");
            let at = collector.find(&end).context("the burst")?.at;
            at - began
        };
        println!("stuck_printer: the burst took {slow:.2?}, all {took:.2?}");
        ensure!(slow < Duration::from_secs(3), "{slow:?}");
        scene.sh(&format!("echo 0 > {SWITCH}"))?;
        sleep_ms(1500);
        let collector = scene.logger.lock();
        let order: Vec<_> = collector.arrivals[from..]
            .iter()
            .filter_map(|a| a.seq)
            .collect();
        let sorted = order.windows(2).all(|pair| pair[0] <= pair[1]);
        ensure!(sorted, "out of order: {order:?}");
        let again = collector.duplicates;
        ensure!(again == 0, "{again} records were sent twice");
        drop(collector);
        // All records have come; dictionaries may be missing, as the log is read by number.
        let log = kmsg(scene)?;
        let collector = scene.logger.lock();
        let mut with_dictionary = None;
        for (seq, theirs) in log.range(first..=last) {
            let ours = collector.records.get(seq);
            let ours = &ours.with_context(|| format!("no record {seq}"))?.bytes;
            if contains(theirs, b"\n DEVICE=") {
                with_dictionary = Some(*seq);
            }
            let line = |bytes: &[u8]| {
                let end = bytes.iter().position(|&c| c == b'\n');
                bytes[..end.map_or(bytes.len(), |n| n + 1)].to_vec()
            };
            ensure!(
                line(ours) == line(theirs),
                "{} instead of {}",
                ours.escape_ascii(),
                theirs.escape_ascii()
            );
        }
        drop(collector);
        // A record that is asked for comes unchanged; the collector compares.
        let asked = with_dictionary.context("no record with a dictionary")?;
        respond(scene, PORT, format!("nca {asked}").as_bytes())?;
        scene.logger.wait(SOON, "it again", |collector| {
            (collector.records[&asked].copies == 2).then_some(())
        })?;
        let errors = scene.logger.lock().errors.clone();
        ensure!(errors.is_empty(), "{errors:?}");
        // The next round counts from here.
        scene.logger = nctest::logger::Logger::attach(scene.wire(), PORT);
    }
    stuck_in_a_burst(scene)?;
    scene.log("printed as ever")?;
    scene.logger.wait_for("printed as ever", SOON)?;
    scene.unload_and_settle()
}

/// A burst has more records than may be sent at once.
fn stuck_in_a_burst(scene: &mut Scene) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    scene.sh(&format!("echo 1 > {SWITCH}"))?;
    scene.log("wakes it up at last")?;
    sleep_ms(200);
    let burst = Burst::new(5_000, scene.seed, "stuck long");
    let began = Instant::now();
    scene.vm.agent.log(&burst, SOON)?;
    let end = scene.logger.wait_for("stuck long 4999 ", SOON * 2);
    let took = began.elapsed();
    // The thread has to run again, also if the wait has failed.
    scene.sh(&format!("echo 0 > {SWITCH}"))?;
    let last = end?;
    println!("stuck_printer: 5,000 records took {took:.2?}");
    ensure!(took < LIMIT, "5,000 records took {took:?}");
    sleep_ms(1500);
    let collector = scene.logger.lock();
    let sorted = collector.order.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(sorted, "out of order: {:?}", collector.order);
    let again = collector.duplicates;
    ensure!(again == 0, "{again} records were sent twice");
    drop(collector);
    let log: Vec<_> = kmsg(scene)?.into_values().collect();
    scene.logger.assert_equal(&log, last - 4_999..=last)?;
    Ok(())
}

/// The log host falls silent while the thread does not run: records that come in the emergency, and
/// those that are asked for, are byte for byte as they came first.
fn stuck_printer_in_an_emergency(scene: &mut Scene) -> Result<()> {
    let parameters = "ack_timeout_ms=1000 emg_min_intv_ms=10 push_after_ms=300";
    let peer = load_acked(scene, Kind::Session, parameters)?;
    sleep_ms(500);
    scene.sh(&format!("echo 1 > {SWITCH}"))?;
    scene.log("wakes it up")?;
    let seq = peer.logger.wait_for("wakes it up", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    sleep_ms(500);
    peer.set_silent(true);
    let first = peer.with(|acker| acker.contiguous()).context("no ack")? + 1;
    let burst = Burst::new(60, scene.seed, "unacked").with_long(10);
    scene.vm.agent.log(&burst, SOON)?;
    scene.sh(DEVICES_SPEAK)?;
    scene.log("the last unacked one")?;
    let last = peer.logger.wait_for("the last unacked one", SOON)?;
    peer.logger
        .wait(SOON, "two emergency copies of each", |collector| {
            let mut records = collector.records.range(first..=last);
            let all = records.clone().count() as u64 == last - first + 1;
            let twice = records.all(|(_, record)| record.copies >= 3 && record.emergencies >= 2);
            (all && twice).then_some(())
        })?;
    let trailer = peer.with(|acker| acker.trailer());
    respond(
        scene,
        PORT,
        format!("nca {first}-{last}{trailer}").as_bytes(),
    )?;
    // The thread runs again: it sends no record that has been sent.
    scene.sh(&format!("echo 0 > {SWITCH}"))?;
    peer.set_silent(false);
    scene.log("printed as ever")?;
    let end = peer.logger.wait_for("printed as ever", SOON)?;
    peer.wait_for_all(end, SOON)?;
    sleep_ms(1500);
    let collector = peer.logger.lock();
    // The collector compares each copy with the first.
    ensure!(collector.errors.is_empty(), "{:?}", collector.errors);
    let order: Vec<_> = collector
        .order
        .iter()
        .filter(|seq| **seq >= first)
        .collect();
    let sorted = order.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(sorted, "out of order: {order:?}");
    drop(collector);
    let log: Vec<_> = numbered(&kmsg(scene)?, ";unacked ").into_iter().collect();
    ensure!(log.len() == 60, "{log:?}");
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    peer.logger.assert_equal(&all, log[0]..=log[59])?;
    let counters = unload_one(scene)?;
    ensure!(counters.get("lost")? == 0, "{counters:?}");
    scene.vm.settle()
}

/// A log host asks for records that wait for printk's thread, as one does that has seen a later
/// one: all later copies equal the first answer.
fn asked_for_before_it_is_sent(scene: &mut Scene) -> Result<()> {
    // Records that a device has logged have a dictionary.
    let log = kmsg(scene)?;
    let dictionaries = log.values().filter(|r| contains(r, b"\n DEVICE="));
    ensure!(dictionaries.count() > 0, "no record with a dictionary");
    scene.load_with(&target(PORT), "debug_stop_printer=1 push_after_ms=60000")?;
    let last = scene.newest()?;
    sleep_ms(1000);
    for _ in 0..3 {
        respond(scene, PORT, format!("nca 1-{last}").as_bytes())?;
        sleep_ms(300);
    }
    let early = scene.logger.lock().order.len();
    scene.sh(&format!("echo 0 > {SWITCH}"))?;
    scene.log("printed as ever")?;
    scene.logger.wait_for("printed as ever", SOON)?;
    respond(scene, PORT, format!("nca 1-{last}").as_bytes())?;
    sleep_ms(1000);
    let collector = scene.logger.lock();
    println!("asked_for_before_it_is_sent: {early} came early");
    let errors = &collector.errors;
    ensure!(errors.is_empty(), "{} of {last}: {errors:?}", errors.len());
    let missing = (0..=last).find(|seq| !collector.records.contains_key(seq));
    ensure!(missing.is_none(), "no record {missing:?}");
    drop(collector);
    scene.unload_and_settle()
}
