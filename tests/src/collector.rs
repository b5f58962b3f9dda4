// SPDX-License-Identifier: GPL-2.0

//! The records that a log host has received, by number, and every oddity on the way.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Instant;

use crate::record::{parse, Assembly, Datagram};
use crate::wire::Udp;

/// The most that a datagram may carry.
pub const DATAGRAM_MAX: usize = 1000;

/// A record that has arrived whole.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// Its bytes as `/dev/kmsg` would have them.
    pub bytes: Vec<u8>,
    /// The release that came with it.
    pub release: Option<String>,
    /// The time at which its last byte first came.
    pub at: Instant,
    /// The datagrams it came in.
    pub datagrams: usize,
    /// The number of times that it came whole.
    pub copies: usize,
    /// The number of its datagrams that were marked as emergency transmission.
    pub emergencies: usize,
}

/// A datagram that has arrived, for tests of timing.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The time at which it arrived.
    pub at: Instant,
    /// The source.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// The Ethernet addresses, source and destination.
    pub mac: ([u8; 6], [u8; 6]),
    /// The length of its payload.
    pub len: usize,
    /// The record it is of; `None` if it is empty or could not be read.
    pub seq: Option<u64>,
    /// Whether it is marked as emergency transmission.
    pub emergency: bool,
}

/// Records put together from datagrams.
#[derive(Default)]
pub struct Collector {
    /// The records by number.
    pub records: BTreeMap<u64, Record>,
    /// The numbers in the order in which the records were first complete.
    pub order: Vec<u64>,
    /// Every datagram.
    pub arrivals: Vec<Arrival>,
    /// The bytes of all datagrams.
    pub bytes: u64,
    /// Whole records that came again.
    pub duplicates: u64,
    /// Records that printk itself says it has dropped.
    pub dropped: u64,
    /// The transport's own keys, with the record they came on.
    pub transport: Vec<(u64, String, String)>,
    /// Datagrams that break a rule of the format.
    pub errors: Vec<String>,
    assemblies: HashMap<u64, (Assembly, usize)>,
}

impl Collector {
    /// Takes a datagram; returns the number of the record that it completes.
    pub fn take(&mut self, udp: &Udp) -> Option<u64> {
        self.bytes += udp.payload.len() as u64;
        let mut arrival = Arrival {
            at: udp.at,
            from: udp.from,
            to: udp.to,
            mac: udp.mac,
            len: udp.payload.len(),
            seq: None,
            emergency: false,
        };
        if udp.payload.len() > DATAGRAM_MAX {
            self.errors
                .push(format!("a datagram of {} bytes", udp.payload.len()));
        }
        let mut completed = None;
        // An empty datagram is a keepalive.
        if !udp.payload.is_empty() {
            match parse(&udp.payload) {
                Ok(datagram) => {
                    arrival.seq = Some(datagram.seq);
                    arrival.emergency = datagram.emergency;
                    completed = self.take_datagram(datagram, udp.at);
                }
                Err(e) => {
                    let text = udp.payload.escape_ascii();
                    self.errors.push(format!("{e}: {text}"));
                }
            }
        }
        self.arrivals.push(arrival);
        completed
    }

    fn take_datagram(&mut self, datagram: Datagram, at: Instant) -> Option<u64> {
        let seq = datagram.seq;
        self.dropped += datagram.dropped;
        for (key, value) in datagram.transport {
            self.transport.push((seq, key, value));
        }
        let (body, datagrams) = match datagram.fragment {
            None => (datagram.body, 1),
            Some(fragment) => {
                let (assembly, count) = self.assemblies.entry(seq).or_default();
                *count += 1;
                let (added, count) = (assembly.add(fragment, &datagram.body), *count);
                match added {
                    Ok(Some(body)) => {
                        self.assemblies.remove(&seq);
                        (body, count)
                    }
                    Ok(None) => return None,
                    Err(e) => {
                        self.errors.push(format!("record {seq}: {e}"));
                        return None;
                    }
                }
            }
        };
        let mut bytes = datagram.header.into_bytes();
        bytes.push(b';');
        bytes.extend(body);
        let emergencies = usize::from(datagram.emergency);
        if let Some(have) = self.records.get_mut(&seq) {
            self.duplicates += 1;
            have.copies += 1;
            have.emergencies += emergencies;
            if have.bytes != bytes || have.release != datagram.release {
                let (a, b) = (have.bytes.escape_ascii(), bytes.escape_ascii());
                self.errors
                    .push(format!("two records {seq}:\n  {a}\n  {b}"));
            }
            return None;
        }
        let release = datagram.release;
        let record = Record {
            seq,
            bytes,
            release,
            at,
            datagrams,
            copies: 1,
            emergencies,
        };
        self.records.insert(seq, record);
        self.order.push(seq);
        Some(seq)
    }

    /// Returns the record with `text` in it, if there is one.
    pub fn find(&self, text: &str) -> Option<&Record> {
        self.records
            .values()
            .find(|record| contains(&record.bytes, text.as_bytes()))
    }

