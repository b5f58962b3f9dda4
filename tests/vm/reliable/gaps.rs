// SPDX-License-Identifier: GPL-2.0

//! Numbers without a record, hidden by the log level.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::collector::contains;
use nctest::record::parse;
use nctest::wire::faults::Faults;
use nctest_guest::Burst;

use super::{emergencies, kmsg, peer, respond, set_faults, sleep_ms, target, unload};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("hidden_records", hidden_records),
        trial("history_is_not_hidden", history_is_not_hidden),
        trial("history_of_a_stuck_printer", history_of_a_stuck_printer),
    ]
}

/// A plain log host and one that knows sessions, each with its target, after
/// both have acknowledged something.
pub(super) fn two_peers(
    scene: &mut Scene,
    parameters: &str,
) -> Result<(AckingLogger, AckingLogger)> {
    let plain = peer(scene, PORT, Config::new(Kind::Nca))?;
    let session = peer(scene, PORT + 1, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    let targets = format!("{};{}", target(PORT), target(PORT + 1));
    scene.load_with(&targets, parameters)?;
    for n in 0..2 {
        let line = format!("cmdline{n}: ACK timeout enabled");
        scene.vm.serial.wait_for(&line, said, SOON)?;
    }
    scene.log("both answer")?;
    for peer in [&plain, &session] {
        let seq = peer.logger.wait_for("both answer", SOON)?;
        peer.wait_for_all(seq, SOON)?;
    }
    Ok((plain, session))
}

/// The numbers of the records with `text`.
pub(super) fn numbered(log: &BTreeMap<u64, Vec<u8>>, text: &str) -> BTreeSet<u64> {
    let found = log
        .iter()
        .filter(|(_, record)| contains(record, text.as_bytes()));
    found.map(|(seq, _)| *seq).collect()
}

/// Returns those of the `hidden` records that a log host with a session has got, which it must have
/// asked for because it saw the gap before the mark. All others must be marked, and none that was
/// `shown`.
fn marked_or_asked_for(
    session: &AckingLogger,
    hidden: &BTreeSet<u64>,
    shown: &BTreeSet<u64>,
) -> Result<BTreeSet<u64>> {
    let (skipped, requested) =
        session.with(|acker| (acker.skipped.clone(), acker.requested.clone()));
    let sent: BTreeSet<u64> = session.logger.lock().records.keys().copied().collect();
    let sent: BTreeSet<u64> = sent.intersection(hidden).copied().collect();
    println!(
        "hidden_records: {} of 200 were asked for before the mark came",
        sent.len()
    );
    ensure!(
        sent.iter().all(|seq| requested.contains(*seq)),
        "hidden records were sent to whom had not asked"
    );
    ensure!(
        hidden
            .iter()
            .all(|seq| skipped.contains(*seq) || sent.contains(seq)),
        "neither sent nor marked"
    );
    ensure!(
        shown.iter().all(|seq| !skipped.contains(*seq)),
        "a record that was shown is marked as hidden"
    );
    Ok(sent)
}

/// The console does not show debug records: no log host waits for them, they cause no emergency,
/// and they are sent to a log host that asks for them.
fn hidden_records(scene: &mut Scene) -> Result<()> {
    let (plain, session) = two_peers(scene, "ack_timeout_ms=2000")?;
    scene.sh("dmesg -n 4
         for i in $(seq 200); do
             echo \"<7>hidden $i\" > /dev/kmsg
             echo \"<3>shown $i\" > /dev/kmsg
         done
         for i in $(seq 50); do echo \"<7>tail $i\" > /dev/kmsg; done")?;
    let log = kmsg(scene)?;
    let (hidden, shown) = (numbered(&log, ";hidden "), numbered(&log, ";shown "));
    let tail = numbered(&log, ";tail ");
    ensure!((hidden.len(), shown.len(), tail.len()) == (200, 200, 50));
    let last = *shown.last().context("none shown")?;
    // This is longer than an emergency would take, and than the check for gaps.
    sleep_ms(7000);
    for peer in [&plain, &session] {
        peer.wait_for_all(last, SOON)?;
        let missing = peer.with(|acker| acker.missing().count());
        ensure!(missing == 0, "{missing} numbers are still waited for");
        ensure!(emergencies(peer, 0) == 0, "an emergency for hidden records");
        let collector = peer.logger.lock();
        ensure!(shown.iter().all(|seq| collector.records.contains_key(seq)));
        let early = tail
            .iter()
            .filter(|seq| collector.records.contains_key(seq));
        let early = early.count();
        ensure!(early == 0, "{early} hidden records at the end were sent");
    }
    // The log's end is marked although no record has come after it.
    session.wait(SOON, "the mark of the log's end", |acker| {
        tail.iter().all(|seq| acker.skipped.contains(*seq))
    })?;
    let told = session.logger.lock().records.keys().last().copied();
    ensure!(told == Some(last), "record {told:?} came after {last}");
    // The plain log host has asked for the gaps, and has got them in full.
    let all: Vec<_> = log.values().cloned().collect();
    plain.logger.assert_equal(&all, ..=last)?;
    let sent = marked_or_asked_for(&session, &hidden, &shown)?;
    // It gets hidden records in full when it asks for them.
    let mut unseen = hidden.difference(&sent);
    let curious = *unseen.next().context("all hidden ones were asked for")?;
    let trailer = session.with(|acker| acker.trailer());
    let response = format!("ncrx{last} {curious}{trailer}");
    respond(scene, PORT + 1, response.as_bytes())?;
    let bytes = session
        .logger
        .wait(SOON, "the hidden record", |collector| {
            Some(collector.records.get(&curious)?.bytes.clone())
        })?;
    ensure!(bytes == log[&curious], "{}", bytes.escape_ascii());
    // A mark counts until there are records again.
    scene.sh("dmesg -n 8")?;
    scene.log("shown again")?;
    for peer in [&plain, &session] {
        let seq = peer.logger.wait_for("shown again", SOON)?;
        peer.wait_for_all(seq, SOON)?;
        peer.with(|acker| {
            let complaints = &acker.complaints;
            ensure!(complaints.is_empty(), "{complaints:?}");
            Ok(())
        })?;
    }
    for counters in unload(scene)? {
        ensure!(counters.get("emergency")? == 0, "{counters:?}");
        ensure!(counters.get("lost")? == 0, "{counters:?}");
    }
    scene.vm.settle()
}

/// A long history waits to be sent when the module is loaded, on a wire that loses some of it, to a
/// log host that answers before its end has been sent: records that are yet to come are not marked
/// as hidden.
fn history_is_not_hidden(scene: &mut Scene) -> Result<()> {
    const HIDDEN: u8 = 7;
    for (n, count, prio) in [(0, 9_900, 6), (1, 200, HIDDEN), (2, 9_900, 6)] {
        let prefix = format!("history {n}");
        let burst = Burst::new(count, scene.seed + n, &prefix).with_prio(prio);
        scene.vm.agent.log(&burst, Duration::from_secs(120))?;
    }
    scene.sh(&format!("dmesg -n {HIDDEN}"))?;
    let session = peer(scene, PORT, Config::new(Kind::Session))?;
    let lossy = Faults {
        loss: 0.3,
        ..Faults::default()
    };
    set_faults(scene, lossy);
    // Records that are not in the ring come without their dictionary the second time.
    scene.load_with(&target(PORT), "ack_timeout_ms=2000 log_buf_kb=8192")?;
    scene.log("the module is there")?;
    let last = scene.newest()?;
    session.wait_for_all(last, Duration::from_secs(120))?;
    set_faults(scene, Faults::default());
    // This gives time for a last wrong mark.
    sleep_ms(3000);
    let log = kmsg(scene)?;
    let mut visible = BTreeMap::new();
    for (seq, record) in &log {
        let header = parse(record).map_err(anyhow::Error::msg)?.header;
        let prio: u8 = header.split(',').next().unwrap_or_default().parse()?;
        if prio % 8 < HIDDEN {
            visible.insert(*seq, record.clone());
        }
    }
    let skipped = session.with(|acker| acker.skipped.clone());
    let wrong: Vec<_> = visible
        .keys()
        .filter(|seq| skipped.contains(**seq))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} records that were shown are marked as hidden, the first: {:?}; seed {}",
        wrong.len(),
        wrong[0],
        scene.seed
    );
    let all: Vec<_> = visible.into_values().collect();
    let equal = session.logger.assert_equal(&all, ..=last)?;
    println!(
        "history_is_not_hidden: {equal} records arrived, {} were marked as hidden; seed {}",
        skipped.count(),
        scene.seed
    );
    let lost = session.with(|acker| acker.lost.count());
    ensure!(lost == 0, "{lost} records are said to be lost");
    scene.unload_and_settle()
}

