// SPDX-License-Identifier: GPL-2.0

//! All outputs of a worker: records go from its receiver to their queues, and what has become of
//! them goes back to the receiver, which may then acknowledge them.
//!
//! `chunk.rs` collects records and hands them on; `hosts.rs` tells of the senders.

mod chunk;
mod hosts;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use foldhash::{HashMap, HashMapExt};
use lru::LruCache;
use ncrx::{Output, Receiver, Session, Standing, Token};

use crate::again::{Again, Ends, Lost};
use crate::choices::{Choices, Current};
use crate::crashes::Watcher;
use crate::doubts::Doubts;
use crate::events::Events;
use crate::format::{Clock, Clocks, When};
use crate::groups::{End, Group, Keys};
use crate::held::Held;
use crate::limits::Limits;
use crate::names::{Named, Names};
use crate::sink::{day, safe, Field, Settled};
use crate::userdata::Userdata;
use chunk::Part;
pub use hosts::Basic;

/// The bytes that are collected before they are handed on: calls are few, and stops are short.
const CHUNK: usize = 256 << 10;
/// The most chunks that are handed on until others have their turn.
const CHUNKS: usize = 16;
/// The most senders of basic targets that are remembered.
const BASIC: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// The longest that an output that is full keeps the others waiting.
const SLOW: Duration = Duration::from_secs(2);
/// The most gaps that outputs without room may still have to be told of.
const UNTOLD: usize = 1024;

/// A sender, and its session if that is known.
type SenderKey = (SocketAddr, Option<Session>);

/// All outputs of a worker.
pub struct Outputs {
    ends: Vec<End>,
    names: Arc<Names>,
    keys: Keys,
    /// The userdata of senders, and the key of their names.
    userdata: Userdata,
    host_key: Option<String>,
    /// How much hosts may log.
    limits: Limits,
    /// The operator's choices, and the generation of those that are heeded.
    choices: Arc<Current>,
    chosen: u64,
    /// Today, in days since 1970.
    day: u64,
    /// The names of senders, as they were at this generation; and the last one's.
    cache: HashMap<SenderKey, Arc<Named>>,
    generation: u64,
    last: Option<(SenderKey, Arc<Named>)>,
    groups: HashMap<Arc<str>, Group>,
    settled: Arc<Settled>,
    /// Parcels that are under way.
    under_way: usize,
    /// Whether no output takes more.
    full: bool,
    /// The records that some of them have not taken.
    again: Again,
    /// The losses of outputs that had no room to be told of them yet.
    untold: VecDeque<Lost>,
    /// The senders that have to prove themselves first.
    doubts: Doubts,
    events: Events,
    clocks: Clocks,
    /// Whether some output says when something was.
    has_times: bool,
    /// Records and events that wait until that and the host are clear, unless none is to wait.
    held: Held,
    holds: bool,
    /// Senders of basic targets, which the receiver does not tell of.
    basic: LruCache<SocketAddr, Basic>,
    watcher: Watcher,
    /// When the index was told of hosts.
    hosts_told: Option<Instant>,
}

impl Outputs {
    /// These outputs; senders have these names in them, or what this key of their userdata says.
    /// Finds crashes among them.
    pub fn new(
        ends: Vec<End>,
        names: Arc<Names>,
        host_key: Option<String>,
        choices: Arc<Current>,
        clock: Clock,
        watcher: Watcher,
    ) -> nix::Result<Self> {
        let key = |field: &Field| match field {
            Field::Key(key) => Some(key.clone()),
            _ => None,
        };
        let wanted = ends.iter().flat_map(End::fields).filter_map(key);
        Ok(Self {
            userdata: Userdata::new(wanted.chain(host_key.clone()).collect()),
            host_key,
            limits: Limits::new(None),
            choices,
            chosen: 0,
            day: day(clock.system),
            clocks: Clocks::new(clock),
            has_times: ends.iter().any(|end| end.formatter.has_times()),
            held: Held::default(),
            holds: true,
            keys: Keys::new(&ends),
            ends,
            names,
            cache: HashMap::new(),
            generation: 0,
            last: None,
            groups: HashMap::new(),
            settled: Arc::new(Settled::new()?),
            under_way: 0,
            full: false,
            again: Again::default(),
            untold: VecDeque::new(),
            doubts: Doubts::new(Instant::now()),
            events: Events::default(),
            basic: LruCache::new(BASIC),
            watcher,
            hosts_told: None,
        })
    }

