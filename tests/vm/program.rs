// SPDX-License-Identifier: GPL-2.0

//! The program `ncrx` from end to end: it writes the records of the guest's `/dev/kmsg`, and tells
//! what has crashed.
//!
//! It listens on this machine's loopback. A bridge carries datagrams between that and the wire, on
//! which every fifth is lost, and keeps the last number that was acknowledged to the guest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nctest::collector::contains;
use nctest::env::{self, Guest};
use nctest::logger::Logger;
use nctest::qemu::NicModel;
use nctest::vm::VmConfig;
use nctest::wire::faults::Faults;
use nctest::wire::{Direction, Sender, Wire};
use nctest_guest::Burst;
use nix::sys::signal::{kill, Signal};
use nix::sys::socket::{shutdown, Shutdown};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::crash::{detached, mortal};
use crate::reliable::kmsg;
use crate::scene::{module_name, Scene, HOST, PORT, SOON};
use crate::trial::{config, trial, trial_with, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial_with("end_to_end", a_card_more, end_to_end),
        trial_with("killed", a_card_more, killed),
        trial("first_contact", first_contact),
        trial_with("two_bugs_on_three_hosts", apart, two_bugs_on_three_hosts),
    ]
}

/// The longest that the guest and ncrx may take for all records.
const LIMIT: Duration = Duration::from_secs(120);

/// A record that is not in the ring comes without its dictionary when it is asked for again; and
/// the last record is not asked for before there is an emergency.
const PARAMETERS: &str = "log_buf_kb=8192 ack_timeout_ms=1000";

/// Adds a card whose driver logs records with a dictionary.
fn a_card_more(config: &mut VmConfig) -> Result<()> {
    config.nics.push(NicModel::E1000);
    Ok(())
}

/// Records of a driver, of unprivileged writers with any priority, and of all bytes.
const ALL_KINDS: &str = r#"
    (cd /sys/bus/pci/drivers/e1000
     for device in 0000:*; do echo $device > unbind; echo $device > bind; done)
    chmod 666 /dev/kmsg
    echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
    for writer in 1 2 3; do
        su nobody -c "for i in \$(seq 100); do
            echo \"<\$((i % 24 * 8 + i % 8))>writer $writer of \$(id -u): \$i \\\\ \\\" ; , =\" > /dev/kmsg
        done" &
    done
    wait
    printf 'junk: \001\033\177\200\377 \303\274 \342\202\254 a\tb\n' > /dev/kmsg
"#;

/// Everything is written as it is in `/dev/kmsg`, each record once and in order.
fn end_to_end(scene: &mut Scene) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut program = Program::start(&directory, 0)?;
    let bridge = Bridge::build(scene.wire(), program.port);
    lossy(scene, 0.2);
    scene.load_with(&format!("+@/eth0,@{HOST}/"), PARAMETERS)?;
    scene.sh(ALL_KINDS)?;
    let burst = Burst::new(3_000, scene.seed, "burst").with_long(50);
    scene.vm.agent.log(&burst, LIMIT)?;
    scene.log("the end of all")?;
    let last = scene.newest()?;
    bridge.wait_for_ack(last)?;
    program.end(Signal::SIGTERM)?;

    let log = kmsg(scene)?;
    has(&log, b"\n SUBSYSTEM=pci\n")?;
    has(&log, b";writer 3 of 65534: 100 ")?;
    has(&log, b"\\x1b\\x7f")?;
    let written = program.written()?;
    equal(&written, &log)?;
    // The module's own lines about an emergency may come after the last one.
    ensure!(
        written.len() as u64 > last,
        "only {} records",
        written.len()
    );
    for ((seq, _), next) in written.iter().zip(0..) {
        ensure!(*seq == next, "record {seq} instead of {next}");
    }
    println!(
        "program_end_to_end: {} records; seed {}",
        written.len(),
        scene.seed
    );
    finish(scene, &bridge)
}

/// A receiver that hears of a sender for the first time asks for no record that is on its way: on a
/// wire that loses nothing each comes about once.
fn first_contact(scene: &mut Scene) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut program = Program::start(&directory, 0)?;
    let bridge = Bridge::build(scene.wire(), program.port);
    let from = scene.wire().captured();
    scene.load(&format!("+@/eth0,@{HOST}/"))?;
    let burst = Burst::new(300, scene.seed, "burst");
    scene.vm.agent.log(&burst, LIMIT)?;
    scene.log("the end of all")?;
    let last = scene.newest()?;
    bridge.wait_for_ack(last)?;
    let sent = scene.wire().sent_by_guest(from);
    // An empty datagram is a keepalive.
    let count = sent.iter().filter(|udp| !udp.payload.is_empty()).count();
    let records = last + 1;
    println!(
        "first_contact: {count} datagrams for {records} records; seed {}",
        scene.seed
    );
    ensure!(
        count as f64 <= records as f64 * 1.1,
        "{count} for {records}"
    );
    program.end(Signal::SIGTERM)?;
    finish(scene, &bridge)
}

