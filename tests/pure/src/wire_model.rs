// SPDX-License-Identifier: GPL-2.0

//! `wire.rs` against a receiver written from the text of the protocol: the datagrams give back the
//! record and the lines behind it, byte for byte.

extern crate std;

use std::format;
use std::vec;
use std::vec::Vec;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::proto::extradata::{
    self, Context, Sysdata, SysdataSet, MAX_KEY, MAX_SYSDATA, MAX_VALUE,
};
use crate::proto::wire::{
    BadRecord, Datagrams, Dialect, Extra, Form, Range, Record, Session, MAX_DATAGRAM, MAX_HEADER,
};

/// All that a record is sent with. The parts of a [`Form`] that refer to something are owned here.
#[derive(Clone, Debug)]
struct Sent {
    header: Vec<u8>,
    body: Vec<u8>,
    user: Vec<u8>,
    sys: Vec<u8>,
    dialect: Dialect,
    release: Option<Vec<u8>>,
    emergency: bool,
    session: Option<u64>,
    crash: bool,
    skip: Option<(u64, u64)>,
    lost: Option<(u64, u64)>,
}

impl Sent {
    fn datagrams(&self) -> Result<Vec<Vec<u8>>, BadRecord> {
        let range = |(first, last)| Range { first, last };
        let form = Form {
            dialect: self.dialect,
            release: self.release.as_deref(),
            emergency: self.emergency,
            session: self.session.map(Session),
            crash: self.crash,
            skip: self.skip.map(range),
            lost: self.lost.map(range),
            extra: Extra {
                user: &self.user,
                sys: &self.sys,
            },
        };
        let record = Record {
            header: &self.header,
            body: &self.body,
        };
        let datagrams = Datagrams::new(record, form)?;
        let written = datagrams.iter().map(|datagram| {
            let mut out = vec![0; datagram.len()];
            datagram.write(&mut out);
            out
        });
        Ok(written.collect())
    }

    /// Returns the header by the text of the protocol, without the fragment's key.
    fn expected_header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        if let Some(release) = &self.release {
            header.extend_from_slice(release);
            header.push(b',');
        }
        header.extend_from_slice(&self.header);
        if let Some(session) = self.session {
            header.extend(format!(",ncs={session:016x}").into_bytes());
        }
        if let Some((first, last)) = self.skip {
            header.extend(format!(",ncskip={first}-{last}").into_bytes());
        }
        if let Some((first, last)) = self.lost {
            header.extend(format!(",nclost={first}-{last}").into_bytes());
        }
        if self.crash {
            header.extend_from_slice(b",nccrash=1");
        }
        if self.emergency {
            header.extend_from_slice(match self.dialect {
                Dialect::Nca => b",emg=1",
                Dialect::Ncrx => b",ncemg=1",
            });
        }
        header
    }

    /// Returns everything behind the header, by the same text.
    fn expected_body(&self) -> Vec<u8> {
        let mut body = self.body.clone();
        let extra = [&self.user[..], &self.sys].concat();
        if !extra.is_empty() && body.last() != Some(&b'\n') {
            body.push(b'\n');
        }
        body.extend(extra);
        body
    }
}

/// A datagram as a receiver sees it.
#[derive(Debug)]
struct Seen<'a> {
    /// Without the fragment's key.
    header: &'a [u8],
    fragment: Option<Fragment>,
    body: &'a [u8],
}

#[derive(Debug, PartialEq)]
enum Fragment {
    Ncrx {
        offset: usize,
        total: usize,
    },
    Nca {
        offset: usize,
        index: usize,
        count: usize,
    },
}

/// Reads a datagram; [`None`] if it is not of the form that the dialect has.
fn receive(datagram: &[u8], dialect: Dialect) -> Option<Seen<'_>> {
    let semicolon = datagram.iter().position(|&c| c == b';')?;
    let (header, body) = (&datagram[..semicolon], &datagram[semicolon + 1..]);
    let key = b",ncfrag=";
    let Some(at) = header.windows(key.len()).position(|w| w == key) else {
        return Some(Seen {
            header,
            fragment: None,
            body,
        });
    };
    let value = std::str::from_utf8(&header[at + key.len()..]).ok()?;
    // Numbers as they are printed: `parse` alone would take a sign, and zeroes in front.
    let number = |digits: &str| {
        let n: usize = digits.parse().ok()?;
        (format!("{n}") == digits).then_some(n)
    };
    let (place, last) = value.split_once('/')?;
    let fragment = match dialect {
        Dialect::Ncrx => Fragment::Ncrx {
            offset: number(place)?,
            total: number(last)?,
        },
        Dialect::Nca => {
            let (offset, index) = place.split_once('@')?;
            Fragment::Nca {
                offset: number(offset)?,
                index: number(index)?,
                count: number(last)?,
            }
        }
    };
    Some(Seen {
        header: &header[..at],
        fragment: Some(fragment),
        body,
    })
}

/// Returns a header as printk's, or one that is as long as it may be, or longer.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let printks = (0..2048u32, any::<u64>(), any::<u64>(), any::<u32>())
        .prop_map(|(prio, seq, usec, id)| format!("{prio},{seq},{usec},-,caller=T{id}"));
    prop_oneof![
        8 => printks.prop_map(|header| header.into_bytes()),
        2 => (0..=MAX_HEADER + 10).prop_map(|len| vec![b'x'; len]),
    ]
}

/// Returns any bytes, of lengths near the limits: one full datagram, and several.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0..40usize, 850..1010usize, 0..2100usize];
    let bytes = len.prop_flat_map(|len| vec(any::<u8>(), len));
    (bytes, any::<bool>()).prop_map(|(mut body, end)| {
        if end {
            body.push(b'\n');
        }
        body
    })
}

