// SPDX-License-Identifier: GPL-2.0

//! The service `netconsole-ext`, from one line in its file to an ack, on the real module: started
//! at boot, before there is a network, and by hand. The units of the command itself are tried with
//! stand-ins, in `tests/service`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env;
use nctest::vm::VmConfig;

use super::{program, systemd, UNITS};
use crate::scene::{Scene, HOST, PORT, SOON};
use crate::trial::{stock_trial_with, Trial};

/// The trial of this file.
pub fn trial() -> Trial {
    stock_trial_with("service_under_systemd", outfit, service)
}

/// The unit as it is installed.
const UNIT: &str = include_str!("../../../dist/netconsole-ext.service");
/// The command that must report success.
const STATUS: &str = "bash /usr/sbin/netconsole-ext status";
/// The service's file.
const FILE: &str = "/etc/default/netconsole-ext";

/// Programs that busybox lacks, or that differ from Debian's; `/bin` is a folder of its own here.
const PROGRAMS: [(&str, &str); 6] = [
    ("/bin/bash", "usr/bin/bash"),
    ("/bin/flock", "usr/bin/flock"),
    ("/bin/ip", "usr/bin/ip"),
    ("/bin/getent", "usr/bin/getent"),
    ("/bin/modprobe", "usr/bin/kmod"),
    ("/bin/rmmod", "usr/bin/kmod"),
];

fn outfit(config: &mut VmConfig) -> Result<()> {
    systemd(config)?;
    let root = env::systemd()?;
    for (to, from) in PROGRAMS {
        program(config, &root, to, &root.join(from))?;
    }
    let command = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/netconsole-ext");
    config
        .files
        .push(("/usr/sbin/netconsole-ext".into(), command));
    for (to, from) in modules(config)? {
        config.files.push((to, from));
    }
    // The libraries that look up names are opened only when a name is looked up.
    for library in ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"] {
        let path = format!("usr/lib/x86_64-linux-gnu/{library}");
        config.files.push((format!("/{path}"), root.join(&path)));
    }
    let drop_in = "/etc/systemd/system/netconsole-ext.service.d/path.conf";
    let texts = [
        (format!("{UNITS}/netconsole-ext.service"), UNIT.to_string()),
        (
            drop_in.into(),
            "[Service]\nEnvironment=PATH=/usr/sbin:/usr/bin:/bin\n".into(),
        ),
        // This has the effect of "systemctl enable".
        (
            "/etc/systemd/system/multi-user.target.d/service.conf".into(),
            "[Unit]\nWants=netconsole-ext.service\n".into(),
        ),
        (FILE.into(), "LOGGER=loghost\n".into()),
        ("/etc/hosts".into(), format!("{HOST} loghost\n")),
        ("/etc/nsswitch.conf".into(), "hosts: files\n".into()),
    ];
    config.texts.extend(texts);
    Ok(())
}

/// Returns the module's files in the folder of its package, where modprobe looks.
fn modules(config: &VmConfig) -> Result<Vec<(String, PathBuf)>> {
    let kernel = &config.guest.kernel;
    let release = kernel.parent().and_then(Path::file_name);
    let release = release.context("the kernel's folder")?.to_string_lossy();
    let stage = config.out_dir()?.join("root");
    let inside = format!("lib/modules/{release}");
    let updates = stage.join(&inside).join("updates");
    fs::create_dir_all(&updates)?;
    fs::copy(&config.guest.module, updates.join("netconsole_ext.ko"))?;
    let depmod = Command::new("depmod")
        .arg("-b")
        .arg(&stage)
        .arg(&*release)
        .output();
    let depmod = depmod.context("running depmod")?;
    ensure!(depmod.status.success(), "depmod: {depmod:?}");
    let names = [
        "updates/netconsole_ext.ko",
        "modules.dep",
        "modules.dep.bin",
        "modules.alias.bin",
    ];
    let file = |name| (format!("/{inside}/{name}"), stage.join(&inside).join(name));
    Ok(names.map(file).into())
}

fn service(scene: &mut Scene) -> Result<()> {
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    // The service was started without a network, and nothing has waited for it.
    journal_has(scene, "tried again in the background")?;
    journal_has(scene, "loghost (10.0.2.1): acked by 10.0.2.1 after")?;
    scene.sh(&format!("{STATUS} && systemctl is-active netconsole-ext"))?;

    // A mistake in the file is reported, and the targets stay as they were.
    scene.sh(&format!(
        "echo 'LOGGER=log host;reboot' > {FILE}
        ! systemctl reload netconsole-ext && {STATUS}"
    ))?;
    journal_has(
        scene,
        "line 1: LOGGER: host\\;reboot is no host name or address; nothing is changed",
    )?;

    // Another logger, whose target the kernel refuses: only the former one is left.
    scene.sh(&format!(
        "echo 'NETCONSOLE_OPTS=+@/eth0,@{HOST}/;+@10.9.9.9/eth0,@fd00::1/' > {FILE}
        ! systemctl reload netconsole-ext && until {STATUS}; do sleep 0.2; done"
    ))?;
    journal_has(
        scene,
        "is refused: Invalid argument (Not enabling netconsole.",
    )?;

    // Started by hand, its last line reports the ack.
    scene.sh(&format!("echo 'LOGGER=loghost' > {FILE}"))?;
    let said =
        scene.sh("systemctl restart netconsole-ext && journalctl -q -u netconsole-ext -o cat")?;
    let last = said.lines().rfind(|line| line.contains("loghost"));
    ensure!(
        last.is_some_and(|line| line.contains("acked by 10.0.2.1 after")),
        "{said}"
    );
    ensure!(peer.with(|acker| acker.responses) > 0, "nobody has acked");

    scene.sh("systemctl stop netconsole-ext && ! grep netconsole_ext /proc/modules")?;
    let failed = scene.sh("systemctl --failed --no-legend")?;
    ensure!(failed.is_empty(), "failed: {failed}");
    scene.vm.settle()
}

/// The journal of the service has this text, or will soon.
fn journal_has(scene: &mut Scene, text: &str) -> Result<()> {
    let script = format!(
        "until journalctl -q -u netconsole-ext -o cat | grep -F '{text}'; do sleep 0.2; done"
    );
    let output = scene
        .vm
        .agent
        .exec(&script, SOON + Duration::from_secs(30))?;
    ensure!(output.code == 0, "the journal has no {text:?}");
    Ok(())
}
