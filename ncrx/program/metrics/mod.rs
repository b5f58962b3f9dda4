// SPDX-License-Identifier: GPL-2.0

//! Metrics for Prometheus. Workers leave a copy of theirs once a second, and never wait for a
//! reader of the page.

mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::State as Shared;
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use ncrx::{PeerMode, Receiver, Sender, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{text, DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::allow::Allow;
use crate::crashes::Hub;
use crate::expect::Expect;
use crate::names::Names;
use crate::outputs::Basic;
use crate::sink::{Pool, Queue};
use crate::state::State;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The value of a metric of an output.
type Value = fn(&Queue) -> f64;

/// The metrics of each output: name, help, kind, value.
const OF_OUTPUTS: [(&str, &str, MetricType, Value); 8] = [
    (
        "output_blocked_since_timestamp_seconds",
        "Since when an output cannot be written, since 1970; 0 if it can",
        MetricType::Gauge,
        |queue| queue.status.blocked_since().unwrap_or(0.0),
    ),
    (
        "output_failing_files",
        "Files of an output that cannot be written",
        MetricType::Gauge,
        |queue| queue.status.failing.load(Relaxed) as f64,
    ),
    (
        "output_queued_bytes",
        "Bytes that wait to be written",
        MetricType::Gauge,
        |queue| queue.status.bytes.load(Relaxed) as f64,
    ),
    (
        "output_queue_limit_bytes",
        "Bytes that may wait to be written",
        MetricType::Gauge,
        |queue| queue.limit() as f64,
    ),
    (
        "output_queued_records",
        "Records and events that wait to be written",
        MetricType::Gauge,
        |queue| queue.status.records.load(Relaxed) as f64,
    ),
    (
        "output_errors",
        "Times that something could not be written",
        MetricType::Counter,
        |queue| queue.status.errors.load(Relaxed) as f64,
    ),
    (
        "output_refused",
        "Records and events that an output did not take since it was full",
        MetricType::Counter,
        |queue| queue.status.refused.load(Relaxed) as f64,
    ),
    (
        "output_lost",
        "Records that an --output did not take since it was full, and that their senders could not \
         send again",
        MetricType::Counter,
        |queue| queue.status.lost.load(Relaxed) as f64,
    ),
];

/// Counts of a worker, besides its receiver's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Datagrams that the kernel had no room for.
    pub kernel_drops: u64,
    /// Datagrams of senders that are not allowed.
    pub refused: u64,
    /// Responses that could not be sent.
    pub send_errors: u64,
}

/// A worker's numbers when it last published them.
#[derive(Debug, Default)]
struct Snapshot {
    stats: Stats,
    counters: Counters,
    missing: u64,
    bytes: u64,
    /// All senders that the worker has heard; those with basic targets.
    senders: Vec<Sender>,
    basic: Vec<(SocketAddr, Basic)>,
}

/// The sources of numbers, besides the workers.
#[derive(Clone)]
pub struct Sources {
    /// Hosts that should be heard.
    pub expect: Option<Arc<Expect>>,
    /// Names of senders.
    pub names: Arc<Names>,
    /// Senders that may write.
    pub allow: Arc<Allow>,
    /// The state of an earlier run.
    pub state: Option<Arc<State>>,
    /// Crashes.
    pub hub: Arc<Hub>,
    /// All outputs, by their names.
    pub outputs: Vec<(String, Arc<Queue>)>,
    /// The files of hosts.
    pub pool: Arc<Pool>,
    /// Whether there are numbers of each host.
    pub per_host: bool,
}

/// The numbers of all workers that the page for people draws. All only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Numbers that the sender has lost, or that were passed over.
    pub lost: u64,
    /// Crashes of all kinds.
    pub crashes: u64,
}

/// Returns the pages of these metrics.
pub fn pages(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(numbers))
        .fallback(|| async { (StatusCode::NOT_FOUND, "They are at /metrics.\n") })
        .with_state(metrics)
}

