// SPDX-License-Identifier: GPL-2.0

//! The files of a target: their contents, the values they accept and refuse, their effects.

use anyhow::{ensure, Context, Result};
use nctest::collector::contains;
use nctest::env;
use nctest::logger::{Logger, Sink};
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;

use super::{
    enable, expect, get, in_use, load_bare, make, make_target, path, refuse_value, remove, respond,
    set, set_all, sleep_ms, wait_for_line, EACCES, EBUSY, EDESTADDRREQ, EINVAL, ENAMETOOLONG,
    ENODEV,
};
use crate::scene::{Scene, GUEST, HOST, HOST6, HOST_MAC, HOST_MAC_TEXT, PORT, SOON};
use crate::trial::{ours_only, trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("attributes", attributes),
        trial("enabled_twice", enabled_twice),
        trial_with("enabling_fails", second_card, enabling_fails),
        trial("settings_of_upstream_take_effect", settings_of_upstream),
        ours_only(trial("settings_of_ours_take_effect", settings_of_ours)),
    ]
}

fn second_card(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::Virtio);
    Ok(())
}

/// The kinds of values that an attribute takes.
enum Values {
    /// Pairs of values as written and as read afterwards, and values that are refused.
    Some(
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    ),
    /// A switch.
    Bool,
    /// A number of ours with its bounds, which the error names.
    Number(u64, u64),
}

/// A file that can be written while the target is disabled.
struct Attribute {
    name: &'static str,
    default: &'static str,
    values: Values,
    ours: bool,
}

const fn theirs(name: &'static str, default: &'static str, values: Values) -> Attribute {
    Attribute {
        name,
        default,
        values,
        ours: false,
    }
}

const fn ours(name: &'static str, default: &'static str, values: Values) -> Attribute {
    Attribute {
        name,
        default,
        values,
        ours: true,
    }
}

/// All attributes. (The test kernel's configuration makes `extended` 1.)
const ATTRIBUTES: &[Attribute] = &[
    theirs("extended", "1", Values::Bool),
    theirs("release", "0", Values::Bool),
    theirs(
        "dev_name",
        "eth0",
        // A name of 16 bytes is refused with an error of its own.
        Values::Some(
            &[("eth7", "eth7"), ("fifteen_letters", "fifteen_letters")],
            &[],
        ),
    ),
    theirs("local_port", "6665", PORTS),
    theirs("remote_port", "6666", PORTS),
    theirs("local_ip", "0.0.0.0", ADDRESSES),
    theirs("remote_ip", "0.0.0.0", ADDRESSES),
    theirs(
        "remote_mac",
        "ff:ff:ff:ff:ff:ff",
        Values::Some(
            &[
                ("02:00:00:00:00:01", "02:00:00:00:00:01"),
                ("0A:bC:00:00:00:fF", "0a:bc:00:00:00:ff"),
            ],
            // (With our module an empty line means "find it out".)
            &[
                "x",
                "02:00:00:00:00",
                "02:00:00:00:00:0g",
                "02:00:00:00:00:01:02",
                "02:00:00:00:00:01 ",
            ],
        ),
    ),
    ours(
        "dialect",
        "auto",
        Values::Some(
            &[("nca", "nca"), ("ncrx", "ncrx"), ("auto", "auto")],
            &["", "x", "NCA", "nca ncrx", "nc"],
        ),
    ),
    ours(
        "session",
        "auto",
        Values::Some(
            &[("require", "require"), ("off", "off"), ("auto", "auto")],
            &["", "x", "1", "on", "offf"],
        ),
    ),
    ours("full_log", "0", Values::Bool),
    ours("ack_timeout_ms", "10000", Values::Number(100, 3_600_000)),
    ours("emg_min_intv_ms", "100", Values::Number(1, 60_000)),
    ours("emg_max_intv_ms", "1000", Values::Number(1, 60_000)),
    ours("retransmit_rate", "10000", Values::Number(1, 1_000_000)),
    ours("keepalive_s", "20", Values::Number(0, 86_400)),
    ours("panic_hold_ms", "1000", Values::Number(0, 60_000)),
    ours("crash_repeats", "2", Values::Number(0, 16)),
];

