// SPDX-License-Identifier: GPL-2.0

//! Forged responses: by the million, and as fast as the wire takes them, while the guest logs and a
//! log host answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{peer, target};
use crate::scene::{module_name, Scene, GUEST, HOST, PORT, SOON};
use crate::trial::{trial, Trial};
use anyhow::{bail, ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env::full;
use nctest::forger::Forger;

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_million_forged_responses", a_million),
        trial("hostile_network", hostile_network),
    ]
}

/// The datagrams that are sent before waiting for the guest. Its socket has room for these: none is
/// dropped unread.
const BATCH: u64 = 2000;

/// The module with one target, a process in the guest that logs, and a log host that answers.
struct Beside {
    peer: AckingLogger,
    first: u64,
}

impl Beside {
    fn start(scene: &mut Scene, config: Config, parameters: &str) -> Result<Self> {
        let peer = peer(scene, PORT, config)?;
        let first = scene.newest()?;
        scene.load_with(&target(PORT), parameters)?;
        let dir = format!("/sys/kernel/config/{}", module_name());
        scene.sh(&format!(
            "mkdir {dir}/cmdline0; cd {dir}/cmdline0/stats || exit 1
             ln -sfn $PWD /run/stats; rm -f /run/quiet
             (i=0; while [ ! -e /run/quiet ]; do
                  echo \"beside it all, record $i\" > /dev/kmsg; i=$((i + 1)); usleep 10000
              done; rm /run/quiet) > /dev/null 2>&1 &"
        ))?;
        peer.wait(SOON, "an ack", |acker| acker.responses > 0)?;
        Ok(Self { peer, first })
    }

    /// Waits until all that was logged has arrived and is acked, and unloads the module.
    fn end(self, scene: &mut Scene) -> Result<usize> {
        scene.sh("touch /run/quiet; while [ -e /run/quiet ]; do usleep 10000; done")?;
        let marker = format!("nctest: all of it {}", scene.vm.serial.len());
        scene.log(&marker)?;
        let last = self.peer.logger.wait_for(&marker, SOON)?;
        self.peer.wait_for_all(last, SOON)?;
        let kmsg = scene.vm.agent.kmsg()?;
        let logger = &self.peer.logger;
        let count = logger.assert_equal(&kmsg.records, self.first..=last)?;
        scene.sh(&format!(
            "rmdir /sys/kernel/config/{}/cmdline0",
            module_name()
        ))?;
        scene.unload_and_settle()?;
        Ok(count)
    }
}

/// Returns these numbers of `stats/`.
fn stats(scene: &mut Scene, names: &str) -> Result<Vec<u64>> {
    let text = scene.sh(&format!("cd /run/stats/ && cat {names}"))?;
    let numbers = text
        .lines()
        .map(|line| line.parse().context(line.to_string()));
    numbers.collect()
}

/// Returns the number of datagrams that the module has taken from its socket.
fn taken(scene: &mut Scene) -> Result<u64> {
    Ok(stats(scene, "responses bad_responses")?.iter().sum())
}

fn ends(from: &str) -> Result<(SocketAddr, SocketAddr)> {
    Ok((from.parse()?, format!("{GUEST}:6665").parse()?))
}

/// Sends `count` datagrams of a forger from the log host's address and port. The module takes each.
fn pour(scene: &mut Scene, beside: &Beside, forger: &mut Forger, count: u64) -> Result<()> {
    let (from, to) = ends(&format!("{HOST}:{PORT}"))?;
    let sender = scene.wire().sender();
    let (mut left, began) = (count, Instant::now());
    while left > 0 {
        forger.end = beside.peer.with(|acker| acker.highest()).unwrap_or(0);
        let before = taken(scene)?;
        let batch = left.min(BATCH);
        for _ in 0..batch {
            let (datagram, until) = (forger.datagram(), Instant::now() + SOON);
            // QEMU on a busy machine may be slow.
            while !sender.pour_udp(from, to, &datagram)? {
                ensure!(Instant::now() < until, "QEMU does not take it");
            }
        }
        let until = Instant::now() + SOON;
        while taken(scene)? < before + batch {
            ensure!(
                Instant::now() < until,
                "{} of {batch} were taken",
                taken(scene)? - before
            );
        }
        left -= batch;
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "forged: {count} datagrams in {took:.1} s, {:.0} a second; seed {}",
        count as f64 / took,
        scene.seed
    );
    Ok(())
}

