// SPDX-License-Identifier: GPL-2.0

//! One sender, an address and a port: its streams side by side, and its texts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::datagram::Datagram;
use crate::path::Path;
use crate::proto::wire::Dialect;
use crate::queue::{Of, Queue};
use crate::record::{Session, StreamId};
use crate::stream::restart::COPIES;
use crate::stream::{Stream, Verdict, Voice};
use crate::text::Texts;

/// The most streams of one sender: several programs and loads may share a port, and some starts of
/// the log be remembered. One more may come, to show that it hears us.
pub(crate) const MAX_STREAMS: usize = 8;

/// The number of datagrams, and the time, from which on a sender is worth keeping although it has
/// proven nothing.
const ESTABLISHED: (u32, Duration) = (10, Duration::from_secs(60));

/// The stream of a record.
pub(crate) enum Whose {
    /// This one of its sender's.
    Stream(usize),
    /// One of another sender.
    Elsewhere(u32, usize),
    /// None that is known.
    New,
    /// Nothing tells.
    Unclear,
}

/// A sender.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) addr: SocketAddr,
    began: Instant,
    pub(crate) heard: Instant,
    pub(crate) datagrams: u32,
    pub(crate) path: Path,
    /// Those that have ended as well, since they may go on.
    pub(crate) streams: Vec<Box<Stream>>,
    /// Its streams that have moved to places that have not shown yet that they hear us. Some may be
    /// back.
    pub(crate) away: Vec<StreamId>,
    /// The texts, which are no records, and their stream.
    pub(crate) text: Texts,
    pub(crate) texts_of: Option<Of>,
    /// The number of the last output of streams that are forgotten.
    pub(crate) last_output: u64,
    /// Whether it had to make room for another.
    pub(crate) evicted: bool,
    /// The time of its entry in the heap, if it has one.
    pub(crate) due: Option<Instant>,
}

impl Source {
    pub(crate) fn new(addr: SocketAddr, now: Instant) -> Self {
        Self {
            addr,
            began: now,
            heard: now,
            datagrams: 0,
            path: Path::default(),
            streams: Vec::new(),
            away: Vec::new(),
            text: Texts::default(),
            texts_of: None,
            last_output: 0,
            evicted: false,
            due: None,
        }
    }

    /// The stream with this session, or the one without.
    pub(crate) fn find(&self, session: Option<Session>) -> Option<usize> {
        let is = |stream: &Box<Stream>| stream.session == session;
        self.streams.iter().position(is)
    }

    /// The stream that was heard last.
    pub(crate) fn last_heard(&self) -> Option<usize> {
        let streams = self.streams.iter().enumerate();
        let last = streams.max_by_key(|(_, stream)| (!stream.ended, stream.heard));
        last.map(|(n, _)| n)
    }

    /// Decides on the stream of a record that names no session, or one that no stream has: see
    /// `docs/streams.md`.
    pub(crate) fn judge(&self, now: Instant, datagram: &Datagram<'_>) -> Whose {
        let named = datagram.session.is_some();
        let (mut nearest, mut copy, mut unclear) = (None, None, false);
        // The sender takes the requests of any of its streams as meant for it.
        let others = self.streams.len() > 1
            && (self.streams.iter()).any(|stream| stream.was_asked(now, datagram.seq));
        let asked = others || self.path.was_asked(now, datagram.seq);
        for (n, stream) in self.streams.iter().enumerate() {
            if named && stream.session.is_some() {
                continue;
            }
            match stream.judge(now, datagram, asked) {
                Verdict::Member | Verdict::Likely => {
                    let this = (stream.distance(now, datagram), stream.ended, n);
                    nearest = Some(nearest.map_or(this, |best| this.min(best)));
                }
                // Early in a boot many records have no timestamp, and are the same in each.
                Verdict::Copy if datagram.usec > 0 => return Whose::Stream(n),
                Verdict::Copy => copy = Some(n),
                Verdict::Unclear => unclear = true,
                Verdict::Other => {}
            }
        }
        match (nearest, copy) {
            (Some((_, _, n)), _) | (None, Some(n)) => Whose::Stream(n),
            (None, None) if unclear => Whose::Unclear,
            (None, None) => Whose::New,
        }
    }

    /// Returns the responses that a stream may send: all if it has a session, for they name it; of
    /// the streams without one, only the one that was heard last may. While others have sessions,
    /// or another one has proven itself or was heard of late, it acknowledges no more than they do:
    /// their senders might take an ack for theirs.
    pub(crate) fn voice(&self, now: Instant, dialect: Dialect, of: usize) -> Voice {
        match &self.streams[..] {
            // Mostly there is one.
            [stream] if !stream.ended => Voice::Full,
            _ => self.voices(now, dialect)[of],
        }
    }