    /// Returns the numbers between the first and the last record that are missing.
    pub fn gaps(&self) -> Vec<u64> {
        let mut gaps = Vec::new();
        for pair in self.records.keys().collect::<Vec<_>>().windows(2) {
            gaps.extend(pair[0] + 1..*pair[1]);
        }
        gaps
    }

    /// Compares the records with those of the guest's `/dev/kmsg` that have the given numbers.
    pub fn compare(
        &self,
        kmsg: &[Vec<u8>],
        numbers: impl std::ops::RangeBounds<u64>,
    ) -> Comparison {
        let mut comparison = Comparison::default();
        for theirs in kmsg {
            let Ok(Datagram { seq, .. }) = parse(theirs) else {
                comparison.different.push((0, theirs.clone(), Vec::new()));
                continue;
            };
            if !numbers.contains(&seq) {
                continue;
            }
            match self.records.get(&seq) {
                None => comparison.missing.push(seq),
                Some(ours) if ours.bytes == *theirs => comparison.equal += 1,
                Some(ours) => {
                    comparison
                        .different
                        .push((seq, theirs.clone(), ours.bytes.clone()));
                }
            }
        }
        comparison
    }
}

/// The comparison of the records that have arrived with those in the guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Records that are the same, byte for byte.
    pub equal: usize,
    /// Records that have not arrived.
    pub missing: Vec<u64>,
    /// Records that differ: number, `/dev/kmsg`'s bytes, the arrived bytes.
    pub different: Vec<(u64, Vec<u8>, Vec<u8>)>,
}

impl Comparison {
    /// Returns whether everything has arrived unchanged.
    pub fn is_perfect(&self) -> bool {
        self.equal > 0 && self.missing.is_empty() && self.different.is_empty()
    }

    /// Describes the differences, for people.
    pub fn describe(&self) -> String {
        let (missing, different) = (self.missing.len(), self.different.len());
        let mut text = format!("{} records equal, {missing} missing", self.equal);
        if let (Some(first), Some(last)) = (self.missing.first(), self.missing.last()) {
            let _ = write!(text, " (from {first} to {last})");
        }
        let _ = write!(text, ", {different} different");
        for (seq, theirs, ours) in self.different.iter().take(3) {
            let (theirs, ours) = (theirs.escape_ascii(), ours.escape_ascii());
            let _ = write!(
                text,
                "\n  {seq} in /dev/kmsg: {theirs}\n  {seq} received:     {ours}"
            );
        }
        text
    }
}

/// Returns whether `needle` is in `haystack`.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len().max(1))
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(payloads: &[&[u8]]) -> Collector {
        let mut collector = Collector::default();
        for payload in payloads {
            collector.take(&Udp {
                at: Instant::now(),
                mac: ([2; 6], [4; 6]),
                from: "10.0.0.1:6665".parse().unwrap(),
                to: "10.0.0.2:6666".parse().unwrap(),
                payload: payload.to_vec(),
            });
        }
        collector
    }

    #[test]
    fn records_gaps_duplicates() {
        let got = collect(&[
            b"6,1,5,-;one\n",
            b"6,4,5,-,ncfrag=3/6;r\n\n",
            b"6,3,5,-;three\n",
            b"6,4,5,-,ncfrag=0/6;fou",
            b"6,3,5,-,emg=1;three\n",
            b"",
        ]);
        assert_eq!(got.order, [1, 3, 4]);
        assert_eq!(got.gaps(), [2]);
        assert_eq!((got.duplicates, got.records[&3].emergencies), (1, 1));
        assert_eq!(got.records[&4].bytes, b"6,4,5,-;four\n\n");
        assert_eq!(got.records[&4].datagrams, 2);
        assert!(got.errors.is_empty(), "{:?}", got.errors);
        assert_eq!(got.find("thr").unwrap().seq, 3);
    }

    #[test]
    fn a_record_that_changes_is_an_error() {
        let got = collect(&[b"6,1,5,-;one\n", b"6,1,5,-;two\n"]);
        assert_eq!(got.errors.len(), 1);
    }

    #[test]
    fn the_comparison_finds_every_difference() {
        let got = collect(&[b"6,1,5,-;one\n", b"6,2,5,-;two\n"]);
        let kmsg = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| t.as_bytes().to_vec())
                .collect::<Vec<_>>()
        };
        let same = kmsg(&["6,1,5,-;one\n", "6,2,5,-;two\n"]);
        assert!(got.compare(&same, ..).is_perfect());
        let more = kmsg(&["6,1,5,-;one\n", "6,2,5,-;twO\n", "6,3,5,-;three\n"]);
        let comparison = got.compare(&more, ..);
        assert_eq!((comparison.equal, &comparison.missing[..]), (1, &[3][..]));
        assert_eq!(comparison.different.len(), 1);
        assert!(got.compare(&more, ..2).is_perfect());
        assert!(!got.compare(&[], ..).is_perfect());
    }
}
