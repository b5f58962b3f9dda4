// SPDX-License-Identifier: GPL-2.0

//! The recognizer, which finds the lines of each crash in a stream.

use std::collections::VecDeque;

use super::facts::{is_end, is_trace, Facts};
use super::rules::{head, victim, Head, Role};
use super::symbol::Floor;
use super::{Kind, Line, Report, ReportLine};
use crate::Record;

/// The time on the sender's clock, in microseconds, after which nothing is a part of a crash any
/// more. The kernel panics at once if an oops makes it to.
pub const WINDOW_USEC: u64 = 5_000_000;
/// The most crashes of different callers at a time.
const OPEN: usize = 4;
/// The most lines of a report, and the most bytes in them.
const LINES: usize = 600;
const BYTES: usize = 64 << 10;
/// The longest line, in bytes: what printk has at most.
const LONGEST: usize = 1024;
/// The most lines before a crash, and the most bytes in them.
const BEFORE: usize = 16;
const BEFORE_BYTES: usize = 2048;
/// The longest of them, in bytes.
const BEFORE_LONGEST: usize = 256;
/// The number of lines after a gap that may be of a crash whose first line is missing.
const AFTER_GAP: u8 = 64;
/// The most other lines within a trace.
const PATIENCE: usize = 24;
/// The same after the mark of its end.
const PATIENCE_AT_END: usize = 4;

/// Finds the crashes in one stream.
///
/// It holds 2 KB of the last lines, and 64 KB of each of four crashes at most, while they last.
#[derive(Debug, Default)]
pub struct Recognizer {
    before: VecDeque<ReportLine>,
    before_bytes: usize,
    open: Vec<Open>,
    /// The number of lines that may still be of a crash whose first line is missing.
    after_gap: u8,
}

/// A crash that may go on.
#[derive(Debug)]
struct Open {
    head: Head,
    caller: Option<Vec<u8>>,
    /// Callers that it has asked for their backtraces.
    guests: Vec<Vec<u8>>,
    before: Vec<ReportLine>,
    lines: Vec<ReportLine>,
    bytes: usize,
    /// The number of the last lines that are not of a trace.
    others: usize,
    ended: bool,
    usec: Option<u64>,
    release: Option<String>,
    missing: u64,
    cut: bool,
    headless: bool,
    marked: bool,
}

impl Recognizer {
    /// Takes a record; appends the crashes that have ended to `out`.
    pub fn record(&mut self, record: &Record<'_>, out: &mut Vec<Report>) {
        let text = match record.is_text() {
            true => record.text().into(),
            false => crate::unescape(record.text()),
        };
        for text in text.split(|&c| c == b'\n') {
            // The text may live shorter than the record.
            let line = Line::of(record, b"");
            let line = match record.is_text() {
                true => Line::plain(text),
                false => Line { text, ..line },
            };
            self.push(&line, out);
        }
    }

    /// Takes a line; appends the crashes that have ended to `out`.
    pub fn push(&mut self, line: &Line<'_>, out: &mut Vec<Report>) {
        if !self.open.is_empty() {
            self.expire(line.usec, out);
        }
        let text = String::from_utf8_lossy(line.text);
        let text = match text.contains('\n') {
            true => text.replace('\n', " ").into(),
            false => text,
        };
        let text = text.trim_end();
        let begins = match line.facility {
            0 => head(text.trim_start()),
            _ => None,
        };
        let mut kept = ReportLine {
            seq: line.seq,
            usec: line.usec,
            text: String::new(),
        };
        let place = match self.open.is_empty() {
            true => None,
            false => self.place(line, text, begins.as_ref()),
        };
        match (place, begins) {
            (Some(nth), begins) if !self.is_new(nth, begins.as_ref()) => {
                let open = &mut self.open[nth];
                open.add(line, text, &mut kept, begins);
                if open.is_over() {
                    out.extend(self.open.remove(nth).report());
                }
            }
            (place, Some(begins)) => {
                if let Some(nth) = place {
                    out.extend(self.open.remove(nth).report());
                }
                let headless = begins.role == Role::GoesOn && self.after_gap > 0;
                self.begin(line, text, begins, headless, out);
            }
            (_, None) => {
                if let Some(begins) = self.headless(line, text) {
                    self.begin(line, text, begins, true, out);
                }
            }
        }
        self.after_gap = self.after_gap.saturating_sub(1);
        if !line.late {
            self.remember(kept, text);
        }
    }

