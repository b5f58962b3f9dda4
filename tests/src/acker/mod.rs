// SPDX-License-Identifier: GPL-2.0

//! A log host that responds: it acknowledges records that have arrived without a gap, and asks for
//! missing ones.
//!
//! [`Acker`] is an independent reading of the protocol, which shares nothing with
//! the module: the state of one log host for one sender. Datagrams and the time go in,
//! responses and the time of the next ones come out. [`AckingLogger`] puts it on
//! a wire; for log hosts that know sessions the library ncrx answers instead, and
//! the acker is silent and watches it.
//!
//! Its responses: `<word>[<ack-seq>][ <missing-seq>]...[ ~[<session>]]`.

mod library;
pub mod numbers;
mod on_wire;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::record::{parse, Assembly, Datagram};
use numbers::Numbers;
pub use on_wire::AckingLogger;

/// The longest response, in bytes.
pub const RESPONSE_MAX: usize = 1000;

/// A gap longer than this is a mistake of the sender.
const GAP_MAX: u64 = 1_000_000;

/// The interval of requests.
const ASK_TICK: Duration = Duration::from_millis(25);

/// The longest time after a record with a session in which one may still come that was sent
/// without.
const STRAGGLERS: Duration = Duration::from_secs(10);

/// The interval and the number of times in which an acknowledgement is repeated, in case it was
/// lost, while nothing else is to be sent.
const REPEAT_EVERY: Duration = Duration::from_secs(1);
const REPEATS: u32 = 10;

/// The kind of a log host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The 2015 series': `nca`, acknowledgement and requests in one response.
    Nca,
    /// libncrx with acknowledgements: `ncrx`, and now and then a response without requests,
    /// since only such a response says that acks are to be expected.
    Ncrx,
    /// libncrx as it is by default: it says how far it is only when it asks.
    NcrxOnRequest,
    /// One that knows sessions, ranges, and marks of skipped and lost records.
    Session,
}

impl Kind {
    /// The three kinds that acknowledge.
    pub const ACKING: [Self; 3] = [Self::Nca, Self::Ncrx, Self::Session];

    fn word(self) -> &'static str {
        match self {
            Self::Nca => "nca",
            Self::Ncrx | Self::NcrxOnRequest | Self::Session => "ncrx",
        }
    }
}

/// The behaviour of a log host.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Its kind.
    pub kind: Kind,
    /// The number that the log begins with; `None`: the first that comes.
    pub first: Option<u64>,
    /// The longest time that an acknowledgement may wait,
    pub ack_every: Duration,
    /// and for how many records.
    pub ack_after: u64,
    /// The time that a missing record may be late before it is asked for.
    pub ask_after: Duration,
    /// The time before it is asked for again; doubles each time ...
    pub ask_again: Duration,
    /// ... until it is this long.
    pub ask_again_max: Duration,
    /// The most numbers to ask for each 25 ms.
    pub ask_at_once: usize,
    /// The numbers to ask for after the last known one when an emergency datagram comes, which
    /// shows that a record is missing here; the sender ignores numbers that do not exist. Only as
    /// a range, so only by [`Kind::Session`].
    pub look_ahead: u64,
}

impl Config {
    /// Returns the behaviour of a log host that has heard the sender from its log's beginning.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            first: Some(0),
            ack_every: Duration::from_millis(50),
            ack_after: 200,
            ask_after: Duration::from_millis(30),
            ask_again: Duration::from_millis(100),
            ask_again_max: Duration::from_millis(400),
            ask_at_once: 150,
            look_ahead: 10_000,
        }
    }

    /// Returns the same for a wire that loses this share of its frames. Where hardly a request
    /// gets through and hardly an answer comes back, long intervals would take hours.
    pub fn for_loss(kind: Kind, loss: f64) -> Self {
        let mut config = Self::new(kind);
        if loss >= 0.5 {
            config.ask_again = Duration::from_millis(50);
            config.ask_again_max = Duration::from_millis(if loss < 0.8 { 200 } else { 50 });
            config.ack_every = Duration::from_millis(25);
        }
        config
    }
}

