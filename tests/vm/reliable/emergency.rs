// SPDX-License-Identifier: GPL-2.0

//! Emergency datagrams: when they come, in which order, and when they do not.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::{Config, Kind};
use nctest::logger::Sink;
use nctest::wire::faults::Faults;
use nctest::wire::Direction;
use nctest_guest::Burst;

use super::{
    arrived, console_lines, emergencies, load_acked, peer, respond, sleep_ms, target, unload_one,
};
use crate::scene::{Scene, HOST, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("emergency_timing", emergency_timing),
        trial("busy_stream_acked_late", busy_stream_acked_late),
        trial("emergency_slows_down", emergency_slows_down),
        trial("dialects", dialects),
        trial("no_response_is_mentioned", no_response_is_mentioned),
    ]
}

/// Returns the numbers in the order of the 2015 series' rounds, each with the time since the one
/// before it: the interval doubles when a round is complete.
fn schedule(first: u64, last: u64, rounds: u32, (min, max): (u64, u64)) -> Vec<(u64, u64)> {
    let (mut interval, mut schedule) = (min, Vec::new());
    for _ in 0..rounds {
        schedule.extend((first..=last).map(|seq| (seq, interval)));
        // The first record of the next round already waits for the new interval.
        interval = (interval * 2).min(max);
    }
    schedule
}

/// Returns an error unless the emergency datagrams in `came` have the order and the intervals of
/// `expected`, and else how late they were on average, in milliseconds.
fn lateness(came: &[(u64, Instant)], expected: &[(u64, u64)]) -> Result<u128> {
    let order: Vec<_> = came.iter().map(|(seq, _)| *seq).collect();
    let wanted: Vec<_> = expected.iter().map(|(seq, _)| *seq).collect();
    ensure!(
        order.starts_with(&wanted),
        "the order is {order:?}\ninstead of   {wanted:?}"
    );
    let mut late = 0;
    for (n, pair) in came[..expected.len()].windows(2).enumerate() {
        let gap = pair[1].1.saturating_duration_since(pair[0].1).as_millis();
        let (seq, interval) = expected[n + 1];
        let interval = u128::from(interval);
        ensure!(
            gap + 20 >= interval && gap <= interval + 250,
            "emergency datagram {n}, record {seq}: {gap} ms after the one before, not {interval}"
        );
        late += gap.saturating_sub(interval);
    }
    Ok(late / (expected.len() as u128 - 1))
}

/// A log host has answered and falls silent: the unacknowledged records come again, by the
/// schedule of the 2015 series, until it answers.
fn emergency_timing(scene: &mut Scene) -> Result<()> {
    const TIMEOUT: u64 = 1500;
    const INTERVALS: (u64, u64) = (100, 400);
    const ROUNDS: u32 = 5;
    let (min, max) = INTERVALS;
    let peer = load_acked(
        scene,
        Kind::Session,
        &format!("ack_timeout_ms={TIMEOUT} emg_min_intv_ms={min} emg_max_intv_ms={max}"),
    )?;
    sleep_ms(500);
    peer.set_silent(true);
    let acked = peer.with(|acker| acker.contiguous()).context("no ack")?;
    let (from, said) = (arrived(&peer), scene.vm.serial.len());
    scene
        .vm
        .agent
        .log(&Burst::new(5, scene.seed, "unacked"), SOON)?;
    let started = "cmdline0: emergency transmission started, ";
    scene.vm.serial.wait_for(started, said, SOON)?;
    // With the module's own line these are 6 records: 0.6 + 1.2 + 3 * 2.4 s.
    sleep_ms(10_000);
    let last = scene.newest()?;
    let expected = schedule(acked + 1, last, ROUNDS, INTERVALS);
    let (first_sent, came) = {
        let collector = peer.logger.lock();
        let oldest = collector.records.get(&(acked + 1)).context("no record")?;
        let arrivals = collector.arrivals[from..].iter().filter(|a| a.emergency);
        let came: Vec<_> = arrivals.map(|a| (a.seq.unwrap_or(0), a.at)).collect();
        (oldest.at, came)
    };
    let waited = came
        .first()
        .context("no emergency datagram")?
        .1
        .saturating_duration_since(first_sent)
        .as_millis();
    let timeout = u128::from(TIMEOUT);
    ensure!(
        (timeout - 20..timeout + 400).contains(&waited),
        "the emergency began after {waited} ms"
    );
    let late = lateness(&came, &expected)?;
    println!(
        "emergency_timing: began after {waited} ms, {late} ms late on average; seed {}",
        scene.seed
    );
    ensure!(late < 50, "{late} ms late on average");
    // An answer ends the emergency.
    peer.set_silent(false);
    let ended = "cmdline0: emergency transmission ended, ";
    let at = scene.vm.serial.wait_for(ended, said, SOON)?;
    let line = scene.vm.serial.lines(at)[0].clone();
    let words: Vec<_> = line
        .split_once(ended)
        .map_or("", |l| l.1)
        .split(' ')
        .collect();
    let right = matches!(words[..], [n, "records", "sent", "in", m, "rounds"]
        if n.parse::<usize>().is_ok_and(|n| n >= expected.len())
            && m.parse::<u32>().is_ok_and(|m| m >= ROUNDS));
    ensure!(right, "{line:?} after {} emergency datagrams", came.len());
    sleep_ms(500);
    let from = arrived(&peer);
    sleep_ms(TIMEOUT * 2);
    ensure!(
        emergencies(&peer, from) == 0,
        "emergency datagrams after all was acknowledged"
    );
    for line in [started, ended] {
        let times = console_lines(scene, said, line);
        ensure!(times == 1, "{line:?} is said {times} times");
    }
    let counters = unload_one(scene)?;
    ensure!(counters.get("emergency")? >= came.len() as u64);
    ensure!(counters.get("emergency_rounds")? >= u64::from(ROUNDS));
    scene.vm.settle()
}

