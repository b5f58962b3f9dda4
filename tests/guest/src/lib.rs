// SPDX-License-Identifier: GPL-2.0

//! The protocol between host and agent: requests and replies.
//!
//! Both directions carry the same frame: one line of JSON (the header, which
//! ends in the payload's length) and then that many raw bytes.

use std::io::{self, Read, Write};

use nanoserde::{DeBin, SerBin};

/// The name of the virtio-serial port that the agent listens on.
pub const PORT: &str = "nctest";

/// The file of the initramfs that lists the modules to load first, one a line.
pub const PRELOAD: &str = "/etc/preload";

/// The most that one write to `/dev/kmsg` may carry.
pub const KMSG_WRITE_MAX: usize = 1024;

/// The control bytes of a long record. Each takes four bytes when it is shown,
/// so that the record is cut off near 2047 and comes in three fragments.
pub const LONG: usize = 600;

/// A request of the host.
#[derive(Debug, Clone, SerBin, DeBin)]
pub enum Request {
    /// Run the payload as a shell script, for `timeout_s` seconds at most.
    Exec {
        /// The time limit in seconds.
        timeout_s: u32,
    },
    /// Make a file of the payload, and the directories that lead to it.
    Put {
        /// The file's path.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Send everything that `/dev/kmsg` holds.
    Kmsg,
    /// Write records into `/dev/kmsg` as fast as it goes.
    Log(Burst),
    /// Keep a UDP port bound until [`Unbind`](Self::Unbind).
    Bind {
        /// The address and the port.
        address: String,
    },
    /// Give all such ports up.
    Unbind,
    /// Send UDP datagrams as fast as it goes, for as long as the machine runs.
    Flood {
        /// The address and the port to send to.
        address: String,
        /// The CPU to do it on.
        cpu: usize,
    },
    /// Switch the machine off.
    Poweroff,
}

/// An answer of the agent; the payload depends on the request.
#[derive(Debug, Clone, SerBin, DeBin)]
pub enum Response {
    /// The agent runs; this is its first message.
    Ready {
        /// The running kernel's release.
        release: String,
    },
    /// A script ended; the payload is its output.
    Exec {
        /// Its exit code (137 if the time limit killed it).
        code: i32,
    },
    /// The payload is `/dev/kmsg`, as [`pack`]ed records.
    Kmsg {
        /// The number of times that the reader found records overwritten.
        overwritten: u32,
    },
    /// A burst was written.
    Log {
        /// The records that `/dev/kmsg` accepted.
        written: u64,
        /// The number of times that it asked to try again later.
        again: u64,
        /// The time it took, in microseconds.
        usec: u64,
    },
    /// It is done, and there is nothing to say.
    Done,
    /// The request could not be met.
    Error {
        /// The reason.
        message: String,
    },
}

/// A burst of records whose text follows from a seed.
#[derive(Debug, Clone, SerBin, DeBin)]
pub struct Burst {
    /// The number of records.
    pub count: u64,
    /// The seed of their contents.
    pub seed: u64,
    /// The shortest text, without the prefix.
    pub min_len: usize,
    /// The longest text, without the prefix.
    pub max_len: usize,
    /// Every `long_every`th record is a long one (see [`LONG`]); 0: none.
    pub long_every: u64,
    /// The syslog priority.
    pub prio: u8,
    /// The beginning of each text, before a space and its index.
    pub prefix: String,
}

impl Burst {
    /// Returns a burst of `count` informational records of 20 to 80 letters.
    pub fn new(count: u64, seed: u64, prefix: &str) -> Self {
        Self {
            count,
            seed,
            min_len: 20,
            max_len: 80,
            long_every: 0,
            prio: 6,
            prefix: prefix.into(),
        }
    }

    /// Returns the same with every `nth` record a long one, in several fragments.
    pub fn with_long(mut self, nth: u64) -> Self {
        self.long_every = nth;
        self
    }

    /// Returns the same with this syslog priority.
    pub fn with_prio(mut self, prio: u8) -> Self {
        self.prio = prio;
        self
    }

    /// Returns whether the `i`th record is a long one.
    pub fn is_long(&self, i: u64) -> bool {
        self.long_every > 0 && i % self.long_every == self.long_every - 1
    }

