// SPDX-License-Identifier: GPL-2.0

//! Harmful texts, and times.

use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{until, until_contains, Ncrx, Sender};

/// Text that a sender may send, with printk's escapes; the same as it is shown; the same in JSON.
const TEXTS: &[(&str, &str, &str)] = &[
    (r"a\x1b[31mb", r"a\x1b[31mb", "a\u{1b}[31mb"),
    (r"a\x07\x08\x00b", r"a\x07\x08\x00b", "a\u{7}\u{8}\0b"),
    (r"a\xc2\x9b1mb", r"a\xc2\x9b1mb", "a\u{9b}1mb"),
    (r"a\xe2\x80\xaeb", r"a\xe2\x80\xaeb", "a\u{202e}b"),
    (r"a\xe2\x80\x8bb", r"a\xe2\x80\x8bb", "a\u{200b}b"),
    (r"a\xf3\xa0\x81\x81b", r"a\xf3\xa0\x81\x81b", "a\u{e0041}b"),
    (r"Caf\xc3\xa9", "Caf\u{e9}", "Caf\u{e9}"),
    (r"Caf\xe9", r"Caf\xe9", r"Caf\xe9"),
    (r"a\x5cx0ab", r"a\x5cx0ab", r"a\x0ab"),
];

#[test]
fn texts_do_no_harm_and_can_be_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let args = format!(
        "--no-history --output {} --output json:{} --output syslog:{}",
        at("text").display(),
        at("json").display(),
        at("syslog").display()
    );
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    for (seq, (text, ..)) in TEXTS.iter().enumerate() {
        let session = sender.session;
        sender.send_raw(&format!(
            "6,{seq},{seq},-,caller=T123,ncs={session:016x};{text}\n"
        ));
    }
    let last = TEXTS.len() as u64;
    sender.send(last);
    sender.settle(last, last);
    assert!(ncrx.stop().success());
    for file in ["text", "json", "syslog"] {
        let written = std::fs::read_to_string(at(file)).unwrap();
        let harmful = |c: char| {
            let turns = ('\u{202a}'..='\u{202e}').contains(&c);
            let unseen = ['\u{200b}', '\u{e0041}'].contains(&c);
            c.is_control() && c != '\n' || turns || unseen
        };
        assert!(!written.chars().any(harmful), "{written:?}");
        for (_, shown, json) in TEXTS {
            match file {
                "json" => {
                    let lines = written
                        .lines()
                        .map(|line| serde_json::from_str(line).unwrap());
                    let texts = lines.filter(|line: &Value| line["text"] == *json);
                    assert_eq!(texts.count(), 1, "{json:?} in {written}");
                }
                _ => {
                    let lines = written.lines().filter(|line| line.ends_with(shown));
                    assert_eq!(lines.count(), 1, "{shown} in {written}");
                }
            }
        }
    }
    let text = std::fs::read_to_string(at("text")).unwrap();
    assert!(text.contains("] [  T123] Caf"), "{text}");
    let json = std::fs::read_to_string(at("json")).unwrap();
    assert!(!json.contains("kmsg"));
}

#[test]
fn files_have_the_time_and_a_terminal_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    for (option, begins) in [("auto", "20"), ("always", "20"), ("never", "127.0.0.1 ")] {
        let args = format!("--wall-clock {option} --output {}", file.display());
        let mut ncrx = Ncrx::start(&args);
        let sender = Sender::new(ncrx.at);
        sender.send_raw("plain\n");
        until_contains(&file, "(plain) plain\n");
        assert!(ncrx.stop().success());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.lines().all(|line| line.starts_with(begins)),
            "{option}: {text}"
        );
        std::fs::remove_file(&file).unwrap();
    }
}

/// A record whose dating is tried: the milliseconds after the first at which it is sent, and those
/// that its sender's clock is behind then.
#[derive(Clone, Copy, Debug)]
struct Late {
    at: u64,
    behind: u64,
}

/// The times of a record, in milliseconds since the first one has come, as the output has them.
#[derive(Debug)]
struct Dated {
    sent: i64,
    logged: i64,
    received: i64,
}

/// Sends a record, is silent for a while, and sends these. The sender's clock is reckoned from when
/// the first has come: as late as that may be on a busy machine, no error comes of it.
fn dated_after_a_silence(records: &[Late]) -> Vec<Dated> {
    const FIRST_USEC: u128 = 5_000_000;
    let file = tempfile::NamedTempFile::new().unwrap();
    let args = format!("--no-history --output json:{}", file.path().display());
    let ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    let send = |seq: u64, usec: u128| {
        let session = sender.session;
        sender.send_raw(&format!("6,{seq},{usec},-,ncs={session:016x};text {seq}\n"));
    };
    let written = |count: usize| {
        until("all is written", || {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let whole = text.rsplit_once('\n')?.0;
            let lines = whole
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<Value> = lines
                .filter(|line: &Value| !line["seq"].is_null())
                .collect();
            (lines.len() == count).then_some(lines)
        })
    };
    let time = |line: &Value, key: &str| humantime::parse_rfc3339(line[key].as_str().unwrap());
    send(1, FIRST_USEC);
    let first = time(&written(1)[0], "received").unwrap();
    let since_first = |time: SystemTime| match time.duration_since(first) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    };
    let mut sent = Vec::new();
    for (seq, Late { at, behind }) in (2..).zip(records) {
        // This test is about times, so it has to sleep.
        let at = first + Duration::from_millis(*at);
        thread::sleep(at.duration_since(SystemTime::now()).unwrap_or_default());
        let now = SystemTime::now();
        let clock = now.duration_since(first).unwrap() - Duration::from_millis(*behind);
        send(seq, FIRST_USEC + clock.as_micros());
        sent.push(since_first(now));
    }
    let lines = written(records.len() + 1);
    let dated = |(line, sent): (&Value, i64)| Dated {
        sent,
        logged: since_first(time(line, "time").unwrap()),
        received: since_first(time(line, "received").unwrap()),
    };
    lines[1..].iter().zip(sent).map(dated).collect()
}

#[test]
fn what_comes_after_a_suspend_is_dated_right() {
    // One record, and several.
    for times in [&[1500][..], &[1500, 1510, 1530, 2000]] {
        let behind = 1490;
        let records: Vec<_> = times.iter().map(|&at| Late { at, behind }).collect();
        // It was logged when it was sent, however long it was under way.
        for dated in dated_after_a_silence(&records) {
            let right = dated.sent - 50..=dated.received;
            assert!(right.contains(&dated.logged), "{times:?}: {dated:?}");
        }
    }
}

#[test]
fn what_was_kept_back_is_dated_right() {
    let kept = |n: u64| Late {
        at: 1500,
        behind: 1500 - 100 * n,
    };
    let records: Vec<_> = (1..=15).map(kept).collect();
    for (record, dated) in records.iter().zip(dated_after_a_silence(&records)) {
        let right = dated.sent - record.behind as i64;
        assert!((dated.logged - right).abs() < 50, "{record:?}: {dated:?}");
    }
}
