// SPDX-License-Identifier: GPL-2.0

//! The module's pure files, compiled for the host as they are.
//!
//! They use only `core`. In the kernel the same tests run under KUnit.

#![no_std]
// The kernel names these conditions; here they are never set.
#![allow(unexpected_cfgs)]
// Each file is written for the module, which uses more of one and less of another.
#![allow(dead_code)]

#[path = "../../../config.rs"]
mod config;
#[path = "../../../crash_tx.rs"]
mod crash_tx;
#[path = "../../../emg_tx.rs"]
mod emg_tx;
#[path = "../../../kmsg.rs"]
mod kmsg;
#[cfg(test)]
mod kmsg_model;
#[path = "../../../params.rs"]
mod params;
#[path = "../../../peer.rs"]
mod peer;
#[path = "../../../ring.rs"]
mod ring;
#[cfg(test)]
mod ring_model;
#[cfg(test)]
mod schedule_model;
#[path = "../../../udp.rs"]
mod udp;
#[path = "../../../userdata.rs"]
mod userdata;
#[path = "../../../wire.rs"]
mod wire;
#[cfg(test)]
mod wire_model;
#[cfg(test)]
#[path = "../../../wire_tests.rs"]
mod wire_tests;
