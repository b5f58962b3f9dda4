// SPDX-License-Identifier: GPL-2.0

//! The library `ncrx` as a log host, with a witness.
//!
//! The witness is an [`Acker`] that gets the same datagrams and says nothing. Checked by it, the
//! library's responses acknowledge nothing that has not come, and ask for nothing that has. The
//! records that the library hands out equal the collector's, byte for byte: each number once and
//! in order, or named as a gap and then late.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use ncrx::{Dialect, Event, GapReason, Output, Receiver, Sender, StreamId};

use super::numbers::Numbers;
use super::{Acker, Config, RESPONSE_MAX};
use crate::collector::Record;
use crate::wire::Udp;

/// The receiver, and the records that it has handed out.
pub(super) struct Library {
    receiver: Receiver,
    /// All records that have come, as the collector has them.
    come: HashMap<u64, Vec<u8>>,
    streams: HashMap<StreamId, Progress>,
    /// Its mistakes.
    pub(super) faults: Vec<String>,
}

/// The progress of a stream's output.
#[derive(Debug, Default)]
struct Progress {
    /// The number it began with.
    first: u64,
    /// The number that comes next.
    next: u64,
    /// The numbers that were passed over and may come late.
    gone: Numbers,
    /// Those of them that have come late.
    late: Numbers,
    /// The gaps that the library has given up by itself.
    given_up: Vec<(ncrx::SeqRange, GapReason)>,
}

impl Progress {
    fn from(first: u64) -> Self {
        Self {
            first,
            next: first,
            ..Self::default()
        }
    }
}

