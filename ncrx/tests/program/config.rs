// SPDX-License-Identifier: GPL-2.0

//! `--config`: options from a file.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::crashes::{oops, send};
use crate::harness::{command, until, until_contains, Ncrx, Sender};

#[test]
fn a_file_has_options_and_the_command_line_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = path("ncrx.toml");
    let text = format!(
        "# Ours.\noutput = ['{}', 'json:{}']\nallow = ['127.0.0.2', '127.0.0.3']\nqueue = '1M'\n",
        path("a.log").display(),
        path("b.json").display()
    );
    std::fs::write(&config, &text).unwrap();
    let args = format!("--config {}", config.display());
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(0);
    until_contains(&path("a.log"), "text 0");
    until_contains(&path("b.json"), "text 0");

    // It is read again; what cannot be used changes nothing.
    std::fs::write(&config, text.replace("127.0.0.3", "127.0.0.300")).unwrap();
    ncrx.signal(Signal::SIGHUP);
    let line = ncrx.wait_log("Nothing changes");
    assert!(
        line.contains("ncrx.toml:3: allow: ") && line.contains("127.0.0.300"),
        "{line}"
    );
    let changed = text.replace("127.0.0.3", "127.0.0.4").replace("1M", "2M");
    std::fs::write(&config, &changed).unwrap();
    // It is not as it was started with, however often that is said.
    for _ in 0..2 {
        ncrx.signal(Signal::SIGHUP);
        let line = ncrx.wait_log("started anew");
        assert!(line.contains("`queue`"), "{line}");
        ncrx.wait_log("files are opened anew");
    }
    let other = Sender::bound("127.0.0.4:0", ncrx.at);
    other.send(0);
    until_contains(&path("a.log"), "127.0.0.4 [");
    Sender::bound("127.0.0.3:0", ncrx.at).send(0);
    ncrx.wait_log("127.0.0.3 is not in a network");
    let kept = text.lines().filter(|line| !line.starts_with("allow"));
    let open = kept.collect::<Vec<_>>().join("\n");
    std::fs::write(&config, open).unwrap();
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_log("--allow is gone");
    assert!(ncrx.stop().success());
    std::fs::write(&config, text).unwrap();

    let args = format!(
        "--output {} --config {}",
        path("c.log").display(),
        config.display()
    );
    let ncrx = Ncrx::start(&args);
    Sender::bound("127.0.0.2:0", ncrx.at).send(0);
    until_contains(&path("c.log"), "text 0");
    let a = std::fs::read_to_string(path("a.log")).unwrap();
    assert_eq!(a.matches("127.0.0.2 [").count(), 1, "{a}");
}

/// Writes a file of options with outputs of these formats, all records at `place` and some at
/// `urgent`, and more options.
fn write_outputs(dir: &Path, formats: [&str; 2], place: &str, more: &str) {
    let (all, urgent) = (dir.join(place), dir.join("urgent"));
    let [one, two] = formats;
    let (all, urgent) = (all.display(), urgent.display());
    let text = format!("output = ['{one}:{all}', '{two}:{urgent}']\n{more}\n");
    std::fs::write(dir.join("ncrx.toml"), text).unwrap();
}

fn start_with_outputs(dir: &Path) -> Ncrx {
    let (index, config) = (dir.join("index"), dir.join("ncrx.toml"));
    let (index, config) = (index.display(), config.display());
    Ncrx::start(&format!("--index {index} --config {config}"))
}

/// All that can change while ncrx runs changes; the rest is named.
#[test]
fn what_can_change_does_when_the_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write_outputs(dir.path(), ["json", "level=err"], "all", "");
    let mut ncrx = start_with_outputs(dir.path());
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(0);
    sender.settle(0, 0);
    write_outputs(dir.path(), ["text", "json,level=info"], "all", "");
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_log("files are opened anew");
    sender.send(1);
    sender.settle(1, 1);
    let lines = std::fs::read_to_string(path("all")).unwrap();
    let lines: Vec<_> = lines
        .lines()
        .filter(|line| line.contains("text "))
        .collect();
    assert!(
        lines[0].starts_with('{') && lines[1].ends_with("] text 1"),
        "{lines:?}"
    );
    let urgent = std::fs::read_to_string(path("urgent")).unwrap();
    assert!(
        !urgent.contains("text 0") && urgent.contains("\"text\":\"text 1\""),
        "{urgent}"
    );

    // The places of outputs do not change, and nothing of them then.
    let outputs = ["json", "level=err"];
    write_outputs(dir.path(), outputs, "elsewhere", "host-rate = 40");
    ncrx.signal(Signal::SIGHUP);
    let line = ncrx.wait_log("started anew");
    assert!(line.contains("`output`"), "{line}");
    ncrx.wait_log("files are opened anew");
    assert!(ncrx.stop().success());
    assert!(!path("elsewhere").exists());
}

