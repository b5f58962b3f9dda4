// SPDX-License-Identifier: GPL-2.0

//! `ncrx top`: all hosts, live, in a terminal.

mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::DefaultTerminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::At;
use crate::index::Filter;
use crate::overview::{Overview, Sort};
use screen::{Action, Screen};

/// The time from one look at the index to the next.
const LOOK: Duration = Duration::from_secs(2);
/// The longest until a signal is heeded.
const SIGNAL: Duration = Duration::from_millis(200);

/// Watch all hosts, live: a table to sort and to filter, with the last crashes below it.
///
/// It reads the index, so it shows what was a few seconds ago. F1 or ? lists the keys.
#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    at: At,
    /// The order at first: by state, name, heard, rate, lag, missing or crashes.
    #[arg(long, value_name = "COLUMN", default_value = "state", value_parser = sort())]
    sort: Sort,
}

fn sort() -> impl TypedValueParser<Value = Sort> {
    let names = Sort::ALL.map(Sort::word);
    let find = |name: String| Sort::ALL.into_iter().find(|sort| sort.word() == name);
    PossibleValuesParser::new(names).try_map(move |name| find(name).ok_or("unknown"))
}

impl Top {
    /// Does it, until the person has seen enough.
    pub fn run(self) -> anyhow::Result<()> {
        let mut overview = Overview::open(&self.at.index)?;
        ensure!(
            io::stdin().is_terminal() && io::stdout().is_terminal(),
            "it needs a terminal: `ncrx hosts` lists the same"
        );
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            flag::register(signal, ended.clone())?;
        }
        // A panic restores the terminal, too.
        let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
        let shown = show(&mut terminal, &mut overview, Screen::new(self.sort), &ended);
        ratatui::restore();
        shown
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    overview: &mut Overview,
    mut screen: Screen,
    ended: &AtomicBool,
) -> anyhow::Result<()> {
    let mut look = Instant::now();
    let mut stale = true;
    while !ended.load(Relaxed) {
        if look <= Instant::now() {
            screen.trouble = read(overview, &mut screen).err().map(|e| format!("{e:#}"));
            (look, stale) = (Instant::now() + LOOK, true);
        }
        if std::mem::take(&mut stale) {
            screen.take_hosts(overview);
            terminal.draw(|frame| view::draw(&mut screen, frame))?;
        }
        if !event::poll(SIGNAL.min(look.saturating_duration_since(Instant::now())))? {
            continue;
        }
        stale = true;
        let Event::Key(key) = event::read()? else {
            continue;
        };
        match screen.press(key.code, key.modifiers) {
            _ if key.kind == KeyEventKind::Release => {}
            Action::Nothing => {}
            Action::Quit => break,
            Action::Report(id) => open(overview, &mut screen, &id),
        }
    }
    Ok(())
}

/// Shows a report, or why it cannot be read just now.
fn open(overview: &Overview, screen: &mut Screen, id: &str) {
    match overview.reader().crash(id) {
        Ok(crash) => crash.into_iter().for_each(|crash| screen.open(&crash)),
        Err(e) => screen.trouble = Some(format!("cannot read the index: {e}")),
    }
}

/// Reads what there is now.
fn read(overview: &mut Overview, screen: &mut Screen) -> anyhow::Result<()> {
    overview.refresh().context("cannot read the index")?;
    screen.bugs = overview.reader().crashes(&Filter::default())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{file, Writer};

    #[test]
    fn a_report_that_cannot_be_read_is_trouble_and_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        Writer::open(dir.path()).unwrap();
        let overview = Overview::open(dir.path()).unwrap();
        let mut screen = Screen::new(Sort::default());
        open(&overview, &mut screen, "1");
        assert_eq!(screen.trouble, None);
        let db = rusqlite::Connection::open(file(dir.path())).unwrap();
        db.execute_batch("DROP TABLE reports").unwrap();
        open(&overview, &mut screen, "1");
        let trouble = screen.trouble.unwrap();
        assert!(trouble.contains("cannot read the index"), "{trouble}");
    }
}
