// SPDX-License-Identifier: GPL-2.0

//! As `dmesg` shows records, behind the host; in files behind the wall clock's time, too:
//!
//! ```text
//! 2026-01-02T03:04:05.678901Z 10.0.0.2 --- log begins with record 0 (session 00c0ffee00c0ffee)
//! 2026-01-02T03:04:05.678901Z 10.0.0.2 [    0.000000] Linux version 7.3.4
//! 2026-01-02T03:04:06.883312Z 10.0.0.2 [    1.204411] eth0: a text
//! 2026-01-02T03:04:06.883312Z 10.0.0.2                of two lines
//! 2026-01-02T03:04:07.100000Z 10.0.0.2 --- records 12-17 missing: lost at the sender
//! 2026-01-02T03:04:06.883299Z 10.0.0.2 [    1.204398] (late) eth0: 1 Gbps
//! 2026-01-02T03:04:08.011100Z 10.0.0.2 [    2.332199] [  T123] by whom it was logged
//! 2026-01-02T03:04:09.000000Z 10.0.0.3 (plain) what a basic target says
//! ```
//!
//! The time is when it was logged: see [`super::time`]. Each line of a text is behind the host, so
//! that no text can pass for another host's. What cannot be shown is escaped: see
//! [`super::visible`]. Dictionaries are not shown. `(late)` is what comes behind records with
//! larger numbers, `(partial)` what lacks its end, `(plain)` what came without a number and without
//! a time.

use std::fmt::Write as _;
use std::io::Write;

use anstyle::{AnsiColor, Effects, Style};
use ncrx::{Output, Record};

use super::time::{rfc3339, When};
use super::visible::{push_visible, visible};
use super::{plain, words};

// The colours of dmesg.
const STAMP: Style = AnsiColor::Green.on_default();
const SUBSYSTEM: Style = AnsiColor::Yellow.on_default();
/// What is not of the log.
const OURS: Style = AnsiColor::Cyan.on_default();

/// The colour of a text of this level.
fn level_style(level: Option<u8>) -> Style {
    let red = AnsiColor::Red.on_default();
    match level {
        Some(0 | 1) => red.effects(Effects::INVERT),
        Some(2) => red.effects(Effects::BOLD),
        Some(3) => red,
        Some(4) => Style::new().effects(Effects::BOLD),
        _ => Style::new(),
    }
}

/// Appends it; with the time if that is told.
pub(super) fn write(
    output: &Output<'_>,
    host: &str,
    when: Option<&When>,
    colour: bool,
    out: &mut Vec<u8>,
) {
    let painter = Painter { colour };
    let mut before = Vec::with_capacity(64);
    if let Some(when) = when {
        // Writing into memory does not fail.
        let _ = write!(before, "{} ", rfc3339(when.logged));
    }
    push_visible(host.as_bytes(), &mut before);
    before.push(b' ');
    match output {
        Output::Record(record) => write_record(record, &before, &painter, out),
        Output::Event { event, session, .. } => {
            let Some(words) = words(*event, *session) else {
                return;
            };
            out.extend_from_slice(&before);
            painter.paint(OURS, format!("--- {words}").as_bytes(), out);
            out.push(b'\n');
        }
    }
}

fn write_record(record: &Record<'_>, before: &[u8], painter: &Painter, out: &mut Vec<u8>) {
    let mut stamp = String::with_capacity(32);
    if let Some(usec) = record.usec() {
        // Writing into memory does not fail.
        let _ = write!(stamp, "[{:5}.{:06}] ", usec / 1_000_000, usec % 1_000_000);
    }
    if let Some((_, caller)) = record.keys().find(|(key, _)| *key == b"caller") {
        let _ = write!(stamp, "[{:>6}] ", visible(caller));
    }
    let marks = [
        (record.is_text(), "(plain) "),
        (record.is_late(), "(late) "),
        (record.is_partial(), "(partial) "),
    ];
    let marks: String = marks
        .iter()
        .filter(|mark| mark.0)
        .map(|mark| mark.1)
        .collect();
    let text = plain(record);
    let style = level_style(record.level());
    for (nth, line) in text.split(|&c| c == b'\n').enumerate() {
        out.extend_from_slice(before);
        let mut line = line;
        if nth == 0 {
            painter.paint(STAMP, stamp.as_bytes(), out);
            painter.paint(OURS, marks.as_bytes(), out);
            let (subsystem, rest) = line.split_at(subsystem(line));
            painter.paint(SUBSYSTEM, subsystem, out);
            line = rest;
        } else {
            out.resize(out.len() + stamp.len() + marks.len(), b' ');
        }
        painter.paint(style, line, out);
        out.push(b'\n');
    }
}

/// How long the subsystem's name is that the text begins with, with its colon.
fn subsystem(line: &[u8]) -> usize {
    let colon = line.windows(2).position(|pair| pair == b": ");
    colon.map_or(0, |at| at + 1)
}

struct Painter {
    colour: bool,
}

impl Painter {
    fn paint(&self, style: Style, text: &[u8], out: &mut Vec<u8>) {
        let coloured = self.colour && !text.is_empty() && !style.is_plain();
        // Writing into memory does not fail.
        if coloured {
            let _ = write!(out, "{style}");
        }
        push_visible(text, out);
        if coloured {
            let _ = write!(out, "{style:#}");
        }
    }
}
