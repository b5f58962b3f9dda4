// SPDX-License-Identifier: GPL-2.0

//! Intake: which stream of which sender a datagram is of.

use std::net::SocketAddr;
use std::time::Instant;

use super::Receiver;
use crate::datagram::{Datagram, Message, Rejected};
use crate::source::{Source, Whose, MAX_STREAMS};
use crate::stream::{Context, Stream, Verdict};

impl Receiver {
    pub(super) fn take(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Rejected> {
        let mut datagram = Datagram::new(bytes);
        let message = datagram.read().unwrap_or_else(|bad| {
            // It is no record, and is not lost even so.
            self.queue.stats.reject(bad);
            Message::Text
        });
        if message == Message::Empty && !self.by_addr.contains_key(&from) {
            // A sender of empty datagrams only is not remembered.
            self.queue.stats.keepalives += 1;
            return Ok(());
        }
        let index = match self.known(now, from, true) {
            Some(index) => index,
            None => self.add_host(now, from, true)?,
        };
        if message == Message::Record && self.take_plain(now, index, &datagram) {
            return Ok(());
        }
        self.take_long_way(now, index, message, datagram, bytes)
    }

    /// Takes any datagram of this sender.
    #[inline(never)] // So that the fast path is short.
    fn take_long_way(
        &mut self,
        now: Instant,
        index: u32,
        message: Message,
        datagram: Datagram<'_>,
        bytes: &[u8],
    ) -> Result<(), Rejected> {
        let result = match message {
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
    #[inline(always)] // Into the fast path.
    pub(super) fn take_plain(&mut self, now: Instant, index: u32, datagram: &Datagram<'_>) -> bool {
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
        let challenged = host.path.is_challenged(now);
        if !datagram.is_plain() || challenged || self.queue.is_full(&self.config) {
            return false;
        }
        let stream = &mut *host.streams[n];
        // As in `with_stream`, but the sender is here already.
        let others = self.windows - stream.bytes();
        let mut cx = Context::new(now, &self.config, &mut self.queue, others);
        let taken = stream.take_plain(&mut cx, datagram);
        self.windows = others + stream.bytes();
        if taken && (host.due.is_none() || stream.has_changed()) {
            self.schedule(index);
        }
        taken
    }

    pub(super) fn take_text(
        &mut self,
        now: Instant,
        index: u32,
        text: &[u8],
    ) -> Result<(), Rejected> {
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

    pub(super) fn take_record(
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

    /// Takes a datagram of a place that has to show that it hears us.
    pub(super) fn take_answer(
        &mut self,
        now: Instant,
        index: u32,
        n: usize,
        datagram: &Datagram<'_>,
    ) {
        let Some(host) = self
            .source(index)
            .filter(|host| host.path.is_challenged(now))
        else {
            return;
        };
        let Some(stream) = host.streams.get_mut(n) else {
            return;
        };
        // Emergency transmission is no answer. A record that marks others as lost answers only for
        // those.
        let answers = match datagram.lost {
            _ if datagram.emergency => return,
            Some(lost) if lost.last - lost.first < 64 => lost.first..=lost.last,
            Some(_) => return,
            None => datagram.seq..=datagram.seq,
        };
        for seq in answers {
            if host.path.answer(seq, stream.session.is_some()) {
                (stream.proven, stream.home) = (true, None);
            }
        }
    }

    /// Returns the stream that a record belongs to.
    pub(super) fn whose(&self, now: Instant, index: u32, datagram: &Datagram<'_>) -> Whose {
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
        let whose = host.judge(now, datagram);
        match whose {
            Whose::New | Whose::Unclear if datagram.session.is_none() => {
                self.of_one_away(now, host, datagram).unwrap_or(whose)
            }
            _ => whose,
        }
    }

    /// Returns the stream that a record which names no session is of, if that has moved away from
    /// its sender to a place that has not shown yet that it hears us.
    fn of_one_away(&self, now: Instant, host: &Source, datagram: &Datagram<'_>) -> Option<Whose> {
        host.away.iter().find_map(|id| {
            let other = *self.moved.get(id)?;
            let source = self.hosts.get(other as usize)?.as_ref()?;
            let n = source.streams.iter().position(|stream| stream.id == *id)?;
            let stream = &source.streams[n];
            let is_its_home = stream.home.as_ref().is_some_and(|home| home.0 == host.addr);
            let verdict = stream.judge(now, datagram, false);
            let is_of_it = matches!(verdict, Verdict::Member | Verdict::Copy | Verdict::Likely);
            (is_its_home && is_of_it).then_some(Whose::Elsewhere(other, n))
        })
    }

    /// A record of a stream that is another sender's comes from this one. One with a new number
    /// moves the stream. Returns where the stream is then.
    pub(super) fn move_stream(
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
        source.away.retain(|id| *id != stream.id);
        source.away.truncate(MAX_STREAMS - 1);
        source.away.insert(0, stream.id);
        source.last_output = source.last_output.max(stream.last_output());
        stream.source = index;
        let credit = std::mem::take(&mut stream.credit);
        let home = (stream.home).get_or_insert_with(|| Box::new((source.addr, credit)));
        let home = home.0;
        self.moved.insert(stream.id, index);
        if let Some(session) = stream.session {
            self.sessions.insert(session, index);
        }
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
    pub(super) fn begin(
        &mut self,
        now: Instant,
        index: u32,
        datagram: &Datagram<'_>,
    ) -> Option<usize> {
        self.each_stream(now, index, |cx, stream| {
            // Nothing would be known of its end otherwise.
            if stream.is_ended_by(datagram) {
                stream.end(cx);
            }
        });
        let host = self.hosts.get(index as usize)?.as_ref()?;
        if host.streams.len() >= MAX_STREAMS {
            match host.least_of_streams(now) {
                Some(n) => self.evict_stream(now, index, n),
                // Once this one has shown that it hears us, the next takes the place of another.
                None => self.source(index)?.path.want(),
            }
        }
        let of = self.new_stream(index);
        self.queue.stats.streams += 1;
        let mut repeats: Vec<Box<[u8]>> = Vec::new();
        if datagram.session.is_none() {
            self.each_stream(now, index, |_, stream| {
                repeats.extend(stream.take_repeats(now, datagram));
            });
        }
        let repeats = repeats.iter().map(|bytes| {
            let mut datagram = Datagram::new(bytes);
            // They could be read before.
            let _ = datagram.read();
            datagram
        });
        let repeats: Vec<_> = repeats.collect();
        self.queue.stats.duplicates -= repeats.len() as u64;
        let host = self.hosts.get_mut(index as usize)?.as_mut()?;
        let mut cx = Context::new(now, &self.config, &mut self.queue, self.windows);
        let again = !host.streams.is_empty();
        let live = |stream: &Box<Stream>| !stream.ended && stream.is_proven();
        if datagram.session.is_none() && host.streams.iter().any(live) {
            // Only so it can take the place of another.
            host.path.want();
        }
        let first = repeats.first().unwrap_or(datagram);
        let mut stream = Stream::begin(&mut cx, of, first, again);
        for repeat in &repeats {
            // A record that finds no room is missing.
            let _ = stream.take(&mut cx, repeat);
        }
        self.windows += stream.bytes();
        host.streams.push(Box::new(stream));
        Some(host.streams.len() - 1)
    }

    /// Ends a stream and forgets it, to make room for another.
    fn evict_stream(&mut self, now: Instant, index: u32, n: usize) {
        self.with_stream(now, index, n, |cx, stream| {
            if !stream.ended {
                stream.end(cx);
            }
        });
        self.queue.stats.evicted_streams += 1;
        self.drop_stream(index, n);
    }

    /// Something came of a sender that is of no stream: it shows that the one is there that was
    /// heard last.
    pub(super) fn hear(&mut self, now: Instant, index: u32) {
        let host = self.hosts.get(index as usize).and_then(Option::as_ref);
        if let Some(n) = host.and_then(Source::last_heard) {
            self.with_stream(now, index, n, |cx, stream| stream.hear(cx));
        }
    }
}
