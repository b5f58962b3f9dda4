// SPDX-License-Identifier: GPL-2.0

//! Names of senders, and which senders are told apart.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{lines, numbers, until_contains, Ncrx, Sender};
use crate::watch::{measured, until_is};

/// Two machines behind one NAT address.
#[test]
fn senders_at_one_address_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let expect = at("expect");
    std::fs::write(&expect, "127.0.0.2\n127.0.0.2:1\n").unwrap();
    let args = format!(
        "--output {} --output {}/{{host}}.log --output syslog:{} --expect {} --expect-after 1s \
         --metrics-per-host",
        at("text").display(),
        dir.path().display(),
        at("syslog").display(),
        expect.display(),
    );
    let (mut ncrx, metrics) = measured(&args);
    let senders = [(); 2].map(|()| Sender::bound("127.0.0.2:0", ncrx.at));
    let other = format!("127.0.0.2:{}", senders[1].at().port());
    for (sender, last) in senders.iter().zip([3, 5]) {
        (1..=last).for_each(|seq| sender.send(seq));
        sender.settle(last, last);
    }
    senders[0].send(4);
    senders[0].settle(4, 4);
    for (name, records) in [("127.0.0.2", 5.0), (&other, 6.0)] {
        let metric = format!("ncrx_host_records_total{{host=\"{name}\"}}");
        until_is(&ncrx, metrics, &metric, |n| n == records);
    }
    // Both match the first entry, which has no port, and none matches the second.
    ncrx.wait_log("127.0.0.2:1 is missing");
    assert!(ncrx.stop().success());
    assert_eq!(numbers(&at("127.0.0.2.log")), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&at(&format!("{other}.log"))), [0, 1, 2, 3, 4, 5]);
    let of = |name: &str| {
        let begin = format!("{name} [");
        let lines = lines(&at("text"));
        lines.iter().filter(|line| line.starts_with(&begin)).count()
    };
    assert_eq!((of("127.0.0.2"), of(&other)), (5, 6));
    let syslog = std::fs::read_to_string(at("syslog")).unwrap();
    let of = |name: &str| syslog.matches(&format!("Z {name} kernel ")).count();
    assert_eq!((of("127.0.0.2"), of(&other)), (5, 6));
}

/// A forged or stray datagram comes first, from the same address.
#[test]
fn a_stray_datagram_takes_no_file_from_the_real_sender() {
    let dir = tempfile::tempdir().unwrap();
    let mut ncrx = Ncrx::start(&format!("--output {}/{{host}}.log", dir.path().display()));
    let stray = Sender::bound("127.0.0.2:0", ncrx.at);
    let at = |name: &str| dir.path().join(format!("{name}.log"));
    stray.send_raw("forged\n");
    until_contains(&at("127.0.0.2"), "forged");
    let real = Sender::bound("127.0.0.2:0", ncrx.at);
    (1..=3).for_each(|seq| real.send(seq));
    real.settle(3, 3);
    stray.send_raw("again\n");
    until_contains(&at(&format!("127.0.0.2:{}", stray.at().port())), "again");
    assert!(ncrx.stop().success());
    assert_eq!(numbers(&at("127.0.0.2")), [0, 1, 2, 3]);
}

#[test]
fn a_session_keeps_its_file_over_a_restart_and_a_new_port() {
    let dir = tempfile::tempdir().unwrap();
    let args = format!(
        "--output {0}/{{host}}.log --state {0}/state",
        dir.path().display()
    );
    let mut ncrx = Ncrx::start(&args);
    let at = ncrx.at;
    let mut sender = Sender::bound("127.0.0.2:0", at);
    (0..=5).for_each(|seq| sender.send(seq));
    sender.settle(5, 5);
    assert!(ncrx.stop().success());
    ncrx = Ncrx::start_at(&at.to_string(), &args);
    let before = sender;
    sender = Sender::bound("127.0.0.2:0", at);
    sender.session = before.session;
    (6..=20).for_each(|seq| sender.send(seq));
    sender.settle(20, 20);
    assert!(ncrx.stop().success());
    let file = dir.path().join("127.0.0.2.log");
    assert_eq!(numbers(&file), Vec::from_iter(0..=20));
}

