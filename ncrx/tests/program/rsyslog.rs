// SPDX-License-Identifier: GPL-2.0

//! The program in front of `rsyslogd`, by TCP, as its help shows it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::harness::{command, until, Ncrx, Sender};

const RSYSLOGD: &str = "/usr/sbin/rsyslogd";

/// All that comes by TCP, as rsyslog takes it apart, a line of JSON each.
const CONFIG: &str = r#"
global(workDirectory="DIR" maxMessageSize="64k")
module(load="imtcp")
template(name="all" type="list" option.jsonf="on") {
	property(outname="host" name="hostname" format="jsonf")
	property(outname="app" name="app-name" format="jsonf")
	property(outname="priority" name="pri" format="jsonf")
	property(outname="data" name="structured-data" format="jsonf")
	property(outname="text" name="msg" format="jsonf")
}
ruleset(name="all") { action(type="omfile" file="DIR/out" template="all") }
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="DIR/port" ruleset="all")
"#;

/// `rsyslogd`, killed when this is dropped.
struct Rsyslog(Child);

impl Rsyslog {
    fn start(dir: &Path) -> (Self, TcpStream) {
        let config = CONFIG.replace("DIR", dir.to_str().unwrap());
        std::fs::write(dir.join("conf"), config).unwrap();
        let mut rsyslogd = Command::new(RSYSLOGD);
        let rsyslogd = rsyslogd
            .args(["-n", "-f"])
            .arg(dir.join("conf"))
            .arg("-i")
            .arg(dir.join("pid"));
        let child = rsyslogd.stderr(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|e| panic!("{RSYSLOGD}: {e} (Debian: apt-get install rsyslog)"));
        let this = Self(child);
        let stream = until("rsyslogd listens", || {
            let port = std::fs::read_to_string(dir.join("port")).ok()?;
            let port: u16 = port.trim().parse().ok()?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        (this, stream)
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rsyslog_has_all_records() {
    let dir = tempfile::tempdir().unwrap();
    let (_rsyslog, mut stream) = Rsyslog::start(dir.path());
    let mut ncrx = command(["--listen", "127.0.0.1:0", "--format", "syslog"]);
    let mut ncrx = Ncrx::run(ncrx.args(["--output", "-"]).stdout(Stdio::piped()));
    let mut lines = ncrx.child.stdout.take().unwrap();
    let nc = thread::spawn(move || io::copy(&mut lines, &mut stream).unwrap());
    // Two machines, of whose records some are missing at first.
    let senders = ["127.0.0.2:0", "127.0.0.3:0"].map(|from| Sender::bound(from, ncrx.at));
    for seq in (1..=100).filter(|seq| seq % 9 != 5) {
        senders.iter().for_each(|sender| sender.send(seq));
    }
    for sender in &senders {
        sender.settle(100, 100);
    }
    // All that could break a line of syslog apart.
    let odd = "30,101,101000,-,caller=T7,ncs=SESSION;caf\u{e9} \"]\\x0a<0>1 - - - - - - x\n \
               DEVICE=c\"1]:\\x5c3\n";
    let session = format!("{:016x}", senders[0].session);
    senders[0].send_raw(&odd.replace("SESSION", &session));
    senders[0].settle(100, 101);
    assert!(ncrx.stop().success());
    nc.join().unwrap();

    let text = until("rsyslog has all", || {
        let text = std::fs::read_to_string(dir.path().join("out")).ok()?;
        (text.matches("log begins").count() + text.matches("\"kernel\"").count() >= 205)
            .then_some(text)
    });
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| entry[name].as_str().unwrap().to_owned();
        if field("app") != "kernel" {
            assert_eq!(
                (field("app"), field("priority")),
                ("ncrx".into(), "45".into())
            );
            continue;
        }
        let data = field("data");
        let seq = data
            .split_once("seq=\"")
            .unwrap()
            .1
            .split_once('"')
            .unwrap()
            .0;
        let seq = seq.parse::<u64>().unwrap();
        found.entry(field("host")).or_default().push(seq);
        if seq < 101 {
            assert_eq!(
                (field("priority"), field("text")),
                ("6".into(), format!("text {seq}"))
            );
            continue;
        }
        assert_eq!(field("priority"), "30", "{entry}");
        assert_eq!(
            field("text"),
            "\u{feff}caf\u{e9} \"]\\x0a<0>1 - - - - - - x",
            "{entry}"
        );
        assert!(data.contains("caller=\"T7\""), "{entry}");
        assert!(data.contains(r#"DEVICE="c\"1\]:\x5c3""#), "{entry}");
    }
    let of = |host: &str| found[host].clone();
    assert_eq!(of("127.0.0.2"), Vec::from_iter(0..=101));
    assert_eq!(of("127.0.0.3"), Vec::from_iter(0..=100));
}
