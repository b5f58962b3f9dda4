// SPDX-License-Identifier: GPL-2.0

//! Everything arrives, whatever the wire does.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use libtest_mimic::Trial;
use nctest::accel::Accel;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::wire::faults::Faults;
use nctest_guest::Burst;

use super::{arrived, emergencies, kmsg, peer, set_faults, target, unload};
use crate::scene::{trial, Scene, PORT, SOON};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("lossy_nca", |scene| lossy(scene, Kind::Nca)),
        trial("lossy_ncrx", |scene| lossy(scene, Kind::Ncrx)),
        trial("lossy_session", |scene| lossy(scene, Kind::Session)),
        trial("outage_plain", |scene| {
            outage(scene, &[Kind::Nca, Kind::Ncrx])
        }),
        trial("outage_ranges", |scene| outage(scene, &[Kind::Session])),
        trial("ncrx_that_only_asks", ncrx_that_only_asks),
    ]
}

/// One square of the matrix: how many records, and what the wire does to them.
#[derive(Debug, Clone, Copy)]
struct Cell {
    records: u64,
    loss: f64,
    /// With reordering and duplication as well?
    shuffled: bool,
}

/// What is tried with each kind of log host.
fn cells() -> impl Iterator<Item = Cell> {
    let of = |loss| {
        [false, true].map(|shuffled| Cell {
            records: if loss > 0.8 { 2_000 } else { 20_000 },
            loss,
            shuffled,
        })
    };
    [0.0, 0.1, 0.5, 0.9].into_iter().flat_map(of)
}

/// Random loss in both directions: all arrive, byte for byte, none twice.
fn lossy(scene: &mut Scene, kind: Kind) -> Result<()> {
    let peer = peer(scene, PORT, Config::new(kind))?;
    scene.load_with(&target(PORT), "ack_timeout_ms=2000")?;
    let mut last = 0;
    for (n, cell) in cells().enumerate() {
        last = lossy_cell(scene, &peer, n, cell, kind)
            .with_context(|| format!("{cell:?}, square {n}"))?;
    }
    let kmsg = kmsg(scene)?;
    let all: Vec<_> = kmsg.values().cloned().collect();
    let equal = peer.logger.assert_equal(&all, ..=last)?;
    println!("lossy: {kind:?}: {equal} records are equal byte for byte");
    {
        let collector = peer.logger.lock();
        let mut invented = collector
            .records
            .keys()
            .filter(|seq| !kmsg.contains_key(seq));
        ensure!(
            invented.next().is_none(),
            "records that the log does not have"
        );
        let session = peer.with(|acker| acker.session().map(str::to_string));
        for (seq, key, value) in &collector.transport {
            let right = kind == Kind::Session
                && match key.as_str() {
                    "ncs" => Some(value) == session.as_ref(),
                    // Nothing is hidden or lost in this trial.
                    _ => false,
                };
            ensure!(right, "{key}={value} on record {seq} to a {kind:?}");
        }
        ensure!(session.is_some() == (kind == Kind::Session), "{session:?}");
    }
    no_complaints(&peer)?;
    for counters in unload(scene)? {
        ensure!(
            counters.get("lost")? == 0,
            "records were lost: {counters:?}"
        );
    }
    scene.vm.settle()
}

/// Log a burst through the faults and wait until all of it is there; the number
/// of its last record.
fn lossy_cell(
    scene: &mut Scene,
    peer: &AckingLogger,
    n: usize,
    cell: Cell,
    kind: Kind,
) -> Result<u64> {
    let Cell {
        records,
        loss,
        shuffled,
    } = cell;
    let shuffle = if shuffled { 0.1 } else { 0.0 };
    let limit = Duration::from_secs(if loss > 0.8 { 600 } else { 240 });
    peer.with(|acker| acker.config = Config::for_loss(kind, loss));
    let (sent, came) = (scene.wire().stats().from_guest, arrived(peer));
    let responses = peer.with(|acker| acker.responses);
    set_faults(
        scene,
        Faults {
            loss,
            reorder: shuffle,
            duplicate: shuffle,
            ..Faults::default()
        },
    );
    let began = Instant::now();
    let seed = scene.seed.wrapping_add(n as u64);
    let burst = Burst::new(records, seed, &format!("lossy {n}"));
    let written = scene.vm.agent.log(&burst, limit)?;
    ensure!(written.written == records, "{written:?}");
    let marker = format!("the end of burst {n}");
    scene.log(&marker)?;
    let last = peer.logger.wait_for(&marker, limit)?;
    peer.wait_for_all(last, limit)?;
    let took = began.elapsed();
    set_faults(scene, Faults::default());
    let sent = scene.wire().stats().from_guest - sent;
    println!(
        "lossy: {kind:?}, loss {loss}, shuffled {shuffled}: {records} records (logged in {:.1?}) \
         were there after {took:.1?}; {sent} frames sent ({:.2} a record), {} datagrams came, {} \
         of them emergency ones; {} responses; seed {}",
        written.took,
        sent as f64 / records as f64,
        arrived(peer) - came,
        emergencies(peer, came),
        peer.with(|acker| acker.responses) - responses,
        scene.seed
    );
    Ok(last)
}

