// SPDX-License-Identifier: GPL-2.0

//! The journal: systemd's Journal Export Format, for `systemd-journal-remote`, which takes the
//! records of many senders and boots in turns.
//!
//! That program ends an import at the first thing that it does not understand, without an error to
//! its caller: so nothing that a sender can say may lead to such a thing.
//!
//! A record has the fields that journald gives what it reads of `/dev/kmsg`: `_TRANSPORT=kernel`,
//! `SYSLOG_IDENTIFIER=kernel`, `PRIORITY`, `SYSLOG_FACILITY`, `MESSAGE` without printk's escapes,
//! and `_KERNEL_<KEY>` for each line ` KEY=value` behind the text, be it of the dictionary or
//! userdata. What the udev of the other machine knows is not known here, but the name of a device
//! is in `DEVICE=` for most: that is `_UDEV_SYSNAME`.
//!
//! | field | meaning |
//! |---|---|
//! | `__REALTIME_TIMESTAMP` | the real time when it was logged: see [`super::time`] |
//! | `__MONOTONIC_TIMESTAMP` | the sender's clock; if not known, the time since the stream began. Never less than before in the same boot, as the journal wants it |
//! | `_SOURCE_MONOTONIC_TIMESTAMP` | the sender's clock, as it is |
//! | `_BOOT_ID` | one for each stream: see [`super::time::boot_id`] |
//! | `_HOSTNAME` | the sender's name |
//! | `NETCONSOLE_ADDRESS` | its address |
//! | `NETCONSOLE_SESSION`, `NETCONSOLE_SEQ` | the record's session and number |
//! | `NETCONSOLE_RECEIVED` | the real time when it arrived, in microseconds |
//! | `NETCONSOLE_RELEASE` | the kernel's release |
//! | `NETCONSOLE_KEY_<KEY>` | a further key of the header, like `caller` |
//! | `NETCONSOLE_LATE`, `_EMERGENCY`, `_CRASH`, `_PARTIAL`, `_PLAIN` | `1` if it is |
//! | `NETCONSOLE_EVENT` | of an event: which |
//! | `NETCONSOLE_FIRST`, `_LAST`, `_WHY` | of a gap: which numbers are missing, and why |
//!
//! There is no `_MACHINE_ID`: it is not known. Text of a basic target has no priority, and gets
//! that of information. Events have the identifier `ncrx` and no transport.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use ncrx::{Event, Output, Record, Session};

use super::time::{boot_id, When};
use super::visible::is_harmful;
use super::{plain, word, words};

/// The longest name of a field that the journal takes.
const NAME_MAX: usize = 64;

/// The most pairs of a record that are taken: a journal has room for some 250 names of fields, and
/// is rotated when they are more.
const PAIRS_MAX: usize = 64;

/// The times that the journal takes, both of them: anything else ends the whole import.
const TIMES: RangeInclusive<u64> = 1..=(1 << 55) - 1;

pub(super) fn write(output: &Output<'_>, host: &str, when: &When, out: &mut Vec<u8>) {
    match output {
        Output::Record(record) => {
            begin(
                host,
                record.host(),
                record.session(),
                record.seq(),
                when,
                out,
            );
            write_record(record, out);
        }
        Output::Event {
            host: address,
            session,
            event,
            ..
        } => {
            let Some(words) = words(*event, *session) else {
                return;
            };
            begin(host, *address, *session, None, when, out);
            write_event(*event, &words, out);
        }
    }
    out.push(b'\n');
}

