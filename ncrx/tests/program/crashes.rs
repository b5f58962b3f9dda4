// SPDX-License-Identifier: GPL-2.0

//! Crashes of hosts in the index, and the commands that read it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{command, until, until_contains, Ncrx, Sender};

/// Returns the lines of an oops in this function, by this task.
pub fn oops(function: &str, task: u32) -> Vec<String> {
    [
        "frob: it goes well".to_owned(),
        format!(
            "BUG: kernel NULL pointer dereference, address: 00000000000000{:02x}",
            task % 200
        ),
        "Oops: Oops: 0002 [#1] SMP NOPTI".to_owned(),
        format!(
            "CPU: {} UID: 0 PID: {task} Comm: cat Not tainted 7.3.4 #1",
            task % 7
        ),
        "Hardware name: A machine \x1b[31m".replace('\x1b', "\\x1b"),
        format!("RIP: 0010:{function}+0x{:x}/0x400 [frob]", task % 300 + 1),
        "Call Trace:".to_owned(),
        format!(" frob_ioctl+0x{:x}/0x80 [frob]", task % 90 + 1),
        "---[ end trace 0000000000000000 ]---".to_owned(),
    ]
    .into()
}

pub fn send(sender: &Sender, lines: &[String], task: u32) {
    for (seq, text) in lines.iter().enumerate() {
        let (usec, session) = (1_000_000 + seq, sender.session);
        let caller = format!("caller=T{task},ncs={session:016x}");
        sender.send_raw(&format!("4,{seq},{usec},-,{caller};{text}\n"));
    }
    let last = lines.len() as u64 - 1;
    sender.settle(last, last);
}

/// Returns the output of a command.
#[track_caller]
pub fn ask(args: &[&str]) -> String {
    let output = command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text:?}");
    text
}

/// Returns the output of `ncrx crashes`, without its head: titles with their counts and hosts.
#[track_caller]
fn crashes(index: &str) -> Vec<(String, String)> {
    let text = ask(&["crashes", "--index", index]);
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words[..2].join(" "), words[6..].join(" "))
    };
    let mut all: Vec<_> = text.lines().skip(1).map(line).collect();
    all.sort();
    all
}

/// Three hosts that crash, two of them of one bug, while a receiver keeps an index, files and JSON.
struct ThreeHosts {
    dir: tempfile::TempDir,
}

impl ThreeHosts {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn index(&self) -> String {
        self.path("index")
    }

    /// Returns the lines that `ncrx crashes` should print.
    fn wanted() -> [(String, String); 2] {
        let of = |counts: &str, function: &str| {
            let title = "BUG: unable to handle kernel NULL pointer dereference in";
            (counts.to_owned(), format!("{title} {function}"))
        };
        [of("1 1", "bar"), of("2 2", "foo_one")]
    }

    fn run() -> Self {
        let this = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let (index, json) = (this.index(), this.path("all.json"));
        let logs = this.path("logs/{host}.log");
        let args = format!("--index {index} --output {logs} --output json:{json}");
        let mut ncrx =
            Ncrx::run(command(["--listen", "127.0.0.1:0"]).args(args.split_whitespace()));
        let hosts = [
            ("127.0.0.2", "foo_one", 17),
            ("127.0.0.3", "foo_one", 99),
            ("127.0.0.4", "bar", 17),
        ];
        let senders = hosts.map(|(address, function, task)| {
            let sender = Sender::bound(&format!("{address}:0"), ncrx.at);
            send(&sender, &oops(function, task), task);
            sender
        });
        // The crashes are reported although no further record comes.
        until_contains(Path::new(&json), "\"event\":\"crashed\"");
        until("the index has all", || {
            (crashes(&index) == Self::wanted()).then_some(())
        });
        drop(senders);
        assert!(ncrx.stop().success());
        this
    }

    /// Returns the output of a command that reads the index.
    #[track_caller]
    fn ask(&self, command: &[&str]) -> String {
        ask(&[command, &["--index", &self.index()]].concat())
    }
}

#[test]
fn three_hosts_with_two_bugs_are_two_lines() {
    let hosts = ThreeHosts::run();
    let text = std::fs::read_to_string(hosts.path("all.json")).unwrap();
    assert_eq!(text.matches("\"event\":\"crashed\"").count(), 3);
    let found = hosts.ask(&["crashes", "--json", "--host", "127.0.0.3"]);
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(
        (found["kind"].as_str(), found["count"].as_u64()),
        (Some("oops"), Some(1))
    );
    let crash = hosts.ask(&["crash", found["signature"].as_str().unwrap()]);
    for part in [
        "frob: it goes well",
        "RIP: 0010:foo_one",
        "7.3.4",
        "A machine \\x1b[31m",
    ] {
        assert!(crash.contains(part), "{part}: {crash}");
    }
    let text = hosts.ask(&["hosts"]);
    assert!(text.contains("127.0.0.4  "), "{text}");
}

