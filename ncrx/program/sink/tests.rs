// SPDX-License-Identifier: GPL-2.0

use std::fs;
use std::io::{ErrorKind, Read};
use std::process::Command;
use std::sync::Arc;

use nix::sys::resource::{getrlimit, setrlimit, Resource};
use tempfile::TempDir;

use super::hosts::Hosts;
use super::*;

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn one(path: &Path) -> Sink {
    Sink::open(Target::File(path.into()), Fsync::Always, None, 0).unwrap()
}

fn per_host(directory: &TempDir, template: &str) -> Sink {
    let template = format!("{}/{template}", directory.path().display());
    Sink::open(Target::PerHost(template), Fsync::Always, None, 0).unwrap()
}

/// Writes it, and all of it at once.
fn put(writer: &mut Writer, host: &str, text: &str) {
    writer.write(host, text.as_bytes());
    writer.commit().unwrap();
    assert_eq!(writer.pending(), 0);
}

#[test]
fn a_file_is_appended_to() {
    let dir = directory();
    let path = dir.path().join("a/b/log");
    put(&mut one(&path).writer(), "h", "one\n");
    let sink = one(&path);
    let (mut first, mut second) = (sink.writer(), sink.writer());
    first.write("h", b"two\n");
    first.write("i", b"three\n");
    assert_eq!((first.pending(), read(&path).as_str()), (10, "one\n"));
    put(&mut second, "j", "four\n");
    first.commit().unwrap();
    assert_eq!(read(&path), "one\nfour\ntwo\nthree\n");
}

#[test]
fn nothing_is_glued_to_a_torn_line() {
    let dir = directory();
    let path = dir.path().join("log");
    for (torn, expected) in [
        ("half", "half\nnew\n"),
        ("whole\n", "whole\nnew\n"),
        ("", "new\n"),
    ] {
        fs::write(&path, torn).unwrap();
        put(&mut one(&path).writer(), "h", "new\n");
        assert_eq!(read(&path), expected);
        fs::write(&path, torn).unwrap();
        put(&mut per_host(&dir, "{host}").writer(), "log", "new\n");
        assert_eq!(read(&path), expected);
    }
}

#[test]
fn a_torn_entry_is_moved_aside() {
    let dir = directory();
    let path = dir.path().join("log");
    let old = |n: u32| dir.path().join(format!("log.{n}"));
    let open = || {
        Sink::open_ending(
            Target::File(path.clone()),
            Fsync::Always,
            None,
            0,
            Ending::BlankLine,
        )
    };
    fs::write(&path, "A=whole\n\n").unwrap();
    put(&mut open().unwrap().writer(), "h", "B=new\n\n");
    assert_eq!(
        (read(&path).as_str(), old(1).exists()),
        ("A=whole\n\nB=new\n\n", false)
    );
    // Nothing of it is removed, even though no old files are to be kept.
    for (n, torn) in ["A=whole\n\nB=half", "A=1\n", "A"].iter().enumerate() {
        fs::write(&path, torn).unwrap();
        put(&mut open().unwrap().writer(), "h", "B=new\n\n");
        assert_eq!(
            (read(&path).as_str(), read(old(1)).as_str()),
            ("B=new\n\n", *torn),
            "{n}"
        );
    }
    assert_eq!(read(old(3)), "A=whole\n\nB=half");
}

