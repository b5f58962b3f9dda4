// SPDX-License-Identifier: GPL-2.0

//! JSON, an object a line.
//!
//! A record always has all of these but `kmsg`; what it does not have is `null`:
//!
//! | key | meaning |
//! |---|---|
//! | `host` | the sender's name |
//! | `address`, `port` | where it sent from |
//! | `session` | its session, 16 hexadecimal digits |
//! | `seq` | the record's number |
//! | `level`, `facility`, `priority` | as syslog has them; `priority` is `facility * 8 + level` |
//! | `usec` | the sender's clock in microseconds |
//! | `time` | the real time that follows from it, RFC 3339 (see [`super::time`]) |
//! | `received` | when it arrived, RFC 3339 |
//! | `flag` | `-` or `c` |
//! | `release` | the kernel's release |
//! | `keys` | the header's further keys, like `caller` |
//! | `text` | the text, without printk's escapes |
//! | `dictionary` | the lines `KEY=value` behind the text, without printk's escapes |
//! | `kmsg` | with `--json-kmsg`: the record as `/dev/kmsg` has it, byte for byte |
//! | `late`, `emergency`, `crash`, `partial`, `plain` | true or false; `plain` is the text of a basic target |
//!
//! A key of `keys` or `dictionary` that is there more than once has an array of its values.
//!
//! Strings are what the sender said, with JSON's own escapes for all that may do harm to a terminal
//! (`\u009b`). If not all of a record is UTF-8 then it also has `escaped`, which is true, and in
//! all its strings there is `\x..` for each byte that is not UTF-8, for each control character and
//! for the backslash, as printk writes them ([`super::visible`]). Only `kmsg` is never changed: if
//! it is not UTF-8 then it is an array of its bytes, as `journalctl -o json` does it.
//!
//! A crash is an event `crashed`, with what [`CrashLine`] has: see `docs/crashes.md`.
//!
//! An event has `event`, which no record has: `began` (with `again`, and `first` if there are
//! numbers), `gap` (with `first`, `last` and `why`), `resumed` or `ended`; and `host`, `address`,
//! `port`, `session`, and `time`, when it happened here.

use std::borrow::Cow;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ncrx::crash::{ReportLine, Signature};
use ncrx::{Event, Output, Record, Session};
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::Serializer;

use crate::crashes::Crash;

use super::time::{rfc3339, When};
use super::visible::{is_harmful, visible};
use super::{plain, word};

#[derive(Serialize)]
struct RecordLine<'a> {
    #[serde(flatten)]
    sender: Sender<'a>,
    seq: Option<u64>,
    level: Option<u8>,
    facility: Option<u32>,
    priority: Option<u32>,
    usec: Option<u64>,
    #[serde(serialize_with = "real_time")]
    time: u64,
    #[serde(serialize_with = "real_time")]
    received: u64,
    flag: Option<Cow<'a, str>>,
    release: Option<Cow<'a, str>>,
    keys: Pairs<'a>,
    text: Cow<'a, str>,
    dictionary: Pairs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kmsg: Option<Exact<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    escaped: Option<bool>,
    late: bool,
    emergency: bool,
    crash: bool,
    partial: bool,
    plain: bool,
}

#[derive(Serialize)]
struct EventLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    sender: Sender<'a>,
    #[serde(serialize_with = "real_time")]
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
}

#[derive(Serialize)]
struct Sender<'a> {
    host: &'a str,
    address: IpAddr,
    port: u16,
    #[serde(serialize_with = "displayed")]
    session: Option<Session>,
}

impl<'a> Sender<'a> {
    fn new(host: &'a str, address: SocketAddr, session: Option<Session>) -> Self {
        Self {
            host,
            address: address.ip().to_canonical(),
            port: address.port(),
            session,
        }
    }
}

/// Bytes that may not be changed.
#[derive(Serialize)]
#[serde(untagged)]
enum Exact<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

type Pairs<'a> = BTreeMap<Cow<'a, str>, Values<'a>>;

#[derive(Serialize)]
#[serde(untagged)]
enum Values<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

pub(super) fn write(output: &Output<'_>, host: &str, when: &When, kmsg: bool, out: &mut Vec<u8>) {
    match output {
        Output::Record(record) => write_record(record, host, when, kmsg, out),
        Output::Event {
            host: address,
            session,
            event,
            ..
        } => write_line(
            &event_line(*event, Sender::new(host, *address, *session), when),
            out,
        ),
    }
}

/// A crash, as an event.
#[derive(Serialize)]
struct CrashLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    sender: Sender<'a>,
    #[serde(serialize_with = "real_time")]
    time: u64,
    kind: &'static str,
    title: &'a str,
    #[serde(serialize_with = "shown")]
    signature: Signature,
    function: Option<&'a str>,
    frames: &'a [String],
    release: Option<&'a str>,
    hardware: Option<&'a str>,
    first: Option<u64>,
    last: Option<u64>,
    missing: u64,
    complete: bool,
    fatal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Vec<Logged<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<Logged<'a>>>,
}

/// A line of a report.
#[derive(Serialize)]
struct Logged<'a> {
    seq: Option<u64>,
    usec: Option<u64>,
    text: &'a str,
}

impl<'a> Logged<'a> {
    fn of(line: &'a ReportLine) -> Self {
        Self {
            seq: line.seq,
            usec: line.usec,
            text: &line.text,
        }
    }
}

