// SPDX-License-Identifier: GPL-2.0

//! The program itself, on the loopback interface: many hosts over a link that loses, with all
//! output compared; then the throughput of a core if nothing is lost.
//!
//! `scripts/cargo.sh bench -p ncrx --bench load` runs both, `... -- lossy` only runs with this in
//! their name. `NCRX_HOSTS`, `NCRX_RECORDS` (of all hosts), `NCRX_LOSS` (percent, both ways) and
//! `NCRX_ARGS` (further options of the program) set the load, `NCRX_SEED` replays the losses.
//!
//! `NCRX_NETCONSD=$(scripts/netconsd.sh) scripts/cargo.sh bench -p ncrx --bench load -- beside` has
//! Debian's netconsd take the same, in turn: all records of all hosts, to one file, from senders
//! that hear nothing and send only as fast as netconsd's socket has room.
//!
//! A record is about 120 bytes, one in 64 comes in fragments. A second of CPU is the program's own,
//! from its start to its end; the kernel's work to deliver a datagram on this interface counts as
//! the senders'.

#[allow(dead_code)]
#[path = "../tests/program/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../tests/common/load.rs"]
mod load;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{getrusage, Usage, UsageWho};
use nix::sys::signal::{kill, Signal};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use harness::{command, until, Ncrx};
use load::{run, send_once, verify, Done, Load};

/// Returns the value of an environment variable, or a default.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let Ok(value) = std::env::var(name) else {
        return default;
    };
    let parsed = value.parse().ok();
    parsed.unwrap_or_else(|| panic!("{name}={value} is no number"))
}

fn main() {
    let lossy = Load {
        hosts: setting("NCRX_HOSTS", 1000),
        records: 0,
        loss: setting("NCRX_LOSS", 5.0) / 100.0,
        seed: setting("NCRX_SEED", rand::random()),
    };
    let lossy = Load {
        records: (setting("NCRX_RECORDS", 1_000_000) / u64::from(lossy.hosts)).max(1),
        ..lossy
    };
    let good = Load { loss: 0.0, ..lossy };
    println!(
        "{} hosts, {} records of each, NCRX_SEED={}",
        lossy.hosts, lossy.records, lossy.seed
    );
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("{host}.log").display().to_string();
    let file = dir.path().join("all").display().to_string();
    let runs = [
        ("lossy, text to a file a host", lossy, files.clone()),
        ("lossless, text to a file a host", good, files),
        ("lossless, text to /dev/null", good, "/dev/null".into()),
        ("lossless, text to a file", good, file.clone()),
        ("lossless, json to /dev/null", good, "json:/dev/null".into()),
        ("lossless, json to a file", good, format!("json:{file}")),
    ];
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if let Some(netconsd) = std::env::var_os("NCRX_NETCONSD") {
        return beside(good, &PathBuf::from(netconsd), dir.path());
    }
    for (name, load, output) in runs {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted)) {
            println!("{name}:");
            measure(load, &output);
            if output.contains("{host}") {
                verify(load, dir.path());
                println!("  every record is there, once and in order");
            }
            empty(dir.path());
        }
    }
}

/// Runs the program with this output under this load, and prints the cost.
fn measure(load: Load, output: &str) {
    let args = std::env::var("NCRX_ARGS").unwrap_or_default();
    let before = children();
    let mut ncrx = Ncrx::run(
        command(["--listen", "127.0.0.1:0", "--output", output]).args(args.split_whitespace()),
    );
    let done = run(load, ncrx.at);
    let memory = peak_memory(ncrx.child.id());
    assert!(ncrx.stop().success());
    let after = children();
    let spent = |of: fn(&Usage) -> TimeVal| {
        let spent = of(&after) - of(&before);
        Duration::from_micros(spent.tv_sec() as u64 * 1_000_000 + spent.tv_usec() as u64)
    };
    let (user, system) = (spent(Usage::user_time), spent(Usage::system_time));
    let records = load.records as f64 * f64::from(load.hosts);
    println!(
        "  {:.0} records/s ({:.2?}), {:.0} a second of CPU ({:.2?}, {:.0} % of it in the kernel), \
         {memory} at most",
        records / done.took.as_secs_f64(),
        done.took,
        records / (user + system).as_secs_f64(),
        user + system,
        100.0 * system.as_secs_f64() / (user + system).as_secs_f64(),
    );
    println!(
        "  {} datagrams, {} of them again; {} responses; lost: {} by the dice, {} by the socket",
        done.datagrams, done.again, done.responses, done.lost, done.dropped
    );
}

/// How often each of the two has its turn.
const TURNS: usize = 3;

/// Both programs in turn, each with a text file of all records.
fn beside(load: Load, netconsd: &Path, dir: &Path) {
    // The receive buffer that netconsd has, and half of it: a bit more may come at once.
    let default = std::fs::read_to_string("/proc/sys/net/core/rmem_default").unwrap();
    let waiting = default.trim().parse::<u64>().unwrap() / 2;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let file = dir.join("ncrx");
        let output = file.display().to_string();
        let mut ncrx = Ncrx::run(command(["--listen", "127.0.0.1:0"]).args(["--output", &output]));
        let before = children();
        let done = send_once(load, ncrx.at, waiting);
        assert!(ncrx.stop().success());
        ours.push(told("ncrx", load, &before, done, &file));

        let file = dir.join("netconsd");
        let at = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, at.unwrap().port()));
        let mut command = Command::new(netconsd.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(netconsd.join("usr/lib/x86_64-linux-gnu"));
        command.arg(netconsd.join("usr/bin/netconsd"));
        command.args(["-u", &at.port().to_string()]);
        command.arg(netconsd.join("usr/libexec/netconsd/printer.so"));
        command
            .stdout(File::create(&file).unwrap())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("netconsd listens", || {
            let table = std::fs::read_to_string("/proc/net/udp6").unwrap();
            table
                .contains(&format!(":{:04X} ", at.port()))
                .then_some(())
        });
        let before = children();
        let done = send_once(load, at, waiting);
        // Its threads may have some to write.
        std::thread::sleep(Duration::from_secs(1));
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        theirs.push(told("netconsd", load, &before, done, &file));
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!(
        "  the medians: {ours:.2} us of CPU a record, and netconsd's {theirs:.2}: {:.2} of it",
        ours / theirs
    );
}

/// Prints what one of them took, and returns the microseconds of CPU that a record took.
fn told(name: &str, load: Load, before: &Usage, done: Done, file: &Path) -> f64 {
    let after = children();
    let micros = |of: TimeVal| (of.tv_sec() * 1_000_000 + of.tv_usec()) as f64;
    let user = micros(after.user_time() - before.user_time());
    let system = micros(after.system_time() - before.system_time());
    let records = load.records as f64 * f64::from(load.hosts);
    let text = std::fs::read(file).unwrap();
    let lines = text.split(|&c| c == b'\n').filter(|line| !line.is_empty());
    println!(
        "  {name}: {:.2} us of CPU a record ({:.0} % of it in the kernel), {:.2?}; {} lines; {} \
         datagrams dropped by the socket",
        (user + system) / records,
        100.0 * system / (user + system),
        done.took,
        lines.count(),
        done.dropped
    );
    std::fs::remove_file(file).unwrap();
    (user + system) / records
}

fn children() -> Usage {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap()
}

/// Returns the most memory that this process has had at a time.
fn peak_memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap().trim().into()
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
}
