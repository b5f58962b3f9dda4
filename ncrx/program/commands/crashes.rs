// SPDX-License-Identifier: GPL-2.0

//! `ncrx crashes` and `ncrx crash`.

use std::io::Write;

use anyhow::{ensure, Context};
use clap::Args;
use ncrx::crash::{Kind, ReportLine};
use serde::Serialize;

use super::{date, exact, moment, table, At};
use crate::format::{json_line, shown};
use crate::index::{CrashRow, Filter, Found, Reader};

/// List the crashes, a line for each bug.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    at: At,
    /// Only crashes since this time (UTC): 2026-11-30, "2026-11-30 08:00", 08:00, yesterday, 2h.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    since: Option<u64>,
    /// Only crashes until this time.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    until: Option<u64>,
    /// Only crashes of this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only crashes of this kernel release, or of all that begin so.
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// Only crashes of this kind: panic, oops, kasan, warning, oom, ...
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<String>,
    /// An object a line, for programs.
    #[arg(long)]
    json: bool,
}

/// Show a crash.
#[derive(Debug, Args)]
pub struct Show {
    /// Its number, or a signature (or its first digits) for the last crash with that.
    id: String,
    #[command(flatten)]
    at: At,
    /// As an object, for programs.
    #[arg(long)]
    json: bool,
}

fn kind(text: &str) -> Result<String, String> {
    let word = text.to_lowercase().replace('-', "_");
    if Kind::ALL.iter().any(|kind| kind.word() == word) {
        return Ok(word);
    }
    let all: Vec<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
    Err(format!("there is {}", all.join(", ")))
}

/// A bug for programs.
#[derive(Serialize)]
pub struct FoundLine<'a> {
    signature: &'a str,
    kind: &'a str,
    title: &'a str,
    count: u64,
    hosts: u64,
    first: String,
    last: String,
    last_id: u64,
}

impl List {
    /// Does it.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let reader = Reader::open(&self.at.index)?;
        let filter = Filter {
            since: self.since,
            until: self.until,
            host: self.host,
            release: self.release,
            kind: self.kind,
        };
        let found = reader.crashes(&filter).context("cannot read the index")?;
        if self.json {
            for bug in &found {
                out.write_all(&json_line(&line(bug)))?;
            }
            return Ok(());
        }
        if found.is_empty() {
            writeln!(out, "No crashes.")?;
            return Ok(());
        }
        let rows = found.iter().map(|bug| {
            vec![
                bug.count.to_string(),
                bug.hosts.to_string(),
                date(bug.first),
                date(bug.last),
                bug.id.to_string(),
                bug.signature[..bug.signature.len().min(8)].to_owned(),
                bug.title.clone(),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let head = [
            "COUNT",
            "HOSTS",
            "FIRST",
            "LAST",
            "LAST-ID",
            "SIGNATURE",
            "TITLE",
        ];
        table(out, &head, &rows)?;
        Ok(())
    }
}

/// Returns a bug for programs.
pub fn line(bug: &Found) -> FoundLine<'_> {
    FoundLine {
        signature: &bug.signature,
        kind: &bug.kind,
        title: &bug.title,
        count: bug.count,
        hosts: bug.hosts,
        first: exact(bug.first),
        last: exact(bug.last),
        last_id: bug.id,
    }
}

/// A crash for programs.
#[derive(Serialize)]
pub struct CrashObject<'a> {
    id: u64,
    host: &'a str,
    address: &'a str,
    session: Option<&'a str>,
    seq: Option<u64>,
    time: String,
    kind: &'a str,
    title: &'a str,
    signature: &'a str,
    function: Option<&'a str>,
    release: Option<&'a str>,
    hardware: Option<&'a str>,
    missing: u64,
    complete: bool,
    fatal: bool,
    before: Vec<LineObject<'a>>,
    lines: Vec<LineObject<'a>>,
}

#[derive(Serialize)]
struct LineObject<'a> {
    seq: Option<u64>,
    usec: Option<u64>,
    text: &'a str,
}

fn objects(lines: &[ReportLine]) -> Vec<LineObject<'_>> {
    lines
        .iter()
        .map(|line| LineObject {
            seq: line.seq,
            usec: line.usec,
            text: &line.text,
        })
        .collect()
}

impl Show {
    /// Does it.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let reader = Reader::open(&self.at.index)?;
        let found = reader.crash(&self.id).context("cannot read the index")?;
        ensure!(
            found.is_some(),
            "there is no crash {}: `ncrx crashes` lists their numbers and signatures (of those write 4 \
             digits at least)",
            shown(self.id.as_bytes())
        );
        let Some(crash) = found else { return Ok(()) };
        match self.json {
            true => out.write_all(&json_line(&object(&crash)))?,
            false => write(&crash, out)?,
        }
        Ok(())
    }
}

/// Returns a crash for programs.
pub fn object(crash: &CrashRow) -> CrashObject<'_> {
    CrashObject {
        id: crash.id,
        host: &crash.host,
        address: &crash.address,
        session: crash.session.as_deref(),
        seq: crash.seq,
        time: exact(crash.time),
        kind: &crash.kind,
        title: &crash.title,
        signature: &crash.signature,
        function: crash.function.as_deref(),
        release: crash.release.as_deref(),
        hardware: crash.hardware.as_deref(),
        missing: crash.missing,
        complete: crash.complete,
        fatal: crash.fatal,
        before: objects(&crash.before),
        lines: objects(&crash.lines),
    }
}

/// Writes a crash for people.
pub fn write(crash: &CrashRow, out: &mut impl Write) -> anyhow::Result<()> {
    let unknown = || "unknown".to_owned();
    let whole = match (crash.complete, crash.missing) {
        (true, _) => "yes".to_owned(),
        (false, 0) => "no: its first line, its end, or more than is kept is missing".to_owned(),
        (false, missing) => format!("no: {missing} records are missing"),
    };
    let fatal = if crash.fatal {
        "yes"
    } else {
        "not that it told"
    };
    for (name, value) in [
        ("Title", crash.title.clone()),
        ("Host", format!("{} ({})", crash.host, crash.address)),
        ("Time", exact(crash.time)),
        ("Kind", crash.kind.clone()),
        ("Signature", crash.signature.clone()),
        ("Release", crash.release.clone().unwrap_or_else(unknown)),
        ("Hardware", crash.hardware.clone().unwrap_or_else(unknown)),
        ("Session", crash.session.clone().unwrap_or_else(unknown)),
        ("Died of it", fatal.to_owned()),
        ("Complete", whole),
    ] {
        writeln!(out, "{name:<11} {}", shown(value.as_bytes()))?;
    }
    for (what, lines) in [("Before it", &crash.before), ("Report", &crash.lines)] {
        writeln!(out, "\n{what}:")?;
        for line in lines {
            if let Some(usec) = line.usec {
                write!(out, "[{:5}.{:06}] ", usec / 1_000_000, usec % 1_000_000)?;
            }
            writeln!(out, "{}", shown(line.text.as_bytes()))?;
        }
    }
    Ok(())
}
