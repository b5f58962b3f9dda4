// SPDX-License-Identifier: GPL-2.0

//! Acks: records that are acknowledged are written, whatever happens.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{numbers, until, Ncrx, Sender};

fn args(dir: &Path) -> String {
    format!("--output {0}/log --state {0}/state", dir.display())
}

#[test]
fn acknowledged_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for options in ["", "--fsync always", "--workers 3"] {
        let file = dir.path().join(options.replace(' ', "-") + "log");
        let ncrx = Ncrx::start(&format!("{options} --output {}", file.display()));
        for _ in 0..3 {
            let sender = Sender::new(ncrx.at);
            (1..=100).for_each(|seq| sender.send(seq));
            let acked = sender.settle(100, 100);
            // The file may have later records of another sender.
            let written: BTreeSet<_> = numbers(&file).into_iter().collect();
            assert_eq!((acked, written), (100, (0..=100).collect()));
        }
        assert_eq!(numbers(&file).len(), 303);
    }
}

#[test]
fn missing_records_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ncrx = Ncrx::start(&args(dir.path()));
    let sender = Sender::new(ncrx.at);
    (1..=50)
        .filter(|seq| seq % 5 > 1)
        .for_each(|seq| sender.send(seq));
    sender.settle(50, 50);
    assert_eq!(numbers(&dir.path().join("log")), Vec::from_iter(0..=50));
}

/// ncrx stands still for longer than --silence, on a machine that has much to do. What was missing
/// of a sender comes meanwhile, behind more from others than is taken at once.
#[test]
fn who_is_heard_while_ncrx_stands_still_is_not_silent() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("127.0.0.2.log");
    let mut ncrx = Ncrx::start(&format!(
        "--silence 1s --output {}/{{host}}.log",
        dir.path().display()
    ));
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(0);
    sender.settle(0, 0);
    sender.send(2);
    until("record 1 is asked for", || {
        let response = sender.response(Duration::from_millis(100));
        response.filter(|(_, missing)| !missing.is_empty())
    });
    ncrx.signal(Signal::SIGSTOP);
    let other = Sender::bound("127.0.0.3:0", ncrx.at);
    (0..1500).for_each(|seq| other.send(seq));
    // This test is about times, so it has to sleep.
    std::thread::sleep(Duration::from_millis(1200));
    sender.send(1);
    ncrx.signal(Signal::SIGCONT);
    sender.settle(2, 2);
    assert!(ncrx.stop().success());
    let text = std::fs::read_to_string(log).unwrap();
    assert!(!text.contains("missing"), "{text}");
}

#[test]
fn full_disk_acknowledges_nothing() {
    let mut ncrx = Ncrx::start("--output /dev/full");
    let sender = Sender::new(ncrx.at);
    sender.send(0);
    let line = ncrx.wait_log("othing is acknowledged");
    assert!(
        line.contains("/dev/full") && line.contains("make room"),
        "{line}"
    );
    sender.send(1);
    sender.no_ack();
    // The error is logged once.
    ncrx.no_log("othing is acknowledged");
    assert_eq!(ncrx.stop().code(), Some(1));
    sender.no_ack();
}

#[test]
fn once_it_can_be_written_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("127.0.0.1.log");
    std::fs::create_dir(&blocked).unwrap();
    let all = dir.path().join("all");
    let args = format!(
        "--output {} --output {}/{{host}}.log",
        all.display(),
        dir.path().display()
    );
    let ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    (0..=20).for_each(|seq| sender.send(seq));
    ncrx.wait_log("othing is acknowledged");
    sender.no_ack();
    std::fs::remove_dir(&blocked).unwrap();
    ncrx.wait_log("can be written again");
    sender.settle(20, 20);
    // Neither output has a record twice.
    assert_eq!(numbers(&blocked), Vec::from_iter(0..=20));
    assert_eq!(numbers(&all), Vec::from_iter(0..=20));
}

/// A file cannot be written for so long that what was refused and asked for is refused again.
#[test]
fn refused_twice_it_is_acknowledged_once_it_is_written() {
    const LAST: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("127.0.0.1.log");
    std::fs::create_dir(&blocked).unwrap();
    let output = format!("{}/{{host}}.log", dir.path().display());
    let ncrx = Ncrx::start(&format!("--queue 4000 --output {output}"));
    let sender = Sender::new(ncrx.at);
    sender.send(0);
    ncrx.wait_log("othing is acknowledged");
    (1..=LAST).for_each(|seq| sender.send(seq));
    let mut asked = [0; LAST as usize + 1];
    until("a record is asked for a third time", || {
        let (_, missing) = sender.response(Duration::from_millis(100))?;
        let numbers = |(first, last): (u64, u64)| first..=last.min(LAST);
        for seq in missing.into_iter().flat_map(numbers) {
            asked[seq as usize] += 1;
            sender.send(seq);
        }
        asked.contains(&3).then_some(())
    });
    std::fs::remove_dir(&blocked).unwrap();
    sender.settle(LAST, LAST);
    let mut written = numbers(&blocked);
    written.sort();
    assert_eq!(written, Vec::from_iter(0..=LAST));
}

