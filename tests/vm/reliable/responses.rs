// SPDX-License-Identifier: GPL-2.0

//! Responses that are strange, hostile, or late.

use std::time::Instant;

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::logger::Logger;
use nctest_guest::Burst;

use super::{load_acked, peer, respond, respond_from, sleep_ms, target, unload_one};
use crate::scene::{Scene, HOST, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("strange_responses", strange_responses),
        trial("void_sessions", void_sessions),
    ]
}

/// Returns datagrams that change nothing in any state: those that are no response at all, and those
/// that are well formed and without consequence.
fn strange() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut long = b"nca".to_vec();
    // This is the most that a frame can carry, and more than a response may have.
    while long.len() + 6 <= 1472 {
        long.extend_from_slice(b" 99999");
    }
    let bad: Vec<Vec<u8>> = vec![
        b"hello".to_vec(),
        b"nc".to_vec(),
        b"ncb7".to_vec(),
        b"NCA7".to_vec(),
        b"nca-7".to_vec(),
        b"nca+7".to_vec(),
        b"nca0x7".to_vec(),
        b"nca18446744073709551616".to_vec(),
        b"ncrx99999999999999999999999999999999999999".to_vec(),
        vec![b' '; 1000],
        (0..=255).collect(),
        b"\0\0\0\0".to_vec(),
        b"nca7\0 1".to_vec(),
        b"nca x".to_vec(),
        b"nca 5-".to_vec(),
        b"nca 5--9".to_vec(),
        long,
    ];
    let mut spaces = b"nca".to_vec();
    spaces.resize(1000, b' ');
    let idle: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"nca".to_vec(),
        b"ncrx\n".to_vec(),
        b"nca0".to_vec(),
        b"ncrx0".to_vec(),
        b"nca1000000".to_vec(),
        b"ncrx18446744073709551615".to_vec(),
        b"nca 1000000 18446744073709551615".to_vec(),
        b"nca 9-3".to_vec(),
        b"nca 1000000-18446744073709551615".to_vec(),
        spaces,
    ];
    (bad, idle)
}

/// Strange responses turn no acks on, move no ack, and cause no retransmission.
fn strange_responses(scene: &mut Scene) -> Result<()> {
    // With this timeout a retransmission can only be the answer to a response.
    scene.load_with(&target(PORT), "ack_timeout_ms=600000")?;
    scene.all_has_arrived(0)?;
    let newest = scene.newest()?;
    let said = scene.vm.serial.len();
    let began = Instant::now();
    let (bad, idle) = strange();
    let mut sent = 0;
    for response in bad.iter().chain(&idle) {
        respond(scene, PORT, response)?;
        sent += 1;
        sleep_ms(100);
    }
    // Responses of an unknown sender, good ones included.
    let good = format!("nca{newest} 3-9");
    let strangers = [
        format!("{HOST}:{}", PORT + 1),
        format!("10.0.2.77:{PORT}"),
        format!("10.9.9.9:{PORT}"),
    ];
    for stranger in &strangers {
        respond_from(scene, stranger, good.as_bytes())?;
    }
    sleep_ms(1500);
    let lines = scene.vm.serial.lines(said);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    ensure!(with("ACK timeout enabled") == 0, "acks were turned on");
    let (complaints, seconds) = (with("bad response from"), began.elapsed().as_secs());
    ensure!(
        (1..=seconds + 2).contains(&(complaints as u64)),
        "{complaints} lines about bad responses in {seconds} s"
    );
    let line = format!("cmdline0: bad response from {HOST}:{PORT}");
    ensure!(with(&line) == complaints, "{lines:#?}");
    let again = scene.logger.lock().duplicates;
    ensure!(again == 0, "{again} records were sent again");

    // Now acks are on, with the ack in the middle of the log: no strange response moves it.
    let acked = newest - 5;
    respond(scene, PORT, format!("nca{acked}").as_bytes())?;
    let line = format!("cmdline0: ACK timeout enabled for {HOST}:{PORT}");
    scene.vm.serial.wait_for(&line, said, SOON)?;
    for response in bad.iter().chain(&idle) {
        respond(scene, PORT, response)?;
        sent += 1;
        sleep_ms(20);
    }
    for stranger in &strangers {
        respond_from(scene, stranger, good.as_bytes())?;
    }
    for (response, why) in [
        (format!("nca{}", acked - 20), "backwards"),
        (format!("nca{acked} nca{}", acked + 1), "two in one"),
        (format!("nca{acked}\nnca{}", acked + 1), "two lines"),
    ] {
        respond(scene, PORT, response.as_bytes()).context(why)?;
        sent += 1;
    }
    sleep_ms(1000);
    let again = scene.logger.lock().duplicates;
    ensure!(again == 0, "{again} records were sent again");
    let counters = unload_one(scene)?;
    ensure!(counters.get("acked_seq")? == acked, "{acked}: {counters:?}");
    let bad_ones = counters.get("bad_responses")?;
    // An empty datagram need not have been counted.
    ensure!(
        (2 * bad.len() as u64..=sent).contains(&bad_ones),
        "{} bad responses: {counters:?}",
        2 * bad.len()
    );
    ensure!(counters.get("retransmitted")? == 0, "{counters:?}");
    scene.vm.settle()
}

