// SPDX-License-Identifier: GPL-2.0

//! What ncrx has to say of itself, on standard error.

use std::fmt::Result;
use std::io::{stderr, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Begins to log; `RUST_LOG` has the last word.
pub fn init(verbose: u8, quiet: bool) {
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
        .with_writer(stderr)
        // Where there is no standard error there is nobody to tell.
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

/// Is standard error the journal's, which has the time and takes the level as a number? What
/// systemd says may be inherited by somebody whose standard error is another.
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
