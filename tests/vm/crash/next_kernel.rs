// SPDX-License-Identifier: GPL-2.0

//! Ends after which another kernel runs on the same machine: a crash kernel, or one that an orderly
//! kexec starts.
//!
//! The kernel jumps to a crash kernel before a panic's log is dumped. A target of the extended
//! format gets the whole log even so.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::Direction;
use nctest_guest::Burst;

use super::{all_lines_arrive, attach, attach_to, detached, mortal, NEXT_KERNEL, OOPS, SYSRQ};
use crate::contexts::{arrived_lines, dated};
use crate::lifecycle::IP;
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{ours_only, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let trials = [
        trial_with("kdump_after_an_oops", kdump, after_an_oops),
        trial_with("kdump_after_sysrq", kdump, |scene| {
            after_sysrq(scene, Faults::default())
        }),
        trial_with("kdump_after_sysrq_lossy", kdump, |scene| {
            after_sysrq(scene, half_lost())
        }),
        trial_with(
            "kdump_after_sysrq_post_notifiers",
            kdump_post_notifiers,
            |scene| after_sysrq(scene, Faults::default()),
        ),
        trial_with("kdump_while_another_cpu_sends", kdump, |scene| {
            scene.vm.agent.flood(&format!("{HOST}:9"), 1)?;
            after_sysrq(scene, Faults::default())
        }),
        trial_with("kdump_on_a_vlan", kdump_with_ip, on_a_vlan),
        trial_with("kdump_in_the_drivers_xmit", kdump, |scene| {
            in_the_driver(scene, "debug_bug_xmit", 0)
        }),
        trial_with("kdump_in_the_drivers_poll", kdump, |scene| {
            in_the_driver(scene, "debug_bug_poll", 1)
        }),
        trial_with("kdump_first", kdump, first),
        trial_with("kdump_first_post_notifiers", kdump_post_notifiers, first),
        trial_with("kdump_oops_only", kdump, oops_only),
        trial_with("kdump_and_an_oops_survived", kdump, survived),
        trial_with("kexec_waits_for_the_ack", kexec, kexec_waits),
    ];
    trials.into_iter().map(ours_only).collect()
}

/// The paths in the guest of the program, and of the next kernel, which is the running one.
const KEXEC: &str = "/usr/sbin/kexec";
const IMAGE: &str = "/bzImage";

/// The crash kernel is small, and finds no root: the trial only has to see that it runs. Its check
/// of the timer, which fails on an emulated processor that is kept waiting, is off.
const NEXT: &str = "--append='console=ttyS0 panic=-1 no_timer_check'";

/// Configures a guest that can start another kernel.
fn kexec(config: &mut VmConfig) -> Result<()> {
    config.program(KEXEC)?;
    let kernel = config.guest.kernel.clone();
    config.files.push((IMAGE.into(), kernel));
    // The messages of the kernel that finds no root.
    config.expected = ["Kernel panic", "Call Trace:"].map(String::from).to_vec();
    Ok(())
}

/// Configures a guest that can start a crash kernel.
fn kdump(config: &mut VmConfig) -> Result<()> {
    kexec(config)?;
    config.append += " crashkernel=128M";
    config.sysctl("kernel.panic_on_oops", 1);
    config.memory = 768;
    mortal(config)
}

fn kdump_with_ip(config: &mut VmConfig) -> Result<()> {
    config.program(IP)?;
    kdump(config)
}

fn kdump_post_notifiers(config: &mut VmConfig) -> Result<()> {
    config.append += " crash_kexec_post_notifiers";
    kdump(config)
}

/// Returns the part of `/proc/kcore` that kexec reads for the crash kernel, which makes no use of
/// it here: an ELF header, and the place of the running kernel's text.
fn kcore() -> Vec<u8> {
    const TEXT: u64 = 0xffff_ffff_8000_0000;
    const TEXT_SIZE: u64 = 0x2000_0000;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut half = |value: u16| elf.extend(value.to_le_bytes());
    // ET_CORE, EM_X86_64, the version; no entry, a program header behind this, no sections.
    [4, 62, 1, 0, 0, 0, 0, 0, 64, 0, 0, 0].map(&mut half);
    [0, 0, 0, 0, 0, 0, 64, 56, 1, 0, 0, 0].map(&mut half);
    // PT_LOAD, readable; its offset, addresses, sizes and alignment.
    [1, 0, 4, 0].map(&mut half);
    for value in [4096, TEXT, 0, TEXT_SIZE, TEXT_SIZE, 4096_u64] {
        elf.extend(value.to_le_bytes());
    }
    elf
}