/// Once the log host knows sessions, responses without the current one are void: plain responses,
/// made-up sessions, and those of the module's previous load.
fn void_sessions(scene: &mut Scene) -> Result<()> {
    let peer = load_acked(scene, Kind::Session, "ack_timeout_ms=60000")?;
    peer.wait(SOON, "a session", |acker| acker.session().is_some())?;
    // The guest has received all responses so far by then.
    sleep_ms(2000);
    peer.set_silent(true);
    let acked = peer.with(|acker| acker.contiguous()).context("no ack")?;
    let session = peer.with(|acker| acker.session().map(str::to_string));
    let session = session.context("no session")?;
    scene
        .vm
        .agent
        .log(&Burst::new(20, scene.seed, "unacked"), SOON)?;
    scene.log("the end of the burst")?;
    peer.logger.wait_for("the end of the burst", SOON)?;
    let higher = acked + 10;
    let again = |peer: &AckingLogger| {
        let collector = peer.logger.lock();
        let copies = collector.records.values().map(|record| record.copies);
        copies.filter(|&copies| copies > 1).count()
    };
    let from = again(&peer);
    for response in [
        format!("nca{higher} 3-9"),
        format!("ncrx{higher}"),
        format!("ncrx{higher} 4 ~"),
        format!("ncrx{higher} 5 ~0000000000000000"),
        format!("ncrx{higher} 6 ~{}", &session[..15]),
        format!("ncrx{higher} 7 ~{session}0"),
        format!("ncrx{higher} ~{session} 8"),
    ] {
        respond(scene, PORT, response.as_bytes())?;
        sleep_ms(50);
    }
    sleep_ms(1000);
    // The module's own lines about them arrive, but no record that they ask for.
    let again = again(&peer) - from;
    ensure!(again == 0, "{again} records sent again for void responses");
    let counters = unload_one(scene)?;
    ensure!(counters.get("acked_seq")? == acked, "{acked}: {counters:?}");

    // After the module is loaded again, an ack from before does not count.
    drop(peer);
    scene.logger = Logger::attach(scene.wire(), PORT);
    let said = scene.vm.serial.len();
    scene.load(&target(PORT))?;
    scene.all_has_arrived(0)?;
    let late = format!("ncrx{acked} 5-9 ~{session}");
    respond(scene, PORT, late.as_bytes())?;
    sleep_ms(2000);
    let lines = scene.vm.serial.lines(said);
    let on = lines
        .iter()
        .any(|line| line.contains("ACK timeout enabled"));
    ensure!(!on, "an ack of the former session counted");
    let again = scene.logger.lock().duplicates;
    ensure!(again == 0, "{again} records sent to the former session");
    let counters = unload_one(scene)?;
    let seen = counters.text("acked_seq")?;
    ensure!(seen != acked.to_string(), "{counters:?}");

    // `session=require`: no response without a session is believed. `off`: none is used.
    let plain = self::peer(scene, PORT, Config::new(Kind::Nca))?;
    let said = scene.vm.serial.len();
    scene.load_with(&target(PORT), "session=require")?;
    scene.log("with sessions required")?;
    plain.logger.wait_for("with sessions required", SOON)?;
    sleep_ms(2000);
    let lines = scene.vm.serial.lines(said);
    let on = lines
        .iter()
        .any(|line| line.contains("ACK timeout enabled"));
    ensure!(!on, "a plain log host was believed");
    scene.unload()?;
    drop(plain);
    let peer = load_acked(scene, Kind::Session, "session=off")?;
    let used = peer.with(|acker| acker.session().is_some());
    ensure!(!used, "a session although it is off");
    scene.unload_and_settle()
}
