// SPDX-License-Identifier: GPL-2.0

//! The parser of `netconsole=`: a string that it accepts means the same when it is written in full;
//! of others the error shows the rest from the mistake on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::cmdline::{self, Target};

#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../../proto/mod.rs"]
mod proto;

/// The target with nothing left out.
fn write(target: &Target) -> String {
    let flag = |on, flag| if on { flag } else { "" };
    format!(
        "{}{}{}@{}/{},{}@{}/{}",
        flag(target.extended, "+"),
        flag(target.release, "r"),
        target.local_port,
        target.local_ip.map_or(String::new(), |ip| ip.to_string()),
        target.device,
        target.remote_port,
        target.remote_ip,
        target
            .remote_mac
            .map_or(String::new(), |mac| mac.to_string()),
    )
}

fuzz_target!(|value: &[u8]| {
    for spec in cmdline::targets(value) {
        match Target::parse(spec) {
            Ok(target) => {
                assert!(!spec.iter().any(u8::is_ascii_whitespace));
                let text = write(&target);
                // A name with bytes that are shown escaped is not to be read back.
                if text.contains('\\') {
                    continue;
                }
                assert_eq!(Target::parse(text.as_bytes()), Ok(target), "{text}");
            }
            Err(error) => {
                assert!(spec.ends_with(error.rest));
                assert!(!error.reason.to_string().is_empty());
            }
        }
    }
});
