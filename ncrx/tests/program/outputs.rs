// SPDX-License-Identifier: GPL-2.0

//! Outputs: a bad one stops no other, and nothing is acknowledged that is not in all outputs that
//! count for acks.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::O_NONBLOCK;
use nix::sys::signal::{kill, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, Pid};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{command, numbers, until, until_contains, Ncrx, Sender};
use crate::watch::{measured, until_is};

fn pipe(dir: &Path) -> PathBuf {
    let path = dir.join("pipe");
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    path
}

/// Reads a pipe until its writer is gone; the thread returns its lines.
fn read_on(path: &Path) -> thread::JoinHandle<Vec<String>> {
    // Opening it does not wait for a writer.
    let options = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path);
    drop(options.unwrap());
    let file = fs::File::open(path).unwrap();
    thread::spawn(move || BufReader::new(file).lines().map_while(Result::ok).collect())
}

#[test]
fn a_bad_file_of_one_host_holds_back_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("127.0.0.3.log");
    fs::create_dir(&bad).unwrap();
    let mut ncrx = Ncrx::start(&format!("--output {}/{{host}}.log", dir.path().display()));
    let senders = [2, 3, 4].map(|n| Sender::bound(&format!("127.0.0.{n}:0"), ncrx.at));
    senders[1].send(1);
    let line = ncrx.wait_log("othing is acknowledged");
    assert!(line.contains("127.0.0.3"), "{line}");
    for last in [20, 40] {
        for sender in [&senders[0], &senders[2]] {
            (last - 19..=last).for_each(|seq| sender.send(seq));
            sender.settle(last, last);
        }
    }
    senders[1].no_ack();
    assert_eq!(ncrx.stop().code(), Some(1));
    for n in [2, 4] {
        let file = dir.path().join(format!("127.0.0.{n}.log"));
        assert_eq!(numbers(&file), Vec::from_iter(0..=40));
    }
    assert!(ncrx.rest_of_log().join("\n").contains("not written"));
}

/// A pipe without a reader, and one whose reader stalls.
#[test]
fn a_blocked_output_stops_nobody_and_gets_all_in_the_end() {
    for stalls in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
        let reader = stalls.then(|| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .custom_flags(O_NONBLOCK)
                .open(&pipe)
                .unwrap()
        });
        let args = format!("--output {} --output {}", pipe.display(), log.display());
        let (mut ncrx, metrics) = measured(&args);
        let sender = Sender::new(ncrx.at);
        let last = 2000;
        (1..=last).for_each(|seq| sender.send(seq));
        until("the other output has all", || {
            let missing = sender
                .response(Duration::from_millis(50))
                .map(|said| said.1);
            for (first, end) in missing.into_iter().flatten() {
                (first..=end.min(last)).for_each(|seq| sender.send(seq));
            }
            (log.exists() && numbers(&log).len() > last as usize).then_some(())
        });
        let blocked = format!(
            "ncrx_output_blocked_since_timestamp_seconds{{output=\"{}\"}}",
            pipe.display()
        );
        if !stalls {
            sender.no_ack();
        }
        until_is(&ncrx, metrics, &blocked, |n| n > 1e9);
        ncrx.wait_log("is blocked for");
        let read = read_on(&pipe);
        drop(reader);
        sender.settle(last, last);
        until_is(&ncrx, metrics, &blocked, |n| n == 0.0);
        ncrx.wait_log("can be written again");
        assert!(ncrx.stop().success());
        let text = read.join().unwrap().join("\n");
        let copy = dir.path().join("copy");
        fs::write(&copy, text).unwrap();
        assert_eq!(numbers(&copy), Vec::from_iter(0..=last));
        assert_eq!(numbers(&log), Vec::from_iter(0..=last));
    }
}

#[test]
fn it_ends_soon_whatever_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
    let args = format!("--output {} --output {}", pipe.display(), log.display());
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    (0..=9).for_each(|seq| sender.send(seq));
    until_contains(&log, "text 9\n");
    let began = Instant::now();
    assert_eq!(ncrx.stop().code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10));
    sender.no_ack();
    let log = ncrx.rest_of_log().join("\n");
    let name = pipe.display().to_string();
    assert!(
        log.contains("records are not written to") && log.contains(&name),
        "{log}"
    );
}