#[test]
fn hosts_that_are_heard_last_are_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index").display().to_string();
    let hosts = || ask(&["hosts", "--index", &index]);
    let mut ncrx = Ncrx::start(&format!("--index {index}"));
    let first = Sender::bound("127.0.0.2:0", ncrx.at);
    first.send(0);
    // The index is there before anything is received.
    first.settle(0, 0);
    until("the index has the first", || {
        hosts().contains("127.0.0.2  ").then_some(())
    });
    let last = Sender::bound("127.0.0.3:0", ncrx.at);
    let session = last.session;
    let line = "Linux version 6.12.48+deb13-amd64 (a compiler) #1 SMP";
    last.send_raw(&format!("5,0,0,-,ncs={session:016x};{line}\n"));
    last.settle(0, 0);
    assert!(ncrx.stop().success());
    let text = hosts();
    let line = text.lines().find(|line| line.starts_with("127.0.0.3  "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    // The kernel's first line tells its release.
    assert!(line.contains(" 6.12.48+deb13-amd64 "), "{line}");
}

#[test]
fn the_lines_of_a_host_are_shown_filtered() {
    let hosts = ThreeHosts::run();
    let show = |filter: &[&str]| hosts.ask(&[&["show", "127.0.0.2"], filter].concat());
    assert_eq!(show(&["--grep", "goes WELL|rip:"]).lines().count(), 0);
    let text = show(&["--grep", "goes well|rip:", "--boot"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    let text = show(&["--level", "4", "-n", "1"]);
    assert!(
        text.contains("[    1.000008] [   T17] ---[ end trace"),
        "{text}"
    );
}

#[test]
fn an_index_of_the_files_alone_says_the_same() {
    let hosts = ThreeHosts::run();
    let other = hosts.path("other");
    let logs = [2, 3, 4].map(|n| hosts.path(&format!("logs/127.0.0.{n}.log")));
    let rebuild = ["index", "--index", &other, "--rebuild"];
    let said = ask(&[&rebuild[..], &logs.each_ref().map(String::as_str)].concat());
    assert_eq!(said, "3 files, 3 hosts, 3 crashes.\n");
    assert_eq!(crashes(&other), ThreeHosts::wanted());
    ask(&[&rebuild[..], &[&hosts.path("all.json")]].concat());
    assert_eq!(crashes(&other), ThreeHosts::wanted());
}

#[test]
fn an_index_that_cannot_be_written_withholds_no_acks() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let json = dir.path().join("all.json").display().to_string();
    let args = format!("--index {} --output json:{json}", index.display());
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(0);
    sender.settle(0, 0);
    // Another process has the index locked.
    let db = rusqlite::Connection::open(index.join("index.sqlite")).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let other = Sender::bound("127.0.0.3:0", ncrx.at);
    send(&other, &oops("foo", 7), 7);
    until_contains(Path::new(&json), "\"event\":\"crashed\"");
    db.execute_batch("ROLLBACK").unwrap();
    ncrx.signal(Signal::SIGTERM);
    assert!(ncrx.wait().success());
}

#[test]
fn tail_shows_what_comes_on_all_hosts() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index").display().to_string();
    let logs = dir.path().join("{host}.log").display().to_string();
    let ncrx = Ncrx::start(&format!("--index {index} --output {logs}"));
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(0);
    until_contains(&dir.path().join("127.0.0.2.log"), "text 0");
    let mut tail = command(["tail", "--index", &index]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // `ncrx tail` may not have found the files' ends yet, so records are sent until it shows one.
    let mut seq = 0;
    let other = Sender::bound("127.0.0.3:0", ncrx.at);
    let (to, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.try_for_each(|line| to.send(line.unwrap())));
    let mut both = Vec::new();
    until("both are shown", || {
        other.send(seq);
        seq += 1;
        sender.send(seq);
        both.extend(seen.try_iter());
        let of = |host: &str| both.iter().any(|line: &String| line.contains(host));
        (of(" 127.0.0.2 [") && of(" 127.0.0.3 [")).then_some(())
    });
    // The file of the other may have begun since.
    let former = |line: &String| line.contains(" 127.0.0.2 [") && line.ends_with("text 0");
    assert!(!both.iter().any(former), "{both:?}");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn a_program_is_run_for_each_crash() {
    let dir = tempfile::tempdir().unwrap();
    // A shell would turn this name into another.
    let got = dir.path().join("a $(id) crash");
    let mut program = command(["--listen", "127.0.0.1:0"]);
    program
        .arg("--on-crash")
        .arg(format!("tee -a '{}'", got.display()));
    let ncrx = Ncrx::run(&mut program);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    send(&sender, &oops("foo", 7), 7);
    let line = until("the program was run", || {
        let text = std::fs::read_to_string(&got).ok()?;
        text.ends_with('\n').then_some(text)
    });
    let report: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(report["host"], "127.0.0.2");
    assert_eq!(report["before"][0]["text"], "frob: it goes well");
    assert_eq!(report["lines"].as_array().unwrap().len(), 8);
    assert_eq!(report["complete"], true);
}

#[test]
fn commands_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (index, made, foreign) = (path("none"), path("made"), path("dpkg.log"));
    let (log, directory) = (path("a.log"), dir.path().display().to_string());
    std::fs::write(&log, "a [    1.000000] x\n").unwrap();
    ask(&["index", "--index", &made, "--rebuild", &log]);
    std::fs::write(&foreign, "2026-11-30 08:00:00 status installed x\n").unwrap();
    for (args, remedy) in [
        (vec!["crashes", "--index", &index], "--index DIR"),
        (vec!["show", "web1", "--index", &index], "--from FILE"),
        (vec!["crashes", "--since", "soon"], "2026-11-30"),
        (vec!["crash", "862", "--index", &made], "4 digits"),
        (
            vec!["index", "--index", &made, "--rebuild", &foreign],
            &foreign,
        ),
        (
            vec!["index", "--index", &made, "--rebuild", &directory],
            &directory,
        ),
        (vec!["show", "a", "--from", &directory], &directory),
        (vec!["crashes", "--kind", "ooops"], "oops"),
        (vec!["--output", "-", "crashes"], "cannot be used with"),
    ] {
        let output = command(&args).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains(remedy),
            "{args:?}: {error}"
        );
    }
}