const PORTS: Values = Values::Some(
    &[("0", "0"), ("1", "1"), ("65535", "65535"), ("007", "7")],
    &["", "x", "-1", "1 2", "1x", "0x10"],
);

const ADDRESSES: Values = Values::Some(
    &[
        ("10.0.2.1", "10.0.2.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("fd00:0:0::1", "fd00::1"),
        ("::ffff:10.0.2.1", "::ffff:10.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
    ],
    &[
        "",
        "x",
        "10.0.2",
        "10.0.2.256",
        "10.0.2.1.1",
        "10.0.2.1 x",
        "fd00:::1",
        "fd00::g",
        "eth0",
    ],
);

fn known() -> impl Iterator<Item = &'static Attribute> {
    ATTRIBUTES.iter().filter(|a| !(a.ours && env::upstream()))
}

/// Every attribute has the right mode and default, and accepts and refuses the right values; all
/// are refused while the target is enabled, and accepted again afterwards.
fn attributes(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make(scene, "tgt")?;
    modes(scene)?;
    for attribute in known() {
        let file = format!("tgt/{}", attribute.name);
        expect(scene, &file, attribute.default)?;
        taken_and_refused(scene, attribute, &file).context(attribute.name)?;
        set(scene, &file, attribute.default)?;
        expect(scene, &file, attribute.default)?;
    }
    // An altname has 127 characters at most.
    let long = "x".repeat(128);
    refuse_value(scene, "tgt/dev_name", &long, ENAMETOOLONG)?;
    expect(scene, "tgt/dev_name", "eth0")?;
    for port in ["local_port", "remote_port"] {
        // Linux returns ERANGE for a number that is out of range.
        let script = super::writing(&format!("tgt/{port}"), "65536");
        let output = scene.vm.agent.exec(&script, SOON)?;
        ensure!(output.code != 0, "{port} takes 65536");
    }
    // All attributes have their old values again; the target works with them.
    for (file, value) in [("enabled", "0"), ("transmit_errors", "0")] {
        expect(scene, &format!("tgt/{file}"), value)?;
    }
    expect(scene, "tgt/local_mac", "ff:ff:ff:ff:ff:ff")?;
    set(scene, "tgt/remote_ip", HOST)?;
    enable(scene, "tgt", true)?;
    scene.log("it works")?;
    scene.logger.wait_for("it works", SOON)?;
    expect(scene, "tgt/local_mac", "52:54:00:00:00:01")?;
    expect(scene, "tgt/local_ip", GUEST)?;
    for attribute in known() {
        refused_in_use(scene, attribute).context(attribute.name)?;
    }
    scene.log("it goes on")?;
    scene.logger.wait_for("it goes on", SOON)?;
    enable(scene, "tgt", false)?;
    expect(scene, "tgt/local_mac", "ff:ff:ff:ff:ff:ff")?;
    for attribute in known() {
        let file = format!("tgt/{}", attribute.name);
        set(scene, &file, attribute.default)?;
        expect(scene, &file, attribute.default)?;
    }
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

fn modes(scene: &mut Scene) -> Result<()> {
    let mode = |scene: &mut Scene, file: &str| -> Result<String> {
        let text = scene.sh(&format!("stat -c %a {}", path(file)))?;
        Ok(text.trim().to_string())
    };
    let written = known().map(|a| (a.name, "644"));
    let rest = [
        ("enabled", "644"),
        ("local_mac", "444"),
        ("transmit_errors", "444"),
    ];
    let all: Vec<_> = written.chain(rest).collect();
    for (name, wanted) in &all {
        let found = mode(scene, &format!("tgt/{name}"))?;
        ensure!(found == *wanted, "the mode of {name} is {found}");
    }
    for name in ["local_mac", "transmit_errors"] {
        refuse_value(scene, &format!("tgt/{name}"), "1", EACCES)?;
    }
    // The directory has no file that this table does not know.
    let files = scene.sh(&format!("cd {}; find . -maxdepth 1 -type f", path("tgt")))?;
    for file in files.lines() {
        let name = file.trim_start_matches("./");
        let known = all.iter().any(|(known, _)| *known == name);
        ensure!(known, "what is {name}?");
    }
    Ok(())
}

fn taken_and_refused(scene: &mut Scene, attribute: &Attribute, file: &str) -> Result<()> {
    match attribute.values {
        Values::Some(good, bad) => {
            for (written, read) in good {
                set(scene, file, written)?;
                expect(scene, file, read)?;
            }
            let kept = get(scene, file)?;
            for value in bad {
                refuse_value(scene, file, value, EINVAL)?;
                // Upstream keeps the part of an address that it could read.
                if env::upstream() && file.ends_with("_ip") {
                    set(scene, file, &kept)?;
                }
                expect(scene, file, &kept)?;
            }
            // The newline is not needed.
            if let Some((written, read)) = good.first() {
                scene.sh(&format!("echo -n '{written}' > {}", path(file)))?;
                expect(scene, file, read)?;
            }
        }
        Values::Bool => {
            for (written, read) in [("1", "1"), ("n", "0"), ("on", "1"), ("0", "0"), ("Y", "1")] {
                set(scene, file, written)?;
                expect(scene, file, read)?;
            }
            for value in ["", "x", "2", "-1"] {
                refuse_value(scene, file, value, EINVAL)?;
                expect(scene, file, "1")?;
            }
        }
        Values::Number(min, max) => {
            for value in [min, max, min + (max - min) / 2] {
                let value = value.to_string();
                set(scene, file, &value)?;
                expect(scene, file, &value)?;
            }
            let kept = get(scene, file)?;
            for value in ["", "x", "-1", "7 7", "99999999999999999999"] {
                refuse_value(scene, file, value, EINVAL)?;
                expect(scene, file, &kept)?;
            }
            for value in [min.checked_sub(1), Some(max + 1)].into_iter().flatten() {
                let said = scene.vm.serial.len();
                refuse_value(scene, file, &value.to_string(), EINVAL)?;
                expect(scene, file, &kept)?;
                let name = attribute.name;
                let line = format!("tgt: {name}={value}: must be from {min} to {max}");
                scene.vm.serial.wait_for(&line, said, SOON)?;
            }
        }
    }
    Ok(())
}

fn refused_in_use(scene: &mut Scene, attribute: &Attribute) -> Result<()> {
    let file = format!("tgt/{}", attribute.name);
    let before = get(scene, &file)?;
    let said = scene.vm.serial.len();
    refuse_value(scene, &file, attribute.default, in_use())?;
    let line = "target (tgt) is enabled, disable to update parameters";
    scene.vm.serial.wait_for(line, said, SOON)?;
    expect(scene, &file, &before)
}

/// `enabled` accepts only a change.
fn enabled_twice(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    let again = |scene: &mut Scene, value: &str, word: &str, is: &str| {
        let said = scene.vm.serial.len();
        refuse_value(scene, "tgt/enabled", value, EINVAL)?;
        let line = format!("network logging has already {word}");
        scene.vm.serial.wait_for(&line, said, SOON)?;
        expect(scene, "tgt/enabled", is)
    };
    again(scene, "0", "stopped", "0")?;
    enable(scene, "tgt", true)?;
    again(scene, "1", "started", "1")?;
    for value in ["", "x", "2"] {
        refuse_value(scene, "tgt/enabled", value, EINVAL)?;
        expect(scene, "tgt/enabled", "1")?;
    }
    scene.log("still on")?;
    scene.logger.wait_for("still on", SOON)?;
    set(scene, "tgt/enabled", "off")?;
    again(scene, "n", "stopped", "0")?;
    set(scene, "tgt/enabled", "y")?;
    expect(scene, "tgt/enabled", "1")?;
    scene.log("on again")?;
    scene.logger.wait_for("on again", SOON)?;
    enable(scene, "tgt", false)?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The error and a line in the log name the obstacle; without it the target can be enabled.
fn enabling_fails(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    let mut cases = vec![
        ("dev_name", "eth7", "eth0", ENODEV, "eth7 doesn't exist"),
        (
            "dev_name",
            "eth1",
            "eth0",
            EDESTADDRREQ,
            "no IP address for eth1",
        ),
        (
            "extended",
            "0",
            "1",
            EINVAL,
            "Release feature requires extended log message",
        ),
    ];
    if env::upstream() {
        // Our module does not accept an empty name.
        cases.push(("dev_name", "", "eth0", ENODEV, "doesn't exist"));
    } else {
        // Upstream would send to port 0.
        cases.push(("remote_port", "0", "6666", EINVAL, "remote_port"));
        cases.push(("remote_ip", "0.0.0.0", HOST, EINVAL, "remote_ip"));
        cases.push(("remote_ip", "::", HOST, EINVAL, "remote_ip"));
    }
    let attempt = |scene: &mut Scene, error: &str, line: &str| {
        let said = scene.vm.serial.len();
        refuse_value(scene, "tgt/enabled", "1", error)?;
        // A line of upstream's lacks its newline: it is shown before the next.
        scene.log("attempted")?;
        wait_for_line(scene, &[line], said)?;
        expect(scene, "tgt/enabled", "0")?;
        expect(scene, "tgt/local_mac", "ff:ff:ff:ff:ff:ff")
    };
    for (n, (file, bad, good, error, line)) in cases.into_iter().enumerate() {
        println!("enabling_fails: {file} = {bad:?}");
        // Upstream keeps the address that it took from the device.
        set(scene, "tgt/local_ip", "0.0.0.0")?;
        let release = if file == "extended" { "1" } else { "0" };
        set_all(scene, "tgt", &[("release", release), (file, bad)])?;
        attempt(scene, error, line)?;
        // The attribute can be changed then.
        set_all(scene, "tgt", &[(file, good)])?;
        enable(scene, "tgt", true)?;
        let text = format!("case {n} is over");
        scene.log(&text)?;
        scene.logger.wait_for(&text, SOON)?;
        enable(scene, "tgt", false)?;
    }
    // A device that is a port of another one.
    scene.sh("ip link add br0 type bridge; ip link set eth1 master br0")?;
    set_all(scene, "tgt", &[("dev_name", "eth1"), ("local_ip", GUEST)])?;
    attempt(scene, EBUSY, "eth1 is a slave device")?;
    // Nothing holds it.
    scene.sh("ip link set eth1 nomaster; ip link del br0")?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The frames on the wire have the values that were set.
fn settings_of_upstream(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    let port = PORT + 1;
    let more = [
        ("local_ip", GUEST),
        ("local_port", "7000"),
        ("remote_mac", HOST_MAC_TEXT),
        ("release", "1"),
    ];
    make_target(scene, "tgt", port, &more)?;
    let logger = Logger::attach(scene.wire(), port);
    enable(scene, "tgt", true)?;
    scene.log("by the settings")?;
    let seq = logger.wait_for("by the settings", SOON)?;
    {
        let collector = logger.lock();
        let release = &collector.records[&seq].release;
        ensure!(*release == Some(scene.vm.release.clone()), "{release:?}");
        for arrival in &collector.arrivals {
            ensure!(arrival.from == format!("{GUEST}:7000").parse()?);
            ensure!(arrival.to == format!("{HOST}:{port}").parse()?);
            ensure!(arrival.mac.1 == HOST_MAC, "{:x?}", arrival.mac);
        }
    }
    enable(scene, "tgt", false)?;
    // Another address family, another format.
    let more = [
        ("local_ip", "fd00::15"),
        ("remote_ip", HOST6),
        ("release", "0"),
        ("extended", "0"),
    ];
    set_all(scene, "tgt", &more)?;
    let sink = Sink::attach(scene.wire(), port);
    enable(scene, "tgt", true)?;
    scene.log("in plain words")?;
    let udp = sink.wait_for("in plain words", SOON)?;
    let text = String::from_utf8_lossy(&udp.payload);
    // With printk's time before it, and no header.
    let plain = text.ends_with("] in plain words\n") && text.starts_with('[');
    ensure!(plain, "{text:?} is not a basic message");
    ensure!(udp.from == "[fd00::15]:7000".parse()?, "{}", udp.from);
    // A local address that is not given is found.
    enable(scene, "tgt", false)?;
    set_all(scene, "tgt", &[("local_ip", "::"), ("extended", "1")])?;
    let logger = Logger::attach(scene.wire(), port);
    enable(scene, "tgt", true)?;
    expect(scene, "tgt/local_ip", "fd00::15")?;
    scene.log("from the address that was found")?;
    logger.wait_for("from the address that was found", SOON)?;
    enable(scene, "tgt", false)?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The settings that upstream lacks work.
fn settings_of_ours(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    let more = [
        ("dialect", "nca"),
        ("full_log", "1"),
        ("keepalive_s", "1"),
        ("retransmit_rate", "1"),
        ("ack_timeout_ms", "500"),
        ("emg_min_intv_ms", "20"),
        ("emg_max_intv_ms", "20"),
    ];
    make_target(scene, "ours", PORT, &more)?;
    make_target(scene, "plain", PORT + 1, &[])?;
    let plain = Logger::attach(scene.wire(), PORT + 1);
    enable(scene, "ours", true)?;
    enable(scene, "plain", true)?;
    // full_log: records that the console does not show are sent.
    scene.sh("dmesg -n 4")?;
    scene.log("<7>nobody sees it")?;
    scene.log("<3>everybody sees it")?;
    scene.logger.wait_for("nobody sees it", SOON)?;
    plain.wait_for("everybody sees it", SOON)?;
    ensure!(plain.record("nobody sees it").is_err(), "full_log is 0");
    scene.sh("dmesg -n 8")?;
    // keepalive_s: an empty datagram a second, for this target only.
    let keepalives = |logger: &Logger| {
        let collector = logger.lock();
        collector.arrivals.iter().filter(|a| a.len == 0).count()
    };
    let from = keepalives(&scene.logger);
    sleep_ms(4500);
    let came = keepalives(&scene.logger) - from;
    ensure!((3..=6).contains(&came), "{came} keepalives in 4.5 s");
    ensure!(keepalives(&plain) <= 1, "keepalive_s is 20 there");
    // retransmit_rate: requested records come at this rate. The request acknowledges nothing, so
    // nothing comes again by itself.
    let burst = nctest_guest::Burst::new(100, scene.seed, "asked for");
    scene.vm.agent.log(&burst, SOON)?;
    let last = scene.logger.wait_for("asked for 99 ", SOON)?;
    let first = last - 99;
    let from = scene.logger.lock().arrivals.len();
    // A record that was sent less than 50 ms ago counts as on its way.
    sleep_ms(100);
    respond(scene, PORT, &format!("ncrx {first}-{last}"))?;
    sleep_ms(2000);
    let again = |scene: &Scene, from: usize| {
        let collector = scene.logger.lock();
        let arrivals = collector.arrivals[from..].iter();
        arrivals
            .filter(|a| a.seq.is_some_and(|n| n <= last))
            .count()
    };
    let came = again(scene, from);
    ensure!((1..=20).contains(&came), "{came} records at 1 a second");
    // dialect, ack_timeout_ms, emg_*_intv_ms: an emergency in this dialect and at these intervals.
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    let sink = Sink::attach(scene.wire(), PORT);
    respond(scene, PORT, &format!("nca{last}"))?;
    let udp = sink.wait_for(",emg=1,ncfrag=", SOON)?;
    let place = String::from_utf8_lossy(&udp.payload).into_owned();
    let place = place.split(",ncfrag=").nth(1).unwrap_or_default();
    let head = place.split(';').next().unwrap_or_default();
    ensure!(head.contains('@'), "{head:?} is not of the dialect nca");
    let marked = || {
        let all = sink.datagrams();
        let marked = all.iter().filter(|d| contains(&d.payload, b",emg=1"));
        marked.count()
    };
    let before = marked();
    sleep_ms(2000);
    // One datagram in 20 ms; the machine may be slow.
    let came = marked() - before;
    ensure!(came >= 30, "{came} emergency datagrams in 2 s");
    for target in ["ours", "plain"] {
        remove(scene, target)?;
    }
    scene.unload_and_settle()
}
