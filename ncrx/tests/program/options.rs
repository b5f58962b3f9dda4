// SPDX-License-Identifier: GPL-2.0

//! Options, and what is said if they are wrong.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::harness::{command, Ncrx};

/// What it prints, and what it says before it ends with this status.
fn run(args: &[&str], status: i32) -> (String, String) {
    let output = command(args).stdout(Stdio::piped()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(status), "{args:?}: {err}");
    (out, err)
}

#[test]
fn wrong_values_are_named_with_a_remedy() {
    for (args, value, remedy) in [
        (["--listen", "host"], "'host'", "10.0.0.1:6666"),
        (["--allow", "10.0.0.0/33"], "'10.0.0.0/33'", "10.0.0.0/8"),
        (["--rotate", "much"], "'much'", "100M"),
        (["--silence", "long"], "'long'", "90s"),
        (["--output", "json:"], "'json:'", "standard output"),
        (["--format", "xml"], "'xml'", "export"),
        (["--workers", "0"], "'0'", "1..=256"),
        (["--keep", "1"], "--rotate", "Usage"),
    ] {
        let (_, err) = run(&args, 2);
        assert!(
            err.contains(value) && err.contains(remedy),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn what_cannot_be_opened_is_named_with_a_remedy() {
    let listen = ["--listen", "127.0.0.1:0"];
    for (args, name, remedy) in [
        (["--listen", "192.0.2.1"], "192.0.2.1:6666", "ip address"),
        (
            ["--output", "/dev/null/file"],
            "/dev/null/file",
            "cannot open",
        ),
        (
            ["--state", "/dev/null/state"],
            "/dev/null/state",
            "Not a directory",
        ),
        (
            ["--expect", "/nowhere"],
            "--expect /nowhere",
            "No such file",
        ),
        (
            ["--host-names", "/nowhere"],
            "--host-names /nowhere",
            "No such file",
        ),
        (["--metrics", "192.0.2.1:1"], "192.0.2.1:1", "another port"),
    ] {
        let args = if args[0] == "--listen" {
            args.to_vec()
        } else {
            [listen, args].concat()
        };
        let (_, err) = run(&args, 1);
        assert!(
            err.contains(name) && err.contains(remedy),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn one_address_is_one_programs() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let ncrx = Ncrx::start(&format!("--state {state}"));
    let at = ncrx.at.to_string();
    for workers in ["1", "2"] {
        let (_, err) = run(&["--listen", &at, "--workers", workers], 1);
        assert!(err.contains(&at) && err.contains("ss -ulpn"), "{err}");
    }
    let (_, err) = run(&["--listen", "127.0.0.1:0", "--state", state], 1);
    assert!(err.contains(state) && err.contains("another ncrx"), "{err}");
}

#[test]
fn help_manual_and_completions() {
    let (help, _) = run(&["--help"], 0);
    let (man, _) = run(&["--man"], 0);
    let (bash, _) = run(&["--completions", "bash"], 0);
    for option in ["listen", "output", "state", "metrics", "expect"] {
        assert!(help.contains(&format!("--{option}")));
        assert!(man.contains(&format!("\\-\\-{option}")));
        assert!(bash.contains(&format!("--{option}")));
    }
    assert!(help.contains("Examples:") && man.starts_with(".ie"));
}

#[test]
fn the_journal_gets_levels_as_numbers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let meta = file.as_file().metadata().unwrap();
    let mut ncrx = command(["--listen", "192.0.2.1"]);
    ncrx.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
    ncrx.stderr(File::options().append(true).open(file.path()).unwrap());
    assert!(!ncrx.status().unwrap().success());
    let log = std::fs::read_to_string(file.path()).unwrap();
    assert!(log.starts_with("<3>cannot listen at 192.0.2.1"), "{log}");
}
