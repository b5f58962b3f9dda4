// SPDX-License-Identifier: GPL-2.0

//! The commands: what people ask of the index and of the files. Without one, ncrx receives.

pub mod crashes;
mod files;
pub mod hosts;
mod rebuild;
mod show;
mod top;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::format::shown;

/// The directory of the index, unless another one is given: that of the unit.
const INDEX: &str = "/var/lib/ncrx";

const EXAMPLES: &str = "\
Examples:
  ncrx crashes --since yesterday
      What crashed last night: a line for each bug.
  ncrx crash 17
      All of one crash; a signature shows its last one.
  ncrx hosts
      All hosts, and how they are.
  ncrx show web1 --boot -1 --grep nvme
      What web1 has logged of its nvme, in the boot before this one.
  ncrx top
      All hosts, live; keys are as in htop.
  ncrx tail --level err
      What happens now on all hosts.";

/// Receives kernel logs from netconsole_ext and netconsole, and tells what has crashed.
///
/// Every record is written once and in order, as far as the sender lets that happen: netconsole_ext
/// is asked again for what is missing, and hears what is written. A record is acknowledged only
/// when all outputs have it.
#[derive(Debug, Parser)]
#[command(
    name = "ncrx",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Commands, beside receiving",
    subcommand_value_name = "COMMAND",
    disable_help_subcommand = true
)]
pub struct Program {
    /// The receiver's options.
    #[command(flatten)]
    pub cli: Cli,
    /// The command, if there is one.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A question of a person.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the crashes, a line for each bug.
    #[command(after_help = EXAMPLES)]
    Crashes(crashes::List),
    /// Show a crash: its report, with the lines before it.
    Crash(crashes::Show),
    /// List the hosts and how they are.
    Hosts(hosts::List),
    /// Watch all hosts, live.
    Top(top::Top),
    /// Show what a host has logged, from the files.
    Show(show::Show),
    /// Show what all hosts log, as it comes.
    Tail(show::Tail),
    /// Make the index anew from files.
    Index(rebuild::Rebuild),
}

impl Command {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = match self {
            Self::Crashes(list) => list.run(&mut out),
            Self::Crash(show) => show.run(&mut out),
            Self::Hosts(list) => list.run(&mut out),
            Self::Show(show) => show.run(&mut out),
            Self::Top(top) => {
                // It has standard output to itself.
                drop(out);
                return top.run();
            }
            Self::Tail(tail) => tail.run(&mut out),
            Self::Index(rebuild) => rebuild.run(&mut out),
        };
        match result.and_then(|()| Ok(out.flush()?)) {
            // The reader has seen enough.
            Err(e) if is_closed(&e) => Ok(()),
            result => result,
        }
    }
}

