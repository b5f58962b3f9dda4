// SPDX-License-Identifier: GPL-2.0

//! All hosts at a glance, from the index: what `ncrx top` and the page show.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::format::shown;
use crate::index::{HostLine, Reader};

/// The silence after which a host is called silent, in microseconds. A keepalive comes every 20 s.
const SILENT: u64 = 60_000_000;
/// The silence after which a host's rate is 0, in microseconds. The index hears of it every 5 s.
const RESTS: u64 = 15_000_000;
/// The shortest time from one reading of all hosts to the next.
const FRESH: Duration = Duration::from_secs(2);

/// The states of hosts, the worst first.
pub const STATES: [&str; 4] = ["crashed", "silent", "lossy", "ok"];

/// Returns how a host is, in one word.
pub fn state(host: &HostLine, now: u64) -> &'static str {
    match host.crashed {
        Some((at, true)) if host.booted.is_none_or(|booted| booted < at) => "crashed",
        _ if host.heard + SILENT < now => "silent",
        _ if host.missing > 0 => "lossy",
        _ => "ok",
    }
}

/// Returns the time, in microseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// The order of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// The worst state first.
    #[default]
    State,
    /// The name.
    Name,
    /// The longest silence first.
    Heard,
    /// The most records a second first.
    Rate,
    /// The most records that are not acknowledged first.
    Lag,
    /// The most missing records first.
    Missing,
    /// The most crashes first.
    Crashes,
}

impl Sort {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::State,
        Self::Name,
        Self::Heard,
        Self::Rate,
        Self::Lag,
        Self::Missing,
        Self::Crashes,
    ];

    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Name => "name",
            Self::Heard => "heard",
            Self::Rate => "rate",
            Self::Lag => "lag",
            Self::Missing => "missing",
            Self::Crashes => "crashes",
        }
    }
}

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The index's line of it.
    pub line: HostLine,
    /// How it is.
    pub state: &'static str,
    /// Records a second, lately.
    pub rate: f64,
}

impl Host {
    /// Returns how many records of it are not acknowledged.
    pub fn lag(&self) -> Option<u64> {
        let (highest, acked) = self.line.highest.zip(self.line.acked)?;
        Some(highest.saturating_sub(acked))
    }

    /// Returns whether its name, address, session or release has this text (in lower case) in it.
    fn has(&self, text: &str) -> bool {
        let line = &self.line;
        let texts = [Some(&line.name), Some(&line.address)];
        let others = [line.session.as_ref(), line.release.as_ref()];
        let has = |of: &String| shown(of.as_bytes()).to_lowercase().contains(text);
        texts.into_iter().chain(others).flatten().any(has)
    }

    fn compare(&self, other: &Self, by: Sort) -> Ordering {
        let (a, b) = (&self.line, &other.line);
        let place = |host: &Self| STATES.iter().position(|state| *state == host.state);
        let first = match by {
            Sort::State => place(self).cmp(&place(other)),
            Sort::Name => Ordering::Equal,
            Sort::Heard => a.heard.cmp(&b.heard),
            Sort::Rate => other.rate.total_cmp(&self.rate),
            Sort::Lag => other.lag().cmp(&self.lag()),
            Sort::Missing => b.missing.cmp(&a.missing),
            Sort::Crashes => (Reverse(a.crashes), Reverse(a.crashed))
                .cmp(&(Reverse(b.crashes), Reverse(b.crashed))),
        };
        first.then_with(|| a.name.cmp(&b.name))
    }
}

/// The hosts that are wanted, and their order.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only those with this text.
    pub text: String,
    /// Only those in this state.
    pub state: Option<String>,
    /// The order.
    pub sort: Sort,
    /// The order the other way round.
    pub reverse: bool,
}

/// All hosts, as they were a moment ago.
pub struct Overview {
    reader: Reader,
    hosts: Vec<Host>,
    /// Of each host its records, when it was heard then, and its rate.
    former: HashMap<String, (u64, u64, f64)>,
    read: Option<Instant>,
}

