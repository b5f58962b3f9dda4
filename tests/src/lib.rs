// SPDX-License-Identifier: GPL-2.0

//! The harness of netconsole_ext's tests.
//!
//! [`vm::Vm`] boots a kernel in QEMU. Its network cards are plugged into
//! [`wire::Wire`]s, which are all the network there is: they check every frame,
//! can lose or damage it, and have simulated hosts at their far end. A
//! [`logger::Logger`] on such a host puts records together from what arrives,
//! to be compared with what the guest's own `/dev/kmsg` says.

pub mod accel;
pub mod acker;
pub mod agent;
pub mod arch;
pub mod collector;
pub mod counters;
pub mod disk;
pub mod env;
pub mod forger;
pub mod initramfs;
pub mod ktap;
pub mod logger;
pub mod qemu;
pub mod qmp;
pub mod record;
pub mod serial;
pub mod show;
pub mod snapshot;
pub mod vm;
pub mod wire;
