// SPDX-License-Identifier: GPL-2.0

//! Messages of ncrx itself, on standard error. A thread of its own writes them: a reader that
//! stalls keeps nobody waiting, but misses lines.

use std::fmt::Result;
use std::io::{self, stderr, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, SyncSender};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The most lines that wait to be written.
const LINES: usize = 1000;
/// The longest wait for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// A message to the thread.
enum Line {
    Text(Vec<u8>),
    /// All before this is written.
    End(SyncSender<()>),
}

static THREAD: OnceLock<SyncSender<Line>> = OnceLock::new();

/// A line, as it is put together; it is handed on when it is dropped.
#[derive(Default)]
struct Pending(Vec<u8>);

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(thread) = THREAD.get() {
            // A line too many is lost.
            let _ = thread.try_send(Line::Text(std::mem::take(&mut self.0)));
        }
    }
}

/// Begins to write.
fn begin() {
    let (to, lines) = mpsc::sync_channel(LINES);
    let write = move || {
        for line in lines {
            match line {
                // Without standard error nothing can be told.
                Line::Text(text) => drop(stderr().write_all(&text)),
                Line::End(done) => drop(done.send(())),
            }
        }
    };
    if thread::Builder::new()
        .name("log".into())
        .spawn(write)
        .is_ok()
    {
        let _ = THREAD.set(to);
    }
}

/// Waits until all is written, but not for long.
pub fn finish() {
    let (done, end) = mpsc::sync_channel(1);
    if let Some(thread) = THREAD.get() {
        if thread.try_send(Line::End(done)).is_ok() {
            let _ = end.recv_timeout(LAST);
        }
    }
}

/// Begins to log; `RUST_LOG` has the last word.
pub fn init(verbose: u8, quiet: bool) {
    begin();
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::INFO,
        (_, 1) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Pending::default)
        .log_internal_errors(false);
    if is_journal() {
        let format = tracing_subscriber::fmt::format().compact().without_time();
        log.event_format(Journal(
            format.with_target(false).with_ansi(false).with_level(false),
        ))
        .init();
    } else {
        log.compact()
            .with_target(false)
            .with_ansi(stderr().is_terminal())
            .init();
    }
}

/// Returns whether standard error is the journal's, which has the time and takes the level as a
/// number. The variable of systemd's may be inherited by a process with another standard error.
fn is_journal() -> bool {
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    let ours = format!("{}:{}", stderr.dev(), stderr.ino());
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| journal == ours)
}

/// `<level>` in front, as `sd-daemon(3)` has it.
struct Journal(Format<Compact, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> Result {
        to.write_str(match *event.metadata().level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })?;
        self.0.format_event(ctx, to, event)
    }
}
