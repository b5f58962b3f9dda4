// SPDX-License-Identifier: GPL-2.0

//! The next hop's Ethernet address, and the target's own address: both are found and followed if
//! they were not given, and stay if they were.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::logger::Logger;
use nctest::wire::hosts::Host;
use nctest::wire::Udp;

use super::{answering, nothing_happens, reaches, sh, two_cards, Target};
use crate::scene::{Scene, GUEST, HOST, HOST6, HOST_MAC, HOST_MAC_TEXT};
use crate::scene::{PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = vec![
        trial_with("next_hop_on_the_link", two_cards, on_the_link),
        trial_with("next_hop_gateway", two_cards, gateway),
        trial_with("next_hop_given", two_cards, given),
        trial_with("address_renewal", two_cards, address_renewal),
        trial_with("address_without_successor", two_cards, without_successor),
        trial_with("no_temporary_address", two_cards, no_temporary_address),
    ];
    trials.into_iter().map(ours_only).collect()
}

const BROADCAST: [u8; 6] = [0xff; 6];
const BROADCAST_TEXT: &str = "ff:ff:ff:ff:ff:ff";
/// The address of the host's new card.
const NEW_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];
const NEW_MAC_TEXT: &str = "02:00:00:00:00:11";
/// A log host behind gateways.
const FAR: &str = "10.9.9.9";
/// The same by IPv6.
const FAR6: &str = "fd09::9";

/// The longest until a change is followed: a few seconds, and more on a busy machine.
const FOLLOWED: Duration = Duration::from_secs(10);

/// Returns the frames that the guest has sent to `to`, from the `from`th on.
fn sent(scene: &Scene, to: &str, from: usize) -> Vec<Udp> {
    let mut sent = scene.wire().sent_by_guest(from);
    sent.retain(|udp| udp.to.ip().to_string() == to && !udp.payload.is_empty());
    sent
}

/// Fails unless all of these went to `mac`.
fn all_to(sent: &[Udp], mac: [u8; 6]) -> Result<()> {
    ensure!(!sent.is_empty(), "nothing was sent");
    let other = sent.iter().find(|udp| udp.mac.1 != mac);
    ensure!(other.is_none(), "not to {mac:x?}: {other:x?}");
    Ok(())
}

/// A log host on the link: asked for by the module itself, broadcast only until
/// the answer is there; the same from `netconsole=` and from configfs, by IPv4
/// and by IPv6.
fn on_the_link(scene: &mut Scene) -> Result<()> {
    sh(scene, "ip neigh flush dev eth0")?;
    scene.load(&format!("+@/eth0,@{HOST}/;+@/eth0,6667@{HOST6}/"))?;
    let mut targets = Vec::new();
    for (name, host) in [("cmdline0", HOST), ("cmdline1", HOST6)] {
        targets.push((Target::make(scene, name)?, host));
    }
    // The loader's targets have told the kernel where the hosts are; forget it.
    for (target, _) in &targets {
        target.until(scene, "remote_mac", HOST_MAC_TEXT, FOLLOWED)?;
    }
    sh(scene, "ip neigh flush dev eth0")?;
    for (name, host, port) in [("four", HOST, "6668"), ("six", HOST6, "6669")] {
        let target = Target::to(scene, name, "eth0", host)?;
        target.set(scene, "remote_port", port)?;
        target.says(scene, "remote_mac", BROADCAST_TEXT)?;
        target.set(scene, "enabled", "1")?;
        target.until(scene, "remote_mac", HOST_MAC_TEXT, FOLLOWED)?;
        targets.push((target, host));
    }
    for (host, ports) in [(HOST, [6666, 6668]), (HOST6, [6667, 6669])] {
        for port in ports {
            let logger = Logger::attach(scene.wire(), port);
            reaches(scene, &logger, &format!("known by now {port}"))?;
            let mut all = sent(scene, host, 0);
            all.retain(|udp| udp.to.port() == port);
            let known = all.iter().position(|udp| udp.mac.1 != BROADCAST);
            let (before, after) = all.split_at(known.context("all was broadcast")?);
            println!(
                "port {port}: {} broadcast, {} not",
                before.len(),
                after.len()
            );
            all_to(after, HOST_MAC)?;
        }
    }
    for (target, _) in targets {
        target.set(scene, "enabled", "0")?;
        target.remove(scene)?;
    }
    scene.unload_and_settle()
}

