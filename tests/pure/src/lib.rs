// SPDX-License-Identifier: GPL-2.0

//! The module's pure files, compiled for the host as they are.
//!
//! They use only `core`. In the kernel the same tests run under KUnit.

#![no_std]
// The kernel names these conditions; here they are never set.
#![allow(unexpected_cfgs)]
// Each file is written for the module, which uses more of one and less of another.
#![allow(dead_code)]

#[cfg(test)]
mod kmsg_model;
#[path = "../../../proto/mod.rs"]
mod proto;
#[cfg(test)]
mod requests_model;
#[cfg(test)]
mod ring_model;
#[cfg(test)]
mod schedule_model;
#[cfg(test)]
mod wire_model;
