// SPDX-License-Identifier: GPL-2.0

//! `stats/`: the state and the counts of a target.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};
use nctest_guest::Burst;

use super::{
    enable, get, load_bare, make, make_target, path, peer, refuse, refuse_value, remove, respond,
    set, wait_for_value, wait_until, EACCES,
};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{ours_only, trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial("stats_files", stats_files),
        trial("stats_states", stats_states),
        trial("stats_counters", stats_counters),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// The files that hold a number: all but `state`.
const COUNTERS: &[&str] = &[
    "acked_seq",
    "sent_seq",
    "unacked",
    "oldest_unacked_ms",
    "records",
    "datagrams",
    "retransmitted",
    "emergency",
    "emergency_rounds",
    "responses",
    "bad_responses",
    "lost",
    "dropped",
    "backlog",
];

/// Returns all numbers of a target.
fn counters(scene: &mut Scene, target: &str) -> Result<BTreeMap<&'static str, u64>> {
    let mut found = BTreeMap::new();
    for name in COUNTERS {
        let text = get(scene, &format!("{target}/stats/{name}"))?;
        let value = text.parse();
        let value = value.with_context(|| format!("{name} is {text:?}"))?;
        found.insert(*name, value);
    }
    Ok(found)
}

/// Each file has one line, which all users can read and none can write.
fn stats_files(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make(scene, "tgt")?;
    let there = scene.sh(&format!("ls -1 {}", path("tgt/stats")))?;
    let mut there: Vec<&str> = there.lines().collect();
    let mut wanted = COUNTERS.to_vec();
    wanted.push("state");
    there.sort_unstable();
    wanted.sort_unstable();
    ensure!(there == wanted, "the files are {there:?}");
    for name in &wanted {
        let file = format!("tgt/stats/{name}");
        let mode = scene.sh(&format!("stat -c %a {}", path(&file)))?;
        ensure!(mode.trim() == "444", "the mode of {name} is {mode}");
        refuse_value(scene, &file, "0", EACCES)?;
    }
    wait_for_value(scene, "tgt/stats/state", "disabled")?;
    for (name, value) in counters(scene, "tgt")? {
        ensure!(value == 0, "{name} is {value} before anything was sent");
    }
    // The group is the target's own.
    refuse(scene, &format!("mkdir {}", path("tgt/stats/more")), "")?;
    refuse(scene, &format!("rmdir {}", path("tgt/stats")), "")?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// Every state is reached, in the order in which a day may bring them.
fn stats_states(scene: &mut Scene) -> Result<()> {
    const STATE: &str = "tgt/stats/state";
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    wait_for_value(scene, STATE, "disabled")?;
    enable(scene, "tgt", true)?;
    scene.log("nobody answers")?;
    scene.logger.wait_for("nobody answers", SOON)?;
    wait_for_value(scene, STATE, "never-acked")?;
    let peer = peer(scene, PORT)?;
    scene.log("somebody answers")?;
    wait_for_value(scene, STATE, "acked")?;
    // Some record has been unacknowledged for more than a second.
    peer.set_silent(true);
    scene.log("no answer to this")?;
    wait_for_value(scene, STATE, "lagging")?;
    let age: u64 = get(scene, "tgt/stats/oldest_unacked_ms")?.parse()?;
    ensure!(age >= 1000, "lagging after {age} ms");
    peer.set_silent(false);
    wait_for_value(scene, STATE, "acked")?;
    // The cable is out; the device is down.
    scene.vm.set_link(0, false)?;
    wait_for_value(scene, STATE, "no-carrier")?;
    scene.vm.set_link(0, true)?;
    scene.log("the cable is back")?;
    wait_for_value(scene, STATE, "acked")?;
    scene.sh("ip link set eth0 down")?;
    wait_for_value(scene, STATE, "down")?;
    scene.sh("ip link set eth0 up")?;
    scene.log("the device is up again")?;
    wait_for_value(scene, STATE, "acked")?;
    // An emergency, which comes soon by the setting, and its end.
    enable(scene, "tgt", false)?;
    wait_for_value(scene, STATE, "disabled")?;
    set(scene, "tgt/ack_timeout_ms", "500")?;
    enable(scene, "tgt", true)?;
    scene.log("for the emergency")?;
    wait_for_value(scene, STATE, "acked")?;
    peer.set_silent(true);
    scene.log("no answer to this either")?;
    wait_for_value(scene, STATE, "emergency")?;
    peer.set_silent(false);
    wait_for_value(scene, STATE, "acked")?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The numbers match the traffic.
fn stats_counters(scene: &mut Scene) -> Result<()> {
    const BURST: u64 = 50;
    load_bare(scene)?;
    let more = [("ack_timeout_ms", "1500"), ("emg_min_intv_ms", "20")];
    make_target(scene, "tgt", PORT, &more)?;
    enable(scene, "tgt", true)?;
    scene.log("the first one")?;
    scene.logger.wait_for("the first one", SOON)?;
    wait_until(scene, "tgt/stats/records", "at least 1", |n| n != "0")?;
    let before = counters(scene, "tgt")?;
    let burst = Burst::new(BURST, scene.seed, "counted");
    scene.vm.agent.log(&burst, SOON)?;
    // Three fragments.
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    scene.log("the last one")?;
    let last = scene.logger.wait_for("the last one", SOON)?;
    wait_until(scene, "tgt/stats/sent_seq", "the last one", |n| {
        n.parse().is_ok_and(|n: u64| n >= last)
    })?;
    let sent = counters(scene, "tgt")?;
    let grown = |name: &str| sent[name] - before[name];
    ensure!(grown("records") >= BURST + 2, "{before:?}\n{sent:?}");
    let fragments = grown("datagrams") - grown("records");
    ensure!(fragments >= 2, "{before:?}\n{sent:?}");
    let (arrived, datagrams) = {
        let collector = scene.logger.lock();
        let full = collector.arrivals.iter().filter(|a| a.len > 0).count();
        (collector.records.len() as u64, full as u64)
    };
    ensure!(
        sent["records"] == arrived && sent["datagrams"] == datagrams,
        "{arrived} records in {datagrams} datagrams have come: {sent:?}"
    );
    ensure!(sent["responses"] == 0, "{sent:?}");
    // Nothing is unacked for a peer that does not acknowledge; then it does,
    // all but the last few.
    let from = sent["bad_responses"];
    respond(scene, PORT, "rubbish")?;
    respond(scene, PORT, "nca1x")?;
    wait_until(scene, "tgt/stats/bad_responses", "2 more", |n| {
        n.parse().is_ok_and(|n: u64| n == from + 2)
    })?;
    let acked = last - 5;
    respond(scene, PORT, &format!("nca{acked} {} {last}", acked + 1))?;
    wait_until(scene, "tgt/stats/retransmitted", "2", |n| n == "2")?;
    wait_for_value(scene, "tgt/stats/acked_seq", &acked.to_string())?;
    let now = counters(scene, "tgt")?;
    ensure!(now["responses"] >= 1, "{now:?}");
    // The module's own lines are logged as well, so there may be more.
    ensure!(now["unacked"] >= 5, "{now:?}");
    wait_until(scene, "tgt/stats/oldest_unacked_ms", "over 300", |n| {
        n.parse().is_ok_and(|n: u64| n > 300)
    })?;
    wait_until(scene, "tgt/stats/emergency_rounds", "over 1", |n| {
        n.parse().is_ok_and(|n: u64| n > 1)
    })?;
    let now = counters(scene, "tgt")?;
    ensure!(now["emergency"] >= 10, "two rounds of five: {now:?}");
    // An acknowledgement of all records ends the emergency.
    let peer = peer(scene, PORT)?;
    scene.log("acknowledge all")?;
    let seq = peer.logger.wait_for("acknowledge all", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    wait_for_value(scene, "tgt/stats/state", "acked")?;
    wait_for_value(scene, "tgt/stats/unacked", "0")?;
    let now = counters(scene, "tgt")?;
    ensure!(now["oldest_unacked_ms"] == 0, "{now:?}");
    ensure!(now["acked_seq"] >= seq, "{now:?}");
    ensure!(now["lost"] == 0 && now["dropped"] == 0, "{now:?}");
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}
