// SPDX-License-Identifier: GPL-2.0

//! `ncrx/dist/ncrx.service` in a guest whose PID 1 is systemd, as its user sees it; the sender's
//! own service is in `systemd/service.rs`.
//!
//! The guest is Debian's kernel, which has all that the sandbox is made of, and the systemd that
//! goes with it, without anything else of a distribution. The log host of the wire is the sender
//! here.

mod service;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use nctest::env;
use nctest::logger::Sink;
use nctest::vm::VmConfig;

use crate::scene::{Scene, GUEST, HOST, PORT, SOON};
use crate::trial::{stock_trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        stock_trial_with("program_under_systemd", outfit, under_systemd),
        service::trial(),
    ]
}

/// The unit as it is installed.
const UNIT: &str = include_str!("../../ncrx/dist/ncrx.service");

/// The folder of systemd's own units.
const UNITS: &str = "/usr/lib/systemd/system";
/// The folder of the guest's programs; Debian has all of that in `/usr`. The unit calls kill:
/// busybox's would try to give up privileges, which the unit forbids.
const PROGRAMS: [&str; 6] = [
    "/bin/journalctl",
    "/bin/kill",
    "/bin/systemctl",
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-executor",
    "/usr/lib/systemd/systemd-journald",
];
/// The path at which every program looks for it.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The agent, which systemd starts as it starts everything.
const AGENT: &str = "
[Unit]
Description=The agent of the tests
[Service]
ExecStart=/init
";

/// Units that the links of a distribution would pull in. Without the journal, messages of a service
/// in a sandbox are lost, for that has no /dev/kmsg.
const WANTED: [(&str, &str); 2] = [
    (
        "sysinit.target",
        "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket",
    ),
    ("multi-user.target", "nctest-agent.service"),
];

/// The words for the kernel: the init to start, and the whole journal on the console, with every
/// system call that a filter denies. There is one CPU because Debian's kernel, unlike the test
/// kernel, patches its code as it runs, which has crashed other emulated CPUs.
const WORDS: &str =
    " maxcpus=1 nctest.init=/usr/lib/systemd/systemd systemd.unit=multi-user.target \
    systemd.journald.forward_to_kmsg=1 systemd.journald.max_level_kmsg=debug SYSTEMD_LOG_SECCOMP=1";

/// The message about a service that was killed: the trial kills it.
const OF_THE_KILL: [&str; 2] = [
    "Main process exited, code=killed, status=9/KILL",
    "Failed with result 'signal'.",
];

/// RestrictNamespaces= denies clone3, whose flags a filter cannot see; libc takes clone instead.
const CLONE3: &str = " syscall=435 ";

/// A guest with systemd and ncrx.
fn outfit(config: &mut VmConfig) -> Result<()> {
    systemd(config)?;
    let ncrx = stripped(&env::ncrx()?, config)?;
    program(config, &env::systemd()?, "/usr/bin/ncrx", &ncrx)?;
    let unit = (format!("{UNITS}/ncrx.service"), UNIT.into());
    config.texts.push(unit);
    Ok(())
}

/// A guest with systemd.
fn systemd(config: &mut VmConfig) -> Result<()> {
    config.append += WORDS;
    // Its files must be there when it begins.
    config.from_snapshot = false;
    config.memory = 768;
    let root = env::systemd()?;
    config.files.push((LOADER.into(), loader(&root)));
    for to in PROGRAMS {
        let from = Path::new(to.strip_prefix("/usr").unwrap_or(to));
        let from = root.join("usr").join(from.strip_prefix("/")?);
        program(config, &root, to, &from)?;
    }
    let units = root.join(UNITS.trim_start_matches('/'));
    for entry in fs::read_dir(&units).context(UNITS)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = name.ends_with(".target")
            || name.ends_with(".slice")
            || name.starts_with("systemd-journald");
        // No links: those are other names.
        if wanted && entry.file_type()?.is_file() {
            let text = fs::read_to_string(entry.path())?;
            config.texts.push((format!("{UNITS}/{name}"), text));
        }
    }
    let mut text = |path: &str, text: &str| config.texts.push((path.into(), text.into()));
    text(&format!("{UNITS}/nctest-agent.service"), AGENT);
    for (target, units) in WANTED {
        text(
            &format!("/etc/systemd/system/{target}.d/wants.conf"),
            &format!("[Unit]\nWants={units}\n"),
        );
    }
    // Without it systemd would take this for the first boot of an image.
    text("/etc/machine-id", "00112233445566778899aabbccddeeff\n");
    text("/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    text("/etc/group", "root:x:0:\n");
    Ok(())
}

fn loader(root: &Path) -> PathBuf {
    root.join("usr/lib64/ld-linux-x86-64.so.2")
}

