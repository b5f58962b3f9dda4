// SPDX-License-Identifier: GPL-2.0

//! netconsole's extended format, as a receiver reads it.
//!
//! `[<release>,]<prio>,<seq>,<usec>,<flag>[,<key>=<value>]*;<text>\n[ <KEY>=<value>\n]*`
//!
//! A record that does not fit in a datagram comes in fragments. This is an
//! independent reading of the format: it shares nothing with the module.

use std::ops::Range;

/// The line that printk puts before a record that it prints a second time.
const REPLAYED: &[u8] = b"** replaying previous printk message **\n";

/// A datagram of the extended format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The kernel's release, if the sender prepends it.
    pub release: Option<String>,
    /// The record's number.
    pub seq: u64,
    /// The header as `/dev/kmsg` would have it: what the transport has added
    /// is left out.
    pub header: String,
    /// The body, or this fragment of it.
    pub body: Vec<u8>,
    /// The fragment's place; `None` for a whole record.
    pub fragment: Option<Fragment>,
    /// Whether it is marked as emergency transmission.
    pub emergency: bool,
    /// The keys that the transport adds: session, skipped, lost.
    pub transport: Vec<(String, String)>,
    /// The number of records that printk says it has dropped before this one.
    pub dropped: u64,
    /// Whether it is marked as replayed by printk.
    pub replayed: bool,
}

/// A fragment's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The number of the body's bytes before it.
    pub offset: usize,
    /// The whole that it is a part of.
    pub of: Whole,
}

/// The form in which a fragment tells when the record is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// `<offset>/<bytes>`: upstream's and libncrx's form.
    Bytes(usize),
    /// `<offset>@<index>/<count>`: the form of the 2015 series.
    Pieces {
        /// The fragment's index, from 0.
        index: usize,
        /// The number of fragments.
        count: usize,
    },
}

/// Reads a datagram.
pub fn parse(datagram: &[u8]) -> Result<Datagram, String> {
    let (mut rest, mut dropped, mut replayed) = (datagram, 0, false);
    while rest.starts_with(b"** ") {
        let end = rest
            .iter()
            .position(|&c| c == b'\n')
            .ok_or("a notice without an end")?;
        let (notice, after) = rest.split_at(end + 1);
        let text = String::from_utf8_lossy(notice);
        if notice == REPLAYED {
            replayed = true;
        } else if let Some(n) = text.strip_suffix(" printk messages dropped **\n") {
            dropped += n[3..]
                .parse::<u64>()
                .map_err(|e| format!("{text:?}: {e}"))?;
        } else {
            return Err(format!("an unknown notice: {text:?}"));
        }
        rest = after;
    }
    let semicolon = rest.iter().position(|&c| c == b';').ok_or("no ';'")?;
    let header = std::str::from_utf8(&rest[..semicolon]).map_err(|e| e.to_string())?;
    let mut fields: Vec<&str> = header.split(',').collect();
    let release = match fields[0].parse::<u32>() {
        Ok(_) => None,
        Err(_) => Some(fields.remove(0).to_string()),
    };
    if fields.len() < 4 {
        return Err(format!("a header of {} fields: {header:?}", fields.len()));
    }
    let number = |i: usize| {
        let text: &str = fields[i];
        text.parse::<u64>()
            .map_err(|e| format!("field {i} of {header:?}: {e}"))
    };
    number(0)?;
    number(2)?;
    let mut found = Datagram {
        release,
        seq: number(1)?,
        header: fields[..4].join(","),
        body: rest[semicolon + 1..].to_vec(),
        fragment: None,
        emergency: false,
        transport: Vec::new(),
        dropped,
        replayed,
    };
    for field in &fields[4..] {
        let (key, value) = field
            .split_once('=')
            .ok_or(format!("{field:?} is not key=value"))?;
        match key {
            "ncfrag" => found.fragment = Some(fragment(value)?),
            "emg" | "ncemg" => found.emergency = value == "1",
            "ncs" | "ncskip" | "nclost" | "nccrash" => {
                found.transport.push((key.into(), value.into()))
            }
            _ => {
                found.header.push(',');
                found.header.push_str(field);
            }
        }
    }
    Ok(found)
}

fn fragment(value: &str) -> Result<Fragment, String> {
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|e| format!("ncfrag={value}: {e}"))
    };
    let (place, total) = value
        .split_once('/')
        .ok_or(format!("ncfrag={value}: no '/'"))?;
    let total = number(total)?;
    let (offset, of) = match place.split_once('@') {
        None => (number(place)?, Whole::Bytes(total)),
        Some((offset, index)) => {
            let index = number(index)?;
            (
                number(offset)?,
                Whole::Pieces {
                    index,
                    count: total,
                },
            )
        }
    };
    Ok(Fragment { offset, of })
}

/// A body that comes in fragments.
///
/// One record may be cut in several ways: an emergency datagram has a longer
/// header than a normal one, and a target may change its dialect. What counts
/// is which bytes have come, and that no two fragments contradict each other.
#[derive(Debug, Default)]
pub struct Assembly {
    bytes: Vec<u8>,
    /// The ranges of bytes that have come, in order, without overlaps.
    have: Vec<Range<usize>>,
    total: Option<usize>,
}

