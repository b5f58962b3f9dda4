// SPDX-License-Identifier: GPL-2.0

//! Lossy wires: loss, reordering, copies, corrupted frames, outages; everything arrives.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::accel::Accel;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::collector::{contains, Collector};
use nctest::wire::faults::Faults;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use crate::reliable::{
    arrived, console_lines, emergencies, kmsg, peer, set_faults, target, target_of, unload,
};
use crate::scene::{Scene, HOST, HOST6, HOST_MAC, HOST_MAC_TEXT, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("nca", |scene| lossy(scene, Kind::Nca)),
        trial("ncrx", |scene| lossy(scene, Kind::Ncrx)),
        trial("session", |scene| lossy(scene, Kind::Session)),
        trial("outage_plain", |scene| {
            outage(scene, &[Kind::Nca, Kind::Ncrx])
        }),
        trial("outage_ranges", |scene| outage(scene, &[Kind::Session])),
        trial("ncrx_that_only_asks", ncrx_that_only_asks),
        trial("corrupted", corrupted),
        trial("ipv6", |scene| lossy_ipv6(scene, HOST6)),
        trial("link_local", |scene| lossy_ipv6(scene, "fe80::1")),
    ]
}

/// Numbers from a first to a last one.
type Range = std::ops::RangeInclusive<u64>;

/// One cell of the matrix: the number of records, and the wire's faults.
#[derive(Debug, Clone, Copy)]
struct Cell {
    records: u64,
    loss: f64,
    /// The share of frames in which a bit is flipped.
    corrupt: f64,
    /// Whether frames are reordered and duplicated, too.
    shuffled: bool,
}

impl Cell {
    /// Returns whether no frame is hit by a fault.
    fn is_calm(&self) -> bool {
        self.loss + self.corrupt == 0.0 && !self.shuffled
    }
}

/// One record in this number has several fragments.
const LONG_EVERY: u64 = 50;

/// Returns the wires that are tried with each kind of log host.
fn cells() -> impl Iterator<Item = Cell> {
    let of = |loss| {
        [false, true].map(|shuffled| Cell {
            records: if loss > 0.8 { 2_000 } else { 20_000 },
            loss,
            corrupt: 0.0,
            shuffled,
        })
    };
    [0.0, 0.1, 0.5, 0.9].into_iter().flat_map(of)
}

