// SPDX-License-Identifier: GPL-2.0

//! Syslog (RFC 5424), a line for each record and event:
//!
//! ```text
//! <4>1 2026-01-02T03:04:05.678901Z web1 kernel - - [netconsole@32473 seq="17" usec="1204411" session="00c0ffee00c0ffee"] text
//! <44>1 2026-01-02T03:04:06.000000Z web1 ncrx - - [netconsole@32473 event="gap" first="12" last="17" why="lost"] records ...
//! ```
//!
//! The time is when the record was logged (see [`super::time`]). What cannot be shown is escaped
//! (see [`super::visible`]); a text with more than ASCII begins with a byte order mark, as the RFC
//! wants it. Structured data of `netconsole@32473` further has `late`, `emergency`, `crash`,
//! `partial` and `plain`, each `"1"` if it is, the kernel's `release`, and the `caller`. What other
//! keys are in the header is in an element of its own, `keys@32473`, and in `dictionary@32473` are
//! the lines ` KEY=value` behind the text, be they of the dictionary or userdata.
//!
//! Facilities that syslog does not have are written as its last one; text of a basic target has no
//! priority and gets that of the kernel's information. 32473 is the number for examples (RFC 5612):
//! the project has none of its own.

use std::borrow::Cow;
use std::io::Write;

use ncrx::{Event, Output, Session};

use super::time::{rfc3339, When};
use super::visible::{push_visible, visible};
use super::{plain, word, words};

/// The byte order mark: what follows is UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A kernel's information.
const INFO: u32 = 6;

/// Messages of the logger itself: facility 5.
const OURS: u32 = 5 << 3;

/// The most pairs of a record that are taken.
const PAIRS_MAX: usize = 64;

/// The longest name of a parameter that the RFC allows.
const NAME_MAX: usize = 32;

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
            let is_caller = |key: &[u8]| key == b"caller";
            param(out, "release", record.release().map(value));
            let caller = record.keys().find(|(key, _)| is_caller(key));
            param(out, "caller", caller.map(|(_, caller)| value(caller)));
            let keys = record.keys().filter(|(key, _)| !is_caller(key));
            element(out, "keys", keys.map(|(k, v)| (k.into(), v.into())));
            let dictionary = record.dictionary();
            let pairs = dictionary.map(|(k, v)| (ncrx::unescape(k), ncrx::unescape(v)));
            element(out, "dictionary", pairs);
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

/// Ends an element, and appends another one of these pairs, if there are any; it is not ended.
fn element<'a>(
    out: &mut Vec<u8>,
    id: &str,
    pairs: impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)>,
) {
    for (nth, (key, text)) in pairs.take(PAIRS_MAX).enumerate() {
        if nth == 0 {
            let _ = write!(out, "][{id}@32473");
        }
        param(out, &name(&key), Some(value(&text)));
    }
}

/// The name of a parameter: what is not allowed in it becomes an underscore.
fn name(key: &[u8]) -> String {
    let legal = |&c: &u8| match c {
        b'=' | b']' | b'"' => '_',
        c if c.is_ascii_graphic() => char::from(c),
        _ => '_',
    };
    match key {
        [] => "_".into(),
        key => key.iter().map(legal).take(NAME_MAX).collect(),
    }
}

/// A parameter's value: `"`, `]` and what cannot be shown are escaped. (The RFC has a backslash be
/// itself unless one of its own escapes follows, and ours have an `x` there.)
fn value(text: &[u8]) -> String {
    visible(text).replace('"', "\\\"").replace(']', "\\]")
}

/// Appends a parameter, if there is one, of which nothing has to be escaped.
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
