// SPDX-License-Identifier: GPL-2.0

//! Targets when devices, addresses and neighbours change.
//!
//! | file | what is tried |
//! |---|---|
//! | `devices.rs` | devices that are renamed, go, come back, join others, move away |
//! | `races.rs` | the same in unlucky orders, again and again |
//! | `nexthop.rs` | the Ethernet address to send to, and the own address |
//! | `slow.rs` | a device that takes few frames beside one that takes all |
//! | `stacked.rs` | targets on a bond, a bridge, a VLAN |
//! | `torture.rs` | everything at once, and a look at what is left of it |
//! | `locks.rs` | the locks' table, beside what lockdep has seen by then |
//! | `loops.rs` | loops of the guest's shell that run side by side |
//!
//! The cards: `eth0` as everywhere, and `eth1`, which these trials unplug, rename and so on, with
//! [`HOST1`] at the other end of its cable.

mod devices;
mod locks;
mod loops;
mod masters;
mod nexthop;
mod races;
mod slow;
mod stacked;
mod torture;

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env::upstream;
use nctest::logger::Logger;
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest::wire::hosts::Host;

use crate::scene::{module_name, Scene, HOST_MAC, PORT, SOON};
use crate::trial::Trial;

/// The log host on `eth1`'s cable.
const HOST1: &str = "10.0.3.1";
/// `eth1`'s address.
const GUEST1: &str = "10.0.3.15";