/// Returns lines of userdata: none, few, or as many as fill several datagrams.
fn users() -> impl Strategy<Value = Vec<u8>> {
    let key = vec(b'a'..=b'z', 1..=MAX_KEY);
    let value = vec(b' '..=b'~', 0..=MAX_VALUE);
    let line = (key, value);
    prop_oneof![vec(line.clone(), 0..2), vec(line, 0..20)].prop_map(|lines| {
        let mut user = Vec::new();
        for (key, value) in lines {
            extradata::line(&key, &value, &mut |piece: &[u8]| {
                user.extend_from_slice(piece)
            });
        }
        user
    })
}

/// Returns some of the lines that the kernel fills in.
fn syss() -> impl Strategy<Value = Vec<u8>> {
    let on = any::<[bool; 4]>();
    let known = (
        option::of(any::<u32>()),
        option::of(any::<[u8; 16]>()),
        vec(b'!'..=b'~', 0..=64),
        option::of(any::<u32>()),
    );
    (on, known).prop_map(|(on, (cpu, comm, release, msgid))| {
        let all = [
            Sysdata::Cpu,
            Sysdata::Taskname,
            Sysdata::Release,
            Sysdata::MsgId,
        ];
        let lines = all
            .into_iter()
            .zip(on)
            .fold(SysdataSet::default(), |set, (line, on)| set.with(line, on));
        // A name of a task has a terminator.
        let comm = comm.map(|mut comm| {
            comm[15] = 0;
            comm
        });
        let context = Context {
            cpu,
            comm: comm.as_ref(),
            release: &release,
            msgid,
        };
        extradata::sysdata(lines, &context, &mut [0; MAX_SYSDATA]).to_vec()
    })
}

fn ranges() -> impl Strategy<Value = Option<(u64, u64)>> {
    option::of((any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b), a.max(b))))
}

fn sents() -> impl Strategy<Value = Sent> {
    let record = (headers(), bodies(), users(), syss());
    let form = (
        prop_oneof![Just(Dialect::Nca), Just(Dialect::Ncrx)],
        option::of(vec(b'!'..=b':', 1..=64)),
        any::<bool>(),
        option::of(any::<u64>()),
        any::<bool>(),
        ranges(),
        ranges(),
    );
    (record, form).prop_map(
        |((header, body, user, sys), (dialect, release, emergency, session, crash, skip, lost))| {
            Sent {
                header,
                body,
                user,
                sys,
                dialect,
                release,
                emergency,
                session,
                crash,
                skip,
                lost,
            }
        },
    )
}

/// Returns the length of the longest fragment key of a record whose body has `len` bytes.
fn longest_key(dialect: Dialect, len: usize) -> usize {
    let n = format!("{len}").len();
    match dialect {
        Dialect::Nca => ",ncfrag=@/".len() + 3 * n,
        Dialect::Ncrx => ",ncfrag=/".len() + 2 * n,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn datagrams_give_back_the_record_and_what_is_behind_it(sent in sents()) {
        let (header, body) = (sent.expected_header(), sent.expected_body());
        let whole = header.len() + 1 + body.len();
        let datagrams = match sent.datagrams() {
            Ok(datagrams) => datagrams,
            Err(error) => {
                // The only reason is a header that has no room.
                prop_assert_eq!(error, BadRecord::HeaderTooLong);
                prop_assert!(header.len() + 1 + longest_key(sent.dialect, body.len()) > MAX_HEADER);
                return Ok(());
            }
        };
        let count = datagrams.len();
        prop_assert!(count <= body.len() / (MAX_DATAGRAM - MAX_HEADER) + 1);
        prop_assert_eq!(count == 1, whole <= MAX_DATAGRAM, "fragments just if it does not fit");

        let mut got = Vec::new();
        for (index, datagram) in datagrams.iter().enumerate() {
            prop_assert!(datagram.len() <= MAX_DATAGRAM);
            let seen = receive(datagram, sent.dialect);
            prop_assert!(seen.is_some(), "datagram {} is not of the form", index);
            let Some(seen) = seen else { continue };
            prop_assert_eq!(seen.header, &header[..]);
            let offset = got.len();
            let total = body.len();
            let expected = (count > 1).then_some(match sent.dialect {
                Dialect::Ncrx => Fragment::Ncrx { offset, total },
                Dialect::Nca => Fragment::Nca { offset, index, count },
            });
            prop_assert_eq!(seen.fragment, expected);
            prop_assert!(count == 1 || !seen.body.is_empty());
            got.extend_from_slice(seen.body);
        }
        prop_assert_eq!(got, body);
    }

    /// Each line is ` <key>=<value>` and printable, for any name of a task.
    #[test]
    fn what_is_behind_a_record_is_lines(user in users(), sys in syss()) {
        for extra in [user, sys] {
            let Some(lines) = extra.strip_suffix(b"\n") else {
                prop_assert!(extra.is_empty());
                continue;
            };
            for line in lines.split(|&c| c == b'\n') {
                prop_assert!(line.starts_with(b" ") && line.contains(&b'='));
                prop_assert!(line.iter().all(|c| (b' '..=b'~').contains(c)));
            }
        }
    }

    /// No value makes a line of its own.
    #[test]
    fn a_value_makes_one_line(text in vec(any::<u8>(), 0..=MAX_VALUE + 5)) {
        let mut line = Vec::new();
        if let Ok(value) = extradata::value(&text) {
            prop_assert!(value.len() <= MAX_VALUE && text.starts_with(value));
            extradata::line(b"key", value, &mut |piece: &[u8]| line.extend_from_slice(piece));
            prop_assert_eq!(line.iter().filter(|&&c| c == b'\n').count(), 1);
            prop_assert!(line.ends_with(b"\n") && !line.contains(&0));
        }
    }
}