impl Assembly {
    /// Adds a fragment; returns the whole body once nothing is missing.
    pub fn add(&mut self, fragment: Fragment, body: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if body.is_empty() {
            return Err("an empty fragment".into());
        }
        let range = fragment.offset..fragment.offset + body.len();
        let total = match fragment.of {
            Whole::Bytes(total) => Some(total),
            Whole::Pieces { index, count } if index >= count => {
                return Err(format!("fragment {index} of {count}"));
            }
            Whole::Pieces { index, count } if index + 1 == count => Some(range.end),
            Whole::Pieces { .. } => None,
        };
        if let (Some(known), Some(total)) = (self.total, total) {
            if known != total {
                return Err(format!("{known} and {total} bytes of one record"));
            }
        }
        let total = self.total.or(total);
        let end = self.have.last().map_or(0, |last| last.end).max(range.end);
        if total.is_some_and(|total| end > total) {
            return Err(format!("{end} bytes of {total:?}"));
        }
        for have in &self.have {
            let common = have.start.max(range.start)..have.end.min(range.end);
            if !common.is_empty()
                && self.bytes[common.clone()]
                    != body[common.start - range.start..common.end - range.start]
            {
                return Err(format!("the fragments {have:?} and {range:?} differ"));
            }
        }
        self.total = total;
        self.bytes.resize(end.max(self.bytes.len()), 0);
        self.bytes[range.clone()].copy_from_slice(body);
        self.have.push(range);
        self.have.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in self.have.drain(..) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.have = merged;
        let whole = matches!(&self.have[..], [all] if all.start == 0 && Some(all.end) == total);
        Ok(whole.then(|| self.bytes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_record() {
        let found = parse(b"6,416,1758426,-;hello; you\n KEY=a\n").unwrap();
        assert_eq!(found.seq, 416);
        assert_eq!(found.header, "6,416,1758426,-");
        assert_eq!(found.body, b"hello; you\n KEY=a\n");
        assert_eq!(
            (found.fragment, found.release, found.emergency),
            (None, None, false)
        );
    }

    #[test]
    fn what_the_transport_adds_is_taken_off() {
        let text = b"7.3.4-x,6,1,2,-,caller=T1,emg=1,ncs=0123456789abcdef,ncfrag=10@1/3;x";
        let found = parse(text).unwrap();
        assert_eq!(found.release.as_deref(), Some("7.3.4-x"));
        assert_eq!(found.header, "6,1,2,-,caller=T1");
        assert!(found.emergency);
        let of = Whole::Pieces { index: 1, count: 3 };
        assert_eq!(found.fragment, Some(Fragment { offset: 10, of }));
        assert_eq!(
            found.transport,
            [("ncs".to_string(), "0123456789abcdef".to_string())]
        );
        let found = parse(b"6,1,2,c,ncemg=1,ncfrag=5/20;y").unwrap();
        assert!(found.emergency);
        let of = Whole::Bytes(20);
        assert_eq!(found.fragment, Some(Fragment { offset: 5, of }));
    }

    #[test]
    fn notices_of_printk() {
        let found = parse(b"** 12 printk messages dropped **\n6,20,2,-;x\n").unwrap();
        assert_eq!((found.seq, found.dropped, found.replayed), (20, 12, false));
        let found = parse(b"** replaying previous printk message **\n6,20,2,-;x\n").unwrap();
        assert_eq!((found.seq, found.dropped, found.replayed), (20, 0, true));
    }

    #[test]
    fn rubbish_is_refused() {
        for text in [
            "",
            "hello\n",
            "6,1,2;x",
            "6,x,2,-;x",
            "6,1,2,-,key;x",
            "** what **\n6,1,2,-;x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        for value in ["", "1", "1/", "/1", "1@/2", "a@1/2", "-1/2"] {
            let text = format!("6,1,2,-,ncfrag={value};x");
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fragments_come_in_any_order_and_twice() {
        let pieces = [(0, "abc"), (3, "de"), (5, "fghi")];
        let forms: [fn(usize) -> Whole; 2] = [
            |_| Whole::Bytes(9),
            |index| Whole::Pieces { index, count: 3 },
        ];
        for form in forms {
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
                let mut assembly = Assembly::default();
                for (n, i) in order.into_iter().enumerate() {
                    let (offset, body) = pieces[i];
                    let fragment = Fragment {
                        offset,
                        of: form(i),
                    };
                    let done = assembly.add(fragment, body.as_bytes()).unwrap();
                    if n < 2 {
                        assert_eq!(done, None);
                        assert_eq!(assembly.add(fragment, body.as_bytes()), Ok(None));
                    } else {
                        assert_eq!(done.unwrap(), b"abcdefghi");
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_that_is_cut_in_two_ways() {
        let bytes = |offset| Fragment {
            offset,
            of: Whole::Bytes(9),
        };
        let piece = |offset, index| Fragment {
            offset,
            of: Whole::Pieces { index, count: 2 },
        };
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(bytes(5), b"fghi"), Ok(None));
        assert_eq!(assembly.add(piece(0, 0), b"abcd"), Ok(None));
        assert!(assembly.add(piece(4, 1), b"eXghi").is_err());
        let done = assembly.add(piece(4, 1), b"efghi");
        assert_eq!(done.unwrap().unwrap(), b"abcdefghi");
    }

    #[test]
    fn fragments_that_contradict_each_other() {
        let bytes = |offset, total| Fragment {
            offset,
            of: Whole::Bytes(total),
        };
        let mut assembly = Assembly::default();
        assembly.add(bytes(0, 9), b"abc").unwrap();
        assert!(assembly.add(bytes(3, 8), b"def").is_err());
        assert!(assembly.add(bytes(2, 9), b"xx").is_err());
        assert!(assembly.add(bytes(3, 9), b"defghijk").is_err());
    }
}