#[test]
fn restarted_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut ncrx = Ncrx::start(&args(dir.path()));
    let at = ncrx.at;
    let sender = Sender::new(at);
    for last in [40, 80, 120] {
        (last - 39..=last).for_each(|seq| sender.send(seq));
        sender.settle(last, last);
        assert!(ncrx.stop().success());
        // The number of workers changes, so the kernel distributes the senders in another way.
        let args = format!("{} --workers {}", args(dir.path()), last / 40 + 1);
        ncrx = Ncrx::start_at(&at.to_string(), &args);
    }
    (121..=130).for_each(|seq| sender.send(seq));
    sender.settle(130, 130);
    assert_eq!(numbers(&log), Vec::from_iter(0..=130));
}

#[test]
fn who_is_not_heard_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut ncrx = Ncrx::start(&args(dir.path()));
    let at = ncrx.at;
    let sender = Sender::new(at);
    (1..=10).for_each(|seq| sender.send(seq));
    sender.settle(10, 10);
    // Two restarts, in between which the sender sends nothing.
    for _ in 0..2 {
        assert!(ncrx.stop().success());
        ncrx = Ncrx::start_at(&at.to_string(), &args(dir.path()));
    }
    sender.send(11);
    sender.settle(11, 11);
    assert_eq!(numbers(&dir.path().join("log")), Vec::from_iter(0..=11));
}

#[test]
fn killed_it_has_lost_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut ncrx = Ncrx::start(&args(dir.path()));
    let at = ncrx.at;
    let sender = Sender::new(at);
    let mut last = 0;
    for _ in 0..4 {
        (last + 1..=last + 100).for_each(|seq| sender.send(seq));
        last += 100;
        let acked = sender.settle(last, last - 50);
        // Some records are on their way.
        (last + 1..=last + 20).for_each(|seq| sender.send(seq));
        last += 20;
        ncrx.signal(Signal::SIGKILL);
        ncrx.wait();
        let written: BTreeSet<_> = numbers(&log).into_iter().collect();
        assert!(
            (1..=acked).all(|seq| written.contains(&seq)),
            "up to {acked}: {written:?}"
        );
        ncrx = Ncrx::start_at(&at.to_string(), &args(dir.path()));
    }
    sender.send(last);
    sender.settle(last, last);
    let mut seen = BTreeSet::new();
    let first = numbers(&log).into_iter().filter(|seq| seen.insert(*seq));
    assert_eq!(Vec::from_iter(first), Vec::from_iter(0..=last));
}

#[test]
fn killed_later_it_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/worker-0.json");
    let mut ncrx = Ncrx::start(&args(dir.path()));
    let at = ncrx.at;
    let sender = Sender::new(at);
    (1..=10).for_each(|seq| sender.send(seq));
    sender.settle(10, 10);
    until("the state is saved", || {
        std::fs::read_to_string(&state)
            .ok()?
            .contains("\"settled\":10,")
            .then_some(())
    });
    ncrx.signal(Signal::SIGKILL);
    ncrx.wait();
    // A state that was torn by a crash of the machine.
    std::fs::write(
        dir.path().join("state/worker-1.json"),
        "{\"version\":1,\"send",
    )
    .unwrap();
    let ncrx = Ncrx::start_at(&at.to_string(), &args(dir.path()));
    sender.send(11);
    sender.settle(11, 11);
    assert_eq!(numbers(&dir.path().join("log")), Vec::from_iter(0..=11));
    drop(ncrx);
    assert!(dir.path().join("state/worker-1.bad").exists());
}

#[test]
fn acknowledged_is_on_the_disk_if_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (log, trace) = (dir.path().join("log"), dir.path().join("trace"));
    let calls = "--trace=write,fdatasync,fsync,sendmsg";
    let mut strace = Command::new("strace");
    // With -D ncrx, not strace, is our child.
    strace
        .args(["-D", "-f", "-s", "100000", calls, "-o"])
        .arg(&trace);
    strace
        .arg(env!("CARGO_BIN_EXE_ncrx"))
        .args(["--listen", "127.0.0.1:0"]);
    strace.args(["--fsync", "always", "--output"]).arg(&log);
    let mut ncrx = Ncrx::run(strace.stdin(Stdio::null()).stdout(Stdio::null()));
    let sender = Sender::new(ncrx.at);
    for last in [30, 60, 90] {
        (last - 29..=last).for_each(|seq| sender.send(seq));
        sender.settle(last, last);
    }
    assert!(ncrx.stop().success());
    let text = until("the end is traced", || {
        let text = std::fs::read_to_string(&trace).unwrap();
        text.contains("+++ exited").then_some(text)
    });
    // The last record that was written, and the last that fdatasync has brought to the disk.
    let (mut written, mut safe, mut acks, mut syncs) = (None, None, 0, 0);
    for line in text.lines() {
        let last = |before| {
            let number = line.rsplit(before).next().unwrap();
            number
                .split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse::<u64>()
        };
        if line.contains(" write(") && line.contains("text ") {
            written = Some(last("text ").unwrap());
        } else if line.contains("fdatasync") && line.ends_with("= 0") {
            (safe, syncs) = (written, syncs + 1);
        } else if line.contains("\"nca") {
            // A response without a number acknowledges nothing.
            if let Ok(ack) = last("\"nca") {
                assert!(
                    safe >= Some(ack),
                    "{ack} is said, but {safe:?} is safe: {text}"
                );
                acks += 1;
            }
        }
    }
    assert!(acks >= 3 && syncs >= 3 && safe == Some(90), "{text}");
    println!("{acks} acknowledgements, {syncs} times to the disk");
}
