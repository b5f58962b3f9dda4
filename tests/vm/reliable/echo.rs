// SPDX-License-Identifier: GPL-2.0

//! A firewall that logs the log host's responses: each is a record, which is answered.

use std::time::Duration;

use anyhow::{ensure, Result};
use nctest::acker::{Config, Kind};
use nctest::env;
use nctest::vm::VmConfig;

use super::obstacles::{with_nft, NFT};
use super::{arrived, kmsg, peer, sleep_ms, target};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{ours_only, stock_trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = vec![
        stock_trial_with("firewall_that_logs_stock", with_log, |scene| {
            dies_out(scene, "")
        }),
        stock_trial_with("firewall_that_logs_and_drops_stock", with_log, |scene| {
            dies_out(scene, "drop")
        }),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// Debian's modules for such a rule, in the order of loading.
const MODULES: [&str; 3] = ["nf_tables", "nf_log_syslog", "nft_log"];

fn with_log(config: &mut VmConfig) -> Result<()> {
    for (n, module) in MODULES.into_iter().enumerate() {
        let from = env::stock_kernel_module(&format!("net/netfilter/{module}.ko.xz"))?;
        config.files.push((format!("/log{n}.ko.xz"), from));
    }
    with_nft(config)
}

/// The time for which the datagrams that one record leads to are counted.
const WHILE_MS: u64 = 20_000;

/// The most datagrams in that time: after the first two each waits twice as long as the one before,
/// from a second on.
const MOST: usize = 8;

/// One record leads to few others, fewer and fewer, with a log host that answers each at once; and
/// all arrive when something else is logged.
fn dies_out(scene: &mut Scene, verdict: &str) -> Result<()> {
    scene.sh(&format!(
        "set -e
         for m in /log*.ko.xz; do unxz $m; insmod ${{m%.xz}}; done
         echo 'table inet f {{ chain i {{
             type filter hook input priority 0; policy accept;
             udp dport 6665 log prefix \"ackd \" {verdict};
         }}; }}' | {NFT} -f -"
    ))?;
    let mut config = Config::new(Kind::Nca);
    (config.ack_every, config.ack_after) = (Duration::ZERO, 1);
    let peer = peer(scene, PORT, config)?;
    let first = scene.newest()?;
    scene.load(&target(PORT))?;
    scene.log("one record")?;
    peer.logger.wait_for("one record", SOON)?;
    // On a busy machine the records before are still being sent, and those about them with them.
    sleep_ms(3000);
    let from = arrived(&peer);
    sleep_ms(WHILE_MS);
    // The log host also acks by itself now and then, so there are more lines than answers.
    let records = kmsg(scene)?;
    let of_it = |record: &&Vec<u8>| record.windows(5).any(|part| part == b"ackd ");
    let lines = records.values().filter(of_it).count();
    let sent = arrived(&peer) - from;
    println!(
        "firewall_that_logs: {lines} lines, {sent} sent in 20 s; seed {}",
        scene.seed
    );
    ensure!(lines > 0, "the firewall logs nothing: a poor test");
    ensure!((1..=MOST).contains(&sent), "{sent} datagrams");
    scene.log("the last record")?;
    let last = peer.logger.wait_for("the last record", SOON)?;
    let kmsg = scene.vm.agent.kmsg()?;
    peer.logger.assert_equal(&kmsg.records, first..=last)?;
    scene.unload_and_settle()
}