    /// Takes note that this number of records is missing here.
    pub fn gap(&mut self, count: u64) {
        self.after_gap = AFTER_GAP;
        for open in &mut self.open {
            open.missing = open.missing.saturating_add(count);
        }
    }

    /// Returns whether a crash may still go on: if nothing comes for some seconds,
    /// [`Recognizer::finish`] ends it.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Ends the crashes that may still go on, because the stream has ended or is silent; appends
    /// them to `out`.
    pub fn finish(&mut self, out: &mut Vec<Report>) {
        out.extend(self.open.drain(..).filter_map(Open::report));
    }

    /// Ends crashes that are too old.
    fn expire(&mut self, usec: Option<u64>, out: &mut Vec<Report>) {
        let Some(now) = usec else { return };
        let is_old = |open: &Open| {
            let since = open.usec.map(|usec| now.saturating_sub(usec));
            since.is_some_and(|since| since > WINDOW_USEC)
        };
        while let Some(nth) = self.open.iter().position(is_old) {
            out.extend(self.open.remove(nth).report());
        }
    }

    /// Returns the crash that a line is of.
    fn place(&self, line: &Line<'_>, text: &str, begins: Option<&Head>) -> Option<usize> {
        let newest = || (0..self.open.len()).rev();
        let is_its = |open: &Open| {
            let guest = |caller: &[u8]| open.guests.iter().any(|guest| guest == caller);
            open.caller.as_deref() == line.caller || line.caller.is_some_and(guest)
        };
        if let Some(nth) = newest().find(|nth| is_its(&self.open[*nth])) {
            return Some(nth);
        }
        match begins {
            Some(head) if head.role == Role::Follows => newest().next(),
            Some(head) if head.role == Role::Repeats => {
                newest().find(|nth| self.open[*nth].head.kind == head.kind)
            }
            Some(_) => None,
            None if text.starts_with("NMI backtrace for cpu") => {
                newest().find(|nth| self.open[*nth].asks_others())
            }
            None => None,
        }
    }

    /// Returns whether a line that may be the first of a crash begins another one than this.
    fn is_new(&self, nth: usize, begins: Option<&Head>) -> bool {
        let open = &self.open[nth];
        let Some(head) = begins else { return false };
        match head.role {
            Role::Follows => false,
            Role::Repeats => open.head.kind != head.kind,
            Role::GoesOn => open.ended,
            Role::Begins => {
                // A panic repeats its first line.
                let panics = head.kind == Kind::Panic && !open.ended;
                !panics
            }
            Role::Fault => {
                let stem = &open.head.stem;
                // KASAN reports it before the CPU does.
                let told = stem.contains("-deref") || stem.contains("wild-memory");
                let kasan = open.head.kind == Kind::Kasan && told;
                // The first line comes late.
                let first = open.headless && open.lines.len() < 4;
                !(kasan || first)
            }
        }
    }

    /// Returns a head for a trace whose first lines are missing, if this is one.
    fn headless(&self, line: &Line<'_>, text: &str) -> Option<Head> {
        if self.after_gap == 0 && !line.crash || line.facility != 0 || line.late {
            return None;
        }
        let text = text.trim_start();
        let starts = [
            "RIP: 0010:",
            "pc : ",
            "---[ end trace",
            "Call Trace:",
            "Call trace:",
        ];
        let fits = starts.iter().any(|start| text.starts_with(start));
        fits.then(|| Head {
            kind: Kind::Unknown,
            role: Role::GoesOn,
            stem: "crash in {}".into(),
            function: None,
        })
    }

    fn begin(
        &mut self,
        line: &Line<'_>,
        text: &str,
        head: Head,
        headless: bool,
        out: &mut Vec<Report>,
    ) {
        if self.open.len() == OPEN {
            out.extend(self.open.remove(0).report());
        }
        let mut open = Open {
            head,
            caller: line.caller.map(<[u8]>::to_vec),
            guests: Vec::new(),
            before: self.before.iter().cloned().collect(),
            lines: Vec::new(),
            bytes: 0,
            others: 0,
            ended: false,
            usec: None,
            release: None,
            missing: 0,
            cut: false,
            headless,
            marked: false,
        };
        open.add(line, text, &mut ReportLine::default(), None);
        self.open.push(open);
    }

