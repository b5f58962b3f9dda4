// SPDX-License-Identifier: GPL-2.0

//! Tests of the Journal Export Format, as `systemd-journal-remote` understands it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ncrx::{Config, Receiver};
use serde_json::{json, Value};

use super::tests::record;
use super::{Clock, Clocks, Format, Formatter, Style};

const REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// Puts it into a journal, and reads that.
fn through_journal(export: &[u8]) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("x.journal");
    let mut remote = Command::new(REMOTE)
        .arg("-o")
        .arg(&journal)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{REMOTE}: {e} (Debian: apt-get install systemd-journal-remote)")
        });
    remote.stdin.take().unwrap().write_all(export).unwrap();
    let output = remote.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let verified = Command::new("journalctl")
        .args(["--verify", "--file"])
        .arg(&journal)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    let read = Command::new("journalctl")
        .args(["--all", "--no-pager", "--output=json", "--file"])
        .arg(&journal)
        .output()
        .unwrap();
    let lines = String::from_utf8(read.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The datagrams of several senders, and where they come from.
fn datagrams() -> [(&'static str, String); 8] {
    let dictionary = (0..3000).fold(String::new(), |lines, n| lines + &format!(" K{n}=v\n"));
    [
        // Two hosts in turns, of which the first starts anew.
        (
            "10.0.0.2:6665",
            "4,0,1000,-,caller=T1,ncs=00000000000000aa;one\n DEVICE=+usb:1-1\n foo=bar\n"
                .to_owned(),
        ),
        (
            "[fe80::3]:6665",
            "30,0,7000000,-,ncs=00000000000000bb;two \\x1b[1m\\x00\\xff\\x0alines\n".to_owned(),
        ),
        (
            "10.0.0.2:6665",
            "6,0,2000,-,ncs=00000000000000cc;three\n".to_owned(),
        ),
        ("10.0.0.4:6665", "four\n".to_owned()),
        (
            "10.0.0.5:6665",
            format!("6,5,{},-,ncs=00000000000000dd;\n", u64::MAX),
        ),
        (
            "10.0.0.2:6665",
            format!("6,1,3000,-,ncs=00000000000000cc;{}\n", "6".repeat(4000)),
        ),
        (
            "10.0.0.2:6665",
            format!(
                "6,2,3001,-,ncs=00000000000000cc;many\n{}",
                &dictionary[..8000]
            ),
        ),
        (
            "10.0.0.2:6665",
            "6,3,3002,-,ncs=00000000000000cc;last\n".to_owned(),
        ),
    ]
}

#[test]
fn systemd_takes_it() {
    let origin = Instant::now();
    let clock = Clock {
        instant: origin,
        system: UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_901),
    };
    let mut formatter = Formatter::new(Format::Export, Style::default());
    let mut clocks = Clocks::new(clock);
    let mut export = Vec::new();
    let datagrams = datagrams();
    for (from, datagram) in &datagrams {
        let host = from.parse::<SocketAddr>().unwrap().ip().to_string();
        record(origin, from, datagram.as_bytes(), |output| {
            formatter.write(output, &host, &clocks.see(output), &mut export)
        });
    }

    let entries = through_journal(&export);
    let find = |hosts: &str, message: Value| {
        let same = |entry: &&Value| entry["_HOSTNAME"] == hosts && entry["MESSAGE"] == message;
        let found: Vec<&Value> = entries.iter().filter(same).collect();
        assert_eq!(found.len(), 1, "{message} in {entries:#?}");
        found[0]
    };
    assert_eq!(entries.len(), datagrams.len());
    let one = find("10.0.0.2", json!("one"));
    for (field, value) in [
        ("PRIORITY", "4"),
        ("SYSLOG_FACILITY", "0"),
        ("SYSLOG_IDENTIFIER", "kernel"),
        ("_TRANSPORT", "kernel"),
        ("_KERNEL_DEVICE", "+usb:1-1"),
        ("_UDEV_SYSNAME", "1-1"),
        ("_KERNEL_FOO", "bar"),
        ("NETCONSOLE_KEY_CALLER", "T1"),
        ("NETCONSOLE_SESSION", "00000000000000aa"),
        ("NETCONSOLE_SEQ", "0"),
        ("NETCONSOLE_ADDRESS", "10.0.0.2"),
        ("__MONOTONIC_TIMESTAMP", "1000"),
        ("__REALTIME_TIMESTAMP", "1767323045678901"),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
    let two = find("fe80::3", json!(b"two \x1b[1m\0\xff\nlines"));
    assert_eq!(
        (&two["SYSLOG_FACILITY"], &two["PRIORITY"]),
        (&json!("3"), &json!("6"))
    );
    let three = find("10.0.0.2", json!("three"));
    let four = find("10.0.0.4", json!("four"));
    assert_eq!(four["NETCONSOLE_PLAIN"], "1");
    let five = find("10.0.0.5", json!(""));
    assert_eq!(five["__REALTIME_TIMESTAMP"], "1767323045678901");
    find("10.0.0.2", json!("6".repeat(4000)));
    assert_eq!(find("10.0.0.2", json!("many"))["_KERNEL_K63"], "v");
    let last = find("10.0.0.2", json!("last"));
    let boots: BTreeSet<&str> = [one, two, three, four, five]
        .map(|entry| entry["_BOOT_ID"].as_str().unwrap())
        .into();
    assert_eq!(boots.len(), 5);
    assert_eq!(three["_BOOT_ID"], last["_BOOT_ID"]);
}

/// Four records of a boot, of which one's clock goes back.
#[test]
fn a_clock_that_goes_back_is_no_fault_of_the_journal() {
    let now = Instant::now();
    let clock = Clock {
        instant: now,
        system: UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_901),
    };
    let mut formatter = Formatter::new(Format::Export, Style::default());
    let mut clocks = Clocks::new(clock);
    let mut receiver = Receiver::new(Config::default());
    for (seq, usec) in [1_000_000, 1_000_200, 1_000_150, 1_000_300]
        .iter()
        .enumerate()
    {
        let record = format!("6,{seq},{usec},-,ncs=00000000000000aa;x\n");
        let from = "10.0.0.2:6665".parse().unwrap();
        receiver.feed(now, from, record.as_bytes()).unwrap();
    }
    let mut export = Vec::new();
    while let Some(output) = receiver.next_output() {
        formatter.write(&output, "web1", &clocks.see(&output), &mut export);
    }
    let entries = through_journal(&export);
    let of = |field: &str| -> Vec<_> {
        let records = entries
            .iter()
            .filter(|entry| entry["_TRANSPORT"] == "kernel");
        let values = records.map(|entry| entry[field].as_str().unwrap().to_owned());
        values.collect()
    };
    let sources = ["1000000", "1000200", "1000150", "1000300"];
    assert_eq!(of("_SOURCE_MONOTONIC_TIMESTAMP"), sources);
    let monotonic = ["1000000", "1000200", "1000200", "1000300"];
    assert_eq!(of("__MONOTONIC_TIMESTAMP"), monotonic);
}
