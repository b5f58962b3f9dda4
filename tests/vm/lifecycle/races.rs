// SPDX-License-Identifier: GPL-2.0

//! Races between events that the comments of upstream's `netconsole.c` describe, again and again.
//! Each goes on for ten seconds beside others; nothing may hang, warn, or be left behind.

use std::time::Duration;

use anyhow::Result;

use super::loops::Loops;
use super::{load_for_eth1, ours, reaches, sh, with_netdevsim, Target};
use crate::scene::{module_name, Scene, SOON};
use crate::trial::{trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with(
            "race_unregister_while_resuming",
            with_netdevsim,
            unregister_while_resuming,
        ),
        trial_with(
            "race_disable_while_resting",
            with_netdevsim,
            disable_while_resting,
        ),
        trial_with(
            "race_rmdir_while_resting",
            with_netdevsim,
            rmdir_while_resting,
        ),
        trial_with(
            "race_rename_while_resuming",
            with_netdevsim,
            rename_while_resuming,
        ),
        trial_with("race_toggles", with_netdevsim, toggles),
    ]
}

const TIME: Duration = Duration::from_secs(10);
/// The number of times that an event has to happen in that time, also on a busy machine, for the
/// trial to count.
const ENOUGH: u64 = 5;

/// A netdevsim device goes and comes. It gets the first free name: `eth2`.
const NSIM_COMES_AND_GOES: &str = "
    did put '7 1' /sys/bus/netdevsim/new_device; nap
    put 7 /sys/bus/netdevsim/del_device; [ $((RANDOM % 3)) = 0 ] || nap
";

/// Loads the module and netdevsim, with a device that comes and goes from now on.
fn prepare(scene: &mut Scene) -> Result<()> {
    sh(scene, "insmod /netdevsim.ko")?;
    load_for_eth1(scene)?;
    sh(
        scene,
        "echo '7 1' > /sys/bus/netdevsim/new_device; ip link show eth2",
    )?;
    sh(scene, "echo 7 > /sys/bus/netdevsim/del_device").map(drop)
}

/// A target for the device that comes and goes.
fn on_nsim(scene: &mut Scene, name: &str) -> Result<Target> {
    let target = Target::to(scene, name, "eth2", "10.0.9.1")?;
    target.set(scene, "local_ip", "10.0.9.15")?;
    Ok(target)
}

/// Checks that nothing hangs, and that everything can be removed.
fn finish(scene: &mut Scene, targets: Vec<Target>) -> Result<()> {
    for target in targets {
        target.remove(scene)?;
    }
    // This would wait for ever if something still held the device.
    sh(
        scene,
        "echo 7 > /sys/bus/netdevsim/del_device || true; rmmod netdevsim",
    )?;
    let logger = nctest::logger::Logger::attach(&scene.vm.wires[1], crate::scene::PORT);
    let last = Target::on_eth1(scene, "last")?;
    reaches(scene, &logger, "after all that")?;
    last.remove(scene)?;
    scene.unload_and_settle()
}

/// The device goes again while its target is being resumed.
fn unregister_while_resuming(scene: &mut Scene) -> Result<()> {
    prepare(scene)?;
    sh(scene, "echo '7 1' > /sys/bus/netdevsim/new_device")?;
    let mut targets = Vec::new();
    for name in ["a", "b", "c"] {
        let target = on_nsim(scene, name)?;
        target.set(scene, "enabled", "1")?;
        targets.push(target);
    }
    sh(scene, "echo 7 > /sys/bus/netdevsim/del_device")?;
    Loops::new(scene.seed)
        .counting("nsim", ENOUGH, NSIM_COMES_AND_GOES)
        .with("log", "did put 'in between' /dev/kmsg; nap")
        .run(scene, TIME)?;
    sh(scene, "echo '7 1' > /sys/bus/netdevsim/new_device")?;
    // Upstream's target gives up when it does not get the device at once.
    if ours(
        scene,
        "targets that resume after any number of interruptions",
    ) {
        for target in &targets {
            target.until(scene, "enabled", "1", SOON)?;
        }
    }
    finish(scene, targets)
}

