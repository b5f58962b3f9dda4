// SPDX-License-Identifier: GPL-2.0

//! Texts that could do harm, and times.

use serde_json::Value;

use crate::harness::{until_contains, Ncrx, Sender};

/// Text that a sender may send with printk's escapes; what is shown of it; and as JSON has it.
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