#[test]
fn limits_old_files_and_the_program_for_crashes_change_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let outputs = ["json", "json,level=info"];
    write_outputs(dir.path(), outputs, "all", "");
    let ncrx = start_with_outputs(dir.path());
    let seen = path("crash");
    let more = format!(
        "rotate = '1K'\ncompress = true\nhost-rate = 40\non-crash = 'tee {}'",
        seen.display()
    );
    write_outputs(dir.path(), outputs, "all", &more);
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_log("files are opened anew");
    let other = Sender::bound("127.0.0.3:0", ncrx.at);
    (0..=200).for_each(|seq| other.send(seq));
    other.settle(200, 200);
    until("some is dropped", || {
        let text = std::fs::read_to_string(path("urgent")).unwrap();
        text.contains("\"why\":\"rate\"").then_some(())
    });
    let crashed = Sender::bound("127.0.0.4:0", ncrx.at);
    // With what comes behind it, so that its end is not waited for.
    let after = vec!["frob: all goes on".to_owned(); 6];
    send(&crashed, &[oops("foo", 7), after].concat(), 7);
    until("the program is run", || seen.exists().then_some(()));
    until("an old file is compressed", || {
        path("all.1.zst").exists().then_some(())
    });
}

#[test]
fn a_program_that_is_not_there_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = path("ncrx.toml");
    let seen = path("crash");
    let tee = format!("on-crash = 'tee {}'\n", seen.display());
    std::fs::write(&config, &tee).unwrap();
    let ncrx = Ncrx::start(&format!("--config {}", config.display()));
    let missing = "on-crash = '/no/such/program x'\nallow = '127.0.0.2'\n";
    std::fs::write(&config, missing).unwrap();
    ncrx.signal(Signal::SIGHUP);
    let line = ncrx.wait_log("Nothing changes");
    assert!(line.contains("--on-crash /no/such/program: "), "{line}");
    let crashed = Sender::bound("127.0.0.4:0", ncrx.at);
    let after = vec!["frob: all goes on".to_owned(); 6];
    send(&crashed, &[oops("foo", 7), after].concat(), 7);
    until("the former program is run", || seen.exists().then_some(()));
    drop(ncrx);

    // It may still be installed: a start only says so.
    std::fs::write(&config, missing).unwrap();
    let mut start = command(["--listen", "127.0.0.1:0", "--config"]);
    let mut child = start.arg(&config).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = log.map_while(Result::ok);
    assert!(log.any(|line| line.contains("--on-crash /no/such/program: ")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("ncrx.toml");
    for (text, wanted) in [
        ("keep = 3\nrotat = '1M'\n", Some("ncrx.toml:2: rotat: ")),
        ("rotate = 'much'\n", Some("ncrx.toml:1: rotate: ")),
        ("keep = 3\n", Some("ncrx.toml:1: keep: ")),
        ("quiet = false\nweb = 9667\n", Some("ncrx.toml:2: web: ")),
        ("output = ['/x', '/x']\n", Some("two outputs are /x")),
        (
            "keep = 3\nrotate = '1M'\nlisten = 'localhost:0'",
            Some(":3: listen: "),
        ),
        ("keep = 3\nrotate = '1M'\nlisten = '127.0.0.1:0'", None),
    ] {
        std::fs::write(&config, text).unwrap();
        let mut check = command(["--check", "--output", "-", "--config"]);
        if text.starts_with("output") {
            check = command(["--check", "--config"]);
        }
        let check = check.arg(&config).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&check.stderr);
        let code = if wanted.is_none() { 0 } else { 2 };
        assert_eq!(check.status.code(), Some(code), "{text}: {error}");
        assert!(
            error.contains(wanted.unwrap_or_default()),
            "{text}: {error}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_line_is_not_blamed_on_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("ncrx.toml");
    std::fs::write(&config, "output = ['-']\n").unwrap();
    for (option, wanted) in [("--bogus", "--bogus"), ("--keep=much", "--keep")] {
        let mut check = command(["--check", option, "--config"]);
        let check = check.arg(&config).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.code(), Some(2), "{option}: {error}");
        assert!(
            error.contains(wanted) && !error.contains("ncrx.toml"),
            "{error}"
        );
    }
}
