// SPDX-License-Identifier: GPL-2.0

//! Records that are not just a line of text.

use std::fmt::Write;

use anyhow::{ensure, Result};
use nctest::collector::{contains, DATAGRAM_MAX};
use nctest::qemu::NicModel;
use nctest_guest::Burst;

use crate::scene::{Scene, HOST, HOST6, SOON};
use crate::trial::{ours_only, trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("record_in_three_fragments", record_in_three_fragments),
        trial_with(
            "record_with_dictionary",
            |config| {
                config.nics.push(NicModel::E1000);
                Ok(())
            },
            record_with_dictionary,
        ),
        trial("binary_junk", binary_junk),
        ours_only(trial("panic_console_sleeps", panic_console_sleeps)),
    ]
}

/// 600 control bytes, which printk escapes fourfold, do not fit in two
/// datagrams; over IPv6, where the headers are longer.
fn record_in_three_fragments(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST6}/"))?;
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    scene.all_has_arrived(0)?;
    let record = scene.logger.record(&"\\x01".repeat(400))?;
    ensure!(record.datagrams == 3, "{} datagrams", record.datagrams);
    let collector = scene.logger.lock();
    let fragments = collector
        .arrivals
        .iter()
        .filter(|a| a.seq == Some(record.seq));
    let lengths: Vec<usize> = fragments.map(|a| a.len).collect();
    drop(collector);
    ensure!(
        lengths.iter().all(|len| *len <= DATAGRAM_MAX),
        "{lengths:?}"
    );
    // Each fragment but the last is nearly full.
    ensure!(lengths[..2].iter().all(|len| *len > 900), "{lengths:?}");
    scene.unload_and_settle()
}

/// A driver's message about its device comes with the device's name.
fn record_with_dictionary(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let first = scene.newest()?;
    scene.sh("cd /sys/bus/pci/drivers/e1000
         for device in 0000:*; do echo $device > unbind; echo $device > bind; done")?;
    scene.all_has_arrived(0)?;
    let collector = scene.logger.lock();
    let fresh = collector
        .records
        .range(first + 1..)
        .map(|(_, record)| &record.bytes);
    let mut found = fresh.filter(|bytes| {
        contains(bytes, b"\n SUBSYSTEM=pci\n") && contains(bytes, b"\n DEVICE=+pci:0000:")
    });
    ensure!(found.next().is_some(), "no fresh record has a dictionary");
    drop(found);
    drop(collector);
    scene.unload_and_settle()
}

/// Every byte that userspace can put into a record.
fn binary_junk(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let (mut octal, mut expected) = (String::new(), String::new());
    for c in 1..=255u8 {
        write!(octal, "\\{c:03o}")?;
        if (b' '..127).contains(&c) && c != b'\\' {
            expected.push(char::from(c));
        } else {
            write!(expected, "\\x{c:02x}")?;
        }
    }
    scene.sh(&format!("printf 'junk: {octal}\\n' > /dev/kmsg"))?;
    scene.all_has_arrived(0)?;
    let record = scene.logger.record("junk: ")?;
    let text = String::from_utf8(record.bytes)?;
    let body = text.split_once(';').map_or("", |(_, body)| body);
    let expected = format!("junk: {expected}\n");
    ensure!(body == expected, "{body:?} instead of {expected:?}");
    scene.unload_and_settle()
}

/// The thread of the console that waits for a panic is not woken by records.
fn panic_console_sleeps(scene: &mut Scene) -> Result<()> {
    // Processes end while they are looked through.
    const RUNS: &str = "for p in /proc/[0-9]*; do
        { read -r name < $p/comm; } 2> /dev/null || continue
        case $name in pr/netconx_panic*) read -r ns wait runs < $p/schedstat; echo $runs;; esac
        done";
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    // The first record finds the thread waiting and does not wake it; later ones do not even try.
    scene.log("the first")?;
    scene.logger.wait_for("the first", SOON)?;
    let first = scene.newest()?;
    let before: u64 = scene.sh(RUNS)?.trim().parse()?;
    let burst = Burst::new(500, scene.seed, "not for the panic's console");
    scene.vm.agent.log(&burst, SOON)?;
    scene.all_has_arrived(first)?;
    let after: u64 = scene.sh(RUNS)?.trim().parse()?;
    ensure!(after == before, "it ran {} times", after - before);
    // The thread ends when it is told to.
    scene.unload_and_settle()
}
