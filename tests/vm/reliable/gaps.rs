// SPDX-License-Identifier: GPL-2.0

//! Numbers without a record: hidden by the log level, or gone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use libtest_mimic::Trial;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::collector::contains;
use nctest_guest::Burst;

use super::{emergencies, kmsg, peer, respond, sleep_ms, target, unload};
use crate::scene::{trial, Scene, PORT, SOON};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("hidden_records", hidden_records),
        trial("ring_too_small", ring_too_small),
    ]
}

/// A plain log host and one that knows sessions, each with its target, after
/// both have acknowledged something.
fn two_peers(scene: &mut Scene, parameters: &str) -> Result<(AckingLogger, AckingLogger)> {
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
fn numbered(log: &std::collections::BTreeMap<u64, Vec<u8>>, text: &str) -> BTreeSet<u64> {
    let found = log
        .iter()
        .filter(|(_, record)| contains(record, text.as_bytes()));
    found.map(|(seq, _)| *seq).collect()
}

/// The console does not show debug records: no log host waits for them, they
/// are no reason for an emergency, and they are sent to whom asks for them.
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
    // Longer than an emergency would take, and than the check for gaps.
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
    // The plain one has asked for the gaps, and has got them in full.
    let all: Vec<_> = log.values().cloned().collect();
    plain.logger.assert_equal(&all, ..=last)?;
    // The other was told, or has asked if it saw the gap before that.
    let (skipped, requested) =
        session.with(|acker| (acker.skipped.clone(), acker.requested.clone()));
    let sent: BTreeSet<u64> = session.logger.lock().records.keys().copied().collect();
    let sent: BTreeSet<u64> = sent.intersection(&hidden).copied().collect();
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
    // And gets it in full when it wants to know.
    let mut unseen = hidden.iter().filter(|seq| !sent.contains(seq));
    let curious = *unseen.next().context("all hidden ones were asked for")?;
    let trailer = session.with(|acker| acker.trailer());
    respond(
        scene,
        PORT + 1,
        format!("ncrx{last} {curious}{trailer}").as_bytes(),
    )?;
    let bytes = session
        .logger
        .wait(SOON, "the hidden record", |collector| {
            Some(collector.records.get(&curious)?.bytes.clone())
        })?;
    ensure!(bytes == log[&curious], "{}", bytes.escape_ascii());
    // The marks of the tail come with the next record.
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

/// The ring is much too small for an outage, and printk's log is cleared in the
/// middle of it: what is gone is said to be lost, what is not is sent, and
/// never a wrong record under a number.
fn ring_too_small(scene: &mut Scene) -> Result<()> {
    let (plain, session) = two_peers(scene, "log_buf_kb=16")?;
    scene.wire().cut();
    let limit = Duration::from_secs(60);
    let cleared = Burst::new(1500, scene.seed, "cleared");
    scene.vm.agent.log(&cleared, limit)?;
    scene.sh("dmesg -c > /dev/null")?;
    let kept = Burst::new(1500, scene.seed + 1, "kept");
    scene.vm.agent.log(&kept, limit)?;
    scene.wire().restore();
    scene.log("the wire is back")?;
    let mut last = 0;
    for peer in [&plain, &session] {
        last = peer.logger.wait_for("the wire is back", SOON)?;
        peer.wait_for_all(last, limit)?;
    }
    // /dev/kmsg still has what `dmesg -c` has cleared.
    let log = kmsg(scene)?;
    let all: Vec<_> = log.values().cloned().collect();
    let (cleared, kept) = (numbered(&log, ";cleared "), numbered(&log, ";kept "));
    ensure!((cleared.len(), kept.len()) == (1500, 1500));

    let lost = session.with(|acker| acker.lost.clone());
    let collector = session.logger.lock();
    let comparison = collector.compare(&all, ..=last);
    ensure!(comparison.different.is_empty(), "{}", comparison.describe());
    for seq in &comparison.missing {
        ensure!(lost.contains(*seq), "record {seq} is missing and not lost");
    }
    let wrong = kept.iter().filter(|seq| lost.contains(**seq)).count();
    ensure!(
        wrong == 0,
        "{wrong} records were in printk's log all the time"
    );
    ensure!(lost.count() > 0, "nothing was lost: a poor test");
    ensure!(collector.errors.is_empty(), "{:?}", collector.errors);
    println!(
        "ring_too_small: {} of 1500 cleared records are lost",
        lost.count()
    );
    drop(collector);

    let collector = plain.logger.lock();
    let comparison = collector.compare(&all, ..=last);
    ensure!(comparison.missing.is_empty(), "{}", comparison.describe());
    for (seq, _, ours) in &comparison.different {
        let says_so = contains(ours, b"lost") && cleared.contains(seq);
        ensure!(says_so, "record {seq}: {}", ours.escape_ascii());
    }
    ensure!(!comparison.different.is_empty(), "nothing was replaced");
    ensure!(collector.errors.is_empty(), "{:?}", collector.errors);
    drop(collector);

    // The stream goes on.
    let next = Burst::new(500, scene.seed + 2, "after");
    scene.vm.agent.log(&next, limit)?;
    scene.log("the end")?;
    for peer in [&plain, &session] {
        let seq = peer.logger.wait_for("the end", SOON)?;
        peer.wait_for_all(seq, SOON)?;
        let all: Vec<_> = kmsg(scene)?.into_values().collect();
        peer.logger.assert_equal(&all, last + 1..=seq)?;
    }
    for counters in unload(scene)? {
        ensure!(counters.get("lost")? > 0, "{counters:?}");
    }
    scene.vm.settle()
}
