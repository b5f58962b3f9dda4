// SPDX-License-Identifier: GPL-2.0

//! Upstream's selftests of netconsole, out of the kernel's source, with nothing
//! changed but the names of the module and of its configfs directory.
//!
//! With `NCTEST_UPSTREAM=1` they run unchanged on upstream's module: what fails
//! there too is this file's fault, or theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::env;
use nctest::vm::VmConfig;

use crate::scene::{module_name, Scene};
use crate::trial::{trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("basic", outfit, |s| selftest(s, "basic", "")),
        trial_with("cmdline", outfit, |s| selftest(s, "cmdline", "")),
        trial_with("fragmented_msg", outfit, |s| {
            selftest(s, "fragmented_msg", "")
        }),
        trial_with("overflow", outfit, |s| selftest(s, "overflow", "")),
        trial_with("resume", outfit, |s| selftest(s, "resume", "")),
        trial_with("sysdata", outfit, |s| selftest(s, "sysdata", "")),
        trial_with("userdata", outfit, |s| selftest(s, "userdata", "")),
        trial_with("torture", outfit, |s| selftest(s, "torture", "")),
    ]
}

/// The path in the guest of the selftests, laid out as in the source.
const HOME: &str = "/selftests";

/// Programs that the scripts call and busybox lacks, or has not as they need them.
const COMMANDS: &[&str] = &[
    "awk", "basename", "bash", "cat", "cut", "date", "find", "grep", "ip", "jq", "mktemp",
    "modinfo", "modprobe", "pkill", "readlink", "rmmod", "sed", "seq", "socat", "tail", "taskset",
    "timeout", "udevadm", "xargs",
];

/// The directories of the source that they are in.
const DIRECTORIES: &[&str] = &[
    "drivers/net/netconsole",
    "drivers/net/lib/sh",
    "net",
    "net/lib/sh",
];

/// The scripts let a listener live for three seconds. An emulated machine beside
/// others may need longer than that from the listener's start to the message.
const PATIENT_TIMEOUT: &str = "#!/bin/sh
limit=$1
shift
exec /usr/bin/timeout $((limit * 5)) \"$@\"
";

/// Gives the guest the scripts, what they call, and modules for modprobe.
fn outfit(config: &mut VmConfig) -> Result<()> {
    for command in COMMANDS {
        config.command(command)?;
    }
    let stage = config.out_dir()?.join("root");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let modules = modules(&stage, &config.guest.module)?;
    let mut scripts = scripts(&stage)?;
    let timeout = stage.join("patient/timeout");
    fs::create_dir_all(stage.join("patient"))?;
    fs::write(&timeout, PATIENT_TIMEOUT)?;
    scripts.push(timeout);
    for file in modules.into_iter().chain(scripts) {
        let inside = file.strip_prefix(&stage)?;
        let to = format!("/{}", inside.display());
        config.files.push((to, file));
    }
    Ok(())
}

/// A directory of modules as modprobe reads it; its files.
fn modules(stage: &Path, module: &Path) -> Result<Vec<PathBuf>> {
    let kdir = env::test_kdir()?;
    let release = fs::read_to_string(kdir.join("include/config/kernel.release"))?;
    let release = release.trim();
    let dir = stage.join("lib/modules").join(release);
    fs::create_dir_all(&dir)?;
    let netdevsim = kdir.join("drivers/net/netdevsim/netdevsim.ko");
    fs::copy(netdevsim, dir.join("netdevsim.ko"))?;
    fs::copy(module, dir.join(format!("{}.ko", module_name())))?;
    for list in ["modules.order", "modules.builtin"] {
        fs::copy(kdir.join(list), dir.join(list)).context(list)?;
    }
    let mut depmod = Command::new("depmod");
    let depmod = depmod.arg("-b").arg(stage).arg(release).output();
    let depmod = depmod.context("running depmod")?;
    let said = String::from_utf8_lossy(&depmod.stderr);
    ensure!(depmod.status.success(), "depmod: {said}");
    files_of(&dir)
}

/// The scripts, changed to the module under test; their files.
fn scripts(stage: &Path) -> Result<Vec<PathBuf>> {
    let source = env::kernel_source()?.join("tools/testing/selftests");
    let (mut written, mut changed) = (Vec::new(), 0);
    for directory in DIRECTORIES {
        let to = stage.join(HOME.trim_start_matches('/')).join(directory);
        fs::create_dir_all(&to)?;
        for file in files_of(&source.join(directory))? {
            if file.extension().is_none_or(|ext| ext != "sh") {
                continue;
            }
            let text = fs::read_to_string(&file)?;
            let (text, changes) = renamed(&text);
            changed += changes;
            let to = to.join(file.file_name().context("a script has a name")?);
            fs::write(&to, text)?;
            written.push(to);
        }
    }
    let wanted = !env::upstream();
    ensure!((changed > 0) == wanted, "{changed} lines had to be changed");
    Ok(written)
}

/// A script for the module under test, and how many of its lines have changed.
fn renamed(text: &str) -> (String, usize) {
    let name = module_name();
    let (mut lines, mut changes) = (Vec::new(), 0);
    for line in text.lines() {
        let mut new = line.replace(
            "/sys/kernel/config/netconsole\"",
            &format!("/sys/kernel/config/{name}\""),
        );
        // Alone, or before another word.
        for command in ["modprobe", "rmmod", "modinfo"] {
            new = new.replace(
                &format!("{command} netconsole"),
                &format!("{command} {name}"),
            );
        }
        changes += usize::from(new != line);
        lines.push(new);
    }
    (lines.join("\n") + "\n", changes)
}

/// The plain files of a directory, in order.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Runs one; it must pass, and not skip itself.
fn selftest(scene: &mut Scene, name: &str, arguments: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(400);
    let script = format!(
        "mkdir -p /var; ln -sfn /run /var/run; ln -sfn /proc/self/fd /dev/fd
         export PATH=/patient:/usr/sbin:/usr/bin:/sbin:/bin
         cd {HOME}/drivers/net/netconsole
         exec bash ./netcons_{name}.sh {arguments}"
    );
    let output = scene.vm.agent.exec(&script, LIMIT)?;
    let what = match output.code {
        0 => "passed",
        2 => "failed as expected (ksft_xfail)",
        4 => "was skipped (ksft_skip)",
        137 => "took too long",
        _ => "failed",
    };
    println!("netcons_{name}.sh {what}:\n{}", output.text.trim_end());
    ensure!(
        output.code == 0,
        "netcons_{name}.sh {what}, exit code {}:\n{}",
        output.code,
        output.text
    );
    // Some selftests leave the modules loaded; nothing may hold them.
    scene.sh(&format!(
        "for module in {} netdevsim; do
             ! grep -q \"^$module \" /proc/modules || rmmod $module || exit 1
         done",
        module_name()
    ))?;
    scene.sh("echo '8 4 1 7' > /proc/sys/kernel/printk")?;
    scene.vm.settle()
}
