// SPDX-License-Identifier: GPL-2.0

//! `ncrx index --rebuild`.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{ensure, Context};
use clap::Args;
use ncrx::crash::{Line, Recognizer, Report};
use ncrx::Session;

use super::files::{read, with_rotated};
use super::At;
use crate::crashes::Crash;
use crate::index::{Fill, HostRow, Message, Writer};
use crate::reader::{Entry, What};

/// The most that is written at once.
const BATCH: usize = 256;

/// Make the index anew from files that the receiver has written, as text or JSON.
#[derive(Debug, Args)]
pub struct Rebuild {
    #[command(flatten)]
    at: At,
    /// Forget what the index has, and read it from these files; rotated ones are found beside them.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    rebuild: Vec<PathBuf>,
}

/// A host whose log is read.
struct Host {
    recognizer: Recognizer,
    row: HostRow,
    began: bool,
    /// The clock, the time and the caller of the last record.
    last: (Option<u64>, u64, Option<String>),
}

impl Host {
    fn new(entry: &Entry) -> Self {
        let (address, port) = entry.address.clone().unwrap_or((entry.host.clone(), 0));
        Self {
            recognizer: Recognizer::default(),
            row: HostRow {
                name: entry.host.clone(),
                address,
                port,
                ..HostRow::default()
            },
            began: false,
            last: (None, 0, None),
        }
    }

    fn address(&self) -> SocketAddr {
        let address = self.row.address.parse().ok();
        let unknown = std::net::Ipv4Addr::UNSPECIFIED.into();
        SocketAddr::new(address.unwrap_or(unknown), self.row.port)
    }

    /// Takes what a file says; appends what it makes of that.
    fn push(&mut self, entry: &Entry, found: &mut Vec<Report>, out: &mut Vec<Message>) {
        if let Some(time) = entry.time {
            self.row.heard = self.row.heard.max(time);
        }
        if let Some(session) = entry.session.as_deref() {
            let session = u64::from_str_radix(session, 16).ok().map(Session);
            self.row.session = session.or(self.row.session);
        }
        match entry.event {
            Some(What::Began) => {
                self.recognizer.finish(found);
                self.tell(found, out);
                self.recognizer = Recognizer::default();
                (self.began, self.last) = (true, (None, entry.time.unwrap_or(0), None));
                let session = entry.session.as_deref();
                let session = session.and_then(|text| u64::from_str_radix(text, 16).ok());
                out.push(Message::Began {
                    host: self.row.name.clone(),
                    session: session.map(Session),
                    at: entry.time.unwrap_or(0),
                    first: None,
                });
            }
            Some(What::Gap(count)) => self.recognizer.gap(count),
            Some(What::Ended) => self.recognizer.finish(found),
            Some(What::Other) => {}
            None => self.record(entry, found),
        }
        self.tell(found, out);
    }

    fn record(&mut self, entry: &Entry, found: &mut Vec<Report>) {
        let time = entry.time.unwrap_or(self.last.1);
        let (usec, caller) = match entry.goes_on {
            true => (self.last.0, self.last.2.clone()),
            false => (entry.usec, entry.caller.clone()),
        };
        if !entry.late && !entry.goes_on {
            self.last = (usec, time, caller.clone());
            self.row.record = Some(time);
            self.row.records += 1;
        }
        if entry.release.is_some() {
            self.row.release.clone_from(&entry.release);
        }
        let line = Line {
            seq: entry.seq,
            usec,
            facility: entry.facility.unwrap_or(0),
            caller: caller.as_deref().map(str::as_bytes),
            release: entry.release.as_deref().map(str::as_bytes),
            crash: entry.crash,
            late: entry.late,
            ..Line::default()
        };
        for text in entry.text.split('\n') {
            let line = match usec.is_some() {
                true => Line {
                    text: text.as_bytes(),
                    ..line
                },
                false => Line::plain(text.as_bytes()),
            };
            self.recognizer.push(&line, found);
        }
    }

    fn tell(&self, found: &mut Vec<Report>, out: &mut Vec<Message>) {
        for report in found.drain(..) {
            let first = report.lines.first().and_then(|line| line.usec);
            let before = first.zip(self.last.0);
            let before = before.map_or(0, |(first, last)| last.saturating_sub(first));
            out.push(Message::Crash(Arc::new(Crash {
                host: self.row.name.clone(),
                address: self.address(),
                session: self.row.session,
                time: self.last.1.saturating_sub(before.min(3_600_000_000)),
                report,
            })));
        }
    }
}

impl Rebuild {
    /// Does it: wholly or, if a file cannot be read or is not ours, not at all.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        for path in &self.rebuild {
            ensure!(path.exists(), "{}: there is no such file", path.display());
        }
        let paths = self.rebuild.iter();
        let files: Vec<_> = paths.flat_map(|path| with_rotated(path)).collect();
        let mut writer = Writer::open(&self.at.index).context("--index")?;
        let (hosts, crashes) = writer
            .replace(|write| read_all(&files, write))
            .context("the index stays as it was")?;
        writeln!(
            out,
            "{} files, {hosts} hosts, {crashes} crashes.",
            files.len()
        )?;
        Ok(())
    }
}

/// Reads these files and writes what they tell; returns how many hosts and crashes that were.
fn read_all(files: &[PathBuf], write: &mut Fill<'_>) -> anyhow::Result<(usize, usize)> {
    let mut hosts: HashMap<String, Host> = HashMap::new();
    let (mut found, mut batch, mut crashes) = (Vec::new(), Vec::new(), 0);
    let mut write = |batch: &mut Vec<Message>, least: usize| {
        if batch.len() >= least {
            let is_crash = |message: &&Message| matches!(message, Message::Crash(_));
            crashes += batch.iter().filter(is_crash).count();
            write(batch).context("cannot write it")?;
            batch.clear();
        }
        anyhow::Ok(())
    };
    for path in files {
        let (mut any, mut ours) = (false, false);
        read(path, |entry| {
            (any, ours) = (true, ours | entry.is_ours);
            let host = match hosts.get_mut(&entry.host) {
                Some(host) => host,
                None => hosts
                    .entry(entry.host.clone())
                    .or_insert_with(|| Host::new(&entry)),
            };
            host.push(&entry, &mut found, &mut batch);
            write(&mut batch, BATCH)?;
            Ok(true)
        })?;
        ensure!(
            ours || !any,
            "{}: ncrx has not written this: name files of an --output of text or JSON",
            path.display()
        );
    }
    for host in hosts.values_mut() {
        host.recognizer.finish(&mut found);
        host.tell(&mut found, &mut batch);
        write(&mut batch, BATCH)?;
    }
    let rows: Vec<_> = hosts.values().map(|host| host.row.clone()).collect();
    batch.push(Message::Hosts(rows));
    write(&mut batch, 0)?;
    Ok((hosts.len(), crashes))
}
