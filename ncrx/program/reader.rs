// SPDX-License-Identifier: GPL-2.0

//! Records in files that ncrx has written, as text or as JSON: what `ncrx show`, `ncrx tail` and
//! `ncrx index --rebuild` read.

use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A line of a file, taken apart. All text is as the sender has sent it: nothing is escaped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// When it was logged, in microseconds since 1970, if the file says.
    pub time: Option<u64>,
    /// The host's name.
    pub host: String,
    /// Its address and port; JSON has them.
    pub address: Option<(String, u16)>,
    /// The session; JSON has it, and a text's first line.
    pub session: Option<String>,
    /// The record's number; JSON has it.
    pub seq: Option<u64>,
    /// The level; JSON has it.
    pub level: Option<u8>,
    /// The facility; JSON has it.
    pub facility: Option<u32>,
    /// The sender's clock, in microseconds.
    pub usec: Option<u64>,
    /// By whom it was logged.
    pub caller: Option<String>,
    /// The kernel's release; JSON has it.
    pub release: Option<String>,
    /// The text, or an event in words.
    pub text: String,
    /// Whether it came late.
    pub late: bool,
    /// Whether it is marked as a crash's; JSON has it.
    pub crash: bool,
    /// Whether it goes on with the text of the line before.
    pub goes_on: bool,
    /// The event, if it is no record.
    pub event: Option<What>,
    /// Whether the line could be nobody else's.
    pub is_ours: bool,
}

/// An event in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A log has begun.
    Began,
    /// So many records are missing.
    Gap(u64),
    /// The log has ended.
    Ended,
    /// Something else.
    Other,
}

impl Entry {
    /// Takes a line apart, of either format; [`None`] if it is neither.
    pub fn parse(line: &str) -> Option<Self> {
        match line.starts_with('{') {
            true => Self::json(line),
            false => Self::text(line),
        }
    }

    fn json(line: &str) -> Option<Self> {
        let json: Json = serde_json::from_str(line).ok()?;
        let plain = |text: String| match json.escaped {
            true => unescaped(&text),
            false => text,
        };
        let caller = json.keys.get("caller").and_then(Value::as_str);
        let mut entry = Self {
            time: json.time.as_deref().and_then(time),
            address: json.address.zip(json.port),
            session: json.session,
            seq: json.seq,
            level: json.level,
            facility: json.facility,
            usec: json.usec,
            caller: caller.map(Into::into),
            release: json.release.map(plain),
            late: json.late,
            crash: json.crash,
            host: json.host,
            is_ours: true,
            ..Self::default()
        };
        let Some(event) = json.event else {
            entry.text = plain(json.text?);
            return Some(entry);
        };
        let range = json.first.zip(json.last);
        let count = range.map_or(0, |(first, last)| {
            last.saturating_sub(first).saturating_add(1)
        });
        (entry.event, entry.text) = match event.as_str() {
            "began" => (Some(What::Began), "log begins".into()),
            "gap" if json.why.as_deref() == Some("hidden") => return None,
            "gap" => (Some(What::Gap(count)), format!("{count} records missing")),
            "ended" => (Some(What::Ended), "log ended".into()),
            "resumed" => (Some(What::Other), "heard again".into()),
            "crashed" => (
                Some(What::Other),
                format!("crash: {}", json.title.unwrap_or_default()),
            ),
            _ => return None,
        };
        Some(entry)
    }

    /// `[TIME ]HOST [ stamp] [caller] (late) text`
    fn text(line: &str) -> Option<Self> {
        let (first, rest) = line.split_once(' ')?;
        let at = time(first);
        let (host, rest) = match at {
            Some(_) => rest.split_once(' ')?,
            None => (first, rest),
        };
        let mut entry = Self {
            time: at,
            host: unescaped(host),
            ..Self::default()
        };
        if let Some(words) = rest.strip_prefix("--- ") {
            (entry.event, entry.is_ours) = (Some(happened(words)), true);
            let session = words
                .split_once("(session ")
                .and_then(|(_, rest)| rest.split_once(')'));
            entry.session = session.map(|(session, _)| session.into());
            entry.text = unescaped(words);
            return Some(entry);
        }
        let mut rest = rest;
        if let Some((stamp, behind)) = bracketed(rest) {
            entry.usec = clock(stamp);
            if entry.usec.is_some() {
                (entry.is_ours, rest) = (true, behind);
                if let Some((caller, behind)) = bracketed(rest).filter(|(c, _)| is_caller(c)) {
                    entry.caller = Some(caller.trim().into());
                    rest = behind;
                }
            }
        }
        for (mark, is) in [("(plain) ", 0), ("(late) ", 1), ("(partial) ", 2)] {
            if let Some(behind) = rest.strip_prefix(mark) {
                entry.late |= is == 1;
                entry.is_ours |= is == 0;
                rest = behind;
            } else if is == 0 && entry.usec.is_none() {
                // A text's second line stands below its first.
                entry.goes_on = rest.starts_with(' ');
            }
        }
        let text = match entry.goes_on {
            true => rest.trim_start(),
            false => rest,
        };
        entry.text = unescaped(text);
        Some(entry)
    }
}

