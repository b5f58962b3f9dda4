// SPDX-License-Identifier: GPL-2.0

//! `ncrx hosts`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{ago, exact, table, At};
use crate::format::json_line;
use crate::index::{HostLine, Reader};
use crate::overview::{now, state};

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

/// A host for programs.
#[derive(Serialize)]
pub struct Object<'a> {
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

impl List {
    /// Does it.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let reader = Reader::open(&self.at.index)?;
        let hosts = reader.hosts().context("cannot read the index")?;
        let now = now();
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

/// Returns a host for programs.
pub fn object(host: &HostLine, now: u64) -> Object<'_> {
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