fn half_lost() -> Faults {
    Faults {
        loss: 0.5,
        ..Faults::default()
    }
}

/// Loads the module when a crash kernel is loaded already.
fn load(scene: &mut Scene) -> Result<AckingLogger> {
    load_crash_kernel(scene)?;
    attach(scene, PATIENT)
}

/// An emulated machine on a busy host does not send a whole crash, each line eight times, in the
/// 0.3 s that a crash kernel waits by default.
const PATIENT: &str = "kdump_send_ms=5000";

fn load_crash_kernel(scene: &mut Scene) -> Result<()> {
    scene.sh("insmod /lkdtm.ko")?;
    // The test kernel has no /proc/kcore.
    let kcore: Vec<_> = kcore().iter().map(|b| format!("\\{b:03o}")).collect();
    let kcore = kcore.concat();
    scene.sh(&format!(
        "mkdir /tmp/proc
         cp /proc/cmdline /proc/iomem /proc/kallsyms /proc/mounts /tmp/proc
         printf '{kcore}' > /tmp/proc/kcore
         unshare -m sh -c \"mount --bind /tmp/proc /proc && {KEXEC} -c -p {IMAGE} {NEXT}\""
    ))?;
    let loaded = scene.sh("cat /sys/kernel/kexec_crash_loaded")?;
    ensure!(loaded.trim() == "1", "no crash kernel: {loaded}");
    Ok(())
}

/// Crashes into the next kernel; returns the number of console lines before it.
fn crash(scene: &mut Scene, peer: &AckingLogger, script: &str) -> Result<usize> {
    let said = scene.vm.serial.len();
    scene.log("just before it")?;
    peer.logger.wait_for("just before it", SOON)?;
    detached(scene, script)?;
    let serial = &scene.vm.serial;
    serial
        .wait_for(NEXT_KERNEL, said, SOON * 2)
        .context("no next kernel runs")?;
    Ok(said)
}

/// Returns the number of console lines from the `said`th on before the next kernel's, and those of
/// them that are not at the logger.
fn lines(scene: &Scene, peer: &AckingLogger, said: usize) -> Result<(usize, Vec<String>)> {
    let lines = scene.vm.serial.lines(said);
    let lines = lines.iter().take_while(|line| !line.contains(NEXT_KERNEL));
    let lines: Vec<_> = lines.filter_map(|line| dated(line)).collect();
    let arrived = arrived_lines(&peer.logger)?;
    let missing = lines.iter().filter(|line| !arrived.contains(line));
    Ok((lines.len(), missing.map(|(_, text)| text.clone()).collect()))
}

/// An oops arrives with the lines that are logged after the notifiers have run.
fn after_an_oops(scene: &mut Scene) -> Result<()> {
    let peer = load(scene)?;
    let said = crash(scene, &peer, OOPS)?;
    let all = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("an oops into the next kernel: {all} lines");
    ensure!(all > 30, "an oops of {all} lines");
    Ok(())
}

/// A panic arrives that is no oops.
fn after_sysrq(scene: &mut Scene, faults: Faults) -> Result<()> {
    let peer = load(scene)?;
    crashes_after(scene, &peer, faults)
}

fn crashes_after(scene: &mut Scene, peer: &AckingLogger, faults: Faults) -> Result<()> {
    scene.wire().set_faults(Direction::FromGuest, faults);
    let said = crash(scene, peer, &format!("exec taskset 1 sh -c '{SYSRQ}'"))?;
    let all = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    println!("a panic into the next kernel: {all} lines");
    ensure!(all > 20, "a crash of {all} lines");
    Ok(())
}

/// A panic arrives by a device that hands frames on by netpoll.
fn on_a_vlan(scene: &mut Scene) -> Result<()> {
    let peer = super::devices::vlan(scene)?;
    load_crash_kernel(scene)?;
    let peer = attach_to(scene, super::devices::VLAN, peer, PATIENT)?;
    crashes_after(scene, &peer, Faults::default())
}

/// A driver function that a crash has interrupted is not entered again: the crash kernel runs, and
/// nothing of the crash is sent before it. What the driver's poll does not keep from sending may
/// come once: printk's thread goes on, on the other processor, until the crash stops that.
fn in_the_driver(scene: &mut Scene, switch: &str, most: usize) -> Result<()> {
    let peer = load(scene)?;
    let module = module_name();
    let switch = format!("/sys/module/{module}/parameters/{switch}");
    crash(scene, &peer, &format!("echo 1 > {switch}"))?;
    let collector = peer.logger.lock();
    let before = collector.find("just before it").context("no mark")?.seq;
    // Those of a crash that is sent come eight times.
    for (seq, record) in collector.records.range(before + 1..) {
        let copies = record.copies;
        ensure!(copies <= most, "record {seq} was sent {copies} times");
    }
    Ok(())
}

