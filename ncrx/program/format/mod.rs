// SPDX-License-Identifier: GPL-2.0

//! Formats: records and events as text, as JSON, for the journal, for syslog.

mod export;
#[cfg(test)]
mod journal_tests;
mod json;
mod syslog;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod visible;

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use ncrx::{Event, GapReason, Output, Record, Session};

use crate::crashes::Crash;
use crate::sink::Ending;
pub use time::{Clocks, When, DOUBT};
pub use visible::is_harmful;

/// The format of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As `dmesg` shows them, behind the host.
    Text,
    /// A JSON object a line.
    Json,
    /// systemd's Journal Export Format.
    Export,
    /// RFC 5424.
    Syslog,
}

impl Format {
    /// Returns the end of everything that is written in this format, for
    /// [`Sink::open_ending`](crate::sink::Sink::open_ending).
    pub fn ending(self) -> Ending {
        match self {
            Self::Export => Ending::BlankLine,
            Self::Text | Self::Json | Self::Syslog => Ending::Newline,
        }
    }
}

/// The names of levels.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];

/// Parses a level: its name, or its number.
pub fn level(text: &str) -> Result<u8, String> {
    let word = text.to_lowercase();
    let word = match word.as_str() {
        "error" => "err",
        "warn" => "warning",
        "panic" => "emerg",
        word => word,
    };
    let named = LEVELS
        .iter()
        .position(|level| *level == word)
        .map(|nth| nth as u8);
    let number = word.parse().ok().filter(|number| *number < 8);
    named
        .or(number)
        .ok_or_else(|| format!("there is {}, or 0 to 7", LEVELS.join(", ")))
}

impl Format {
    /// Returns its name, as options have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Export => "export",
            Self::Syslog => "syslog",
        }
    }
}

/// An instant and what the wall clock showed then: the receiver is fed with instants.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The instant.
    pub instant: Instant,
    /// The time that the wall clock showed then.
    pub system: SystemTime,
}

/// Writes records and events in one format. One for each output of each worker.
pub struct Formatter {
    format: Format,
    style: Style,
    text: text::Writer,
}

/// The choices of how records look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Text has colours.
    pub colour: bool,
    /// Each line of text begins with the wall clock's time.
    pub wall_clock: bool,
    /// JSON has `kmsg`.
    pub kmsg: bool,
}

impl Formatter {
    /// Returns one for this format.
    pub fn new(format: Format, style: Style) -> Self {
        Self {
            format,
            style,
            text: text::Writer::new(style.colour),
        }
    }

    /// Returns whether it says when something was.
    pub fn has_times(&self) -> bool {
        self.format != Format::Text || self.style.wall_clock
    }

    /// Returns whether the format has events for crashes.
    pub fn has_crashes(&self) -> bool {
        self.format == Format::Json
    }

    /// Appends the event of a crash, if the format has it.
    pub fn write_crash(&mut self, crash: &Crash, out: &mut Vec<u8>) {
        if self.has_crashes() {
            json::write_crash(crash, out);
        }
    }

    /// Appends what is to be written of this; nothing for events that the format does not have.
    /// `host` is the sender's name in the output (its address, for one), `when` when it was.
    pub fn write(&mut self, output: &Output<'_>, host: &str, when: &When, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => {
                let when = self.style.wall_clock.then_some(when);
                self.text.write(output, host, when, out);
            }
            Format::Json => json::write(output, host, when, self.style.kmsg, out),
            Format::Export => export::write(output, host, when, out),
            Format::Syslog => syslog::write(output, host, when, out),
        }
    }
}

/// Returns bytes of a sender as text that can be shown: see [`visible`].
pub fn shown(bytes: &[u8]) -> Cow<'_, str> {
    visible::visible(bytes)
}

/// Returns a crash with all its lines, as a line of JSON.
pub fn report(crash: &Crash) -> Vec<u8> {
    let mut out = Vec::new();
    json::write_report(crash, &mut out);
    out
}

/// Returns a line of JSON in which nothing can do harm to a terminal.
pub fn json_line(line: &impl serde::Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    json::write_line(line, &mut out);
    out
}

/// A record's text, level and clock.
type Words<'a> = (Cow<'a, [u8]>, Option<u8>, Option<u64>);

/// Returns the words of a record, or of an event; [`None`] if that is not worth a line.
pub fn words_of<'a>(output: &Output<'a>) -> Option<Words<'a>> {
    match output {
        Output::Record(record) => Some((plain(record), record.level(), record.usec())),
        Output::Event { event, session, .. } => {
            let words = words(*event, *session)?.into_bytes();
            Some((words.into(), None, None))
        }
    }
}

/// Returns the text with printk's escapes undone; that of a basic target has none.
fn plain<'a>(record: &Record<'a>) -> Cow<'a, [u8]> {
    match record.is_text() {
        true => Cow::Borrowed(record.text()),
        false => ncrx::unescape(record.text()),
    }
}

/// Returns an event in words, for the formats that people read; [`None`] if it is not worth a line:
/// records that the sender's log level hides were not wanted.
fn words(event: Event, session: Option<Session>) -> Option<String> {
    let session = || session.map_or(String::new(), |session| format!(" (session {session})"));
    Some(match event {
        Event::Gap {
            reason: GapReason::Hidden,
            ..
        } => return None,
        Event::Gap {
            range: numbers,
            reason: why,
        } => {
            let records = if numbers.count() == 1 {
                "record"
            } else {
                "records"
            };
            format!("{records} {numbers} missing: {}", why.text())
        }
        Event::Began { first, again } => {
            let anew = if again { " anew" } else { "" };
            let first = first.map_or(String::new(), |first| format!(" with record {first}"));
            format!("log begins{anew}{first}{}", session())
        }
        Event::Resumed => "heard again".into(),
        Event::Ended => format!("log ended{}", session()),
        _ => return None,
    })
}

/// Returns an event in one word, for programs.
fn word(event: Event) -> &'static str {
    match event {
        Event::Began { .. } => "began",
        Event::Gap { .. } => "gap",
        Event::Resumed => "resumed",
        Event::Ended => "ended",
        _ => "other",
    }
}
