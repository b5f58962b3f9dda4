// SPDX-License-Identifier: GPL-2.0

//! Errors in `netconsole=`: strings that are no targets.

use anyhow::{ensure, Result};

use crate::scene::{Scene, HOST, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![trial("unparsable_targets", unparsable_targets)]
}

/// The string, where it stops making sense, and why. All that can be wrong is in the table of
/// `params.rs`; here is what the user reads of each kind.
const UNPARSABLE: &[(&str, &str, &str)] = &[
    ("hello", "hello", "'@' expected"),
    (
        "99999@/eth0,@10.0.2.1/",
        "99999@/eth0,@10.0.2.1/",
        "a port is a number from 1 to 65535",
    ),
    (
        "@10.0.2/eth0,@10.0.2.1/",
        "10.0.2/eth0,@10.0.2.1/",
        "not an IPv4 or IPv6 address",
    ),
    ("@/eth0", "eth0", "',' expected"),
    (
        "@/eth0, 6666@10.0.2.1/",
        " 6666@10.0.2.1/",
        "whitespace is not allowed",
    ),
    ("@/eth0,@/", "/", "the address of the logger is missing"),
    ("@/eth0,@10.0.2.1", "10.0.2.1", "'/' expected"),
    (
        "@fd00::15/eth0,@10.0.2.1/",
        "10.0.2.1/",
        "local and remote address are not of the same family",
    ),
    (
        "@/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,@10.0.2.1/",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,@10.0.2.1/",
        "a device name has at most 127 characters",
    ),
    (
        "@/eth0,@10.0.2.1/02:00:00:00:00",
        "02:00:00:00:00",
        "not an Ethernet address like aa:bb:cc:dd:ee:ff",
    ),
    (
        "r@/eth0,@10.0.2.1/",
        "r@/eth0,@10.0.2.1/",
        "release feature requires extended log message, put '+' first",
    ),
];

/// Each is reported in one line that shows the place and the reason, and does not keep the target
/// after them from being served. Nothing between two semicolons is no target and no error.
fn unparsable_targets(scene: &mut Scene) -> Result<()> {
    let bad: Vec<_> = UNPARSABLE.iter().map(|(bad, _, _)| *bad).collect();
    scene.load(&format!("{};;+@/eth0,@{HOST}/;", bad.join(";")))?;
    scene.log("served all the same")?;
    scene.logger.wait_for("served all the same", SOON)?;
    let log = scene.sh("dmesg")?;
    let errors: Vec<_> = log
        .lines()
        .filter_map(|line| {
            line.split_once("netconsole_ext: ")?
                .1
                .split_once(": couldn't ")
        })
        .collect();
    ensure!(errors.len() == UNPARSABLE.len(), "the errors: {errors:#?}");
    for ((bad, place, why), (who, error)) in UNPARSABLE.iter().zip(errors) {
        let wanted = format!("parse config at '{place}': {why}");
        let right = who == "netconsole" && error == wanted;
        ensure!(right, "{bad:?}: {who}: {error:?}, not {wanted:?}");
    }
    scene.unload_and_settle()
}