async fn numbers(Shared(metrics): Shared<Arc<Metrics>>) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All numbers of all workers.
pub struct Metrics {
    workers: Vec<Mutex<Snapshot>>,
    sources: Sources,
}

impl Metrics {
    /// Returns the metrics of so many workers.
    pub fn new(workers: usize, sources: Sources) -> Self {
        let workers = (0..workers).map(|_| Mutex::default()).collect();
        Self { workers, sources }
    }

    /// Publishes a worker's numbers; those that are being read just now wait for the next time.
    pub fn publish(
        &self,
        worker: usize,
        receiver: &Receiver,
        basic: impl Iterator<Item = (SocketAddr, Basic)>,
        counters: Counters,
    ) {
        let Ok(mut snapshot) = self.workers[worker].try_lock() else {
            return;
        };
        let snapshot = &mut *snapshot;
        snapshot.stats = *receiver.stats();
        snapshot.counters = counters;
        snapshot.bytes = receiver.bytes() as u64;
        snapshot.senders.clear();
        snapshot.senders.extend(receiver.senders());
        snapshot.basic.clear();
        snapshot.basic.extend(basic);
        let missing = snapshot.senders.iter().map(|sender| sender.missing);
        snapshot.missing = missing.sum();
    }

    /// Returns the page, in the format of OpenMetrics.
    pub fn page(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut page = String::new();
        let mut ours = Registry::with_prefix("ncrx");
        ours.register_collector(Box::new(Published(self.clone())));
        text::encode_registry(&mut page, &ours)?;
        let mut process = Registry::default();
        process.register_collector(Box::new(process::Figures));
        text::encode_registry(&mut page, &process)?;
        text::encode_eof(&mut page)?;
        Ok(page)
    }

    /// Returns some of them, summed up.
    pub fn totals_now(&self) -> Totals {
        Totals {
            records: self.sum(|s| s.stats.records),
            lost: self.sum(|s| s.stats.lost + s.stats.passed_over),
            crashes: self.sources.hub.counts().map(|(_, count)| count).sum(),
        }
    }

    fn sum(&self, of: impl Fn(&Snapshot) -> u64) -> u64 {
        self.workers
            .iter()
            .filter_map(|worker| worker.lock().ok())
            .map(|snapshot| of(&snapshot))
            .sum()
    }

