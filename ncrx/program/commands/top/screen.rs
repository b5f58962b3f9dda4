// SPDX-License-Identifier: GPL-2.0

//! The screen of `ncrx top`, and its keys.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::super::crashes;
use crate::index::{CrashRow, Found};
use crate::overview::{Host, Overview, Sort, Wanted, STATES};

/// The lists of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Hosts.
    Hosts,
    /// Crashes by signature.
    Bugs,
}

/// A selected row, and the first row that is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The selected row.
    pub selected: usize,
    /// The first row that is shown.
    pub first: usize,
}

impl Place {
    fn go(&mut self, by: isize, rows: usize) {
        let to = self.selected.saturating_add_signed(by);
        self.selected = to.min(rows.saturating_sub(1));
    }

    /// Returns the rows that are shown, of so many, when there is room for `height`: the selected
    /// one is among them.
    pub fn window(&mut self, rows: usize, height: usize) -> std::ops::Range<usize> {
        self.go(0, rows);
        let least = (self.selected + 1).saturating_sub(height);
        self.first = self.first.clamp(least, self.selected.max(least));
        self.first = self.first.min(rows.saturating_sub(height));
        self.first..rows.min(self.first + height)
    }
}

/// The consequence of a key for others than the screen.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// None.
    Nothing,
    /// The end.
    Quit,
    /// A crash is to be opened: its number or signature.
    Report(String),
}

/// The screen.
pub struct Screen {
    /// The hosts that are wanted.
    pub wanted: Wanted,
    /// These hosts.
    pub hosts: Vec<Host>,
    /// How many hosts are in each state, and records a second of all.
    pub counts: [usize; STATES.len()],
    /// Records a second of these hosts.
    pub rate: f64,
    /// The bugs, the latest first.
    pub bugs: Vec<Found>,
    /// The list that keys are for.
    pub list: List,
    /// Where the list of hosts is.
    pub host: Place,
    /// Where the list of bugs is.
    pub bug: Place,
    /// Whether keys go to the filter.
    pub typing: bool,
    /// A crash's lines, and the first that is shown.
    pub report: Option<(Vec<String>, usize)>,
    /// Whether the keys are explained.
    pub help: bool,
    /// The last error of reading.
    pub trouble: Option<String>,
    /// Rows that a page has.
    pub page: usize,
}

impl Screen {
    /// Returns an empty one.
    pub fn new(sort: Sort) -> Self {
        let wanted = Wanted {
            sort,
            ..Wanted::default()
        };
        Self {
            wanted,
            hosts: Vec::new(),
            counts: [0; STATES.len()],
            rate: 0.0,
            bugs: Vec::new(),
            list: List::Hosts,
            host: Place::default(),
            bug: Place::default(),
            typing: false,
            report: None,
            help: false,
            trouble: None,
            page: 1,
        }
    }

    /// Takes the hosts that are wanted.
    pub fn take_hosts(&mut self, overview: &Overview) {
        self.counts = overview.counts();
        self.hosts = overview.hosts(&self.wanted).into_iter().cloned().collect();
        self.rate = self.hosts.iter().map(|host| host.rate).sum();
    }

    /// Shows a crash.
    pub fn open(&mut self, crash: &CrashRow) {
        let mut text = Vec::new();
        // Writing into memory does not fail.
        let _ = crashes::write(crash, &mut text);
        let text = String::from_utf8_lossy(&text);
        self.report = Some((text.lines().map(Into::into).collect(), 0));
    }

