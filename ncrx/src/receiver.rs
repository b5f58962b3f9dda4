// SPDX-License-Identifier: GPL-2.0

//! All senders: datagrams in, records and responses out, and the heap of what is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::datagram::{Datagram, Message, Rejected};
use crate::proto::wire::Dialect;
use crate::queue::{Item, Of, Queue};
use crate::record::{Output, Record, SeqRange, Session, StreamId};
use crate::response;
use crate::source::{Source, Whose, MAX_STREAMS};
use crate::stats::{Resume, Sender, Stats};
use crate::stream::{Context, Stream, Token};

/// The longest time from one look at a sender to the next. Without it, senders that are put off
/// again and again would fill the heap with the times at which they are to be forgotten.
const LOOK: Duration = Duration::from_secs(60);

/// How many senders are looked at to find one that has proven nothing.
const CANDIDATES: usize = 64;

/// Receives datagrams of any number of senders, and returns their records in order.
///
/// The caller drives everything, in this order:
///
/// 1. [`Self::feed`] all datagrams that are there;
/// 2. take all from [`Self::next_output`], write it, and report that by [`Self::written`];
/// 3. [`Self::tick`], and send all from [`Self::next_response`];
/// 4. wait until more comes, or until [`Self::deadline`].
///
/// The time must not go backwards, and need not be the real one.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    by_addr: HashMap<SocketAddr, u32, foldhash::fast::RandomState>,
    /// The sender of the last look-up.
    last: Option<(SocketAddr, u32)>,
    hosts: Vec<Option<Source>>,
    free: Vec<u32>,
    /// Where the stream of each session is, and those that have moved.
    sessions: HashMap<Session, u32, foldhash::fast::RandomState>,
    moved: HashMap<StreamId, u32, foldhash::fast::RandomState>,
    /// All senders, in the order in which they came or were last seen to be worth keeping.
    by_age: VecDeque<(u32, SocketAddr)>,
    /// Who is to be looked at when.
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    queue: Queue,
    /// The memory of all windows, in bytes.
    windows: usize,
    streams: u32,
    current: Option<Item>,
    response: Vec<u8>,
    /// See `fast_path_tests.rs`.
    #[cfg(test)]
    pub(crate) takes_short_way: bool,
}

impl Receiver {
    /// Returns a receiver without senders.
    pub fn new(config: Config) -> Self {
        Self {
            queue: Queue::new(&config),
            config,
            by_addr: HashMap::default(),
            last: None,
            hosts: Vec::new(),
            free: Vec::new(),
            sessions: HashMap::default(),
            moved: HashMap::default(),
            by_age: VecDeque::new(),
            heap: BinaryHeap::new(),
            windows: 0,
            streams: 0,
            current: None,
            response: Vec::new(),
            #[cfg(test)]
            takes_short_way: true,
        }
    }

