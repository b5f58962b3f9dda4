// SPDX-License-Identifier: GPL-2.0

//! Supervision: allowed senders, expected hosts, metrics.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::{until, Ncrx, Sender};

/// Starts it with metrics, and returns their address.
pub fn measured(args: &str) -> (Ncrx, SocketAddr) {
    let ncrx = Ncrx::start(&format!("--metrics 127.0.0.1:0 {args}"));
    let at = metrics(&ncrx);
    (ncrx, at)
}

/// Returns the address of its metrics.
fn metrics(ncrx: &Ncrx) -> SocketAddr {
    let line = ncrx.wait_log("metrics are at");
    let at = line.split("//").nth(1).unwrap();
    at.trim_end_matches("/metrics").parse().unwrap()
}

/// Waits until a metric has this value.
#[track_caller]
pub fn until_is(ncrx: &Ncrx, at: SocketAddr, metric: &str, is: impl Fn(f64) -> bool) {
    until(metric, || {
        let page = ncrx.scrape(at);
        // That of a host is there once it has been published.
        let line = page.lines().find(|line| line.starts_with(metric))?;
        let value = line.rsplit(' ').next();
        is(value.unwrap().parse().unwrap()).then_some(())
    });
}

#[test]
fn only_who_is_allowed_is_heard() {
    let (ncrx, at) = measured("--allow 127.0.0.2 --allow 127.1.0.0/16");
    let stranger = Sender::new(ncrx.at);
    stranger.send(1);
    stranger.send(2);
    ncrx.wait_log("127.0.0.1 is not in a network of --allow");
    for from in ["127.0.0.2:0", "127.1.2.3:0"] {
        let sender = Sender::bound(from, ncrx.at);
        sender.send(1);
        sender.settle(1, 1);
    }
    until_is(&ncrx, at, "ncrx_refused_total", |n| n == 2.0);
    until_is(&ncrx, at, "ncrx_records_total", |n| n == 4.0);
    assert!(stranger
        .response(std::time::Duration::from_millis(300))
        .is_none());
    // The line was logged once.
    ncrx.no_log("127.0.0.1");
}

#[test]
fn who_is_missing_is_said_once_and_when_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    std::fs::write(&file, "# ours\n127.0.0.2 # the second\n\n127.0.0.3\n").unwrap();
    let args = format!("--expect {} --expect-after 400ms", file.display());
    let (ncrx, at) = measured(&args);
    let line = ncrx.wait_log("is missing");
    let second = if line.contains("127.0.0.2") {
        "127.0.0.3"
    } else {
        "127.0.0.2"
    };
    ncrx.wait_log(&format!("{second} is missing"));
    ncrx.no_log("is missing");
    until_is(&ncrx, at, "ncrx_expected_missing_hosts", |n| n == 2.0);
    // A keepalive is enough to count as heard.
    Sender::bound("127.0.0.3:0", ncrx.at).send_raw("");
    ncrx.wait_log("127.0.0.3 is heard again");
    ncrx.wait_log("127.0.0.3 is missing");
}

#[test]
fn metrics_tell_of_each_host() {
    let (ncrx, at) = measured("--metrics-per-host --workers 2");
    for from in ["127.0.0.2:0", "127.0.0.3:0"] {
        let sender = Sender::bound(from, ncrx.at);
        (1..=3).for_each(|seq| sender.send(seq));
        sender.settle(3, 3);
        // A datagram that is no record is text.
        sender.send_raw("garbage\u{1}");
    }
    until_is(&ncrx, at, "ncrx_records_total", |n| n >= 10.0);
    until_is(
        &ncrx,
        at,
        "ncrx_host_records_total{host=\"127.0.0.2\"}",
        |n| n == 5.0,
    );
    until_is(
        &ncrx,
        at,
        "ncrx_host_records_total{host=\"127.0.0.3\"}",
        |n| n == 5.0,
    );
    until_is(
        &ncrx,
        at,
        "ncrx_host_silent_seconds{host=\"127.0.0.3\"}",
        |n| n < 30.0,
    );
    let page = ncrx.scrape(at);
    assert!(
        page.contains("application/openmetrics-text") && page.ends_with("# EOF\n"),
        "{page}"
    );
}