    /// Returns the number of senders by manner: unknown, active, passive, basic.
    fn manners(&self) -> [u64; 4] {
        let mut manners = [0; 4];
        for worker in self.workers.iter().filter_map(|w| w.lock().ok()) {
            for sender in &worker.senders {
                manners[match sender.manner {
                    PeerMode::Unknown => 0,
                    PeerMode::Active => 1,
                    _ => 2,
                }] += 1;
            }
            manners[3] += worker.basic.len() as u64;
        }
        for former in self
            .sources
            .state
            .iter()
            .flat_map(|state| state.unclaimed())
        {
            manners[usize::from(former.session.is_some())] += 1;
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
        gauges.push((
            "refused_sources",
            "Addresses that are not allowed and have written, up to 65536",
            self.sources.allow.strangers() as u64,
        ));
        if let Some(expect) = &self.sources.expect {
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
        let help = "Version of ncrx";
        let metric = to.encode_descriptor("build", help, None, MetricType::Info)?;
        Info::new([("version", env!("CARGO_PKG_VERSION"))]).encode(metric)?;
        let help = "Crashes that were found";
        let mut metric = to.encode_descriptor("crashes", help, None, MetricType::Counter)?;
        for (kind, count) in self.sources.hub.counts() {
            let labels = [("kind", kind.word())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Crashes that were only counted, since their sender had too many";
        let metric = to.encode_descriptor("crashes_untold", help, None, MetricType::Counter)?;
        ConstCounter::new(self.sources.hub.untold()).encode(metric)?;
        let help = "Records that were dropped, since they were more than --host-rate";
        let metric = to.encode_descriptor("limited", help, None, MetricType::Counter)?;
        ConstCounter::new(self.sources.hub.limited()).encode(metric)?;
        if let Some(index) = &self.sources.hub.index {
            let help = "Messages that the index has missed";
            let metric = to.encode_descriptor("index_missed", help, None, MetricType::Counter)?;
            ConstCounter::new(index.missed()).encode(metric)?;
        }
        let help = "Crashes for which --on-crash was not run, or has failed";
        let metric = to.encode_descriptor("on_crash_failed", help, None, MetricType::Counter)?;
        ConstCounter::new(self.sources.hub.hook.failed()).encode(metric)?;
        let help = "Senders, by how they take responses; basic: those that send text";
        let mut metric = to.encode_descriptor("senders", help, None, MetricType::Gauge)?;
        let names = ["unknown", "active", "passive", "basic"];
        for (manner, count) in names.into_iter().zip(self.manners()) {
            let labels = [("manner", manner)];
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn outputs(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, kind, value) in OF_OUTPUTS {
            let is_counter = matches!(kind, MetricType::Counter);
            let mut metric = to.encode_descriptor(name, help, None, kind)?;
            for (output, queue) in &self.sources.outputs {
                let labels = [("output", output.as_str())];
                let metric = metric.encode_family(&labels)?;
                match is_counter {
                    true => ConstCounter::new(value(queue)).encode(metric)?,
                    false => ConstGauge::new(value(queue)).encode(metric)?,
                }
            }
        }
        let outputs = self.sources.outputs.iter();
        let errors = outputs.map(|(_, queue)| queue.status.errors.load(Relaxed));
        for (name, help, value) in [
            (
                "write_errors",
                "Times that an output could not be written",
                errors.sum(),
            ),
            (
                "evicted_files",
                "Files of hosts that were closed to make place for others",
                self.sources.pool.evicted(),
            ),
        ] {
            let metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }

    fn hosts(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut hosts = BTreeMap::<String, Host>::new();
        let now = Instant::now();
        for former in self
            .sources
            .state
            .iter()
            .flat_map(|state| state.unclaimed())
        {
            let host = hosts.entry(self.sources.names.look_up(former.host));
            host.or_insert(Host {
                silent: former.silent.as_secs_f64(),
                ..Host::default()
            });
        }
        for worker in self.workers.iter().filter_map(|worker| worker.lock().ok()) {
            for sender in &worker.senders {
                let name = self.sources.names.look_up(sender.host);
                let host = hosts.entry(name).or_insert(Host::silent());
                host.records += sender.records;
                host.lost += sender.lost;
                host.missing += sender.missing;
                host.heard(sender.heard, now);
            }
            for (sender, basic) in &worker.basic {
                let name = self.sources.names.look_up(*sender);
                let host = hosts.entry(name).or_insert(Host::silent());
                host.records += basic.records;
                host.heard(basic.heard, now);
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

/// The metrics as workers have published them by now.
#[derive(Debug)]
struct Published(Arc<Metrics>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Collector for Published {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.totals(&mut encoder)?;
        self.0.outputs(&mut encoder)?;
        if self.0.sources.per_host {
            self.0.hosts(&mut encoder)?;
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

impl Host {
    fn silent() -> Self {
        Self {
            silent: f64::INFINITY,
            ..Self::default()
        }
    }

    fn heard(&mut self, heard: Instant, now: Instant) {
        let silent = now.saturating_duration_since(heard).as_secs_f64();
        self.silent = self.silent.min(silent);
    }
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
    (
        "garbage",
        "Texts with controls, or bytes that are no UTF-8",
        |s| s.stats.garbage,
    ),
    (
        "malformed",
        "Records with a key in a bad form or too many bytes, taken as texts",
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
    (
        "evicted_senders",
        "Senders that had proven nothing and made room for others",
        |s| s.stats.evicted,
    ),
    (
        "evicted_streams",
        "Streams that made room for others of their sender",
        |s| s.stats.evicted_streams,
    ),
    (
        "unvalidated_bytes",
        "Bytes of responses held back until their sender shows that it hears us",
        |s| s.stats.unvalidated_bytes,
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
];
