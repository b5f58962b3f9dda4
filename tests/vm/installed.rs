// SPDX-License-Identifier: GPL-2.0

//! Our packages on an installed Debian 13 with systemd, as its operator sees them: from `apt
//! install` to a purge, through reboots and a panic. `make test-install` runs these trials; they
//! are part of no other run.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::disk::Disk;
use nctest::env::{self, Guest};
use nctest::vm::VmConfig;

use crate::crash::{all_lines_arrive, detached, gone, SYSRQ};
use crate::scene::{Scene, HOST, PORT, SOON};
use crate::trial::{stock_trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        stock_trial_with("life", machine, life),
        stock_trial_with("bridge", machine, bridge),
        stock_trial_with("network_manager", machine, network_manager),
    ]
}

/// The longest time for a command that is slow on an emulated machine: apt, update-initramfs.
const LONG: Duration = Duration::from_secs(600);

/// The agent, from early in the boot on.
const AGENT: &str = "
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/usr/local/bin/nctest-agent agent
KillMode=process
";

/// The machine's address by systemd-networkd.
const ADDRESS: &str = "[Network]\nAddress=10.0.2.15/24\n";

/// Configures a machine that boots from a disk of its own.
fn machine(config: &mut VmConfig) -> Result<()> {
    let disk = config.out_dir()?.join("disk");
    config.disk = Some(Disk::copy(&env::disk()?, disk)?);
    config
        .files
        .push(("/usr/local/bin/nctest-agent".into(), env::init()?));
    let mut text = |path: &str, text: String| config.texts.push((path.into(), text));
    text("/etc/systemd/system/nctest-agent.service", AGENT.into());
    text(
        "/etc/systemd/system/sysinit.target.d/agent.conf",
        "[Unit]\nWants=nctest-agent.service\n".into(),
    );
    text(
        "/etc/systemd/network/20-wired.network",
        format!("[Match]\nName=en*\n{ADDRESS}"),
    );
    text("/etc/hosts", format!("{HOST} loghost\n"));
    // An initramfs of only what this machine needs has the card's driver if our hook sees to it.
    text("/etc/initramfs-tools/conf.d/dep", "MODULES=dep\n".into());
    installed(config);
    Ok(())
}

/// Configures what is the same in each boot. There is one CPU because Debian's kernel patches its
/// code as it runs, which has crashed other emulated CPUs.
fn installed(config: &mut VmConfig) {
    config.append = "root=/dev/vda rw panic=5 systemd.show_status=no".into();
    config.from_snapshot = false;
    config.boot_limit = LONG;
    config.memory = 1024;
    config.cpus = 1;
    config.expected = ["Kernel panic", "Call Trace:"].map(String::from).to_vec();
}

/// From the first installation to the purge.
fn life(scene: &mut Scene) -> Result<()> {
    let peer = log_host(scene)?;
    let before = files(scene)?;
    let began = Instant::now();
    install(scene, false)?;
    run(
        scene,
        "echo LOGGER=loghost >> /etc/default/netconsole-ext && systemctl start netconsole-ext",
    )?;
    acked(scene, &peer)?;
    let took = began.elapsed().as_secs_f64();
    println!("from apt install to the first acked record: {took:.1} s");

    run(
        scene,
        "echo EARLY=yes >> /etc/default/netconsole-ext && update-initramfs -u",
    )?;
    let peer = reboot(scene, peer, "systemctl reboot")?;
    acked(scene, &peer)?;
    // The module was there before the root file system.
    let log = scene.sh("dmesg")?;
    let at = |text: &str| {
        log.find(text)
            .with_context(|| format!("no {text:?} in\n{log}"))
    };
    ensure!(
        at("netconsole_ext: ")? < at("EXT4-fs (vda): mounted")?,
        "it was loaded late:\n{log}"
    );

    let said = scene.vm.serial.len();
    detached(scene, SYSRQ)?;
    scene
        .vm
        .serial
        .wait_for("Kernel panic - not syncing", said, SOON)?;
    gone(scene)?;
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("a panic of {lines} lines arrived");
    let peer = reboot(scene, peer, "")?;
    acked(scene, &peer)?;

    // The log host goes away for as long: it would have records twice, once with their dictionary.
    drop(peer);
    install(scene, true)?;
    let peer = log_host(scene)?;
    acked(scene, &peer)?;
    purge(scene)?;
    let left: Vec<_> = files(scene)?
        .into_iter()
        .filter(|file| !before.contains(file))
        .collect();
    ensure!(left.is_empty(), "a purge leaves {left:#?}");
    no_failure(scene)
}

/// A bridge is made over the device at boot.
fn bridge(scene: &mut Scene) -> Result<()> {
    let peer = log_host(scene)?;
    install(scene, false)?;
    run(
        scene,
        "printf 'LOGGER=loghost\nEARLY=yes\n' > /etc/default/netconsole-ext
        systemctl start netconsole-ext && update-initramfs -u",
    )?;
    acked(scene, &peer)?;
    run(
        scene,
        &format!(
            "cd /etc/systemd/network
        printf '[NetDev]\nName=br0\nKind=bridge\n' > 10-br0.netdev
        printf '[Match]\nName=br0\n{}' > 10-br0.network
        printf '[Match]\nName=en*\n[Network]\nBridge=br0\n' > 20-wired.network",
            ADDRESS.replace('\n', "\\n")
        ),
    )?;
    let peer = reboot(scene, peer, "systemctl reboot")?;
    acked(scene, &peer)?;
    scene.sh("grep br0 /sys/kernel/config/netconsole_ext/*/dev_name")?;
    no_failure(scene)
}