/// Gives the guest a program, and the libraries of this root that it needs.
fn program(config: &mut VmConfig, root: &Path, to: &str, from: &Path) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let libraries = libraries.display();
    let output = Command::new(loader(root))
        .args([
            "--library-path",
            &format!("{libraries}:{libraries}/systemd"),
        ])
        .arg("--list")
        .arg(from)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the libraries of {to}: {said}");
    config.files.push((to.into(), from.to_path_buf()));
    // "name => path (address)"
    for word in String::from_utf8(output.stdout)?.split_whitespace() {
        let Ok(inside) = Path::new(word).strip_prefix(root) else {
            continue;
        };
        let to = format!("/{}", inside.display());
        if !config.files.iter().any(|(there, _)| *there == to) {
            config.files.push((to, word.into()));
        }
    }
    Ok(())
}

/// A program without what is for debuggers, which is most of it.
fn stripped(program: &Path, config: &VmConfig) -> Result<PathBuf> {
    let out = env::out_dir()?.join(&config.name);
    fs::create_dir_all(&out)?;
    let to = out.join("ncrx");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&to)
        .arg(program)
        .status();
    ensure!(status.context("strip")?.success(), "strip fails");
    Ok(to)
}

fn under_systemd(scene: &mut Scene) -> Result<()> {
    let sender = Sender::new(scene)?;

    // ncrx asks for the one; with the other the kernel tells of each call that is denied.
    scene.sh("sysctl -w net.core.rmem_max=16777216 kernel.printk_ratelimit=0")?;
    // It is enabled, started and ready, which systemctl waits for.
    scene.sh("systemctl enable --now ncrx")?;
    state_is(scene, "ActiveState", "active")?;
    let pid = main_pid(scene)?;
    sandboxed(scene, &pid)?;

    // Number 0 alone is never acknowledged.
    sender.send_only(scene, 0)?;
    sender.send(scene, 1)?;
    holds(scene, LOG, &[0, 1])?;

    // As logrotate does it.
    scene.sh(&format!("mv {LOG} {LOG}.1"))?;
    said(scene, "files are opened anew", "systemctl reload ncrx")?;
    sender.send(scene, 2)?;
    holds(scene, LOG, &[2])?;
    holds(scene, &format!("{LOG}.1"), &[0, 1])?;

    // There were no options of ours so far.
    scene.sh("mkdir -p /etc/default
        echo 'NCRX_OPTIONS=\"--metrics 127.0.0.1:9666 --metrics-per-host\"' > /etc/default/ncrx
        systemctl restart ncrx")?;
    let pid = other_pid(scene, &pid)?;
    // A worker tells of its hosts once it has begun to listen, which may be after it is ready.
    scene.sh(
        "until wget -q -O - http://127.0.0.1:9666/metrics > /tmp/metrics &&
            grep -F 'ncrx_host_records_total{host=\"10.0.2.1\"}' /tmp/metrics; do
            sleep 0.1
        done",
    )?;

    // It comes back by itself, and knows what it has written: it does not ask for that again, and
    // does not write it again when it comes.
    said(scene, "listening on", &format!("kill -9 {pid}"))?;
    // This command waits until ncrx is ready.
    scene.sh("systemctl start ncrx")?;
    other_pid(scene, &pid)?;
    state_is(scene, "ActiveState", "active")?;
    state_is(scene, "NRestarts", "1")?;
    for seq in 0..3 {
        sender.send_only(scene, seq)?;
    }
    sender.send(scene, 3)?;
    sender.was_asked_for_nothing()?;
    holds(scene, LOG, &[2, 3])?;
    holds(scene, &format!("{LOG}.1"), &[0, 1])?;

    scene.sh("systemctl stop ncrx")?;
    for (property, value) in [
        ("ActiveState", "inactive"),
        ("Result", "success"),
        ("ExecMainCode", "1"),
        ("ExecMainStatus", "0"),
    ] {
        state_is(scene, property, value)?;
    }
    no_complaints(scene)
}

/// The sandbox of the program: if systemd left something out here, say for want of a library, the
/// trial would show less than it seems to.
fn sandboxed(scene: &mut Scene, pid: &str) -> Result<()> {
    let status = scene.sh(&format!("cat /proc/{pid}/status"))?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        ensure!(status.contains(line), "no {line:?} in\n{status}");
    }
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
    let uid = uid.and_then(|uid| uid.split('\t').next());
    // The range of dynamic users.
    let uid: u32 = uid.context("no Uid:")?.parse()?;
    ensure!((61184..65520).contains(&uid), "it runs as {uid}");
    for kind in ["user", "mnt"] {
        let mut space = |pid: &str| scene.sh(&format!("readlink /proc/{pid}/ns/{kind}"));
        ensure!(
            space("1")? != space(pid)?,
            "it has PID 1's {kind} namespace"
        );
    }
    Ok(())
}

