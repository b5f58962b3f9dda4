// SPDX-License-Identifier: GPL-2.0

//! Life cycle: signals, files that come and go, addresses.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::{command, numbers, until, until_contains, Ncrx, Sender};

#[test]
fn sigterm_writes_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let mut ncrx = Ncrx::start(&format!("--no-history --output {}", file.display()));
    let sender = Sender::new(ncrx.at);
    sender.send(1);
    sender.send(3);
    until_contains(&file, "text 1\n");
    assert!(ncrx.stop().success());
    assert_eq!(numbers(&file), [1, 3]);
}

#[test]
fn what_waited_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    for (nth, key) in ["", ",ncs=0000000000000001"].into_iter().enumerate() {
        let (file, state) = (dir.path().join(format!("{nth}")), dir.path().join("state"));
        let args = format!(
            "--no-history --output {} --state {}",
            file.display(),
            state.display()
        );
        let mut ncrx = Ncrx::start(&args);
        let (at, sender) = (ncrx.at, Sender::new(ncrx.at));
        let send = |seq| sender.send_raw(&format!("6,{seq},{seq}000,-{key};text {seq}\n"));
        [1, 2, 4, 5, 7].into_iter().for_each(send);
        until_contains(&file, "text 2\n");
        assert!(ncrx.stop().success());
        assert_eq!(numbers(&file), [1, 2, 4, 5, 7]);
        // Nothing after 2 was acknowledged: the sender still has it, and sends it again.
        ncrx = Ncrx::start_at(&at.to_string(), &args);
        (2..=8).for_each(send);
        until_contains(&file, "text 8\n");
        assert!(ncrx.stop().success());
        assert_eq!(numbers(&file), [1, 2, 4, 5, 7, 3, 6, 8], "{key:?}");
    }
}

#[test]
fn sighup_opens_files_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("127.0.0.1.log");
    let old = dir.path().join("old");
    let mut ncrx = Ncrx::start(&format!("--output {}/{{host}}.log", dir.path().display()));
    let sender = Sender::new(ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    std::fs::rename(&file, &old).unwrap();
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_log("opened anew");
    sender.send(2);
    sender.settle(2, 2);
    assert!(ncrx.stop().success());
    assert_eq!((numbers(&old), numbers(&file)), (vec![0, 1], vec![2]));
}

#[test]
fn closed_standard_output_ends_it_with_a_word() {
    let mut ncrx = Ncrx::run(command(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()));
    drop(ncrx.child.stdout.take());
    let sender = Sender::new(ncrx.at);
    let mut numbers = 0..;
    // A process that another test is just starting may have the other end for a moment, and the
    // first record goes there.
    let status = until("ncrx ends", || {
        sender.send(numbers.next()?);
        ncrx.child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(1));
    let log = ncrx.rest_of_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("standard output is closed"), "{log:?}");
}

/// Without a standard output all records would be lost without a message.
#[test]
fn no_standard_output_is_an_error_at_once() {
    for (to, closed) in [(">&-", true), ("1<>/dev/null", true), (">/dev/null", false)] {
        for check in ["--check", ""] {
            let program = env!("CARGO_BIN_EXE_ncrx");
            let script = format!("exec timeout 1 {program} --listen 127.0.0.1:0 {check} {to}");
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(script)
                .output();
            let output = output.unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            let success = output.status.success() || output.status.code() == Some(124);
            assert_eq!(success, !closed, "{to} {check}: {err}");
            assert_eq!(err.contains("standard output is closed"), closed, "{err}");
            assert_eq!(err.contains("--output"), closed, "{err}");
        }
    }
}

#[test]
fn closed_standard_error_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    // Its log is closed from the first line on.
    let mut ncrx = command(["-vv", "--listen", "127.0.0.1:0", "--output"]);
    let mut child = ncrx.arg(&file).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    until("it has opened its output", || file.exists().then_some(()));
    // It handles signals before it opens files.
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let status = until("it ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn answers_come_from_the_address_that_was_written_to() {
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let ncrx = Ncrx::start_at(everywhere, "--workers 2");
        for (from, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "127.0.0.2"),
            ("[::1]:0", "::1"),
        ] {
            if to == "::1" && ncrx.at.is_ipv4() {
                continue;
            }
            let sender = Sender::bound(
                from,
                (to.parse::<std::net::IpAddr>().unwrap(), ncrx.at.port()).into(),
            );
            sender.send(1);
            sender.settle(1, 1);
        }
    }
}

#[test]
fn ipv4_senders_have_ipv4_addresses_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let (file, hosts) = (dir.path().join("log"), dir.path().join("hosts"));
    std::fs::write(&hosts, "127.0.0.3 three three.example # a comment\n\n").unwrap();
    let args = format!(
        "--host-names {} --output {}",
        hosts.display(),
        file.display()
    );
    let mut ncrx = Ncrx::start_at("[::]:0", &args);
    let to = ([127, 0, 0, 1], ncrx.at.port()).into();
    for from in ["127.0.0.2:0", "127.0.0.3:0"] {
        let sender = Sender::bound(from, to);
        sender.send(1);
        sender.settle(1, 1);
    }
    assert!(ncrx.stop().success());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("127.0.0.2") && text.contains("three"),
        "{text}"
    );
    assert!(
        !text.contains("::ffff") && !text.contains("127.0.0.3"),
        "{text}"
    );
}

#[test]
fn outputs_have_formats_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (text, json) = (dir.path().join("text"), dir.path().join("json"));
    let args = format!(
        "--output {} --output json:{}",
        text.display(),
        json.display()
    );
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    assert!(ncrx.stop().success());
    assert_eq!(numbers(&text), [0, 1]);
    let lines = std::fs::read_to_string(&json).unwrap();
    let parsed = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(
        parsed
            .filter(|value| value.to_string().contains("\"text 1\""))
            .count(),
        1,
        "{lines}"
    );
}