/// The fields of an object, a record or an event.
#[derive(Deserialize)]
struct Json {
    host: String,
    address: Option<String>,
    port: Option<u16>,
    session: Option<String>,
    seq: Option<u64>,
    level: Option<u8>,
    facility: Option<u32>,
    usec: Option<u64>,
    time: Option<String>,
    #[serde(default)]
    keys: Map<String, Value>,
    release: Option<String>,
    text: Option<String>,
    #[serde(default)]
    late: bool,
    #[serde(default)]
    crash: bool,
    #[serde(default)]
    escaped: bool,
    event: Option<String>,
    first: Option<u64>,
    last: Option<u64>,
    why: Option<String>,
    title: Option<String>,
}

/// Parses a time by RFC 3339, to microseconds since 1970.
fn time(text: &str) -> Option<u64> {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    let time = humantime::parse_rfc3339(text).ok().filter(|_| digit)?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}

fn happened(words: &str) -> What {
    if words.starts_with("log begins") {
        return What::Began;
    }
    if words.starts_with("log ended") {
        return What::Ended;
    }
    let numbers = words
        .strip_prefix("records ")
        .or(words.strip_prefix("record "));
    let Some((numbers, _)) = numbers.and_then(|rest| rest.split_once(' ')) else {
        return What::Other;
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    match first.parse::<u64>().ok().zip(last.parse::<u64>().ok()) {
        Some((first, last)) => What::Gap(last.saturating_sub(first).saturating_add(1)),
        None => What::Other,
    }
}

/// Splits `[inside] rest`.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    Some((inside, rest.strip_prefix(' ')?))
}

fn clock(stamp: &str) -> Option<u64> {
    let (seconds, micros) = stamp.trim().split_once('.').filter(|(_, m)| m.len() == 6)?;
    let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

fn is_caller(text: &str) -> bool {
    let mut letters = text.trim().chars();
    matches!(letters.next(), Some('T' | 'C')) && letters.all(|c| c.is_ascii_digit())
}

fn unescaped(text: &str) -> String {
    String::from_utf8_lossy(&ncrx::unescape(text.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_text() {
        let line = "2026-01-02T03:04:06.883312Z web1 [    1.204411] [  T123] (late) a \\x1b text";
        let entry = Entry::parse(line).unwrap();
        assert_eq!(entry.host, "web1");
        assert_eq!((entry.usec, entry.late), (Some(1_204_411), true));
        assert_eq!(entry.caller.as_deref(), Some("T123"));
        assert_eq!(entry.text, "a \x1b text");
        let line = "10.0.0.3 (plain) [   12.000000][   T1] x";
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.host.as_str(), entry.time), ("10.0.0.3", None));
        assert_eq!(entry.text, "[   12.000000][   T1] x");
        let line = "2026-01-02T03:04:06.883312Z web1                of two lines";
        let entry = Entry::parse(line).unwrap();
        assert!(entry.goes_on);
        assert_eq!(entry.text, "of two lines");
        for (words, what) in [
            (
                "log begins with record 0 (session 00c0ffee00c0ffee)",
                What::Began,
            ),
            ("records 12-17 missing: lost at the sender", What::Gap(6)),
            ("record 3 missing: lost", What::Gap(1)),
            ("log ended", What::Ended),
            ("heard again", What::Other),
        ] {
            let entry = Entry::parse(&format!("2026-01-02T03:04:07.1Z a --- {words}")).unwrap();
            assert_eq!(entry.event, Some(what), "{words}");
        }
        assert_eq!(Entry::parse(""), None);
    }

    #[test]
    fn lines_of_others_are_not_taken_for_ours() {
        for (line, is) in [
            ("2026-11-30 08:00:00 status installed ncrx:amd64 1", false),
            (
                "2026-11-30T08:00:00.123456+00:00 web1 kernel: [    1.204411] x",
                false,
            ),
            ("Nov  3 08:00:00 web1 kernel: [    1.204411] x", false),
            ("[    1.204411] x", false),
            ("web1 [    1.204411] x", true),
            ("web1 (plain) x", true),
            ("web1 --- log ended", true),
            ("{\"host\":\"a\",\"text\":\"t\"}", true),
        ] {
            let entry = Entry::parse(line);
            assert_eq!(entry.is_some_and(|entry| entry.is_ours), is, "{line}");
        }
    }

    #[test]
    fn lines_of_json() {
        let line = r#"{"host":"a","address":"::1","port":1,"session":"0a","seq":7,"level":3,
            "facility":0,"usec":5,"time":"1970-01-01T00:00:01Z","keys":{"caller":"C1"},"text":"t",
            "late":false,"crash":true,"dictionary":{},"escaped":true}"#;
        let entry = Entry::parse(&line.replace('\n', "")).unwrap();
        assert_eq!(
            (entry.seq, entry.level, entry.crash),
            (Some(7), Some(3), true)
        );
        assert_eq!(
            (entry.time, entry.caller.as_deref()),
            (Some(1_000_000), Some("C1"))
        );
        let line = r#"{"event":"gap","host":"a","first":3,"last":u64,"why":"lost"}"#;
        let entry = Entry::parse(&line.replace("u64", &u64::MAX.to_string())).unwrap();
        assert_eq!(entry.event, Some(What::Gap(u64::MAX - 2)));
        assert_eq!(Entry::parse("{\"nothing\":1}"), None);
    }
}