    /// Keeps a line as one before a crash.
    fn remember(&mut self, mut line: ReportLine, text: &str) {
        while self.before.len() >= BEFORE || self.before_bytes > BEFORE_BYTES {
            let Some(old) = self.before.pop_front() else {
                break;
            };
            self.before_bytes -= old.text.len();
            // The memory of an old line is used again, unless it is much.
            line.text = old.text;
            line.text.clear();
        }
        line.text.push_str(&text[..text.floor(BEFORE_LONGEST)]);
        self.before_bytes += line.text.len();
        self.before.push_back(line);
    }
}

impl Open {
    fn add(&mut self, line: &Line<'_>, text: &str, kept: &mut ReportLine, begins: Option<Head>) {
        let trimmed = text.trim_start();
        self.marked |= line.crash;
        self.cut |= line.partial;
        if line.late {
            self.missing = self.missing.saturating_sub(1);
        } else {
            self.usec = line.usec.or(self.usec);
        }
        if self.release.is_none() {
            self.release = line
                .release
                .map(|text| String::from_utf8_lossy(text).into_owned());
        }
        if trimmed.starts_with("NMI backtrace for cpu") {
            let new = line.caller.map(<[u8]>::to_vec).filter(|guest| {
                self.guests.len() < 64
                    && self.caller.as_ref() != Some(guest)
                    && !self.guests.contains(guest)
            });
            self.guests.extend(new);
        }
        let victim = self.head.kind == Kind::Oom && victim(trimmed).is_some();
        let ends = is_end(trimmed) || victim;
        // A crash that this one leads to has an end of its own.
        self.ended = (self.ended && begins.is_none()) || ends;
        let part = ends || begins.is_some() || self.lines.is_empty() || is_trace(trimmed);
        self.others = if part { 0 } else { self.others + 1 };
        if let Some(head) = begins.filter(|_| self.headless) {
            // Its first line has come late, or another line that tells its kind.
            if self.head.kind == Kind::Unknown {
                self.headless = !line.late;
                self.head = head;
            }
        }
        if self.lines.len() >= LINES || self.bytes + text.len() > BYTES {
            self.cut = true;
            return;
        }
        let end = text.floor(LONGEST);
        self.cut |= text.len() > end;
        let seq = line.seq.filter(|_| line.late);
        let behind = |other: &ReportLine| seq.is_some() && other.seq > seq;
        let at = self
            .lines
            .iter()
            .rposition(|other| !behind(other))
            .map_or(0, |at| at + 1);
        self.bytes += end;
        kept.seq = line.seq;
        kept.usec = line.usec;
        let text = text[..end].to_owned();
        self.lines.insert(
            at,
            ReportLine {
                text,
                ..kept.clone()
            },
        );
    }

    /// Returns whether no more lines of it are expected.
    fn is_over(&self) -> bool {
        let patience = match self.head.kind {
            // Tables of all memory and all tasks.
            Kind::Oom if !self.ended => LINES,
            _ if self.ended => PATIENCE_AT_END,
            _ => PATIENCE,
        };
        self.others > patience
    }

    /// Returns whether it has other CPUs show where they are.
    fn asks_others(&self) -> bool {
        matches!(
            self.head.kind,
            Kind::RcuStall | Kind::SoftLockup | Kind::HardLockup | Kind::HungTask
        )
    }

    fn report(mut self) -> Option<Report> {
        // Lines since its last one are not its own.
        let end = self.lines.len() - self.others.min(self.lines.len());
        self.lines.truncate(end);
        let facts = Facts::of(&self.head, &self.lines);
        // A stack that was only dumped is no crash.
        if self.head.kind == Kind::Unknown
            && !self.marked
            && !facts.ended
            && facts.pointer().is_none()
        {
            return None;
        }
        let name = facts.name(&self.head);
        let string = |text: Vec<u8>| String::from_utf8_lossy(&text).into_owned();
        Some(Report {
            kind: self.head.kind,
            title: name.title,
            signature: name.signature,
            function: name.function,
            frames: name.frames,
            release: self.release.or(facts.release),
            hardware: facts.hardware,
            caller: self.caller.map(string),
            before: self.before,
            lines: self.lines,
            missing: self.missing,
            headless: self.headless,
            endless: self.head.has_end() && !facts.ended,
            cut: self.cut,
            fatal: facts.panicked || self.marked,
        })
    }
}
