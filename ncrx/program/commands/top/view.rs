// SPDX-License-Identifier: GPL-2.0

//! The look of `ncrx top`. All that a sender has a hand in is escaped as text is.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table};
use ratatui::Frame;

use super::super::{ago, date};
use super::screen::{List, Screen};
use crate::format::shown;
use crate::index::Found;
use crate::overview::{Host, Sort, STATES};

/// Rows of the list of bugs, with its head and its title.
const BUGS: u16 = 8;

const KEYS: &str = "\
 Up, Down, PgUp, PgDn, Home, End   go through the list (also j, k, g, G)
 Tab                               the other list
 Enter                             the crash of this row: of a host its last one
 F4, /, \\                          filter: name, address, session, release; Esc ends it
 F6, >, <                          sort by the next column, the one before
 I                                 the other way round
 F1, ?, h                          this
 F10, q, Ctrl-C                    the end";

/// Draws all of it.
pub fn draw(screen: &mut Screen, frame: &mut Frame<'_>) {
    let [head, hosts, bugs, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(BUGS.min(frame.area().height / 3)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(summary(screen), head);
    draw_hosts(screen, frame, hosts);
    draw_bugs(screen, frame, bugs);
    frame.render_widget(footer(screen), foot);
    let whole = frame.area();
    if let Some((lines, first)) = &screen.report {
        screen.page = usize::from(whole.height.saturating_sub(2)).max(1);
        let rows = lines.iter().skip(*first).take(screen.page);
        let text: Vec<Line<'_>> = rows.map(|line| Line::raw(line.as_str())).collect();
        let block = Block::bordered().title(" The crash: q or Esc closes it ");
        frame.render_widget(Clear, whole);
        frame.render_widget(Paragraph::new(text).block(block), whole);
    }
    if screen.help {
        let height = KEYS.lines().count() as u16 + 2;
        let area = Rect {
            height: height.min(whole.height),
            width: 80.min(whole.width),
            ..whole
        };
        frame.render_widget(Clear, area);
        let block = Block::bordered().title(" Keys ");
        frame.render_widget(Paragraph::new(KEYS).block(block), area);
    }
}

fn colour(state: &str) -> Style {
    match state {
        "crashed" => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        "silent" => Style::new().fg(Color::Yellow),
        "lossy" => Style::new().fg(Color::Magenta),
        _ => Style::new().fg(Color::Green),
    }
}

fn summary(screen: &Screen) -> Line<'static> {
    let all: usize = screen.counts.iter().sum();
    let mut line = vec![Span::raw(format!("ncrx top: {all} hosts: "))];
    for (state, count) in STATES.into_iter().zip(screen.counts) {
        line.push(Span::styled(format!("{count} {state} "), colour(state)));
    }
    let order = if screen.wanted.reverse {
        ", reversed"
    } else {
        ""
    };
    let sort = screen.wanted.sort.word();
    line.push(Span::raw(format!(
        "  {:.1} records/s  by {sort}{order}",
        screen.rate
    )));
    line.into()
}

fn footer(screen: &Screen) -> Line<'static> {
    let text = shown(screen.wanted.text.as_bytes()).into_owned();
    if let Some(trouble) = &screen.trouble {
        let trouble = shown(trouble.as_bytes()).into_owned();
        return Line::styled(trouble, Style::new().fg(Color::Red));
    }
    if screen.typing {
        return format!("Filter: {text}_  (Enter keeps it, Esc ends it)").into();
    }
    let filter = match text.is_empty() {
        true => String::new(),
        false => format!("  only with: {text}"),
    };
    format!("F1 Help  F4 Filter  F6 Sort  Tab Crashes  Enter Report  F10 Quit{filter}").into()
}

/// Returns a style for the row that keys are for.
fn row_style(selected: bool, focus: bool) -> Style {
    match selected && focus {
        true => Style::new().add_modifier(Modifier::REVERSED),
        false => Style::new(),
    }
}

