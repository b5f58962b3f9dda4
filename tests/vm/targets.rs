// SPDX-License-Identifier: GPL-2.0

//! One target, several, of each kind.

use anyhow::Result;
use libtest_mimic::Trial;

use crate::scene::{trial, Scene, HOST, HOST6};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("ipv4_extended", ipv4_extended),
        trial("ipv6_extended", ipv6_extended),
    ]
}

/// The whole log, from its first record, arrives over IPv4.
fn ipv4_extended(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("netconsole=+@/eth0,@{HOST}/"))?;
    scene.all_has_arrived(0)?;
    scene.vm.settle()
}

/// The same over IPv6.
fn ipv6_extended(scene: &mut Scene) -> Result<()> {
    scene.load(&format!("netconsole=+@/eth0,@{HOST6}/"))?;
    scene.all_has_arrived(0)?;
    scene.vm.settle()
}