/// NetworkManager sees to the address.
fn network_manager(scene: &mut Scene) -> Result<()> {
    let peer = log_host(scene)?;
    install(scene, false)?;
    run(
        scene,
        "echo LOGGER=loghost >> /etc/default/netconsole-ext
        systemctl disable systemd-networkd && systemctl enable NetworkManager
        cd /etc/NetworkManager/system-connections
        printf '[connection]\nid=wired\ntype=ethernet\n[ipv4]\n' > wired.nmconnection
        printf 'method=manual\naddress1=10.0.2.15/24\n' >> wired.nmconnection
        chmod 600 wired.nmconnection",
    )?;
    let peer = reboot(scene, peer, "systemctl reboot")?;
    acked(scene, &peer)?;
    no_failure(scene)
}

/// Puts a log host on the cable that acknowledges records.
fn log_host(scene: &Scene) -> Result<AckingLogger> {
    AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))
}

/// Runs a script that may take long, as root with the path that root has.
fn run(scene: &mut Scene, script: &str) -> Result<String> {
    let script =
        format!("export PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive; set -e\n{script}");
    let began = Instant::now();
    let output = scene.vm.agent.exec(&script, LONG)?;
    ensure!(
        output.code == 0,
        "exit code {} in the guest from:\n{script}\n{}",
        output.code,
        output.text
    );
    let took = began.elapsed().as_secs_f64();
    println!(
        "{took:6.1} s: {}",
        script.lines().nth(1).unwrap_or_default()
    );
    Ok(output.text)
}

/// Installs our packages, or newer ones.
fn install(scene: &mut Scene, newer: bool) -> Result<()> {
    let folder = if newer { "/tmp/newer" } else { "/tmp/debs" };
    for entry in fs::read_dir(env::packages(newer)?)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .context("a package has a name")?
            .to_string_lossy();
        if name.starts_with("netconsole-ext") && !name.contains("dkms") {
            scene
                .vm
                .agent
                .put(&format!("{folder}/{name}"), 0o644, &fs::read(&path)?)?;
        }
    }
    run(scene, &format!("apt-get install -y {folder}/*.deb")).map(drop)
}

/// Checks that the service is up and that its logger has all records, from the first one on.
fn acked(scene: &mut Scene, peer: &AckingLogger) -> Result<()> {
    run(
        scene,
        "until netconsole-ext check; do sleep 1; done
        netconsole-ext status && systemctl is-active netconsole-ext",
    )?;
    let marker = format!("nctest: all before {}", scene.vm.serial.len());
    scene.log(&marker)?;
    let last = peer.logger.wait_for(&marker, SOON)?;
    peer.wait_for_all(last, SOON)?;
    let kmsg = scene.vm.agent.kmsg()?;
    let mut comparison = peer.logger.lock().compare(&kmsg.records, 0..=last);
    // Records from before the module was loaded come from printk's buffer, which has them without
    // their dictionary.
    let cut_short = |theirs: &[u8], ours: &[u8]| !ours.is_empty() && theirs.starts_with(ours);
    comparison
        .different
        .retain(|(_, theirs, ours)| !cut_short(theirs, ours));
    ensure!(
        comparison.missing.is_empty() && comparison.different.is_empty(),
        "not all as in /dev/kmsg: {}",
        comparison.describe()
    );
    println!("all records up to {last} have arrived");
    Ok(())
}

/// Waits until the machine is gone, after a command, and boots it again.
fn reboot(scene: &mut Scene, peer: AckingLogger, command: &str) -> Result<AckingLogger> {
    if !command.is_empty() {
        detached(scene, command)?;
    }
    gone(scene)?;
    drop(peer);
    // Its logs go to a folder within that of the boot before.
    let out = &scene.vm.out;
    let disk = out
        .ancestors()
        .map(|dir| dir.join("disk"))
        .find(|disk| disk.exists());
    let name = out
        .join("next")
        .strip_prefix(env::out_dir()?)?
        .to_string_lossy()
        .into_owned();
    let mut config = VmConfig::new(&name, Guest::stock()?);
    config.disk = Some(Disk::at(disk.context("no disk")?));
    installed(&mut config);
    *scene = Scene::set(config)?;
    log_host(scene)
}

/// Purges our packages, while the logger's name is unknown. Nothing of them is left, nor in the
/// initramfs or in modprobe's index.
fn purge(scene: &mut Scene) -> Result<()> {
    run(
        scene,
        "sed -i /loghost/d /etc/hosts
        apt-get purge -y '^netconsole-ext'
        ! grep netconsole_ext /proc/modules /lib/modules/$(uname -r)/modules.dep &&
            ! lsinitramfs /boot/initrd.img-$(uname -r) | grep netconsole_ext &&
            ! find / -xdev -name '*netconsole?ext*' -not -path '/proc/*' | grep . &&
            ! ls -d /run/netconsole-ext &&
            ! systemctl cat netconsole-ext",
    )
    .map(drop)
}

/// The paths of all files but logs, caches, and what apt and systemd keep for themselves.
fn files(scene: &mut Scene) -> Result<Vec<String>> {
    let text = run(
        scene,
        "find / -xdev \\( -path /var/log -o -path /var/cache -o -path /var/lib/systemd \\
            -o -path /tmp -o -path /var/tmp \\) -prune -o -print | sort",
    )?;
    Ok(text.lines().map(String::from).collect())
}

/// No unit has failed, and the console shows no alarm.
fn no_failure(scene: &mut Scene) -> Result<()> {
    let failed = scene.sh("systemctl --failed --no-legend")?;
    ensure!(failed.is_empty(), "failed: {failed}");
    scene.vm.settle()
}