fn no_complaints(peer: &AckingLogger) -> Result<()> {
    peer.with(|acker| {
        let complaints = &acker.complaints;
        ensure!(complaints.is_empty(), "{complaints:?}");
        Ok(())
    })
}

/// The wire is cut for 30 s while 5,000 records are logged. After its return
/// all arrive, to each of the log hosts.
fn outage(scene: &mut Scene, kinds: &[Kind]) -> Result<()> {
    const CUT: Duration = Duration::from_secs(30);
    let (mut peers, mut targets, said) = (Vec::new(), Vec::new(), scene.vm.serial.len());
    for (n, &kind) in (0..).zip(kinds) {
        peers.push(peer(scene, PORT + n, Config::new(kind))?);
        targets.push(target(PORT + n));
    }
    scene.load(&targets.join(";"))?;
    for n in 0..kinds.len() {
        let line = format!("cmdline{n}: ACK timeout enabled");
        scene.vm.serial.wait_for(&line, said, SOON)?;
    }
    scene.log("before the outage")?;
    for peer in &peers {
        let seq = peer.logger.wait_for("before the outage", SOON)?;
        peer.wait_for_all(seq, SOON)?;
    }
    let before: Vec<_> = peers.iter().map(arrived).collect();

    scene.wire().cut();
    let cut = Instant::now();
    let burst = Burst::new(5_000, scene.seed, "outage");
    scene.vm.agent.log(&burst, Duration::from_secs(60))?;
    let mut last = scene.newest()?;
    std::thread::sleep(CUT.saturating_sub(cut.elapsed()));
    scene.wire().restore();
    let back = Instant::now();
    // A plain log host does not know how much there is until a new record
    // comes; the one that knows ranges asks ahead after an emergency datagram.
    if !kinds.contains(&Kind::Session) {
        scene.log("the wire is back")?;
        last = peers[0].logger.wait_for("the wire is back", SOON)?;
    }
    for (n, (peer, kind)) in peers.iter().zip(kinds).enumerate() {
        peer.wait_for_all(last, Duration::from_secs(120))?;
        let collector = peer.logger.lock();
        let fresh = collector.records.range(..=last);
        let at = fresh.map(|(_, record)| record.at).max().context("none")?;
        let took = at.saturating_duration_since(back);
        let datagrams = collector.arrivals.len() - before[n];
        drop(collector);
        let marked = emergencies(peer, before[n]);
        println!(
            "outage: {kind:?}: all was there {took:.2?} after the wire's return, in {datagrams} \
             datagrams, {marked} of them emergency ones; seed {}",
            scene.seed
        );
        ensure!(marked > 0, "no emergency datagrams to {kind:?}");
        if *kind == Kind::Session {
            // An emulated processor takes its time.
            let slow = Accel::detect() == Accel::Tcg;
            let limit = Duration::from_secs(if slow { 10 } else { 2 });
            ensure!(took < limit, "{took:?} after the wire's return");
        }
        let line = format!("cmdline{n}: emergency transmission ended, ");
        scene.vm.serial.wait_for(&line, said, SOON)?;
        no_complaints(peer)?;
    }
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    for peer in &peers {
        peer.logger.assert_equal(&all, ..=last)?;
    }
    for counters in unload(scene)? {
        ensure!(counters.get("emergency")? > 0, "{counters:?}");
        ensure!(counters.get("lost")? == 0, "{counters:?}");
    }
    scene.vm.settle()
}

/// libncrx as it is by default says how far it is only when it asks for
/// something. It gets all that it asks for, and no acks are expected of it.
fn ncrx_that_only_asks(scene: &mut Scene) -> Result<()> {
    let peer = peer(scene, PORT, Config::new(Kind::NcrxOnRequest))?;
    scene.load_with(&target(PORT), "ack_timeout_ms=1000")?;
    let faults = Faults {
        loss: 0.3,
        ..Faults::default()
    };
    set_faults(scene, faults);
    let burst = Burst::new(2_000, scene.seed, "asked for");
    scene.vm.agent.log(&burst, Duration::from_secs(60))?;
    set_faults(scene, Faults::default());
    scene.log("the end of the burst")?;
    let last = peer.logger.wait_for("the end of the burst", SOON)?;
    peer.wait_for_all(last, Duration::from_secs(60))?;
    // Long enough for an emergency, if there were acks.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(emergencies(&peer, 0) == 0, "an emergency without acks");
    let log = scene.sh("dmesg")?;
    ensure!(!log.contains("ACK timeout enabled"), "acks were turned on");
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    peer.logger.assert_equal(&all, ..=last)?;
    scene.unload_and_settle()
}
