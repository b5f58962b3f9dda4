// SPDX-License-Identifier: GPL-2.0

//! Figures of this process, under the names that Prometheus' own libraries give them.

use std::fmt;

use procfs::process::Process;
use procfs::{boot_time_secs, page_size, ticks_per_second};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::MetricType;

/// The figures of `/proc/self`.
#[derive(Debug)]
pub struct Figures;

impl Collector for Figures {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(stat) = Process::myself().and_then(|process| process.stat()).ok() else {
            return Ok(());
        };
        let ticks = ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        let name = "process_cpu_seconds";
        let metric = to.encode_descriptor(name, "CPU time", None, MetricType::Counter)?;
        ConstCounter::new(cpu).encode(metric)?;
        let process = Process::myself();
        let files = process.as_ref().ok().and_then(|p| p.fd_count().ok());
        let limit = process.as_ref().ok().and_then(|p| p.limits().ok());
        let limit = limit.and_then(|limits| match limits.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(limit) => Some(limit as f64),
            procfs::process::LimitValue::Unlimited => None,
        });
        let start = boot_time_secs().ok();
        let start = start.map(|boot| boot as f64 + stat.starttime as f64 / ticks);
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory in use",
                Some((stat.rss * page_size()) as f64),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space in use",
                Some(stat.vsize as f64),
            ),
            ("process_open_fds", "Open files", files.map(|n| n as f64)),
            ("process_max_fds", "How many files may be open", limit),
            (
                "process_start_time_seconds",
                "When it was started, since 1970",
                start,
            ),
        ] {
            if let Some(value) = value {
                let metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}
