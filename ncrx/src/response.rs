// SPDX-License-Identifier: GPL-2.0

//! The bytes of responses, as `wire.rs` reads them.

use std::io::Write;

use crate::proto::wire::Dialect;
use crate::proto::wire::MAX_DATAGRAM;
use crate::record::{SeqRange, Session};

/// The session mark.
const MARK: usize = " ~0123456789abcdef".len();

/// The most bytes before the missing numbers, with the session mark; and the most bytes of one
/// word.
const START: usize = "ncrx18446744073709551615".len() + MARK;
const WORD: usize = " 18446744073709551615-18446744073709551615".len();

/// Writes the responses that acknowledge up to `ack` and ask for `missing`: at least one, each of
/// 1000 bytes at most.
pub(crate) fn write(
    dialect: Dialect,
    ack: Option<u64>,
    missing: &[SeqRange],
    session: Option<Session>,
    most: usize,
    mut send: impl FnMut(Vec<u8>),
) {
    let begin = || {
        // Responses may wait, and be many.
        let room = START.saturating_add(missing.len().saturating_mul(WORD));
        let mut out = Vec::with_capacity(room.min(MAX_DATAGRAM + WORD));
        out.extend_from_slice(match dialect {
            Dialect::Nca => b"nca",
            Dialect::Ncrx => b"ncrx",
        });
        if let Some(ack) = ack {
            out.extend_from_slice(itoa::Buffer::new().format(ack).as_bytes());
        }
        out
    };
    let mut finish = |mut out: Vec<u8>| {
        if dialect == Dialect::Nca {
            out.extend_from_slice(b" ~");
            if let Some(session) = session {
                // Writing to memory cannot fail.
                let _ = write!(out, "{session}");
            }
        }
        send(out);
    };
    let mut out = begin();
    let (most, empty) = (most.min(MAX_DATAGRAM), out.len());
    let mut digits = itoa::Buffer::new();
    let mut add = |out: &mut Vec<u8>, numbers: SeqRange| {
        let before = out.len();
        out.push(b' ');
        out.extend_from_slice(digits.format(numbers.first).as_bytes());
        if numbers.first < numbers.last {
            out.push(b'-');
            out.extend_from_slice(digits.format(numbers.last).as_bytes());
        }
        if out.len() + MARK <= most || before == empty {
            return;
        }
        let mut next = begin();
        next.extend_from_slice(&out[before..]);
        out.truncate(before);
        finish(std::mem::replace(out, next));
    };
    for &numbers in missing {
        match dialect {
            Dialect::Nca => add(&mut out, numbers),
            Dialect::Ncrx => {
                for seq in numbers.first..=numbers.last {
                    add(
                        &mut out,
                        SeqRange {
                            first: seq,
                            last: seq,
                        },
                    );
                }
            }
        }
    }
    finish(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::response::Response;
    use crate::proto::wire;

    fn responses(
        dialect: Dialect,
        ack: Option<u64>,
        missing: &[(u64, u64)],
        session: Option<u64>,
    ) -> Vec<Vec<u8>> {
        let missing: Vec<_> = missing
            .iter()
            .map(|&(first, last)| SeqRange { first, last })
            .collect();
        let mut all = Vec::new();
        write(
            dialect,
            ack,
            &missing,
            session.map(Session),
            usize::MAX,
            |out| all.push(out),
        );
        all
    }

    #[test]
    fn what_is_said() {
        let say = |dialect, ack, missing: &[(u64, u64)], session| {
            let all = responses(dialect, ack, missing, session);
            String::from_utf8(all.join(&b'|')).unwrap()
        };
        assert_eq!(say(Dialect::Nca, None, &[], None), "nca ~");
        assert_eq!(
            say(Dialect::Nca, Some(7), &[(8, 8), (10, 12)], Some(0xab)),
            "nca7 8 10-12 ~00000000000000ab"
        );
        assert_eq!(
            say(Dialect::Ncrx, Some(7), &[(8, 8), (10, 12)], Some(0xab)),
            "ncrx7 8 10 11 12"
        );
    }

    #[test]
    fn the_module_reads_it_all() {
        let missing: Vec<_> = (0..500)
            .map(|n| (u64::MAX - 5000 + n * 10, u64::MAX - 5000 + n * 10 + n % 3))
            .collect();
        for dialect in [Dialect::Nca, Dialect::Ncrx] {
            let mut heard = Vec::new();
            let all = responses(dialect, Some(u64::MAX - 6000), &missing, Some(u64::MAX));
            assert!(all.len() > 10);
            for bytes in &all {
                assert!(bytes.len() <= MAX_DATAGRAM);
                let response = Response::parse(bytes).unwrap();
                assert_eq!(response.ack, Some(u64::MAX - 6000));
                let mark = (dialect == Dialect::Nca).then_some(Some(wire::Session(u64::MAX)));
                assert_eq!(response.session, mark);
                heard.extend(
                    response
                        .missing()
                        .flat_map(|range| range.first..=range.last),
                );
            }
            let asked: Vec<_> = missing
                .iter()
                .flat_map(|&(first, last)| first..=last)
                .collect();
            assert_eq!(heard, asked);
        }
    }
}