fn is_closed(e: &anyhow::Error) -> bool {
    let io = e.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the manual: the options, then the commands with theirs.
pub fn manual() -> io::Result<Vec<u8>> {
    let program = Program::command();
    let mut page = Vec::new();
    Man::new(program.clone()).render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    for command in program.get_subcommands() {
        let name = command.get_name();
        // They have no pages of their own.
        let other = format!("ncrx\\-{name}(1)");
        page = page.replace(&other, &format!("\\fBncrx {name}\\fR"));
        let mut part = Vec::new();
        let man = Man::new(command.clone());
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        let part = String::from_utf8_lossy(&part);
        let part = part
            .replace(".SH DESCRIPTION", "")
            .replace(".SH OPTIONS", "");
        page.push_str(&format!("\n.SH \"NCRX {}\"\n{part}", name.to_uppercase()));
    }
    Ok(page.into_bytes())
}

/// Where the index is.
#[derive(Debug, Args)]
pub struct At {
    /// The directory of the index, as the receiver has it.
    #[arg(long, value_name = "DIR", default_value = INDEX)]
    pub index: PathBuf,
}

/// A time that is asked for: microseconds since 1970.
pub fn moment(text: &str) -> Result<u64, String> {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let midnight = || {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        UNIX_EPOCH + Duration::from_secs(since - since % day.as_secs())
    };
    let time = match text {
        "now" => Some(now),
        "today" => Some(midnight()),
        "yesterday" => midnight().checked_sub(day),
        _ if text.starts_with(['-', '+']) || !text.contains(['-', ':']) => {
            let ago =
                humantime::parse_duration(text.trim_start_matches('-').trim_end_matches(" ago"));
            ago.ok().and_then(|ago| now.checked_sub(ago))
        }
        _ => {
            let (text, east) = zone(text);
            let text = text.trim_end_matches('Z').replace(' ', "T");
            let full = match text.find(':') {
                None => format!("{text}T00:00:00"),
                // A time of today.
                Some(2) => {
                    let today = humantime::format_rfc3339(midnight()).to_string();
                    format!("{}T{text}", &today[..10])
                }
                Some(_) => text,
            };
            let seconds = match full.matches(':').count() {
                1 => ":00Z",
                _ => "Z",
            };
            let local = humantime::parse_rfc3339(&(full + seconds)).ok();
            let shift = Duration::from_secs(east.unsigned_abs() * 60);
            local.and_then(|local| match east < 0 {
                true => local.checked_add(shift),
                false => local.checked_sub(shift),
            })
        }
    };
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map(|since| since.as_micros() as u64).ok_or_else(|| {
        "write a time (UTC) as 2026-11-30, \"2026-11-30 08:00\", with +02:00 behind it if not in UTC, \
         08:00 (today), today or yesterday, or how long ago it was: 2h, 3days"
            .into()
    })
}

/// Splits the offset from UTC off a date with a time, as in `2026-11-30T08:00:00+02:00`: minutes
/// to the east.
fn zone(text: &str) -> (&str, i64) {
    let minutes = |zone: &str| {
        let (hours, minutes) = zone.get(1..)?.split_once(':')?;
        let number = |text: &str, end: i64| {
            let digits = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
            text.parse::<i64>().ok().filter(|n| digits && *n < end)
        };
        let east = number(hours, 24)? * 60 + number(minutes, 60)?;
        match zone.as_bytes()[0] {
            b'+' => Some(east),
            b'-' => Some(-east),
            _ => None,
        }
    };
    let split = text.len().checked_sub(6);
    let split = split.and_then(|at| text.split_at_checked(at));
    let split = split.filter(|(time, _)| time.contains(['T', ' ']) && !time.ends_with('Z'));
    split
        .and_then(|(time, zone)| Some((time, minutes(zone)?)))
        .unwrap_or((text, 0))
}

/// Returns a time for people: RFC 3339, to the second.
fn date(micros: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_micros(micros.min(253_402_300_799_999_999));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns a time for programs: RFC 3339, to the microsecond.
pub fn exact(micros: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_micros(micros.min(253_402_300_799_999_999));
    humantime::format_rfc3339_micros(time).to_string()
}

/// Returns how long ago it was, in one or two units.
pub fn ago(micros: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = (now.as_micros() as u64).saturating_sub(micros) / 1_000_000;
    match seconds {
        0..=99 => format!("{seconds}s"),
        100..=5999 => format!("{}min", seconds / 60),
        6000..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Writes rows of cells below each other. What senders have a hand in is escaped.
fn table(out: &mut impl Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let visible = |cell: &String| shown(cell.as_bytes()).into_owned();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(visible).collect())
        .collect();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let width = |nth: usize| {
        let cells = rows
            .iter()
            .chain([&head])
            .map(|row| row[nth].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in [&head].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_sound() {
        Program::command().debug_assert();
    }

    #[test]
    fn options_and_commands() {
        let parse = |text: &str| Program::try_parse_from(text.split(' '));
        assert!(parse("ncrx --output -").unwrap().command.is_none());
        assert!(parse("ncrx crashes --since yesterday")
            .unwrap()
            .command
            .is_some());
        assert!(parse("ncrx --output - crashes").is_err());
        assert!(parse("ncrx show web1 --boot -1").is_ok());
    }

    #[test]
    fn the_manual_has_the_commands() {
        let page = String::from_utf8(manual().unwrap()).unwrap();
        assert!(page.contains(".SH \"NCRX SHOW\"") && page.contains("\\-\\-boot"));
        assert!(!page.contains("crashes(1)"));
    }

    #[test]
    fn times_that_people_ask_for() {
        assert_eq!(moment("1970-01-02"), Ok(86_400_000_000));
        assert_eq!(moment("1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(moment("1970-01-01 00:01"), Ok(60_000_000));
        assert_eq!(moment("1970-01-01T00:01Z"), Ok(60_000_000));
        let minutes = |text| moment(text).unwrap() - moment("today").unwrap();
        assert_eq!(minutes("08:00"), 8 * 3_600_000_000);
        assert_eq!(minutes("23:59:59"), 86_399_000_000);
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(moment("1970-01-01T02:00:01+02:00"), Ok(1_000_000));
        assert_eq!(moment("1970-01-01 00:00:01.5-05:30"), Ok(19_801_500_000));
        let now = moment("now").unwrap();
        let hour = moment("1h").unwrap();
        assert!((3_599_000_000..3_601_000_000).contains(&(now - hour)));
        assert_eq!(
            moment("yesterday").unwrap() + 86_400_000_000,
            moment("today").unwrap()
        );
        for text in [
            "",
            "soon",
            "2026-13-01",
            "-",
            "25:00",
            ":",
            "08:00 2026-11-30",
            "08:00+02:00",
            "1970-01-01T00:00:00+02:00",
            "1970-01-02T00:00:00+24:00",
            "1970-01-02T00:00:00+02:60",
            "1970-01-02T00:00:00++2:00",
            "1970-01-02T00:00:00Z+02:00",
            "1970-01-02T00:00:0é:00",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tables_are_harmless() {
        let mut out = Vec::new();
        let rows = [vec!["a\u{1b}[31m\n".to_owned(), "b".to_owned()]];
        table(&mut out, &["ONE", "TWO"], &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "ONE            TWO\na\\x1b[31m\\x0a  b\n");
    }
}