/// The same where printk's thread does not run at all, so that the history is sent bit by bit,
/// while nothing new is logged.
fn history_of_a_stuck_printer(scene: &mut Scene) -> Result<()> {
    let burst = Burst::new(1_500, scene.seed, "history");
    scene.vm.agent.log(&burst, SOON)?;
    let session = peer(scene, PORT, Config::new(Kind::Session))?;
    scene.load_with(&target(PORT), "debug_stop_printer=1")?;
    scene.log("the module is there")?;
    let end = scene.newest()?;
    session.wait_for_all(end, SOON)?;
    let log = kmsg(scene)?;
    let history = numbered(&log, ";history ");
    ensure!(history.len() == 1_500, "{} records", history.len());
    let skipped = session.with(|acker| acker.skipped.clone());
    let wrong = history.iter().filter(|seq| skipped.contains(**seq)).count();
    ensure!(
        wrong == 0 && skipped.is_empty(),
        "{} records are marked as hidden, {wrong} of them pending; none was",
        skipped.count()
    );
    let collector = session.logger.lock();
    let missing = history
        .iter()
        .filter(|seq| !collector.records.contains_key(seq));
    ensure!(missing.count() == 0, "not all has arrived");
    let errors = collector.errors.clone();
    ensure!(errors.is_empty(), "{errors:?}");
    drop(collector);
    scene.sh("echo 0 > /sys/module/netconsole_ext/parameters/debug_stop_printer")?;
    scene.unload_and_settle()
}