#[test]
fn nobody_waits_for_what_is_only_tried() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
    let args = format!(
        "--output {} --best-effort {} --best-effort /dev/full --queue 1000",
        log.display(),
        pipe.display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let sender = Sender::new(ncrx.at);
    (1..=500).for_each(|seq| sender.send(seq));
    sender.settle(500, 500);
    assert_eq!(numbers(&log), Vec::from_iter(0..=500));
    sender.send(501);
    sender.settle(501, 501);
    let refused = format!("ncrx_output_refused_total{{output=\"{}\"}}", pipe.display());
    until_is(&ncrx, metrics, &refused, |n| n > 0.0);
    let line = ncrx.wait_log("/dev/full");
    assert!(line.contains("is dropped"), "{line}");
    assert!(ncrx.stop().success());
}

#[test]
fn few_files_may_be_open_for_many_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", "ulimit -n 32; exec \"$@\"", "-"]);
    let ncrx = command::<&str>([]);
    sh.arg(ncrx.get_program()).args(["--listen", "127.0.0.1:0"]);
    for kind in ["text", "json"] {
        let output = format!("{kind}:{}/{{host}}.{kind}", dir.path().display());
        sh.args(["--output", &output]);
    }
    let mut ncrx = Ncrx::run(&mut sh);
    let senders: Vec<_> = (2..42)
        .map(|n| Sender::bound(&format!("127.0.0.{n}:0"), ncrx.at))
        .collect();
    for last in [1, 2, 3] {
        senders.iter().for_each(|sender| sender.send(last));
        for sender in &senders {
            sender.settle(last, last);
        }
    }
    assert!(ncrx.stop().success());
    for n in 2..42 {
        let file = dir.path().join(format!("127.0.0.{n}.text"));
        assert_eq!(numbers(&file), [0, 1, 2, 3]);
        let json = fs::read_to_string(file.with_extension("json")).unwrap();
        assert_eq!(json.matches("\"seq\":3,").count(), 1);
    }
}

/// Records at a steady rate, to a disk that is full now and then.
#[test]
fn a_full_disk_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut ncrx = Ncrx::start(&format!("--output {}", log.display()));
    let sender = Sender::new(ncrx.at);
    sender.send(0);
    let mut last = 0;
    for _ in 0..3 {
        let size = fs::metadata(&log).map_or(0, |file| file.len());
        ncrx.limit(&format!("--fsize={}:", size + 1000));
        for _ in 0..50 {
            last += 1;
            sender.send(last);
            thread::sleep(Duration::from_millis(1));
        }
        ncrx.wait_log("othing is acknowledged");
        ncrx.limit("--fsize=unlimited:");
        sender.settle(last, last);
        ncrx.wait_log("can be written again");
    }
    assert!(ncrx.stop().success());
    assert_eq!(numbers(&log), Vec::from_iter(0..=last));
}

#[test]
fn state_and_logs_may_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("package.json"), "foreign").unwrap();
    fs::write(at("worker-0.bad"), "old").unwrap();
    let shown = dir.path().display();
    let args = format!("--output json:{shown}/{{host}}.json --state {shown}");
    let mut last = 0;
    let mut at_port = "127.0.0.1:0".to_owned();
    let mut sender = None;
    for _ in 0..3 {
        let mut ncrx = Ncrx::start_at(&at_port, &args);
        at_port = ncrx.at.to_string();
        let sender = sender.get_or_insert_with(|| Sender::new(ncrx.at));
        last += 5;
        (last - 4..=last).for_each(|seq| sender.send(seq));
        sender.settle(last, last);
        assert!(ncrx.stop().success());
        fs::write(at("worker-0.json"), "torn").unwrap();
    }
    let log = fs::read_to_string(at("127.0.0.1.json")).unwrap();
    for seq in 0..=last {
        assert!(log.contains(&format!("\"text {seq}\"")), "{seq} in {log}");
    }
    assert_eq!(fs::read_to_string(at("package.json")).unwrap(), "foreign");
    assert_eq!(fs::read_to_string(at("worker-0.bad")).unwrap(), "old");
    assert_eq!(fs::read_to_string(at("worker-0.bad.1")).unwrap(), "torn");
}