/// ncrx is killed while it writes, again and again: all records that it has acknowledged are in the
/// file, the rest comes, and none is written twice that was there when its state was saved.
fn killed(scene: &mut Scene) -> Result<()> {
    const KILLS: u64 = 3;
    let directory = tempfile::tempdir()?;
    let mut program = Program::start(&directory, 0)?;
    let bridge = Bridge::build(scene.wire(), program.port);
    lossy(scene, 0.2);
    scene.load_with(&format!("+@/eth0,@{HOST}/"), PARAMETERS)?;
    // The number of records written at each orderly end, and the last of them.
    let mut saved = Vec::new();
    for n in 0..KILLS {
        let before = scene.newest()?;
        bridge.wait_for_ack(before)?;
        program.end(Signal::SIGTERM)?;
        saved.push((program.written()?.len(), before));
        program = program.again(&directory)?;

        let burst = Burst::new(1_500, scene.seed + n, &format!("burst {n}")).with_long(50);
        scene.vm.agent.log(&burst, LIMIT)?;
        bridge.wait_for_ack(before + 300)?;
        program.end(Signal::SIGKILL)?;
        let acked = bridge.acked().context("nothing is acknowledged")?;
        let written: BTreeSet<u64> = program.written()?.into_iter().map(|r| r.0).collect();
        let missing = (0..=acked).find(|seq| !written.contains(seq));
        ensure!(
            missing.is_none(),
            "record {missing:?} is not written, and all up to {acked} are acknowledged"
        );
        println!("program_killed: in record {acked} of {}", before + 1_500);
        program = program.again(&directory)?;
    }
    scene.log("the end of all")?;
    let last = scene.newest()?;
    bridge.wait_for_ack(last)?;
    program.end(Signal::SIGTERM)?;

    let written = program.written()?;
    equal(&written, &kmsg(scene)?)?;
    let mut next = 0;
    for (seq, _) in &written {
        // Records that were written after the state was saved come again, in order.
        ensure!(*seq <= next, "record {seq} instead of {next}");
        next = seq + 1;
    }
    ensure!(next > last, "all before {next}, but not {last}");
    for (many, before) in saved {
        let again = written[many..].iter().find(|(seq, _)| *seq <= before);
        ensure!(again.is_none(), "{again:?} again, after {before}");
    }
    println!(
        "program_killed: {next} records, and {} again; seed {}",
        written.len() as u64 - next,
        scene.seed
    );
    finish(scene, &bridge)
}

/// Configures a guest that survives an oops, and shares no session with others: guests that go on
/// from one snapshot have the same random numbers in store.
fn apart(config: &mut VmConfig) -> Result<()> {
    config.from_snapshot = false;
    mortal(config)
}

/// Three machines crash, two of them by one bug; each says in its userdata what it is called.
fn two_bugs_on_three_hosts(scene: &mut Scene) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let index = directory.path().join("index").display().to_string();
    let more = ["--host-key", "host", "--index", &index];
    let mut program = Program::start_with(&directory, 0, &more)?;
    crash(scene, &program, "web1", "EXCEPTION")?;
    for (host, bug) in [("web2", "BUG"), ("web3", "EXCEPTION")] {
        let name = format!("program::two_bugs_on_three_hosts_{host}");
        let mut other = config(&name, Guest::test()?, scene.seed);
        apart(&mut other)?;
        let mut other = Scene::set(other)?;
        crash(&mut other, &program, host, bug)?;
        other.vm.check()?;
    }
    program.end(Signal::SIGTERM)?;

    let mut bugs = Vec::new();
    for bug in ask(&["crashes", "--json", "--index", &index])? {
        let complete = ask(&[
            "crash",
            text(&bug, "signature")?,
            "--json",
            "--index",
            &index,
        ])?;
        ensure!(complete[0]["complete"] == true, "{complete:?}");
        bugs.push(format!(
            "{} {}: {}",
            bug["count"],
            bug["hosts"],
            text(&bug, "title")?
        ));
    }
    bugs.sort();
    let null = "2 2: BUG: unable to handle kernel NULL pointer dereference in lkdtm_EXCEPTION";
    ensure!(bugs == ["1 1: kernel BUG in lkdtm_BUG", null], "{bugs:#?}");
    let mut hosts = Vec::new();
    for host in ask(&["hosts", "--json", "--index", &index])? {
        ensure!(host["boots"] == 1 && host["crashes"] == 1, "{host}");
        hosts.push(text(&host, "host")?.to_owned());
    }
    hosts.sort();
    ensure!(hosts == ["web1", "web2", "web3"], "{hosts:?}");
    Ok(())
}

