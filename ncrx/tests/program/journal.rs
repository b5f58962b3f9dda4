// SPDX-License-Identifier: GPL-2.0

//! The program in front of `systemd-journal-remote`, as its help shows it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::harness::{command, Ncrx, Sender};

const REMOTE: &str = "/lib/systemd/systemd-journal-remote";

#[test]
fn the_journal_has_all_records() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("all.journal");
    let mut ncrx = command(["--listen", "127.0.0.1:0", "--format", "export"]);
    let mut ncrx = Ncrx::run(ncrx.args(["--output", "-"]).stdout(Stdio::piped()));
    let mut remote = Command::new(REMOTE)
        .arg("--output")
        .arg(&journal)
        .arg("-")
        .stdin(ncrx.child.stdout.take().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{REMOTE}: {e} (Debian: apt-get install systemd-journal-remote)")
        });
    // Two machines, some of whose records are missing at first.
    let senders = ["127.0.0.2:0", "127.0.0.3:0"].map(|from| Sender::bound(from, ncrx.at));
    for seq in (1..=100).filter(|seq| seq % 9 != 5) {
        senders.iter().for_each(|sender| sender.send(seq));
    }
    for sender in &senders {
        sender.settle(100, 100);
    }
    assert!(ncrx.stop().success());
    // systemd-journal-remote ends with its input, or earlier at something that it cannot read.
    assert!(remote.wait().unwrap().success());

    let read = Command::new("journalctl")
        .args(["--no-pager", "--output=json", "--file"])
        .arg(&journal)
        .output()
        .unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if entry["_TRANSPORT"] == "kernel" {
            assert_eq!(entry["PRIORITY"], "6", "{entry}");
            let seq = entry["MESSAGE"].as_str().unwrap().strip_prefix("text ");
            let host = entry["_HOSTNAME"].as_str().unwrap();
            let boot = entry["_BOOT_ID"].as_str().unwrap();
            let of = found.entry((host.to_owned(), boot.to_owned())).or_default();
            of.push(seq.unwrap().parse::<u64>().unwrap());
        }
    }
    let hosts: Vec<_> = found.keys().map(|(host, _)| &host[..]).collect();
    assert_eq!(hosts, ["127.0.0.2", "127.0.0.3"]);
    for seqs in found.values() {
        assert_eq!(*seqs, Vec::from_iter(0..=100));
    }
}