/// A log host behind a gateway, which gets a new card, loudly and quietly, and
/// is then replaced by another one.
fn gateway(scene: &mut Scene) -> Result<()> {
    const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x22];
    const OTHER_TEXT: &str = "02:00:00:00:00:22";
    let router = |mac| Host::new(mac, &["10.0.2.254", "fd00::254"]).router_to(&[FAR, FAR6]);
    let other = Host::new(OTHER_MAC, &["10.0.2.253", "fd00::253"]).router_to(&[FAR, FAR6]);
    let first_mac = [0x02, 0, 0, 0, 0, 0x21];
    scene.wire().add_host(router(first_mac));
    scene.wire().add_host(other);
    // By default a neighbour entry becomes stale only after half a minute.
    sh(
        scene,
        "for family in ipv4 ipv6; do
             cd /proc/sys/net/$family/neigh/eth0
             echo 2000 > base_reachable_time_ms
             echo 1 > delay_first_probe_time
             echo 300 > retrans_time_ms
         done
         ip route add default via 10.0.2.254
         ip -6 route add default via fd00::254",
    )?;
    scene.load("")?;
    for (far, next) in [(FAR, "10.0.2.253"), (FAR6, "fd00::253")] {
        scene.wire().remove_host(NEW_MAC);
        scene.wire().remove_host(first_mac);
        scene.wire().add_host(router(first_mac));
        sh(scene, "ip neigh flush dev eth0")?;
        let peer = answering(scene, 0)?;
        let target = Target::to(scene, "t", "eth0", far)?;
        target.set(scene, "enabled", "1")?;
        target.until(scene, "remote_mac", "02:00:00:00:00:21", FOLLOWED)?;
        through(scene, &peer, &target, far, first_mac)?;

        // The new card is announced.
        let renewed = router(NEW_MAC);
        let ip = renewed.ips[usize::from(far == FAR6)];
        let telling = renewed.announcement(ip).context("no announcement")?;
        scene.wire().remove_host(first_mac);
        scene.wire().add_host(renewed);
        // Too soon after the last answer, Linux believes no other one.
        std::thread::sleep(Duration::from_millis(1500));
        scene.wire().send_frame(telling);
        let took = target.until(scene, "remote_mac", NEW_MAC_TEXT, FOLLOWED)?;
        println!("{far}: an announcement was followed after {took:.1?}");
        through(scene, &peer, &target, far, NEW_MAC)?;

        // The new card is not announced: the entry becomes stale, is probed, and is asked for anew.
        scene.wire().remove_host(NEW_MAC);
        scene.wire().add_host(router(first_mac));
        let limit = Duration::from_secs(40);
        let began = Instant::now();
        scene.log("to where nobody is")?;
        target.until(scene, "remote_mac", "02:00:00:00:00:21", limit)?;
        println!(
            "{far}: a silent change was noticed after {:.1?}",
            began.elapsed()
        );
        through(scene, &peer, &target, far, first_mac)?;
        peer.logger.wait_for("to where nobody is", SOON)?;

        // Another gateway.
        let family = if far == FAR { "" } else { "-6" };
        sh(scene, &format!("ip {family} route add {far} via {next}"))?;
        let took = target.until(scene, "remote_mac", OTHER_TEXT, FOLLOWED)?;
        println!("{far}: another route was followed after {took:.1?}");
        through(scene, &peer, &target, far, OTHER_MAC)?;
        sh(scene, &format!("ip {family} route del {far} via {next}"))?;
        target.until(scene, "remote_mac", "02:00:00:00:00:21", FOLLOWED)?;
        through(scene, &peer, &target, far, first_mac)?;
        target.says(scene, "enabled", "1")?;
        target.set(scene, "enabled", "0")?;
        target.remove(scene)?;
    }
    scene.unload_and_settle()
}

/// Checks that records reach the log host through `mac` only, and are acked.
fn through(
    scene: &mut Scene,
    peer: &AckingLogger,
    target: &Target,
    far: &str,
    mac: [u8; 6],
) -> Result<()> {
    let from = scene.wire().captured();
    let text = format!("to {far} by way of {mac:x?} {from}");
    let seq = reaches(scene, &peer.logger, &text)?;
    all_to(&sent(scene, far, from), mac)?;
    target.until_acked(scene, seq).map(drop)
}

