// SPDX-License-Identifier: GPL-2.0

//! The index (`--index`): an SQLite database of hosts, boots and crashes beside the files.
//!
//! A thread of its own writes it, behind a queue that never blocks: what does not fit is counted,
//! and can be had from the files again (`ncrx index --rebuild`). Nothing waits for the index, and
//! no record is acknowledged later because of it.

mod query;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use ncrx::crash::ReportLine;
use ncrx::Session;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{params, Connection, OpenFlags, TransactionBehavior};

use crate::crashes::Crash;
pub use query::{CrashRow, Filter, Found, HostLine, Reader};

/// The database's name in its directory.
const FILE: &str = "index.sqlite";
/// The version of the tables: one of another version is put aside, and can be made anew.
const VERSION: i64 = 1;
/// The most messages that wait. A crash is 70 KB at most.
const QUEUE: usize = 256;
/// The most messages that are written at once.
const BATCH: usize = 128;
/// The longest wait for another process that writes, or reads while the file is made shorter.
const BUSY: Duration = Duration::from_secs(5);
/// The longest wait for the last messages at the end.
const LAST: Duration = Duration::from_secs(2);
/// The most crashes, boots and hosts that are kept: the oldest are removed.
const CRASHES: i64 = 200_000;
const BOOTS: i64 = 1_000_000;
const HOSTS: i64 = 300_000;
/// The most bytes of the database; beyond it the oldest crashes are removed.
const BYTES: i64 = 1 << 30;
/// After so many new rows it is seen to that.
const TRIM: usize = 500;

const SCHEMA: &str = "
    CREATE TABLE hosts (
        name TEXT PRIMARY KEY, address TEXT NOT NULL, port INTEGER NOT NULL, session TEXT,
        release TEXT, heard INTEGER NOT NULL, record INTEGER, records INTEGER NOT NULL,
        missing INTEGER NOT NULL, lost INTEGER NOT NULL, acked INTEGER, highest INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX hosts_heard ON hosts (heard);
    CREATE TABLE boots (
        id INTEGER PRIMARY KEY, host TEXT NOT NULL, session TEXT, began INTEGER NOT NULL,
        first INTEGER, UNIQUE (host, session)
    );
    CREATE INDEX boots_host ON boots (host, began);
    CREATE TABLE crashes (
        id INTEGER PRIMARY KEY, host TEXT NOT NULL, address TEXT NOT NULL, session TEXT,
        seq INTEGER,
        time INTEGER NOT NULL, signature TEXT NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL,
        function TEXT, release TEXT, hardware TEXT, missing INTEGER NOT NULL,
        complete INTEGER NOT NULL, fatal INTEGER NOT NULL, UNIQUE (host, session, seq, signature)
    );
    CREATE INDEX crashes_signature ON crashes (signature, host, time, kind, release);
    CREATE INDEX crashes_host ON crashes (host, time, fatal);
    CREATE TABLE reports (crash INTEGER PRIMARY KEY, before TEXT NOT NULL, lines TEXT NOT NULL);
    CREATE TABLE outputs (place TEXT NOT NULL, format TEXT NOT NULL);
";

/// The hosts of which no record was ever written. An index of an earlier ncrx may lack this.
const NAMELESS: &str = "
    CREATE INDEX IF NOT EXISTS hosts_nameless ON hosts (address, port) WHERE record IS NULL;
";

/// A host as the index has it. Times are microseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// Its address and port.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its session.
    pub session: Option<Session>,
    /// Its kernel's release.
    pub release: Option<String>,
    /// When it was heard.
    pub heard: u64,
    /// When its last record came.
    pub record: Option<u64>,
    /// Records of this stream.
    pub records: u64,
    /// Numbers that are missing.
    pub missing: u64,
    /// Numbers that are lost.
    pub lost: u64,
    /// The number up to which all is acknowledged.
    pub acked: Option<u64>,
    /// The highest number.
    pub highest: Option<u64>,
}

