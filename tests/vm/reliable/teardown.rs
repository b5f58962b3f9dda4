// SPDX-License-Identifier: GPL-2.0

//! Tear-down under load: the module, the link and the address are taken away and given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::acker::{AckingLogger, Kind};
use nctest::wire::faults::Faults;
use nctest_guest::Burst;

use super::{arrived, kmsg, load_acked, set_faults, sleep_ms, target};
use crate::scene::{Memory, Scene, GUEST, HOST, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("torn_down_50_times", torn_down_50_times),
        trial("unloaded_in_a_flood", unloaded_in_a_flood),
    ]
}

/// The number of times that each thing is taken away.
const TIMES: u64 = 50;

/// Emergencies begin soon and are quick.
const PARAMETERS: &str = "ack_timeout_ms=150 emg_min_intv_ms=20 emg_max_intv_ms=40 keepalive_s=1";

/// The things that are taken away and given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The module.
    Module,
    /// The cable.
    Cable,
    /// The interface's being up.
    Interface,
    /// The local address.
    Address,
}

impl What {
    const ALL: [Self; 4] = [Self::Module, Self::Cable, Self::Interface, Self::Address];

    fn take_and_give_back(self, scene: &mut Scene, peer: &AckingLogger) -> Result<()> {
        match self {
            Self::Module => {
                scene.unload()?;
                // So that acks are on before the next time.
                set_faults(scene, Faults::default());
                peer.set_silent(false);
                let said = scene.vm.serial.len();
                scene.load_with(&target(PORT), PARAMETERS)?;
                let line = "cmdline0: ACK timeout enabled for ";
                scene.vm.serial.wait_for(line, said, SOON).map(drop)
            }
            Self::Cable => {
                scene.vm.set_link(0, false)?;
                sleep_ms(50);
                scene.vm.set_link(0, true)
            }
            Self::Interface => scene
                .sh("ip link set eth0 down; usleep 50000; ip link set eth0 up")
                .map(drop),
            Self::Address => {
                let address = format!("{GUEST}/24 dev eth0");
                scene
                    .sh(&format!(
                        "ip addr del {address}; usleep 50000; ip addr add {address}"
                    ))
                    .map(drop)
            }
        }
    }
}

/// Each is taken away and given back 50 times, in turn in the middle of
/// retransmissions and in the middle of an emergency.
fn torn_down_50_times(scene: &mut Scene) -> Result<()> {
    let peer = load_acked(scene, Kind::Session, PARAMETERS)?;
    let mut before = None;
    for what in What::ALL {
        let began = Instant::now();
        for n in 0..TIMES {
            busy(scene, &peer, &format!("{what:?} {n}"), n % 2 == 1)?;
            what.take_and_give_back(scene, &peer)?;
            peer.set_silent(false);
            // Memory is looked at in the same state, after the first few rounds.
            if n == 5 && before.is_none() {
                before = Some(calm_memory(scene, &peer, "after a few")?);
            }
        }
        println!(
            "torn_down_50_times: {what:?}: {:.1?}; seed {}",
            began.elapsed(),
            scene.seed
        );
        calm_memory(scene, &peer, &format!("{what:?} is over"))?;
    }
    let after = calm_memory(scene, &peer, "all is over")?;
    // netpoll's queue would be here, had it grown; and rings and buffers.
    after.has_not_grown(&before.unwrap_or(after))?;
    let all: Vec<_> = kmsg(scene)?.into_values().collect();
    let last = peer.with(|acker| acker.contiguous()).unwrap_or(0);
    peer.logger.assert_equal(&all, ..=last)?;
    scene.unload_and_settle()
}

/// Logs records on a wire that loses half, and returns while the module is in the middle of
/// retransmissions, or of an emergency.
fn busy(scene: &mut Scene, peer: &AckingLogger, prefix: &str, silent: bool) -> Result<()> {
    set_faults(
        scene,
        Faults {
            loss: 0.5,
            ..Faults::default()
        },
    );
    let (from, asked) = (arrived(peer), peer.with(|acker| acker.asked));
    peer.set_silent(silent);
    let burst = Burst::new(20, scene.seed, prefix).with_long(10);
    scene.vm.agent.log(&burst, SOON)?;
    if silent {
        let what = format!("an emergency datagram before {prefix}");
        return peer.logger.wait(SOON, &what, |collector| {
            let mut fresh = collector.arrivals[from..].iter();
            fresh.any(|arrival| arrival.emergency).then_some(())
        });
    }
    peer.wait(SOON, "having asked for anything", |acker| {
        acker.asked > asked
    })
}

/// Returns the memory in use when all is acknowledged and nothing is on its way.
fn calm_memory(scene: &mut Scene, peer: &AckingLogger, marker: &str) -> Result<Memory> {
    set_faults(scene, Faults::default());
    scene.log(marker)?;
    let seq = peer.logger.wait_for(marker, Duration::from_secs(60))?;
    peer.wait_for_all(seq, Duration::from_secs(60))?;
    sleep_ms(1500);
    let memory = scene.memory()?;
    println!("{marker}: {memory:?}");
    Ok(memory)
}

/// The module is unloaded while more is asked for than it can send.
fn unloaded_in_a_flood(scene: &mut Scene) -> Result<()> {
    const ROUNDS: u64 = 12;
    let sender = scene.wire().sender();
    let stop = AtomicBool::new(false);
    let (from, to) = (
        format!("{HOST}:{PORT}").parse()?,
        format!("{GUEST}:6665").parse()?,
    );
    let mut memory = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = sender.send_udp(from, to, b"nca100 1-400 1-18446744073709551615");
                thread::sleep(Duration::from_micros(400));
            }
        });
        let mut rounds = || -> Result<()> {
            for n in 0..ROUNDS {
                let before = scene.logger.lock().arrivals.len();
                scene.load(&target(PORT))?;
                scene.logger.wait(SOON, "a flood", |collector| {
                    (collector.arrivals.len() > before + 3000).then_some(())
                })?;
                let began = Instant::now();
                scene.unload()?;
                let took = began.elapsed();
                ensure!(took < Duration::from_secs(10), "unloading took {took:?}");
                if n == 3 || n == ROUNDS - 1 {
                    sleep_ms(1500);
                    memory.push(scene.memory()?);
                }
            }
            Ok(())
        };
        let outcome = rounds();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    println!("unloaded_in_a_flood: {memory:?}; seed {}", scene.seed);
    memory[1].has_not_grown(&memory[0])?;
    scene.vm.settle()
}
