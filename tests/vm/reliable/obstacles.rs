// SPDX-License-Identifier: GPL-2.0

//! Obstacles to responses.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::acker::{Config, Kind};
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use super::{arrived, emergencies, load_acked, peer, respond, sleep_ms, target, unload_one};
use crate::scene::{Scene, GUEST, HOST, HOST_MAC, PORT, SOON};
use crate::trial::{trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("dead_logger_comes_back", dead_logger_comes_back),
        trial("an_error_before_data", an_error_before_data),
        trial_with("firewall", with_nft, firewall),
        trial_with("firewall_and_obstacle", with_nft, firewall_and_obstacle),
        trial("port_taken", port_taken),
        trial("no_route_yet", no_route_yet),
        trial("no_address_yet", no_address_yet),
    ]
}

pub(super) fn with_nft(config: &mut VmConfig) -> Result<()> {
    config.program(NFT)
}

/// The log host's process has died, so its kernel answers "port unreachable" to
/// each datagram. The first ack after its return counts, though an error is
/// waiting in the socket before it.
fn dead_logger_comes_back(scene: &mut Scene) -> Result<()> {
    let mut peer = load_acked(scene, Kind::Session, "keepalive_s=1")?;
    for round in 0..3 {
        scene.wire().refuse(PORT);
        let burst = Burst::new(50, scene.seed + round, &format!("dead {round}"));
        scene.vm.agent.log(&burst, SOON)?;
        // Keepalives are refused as well: they are what the socket itself sends.
        sleep_ms(2500);
        // The last thing before the return is another refusal.
        let newest = scene.newest()?;
        scene.log(&format!("the last refused one {round}"))?;
        peer.set_silent(true);
        peer.attach_again(scene.wire());
        let trailer = peer.with(|acker| acker.trailer());
        respond(scene, PORT, format!("nca{newest}{trailer}").as_bytes())?;
        sleep_ms(500);
        // Would it have gone unheard, 2 s later there were none either: that
        // it was heard is what the counters say.
        if round == 2 {
            let counters = unload_one(scene)?;
            ensure!(
                counters.get("acked_seq")? == newest,
                "{newest}: {counters:?}"
            );
            return scene.vm.settle();
        }
        peer.set_silent(false);
        let seq = scene.newest()?;
        scene.log(&format!("alive {round}"))?;
        peer.wait_for_all(seq, SOON)?;
    }
    Ok(())
}

/// Refusals and a request arrive at one time: the request is answered at once,
/// not when something else next makes the module look into the socket.
fn an_error_before_data(scene: &mut Scene) -> Result<()> {
    const ROUNDS: usize = 20;
    // Nothing but the requests is sent to the guest, and nothing but the answers
    // comes from it.
    scene.load_with(&target(PORT), "ack_timeout_ms=600000")?;
    scene.all_has_arrived(0)?;
    sleep_ms(2000);
    let (guest, host) = (
        format!("{GUEST}:6665").parse()?,
        format!("{HOST}:{PORT}").parse()?,
    );
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        // Anywhere in the second between two looks.
        sleep_ms(100 + 370 * round as u64 % 1000);
        let wanted = 10 + round as u64;
        scene.vm.pause()?;
        for _ in 0..3 {
            scene.wire().refuse_one(guest, host)?;
        }
        respond(scene, PORT, format!("nca {wanted}").as_bytes())?;
        // The wire has a thread of its own.
        sleep_ms(50);
        scene.vm.resume()?;
        let began = Instant::now();
        scene.logger.wait(SOON, "the record again", |collector| {
            (collector.records[&wanted].copies > 1).then_some(())
        })?;
        waits.push(began.elapsed().as_millis());
    }
    let slow = waits.iter().filter(|wait| **wait > 250).count();
    println!(
        "an_error_before_data: answered after {waits:?} ms; seed {}",
        scene.seed
    );
    ensure!(slow <= ROUNDS / 5, "answered after {waits:?} ms");
    scene.unload_and_settle()
}

/// Debian's nft, which needs its libraries in the guest.
pub(super) const NFT: &str = "/usr/sbin/nft";

/// Drops what was not asked for, as a server's firewall does. netpoll's own
/// datagrams pass by the connection tracking: only the keepalive opens the way.
const RULES: &str = "table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
    }
}";

