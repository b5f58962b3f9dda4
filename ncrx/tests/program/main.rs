// SPDX-License-Identifier: GPL-2.0

//! The program, run on the loopback interface.

mod acks;
mod harness;
mod life;
mod options;
mod watch;
