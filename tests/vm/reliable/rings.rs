// SPDX-License-Identifier: GPL-2.0

//! Records that are not in the module's ring, or not in printk's log either.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Kind};
use nctest::collector::contains;
use nctest_guest::Burst;

use super::gaps::{numbered, two_peers};
use super::{arrived, kmsg, load_acked, respond, sleep_ms, unload, unload_one};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("ring_too_small", ring_too_small),
        trial("no_ring", no_ring),
        trial("ring_left_behind", ring_left_behind),
    ]
}

/// The ring is much too small for an outage, and printk's log is cleared in the middle of it:
/// records that are gone are marked as lost, the others are sent, and no number has a wrong record.
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
    scene.log("the last of all")?;
    for peer in [&plain, &session] {
        let seq = peer.logger.wait_for("the last of all", SOON)?;
        peer.wait_for_all(seq, SOON)?;
        let all: Vec<_> = kmsg(scene)?.into_values().collect();
        let compared = peer.logger.assert_equal(&all, last + 1..=seq);
        compared.with_context(|| format!("records {} to {seq}", last + 1))?;
    }
    for counters in unload(scene)? {
        ensure!(counters.get("lost")? > 0, "{counters:?}");
    }
    scene.vm.settle()
}

/// The numbers of the first emergency datagrams after the first `from` datagrams,
/// once there is one of record `last`.
fn first_round(peer: &AckingLogger, from: usize, last: u64) -> Result<Vec<u64>> {
    let what = format!("an emergency datagram of record {last}");
    peer.logger.wait(SOON, &what, |collector| {
        let marked = collector.arrivals[from..].iter().filter(|a| a.emergency);
        let mut numbers: Vec<_> = marked.filter_map(|a| a.seq).collect();
        // Fragments of one record.
        numbers.dedup();
        let end = numbers.iter().position(|seq| *seq == last)?;
        Some(numbers[..=end].to_vec())
    })
}

/// Checks that an emergency brings all of `count` records that are logged while the log host is
/// silent, in order, from the one after the last that it has acknowledged. Returns the numbers of
/// the burst.
fn emergency_brings_all(
    scene: &mut Scene,
    peer: &AckingLogger,
    count: u64,
) -> Result<std::ops::RangeInclusive<u64>> {
    // The guest has received all responses so far by then.
    sleep_ms(500);
    peer.set_silent(true);
    let acked = peer.with(|acker| acker.contiguous()).context("no ack")?;
    let from = arrived(peer);
    let burst = Burst::new(count, scene.seed, "unacked").with_long(10);
    scene.vm.agent.log(&burst, SOON)?;
    let last = scene.newest()?;
    let round = first_round(peer, from, last)?;
    // The module's own line about the emergency may be in it.
    let all: Vec<u64> = (acked + 1..=last).collect();
    ensure!(
        round == all,
        "the first round is {round:?} instead of {:?}; seed {}",
        acked + 1..=last,
        scene.seed
    );
    peer.set_silent(false);
    peer.wait_for_all(last, SOON)?;
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    // Records that came marked equal those that came first: the collector compares them.
    peer.logger.assert_equal(&all, acked + 1..=last)?;
    Ok(acked + 1..=last)
}

/// Without a ring all is as it should be, from printk's own log.
fn no_ring(scene: &mut Scene) -> Result<()> {
    let parameters = "log_buf_kb=0 ack_timeout_ms=1000 emg_min_intv_ms=10 keepalive_s=0";
    let peer = load_acked(scene, Kind::Session, parameters)?;
    peer.wait(SOON, "a session", |acker| acker.session().is_some())?;
    let burst = emergency_brings_all(scene, &peer, 60)?;
    let ask = |scene: &mut Scene, numbers: &std::ops::RangeInclusive<u64>| {
        let trailer = peer.with(|acker| acker.trailer());
        let (first, last) = (numbers.start(), numbers.end());
        let acked = peer.with(|acker| acker.contiguous()).unwrap_or(0);
        let text = format!("ncrx{acked} {first}-{last}{trailer}");
        respond(scene, PORT, text.as_bytes())
    };
    let copies = |peer: &AckingLogger| -> Vec<usize> {
        let collector = peer.logger.lock();
        let records = collector.records.range(burst.clone());
        records.map(|(_, record)| record.copies).collect()
    };
    let before = copies(&peer);
    // The request is repeated until all have come: the module does not send a record again that
    // is just on its way.
    let until = Instant::now() + SOON;
    while copies(&peer)
        .iter()
        .zip(&before)
        .any(|(now, before)| now <= before)
    {
        ensure!(Instant::now() < until, "not all of {burst:?} came again");
        ask(scene, &burst)?;
        sleep_ms(200);
    }
    // Records that are cleared are gone, and the module says so.
    scene.sh("dmesg -c > /dev/null")?;
    scene.log("the log is cleared")?;
    let seq = peer.logger.wait_for("the log is cleared", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    let before = copies(&peer);
    ask(scene, &burst)?;
    peer.wait(SOON, "that they are lost", |acker| {
        burst.clone().all(|seq| acker.lost.contains(seq))
    })?;
    ensure!(copies(&peer) == before, "records that are gone came again");
    scene.log("all goes on")?;
    let seq = peer.logger.wait_for("all goes on", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    let errors = peer.logger.lock().errors.clone();
    ensure!(errors.is_empty(), "{errors:?}");
    let counters = unload_one(scene)?;
    ensure!(counters.get("lost")? > 0, "{counters:?}");
    scene.vm.settle()
}

/// The unacknowledged records have left a ring that is much too small for them,
/// but printk's log has them all.
fn ring_left_behind(scene: &mut Scene) -> Result<()> {
    let parameters = "log_buf_kb=4 ack_timeout_ms=1000 emg_min_intv_ms=10";
    let peer = load_acked(scene, Kind::Session, parameters)?;
    emergency_brings_all(scene, &peer, 200)?;
    scene.log("all goes on")?;
    let seq = peer.logger.wait_for("all goes on", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    let counters = unload_one(scene)?;
    ensure!(counters.get("lost")? == 0, "{counters:?}");
    scene.vm.settle()
}
