// SPDX-License-Identifier: GPL-2.0

//! The module's sender: its own pure files, and around them the work of `ack.rs`, `target.rs`,
//! `timer.rs` and `log.rs`, without a kernel. Times are milliseconds.

use std::cell::Cell;
use std::collections::VecDeque;

use crate::proto::budget::Budget;
use crate::proto::emg_schedule::{Intervals, Schedule, Step, View};
use crate::proto::last_sent::{self, LastSent, NEVER, PLACES};
use crate::proto::missing::{Missing, ROOM};
use crate::proto::peer::{Peer, Policy, Verdict};
use crate::proto::response::Response;
use crate::proto::ring::{Entry, Meta, Next, Ring};
use crate::proto::rtt::Rtt;
use crate::proto::wire::{self, Datagrams, Extra, Form, Range, Record, Session};

/// The settings, as in `config.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub intervals: Intervals,
    pub rate: u32,
    pub burst: u32,
    /// The size of the ring.
    pub bytes: usize,
    /// The size of printk's log.
    pub records: usize,
}

#[derive(Clone, Copy, Default)]
struct SendFlags {
    emergency: bool,
    skip: Option<Range>,
    lost: Option<Range>,
    answer: bool,
}

/// Those of an answer.
const ANSWER: SendFlags = SendFlags {
    emergency: false,
    skip: None,
    lost: None,
    answer: true,
};

/// A load of the module.
pub struct Sender {
    settings: Settings,
    pub session: Session,
    ring: Ring<Vec<u8>, Vec<Entry>>,
    /// printk's log: records, and whether each is hidden.
    log: VecDeque<(Vec<u8>, bool)>,
    end: u64,
    sent_end: u64,
    peer: Peer,
    schedule: Schedule,
    budget: Budget,
    rtt: Rtt,
    last_sent: LastSent<Vec<Cell<u64>>>,
    emergency_at: u64,
    checked_at: u64,
    seen_end: u64,
    told_end: u64,
    requested: Missing<Vec<Range>>,
    /// The datagrams to send.
    pub out: Vec<Vec<u8>>,
    /// The number of datagrams sent, and of those that answered a request.
    pub sent: u64,
    pub again: u64,
    now: u64,
}

