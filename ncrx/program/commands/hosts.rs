// SPDX-License-Identifier: GPL-2.0

//! `ncrx hosts`.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{ago, exact, table, At};
use crate::format::json_line;
use crate::index::{HostLine, Reader};

/// The silence after which a host is called silent, in microseconds. A keepalive comes every 20 s.
const SILENT: u64 = 60_000_000;

/// List the hosts and how they are.
///
/// The state is `crashed` (its kernel has died since it booted), `silent` (for a minute; a host
/// that sends no keepalives may only have nothing to say), `lossy` (records are missing and waited
/// for), or `ok`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    at: At,
    /// An object a line, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    host: &'a str,
    address: &'a str,
    state: &'static str,
    heard: String,
    record: Option<String>,
    missing: u64,
    acked: Option<u64>,
    highest: Option<u64>,
    session: Option<&'a str>,
    release: Option<&'a str>,
    boots: u64,
    booted: Option<String>,
    crashes: u64,
    crashed: Option<String>,
}

/// Returns how a host is, in one word.
fn state(host: &HostLine, now: u64) -> &'static str {
    match host.crashed {
        Some((at, true)) if host.booted.is_none_or(|booted| booted < at) => "crashed",
        _ if host.heard + SILENT < now => "silent",
        _ if host.missing > 0 => "lossy",
        _ => "ok",
    }
}

impl List {
    /// Does it.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let reader = Reader::open(&self.at.index)?;
        let hosts = reader.hosts().context("cannot read the index")?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = now.as_micros() as u64;
        if self.json {
            for host in &hosts {
                out.write_all(&json_line(&object(host, now)))?;
            }
            return Ok(());
        }
        let none = || "-".to_owned();
        let number = |number: Option<u64>| number.map_or_else(none, |number| number.to_string());
        let rows = hosts.iter().map(|host| {
            vec![
                host.name.clone(),
                state(host, now).to_owned(),
                ago(host.heard),
                host.record.map_or_else(none, ago),
                host.missing.to_string(),
                number(host.acked),
                host.boots.to_string(),
                host.crashes.to_string(),
                host.crashed.map_or_else(none, |(at, _)| ago(at)),
                host.release.clone().unwrap_or_else(none),
                host.session.clone().unwrap_or_else(none),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let head = [
            "HOST", "STATE", "HEARD", "RECORD", "MISSING", "ACKED", "BOOTS", "CRASHES", "CRASHED",
            "RELEASE", "SESSION",
        ];
        table(out, &head, &rows)?;
        Ok(())
    }
}

fn object(host: &HostLine, now: u64) -> Object<'_> {
    Object {
        host: &host.name,
        address: &host.address,
        state: state(host, now),
        heard: exact(host.heard),
        record: host.record.map(exact),
        missing: host.missing,
        acked: host.acked,
        highest: host.highest,
        session: host.session.as_deref(),
        release: host.release.as_deref(),
        boots: host.boots,
        booted: host.booted.map(exact),
        crashes: host.crashes,
        crashed: host.crashed.map(|(at, _)| exact(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let host = |crashed, booted, heard, missing| HostLine {
            name: String::new(),
            address: String::new(),
            session: None,
            release: None,
            heard,
            record: None,
            missing,
            acked: None,
            highest: None,
            boots: 1,
            booted,
            crashes: 0,
            crashed,
        };
        let now = 1_000_000_000;
        assert_eq!(state(&host(Some((5, true)), Some(3), 6, 0), now), "crashed");
        assert_eq!(state(&host(Some((5, true)), Some(7), now, 0), now), "ok");
        assert_eq!(state(&host(Some((5, false)), Some(3), now, 0), now), "ok");
        assert_eq!(state(&host(None, None, 6, 0), now), "silent");
        assert_eq!(state(&host(None, None, now, 2), now), "lossy");
    }
}
