// SPDX-License-Identifier: GPL-2.0

//! The cost of a record, beside upstream's netconsole: a figure for `make bench`
//! (`NCTEST_BENCH=1`), not a test.
//!
//! The guest has one processor whose clock counts instructions, so the run time of a thread in
//! `/proc/PID/schedstat` is a number of instructions, independent of the host's load.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::accel::Accel;
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env;
use nctest::vm::{VmConfig, MODULE};

use crate::scene::{Scene, HOST, HOST_MAC_TEXT, PORT};
use crate::trial::{stock_trial_with, Trial};

/// The path of upstream's module in the guest.
const UPSTREAM: &str = "/upstream.ko";

/// The number of records for one figure.
const RECORDS: u64 = 1000;

/// The longest time that a burst may take: counting instructions makes the guest slow.
const LIMIT: Duration = Duration::from_secs(300);

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![stock_trial_with(
        "instructions_stock",
        counted,
        instructions,
    )]
}

fn counted(config: &mut VmConfig) -> Result<()> {
    config.accel = Some(Accel::Counted);
    config.cpus = 1;
    config.from_snapshot = false;
    config.boot_limit = LIMIT;
    let packed = env::stock_kernel_module("drivers/net/netconsole.ko.xz")?;
    let unpacked = Command::new("xz").arg("-dc").arg(&packed).output()?;
    ensure!(unpacked.status.success(), "xz -dc {}", packed.display());
    let file = config.out_dir()?.join("upstream.ko");
    fs::write(&file, unpacked.stdout)?;
    config.files.push((UPSTREAM.into(), file));
    Ok(())
}

/// The texts that are logged: name, and command that prints one. A control byte becomes four bytes.
const TEXTS: [(&str, &str); 3] = [
    ("60 bytes", "printf 'x%.0s' $(seq 60)"),
    ("450 bytes", "printf 'x%.0s' $(seq 450)"),
    ("3 fragments", "printf '\\001%.0s' $(seq 600)"),
];

/// Logs the same records with each of the two modules in turn, twice; ours has a logger that knows
/// sessions and acks.
fn instructions(scene: &mut Scene) -> Result<()> {
    for port in [PORT + 1, PORT + 2] {
        for (file, name, port) in [
            (UPSTREAM, "netconsole", PORT),
            (MODULE, "netconsole_ext", port),
        ] {
            let peer = match port {
                PORT => None,
                _ => Some(AckingLogger::attach(
                    scene.wire(),
                    port,
                    Config::new(Kind::Session),
                )?),
            };
            let target = format!("+@/eth0,{port}@{HOST}/{HOST_MAC_TEXT}");
            scene.sh(&format!("insmod {file} netconsole={target}; sleep 3"))?;
            for (what, text) in TEXTS {
                let count = cost(scene, text)?;
                println!("{what}: {name}: {count} instructions a record of printk's threads");
            }
            scene.sh(&format!("rmmod {name}; sleep 1"))?;
            drop(peer);
        }
    }
    Ok(())
}

/// Returns the instructions that a record takes in the printk threads of a module's consoles.
fn cost(scene: &mut Scene, text: &str) -> Result<u64> {
    // A shell is slow enough for any device, so that the threads never wait for it.
    let script = format!(
        "text=$({text}); n=0
         while [ $n -lt {RECORDS} ]; do echo $text > /dev/kmsg; n=$((n + 1)); done; sleep 2"
    );
    let before = run_time(scene)?;
    let output = scene.vm.agent.exec(&script, LIMIT)?;
    ensure!(output.code == 0, "{}", output.text);
    Ok((run_time(scene)? - before) / RECORDS)
}

/// Returns the run time of these threads, in nanoseconds.
fn run_time(scene: &mut Scene) -> Result<u64> {
    let text = scene.sh("for p in /proc/[0-9]*; do
             read -r name < $p/comm
             case $name in pr/netcon*) read -r ns rest < $p/schedstat; echo $ns;; esac
         done")?;
    let times: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(!times.is_empty(), "the module has no console");
    Ok(times.iter().sum())
}