/// Has a guest, which is called so, crash by this bug of LKDTM's, of which it does not die; returns
/// when all that it has said of that is acknowledged.
fn crash(scene: &mut Scene, program: &Program, host: &str, bug: &str) -> Result<()> {
    let bridge = Bridge::build(scene.wire(), program.port);
    scene.load("")?;
    scene.sh(&format!(
        "set -e; insmod /lkdtm.ko; cd /sys/kernel/config/{}; mkdir tgt; cd tgt
         echo 1 > extended; echo eth0 > dev_name; echo {HOST} > remote_ip
         mkdir userdata/host; echo {host} > userdata/host/value; echo 1 > enabled",
        module_name()
    ))?;
    let said = scene.vm.serial.len();
    detached(
        scene,
        &format!("echo {bug} > /sys/kernel/debug/provoke-crash/DIRECT"),
    )?;
    scene.vm.serial.wait_for("---[ end trace", said, SOON)?;
    scene.log("and all goes on")?;
    let last = scene.newest()?;
    bridge.wait_for_ack(last)
}

/// Returns the lines of JSON that `ncrx` answers.
fn ask(args: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new(env::ncrx()?).args(args).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ncrx {args:?}: {error}");
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Returns a text of an object.
fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str> {
    let text = object[key].as_str();
    text.with_context(|| format!("no {key} in {object}"))
}

/// Sets the share of frames that are lost, in both directions.
fn lossy(scene: &Scene, loss: f64) {
    let faults = Faults {
        loss,
        ..Faults::default()
    };
    for way in [Direction::FromGuest, Direction::ToGuest] {
        scene.wire().set_faults(way, faults);
    }
}

/// Checks that some record has these bytes, without which the test would show little.
fn has(log: &BTreeMap<u64, Vec<u8>>, bytes: &[u8]) -> Result<()> {
    let found = log.values().any(|record| contains(record, bytes));
    ensure!(found, "no record has {}", bytes.escape_ascii());
    Ok(())
}

/// Checks that all written records are in the log, byte for byte.
fn equal(written: &[(u64, Vec<u8>)], log: &BTreeMap<u64, Vec<u8>>) -> Result<()> {
    for (seq, ours) in written {
        let theirs = log.get(seq).map(|record| record.escape_ascii().to_string());
        let ours = ours.escape_ascii().to_string();
        ensure!(
            theirs.as_ref() == Some(&ours),
            "record {seq} is\n  {ours}\ninstead of\n  {theirs:?}"
        );
    }
    Ok(())
}

/// Checks that all datagrams were well formed, nothing was lost, and nothing was complained of.
fn finish(scene: &mut Scene, bridge: &Bridge) -> Result<()> {
    let errors = bridge.logger.lock().errors.clone();
    ensure!(errors.is_empty(), "{errors:?}");
    lossy(scene, 0.0);
    scene.unload_and_settle()
}

/// A running `ncrx`, whose output and state are in a directory.
struct Program {
    child: Child,
    /// A channel that is closed when ncrx has ended.
    ended: Receiver<()>,
    port: u16,
    output: PathBuf,
}

impl Program {
    /// Starts it, and waits until it listens: at this port, or at any if it is 0.
    fn start(directory: &TempDir, port: u16) -> Result<Self> {
        Self::start_with(directory, port, &[])
    }

    /// The same, with more options.
    fn start_with(directory: &TempDir, port: u16, more: &[&str]) -> Result<Self> {
        let output = directory.path().join("records.json");
        let mut child = Command::new(env::ncrx()?)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--format", "json"])
            .args(["--json-kmsg", "--output"])
            .arg(&output)
            .arg("--state")
            .arg(directory.path().join("state"))
            .args(more)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let port = loop {
            let line = lines.next().context("ncrx has ended")??;
            if let Some((_, at)) = line.split_once("listening on ") {
                break at.parse::<SocketAddr>()?.port();
            }
        };
        let (running, ended) = channel::<()>();
        thread::spawn(move || {
            let _running = running;
            // Later lines of ncrx go to the trial's output.
            lines
                .map_while(Result::ok)
                .for_each(|line| println!("ncrx: {line}"));
        });
        Ok(Self {
            child,
            ended,
            port,
            output,
        })
    }

    /// Starts it again, on the same port.
    fn again(&self, directory: &TempDir) -> Result<Self> {
        Self::start(directory, self.port)
    }

    /// Ends it by this signal.
    fn end(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), signal)?;
        let ended = self.ended.recv_timeout(SOON);
        ensure!(ended == Err(RecvTimeoutError::Disconnected), "it goes on");
        let status = self.child.wait()?;
        let right = status.success() == (signal == Signal::SIGTERM);
        ensure!(right, "{status} after {signal}");
        Ok(())
    }

    /// Returns the numbers and the bytes of all records that it has written, but for one that was
    /// being written when it was killed. Fails if anything else is wrong with a line.
    fn written(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let text = fs::read_to_string(&self.output)?;
        let mut records = Vec::new();
        for line in text.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                ensure!(line.starts_with('{') && !line.ends_with('}'), "{line:?}");
                continue;
            };
            if let Some(event) = value.get("event") {
                ensure!(event != "gap", "{line}");
                continue;
            }
            let odd = ["late", "partial", "plain"]
                .iter()
                .find(|key| value[**key] != false);
            ensure!(odd.is_none(), "{odd:?}: {line}");
            let seq = value["seq"].as_u64().context("no seq")?;
            let kmsg = value["kmsg"].as_str().context("no kmsg")?;
            records.push((seq, kmsg.as_bytes().to_vec()));
        }
        Ok(records)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last number that was acknowledged to the guest.
