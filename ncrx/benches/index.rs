// SPDX-License-Identifier: GPL-2.0

//! How long people wait: `ncrx crashes` over 100,000 crashes of 300 bugs on 10,000 hosts, and the
//! page over the same. What the index costs: `NCRX_ARGS='--index DIR'` with the bench `load`, and
//! without.

#[allow(dead_code)]
#[path = "../tests/program/harness.rs"]
mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::resource::{getrusage, UsageWho};
use rusqlite::{params, Connection};

use harness::{command, Ncrx};

const CRASHES: i64 = 100_000;
const BUGS: i64 = 300;
const HOSTS: i64 = 10_000;
const RUNS: usize = 11;

/// Fills an index that ncrx has made.
fn fill(index: &Path) {
    let mut db = Connection::open(index.join("index.sqlite")).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let lines: Vec<_> = (0..60)
        .map(|n| (n, n, format!("line {n} of a trace")))
        .collect();
    let lines = serde_json::to_string(&lines).unwrap();
    let tx = db.transaction().unwrap();
    for nth in 0..CRASHES {
        // No order that the database could make use of.
        let (host, bug) = (nth * 7919 % HOSTS, nth * 104_729 % BUGS);
        let title = format!("BUG: unable to handle page fault in foo_{bug}");
        let crash = params![
            format!("host{host:05}"),
            format!("{nth:016x}"),
            nth,
            1_790_000_000_000_000 + nth * 1_000_000,
            format!("{:016x}", bug * 1_000_003),
            title
        ];
        tx.prepare_cached(
            "INSERT INTO crashes (host, address, session, seq, time, signature, kind, title,
             release, missing, complete, fatal)
             VALUES (?1, '10.0.0.1', ?2, ?3, ?4, ?5, 'oops', ?6, '7.3.4', 0, 1, 1)",
        )
        .unwrap()
        .execute(crash)
        .unwrap();
        let id = tx.last_insert_rowid();
        tx.prepare_cached("INSERT INTO reports VALUES (?1, '[]', ?2)")
            .unwrap()
            .execute(params![id, lines])
            .unwrap();
    }
    for host in 0..HOSTS {
        let name = format!("host{host:05}");
        tx.execute(
            "INSERT INTO hosts VALUES (?1, '10.0.0.1', 1, NULL, '7.3.4', 1790000000000000,
             1790000000000000, 500, 0, 0, 3, 4)",
            [&name],
        )
        .unwrap();
        tx.execute(
            "INSERT INTO boots (host, began) VALUES (?1, 1780000000000000)",
            [&name],
        )
        .unwrap();
    }
    tx.commit().unwrap();
}

fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 OK"), "{answer}");
    answer
}

/// Prints the median time of this, and the CPU time of children that have ended.
fn time(what: &str, mut run: impl FnMut() -> usize) {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let of = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        of(usage.user_time()) + of(usage.system_time())
    };
    let (mut times, mut bytes, before) = (Vec::new(), 0, cpu());
    for _ in 0..RUNS {
        let began = Instant::now();
        bytes = run();
        times.push(began.elapsed());
    }
    times.sort();
    let spent = 1e3 * (cpu() - before) / RUNS as f64;
    println!(
        "{what}: {:.0?} (the least {:.0?}), {bytes} bytes, {spent:.0} ms of CPU of its own process",
        times[RUNS / 2],
        times[0]
    );
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index").display().to_string();
    let ncrx = Ncrx::start(&format!("--index {index} --web 127.0.0.1:0"));
    let line = ncrx.wait_log("the page is at");
    let at = line.split("//").nth(1).unwrap().trim_end_matches('/');
    let at: SocketAddr = at.parse().unwrap();
    fill(Path::new(&index));
    let ask = |args: &[&str]| {
        let output = command(args)
            .args(["--index", &index])
            .stdout(Stdio::piped())
            .output();
        let output = output.unwrap();
        assert!(output.status.success());
        output.stdout.len()
    };
    time("ncrx crashes", || ask(&["crashes"]));
    time("ncrx crashes --host", || {
        ask(&["crashes", "--host", "host00007"])
    });
    time("ncrx hosts", || ask(&["hosts"]));
    // All that a browser asks for at first.
    let paths = [
        "/",
        "/page.js",
        "/page.css",
        "/api/hosts",
        "/api/crashes",
        "/api/history",
    ];
    time("the page", || {
        paths.iter().map(|path| get(at, path).len()).sum()
    });
    time("hosts with a text", || {
        get(at, "/api/hosts?q=host0999&sort=rate").len()
    });
}
