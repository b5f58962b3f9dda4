// SPDX-License-Identifier: GPL-2.0

//! Questions to the index.

use std::path::Path;

use ncrx::crash::ReportLine;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{number, open_to_read, Stored};

/// The crashes that are wanted. Times are microseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before this.
    pub since: Option<u64>,
    /// Not after this.
    pub until: Option<u64>,
    /// Of this host.
    pub host: Option<String>,
    /// Of this release, or of all that begin so.
    pub release: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// The crashes of one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The signature.
    pub signature: String,
    /// How many there are.
    pub count: u64,
    /// On how many hosts.
    pub hosts: u64,
    /// When the first was.
    pub first: u64,
    /// When the last was.
    pub last: u64,
    /// The last one.
    pub id: u64,
    /// Its kind.
    pub kind: String,
    /// Its title.
    pub title: String,
}

/// A crash.
#[derive(Clone, Debug)]
pub struct CrashRow {
    /// Its number in the index.
    pub id: u64,
    /// The host's name.
    pub host: String,
    /// Its address.
    pub address: String,
    /// Its session.
    pub session: Option<String>,
    /// The number of its first record.
    pub seq: Option<u64>,
    /// When it was.
    pub time: u64,
    /// Its signature.
    pub signature: String,
    /// Its kind.
    pub kind: String,
    /// Its title.
    pub title: String,
    /// The function in its title.
    pub function: Option<String>,
    /// The kernel's release.
    pub release: Option<String>,
    /// The hardware.
    pub hardware: Option<String>,
    /// Missing records.
    pub missing: u64,
    /// Whether all of it is there.
    pub complete: bool,
    /// Whether the kernel has died of it.
    pub fatal: bool,
    /// The lines before it.
    pub before: Vec<ReportLine>,
    /// Its lines.
    pub lines: Vec<ReportLine>,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostLine {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its session.
    pub session: Option<String>,
    /// The kernel's release.
    pub release: Option<String>,
    /// When it was heard.
    pub heard: u64,
    /// When its last record came.
    pub record: Option<u64>,
    /// Records of its log.
    pub records: u64,
    /// Numbers that are missing.
    pub missing: u64,
    /// The number up to which all is acknowledged.
    pub acked: Option<u64>,
    /// The highest number.
    pub highest: Option<u64>,
    /// How often its log has begun.
    pub boots: u64,
    /// When that was last.
    pub booted: Option<u64>,
    /// How many crashes it had.
    pub crashes: u64,
    /// When the last was, and whether the kernel has died of it.
    pub crashed: Option<(u64, bool)>,
    /// The number of the latest one.
    pub crash: Option<u64>,
}

/// Reads the index.
pub struct Reader {
    db: Connection,
}

impl Reader {
    /// Opens the index of this directory.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let db = open_to_read(directory)?;
        Ok(Self { db })
    }

    /// Returns the crashes by signature, the latest first.
    pub fn crashes(&self, filter: &Filter) -> rusqlite::Result<Vec<Found>> {
        let mut wheres = vec!["1"];
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut add = |condition, value: Option<Box<dyn ToSql>>| {
            if let Some(value) = value {
                wheres.push(condition);
                values.push(value);
            }
        };
        let text =
            |text: &Option<String>| -> Option<Box<dyn ToSql>> { Some(Box::new(text.clone()?)) };
        let time = |time: Option<u64>| -> Option<Box<dyn ToSql>> { Some(Box::new(number(time?))) };
        add("time >= ?", time(filter.since));
        add("time <= ?", time(filter.until));
        add("host = ?", text(&filter.host));
        add("kind = ?", text(&filter.kind));
        let release = filter.release.as_ref();
        let release = release.map(|release| format!("{}*", escaped(release)));
        add("release GLOB ?", text(&release));
        // The inner part is answered by an index alone.
        let sql = format!(
            "SELECT g.signature, g.count, g.hosts, g.first, g.last, c.id, c.kind, c.title FROM
             (SELECT signature, COUNT(*) AS count, COUNT(DISTINCT host) AS hosts,
             MIN(time) AS first, MAX(time) AS last, id FROM crashes WHERE {}
             GROUP BY signature) AS g
             JOIN crashes AS c ON c.id = g.id ORDER BY g.last DESC, g.signature",
            wheres.join(" AND ")
        );
        let mut statement = self.db.prepare(&sql)?;
        let values: Vec<&dyn ToSql> = values.iter().map(AsRef::as_ref).collect();
        let found = statement.query_map(&values[..], |row| {
            Ok(Found {
                signature: row.get(0)?,
                count: unsigned(row, 1)?,
                hosts: unsigned(row, 2)?,
                first: unsigned(row, 3)?,
                last: unsigned(row, 4)?,
                id: unsigned(row, 5)?,
                kind: row.get(6)?,
                title: row.get(7)?,
            })
        })?;
        found.collect()
    }

