// SPDX-License-Identifier: GPL-2.0

//! Many senders at once over a link that loses. `benches/load.rs` does it with more of them.

use crate::harness::Ncrx;
use crate::load::{run, verify, Load};

#[test]
fn every_record_of_many_hosts_once_and_in_order() {
    let seed =
        std::env::var("NCRX_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("NCRX_SEED={seed}");
    let load = Load {
        hosts: 50,
        records: 200,
        loss: 0.05,
        seed,
    };
    for options in ["", "--workers 3"] {
        let dir = tempfile::tempdir().unwrap();
        let output = format!("{options} --output {}/{{host}}.log", dir.path().display());
        let mut ncrx = Ncrx::start(&output);
        let done = run(load, ncrx.at);
        assert!(ncrx.stop().success());
        println!("{done:?}");
        verify(load, dir.path());
    }
}