/// Acks come through a firewall that lets only answers in, thanks to the
/// keepalive, and only thanks to it.
fn firewall(scene: &mut Scene) -> Result<()> {
    scene.sh(&format!("echo '{RULES}' | {NFT} -f -"))?;
    let peer = peer(scene, PORT, Config::new(Kind::Session))?;
    let enabled = format!("cmdline0: ACK timeout enabled for {HOST}:{PORT}");

    let said = scene.vm.serial.len();
    scene.load_with(&target(PORT), "keepalive_s=0")?;
    scene.log("without a keepalive")?;
    let seq = peer.logger.wait_for("without a keepalive", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    sleep_ms(3000);
    let lines = scene.vm.serial.lines(said);
    let through = lines.iter().any(|line| line.contains(&enabled));
    ensure!(!through, "the firewall lets anything in: a poor test");
    scene.unload()?;

    let (said, from) = (scene.vm.serial.len(), arrived(&peer));
    scene.load_with(&target(PORT), "keepalive_s=2 ack_timeout_ms=2000")?;
    scene.log("with a keepalive")?;
    scene.vm.serial.wait_for(&enabled, said, SOON)?;
    sleep_ms(7000);
    let collector = peer.logger.lock();
    let empty = collector.arrivals[from..].iter().filter(|a| a.len == 0);
    let empty: Vec<_> = empty.cloned().collect();
    drop(collector);
    ensure!(empty.len() >= 3, "{} keepalives", empty.len());
    for keepalive in &empty {
        let right = keepalive.from == format!("{GUEST}:6665").parse()?
            && keepalive.to == format!("{HOST}:{PORT}").parse()?;
        ensure!(right, "{keepalive:?}");
    }
    let gap = empty[2].at - empty[1].at;
    let right = (1500..4000).contains(&gap.as_millis());
    ensure!(right, "keepalives {gap:?} apart");
    // All that was lost before the way was open has been made up for.
    let from = arrived(&peer);
    sleep_ms(4000);
    let marked = emergencies(&peer, from);
    ensure!(marked == 0, "{marked} emergency datagrams");
    scene.unload_and_settle()
}

/// The firewall lets responses in as soon as there is a keepalive, and that is as
/// soon as there is a socket, not when the next one is due.
fn firewall_and_obstacle(scene: &mut Scene) -> Result<()> {
    scene.sh(&format!("echo '{RULES}' | {NFT} -f -"))?;
    scene.vm.agent.bind(&format!("{GUEST}:6665"))?;
    let took = obstacle(scene, PORT, &target(PORT), |scene| scene.vm.agent.unbind())?;
    ensure!(took < Duration::from_secs(8), "heard {took:?} after");
    Ok(())
}

/// A socket lacks something that it needs at load: the records go out all the same. Then `remedy`
/// brings it about, and the log host is heard. Returns how soon.
fn obstacle(
    scene: &mut Scene,
    port: u16,
    targets: &str,
    remedy: fn(&mut Scene) -> Result<()>,
) -> Result<Duration> {
    let peer = peer(scene, port, Config::new(Kind::Session))?;
    let said = scene.vm.serial.len();
    scene.load(targets)?;
    scene.log("in spite of it")?;
    let seq = peer.logger.wait_for("in spite of it", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    sleep_ms(3000);
    let lines = scene.vm.serial.lines(said);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    ensure!(with("ACK timeout enabled") == 0, "there is no obstacle");
    // One line names the obstacle.
    let about = with("no responses yet");
    ensure!(about == 1, "{about} lines:\n{}", lines.join("\n"));
    let about = with("netconsole_ext: cmdline0: ");
    ensure!(about < 20, "{about} lines:\n{}", lines.join("\n"));
    let began = Instant::now();
    remedy(scene)?;
    // A log host that hears nothing new says nothing new.
    for n in 0..60 {
        scene.log(&format!("is it heard? {n}"))?;
        sleep_ms(500);
        let lines = scene.vm.serial.lines(said);
        if lines
            .iter()
            .any(|line| line.contains("ACK timeout enabled"))
        {
            let took = began.elapsed();
            println!("obstacle: heard {took:.1?} after its end");
            let about = lines.iter().filter(|l| l.contains("no responses yet"));
            let about = about.count();
            ensure!(about == 1, "{about} lines:\n{}", lines.join("\n"));
            let last = scene.newest()?;
            scene.log("the last one")?;
            peer.wait_for_all(last, SOON)?;
            scene.unload_and_settle()?;
            return Ok(took);
        }
    }
    anyhow::bail!("the log host is not heard {:?} after", began.elapsed())
}

/// Another socket has the port.
fn port_taken(scene: &mut Scene) -> Result<()> {
    scene.vm.agent.bind(&format!("{GUEST}:6665"))?;
    obstacle(scene, PORT, &target(PORT), |scene| scene.vm.agent.unbind()).map(drop)
}

/// There is no route to the log host.
fn no_route_yet(scene: &mut Scene) -> Result<()> {
    scene.wire().add_host(Host::new(HOST_MAC, &["10.0.7.1"]));
    let target = format!("+@/eth0,{}@10.0.7.1/", PORT + 3);
    obstacle(scene, PORT + 3, &target, |scene| {
        scene.sh("ip route add 10.0.7.0/24 dev eth0").map(drop)
    })
    .map(drop)
}

/// The local address that the target names is not there yet: DHCP is slow.
fn no_address_yet(scene: &mut Scene) -> Result<()> {
    scene.wire().add_host(Host::new(HOST_MAC, &["10.0.8.1"]));
    let target = format!("+@10.0.8.15/eth0,{}@10.0.8.1/", PORT + 4);
    obstacle(scene, PORT + 4, &target, |scene| {
        scene.sh("ip addr add 10.0.8.15/24 dev eth0").map(drop)
    })
    .map(drop)
}
