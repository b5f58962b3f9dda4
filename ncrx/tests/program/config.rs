// SPDX-License-Identifier: GPL-2.0

//! `--config`: options from a file.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::{command, until_contains, Ncrx, Sender};

#[test]
fn a_file_has_options_and_the_command_line_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = path("ncrx.toml");
    let text = format!(
        "# Ours.\noutput = ['{}', 'json:{}']\nallow = ['127.0.0.2', '127.0.0.3']\nrotate = '1M'\n",
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
        assert!(line.contains("`rotate`"), "{line}");
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
