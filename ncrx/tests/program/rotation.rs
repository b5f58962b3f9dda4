// SPDX-License-Identifier: GPL-2.0

//! Old files are compressed while all else goes on.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{until, Ncrx, Sender};

/// Sends these records, some at a time, so that each lot is a batch.
fn send(sender: &Sender, numbers: RangeInclusive<u64>) {
    for seq in numbers {
        sender.send(seq);
        if seq % 10 == 0 {
            sender.settle(seq, seq);
        }
    }
}

/// Returns the old files, the oldest first.
fn olds(log: &Path) -> Vec<PathBuf> {
    let name = |n: u32, ending: &str| PathBuf::from(format!("{}.{n}{ending}", log.display()));
    let old = |n| {
        [name(n, ""), name(n, ".zst")]
            .into_iter()
            .find(|old| old.exists())
    };
    let mut all: Vec<_> = (1..).map_while(old).collect();
    all.reverse();
    all
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst")
}

/// Returns the numbers of the records in a file, compressed or not.
fn numbers(path: &Path) -> Vec<u64> {
    let mut bytes = fs::read(path).unwrap();
    if is_compressed(path) {
        bytes = zstd::decode_all(&bytes[..]).unwrap();
    }
    let text = String::from_utf8(bytes).unwrap();
    let number = |line: &str| line.rsplit_once("text ")?.1.parse().ok();
    text.lines().filter_map(number).collect()
}

/// A file is being compressed, into a pipe that nobody reads, and that is the end of ncrx.
#[test]
fn compression_holds_up_no_acks_and_leaves_no_half_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (log, part) = (at("log"), at("log.1.part"));
    mkfifo(&part, Mode::S_IRWXU).unwrap();
    let args = format!(
        "--output {} --rotate 1K --keep 1000 --compress",
        log.display()
    );
    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    send(&sender, 0..=200);
    ncrx.child.kill().unwrap();
    ncrx.wait();
    let left = olds(&log);
    assert!(
        left.len() > 3 && !left.iter().any(|old| is_compressed(old)),
        "{left:?}"
    );
    fs::remove_file(&part).unwrap();
    fs::write(&part, "half a file").unwrap();

    let mut ncrx = Ncrx::start(&args);
    let sender = Sender::new(ncrx.at);
    send(&sender, 0..=200);
    until("all are compressed", || {
        olds(&log)
            .iter()
            .all(|old| is_compressed(old))
            .then_some(())
    });
    assert!(ncrx.stop().success());
    assert!(!part.exists());
    let written: Vec<u64> = olds(&log)
        .iter()
        .chain([&log])
        .flat_map(|file| numbers(file))
        .collect();
    assert_eq!(written, Vec::from_iter((0..=200).chain(0..=200)));
}
