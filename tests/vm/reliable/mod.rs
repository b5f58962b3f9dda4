// SPDX-License-Identifier: GPL-2.0

//! Reliable delivery: log hosts that answer, on wires that lose.
//!
//! | file | what is tried |
//! |---|---|
//! | `emergency.rs` | when emergency datagrams come, and when not |
//! | `responses.rs` | strange and hostile responses |
//! | `floods.rs` | many of them |
//! | `forged.rs` | a million that are made up, and as many as the wire takes |
//! | `gaps.rs` | records that are hidden |
//! | `rings.rs` | records that are in no ring, or gone |
//! | `echo.rs` | a firewall that makes a record of each response |
//! | `obstacles.rs` | what stands in the way of responses |
//! | `printer.rs` | printk's thread does not run |
//! | `lockup.rs` | a processor does not run |
//! | `teardown.rs` | the module, the link, the address go away |

mod echo;
mod emergency;
mod floods;
mod forged;
mod gaps;
mod idle;
mod lockup;
mod obstacles;
mod printer;
mod responses;
mod rings;
mod teardown;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::counters::Counters;
use nctest::record::parse;
use nctest::wire::faults::Faults;
use nctest::wire::Direction;

use crate::scene::{Scene, GUEST, HOST, PORT, SOON};
use crate::trial::Trial;

/// The trials of this directory.
pub fn trials() -> Vec<Trial> {
    let trials = [
        emergency::trials(),
        responses::trials(),
        floods::trials(),
        forged::trials(),
        gaps::trials(),
        idle::trials(),
        rings::trials(),
        obstacles::trials(),
        echo::trials(),
        printer::trials(),
        lockup::trials(),
        teardown::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// The extended target for the log host's port `port`; each is sent from the
/// default port.
pub(crate) fn target(port: u16) -> String {
    target_of(port, HOST)
}

/// The same for any log host.
pub(crate) fn target_of(port: u16, host: &str) -> String {
    format!("+@/eth0,{port}@{host}/")
}

/// Returns the number of lines of the console, from the `from`th on, that have `text` in them.
pub(crate) fn console_lines(scene: &Scene, from: usize, text: &str) -> usize {
    let lines = scene.vm.serial.lines(from);
    lines.iter().filter(|line| line.contains(text)).count()
}

/// Puts a log host on `port` that answers.
pub(crate) fn peer(scene: &Scene, port: u16, config: Config) -> Result<AckingLogger> {
    AckingLogger::attach(scene.wire(), port, config)
}

/// Loads the module with a target for [`PORT`] and with `parameters`, beside a log host that
/// answers; waits until it has acknowledged all and the module has seen that.
fn load_acked(scene: &mut Scene, kind: Kind, parameters: &str) -> Result<AckingLogger> {
    let peer = peer(scene, PORT, Config::new(kind))?;
    let said = scene.vm.serial.len();
    scene.load_with(&target(PORT), parameters)?;
    let line = format!("cmdline0: ACK timeout enabled for {HOST}:{PORT}");
    scene.vm.serial.wait_for(&line, said, SOON)?;
    let marker = "the log host answers";
    scene.log(marker)?;
    let seq = peer.logger.wait_for(marker, SOON)?;
    peer.wait_for_all(seq, SOON)?;
    Ok(peer)
}

/// Sends a response by hand, as the log host on `port`.
fn respond(scene: &Scene, port: u16, text: &[u8]) -> Result<()> {
    respond_from(scene, &format!("{HOST}:{port}"), text)
}

/// Sends a response by hand, from any sender.
fn respond_from(scene: &Scene, from: &str, text: &[u8]) -> Result<()> {
    let to: SocketAddr = format!("{GUEST}:6665").parse()?;
    scene.wire().send_udp(from.parse()?, to, text)
}

/// Exposes both directions to `faults`.
pub(crate) fn set_faults(scene: &Scene, faults: Faults) {
    for way in [Direction::FromGuest, Direction::ToGuest] {
        scene.wire().set_faults(way, faults);
    }
}

/// Unloads the module; returns the counters of each target that it logs then.
pub(crate) fn unload(scene: &mut Scene) -> Result<Vec<Counters>> {
    scene.unload()?;
    let lines = scene.sh("dmesg | grep 'netconsole_ext: cmdline' | tail -n 100")?;
    let mut last = BTreeMap::new();
    for counters in lines.lines().filter_map(Counters::parse) {
        last.insert(counters.target.clone(), counters);
    }
    let counters: Vec<_> = last.into_values().collect();
    for counters in &counters {
        println!("{counters:?}");
    }
    Ok(counters)
}

/// The same with one target.
fn unload_one(scene: &mut Scene) -> Result<Counters> {
    let counters = unload(scene)?;
    let mut found = counters.into_iter().filter(|c| c.target == "cmdline0");
    found.next().context("no line with cmdline0's counters")
}

/// Returns the records in the guest's log, by number.
pub(crate) fn kmsg(scene: &mut Scene) -> Result<BTreeMap<u64, Vec<u8>>> {
    let mut records = BTreeMap::new();
    for record in scene.vm.agent.kmsg()?.records {
        let seq = parse(&record).map_err(|e| anyhow!(e))?.seq;
        records.insert(seq, record);
    }
    Ok(records)
}

/// Returns the number of emergency datagrams after the first `from` datagrams.
pub(crate) fn emergencies(peer: &AckingLogger, from: usize) -> usize {
    let collector = peer.logger.lock();
    let arrivals = collector.arrivals[from..].iter();
    arrivals.filter(|arrival| arrival.emergency).count()
}

/// Returns the number of datagrams that have come.
pub(crate) fn arrived(peer: &AckingLogger) -> usize {
    peer.logger.lock().arrivals.len()
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
