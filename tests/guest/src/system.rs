// SPDX-License-Identifier: GPL-2.0

//! The set-up of a fresh guest.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nctest_guest::PRELOAD;
use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};
use nix::mount::{mount, MsFlags};

/// The file systems, and where they go. Some kernels lack some of them.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("debugfs", "/sys/kernel/debug"),
];

/// Mounts the file systems, makes links for busybox's commands, and loads the modules that come
/// before all else.
pub fn prepare() -> Result<()> {
    std::env::set_current_dir("/")?;
    for (kind, at) in MOUNTS {
        try_mount(kind, at)?;
    }
    // Busybox leaves a name that the guest has already as it is, and complains.
    let mut install = Command::new("/bin/busybox");
    install.args(["--install", "-s", "/bin"]);
    install.stderr(Stdio::null()).status().context("busybox")?;
    let preload = fs::read_to_string(PRELOAD).unwrap_or_default();
    for module in preload.lines().filter(|l| !l.is_empty()) {
        let file = File::open(module).with_context(|| format!("opening {module}"))?;
        match finit_module(file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => eprintln!("nctest-guest: loading {module}: {e}"),
        }
    }
    // It is a module in some kernels, so it comes after the modules.
    try_mount("configfs", "/sys/kernel/config")
}

fn try_mount(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at).ok();
    match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
        // EBUSY: the kernel has mounted devtmpfs itself.
        Ok(()) | Err(Errno::EBUSY | Errno::ENODEV | Errno::ENOENT) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("mounting {kind} at {at}")),
    }
}

/// Returns the program that is to be PID 1 instead: the word `nctest.init=` of the kernel's command
/// line.
pub fn other_init() -> Result<Option<String>> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let mut words = cmdline.split_whitespace();
    let init = words.find_map(|word| word.strip_prefix("nctest.init="));
    Ok(init.map(String::from))
}

/// Starts a shell on the serial console if the kernel's command line has the word `nctest.shell`.
pub fn console_shell() -> Result<Option<Child>> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    if !cmdline
        .split_whitespace()
        .any(|word| word == "nctest.shell")
    {
        return Ok(None);
    }
    let tty = Path::new("/dev/ttyS0");
    let open = || -> Result<Stdio> {
        let file = OpenOptions::new().read(true).write(true).open(tty)?;
        Ok(file.into())
    };
    // The machine goes down when the shell ends.
    let shell = Command::new("/bin/busybox")
        .arg0("setsid")
        .args([
            "-c",
            "/bin/sh",
            "-c",
            "[ -f /etc/motd ] && cat /etc/motd; /bin/sh -i; poweroff -f",
        ])
        .env("PATH", "/bin")
        .env("HOME", "/")
        .env("PS1", "guest# ")
        .stdin(open()?)
        .stdout(open()?)
        .stderr(open()?)
        .spawn()
        .context("starting the shell")?;
    Ok(Some(shell))
}
