// SPDX-License-Identifier: GPL-2.0

//! `ncrx show` and `ncrx tail`.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context};
use clap::Args;
use regex::{Regex, RegexBuilder};

use super::files::{read_all, with_rotated, Files, Follower, From};
use super::{exact, moment};
use crate::format::{level, shown};
use crate::reader::{Entry, What};

/// The time from one look at growing files to the next.
const LOOK: Duration = Duration::from_millis(200);
/// After so many looks new files are looked for.
const LIST: u32 = 5;

/// The filters of both commands.
#[derive(Debug, Args)]
struct Filters {
    /// Only records of this level, or a more urgent one: emerg, alert, crit, err, warning, notice,
    /// info, debug, or 0 to 7. Needs an output in JSON.
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    level: Option<u8>,
    /// Only records with this in their text: a regular expression; without regard to case if it has
    /// no upper case in it.
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    grep: Option<Regex>,
}

/// Show what a host has logged, from the files that the receiver writes.
#[derive(Debug, Args)]
pub struct Show {
    /// The host's name, as `ncrx hosts` shows it.
    host: String,
    #[command(flatten)]
    from: From,
    /// Only this boot: 0 is the last, -1 the one before; 1 is the first that there is.
    #[arg(long, value_name = "N", allow_negative_numbers = true, num_args = 0..=1,
        default_missing_value = "0")]
    boot: Option<i64>,
    /// Only records since this time (UTC): 2026-11-30, "2026-11-30 08:00", 08:00, yesterday, 2h.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    since: Option<u64>,
    /// Only records until this time.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    until: Option<u64>,
    #[command(flatten)]
    filters: Filters,
    /// Only the last so many lines.
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
    /// Go on with what comes.
    #[arg(short, long, conflicts_with = "until")]
    follow: bool,
}

/// Show what all hosts log, as it comes.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    from: From,
    /// Only this host; may be repeated.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    #[command(flatten)]
    filters: Filters,
}

fn pattern(text: &str) -> Result<Regex, String> {
    let any_case = !text.chars().any(char::is_uppercase);
    let regex = RegexBuilder::new(text).case_insensitive(any_case).build();
    regex.map_err(|e| e.to_string())
}

impl Filters {
    /// Returns whether a record is wanted. Events have no level.
    fn want(&self, entry: &Entry) -> bool {
        let level = self
            .level
            .is_none_or(|most| entry.level.is_some_and(|level| level <= most));
        level
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.is_match(&entry.text))
    }
}

impl Show {
    /// Does it.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let files = self.from.files(self.filters.level.is_some())?;
        let paths = files.paths(Some(&self.host))?;
        let all: Vec<PathBuf> = paths.iter().flat_map(|path| with_rotated(path)).collect();
        ensure!(
            !all.is_empty(),
            "there is no file of {}: `ncrx hosts` shows which hosts there are",
            shown(self.host.as_bytes())
        );
        let mut follower = Follower::default();
        if self.follow {
            follower.skip(&paths)?;
        }
        let segment = self.segment(&all)?;
        let (mut last, mut boot) = (VecDeque::new(), 0);
        let errors = read_all(&all, |entry| {
            if entry.host != self.host {
                return Ok(true);
            }
            boot += i64::from(entry.event == Some(What::Began));
            if segment.is_some_and(|wanted| wanted != boot) || !self.wants(&entry) {
                return Ok(true);
            }
            match self.lines {
                None => write(&entry, None, out)?,
                Some(lines) => {
                    last.push_back(entry);
                    if last.len() > lines {
                        last.pop_front();
                    }
                }
            }
            Ok(true)
        })?;
        last.iter().try_for_each(|entry| write(entry, None, out))?;
        out.flush()?;
        errors.iter().for_each(|e| tracing::warn!("{e}"));
        if !self.follow {
            ensure!(errors.is_empty(), "not all files could be read");
            return Ok(());
        }
        follow(follower, &files, Some(&self.host), out, |entry, out| {
            if entry.host == self.host && self.wants(entry) {
                write(entry, None, out)?;
            }
            Ok(())
        })
    }

    /// Returns which start of the log is wanted, counted from the first in the files.
    fn segment(&self, all: &[PathBuf]) -> anyhow::Result<Option<i64>> {
        let Some(boot) = self.boot else {
            return Ok(None);
        };
        let (mut starts, mut before) = (0, false);
        // Files that cannot be read are named when the records are.
        read_all(all, |entry| {
            if entry.host == self.host {
                let start = entry.event == Some(What::Began);
                // The files may begin in the middle of a boot.
                before |= starts == 0 && !start;
                starts += i64::from(start);
            }
            Ok(true)
        })?;
        let first = i64::from(!before);
        let wanted = if boot > 0 {
            first + boot - 1
        } else {
            starts + boot
        };
        ensure!(
            (first..=starts).contains(&wanted),
            "there is no boot {boot}: the files have {} of {}",
            starts - first + 1,
            shown(self.host.as_bytes())
        );
        Ok(Some(wanted))
    }

    fn wants(&self, entry: &Entry) -> bool {
        let after = |since| entry.time.is_none_or(|time| time >= since);
        let before = |until| entry.time.is_none_or(|time| time <= until);
        self.since.is_none_or(after) && self.until.is_none_or(before) && self.filters.want(entry)
    }
}

