// SPDX-License-Identifier: GPL-2.0

//! Crashes in logs: `tests/traces/` has a file for each case, made in the shapes of kernels from
//! 4.14 to 7.3. Each begins with the expected reports, a line each:
//!
//! ```text
//! # report: kind | group | complete or incomplete | title
//! ```
//!
//! Reports of one group, in any file, have one signature, and those of two groups have two. A
//! line `--- gap N` stands for missing records, and `*` in front for the mark of a crash's records.

use std::collections::HashMap;
use std::path::Path;

use ncrx::crash::{Line, Recognizer, Report, Signature};
use proptest::prelude::*;

/// A report that a file names as expected.
struct Expected {
    kind: String,
    group: String,
    complete: bool,
    title: String,
}

fn expected(line: &str) -> Expected {
    let parts: Vec<_> = line.splitn(4, " | ").collect();
    let [kind, group, complete, title] = parts[..] else {
        panic!("{line}");
    };
    Expected {
        kind: kind.into(),
        group: group.into(),
        complete: complete == "complete",
        title: title.into(),
    }
}

fn recognize(text: &str) -> (Vec<Expected>, Vec<Report>) {
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    let mut recognizer = Recognizer::default();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# report: ") {
            wanted.push(expected(line));
        } else if let Some(count) = line.strip_prefix("--- gap ") {
            recognizer.gap(count.parse().unwrap());
        } else {
            let plain = line.strip_prefix('*');
            let crash = plain.is_some();
            let line = Line::plain(plain.unwrap_or(line).as_bytes());
            recognizer.push(&Line { crash, ..line }, &mut found);
        }
    }
    recognizer.finish(&mut found);
    (wanted, found)
}