    /// Takes a key.
    pub fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Action {
        if modifiers.contains(KeyModifiers::CONTROL) {
            let quits = matches!(key, KeyCode::Char('c' | 'd'));
            return if quits { Action::Quit } else { Action::Nothing };
        }
        if self.typing {
            self.type_key(key);
            return Action::Nothing;
        }
        if std::mem::take(&mut self.help) {
            return Action::Nothing;
        }
        match key {
            KeyCode::Char('q') | KeyCode::F(10) if self.report.is_none() => return Action::Quit,
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter if self.report.is_some() => {
                self.report = None;
            }
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-(self.page as isize)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(self.page as isize),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::F(1) | KeyCode::Char('?' | 'h') => self.help = true,
            _ if self.report.is_some() => {}
            KeyCode::Tab => {
                self.list = match self.list {
                    List::Hosts => List::Bugs,
                    List::Bugs => List::Hosts,
                };
            }
            KeyCode::F(4) | KeyCode::Char('/' | '\\') => self.typing = true,
            KeyCode::F(6) | KeyCode::Char('>' | '.') => self.sort_by(1),
            KeyCode::Char('<' | ',') => self.sort_by(Sort::ALL.len() - 1),
            KeyCode::Char('I') => self.wanted.reverse = !self.wanted.reverse,
            KeyCode::Enter => return self.chosen(),
            KeyCode::Esc => self.wanted.text.clear(),
            _ => {}
        }
        Action::Nothing
    }

    fn type_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.wanted.text.clear();
            }
            KeyCode::Backspace => drop(self.wanted.text.pop()),
            KeyCode::Char(c) => self.wanted.text.push(c),
            _ => {}
        }
    }

    fn go(&mut self, by: isize) {
        match (&mut self.report, self.list) {
            (Some((lines, first)), _) => {
                let last = lines.len().saturating_sub(1);
                *first = first.saturating_add_signed(by).min(last);
            }
            (None, List::Hosts) => self.host.go(by, self.hosts.len()),
            (None, List::Bugs) => self.bug.go(by, self.bugs.len()),
        }
    }

    fn sort_by(&mut self, step: usize) {
        let at = Sort::ALL.iter().position(|sort| *sort == self.wanted.sort);
        self.wanted.sort = Sort::ALL[(at.unwrap_or(0) + step) % Sort::ALL.len()];
    }

    /// Returns the crash of the selected row: the host's last one.
    fn chosen(&self) -> Action {
        let id = match self.list {
            List::Bugs => self.bugs.get(self.bug.selected).map(|bug| bug.id),
            List::Hosts => self
                .hosts
                .get(self.host.selected)
                .and_then(|host| host.line.crash),
        };
        id.map_or(Action::Nothing, |id| Action::Report(id.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_row_is_always_shown() {
        let mut place = Place::default();
        assert_eq!(place.window(100, 10), 0..10);
        place.go(10, 100);
        assert_eq!(place.window(100, 10), 1..11);
        place.go(isize::MAX, 100);
        assert_eq!((place.window(100, 10), place.selected), (90..100, 99));
        place.go(-5, 100);
        assert_eq!(place.window(100, 10), 90..100);
        // Of fewer rows it is the last.
        assert_eq!((place.window(3, 10), place.selected), (0..3, 2));
        assert_eq!((place.window(0, 10), place.selected), (0..0, 0));
        place.go(isize::MIN, 100);
        assert_eq!((place.window(100, 0), place.selected), (1..1, 0));
    }

    #[test]
    fn keys() {
        let mut screen = Screen::new(Sort::State);
        let press = |screen: &mut Screen, key| screen.press(key, KeyModifiers::NONE);
        press(&mut screen, KeyCode::Char('>'));
        assert_eq!(screen.wanted.sort, Sort::Name);
        press(&mut screen, KeyCode::Char('<'));
        press(&mut screen, KeyCode::Char('<'));
        assert_eq!(screen.wanted.sort, Sort::Crashes);
        press(&mut screen, KeyCode::Char('/'));
        for c in "quit".chars() {
            assert_eq!(press(&mut screen, KeyCode::Char(c)), Action::Nothing);
        }
        press(&mut screen, KeyCode::Backspace);
        press(&mut screen, KeyCode::Enter);
        assert_eq!((screen.wanted.text.as_str(), screen.typing), ("qui", false));
        press(&mut screen, KeyCode::Esc);
        assert_eq!(screen.wanted.text, "");
        assert_eq!(press(&mut screen, KeyCode::Enter), Action::Nothing);
        press(&mut screen, KeyCode::F(1));
        assert!(screen.help);
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Action::Nothing);
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Action::Quit);
        assert_eq!(
            screen.press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Action::Quit
        );
    }
}
