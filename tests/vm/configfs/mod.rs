// SPDX-License-Identifier: GPL-2.0

//! Targets as directories.
//!
//! | file | what is tried |
//! |---|---|
//! | `attributes.rs` | the files of a target: contents, accepted values, effects |
//! | `lifecycle.rs` | targets that come, are adopted, and go; the subsystem |
//! | `stats.rs` | the read-only group with a target's state and counts |
//! | `userdata.rs` | the lines that a target adds to each record |
//!
//! Trials of upstream's attributes run with upstream's module too (`NCTEST_UPSTREAM=1`).

mod attributes;
mod lifecycle;
mod stats;
mod userdata;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nctest::acker::{AckingLogger, Config, Kind};
use nctest::env;
use nctest::vm::MODULE;

use crate::scene::{module_name, Scene, GUEST, HOST, SOON};
use crate::trial::Trial;

/// The trials of this directory.
pub fn trials() -> Vec<Trial> {
    let trials = [
        attributes::trials(),
        lifecycle::trials(),
        stats::trials(),
        userdata::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// The shell's names of errors.
const EACCES: &str = "Permission denied";
const EBUSY: &str = "Device or resource busy";
const EEXIST: &str = "File exists";
const EINVAL: &str = "Invalid argument";
const EMSGSIZE: &str = "Message too long";
const ENAMETOOLONG: &str = "File name too long";
const ENODEV: &str = "No such device";
const ENOSPC: &str = "No space left on device";
const ENOTEMPTY: &str = "Directory not empty";
const EAGAIN: &str = "Resource temporarily unavailable";
const EDESTADDRREQ: &str = "Destination address required";

/// The error for changing something that is in use. Upstream has this one for all.
fn in_use() -> &'static str {
    if env::upstream() {
        EINVAL
    } else {
        EBUSY
    }
}

/// The path of something in the subsystem's directory.
fn path(inside: &str) -> String {
    format!("/sys/kernel/config/{}/{inside}", module_name())
}

/// Loads the module without a target.
fn load_bare(scene: &mut Scene) -> Result<()> {
    scene.sh(&format!("insmod {MODULE}")).map(drop)
}

/// Runs a script that must fail, for this reason.
fn refuse(scene: &mut Scene, script: &str, reason: &str) -> Result<()> {
    let output = scene.vm.agent.exec(script, SOON)?;
    ensure!(
        output.code != 0,
        "this should fail with {reason:?}, and has not:\n{script}\n{}",
        output.text
    );
    ensure!(
        output.text.contains(reason),
        "this should fail with {reason:?}:\n{script}\n{}",
        output.text
    );
    Ok(())
}

/// Makes a directory.
fn make(scene: &mut Scene, inside: &str) -> Result<()> {
    scene.sh(&format!("mkdir {}", path(inside))).map(drop)
}

/// Removes one.
fn remove(scene: &mut Scene, inside: &str) -> Result<()> {
    scene.sh(&format!("rmdir {}", path(inside))).map(drop)
}

/// Returns the contents of a file, in one line.
fn get(scene: &mut Scene, file: &str) -> Result<String> {
    let text = scene.sh(&format!("cat {}", path(file)))?;
    let line = text.strip_suffix('\n');
    let line = line.with_context(|| format!("{file} has no newline at its end: {text:?}"))?;
    ensure!(!line.contains('\n'), "{file} has several lines: {text:?}");
    Ok(line.to_string())
}

/// Fails unless a file says this.
fn expect(scene: &mut Scene, file: &str, value: &str) -> Result<()> {
    let found = get(scene, file)?;
    ensure!(found == value, "{file} is {found:?} instead of {value:?}");
    Ok(())
}

/// The command that writes a line into a file.
fn writing(file: &str, value: &str) -> String {
    // The shell's echo writes at once, and reports the error.
    format!("echo '{value}' > {}", path(file))
}

/// Writes a line into a file.
fn set(scene: &mut Scene, file: &str, value: &str) -> Result<()> {
    scene.sh(&writing(file, value)).map(drop)
}

/// Writes a line that has to be refused.
fn refuse_value(scene: &mut Scene, file: &str, value: &str, reason: &str) -> Result<()> {
    refuse(scene, &writing(file, value), reason)
}

/// Writes several lines into files of a target.
fn set_all(scene: &mut Scene, target: &str, values: &[(&str, &str)]) -> Result<()> {
    let mut script = String::from("set -e\n");
    for (file, value) in values {
        script += &writing(&format!("{target}/{file}"), value);
        script.push('\n');
    }
    scene.sh(&script).map(drop)
}

/// Makes a target for the log host's `port`, and sets more of it.
fn make_target(scene: &mut Scene, name: &str, port: u16, more: &[(&str, &str)]) -> Result<()> {
    make(scene, name)?;
    let port = port.to_string();
    set_all(scene, name, &[("remote_ip", HOST), ("remote_port", &port)])?;
    set_all(scene, name, more)
}

/// Enables a target, or disables it.
fn enable(scene: &mut Scene, name: &str, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    set(scene, &format!("{name}/enabled"), value)?;
    expect(scene, &format!("{name}/enabled"), value)
}

/// Waits until a file says this.
fn wait_for_value(scene: &mut Scene, file: &str, value: &str) -> Result<()> {
    wait_until(scene, file, value, |found| found == value)
}

/// Waits until `done` returns true for a file's content; `what` describes it in the error.
fn wait_until(
    scene: &mut Scene,
    file: &str,
    what: &str,
    done: impl Fn(&str) -> bool,
) -> Result<()> {
    let until = Instant::now() + SOON;
    loop {
        let found = get(scene, file)?;
        if done(&found) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{file} is {found:?} and not {what:?} within {SOON:?}");
        }
        sleep_ms(50);
    }
}

/// Puts a log host on `port` that acknowledges from the first record that comes on, as a target
/// that is enabled later does not send old ones.
fn peer(scene: &Scene, port: u16) -> Result<AckingLogger> {
    let config = Config {
        first: None,
        ..Config::new(Kind::Session)
    };
    AckingLogger::attach(scene.wire(), port, config)
}

/// Sends a response by hand, as the log host on `port`.
fn respond(scene: &Scene, port: u16, text: &str) -> Result<()> {
    let from: SocketAddr = format!("{HOST}:{port}").parse()?;
    let to: SocketAddr = format!("{GUEST}:6665").parse()?;
    scene.wire().send_udp(from, to, text.as_bytes())
}

/// Waits for a line of the console that has all of these words.
fn wait_for_line(scene: &Scene, words: &[&str], from: usize) -> Result<()> {
    let until = Instant::now() + SOON;
    loop {
        let lines = scene.vm.serial.lines(from);
        if lines
            .iter()
            .any(|l| words.iter().all(|word| l.contains(word)))
        {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("no line with {words:?} in:\n{}", lines.join("\n"));
        }
        sleep_ms(20);
    }
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
