// SPDX-License-Identifier: GPL-2.0

//! Targets that come late, are adopted, and go; the subsystem as a whole.

use std::fs;

use anyhow::{ensure, Context, Result};
use nctest::env;
use nctest::logger::Logger;
use nctest::vm::{VmConfig, MODULE};

use super::{
    enable, expect, get, in_use, load_bare, make, make_target, path, peer, refuse, refuse_value,
    remove, respond, set, sleep_ms, wait_for_value, EAGAIN, EBUSY, EEXIST, ENOTEMPTY,
};
use crate::scene::{module_name, Scene, GUEST, HOST, PORT, SOON};
use crate::trial::{ours_only, trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("target_by_hand", target_by_hand),
        trial("late_target", late_target),
        trial("adopted_target", adopted_target),
        trial("removed_in_use", removed_in_use),
        ours_only(trial("removed_in_every_state", removed_in_every_state)),
        trial("busy_module", busy_module),
        trial_with("second_instance", with_copy, second_instance),
        trial("configfs_not_mounted", configfs_not_mounted),
    ]
}

/// A log host on another port than the scene's own.
fn other(scene: &Scene) -> Logger {
    Logger::attach(scene.wire(), PORT + 1)
}

/// Logs a line that `there` gets, and fails if the scene's log host gets it too.
fn only_there(scene: &mut Scene, there: &Logger, text: &str) -> Result<()> {
    scene.log(text)?;
    there.wait_for(text, SOON)?;
    // Another target that gets it is served from the same callback.
    sleep_ms(300);
    let here = scene.logger.record(text).is_ok();
    ensure!(!here, "{text:?} went to a target that is gone");
    Ok(())
}