/// An Ethernet address that was given stays, be it right or wrong, even the broadcast address; an
/// empty one counts as not given.
fn given(scene: &mut Scene) -> Result<()> {
    scene.load("")?;
    let target = Target::to(scene, "t", "eth0", HOST)?;
    for (text, mac) in [(HOST_MAC_TEXT, HOST_MAC), (BROADCAST_TEXT, BROADCAST)] {
        target.set(scene, "remote_mac", text)?;
        target.set(scene, "enabled", "1")?;
        let from = scene.wire().captured();
        let host = Host::new(NEW_MAC, &[HOST]);
        let telling = host.announcement(host.ips[0]);
        // The kernel's neighbour table has the right address, and learns it again.
        sh(scene, &format!("ping -c 1 -W 1 {HOST} > /dev/null || true"))?;
        scene.wire().send_frame(telling.context("no announcement")?);
        sh(
            scene,
            &format!("ip neigh replace {HOST} lladdr {NEW_MAC_TEXT} dev eth0"),
        )?;
        scene.log("to the address that was given")?;
        nothing_happens();
        target.says(scene, "remote_mac", text)?;
        scene.log("still to the address that was given")?;
        nothing_happens();
        let mut sent = sent(scene, HOST, from);
        sent.retain(|udp| udp.to.port() == PORT);
        all_to(&sent, mac)?;
        // An address that was given cannot be removed while the target is enabled.
        target.refuses(scene, "remote_mac", "", "resource busy")?;
        target.set(scene, "enabled", "0")?;
        target.says(scene, "remote_mac", text)?;
    }
    sh(scene, &format!("ip neigh del {HOST} dev eth0"))?;
    target.refuses(scene, "remote_mac", "02:00:00:00:00", "Invalid argument")?;
    target.set(scene, "remote_mac", "")?;
    target.set(scene, "enabled", "1")?;
    target.until(scene, "remote_mac", HOST_MAC_TEXT, FOLLOWED)?;
    let from = scene.wire().captured();
    let logger = scene.logger.clone();
    reaches(scene, &logger, "to the address that was found")?;
    let mut sent = sent(scene, HOST, from);
    sent.retain(|udp| udp.to.port() == PORT);
    all_to(&sent, HOST_MAC)?;
    target.remove(scene)?;
    scene.unload_and_settle()
}

/// The device gets another address, as by DHCP: the target takes it, and hears its log host there.
/// A target whose address was given keeps it.
fn address_renewal(scene: &mut Scene) -> Result<()> {
    let second = answering_on(scene, PORT + 1)?;
    let peer = answering(scene, 0)?;
    scene.load("")?;
    let target = Target::to(scene, "auto", "eth0", HOST)?;
    target.set(scene, "enabled", "1")?;
    target.says(scene, "local_ip", GUEST)?;
    let fixed = Target::to(scene, "fixed", "eth0", HOST)?;
    fixed.set(scene, "remote_port", "6667")?;
    fixed.set(scene, "local_ip", GUEST)?;
    fixed.set(scene, "enabled", "1")?;
    let seq = reaches(scene, &peer.logger, "with the first address")?;
    target.until_acked(scene, seq)?;
    // The old address goes before the new one comes, or after it, or with all others.
    let renewals = [
        (
            "10.0.2.16",
            "ip addr del 10.0.2.15/24 dev eth0; ip addr add 10.0.2.16/24 dev eth0",
        ),
        (
            "10.0.2.17",
            "ip addr del 10.0.2.16/24 dev eth0; sleep 1; ip addr add 10.0.2.17/24 dev eth0",
        ),
        (
            "10.0.2.18",
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries
             ip addr add 10.0.2.18/24 dev eth0; ip addr del 10.0.2.17/24 dev eth0",
        ),
        (
            "10.0.2.19",
            "ip addr flush dev eth0; ip addr add 10.0.2.19/24 dev eth0",
        ),
    ];
    for (address, script) in renewals {
        sh(scene, script)?;
        let took = target.until(scene, "local_ip", address, FOLLOWED)?;
        println!("{address} was taken after {took:.1?}");
        ensure!(took < Duration::from_secs(4), "{took:?}");
        let from = scene.wire().captured();
        let text = format!("from {address}");
        let seq = reaches(scene, &peer.logger, &text)?;
        // An ack to this address is accepted.
        target.until_acked(scene, seq)?;
        for udp in sent(scene, HOST, from) {
            let expected = if udp.to.port() == PORT {
                address
            } else {
                GUEST
            };
            ensure!(udp.from == format!("{expected}:6665").parse()?, "{udp:x?}");
        }
        second.logger.wait_for(&text, SOON)?;
        fixed.says(scene, "local_ip", GUEST)?;
    }
    for target in [target, fixed] {
        target.says(scene, "enabled", "1")?;
        target.set(scene, "enabled", "0")?;
        target.remove(scene)?;
    }
    scene.unload_and_settle()
}