/// Records that do not fit into the queue of a blocked output stay with the sender, and come again
/// for that output alone.
#[test]
fn what_an_output_could_not_take_it_gets_later() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
    let args = format!(
        "--output {} --output {} --queue 2000",
        pipe.display(),
        log.display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let sender = Sender::new(ncrx.at);
    sender.send(0);
    for seq in 1..=200 {
        sender.send(seq);
        until_contains(&log, &format!("text {seq}\n"));
    }
    let refused = format!("ncrx_output_refused_total{{output=\"{}\"}}", pipe.display());
    until_is(&ncrx, metrics, &refused, |n| n > 100.0);
    let read = read_on(&pipe);
    sender.settle(200, 200);
    assert!(ncrx.stop().success());
    let copy = dir.path().join("copy");
    fs::write(&copy, read.join().unwrap().join("\n")).unwrap();
    let mut late = numbers(&copy);
    late.sort_unstable();
    assert_eq!(late, Vec::from_iter(0..=200));
    assert_eq!(numbers(&log), Vec::from_iter(0..=200));
}

/// Its file is mended, while that of another host stays as it is.
#[test]
fn a_bad_file_keeps_nothing_from_another_that_is_good_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = [2, 3].map(|n| dir.path().join(format!("127.0.0.{n}.log")));
    files.iter().for_each(|file| fs::create_dir(file).unwrap());
    let args = format!(
        "--output {}/{{host}}.log --queue 8000",
        dir.path().display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let [good, bad] = [2, 3].map(|n| Sender::bound(&format!("127.0.0.{n}:0"), ncrx.at));
    bad.send(0);
    ncrx.wait_log("127.0.0.3.log");
    good.send(0);
    ncrx.wait_log("127.0.0.2.log");
    let refused = format!(
        "ncrx_output_refused_total{{output=\"{}/{{host}}.log\"}}",
        dir.path().display()
    );
    for seq in 1..=100 {
        good.send(seq);
        thread::sleep(Duration::from_millis(1));
    }
    until_is(&ncrx, metrics, &refused, |n| n > 10.0);
    fs::remove_dir(&files[0]).unwrap();
    good.settle(100, 100);
    let mut all = numbers(&files[0]);
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..=100));
    bad.no_ack();
    assert_eq!(ncrx.stop().code(), Some(1));
}

/// Acknowledged records are in each output, of any kinds, after a kill at any time.
#[test]
fn killed_it_has_all_that_was_acknowledged_in_each_output() {
    let seed = std::env::var("NCRX_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("NCRX_SEED={seed}");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..8 {
        killed(&mut dice);
    }
}