#[test]
fn hosts_have_their_files() {
    let dir = directory();
    let mut writer = per_host(&dir, "{host}/log-{host}").writer();
    for (host, name) in [
        ("10.0.0.2", "10.0.0.2"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("..", "_."),
        ("../../etc/x", "_._.._etc_x"),
        ("a\0b\n", "a_b_"),
        ("", "_"),
    ] {
        put(&mut writer, host, "x\n");
        let path = dir.path().join(format!("{name}/log-{name}"));
        assert_eq!(read(path), "x\n", "{host:?}");
    }
    put(&mut writer, &"\u{e4}".repeat(300), "x\n");
    let error = Sink::open(Target::PerHost("/tmp/log".into()), Fsync::Never, None, 0)
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_file_that_is_too_long_is_rotated() {
    let dir = directory();
    let path = dir.path().join("log");
    let old = |n: u32| dir.path().join(format!("log.{n}"));
    fs::write(&path, "1\n").unwrap();
    let sink = Sink::open(Target::File(path.clone()), Fsync::Never, Some(4), 2).unwrap();
    let mut writer = sink.writer();
    put(&mut writer, "h", "2\n");
    assert_eq!(read(&path), "1\n2\n");
    put(&mut writer, "h", "3\n");
    assert_eq!((read(&path), read(old(1))), ("3\n".into(), "1\n2\n".into()));
    // Longer than is allowed, but not torn.
    put(&mut writer, "h", "4444444\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("4444444\n".into(), "3\n".into(), "1\n2\n".into())
    );
    put(&mut writer, "h", "5\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("5\n".into(), "4444444\n".into(), "3\n".into())
    );
    assert!(!old(3).exists());
    // As after a rotation that got stuck: what is there need not move.
    fs::remove_file(old(1)).unwrap();
    put(&mut writer, "h", "6666\n");
    assert_eq!(
        (read(&path), read(old(1)), read(old(2))),
        ("6666\n".into(), "5\n".into(), "3\n".into())
    );

    let sink = Sink::open(Target::File(path.clone()), Fsync::Never, Some(4), 0).unwrap();
    put(&mut sink.writer(), "h", "7\n");
    assert_eq!((read(&path), read(old(1))), ("7\n".into(), "5\n".into()));
}

#[test]
fn files_are_opened_anew() {
    let dir = directory();
    let path = dir.path().join("log");
    let moved = dir.path().join("moved");
    let sink = one(&path);
    let mut writer = sink.writer();
    put(&mut writer, "h", "1\n");
    fs::rename(&path, &moved).unwrap();
    put(&mut writer, "h", "2\n");
    sink.reopen();
    put(&mut writer, "h", "3\n");
    put(&mut writer, "h", "4\n");
    assert_eq!(
        (read(&moved), read(&path)),
        ("1\n2\n".into(), "3\n4\n".into())
    );
}

#[test]
fn only_so_many_files_are_open() {
    let dir = directory();
    let template = format!("{}/{{host}}", dir.path().display());
    let hosts = Hosts::with_limit(template, 2).unwrap();
    let policy = Policy {
        sync: false,
        rotate_bytes: None,
        keep: 0,
        ending: Ending::Newline,
    };
    let append = |host: &str| {
        let mut bytes = b"x\n".to_vec();
        hosts
            .file(host)
            .lock()
            .unwrap()
            .append(&mut bytes, &policy, 0)
            .unwrap();
    };
    for _ in 0..3 {
        for host in ["a", "b", "c", "d"] {
            append(host);
            assert!(hosts.len() <= 2);
        }
    }
    for host in ["a", "b", "c", "d"] {
        assert_eq!(read(dir.path().join(host)), "x\nx\nx\n");
    }
    // One that is in use stays, and the one that was used last.
    let used = hosts.file("a");
    append("b");
    append("c");
    assert!(Arc::ptr_eq(&used, &hosts.file("a")));
    let more = [hosts.file("b"), hosts.file("c"), hosts.file("d")];
    assert_eq!(hosts.len(), 4);
    drop((used, more));
    append("e");
    assert_eq!(hosts.len(), 2);
}

/// A full disk, of which one host's file is.
#[test]
fn one_full_disk_does_not_stop_the_others() {
    let dir = directory();
    let full = dir.path().join("full");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let mut writer = per_host(&dir, "{host}").writer();
    for host in ["a", "b", "full", "c", "d"] {
        writer.write(host, format!("{host}\n").as_bytes());
    }
    let error = writer.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(
        error
            .to_string()
            .contains("/full: cannot write: No space left"),
        "{error}"
    );
    assert_eq!(writer.pending(), 5);
    for host in ["a", "b", "c", "d"] {
        assert_eq!(read(dir.path().join(host)), format!("{host}\n"));
    }
    writer.write("a", b"more\n");
    writer.write("full", b"more\n");
    writer.commit().unwrap_err();
    assert_eq!(
        (writer.pending(), read(dir.path().join("a")).as_str()),
        (10, "a\nmore\n")
    );
}

/// Set in a process of its own in which files cannot grow beyond what is allowed.
const LIMITED: &str = "NCRX_TEST_FILE_LIMIT";

/// Runs a test of this file again, in a process that survives it when a file may not grow.
fn in_limited_process(test: &str) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\""]);
    command.arg(program).arg(test).env(LIMITED, "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// No file may be longer from now on.
fn limit_files(bytes: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.unwrap_or(hard), hard).unwrap();
}