impl Library {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            receiver: Receiver::new(translate(config)),
            come: HashMap::new(),
            streams: HashMap::new(),
            faults: Vec::new(),
        }
    }

    /// Ends, and goes on with another configuration, as a program that is restarted.
    pub(super) fn restart(&mut self, now: Instant, config: &Config) {
        let mut receiver = Receiver::new(translate(config));
        for sender in self.receiver.senders() {
            if let Some(from) = sender.resume() {
                receiver.resume(now, sender.host, from);
            }
        }
        let resumed = receiver.senders();
        self.streams = resumed
            .filter_map(|sender| Some((sender.stream, Progress::from(sender.settled? + 1))))
            .collect();
        self.receiver = receiver;
    }

    /// Takes a datagram that has come, which completes the record `completed`; the witness has it
    /// already.
    pub(super) fn take(&mut self, witness: &Acker, udp: &Udp, completed: Option<&Record>) {
        if let Some(record) = completed {
            self.come.insert(record.seq, record.bytes.clone());
        }
        // The collector reports bad datagrams.
        let _ = self.receiver.feed(udp.at, udp.from, &udp.payload);
        self.hand_out(witness);
    }

    /// Returns the time at which to [`poll`](Self::poll) next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.receiver.deadline()
    }

    /// Returns the responses that are due, each with its destination.
    pub(super) fn poll(&mut self, witness: &mut Acker, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        self.receiver.tick(now);
        self.hand_out(witness);
        let mut responses = Vec::new();
        while let Some((to, response)) = self.receiver.next_response() {
            responses.push((to, response.to_vec()));
        }
        for (to, response) in &responses {
            witness.responses += 1;
            if let Err(e) = self.said(witness, *to, response) {
                let text = response.escape_ascii();
                self.faults.push(format!("{e}: {text}"));
            }
        }
        responses
    }

    /// Returns the last number up to which nothing of this sender is missing.
    pub(super) fn settled(&self, host: SocketAddr) -> Option<u64> {
        self.sender(host)?.settled
    }

    /// Returns whether more than one stream has begun.
    pub(super) fn has_several_streams(&self) -> bool {
        self.streams.len() > 1
    }

    /// Describes the progress of each sender, for people.
    pub(super) fn describe(&self) -> String {
        let senders: Vec<_> = self.receiver.senders().collect();
        format!("; ncrx: {senders:?}, {:?}", self.receiver.stats())
    }

    /// Returns the stream of this sender that was heard last: a module that is loaded again begins
    /// another.
    fn sender(&self, host: SocketAddr) -> Option<Sender> {
        let streams = self.receiver.senders();
        let streams = streams.filter(|sender| sender.host == host);
        streams.max_by_key(|sender| sender.heard)
    }

    /// Returns the stream of this sender with this session, or the one without.
    fn stream(&self, host: SocketAddr, session: Option<&str>) -> Option<Sender> {
        let is = |sender: &Sender| {
            let its = sender.session.map(|session| session.to_string());
            sender.host == host && its.as_deref() == session
        };
        self.receiver.senders().find(is)
    }

    /// Takes all that the receiver hands out, and reports it as written.
    fn hand_out(&mut self, witness: &Acker) {
        let faults = &mut self.faults;
        while let Some(output) = self.receiver.next_output() {
            match output {
                Output::Record(record) => {
                    // Text without a number is no record of the module; the collector complains.
                    let Some(seq) = record.seq() else { continue };
                    let mut bytes = Vec::new();
                    record.write_kmsg(&mut bytes);
                    let progress = self.streams.entry(record.stream()).or_default();
                    if record.is_partial() {
                        progress.gone.insert(seq..=seq);
                    } else if self.come.get(&seq) != Some(&bytes) {
                        faults.push(format!("{record:?} is not what has come"));
                    }
                    if record.is_late() {
                        if !progress.gone.contains(seq) || progress.late.contains(seq) {
                            faults.push(format!("{record:?} cannot be late"));
                        }
                        progress.late.insert(seq..=seq);
                    } else if std::mem::replace(&mut progress.next, seq + 1) != seq {
                        faults.push(format!("{record:?} is not the next one"));
                    }
                }
                Output::Event { stream, event, .. } => {
                    let progress = self.streams.entry(stream).or_default();
                    match event {
                        Event::Began { first, .. } => {
                            *progress = Progress::from(first.unwrap_or(0));
                        }
                        Event::Gap {
                            range: gap,
                            reason: why,
                        } => {
                            if std::mem::replace(&mut progress.next, gap.last + 1) != gap.first {
                                faults.push(format!("the gap {gap} is not the next one"));
                            }
                            let run = gap.first..=gap.last;
                            let told = match why {
                                GapReason::Hidden => covers(&witness.skipped, &run),
                                GapReason::Lost => covers(&witness.lost, &run),
                                _ => {
                                    progress.given_up.push((gap, why));
                                    true
                                }
                            };
                            if !told {
                                faults.push(format!("nobody has said that {gap} is {why:?}"));
                            }
                            progress.gone.insert(run);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.receiver.written();
    }

    /// Checks a response that is about to be sent.
    fn said(&self, witness: &mut Acker, to: SocketAddr, response: &[u8]) -> Result<(), String> {
        let (ack, asked, session) = read(response).ok_or("a response in a bad form")?;
        // A stream that has been forgotten meanwhile has no witness.
        let Some(sender) = self.stream(to, session.as_deref()) else {
            return Ok(());
        };
        let highest = witness.highest();
        for run in &asked {
            if highest.is_some_and(|highest| *run.end() <= highest) {
                witness.asked += run.end() - run.start() + 1;
                witness.requested.insert(run.clone());
            } else {
                witness.looked_ahead.insert(run.clone());
            }
        }
        // Responses of any stream acknowledge only records that have been handed out.
        let progress = self.streams.get(&sender.stream);
        if let (Some(ack), Some(progress)) = (ack, progress) {
            if ack >= progress.next {
                return Err(format!("only what is before {} is out", progress.next));
            }
        }
        // The witness may not know which session of the sender this is; and it does not tell
        // streams apart: a number that has come in one may be missing in another.
        let sure = session.is_some() && session.as_deref() == witness.session();
        if !sure || self.has_several_streams() {
            return Ok(());
        }
        let first = self.streams.get(&sender.stream).map_or(0, |p| p.first);
        if let Some(ack) = ack.filter(|ack| *ack >= first) {
            if witness.have.end_of_run(first) < Some(ack) {
                let given_up = progress.map(|progress| &progress.given_up);
                return Err(format!(
                    "not all of {first}-{ack} has come; given up: {given_up:?}"
                ));
            }
        }
        // A record that names no session may have come and not been taken, if it might belong to
        // another stream: it comes again, with the session. A record that was handed out was taken.
        let is_out =
            |n: u64| progress.is_some_and(|p| p.first <= n && n < p.next && !p.gone.contains(n));
        let mut numbers = asked.iter().cloned().flatten();
        match numbers.find(|&n| witness.have.contains(n) && is_out(n)) {
            Some(_) if ack.is_none() && is_challenge(&asked) => Ok(()),
            Some(n) => Err(format!("{n} has been handed out, and is asked for")),
            None => Ok(()),
        }
    }
}

/// Returns whether a request may be a challenge: one for a few records that have come, to see
/// whether the sender hears the receiver.
fn is_challenge(asked: &[RangeInclusive<u64>]) -> bool {
    const MOST: usize = 4;
    asked.len() <= MOST && asked.iter().all(|run| run.start() == run.end())
}

/// Returns the library's own timings, but for the time of its first request, which trials set, and
/// for the time until it takes a sender for one that answers nothing: all of ours answer, and a
/// guest on a busy host may take longer than the usual 3 s.
fn translate(config: &Config) -> ncrx::Config {
    ncrx::Config {
        dialect: Dialect::Nca,
        history: config.first.is_some(),
        reorder: config.ask_after,
        passive_after: Duration::from_secs(60),
        ..ncrx::Config::default()
    }
}

fn covers(numbers: &Numbers, run: &RangeInclusive<u64>) -> bool {
    numbers.end_of_run(*run.start()) >= Some(*run.end())
}

/// The parts of a response: `nca[<ack>][ <first>[-<last>]]... ~[<session>]`.
type Said = (Option<u64>, Vec<RangeInclusive<u64>>, Option<String>);

fn read(response: &[u8]) -> Option<Said> {
    let text = std::str::from_utf8(response).ok()?;
    let (text, session) = text.rsplit_once(" ~")?;
    let mut words = text.split(' ');
    let ack = words.next()?.strip_prefix("nca")?;
    let ack = match ack {
        "" => None,
        ack => Some(ack.parse().ok()?),
    };
    let mut asked = Vec::new();
    for word in words {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let run: RangeInclusive<u64> = first.parse().ok()?..=last.parse().ok()?;
        asked.push(Some(run).filter(|run| !run.is_empty())?);
    }
    let session = Some(session.to_string()).filter(|session| !session.is_empty());
    (response.len() <= RESPONSE_MAX).then_some((ack, asked, session))
}
