// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the C interfaces that the kernel crate lacks.
//!
//! All `unsafe` code of the module is here, and nothing here knows of netconsole: each file is
//! written as if it were part of `rust/kernel/`.

mod bindings;
mod notifier_chain;

pub(crate) mod configfs;
pub(crate) mod console;
pub(crate) mod die_reboot;
pub(crate) mod kmsg;
pub(crate) mod kmsg_dump;
pub(crate) mod napi;
pub(crate) mod netdev;
pub(crate) mod netpoll;
pub(crate) mod network;
pub(crate) mod nexthop;
pub(crate) mod notifier;
pub(crate) mod panic;
pub(crate) mod param;
pub(crate) mod printk;
pub(crate) mod random;
pub(crate) mod rcu;
pub(crate) mod skb;
pub(crate) mod smp;
mod sockaddr;
pub(crate) mod socket;
pub(crate) mod time;
pub(crate) mod timer;
pub(crate) mod tx_freeze;
mod tx_global_lock;
pub(crate) mod utsname;
pub(crate) mod wireless;
pub(crate) mod workqueue;
pub(crate) mod xmit;
