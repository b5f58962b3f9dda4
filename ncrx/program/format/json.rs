// SPDX-License-Identifier: GPL-2.0

//! A JSON object a line.
//!
//! A record has always all of these; what it has not is `null`:
//!
//! | key | what |
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
//! | `kmsg` | the record as `/dev/kmsg` has it, byte for byte |
//! | `late`, `emergency`, `crash`, `partial`, `plain` | true or false; `plain` is the text of a basic target |
//!
//! A key of `keys` or `dictionary` that is there more than once has an array of its values.
//!
//! Text that is not UTF-8 has `\x..` for each byte that is not. Only `kmsg` is never changed: if it
//! is not UTF-8 then it is an array of its bytes, as `journalctl -o json` does it.
//!
//! An event has `event`, which no record has: `began` (with `again`, and `first` if there are
//! numbers), `gap` (with `first`, `last` and `why`), `resumed` or `ended`; and `host`, `address`,
//! `port`, `session`, and `time`, when it happened here.

use std::borrow::Cow;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use ncrx::{Event, Output, Record, Session};
use serde::{Serialize, Serializer};

use super::time::{rfc3339, When};
use super::{escaped, plain, word};

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
    kmsg: Exact<'a>,
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

pub(super) fn write(output: &Output<'_>, host: &str, when: &When, out: &mut Vec<u8>) {
    let written = match output {
        Output::Record(record) => write_record(record, host, when, out),
        Output::Event {
            host: address,
            session,
            event,
            ..
        } => serde_json::to_writer(
            &mut *out,
            &event_line(*event, Sender::new(host, *address, *session), when),
        ),
    };
    written.expect("no key but text, and memory cannot fail");
    out.push(b'\n');
}

fn write_record(
    record: &Record<'_>,
    host: &str,
    when: &When,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    // Few are longer.
    let mut kmsg = Vec::with_capacity(1024);
    record.write_kmsg(&mut kmsg);
    let line = RecordLine {
        sender: Sender::new(host, record.host(), record.session()),
        seq: record.seq(),
        level: record.level(),
        facility: record.facility(),
        priority: record.priority(),
        usec: record.usec(),
        time: when.logged,
        received: when.received,
        flag: record.flag().map(|flag| text(flag.into())),
        release: record.release().map(|release| text(release.into())),
        keys: pairs(record.keys().map(|(key, value)| (key.into(), value.into()))),
        text: text(plain(record)),
        dictionary: pairs(
            record
                .dictionary()
                .map(|(key, value)| (ncrx::unescape(key), ncrx::unescape(value))),
        ),
        kmsg: std::str::from_utf8(&kmsg).map_or(Exact::Bytes(&kmsg), Exact::Text),
        late: record.is_late(),
        emergency: record.is_emergency(),
        crash: record.is_crash(),
        partial: record.is_partial(),
        plain: record.is_text(),
    };
    serde_json::to_writer(out, &line)
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

/// The bytes as text, with `\x..` for those that are not UTF-8.
fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    let bytes = match bytes {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return text.into(),
            Err(_) => Cow::Borrowed(bytes),
        },
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return text.into(),
            Err(error) => error.into_bytes().into(),
        },
    };
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.push_str(&escaped(chunk.invalid()));
    }
    out.into()
}

fn pairs<'a>(pairs: impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)>) -> Pairs<'a> {
    let mut map = Pairs::new();
    for (key, value) in pairs {
        let value = text(value);
        match map.entry(text(key)) {
            Entry::Vacant(entry) => {
                entry.insert(Values::One(value));
            }
            Entry::Occupied(mut entry) => entry.get_mut().push(value),
        }
    }
    map
}

impl<'a> Values<'a> {
    fn push(&mut self, value: Cow<'a, str>) {
        match self {
            Self::One(first) => *self = Self::Many(vec![std::mem::take(first), value]),
            Self::Many(values) => values.push(value),
        }
    }
}

fn displayed<S: Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn real_time<S: Serializer>(real: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*real))
}