/// However many strangers have used up the new files of a minute.
#[test]
fn who_hears_us_gets_a_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let args = format!(
        "--output {}/{{host}}.log --new-files 3",
        dir.path().display()
    );
    let mut ncrx = Ncrx::start(&args);
    let at = |n: usize| dir.path().join(format!("127.0.1.{n}.log"));
    for n in 1..=40 {
        let stranger = Sender::bound(&format!("127.0.1.{n}:0"), ncrx.at);
        stranger.send(0);
        stranger.send_raw("a text\n");
    }
    ncrx.wait_log("more have to wait");
    let real = Sender::bound("127.0.0.2:0", ncrx.at);
    let began = Instant::now();
    (0..=30).for_each(|seq| real.send(seq));
    real.settle(30, 30);
    // It would have proven itself by then by its mere session.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        numbers(&dir.path().join("127.0.0.2.log")),
        Vec::from_iter(0..=30)
    );
    assert_eq!((1..=40).filter(|n| at(*n).exists()).count(), 3);
    // The strangers' texts are not lost, but have no place yet.
    assert_eq!(ncrx.stop().code(), Some(1));
}

#[test]
fn names_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [names, expect, allow, log] = ["names", "expect", "allow", "log"].map(at);
    std::fs::write(&names, "127.0.0.2 two\n").unwrap();
    std::fs::write(&expect, "127.0.0.2 two # as in /etc/hosts\n").unwrap();
    std::fs::write(&allow, "127.0.0.2\n").unwrap();
    let args = format!(
        "--output {} --host-names {} --expect {} --expect-after 1s --allow-file {}",
        log.display(),
        names.display(),
        expect.display(),
        allow.display()
    );
    let (mut ncrx, metrics) = measured(&args);
    let two = Sender::bound("127.0.0.2:0", ncrx.at);
    let three = Sender::bound("127.0.0.3:0", ncrx.at);
    two.send(1);
    two.settle(1, 1);
    three.send(1);
    ncrx.wait_log("127.0.0.3 is not in a network");
    until_is(&ncrx, metrics, "ncrx_refused_sources", |n| n == 1.0);
    until_is(&ncrx, metrics, "ncrx_expected_hosts", |n| n == 1.0);
    ncrx.wait_log("two is missing");

    std::fs::write(&names, "127.0.0.2 zwei\n127.0.0.3 drei\n").unwrap();
    std::fs::write(&expect, "drei\nno-such-host.invalid\n").unwrap();
    std::fs::write(&allow, "127.0.0.0/8\n").unwrap();
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_all_log(&["opened anew", "no address of no-such-host.invalid"]);
    two.send(2);
    two.settle(2, 2);
    three.settle(1, 1);
    until_is(&ncrx, metrics, "ncrx_expected_hosts", |n| n == 2.0);
    ncrx.wait_log("no-such-host.invalid is missing");

    // A bad file changes nothing.
    std::fs::write(&names, "nonsense\n").unwrap();
    ncrx.signal(Signal::SIGHUP);
    ncrx.wait_log("line 1");
    three.send(2);
    three.settle(2, 2);
    assert!(ncrx.stop().success());
    let names = lines(&log)
        .into_iter()
        .filter(|line| line.contains("] text"));
    let names: Vec<_> = names
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["two", "two", "zwei", "drei", "drei", "drei"]);
}

/// A name server that does not answer, or an unknown name, delays nothing else.
#[test]
fn a_name_that_is_not_known_counts_as_silent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no-such-host.invalid\n127.0.0.2\n").unwrap();
    let args = format!("--expect {} --expect-after 500ms", file.path().display());
    let (ncrx, metrics) = measured(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    ncrx.wait_log("no-such-host.invalid is missing");
    until_is(&ncrx, metrics, "ncrx_expected_hosts", |n| n == 2.0);
}

