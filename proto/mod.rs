// SPDX-License-Identifier: GPL-2.0

//! The protocol, the schedules, the parsers and the ring: pure, `core` only.
//!
//! The module, the receiver, the tests on the host and the fuzzers compile these files as they are.
//! Inside, use `super::`. Times are milliseconds of one monotonic clock, which the caller reads.

pub(crate) mod addr;
pub(crate) mod budget;
pub(crate) mod cmdline;
pub(crate) mod config;
pub(crate) mod crash_schedule;
pub(crate) mod echo;
pub(crate) mod emg_schedule;
pub(crate) mod extradata;
pub(crate) mod last_sent;
pub(crate) mod missing;
pub(crate) mod parts;
pub(crate) mod peer;
pub(crate) mod printk_text;
pub(crate) mod response;
pub(crate) mod ring;
pub(crate) mod rtt;
pub(crate) mod udp;
pub(crate) mod wire;
mod wire_tests;