type Acked = Arc<(Mutex<Option<u64>>, Condvar)>;

/// Carries datagrams for [`PORT`] of the wire's hosts to a port of this machine's loopback, and the
/// answers back. Each end in the guest has a socket of its own here.
struct Bridge {
    /// The records that have passed, as an independent receiver sees them.
    logger: Logger,
    acked: Acked,
    sockets: Arc<Mutex<HashMap<SocketAddr, UdpSocket>>>,
}

impl Bridge {
    fn build(wire: &Wire, port: u16) -> Self {
        let (acked, sockets) = (
            Acked::default(),
            Arc::<Mutex<HashMap<_, UdpSocket>>>::default(),
        );
        let (acks, ends, wire_end) = (Arc::clone(&acked), Arc::clone(&sockets), wire.sender());
        let logger = Logger::attach_with(
            wire,
            PORT,
            Box::new(move |_, udp, _| {
                let mut ends = ends.lock().unwrap();
                let socket = ends.entry(udp.from).or_insert_with(|| {
                    let socket = connected(port).expect("sockets on the loopback");
                    let back = socket.try_clone().expect("another handle of it");
                    let (wire, acks) = (wire_end.clone(), Arc::clone(&acks));
                    let ends = (udp.to, udp.from);
                    thread::spawn(move || carry_back(&back, &wire, ends, &acks));
                    socket
                });
                // A datagram is refused, and so lost, while ncrx does not run.
                let _ = socket.send(&udp.payload);
                Vec::new()
            }),
        );
        Self {
            logger,
            acked,
            sockets,
        }
    }

    fn acked(&self) -> Option<u64> {
        *self.acked.0.lock().unwrap()
    }

    fn wait_for_ack(&self, seq: u64) -> Result<()> {
        let acked = self.acked.0.lock().unwrap();
        let missing = |acked: &mut Option<u64>| *acked < Some(seq);
        let waited = self.acked.1.wait_timeout_while(acked, LIMIT, missing);
        let (acked, timeout) = waited.unwrap();
        ensure!(
            !timeout.timed_out(),
            "record {seq} was not acknowledged within {LIMIT:?}, but {:?}",
            *acked
        );
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // This wakes up the threads, which wait for datagrams.
        if let Ok(sockets) = self.sockets.lock() {
            for socket in sockets.values() {
                let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            }
        }
    }
}

/// Returns a socket that sends to and receives from this port of the loopback.
fn connected(port: u16) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    Ok(socket)
}

/// Carries datagrams from the program to the guest, until the socket is shut down.
fn carry_back(
    socket: &UdpSocket,
    wire: &Sender,
    (from, to): (SocketAddr, SocketAddr),
    acked: &Acked,
) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                let response = &buffer[..len];
                if let Some(ack) = ack(response) {
                    let mut last = acked.0.lock().unwrap();
                    *last = (*last).max(Some(ack));
                    acked.1.notify_all();
                }
                let _ = wire.send_udp(from, to, response);
            }
            // ncrx does not run at the moment.
            Err(_) => {}
        }
    }
}

/// Returns the record that a response acknowledges.
fn ack(response: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(response).ok()?;
    text.strip_prefix("nca")?.split(' ').next()?.parse().ok()
}