/// Neither systemd nor ncrx nor the kernel has had anything to say but what the trial has done.
fn no_complaints(scene: &mut Scene) -> Result<()> {
    let said = scene.sh("journalctl --sync && journalctl -q -u ncrx -p warning -o cat")?;
    let of_the_kill = |line: &&str| OF_THE_KILL.iter().any(|text| line.contains(text));
    let (killed, said): (Vec<&str>, Vec<&str>) = said.lines().partition(of_the_kill);
    ensure!(said.is_empty(), "the journal has of ncrx: {said:#?}");
    // This proves that the journal shows warnings of ncrx at all.
    ensure!(
        !killed.is_empty(),
        "the journal has not that ncrx was killed"
    );
    let failed = scene.sh("systemctl --failed --no-legend")?;
    ensure!(failed.is_empty(), "failed: {failed}");
    // A call that a filter denies is an audit record of this type; a line of the unit that systemd
    // does not understand is named by its file.
    let bad = [
        "audit: type=1326",
        "denied",
        "Failed at step",
        "/ncrx.service:",
    ];
    let lines = scene.vm.serial.lines(0);
    let mut lines = lines.iter().filter(|line| !line.contains(CLONE3));
    let found = lines.find(|l| bad.iter().any(|bad| l.contains(bad)));
    ensure!(found.is_none(), "the console has {found:?}");
    scene.vm.settle()
}

/// A property of the service.
fn property(scene: &mut Scene, property: &str) -> Result<String> {
    let value = scene.sh(&format!("systemctl show ncrx --value -p {property}"))?;
    Ok(value.trim().to_string())
}

fn state_is(scene: &mut Scene, what: &str, wanted: &str) -> Result<()> {
    let value = property(scene, what)?;
    ensure!(value == wanted, "{what} is {value}, not {wanted}");
    Ok(())
}

fn main_pid(scene: &mut Scene) -> Result<String> {
    let pid = property(scene, "MainPID")?;
    ensure!(pid != "0", "it does not run");
    Ok(pid)
}

/// Checks that ncrx runs as another process than this; returns the other process's number.
fn other_pid(scene: &mut Scene, pid: &str) -> Result<String> {
    let now = main_pid(scene)?;
    ensure!(now != pid, "it is still process {pid}");
    Ok(now)
}

/// Runs a script, and waits until ncrx has said this.
fn said(scene: &mut Scene, text: &str, script: &str) -> Result<()> {
    let from = scene.vm.serial.len();
    scene.sh(script)?;
    scene.vm.serial.wait_for(text, from, SOON).map(drop)
}

/// The sender's log, and what a record of it has as its text.
const LOG: &str = "/var/log/ncrx/10.0.2.1.log";
const TEXT: &str = "the record of number ";

/// Checks that the file has these records, each once and in order, and that only its owner and
/// group can read it.
fn holds(scene: &mut Scene, file: &str, wanted: &[u64]) -> Result<()> {
    let text = scene.sh(&format!("cat {file}"))?;
    let numbers = text.lines().filter_map(|line| line.split_once(TEXT));
    let numbers: Vec<u64> = numbers.map(|(_, n)| n.parse()).collect::<Result<_, _>>()?;
    ensure!(numbers == wanted, "{file} has not {wanted:?} but\n{text}");
    let mode = scene.sh(&format!("stat -c %a {file}"))?;
    ensure!(mode.trim() == "640", "{file} has the mode {mode}");
    Ok(())
}

/// The log host as one that logs itself.
struct Sender {
    responses: Sink,
    from: SocketAddr,
    to: SocketAddr,
}

impl Sender {
    fn new(scene: &Scene) -> Result<Self> {
        const FROM: u16 = 6665;
        Ok(Self {
            responses: Sink::attach(scene.wire(), FROM),
            from: SocketAddr::new(HOST.parse()?, FROM),
            to: SocketAddr::new(GUEST.parse()?, PORT),
        })
    }

    fn send_only(&self, scene: &Scene, seq: u64) -> Result<()> {
        let record = format!("6,{seq},{},-;{TEXT}{seq}\n", 1_000_000 + seq);
        scene.wire().send_udp(self.from, self.to, record.as_bytes())
    }

    /// Sends a record, and waits until it is acknowledged, and so is in the file.
    fn send(&self, scene: &Scene, seq: u64) -> Result<()> {
        self.send_only(scene, seq)?;
        let ack = format!("nca{seq} ");
        self.responses.wait_for(&ack, SOON).map(drop)
    }

    /// No response named a record that is missing: the word `~` is all that comes after the first.
    fn was_asked_for_nothing(&self) -> Result<()> {
        for udp in self.responses.datagrams() {
            let text = String::from_utf8_lossy(&udp.payload);
            ensure!(text.split(' ').nth(1) == Some("~"), "it says {text:?}");
        }
        Ok(())
    }
}