/// The time of the next request for a number, and the interval after it.
#[derive(Debug, Clone, Copy)]
struct Ask {
    due: Instant,
    wait: Duration,
}

/// The state of one log host for one sender.
#[derive(Debug)]
pub struct Acker {
    /// Its behaviour; the kind stays the same.
    pub config: Config,
    /// Whether it sends nothing. It still listens.
    pub silent: bool,
    /// Complaints about the sender.
    pub complaints: Vec<String>,
    /// The responses so far.
    pub responses: u64,
    /// The number of requests, counted by number.
    pub asked: u64,
    /// The numbers that it has asked for because it knew of them.
    pub requested: Numbers,
    /// The numbers that it has asked for in case they exist.
    pub looked_ahead: Numbers,
    /// Datagrams of sessions that are over.
    pub stale: u64,
    /// Records that the sender has marked as hidden.
    pub skipped: Numbers,
    /// Records that the sender has marked as lost.
    pub lost: Numbers,
    session: Option<String>,
    /// The time at which the session was first named.
    entered: Option<Instant>,
    former: Vec<String>,
    first: Option<u64>,
    highest: Option<u64>,
    /// The numbers of whole records, and those for which none will come.
    have: Numbers,
    assemblies: HashMap<u64, Assembly>,
    wanted: BTreeMap<u64, Ask>,
    next_ask: Option<Instant>,
    ahead: Option<Instant>,
    ack_due: Option<Instant>,
    ack_sent: Option<u64>,
    repeats: u32,
}