#[test]
fn what_the_kernel_drops_is_told() {
    let (ncrx, at) = measured("--receive-buffer 4096");
    let sender = Sender::new(ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    ncrx.signal(Signal::SIGSTOP);
    let stat = format!("/proc/{}/stat", ncrx.child.id());
    until("it has stopped", || {
        std::fs::read_to_string(&stat)
            .unwrap()
            .contains(") T ")
            .then_some(())
    });
    (2..=1000).for_each(|seq| sender.send(seq));
    ncrx.signal(Signal::SIGCONT);
    // The kernel reports drops with the next datagram that gets through; dropped records are asked
    // for.
    sender.settle(1000, 1000);
    let line = ncrx.wait_log("the kernel had to drop");
    assert!(line.contains("--receive-buffer"), "{line}");
    until_is(&ncrx, at, "ncrx_kernel_drops_total", |n| n >= 900.0);
}

/// Clients that send nothing, or read nothing, stop no other.
#[test]
fn who_is_forgotten_for_others_is_told() {
    let mut ncrx = Ncrx::start("--max-hosts 10 --output /dev/null");
    let real = Sender::bound("127.0.0.2:0", ncrx.at);
    (0..=20).for_each(|seq| real.send(seq));
    real.settle(20, 20);
    for n in 1..=30 {
        Sender::bound(&format!("127.0.1.{n}:0"), ncrx.at).send(5);
    }
    let line = ncrx.wait_log("--max-hosts");
    assert!(line.contains("--allow"), "{line}");
    assert!(ncrx.stop().success());
}

#[test]
fn slow_clients_do_not_stop_the_metrics() {
    use std::io::Write;
    let (ncrx, at) = measured("--metrics-per-host");
    let connect = || std::net::TcpStream::connect(at).unwrap();
    let silent: Vec<_> = (0..10).map(|_| connect()).collect();
    let mut deaf: Vec<_> = (0..10).map(|_| connect()).collect();
    for client in &mut deaf {
        for _ in 0..100 {
            client
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
        }
    }
    let mut half = connect();
    half.write_all(b"GET /metr").unwrap();
    let sender = Sender::new(ncrx.at);
    sender.send(1);
    sender.settle(1, 1);
    until_is(&ncrx, at, "ncrx_records_total", |n| n == 2.0);
    drop((silent, deaf, half));
}

/// A scrape is answered at once, however many other clients there are.
#[test]
fn many_slow_clients_do_not_delay_a_scrape() {
    use std::io::Write;
    use std::time::{Duration, Instant};
    let (ncrx, at) = measured("");
    let connect = |n: usize| {
        let mut client = std::net::TcpStream::connect(at).unwrap();
        // The first clients may be closed by now.
        let _ = client.write_all(&b"GET /metrics HTTP/1.1\r\n"[..n % 20]);
        client
    };
    let slow: Vec<_> = (0..120).map(connect).collect();
    let began = Instant::now();
    assert!(ncrx.scrape(at).contains("ncrx_records_total 0"));
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    drop(slow);
}

#[test]
fn metrics_tell_of_basic_senders_outputs_and_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let (ncrx, at) = measured(&format!("--output {} --metrics-per-host", file.display()));
    let senders: Vec<_> = (2..12)
        .map(|n| Sender::bound(&format!("127.0.0.{n}:0"), ncrx.at))
        .collect();
    for sender in &senders {
        sender.send_raw("plain\n");
    }
    until_is(&ncrx, at, "ncrx_senders{manner=\"basic\"}", |n| n == 10.0);
    let host = "ncrx_host_records_total{host=\"127.0.0.7\"}";
    until_is(&ncrx, at, host, |n| n == 1.0);
    let label = format!("{{output=\"{}\"}}", file.display());
    for (metric, value) in [
        ("ncrx_output_blocked_since_timestamp_seconds", Some(0.0)),
        ("ncrx_output_failing_files", Some(0.0)),
        ("ncrx_output_queued_bytes", Some(0.0)),
        ("ncrx_output_errors_total", Some(0.0)),
        ("ncrx_output_refused_total", Some(0.0)),
    ] {
        until_is(&ncrx, at, &format!("{metric}{label}"), |n| Some(n) == value);
    }
    for (metric, least) in [
        ("ncrx_build_info{version=", 1.0),
        ("ncrx_evicted_files_total", 0.0),
        ("process_cpu_seconds_total", 0.0),
        ("process_resident_memory_bytes", 1e5),
        ("process_open_fds", 5.0),
        ("process_max_fds", 5.0),
        ("process_start_time_seconds", 1e9),
    ] {
        until_is(&ncrx, at, metric, |n| n >= least);
    }
}

#[test]
fn senders_of_another_run_are_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let args = format!("--workers 3 --state {}", dir.path().display());
    let (mut ncrx, _) = measured(&args);
    let senders: Vec<_> = (2..6)
        .map(|n| Sender::bound(&format!("127.0.0.{n}:0"), ncrx.at))
        .collect();
    for sender in &senders {
        sender.send(1);
        sender.settle(1, 1);
    }
    assert!(ncrx.stop().success());
    let to = ncrx.at;
    let ncrx = Ncrx::start_at(&to.to_string(), &format!("--metrics 127.0.0.1:0 {args}"));
    let at = metrics(&ncrx);
    // A sender that has named its session counts as active.
    let active = "ncrx_senders{manner=\"active\"}";
    until_is(&ncrx, at, active, |n| n == 4.0);
    // One of them sends, to one of the workers.
    senders[0].send(2);
    senders[0].settle(2, 2);
    until_is(&ncrx, at, "ncrx_records_total", |n| n == 1.0);
    until_is(&ncrx, at, active, |n| n == 4.0);
}