    /// Returns the texts of the burst, in order.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        const LETTERS: &[u8] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,;=.";
        const CONTROL: &[u8] = b"\x01\x02\x03\x04\x05\x06\x0e\x0f";
        let mut rng = fastrand::Rng::with_seed(self.seed);
        (0..self.count).map(move |i| {
            let long = self.is_long(i);
            let len = rng.usize(self.min_len..=self.max_len);
            let (len, letters) = if long {
                (LONG, CONTROL)
            } else {
                (len, LETTERS)
            };
            let mut text = format!("{} {i} ", self.prefix);
            text.extend((0..len).map(|_| char::from(letters[rng.usize(..letters.len())])));
            // A trailing blank would be hard to see in a report.
            text.push('.');
            text
        })
    }
}

/// Writes one frame: the head and the payload, each with its length before it.
pub fn send<T: SerBin>(out: &mut impl Write, head: &T, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::new();
    pack(&mut frame, &SerBin::serialize_bin(head));
    pack(&mut frame, payload);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one frame.
pub fn receive<T: DeBin>(input: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut part = || -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        input.read_exact(&mut len)?;
        let mut part = vec![0; u32::from_le_bytes(len) as usize];
        input.read_exact(&mut part)?;
        Ok(part)
    };
    let (head, payload) = (part()?, part()?);
    let head = DeBin::deserialize_bin(&head).map_err(|e| io::Error::other(e.to_string()))?;
    Ok((head, payload))
}

/// Appends a record to `packed`, with its length before it.
pub fn pack(packed: &mut Vec<u8>, record: &[u8]) {
    let len = u32::try_from(record.len()).expect("nobody sends 4 GiB");
    packed.extend_from_slice(&len.to_le_bytes());
    packed.extend_from_slice(record);
}

/// Takes [`pack`]ed records apart; a truncated last one is left out.
pub fn unpack(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((len, rest)) = packed.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let Some((record, rest)) = rest.split_at_checked(len) else {
            break;
        };
        records.push(record.to_vec());
        packed = rest;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way() {
        let mut line = Vec::new();
        send(&mut line, &Request::Exec { timeout_s: 3 }, b"echo a\n\n").unwrap();
        send(&mut line, &Request::Kmsg, b"").unwrap();
        let mut input = line.as_slice();
        let (head, payload) = receive::<Request>(&mut input).unwrap();
        assert!(matches!(head, Request::Exec { timeout_s: 3 }));
        assert_eq!(payload, b"echo a\n\n");
        let (head, payload) = receive::<Request>(&mut input).unwrap();
        assert!(matches!(head, Request::Kmsg));
        assert!(payload.is_empty());
        assert!(receive::<Request>(&mut input).is_err());
    }

    #[test]
    fn records_keep_their_bounds() {
        let records = [b"6,1,2,-;a\n B=c\n".to_vec(), Vec::new(), b"\0\n".to_vec()];
        let mut packed = Vec::new();
        for record in &records {
            pack(&mut packed, record);
        }
        assert_eq!(unpack(&packed), records);
        packed.pop();
        assert_eq!(unpack(&packed), records[..2]);
    }

    #[test]
    fn a_burst_follows_from_its_seed() {
        let texts = |seed| Burst::new(50, seed, "x").texts().collect::<Vec<_>>();
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
        assert!(texts(1)
            .iter()
            .all(|t| t.len() < 100 && t.starts_with("x ")));
    }

    #[test]
    fn some_are_long() {
        let burst = Burst::new(50, 1, "x").with_long(10);
        let texts: Vec<_> = burst.texts().collect();
        let long: Vec<_> = (0..50).filter(|i| texts[*i].len() > LONG).collect();
        assert_eq!(long, [9, 19, 29, 39, 49]);
        assert!(texts.iter().all(|t| t.len() < KMSG_WRITE_MAX - 10));
        assert!(texts.iter().all(|t| !t.contains('\n')));
        // The records before the first long one are unchanged.
        let short = Burst::new(50, 1, "x");
        assert_eq!(short.texts().take(9).collect::<Vec<_>>(), texts[..9]);
    }
}
