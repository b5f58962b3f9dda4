// SPDX-License-Identifier: GPL-2.0

//! Operation: many senders from one run to the next.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::harness::{lines, Ncrx, Sender};

/// Writes a state of this number of senders, of which the first is at 127.0.0.2.
fn state(directory: &Path, senders: u32, sender: &Sender) {
    let heard = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let heard = heard.as_secs();
    let mut text = format!("{{\"version\":1,\"saved\":{heard},\"senders\":[");
    for n in 0..senders {
        let (host, session) = match n {
            0 => (sender.at().to_string(), sender.session),
            n => (
                format!("10.{}.{}.{}:6665", n >> 16, (n >> 8) & 255, n & 255),
                n.into(),
            ),
        };
        let port = PORT;
        let comma = if n > 0 { "," } else { "" };
        write!(
            text,
            "{comma}{{\"port\":{port},\"host\":\"{host}\",\"session\":{session},\"settled\":1000,\
             \"usec\":1000000,\"last_usec\":1000000,\"newest_usec\":1000000,\"heard\":{heard}}}"
        )
        .unwrap();
    }
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("merged.json"), text + "]}\n").unwrap();
}

/// The port that it listens on, by which the state tells senders apart.
const PORT: u16 = 26_666;

fn memory(ncrx: &Ncrx) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", ncrx.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.unwrap().trim().trim_end_matches(" kB");
    line.parse::<u64>().unwrap() / 1024
}

#[test]
fn many_senders_are_known_at_once_and_take_little() {
    let dir = tempfile::tempdir().unwrap();
    let (log, directory) = (dir.path().join("log"), dir.path().join("state"));
    let at = ([127, 0, 0, 1], PORT).into();
    let sender = Sender::bound("127.0.0.2:0", at);
    state(&directory, 50_000, &sender);
    let args = format!(
        "--workers 4 --state {} --output {} -v",
        directory.display(),
        log.display()
    );
    let began = Instant::now();
    let mut ncrx = Ncrx::start_at(&at.to_string(), &args);
    let said = ncrx.wait_log("the state was read in");
    let took = began.elapsed();
    println!("{said}; {took:?}");
    assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 2 }));
    (1001..=1010).for_each(|seq| sender.send(seq));
    sender.settle(1010, 1010);
    let memory = memory(&ncrx);
    println!("{memory} MB");
    assert!(memory < 250, "{memory} MB");
    // Nothing of the state is lost when it is killed.
    ncrx.signal(Signal::SIGKILL);
    ncrx.wait();
    let saved = std::fs::read_to_string(directory.join("merged.json")).unwrap();
    assert_eq!(saved.matches("\"port\"").count(), 50_000);
    let records = lines(&log)
        .into_iter()
        .filter(|line| line.contains("] text "));
    assert_eq!(records.count(), 10);
}
