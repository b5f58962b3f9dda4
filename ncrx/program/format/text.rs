// SPDX-License-Identifier: GPL-2.0

//! Text, as `dmesg` shows it, behind the host's name; in files behind the wall clock's time, too:
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

use std::io::Write;

use anstyle::{AnsiColor, Effects, Style};
use ncrx::{Output, Record};

use super::time::{push_padded, WallClock, When};
use super::visible::push_visible;
use super::{plain, words};

// The colours of dmesg.
const STAMP: Style = AnsiColor::Green.on_default();
const SUBSYSTEM: Style = AnsiColor::Yellow.on_default();
/// The colour of lines that are not of the log.
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

/// Writes text, with memory that is used again and again.
pub(super) struct Writer {
    painter: Painter,
    clock: WallClock,
    /// The beginning of each line.
    before: Vec<u8>,
    /// The timestamp, and by whom it was logged.
    stamp: Vec<u8>,
}

impl Writer {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            painter: Painter { colour },
            clock: WallClock::default(),
            before: Vec::new(),
            stamp: Vec::new(),
        }
    }

    /// Appends it; with the time if that is told.
    pub(super) fn write(
        &mut self,
        output: &Output<'_>,
        host: &str,
        when: Option<&When>,
        out: &mut Vec<u8>,
    ) {
        self.before.clear();
        if let Some(when) = when {
            self.clock.push(when.logged, &mut self.before);
            self.before.push(b' ');
        }
        push_visible(host.as_bytes(), &mut self.before);
        self.before.push(b' ');
        match output {
            Output::Record(record) => self.write_record(record, out),
            Output::Event { event, session, .. } => {
                let Some(words) = words(*event, *session) else {
                    return;
                };
                out.extend_from_slice(&self.before);
                let words = format!("--- {words}");
                self.painter.paint(OURS, words.as_bytes(), out);
                out.push(b'\n');
            }
        }
    }

    fn write_record(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let Self {
            painter,
            before,
            stamp,
            ..
        } = self;
        stamp.clear();
        if let Some(usec) = record.usec() {
            stamp.push(b'[');
            push_padded(usec / 1_000_000, 5, b' ', stamp);
            stamp.push(b'.');
            push_padded(usec % 1_000_000, 6, b'0', stamp);
            stamp.extend_from_slice(b"] ");
        }
        if let Some((_, caller)) = record.keys().find(|(key, _)| *key == b"caller") {
            stamp.push(b'[');
            stamp.resize(stamp.len() + 6_usize.saturating_sub(caller.len()), b' ');
            stamp.extend_from_slice(caller);
            stamp.extend_from_slice(b"] ");
        }
        let marks = [
            (record.is_text(), "(plain) "),
            (record.is_late(), "(late) "),
            (record.is_partial(), "(partial) "),
        ];
        let marks = marks.iter().filter(|mark| mark.0).map(|mark| mark.1);
        let text = plain(record);
        let style = level_style(record.level());
        for (nth, line) in text.split(|&c| c == b'\n').enumerate() {
            out.extend_from_slice(before);
            if nth > 0 {
                let marks = marks.clone().map(str::len).sum::<usize>();
                out.resize(out.len() + stamp.len() + marks, b' ');
                painter.paint(style, line, out);
            } else {
                painter.paint(STAMP, stamp, out);
                marks
                    .clone()
                    .for_each(|mark| painter.paint(OURS, mark.as_bytes(), out));
                painter.paint_first(style, line, out);
            }
            out.push(b'\n');
        }
    }
}

/// Returns the length of the subsystem's name that the text begins with, with its colon.
fn subsystem(line: &[u8]) -> usize {
    let colon = line.windows(2).position(|pair| pair == b": ");
    colon.map_or(0, |at| at + 1)
}

struct Painter {
    colour: bool,
}

impl Painter {
    /// A text's first line, which may begin with the name of a subsystem.
    fn paint_first(&self, style: Style, line: &[u8], out: &mut Vec<u8>) {
        let at = if self.colour { subsystem(line) } else { 0 };
        let (subsystem, rest) = line.split_at(at);
        self.paint(SUBSYSTEM, subsystem, out);
        self.paint(style, rest, out);
    }

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
