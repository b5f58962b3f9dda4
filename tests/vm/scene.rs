// SPDX-License-Identifier: GPL-2.0

//! The scene of most trials: a guest whose `eth0` has addresses, and a log host at the other end of
//! its cable.

use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use nctest::env;
use nctest::logger::Logger;
use nctest::vm::{Vm, VmConfig, MODULE};
use nctest::wire::hosts::Host;
use nctest::wire::Wire;

/// The log host's hardware address.
pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The same in the form of the module's parameter.
pub const HOST_MAC_TEXT: &str = "02:00:00:00:00:01";
/// The log host's addresses.
pub const HOST: &str = "10.0.2.1";
/// The log host's IPv6 address.
pub const HOST6: &str = "fd00::1";
/// The guest's address.
pub const GUEST: &str = "10.0.2.15";
/// The port that loggers listen on.
pub const PORT: u16 = 6666;
/// The limit for events that come within seconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A running guest with its log host.
pub struct Scene {
    /// The guest.
    pub vm: Vm,
    /// The extended receiver on [`PORT`].
    pub logger: Logger,
    /// The seed of random choices.
    pub seed: u64,
}

impl Scene {
    /// The wire in `eth0`.
    pub fn wire(&self) -> &Wire {
        &self.vm.wires[0]
    }

    /// Runs a script in the guest that must succeed, and returns its output.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        self.vm.sh(script)
    }

    /// Loads the module with these targets.
    pub fn load(&mut self, targets: &str) -> Result<()> {
        self.load_with(targets, "")
    }

    /// Loads the module with these targets and more parameters.
    pub fn load_with(&mut self, targets: &str, more: &str) -> Result<()> {
        // The kernel's own parser needs the inner quotes for blanks.
        self.sh(&format!(
            "insmod {MODULE} 'netconsole=\"{targets}\"' {more}"
        ))
        .map(drop)
    }

    /// Unloads it.
    pub fn unload(&mut self) -> Result<()> {
        self.sh(&format!("rmmod {}", module_name())).map(drop)
    }

    /// Unloads it, and fails if the console has an alarm, or, where that can be seen, if it has
    /// left memory behind.
    pub fn unload_and_settle(&mut self) -> Result<()> {
        self.unload()?;
        if env::kasan() {
            self.leaks_nothing()?;
        }
        self.vm.settle()
    }

    /// Checks that kmemleak has found nothing of ours, in a guest with `kmemleak=on`.
    pub fn leaks_nothing(&mut self) -> Result<()> {
        let file = "/sys/kernel/debug/kmemleak";
        // kmemleak does not report objects that are younger than five seconds.
        let script = format!("echo scan > {file}; sleep 6; echo scan > {file}; cat {file}");
        let text = self.sh(&script)?;
        let mut objects: Vec<&str> = text.split("unreferenced object").skip(1).collect();
        let all = objects.len();
        objects.retain(|object| is_ours(object));
        println!("kmemleak: {all} objects, {} of them ours", objects.len());
        if all > objects.len() {
            println!("kmemleak has found what is not ours, which is no failure:\n{text}");
        }
        ensure!(
            objects.is_empty(),
            "{} leaks:\n{}",
            objects.len(),
            objects.join("\nunreferenced object")
        );
        Ok(())
    }

    /// Logs a line in the guest. (Without its newline the kernel would keep the record open for a
    /// continuation, and not show it.)
    pub fn log(&mut self, line: &str) -> Result<()> {
        self.sh(&format!("printf '%s\\n' '{line}' > /dev/kmsg"))
            .map(drop)
    }

    /// Logs a final line, waits for it, and compares all that was logged from record `first` on.
    /// Returns the number of records.
    pub fn all_has_arrived(&mut self, first: u64) -> Result<usize> {
        let marker = format!("nctest: all before {}", self.vm.serial.len());
        self.log(&marker)?;
        let last = self.logger.wait_for(&marker, SOON)?;
        let kmsg = self.vm.agent.kmsg()?;
        self.logger.assert_equal(&kmsg.records, first..=last)
    }

    /// Returns the memory of the kernel's small objects, in KiB.
    pub fn slab_kib(&mut self) -> Result<u64> {
        let text = self.sh("awk '/^Slab:/ { print $2 }' /proc/meminfo")?;
        text.trim().parse().context("no Slab: in /proc/meminfo")
    }

    /// Returns the memory in use.
    pub fn memory(&mut self) -> Result<Memory> {
        let mut value = |key: &str| -> Result<u64> {
            let text = self.sh(&format!("awk '/^{key}:/ {{ print $2 }}' /proc/meminfo"))?;
            let value = text.trim().parse();
            value.with_context(|| format!("no {key}: in /proc/meminfo"))
        };
        Ok(Memory {
            slab: value("Slab")?,
            vmalloc: value("VmallocUsed")?,
            available: value("MemAvailable")?,
        })
    }

    /// Returns the number of the newest record in the guest's log.
    pub fn newest(&mut self) -> Result<u64> {
        let kmsg = self.vm.agent.kmsg()?;
        let newest = kmsg.records.last().context("an empty log")?;
        let newest = nctest::record::parse(newest).map_err(|e| anyhow!(e))?;
        Ok(newest.seq)
    }
}

/// The memory that a guest has in use, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The kernel's small objects.
    pub slab: u64,
    /// Its large ones.
    pub vmalloc: u64,
    /// The memory that is left for programs.
    pub available: u64,
}

impl Memory {
    /// Fails if notably more is in use than `before`.
    pub fn has_not_grown(&self, before: &Self) -> Result<()> {
        // kmemleak and KASAN keep data about freed memory, which takes memory, too.
        if env::kasan() {
            return Ok(());
        }
        let grown = self.slab > before.slab + 1024
            || self.vmalloc > before.vmalloc + 512
            || self.available + 8192 < before.available;
        ensure!(
            !grown,
            "more memory is in use: {self:?} KiB after {before:?}"
        );
        Ok(())
    }
}

/// Returns whether the module, or one that has been unloaded, has allocated it. Of an unloaded one
/// only the address is left; netdevsim's leaks would look the same.
fn is_ours(object: &str) -> bool {
    let mut lines = object.lines();
    lines.any(|line| line.contains(module_name()) || line.trim_start().starts_with("0x"))
}

/// Returns the name of the module under test, as `lsmod` shows it.
pub fn module_name() -> &'static str {
    if env::upstream() {
        "netconsole"
    } else {
        "netconsole_ext"
    }
}

/// Give `eth0` its addresses and wait until they can be used.
const ADDRESSES: &str = "
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set lo up
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip addr add fd00::15/64 dev eth0
";

impl Scene {
    /// Starts the guest, gives it its addresses, and puts the log host on its cable.
    pub fn set(config: VmConfig) -> Result<Self> {
        let seed = config.seed;
        // An installed system sees to its addresses itself.
        let addresses = if config.disk.is_none() { ADDRESSES } else { "" };
        let mut vm = Vm::start(config)?;
        for wire in &vm.wires {
            wire.add_host(Host::new(HOST_MAC, &[HOST, HOST6]));
        }
        let logger = Logger::attach(&vm.wires[0], PORT);
        vm.sh(addresses)?;
        Ok(Self { vm, logger, seed })
    }
}
