// SPDX-License-Identifier: GPL-2.0

//! What stands in the way: of responses, of printk's thread, of unloading.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use libtest_mimic::Trial;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::collector::contains;
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::hosts::Host;
use nctest_guest::Burst;

use super::{
    arrived, emergencies, kmsg, load_acked, peer, respond, set_faults, sleep_ms, target, unload_one,
};
use crate::scene::{trial, trial_with, Scene, GUEST, HOST, HOST_MAC, PORT, SOON};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("torn_down_50_times", torn_down_50_times),
        trial("dead_logger_comes_back", dead_logger_comes_back),
        trial_with("firewall", with_nft, firewall),
        trial_with("stuck_printer", with_second_card, stuck_printer),
        trial("port_taken", port_taken),
        trial("no_route_yet", no_route_yet),
        trial("no_address_yet", no_address_yet),
    ]
}

fn with_nft(config: &mut VmConfig) -> Result<()> {
    config.program(NFT)
}

fn with_second_card(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::E1000);
    Ok(())
}

/// The module, the link, and the address are taken away and given back, in the
/// middle of retransmissions and of emergencies.
fn torn_down_50_times(scene: &mut Scene) -> Result<()> {
    const TIMES: u64 = 50;
    let parameters = "ack_timeout_ms=300 emg_min_intv_ms=20 emg_max_intv_ms=40 keepalive_s=1";
    let peer = load_acked(scene, Kind::Session, parameters)?;
    let lossy = Faults {
        loss: 0.5,
        ..Faults::default()
    };
    let (mut slabs, mut marked) = (Vec::new(), 0);
    for n in 0..TIMES {
        set_faults(scene, lossy);
        let from = arrived(&peer);
        let burst = Burst::new(100, scene.seed + n, &format!("torn {n}"));
        scene.vm.agent.log(&burst, SOON)?;
        // In turn: while it is being asked, and in an emergency.
        let silent = n / 3 % 2 == 1;
        peer.set_silent(silent);
        sleep_ms(if silent { 600 } else { 60 });
        match n % 3 {
            0 => {
                scene.unload()?;
                scene.load_with(&target(PORT), parameters)?;
            }
            1 if n % 2 == 0 => {
                scene.vm.set_link(0, false)?;
                sleep_ms(200);
                scene.vm.set_link(0, true)?;
            }
            1 => {
                scene.sh("ip link set eth0 down; usleep 200000; ip link set eth0 up")?;
            }
            _ => {
                let address = format!("{GUEST}/24 dev eth0");
                scene.sh(&format!("ip addr del {address}"))?;
                sleep_ms(200);
                scene.sh(&format!("ip addr add {address}"))?;
            }
        }
        marked += emergencies(&peer, from);
        peer.set_silent(false);
        // Memory is looked at in the same state, after the first few rounds.
        if n == 5 || n == TIMES - 1 {
            set_faults(scene, Faults::default());
            calm(scene, &peer, &format!("calm {n}"))?;
            slabs.push(scene.slab_kib()?);
        }
    }
    println!("torn_down_50_times: {marked} emergency datagrams, slabs {slabs:?} KiB");
    ensure!(marked > 10, "{marked} emergency datagrams: were there any?");
    // netpoll's queue would be here, had it grown.
    ensure!(slabs[1] < slabs[0] + 1024, "the slabs grew: {slabs:?} KiB");
    let last = calm(scene, &peer, "all is over")?;
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    peer.logger.assert_equal(&all, ..=last)?;
    scene.unload_and_settle()
}

/// Wait until all is acknowledged and nothing is on its way.
fn calm(scene: &mut Scene, peer: &AckingLogger, marker: &str) -> Result<u64> {
    scene.log(marker)?;
    let seq = peer.logger.wait_for(marker, Duration::from_secs(60))?;
    peer.wait_for_all(seq, Duration::from_secs(60))?;
    sleep_ms(1500);
    Ok(seq)
}

