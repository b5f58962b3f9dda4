// SPDX-License-Identifier: GPL-2.0

//! `nctest demo`: the module on Debian's own kernel, its log shown as it arrives, then compared.

use std::io::{stdout, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nctest::env::{self, Guest};
use nctest::logger::Logger;
use nctest::record::parse;
use nctest::show::Style;
use nctest::vm::{Vm, VmConfig, MODULE};

use super::{log_host, ADDRESSES, HOST};

const PORT: u16 = 6666;
const MARKER: &str = "nctest: the last record of the demonstration";

/// The script whose records are logged in the guest, besides the kernel's own.
const RECORDS: &str = r#"
say() { printf "<$1>%s\n" "$2" > /dev/kmsg; }
say 6 'demo: an ordinary record'
say 4 'demo: a warning'
say 3 'demo: an error'
say 7 'demo: a debugging aid'
say 6 "demo: a tab	and a back\\slash, which travel escaped"
# Escaped fourfold by printk, this needs three datagrams.
printf '<5>demo: 480 control bytes: %s\n' "$(printf '\001%.0s' $(seq 480))" > /dev/kmsg
"#;

/// Runs the demonstration. True if everything has arrived.
pub fn run() -> Result<bool> {
    let guest = Guest::stock()?;
    say(&format!("booting {}", guest.kernel.display()));
    let mut config = VmConfig::new("demo", guest);
    config.seed = env::seed()?;
    let mut vm = Vm::start(config)?;
    let seconds = vm.start_time.as_secs_f64();
    say(&format!("Linux {} is up after {seconds:.1} s", vm.release));
    let outcome = demonstrate(&mut vm);
    vm.save_captures()?;
    let capture = vm.out.join("wire0.pcapng");
    say(&format!(
        "every frame is in {} (for Wireshark)",
        capture.display()
    ));
    outcome.with_context(|| vm.report())
}

fn demonstrate(vm: &mut Vm) -> Result<bool> {
    let wire = &vm.wires[0];
    wire.add_host(log_host());
    let style = Style {
        colour: stdout().is_terminal(),
    };
    let logger = Logger::attach_with(
        wire,
        PORT,
        Box::new(move |collector, udp, completed| {
            if let Some(record) = completed.and_then(|seq| collector.records.get(&seq)) {
                println!("{}", style.line(udp.from.ip(), record));
            }
            Vec::new()
        }),
    );
    vm.sh(ADDRESSES)?;
    let insmod = format!("insmod {MODULE} netconsole=+@/eth0,@{HOST}/");
    say(&format!("in the guest: {insmod}"));
    say(&format!("on the log host, {HOST}:{PORT}:"));
    let loaded = Instant::now();
    vm.sh(&insmod)?;
    vm.sh(RECORDS)?;
    vm.sh(&format!("echo '<6>{MARKER}' > /dev/kmsg"))?;
    // Records that have not come by the end of this wait are lost; the comparison shows them.
    let _ = logger.wait_for(MARKER, Duration::from_secs(30));
    let took = loaded.elapsed().as_secs_f64();
    let kmsg = vm.agent.kmsg()?.records;
    let ends = |record: &&Vec<u8>| String::from_utf8_lossy(record).contains(MARKER);
    let last = kmsg
        .iter()
        .find(ends)
        .context("the marker is not in the guest's own log")?;
    let last = parse(last).map_err(anyhow::Error::msg)?.seq;
    let collector = logger.lock();
    let comparison = collector.compare(&kmsg, ..=last);
    let bad = vm.wires[0].stats().bad;
    let fragmented: Vec<_> = collector
        .records
        .values()
        .filter(|r| r.datagrams > 1)
        .collect();
    let fragments: usize = fragmented.iter().map(|r| r.datagrams).sum();
    println!();
    println!(
        "records received        {:>7}   in {took:.1} s",
        collector.records.len()
    );
    println!(
        "  of them in fragments  {:>7}   ({fragments} fragments)",
        fragmented.len()
    );
    println!("datagrams               {:>7}", collector.arrivals.len());
    println!("bytes                   {:>7}", collector.bytes);
    println!("bad checksums           {bad:>7}");
    println!("missing sequence numbers{:>7}", comparison.missing.len());
    println!("malformed datagrams     {:>7}", collector.errors.len());
    println!("the guest's /dev/kmsg:  {}", comparison.describe());
    let well = comparison.is_perfect() && bad == 0 && collector.errors.is_empty();
    drop(collector);
    vm.check()?;
    if well {
        say("every record of the guest's log has arrived, byte for byte");
    } else {
        say("NOT every record of the guest's log has arrived as it was");
    }
    Ok(well)
}

fn say(what: &str) {
    println!("== {what}");
}