    /// Returns the descriptor that is readable when outputs have done something.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.settled.wake().as_fd()
    }

    /// Returns whether all that there was is written or refused.
    pub fn is_done(&self) -> bool {
        self.under_way == 0 && !self.full
    }

    /// Returns whether no `--output` took more, when it was last tried.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Returns whether some output lacks records that it has refused.
    pub fn has_refused(&self) -> bool {
        !self.again.is_empty()
    }

    /// Returns when to deliver even if nothing new is there.
    pub fn due(&self) -> Option<Instant> {
        let held = self.held.due().filter(|_| !self.full);
        let again = self.again.due();
        let due = [
            again.filter(|_| !self.full),
            self.doubts.due(),
            held,
            self.watcher.due(),
            self.limits.due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Tells the receiver which records the outputs have.
    pub fn settle(&mut self, now: Instant, receiver: &mut Receiver) {
        let inbox = self.settled.take();
        for (tokens, refused) in inbox.outcomes {
            self.under_way -= 1;
            if refused != 0 {
                tokens.iter().for_each(|token| receiver.refuse(*token));
                self.again.add(&tokens, refused, now);
                continue;
            }
            self.again.took(&tokens, now);
            let tokens = tokens.into_iter();
            tokens.for_each(|token| receiver.confirm(token, now));
        }
        self.doubts.add(inbox.doubts, receiver, now);
        if self.doubts.resolve(receiver, now) {
            self.ends.iter().for_each(|end| end.queue.resolve());
        }
    }

    /// Hands on what the receiver has, and says whether there may be more. What no output takes
    /// stays with the receiver, as long as that has memory.
    pub fn deliver(&mut self, now: Instant, receiver: &mut Receiver) -> bool {
        // Both are read at once: what comes between them is an error of all times.
        let clock = Clock {
            instant: Instant::now(),
            system: SystemTime::now(),
        };
        if let Some(choices) = self.choices.news(&mut self.chosen) {
            self.choose(&choices);
        }
        self.clocks.set_clock(clock);
        self.day = day(clock.system);
        let names = &self.names;
        self.watcher.tick(now, |sender| names.look_up(sender));
        for _ in 0..CHUNKS {
            self.settle(now, receiver);
            self.full = !self.may_take(now);
            if self.full || !self.take(now, receiver) && !self.ask_again(now, receiver) {
                return false;
            }
            self.hand_on();
        }
        true
    }

    fn choose(&mut self, choices: &Choices) {
        self.limits.set(choices.host_rate);
        let ends = self.ends.iter_mut().zip(choices.looks.iter().flatten());
        ends.for_each(|(end, look)| end.set(look));
        self.has_times = self.ends.iter().any(|end| end.formatter.has_times());
    }

    /// Asks again for what outputs have refused and can take now. Tells them of what is lost, and
    /// returns whether there was any.
    fn ask_again(&mut self, now: Instant, receiver: &mut Receiver) -> bool {
        let able = self.ends.iter().filter(|end| end.is_able());
        let able = able.map(|end| 1 << end.nth).sum();
        self.again.ask(able, receiver, now);
        let lost = self.again.lost(|| self.held.numbers(), receiver, now);
        let mut count = 0;
        for lost in &lost {
            let (ends, records) = (lost.ends, lost.numbers.count());
            for end in self.ends.iter().filter(|end| (ends >> end.nth) & 1 > 0) {
                end.queue.status.lost.fetch_add(records, Relaxed);
            }
            count += records;
        }
        if count > 0 {
            tracing::warn!(
                "{count} records are lost to outputs that could not take them when they came: \
                 their senders cannot send them again"
            );
        }
        self.untold.extend(lost);
        self.tell_lost(now)
    }

    /// Tells outputs of what they have lost, as soon as they have room; returns whether one was
    /// told.
    fn tell_lost(&mut self, now: Instant) -> bool {
        let surplus = self.untold.len().saturating_sub(UNTOLD);
        self.untold.drain(..surplus);
        let open = self.ends.iter().filter(|end| end.open);
        let open: Ends = open.map(|end| 1 << end.nth).sum();
        let (mut told, all) = (false, std::mem::take(&mut self.untold));
        for mut lost in all {
            let ends = lost.ends & open;
            if let Some(gap) = lost.gap(now).filter(|_| ends != 0) {
                self.write_to(ends, &gap, now);
                told = true;
            }
            lost.ends &= !open;
            self.untold.extend((lost.ends != 0).then_some(lost));
        }
        told
    }

    /// Finds out which outputs take more, and whether to take it from the receiver: if one does,
    /// and the others are not only busy for a moment.
    fn may_take(&mut self, now: Instant) -> bool {
        let (mut any, mut busy, mut promised) = (false, false, false);
        for end in &mut self.ends {
            end.open = end.queue.has_room();
            end.crowded = match end.queue.is_crowded() {
                true => end.crowded.or(Some(now)),
                false => None,
            };
            if end.promised {
                promised = true;
                any |= end.open;
                busy |= !end.open && end.crowded.is_some_and(|since| now < since + SLOW);
            }
        }
        !promised || any && !busy
    }

    /// Formats what the receiver has for all outputs that take it; returns whether there was
    /// anything.
    fn take(&mut self, now: Instant, receiver: &mut Receiver) -> bool {
        let mut room = CHUNK;
        if !self.names.are_as_at(&mut self.generation) || self.cache.len() > 2 * BASIC.get() {
            self.cache.clear();
            self.last = None;
        }
        let ready = self.held.ready(self.holds.then_some(now));
        let gaps = self.limits.gaps(now, false);
        let mut any = !ready.is_empty() || !gaps.is_empty();
        for gap in &gaps {
            self.write(gap, now);
        }
        for sender in ready {
            room = room.saturating_sub(self.let_go(sender, now));
        }
        while room > 0 {
            let Some(output) = receiver.next_output() else {
                let rest = self.events.rest();
                rest.iter().for_each(|rest| {
                    self.format(rest, now);
                });
                break;
            };
            any = true;
            let (before, itself) = self.events.push(&output);
            let output = itself.then_some(output);
            for output in before.iter().chain(&output) {
                room = room.saturating_sub(1 + self.format(output, now));
            }
        }
        self.tell_crashes() | any
    }

    /// Formats a record or an event, unless it has to wait until it is clear when it was logged, or
    /// of which host it is. Returns its bytes in all.
    fn format(&mut self, output: &Output<'_>, now: Instant) -> usize {
        if let Output::Record(record) = output {
            if self.userdata.see(record, now) {
                self.call(record.host());
            }
        }
        let doubt = self.has_times && self.clocks.learn(output);
        let doubt = self.holds && (doubt || self.is_nameless(output));
        let (host, stream) = match output {
            Output::Record(record) => (record.host(), record.stream()),
            Output::Event { host, stream, .. } => (*host, *stream),
        };
        let waits = self.held.stream(host);
        let Some(stream) = waits.or(doubt.then_some(stream)) else {
            return self.write(output, now);
        };
        self.held.push(host, stream, output, now);
        let doubt = self.clocks.is_in_doubt(stream) || self.is_nameless(output);
        match doubt && !self.held.is_full() {
            true => 0,
            false => self.let_go(host, now),
        }
    }

    /// Formats what was held back of a sender. Returns its bytes in all.
    fn let_go(&mut self, sender: SocketAddr, now: Instant) -> usize {
        let Some(waiting) = self.held.take(sender) else {
            return 0;
        };
        self.clocks.believe(waiting.stream);
        let outputs = waiting.outputs();
        outputs.map(|output| self.write(&output, now)).sum()
    }

    /// Formats a record or an event for the outputs that lack it. Returns its bytes in all.
    fn write(&mut self, output: &Output<'_>, now: Instant) -> usize {
        let wants = match output {
            Output::Record(record) if !record.is_text() => self.wants(record.token()),
            _ => Ends::MAX,
        };
        self.write_to(wants, output, now)
    }

    /// Formats a record or an event for these outputs, if they take it. Returns its bytes in all.
    fn write_to(&mut self, wants: Ends, output: &Output<'_>, now: Instant) -> usize {
        let (host, session, standing, token) = match output {
            Output::Record(record) => {
                // A text without a number is not acknowledged.
                let token = (!record.is_text()).then(|| record.token());
                (record.host(), record.session(), record.standing(), token)
            }
            Output::Event { host, session, .. } => {
                let standing = session.map_or(Standing::Stranger, |_| Standing::Named);
                (*host, *session, standing, None)
            }
        };
        if matches!(output, Output::Record(record) if record.is_text()) {
            let basic = Basic {
                records: 0,
                heard: now,
            };
            let basic = self.basic.get_or_insert_mut(host, || basic);
            (basic.records, basic.heard) = (basic.records + 1, now);
        }
        let named = self.named((host, session), standing, now);
        let (name, when) = (&named.name, self.clocks.date(output));
        // A record that only some outputs lack was looked at when the others got it.
        let limited = wants == Ends::MAX && self.look_at(output, name, &when, now);
        let part = Part {
            name,
            when: &when,
            standing,
            token,
            wants: if limited { 0 } else { wants },
        };
        self.put(output, &part)
    }

    /// Looks for crashes in it and shows it live; returns whether it is to be dropped, since it is
    /// more than its host may log.
    fn look_at(&mut self, output: &Output<'_>, name: &str, when: &When, now: Instant) -> bool {
        let in_crash = |watcher: &Watcher| match output {
            Output::Record(record) => watcher.is_in_crash(record.stream()),
            Output::Event { .. } => false,
        };
        // The last line of a report ends it.
        let before = in_crash(&self.watcher);
        self.watcher.see(output, name, now);
        self.watcher.hub().live.see(output, name, when);
        let Output::Record(record) = output else {
            return false;
        };
        let in_crash = before || in_crash(&self.watcher);
        let (drops, gaps) = self.limits.count(record, name, in_crash, now);
        for gap in gaps {
            self.write(&gap, now);
        }
        self.watcher.hub().count_limited(drops);
        drops
    }

    /// Returns whether it is an event of a sender that has not said yet what it is called: its next
    /// record may.
    fn is_nameless(&self, output: &Output<'_>) -> bool {
        let Output::Event { host, .. } = output else {
            return false;
        };
        let key = self.host_key.as_deref();
        key.is_some_and(|key| self.userdata.get(*host, key).is_none())
    }

    /// Returns the name of a sender that is heard now.
    fn named(&mut self, sender: SenderKey, standing: Standing, now: Instant) -> Arc<Named> {
        let known = match &self.last {
            Some((last, named)) if *last == sender => Some(named),
            _ => self.cache.get(&sender),
        };
        let named = match known {
            Some(named) if !self.names.heard(named, standing, now) => named.clone(),
            _ => {
                let named = self.names.name(sender.0, sender.1, standing, now);
                self.cache.insert(sender, named.clone());
                named
            }
        };
        if !matches!(&self.last, Some((_, last)) if Arc::ptr_eq(last, &named)) {
            self.last = Some((sender, named.clone()));
        }
        named
    }

    /// Calls a sender what its userdata says, as far as that does no harm in any view.
    fn call(&mut self, sender: SocketAddr) {
        let key = self.host_key.as_deref();
        let Some(name) = key.and_then(|key| self.userdata.get(sender, key)) else {
            return;
        };
        self.names.call(sender, &safe(name));
        (self.last, self.cache) = (None, HashMap::new());
    }

    /// Returns the outputs that are to have a record: all, unless some have it already.
    fn wants(&mut self, token: Token) -> Ends {
        let lacking = match self.again.is_empty() {
            true => None,
            false => self.again.take(token.stream(), token.seq()),
        };
        lacking.unwrap_or(Ends::MAX)
    }

    /// Has nothing wait any more until it is clear when it was logged.
    pub fn hurry(&mut self) {
        self.holds = false;
    }

    /// Hands on what was held back, since nothing comes any more.
    pub fn end(&mut self, now: Instant) {
        if let Some(last) = self.events.end() {
            self.format(&last, now);
        }
        for gap in self.limits.gaps(now, true) {
            self.write(&gap, now);
        }
        let names = &self.names;
        self.watcher.end(now, |sender| names.look_up(sender));
        self.tell_crashes();
        self.tell_lost(now);
        self.hand_on();
    }
}
