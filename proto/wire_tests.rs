// SPDX-License-Identifier: GPL-2.0

//! The tests of `wire.rs`, and its tables of examples: of records, of responses, and of what is
//! none.

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_wire))]
#[cfg(any(test, CONFIG_KUNIT))]
mod tests {
    use super::super::wire::*;

    const LONGEST_BODY: usize = 8192;

    /// Bytes among which every value occurs, semicolons and newlines too.
    static BODY: [u8; LONGEST_BODY] = {
        let mut body = [0; LONGEST_BODY];
        let mut i = 0;
        while i < LONGEST_BODY {
            body[i] = (i * 7 + i / 256) as u8;
            i += 1;
        }
        body
    };

    /// A header with many keys, to be cut to the length wanted.
    static LONG_HEADER: [u8; MAX_HEADER] = {
        let mut header = [b'x'; MAX_HEADER];
        let start = b"6,1234567,98765432100,-,caller=T1";
        let mut i = 0;
        while i < start.len() {
            header[i] = start[i];
            i += 1;
        }
        header
    };

    fn form(dialect: Dialect) -> Form<'static> {
        Form::plain(dialect)
    }

    /// A receiver's reading of one datagram: the header without what was added, and the fragment's
    /// place. Written from the table above, not from the code.
    struct Received<'a> {
        header: &'a [u8],
        offset: usize,
        /// Total bytes (`ncrx`), or index and count (`nca`).
        of: Option<(usize, usize)>,
        body: &'a [u8],
    }

    fn number(digits: &[u8]) -> Option<usize> {
        core::str::from_utf8(digits).ok()?.parse().ok()
    }

    fn receive(datagram: &[u8], dialect: Dialect) -> Option<Received<'_>> {
        let semicolon = datagram.iter().position(|&c| c == b';')?;
        let (header, body) = (&datagram[..semicolon], &datagram[semicolon + 1..]);
        let key = b",ncfrag=";
        let Some(at) = header.windows(key.len()).position(|w| w == key) else {
            return Some(Received {
                header,
                offset: 0,
                of: None,
                body,
            });
        };
        let mut value = header[at + key.len()..].split(|&c| c == b'/');
        let (place, of) = (value.next()?, number(value.next()?)?);
        let (offset, of) = match dialect {
            Dialect::Ncrx => (number(place)?, (of, 0)),
            Dialect::Nca => {
                let mut place = place.split(|&c| c == b'@');
                let offset = number(place.next()?)?;
                (offset, (number(place.next()?)?, of))
            }
        };
        let header = &header[..at];
        Some(Received {
            header,
            offset,
            of: Some(of),
            body,
        })
    }

    /// Whether the datagrams of a record give back its very bytes.
    fn reassembles(header: &[u8], body: &[u8], dialect: Dialect) -> bool {
        let record = Record { header, body };
        let Ok(datagrams) = Datagrams::new(record, form(dialect)) else {
            return false;
        };
        let count = datagrams.clone().count();
        let mut buffer = [0; MAX_DATAGRAM];
        let mut seen = 0;
        for (index, datagram) in datagrams.enumerate() {
            let Some(out) = buffer.get_mut(..datagram.len()) else {
                return false;
            };
            datagram.write(out);
            let Some(got) = receive(out, dialect) else {
                return false;
            };
            let place = match (got.of, dialect) {
                (None, _) => count == 1 && header.len() + 1 + body.len() <= MAX_DATAGRAM,
                (Some(of), Dialect::Ncrx) => of == (body.len(), 0),
                (Some(of), Dialect::Nca) => of == (index, count),
            };
            if !place
                || got.header != header
                || got.offset != seen
                || body.get(seen..seen + got.body.len()) != Some(got.body)
                || (got.body.is_empty() && count > 1)
            {
                return false;
            }
            seen += got.body.len();
        }
        seen == body.len()
    }

    #[test]
    fn every_length_reassembles() {
        for header in [1, 25, 60, 133, 400] {
            let header = &LONG_HEADER[..header];
            for len in 0..=LONGEST_BODY {
                assert!(reassembles(header, &BODY[..len], Dialect::Ncrx));
                assert!(reassembles(header, &BODY[..len], Dialect::Nca));
            }
        }
    }

    fn datagram<'b>(record: &[u8], form: Form<'_>, n: usize, buf: &'b mut [u8; 1000]) -> &'b [u8] {
        let record = Record::parse(record).ok();
        let datagram = record.and_then(|r| Datagrams::new(r, form).ok()?.nth(n));
        let Some(datagram) = datagram else { return b"" };
        let out = &mut buf[..datagram.len()];
        datagram.write(out);
        out
    }

    #[test]
    fn records() {
        let extra = Extra {
            user: b" rack=7\n",
            sys: b" cpu=2\n",
        };
        let (nca, ncrx) = (form(Dialect::Nca), form(Dialect::Ncrx));
        let (session, range) = (Some(Session(0x1f)), |first, last| {
            Some(Range { first, last })
        });
        let table: &[(&[u8], Form<'_>, &[u8])] = &[
            // As it is.
            (b"4,7,99,-;x\n", nca, b"4,7,99,-;x\n"),
            (
                b"6,8,100,c,caller=T1;a;b\n DEVICE=n2\n",
                ncrx,
                b"6,8,100,c,caller=T1;a;b\n DEVICE=n2\n",
            ),
            // With the release, and in an emergency.
            (
                b"4,7,99,-;x\n",
                Form {
                    release: Some(b"7.3.4"),
                    emergency: true,
                    ..ncrx
                },
                b"7.3.4,4,7,99,-,ncemg=1;x\n",
            ),
            (
                b"4,7,99,-;x\n",
                Form {
                    emergency: true,
                    ..nca
                },
                b"4,7,99,-,emg=1;x\n",
            ),
            // To a peer that knows sessions, with hidden and lost records before it.
            (
                b"4,7,99,-;x\n",
                Form { session, ..nca },
                b"4,7,99,-,ncs=000000000000001f;x\n",
            ),
            (
                b"4,7,99,-;x\n",
                Form {
                    session,
                    skip: range(4, 6),
                    lost: range(3, 3),
                    emergency: true,
                    ..ncrx
                },
                b"4,7,99,-,ncs=000000000000001f,ncskip=4-6,nclost=3-3,ncemg=1;x\n",
            ),
            // Of a crash.
            (
                b"4,7,99,-;x\n",
                Form {
                    session,
                    crash: true,
                    emergency: true,
                    ..nca
                },
                b"4,7,99,-,ncs=000000000000001f,nccrash=1,emg=1;x\n",
            ),
            // With lines behind it.
            (
                b"4,7,99,-;x\n",
                Form { extra, ..ncrx },
                b"4,7,99,-;x\n rack=7\n cpu=2\n",
            ),
            // A newline that printk has cut off is put back then, and only then.
            (
                b"4,7,99,-;x",
                Form { extra, ..nca },
                b"4,7,99,-;x\n rack=7\n cpu=2\n",
            ),
            (b"4,7,99,-;x", nca, b"4,7,99,-;x"),
        ];
        let buf = &mut [0; MAX_DATAGRAM];
        for &(record, form, sent) in table {
            assert!(datagram(record, form, 0, buf) == sent);
            assert!(datagram(record, form, 1, buf).is_empty());
        }
        let out = &mut [0; MAX_SUBSTITUTE];
        let gone = b"4,7,0,-;netconsole_ext: record 7 was lost at the source\n";
        assert!(substitute(7, out) == gone);
    }

    #[test]
    fn a_record_that_fits_is_sent_as_it_is() {
        let buf = &mut [0; MAX_DATAGRAM];
        let record = b"6,416,1758426,-,caller=T1;a;b\n SUBSYSTEM=net\n DEVICE=n2\n";
        assert!(datagram(record, form(Dialect::Nca), 0, buf) == record);
        assert!(datagram(record, form(Dialect::Ncrx), 0, buf) == record);
        assert!(datagram(record, form(Dialect::Ncrx), 1, buf).is_empty());
    }

    /// The fragments of any record with lines behind it are those of a record that has them in its
    /// body.
    #[test]
    fn lines_behind_a_record_are_of_its_body() {
        let whole = &mut [0; 3500];
        for body in [0, 1, 700, 940, 960, 975, 1900, 2000] {
            for user in [0, 1, 50, 985, 1200] {
                for sys in [0, 1, 60] {
                    let extra = Extra {
                        user: &BODY[100..100 + user],
                        sys: &BODY[2000..2000 + sys],
                    };
                    let record = Record {
                        header: b"6,1,2,-",
                        body: &BODY[..body],
                    };
                    let cut = user + sys > 0 && !record.body.ends_with(b"\n");
                    let newline: &[u8] = if cut { b"\n" } else { b"" };
                    let mut len = 0;
                    for piece in [record.body, newline, extra.user, extra.sys] {
                        whole[len..len + piece.len()].copy_from_slice(piece);
                        len += piece.len();
                    }
                    let same = Record {
                        body: &whole[..len],
                        ..record
                    };
                    for dialect in [Dialect::Nca, Dialect::Ncrx] {
                        let form = Form::plain(dialect);
                        assert!(equal(record, Form { extra, ..form }, same, form));
                    }
                }
            }
        }
    }

    /// Whether two records are sent in the same datagrams.
    fn equal(a: Record<'_>, a_form: Form<'_>, b: Record<'_>, b_form: Form<'_>) -> bool {
        let (Ok(a), Ok(mut b)) = (Datagrams::new(a, a_form), Datagrams::new(b, b_form)) else {
            return false;
        };
        let (mut left, mut right) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        for a in a {
            let Some(b) = b.next() else { return false };
            a.write(&mut left[..a.len()]);
            b.write(&mut right[..b.len()]);
            if left[..a.len()] != right[..b.len()] {
                return false;
            }
        }
        b.next().is_none()
    }

    #[test]
    fn fragments_are_marked() {
        let buf = &mut [0; MAX_DATAGRAM];
        let mut record = [b'x'; 2000];
        record[..11].copy_from_slice(b"4,70,999,-;");
        let last = datagram(&record, form(Dialect::Ncrx), 2, buf);
        assert!(last.starts_with(b"4,70,999,-,ncfrag=1944/1989;x"));
        let emergency = Form {
            emergency: true,
            ..form(Dialect::Nca)
        };
        let last = datagram(&record, emergency, 2, buf);
        assert!(last.starts_with(b"4,70,999,-,emg=1,ncfrag=1922@2/3;x"));
    }

    #[test]
    fn a_repeated_record_is_the_record() {
        let buf = &mut [0; MAX_DATAGRAM];
        let replay = b"** replaying previous printk message **\n6,1,2,-;hello\n";
        assert!(datagram(replay, form(Dialect::Ncrx), 0, buf) == b"6,1,2,-;hello\n");
    }

    #[test]
    fn numbers_and_levels() {
        let record = Record::parse(b"14,416,1758426,-,caller=T1;7,8,9;x\n").ok();
        assert!(record.and_then(|r| r.seq()) == Some(416));
        assert!(record.and_then(|r| r.level()) == Some(6));
        let odd = Record::parse(b"x,y;").ok();
        assert!(odd.is_some_and(|r| r.seq().is_none() && r.level().is_none()));
        let out = &mut [0; MAX_SUBSTITUTE];
        let text = b"4,7,0,-;netconsole_ext: record 7 was lost at the source\n";
        assert!(substitute(7, out) == text);
        assert!(substitute(u64::MAX, out).ends_with(b"source\n"));
    }

    #[test]
    fn absurd_records_are_refused() {
        assert!(Record::parse(b"no header\n").is_err_and(|e| e == BadRecord::NoHeader));
        assert!(Record::parse(b"").is_err_and(|e| e == BadRecord::NoHeader));
        let long = Record {
            header: &LONG_HEADER,
            body: b"x\n",
        };
        assert!(
            Datagrams::new(long, form(Dialect::Ncrx)).is_err_and(|e| e == BadRecord::HeaderTooLong)
        );
    }

    /// A response as one sees it.
    type Seen = (
        Dialect,
        Option<u64>,
        &'static [(u64, u64)],
        Option<Option<u64>>,
    );

    #[test]
    fn responses() {
        use Dialect::*;
        let longest = &mut [b' '; MAX_DATAGRAM];
        longest[..3].copy_from_slice(b"nca");
        let table: &[(&[u8], Seen)] = &[
            (b"nca", (Nca, None, &[], None)),
            (b"nca0", (Nca, Some(0), &[], None)),
            (b"nca7", (Nca, Some(7), &[], None)),
            (b"ncrx7 ", (Ncrx, Some(7), &[], None)),
            (b"nca7\n", (Nca, Some(7), &[], None)),
            (b"nca7\0", (Nca, Some(7), &[], None)),
            (
                b"  ncrx   9\t11 \r\n",
                (Ncrx, None, &[(9, 9), (11, 11)], None),
            ),
            (b"nca7 9-12 9", (Nca, Some(7), &[(9, 12), (9, 9)], None)),
            (b"nca18446744073709551615", (Nca, Some(u64::MAX), &[], None)),
            (
                b"nca1 0-18446744073709551615",
                (Nca, Some(1), &[(0, u64::MAX)], None),
            ),
            (b"nca ~", (Nca, None, &[], Some(None))),
            (
                b"nca7 9 ~00000000000000fF",
                (Nca, Some(7), &[(9, 9)], Some(Some(255))),
            ),
            (longest, (Nca, None, &[], None)),
        ];
        for &(datagram, (dialect, ack, missing, session)) in table {
            let seen = Response::parse(datagram).is_some_and(|r| {
                let missing = missing.iter().map(|&(first, last)| Range { first, last });
                r.dialect == dialect
                    && r.ack == ack
                    && r.session == session.map(|s| s.map(Session))
                    && r.missing().eq(missing)
            });
            assert!(seen);
        }
    }

    #[test]
    fn what_is_no_response() {
        let table: &[&[u8]] = &[
            b"",
            b" ",
            b"nc",
            b"NCA7",
            b"nack7",
            b"nca-7",
            b"nca+7",
            b"nca7x",
            b"nca7,8",
            b"nca18446744073709551616",
            b"nca7 18446744073709551616",
            b"nca7 x",
            b"nca7 +9",
            b"nca7 12-9",
            b"nca7 9-",
            b"nca7 -9",
            b"nca7 9-10-11",
            b"nca7 nca8",
            b"nca7 ~ 9",
            b"nca7 ~~",
            b"nca7 ~ff",
            b"nca7 ~00000000000000fg",
            b"nca7 ~00000000000000ff0",
            b"nca7\08",
            b"nca7\xff",
            b"\xff\xfe\x00",
            &[b' '; MAX_DATAGRAM],
            &[b'n'; MAX_DATAGRAM + 500],
        ];
        for datagram in table {
            assert!(Response::parse(datagram).is_none());
        }
        let long = &mut [b' '; MAX_DATAGRAM + 1];
        long[..3].copy_from_slice(b"nca");
        assert!(Response::parse(long).is_none());
    }
}