/// A log host on `eth0`'s wire at another port.
fn answering_on(scene: &Scene, port: u16) -> Result<AckingLogger> {
    let mut config = Config::new(Kind::Session);
    config.first = None;
    AckingLogger::attach(scene.wire(), port, config)
}

/// The target goes on using its old address until there is a new one, also by IPv6.
fn without_successor(scene: &mut Scene) -> Result<()> {
    scene.load("")?;
    let cases = [
        (HOST, GUEST, "24", "10.0.2.20", ""),
        (HOST6, "fd00::15", "64", "fd00::20", "nodad"),
    ];
    for (host, old, length, new, more) in cases {
        let peer = answering(scene, 0)?;
        let target = Target::to(scene, "t", "eth0", host)?;
        target.set(scene, "enabled", "1")?;
        target.says(scene, "local_ip", old)?;
        reaches(scene, &peer.logger, &format!("{old} is there"))?;
        sh(scene, &format!("ip addr del {old}/{length} dev eth0"))?;
        nothing_happens();
        let from = scene.wire().captured();
        reaches(scene, &peer.logger, &format!("{old} is not there"))?;
        target.says(scene, "enabled", "1")?;
        target.says(scene, "local_ip", old)?;
        for udp in sent(scene, host, from) {
            ensure!(udp.from.ip().to_string() == old, "{udp:x?}");
        }
        sh(
            scene,
            &format!("ip addr add {new}/{length} dev eth0 {more}"),
        )?;
        target.until(scene, "local_ip", new, FOLLOWED)?;
        let seq = reaches(scene, &peer.logger, &format!("{new} is there"))?;
        target.until_acked(scene, seq)?;
        target.set(scene, "enabled", "0")?;
        target.remove(scene)?;
    }
    scene.unload_and_settle()
}

/// A temporary IPv6 address of the privacy extensions is never taken, even if it is the newest.
fn no_temporary_address(scene: &mut Scene) -> Result<()> {
    let temporary = "ip -6 addr show dev eth0 temporary";
    let add = |address: &str, life: u32| {
        format!(
            "echo 2 > /proc/sys/net/ipv6/conf/eth0/use_tempaddr
             ip addr add {address}/64 dev eth0 nodad mngtmpaddr \\
                valid_lft {life} preferred_lft {life}
             for i in $(seq 50); do {temporary} | grep -q inet6 && break; usleep 100000; done
             {temporary} | grep inet6"
        )
    };
    sh(scene, "ip addr del fd00::15/64 dev eth0")?;
    println!("{}", sh(scene, &add("fd00::a:15", 36000))?);
    scene.load("")?;
    let peer = answering(scene, 0)?;
    let target = Target::to(scene, "t", "eth0", HOST6)?;
    target.set(scene, "enabled", "1")?;
    target.says(scene, "local_ip", "fd00::a:15")?;
    reaches(scene, &peer.logger, "beside a temporary address")?;
    // The public one goes, the temporary one stays for a moment at least, and
    // another public one comes with another temporary one.
    sh(scene, "ip addr del fd00::a:15/64 dev eth0")?;
    println!("{}", sh(scene, &add("fd00::b:15", 36000))?);
    target.until(scene, "local_ip", "fd00::b:15", FOLLOWED)?;
    let seq = reaches(scene, &peer.logger, "beside another one")?;
    target.until_acked(scene, seq)?;
    for udp in sent(scene, HOST6, 0) {
        let from = udp.from.ip().to_string();
        ensure!(
            ["fd00::a:15", "fd00::b:15"].contains(&from.as_str()),
            "{udp:x?}"
        );
    }
    target.remove(scene)?;
    scene.unload_and_settle()
}