/// The pipes of a run, each with somebody who reads it into a file.
struct Pipes {
    fifos: Vec<(PathBuf, String)>,
    stdout: Option<String>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Pipes {
    fn copy<T: std::io::Read>(&mut self, from: impl FnOnce() -> T + Send + 'static, to: &str) {
        let mut to = OpenOptions::new()
            .append(true)
            .create(true)
            .open(to)
            .unwrap();
        self.readers.push(thread::spawn(move || {
            std::io::copy(&mut from(), &mut to).unwrap();
            // A torn line is not to be glued to the next.
            std::io::Write::write_all(&mut to, b"\n\n").unwrap();
        }));
    }

    /// Starts the program, whose pipes are read.
    fn start(&mut self, listen: &str, args: &str) -> Ncrx {
        let mut command = command(["--listen", listen]);
        if self.stdout.is_some() {
            command.stdout(std::process::Stdio::piped());
        }
        let mut ncrx = Ncrx::run(command.args(args.split_whitespace()));
        if let Some(to) = self.stdout.clone() {
            let from = ncrx.child.stdout.take().unwrap();
            self.copy(|| from, &to);
        }
        for (fifo, to) in self.fifos.clone() {
            // It waits for the first that is written.
            self.copy(|| fs::File::open(fifo).unwrap(), &to);
        }
        ncrx
    }

    /// Waits until all is read, once the program has ended.
    fn end(&mut self) {
        for reader in self.readers.drain(..) {
            while !reader.is_finished() {
                // A reader that still waits for a writer has one, for a moment.
                for (fifo, _) in &self.fifos {
                    let mut options = OpenOptions::new();
                    let _ = options.write(true).custom_flags(O_NONBLOCK).open(fifo);
                }
                thread::sleep(Duration::from_millis(1));
            }
            reader.join().unwrap();
        }
    }
}

/// The outputs of a run: the options, the files that get all records, with their formats, and the
/// pipes that lead to some of them.
struct Chosen {
    args: String,
    files: BTreeSet<(String, &'static str)>,
    pipes: Pipes,
}

/// Returns outputs of any kinds, and options, by chance.
fn choose(dice: &mut ChaCha8Rng, dir: &Path) -> Chosen {
    let shown = dir.display();
    let kinds = ["text", "json", "syslog", "export"];
    let mut files = BTreeSet::new();
    let mut args = format!("--state {shown}/state");
    let mut pipes = Pipes {
        fifos: Vec::new(),
        stdout: None,
        readers: Vec::new(),
    };
    for nth in 0..dice.random_range(1..5) {
        let kind = kinds.choose(dice).unwrap();
        let name = match dice.random_range(0..6) {
            0 | 1 => "{host}",
            2 if pipes.stdout.is_none() => "-",
            3 => "pipe",
            _ => "all",
        };
        let file = format!("{shown}/{nth}.{name}.{kind}");
        files.insert((file.clone(), *kind));
        let place = match name {
            "-" => {
                pipes.stdout = Some(file);
                name.into()
            }
            "pipe" => {
                let fifo = dir.join(format!("pipe-{nth}"));
                mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
                pipes.fifos.push((fifo.clone(), file));
                fifo.display().to_string()
            }
            _ => file,
        };
        args += &format!(" --output {kind}:{place}");
    }
    for option in [
        "--fsync always",
        "--rotate 20K --keep 100",
        "--workers 2",
        "--queue 5000",
        "--best-effort /dev/full",
    ] {
        if dice.random_bool(0.3) {
            args += &format!(" {option}");
        }
    }
    println!("{args}");
    Chosen { args, files, pipes }
}

/// Sends these records and what is asked for, also once more, until the program is killed, which
/// happens meanwhile or up to 200 ms later. Returns up to which each sender had an ack by then.
fn send_until_killed(
    dice: &mut ChaCha8Rng,
    ncrx: &mut Ncrx,
    senders: &[Sender],
    records: RangeInclusive<u64>,
    pipes: &mut Pipes,
) -> Vec<u64> {
    let last = *records.end();
    let end = Instant::now() + Duration::from_millis(dice.random_range(0..200));
    let pid = Pid::from_raw(ncrx.child.id() as i32);
    let killer = thread::spawn(move || {
        thread::sleep(end.saturating_duration_since(Instant::now()));
        kill(pid, Signal::SIGKILL).unwrap();
    });
    let mut acked = vec![0; senders.len()];
    let mut hear = |wait| {
        for (sender, acked) in senders.iter().zip(&mut acked) {
            while let Some((ack, missing)) = sender.response(wait) {
                *acked = ack.max(*acked);
                for (first, end) in missing {
                    (first..=end.min(last)).for_each(|seq| sender.send(seq));
                }
            }
        }
    };
    for seq in records {
        senders.iter().for_each(|sender| sender.send(seq));
        if seq % 32 == 0 {
            hear(Duration::from_micros(100));
        }
    }
    while Instant::now() < end {
        hear(Duration::from_millis(2));
    }
    killer.join().unwrap();
    ncrx.wait();
    pipes.end();
    // Responses that were on their way to us.
    hear(Duration::from_millis(5));
    acked
}

fn killed(dice: &mut ChaCha8Rng) {
    let dir = tempfile::tempdir().unwrap();
    let Chosen {
        args,
        files,
        mut pipes,
    } = choose(dice, dir.path());
    let mut ncrx = pipes.start("127.0.0.1:0", &args);
    let at = ncrx.at;
    let senders: Vec<_> = (2..5)
        .map(|n| Sender::bound(&format!("127.0.0.{n}:0"), at))
        .collect();
    let mut last = 0;
    for _ in 0..4 {
        let first = last + 1;
        last += dice.random_range(1..300);
        let acked = send_until_killed(dice, &mut ncrx, &senders, first..=last, &mut pipes);
        for (acked, n) in acked.iter().zip(2..) {
            for (file, kind) in &files {
                complete(file, kind, &format!("127.0.0.{n}"), *acked);
            }
        }
        println!("acknowledged: {acked:?} of {last}");
        ncrx = pipes.start(&at.to_string(), &args);
    }
    for sender in &senders {
        sender.send(last);
        sender.settle(last, last);
    }
    assert!(ncrx.stop().success());
    pipes.end();
    for ((file, kind), n) in files.iter().flat_map(|file| (2..5).map(move |n| (file, n))) {
        complete(file, kind, &format!("127.0.0.{n}"), last);
    }
}

/// Makes sure that a file and its rotated ones have all records of a host up to this one.
fn complete(file: &str, kind: &str, host: &str, last: u64) {
    if last == 0 {
        return;
    }
    let path = file.replace("{host}", host);
    // A kill may have cut a rotation short: then a number is free. 100 are kept.
    let old = (1..=100).map(|n| format!("{path}.{n}"));
    let all = [path.clone()].into_iter().chain(old);
    let all = all.filter_map(|path| fs::read(path).ok());
    let text = all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned() + "\n");
    let text = text.collect::<String>();
    // An entry of the journal has several lines, with the host before the text.
    let entries: Vec<_> = match kind {
        "export" => text.split("\n\n").collect(),
        _ => text.lines().collect(),
    };
    let mut seen = BTreeSet::new();
    for entry in entries.iter().filter(|entry| entry.contains(host)) {
        let numbers = entry.split("text ").skip(1).map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..end].parse::<u64>()
        });
        seen.extend(numbers.map_while(Result::ok));
    }
    let missing: Vec<_> = (0..=last).filter(|seq| !seen.contains(seq)).collect();
    assert!(
        missing.is_empty(),
        "{path} has not {missing:?} of {host}, up to {last}"
    );
}

