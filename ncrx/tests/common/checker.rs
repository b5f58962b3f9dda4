// SPDX-License-Identifier: GPL-2.0

//! The receiver's outputs, compared with the sent records: each once, byte for byte, in order.

use std::collections::HashMap;

use ncrx::{Event, GapReason, Output, Sender, SeqRange, StreamId};

/// The fate of a record that was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It has not been handed out.
    Open,
    /// It was handed out.
    Out,
    /// It was handed out and is written.
    Written,
    /// It is written, by a receiver that was killed before it could remember that.
    Again,
}

/// A start of the sender's log.
struct Boot {
    session: Option<u64>,
    /// The records by number: in the form of `/dev/kmsg`, or nothing if hidden or lost.
    records: Vec<(Option<Box<[u8]>>, Fate)>,
}

/// The outputs of one stream so far.
#[derive(Default)]
struct Seen {
    boot: Option<usize>,
    /// The next number.
    next: Option<u64>,
    /// In ascending order.
    gaps: Vec<(u64, u64, GapReason)>,
    ended: bool,
    acked: u64,
}

impl Seen {
    /// Notes that the sender has sent a record that stands for a lost one.
    fn gaps_insert(&mut self, seq: u64) {
        if self.gap(seq).is_none() {
            self.gaps.push((seq, seq, GapReason::Lost));
        }
    }

    fn gap(&self, seq: u64) -> Option<GapReason> {
        let at = self.gaps.partition_point(|&(_, last, _)| last < seq);
        let &(first, _, why) = self.gaps.get(at)?;
        (first <= seq).then_some(why)
    }
}

/// Compares the outputs with the records that were sent.
#[derive(Default)]
pub struct Checker {
    boots: Vec<Boot>,
    streams: HashMap<StreamId, Seen>,
    /// The streams of receivers that were killed.
    former: Vec<Seen>,
    /// The stream that has begun last.
    current: Option<StreamId>,
    unwritten: Vec<(usize, u64)>,
    /// The boot and the progress that the next stream goes on with, until something is handed out.
    resumed: Option<(usize, Seen)>,
    kmsg: Vec<u8>,
    /// Whether the sender answers, so that nothing may be given up for its silence.
    answers: bool,
    /// The numbers of records that came late, and in part.
    pub late: u64,
    pub partial: u64,
    pub records: u64,
    pub streams_begun: u64,
    /// The number of records of sessions that no boot has, which an attacker has sent.
    pub strange: u64,
}