/// Appends the fields that records and events have in common.
fn begin(
    host: &str,
    address: SocketAddr,
    session: Option<Session>,
    seq: Option<u64>,
    when: &When,
    out: &mut Vec<u8>,
) {
    let address = address.ip().to_canonical();
    let boot = boot_id(address, session, when).simple();
    let real = when.logged.clamp(*TIMES.start(), *TIMES.end());
    let monotonic = when.monotonic.min(*TIMES.end());
    let number = seq.unwrap_or(0);
    let cursor = format!("s={boot};i={number:x};b={boot};m={monotonic:x};t={real:x};x=0");
    put(out, "__CURSOR", cursor);
    put(out, "__REALTIME_TIMESTAMP", real);
    put(out, "__MONOTONIC_TIMESTAMP", monotonic);
    put(out, "_BOOT_ID", boot);
    field(out, "_HOSTNAME", host.as_bytes());
    put(out, "NETCONSOLE_ADDRESS", address);
    put(out, "NETCONSOLE_RECEIVED", when.received);
    if let Some(session) = session {
        put(out, "NETCONSOLE_SESSION", session);
    }
    if let Some(seq) = seq {
        put(out, "NETCONSOLE_SEQ", seq);
    }
}

fn write_record(record: &Record<'_>, out: &mut Vec<u8>) {
    put(out, "_TRANSPORT", "kernel");
    put(out, "SYSLOG_IDENTIFIER", "kernel");
    put(out, "PRIORITY", record.level().unwrap_or(6));
    put(out, "SYSLOG_FACILITY", record.facility().unwrap_or(0));
    if let Some(usec) = record.usec() {
        put(out, "_SOURCE_MONOTONIC_TIMESTAMP", usec);
    }
    field(out, "MESSAGE", &plain(record));
    for (key, value) in record.dictionary().take(PAIRS_MAX) {
        let value = ncrx::unescape(value);
        field(out, &name("_KERNEL_", &ncrx::unescape(key)), &value);
        if key == b"DEVICE" {
            if let Some(sysname) = sysname(&value) {
                field(out, "_UDEV_SYSNAME", sysname);
            }
        }
    }
    if let Some(release) = record.release() {
        field(out, "NETCONSOLE_RELEASE", release);
    }
    for (key, value) in record.keys().take(PAIRS_MAX) {
        field(out, &name("NETCONSOLE_KEY_", key), value);
    }
    let marks = [
        ("NETCONSOLE_LATE", record.is_late()),
        ("NETCONSOLE_EMERGENCY", record.is_emergency()),
        ("NETCONSOLE_CRASH", record.is_crash()),
        ("NETCONSOLE_PARTIAL", record.is_partial()),
        ("NETCONSOLE_PLAIN", record.is_text()),
    ];
    for (name, _) in marks.iter().filter(|mark| mark.1) {
        put(out, name, 1);
    }
}

fn write_event(event: Event, words: &str, out: &mut Vec<u8>) {
    put(out, "SYSLOG_IDENTIFIER", "ncrx");
    let gap = matches!(event, Event::Gap { .. });
    put(out, "PRIORITY", if gap { 4 } else { 5 });
    put(out, "MESSAGE", words);
    put(out, "NETCONSOLE_EVENT", word(event));
    if let Event::Gap {
        range: numbers,
        reason: why,
    } = event
    {
        put(out, "NETCONSOLE_FIRST", numbers.first);
        put(out, "NETCONSOLE_LAST", numbers.last);
        put(out, "NETCONSOLE_WHY", why.word());
    }
}

/// Appends a field whose value has no newline and nothing but UTF-8.
fn put(out: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    // Writing into memory does not fail.
    let _ = writeln!(out, "{name}={value}");
}

/// Appends a field with any value: in the binary form if not all of it can be shown.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let shown = |text: &str| !text.chars().any(is_harmful);
    out.extend_from_slice(name.as_bytes());
    if !std::str::from_utf8(value).is_ok_and(shown) {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The name of a field: capital letters, digits and underscores, and not too long.
fn name(prefix: &str, key: &[u8]) -> String {
    let legal = |&c: &u8| match c.to_ascii_uppercase() {
        c @ (b'A'..=b'Z' | b'0'..=b'9') => char::from(c),
        _ => '_',
    };
    let key = key.iter().map(legal);
    prefix.chars().chain(key).take(NAME_MAX).collect()
}

/// The device's name, of `+subsystem:name`. Other forms have only numbers.
fn sysname(device: &[u8]) -> Option<&[u8]> {
    let device = device.strip_prefix(b"+")?;
    let colon = device.iter().position(|&c| c == b':')?;
    Some(&device[colon + 1..])
}
