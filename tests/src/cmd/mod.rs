// SPDX-License-Identifier: GPL-2.0

//! The commands, one a file. Each returns whether all was well.

pub mod demo;
pub mod kunit;
pub mod vm;

use nctest::wire::hosts::Host;

/// The log host.
const HOST: &str = "10.0.2.1";

/// The guest's set-up, so that it can be reached.
const ADDRESSES: &str = "ip link set lo up; ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip addr add fd00::15/64 dev eth0";

/// Returns the log host with all its addresses.
fn log_host() -> Host {
    Host::new([0x02, 0, 0, 0, 0, 0x01], &[HOST, "fd00::1"])
}
