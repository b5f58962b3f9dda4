// SPDX-License-Identifier: GPL-2.0

//! A hostile sender's text in every field, and every view of it. (`ncrx top`'s screen and the page
//! in a browser have tests of their own.)

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::crashes::{ask, oops};
use crate::harness::{command, until, Ncrx, Sender};

/// Terminal escapes, HTML, metacharacters of CSV, JSON, SQL, syslog and Prometheus, a change of
/// direction, C1 controls, what ends a line.
const EVIL: &str = "\u{1b}]0;x\u{7}\u{1b}[2J<script>alert(1)</script>\"',;--{}[]=\\\\$(id)`id`%s\
                    \u{202e}\u{9b}31m\u{2028}\r";

/// As a kernel's log has it: printk escapes controls, and netconsole's headers have no `;`.
fn logged(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_ascii_control() => format!("\\x{:02x}", c as u32),
        c => c.into(),
    };
    text.chars().map(escape).collect()
}

/// The text that no view may show as it is.
#[track_caller]
fn assert_harmless(view: &str, text: &str) {
    let evil = |c: char| c.is_control() && !"\n\t".contains(c) || "\u{202e}\u{2028}".contains(c);
    let found = text.lines().find(|line| line.contains(evil));
    assert_eq!(found, None, "{view}");
}

#[track_caller]
fn assert_json(view: &str, text: &str) {
    assert_harmless(view, text);
    assert!(!text.is_empty(), "{view}");
    for line in text.lines() {
        let value: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(value.is_ok_and(|value| value.is_object()), "{view}: {line}");
    }
}

/// Each line is a comment or a metric with a number.
#[track_caller]
fn assert_metrics(page: &str) {
    assert_harmless("metrics", &page.replace('\r', ""));
    let (_, page) = page.split_once("\r\n\r\n").unwrap();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (metric, value) = line.rsplit_once(' ').unwrap();
        assert!(
            metric.starts_with(|c: char| c.is_ascii_lowercase()),
            "{line}"
        );
        let number = value.parse::<f64>().is_ok() || value == "NaN";
        assert!(number, "{line}");
    }
}

fn read(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

#[test]
fn nothing_that_a_sender_says_does_harm_in_any_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let index = path("index");
    let args = format!(
        "--index {index} --web 127.0.0.1:0 --metrics 127.0.0.1:0 --metrics-per-host --host-key host \
         --output {} --output json:{} --output syslog:{} --output export:{}",
        path("{host}.log"),
        path("all.json"),
        path("all.syslog"),
        path("all.export"),
    );
    let mut ncrx = Ncrx::run(command(["--listen", "127.0.0.1:0"]).args(args.split_whitespace()));
    let place = |ncrx: &Ncrx, what: &str| {
        let line = ncrx.wait_log(what);
        let at = line.split("//").nth(1).unwrap().split('/').next().unwrap();
        at.parse().unwrap()
    };
    let metrics = place(&ncrx, "metrics are at");
    let _page: std::net::SocketAddr = place(&ncrx, "the page is at");

    send_hostile(&ncrx);
    let host = views_of_the_index_are_harmless(&index);
    assert_metrics(&ncrx.scrape(metrics));
    assert!(ncrx.stop().success());

    files_are_harmless(dir.path());
    // Files are read as they are, without an index.
    let all = path("all.json");
    let tail = command(["show", &host, "--from", &all])
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .output();
    assert_harmless(
        "show --from",
        &String::from_utf8(tail.unwrap().stdout).unwrap(),
    );
}

/// Sends an oops with hostile text in each field, and a datagram that is none.
fn send_hostile(ncrx: &Ncrx) {
    let evil = logged(EVIL);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    let mut lines = oops(&format!("foo_bar{}", evil.replace(['+', '/'], "")), 7);
    lines[0] = format!("{evil} {}", "\\x1b[31mlong".repeat(60));
    lines[4] = format!("Hardware name: {evil}");
    let session = sender.session;
    // The keys of a header end at a comma.
    let key = evil.replace([',', ';', '='], "");
    for (seq, text) in lines.iter().enumerate() {
        let header = format!("7.3{key},4,{seq},{seq},-,caller=T7,odd={key},ncs={session:016x}");
        let user = format!(" host={}\n {key}={evil}\n", evil.get(..60).unwrap_or(&evil));
        sender.send_raw(&format!("{header};{text}\n{user}"));
    }
    let last = lines.len() as u64 - 1;
    sender.settle(last, last);
    // Of any kind.
    sender.send_bytes(&[EVIL.as_bytes(), b"\xff\xc3\0"].concat());
}

/// Asserts that the commands which read the index show harmless text; returns the host's name.
fn views_of_the_index_are_harmless(index: &str) -> String {
    let crashes = || ask(&["crashes", "--json", "--index", index]);
    until("the crash is indexed", || {
        (!crashes().is_empty()).then_some(())
    });
    let id = {
        let bug: serde_json::Value =
            serde_json::from_str(crashes().lines().next().unwrap()).unwrap();
        bug["last_id"].to_string()
    };
    let hosts = || ask(&["hosts", "--json", "--index", index]);
    let host = until("the host is indexed", || {
        let all = hosts();
        let host: serde_json::Value = serde_json::from_str(all.lines().next()?).unwrap();
        Some(host["host"].as_str().unwrap().to_owned())
    });
    for view in [
        vec!["crashes"],
        vec!["crash", &id],
        vec!["hosts"],
        vec!["show", &host],
    ] {
        let text = ask(&[&view[..], &["--index", index]].concat());
        assert_harmless(&view.join(" "), &text);
        // A title has names of functions only.
        let escaped = ["\\x1b", "\\x5cx1b"]
            .iter()
            .any(|escape| text.contains(escape));
        let escaped = escaped || view[0] == "crashes";
        assert!(escaped, "{view:?}: {text}");
    }
    assert_json("crashes --json", &crashes());
    assert_json("hosts --json", &hosts());
    assert_json(
        "crash --json",
        &ask(&["crash", &id, "--json", "--index", index]),
    );
    host
}

/// Asserts that the files of each format, and their names, are harmless.
fn files_are_harmless(dir: &Path) {
    assert_json("json", &read(&dir.join("all.json")));
    let syslog = read(&dir.join("all.syslog"));
    assert_harmless("syslog", &syslog.replace('\u{feff}', ""));
    let mut logs = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_harmless("a file's name", &name.replace(['\u{202e}', '\u{2028}'], ""));
        if name.ends_with(".log") {
            assert_harmless(&name, &read(&path));
            logs += 1;
        }
    }
    assert!(logs > 0);
    // Every line of the journal's format is a field or a part of one; journalctl has read such.
    let export = fs::read(dir.join("all.export")).unwrap();
    assert!(export.ends_with(b"\n\n"));
}
