// SPDX-License-Identifier: GPL-2.0

//! Options, and the errors of bad ones.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use crate::harness::{command, Ncrx};

/// Runs it, checks its exit status, and returns its standard output and standard error.
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
        (["--output", "xml:foo"], "'xml:foo'", "./xml:foo"),
        (["--output", "udp://h:514"], "'udp://h:514'", "nc HOST"),
        (["--output", "D/{Host}.log"], "{Host}", "{host}"),
        (["--output", "/tmp/"], "'/tmp/'", "/tmp/{host}.log"),
        (["--best-effort", "xml:foo"], "'xml:foo'", "./xml:foo"),
        (["--metrics", "host"], "'host'", "127.0.0.1:9666"),
        (["--listen", "fe80::1%nowhere"], "`nowhere`", "ip link"),
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
        (
            ["--output", "/dev/null/file"],
            "/dev/null/file",
            "cannot open",
        ),
        (
            ["--output", "/dev/null/{host}.log"],
            "/dev/null",
            "cannot make files there",
        ),
        (["--output", "/tmp"], "/tmp", "Is a directory"),
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
    let mut ncrx = command(["--listen", "127.0.0.1:0", "--state", "/dev/null/x"]);
    ncrx.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
    ncrx.stderr(File::options().append(true).open(file.path()).unwrap());
    assert!(!ncrx.status().unwrap().success());
    let log = std::fs::read_to_string(file.path()).unwrap();
    assert!(log.contains("<3>cannot make --state /dev/null/x"), "{log}");
}

#[test]
fn outputs_that_come_to_the_same_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{}/{name}", dir.path().display());
    let (hosts, state) = (at("hosts"), at("s"));
    std::fs::write(&hosts, "10.0.0.1 web\n10.0.0.2 web.1\n").unwrap();
    std::fs::write(at("c"), "").unwrap();
    std::os::unix::fs::symlink(at("c"), at("link")).unwrap();
    let rotate = ["--rotate", "1M"];
    for (outputs, more, remedy) in [
        (
            [at("a"), format!("json:{}", at("a"))],
            &[][..],
            "its own file",
        ),
        ([at("a"), at("./a")], &[], "its own file"),
        ([at("a"), at("b/../a")], &[], "its own file"),
        ([at("c"), at("link")], &[], "its own file"),
        ([at("10.0.0.2"), at("{host}")], &[], "another name"),
        ([at("{host}.log"), at("::1.log")], &[], "another name"),
        (["-".into(), "json:-".into()], &[], "its own file"),
        ([at("a"), at("a.1")], &rotate, "another name"),
        ([at("a"), at("a.1.part")], &rotate, "a.1.part and "),
        (
            [at("{host}"), at("b")],
            &["--rotate", "1M", "--host-names", &hosts],
            "{host}.log",
        ),
        (
            [at("d/{host}"), at("b")],
            &["--rotate", "1M", "--host-key", "host"],
            "{host}.log",
        ),
        (
            [at("d/{key:rack}"), at("b")],
            &["--keep-age", "1d"],
            "{key:rack}.log",
        ),
        (
            [at("{ip}.log"), format!("json:{}", at("{host}.log"))],
            &[],
            "another name",
        ),
        (
            [format!("json:{}", at("all.log")), at("{host}.log")],
            &["--host-key", "host"],
            "another name",
        ),
        (
            [at("s/{host}"), at("b/b")],
            &["--host-key", "host", "--state", &state],
            "directory of its own",
        ),
    ] {
        std::fs::create_dir_all(at("b")).unwrap();
        let mut args = vec!["--listen", "127.0.0.1:0"];
        outputs
            .iter()
            .for_each(|output| args.extend(["--output", output]));
        args.extend(more);
        let (_, err) = run(&args, 1);
        assert!(err.contains(remedy), "{args:?}: {err}");
        // `--check` reports the same.
        args.push("--check");
        let (_, err) = run(&args, 1);
        assert!(err.contains(remedy), "{args:?}: {err}");
    }
    assert!(!Path::new(&at("a")).exists());
}