#[test]
fn a_partly_written_line_is_completed() {
    if std::env::var_os(LIMITED).is_none() {
        return in_limited_process("sink::tests::a_partly_written_line_is_completed");
    }
    let dir = directory();
    let path = dir.path().join("log");
    let sink = one(&path);
    let (mut first, mut second) = (sink.writer(), sink.writer());
    limit_files(Some(5));
    first.write("h", b"one\ntwo\n");
    first.commit().unwrap_err();
    assert_eq!((first.pending(), read(&path).as_str()), (8, "one\nt"));
    // Neither another worker nor the same one gets in between; nor is the file taken away.
    second.write("h", b"three\n");
    first.write("h", b"four\n");
    sink.reopen();
    second.commit().unwrap_err();
    first.commit().unwrap_err();
    assert_eq!((first.pending(), second.pending()), (13, 6));
    assert_eq!(read(&path), "one\nt");
    limit_files(Some(7));
    first.commit().unwrap_err();
    assert_eq!(read(&path), "one\ntwo");
    limit_files(None);
    second.commit().unwrap();
    assert_eq!(
        (second.pending(), read(&path).as_str()),
        (0, "one\ntwo\nthree\n")
    );
    first.commit().unwrap();
    assert_eq!(
        (first.pending(), read(&path).as_str()),
        (0, "one\ntwo\nthree\nfour\n")
    );
    first.commit().unwrap();
    assert_eq!(read(&path), "one\ntwo\nthree\nfour\n");
}

#[test]
fn a_file_with_something_left_to_write_stays_open() {
    if std::env::var_os(LIMITED).is_none() {
        return in_limited_process("sink::tests::a_file_with_something_left_to_write_stays_open");
    }
    let dir = directory();
    let hosts = Hosts::with_limit(format!("{}/{{host}}", dir.path().display()), 1).unwrap();
    let policy = Policy {
        sync: true,
        rotate_bytes: Some(1),
        keep: 1,
        ending: Ending::Newline,
    };
    let append = |host: &str, text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        let file = hosts.file(host);
        let result = file.lock().unwrap().append(&mut bytes, &policy, 0);
        (result.is_ok(), bytes.len())
    };
    limit_files(Some(3));
    assert_eq!(append("a", "long\n"), (false, 0));
    assert_eq!(append("b", "b\n"), (true, 0));
    limit_files(None);
    assert_eq!(append("a", "x\n"), (true, 0));
    // The rest went to the file that had the beginning, although that was full.
    assert_eq!(read(dir.path().join("a.1")), "long\n");
    assert_eq!(read(dir.path().join("a")), "x\n");
}

#[test]
fn workers_do_not_tear_lines_apart() {
    let dir = directory();
    let path = dir.path().join("log");
    let sink = Sink::open(Target::File(path.clone()), Fsync::Never, Some(50_000), 99).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let mut writer = sink.writer();
            scope.spawn(move || {
                for n in 0..1000 {
                    writer.write(
                        "h",
                        format!("{worker} {n} {}\n", "x".repeat(n % 90)).as_bytes(),
                    );
                    if n % 7 == 0 {
                        writer.commit().unwrap();
                    }
                }
                writer.commit().unwrap();
            });
        }
    });
    let mut next = [0; 4];
    let old = (1..=99).rev().map(|n| dir.path().join(format!("log.{n}")));
    let files = old.filter(|path| path.exists()).chain([path.clone()]);
    for line in files.map(read).collect::<String>().lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let (worker, n): (usize, usize) = (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        assert_eq!(
            (n, parts[2].len(), parts.len()),
            (next[worker], n % 90, 3),
            "{line}"
        );
        next[worker] += 1;
    }
    assert_eq!(next, [1000; 4]);
}

/// Set in a process of its own whose standard output is a pipe that we hold.
const PIPED: &str = "NCRX_TEST_PIPE";

/// A reader that goes away is told as what it is; until then it gets all.
#[test]
fn standard_output_may_be_closed() {
    if std::env::var_os(PIPED).is_some() {
        let sink = Sink::open(Target::Stdout, Fsync::Always, Some(1), 1).unwrap();
        let mut writer = sink.writer();
        put(&mut writer, "h", "first\n");
        sink.reopen();
        put(&mut writer, "h", "second\n");
        let error = loop {
            writer.write("h", b"more\n");
            if let Err(error) = writer.commit() {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(writer.pending() > 0);
        eprintln!("{error}");
        std::process::exit(0);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "--nocapture",
        "sink::tests::standard_output_may_be_closed",
    ]);
    command
        .env(PIPED, "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut stdout = child.stdout.take().unwrap();
    while !said.contains("more\n") {
        let mut some = [0; 100];
        let n = stdout.read(&mut some).unwrap();
        assert_ne!(n, 0, "{said}");
        said += std::str::from_utf8(&some[..n]).unwrap();
    }
    assert!(said.contains("first\nsecond\nmore\n"), "{said}");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("standard output: cannot write: Broken pipe"),
        "{told}"
    );
}
