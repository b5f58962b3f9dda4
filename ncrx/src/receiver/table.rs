// SPDX-License-Identifier: GPL-2.0

//! The table of senders and their streams, and the choice of those that make room for others.

use std::net::SocketAddr;
use std::time::Instant;

use super::Receiver;
use crate::datagram::Rejected;
use crate::queue::Of;
use crate::record::{Standing, StreamId};
use crate::source::Source;
use crate::stream::{Context, Stream, Token};

/// The number of senders that are looked at to find one that has proven nothing.
const CANDIDATES: usize = 64;

impl Receiver {
    /// Returns the index of a sender that is known, and notes that it was heard.
    #[inline]
    pub(super) fn known(&mut self, now: Instant, addr: SocketAddr, came: bool) -> Option<u32> {
        // Datagrams of one sender mostly come together.
        let known = match self.last {
            Some((last, index)) if last == addr => Some(index),
            _ => {
                let known = self.by_addr.get(&addr).copied();
                self.last = known.map(|index| (addr, index));
                known
            }
        };
        let index = known?;
        if let Some(Some(host)) = self.hosts.get_mut(index as usize) {
            host.heard = now;
            if came {
                host.path.hear(now);
            }
            host.datagrams = host.datagrams.saturating_add(1);
        }
        Some(index)
    }

    /// Adds a sender that is new; returns its index.
    #[inline(never)] // So that the fast path is short.
    pub(super) fn add_host(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        came: bool,
    ) -> Result<u32, Rejected> {
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

    /// Makes room for another sender: the first that came of those that have proven nothing is
    /// forgotten, once its records are handed out.
    pub(super) fn evict(&mut self, now: Instant) -> bool {
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

    pub(super) fn new_stream(&mut self, source: u32) -> Of {
        self.streams = self.streams.wrapping_add(1);
        Of {
            stream: StreamId(self.streams),
            source,
            session: None,
            standing: Standing::Stranger,
        }
    }

    /// Does something with each of a sender's streams.
    pub(super) fn each_stream(
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

    /// Calls `f` with a sender's stream, if it has one, and accounts for its memory.
    pub(super) fn with_stream<T>(
        &mut self,
        now: Instant,
        index: u32,
        n: usize,
        act: impl FnOnce(&mut Context<'_>, &mut Stream) -> T,
    ) -> Option<T> {
        let host = self.hosts.get_mut(index as usize)?.as_mut()?;
        let stream = host.streams.get_mut(n)?;
        let others = self.windows - stream.bytes();
        let mut cx = Context::new(now, &self.config, &mut self.queue, others);
        let result = act(&mut cx, stream);
        self.windows = others + stream.bytes();
        Some(result)
    }

    pub(super) fn source(&mut self, index: u32) -> Option<&mut Source> {
        self.hosts.get_mut(index as usize)?.as_mut()
    }

    /// Returns where the stream of a token is by now: its sender, and which of that sender's it is.
    pub(super) fn find_stream(&self, token: Token) -> Option<(u32, usize)> {
        let find = |index: u32| {
            let host = self.hosts.get(index as usize)?.as_ref()?;
            let is = |stream: &Box<Stream>| stream.id == token.stream;
            Some((index, host.streams.iter().position(is)?))
        };
        let moved = || find(*self.moved.get(&token.stream)?);
        find(token.source).or_else(moved)
    }

    /// Returns the stream of a token.
    pub(super) fn stream(&self, token: Token) -> Option<&Stream> {
        let (index, n) = self.find_stream(token)?;
        let host = self.hosts.get(index as usize)?.as_ref()?;
        host.streams.get(n).map(|stream| &**stream)
    }

    /// Forgets a stream.
    pub(super) fn drop_stream(&mut self, index: u32, n: usize) {
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

    /// Forgets a sender of which nothing is left to be returned or written.
    pub(super) fn forget(&mut self, index: u32) -> bool {
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
}