#[test]
fn a_check_tells_whether_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{}/{name}", dir.path().display());
    let (hosts, logs, state) = (at("hosts"), at("log/{host}.log"), at("state"));
    std::fs::write(&hosts, "10.0.0.1 web\n").unwrap();
    let good = [
        "--check",
        "--output",
        &logs,
        "--state",
        &state,
        "--expect",
        &hosts,
        "--host-names",
        &hosts,
        "--fsync",
        "ALWAYS",
        "--format",
        "JSON",
        "--metrics",
        "9666",
        "--allow",
        "::ffff:10.0.0.0/104",
    ];
    // The check succeeds while another one runs with the same options.
    let _ncrx = Ncrx::start(&format!("--state {state}"));
    let (out, _) = run(&good, 0);
    assert!(out.contains("can be used"), "{out}");
    let (_, err) = run(&["--check", "--output", dir.path().to_str().unwrap()], 1);
    assert!(err.contains("Is a directory"), "{err}");
    // A program may still be installed, so a start does not ask for it.
    let (_, err) = run(&["--check", "--on-crash", "/no/such/program x"], 1);
    assert!(err.contains("--on-crash /no/such/program"), "{err}");
    std::fs::write(&hosts, "web\n").unwrap();
    let (_, err) = run(&good, 1);
    assert!(err.contains(&hosts) && err.contains("line 1"), "{err}");
}

#[test]
fn a_check_makes_nothing_and_refuses_what_a_start_would() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{}/{name}", dir.path().display());
    let everything = [at("a/{host}/log"), at("b/log"), at("c/state")];
    let [hosts, file, state] = everything.each_ref();
    let args = [
        "--check", "--output", hosts, "--output", file, "--state", state,
    ];
    run(&[&args[..], &["--listen", "127.0.0.1:0"]].concat(), 0);
    let made: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(made.is_empty(), "{made:?}");
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink(at("nowhere/there"), at("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let (in_file, socket, link) = (at("file/x/{host}"), at("socket"), at("link/log"));
    let (of_file, long) = (at("file/state"), at(&"x".repeat(300)));
    let index = at("index");
    for (args, name) in [
        (&["--output", &in_file][..], "file"),
        (&["--output", &socket], "socket"),
        (&["--output", &link], "link"),
        (&["--output", &long], &*long),
        (&["--state", &of_file], "file"),
        (&["--metrics", "192.0.2.1:1"], "192.0.2.1:1"),
        (
            &["--listen", "127.0.0.1:6", "--listen", "127.0.0.1:6"],
            "twice",
        ),
        (
            &["--listen", "127.0.0.1:26667", "--listen", "0.0.0.0:26667"],
            "0.0.0.0:26667",
        ),
        (&["--memory", "1M", "--workers", "200"], "--memory"),
        (&["--host-key", ""], "--host-key"),
        (
            &["--metrics", "26668", "--index", &index, "--web", "26668"],
            "26668",
        ),
    ] {
        // A start reports the same.
        for check in [true, false] {
            let mut args = args.to_vec();
            if !args.contains(&"--listen") {
                args.extend(["--listen", "127.0.0.1:0"]);
            }
            args.extend(check.then_some("--check"));
            let output = command(&args).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            let named =
                err.contains(name) && (!check || name == "--memory" || err.contains(args[1]));
            assert!(!output.status.success() && named, "{args:?}: {err}");
        }
    }
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
        let mut ncrx = command(["--listen", address]);
        let mut child = ncrx.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut next = || log.next().unwrap().unwrap();
        let (said, listens) = (next(), next());
        assert!(
            said.contains("ip address") && said.contains("as soon as"),
            "{said}"
        );
        assert!(listens.contains("listening on "), "{listens}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