/// Appends the event of a crash.
pub(super) fn write_crash(crash: &Crash, out: &mut Vec<u8>) {
    write_line(&crash_line(crash), out);
}

/// Appends a crash with all its lines.
pub(super) fn write_report(crash: &Crash, out: &mut Vec<u8>) {
    let mut line = crash_line(crash);
    line.before = Some(crash.report.before.iter().map(Logged::of).collect());
    line.lines = Some(crash.report.lines.iter().map(Logged::of).collect());
    write_line(&line, out);
}

fn crash_line(crash: &Crash) -> CrashLine<'_> {
    let report = &crash.report;
    CrashLine {
        event: "crashed",
        sender: Sender::new(&crash.host, crash.address, crash.session),
        time: crash.time,
        kind: report.kind.word(),
        title: &report.title,
        signature: report.signature,
        function: report.function.as_deref(),
        frames: &report.frames,
        release: report.release.as_deref(),
        hardware: report.hardware.as_deref(),
        first: crash.seq(),
        last: report.lines.last().and_then(|line| line.seq),
        missing: report.missing,
        complete: report.is_complete(),
        fatal: report.fatal,
        before: None,
        lines: None,
    }
}

fn write_record(record: &Record<'_>, host: &str, when: &When, kmsg: bool, out: &mut Vec<u8>) {
    let mut exact = Vec::new();
    if kmsg {
        record.write_kmsg(&mut exact);
    }
    let line = |text: ToText| {
        Some(RecordLine {
            sender: Sender::new(host, record.host(), record.session()),
            seq: record.seq(),
            level: record.level(),
            facility: record.facility(),
            priority: record.priority(),
            usec: record.usec(),
            time: when.logged,
            received: when.received,
            flag: optional(record.flag(), text)?,
            release: optional(record.release(), text)?,
            keys: pairs(
                record.keys().map(|(key, value)| (key.into(), value.into())),
                text,
            )?,
            text: text(plain(record))?,
            dictionary: pairs(
                record
                    .dictionary()
                    .map(|(key, value)| (ncrx::unescape(key), ncrx::unescape(value))),
                text,
            )?,
            kmsg: kmsg
                .then(|| std::str::from_utf8(&exact).map_or(Exact::Bytes(&exact), Exact::Text)),
            escaped: None,
            late: record.is_late(),
            emergency: record.is_emergency(),
            crash: record.is_crash(),
            partial: record.is_partial(),
            plain: record.is_text(),
        })
    };
    if let Some(line) = line(utf8) {
        write_line(&line, out);
    } else if let Some(mut line) = line(|bytes| Some(visible(&bytes).into_owned().into())) {
        line.escaped = Some(true);
        write_line(&line, out);
    }
}

/// Appends it, as a line in which nothing can do harm.
pub(super) fn write_line(line: &impl Serialize, out: &mut Vec<u8>) {
    let mut to = Serializer::with_formatter(&mut *out, Harmless);
    line.serialize(&mut to)
        .expect("no key but text, and memory cannot fail");
    out.push(b'\n');
}

/// Escapes all that [`is_harmful`], not only what JSON has to.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W>(&mut self, to: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        if fragment.is_ascii() && !fragment.contains('\x7f') {
            return to.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_harmful(c)) {
            let (before, behind) = rest.split_at(at);
            to.write_all(before.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = &behind[c.len_utf8()..];
        }
        to.write_all(rest.as_bytes())
    }
}

fn event_line<'a>(event: Event, sender: Sender<'a>, when: &When) -> EventLine<'a> {
    let mut line = EventLine {
        event: word(event),
        sender,
        time: when.received,
        again: None,
        first: None,
        last: None,
        why: None,
    };
    match event {
        Event::Began { first, again } => (line.first, line.again) = (first, Some(again)),
        Event::Gap {
            range: numbers,
            reason: why,
        } => {
            (line.first, line.last) = (Some(numbers.first), Some(numbers.last));
            line.why = Some(why.word());
        }
        _ => {}
    }
    line
}

/// The bytes, if they are UTF-8.
fn utf8(bytes: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// A way to make text of bytes; [`None`] if that cannot be.
type ToText = fn(Cow<'_, [u8]>) -> Option<Cow<'_, str>>;

fn optional(bytes: Option<&[u8]>, text: ToText) -> Option<Option<Cow<'_, str>>> {
    match bytes {
        Some(bytes) => text(bytes.into()).map(Some),
        None => Some(None),
    }
}

fn pairs<'a>(
    pairs: impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)>,
    text: ToText,
) -> Option<Pairs<'a>> {
    let mut map = Pairs::new();
    for (key, value) in pairs {
        let value = text(value)?;
        match map.entry(text(key)?) {
            Entry::Vacant(entry) => {
                entry.insert(Values::One(value));
            }
            Entry::Occupied(mut entry) => entry.get_mut().push(value),
        }
    }
    Some(map)
}

impl<'a> Values<'a> {
    fn push(&mut self, value: Cow<'a, str>) {
        match self {
            Self::One(first) => *self = Self::Many(vec![std::mem::take(first), value]),
            Self::Many(values) => values.push(value),
        }
    }
}

fn displayed<S: serde::Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn shown<S: serde::Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn real_time<S: serde::Serializer>(real: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*real))
}