/// The trials of this directory.
pub fn trials() -> Vec<Trial> {
    let trials = [
        devices::trials(),
        masters::trials(),
        races::trials(),
        nexthop::trials(),
        slow::trials(),
        stacked::trials(),
        torture::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// The host's iproute2: busybox's `ip` knows no bonds.
pub(crate) const IP: &str = "/usr/sbin/ip";

/// The beginning of every script: the real `ip`; and cards that are pulled out
/// and put in again, by name and by what `unplug` has said.
const PRELUDE: &str = r#"
    ip() { /usr/sbin/ip "$@"; }
    unplug() {
        device=$(basename "$(readlink "/sys/class/net/$1/device")")
        echo "$device" > /sys/bus/virtio/drivers/virtio_net/unbind
        echo "$device"
    }
    plug() { echo "$1" > /sys/bus/virtio/drivers/virtio_net/bind; }
"#;

/// A guest with two cards and the real `ip`.
fn two_cards(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::Virtio);
    config.program(IP)
}

/// A guest with netdevsim beside them.
fn with_netdevsim(config: &mut VmConfig) -> Result<()> {
    config.kernel_module("drivers/net/netdevsim/netdevsim.ko")?;
    two_cards(config)
}

/// Runs a script that stops at the first failure, and returns its output.
pub(crate) fn sh(scene: &mut Scene, script: &str) -> Result<String> {
    scene.sh(&format!("set -e\n{PRELUDE}\n{script}"))
}

/// Loads the module without targets, and puts a log host on `eth1`'s cable.
fn load_for_eth1(scene: &mut Scene) -> Result<Logger> {
    load_with_for_eth1(scene, "")
}

/// The same with parameters.
fn load_with_for_eth1(scene: &mut Scene, parameters: &str) -> Result<Logger> {
    let logger = prepare_eth1(scene)?;
    scene.load_with("", parameters)?;
    Ok(logger)
}

/// Gives `eth1` its address, and puts a log host on its cable.
fn prepare_eth1(scene: &mut Scene) -> Result<Logger> {
    sh(
        scene,
        &format!("ip link set eth1 up; ip addr add {GUEST1}/24 dev eth1"),
    )?;
    let wire = &scene.vm.wires[1];
    wire.add_host(Host::new(HOST_MAC, &[HOST1]));
    Ok(Logger::attach(wire, PORT))
}

/// Puts a log host on wire `n` that answers any sender, and does not ask for records from before
/// the first that comes.
fn answering(scene: &Scene, n: usize) -> Result<AckingLogger> {
    let mut config = Config::new(Kind::Session);
    config.first = None;
    AckingLogger::attach(&scene.vm.wires[n], PORT, config)
}

/// Logs `text` and waits until `logger` has it; returns its number.
fn reaches(scene: &mut Scene, logger: &Logger, text: &str) -> Result<u64> {
    scene.log(text)?;
    logger.wait_for(text, SOON)
}

/// Fails unless everything in the log from `first` to `last` has arrived, each record once and all
/// in order.
fn each_once(scene: &mut Scene, logger: &Logger, first: u64, last: u64) -> Result<()> {
    let kmsg = scene.vm.agent.kmsg()?;
    logger.assert_equal(&kmsg.records, first..=last)?;
    let collector = logger.lock();
    let again = collector.duplicates;
    ensure!(again == 0, "{again} records came twice");
    let sorted = collector.order.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(sorted, "not in order: {:?}", collector.order);
    Ok(())
}

/// A target as a directory.
#[derive(Debug, Clone)]
struct Target {
    name: String,
    path: String,
}

impl Target {
    /// Makes the directory, or adopts the target of the command line that has this name.
    fn make(scene: &mut Scene, name: &str) -> Result<Self> {
        let path = format!("/sys/kernel/config/{}/{name}", module_name());
        sh(scene, &format!("mkdir {path}"))?;
        Ok(Self {
            name: name.into(),
            path,
        })
    }

    /// An extended target for `remote` through `device`, not yet enabled.
    fn to(scene: &mut Scene, name: &str, device: &str, remote: &str) -> Result<Self> {
        let target = Self::make(scene, name)?;
        target.set(scene, "extended", "1")?;
        target.set(scene, "dev_name", device)?;
        target.set(scene, "remote_ip", remote)?;
        Ok(target)
    }

    /// One for [`HOST1`] through `eth1`, with its address given, enabled.
    fn on_eth1(scene: &mut Scene, name: &str) -> Result<Self> {
        let target = Self::to(scene, name, "eth1", HOST1)?;
        target.set(scene, "local_ip", GUEST1)?;
        target.set(scene, "enabled", "1")?;
        Ok(target)
    }

    /// Returns the value of an attribute.
    fn get(&self, scene: &mut Scene, attribute: &str) -> Result<String> {
        let text = sh(scene, &format!("cat {}/{attribute}", self.path))?;
        Ok(text.trim_end().to_string())
    }

    /// Writes into an attribute, which must be accepted.
    fn set(&self, scene: &mut Scene, attribute: &str, value: &str) -> Result<()> {
        sh(
            scene,
            &format!("echo '{value}' > {}/{attribute}", self.path),
        )
        .map(drop)
    }

    /// Writes into an attribute, which must fail with `error`'s text.
    fn refuses(&self, scene: &mut Scene, attribute: &str, value: &str, error: &str) -> Result<()> {
        let script = format!("! echo '{value}' > {}/{attribute}", self.path);
        let said = sh(scene, &script).with_context(|| format!("{value} was accepted"))?;
        ensure!(said.contains(error), "{said:?} instead of {error:?}");
        Ok(())
    }

    /// Fails unless an attribute says `value`.
    fn says(&self, scene: &mut Scene, attribute: &str, value: &str) -> Result<()> {
        let found = self.get(scene, attribute)?;
        let name = &self.name;
        ensure!(
            found == value,
            "{name}/{attribute} says {found:?} instead of {value:?}"
        );
        Ok(())
    }

    /// Waits until an attribute says `value`; returns the time it took.
    fn until(
        &self,
        scene: &mut Scene,
        attribute: &str,
        value: &str,
        limit: Duration,
    ) -> Result<Duration> {
        let what = format!("{value:?}");
        self.until_so(scene, attribute, &what, limit, |found| found == value)
    }

    /// Waits until `so` returns true for an attribute's value.
    fn until_so(
        &self,
        scene: &mut Scene,
        attribute: &str,
        what: &str,
        limit: Duration,
        so: impl Fn(&str) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let found = self.get(scene, attribute)?;
            if so(&found) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                let name = &self.name;
                bail!("{name}/{attribute} still says {found:?} after {limit:?}, not {what}");
            }
            // configfs does not report attributes that change.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the target knows that the log host has record `seq`.
    fn until_acked(&self, scene: &mut Scene, seq: u64) -> Result<Duration> {
        let what = format!("{seq} or more");
        self.until_so(scene, "stats/acked_seq", &what, SOON, |found| {
            found.parse::<u64>().is_ok_and(|acked| acked >= seq)
        })
    }

    /// Removes the directory.
    fn remove(self, scene: &mut Scene) -> Result<()> {
        sh(scene, &format!("rmdir {}", self.path)).map(drop)
    }
}

/// Returns whether this run is one with our own module. With upstream's, a trial leaves out the
/// parts that that one cannot do, and says so.
fn ours(scene: &Scene, what: &str) -> bool {
    if upstream() {
        println!(
            "not tried with upstream's module: {what}; seed {}",
            scene.seed
        );
    }
    !upstream()
}

/// Waits long enough for an event that must not happen.
fn nothing_happens() {
    std::thread::sleep(Duration::from_secs(2));
}