impl Sender {
    pub fn new(settings: Settings, session: u64) -> Self {
        let session = Session(session);
        Self {
            ring: Ring::new(
                vec![0; settings.bytes],
                vec![Entry::EMPTY; settings.bytes / 128],
            ),
            log: VecDeque::new(),
            end: 0,
            sent_end: 0,
            peer: Peer::new(None, settings.policy, session),
            schedule: Schedule::default(),
            budget: Budget::new(settings.rate, settings.burst),
            rtt: Rtt::default(),
            last_sent: LastSent::new(vec![Cell::new(NEVER); PLACES]),
            emergency_at: 0,
            checked_at: 0,
            seen_end: 0,
            told_end: 0,
            requested: Missing::new(vec![Range { first: 0, last: 0 }; ROOM]),
            out: Vec::new(),
            sent: 0,
            again: 0,
            now: 0,
            settings,
            session,
        }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn sent_end(&self) -> u64 {
        self.sent_end
    }

    pub fn acked(&self) -> Option<u64> {
        self.peer.acked()
    }

    pub fn is_emergency(&self) -> bool {
        self.schedule.is_emergency()
    }

    /// Returns whether it still has this record, and does not hide it.
    pub fn has(&self, seq: u64) -> bool {
        self.ring.get(seq).is_some() || self.in_log(seq).is_some_and(|&(_, hidden)| !hidden)
    }

    fn log_begin(&self) -> u64 {
        self.end - self.log.len() as u64
    }

    fn in_log(&self, seq: u64) -> Option<&(Vec<u8>, bool)> {
        self.log.get(seq.checked_sub(self.log_begin())? as usize)
    }

    fn get(&self, seq: u64) -> Option<Vec<u8>> {
        if let Some((bytes, _)) = self.ring.get(seq) {
            return Some(bytes.to_vec());
        }
        Some(self.in_log(seq)?.0.clone())
    }

    fn begin(&self) -> u64 {
        let log = self.log_begin();
        self.ring.oldest().map_or(log, |oldest| oldest.min(log))
    }

    fn next(&self, seq: u64, end: u64) -> Option<u64> {
        let stored = self.ring.next(seq).map(|(seq, _)| seq);
        let mut found = seq.max(self.log_begin());
        let limit = stored.unwrap_or(end).min(end);
        while found < limit && self.in_log(found).is_some_and(|&(_, hidden)| hidden) {
            found += 1;
        }
        Some(found.min(limit)).filter(|&seq| seq < end && self.has(seq))
    }

    fn transmit(&mut self, seq: u64, bytes: &[u8], flags: SendFlags) -> u32 {
        self.last_sent.note(seq, self.now);
        let form = Form {
            dialect: match flags.answer {
                true => self.peer.answer_dialect(),
                false => self.peer.dialect(),
            },
            release: None,
            emergency: flags.emergency,
            session: self.peer.session(),
            crash: false,
            skip: flags.skip,
            lost: flags.lost,
            extra: Extra::default(),
        };
        let record = Record::parse(bytes).unwrap();
        let mut count = 0;
        for datagram in Datagrams::new(record, form).unwrap().iter() {
            let mut out = vec![0; datagram.len()];
            datagram.write(&mut out);
            self.out.push(out);
            count += 1;
        }
        self.sent += u64::from(count);
        count
    }

    /// Stands for printk: keeps the record, and sends it unless it is hidden.
    pub fn log(&mut self, now: u64, record: Vec<u8>, hidden: bool) {
        self.now = now;
        let seq = self.end;
        self.end += 1;
        if self.log.len() == self.settings.records {
            self.log.pop_front();
        }
        self.log.push_back((record.clone(), hidden));
        if hidden {
            return;
        }
        let _ = self.ring.push(seq, &record, Meta::at(now));
        let mut flags = SendFlags::default();
        if self.sent_end > 0 && seq > self.sent_end && self.peer.session().is_some() {
            let begin = self.begin().clamp(self.sent_end, seq);
            let range = |first, next: u64| {
                (first < next).then(|| Range {
                    first,
                    last: next - 1,
                })
            };
            flags.lost = range(self.sent_end, begin);
            flags.skip = range(begin, seq);
        }
        self.transmit(seq, &record, flags);
        self.sent_end = seq + 1;
    }

    /// Takes a response, as `hear()`; [`Self::serve`] sends the records that it asks for.
    pub fn hear(&mut self, now: u64, datagram: &[u8]) {
        self.now = now;
        let response = Response::parse(datagram).expect("a bad response");
        let verdict = self.peer.respond(now, &response, self.end);
        let Verdict::Believed { forward, .. } = verdict else {
            return;
        };
        self.schedule.respond(now, self.settings.intervals);
        if forward {
            self.schedule.ack(now, self.settings.intervals);
        }
        let acked = self.peer.acked().filter(|_| forward);
        let requested = response.missing().map(|range| range.last).max();
        self.rtt.respond(now, acked, requested, &self.last_sent);
        let _ = self.requested.merge(&response, self.end);
    }

    /// Sends the records that are asked for, once all waiting responses have been taken.
    pub fn serve(&mut self, now: u64) {
        self.now = now;
        let (begin, hold) = (self.begin(), self.rtt.hold());
        while let Some(seq) = self.requested.next() {
            if self.is_on_its_way(seq, hold) {
                continue;
            }
            if !self.budget.allows(now) {
                self.requested.clear();
                return;
            }
            let sent = match self.get(seq) {
                Some(record) => {
                    let lacks = self.peer.acked().is_some_and(|ack| seq > ack);
                    let times = if lacks { self.last_sent.times(seq) } else { 0 };
                    let copies =
                        (0..last_sent::copies(times)).map(|_| self.transmit(seq, &record, ANSWER));
                    copies.sum()
                }
                None if self.peer.session().is_some() => {
                    let lost = self.requested.take_run(seq, begin);
                    if self.is_on_its_way(lost.last, hold) {
                        continue;
                    }
                    self.last_sent.note(lost.last, now);
                    self.tell_of_lost(lost)
                }
                None => {
                    let out = &mut [0; wire::MAX_SUBSTITUTE];
                    let record = wire::substitute(seq, out).to_vec();
                    self.transmit(seq, &record, SendFlags::default())
                }
            };
            self.again += u64::from(sent);
            self.budget.spend(sent);
            self.rtt.resent(now);
        }
    }

    fn is_on_its_way(&self, seq: u64, hold: u64) -> bool {
        let age = self.last_sent.age(seq, self.now);
        age.is_some_and(|age| age < hold)
    }

    fn tell_of_lost(&mut self, lost: Range) -> u32 {
        let carrier = self
            .next(lost.last + 1, self.sent_end)
            .or_else(|| self.ring.before(lost.first))
            .or(self.sent_end.checked_sub(1));
        let record = carrier.and_then(|seq| Some((seq, self.get(seq)?)));
        let Some((carrier, record)) = record else {
            return 0;
        };
        let lost = Some(lost);
        self.transmit(carrier, &record, SendFlags { lost, ..ANSWER })
    }

    /// Runs the timer: emergency transmission, and the work of once a second.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        if now >= self.emergency_at {
            self.emergency_at = now + self.emergency(now);
        }
        if now >= self.checked_at + 1000 {
            self.checked_at = now;
            self.tell_of_hidden();
        }
    }

    /// Returns the time at which to call [`Self::tick`] next.
    pub fn deadline(&self) -> u64 {
        self.emergency_at.min(self.checked_at + 1000)
    }

    fn emergency(&mut self, now: u64) -> u64 {
        let most = (self.settings.intervals.ack_timeout / 10).clamp(10, 1000);
        let Some(ack) = self.peer.acked() else {
            return most;
        };
        let end = self.sent_end;
        let view = View {
            ack,
            end,
            oldest_sent: self.ring.next(ack + 1).map(|(_, meta)| meta.sent_ms()),
        };
        let mut schedule = self.schedule;
        let step = schedule.poll(now, view, self.settings.intervals, |seq| {
            self.next(seq, end).map_or(Next::Nothing, Next::Record)
        });
        self.schedule = schedule;
        match step {
            Step::Idle => most,
            Step::Wait(until) => (until - now).clamp(1, most),
            Step::Send(seq) => {
                let emergency = true;
                let record = self.get(seq).unwrap();
                self.transmit(
                    seq,
                    &record,
                    SendFlags {
                        emergency,
                        ..SendFlags::default()
                    },
                );
                1
            }
        }
    }

    fn tell_of_hidden(&mut self) {
        let idle = std::mem::replace(&mut self.seen_end, self.sent_end) == self.sent_end;
        if !idle || self.sent_end == 0 || self.peer.session().is_none() {
            return;
        }
        let begin = self.sent_end.max(self.told_end);
        if self.end <= begin {
            return;
        }
        let carrier = self.sent_end - 1;
        if let Some(record) = self.get(carrier) {
            self.told_end = self.end;
            let skip = Some(Range {
                first: self.sent_end,
                last: self.end - 1,
            });
            self.transmit(
                carrier,
                &record,
                SendFlags {
                    skip,
                    ..SendFlags::default()
                },
            );
        }
    }
}