impl Tail {
    /// Does it, until the reader has enough.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let files = self.from.files(self.filters.level.is_some())?;
        let mut follower = Follower::default();
        follower.skip(&files.paths(None).context("cannot list the files")?)?;
        follow(follower, &files, None, out, |entry, out| {
            let host = self.host.is_empty() || self.host.contains(&entry.host);
            if host && self.filters.want(entry) {
                write(entry, Some(&entry.host), out)?;
            }
            Ok(())
        })
    }
}

/// Hands on what comes, for ever.
fn follow<W: Write>(
    mut follower: Follower,
    files: &Files,
    host: Option<&str>,
    out: &mut W,
    each: impl Fn(&Entry, &mut W) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    for look in 0_u32.. {
        if look % LIST == 0 {
            paths = files.paths(host).context("cannot list the files")?;
        }
        follower.poll(&paths, &mut |entry| each(&entry, out))?;
        out.flush()?;
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Writes a record as the receiver does, with all escaped that may do harm.
fn write(entry: &Entry, host: Option<&str>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut line = entry.time.map_or(String::new(), |time| exact(time) + " ");
    if let Some(host) = host {
        line.push_str(&shown(host.as_bytes()));
        line.push(' ');
    }
    if let Some(usec) = entry.usec {
        line.push_str(&format!(
            "[{:5}.{:06}] ",
            usec / 1_000_000,
            usec % 1_000_000
        ));
    }
    if let Some(caller) = &entry.caller {
        line.push_str(&format!("[{:>6}] ", shown(caller.as_bytes())));
    }
    if entry.event.is_some() {
        line.push_str("--- ");
    }
    if entry.late {
        line.push_str("(late) ");
    }
    for (nth, part) in entry.text.split('\n').enumerate() {
        let indent = if nth > 0 || entry.goes_on {
            "               "
        } else {
            ""
        };
        let line = if nth == 0 { line.as_str() } else { "" };
        writeln!(out, "{line}{indent}{}", shown(part.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_patterns() {
        assert_eq!(
            (level("ERR"), level("4"), level("warn")),
            (Ok(3), Ok(4), Ok(4))
        );
        assert!(level("8").is_err() && level("loud").is_err());
        let entry = |text: &str, level| Entry {
            text: text.into(),
            level,
            ..Entry::default()
        };
        let filters = |level, grep: Option<&str>| Filters {
            level,
            grep: grep.map(|text| pattern(text).unwrap()),
        };
        assert!(filters(Some(3), None).want(&entry("x", Some(3))));
        assert!(!filters(Some(3), None).want(&entry("x", Some(4))));
        assert!(!filters(Some(3), None).want(&entry("x", None)));
        assert!(filters(None, Some("nvme[0-9]")).want(&entry("an NVMe1", None)));
        assert!(!filters(None, Some("NVME")).want(&entry("an nvme", None)));
        assert!(pattern("(").is_err());
    }

    #[test]
    fn lines_are_harmless() {
        let entry = Entry {
            time: Some(1_000_000),
            text: "a\u{1b}[2J\nsecond\r".into(),
            ..Entry::default()
        };
        let mut out = Vec::new();
        write(&entry, Some("h\u{9b}"), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "1970-01-01T00:00:01.000000Z h\\xc2\\x9b a\\x1b[2J"
        );
        assert_eq!(lines[1].trim(), "second\\x0d");
    }
}