impl Acker {
    /// Returns a log host that has heard nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            silent: false,
            complaints: Vec::new(),
            responses: 0,
            asked: 0,
            requested: Numbers::default(),
            looked_ahead: Numbers::default(),
            stale: 0,
            skipped: Numbers::default(),
            lost: Numbers::default(),
            session: None,
            entered: None,
            former: Vec::new(),
            first: config.first,
            highest: None,
            have: Numbers::default(),
            assemblies: HashMap::new(),
            wanted: BTreeMap::new(),
            next_ask: None,
            ahead: None,
            ack_due: None,
            ack_sent: None,
            repeats: 0,
        }
    }

    /// Returns the last number up to which nothing is missing, which it acknowledges.
    pub fn contiguous(&self) -> Option<u64> {
        self.have.end_of_run(self.first?)
    }

    /// Returns the highest number that the sender has used.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Returns the numbers that are missing up to the highest.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        self.wanted.keys().copied()
    }

    /// Returns the session that the sender has named.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Returns the end of each response of this host: the session, if it knows sessions.
    pub fn trailer(&self) -> String {
        match self.config.kind {
            Kind::Session => format!(" ~{}", self.session.as_deref().unwrap_or_default()),
            Kind::Nca | Kind::Ncrx | Kind::NcrxOnRequest => String::new(),
        }
    }

    /// Takes a datagram that has arrived.
    pub fn take(&mut self, now: Instant, payload: &[u8]) {
        // An empty datagram is a keepalive; text that is no record is not for this log host.
        let Ok(datagram) = parse(payload) else {
            return;
        };
        match value(&datagram, "ncs") {
            Some(id) if !self.enter_session(now, id) => return,
            Some(_) => {}
            // A sender that has had a response names its session in every record: this one is of
            // its next start, or an old one that was delayed.
            None if self.entered.is_some_and(|at| now > at + STRAGGLERS) => self.leave_session(),
            None => {}
        }
        let seq = datagram.seq;
        let first = *self.first.get_or_insert(seq);
        if seq > self.highest.map_or(first, |n| n.max(first)) + GAP_MAX {
            self.complaints.push(format!("record {seq} out of nowhere"));
            return;
        }
        self.notice(now, seq);
        for key in ["ncskip", "nclost"] {
            for (_, marked) in datagram.transport.iter().filter(|(k, _)| k == key) {
                self.mark(key, marked, seq);
            }
        }
        let again = self.have.contains(seq);
        if !again {
            if self.take_record(&datagram) {
                self.fill(seq..=seq);
                let waiting = self.contiguous().map_or(0, |have| {
                    have.saturating_sub(self.ack_sent.unwrap_or(first))
                });
                let wait = self.config.ack_every;
                let wait = if waiting >= self.config.ack_after {
                    Duration::ZERO
                } else {
                    wait
                };
                self.want_ack(now + wait);
            }
        } else if datagram.emergency {
            // The sender does not know yet that the record has come.
            self.want_ack(now + self.config.ack_every);
        }
        if datagram.emergency && self.config.look_ahead > 0 && self.config.kind == Kind::Session {
            self.ahead.get_or_insert(now + self.config.ask_after);
        }
    }

    /// Returns the time at which to [`poll`](Self::poll) next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.silent {
            return None;
        }
        [self.ack_due, self.next_ask, self.ahead]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the responses that are due.
    pub fn poll(&mut self, now: Instant) -> Vec<String> {
        if self.silent {
            return Vec::new();
        }
        let ack = self.ack_due.is_some_and(|due| due <= now);
        let mut missing = self.due_numbers(now);
        // One request is enough: an emergency datagram will come again.
        if self.ahead.take_if(|due| *due <= now).is_some() {
            let next = self.highest.map_or(0, |n| n + 1);
            let ahead = next..=next + self.config.look_ahead;
            self.looked_ahead.insert(ahead.clone());
            missing.push(ahead);
        }
        let responses = self.responses_of(ack, &missing);
        if ack {
            self.ack_sent = self.contiguous();
            self.repeats += 1;
            self.ack_due = (self.repeats <= REPEATS).then(|| now + REPEAT_EVERY);
        }
        self.responses += responses.len() as u64;
        responses
    }

    /// Returns whether to believe a datagram of session `id`.
    fn enter_session(&mut self, now: Instant, id: &str) -> bool {
        if id.len() != 16 || !id.bytes().all(|c| c.is_ascii_hexdigit()) {
            self.complaints.push(format!("a session named {id:?}"));
            return false;
        }
        if self.former.iter().any(|former| former == id) {
            self.stale += 1;
            return false;
        }
        if self.session.as_deref() == Some(id) {
            return true;
        }
        // The first id belongs to the sender that was already there.
        self.leave_session();
        (self.session, self.entered) = (Some(id.to_string()), Some(now));
        true
    }

    /// Ends the sender's session, if it was in one: its state starts empty again.
    fn leave_session(&mut self) {
        let Some(former) = self.session.take() else {
            return;
        };
        self.entered = None;
        self.former.push(former);
        self.first = self.config.first;
        self.highest = None;
        self.have = Numbers::default();
        self.skipped = Numbers::default();
        self.lost = Numbers::default();
        self.assemblies.clear();
        self.wanted.clear();
        (self.next_ask, self.ahead, self.ack_due) = (None, None, None);
        self.ack_sent = None;
    }

    /// Notes that numbers up to `seq` exist: those that have not come are missing.
    fn notice(&mut self, now: Instant, seq: u64) {
        let Some(first) = self.first else { return };
        let from = self.highest.map_or(first, |n| n + 1);
        let ask = Ask {
            due: now + self.config.ask_after,
            wait: self.config.ask_again,
        };
        for n in from..=seq {
            if !self.have.contains(n) {
                self.wanted.insert(n, ask);
            }
        }
        if from <= seq {
            self.next_ask.get_or_insert(ask.due);
        }
        self.highest = self.highest.max(Some(seq));
    }

    fn mark(&mut self, key: &str, marked: &str, seq: u64) {
        let range = marked.split_once('-').unwrap_or((marked, marked));
        let (Ok(a), Ok(b)) = (range.0.parse::<u64>(), range.1.parse::<u64>()) else {
            self.complaints
                .push(format!("{key}={marked} on record {seq}"));
            return;
        };
        // A mark names records before the one that carries it, or hidden ones behind it at the end
        // of the log.
        if a > b || (b >= seq && a != seq + 1) {
            self.complaints
                .push(format!("{key}={marked} on record {seq}"));
            return;
        }
        if key == "ncskip" {
            self.skipped.insert(a..=b);
        } else {
            self.lost.insert(a..=b);
        }
        self.fill(a..=b);
    }

    /// Adds a record or a fragment; returns whether the record is whole now.
    fn take_record(&mut self, datagram: &Datagram) -> bool {
        let Some(fragment) = datagram.fragment else {
            return true;
        };
        let seq = datagram.seq;
        match self
            .assemblies
            .entry(seq)
            .or_default()
            .add(fragment, &datagram.body)
        {
            Ok(whole) => whole.is_some(),
            Err(e) => {
                self.complaints.push(format!("record {seq}: {e}"));
                false
            }
        }
    }

    /// Notes that nothing of `run` is missing any more.
    fn fill(&mut self, run: RangeInclusive<u64>) {
        self.have.insert(run.clone());
        let filled: Vec<u64> = self.wanted.range(run).map(|(&n, _)| n).collect();
        for n in filled {
            self.wanted.remove(&n);
            self.assemblies.remove(&n);
        }
        if self.wanted.is_empty() {
            self.next_ask = None;
        }
    }

    fn want_ack(&mut self, due: Instant) {
        self.repeats = 0;
        if self.contiguous().is_some() {
            self.ack_due = Some(self.ack_due.map_or(due, |old| old.min(due)));
        }
    }

    /// Returns the missing numbers that are due to be asked for, as runs.
    fn due_numbers(&mut self, now: Instant) -> Vec<RangeInclusive<u64>> {
        if self.next_ask.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut runs: Vec<RangeInclusive<u64>> = Vec::new();
        let (mut left, mut earliest) = (self.config.ask_at_once, None::<Instant>);
        for (&n, ask) in &mut self.wanted {
            if ask.due <= now && left > 0 {
                left -= 1;
                self.asked += 1;
                self.requested.insert(n..=n);
                ask.due = now + ask.wait;
                ask.wait = (ask.wait * 2).min(self.config.ask_again_max);
                match runs.last_mut() {
                    Some(run) if run.end() + 1 == n => *run = *run.start()..=n,
                    _ => runs.push(n..=n),
                }
            }
            earliest = Some(earliest.map_or(ask.due, |e| e.min(ask.due)));
        }
        self.next_ask = earliest.map(|e| e.max(now + ASK_TICK));
        runs
    }

    /// Returns the responses that say this: as few datagrams as possible, none too long.
    fn responses_of(&self, ack: bool, missing: &[RangeInclusive<u64>]) -> Vec<String> {
        let have = self.contiguous().map_or(String::new(), |n| n.to_string());
        let head = format!("{}{have}", self.config.kind.word());
        let trailer = self.trailer();
        let mut tokens = Vec::new();
        for run in missing {
            match self.config.kind {
                Kind::Session if run.start() < run.end() => {
                    tokens.push(format!(" {}-{}", run.start(), run.end()));
                }
                _ => tokens.extend(run.clone().map(|n| format!(" {n}"))),
            }
        }
        let mut responses = Vec::new();
        let alone = match self.config.kind {
            Kind::Nca => tokens.is_empty(),
            Kind::Ncrx | Kind::Session => true,
            Kind::NcrxOnRequest => false,
        };
        if ack && alone && !have.is_empty() {
            responses.push(format!("{head}{trailer}"));
        }
        let mut text = head.clone();
        for token in &tokens {
            if text.len() + token.len() + trailer.len() > RESPONSE_MAX {
                responses.push(format!("{text}{trailer}"));
                text.clone_from(&head);
            }
            text.push_str(token);
        }
        if text != head {
            responses.push(format!("{text}{trailer}"));
        }
        responses
    }
}

fn value<'a>(datagram: &'a Datagram, key: &str) -> Option<&'a str> {
    let mut found = datagram.transport.iter().filter(|(k, _)| k == key);
    found.next().map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests;