#[test]
fn traces_are_recognized_as_a_person_would() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 60, "{}", files.len());
    let mut wrong = Vec::new();
    let mut groups: HashMap<String, (Signature, String)> = HashMap::new();
    let mut signatures: HashMap<Signature, String> = HashMap::new();
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (wanted, found) = recognize(&std::fs::read_to_string(&path).unwrap());
        if wanted.len() != found.len() {
            let titles: Vec<_> = found.iter().map(|report| &report.title).collect();
            wrong.push(format!(
                "{name}: {} reports wanted, found {titles:?}",
                wanted.len()
            ));
            continue;
        }
        for (wanted, found) in wanted.iter().zip(&found) {
            let is = format!("{} | {} | {}", found.kind, found.is_complete(), found.title);
            let should = format!("{} | {} | {}", wanted.kind, wanted.complete, wanted.title);
            if is != should {
                wrong.push(format!("{name}:\n  is     {is}\n  should {should}"));
            }
            let (first, frames) = groups
                .entry(wanted.group.clone())
                .or_insert_with(|| (found.signature, format!("{name} {:?}", found.frames)));
            if *first != found.signature {
                wrong.push(format!(
                    "{name}: {:?} is not of one group with {frames}",
                    found.frames
                ));
            }
            let group = signatures
                .entry(found.signature)
                .or_insert_with(|| wanted.group.clone());
            if *group != wanted.group {
                wrong.push(format!(
                    "{name}: {} has the signature of {group}",
                    wanted.group
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reports_have_what_people_ask_for() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let read = |name: &str| recognize(&std::fs::read_to_string(directory.join(name)).unwrap()).1;
    let report = &read("null-7.3.txt")[0];
    assert_eq!(report.release.as_deref(), Some("7.3.4"));
    assert!(report
        .hardware
        .as_deref()
        .unwrap()
        .starts_with("QEMU Standard PC"));
    assert!(report
        .before
        .iter()
        .any(|line| line.text.starts_with("frob: opened by")));
    assert!(!report.fatal);
    assert!(report.lines[0].text.starts_with("BUG: kernel NULL pointer"));
    assert!(report
        .lines
        .iter()
        .any(|line| line.text.contains("__x64_sys_ioctl")));
    let report = &read("kasan-uaf-interleaved.txt")[0];
    assert!(!report
        .lines
        .iter()
        .any(|line| line.text.contains("another task")));
    assert!(read("panic-sysrq-7.3-marked.txt")[0].fatal);
    assert_eq!(read("gap-inside.txt")[0].missing, 4);
}

#[test]
fn a_first_line_that_comes_late_is_still_the_first() {
    let mut recognizer = Recognizer::default();
    let mut found = Vec::new();
    let line = |seq: u64, text: &'static str, late: bool| Line {
        seq: Some(seq),
        usec: Some(1_000_000 + seq),
        caller: Some(b"T7"),
        text: text.as_bytes(),
        late,
        ..Line::default()
    };
    recognizer.gap(1);
    recognizer.push(&line(11, "RIP: 0010:foo_bar+0x1/0x2", false), &mut found);
    recognizer.push(&line(12, "Call Trace:", false), &mut found);
    recognizer.push(
        &line(10, "BUG: kernel NULL pointer dereference, address: 0", true),
        &mut found,
    );
    recognizer.push(&line(13, " baz+0x1/0x2", false), &mut found);
    recognizer.push(
        &line(14, "---[ end trace 0000000000000000 ]---", false),
        &mut found,
    );
    recognizer.finish(&mut found);
    let report = &found[0];
    assert_eq!(found.len(), 1);
    assert_eq!(
        report.title,
        "BUG: unable to handle kernel NULL pointer dereference in foo_bar"
    );
    let seqs: Vec<_> = report.lines.iter().filter_map(|line| line.seq).collect();
    assert_eq!(seqs, [10, 11, 12, 13, 14]);
    assert!(report.is_complete());
}

#[test]
fn what_a_daemon_writes_is_no_crash() {
    let mut recognizer = Recognizer::default();
    let mut found = Vec::new();
    let text = b"Kernel panic - not syncing: says systemd";
    let line = Line {
        facility: 3,
        text,
        ..Line::default()
    };
    recognizer.push(&line, &mut found);
    recognizer.finish(&mut found);
    assert_eq!(found, []);
}

/// Returns the bytes of text in a report.
fn size(report: &Report) -> usize {
    let lines = report.before.iter().chain(&report.lines);
    lines.map(|line| line.text.len()).sum::<usize>() + report.title.len()
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[ -~\u{e4}\u{202e}]{0,80}".prop_map(String::into_bytes),
        prop::sample::select(vec![
            "BUG: ",
            "BUG: KASAN: a in ",
            "WARNING: ",
            "Kernel panic - not syncing: ",
            "RIP: 0010:",
            "x+0x1/0x2",
            "? ",
            "INFO: rcu_preempt self-detected stall",
            "Oops: ",
            "---[ end trace",
            " invoked oom-killer: ",
            "{",
            "}",
            "Out of memory: Killed process 1 (",
            "CPU: 1 PID: 1 Comm: x Not tainted 6.1 #",
            "NMI backtrace for cpu",
            "_RNvCs1_1a1b+0x1/0x1",
            "[ 1.000000][T1] ",
            " at ",
            ", at: ",
            "UBSAN: ",
            " in ",
            "\u{e4}",
            "====",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        (1usize..3000).prop_map(|n| vec![b'A'; n]),
    ]
}

/// Returns the pieces of a line, its caller, whether it is late, its number, whether it is marked.
fn line() -> impl Strategy<Value = (Vec<Vec<u8>>, u8, bool, u64, bool)> {
    let pieces = prop::collection::vec(piece(), 0..5);
    (pieces, 0u8..4, any::<bool>(), 0u64..200, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No text makes it panic; reports have a bounded size, and titles one line.
    #[test]
    fn any_text_gives_bounded_reports(
        lines in prop::collection::vec(line(), 0..300)
    ) {
        let mut recognizer = Recognizer::default();
        let mut found = Vec::new();
        for (pieces, caller, late, seq, crash) in &lines {
            let text = pieces.concat();
            let callers = [&b"T1"[..], b"C2", b"T333"];
            let caller = callers.get(usize::from(*caller)).copied();
            let (seq, usec) = (Some(*seq), Some(seq * 100_000));
            let (late, crash) = (*late, *crash);
            let line = Line { seq, usec, caller, text: &text, late, crash, ..Line::default() };
            recognizer.push(&line, &mut found);
            if text.len() % 7 == 0 {
                recognizer.gap(u64::MAX);
            }
        }
        recognizer.finish(&mut found);
        prop_assert!(!recognizer.is_open());
        for report in &found {
            prop_assert!(size(report) < 70_000, "{}", size(report));
            prop_assert!(report.lines.len() <= 600 && report.title.len() < 400);
            prop_assert!(!report.title.contains('\n'));
        }
    }
}