#[test]
fn silence_goes_on_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let expect = dir.path().join("expect");
    std::fs::write(&expect, "127.0.0.2\n127.0.0.3\n").unwrap();
    let args = format!(
        "--state {}/state --expect {} --expect-after 3s --metrics-per-host",
        dir.path().display(),
        expect.display()
    );
    let (mut ncrx, _) = measured(&args);
    let sender = Sender::bound("127.0.0.2:0", ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    ncrx.wait_log("127.0.0.2 is missing");
    assert!(ncrx.stop().success());
    let (ncrx, metrics) = measured(&args);
    // The silence from before the restart counts, so the host is missing at once.
    let line = ncrx.wait_log("127.0.0.2 is missing");
    let seconds = line.rsplit("for ").next().unwrap().trim_end_matches(" s");
    assert!(seconds.parse::<u64>().unwrap() >= 3, "{line}");
    let silent = "ncrx_host_silent_seconds{host=\"127.0.0.2\"}";
    until_is(&ncrx, metrics, silent, |n| n >= 3.0);
}

/// Files are named by what is known of senders, and none leads out of the directory.
#[test]
fn files_have_what_is_known_of_senders_in_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("logs/{key:rack}/{date}/{host}-{ip}.log");
    let index = dir.path().join("index").display().to_string();
    let args = format!(
        "--host-key host --index {index} --output {}",
        place.display()
    );
    let mut ncrx = Ncrx::start(&args);
    let say = |address: &str, rack: &str, host: &str| {
        let sender = Sender::bound(&format!("{address}:0"), ncrx.at);
        let session = sender.session;
        for seq in 0..3 {
            let user = format!(" rack={rack}\n host={host}\n");
            sender.send_raw(&format!(
                "6,{seq},{seq},-,ncs={session:016x};text {seq}\n{user}"
            ));
        }
        sender.settle(2, 2);
    };
    say("127.0.0.2", "r7", "web1");
    say("127.0.0.3", "../../r8", "../../../etc/x");
    assert!(ncrx.stop().success());
    let mut found = Vec::new();
    let mut dirs = vec![dir.path().join("logs")];
    while let Some(path) = dirs.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path.strip_prefix(dir.path()).unwrap().to_owned()),
            }
        }
    }
    let names = found.iter().map(|path| path.display().to_string());
    let mut names: Vec<_> = names.collect();
    names.sort();
    let day = |name: &String| name.split('/').nth(2).unwrap().len();
    assert!(
        names.iter().all(|name| day(name) == "2026-01-01".len()),
        "{names:?}"
    );
    let parts = |name: &String| -> Vec<String> { name.split('/').map(Into::into).collect() };
    let parts: Vec<_> = names.iter().map(parts).collect();
    assert_eq!(parts.len(), 2, "{names:?}");
    assert_eq!(
        (&*parts[0][1], &*parts[0][3]),
        ("_._.._r8", "_._.._.._etc_x-127.0.0.3.log")
    );
    assert_eq!((&*parts[1][1], &*parts[1][3]), ("r7", "web1-127.0.0.2.log"));
    let shown = crate::crashes::ask(&["show", "web1", "--index", &index]);
    assert!(shown.contains("text 2"), "{shown}");
    // The boot, which is told of before any record, is that of the name, too.
    let hosts = crate::crashes::ask(&["hosts", "--json", "--index", &index]);
    let hosts = hosts
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let boots: Vec<_> = hosts
        .map(|host: serde_json::Value| (host["host"].to_string(), host["boots"].as_u64()))
        .collect();
    assert!(
        boots.iter().all(|(_, boots)| *boots == Some(1)),
        "{boots:?}"
    );
}
