// SPDX-License-Identifier: GPL-2.0

//! Records from fragments, which come in any order, more than once, overlapping, cut in different
//! ways.
//!
//! A record that is sent again may be cut at other places, since its header has grown. But two
//! fragments must agree on the bytes that they share, and on the record. If they contradict each
//! other, the later one is believed and all earlier ones are dropped. Should the later one be bad,
//! the next good one replaces it in turn: in the end all parts are of one record.

use std::time::Instant;

use crate::datagram::{line, Datagram, Fragment};
use crate::record::{Kind, Stored};

/// The most bytes of a body: printk's records have at most 2 KiB, and userdata at most 64 KiB.
pub(crate) const MAX_BODY: usize = 128 << 10;

/// The most pieces with gaps between them.
const MAX_PIECES: usize = 256;

/// A stretch of bytes that have come: from, and up to.
type Piece = (usize, usize);

/// A record of which fragments are missing.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    head: Option<Head>,
    /// The body up to the end of the last piece; bytes between pieces are 0.
    body: Vec<u8>,
    /// In order, with gaps between them.
    pieces: Vec<Piece>,
    /// The length of the body, if known.
    total: Option<usize>,
    /// The length that was returned as a partial record.
    told: Option<usize>,
}

/// The parts that all fragments must agree on, and the header of the first one.
#[derive(Debug)]
struct Head {
    prio: u32,
    usec: u64,
    release: usize,
    emergency: bool,
    crash: bool,
    header: Box<[u8]>,
}

/// The effect of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// Bytes are still missing.
    Part,
    /// None: all its bytes were there.
    Again,
    /// The record is whole.
    Whole,
}