/// The columns of hosts: the title, what sorts by it, the width, and what a cell has.
type Column = (&'static str, Option<Sort>, u16, fn(&Host) -> String);

const HOSTS: [Column; 9] = [
    ("HOST", Some(Sort::Name), 24, |host| host.line.name.clone()),
    ("STATE", Some(Sort::State), 8, |host| host.state.into()),
    ("HEARD", Some(Sort::Heard), 7, |host| ago(host.line.heard)),
    ("REC/S", Some(Sort::Rate), 9, |host| {
        format!("{:.1}", host.rate)
    }),
    ("LAG", Some(Sort::Lag), 7, |host| {
        host.lag().map_or("-".into(), |lag| lag.to_string())
    }),
    ("MISSING", Some(Sort::Missing), 8, |host| {
        host.line.missing.to_string()
    }),
    ("CRASHES", Some(Sort::Crashes), 8, |host| {
        host.line.crashes.to_string()
    }),
    ("LAST", None, 7, |host| {
        host.line.crashed.map_or("-".into(), |(at, _)| ago(at))
    }),
    ("RELEASE", None, 20, |host| {
        host.line.release.clone().unwrap_or("-".into())
    }),
];

fn draw_hosts(screen: &mut Screen, frame: &mut Frame<'_>, area: Rect) {
    let height = usize::from(area.height.saturating_sub(1));
    screen.page = height.max(1);
    let window = screen.host.window(screen.hosts.len(), height);
    let focus = screen.list == List::Hosts;
    let row = |(nth, host): (usize, &Host)| {
        let cells = HOSTS.iter().map(|(_, sort, _, of)| {
            let text = shown(of(host).as_bytes()).into_owned();
            let style = match sort {
                Some(Sort::State) => colour(host.state),
                _ => Style::new(),
            };
            Cell::new(text).style(style)
        });
        Row::new(cells).style(row_style(nth == screen.host.selected, focus))
    };
    let rows = screen.hosts.iter().enumerate();
    let rows = rows.skip(window.start).take(window.len()).map(row);
    let sorted = Some(screen.wanted.sort);
    let head = HOSTS.iter().map(|(title, sort, ..)| {
        let style = match sort.is_some() && *sort == sorted {
            true => Style::new().add_modifier(Modifier::UNDERLINED),
            false => Style::new(),
        };
        Cell::new(*title).style(style)
    });
    let widths = HOSTS.map(|(title, _, width, _)| match title {
        "HOST" => Constraint::Min(width),
        _ => Constraint::Length(width),
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn draw_bugs(screen: &mut Screen, frame: &mut Frame<'_>, area: Rect) {
    let height = usize::from(area.height.saturating_sub(1));
    let window = screen.bug.window(screen.bugs.len(), height);
    let focus = screen.list == List::Bugs;
    let row = |(nth, bug): (usize, &Found)| {
        let signature = &bug.signature[..bug.signature.len().min(8)];
        let cells = [
            bug.count.to_string(),
            bug.hosts.to_string(),
            date(bug.last),
            signature.to_owned(),
            bug.title.clone(),
        ];
        let cells = cells.map(|cell| Cell::new(shown(cell.as_bytes()).into_owned()));
        Row::new(cells).style(row_style(nth == screen.bug.selected, focus))
    };
    let rows = screen.bugs.iter().enumerate();
    let rows = rows.skip(window.start).take(window.len()).map(row);
    let widths = [7, 6, 20, 9].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let head = Row::new(["CRASHES", "HOSTS", "LAST", "SIGNATURE", "TITLE"]);
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::HostLine;
    use crate::overview::tests::line;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyModifiers};
    use ratatui::Terminal;

    /// The screen's lines, and what is reversed on it.
    fn drawn(screen: &mut Screen) -> (Vec<String>, String) {
        let mut terminal = Terminal::new(TestBackend::new(110, 20)).unwrap();
        terminal.draw(|frame| draw(screen, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y: u16| -> String { (0..110).map(|x| buffer[(x, y)].symbol()).collect() };
        let reversed = buffer.content().iter();
        let reversed = reversed.filter(|cell| cell.modifier.contains(Modifier::REVERSED));
        let reversed = reversed.map(|cell| cell.symbol()).collect();
        ((0..20).map(row).collect(), reversed)
    }

    fn screen() -> Screen {
        let mut screen = Screen::new(Sort::Name);
        let host = |name: String| Host {
            line: HostLine {
                release: Some("7.3\u{1b}]0;owned\u{7}".into()),
                ..line(&name, 1)
            },
            state: "silent",
            rate: 12.5,
        };
        screen.hosts = (0..1000).map(|nth| host(format!("web{nth:03}"))).collect();
        screen.hosts[1] = host("\u{1b}[2J\u{202e}evil\n".into());
        screen.bugs = vec![Found {
            signature: "7d0c53e200000000".into(),
            count: 3,
            hosts: 2,
            first: 0,
            last: 0,
            id: 5,
            kind: "oops".into(),
            title: "BUG: in foo\u{9b}2J".into(),
        }];
        screen
    }

    #[test]
    fn hosts_and_bugs_are_seen_and_nothing_that_is_hostile() {
        let mut screen = screen();
        let (lines, reversed) = drawn(&mut screen);
        let text = lines.join("\n");
        assert!(
            lines[1].starts_with("HOST ") && lines[1].contains("RELEASE"),
            "{text}"
        );
        assert!(
            lines[2].starts_with("web000 ") && reversed.starts_with("web000 "),
            "{text}"
        );
        assert!(lines[3].starts_with("\\x1b[2J\\xe2\\x80\\xaee"), "{text}");
        assert!(
            text.contains("7.3\\x1b]0;owned") && text.contains("silent  "),
            "{text}"
        );
        assert!(
            text.contains("BUG: in foo\\xc2\\x9b2J") && text.contains("7d0c53e2"),
            "{text}"
        );
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']));
        assert!(lines[19].starts_with("F1 Help"));
    }

    #[test]
    fn the_last_of_many_is_reached() {
        let mut screen = screen();
        drawn(&mut screen);
        screen.press(KeyCode::End, KeyModifiers::NONE);
        let (lines, reversed) = drawn(&mut screen);
        assert!(reversed.starts_with("web999 "), "{}", lines.join("\n"));
        screen.press(KeyCode::Tab, KeyModifiers::NONE);
        assert!(drawn(&mut screen).1.starts_with("3 "));
        screen.press(KeyCode::F(1), KeyModifiers::NONE);
        assert!(drawn(&mut screen)
            .0
            .join("\n")
            .contains("the other way round"));
    }

    #[test]
    fn any_size_will_do() {
        for (width, height) in [(1, 1), (5, 3), (20, 4), (300, 2)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let mut screen = screen();
            screen.help = true;
            terminal.draw(|frame| draw(&mut screen, frame)).unwrap();
            screen.report = Some((vec!["x".into()], 0));
            terminal.draw(|frame| draw(&mut screen, frame)).unwrap();
        }
    }
}
