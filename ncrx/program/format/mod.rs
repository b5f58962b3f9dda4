// SPDX-License-Identifier: GPL-2.0

//! Records and events as text, as JSON, for the journal, for syslog.

mod export;
#[cfg(test)]
mod journal_tests;
mod json;
mod syslog;
#[cfg(test)]
mod tests;
mod text;
mod time;

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Instant, SystemTime};

use ncrx::{Event, Output, Record, Session, Why};

use crate::sink::Ending;
use time::Streams;

/// What the output looks like.
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
    /// How everything that is written in this format ends, for
    /// [`Sink::open_ending`](crate::sink::Sink::open_ending).
    pub fn ending(self) -> Ending {
        match self {
            Self::Export => Ending::BlankLine,
            Self::Text | Self::Json | Self::Syslog => Ending::Newline,
        }
    }
}

/// An instant and what the wall clock showed then: the receiver is fed with instants.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Then.
    pub instant: Instant,
    /// What it showed.
    pub system: SystemTime,
}

/// Writes records and events in one format. One for each output of each worker; what it must
/// remember of a stream (its boot time, its boot id) is in it.
///
/// The real time of a record is derived from the sender's clock and from when records arrive: see
/// [`time`].
pub struct Formatter {
    format: Format,
    colour: bool,
    streams: Streams,
}

impl Formatter {
    /// `colour`: only text has any.
    pub fn new(format: Format, colour: bool, clock: Clock) -> Self {
        Self {
            format,
            colour,
            streams: Streams::new(clock),
        }
    }

    /// What the wall clock shows by now: it may have been set, and it goes on while the machine is
    /// suspended, which instants do not.
    pub fn set_clock(&mut self, clock: Clock) {
        self.streams.set_clock(clock);
    }

    /// Appends what is to be written of this; nothing for events that the format does not have.
    /// `host` is the sender's name in the output (its address, for one).
    pub fn write(&mut self, output: &Output<'_>, host: &str, out: &mut Vec<u8>) {
        if self.format == Format::Text {
            return text::write(output, host, self.colour, out);
        }
        let when = self.streams.see(output);
        match self.format {
            Format::Text => {}
            Format::Json => json::write(output, host, &when, out),
            Format::Export => export::write(output, host, &when, out),
            Format::Syslog => syslog::write(output, host, &when, out),
        }
    }
}

/// The text with printk's escapes undone; that of a basic target has none.
fn plain<'a>(record: &Record<'a>) -> Cow<'a, [u8]> {
    match record.is_text() {
        true => Cow::Borrowed(record.text()),
        false => ncrx::unescape(record.text()),
    }
}

/// An event in words, for the formats that people read. Nothing if it is not worth a line: that
/// the sender's log level hides records is what somebody has asked for.
fn words(event: Event, session: Option<Session>) -> Option<String> {
    let session = || session.map_or(String::new(), |session| format!(" (session {session})"));
    Some(match event {
        Event::Gap {
            reason: Why::Hidden,
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

/// An event in one word, for programs.
fn word(event: Event) -> &'static str {
    match event {
        Event::Began { .. } => "began",
        Event::Gap { .. } => "gap",
        Event::Resumed => "resumed",
        Event::Ended => "ended",
        _ => "other",
    }
}

/// Appends UTF-8 text in which nothing can do harm to a terminal or look like another line: control
/// characters but for the tab, and bytes that are not UTF-8, are written as printk does, as `\x..`.
fn push_visible(bytes: &[u8], out: &mut Vec<u8>) {
    // Nearly all is ASCII. No short cut out of the loop: so the compiler takes many bytes at a
    // time.
    let odd = |&c: &u8| !(b' '..=b'~').contains(&c);
    if !bytes.iter().fold(false, |any, c| any | odd(c)) {
        return out.extend_from_slice(bytes);
    }
    let hidden = |c: char| c.is_control() && c != '\t';
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| hidden(c)) {
            let (before, behind) = rest.split_at(at);
            let (control, behind) = behind.split_at(c.len_utf8());
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(escaped(control.as_bytes()).as_bytes());
            rest = behind;
        }
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(escaped(chunk.invalid()).as_bytes());
    }
}

/// Each byte as `\x..`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(4 * bytes.len());
    for byte in bytes {
        // Writing into memory does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
    text
}