/// Something is always unacknowledged, but never for long: no emergency, though
/// the log is never acknowledged to its end for much longer than the timeout.
fn busy_stream_acked_late(scene: &mut Scene) -> Result<()> {
    let peer = load_acked(scene, Kind::Session, "ack_timeout_ms=3000")?;
    // Responses are one second late, ARP included.
    let late = Faults {
        delay: Duration::from_secs(1),
        ..Faults::default()
    };
    scene.wire().set_faults(Direction::ToGuest, late);
    let from = arrived(&peer);
    scene.vm.agent.exec(
        "for i in $(seq 300); do echo \"busy $i\" > /dev/kmsg; usleep 40000; done",
        Duration::from_secs(60),
    )?;
    let last = peer.logger.wait_for("busy 300", SOON)?;
    peer.wait_for_all(last, SOON)?;
    sleep_ms(4000);
    let marked = emergencies(&peer, from);
    ensure!(marked == 0, "{marked} emergency datagrams");
    scene
        .wire()
        .set_faults(Direction::ToGuest, Faults::default());
    let counters = unload_one(scene)?;
    ensure!(counters.get("emergency")? == 0, "{counters:?}");
    scene.vm.settle()
}

/// A log host has answered, and one that never answers takes its place: after a minute emergency
/// datagrams become rarer and rarer, which one line says, and an answer brings all records at once.
fn emergency_slows_down(scene: &mut Scene) -> Result<()> {
    let peer = load_acked(scene, Kind::Session, "ack_timeout_ms=1000")?;
    sleep_ms(500);
    peer.set_silent(true);
    let said = scene.vm.serial.len();
    scene.log("nobody acknowledges this")?;
    let slower = "cmdline0: no response for 60 s: emergency transmission slows down";
    (scene.vm.serial).wait_for(slower, said, Duration::from_secs(100))?;
    let from = arrived(&peer);
    // The pauses are 1 to 2, 4, 8, 16, 32 s by then.
    sleep_ms(30_000);
    let count = emergencies(&peer, from);
    println!("emergency_slows_down: {count} emergency datagrams in 30 s");
    ensure!((1..=6).contains(&count), "{count} in 30 s");
    ensure!(console_lines(scene, said, slower) == 1, "said again");
    // This response asks for nothing and acknowledges nothing new, but shows that it is there.
    let (from, session) = (
        arrived(&peer),
        peer.with(|acker| acker.session().map(str::to_string)),
    );
    respond(
        scene,
        PORT,
        format!("ncrx ~{}", session.context("no session")?).as_bytes(),
    )?;
    sleep_ms(3000);
    let count = emergencies(&peer, from);
    ensure!(count >= 5, "{count} in 3 s after an answer");
    peer.set_silent(false);
    let newest = scene.newest()?;
    peer.wait_for_all(newest, SOON)?;
    scene.unload_and_settle()
}

/// Logs a record in three datagrams, and a line after it; returns the record's number.
fn log_long(scene: &mut Scene, sink: &Sink, after: &str) -> Result<u64> {
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    let marker = format!("{after} {}", scene.vm.serial.len());
    scene.log(&marker)?;
    sink.wait_for(&marker, SOON)?;
    let log = super::kmsg(scene)?;
    let mut newest = log.iter().rev();
    let long = newest.find(|(_, record)| record.len() > 2000);
    long.map(|(seq, _)| *seq).context("no long record")
}