/// Returns the boot and the number that a record's text names.
fn name(text: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.strip_prefix("boot ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

impl Checker {
    /// Returns a checker for a sender that answers requests, or does not.
    pub fn new(answers: bool) -> Self {
        Self {
            answers,
            ..Self::default()
        }
    }

    /// Notes that the sender has started anew.
    pub fn boot(&mut self, session: Option<u64>, first: u64) -> usize {
        let records = (0..first).map(|_| (None, Fate::Open)).collect();
        self.boots.push(Boot { session, records });
        self.boots.len() - 1
    }

    /// Notes that it has used its next number: for this record, or one that is hidden or lost.
    pub fn sent(&mut self, record: Option<&[u8]>) {
        let boot = self.boots.last_mut().unwrap();
        boot.records.push((record.map(Box::from), Fate::Open));
    }

    /// Notes that a receiver goes on with the saved state of this boot.
    pub fn resume(&mut self, boot: usize, from: &Sender) {
        let acked = from.settled.map_or(0, |settled| settled + 1);
        let next = from.beyond.last().map_or(acked, |numbers| numbers.last + 1);
        let of = |seen: &&Seen| seen.boot == Some(boot);
        // Numbers that had been passed over by then may come late.
        let known = self.former.iter().rev().find(of);
        let gaps = known.map_or(&[][..], |seen| &seen.gaps);
        let passed = |&(first, last, why): &(u64, u64, GapReason)| {
            (first < next).then(|| (first, last.min(next - 1), why))
        };
        let seen = Seen {
            boot: Some(boot),
            next: Some(next),
            gaps: gaps.iter().filter_map(passed).collect(),
            acked,
            ..Seen::default()
        };
        self.resumed = Some((boot, seen));
    }

    /// Returns the boot of the stream with the last output.
    pub fn current_boot(&self) -> Option<usize> {
        self.streams.get(&self.current?)?.boot
    }

    /// Notes that the receiver was killed, which had saved this state of a boot.
    pub fn kill(&mut self, remembered: Option<&(usize, Sender)>) {
        for (boot, seq) in self.unwritten.drain(..) {
            let fate = &mut self.boots[boot].records[seq as usize].1;
            if *fate == Fate::Out {
                *fate = Fate::Open;
            }
        }
        for (n, boot) in self.boots.iter_mut().enumerate() {
            let from = remembered.filter(|(of, _)| *of == n).map(|(_, from)| from);
            for (seq, (_, fate)) in (0..).zip(&mut boot.records) {
                let known = from.is_some_and(|from| {
                    let has = |numbers: &SeqRange| (numbers.first..=numbers.last).contains(&seq);
                    let settled = from.settled.is_some_and(|last| seq <= last)
                        && !from.passed.iter().any(|(numbers, _)| has(numbers));
                    settled || from.beyond.iter().any(has)
                });
                if *fate == Fate::Written && !known {
                    *fate = Fate::Again;
                }
            }
        }
        self.former
            .extend(self.streams.drain().map(|(_, seen)| seen));
        (self.current, self.resumed) = (None, None);
    }

    /// Checks an output.
    pub fn output(&mut self, output: &Output<'_>) {
        let (stream, event) = match output {
            Output::Record(record) => (record.stream(), None),
            Output::Event { stream, event, .. } => (*stream, Some(*event)),
        };
        let session = match output {
            Output::Record(record) => record.session(),
            Output::Event { session, .. } => *session,
        };
        let is = |boot: &Boot| boot.session == session.map(|session| session.0);
        if session.is_some() && !self.boots.iter().any(is) {
            self.strange += u64::from(event.is_none());
            return;
        }
        let newest = self.current_boot();
        let resumed = &mut self.resumed;
        let begin = || resumed.take().map_or_else(Seen::default, |(_, seen)| seen);
        match event {
            // This stream is not the one that goes on.
            Some(Event::Began { .. }) => self.streams.entry(stream).or_default(),
            _ => self.streams.entry(stream).or_insert_with(begin),
        };
        match output {
            Output::Record(record) => self.record(stream, newest, record),
            Output::Event { event, .. } => self.event(stream, newest, *event),
        }
    }

    /// Checks a record of a stream; `newest` is the boot of the stream before it.
    fn record(&mut self, stream: StreamId, newest: Option<usize>, record: &ncrx::Record<'_>) {
        let seen = self.streams.get_mut(&stream).unwrap();
        let seq = record.seq().unwrap();
        self.records += 1;
        if record.is_late() {
            self.late += 1;
            // The first output of a receiver that goes on may be late.
            self.current.get_or_insert(stream);
            let known = seen.gap(seq).is_some() || seen.ended;
            assert!(known, "late {seq} was not named as missing: {record:?}");
        } else {
            assert_eq!(seen.next, Some(seq), "out of order: {record:?}");
            assert!(!seen.ended, "after the end: {record:?}");
            seen.next = Some(seq + 1);
            if seen.boot.is_none() || newest <= seen.boot {
                // The stream of an earlier boot may still have outputs.
                self.current = Some(stream);
            }
        }
        let Some((boot, named)) = name(record.text()) else {
            let lost = format!("netconsole_ext: record {seq} was lost at the source");
            assert_eq!(record.text(), lost.as_bytes(), "not sent: {record:?}");
            seen.gaps_insert(seq);
            return;
        };
        assert_eq!(named, seq, "wrong number: {record:?}");
        let of = *seen.boot.get_or_insert(boot);
        // Without sessions, records from before the first that came cannot be told from those that
        // the sender logs under the same numbers when it has started anew.
        let before = record.session().is_none() && seen.gap(seq) == Some(GapReason::Before);
        if of != boot && record.is_late() && before {
            return;
        }
        assert_eq!(of, boot, "of another boot: {record:?}");
        if let Some(session) = record.session() {
            assert_eq!(Some(session.0), self.boots[boot].session, "{record:?}");
        }
        self.text(stream, boot, seq, record);
    }

    /// Checks that a record has the bytes that were sent, and comes once.
    fn text(&mut self, stream: StreamId, boot: usize, seq: u64, record: &ncrx::Record<'_>) {
        self.kmsg.clear();
        record.write_kmsg(&mut self.kmsg);
        let (sent, fate) = &mut self.boots[boot].records[seq as usize];
        let sent = sent.as_deref().expect("a record that is not there");
        if record.is_partial() {
            self.partial += 1;
            // A partial record does not name the reason; most likely it is that of the gap before
            // it.
            let seen = self.streams.get_mut(&stream).unwrap();
            if seen.gap(seq).is_none() {
                let passed = |gap: &&(_, _, GapReason)| {
                    !matches!(gap.2, GapReason::Hidden | GapReason::Lost)
                };
                let last = seen.gaps.iter().rev().find(passed);
                let why = last.map_or(GapReason::Unanswered, |gap| gap.2);
                seen.gaps.push((seq, seq, why));
            }
            assert!(sent.starts_with(&self.kmsg), "{record:?}");
            return;
        }
        assert!(sent == self.kmsg, "changed: {record:?}");
        match fate {
            Fate::Open | Fate::Again => *fate = Fate::Out,
            Fate::Out | Fate::Written => panic!("twice: {record:?}"),
        }
        self.unwritten.push((boot, seq));
    }

    /// Checks an event of a stream.
    fn event(&mut self, stream: StreamId, newest: Option<usize>, event: Event) {
        let seen = self.streams.get_mut(&stream).unwrap();
        match event {
            Event::Resumed => seen.ended = false,
            Event::Began { first, .. } => {
                seen.next = first;
                self.current = Some(stream);
                self.streams_begun += 1;
            }
            Event::Ended => {
                seen.ended = true;
                // No missing record is waited for any more, for whatever reason it was passed over.
                seen.gaps.iter_mut().for_each(|gap| {
                    if !matches!(gap.2, GapReason::Hidden | GapReason::Lost) {
                        gap.2 = GapReason::Ended;
                    }
                });
            }
            Event::Gap {
                range: numbers,
                reason: why,
            } => {
                assert_eq!(seen.next, Some(numbers.first), "{numbers}: {why:?}");
                seen.next = Some(numbers.last + 1);
                // A stream that has ended reports its gaps before the next one begins.
                if seen.boot.is_none() || newest <= seen.boot {
                    // An earlier boot's stream may still have something.
                    self.current = Some(stream);
                }
                seen.gaps.push((numbers.first, numbers.last, why));
            }
            _ => {}
        }
    }

    /// Takes the records that were handed out and are not written, for a caller that writes them
    /// at another time.
    pub fn take_unwritten(&mut self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.unwritten)
    }

    /// Puts records back that are not written yet after all.
    pub fn give_back(&mut self, unwritten: impl IntoIterator<Item = (usize, u64)>) {
        self.unwritten.extend(unwritten);
    }

    /// Notes that all that was handed out is written.
    pub fn written(&mut self) {
        for (boot, seq) in self.unwritten.drain(..) {
            self.boots[boot].records[seq as usize].1 = Fate::Written;
        }
    }

    /// Checks an ack up to this number. Records that were passed over for the sender's silence may
    /// be acknowledged if the sender has lost them.
    pub fn ack(&mut self, ack: u64, has: impl Fn(u64) -> bool) {
        let current = self.current.and_then(|id| self.streams.get(&id));
        let (boot, seen) = match (current, &self.resumed) {
            (Some(seen), _) => (seen.boot, seen),
            // A missing record has turned out to be lost.
            (None, Some((boot, seen))) => (Some(*boot), seen),
            (None, None) => panic!("ack of {ack}"),
        };
        let Some(boot) = boot else {
            return;
        };
        let Some(bad) = self.unsound(seen, boot, ack, &has) else {
            match self.current.and_then(|id| self.streams.get_mut(&id)) {
                Some(seen) => seen.acked = ack + 1,
                None => drop(self.resumed.as_mut().map(|(_, seen)| seen.acked = ack + 1)),
            }
            return;
        };
        // The ack may be for another stream beside it, if it does not name its session.
        let others = self.streams.values();
        let mut others = others.filter_map(|seen| Some((seen, seen.boot?)));
        let other = others.any(|(seen, boot)| self.unsound(seen, boot, ack, &has).is_none());
        let why = seen.gap(bad);
        assert!(
            other,
            "ack {ack} of boot {boot}, but {bad} is not written ({why:?})"
        );
    }

    /// Returns a number that is neither written nor given up, although it would be acknowledged.
    fn unsound(
        &self,
        seen: &Seen,
        boot: usize,
        ack: u64,
        has: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let records = &self.boots[boot].records;
        (seen.acked..=ack).find(|&seq| {
            let record = records.get(seq as usize);
            let given_up = seen.gap(seq).is_some_and(|why| {
                !self.answers
                    || !matches!(
                        why,
                        GapReason::Silence | GapReason::Crash | GapReason::Stopped
                    )
                    || !has(seq)
                    // For an earlier boot only this is known.
                    || record.is_some_and(|(record, _)| record.is_none())
            });
            let written =
                record.is_some_and(|(_, fate)| matches!(fate, Fate::Written | Fate::Again));
            !written && !given_up
        })
    }

    /// Returns whether this record of the last boot was never handed out, although it was not given
    /// up while a sender without sessions seemed not to listen. Records that had been passed over
    /// by then are acknowledged, but not named again.
    pub fn is_open(&self, seq: u64, sessions: bool) -> bool {
        let gap = |seen: &Seen| match seen.gap(seq) {
            Some(GapReason::Passive | GapReason::Before) => true,
            Some(GapReason::Silence | GapReason::Crash | GapReason::Stopped) => seq < seen.acked,
            Some(_) | None => false,
        };
        let of = |seen: &&Seen| seen.boot == Some(self.boots.len() - 1);
        let resumed = self.resumed.iter().map(|(_, seen)| seen);
        let seen = self.streams.values().chain(&self.former).chain(resumed);
        if !sessions && seen.filter(of).any(gap) {
            return false;
        }
        self.boots.last().unwrap().records[seq as usize].1 == Fate::Open
    }

    /// Returns the records of the last boot that were never handed out, from `first` on.
    pub fn open(&self, first: u64) -> Vec<u64> {
        let records = &self.boots.last().unwrap().records;
        let open = |&seq: &u64| matches!(records[seq as usize], (Some(_), Fate::Open));
        (first..records.len() as u64).filter(open).collect()
    }
}