/// The error of a fragment that contradicts the earlier ones, which are dropped, or that cannot
/// belong to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Assembly {
    /// Returns the memory that it takes, about.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>()
            + self.body.capacity()
            + self.pieces.capacity() * size_of::<Piece>()
            + self.head.as_ref().map_or(0, |head| head.header.len())
    }

    /// Returns the record's clock.
    pub(crate) fn usec(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.usec)
    }

    /// Takes a fragment in; `contradicted` is set if earlier ones had to be dropped.
    pub(crate) fn add(
        &mut self,
        datagram: &Datagram<'_>,
        fragment: Fragment,
        contradicted: &mut bool,
    ) -> Result<Added, Contradiction> {
        let end = fragment.offset.saturating_add(datagram.body().len());
        if end > MAX_BODY || fragment.total.is_some_and(|total| total > MAX_BODY) {
            return Err(Contradiction);
        }
        if !self.agrees(datagram, fragment, end) {
            *contradicted = true;
            *self = Self::default();
        }
        let head = self.head.get_or_insert_with(|| Head {
            prio: datagram.prio,
            usec: datagram.usec,
            release: datagram.release,
            emergency: false,
            crash: false,
            header: datagram.header().into(),
        });
        head.emergency |= datagram.emergency;
        head.crash |= datagram.crash;
        let known = (self.total, self.pieces.clone());
        self.total = self.total.or(fragment.total);
        self.insert(fragment.offset, datagram.body());
        Ok(if self.is_whole() {
            Added::Whole
        } else if known == (self.total, self.pieces.clone()) {
            Added::Again
        } else {
            Added::Part
        })
    }

    fn agrees(&self, datagram: &Datagram<'_>, fragment: Fragment, end: usize) -> bool {
        let Some(head) = &self.head else {
            return true;
        };
        let total = fragment.total.or(self.total);
        (head.prio, head.usec) == (datagram.prio, datagram.usec)
            && total == self.total.or(total)
            && total.is_none_or(|total| end <= total && self.body.len() <= total)
            && self.pieces.len() < MAX_PIECES
            && self.pieces.iter().all(|&(from, to)| {
                let (from, to) = (from.max(fragment.offset), to.min(end));
                let theirs = |at: usize| at - fragment.offset;
                from >= to || self.body[from..to] == datagram.body()[theirs(from)..theirs(to)]
            })
    }

    fn insert(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.body.len() {
            self.body.resize(end, 0);
        }
        self.body[offset..end].copy_from_slice(bytes);
        // Pieces that touch it become one with it.
        let first = self.pieces.partition_point(|&(_, to)| to < offset);
        let last = self.pieces.partition_point(|&(from, _)| from <= end);
        let mut piece = (offset, end);
        if let [low, ..] = self.pieces[first..last] {
            piece.0 = piece.0.min(low.0);
        }
        if let [.., high] = self.pieces[first..last] {
            piece.1 = piece.1.max(high.1);
        }
        self.pieces.splice(first..last, [piece]);
    }

    fn is_whole(&self) -> bool {
        match (self.total, &self.pieces[..]) {
            (Some(total), &[(0, end)]) => end == total,
            _ => false,
        }
    }

    /// Returns the record as far as it has come without a gap, unless as much was returned before:
    /// the rest will not come, or is not waited for.
    pub(crate) fn partial(&mut self, seq: u64, arrived: Instant) -> Option<Box<Stored>> {
        let &(0, end) = self.pieces.first()? else {
            return None;
        };
        let more = self.told < Some(end);
        self.told = Some(end);
        self.record(seq, arrived).filter(|_| more)
    }

    /// Returns the record as far as it has come without a gap; [`None`] if its beginning is
    /// missing.
    pub(crate) fn record(&self, seq: u64, arrived: Instant) -> Option<Box<Stored>> {
        let head = self.head.as_ref()?;
        let &(0, end) = self.pieces.first()? else {
            return None;
        };
        let kind = match self.is_whole() {
            true => Kind::Whole,
            false => Kind::Partial,
        };
        let mut bytes = Vec::with_capacity(head.header.len() + 1 + end);
        bytes.extend_from_slice(&head.header);
        bytes.push(b';');
        bytes.extend_from_slice(&self.body[..end]);
        let record = Box::new(Stored {
            bytes,
            semicolon: head.header.len() as u32,
            text: line(&self.body[..end]).len() as u32,
            prio: head.prio,
            seq,
            usec: head.usec,
            release: head.release as u16,
            kind,
            emergency: head.emergency,
            crash: head.crash,
            ..Stored::empty(arrived)
        });
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Message;

    /// Adds fragments in turn; returns the result of each, and the body as far as it has come.
    fn add(fragments: &[&str]) -> (Vec<Option<Added>>, Option<String>, bool) {
        let mut assembly = Assembly::default();
        let mut contradicted = false;
        let said = fragments.iter().map(|fragment| {
            let text = format!("6,1,2,-,ncfrag={fragment}");
            let mut datagram = Datagram::new(text.as_bytes());
            let Ok(Message::Record) = datagram.read() else {
                panic!("{text}");
            };
            let place = datagram.fragment.unwrap();
            assembly.add(&datagram, place, &mut contradicted).ok()
        });
        let said = said.collect();
        let record = assembly.record(1, Instant::now());
        let body = record.map(|record| {
            let body = &record.bytes[record.semicolon as usize + 1..];
            String::from_utf8(body.into()).unwrap()
        });
        (said, body, contradicted)
    }

    #[test]
    fn in_any_order_and_twice() {
        for form in [
            ["0/9;abc", "3/9;de", "5/9;fghi"],
            ["0@0/3;abc", "3@1/3;de", "5@2/3;fghi"],
        ] {
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
                let [a, b, c] = order.map(|i| form[i]);
                let (said, body, contradicted) = add(&[a, a, b, a, b, c]);
                use Added::{Again, Part, Whole};
                let said: Vec<_> = said.into_iter().map(Option::unwrap).collect();
                assert_eq!(said, [Part, Again, Part, Again, Again, Whole]);
                assert_eq!((&body.unwrap()[..], contradicted), ("abcdefghi", false));
            }
        }
    }

    #[test]
    fn cut_in_two_ways() {
        let (said, body, contradicted) = add(&["5/9;fghi", "0@0/2;abcdef"]);
        assert_eq!(said[1], Some(Added::Whole));
        assert_eq!((&body.unwrap()[..], contradicted), ("abcdefghi", false));
    }

    #[test]
    fn the_last_word_is_believed() {
        for bad in ["3/9;Xe", "3/8;de", "0/2;ab", "8@3/4;i"] {
            // It may take one round to be rid of the bad one.
            let good = ["0/9;abc", "3/9;de", "5/9;fghi"];
            let all = [&["0@0/4;abcd", "4/9;efg", bad][..], &good, &good[..2]].concat();
            let (_, body, contradicted) = add(&all);
            assert_eq!(body.as_deref(), Some("abcdefghi"), "{bad}");
            assert_eq!(contradicted, bad != "8@3/4;i", "{bad}");
        }
        let (said, body, _) = add(&["0/200000;x"]);
        assert_eq!((said[0], body), (None, None));
    }

    #[test]
    fn what_there_is_of_it() {
        assert_eq!(add(&["5/9;fghi"]).1, None);
        assert_eq!(add(&["0/9;abc", "5/9;fghi"]).1.as_deref(), Some("abc"));
    }
}