/// A target is disabled and enabled while its device comes and goes.
fn disable_while_resting(scene: &mut Scene) -> Result<()> {
    prepare(scene)?;
    let targets = vec![on_nsim(scene, "a")?, on_nsim(scene, "b")?];
    let by_hand = |target: &Target| {
        let path = &target.path;
        format!("did put 1 {path}/enabled; nap; put 0 {path}/enabled; cat {path}/*; nap")
    };
    Loops::new(scene.seed)
        .counting("nsim", ENOUGH, NSIM_COMES_AND_GOES)
        .counting("hand-a", 1, &by_hand(&targets[0]))
        .with("hand-b", &by_hand(&targets[1]))
        .with("log", "did put 'in between' /dev/kmsg; nap")
        .run(scene, TIME)?;
    // Disabled by hand, they stay so.
    for target in &targets {
        sh(
            scene,
            &format!("echo 0 > {}/enabled 2> /dev/null || true", target.path),
        )?;
    }
    sh(scene, "echo '7 1' > /sys/bus/netdevsim/new_device")?;
    super::nothing_happens();
    for target in &targets {
        target.says(scene, "enabled", "0")?;
    }
    finish(scene, targets)
}

/// A target is removed while its device comes and goes.
fn rmdir_while_resting(scene: &mut Scene) -> Result<()> {
    prepare(scene)?;
    let base = format!("/sys/kernel/config/{}", module_name());
    let life = |name: &str| {
        format!(
            "t={base}/{name}; mkdir $t
             put 1 $t/extended; put eth2 $t/dev_name
             put 10.0.9.15 $t/local_ip; put 10.0.9.1 $t/remote_ip
             for try in 1 2 3 4 5 6 7 8; do put 1 $t/enabled && did true && break; done
             nap; nap; rmdir $t"
        )
    };
    Loops::new(scene.seed)
        .counting("nsim", ENOUGH, NSIM_COMES_AND_GOES)
        .counting("life-a", 1, &life("a"))
        .with("life-b", &life("b"))
        .with("log", "did put 'in between' /dev/kmsg; nap")
        .run(scene, TIME)?;
    sh(scene, &format!("rmdir {base}/* 2> /dev/null || true"))?;
    finish(scene, Vec::new())
}

/// Other devices take the name that targets wait for, and give it away, while
/// they are resumed there.
fn rename_while_resuming(scene: &mut Scene) -> Result<()> {
    prepare(scene)?;
    sh(scene, "echo '7 1' > /sys/bus/netdevsim/new_device")?;
    let targets = vec![on_nsim(scene, "a")?, on_nsim(scene, "b")?];
    for target in &targets {
        target.set(scene, "enabled", "1")?;
    }
    sh(
        scene,
        "echo 7 > /sys/bus/netdevsim/del_device; ip link show dummy0 || ip link add dummy0 type dummy",
    )?;
    let paths = targets.iter().map(|target| target.path.as_str());
    let paths: Vec<_> = paths.collect();
    let enable = format!(
        "for target in {}; do did put 1 $target/enabled; nap; done",
        paths.join(" ")
    );
    Loops::new(scene.seed)
        .with("nsim", NSIM_COMES_AND_GOES)
        .counting(
            "rename",
            3,
            "did ip link set dummy0 name eth2; nap; ip link set eth2 name dummy0; nap",
        )
        .with(
            "dummy",
            "nap; nap; nap; ip link del dummy0; did ip link add dummy0 type dummy",
        )
        .with("hand", &enable)
        .run(scene, TIME)?;
    sh(
        scene,
        "for d in /sys/class/net/*; do ip link del ${d##*/} type dummy; done 2> /dev/null || true",
    )?;
    finish(scene, targets)
}

/// `enabled` is switched while its device goes down and up, and others come and
/// go.
fn toggles(scene: &mut Scene) -> Result<()> {
    prepare(scene)?;
    let (real, nsim) = (Target::on_eth1(scene, "real")?, on_nsim(scene, "nsim")?);
    let toggle = |target: &Target| {
        let path = &target.path;
        format!(
            "did put 0 {path}/enabled; did put 1 {path}/enabled; [ $((RANDOM % 2)) = 0 ] || nap"
        )
    };
    Loops::new(scene.seed)
        .counting("toggle-real", ENOUGH, &toggle(&real))
        .with("toggle-nsim", &toggle(&nsim))
        .counting(
            "down-up",
            ENOUGH,
            "did ip link set eth1 down; nap; did ip link set eth1 up; nap",
        )
        .with("nsim", NSIM_COMES_AND_GOES)
        .with("log", "did put 'in between' /dev/kmsg; nap")
        .run(scene, TIME)?;
    finish(scene, vec![real, nsim])
}
