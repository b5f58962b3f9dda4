// SPDX-License-Identifier: GPL-2.0

//! All senders: datagrams in, records and responses out, and the heap of what is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::datagram::{Datagram, Message, Rejected};
use crate::queue::{Item, Queue};
use crate::record::{Output, Record, Session, StreamId};
use crate::stats::{Resume, Sender, Stats};
use crate::stream::{Context, Fit, Former, Stream, Token};
use crate::text::Texts;

/// The most ended streams of a sender that are remembered: the network may still bring records of
/// them.
const FORMER: usize = 4;

/// The longest time from one look at a sender to the next. Without it, senders that are put off
/// again and again would fill the heap with the times at which they are to be forgotten.
const LOOK: Duration = Duration::from_secs(60);

/// A sender.
#[derive(Debug)]
struct Host {
    addr: SocketAddr,
    heard: Instant,
    stream: Option<Box<Stream>>,
    former: Vec<Former>,
    /// What has come that is no record.
    text: Texts,
    /// When it is next looked at, if that is in the heap.
    due: Option<Instant>,
}

impl Host {
    /// Returns when there is something to do for the sender, if only to forget it.
    fn next(&self, config: &Config) -> Instant {
        let forget = self.heard + config.forget;
        let deadline = self
            .stream
            .as_ref()
            .and_then(|stream| stream.deadline(config));
        [deadline, self.text.deadline()]
            .into_iter()
            .flatten()
            .fold(forget, Instant::min)
    }
}

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
    hosts: Vec<Option<Host>>,
    free: Vec<u32>,
    /// The times at which senders are due.
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
            heap: BinaryHeap::new(),
            windows: 0,
            streams: 0,
            current: None,
            response: Vec::new(),
            #[cfg(test)]
            takes_short_way: true,
        }
    }

    /// Goes on where another receiver stopped. To be called before any datagram of this sender is
    /// fed; ignored after.
    pub fn resume(&mut self, now: Instant, host: SocketAddr, from: Resume) {
        let Ok(index) = self.host(now, host) else {
            return;
        };
        let id = self.new_id(index);
        if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
            if host.stream.is_none() {
                let stream = Stream::resume(id, now, from, &self.config);
                self.windows += stream.bytes();
                host.stream = Some(Box::new(stream));
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
        let index = self.host(now, from)?;
        let result = match message {
            Message::Record if self.take_plain(now, index, &datagram) => return Ok(()),
            Message::Record => self.take_record(now, index, &datagram),
            Message::Text => self.take_text(now, index, bytes),
            Message::Empty => {
                self.queue.stats.keepalives += 1;
                self.with_stream(now, index, |cx, stream| stream.hear(cx));
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
        let Some(stream) = host.stream.as_deref_mut() else {
            return false;
        };
        let former = datagram.session.is_none() && !host.former.is_empty();
        if former || !datagram.is_plain() || self.queue.is_full(&self.config) {
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
    fn host(&mut self, now: Instant, addr: SocketAddr) -> Result<u32, Rejected> {
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
            }
            return Ok(index);
        }
        if self.by_addr.len() >= self.config.max_hosts {
            return Err(Rejected::TooManySenders);
        }
        let host = Some(Host {
            addr,
            heard: now,
            stream: None,
            former: Vec::new(),
            text: Texts::default(),
            due: None,
        });
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
        Ok(index)
    }

    fn new_id(&mut self, host: u32) -> StreamId {
        self.streams = self.streams.wrapping_add(1);
        let nth = self.streams;
        StreamId { host, nth }
    }

    /// Calls `f` with a sender's stream, if it has one, and accounts for its memory.
    fn with_stream<T>(
        &mut self,
        now: Instant,
        index: u32,
        act: impl FnOnce(&mut Context<'_>, &mut Stream) -> T,
    ) -> Option<T> {
        let host = self.hosts.get_mut(index as usize)?.as_mut()?;
        let stream = host.stream.as_deref_mut()?;
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
        self.with_stream(now, index, |cx, stream| stream.hear(cx));
        if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
            host.text.take(&mut self.queue, index, now, text);
        }
        Ok(())
    }

    fn take_record(
        &mut self,
        now: Instant,
        index: u32,
        datagram: &Datagram<'_>,
    ) -> Result<(), Rejected> {
        match self.whose(now, index, datagram) {
            Whose::Current => {}
            Whose::Former(n) => {
                let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
                    return Ok(());
                };
                return host.former[n].take(&self.config, &mut self.queue, now, datagram);
            }
            Whose::New if self.queue.is_full(&self.config) => {
                return Err(Rejected::NoMemory(datagram.seq));
            }
            Whose::New => self.begin(now, index, datagram),
            Whose::Unknown => {
                self.queue.stats.duplicates += 1;
                self.with_stream(now, index, |cx, stream| stream.hear(cx));
                return Ok(());
            }
        }
        let taken = self.with_stream(now, index, |cx, stream| {
            if let (None, Some(session)) = (stream.session, datagram.session) {
                stream.adopt(now, Session(session), cx.config);
            }
            stream.take(cx, datagram)
        });
        taken.unwrap_or(Ok(()))
    }

    /// Returns the stream that a record belongs to.
    fn whose(&self, now: Instant, index: u32, datagram: &Datagram<'_>) -> Whose {
        let Some(Some(host)) = self.hosts.get(index as usize) else {
            return Whose::New;
        };
        let Some(stream) = &host.stream else {
            return Whose::New;
        };
        let session = datagram.session.map(Session);
        if session.is_some() {
            if session == stream.session {
                return Whose::Current;
            }
            if let Some(n) = host
                .former
                .iter()
                .position(|former| former.session == session)
            {
                return Whose::Former(n);
            }
            if stream.session.is_some() {
                return Whose::New;
            }
        } else if let Some(n) = host
            .former
            .iter()
            .position(|former| former.claims(now, datagram, stream))
        {
            return Whose::Former(n);
        }
        match stream.fits(now, datagram) {
            Fit::Yes => Whose::Current,
            // A possible copy is no reason to believe that the session is this stream's.
            Fit::Copy if session.is_some() => Whose::Unknown,
            Fit::Copy => Whose::Current,
            Fit::Unknown => Whose::Unknown,
            Fit::No => Whose::New,
        }
    }

    /// Begins a new stream with this record; the one before it ends.
    fn begin(&mut self, now: Instant, index: u32, datagram: &Datagram<'_>) {
        let id = self.new_id(index);
        self.queue.stats.streams += 1;
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let ended = host.stream.take();
        self.windows -= ended.as_ref().map_or(0, |stream| stream.bytes());
        let mut cx = Context {
            now,
            config: &self.config,
            queue: &mut self.queue,
            windows: self.windows,
        };
        let again = ended.is_some();
        if let Some(stream) = ended {
            if host.former.len() == FORMER {
                host.former.remove(0);
            }
            host.former.push(stream.end(&mut cx));
        }
        let stream = Stream::begin(&mut cx, id, datagram, again);
        self.windows += stream.bytes();
        host.stream = Some(Box::new(stream));
    }

    /// Puts a sender into the heap for the time at which it is due.
    fn schedule(&mut self, index: u32) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let changed = host.stream.as_deref_mut().is_some_and(Stream::take_changed);
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
        let stream = match item {
            Item::Record(record) => record.stream,
            Item::Event(told) => told.stream,
        };
        // A sender with outputs in the queue is not forgotten.
        let host = &self.hosts.get(stream.host as usize)?.as_ref()?.addr;
        Some(match item {
            Item::Record(stored) => Output::Record(Record { stored, host }),
            Item::Event(told) => Output::Event {
                stream,
                host: *host,
                session: told.session,
                at: told.at,
                event: told.event,
            },
        })
    }

    /// Confirms that every reader of this record has it: it may be acknowledged, once all before it
    /// may.
    ///
    /// Records may be confirmed in any order and any number of times. Nothing happens if the stream
    /// is gone.
    pub fn confirm(&mut self, token: Token, now: Instant) {
        let index = token.stream.host;
        let confirmed = self.with_stream(now, index, |cx, stream| {
            let same = stream.id == token.stream;
            if same {
                stream.confirm(cx, token);
            }
            same && stream.has_changed()
        });
        if confirmed == Some(true) {
            self.schedule(index);
        }
    }

    /// Asks the sender again for records of this stream that were returned and are not confirmed,
    /// because someone lacks them who can take them now. They are returned as late ones; their
    /// former tokens mean nothing then. The stream is that of the token.
    pub fn ask_again(&mut self, token: Token, numbers: SeqRange, now: Instant) {
        let index = token.stream.host;
        self.with_stream(now, index, |cx, stream| {
            if stream.id == token.stream {
                stream.ask_again(cx, numbers);
            }
        });
        self.schedule(index);
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
        let (addr, forget) = (host.addr, host.heard + self.config.forget <= now);
        host.text.poll(&mut self.queue, index, now);
        self.with_stream(now, index, |cx, stream| stream.poll(cx, addr));
        if !forget || !self.forget(index) {
            self.schedule_after(index, now);
        }
    }

    /// As [`Self::schedule`], but later than now: what is due and cannot be done has to wait.
    fn schedule_after(&mut self, index: u32, now: Instant) {
        let Some(Some(host)) = self.hosts.get_mut(index as usize) else {
            return;
        };
        let due = host
            .next(&self.config)
            .clamp(now + Duration::from_millis(1), now + LOOK);
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
        let taken = self.queue.taken();
        let stream = host
            .stream
            .as_ref()
            .is_none_or(|stream| stream.is_confirmed(&self.queue));
        let former = host.former.iter().all(|former| former.last_output <= taken);
        if !stream || !former || host.text.last_output() > taken {
            return false;
        }
        self.windows -= host.stream.as_ref().map_or(0, |stream| stream.bytes());
        self.by_addr.remove(&host.addr);
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
            self.with_stream(now, index, |cx, stream| stream.stop(cx));
            if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
                host.text.flush(&mut self.queue, index, now);
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

    /// Returns all senders with numbered records.
    pub fn senders(&self) -> impl Iterator<Item = Sender> + '_ {
        let hosts = self.hosts.iter().flatten();
        hosts.filter_map(|host| Some(host.stream.as_ref()?.describe(host.addr, &self.queue)))
    }
}

/// The stream that a record belongs to.
enum Whose {
    Current,
    Former(usize),
    New,
    Unknown,
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
