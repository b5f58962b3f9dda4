// SPDX-License-Identifier: GPL-2.0

//! Torture: for a minute everything at once, targets, devices, addresses, user data, records,
//! responses. Then all is taken down: nothing may have warned, hung, or leaked memory.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{ensure, Result};
use fastrand::Rng;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::hosts::Host;
use nctest::wire::{Direction, Sender};

use super::loops::Loops;
use super::{locks, prepare_eth1, reaches, sh, with_netdevsim, Target, GUEST1, HOST1};
use crate::scene::{module_name, Scene, HOST, HOST_MAC, PORT};
use crate::trial::{trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![trial_with("torture", leaks_are_seen, torture)]
}

const TIME: Duration = Duration::from_secs(60);

/// Configures a guest that records the stack of each allocation.
fn leaks_are_seen(config: &mut VmConfig) -> Result<()> {
    config.append.push_str(" kmemleak=on");
    // Memory for kmemleak's records, and for the copy of the log.
    config.memory = 1024;
    config.boot_limit = Duration::from_secs(300);
    with_netdevsim(config)
}

/// The loops; `BASE` is where the targets are.
const LOOPS: &[(&str, &str)] = &[
    ("life-a", LIFE),
    ("life-b", LIFE),
    (
        "toggle",
        "t=BASE/keep; did put 0 $t/enabled; did put 1 $t/enabled; [ $((RANDOM % 3)) = 0 ] || nap",
    ),
    (
        "links",
        "did ip link set eth1 down; nap; did ip link set eth1 up; nap; nap",
    ),
    (
        "rename",
        "did ip link set eth1 name lan1; nap; did ip link set lan1 name eth1; nap; nap",
    ),
    (
        "netdevsim",
        "did put '7 1' /sys/bus/netdevsim/new_device; nap; nap
         put 7 /sys/bus/netdevsim/del_device; nap",
    ),
    (
        "join",
        "ip link add m0 type bridge; did ip link set eth1 master m0; nap
         ip link set eth1 nomaster; ip link del m0; nap; nap; nap",
    ),
    (
        "addresses",
        "ip addr del 10.0.2.15/24 dev eth0; did ip addr add 10.0.2.16/24 dev eth0; nap
         ip addr del fd00::15/64 dev eth0; did ip addr add fd00::16/64 dev eth0 nodad; nap
         did ip addr add 10.0.2.15/24 dev eth0; ip addr del 10.0.2.16/24 dev eth0; nap
         did ip addr add fd00::15/64 dev eth0 nodad; ip addr del fd00::16/64 dev eth0
         ip addr add 10.0.3.15/24 dev eth1; ip neigh flush dev eth0; nap",
    ),
    (
        "userdata",
        "u=BASE/keep/userdata; one_of one two three four five; mkdir $u/$word
         did put \"value $RANDOM $RANDOM\" $u/$word/value; nap
         one_of cpu_nr taskname release msgid; put $((RANDOM % 2)) $u/${word}_enabled
         one_of one two three four five; rmdir $u/$word",
    ),
    (
        "log",
        "for i in 1 2 3 4 5 6 7 8 9 10; do did put \"torture $RANDOM $RANDOM\" /dev/kmsg; done
         [ $((RANDOM % 8)) -gt 0 ] || { did put \"$(printf '\\001%.0s' $(seq 500))\" /dev/kmsg; }
         [ $((RANDOM % 2)) = 0 ] || nap",
    ),
    (
        "read",
        "for t in BASE/*; do did cat $t/* $t/stats/* $t/userdata/* $t/userdata/*/*; done
         did true; nap; nap",
    ),
];

/// A target's life, which names a device that may not be there.
const LIFE: &str = "
    t=BASE/NAME; mkdir $t
    one_of eth0 eth0 eth1 eth1 lan1 eth2; put $word $t/dev_name
    one_of 10.0.2.1 10.0.2.1 10.0.3.1 fd00::1; put $word $t/remote_ip
    put $((RANDOM % 2)) $t/extended
    put $((6670 + RANDOM % 4)) $t/remote_port
    [ $((RANDOM % 2)) = 0 ] || put 02:00:00:00:00:01 $t/remote_mac
    mkdir $t/userdata/of; put \"its own $RANDOM\" $t/userdata/of/value
    did put 1 $t/enabled; nap
    put 0 $t/enabled; did put 1 $t/enabled; nap; nap
    rmdir $t/userdata/of; rmdir $t";

fn torture(scene: &mut Scene) -> Result<()> {
    let base = format!("/sys/kernel/config/{}", module_name());
    println!("torture: seed {}", scene.seed);
    prepare_eth1(scene)?;
    scene.wire().add_host(Host::new(HOST_MAC, &[HOST1]));
    // Without this, removing the first of two addresses removes the second one, too.
    sh(
        scene,
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries
         insmod /netdevsim.ko",
    )?;
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let adopted = Target::make(scene, "cmdline0")?;
    adopted.says(scene, "enabled", "1")?;
    let keep = Target::to(scene, "keep", "eth0", HOST)?;
    keep.set(scene, "remote_port", "6670")?;
    keep.set(scene, "enabled", "1")?;
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    for way in [Direction::FromGuest, Direction::ToGuest] {
        let loss = 0.1;
        scene.wire().set_faults(
            way,
            Faults {
                loss,
                ..Faults::default()
            },
        );
    }
    let mut loops = Loops::new(scene.seed);
    for (name, body) in LOOPS {
        // Each loop has to run once; the machine's speed decides how much more.
        loops = loops.counting(name, 1, &body.replace("BASE", &base).replace("NAME", name));
    }
    let before = scene.newest()?;
    let senders = [scene.wire().sender(), scene.vm.wires[1].sender()];
    let noise = Noise::start(senders, scene.seed)?;
    let done = loops.run(scene, TIME)?;
    let responses = noise.stop() + peer.with(|acker| acker.responses);
    let records = scene.newest()? - before;
    let did = |name: &str| done[name].did;
    println!(
        "torture: {} targets enabled, {} toggles, {} devices made, {} links changed, {} renames, \
         {} joins, {} addresses, {} values, {records} records, {responses} responses; seed {}",
        did("life-a") + did("life-b"),
        did("toggle"),
        did("netdevsim"),
        did("links"),
        did("rename"),
        did("join"),
        did("addresses"),
        did("userdata"),
        scene.seed
    );
    for way in [Direction::FromGuest, Direction::ToGuest] {
        scene.wire().set_faults(way, Faults::default());
    }
    locks::are_as_documented(scene)?;
    take_down(scene, &base)?;
    again_and_again(scene, &peer)?;
    scene.leaks_nothing()?;
    scene.unload_and_settle()
}

/// Removes all directories and devices, and restores `eth0`.
fn take_down(scene: &mut Scene, base: &str) -> Result<()> {
    sh(
        scene,
        &format!(
            "for t in {base}/*/; do rmdir $t/userdata/* 2> /dev/null || true; rmdir $t; done
             echo 7 > /sys/bus/netdevsim/del_device 2> /dev/null || true
             rmmod netdevsim
             for a in 10.0.2.15/24 10.0.2.16/24; do
                 ip addr del $a dev eth0 2> /dev/null || true
             done
             ip addr add 10.0.2.15/24 dev eth0
             ip link set lan1 name eth1 2> /dev/null || true
             ip link del m0 2> /dev/null || true
             ip link set eth1 up
             ip addr replace {GUEST1}/24 dev eth1"
        ),
    )
    .map(drop)
}

/// Unloads and loads, each time with a target that works and a directory that keeps the module from
/// being unloaded. The module is loaded in the end.
fn again_and_again(scene: &mut Scene, peer: &AckingLogger) -> Result<()> {
    let module = module_name();
    for round in 0..5 {
        scene.unload()?;
        scene.load(&format!("+@/eth0,@{HOST}/"))?;
        let target = Target::make(scene, "cmdline0")?;
        reaches(scene, &peer.logger, &format!("loaded again {round}"))?;
        let busy = sh(scene, &format!("! rmmod {module}"))?;
        ensure!(busy.contains("temporarily unavailable"), "{busy:?}");
        target.remove(scene)?;
    }
    Ok(())
}

/// A faulty log host: it sends random numbers to every target, and garbage.
struct Noise {
    running: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Noise {
    fn start(wires: [Sender; 2], seed: u64) -> Result<Self> {
        let running = Arc::new(AtomicBool::new(true));
        let sent = Arc::new(AtomicU64::new(0));
        let (on, count) = (Arc::clone(&running), Arc::clone(&sent));
        let thread = thread::Builder::new().name("noise".into());
        let thread = thread.spawn(move || {
            let mut rng = Rng::with_seed(seed ^ 0x6e6f);
            while on.load(Ordering::Relaxed) {
                for _ in 0..5 {
                    let (from, to) = ends(&mut rng);
                    let wire = &wires[usize::from(from.ip().to_string() == HOST1)];
                    let response = response(&mut rng);
                    let good = wire.send_udp(from, to, &response).is_ok();
                    count.fetch_add(u64::from(good), Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        })?;
        Ok(Self {
            running,
            sent,
            thread: Some(thread),
        })
    }

    /// Stops it; returns the number of responses.
    fn stop(self) -> u64 {
        let sent = Arc::clone(&self.sent);
        drop(self);
        sent.load(Ordering::Relaxed)
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns two ends of a conversation: a log host's address and the guest's.
fn ends(rng: &mut Rng) -> (SocketAddr, SocketAddr) {
    let port = [PORT, 6670, 6671, 6672, 6673][rng.usize(..5)];
    let ends = [
        (HOST, "10.0.2.15"),
        (HOST, "10.0.2.16"),
        (HOST1, GUEST1),
        ("fd00::1", "fd00::15"),
    ];
    let (from, to) = ends[rng.usize(..ends.len())];
    let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an IP address"), port);
    (end(from, port), end(to, 6665))
}

/// Returns a response with random numbers, or garbage.
fn response(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..4) == 0 {
        let len = rng.usize(..1400);
        return (0..len).map(|_| rng.u8(..)).collect();
    }
    let mut text = ["nca", "ncrx"][rng.usize(..2)].to_string();
    if rng.bool() {
        text += &rng.u64(..50_000).to_string();
    }
    for _ in 0..rng.usize(..60) {
        let a = rng.u64(..50_000);
        text += &match rng.usize(..8) {
            0 => format!(" {a}-{}", a + rng.u64(..300)),
            _ => format!(" {a}"),
        };
    }
    text.into_bytes()
}