/// The module gets noise and changed responses from the log host's own address and port, a million
/// with `NCTEST_FULL=1`: while a session is in use that they do not name, while they name it, and
/// while there is none. It keeps logging, counts each of them, and believes none without the
/// session.
fn a_million(scene: &mut Scene) -> Result<()> {
    let count = if full() { 1_000_000 } else { 30_000 } / 3;
    // The socket gets room for a batch; no record is hidden by its level.
    scene.sh("echo 16777216 > /proc/sys/net/core/rmem_default; dmesg -n 8")?;
    let parameters = "retransmit_rate=200 retransmit_burst=50";
    let mut forger = Forger::new(scene.seed);

    let beside = Beside::start(scene, Config::new(Kind::Session), parameters)?;
    let peer = &beside.peer;
    peer.wait(SOON, "a session", |acker| acker.session().is_some())?;
    let session = peer.with(|acker| acker.session().map(str::to_string));
    // The session is in use once the module has had a response.
    let said = peer.with(|acker| acker.responses);
    peer.wait(SOON, "one more ack", |acker| acker.responses > said)?;
    scene.sh(&format!(
        "until [ $(cat /run/stats/responses) -gt {said} ]; do usleep 10000; done"
    ))?;
    pour(scene, &beside, &mut forger, count)?;
    let [believed, bad, again] = stats(scene, "responses bad_responses retransmitted")?[..] else {
        unreachable!("three files");
    };
    // The log host counts a response before it is sent.
    let honest = peer.with(|acker| acker.responses);
    let asked = peer.with(|acker| acker.asked);
    println!(
        "forged: {believed} of {honest} honest responses believed, {bad} void, {again} sent again"
    );
    ensure!(believed <= honest, "{believed} believed, {honest} honest");
    ensure!(bad >= count, "{bad} bad of {count}");
    ensure!(again <= asked, "{again} sent again, {asked} asked for");

    // This forger sees the network: some of its responses equal the log host's own.
    forger.session = session;
    pour(scene, &beside, &mut forger, count)?;
    let believed = stats(scene, "responses")?[0];
    let honest = peer.with(|acker| acker.responses);
    println!("forged: {believed} believed with the session, {honest} of them honest");
    ensure!(believed > honest + count / 50, "they named no session");
    beside.end(scene)?;

    let beside = Beside::start(scene, Config::new(Kind::Nca), parameters)?;
    forger.session = None;
    pour(scene, &beside, &mut forger, count)?;
    let believed = stats(scene, "responses")?[0];
    println!("forged: {believed} believed without sessions");
    ensure!(believed > count / 50, "only {believed} were believed");
    beside.end(scene).map(drop)
}

/// The duration of each flood.
const FLOOD: Duration = Duration::from_secs(4);

/// The figures of a flood.
struct Flood {
    /// The bytes of all frames to the guest.
    bytes_in: u64,
    frames_out: u64,
    bytes_out: u64,
    /// The count that programs that do nothing else got to, a second.
    counted: f64,
    /// The share of the time of both CPUs that was spent in interrupts of either kind, and in the
    /// rest of the kernel.
    interrupts: f64,
    system: f64,
    /// Records that arrived for the first time meanwhile.
    records: u64,
    took: Duration,
}

/// One counting program for each CPU, at the default priority.
const COUNT: &str = ": > /run/counted; for cpu in 0 1; do
         (trap 'echo $n >> /run/counted; exit' TERM; n=0; while :; do n=$((n + 1)); done) &
         echo $!
     done > /run/counting
     grep '^cpu ' /proc/stat > /run/stat";

