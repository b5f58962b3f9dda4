// SPDX-License-Identifier: GPL-2.0

//! Strings that are no targets.

use anyhow::{ensure, Result};
use libtest_mimic::Trial;

use crate::scene::{trial, Scene, HOST, SOON};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![trial("unparsable_targets", unparsable_targets)]
}

/// The string, and the place where it stops making sense.
const UNPARSABLE: &[(&str, &str)] = &[
    ("hello", "hello"),
    ("+hello", "hello"),
    ("x@/eth0,@10.0.2.1/", "x"),
    ("99999@/eth0,@10.0.2.1/", "99999"),
    ("-1@/eth0,@10.0.2.1/", "-1"),
    ("@10.0.2/eth0,@10.0.2.1/", "10.0.2"),
    ("@ 10.0.2.15/eth0,@10.0.2.1/", " 10.0.2.15"),
    ("@10.0.2.15,@10.0.2.1/", "10.0.2.15,@10.0.2.1"),
    ("@/52:54:00:00:00,@10.0.2.1/", "52:54:00:00:00"),
    ("@/eth0", "eth0"),
    ("@/eth0,", ""),
    ("@/eth0,66x@10.0.2.1/", "66x"),
    ("@/eth0, 6666@10.0.2.1/", " 6666"),
    ("@/eth0,6666 @10.0.2.1/", "6666 "),
    ("@/eth0,@10.0.2.1", "10.0.2.1"),
    ("@/eth0,@/", ""),
    ("@/eth0,@10.0.2.300/", "10.0.2.300"),
    ("@/eth0,@10.0.2.1 /", "10.0.2.1 "),
    ("@/eth0,@fd00::1::2/", "fd00::1::2"),
    ("@10.0.2.15/eth0,@fd00::1/", "fd00::1"),
    ("@fd00::15/eth0,@10.0.2.1/", "10.0.2.1"),
    ("@/eth0,@10.0.2.1/zz:00:00:00:00:00", "zz:00:00:00:00:00"),
    ("@/eth0,@10.0.2.1/02:00:00:00:00", "02:00:00:00:00"),
];

/// Each is reported in one line that shows the place, and does not keep the
/// target after it from being served.
fn unparsable_targets(scene: &mut Scene) -> Result<()> {
    for (n, (bad, place)) in UNPARSABLE.iter().enumerate() {
        let said = scene.vm.serial.len();
        scene.load(&format!("{bad};+@/eth0,@{HOST}/"))?;
        let text = format!("case {n} is over");
        scene.log(&text)?;
        scene.logger.wait_for(&text, SOON)?;
        scene.vm.serial.wait_for(&text, said, SOON)?;
        let lines = scene.vm.serial.lines(said);
        let mut errors = lines.iter().filter(|line| line.contains("couldn't parse"));
        let right = errors.next().is_some_and(|line| shows(line, bad, place));
        let all = || lines.join("\n");
        ensure!(
            right,
            "{bad:?}: no error that shows {place:?} in\n{}",
            all()
        );
        ensure!(
            errors.next().is_none(),
            "{bad:?}: more than one error in\n{}",
            all()
        );
        scene.unload()?;
    }
    let said = scene.vm.serial.len();
    scene.load(&format!("r@/eth0,@{HOST}/"))?;
    let reason = "Release feature requires extended log message";
    scene.vm.serial.wait_for(reason, said, SOON)?;
    scene.unload_and_settle()
}

/// Does the line show a place in `bad` that is in the field `place`? How much
/// of what follows it shows, and where in the field it points, is its own taste.
fn shows(line: &str, bad: &str, place: &str) -> bool {
    let Some((_, quoted)) = line.split_once("couldn't parse config at '") else {
        return false;
    };
    let Some((shown, _)) = quoted.split_once('\'') else {
        return false;
    };
    let starts = bad.match_indices(place).map(|(start, _)| start);
    let mut places = starts.flat_map(|start| start..=start + place.len());
    shown.is_empty() == place.is_empty() && places.any(|at| bad[at..].starts_with(shown))
}
