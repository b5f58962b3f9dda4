// SPDX-License-Identifier: GPL-2.0

//! RFC 5424, a line for each record and event:
//!
//! ```text
//! <4>1 2026-01-02T03:04:05.678901Z web1 kernel - - [netconsole@32473 seq="17" usec="1204411" session="00c0ffee00c0ffee"] text
//! <44>1 2026-01-02T03:04:06.000000Z web1 ncrx - - [netconsole@32473 event="gap" first="12" last="17" why="lost"] records ...
//! ```
//!
//! The time is when the record was logged (see [`super::time`]). Newlines in a text, other control
//! characters, and bytes that are not UTF-8 are written as `\x..`; a text with more than ASCII
//! begins with a byte order mark, as the RFC wants it. Structured data further has `late`,
//! `emergency`, `crash`, `partial` and `plain`, each `"1"` if it is. Dictionaries are not written.
//!
//! Facilities that syslog does not have are written as its last one; text of a basic target has no
//! priority and gets that of the kernel's information. 32473 is the number for examples (RFC 5612):
//! the project has none of its own.

use std::io::Write;

use ncrx::{Event, Output, Session};

use super::time::{rfc3339, When};
use super::{plain, push_visible, word, words};

/// The byte order mark: what follows is UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A kernel's information.
const INFO: u32 = 6;

/// Messages of the one who keeps the log: facility 5.
const OURS: u32 = 5 << 3;

/// The longest name of a host that the RFC allows.
const HOST_MAX: usize = 255;

pub(super) fn write(output: &Output<'_>, host: &str, when: &When, out: &mut Vec<u8>) {
    match output {
        Output::Record(record) => {
            begin(out, record.priority().unwrap_or(INFO), host, "kernel", when);
            param(out, "seq", record.seq());
            param(out, "usec", record.usec());
            param(out, "session", record.session());
            param(out, "late", record.is_late().then_some(1));
            param(out, "emergency", record.is_emergency().then_some(1));
            param(out, "crash", record.is_crash().then_some(1));
            param(out, "partial", record.is_partial().then_some(1));
            param(out, "plain", record.is_text().then_some(1));
            end(out, &plain(record));
        }
        Output::Event { event, session, .. } => write_event(*event, *session, host, when, out),
    }
}

fn write_event(event: Event, session: Option<Session>, host: &str, when: &When, out: &mut Vec<u8>) {
    let Some(words) = words(event, session) else {
        return;
    };
    // A warning, or a notice.
    let level = if matches!(event, Event::Gap { .. }) {
        4
    } else {
        5
    };
    begin(out, OURS + level, host, "ncrx", when);
    param(out, "event", Some(word(event)));
    if let Event::Gap {
        range: numbers,
        reason: why,
    } = event
    {
        param(out, "first", Some(numbers.first));
        param(out, "last", Some(numbers.last));
        param(out, "why", Some(why.word()));
    }
    param(out, "session", session);
    end(out, words.as_bytes());
}

/// Appends all up to the structured data's parameters.
fn begin(out: &mut Vec<u8>, priority: u32, host: &str, app: &str, when: &When) {
    let priority = (priority >> 3).min(23) * 8 + (priority & 7);
    let graphic = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    let host: String = host.chars().map(graphic).take(HOST_MAX).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let time = rfc3339(when.logged);
    // Writing into memory does not fail.
    let _ = write!(
        out,
        "<{priority}>1 {time} {host} {app} - - [netconsole@32473"
    );
}

/// Appends a parameter, if there is one. No value has anything that would have to be escaped.
fn param(out: &mut Vec<u8>, name: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        let _ = write!(out, " {name}=\"{value}\"");
    }
}

/// Appends the message.
fn end(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"] ");
    let start = out.len();
    push_visible(text, out);
    if !out[start..].is_ascii() {
        out.splice(start..start, BOM.iter().copied());
    }
    out.push(b'\n');
}