/// The log host's process has died, so its kernel answers "port unreachable" to
/// each datagram. The first ack after its return counts, though an error is
/// waiting in the socket before it.
fn dead_logger_comes_back(scene: &mut Scene) -> Result<()> {
    let mut peer = load_acked(scene, Kind::Nca, "keepalive_s=1")?;
    for round in 0..5 {
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
        respond(scene, PORT, format!("nca{newest}").as_bytes())?;
        sleep_ms(500);
        // Would it have gone unheard, 2 s later there were none either: that
        // it was heard is what the counters say.
        if round == 4 {
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

/// Debian's nft, which needs its libraries in the guest.
const NFT: &str = "/usr/sbin/nft";

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
    let peer = peer(scene, PORT, Config::new(Kind::Nca))?;
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

/// printk's thread for the console does not run: the records go out all the
/// same, soon, in order, and are not sent again when it does.
fn stuck_printer(scene: &mut Scene) -> Result<()> {
    const SWITCH: &str = "/sys/module/netconsole_ext/parameters/debug_stop_printer";
    scene.load(&target(PORT))?;
    scene.all_has_arrived(0)?;
    for round in 0..3 {
        let first = scene.newest()? + 1;
        let from = scene.logger.lock().arrivals.len();
        scene.sh(&format!("echo 1 > {SWITCH}"))?;
        // The thread is in the middle of waiting for a record: one may slip by.
        scene.log(&format!("wakes it up {round}"))?;
        sleep_ms(200);
        let burst = Burst::new(200, scene.seed + round, &format!("stuck {round}"));
        let began = Instant::now();
        scene.vm.agent.log(&burst, SOON)?;
        // With what a device has to say of itself, which printk's log does not
        // give to whom reads it by number: what was sent first is what counts.
        scene.sh("cd /sys/bus/pci/drivers/e1000
             for device in 0000:*; do echo $device > unbind; echo $device > bind; done")?;
        scene.log(&format!("stuck, the end of {round}"))?;
        let last = scene
            .logger
            .wait_for(&format!("stuck, the end of {round}"), SOON)?;
        let took = began.elapsed();
        let slow = {
            let collector = scene.logger.lock();
            let end = format!("stuck {round} 199 ");
            let at = collector.find(&end).context("the burst")?.at;
            at - began
        };
        println!("stuck_printer: the burst took {slow:.2?}, all {took:.2?}");
        ensure!(slow < Duration::from_secs(3), "{slow:?}");
        scene.sh(&format!("echo 0 > {SWITCH}"))?;
        sleep_ms(1500);
        let collector = scene.logger.lock();
        let order: Vec<_> = collector.arrivals[from..]
            .iter()
            .filter_map(|a| a.seq)
            .collect();
        let sorted = order.windows(2).all(|pair| pair[0] <= pair[1]);
        ensure!(sorted, "out of order: {order:?}");
        let again = collector.duplicates;
        ensure!(again == 0, "{again} records were sent twice");
        drop(collector);
        // All are there; dictionaries may not be, as they come from printk's log.
        let log = kmsg(scene)?;
        let collector = scene.logger.lock();
        let mut with_dictionary = None;
        for (seq, theirs) in log.range(first..=last) {
            let ours = collector.records.get(seq);
            let ours = &ours.with_context(|| format!("no record {seq}"))?.bytes;
            if contains(theirs, b"\n DEVICE=") {
                with_dictionary = Some(*seq);
            }
            let line = |bytes: &[u8]| {
                let end = bytes.iter().position(|&c| c == b'\n');
                bytes[..end.map_or(bytes.len(), |n| n + 1)].to_vec()
            };
            ensure!(
                line(ours) == line(theirs),
                "{} instead of {}",
                ours.escape_ascii(),
                theirs.escape_ascii()
            );
        }
        drop(collector);
        // Asked for, it is the same again; the collector compares.
        let asked = with_dictionary.context("no record with a dictionary")?;
        respond(scene, PORT, format!("nca {asked}").as_bytes())?;
        scene.logger.wait(SOON, "it again", |collector| {
            (collector.records[&asked].copies == 2).then_some(())
        })?;
        let errors = scene.logger.lock().errors.clone();
        ensure!(errors.is_empty(), "{errors:?}");
        // The next round counts from here.
        scene.logger = nctest::logger::Logger::attach(scene.wire(), PORT);
    }
    scene.log("printed as ever")?;
    scene.logger.wait_for("printed as ever", SOON)?;
    scene.unload_and_settle()
}

/// What a socket needs is not there at load: the records go out all the same.
/// Then `remedy` brings it about, and the log host is heard.
fn obstacle(
    scene: &mut Scene,
    port: u16,
    targets: &str,
    remedy: fn(&mut Scene) -> Result<()>,
) -> Result<()> {
    let peer = peer(scene, port, Config::new(Kind::Nca))?;
    let said = scene.vm.serial.len();
    scene.load(targets)?;
    scene.log("in spite of it")?;
    let seq = peer.logger.wait_for("in spite of it", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    sleep_ms(3000);
    let lines = scene.vm.serial.lines(said);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    ensure!(with("ACK timeout enabled") == 0, "there is no obstacle");
    // Of what stands in the way it says something, but not again and again.
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
            println!("obstacle: heard {:.1?} after its end", began.elapsed());
            let last = scene.newest()?;
            scene.log("the last one")?;
            peer.wait_for_all(last, SOON)?;
            return scene.unload_and_settle();
        }
    }
    anyhow::bail!("the log host is not heard {:?} after", began.elapsed())
}

/// Another socket has the port.
fn port_taken(scene: &mut Scene) -> Result<()> {
    scene.vm.agent.bind(&format!("{GUEST}:6665"))?;
    obstacle(scene, PORT, &target(PORT), |scene| scene.vm.agent.unbind())
}

/// There is no route to the log host.
fn no_route_yet(scene: &mut Scene) -> Result<()> {
    scene.wire().add_host(Host::new(HOST_MAC, &["10.0.7.1"]));
    let target = format!("+@/eth0,{}@10.0.7.1/", PORT + 3);
    obstacle(scene, PORT + 3, &target, |scene| {
        scene.sh("ip route add 10.0.7.0/24 dev eth0").map(drop)
    })
}

/// The local address that the target names is not there yet: DHCP is slow.
fn no_address_yet(scene: &mut Scene) -> Result<()> {
    scene.wire().add_host(Host::new(HOST_MAC, &["10.0.8.1"]));
    let target = format!("+@10.0.8.15/eth0,{}@10.0.8.1/", PORT + 4);
    obstacle(scene, PORT + 4, &target, |scene| {
        scene.sh("ip addr add 10.0.8.15/24 dev eth0").map(drop)
    })
}
