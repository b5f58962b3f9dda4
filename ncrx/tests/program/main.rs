// SPDX-License-Identifier: GPL-2.0

//! The program, run on the loopback interface.

mod acks;
mod config;
mod crashes;
mod harness;
mod hostile;
mod journal;
mod life;
#[allow(dead_code)] // The benchmark uses more of it.
#[path = "../common/load.rs"]
mod load;
mod many;
mod names;
mod nctx;
mod operate;
mod options;
mod outputs;
mod rotation;
mod rsyslog;
mod soak;
mod texts;
mod top;
mod watch;
mod web;