/// Random loss in both directions: all arrive, byte for byte, none twice.
fn lossy(scene: &mut Scene, kind: Kind) -> Result<()> {
    let peer = peer(scene, PORT, Config::new(kind))?;
    scene.load_with(&target(PORT), "ack_timeout_ms=2000")?;
    scene.log("before all bursts")?;
    let mut last = peer.logger.wait_for("before all bursts", SOON)?;
    peer.wait_for_all(last, SOON)?;
    for (n, cell) in cells().enumerate() {
        last = lossy_cell(scene, &peer, n, cell, kind, last + 1)
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

/// A bit is flipped in every fifth frame, both ways: neither end accepts a damaged frame, and all
/// records arrive.
fn corrupted(scene: &mut Scene) -> Result<()> {
    let peer = peer(scene, PORT, Config::new(Kind::Session))?;
    // ARP has no checksum: its answers cannot be trusted in such a network.
    let target = format!("+@/eth0,{PORT}@{HOST}/{HOST_MAC_TEXT}");
    scene.load_with(&target, "ack_timeout_ms=2000")?;
    scene.log("before it all")?;
    let first = peer.logger.wait_for("before it all", SOON)?;
    peer.wait_for_all(first, SOON)?;
    let cell = Cell {
        records: 5_000,
        loss: 0.0,
        corrupt: 0.2,
        shuffled: false,
    };
    let last = lossy_cell(scene, &peer, 0, cell, Kind::Session, first + 1)?;
    let kmsg = scene.vm.agent.kmsg()?;
    peer.logger.assert_equal(&kmsg.records, first..=last)?;
    no_complaints(&peer)?;
    let malformed = peer.logger.lock().errors.clone();
    ensure!(malformed.is_empty(), "{malformed:?}");
    let damaged = scene.wire().stats().corrupted;
    ensure!(
        damaged > cell.records / 6,
        "only {damaged} frames were damaged"
    );
    // The guest has dropped some frames for a wrong checksum.
    let refused = scene.sh("awk '/^Udp:/ { print $8 }' /proc/net/snmp | tail -n 1")?;
    let refused: u64 = refused.trim().parse().context("InCsumErrors")?;
    ensure!(refused > 0, "no damaged response has reached the guest");
    println!("corrupted: {damaged} frames were damaged; the guest has refused {refused} datagrams");
    for counters in unload(scene)? {
        ensure!(counters.get("bad_responses")? == 0, "{counters:?}");
        ensure!(counters.get("lost")? == 0, "{counters:?}");
    }
    scene.vm.settle()
}

/// Half of the frames are lost, both ways, and the others reordered and duplicated: all records
/// arrive.
pub(crate) fn half_lost(scene: &mut Scene) -> Result<()> {
    let peer = peer(scene, PORT, Config::new(Kind::Session))?;
    scene.load_with(&target(PORT), "ack_timeout_ms=2000")?;
    scene.log("before it all")?;
    let first = peer.logger.wait_for("before it all", SOON)?;
    peer.wait_for_all(first, SOON)?;
    let cell = Cell {
        records: 5_000,
        loss: 0.5,
        corrupt: 0.0,
        shuffled: true,
    };
    let last = lossy_cell(scene, &peer, 0, cell, Kind::Session, first + 1)?;
    let kmsg = scene.vm.agent.kmsg()?;
    peer.logger.assert_equal(&kmsg.records, first..=last)?;
    no_complaints(&peer)?;
    for counters in unload(scene)? {
        ensure!(counters.get("lost")? == 0, "{counters:?}");
    }
    scene.vm.settle()
}

/// Logs a burst, its records numbered from `first` on, through the faults, and waits until all of
/// it has arrived; returns the number of its last record.
fn lossy_cell(
    scene: &mut Scene,
    peer: &AckingLogger,
    n: usize,
    cell: Cell,
    kind: Kind,
    first: u64,
) -> Result<u64> {
    let Cell {
        records,
        loss,
        corrupt,
        shuffled,
    } = cell;
    let shuffle = if shuffled { 0.1 } else { 0.0 };
    let limit = Duration::from_secs(if loss > 0.8 { 600 } else { 240 });
    let mut config = Config::for_loss(kind, loss + corrupt);
    if cell.is_calm() {
        // A slow machine must not lead to requests.
        config.ask_after = Duration::from_secs(3);
    }
    peer.configure(config);
    let (sent, came) = (scene.wire().stats().from_guest, arrived(peer));
    let responses = peer.with(|acker| acker.responses);
    set_faults(
        scene,
        Faults {
            loss,
            reorder: shuffle,
            duplicate: shuffle,
            corrupt,
            ..Faults::default()
        },
    );
    let began = Instant::now();
    let seed = scene.seed.wrapping_add(n as u64);
    let burst = Burst::new(records, seed, &format!("lossy {n}")).with_long(LONG_EVERY);
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
        "lossy: {kind:?}, loss {loss}, corrupted {corrupt}, shuffled {shuffled}: {records} records (logged in {:.1?}) \
         were there after {took:.1?}; {sent} frames sent ({:.2} a record), {} datagrams came, {} \
         of them emergency ones; {} responses; seed {}",
        written.took,
        sent as f64 / records as f64,
        arrived(peer) - came,
        emergencies(peer, came),
        peer.with(|acker| acker.responses) - responses,
        scene.seed
    );
    let collector = peer.logger.lock();
    // The module's own records since the last burst went through that burst's faults.
    let text = format!(";{} ", burst.prefix);
    let mut numbers = collector.records.range(first..=last);
    let first = numbers
        .find(|(_, record)| contains(&record.bytes, text.as_bytes()))
        .map_or(first, |(seq, _)| *seq);
    each_text_once(&collector, &burst, first..=last)?;
    if cell.is_calm() {
        nothing_but_the_records(&collector, came, first..=last)?;
        let needed = records + records / LONG_EVERY * 2;
        // Neighbour discovery and keepalives are frames as well.
        ensure!(
            sent <= needed + needed / 100 + 20,
            "{sent} frames for {needed} datagrams"
        );
    }
    if !shuffled {
        drop(collector);
        none_again_unasked(peer, first..=last)?;
    }
    Ok(last)
}

/// Checks that the records in `numbers` with the burst's prefix are its texts, in their order: none
/// is missing, none is there twice, none is under another's number.
fn each_text_once(collector: &Collector, burst: &Burst, numbers: Range) -> Result<()> {
    let start = format!("{} ", burst.prefix);
    let bodies = collector.records.range(numbers).map(|(_, record)| {
        let text = std::str::from_utf8(&record.bytes).unwrap_or_default();
        text.split_once(';').map_or("", |(_, body)| body)
    });
    let mut ours = bodies.filter(|body| body.starts_with(&start));
    for (i, text) in (0..).zip(burst.texts()) {
        let body = ours.next().with_context(|| format!("no {text:?}"))?;
        let right = if burst.is_long(i) {
            // printk shows control bytes escaped, as far as there is room. Near the end of the
            // room it may cut one in its middle and show the next.
            let shown: String = text.bytes().map(shown).collect();
            let body = body.trim_end_matches('\n');
            body.len() > 1900 && shown.starts_with(&body[..body.len() - 4])
        } else {
            body.strip_suffix('\n') == Some(text.as_str())
        };
        ensure!(right, "{body:?} instead of {text:?}");
    }
    let more = ours.next();
    ensure!(more.is_none(), "{more:?} is one too many");
    Ok(())
}

fn shown(byte: u8) -> String {
    match byte {
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

/// On a wire that loses nothing each record comes once, in as few datagrams as it takes; again only
/// if an ack was late, as on a busy machine, and then it is marked.
fn nothing_but_the_records(collector: &Collector, came: usize, numbers: Range) -> Result<()> {
    let mut needed = 0;
    for (seq, record) in collector.records.range(numbers.clone()) {
        // A session's key makes the datagram longer.
        let pieces = match record.bytes.len() {
            0..=950 => 1,
            1900.. => 3,
            len => anyhow::bail!("record {seq} has {len} bytes"),
        };
        let (copies, datagrams) = (record.copies, record.datagrams);
        needed += pieces * copies;
        ensure!(
            (copies, datagrams) == (1 + record.emergencies, pieces),
            "record {seq} came {copies} times, at first in {datagrams} datagrams"
        );
    }
    let arrivals = collector.arrivals[came..].iter();
    let ours = arrivals.filter(|a| a.seq.is_some_and(|seq| numbers.contains(&seq)));
    let ours = ours.count();
    ensure!(ours == needed, "{ours} datagrams instead of {needed}");
    Ok(())
}

/// A record that came whole more than once had been asked for, or is marked.
fn none_again_unasked(peer: &AckingLogger, numbers: Range) -> Result<()> {
    let again: Vec<u64> = {
        let collector = peer.logger.lock();
        let records = collector.records.range(numbers);
        let again = records.filter(|(_, r)| r.copies > 1 && r.emergencies == 0);
        again.map(|(seq, _)| *seq).collect()
    };
    peer.with(|acker| {
        let unasked = again
            .iter()
            .find(|seq| !acker.requested.contains(**seq) && !acker.looked_ahead.contains(**seq));
        ensure!(unasked.is_none(), "{unasked:?} came again unasked");
        Ok(())
    })
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
            let slow = scene.vm.accel == Accel::Tcg;
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
    // An outage is one emergency, also while the backlog is being acknowledged.
    for n in 0..kinds.len() {
        for word in ["started", "ended"] {
            let line = format!("cmdline{n}: emergency transmission {word}, ");
            let times = console_lines(scene, said, &line);
            ensure!(times == 1, "{line:?} is said {times} times");
        }
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

/// The same over IPv6, from an address that fits the log host's.
fn lossy_ipv6(scene: &mut Scene, host: &str) -> Result<()> {
    scene.wire().add_host(Host::new(HOST_MAC, &["fe80::1"]));
    let peer = peer(scene, PORT, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    scene.load_with(&target_of(PORT, host), "ack_timeout_ms=1000")?;
    let line = "cmdline0: ACK timeout enabled for ";
    scene.vm.serial.wait_for(line, said, SOON)?;
    let came = arrived(&peer);
    set_faults(
        scene,
        Faults {
            loss: 0.3,
            ..Faults::default()
        },
    );
    let burst = Burst::new(2_000, scene.seed, "over IPv6").with_long(LONG_EVERY);
    scene.vm.agent.log(&burst, Duration::from_secs(60))?;
    scene.log("the end of the burst")?;
    let last = scene.newest()?;
    peer.wait_for_all(last, Duration::from_secs(60))?;
    // The emergency ones take the same way. Acknowledgements are repeated.
    set_faults(scene, Faults::default());
    std::thread::sleep(Duration::from_secs(2));
    peer.set_silent(true);
    let said = scene.vm.serial.len();
    scene.log("nobody says yes to this")?;
    let unacked = peer.logger.wait_for("nobody says yes to this", SOON)?;
    peer.logger
        .wait(SOON, "an emergency datagram", |collector| {
            (collector.records[&unacked].emergencies > 1).then_some(())
        })?;
    peer.set_silent(false);
    let line = "cmdline0: emergency transmission ended, ";
    scene.vm.serial.wait_for(line, said, SOON)?;
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    peer.logger.assert_equal(&all, ..=last)?;
    let link_local = host.starts_with("fe80:");
    for arrival in &peer.logger.lock().arrivals[came..] {
        let to = format!("[{host}]:{PORT}").parse()?;
        ensure!(arrival.to == to, "{arrival:?}");
        let from = arrival.from.to_string();
        let right = from.starts_with("[fe80:") == link_local && from.ends_with("]:6665");
        ensure!(right, "{arrival:?}");
    }
    no_complaints(&peer)?;
    scene.unload_and_settle()
}
