// SPDX-License-Identifier: GPL-2.0

//! The tests of `wire.rs`, and of its examples: `examples.md`, which is a page for people as well.

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_wire)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::super::{
        response::*,
        wire::*, //
    };

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
        let count = datagrams.iter().count();
        let mut buffer = [0; MAX_DATAGRAM];
        let mut seen = 0;
        for (index, datagram) in datagrams.iter().enumerate() {
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

    /// The rows of the table under a heading of `examples.md`.
    fn rows(heading: &str) -> impl Iterator<Item = &'static str> + '_ {
        let lines = include_str!("examples.md").lines();
        let lines = lines.skip_while(move |line| line.strip_prefix("## ") != Some(heading));
        let lines = lines.skip(1).take_while(|line| !line.starts_with("## "));
        // The first two name the columns.
        lines.filter(|line| line.starts_with('|')).skip(2)
    }

    /// The cells of a row, without the backticks around bytes.
    fn cells<const N: usize>(row: &'static str) -> [&'static str; N] {
        let mut cells = row.split('|').skip(1).map(|cell| {
            let cell = cell.trim_matches(' ');
            let bytes = cell.strip_prefix('`').and_then(|c| c.strip_suffix('`'));
            bytes.unwrap_or(cell)
        });
        core::array::from_fn(|_| cells.next().unwrap_or_default())
    }

    /// Passes on whether an example holds, and names one that does not.
    fn holds(row: &str, ok: bool) -> bool {
        #[cfg(test)]
        assert!(ok, "{row}");
        #[cfg(not(test))]
        if !ok {
            kernel::pr_err!("does not hold: {}\n", row);
        }
        ok
    }

    /// The bytes that a cell stands for; [`None`] if it is not well formed, or if there is no room.
    fn bytes<'b>(cell: &str, out: &'b mut [u8]) -> Option<&'b [u8]> {
        let (mut cell, mut len) = (cell.as_bytes(), 0_usize);
        while let Some((&c, rest)) = cell.split_first() {
            let (byte, times, rest) = match (c, rest) {
                (b'\\', [b'n', rest @ ..]) => (b'\n', 1, rest),
                (b'\\', [b'r', rest @ ..]) => (b'\r', 1, rest),
                (b'\\', [b't', rest @ ..]) => (b'\t', 1, rest),
                (b'\\', [b'0', rest @ ..]) => (b'\0', 1, rest),
                (b'\\', [b'x', high, low, rest @ ..]) => {
                    let digit = |c: &u8| char::from(*c).to_digit(16);
                    ((digit(high)? * 16 + digit(low)?) as u8, 1, rest)
                }
                // The byte is there once already.
                (b'\\', [b'{', rest @ ..]) => {
                    let end = rest.iter().position(|&c| c == b'}')?;
                    let times = number(&rest[..end])?.checked_sub(1)?;
                    (out[len.checked_sub(1)?], times, &rest[end + 1..])
                }
                (b'\\', _) => return None,
                _ => (c, 1, rest),
            };
            out.get_mut(len..len.checked_add(times)?)?.fill(byte);
            (cell, len) = (rest, len + times);
        }
        Some(&out[..len])
    }

    /// The form that the words of an example stand for.
    fn sent_as(words: &'static str) -> Option<Form<'static>> {
        let mut words = words.split(' ');
        let mut form = form(match words.next()? {
            "nca" => Dialect::Nca,
            "ncrx" => Dialect::Ncrx,
            _ => return None,
        });
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("release", value) => form.release = Some(value.as_bytes()),
                ("session", _) => form.session = Some(Session(0x1f)),
                ("crash", _) => form.crash = true,
                ("emergency", _) => form.emergency = true,
                ("skip", value) => form.skip = Some(range(value.as_bytes())?),
                ("lost", value) => form.lost = Some(range(value.as_bytes())?),
                _ => return None,
            }
        }
        Some(form)
    }

    /// Whether datagram `index` of an example's record is the one that the row names; and whether
    /// it is the last.
    fn is_datagram(
        [record, words, lines]: [&'static str; 3],
        index: usize,
        sent: &str,
    ) -> Option<(bool, bool)> {
        let (record_room, lines_room, sent_room) = (&mut [0; 2048], &mut [0; 64], &mut [0; 1024]);
        let mut form = sent_as(words)?;
        let record = Record::parse(bytes(record, record_room)?).ok()?;
        let extra = Extra {
            user: bytes(lines, lines_room)?,
            sys: b"",
        };
        form = Form { extra, ..form };
        let datagrams = Datagrams::new(record, form).ok()?;
        let mut datagrams = datagrams.iter().skip(index);
        let datagram = datagrams.next()?;
        let out = &mut [0; MAX_DATAGRAM];
        datagram.write(&mut out[..datagram.len()]);
        let same = &out[..datagram.len()] == bytes(sent, sent_room)?;
        Some((same, datagrams.next().is_none()))
    }

    #[test]
    fn examples_of_records() {
        let (mut example, mut index, mut last, mut count) = ([""; 3], 0, true, 0);
        for row in rows("Records") {
            let [record, words, lines, sent] = cells(row);
            if record.is_empty() {
                index += 1;
            } else {
                assert!(last);
                (example, index) = ([record, words, lines], 0);
            }
            let found = is_datagram(example, index, sent);
            assert!(holds(row, found.is_some_and(|(same, _)| same)));
            last = found.is_some_and(|(_, last)| last);
            count += 1;
        }
        assert!(last && count > 15);
    }

    #[test]
    fn examples_of_lost_records() {
        let mut count = 0;
        for row in rows("Lost records") {
            let [seq, record] = cells(row);
            let (out, room) = (&mut [0; MAX_SUBSTITUTE], &mut [0; 128]);
            let made = seq.parse().ok().map(|seq| substitute(seq, out));
            assert!(holds(row, made.is_some() && made == bytes(record, room)));
            count += 1;
        }
        assert!(count > 1);
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
        let (Ok(a), Ok(b)) = (Datagrams::new(a, a_form), Datagrams::new(b, b_form)) else {
            return false;
        };
        let mut b = b.iter();
        let (mut left, mut right) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        for a in a.iter() {
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
    fn numbers() {
        assert!(seq(b"14,416,1758426,-,caller=T1;7,8,9;x\n") == Some(416));
        assert!(seq(b"** replaying previous printk message **\n6,7,8,-;x\n") == Some(7));
        for odd in [
            &b"x,y;"[..],
            b"6,7",
            b"6;7,8",
            b"6,;",
            b"6",
            b"6,12345678901234567890,1",
        ] {
            assert!(seq(odd).is_none());
        }
        let out = &mut [0; MAX_SUBSTITUTE];
        let text = b"4,7,0,-;netconsole_ext: record 7 was lost at the source\n";
        assert!(substitute(7, out) == text);
        assert!(substitute(u64::MAX, out).ends_with(b"source\n"));
    }

    #[test]
    fn bytes_are_found_wherever_they_are() {
        let mut text = [b'x'; 30];
        for start in 0..8 {
            for at in start..text.len() {
                // A byte that differs from it by one bit, or by a borrow, is another.
                for other in [b';' ^ 1, b';' + 1, b';' - 1, b';' | 0x80] {
                    text.fill(other);
                    assert!(find(&text[start..], b';').is_none());
                    text[at..].fill(b';');
                    assert!(find(&text[start..], b';') == Some(at - start));
                }
            }
        }
        assert!(find(b"", b';').is_none());
    }

    #[test]
    fn a_session_has_sixteen_digits() {
        assert!(&Session(0x0123_4567_89ab_cdef).digits() == b"0123456789abcdef");
        assert!(&Session(0xf).digits() == b"000000000000000f");
        assert!(&Session(0xa9f0_9a5b_c6d3_e478).digits() == b"a9f09a5bc6d3e478");
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

    /// Whether a datagram is the response that an example says.
    fn is_response([datagram, dialect, ack, missing, session]: [&'static str; 5]) -> bool {
        let room = &mut [0; 2048];
        let Some(response) = bytes(datagram, room).and_then(Response::parse) else {
            return false;
        };
        let name = match response.dialect {
            Dialect::Nca => "nca",
            Dialect::Ncrx => "ncrx",
        };
        let ranges = missing.split(' ').filter_map(|word| range(word.as_bytes()));
        let mark = match session {
            "" => None,
            mark => super::super::response::session(mark.as_bytes()),
        };
        name == dialect
            && response.ack == ack.parse().ok()
            && response.missing().eq(ranges)
            && response.session == mark
    }

    #[test]
    fn examples_of_responses() {
        let mut count = 0;
        for row in rows("Responses") {
            assert!(holds(row, is_response(cells(row))));
            count += 1;
        }
        assert!(count > 10);
    }

    #[test]
    fn examples_of_no_responses() {
        let mut count = 0;
        for row in rows("No responses") {
            let ([cell], room) = (cells(row), &mut [0; 2048]);
            let datagram = bytes(cell, room);
            assert!(holds(
                row,
                datagram.is_some_and(|d| Response::parse(d).is_none())
            ));
            count += 1;
        }
        assert!(count > 20);
        // Nothing at all cannot be shown there.
        assert!(Response::parse(b"").is_none());
    }
}
