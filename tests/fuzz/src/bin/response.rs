// SPDX-License-Identifier: GPL-2.0

//! The parser of responses: a response that it accepts means the same when it is written plainly.

#![no_main]

use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use proto::response::Response;
use proto::wire::{Dialect, MAX_DATAGRAM};

#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../../proto/mod.rs"]
mod proto;

fuzz_target!(|datagram: &[u8]| {
    let Some(response) = Response::parse(datagram) else {
        return;
    };
    assert!(datagram.len() <= MAX_DATAGRAM);
    let mut plain = String::from(match response.dialect {
        Dialect::Nca => "nca",
        Dialect::Ncrx => "ncrx",
    });
    if let Some(ack) = response.ack {
        write!(plain, "{ack}").unwrap();
    }
    for range in response.missing() {
        assert!(range.first <= range.last);
        write!(plain, " {range}").unwrap();
    }
    if let Some(mark) = response.session {
        let session = mark.map(|session| session.to_string());
        write!(plain, " ~{}", session.unwrap_or_default()).unwrap();
    }
    // Written plainly a number is a range.
    if plain.len() > MAX_DATAGRAM {
        return;
    }
    let again = Response::parse(plain.as_bytes()).expect("the same, written plainly");
    assert!(again.dialect == response.dialect && again.ack == response.ack);
    assert_eq!(again.session, response.session);
    assert!(again.missing().eq(response.missing()));
});