    fn voices(&self, now: Instant, dialect: Dialect) -> Vec<Voice> {
        let live = |stream: &Stream| !stream.ended;
        // The other dialect's responses name none.
        let named = |stream: &Stream| stream.session.is_some() && dialect == Dialect::Nca;
        let any = (self.streams.iter()).any(|stream| live(stream) && named(stream));
        let plain = |stream: &Stream| live(stream) && !named(stream);
        let plain = self.streams.iter().enumerate().filter(|(_, s)| plain(s));
        let proven = plain.clone().any(|(_, stream)| stream.is_proven());
        let first = plain.clone().max_by_key(|(n, stream)| (stream.heard, *n));
        let lately = |stream: &Stream| now < stream.heard + COPIES;
        let two = plain.filter(|(_, stream)| lately(stream)).nth(1).is_some();
        let doubt = two || first.is_some_and(|(_, stream)| proven && !stream.is_proven());
        let first = first.map(|(n, _)| n);
        let voice = |(n, stream): (usize, &Box<Stream>)| match named(stream) {
            _ if stream.ended => Voice::None,
            true => Voice::Full,
            false if first != Some(n) => Voice::None,
            false if any || doubt => Voice::UpTo(self.least_acknowledged(now, n)),
            false => Voice::Full,
        };
        self.streams.iter().enumerate().map(voice).collect()
    }

    /// Returns the lowest ack of all others; none while one of them is heard.
    fn least_acknowledged(&self, now: Instant, but: usize) -> Option<u64> {
        let all = self.streams.iter().enumerate();
        let others = all.filter(|(n, stream)| *n != but && !stream.ended);
        let acknowledged = |stream: &Stream| match now < stream.heard + COPIES {
            true => None,
            false => stream.acknowledged(),
        };
        let least = others.map(|(_, stream)| acknowledged(stream)).min();
        least.flatten()
    }

    /// A stream that another one has taken the place of: that was heard for long after this one,
    /// and has proven itself if this one has.
    pub(crate) fn superseded(&self, now: Instant) -> Option<usize> {
        let by = |old: &Stream, new: &Stream| {
            !new.ended
                && new.began > old.heard
                && new.heard >= old.heard + COPIES
                && (new.has_shown() || !old.is_proven() && old.session.is_none())
        };
        let is = |old: &Box<Stream>| {
            !old.ended && now >= old.heard + COPIES && self.streams.iter().any(|new| by(old, new))
        };
        self.streams.iter().position(is)
    }

    /// Returns the stream that is missed least: one that has ended, else one that has shown
    /// nothing, or only that it keeps a session, and of those the one of which least has come; else
    /// the one that has been silent for longest. None if all have shown that they hear us, and are
    /// busy, and no more than a sender may have.
    pub(crate) fn least_of_streams(&self, now: Instant) -> Option<usize> {
        let worth = |stream: &Stream| {
            (
                !stream.ended,
                stream.proven,
                stream.has_shown(),
                if stream.proven { 0 } else { stream.datagrams() },
                stream.heard,
            )
        };
        let all = self.streams.iter().enumerate();
        let (n, least) = all.clone().min_by_key(|(_, stream)| worth(stream))?;
        let busy = least.proven && !least.ended && now < least.heard + COPIES;
        (!busy || all.len() > MAX_STREAMS).then_some(n)
    }

    /// Returns whether it is worth keeping when there is no room for others. Naming a session is
    /// nothing.
    pub(crate) fn is_established(&self) -> bool {
        let (datagrams, time) = ESTABLISHED;
        self.streams.iter().any(|stream| stream.has_shown())
            || self.datagrams >= datagrams && self.heard >= self.began + time
    }

    /// Returns whether nothing of it is left to be handed out or confirmed.
    pub(crate) fn is_taken(&self, queue: &Queue) -> bool {
        let taken = queue.taken();
        let last = self.last_output.max(self.text.last_output());
        let confirmed = |stream: &Box<Stream>| match stream.ended {
            true => stream.last_output() <= taken,
            false => stream.is_confirmed(queue),
        };
        last <= taken && self.streams.iter().all(confirmed)
    }

    /// Returns when there is something to do for it, if only to forget it.
    pub(crate) fn next(&self, config: &Config) -> Instant {
        let forget = match self.evicted {
            true => self.heard,
            false => self.heard + config.forget,
        };
        let streams = self.streams.iter().filter(|stream| !stream.ended);
        let due = streams.filter_map(|stream| stream.deadline(config));
        let path = self.path.deadline().filter(|_| !self.streams.is_empty());
        due.chain(self.text.deadline())
            .chain(path)
            .fold(forget, Instant::min)
    }
}