/// The marks of fragments and emergencies follow the dialect: today's until the log host says
/// `nca`, or the one that `dialect` sets.
fn dialects(scene: &mut Scene) -> Result<()> {
    for (dialect, before, after) in [
        ("auto", "ncrx", "nca"),
        ("nca", "nca", "nca"),
        ("ncrx", "ncrx", "ncrx"),
    ] {
        let sink = Sink::attach(scene.wire(), PORT);
        scene.load_with(
            &target(PORT),
            &format!("dialect={dialect} ack_timeout_ms=500 emg_min_intv_ms=20"),
        )?;
        let of = |long: u64, count: usize| {
            let datagrams = sink.datagrams();
            let texts = datagrams[count..].iter().map(|d| {
                let text = String::from_utf8_lossy(&d.payload);
                text.split(';').next().unwrap_or_default().to_string()
            });
            let number = format!(",{long},");
            texts
                .filter(|text| text.contains(&number))
                .collect::<Vec<_>>()
        };
        let check = |heads: &[String], form: &str, emergency: Option<&str>| {
            for head in heads {
                let place = head.split_once(",ncfrag=").map_or("", |(_, place)| place);
                let right = place.contains('@') == (form == "nca") && !place.is_empty();
                ensure!(right, "{dialect}: {head:?} is not {form}");
                if let Some(key) = emergency {
                    ensure!(head.contains(key), "{dialect}: no {key:?} in {head:?}");
                }
            }
            ensure!(heads.len() >= 3, "{dialect}: the headers are {heads:?}");
            Ok(())
        };
        let long = log_long(scene, &sink, "a long record before")?;
        check(&of(long, 0), before, None)?;
        // A response that neither acks a record nor asks for one, nor names the session, changes
        // nothing.
        for forged in [
            "nca",
            "nca ~",
            "nca0 ~",
            "nca1000000 1000000-2000000 ~",
            "nca ~0123456789abcdef",
            "nca1000000 ~0123456789abcdef",
        ] {
            respond(scene, PORT, forged.as_bytes())?;
        }
        sleep_ms(500);
        let long = log_long(scene, &sink, "a long record after forged responses")?;
        let heads = of(long, 0);
        check(&heads, before, None)?;
        let named = heads.iter().find(|head| head.contains(",ncs="));
        ensure!(named.is_none(), "{dialect}: {named:?}");
        let count = sink.datagrams().len();
        // Records that were sent just now may be on their way.
        sleep_ms(1000);
        respond(scene, PORT, format!("nca {long} {long}").as_bytes())?;
        sleep_ms(1000);
        let again = of(long, count);
        check(&again, after, None)?;
        // A number that is named twice is sent once.
        ensure!(again.len() == 3, "{dialect}: {again:?}");
        let count = sink.datagrams().len();
        respond(scene, PORT, format!("nca{}", long - 1).as_bytes())?;
        sleep_ms(2000);
        let mut again = of(long, count);
        again.truncate(3);
        let key = if after == "nca" {
            ",emg=1,ncfrag="
        } else {
            ",ncemg=1,ncfrag="
        };
        check(&again, after, Some(key))?;
        scene.unload()?;
    }
    scene.vm.settle()
}

/// A log host has not answered for a minute: one line names possible reasons. There is no such line
/// for a log host that has acknowledged all and since then had nothing to answer.
fn no_response_is_mentioned(scene: &mut Scene) -> Result<()> {
    let idle = peer(scene, PORT + 1, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    scene.load(&format!("{};{}", target(PORT), target(PORT + 1)))?;
    let line = "cmdline1: ACK timeout enabled for ";
    scene.vm.serial.wait_for(line, said, SOON)?;
    let newest = scene.newest()?;
    idle.wait_for_all(newest, SOON)?;
    sleep_ms(500);
    // This log host does not repeat its acks, so its last response is over a minute old when this
    // ends.
    idle.set_silent(true);
    let line = format!(
        "cmdline0: no response from {HOST}:{PORT} for 60 s; allow udp/6665 from {HOST} if a \
         firewall is in the way"
    );
    scene
        .vm
        .serial
        .wait_for(&line, said, Duration::from_secs(90))?;
    // The line is a record like any other, and sending it causes no second one.
    scene.logger.wait_for(&line, SOON)?;
    // The line is the first record that the silent log host may ack, in the next ten seconds.
    sleep_ms(6000);
    let log = scene.sh("dmesg")?;
    ensure!(log.matches(&line).count() == 1, "said more than once");
    ensure!(
        !log.contains("cmdline1: no response"),
        "said of a log host that had nothing to answer"
    );
    idle.set_silent(false);
    let newest = scene.newest()?;
    idle.wait_for_all(newest, SOON)?;
    scene.unload_and_settle()
}