    /// Returns the crash with this number, or the last one with this signature or one that begins
    /// so.
    pub fn crash(&self, id: &str) -> rusqlite::Result<Option<CrashRow>> {
        let columns =
            "SELECT id, host, address, session, seq, time, signature, kind, title, function,
             release, hardware, missing, complete, fatal, before, lines
             FROM crashes JOIN reports ON crash = id";
        let digits = id.len() >= 4 && id.bytes().all(|c| c.is_ascii_hexdigit());
        if let Ok(number) = id.parse::<i64>() {
            let sql = format!("{columns} WHERE id = ?");
            let found = self.db.query_row(&sql, [number], crash_row).optional()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if !digits {
            return Ok(None);
        }
        let sql = format!("{columns} WHERE signature GLOB ? ORDER BY time DESC LIMIT 1");
        let id = format!("{}*", id.to_lowercase());
        self.db.query_row(&sql, [id], crash_row).optional()
    }

    /// Returns all hosts by their names.
    pub fn hosts(&self) -> rusqlite::Result<Vec<HostLine>> {
        let mut statement = self.db.prepare(
            "SELECT name, address, port, session, release, heard, record, missing, acked, highest,
             (SELECT COUNT(*) FROM boots WHERE host = name),
             (SELECT MAX(began) FROM boots WHERE host = name),
             (SELECT COUNT(*) FROM crashes WHERE host = name),
             (SELECT MAX(time) FROM crashes WHERE host = name),
             (SELECT fatal FROM crashes WHERE host = name ORDER BY time DESC LIMIT 1), records,
             (SELECT id FROM crashes WHERE host = name ORDER BY time DESC LIMIT 1)
             FROM hosts ORDER BY name",
        )?;
        let hosts = statement.query_map([], |row| {
            let crashed = optional(row, 13)?.zip(row.get(14)?);
            let address: String = row.get(1)?;
            let port: u16 = row.get(2)?;
            let address = match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            };
            Ok(HostLine {
                name: row.get(0)?,
                address,
                session: row.get(3)?,
                release: row.get(4)?,
                heard: unsigned(row, 5)?,
                record: optional(row, 6)?,
                records: unsigned(row, 15)?,
                missing: unsigned(row, 7)?,
                acked: optional(row, 8)?,
                highest: optional(row, 9)?,
                boots: unsigned(row, 10)?,
                booted: optional(row, 11)?,
                crashes: unsigned(row, 12)?,
                crashed,
                crash: optional(row, 16)?,
            })
        })?;
        hosts.collect()
    }

    /// Returns the places and formats of the files that were written last.
    pub fn outputs(&self) -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = self.db.prepare("SELECT place, format FROM outputs")?;
        let outputs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        outputs.collect()
    }
}

/// Returns a text in which nothing is special to GLOB.
fn escaped(text: &str) -> String {
    let special = |c: char| "*?[".contains(c);
    let parts = text
        .split_inclusive(special)
        .map(|part| match part.chars().last() {
            Some(last) if special(last) => format!("{}[{last}]", &part[..part.len() - 1]),
            _ => part.to_owned(),
        });
    parts.collect()
}

fn unsigned(row: &Row<'_>, nth: usize) -> rusqlite::Result<u64> {
    Ok(optional(row, nth)?.unwrap_or(0))
}

fn optional(row: &Row<'_>, nth: usize) -> rusqlite::Result<Option<u64>> {
    let number: Option<i64> = row.get(nth)?;
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

fn crash_row(row: &Row<'_>) -> rusqlite::Result<CrashRow> {
    let lines = |nth| -> rusqlite::Result<Vec<ReportLine>> {
        let text: String = row.get(nth)?;
        let lines: Vec<Stored<'_>> = serde_json::from_str(&text).unwrap_or_default();
        let line = |(seq, usec, text): Stored<'_>| ReportLine {
            seq,
            usec,
            text: text.into_owned(),
        };
        Ok(lines.into_iter().map(line).collect())
    };
    Ok(CrashRow {
        id: unsigned(row, 0)?,
        host: row.get(1)?,
        address: row.get(2)?,
        session: row.get(3)?,
        seq: optional(row, 4)?,
        time: unsigned(row, 5)?,
        signature: row.get(6)?,
        kind: row.get(7)?,
        title: row.get(8)?,
        function: row.get(9)?,
        release: row.get(10)?,
        hardware: row.get(11)?,
        missing: unsigned(row, 12)?,
        complete: row.get(13)?,
        fatal: row.get(14)?,
        before: lines(15)?,
        lines: lines(16)?,
    })
}