    /// Goes on where a stream was received up to by another receiver; to be called before anything
    /// of this sender is fed, once for each of its streams, and ignored after.
    pub fn resume(&mut self, now: Instant, host: SocketAddr, from: Resume) {
        let Ok(index) = self.host(now, host, false) else {
            return;
        };
        let of = self.new_stream(index);
        if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
            if host.find(from.session).is_none() && host.streams.len() < MAX_STREAMS {
                if let Some(session) = from.session {
                    self.sessions.insert(session, index);
                }
                let stream = Stream::resume(of, now, from, &self.config);
                self.windows += stream.bytes();
                host.streams.push(Box::new(stream));
            }
        }
        self.schedule(index);
    }

    /// Takes a datagram from `from`.
    ///
    /// # Errors
    ///
    /// The reason why the datagram was dropped. It has been counted; a record that was dropped is
    /// missing.
    pub fn feed(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), Rejected> {
        self.queue.stats.datagrams += 1;
        self.queue.stats.bytes += datagram.len() as u64;
        let result = self.take(now, from, datagram);
        if let Err(rejected) = result {
            self.queue.stats.reject(rejected);
        }
        result
    }

    fn take(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Result<(), Rejected> {
        let mut datagram = Datagram::new(bytes);
        let message = datagram.read().unwrap_or_else(|bad| {
            // Whatever it is, it is not lost.
            self.queue.stats.reject(bad);
            Message::Text
        });
        if message == Message::Empty && !self.by_addr.contains_key(&from) {
            // A sender of empty datagrams only is not remembered.
            self.queue.stats.keepalives += 1;
            return Ok(());
        }
        let index = self.host(now, from, true)?;
        let result = match message {
            Message::Record if self.take_plain(now, index, &datagram) => return Ok(()),
            Message::Record => self.take_record(now, index, &datagram),
            Message::Text => self.take_text(now, index, bytes),
            Message::Empty => {
                self.queue.stats.keepalives += 1;
                self.hear(now, index);
                Ok(())
            }
        };
        self.schedule(index);
        result
    }

    /// Takes a record on the fast path: if it belongs to the stream and nothing else needs thought,
    /// which is the usual case.
    fn take_plain(&mut self, now: Instant, index: u32, datagram: &Datagram<'_>) -> bool {
        #[cfg(test)]
        if !self.takes_short_way {
            return false;
        }
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return false;
        };
        // Without a session it may be of any of them.
        let n = match datagram.session {
            None if host.streams.len() == 1 => 0,
            None => return false,
            Some(session) => match host.find(Some(session)) {
                Some(n) => n,
                None => return false,
            },
        };
        let Some(stream) = host.streams.get_mut(n) else {
            return false;
        };
        if !datagram.is_plain() || host.path.is_challenged(now) || self.queue.is_full(&self.config) {
            return false;
        }
        let others = self.windows - stream.bytes();
        let mut cx = Context {
            now,
            config: &self.config,
            queue: &mut self.queue,
            windows: others,
        };
        let taken = stream.take_plain(&mut cx, datagram);
        if taken {
            self.windows = others + stream.bytes();
            if host.due.is_none() || stream.has_changed() {
                self.schedule(index);
            }
        }
        taken
    }

    /// Returns the index of a sender, which is added if it is new.
    fn host(&mut self, now: Instant, addr: SocketAddr, came: bool) -> Result<u32, Rejected> {
        // Datagrams of one sender mostly come together.
        let known = match self.last {
            Some((last, index)) if last == addr => Some(index),
            _ => {
                let known = self.by_addr.get(&addr).copied();
                self.last = known.map(|index| (addr, index));
                known
            }
        };
        if let Some(index) = known {
            if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
                host.heard = now;
                if came {
                    host.path.hear(now);
                }
                host.datagrams = host.datagrams.saturating_add(1);
            }
            return Ok(index);
        }
        if self.by_addr.len() >= self.config.max_hosts && !self.evict(now) {
            return Err(Rejected::TooManySenders);
        }
        let mut host = Source::new(addr, now);
        if came {
            host.path.hear(now);
        }
        let host = Some(host);
        let index = match self.free.pop() {
            Some(index) => {
                self.hosts[index as usize] = host;
                index
            }
            None => {
                let index =
                    u32::try_from(self.hosts.len()).map_err(|_| Rejected::TooManySenders)?;
                self.hosts.push(host);
                index
            }
        };
        self.by_addr.insert(addr, index);
        self.by_age.push_back((index, addr));
        Ok(index)
    }

    /// Makes room for another sender: the one that came first of those that have proven nothing is
    /// forgotten, once what it has sent is handed out.
    fn evict(&mut self, now: Instant) -> bool {
        for _ in 0..CANDIDATES.min(self.by_age.len()) {
            let Some((index, addr)) = self.by_age.pop_front() else {
                return false;
            };
            if self.by_addr.get(&addr) != Some(&index) {
                // It is forgotten.
                continue;
            }
            let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
                continue;
            };
            if host.is_established() {
                self.by_age.push_back((index, addr));
                continue;
            }
            host.evicted = true;
            self.queue.stats.evicted += 1;
            self.each_stream(now, index, |cx, stream| {
                if !stream.ended {
                    stream.end(cx);
                }
            });
            self.by_addr.remove(&addr);
            self.last = None;
            if !self.forget(index) {
                self.schedule_after(index, now);
            }
            return true;
        }
        false
    }

    fn new_stream(&mut self, source: u32) -> Of {
        self.streams = self.streams.wrapping_add(1);
        Of {
            stream: StreamId(self.streams),
            source,
            session: None,
        }
    }

    /// Does something with each of a sender's streams.
    fn each_stream(
        &mut self,
        now: Instant,
        index: u32,
        mut act: impl FnMut(&mut Context<'_>, &mut Stream),
    ) {
        let mut n = 0;
        while self.with_stream(now, index, n, &mut act).is_some() {
            n += 1;
        }
    }

    /// Something came of a sender that is of no stream: it shows that the one is there that was
    /// heard last.
    fn hear(&mut self, now: Instant, index: u32) {
        let host = self.hosts.get(index as usize).and_then(Option::as_ref);
        if let Some(n) = host.and_then(Source::last_heard) {
            self.with_stream(now, index, n, |cx, stream| stream.hear(cx));
        }
    }

    /// Calls `f` with a sender's stream, if it has one, and accounts for its memory.
    fn with_stream<T>(
        &mut self,
        now: Instant,
        index: u32,
        n: usize,
        act: impl FnOnce(&mut Context<'_>, &mut Stream) -> T,
    ) -> Option<T> {
        let host = self.hosts.get_mut(index as usize)?.as_mut()?;
        let stream = host.streams.get_mut(n)?;
        let others = self.windows - stream.bytes();
        let mut cx = Context {
            now,
            config: &self.config,
            queue: &mut self.queue,
            windows: others,
        };
        let result = act(&mut cx, stream);
        self.windows = others + stream.bytes();
        Some(result)
    }

    fn take_text(&mut self, now: Instant, index: u32, text: &[u8]) -> Result<(), Rejected> {
        if self.queue.is_full(&self.config) {
            return Err(Rejected::NoMemory(0));
        }
        self.hear(now, index);
        let new = self.new_stream(index);
        if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
            let of = *host.texts_of.get_or_insert(new);
            host.text.take(&mut self.queue, of, now, text);
        }
        Ok(())
    }

    fn take_record(
        &mut self,
        now: Instant,
        index: u32,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        let from = index;
        let (index, n) = match self.whose(now, index, datagram) {
            Whose::Stream(n) => (index, n),
            Whose::Elsewhere(other, n) => self.move_stream(index, other, n, datagram),
            Whose::New if self.queue.is_full(&self.config) => {
                return Err(Rejected::NoMemory(datagram.seq));
            }
            Whose::New => match self.begin(now, index, datagram) {
                Some(n) => (index, n),
                None => return Err(Rejected::TooManySenders),
            },
            Whose::Unclear => {
                self.queue.stats.duplicates += 1;
                self.hear(now, index);
                return Ok(());
            }
        };
        if let Some(session) = datagram.session {
            self.sessions.insert(session, index);
        }
        if from == index {
            self.take_answer(now, index, n, datagram);
        }
        let taken = self.with_stream(now, index, n, |cx, stream| {
            if from == index {
                stream.credit.hear(datagram.bytes.len());
            }
            if let (None, Some(session)) = (stream.session, datagram.session) {
                stream.adopt(now, session, cx.config);
            }
            stream.take(cx, datagram)
        });
        self.schedule(index);
        taken.unwrap_or(Ok(()))
    }

    /// Takes what comes of a place that is to show that it hears us.
    fn take_answer(&mut self, now: Instant, index: u32, n: usize, datagram: &Datagram<'_>) {
        let Some(host) = self.source(index).filter(|host| host.path.is_challenged(now)) else {
            return;
        };
        let Some(stream) = host.streams.get_mut(n) else {
            return;
        };
        let lost = datagram.lost.filter(|lost| lost.last - lost.first < 64);
        let lost = lost.into_iter().flat_map(|lost| lost.first..=lost.last);
        for seq in std::iter::once(datagram.seq).chain(lost) {
            if host.path.answer(seq, stream.session.is_some()) {
                (stream.proven, stream.home) = (true, None);
            }
        }
    }

    /// Returns the stream that a record belongs to.
    fn whose(&self, now: Instant, index: u32, datagram: &Datagram<'_>) -> Whose {
        let Some(Some(host)) = self.hosts.get(index as usize) else {
            return Whose::New;
        };
        if let Some(session) = datagram.session {
            if let Some(n) = host.find(Some(session)) {
                return Whose::Stream(n);
            }
            let other = self.sessions.get(&session).copied();
            let source = other.and_then(|other| self.hosts.get(other as usize)?.as_ref());
            let n = source.and_then(|source| source.find(Some(session)));
            if let (Some(other), Some(n)) = (other, n) {
                return Whose::Elsewhere(other, n);
            }
        }
        host.judge(now, datagram)
    }

    /// A record of a stream that is another sender's comes from this one. One with a new number
    /// moves the stream. Returns where the stream is then.
    fn move_stream(
        &mut self,
        index: u32,
        other: u32,
        n: usize,
        datagram: &Datagram<'_>,
    ) -> (u32, usize) {
        let here = self.source(index).map(|host| host.addr);
        let moves = |source: &&mut Source| source.streams[n].moves(datagram, here);
        let source = self.hosts.get_mut(other as usize).and_then(Option::as_mut);
        let Some(source) = source.filter(moves) else {
            return (other, n);
        };
        let mut stream = source.streams.remove(n);
        source.last_output = source.last_output.max(stream.last_output());
        stream.source = index;
        let credit = std::mem::take(&mut stream.credit);
        let home = (stream.home).get_or_insert_with(|| Box::new((source.addr, credit)));
        let home = home.0;
        self.moved.insert(stream.id, index);
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return (other, n);
        };
        if home == host.addr {
            stream.credit = stream.home.take().map(|home| home.1).unwrap_or_default();
        } else if host.path.is_validated() {
            stream.home = None;
        } else {
            host.path.want();
        }
        host.streams.push(stream);
        (index, host.streams.len() - 1)
    }

    /// A new stream begins, with this record. Returns which of the sender's it is, unless that has
    /// too many.
    fn begin(&mut self, now: Instant, index: u32, datagram: &Datagram<'_>) -> Option<usize> {
        self.each_stream(now, index, |cx, stream| {
            // Nothing would be known of its end otherwise.
            if stream.is_ended_by(datagram) {
                stream.end(cx);
            }
        });
        let host = self.hosts.get(index as usize)?.as_ref()?;
        if host.streams.len() >= MAX_STREAMS {
            let n = host.least_of_streams(now)?;
            self.with_stream(now, index, n, |cx, stream| {
                if !stream.ended {
                    stream.end(cx);
                }
            });
            self.drop_stream(index, n);
        }
        let of = self.new_stream(index);
        self.queue.stats.streams += 1;
        let host = self.hosts.get_mut(index as usize)?.as_mut()?;
        let mut cx = Context {
            now,
            config: &self.config,
            queue: &mut self.queue,
            windows: self.windows,
        };
        let again = !host.streams.is_empty();
        let live = |stream: &Box<Stream>| !stream.ended && stream.is_proven();
        if datagram.session.is_none() && host.streams.iter().any(live) {
            // Only so it can take the place of another.
            host.path.want();
        }
        let stream = Stream::begin(&mut cx, of, datagram, again);
        self.windows += stream.bytes();
        host.streams.push(Box::new(stream));
        Some(host.streams.len() - 1)
    }

    /// Forgets a stream.
    fn drop_stream(&mut self, index: u32, n: usize) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let stream = host.streams.remove(n);
        host.last_output = host.last_output.max(stream.last_output());
        self.windows -= stream.bytes();
        self.moved.remove(&stream.id);
        if let Some(session) = stream.session {
            self.sessions.remove(&session);
        }
    }

    /// Puts a sender into the heap for the time at which it is due.
    fn schedule(&mut self, index: u32) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let changed = host.streams.iter_mut().fold(false, |any, stream| {
            let changed = stream.take_changed();
            any | changed
        });
        if host.due.is_some() && !changed {
            // A sender that is put off is found so when its earlier time has come.
            return;
        }
        let due = host.next(&self.config).min(host.heard + LOOK);
        if host.due.is_none_or(|old| due < old) {
            host.due = Some(due);
            self.heap.push(Reverse((due, index)));
        }
    }

    /// Returns the next record or event, in order and each once. To be called until there is none.
    pub fn next_output(&mut self) -> Option<Output<'_>> {
        if let Some(Item::Record(record)) = self.current.take() {
            self.queue.pool.give_back(record);
        }
        let item = &*self.current.insert(self.queue.pop()?);
        let source = match item {
            Item::Record(record) => record.source,
            Item::Event(queued) => queued.of.source,
        };
        // Who has something in the queue is not forgotten.
        let host = &self.hosts.get(source as usize)?.as_ref()?.addr;
        Some(match item {
            Item::Record(stored) => Output::Record(Record { stored, host }),
            Item::Event(queued) => Output::Event {
                stream: queued.of.stream,
                host: *host,
                session: queued.of.session,
                at: queued.at,
                event: queued.event,
            },
        })
    }

    /// Confirms that every reader of this record has it: it may be acknowledged, once all before it
    /// may.
    ///
    /// Records may be confirmed in any order and any number of times. Nothing happens if the stream
    /// is gone.
    pub fn confirm(&mut self, token: Token, now: Instant) {
        let Some((index, n)) = self.find_stream(token) else {
            return;
        };
        let changed = self.with_stream(now, index, n, |cx, stream| {
            stream.confirm(cx, token);
            stream.has_changed()
        });
        if changed == Some(true) {
            self.schedule(index);
        }
    }

    /// Returns where the stream of a token is by now: its sender, and which of that sender's it is.
    fn find_stream(&self, token: Token) -> Option<(u32, usize)> {
        let find = |index: u32| {
            let host = self.hosts.get(index as usize)?.as_ref()?;
            let is = |stream: &Box<Stream>| stream.id == token.stream;
            Some((index, host.streams.iter().position(is)?))
        };
        let moved = || find(*self.moved.get(&token.stream)?);
        find(token.source).or_else(moved)
    }

    /// Asks the sender again for records of this stream that were returned and are not confirmed,
    /// because someone lacks them who can take them now. They are returned as late ones; their
    /// former tokens mean nothing then. The stream is that of the token.
    pub fn ask_again(&mut self, token: Token, numbers: SeqRange, now: Instant) {
        if let Some((index, n)) = self.find_stream(token) {
            self.with_stream(now, index, n, |cx, stream| stream.ask_again(cx, numbers));
            self.schedule(index);
        }
    }

    /// Confirms all that [`Self::next_output`] has returned so far: it may be acknowledged.
    pub fn written(&mut self) {
        self.queue.set_written();
    }

    /// Does what is due. To be called by [`Self::deadline`].
    pub fn tick(&mut self, now: Instant) {
        while self.deadline().is_some_and(|due| due <= now) {
            self.look_at_next(now);
        }
    }

    /// Handles the sender that is due first.
    #[inline(never)] // Mostly none is due.
    fn look_at_next(&mut self, now: Instant) {
        let Some(Reverse((due, index))) = self.heap.pop() else {
            return;
        };
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        if host.due != Some(due) {
            // The sender has been handled earlier.
            return;
        }
        host.due = None;
        let forget = host.evicted || host.heard + self.config.forget <= now;
        if let Some(of) = host.texts_of {
            host.text.poll(&mut self.queue, of, now);
        }
        self.end_superseded(now, index);
        self.poll_streams(now, index);
        if !forget || !self.forget(index) {
            self.schedule_after(index, now);
        }
    }

    /// Ends the streams that others have taken the place of.
    fn end_superseded(&mut self, now: Instant, index: u32) {
        while let Some(n) = (self.hosts.get(index as usize))
            .and_then(Option::as_ref)
            .and_then(|host| host.superseded(now))
        {
            self.with_stream(now, index, n, |cx, stream| stream.end(cx));
        }
    }

    fn source(&mut self, index: u32) -> Option<&mut Source> {
        self.hosts.get_mut(index as usize)?.as_mut()
    }

    /// Has each stream say what is due: to this place, or to the one where it was before until this
    /// one has shown that it hears us.
    fn poll_streams(&mut self, now: Instant, index: u32) {
        let dialect = self.config.dialect;
        let Some(host) = self.source(index) else {
            return;
        };
        for (n, voice) in host.voices(now, dialect).into_iter().enumerate() {
            let home = match self.source(index) {
                Some(host) => host.streams[n].home.as_ref().map(|home| home.0),
                None => None,
            };
            let place = home.map_or(Some(index), |addr| self.by_addr.get(&addr).copied());
            let Some(place) = place else {
                // It is forgotten.
                if let Some(host) = self.source(index) {
                    host.streams[n].home = None;
                }
                continue;
            };
            let Some(host) = self.source(place) else {
                continue;
            };
            let (addr, mut path) = (host.addr, std::mem::take(&mut host.path));
            self.with_stream(now, index, n, |cx, stream| {
                stream.poll(cx, addr, &mut path, voice);
            });
            if let Some(host) = self.source(place) {
                host.path = path;
            }
        }
        self.challenge(now, index);
    }

    /// Asks a place to show that it hears us, if it is time.
    fn challenge(&mut self, now: Instant, index: u32) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let due = host.path.deadline().is_some_and(|due| due <= now);
        let Some(n) = host.last_heard().filter(|_| due) else {
            return;
        };
        let stream = &mut host.streams[n];
        let (session, settled) = (stream.session, stream.acknowledged());
        let among = stream.some_that_came();
        let (queue, config) = (&mut self.queue, &self.config);
        let asked = host.path.challenge(now, among, || queue.random(config));
        if asked.is_empty() {
            return;
        }
        let ack = match config.dialect {
            Dialect::Nca => None,
            Dialect::Ncrx => Some(settled.unwrap_or(0)),
        };
        response::write(config.dialect, ack, &asked, session, usize::MAX, |bytes| {
            if host
                .path
                .allows(now, &mut stream.credit, &queue.hasher, &bytes)
            {
                queue.respond(host.addr, bytes);
            }
        });
    }

    /// As [`Self::schedule`], but not for now again: what is due and cannot be done has to wait.
    fn schedule_after(&mut self, index: u32, now: Instant) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let soonest = match host.evicted {
            true => Duration::from_millis(100),
            false => Duration::from_millis(1),
        };
        let due = host.next(&self.config).clamp(now + soonest, now + LOOK);
        host.due = Some(due);
        self.heap.push(Reverse((due, index)));
    }

    /// Forgets a sender of which nothing is left to be returned or written.
    fn forget(&mut self, index: u32) -> bool {
        let Some(slot) = self.hosts.get_mut(index as usize) else {
            return true;
        };
        let Some(host) = slot else {
            return true;
        };
        if !host.is_taken(&self.queue) {
            return false;
        }
        for stream in &host.streams {
            self.windows -= stream.bytes();
            self.moved.remove(&stream.id);
            if let Some(session) = stream.session {
                self.sessions.remove(&session);
            }
        }
        if self.by_addr.get(&host.addr) == Some(&index) {
            self.by_addr.remove(&host.addr);
        }
        self.last = None;
        *slot = None;
        self.free.push(index);
        true
    }

    /// Returns the next response and its receiver. To be called until there is none.
    pub fn next_response(&mut self) -> Option<(SocketAddr, &[u8])> {
        let (to, bytes) = self.queue.response()?;
        self.response = bytes;
        Some((to, &self.response))
    }

    /// Returns when to call [`Self::tick`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((due, _))| due)
    }

    /// Returns all records that wait for others, since the receiver is about to end. Missing
    /// records are not acknowledged.
    pub fn stop(&mut self, now: Instant) {
        for index in 0..self.hosts.len() as u32 {
            self.each_stream(now, index, |cx, stream| stream.stop(cx));
            if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
                if let Some(of) = host.texts_of {
                    host.text.flush(&mut self.queue, of, now);
                }
            }
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Stats {
        &self.queue.stats
    }

    /// Returns the bytes that are kept of all senders, to be put in order or returned.
    pub fn bytes(&self) -> usize {
        self.windows + self.queue.bytes()
    }

    /// The streams of all senders that have numbered records, but for those that have ended.
    pub fn senders(&self) -> impl Iterator<Item = Sender> + '_ {
        let hosts = self.hosts.iter().flatten().filter(|host| !host.evicted);
        let streams = hosts.flat_map(|host| host.streams.iter().map(move |stream| (host, stream)));
        let live = streams.filter(|(_, stream)| !stream.ended);
        live.map(|(host, stream)| stream.describe(host.addr, &self.queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_does_not_grow() {
        let mut receiver = Receiver::new(Config::default());
        let mut now = Instant::now();
        for seq in 0..1000 {
            let datagram = format!("6,{seq},{seq},-;");
            let from = ([10, 0, 0, 2], 6665).into();
            receiver.feed(now, from, datagram.as_bytes()).unwrap();
            let end = now + Duration::from_secs(30);
            while now < end {
                while receiver.next_output().is_some() {}
                receiver.written();
                receiver.tick(now);
                now = receiver.deadline().unwrap_or(end).clamp(now, end);
            }
        }
        assert!(receiver.heap.len() < 20, "{}", receiver.heap.len());
    }
}