/// Of a host that logs too much the rest is dropped, with a gap that says so; it is acknowledged.
#[test]
fn what_is_more_than_a_host_may_log_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (all, urgent) = (dir.path().join("all.json"), dir.path().join("urgent.log"));
    let args = format!(
        "--host-rate 10 --output json:{} --output level=err:{}",
        all.display(),
        urgent.display()
    );
    let (mut ncrx, at) = measured(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    (0..100).for_each(|seq| sender.send(seq));
    sender.settle(99, 99);
    let session = sender.session;
    for (seq, keys) in [(100, ""), (101, ",nccrash=1"), (102, "")] {
        sender.send_raw(&format!(
            "3,{seq},{seq},-,ncs={session:016x}{keys};text {seq}\n"
        ));
    }
    sender.settle(102, 102);
    until_is(&ncrx, at, "ncrx_limited_total", |n| n >= 80.0);
    until_contains(&all, "\"why\":\"rate\"");
    assert!(ncrx.stop().success());
    let text = fs::read_to_string(&all).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let (mut seen, mut gaps) = (Vec::new(), Vec::new());
    for line in &lines {
        if line["why"] == "rate" {
            gaps.push((
                line["first"].as_u64().unwrap(),
                line["last"].as_u64().unwrap(),
            ));
        } else if let Some(seq) = line["seq"].as_u64() {
            seen.push(seq);
        }
    }
    assert_eq!(seen[..10], (0..10).collect::<Vec<_>>()[..]);
    let told = |seq: &u64| {
        let gap = |(first, last): &(u64, u64)| (first..=last).contains(&seq);
        seen.contains(seq) || gaps.iter().any(gap)
    };
    assert!((0..=102).all(|seq| told(&seq)), "{seen:?} {gaps:?}");
    let text = fs::read_to_string(&urgent).unwrap();
    assert!(seen.contains(&101) && text.contains("text 101"), "{text}");
    assert!(
        !text.contains("text 5\n") && text.contains("missing: dropped"),
        "{text}"
    );
}