/// With `kdump_first=1` nothing is sent before the crash kernel runs.
fn first(scene: &mut Scene) -> Result<()> {
    load_crash_kernel(scene)?;
    let peer = attach(scene, "kdump_first=1")?;
    crash(scene, &peer, &format!("exec taskset 1 sh -c '{SYSRQ}'"))?;
    let sent = peer.logger.lock().find("Kernel panic").is_some();
    ensure!(!sent, "the panic was sent");
    Ok(())
}

/// With `oops_only` only the crash is sent.
fn oops_only(scene: &mut Scene) -> Result<()> {
    load_crash_kernel(scene)?;
    let peer = AckingLogger::attach(scene.wire(), PORT, Config::new(Kind::Session))?;
    // A log host that answers would ask for the rest.
    peer.set_silent(true);
    let parameters = format!("oops_only=1 {PATIENT}");
    scene.load_with(&format!("+@/eth0,{PORT}@{HOST}/"), &parameters)?;
    // This record is too old to be taken for a part of the crash.
    scene.log("long before it")?;
    scene.sh("usleep 3000000")?;
    let said = scene.vm.serial.len();
    detached(scene, &format!("exec taskset 1 sh -c '{SYSRQ}'"))?;
    let serial = &scene.vm.serial;
    serial
        .wait_for(NEXT_KERNEL, said, SOON * 2)
        .context("no next kernel runs")?;
    let all = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    ensure!(all > 20, "a crash of {all} lines");
    let sent = peer.logger.lock().find("long before it").is_some();
    ensure!(!sent, "the log was sent");
    Ok(())
}

/// With a crash kernel loaded, the notifier reports an oops that the machine survives once, and
/// everything works as before afterwards.
fn survived(scene: &mut Scene) -> Result<()> {
    let peer = load(scene)?;
    scene.sh("echo 0 > /proc/sys/kernel/panic_on_oops")?;
    let said = scene.vm.serial.len();
    for _ in 0..3 {
        let from = scene.vm.serial.len();
        detached(scene, OOPS)?;
        scene.vm.serial.wait_for("---[ end trace", from, SOON)?;
    }
    let lines = all_lines_arrive(scene, &peer.logger, said, SOON)?;
    ensure!(lines > 60, "three oopses of {lines} lines");
    scene.log("and all goes on")?;
    let seq = peer.logger.wait_for("and all goes on", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    scene.unload()
}

/// Records from before an orderly kexec are acked before the next kernel runs, though half of them
/// were lost, and the logger asks for them so late that only waiting helps.
fn kexec_waits(scene: &mut Scene) -> Result<()> {
    scene.sh(&format!("{KEXEC} -c -l {IMAGE} {NEXT}"))?;
    let peer = attach(scene, "")?;
    let said = scene.vm.serial.len();
    peer.set_silent(true);
    let late = Faults {
        delay: Duration::from_millis(200),
        ..Faults::default()
    };
    scene.wire().set_faults(Direction::FromGuest, half_lost());
    scene.wire().set_faults(Direction::ToGuest, late);
    let burst = Burst::new(100, scene.seed, "unacked");
    scene.vm.agent.log(&burst, SOON)?;
    scene.vm.serial.wait_for("unacked 99 ", said, SOON)?;
    let usual = Faults::default();
    scene.wire().set_faults(Direction::FromGuest, usual);
    detached(scene, &format!("echo leaving > /dev/kmsg; {KEXEC} -e -x"))?;
    let seq = peer.logger.wait_for("leaving", SOON)?;
    peer.set_silent(false);
    let began = Instant::now();
    scene
        .vm
        .serial
        .wait_for(NEXT_KERNEL, said, SOON * 2)
        .context("the next kernel does not run")?;
    println!("the next kernel runs after {:.2?}", began.elapsed());
    peer.wait_for_all(seq, Duration::from_millis(500))?;
    // Lines that are logged after the devices have been shut down cannot be sent.
    let (all, missing) = lines(scene, &peer, said)?;
    println!("kexec: {all} lines, without {missing:?}");
    ensure!(
        missing
            .iter()
            .all(|line| line.contains("Starting new kernel")),
        "not at the logger: {missing:?}"
    );
    Ok(())
}