/// Sends `datagrams` to the guest's port `to`, over and over, from the addresses of `from` by
/// turns, as fast as they are taken.
fn flood(
    scene: &mut Scene,
    beside: &Beside,
    what: &str,
    from: &[&str],
    to: u16,
    datagrams: &[Vec<u8>],
) -> Result<Flood> {
    let sender = scene.wire().sender();
    let mut senders = Vec::new();
    for from in from {
        senders.push(from.parse()?);
    }
    let to = format!("{GUEST}:{to}").parse()?;
    let records = |beside: &Beside| beside.peer.logger.lock().records.len() as u64;
    scene.sh(COUNT)?;
    let (before, wire, began) = (records(beside), scene.wire().stats(), Instant::now());
    let (mut sent, mut bytes_in) = (0, 0);
    let mut next = senders.iter().cycle().zip(datagrams.iter().cycle());
    while began.elapsed() < FLOOD {
        let Some((from, datagram)) = next.next() else {
            std::thread::sleep(FLOOD.saturating_sub(began.elapsed()));
            break;
        };
        if sender.pour_udp(*from, to, datagram)? {
            sent += 1;
            // The headers of Ethernet, IPv4 and UDP.
            bytes_in += datagram.len() as u64 + 42;
        }
    }
    let (spent, counted) = counted(scene)?;
    let (took, after) = (began.elapsed(), scene.wire().stats());
    let all: f64 = spent.iter().sum();
    let flood = Flood {
        bytes_in,
        frames_out: after.from_guest - wire.from_guest,
        bytes_out: after.bytes_from_guest - wire.bytes_from_guest,
        counted: counted / took.as_secs_f64(),
        interrupts: (spent[5] + spent[6]) / all,
        system: spent[2] / all,
        records: records(beside) - before,
        took,
    };
    println!(
        "hostile: {what}: {:.0} datagrams in a second; {}",
        flood.rate(sent),
        flood.figures()
    );
    Ok(flood)
}

/// Ends what [`COUNT`] has started. Returns the time that the CPUs have spent since, by the columns
/// of /proc/stat, and how far the two programs have counted.
fn counted(scene: &mut Scene) -> Result<(Vec<f64>, f64)> {
    let text = scene.sh(
        "grep '^cpu ' /proc/stat >> /run/stat; kill $(cat /run/counting)
         while [ $(wc -l < /run/counted) -lt 2 ]; do usleep 10000; done
         cat /run/stat /run/counted",
    )?;
    let numbers = |line: &str| -> Vec<f64> {
        line.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let lines: Vec<_> = text.lines().map(numbers).collect();
    let [before, after, counted @ ..] = &lines[..] else {
        bail!("{text}");
    };
    ensure!(counted.len() == 2, "{text}");
    let spent = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before);
    Ok((spent.collect(), counted.concat().iter().sum()))
}

impl Flood {
    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64()
    }

    /// Returns its figures, for people.
    fn figures(&self) -> String {
        format!(
            "{:.0} kB in and {:.0} kB out in {:.0} frames a second; {:.0} % of the CPUs in \
             interrupts, {:.0} % in system; {:.0} counted and {} records logged",
            self.rate(self.bytes_in) / 1000.0,
            self.rate(self.bytes_out) / 1000.0,
            self.rate(self.frames_out),
            self.interrupts * 100.0,
            self.system * 100.0,
            self.counted,
            self.records,
        )
    }

    /// Returns the bytes that went out for each that came in, beyond `usual` bytes a second.
    fn amplification(&self, usual: f64) -> f64 {
        (self.rate(self.bytes_out) - usual).max(0.0) / self.rate(self.bytes_in)
    }

    /// Returns an error unless the machine counted and logged a fourth at least of what it did
    /// under the flood `beside` it.
    fn compare(&self, what: &str, beside: &Flood) -> Result<()> {
        ensure!(
            self.records * 4 > beside.records,
            "{what}: {} records logged, {} with a closed port",
            self.records,
            beside.records
        );
        ensure!(
            self.counted * 4.0 > beside.counted,
            "{what}: {:.0} counted, {:.0} with a closed port",
            self.counted,
            beside.counted
        );
        Ok(())
    }
}

/// Forged responses as fast as the wire takes them, from the log host's own address and from
/// others, cost a machine no more than a flood to a port that is closed; it keeps logging. They
/// cause no retransmission once a session is in use, and else no more than the budget allows.
fn hostile_network(scene: &mut Scene) -> Result<()> {
    let closed = floods_of_a_session(scene)?;
    flood_without_session(scene, &closed)
}

/// All that there is, asked for.
const ALL: &[u8] = b"nca 0-18446744073709551615";