/// A message to the index.
pub enum Message {
    /// A crash.
    Crash(Arc<Crash>),
    /// A log has begun.
    Began {
        /// The host's name.
        host: String,
        /// Its session.
        session: Option<Session>,
        /// When, in microseconds since 1970.
        at: u64,
        /// The number of its first record.
        first: Option<u64>,
    },
    /// Hosts that were heard.
    Hosts(Vec<HostRow>),
    /// Outputs with all records: their places and formats.
    Outputs(Vec<(String, &'static str)>),
    /// All is to be written, and this to be told then.
    Finish(mpsc::Sender<()>),
}

/// The way to the thread that writes.
pub struct Index {
    to: SyncSender<Message>,
    missed: Arc<AtomicU64>,
    /// Held as long as this process receives.
    _lock: Option<Flock<File>>,
}

impl Index {
    /// Opens the index in this directory, or makes it, and begins to write. The outputs have these
    /// places and formats. Fails if another receiver has the directory: it would take over its
    /// outputs.
    pub fn open(directory: &Path, outputs: Vec<(String, &'static str)>) -> anyhow::Result<Self> {
        let lock = lock(directory)?;
        let mut writer = Writer::open(directory)?;
        writer.write(&[Message::Outputs(outputs)])?;
        let (to, messages) = mpsc::sync_channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let count = missed.clone();
        let thread = thread::Builder::new().name("index".into());
        thread.spawn(move || writer.run(&messages, &count))?;
        Ok(Self {
            to,
            missed,
            _lock: Some(lock),
        })
    }

    /// Tells it something, if it has room for that.
    pub fn tell(&self, message: Message) {
        if self.to.try_send(message).is_err() {
            self.missed.fetch_add(1, Relaxed);
        }
    }

    /// Returns how many messages it has missed, because it was too slow or could not write.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Waits until all is written, for two seconds at most.
    pub fn finish(&self) {
        let (done, wait) = mpsc::channel();
        if self.to.try_send(Message::Finish(done)).is_ok() {
            let _ = wait.recv_timeout(LAST);
        }
    }
}

/// Takes the directory for a receiver. Those who read, and who rebuild, need no lock.
fn lock(directory: &Path) -> anyhow::Result<Flock<File>> {
    make(directory)?;
    // The name `lock` is that of --state, whose directory may be the same.
    let path = directory.join("index.lock");
    let file =
        File::create(&path).with_context(|| format!("{}: cannot make it", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        Errno::EWOULDBLOCK => anyhow::anyhow!(
            "{} is the index of another ncrx that runs: give each its own directory",
            directory.display()
        ),
        e => anyhow::anyhow!("{}: cannot lock it: {e}", path.display()),
    })
}

fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{}: cannot make it", directory.display()))
}

/// Returns the database in a directory.
pub fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// The way to write a batch of messages.
pub type Fill<'a> = dyn FnMut(&[Message]) -> rusqlite::Result<()> + 'a;

/// Writes to the index.
pub struct Writer {
    db: Connection,
    /// New rows since the last look at how much there is.
    new: usize,
}

impl Writer {
    /// Opens it, or makes it. One that is damaged, or of another version, is put aside.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        make(directory)?;
        let path = file(directory);
        let db = match Self::try_open(&path) {
            Ok(db) => db,
            Err(e) if is_damaged(&e) => {
                let aside = aside(&path);
                std::fs::rename(&path, &aside)
                    .with_context(|| format!("{}: cannot put it aside", path.display()))?;
                for ending in ["-wal", "-shm"] {
                    let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
                }
                tracing::warn!(
                    "the index {} cannot be read ({e}): it is {} now. `ncrx index --rebuild` makes \
                     it anew from the files",
                    path.display(),
                    aside.display()
                );
                Self::try_open(&path)
                    .with_context(|| format!("{}: cannot make it", path.display()))?
            }
            Err(e) => {
                return Err(e).with_context(|| format!("{}: cannot open it", path.display()));
            }
        };
        // There may be too much of a former run: the first that is written finds out.
        Ok(Self { db, new: TRIM })
    }

    fn try_open(path: &Path) -> rusqlite::Result<Connection> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // A crash of the machine may lose the last of it, which can be rebuilt.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            let tx = db.transaction()?;
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "user_version", VERSION)?;
            tx.commit()?;
        } else if version != VERSION {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
                Some(format!("its version is {version}, not {VERSION}")),
            ));
        }
        db.execute_batch(NAMELESS)?;
        Ok(db)
    }

    /// Replaces all but the outputs by what `fill` writes: by all of that or, if it fails, by
    /// nothing. Nobody else can write meanwhile.
    pub fn replace<T>(
        &mut self,
        fill: impl FnOnce(&mut Fill<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let behavior = TransactionBehavior::Immediate;
        let tx = self.db.transaction_with_behavior(behavior)?;
        tx.execute_batch(
            "DELETE FROM hosts; DELETE FROM boots; DELETE FROM crashes; DELETE FROM reports;",
        )?;
        let filled = fill(&mut |batch: &[Message]| write(&tx, batch).map(drop))?;
        tx.commit()?;
        self.trim()?;
        Ok(filled)
    }

    /// Writes what it is told until nobody is left to tell.
    fn run(mut self, messages: &Receiver<Message>, missed: &AtomicU64) {
        let mut told = false;
        while let Ok(first) = messages.recv() {
            let mut batch = vec![first];
            batch.extend(messages.try_iter().take(BATCH - 1));
            match self.write(&batch) {
                Ok(()) => told = false,
                Err(e) => {
                    missed.fetch_add(batch.len() as u64, Relaxed);
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(
                            "cannot write the index: {e}. What it misses can be had from the files: \
                             `ncrx index --rebuild`"
                        );
                    }
                }
            }
            for message in batch {
                if let Message::Finish(done) = message {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes these, all or none.
    pub fn write(&mut self, batch: &[Message]) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        self.new += write(&tx, batch)?;
        tx.commit()?;
        if self.new >= TRIM {
            self.new = 0;
            self.trim()?;
        }
        Ok(())
    }

    /// Removes the oldest of what is too much.
    fn trim(&mut self) -> rusqlite::Result<()> {
        let pragma = |name| {
            self.db
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
        };
        let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
        let tx = self.db.transaction()?;
        let count = |table: &str| {
            let count = format!("SELECT COUNT(*) FROM {table}");
            tx.query_row(&count, [], |row| row.get::<_, i64>(0))
        };
        let crashes = count("crashes")?;
        let mut surplus = (crashes - CRASHES).max(0);
        if used > BYTES {
            surplus = surplus.max(crashes / 10);
        }
        if surplus > 0 {
            let oldest = "(SELECT id FROM crashes ORDER BY id LIMIT ?1)";
            tx.execute(
                &format!("DELETE FROM reports WHERE crash IN {oldest}"),
                [surplus],
            )?;
            tx.execute(
                &format!("DELETE FROM crashes WHERE id IN {oldest}"),
                [surplus],
            )?;
        }
        let surplus = count("boots")? - BOOTS;
        if surplus > 0 {
            let oldest = "(SELECT id FROM boots ORDER BY id LIMIT ?1)";
            tx.execute(
                &format!("DELETE FROM boots WHERE id IN {oldest}"),
                [surplus],
            )?;
        }
        let surplus = count("hosts")? - HOSTS;
        if surplus > 0 {
            let oldest = "(SELECT name FROM hosts ORDER BY heard LIMIT ?1)";
            tx.execute(
                &format!("DELETE FROM hosts WHERE name IN {oldest}"),
                [surplus],
            )?;
        }
        tx.commit()
    }
}

/// Writes these; returns how many rows are new.
fn write(db: &Connection, batch: &[Message]) -> rusqlite::Result<usize> {
    let mut new = 0;
    for message in batch {
        new += match message {
            Message::Crash(crash) => write_crash(db, crash)?,
            Message::Began {
                host,
                session,
                at,
                first,
            } => {
                let session = session.map(|session| session.to_string());
                let mut statement = db.prepare_cached(
                    "INSERT OR IGNORE INTO boots (host, session, began, first)
                     VALUES (?1, ?2, ?3, ?4)",
                )?;
                statement.execute(params![host, session, number(*at), first.map(number)])?
            }
            Message::Hosts(hosts) => {
                let rows = hosts.iter().map(|host| write_host(db, host));
                rows.sum::<rusqlite::Result<usize>>()?
            }
            Message::Outputs(outputs) => write_outputs(db, outputs)?,
            Message::Finish(_) => 0,
        };
    }
    Ok(new)
}

/// Writes all outputs; none of these rows becomes more.
fn write_outputs(db: &Connection, outputs: &[(String, &str)]) -> rusqlite::Result<usize> {
    db.execute("DELETE FROM outputs", [])?;
    let mut statement = db.prepare_cached("INSERT INTO outputs VALUES (?1, ?2)")?;
    for (place, format) in outputs {
        statement.execute(params![place, format])?;
    }
    Ok(0)
}

/// Writes a host; returns how many rows are new: none, or one.
fn write_host(db: &Connection, host: &HostRow) -> rusqlite::Result<usize> {
    let mut statement = db.prepare_cached("SELECT 1 FROM hosts WHERE name = ?1")?;
    let known = statement.exists([&host.name])?;
    if !known {
        // Until its first record has come, nothing but its address is known of a host whose name is
        // in its records.
        let mut statement = db.prepare_cached(
            "DELETE FROM hosts WHERE address = ?1 AND port = ?2 AND record IS NULL",
        )?;
        statement.execute(params![host.address, host.port])?;
    }
    let mut statement = db.prepare_cached(
        "INSERT INTO hosts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (name) DO UPDATE SET address = ?2, port = ?3, session = ?4,
         release = COALESCE(?5, release), heard = MAX(heard, ?6), record = COALESCE(?7, record),
         records = ?8, missing = ?9, lost = ?10, acked = ?11, highest = ?12",
    )?;
    statement.execute(params![
        host.name,
        host.address,
        host.port,
        host.session.map(|session| session.to_string()),
        host.release,
        number(host.heard),
        host.record.map(number),
        number(host.records),
        number(host.missing),
        number(host.lost),
        host.acked.map(number),
        host.highest.map(number),
    ])?;
    Ok(usize::from(!known))
}

/// Writes a crash; returns how many are new: none, or one.
fn write_crash(db: &Connection, crash: &Crash) -> rusqlite::Result<usize> {
    let report = &crash.report;
    let mut statement = db.prepare_cached(
        "INSERT OR IGNORE INTO crashes (host, address, session, seq, time, signature, kind, title,
         function, release, hardware, missing, complete, fatal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    let new = statement.execute(params![
        crash.host,
        crash.address.ip().to_canonical().to_string(),
        crash.session.map(|session| session.to_string()),
        crash.seq().map(number),
        number(crash.time),
        report.signature.to_string(),
        report.kind.word(),
        report.title,
        report.function,
        report.release,
        report.hardware,
        number(report.missing),
        report.is_complete(),
        report.fatal,
    ])?;
    // It is known already: it has come again.
    if new == 0 {
        return Ok(0);
    }
    let mut statement = db.prepare_cached("INSERT INTO reports VALUES (?1, ?2, ?3)")?;
    statement.execute(params![
        db.last_insert_rowid(),
        lines(&report.before),
        lines(&report.lines)
    ])?;
    Ok(1)
}

/// A line of a report as the database has it.
type Stored<'a> = (Option<u64>, Option<u64>, std::borrow::Cow<'a, str>);

fn lines(lines: &[ReportLine]) -> String {
    let lines: Vec<Stored<'_>> = lines
        .iter()
        .map(|line| (line.seq, line.usec, line.text.as_str().into()))
        .collect();
    serde_json::to_string(&lines).unwrap_or_default()
}

/// Returns a number as the database has it: with a sign.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn is_damaged(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Returns the first name of a damaged file that is free.
fn aside(path: &Path) -> PathBuf {
    let name = |n: u32| match n {
        0 => PathBuf::from(format!("{}.bad", path.display())),
        n => PathBuf::from(format!("{}.bad.{n}", path.display())),
    };
    let free = |path: &PathBuf| !path.exists();
    (0..1000).map(name).find(free).unwrap_or_else(|| name(1000))
}

/// Opens the index for reading.
fn open_to_read(directory: &Path) -> anyhow::Result<Connection> {
    let path = file(directory);
    anyhow::ensure!(
        path.exists(),
        "there is no index at {}: ncrx makes one with --index; give its directory with --index DIR",
        path.display()
    );
    // Not read-only: a reader of a WAL database may have to make its shared memory.
    let open = |flags| Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let db = open(OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| open(OpenFlags::SQLITE_OPEN_READ_ONLY))
        .with_context(|| format!("{}: cannot open it", path.display()))?;
    db.busy_timeout(BUSY)?;
    let version: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .with_context(|| format!("{}: cannot read it", path.display()))?;
    anyhow::ensure!(
        version == VERSION,
        "{}: its version is {version}, and this ncrx reads {VERSION}: `ncrx index --rebuild` makes it \
         anew",
        path.display()
    );
    Ok(db)
}