/// A WARN names no crash by itself, and is kept although its host logs too much.
#[test]
fn a_report_is_kept_of_a_host_that_logs_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let all = dir.path().join("all.log");
    let args = format!("--host-rate 10 --output {}", all.display());
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    (0..60).for_each(|seq| sender.send(seq));
    let report = [
        "------------[ cut here ]------------",
        "WARNING: CPU: 0 PID: 77 at fs/x.c:12 broken+0x1a/0x40",
        "CPU: 0 UID: 0 PID: 77 Comm: w Not tainted 7.3.4 #1",
        "Call Trace:",
        " <TASK>",
        " broken+0x1a/0x40",
        " </TASK>",
        "---[ end trace 0000000000000000 ]---",
    ];
    let session = sender.session;
    for (line, seq) in report.iter().zip(60..) {
        sender.send_raw(&format!("4,{seq},{seq}000,-,ncs={session:016x};{line}\n"));
    }
    sender.settle(67, 67);
    assert!(ncrx.stop().success());
    let text = fs::read_to_string(&all).unwrap();
    for line in &report[1..] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(!text.contains("text 40\n"), "{text}");
}

/// Records that the sender has no more are lost to a pipe without room: that is said there, and
/// in the metrics, and is no reason to fail at the end.
#[test]
fn what_no_sender_can_send_again_is_a_gap_in_the_output_that_lacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
    let args = format!(
        "--output {} --output {} --queue 2000",
        pipe.display(),
        log.display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let sender = Sender::new(ncrx.at);
    for seq in 0..=200 {
        sender.send(seq);
        until_contains(&log, &format!("text {seq}\n"));
    }
    let labels = format!("{{output=\"{}\"}}", pipe.display());
    let refused = format!("ncrx_output_refused_total{labels}");
    until_is(&ncrx, metrics, &refused, |n| n > 100.0);
    let read = read_on(&pipe);
    let lost = format!("ncrx_output_lost_total{labels}");
    let (session, next) = (sender.session, AtomicU64::new(201));
    until_is(&ncrx, metrics, &lost, |n| {
        // It says so whenever it is asked.
        let seq = next.fetch_add(1, Relaxed);
        let keys = format!("ncs={session:016x},nclost=0-200");
        sender.send_raw(&format!("6,{seq},{},-,{keys};alive\n", seq * 1000));
        n > 100.0
    });
    ncrx.wait_log("records are lost to outputs");
    assert!(ncrx.stop().success());
    let copy = dir.path().join("copy");
    let lines = read.join().unwrap();
    let gap = |line: &&String| line.contains("missing: not taken by this output");
    assert!(lines.iter().any(|line| gap(&line)), "{lines:?}");
    fs::write(&copy, lines.join("\n")).unwrap();
    let written = numbers(&copy);
    assert_eq!(written, Vec::from_iter(0..written.len() as u64));
    assert_eq!(numbers(&log), Vec::from_iter(0..=200));
}

/// An output that is blocked is told of what it has lost once it has room.
#[test]
fn what_is_lost_while_an_output_is_blocked_is_a_gap_in_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (pipe(dir.path()), dir.path().join("log"));
    let args = format!(
        "--output {} --output {} --queue 2000",
        pipe.display(),
        log.display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let (sender, long) = (Sender::new(ncrx.at), "x".repeat(800));
    for seq in 0..=9 {
        sender.send_raw(&format!(
            "6,{seq},{},-;{long} text {seq}\n",
            9_000_000 + seq
        ));
        until_contains(&log, &format!(" text {seq}\n"));
    }
    // The machine has started anew.
    sender.send_raw("6,0,1,-;hello\n");
    let of_pipe = |name| format!("ncrx_output_{name}{{output=\"{}\"}}", pipe.display());
    until_is(&ncrx, metrics, &of_pipe("lost_total"), |n| n > 0.0);
    let read = read_on(&pipe);
    until_is(&ncrx, metrics, &of_pipe("queued_bytes"), |n| n == 0.0);
    ncrx.stop();
    let lines = read.join().unwrap();
    let gap = |line: &String| line.contains("missing: not taken by this output");
    assert!(lines.iter().any(gap), "{lines:?}");
}
