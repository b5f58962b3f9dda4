// SPDX-License-Identifier: GPL-2.0

//! All senders: datagrams in, records and responses out.

mod intake;
mod table;
mod timers;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use crate::config::Config;
use crate::datagram::Rejected;
use crate::queue::{Item, Queue};
use crate::record::{Output, Record, SeqRange, Session, Standing, StreamId};
use crate::resume::Resume;
use crate::source::{Source, MAX_STREAMS};
use crate::stats::{Sender, Stats};
use crate::stream::{Stream, Token};

/// Receives datagrams of any number of senders, and returns their records in order.
///
/// The caller drives everything, in this order:
///
/// 1. [`Self::feed`] all datagrams that are there;
/// 2. take all from [`Self::next_output`], write it, and report that by [`Self::written`];
/// 3. [`Self::tick`], and send all from [`Self::next_response`];
/// 4. wait until more comes, or until [`Self::deadline`].
///
/// The time should not go backwards, and need not be the real one.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    by_addr: HashMap<SocketAddr, u32, foldhash::fast::RandomState>,
    /// The sender of the last look-up.
    last: Option<(SocketAddr, u32)>,
    hosts: Vec<Option<Source>>,
    free: Vec<u32>,
    /// The senders of the stream of each session, and of the streams that have moved.
    sessions: HashMap<Session, u32, foldhash::fast::RandomState>,
    moved: HashMap<StreamId, u32, foldhash::fast::RandomState>,
    /// All senders, in the order in which they came or were last seen to be worth keeping.
    by_age: VecDeque<(u32, SocketAddr)>,
    /// The senders by the time at which they are to be looked at.
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
        let index = match self.known(now, host, false) {
            Some(index) => index,
            None => match self.add_host(now, host, false) {
                Ok(index) => index,
                Err(_) => return,
            },
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

    /// Returns the next record or event, in order and each once. To be called until there is none.
    #[inline] // Once for each record.
    pub fn next_output(&mut self) -> Option<Output<'_>> {
        if let Some(Item::Record(record)) = self.current.take() {
            self.queue.pool.give_back(record);
        }
        let item = &*self.current.insert(self.queue.pop()?);
        let source = match item {
            Item::Record(record) => record.source,
            Item::Event(queued) => queued.of.source,
        };
        // A sender that has something in the queue is not forgotten.
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

    /// Takes note that some reader does not have this record: it has to come again before it can be
    /// acknowledged, and this token is void. Nothing happens if the record is confirmed already, or
    /// the stream is gone.
    pub fn refuse(&mut self, token: Token) {
        if let Some((index, n)) = self.find_stream(token) {
            if let Some(host) = self.source(index) {
                host.streams[n].refuse(token);
            }
        }
    }

    /// Asks the sender again for records of this stream that were [refused](Self::refuse), because
    /// a reader that could not take them can now. They are returned as late ones. The stream is
    /// that of the token.
    pub fn ask_again(&mut self, token: Token, numbers: SeqRange, now: Instant) {
        if let Some((index, n)) = self.find_stream(token) {
            self.with_stream(now, index, n, |cx, stream| stream.ask_again(cx, numbers));
            self.schedule(index);
        }
    }

    /// Returns whether the records of this stream that were returned may come again if they are
    /// [asked for](Self::ask_again): its sender goes on with it, and has not shown that it never
    /// answers.
    pub fn may_send_again(&self, token: Token, now: Instant) -> bool {
        let stream = self.stream(token);
        stream.is_some_and(|stream| stream.may_send_again(now, &self.config))
    }

    /// Returns whether the sender is still asked for some of these records, which it was [asked for
    /// again](Self::ask_again). If not, they have come, or never will.
    pub fn is_asked_again(&self, token: Token, numbers: SeqRange) -> bool {
        let stream = self.stream(token);
        stream.is_some_and(|stream| stream.is_asked_again(numbers))
    }

    /// Gives up records of this stream that were returned: they count as confirmed. Returns the
    /// sender and the session, for a report; [`None`] if the stream is gone.
    pub fn give_up(
        &mut self,
        token: Token,
        numbers: SeqRange,
        now: Instant,
    ) -> Option<(SocketAddr, Option<Session>)> {
        let (index, n) = self.find_stream(token)?;
        let session = self.with_stream(now, index, n, |cx, stream| {
            stream.give_up(cx, numbers);
            stream.session
        })?;
        self.schedule(index);
        Some((self.source(index)?.addr, session))
    }

    /// Returns the evidence, by now, that the stream of this record is what it seems. If it has not
    /// proven itself, its sender is asked to show that it hears the receiver: to be called when
    /// something hangs on that.
    pub fn validate(&mut self, token: Token, now: Instant) -> Standing {
        let Some((index, n)) = self.find_stream(token) else {
            return Standing::Stranger;
        };
        let standing = self.with_stream(now, index, n, |_, stream| {
            stream.look_anew();
            stream.standing()
        });
        let standing = standing.unwrap_or(Standing::Stranger);
        if standing != Standing::Proven {
            if let Some(host) = self.source(index) {
                host.path.want();
            }
            self.schedule(index);
        }
        standing
    }

    /// Confirms all outputs of [`Self::next_output`] so far: they may be acknowledged.
    pub fn written(&mut self) {
        self.queue.set_written();
    }

    /// Does the work that is due. To be called at [`Self::deadline`].
    pub fn tick(&mut self, now: Instant) {
        while self.deadline().is_some_and(|due| due <= now) {
            self.look_at_next(now);
        }
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
    use std::time::Duration;

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
