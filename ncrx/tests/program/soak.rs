// SPDX-License-Identifier: GPL-2.0

//! A long run at a steady rate, over a link that loses, to a file system that fills up and empties
//! again and files that are rotated: `make soak`, for an hour.
//!
//! `NCRX_SECONDS` is another time, `NCRX_RATE` the records a second of all hosts, and `NCRX_SEED`
//! replays the losses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{command, until, Ncrx};
use crate::load::{file, run_at, Found, Load};

const HOSTS: u32 = 100;
/// From one rotation to the next.
const ROTATE: Duration = Duration::from_secs(5);
/// From one time that the file system is full to the next, and for how long it is.
const FILL: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(8));

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    let parsed = value.map(|value| value.parse().ok().expect("a number"));
    parsed.unwrap_or(default)
}

/// The files of a run, as the program's own mounts show them, and what was found in them.
struct Disk {
    dir: PathBuf,
    found: Vec<Found>,
}

impl Disk {
    /// Takes away all files, and has others begun.
    fn rotate(&mut self, ncrx: &Ncrx) {
        for nth in 0..HOSTS {
            // Those of the last time: their writer has left them long ago.
            let old = self.dir.join(file(nth) + ".old");
            if old.exists() {
                self.read(nth, &old);
            }
            let _ = fs::rename(self.dir.join(file(nth)), &old);
        }
        ncrx.signal(Signal::SIGHUP);
    }

    fn read(&mut self, nth: u32, path: &Path) {
        let bytes = fs::read(path).unwrap();
        let whole = bytes.ends_with(b"\n") || bytes.is_empty();
        assert!(whole, "{} ends in the middle of a line", path.display());
        for line in bytes.split(|&c| c == b'\n').filter(|line| !line.is_empty()) {
            self.found[nth as usize].line(nth, line);
        }
        fs::remove_file(path).unwrap();
    }

    /// Uses up all the room.
    fn fill(&self) {
        let ballast = fs::File::create(self.dir.join("ballast")).unwrap();
        let zeros = vec![0; 1 << 16];
        while std::io::Write::write_all(&mut &ballast, &zeros).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.dir.join("ballast")).unwrap();
    }
}

#[test]
#[ignore = "it takes as long as it is told to: make soak"]
fn soak() {
    let seconds: u64 = setting("NCRX_SECONDS", 3600);
    let rate: u64 = setting("NCRX_RATE", 20_000);
    let load = Load {
        hosts: HOSTS,
        records: rate * seconds / u64::from(HOSTS),
        loss: 0.01,
        seed: setting("NCRX_SEED", rand::random()),
    };
    println!("{seconds} s at {rate} records/s, NCRX_SEED={}", load.seed);
    let dir = tempfile::tempdir().unwrap();
    let (mut ncrx, mut disk) = start(dir.path());
    let at = ncrx.at;
    let network = thread::spawn(move || run_at(load, at, rate as f64));
    let times = fill_and_rotate(&ncrx, &mut disk, &network);
    let done = network.join().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", ncrx.child.id())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    let peak = peak.unwrap();
    // All is acknowledged, and so written.
    for nth in 0..HOSTS {
        for name in [file(nth) + ".old", file(nth)] {
            let path = disk.dir.join(name);
            if path.exists() {
                disk.read(nth, &path);
            }
        }
        let all = disk.found[nth as usize].all();
        assert_eq!(all, Some(load.records), "of {}", file(nth));
    }
    ncrx.signal(Signal::SIGTERM);
    until("ncrx ends", || ncrx.child.try_wait().unwrap());
    println!("{done:?}; full {times} times; {peak}");
}

/// Starts the program with a small file system at `dir` that only it sees.
fn start(dir: &Path) -> (Ncrx, Disk) {
    let output = format!("{}/{{host}}.log", dir.display());
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c"]);
    unshare.args(["mount -t tmpfs -o size=96M none \"$0\" && exec \"$@\""]);
    unshare.arg(dir);
    let ncrx = command([
        "--listen",
        "127.0.0.1:0",
        "--queue",
        "4Mi",
        "--output",
        &output,
    ]);
    unshare.arg(ncrx.get_program()).args(ncrx.get_args());
    let ncrx = Ncrx::run(unshare.stdin(Stdio::null()).stdout(Stdio::null()));
    let root = PathBuf::from(format!("/proc/{}/root", ncrx.child.id()));
    let disk = Disk {
        dir: root.join(dir.strip_prefix("/").unwrap()),
        found: (0..HOSTS).map(|_| Found::default()).collect(),
    };
    (ncrx, disk)
}

/// Fills the file system and rotates the files, again and again while the network runs. Returns how
/// often it was full.
fn fill_and_rotate<T>(ncrx: &Ncrx, disk: &mut Disk, network: &thread::JoinHandle<T>) -> u32 {
    let (mut filled, mut full_since) = (Instant::now(), None);
    let (mut rotated, mut times) = (Instant::now(), 0);
    while !network.is_finished() {
        thread::sleep(Duration::from_millis(100));
        match full_since {
            None if filled.elapsed() >= FILL.0 => {
                disk.fill();
                full_since = Some(Instant::now());
                times += 1;
            }
            Some(since) if since.elapsed() >= FILL.1 => {
                disk.empty();
                (filled, full_since) = (Instant::now(), None);
            }
            // While it is full a line may not be whole yet.
            None if rotated.elapsed() >= ROTATE && filled.elapsed() >= ROTATE => {
                disk.rotate(ncrx);
                rotated = Instant::now();
            }
            _ => {}
        }
    }
    if full_since.is_some() {
        disk.empty();
    }
    times
}
