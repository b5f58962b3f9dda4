// SPDX-License-Identifier: GPL-2.0

//! Responses of loggers, as they are read: pure, `core` only.
//!
//! ```text
//! nca[<ack>] [<missing> ...] [~[<session>]]
//! ncrx[<ack>] [<missing> ...] [~[<session>]]
//! ```
//!
//! `docs/protocol.md` tells what each word says, and `peer.rs` decides what a response changes.

use super::wire::{
    number,
    range,
    Dialect,
    Range,
    Session,
    MAX_DATAGRAM, //
};

/// A response: the ack and the requests of a logger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    /// The dialect of the response.
    pub(crate) dialect: Dialect,
    /// The ack: every record up to and including this one has arrived.
    pub(crate) ack: Option<u64>,
    /// The session mark: whether the peer knows sessions, and the session that it names.
    pub(crate) session: Option<Option<Session>>,
    /// The words between the first one and the session mark: numbers and ranges.
    missing: &'a [u8],
}

/// Reads a session mark that is all of `word`.
pub(crate) fn session(word: &[u8]) -> Option<Option<Session>> {
    let digits = word.strip_prefix(b"~")?;
    if digits.is_empty() {
        return Some(None);
    }
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let id = u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
    Some(Some(Session(id)))
}

fn words(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

impl<'a> Response<'a> {
    /// Parses a datagram; [`None`] if it is no response.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > MAX_DATAGRAM {
            return None;
        }
        // Some senders count the terminator of their string.
        let text = datagram.strip_suffix(b"\0").unwrap_or(datagram);
        let text = text.trim_ascii();
        let end = text
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(text.len());
        let (first, rest) = text.split_at(end);
        let (dialect, ack) = match first.strip_prefix(b"ncrx") {
            Some(ack) => (Dialect::Ncrx, ack),
            None => (Dialect::Nca, first.strip_prefix(b"nca")?),
        };
        let ack = match ack {
            b"" => None,
            ack => Some(number(ack)?),
        };
        let last = words(rest).next_back();
        let mark = match last {
            Some(word) if word.starts_with(b"~") => Some(session(word)?),
            _ => None,
        };
        let missing = match (mark, last) {
            (Some(_), Some(word)) => &rest[..rest.len() - word.len()],
            _ => rest,
        };
        words(missing)
            .all(|word| range(word).is_some())
            .then_some(Self {
                dialect,
                ack,
                session: mark,
                missing,
            })
    }

    /// Returns the ranges that are asked for, in the order of the response.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Range> + 'a {
        words(self.missing).filter_map(range)
    }
}