/// Floods a target whose log host has a session. Returns the flood to a closed port.
fn floods_of_a_session(scene: &mut Scene) -> Result<Flood> {
    let right = format!("{HOST}:{PORT}");
    let others = [format!("{HOST}:{}", PORT + 1), format!("10.0.2.77:{PORT}")];
    let others = [others[0].as_str(), &others[1]];
    let mut forger = Forger::new(scene.seed);
    let forged: Vec<_> = (0..5000).map(|_| forger.datagram()).collect();
    let all = [ALL.to_vec()];

    let beside = Beside::start(scene, Config::new(Kind::Session), "")?;
    let peer = &beside.peer;
    peer.wait(SOON, "a session", |acker| acker.session().is_some())?;
    let quiet = flood(scene, &beside, "nothing", &[], 6665, &[])?;
    let usual = quiet.rate(quiet.bytes_out);
    let closed = flood(scene, &beside, "a closed port", &[&right], 6664, &forged)?;
    let mut floods = Vec::new();
    for (what, from, datagrams) in [
        (
            "the log host's address, forged",
            &[right.as_str()][..],
            &forged[..],
        ),
        ("the log host's address, all asked for", &[&right], &all),
        ("other addresses", &others, &forged),
    ] {
        floods.push((what, flood(scene, &beside, what, from, 6665, datagrams)?));
    }
    nothing_forged_was_believed(scene, &beside)?;
    for (what, flood) in &floods {
        flood.compare(what, &closed)?;
        let factor = flood.amplification(usual);
        println!("hostile: {what}: {factor:.4} bytes out for a byte in");
        ensure!(factor < 0.1, "{what}: {factor} bytes out for a byte in");
    }
    beside.end(scene)?;
    Ok(closed)
}

fn nothing_forged_was_believed(scene: &mut Scene, beside: &Beside) -> Result<()> {
    // The module has read the rest from its socket by then.
    std::thread::sleep(Duration::from_secs(1));
    let names = "responses retransmitted acked_seq bad_responses";
    let [believed, again, acked, bad] = stats(scene, names)?[..] else {
        unreachable!("four files");
    };
    let (honest, asked, have) = beside.peer.with(|acker| {
        let have = acker.contiguous().unwrap_or(0);
        (acker.responses, acker.asked, have)
    });
    println!(
        "hostile: {bad} void responses, {believed} of {honest} honest ones believed, {again} records \
         sent again of {asked} asked for; acked {acked} of {have}"
    );
    ensure!(bad > 0, "none was taken from the socket");
    ensure!(believed <= honest && again <= asked && acked <= have);
    Ok(())
}

/// Asks a target that has no session for all it has, over and over.
fn flood_without_session(scene: &mut Scene, closed: &Flood) -> Result<()> {
    let right = format!("{HOST}:{PORT}");
    let beside = Beside::start(scene, Config::new(Kind::Nca), "")?;
    let what = "no session, all asked for";
    let asked = flood(scene, &beside, what, &[&right], 6665, &[ALL.to_vec()])?;
    let factor = asked.amplification(0.0);
    println!("hostile: {what}: {factor:.4} bytes out for a byte in");
    // The default budget, the records that are logged, and the log host's own requests.
    let allowed =
        2000.0 + 10_000.0 * asked.took.as_secs_f64() + asked.records as f64 * 2.0 + 1000.0;
    ensure!(
        asked.frames_out as f64 <= allowed,
        "{} frames for a budget of {allowed:.0}",
        asked.frames_out
    );
    asked.compare(what, closed)?;
    // Requests that are still in the socket are answered late.
    let (mut before, until) = (scene.wire().stats(), Instant::now() + SOON);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = scene.wire().stats();
        let ended = now.from_guest - before.from_guest < 200;
        before = now;
        if ended {
            break;
        }
        ensure!(Instant::now() < until, "it does not end");
    }
    super::respond(scene, PORT, ALL)?;
    std::thread::sleep(Duration::from_secs(2));
    let after = scene.wire().stats();
    println!(
        "hostile: {what}: {} frames and {} bytes out within 2 s for one of {} bytes",
        after.from_guest - before.from_guest,
        after.bytes_from_guest - before.bytes_from_guest,
        ALL.len() + 42
    );
    beside.end(scene).map(drop)
}