impl Overview {
    /// Opens the index of this directory.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            reader: Reader::open(directory)?,
            hosts: Vec::new(),
            former: HashMap::new(),
            read: None,
        })
    }

    /// Returns the index.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Reads all hosts, if that was not done just now.
    pub fn refresh(&mut self) -> anyhow::Result<()> {
        if self.read.is_none_or(|read| read.elapsed() >= FRESH) {
            let lines = self.reader.hosts()?;
            self.take(lines, now());
            self.read = Some(Instant::now());
        }
        Ok(())
    }

    fn take(&mut self, lines: Vec<HostLine>, now: u64) {
        let mut former = HashMap::with_capacity(lines.len());
        let host = |line: HostLine| {
            let rate = rate(self.former.get(&line.name), &line, now);
            former.insert(line.name.clone(), (line.records, line.heard, rate));
            Host {
                state: state(&line, now),
                rate,
                line,
            }
        };
        self.hosts = lines.into_iter().map(host).collect();
        self.former = former;
    }

    /// Returns the hosts that are wanted.
    pub fn hosts(&self, wanted: &Wanted) -> Vec<&Host> {
        let text = wanted.text.to_lowercase();
        let fits = |host: &&Host| {
            let state = wanted.state.as_ref();
            state.is_none_or(|state| *state == host.state) && (text.is_empty() || host.has(&text))
        };
        let mut hosts: Vec<_> = self.hosts.iter().filter(fits).collect();
        hosts.sort_by(|a, b| a.compare(b, wanted.sort));
        if wanted.reverse {
            hosts.reverse();
        }
        hosts
    }

    /// Returns how many hosts are in each of [`STATES`].
    pub fn counts(&self) -> [usize; STATES.len()] {
        STATES.map(|state| self.hosts.iter().filter(|host| host.state == state).count())
    }
}

/// Returns a host's records a second: of the time since the index last heard of it.
fn rate(former: Option<&(u64, u64, f64)>, line: &HostLine, now: u64) -> f64 {
    let Some((records, heard, rate)) = former else {
        return 0.0;
    };
    if line.heard + RESTS < now {
        return 0.0;
    }
    let micros = line.heard.saturating_sub(*heard);
    match line.records.checked_sub(*records) {
        Some(more) if micros > 0 => more as f64 * 1e6 / micros as f64,
        Some(_) => *rate,
        // Its log has begun anew.
        None => 0.0,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A host that was heard then.
    pub fn line(name: &str, heard: u64) -> HostLine {
        HostLine {
            name: name.into(),
            address: "10.0.0.1:6665".into(),
            session: None,
            release: None,
            heard,
            record: None,
            records: 0,
            missing: 0,
            acked: None,
            highest: None,
            boots: 1,
            booted: None,
            crashes: 0,
            crashed: None,
            crash: None,
        }
    }

    #[test]
    fn states() {
        let host = |crashed, booted, heard, missing| HostLine {
            missing,
            booted,
            crashed,
            ..line("", heard)
        };
        let now = 1_000_000_000;
        assert_eq!(state(&host(Some((5, true)), Some(3), 6, 0), now), "crashed");
        assert_eq!(state(&host(Some((5, true)), Some(7), now, 0), now), "ok");
        assert_eq!(state(&host(Some((5, false)), Some(3), now, 0), now), "ok");
        assert_eq!(state(&host(None, None, 6, 0), now), "silent");
        assert_eq!(state(&host(None, None, now, 2), now), "lossy");
    }

    #[test]
    fn rates() {
        let now = 1_000_000_000;
        let of = |records, heard| HostLine {
            records,
            ..line("", heard)
        };
        assert_eq!(rate(None, &of(9, now), now), 0.0);
        let former = (100, now - 5_000_000, 7.0);
        assert_eq!(rate(Some(&former), &of(150, now), now), 10.0);
        assert_eq!(rate(Some(&former), &of(100, now - 5_000_000), now), 7.0);
        assert_eq!(rate(Some(&former), &of(10, now), now), 0.0);
        assert_eq!(rate(Some(&former), &of(100, now - 20_000_000), now), 0.0);
    }

    #[test]
    fn hosts_are_sorted_by_what_people_ask() {
        let host = |name, state, rate, missing| Host {
            line: HostLine {
                missing,
                acked: Some(1),
                highest: Some(1 + missing),
                ..line(name, 1)
            },
            state,
            rate,
        };
        let hosts = [
            host("a", "ok", 1.0, 0),
            host("b", "silent", 3.0, 9),
            host("c", "crashed", 2.0, 5),
        ];
        let order = |by| {
            let mut sorted: Vec<_> = hosts.iter().collect();
            sorted.sort_by(|a, b| a.compare(b, by));
            let names = sorted.iter().map(|host| host.line.name.as_str());
            names.collect::<String>()
        };
        assert_eq!(order(Sort::State), "cba");
        assert_eq!(order(Sort::Name), "abc");
        assert_eq!(order(Sort::Rate), "bca");
        assert_eq!(order(Sort::Missing), "bca");
        assert_eq!(order(Sort::Lag), "bca");
        assert!(hosts[0].has("10.0.0.1") && !hosts[0].has("b"));
    }
}
