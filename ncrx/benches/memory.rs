// SPDX-License-Identifier: GPL-2.0

//! The memory of a sender that has logged some records without a loss, with its session or without.
//!
//! `scripts/cargo.sh bench -p ncrx --bench memory` prints it.

use std::alloc::System;
use std::net::SocketAddr;
use std::time::Instant;

use ncrx::{Config, Receiver};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SENDERS: u32 = 10_000;

fn main() {
    for (what, keys) in [
        ("without a session", ""),
        ("with one", ",ncs=0123456789abcdef"),
    ] {
        let region = Region::new(MEMORY);
        let mut receiver = Receiver::new(Config::default());
        let now = Instant::now();
        for i in 0..10 {
            let datagram = format!("6,{i},{},-{keys};a record of some bytes\n", 1000 * i);
            for host in 0..SENDERS {
                let address: SocketAddr =
                    (std::net::Ipv4Addr::from(0x0a00_0000 + host), 6665).into();
                receiver
                    .feed(now, address, datagram.as_bytes())
                    .expect("it is a good one");
            }
            while receiver.next_output().is_some() {}
            receiver.written();
        }
        receiver.tick(now);
        while receiver.next_response().is_some() {}
        let change = region.change();
        let bytes = change.bytes_allocated - change.bytes_deallocated;
        println!("{} bytes a sender {what}", bytes / SENDERS as usize);
    }
}