/// A target is made, set, enabled, and removed by hand, again and again.
fn target_by_hand(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    for round in 0..5 {
        let name = format!("target_{round}");
        make_target(scene, &name, PORT, &[])?;
        scene.log(&format!("too early {round}"))?;
        enable(scene, &name, true)?;
        let text = format!("in round {round}");
        scene.log(&text)?;
        scene.logger.wait_for(&text, SOON)?;
        // Every second one is disabled before it is removed.
        if round % 2 == 0 {
            enable(scene, &name, false)?;
        }
        remove(scene, &name)?;
        scene.log(&format!("too late {round}"))?;
    }
    // Records that were logged while there was no target were not sent.
    for text in ["too early", "too late"] {
        ensure!(scene.logger.record(text).is_err(), "{text:?} was sent");
    }
    // The default groups come and go with a target.
    make(scene, "tgt")?;
    let groups = scene.sh(&format!("cd {}; find . -mindepth 1 -type d", path("tgt")))?;
    ensure!(groups.contains("./userdata"), "the groups are {groups:?}");
    refuse(scene, &format!("mkdir {}", path("tgt/more")), "")?;
    refuse(scene, &format!("rmdir {}", path("tgt/userdata")), "")?;
    refuse(scene, &format!("mkdir {}", path("tgt")), EEXIST)?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// A target that is enabled beside another one, or as the first one after much has been logged,
/// does not get old records.
fn late_target(scene: &mut Scene) -> Result<()> {
    // There is no target before it.
    load_bare(scene)?;
    scene.log("before the first")?;
    let old = scene.newest()?;
    make_target(scene, "first", PORT, &[])?;
    enable(scene, "first", true)?;
    scene.log("for the first")?;
    scene.logger.wait_for("for the first", SOON)?;
    nothing_up_to(&scene.logger, old)?;
    // There is one target before it.
    let logger = other(scene);
    scene.log("before the second")?;
    scene.logger.wait_for("before the second", SOON)?;
    let old = scene.newest()?;
    make_target(scene, "second", PORT + 1, &[])?;
    enable(scene, "second", true)?;
    scene.log("for both")?;
    scene.logger.wait_for("for both", SOON)?;
    let seq = logger.wait_for("for both", SOON)?;
    sleep_ms(500);
    nothing_up_to(&logger, old)?;
    // The first target has sent nothing twice because of it.
    let again = scene.logger.lock().duplicates;
    ensure!(again == 0, "{again} records came again to the first");
    if !env::upstream() {
        // Its log host gets the old records if it asks for them.
        respond(scene, PORT + 1, &format!("nca{seq} {old}"))?;
        logger.wait_for("before the second", SOON)?;
        // The request for one old record does not bring those before it.
        sleep_ms(500);
        let collector = logger.lock();
        let below = collector.records.range(..old).count();
        ensure!(below == 0, "{below} records that nobody has asked for");
    }
    for target in ["first", "second"] {
        remove(scene, target)?;
    }
    scene.unload_and_settle()
}

fn nothing_up_to(logger: &Logger, old: u64) -> Result<()> {
    let collector = logger.lock();
    let early: Vec<_> = collector.records.range(..=old).map(|(n, _)| n).collect();
    ensure!(early.is_empty(), "old records were sent: {early:?}");
    Ok(())
}

/// `netconsole=` has made a target; a directory of its name is that target.
fn adopted_target(scene: &mut Scene) -> Result<()> {
    let logger = other(scene);
    scene.load(&format!(
        "+r7000@/eth0,@{HOST}/02:00:00:00:00:01;+@{GUEST}/eth0,{}@{HOST}/",
        PORT + 1
    ))?;
    scene.log("before")?;
    scene.logger.wait_for("before", SOON)?;
    make(scene, "cmdline0")?;
    for (file, value) in [
        ("enabled", "1"),
        ("extended", "1"),
        ("release", "1"),
        ("dev_name", "eth0"),
        ("local_port", "7000"),
        ("remote_port", "6666"),
        ("local_ip", GUEST),
        ("remote_ip", HOST),
        ("local_mac", "52:54:00:00:00:01"),
        ("remote_mac", "02:00:00:00:00:01"),
        ("transmit_errors", "0"),
    ] {
        expect(scene, &format!("cmdline0/{file}"), value)?;
    }
    refuse_value(scene, "cmdline0/local_port", "7001", in_use())?;
    scene.log("adopted")?;
    scene.logger.wait_for("adopted", SOON)?;
    let again = scene.logger.lock().duplicates;
    ensure!(again == 0, "{again} records came again");
    // It can be changed like any other.
    enable(scene, "cmdline0", false)?;
    only_there(scene, &logger, "while it is disabled")?;
    set(scene, "cmdline0/local_port", "7001")?;
    enable(scene, "cmdline0", true)?;
    scene.log("as it is now")?;
    let seq = scene.logger.wait_for("as it is now", SOON)?;
    {
        let collector = scene.logger.lock();
        let arrival = collector.arrivals.iter().find(|a| a.seq == Some(seq));
        let from = arrival.context("no such datagram")?.from;
        ensure!(from.port() == 7001, "sent from {from}");
    }
    // Userdata, too.
    make(scene, "cmdline0/userdata/who")?;
    set(scene, "cmdline0/userdata/who/value", "adopted")?;
    scene.log("with userdata")?;
    scene
        .logger
        .wait_for("with userdata\n who=adopted\n", SOON)?;
    remove(scene, "cmdline0/userdata/who")?;
    // Removing the directory ends this target and no other.
    remove(scene, "cmdline0")?;
    only_there(scene, &logger, "without it")?;
    // The name is free, and so is a number that no target has had.
    for name in ["cmdline0", "cmdline7", "cmdline", "cmdline00"] {
        make(scene, name)?;
        expect(scene, &format!("{name}/enabled"), "0")?;
        expect(scene, &format!("{name}/local_port"), "6665")?;
        remove(scene, name)?;
    }
    // The other target, which has no directory, does not hold the module.
    only_there(scene, &logger, "nobody has adopted this one")?;
    scene.unload_and_settle()
}

/// rmdir of an enabled target works, despite all obstacles.
fn removed_in_use(scene: &mut Scene) -> Result<()> {
    let logger = other(scene);
    load_bare(scene)?;
    make_target(scene, "stays", PORT + 1, &[])?;
    enable(scene, "stays", true)?;
    make_target(scene, "goes", PORT, &[])?;
    enable(scene, "goes", true)?;
    make(scene, "goes/userdata/key")?;
    set(scene, "goes/userdata/key/value", "x")?;
    // As long as a user's directory is in it, it cannot go.
    refuse(scene, &format!("rmdir {}", path("goes")), ENOTEMPTY)?;
    scene.log("it has not gone")?;
    scene.logger.wait_for("it has not gone\n key=x\n", SOON)?;
    remove(scene, "goes/userdata/key")?;
    // A file of it stays open for a while.
    let (dir, file) = (path("goes"), path("goes/enabled"));
    scene.sh(&format!(
        "exec 3< {file}; rmdir {dir}; [ ! -e {dir} ] || exit 1
         mkdir {dir}; [ $(cat {file}) = 0 ] || exit 1; rmdir {dir}
         exec 3<&-"
    ))?;
    only_there(scene, &logger, "gone, with a file open")?;
    // While much is logged.
    for round in 0..10 {
        make_target(scene, "goes", PORT, &[])?;
        enable(scene, "goes", true)?;
        scene.sh(&format!(
            "(for i in $(seq 100); do echo round {round} $i > /dev/kmsg; done) &
             usleep 20000; rmdir {dir}; wait"
        ))?;
        logger.wait_for(&format!("round {round} 100\n"), SOON)?;
    }
    only_there(scene, &logger, "gone in the middle of it")?;
    remove(scene, "stays")?;
    scene.unload_and_settle()
}

/// rmdir leaves nothing behind in any state of the target, and the module can be unloaded at once.
fn removed_in_every_state(scene: &mut Scene) -> Result<()> {
    for state in [
        "disabled",
        "never-acked",
        "acked",
        "lagging",
        "emergency",
        "down",
        "no-carrier",
    ] {
        println!("removed_in_every_state: {state}");
        load_bare(scene)?;
        let more: &[(&str, &str)] = match state {
            "emergency" => &[("ack_timeout_ms", "300"), ("emg_min_intv_ms", "20")],
            _ => &[],
        };
        make_target(scene, "tgt", PORT, more)?;
        if state != "disabled" {
            enable(scene, "tgt", true)?;
        }
        let mut log_host = None;
        match state {
            "acked" | "lagging" | "emergency" => {
                let acker = peer(scene, PORT)?;
                scene.log("the log host answers")?;
                let seq = acker.logger.wait_for("the log host answers", SOON)?;
                acker.wait_for_all(seq, SOON)?;
                wait_for_value(scene, "tgt/stats/state", "acked")?;
                acker.set_silent(state != "acked");
                log_host = Some(acker);
                if state != "acked" {
                    scene.log("nobody acknowledges this")?;
                }
            }
            "down" => drop(scene.sh("ip link set eth0 down")?),
            "no-carrier" => scene.vm.set_link(0, false)?,
            _ => {}
        }
        wait_for_value(scene, "tgt/stats/state", state)?;
        remove(scene, "tgt")?;
        scene.unload()?;
        drop(log_host);
        match state {
            "down" => drop(scene.sh("ip link set eth0 up; ip addr add fd00::15/64 dev eth0")?),
            "no-carrier" => scene.vm.set_link(0, true)?,
            _ => {}
        }
        scene.logger = Logger::attach(scene.wire(), PORT);
    }
    scene.vm.settle()
}

/// The module cannot be unloaded as long as there is a directory.
fn busy_module(scene: &mut Scene) -> Result<()> {
    let rmmod = format!("rmmod {}", module_name());
    load_bare(scene)?;
    make(scene, "tgt")?;
    refuse(scene, &rmmod, EAGAIN)?;
    make_target(scene, "enabled", PORT, &[])?;
    enable(scene, "enabled", true)?;
    refuse(scene, &rmmod, EAGAIN)?;
    remove(scene, "tgt")?;
    refuse(scene, &rmmod, EAGAIN)?;
    // The target still works.
    scene.log("as ever")?;
    scene.logger.wait_for("as ever", SOON)?;
    expect(scene, "enabled/enabled", "1")?;
    remove(scene, "enabled")?;
    scene.unload()?;
    let left = scene.sh("ls /sys/kernel/config")?;
    ensure!(!left.contains(module_name()), "still there: {left:?}");
    // An adopted target is a directory like any other.
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    make(scene, "cmdline0")?;
    refuse(scene, &rmmod, EAGAIN)?;
    remove(scene, "cmdline0")?;
    scene.unload_and_settle()
}

/// The path in the guest of the module under another name.
const COPY: &str = "/copy.ko";

/// A name of the same length that is not the module's.
fn copy_name() -> String {
    let name = module_name();
    format!("{}2", &name[..name.len() - 1])
}

/// Gives the guest the module once more, under a name that the kernel does not know yet. In all
/// else it is the same, its directory included.
fn with_copy(config: &mut VmConfig) -> Result<()> {
    let mut image = fs::read(&config.guest.module)?;
    let section = section_of(&image, ".gnu.linkonce.this_module")?;
    let (name, copy) = (format!("{}\0", module_name()), format!("{}\0", copy_name()));
    let bytes = &mut image[section];
    let at = bytes.windows(name.len()).position(|w| w == name.as_bytes());
    let at = at.context("the module's name is not where it should be")?;
    bytes[at..at + copy.len()].copy_from_slice(copy.as_bytes());
    let dir = env::out_dir()?.join(&config.name);
    fs::create_dir_all(&dir)?;
    let file = dir.join("copy.ko");
    fs::write(&file, image)?;
    config.files.push((COPY.into(), file));
    Ok(())
}

/// Returns the place of a section of a 64-bit little-endian ELF file.
fn section_of(image: &[u8], name: &str) -> Result<std::ops::Range<usize>> {
    let number = |at: usize, len: usize| -> Result<usize> {
        let bytes = image.get(at..at + len).context("a short ELF file")?;
        let digits = bytes.iter().rev();
        Ok(digits.fold(0, |n, &byte| (n << 8) | usize::from(byte)))
    };
    let (table, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (count, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |n: usize| table + n * size;
    let names = number(header(names) + 0x18, 8)?;
    for n in 0..count {
        let begin = names + number(header(n), 4)?;
        let rest = image.get(begin..).context("a short ELF file")?;
        if rest.starts_with(format!("{name}\0").as_bytes()) {
            let offset = number(header(n) + 0x18, 8)?;
            return Ok(offset..offset + number(header(n) + 0x20, 8)?);
        }
    }
    anyhow::bail!("no section {name}")
}

/// A second copy of the module under another name finds its directory taken: it is refused, and the
/// first one goes on.
fn second_instance(scene: &mut Scene) -> Result<()> {
    let copy = copy_name();
    // The copy works when it is alone.
    scene.sh(&format!("insmod {COPY}; rmmod {copy}"))?;
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    make(scene, "cmdline0")?;
    let targets = [
        String::new(),
        format!("'netconsole=\"+@/eth0,{}@{HOST}/\"'", PORT + 1),
    ];
    for (n, target) in targets.iter().enumerate() {
        // The module returns EEXIST, which is reserved for names of modules, so the kernel turns it
        // into EBUSY.
        refuse(scene, &format!("insmod {COPY} {target}"), EBUSY)?;
        let left = scene.sh(&format!(
            "grep '^{copy} ' /proc/modules; ls -d /sys/module/{copy}; true"
        ))?;
        ensure!(!left.contains(&format!("{copy} ")), "left behind: {left}");
        // Three consoles would be one too many.
        let consoles = scene.sh("cat /proc/consoles")?;
        println!("second_instance: {consoles}");
        expect(scene, "cmdline0/enabled", "1")?;
        let text = format!("after attempt {n}");
        scene.log(&text)?;
        scene.logger.wait_for(&text, SOON)?;
    }
    // Leftovers of the copy could hold the device.
    scene.sh("ip link set eth0 down; ip link set eth0 up")?;
    remove(scene, "cmdline0")?;
    scene.unload()?;
    scene.sh(&format!("insmod {COPY}; rmmod {copy}"))?;
    scene.vm.settle()
}

/// Without configfs in the file system the module does all that it can.
fn configfs_not_mounted(scene: &mut Scene) -> Result<()> {
    scene.sh("umount /sys/kernel/config")?;
    for round in 0..2 {
        scene.load(&format!("+@/eth0,@{HOST}/"))?;
        scene.log(&format!("nothing is mounted {round}"))?;
        scene
            .logger
            .wait_for(&format!("nothing is mounted {round}"), SOON)?;
        scene.unload()?;
    }
    // Mounted later, it is there.
    scene.sh(&format!("insmod {MODULE} 'netconsole=+@/eth0,@{HOST}/'"))?;
    scene.sh("mount -t configfs none /sys/kernel/config")?;
    make(scene, "cmdline0")?;
    let enabled = get(scene, "cmdline0/enabled")?;
    ensure!(enabled == "1", "enabled is {enabled}");
    remove(scene, "cmdline0")?;
    scene.unload_and_settle()
}
