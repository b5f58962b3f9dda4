// SPDX-License-Identifier: GPL-2.0

//! Numbers for Prometheus. Workers leave a copy of theirs once a second, and never wait for those
//! who read them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use foldhash::HashMap;
use ncrx::{Manner, Receiver, Sender, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{text, DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tiny_http::{Header, Response, Server};

use crate::expect::Expect;
use crate::names::Names;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a worker counts, besides its receiver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Datagrams that the kernel had no room for.
    pub kernel_drops: u64,
    /// Datagrams of senders that are not allowed.
    pub refused: u64,
    /// Responses that could not be sent.
    pub send_errors: u64,
    /// Times that an output could not be written.
    pub write_errors: u64,
}

/// What there is of a worker.
#[derive(Debug, Default)]
struct Snapshot {
    stats: Stats,
    counters: Counters,
    missing: u64,
    bytes: u64,
    /// The port that the worker listens at, and who writes there: all whom it has heard, and those
    /// whom another run has.
    port: u16,
    senders: Vec<Sender>,
}

/// All numbers of all workers.
#[derive(Debug)]
pub struct Metrics {
    workers: Vec<Mutex<Snapshot>>,
    expect: Option<Arc<Expect>>,
    names: Arc<Names>,
    per_host: bool,
}

impl Metrics {
    /// For so many workers.
    pub fn new(
        workers: usize,
        expect: Option<Arc<Expect>>,
        names: Arc<Names>,
        per_host: bool,
    ) -> Self {
        let workers = (0..workers).map(|_| Mutex::default()).collect();
        Self {
            workers,
            expect,
            names,
            per_host,
        }
    }

    /// A worker's numbers. If somebody reads them just now they wait for the next time.
    pub fn publish(&self, worker: usize, port: u16, receiver: &Receiver, counters: Counters) {
        let Ok(mut snapshot) = self.workers[worker].try_lock() else {
            return;
        };
        let snapshot = &mut *snapshot;
        snapshot.stats = *receiver.stats();
        snapshot.counters = counters;
        snapshot.bytes = receiver.bytes() as u64;
        snapshot.port = port;
        snapshot.senders.clear();
        snapshot.senders.extend(receiver.senders());
        let missing = snapshot.senders.iter().map(|sender| sender.missing);
        snapshot.missing = missing.sum();
    }

    /// Answers whoever asks for them, for ever.
    pub fn serve(self: Arc<Self>, server: Server) {
        let mut registry = Registry::with_prefix("ncrx");
        registry.register_collector(Box::new(self));
        for request in server.incoming_requests() {
            let mut page = String::new();
            let (status, kind) = match request.url().split('?').next() {
                Some("/metrics") => match text::encode(&mut page, &registry) {
                    Ok(()) => (200, CONTENT_TYPE),
                    Err(_) => (500, "text/plain"),
                },
                _ => {
                    page.push_str("They are at /metrics.\n");
                    (404, "text/plain")
                }
            };
            let mut response = Response::from_string(page).with_status_code(status);
            if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                response.add_header(header);
            }
            // Who does not wait for the answer does not want it.
            drop(request.respond(response));
        }
    }

    fn sum(&self, of: impl Fn(&Snapshot) -> u64) -> u64 {
        self.workers
            .iter()
            .filter_map(|worker| worker.lock().ok())
            .map(|snapshot| of(&snapshot))
            .sum()
    }

    /// Senders by manner: unknown, active, passive. Each worker knows all that the state names, but
    /// only one hears each of them.
    fn manners(&self) -> [u64; 3] {
        let mut all = HashMap::<_, &Sender>::default();
        let workers: Vec<_> = self.workers.iter().filter_map(|w| w.lock().ok()).collect();
        for worker in &workers {
            for sender in &worker.senders {
                let known = all.entry((worker.port, sender.host)).or_insert(sender);
                if known.heard < sender.heard {
                    *known = sender;
                }
            }
        }
        let mut manners = [0; 3];
        for sender in all.into_values() {
            manners[match sender.manner {
                Manner::Unknown => 0,
                Manner::Active => 1,
                _ => 2,
            }] += 1;
        }
        manners
    }

    fn totals(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, of) in COUNTERS {
            let metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(self.sum(of)).encode(metric)?;
        }
        let mut gauges = vec![
            (
                "missing",
                "Numbers that are missing and still waited for",
                self.sum(|s| s.missing),
            ),
            (
                "kept_bytes",
                "Bytes of records that wait for others or to be written",
                self.sum(|s| s.bytes),
            ),
        ];
        if let Some(expect) = &self.expect {
            let (missing, all) = expect.missing();
            gauges.push(("expected_hosts", "Hosts that should be heard", all as u64));
            gauges.push((
                "expected_missing_hosts",
                "Of these, hosts that are not heard",
                missing as u64,
            ));
        }
        for (name, help, value) in gauges {
            let metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let help = "Senders, by how they take responses";
        let mut metric = to.encode_descriptor("senders", help, None, MetricType::Gauge)?;
        let names = ["unknown", "active", "passive"];
        for (manner, count) in names.into_iter().zip(self.manners()) {
            let labels = [("manner", manner)];
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn hosts(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut hosts = BTreeMap::<String, Host>::new();
        let mut name = String::new();
        let now = Instant::now();
        for worker in self.workers.iter().filter_map(|worker| worker.lock().ok()) {
            for sender in &worker.senders {
                self.names.put(sender.host.ip(), &mut name);
                let silent = now.saturating_duration_since(sender.heard).as_secs_f64();
                let host = hosts.entry(name.clone()).or_insert(Host {
                    silent,
                    ..Host::default()
                });
                host.records += sender.records;
                host.lost += sender.lost;
                host.missing += sender.missing;
                host.silent = host.silent.min(silent);
            }
        }
        let counters: [Metric<u64>; 2] = [
            ("host_records", "Records of this host", |host| host.records),
            (
                "host_lost",
                "Numbers of this host that were lost there, or passed over",
                |host| host.lost,
            ),
        ];
        for (name, help, of) in counters {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (name, host) in &hosts {
                ConstCounter::new(of(host))
                    .encode(metric.encode_family(&[("host", name.as_str())])?)?;
            }
        }
        let gauges: [Metric<f64>; 2] = [
            (
                "host_missing",
                "Numbers of this host that are missing and still waited for",
                |host| host.missing as f64,
            ),
            (
                "host_silent_seconds",
                "Since when this host is silent",
                |host| host.silent,
            ),
        ];
        for (name, help, of) in gauges {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (name, host) in &hosts {
                ConstGauge::new(of(host))
                    .encode(metric.encode_family(&[("host", name.as_str())])?)?;
            }
        }
        Ok(())
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.totals(&mut encoder)?;
        if self.per_host {
            self.hosts(&mut encoder)?;
        }
        Ok(())
    }
}

/// A metric of a host: its name, what it tells, and where that is.
type Metric<T> = (&'static str, &'static str, fn(&Host) -> T);

#[derive(Default)]
struct Host {
    records: u64,
    lost: u64,
    missing: u64,
    silent: f64,
}

type Counter = (&'static str, &'static str, fn(&Snapshot) -> u64);

/// The names get a `_total` behind them.
const COUNTERS: &[Counter] = &[
    ("datagrams", "Datagrams of allowed senders", |s| {
        s.stats.datagrams
    }),
    ("datagram_bytes", "Their bytes", |s| s.stats.bytes),
    ("keepalives", "Datagrams without a byte", |s| {
        s.stats.keepalives
    }),
    ("records", "Records that were handed out", |s| {
        s.stats.records
    }),
    ("texts", "Of these, basic targets' texts", |s| s.stats.texts),
    ("late", "Of these, late ones", |s| s.stats.late),
    (
        "partial",
        "Of these, those of which a part was missing",
        |s| s.stats.partial,
    ),
    ("duplicates", "Datagrams that told nothing new", |s| {
        s.stats.duplicates
    }),
    (
        "emergencies",
        "Datagrams marked as emergency transmission",
        |s| s.stats.emergencies,
    ),
    ("fragments", "Fragments of records", |s| s.stats.fragments),
    (
        "contradictions",
        "Fragments that contradicted others",
        |s| s.stats.contradictions,
    ),
    ("hidden", "Numbers that the sender says it hides", |s| {
        s.stats.hidden
    }),
    ("lost", "Numbers that the sender says are lost", |s| {
        s.stats.lost
    }),
    (
        "passed_over",
        "Numbers passed over for any other reason",
        |s| s.stats.passed_over,
    ),
    ("responses", "Responses", |s| s.stats.responses),
    ("requested", "Numbers that responses asked for", |s| {
        s.stats.requested
    }),
    ("streams", "Streams that have begun", |s| s.stats.streams),
    ("garbage", "Datagrams that were garbage", |s| {
        s.stats.garbage
    }),
    (
        "malformed",
        "Datagrams with a key in a bad form or too many bytes",
        |s| s.stats.malformed,
    ),
    (
        "out_of_nowhere",
        "Datagrams with a number out of nowhere",
        |s| s.stats.out_of_nowhere,
    ),
    (
        "too_many_senders",
        "Datagrams of one sender too many",
        |s| s.stats.too_many_senders,
    ),
    ("no_memory", "Datagrams that found no memory left", |s| {
        s.stats.no_memory
    }),
    (
        "kernel_drops",
        "Datagrams that the kernel had no room for",
        |s| s.counters.kernel_drops,
    ),
    (
        "refused",
        "Datagrams of senders that are not allowed",
        |s| s.counters.refused,
    ),
    ("send_errors", "Responses that could not be sent", |s| {
        s.counters.send_errors
    }),
    (
        "write_errors",
        "Times that an output could not be written",
        |s| s.counters.write_errors,
    ),
];
