// SPDX-License-Identifier: GPL-2.0

//! The protocol, from record to datagrams: pure, `core` only.
//!
//! printk's extended format of a record is a header, a semicolon and a body:
//!
//! ```text
//! <prio>,<seq>,<usec>,<flags>[,<key>=<value>]*;<text>\n[ <KEY>=<value>\n]*
//! ```
//!
//! A datagram of at most [`MAX_DATAGRAM`] bytes carries one record, or one fragment of one. What
//! this module adds to the header stands behind printk's keys, in this order:
//!
//! | | dialect `nca` (the 2015 series') | dialect `ncrx` (Meta's libncrx, upstream) |
//! |---|---|---|
//! | emergency | `,emg=1` | `,ncemg=1` |
//! | fragment | `,ncfrag=<byte-offset>@<index>/<count>` | `,ncfrag=<byte-offset>/<total-bytes>` |
//!
//! The offset counts bytes of the body, which is all after the first semicolon. Every fragment
//! repeats the whole header. A record that fits is sent as it is, unless it is an emergency one.
//! The kernel release, if asked for, stands before all: `<release>,<prio>,...`.

use core::fmt::{
    self,
    Write, //
};

/// The most bytes in a datagram: upstream's `MAX_PRINT_CHUNK`, which receivers count on.
pub(crate) const MAX_DATAGRAM: usize = 1000;

/// The most bytes of a header, with the release and the keys added here.
///
/// A header from printk has about 60 bytes and a release at most 65. With this limit every
/// fragment carries at least half a datagram of the body, so that no header, however absurd, turns
/// one record into thousands of datagrams.
const MAX_HEADER: usize = MAX_DATAGRAM / 2;

/// Which of the two protocols a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// That of the series of 2015 which had the idea.
    #[cfg_attr(not(any(test, CONFIG_KUNIT)), expect(dead_code))]
    Nca,
    /// That of libncrx and, for fragments, of upstream's netconsole: what a peer that has never
    /// spoken is taken to understand.
    Ncrx,
}

/// Why a record cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    /// No semicolon: not in the extended format.
    NoHeader,
    /// A header that leaves too little of a datagram for the body.
    HeaderTooLong,
}

/// A record in printk's extended format.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    /// All before the first semicolon.
    header: &'a [u8],
    /// All after it.
    body: &'a [u8],
}

/// What a console that has taken over from another prefixes to the record that it repeats
/// (`printk_buffers` in kernel/printk/printk.c, `console_prepend_replay()`), extended or not.
const REPLAY: &[u8] = b"** replaying previous printk message **\n";

impl<'a> Record<'a> {
    /// Splits what printk hands to an extended console.
    ///
    /// printk's remark that it repeats a record is not part of the record, and left out.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BadRecord> {
        let bytes = bytes.strip_prefix(REPLAY).unwrap_or(bytes);
        let at = bytes
            .iter()
            .position(|&c| c == b';')
            .ok_or(BadRecord::NoHeader)?;
        Ok(Self {
            header: &bytes[..at],
            body: &bytes[at + 1..],
        })
    }
}

/// How a record is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    /// How fragments and emergency records are marked.
    pub(crate) dialect: Dialect,
    /// The kernel release to put before each datagram.
    pub(crate) release: Option<&'a [u8]>,
    /// Whether it is sent because no ack came for it.
    pub(crate) emergency: bool,
}

/// Something that a datagram is written to, or measured with.
trait Sink: Write {
    fn bytes(&mut self, bytes: &[u8]);
}

/// Only counts.
struct Length(usize);

impl Sink for Length {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Writes from the start of a slice, and never beyond its end.
struct Buffer<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl Sink for Buffer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        // The slice is as long as `Length` has counted, so `n` is always `bytes.len()`.
        let room = &mut self.out[self.len..];
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }
}

impl Write for Length {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

impl Write for Buffer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// How a record is cut.
#[derive(Clone, Copy)]
enum Cut {
    /// Not at all.
    Whole,
    /// Into `count` fragments of `size` body bytes, the last one shorter.
    Fragments { size: usize, count: usize },
}

/// The datagrams of one record, in order.
///
/// Holds nothing but references: a datagram is written only where it is to be sent from.
///
/// # Invariants
///
/// No datagram is longer than [`MAX_DATAGRAM`], and the number of fragments is at most
/// `body.len() / (MAX_DATAGRAM - MAX_HEADER) + 1`.
#[derive(Clone)]
pub(crate) struct Datagrams<'a> {
    record: Record<'a>,
    form: Form<'a>,
    cut: Cut,
    next: usize,
}

/// The number of decimal digits of `n`.
fn digits(n: usize) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl<'a> Datagrams<'a> {
    /// Cuts a record into datagrams.
    pub(crate) fn new(record: Record<'a>, form: Form<'a>) -> Result<Self, BadRecord> {
        let mut whole = Self {
            record,
            form,
            cut: Cut::Whole,
            next: 0,
        };
        let mut header = Length(0);
        whole.head(&mut header, 0);
        // The longest fragment key of this record: an offset, an index and a count have at most as
        // many digits as the length of the body.
        let total = digits(record.body.len());
        let key = match form.dialect {
            Dialect::Nca => ",ncfrag=@/".len() + 3 * total,
            Dialect::Ncrx => ",ncfrag=/".len() + 2 * total,
        };
        if header.0 + key > MAX_HEADER {
            return Err(BadRecord::HeaderTooLong);
        }
        if header.0 + record.body.len() > MAX_DATAGRAM {
            // INVARIANT: At least MAX_DATAGRAM - MAX_HEADER bytes, by the check above.
            let size = MAX_DATAGRAM - header.0 - key;
            let count = record.body.len().div_ceil(size);
            whole.cut = Cut::Fragments { size, count };
        }
        Ok(whole)
    }

    /// The header of datagram `index`, with the semicolon.
    fn head(&self, out: &mut impl Sink, index: usize) {
        if let Some(release) = self.form.release {
            out.bytes(release);
            out.bytes(b",");
        }
        out.bytes(self.record.header);
        if self.form.emergency {
            out.bytes(match self.form.dialect {
                Dialect::Nca => b",emg=1",
                Dialect::Ncrx => b",ncemg=1",
            });
        }
        if let Cut::Fragments { size, count } = self.cut {
            let offset = index * size;
            // Writing to a sink cannot fail.
            let _ = match self.form.dialect {
                Dialect::Nca => write!(out, ",ncfrag={offset}@{index}/{count}"),
                Dialect::Ncrx => write!(out, ",ncfrag={offset}/{}", self.record.body.len()),
            };
        }
        out.bytes(b";");
    }

    /// The part of the body that datagram `index` carries.
    fn part(&self, index: usize) -> &'a [u8] {
        match self.cut {
            Cut::Whole => self.record.body,
            Cut::Fragments { size, .. } => {
                self.record.body.chunks(size).nth(index).unwrap_or_default()
            }
        }
    }
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = Datagram<'a>;

    fn next(&mut self) -> Option<Datagram<'a>> {
        let count = match self.cut {
            Cut::Whole => 1,
            Cut::Fragments { count, .. } => count,
        };
        let index = self.next;
        (index < count).then(|| {
            self.next += 1;
            let record = self.clone();
            let mut head = Length(0);
            record.head(&mut head, index);
            let len = head.0 + record.part(index).len();
            Datagram { record, index, len }
        })
    }
}

/// One datagram of a record, not yet written anywhere.
pub(crate) struct Datagram<'a> {
    record: Datagrams<'a>,
    index: usize,
    len: usize,
}

impl Datagram<'_> {
    /// Its length in bytes, at most [`MAX_DATAGRAM`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes it to `out`, which has [`Self::len`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let mut out = Buffer { out, len: 0 };
        self.record.head(&mut out, self.index);
        out.bytes(self.record.part(self.index));
    }
}

#[cfg_attr(CONFIG_KUNIT, kernel::macros::kunit_tests(netconsole_ext_wire))]
#[cfg(any(test, CONFIG_KUNIT))]
mod tests {
    use super::*;

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
        Form {
            dialect,
            release: None,
            emergency: false,
        }
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
    fn a_record_that_fits_is_sent_as_it_is() {
        let buf = &mut [0; MAX_DATAGRAM];
        let record = b"6,416,1758426,-,caller=T1;a;b\n SUBSYSTEM=net\n DEVICE=n2\n";
        assert!(datagram(record, form(Dialect::Nca), 0, buf) == record);
        assert!(datagram(record, form(Dialect::Ncrx), 0, buf) == record);
        assert!(datagram(record, form(Dialect::Ncrx), 1, buf).is_empty());
    }

    #[test]
    fn release_and_emergency() {
        let buf = &mut [0; MAX_DATAGRAM];
        let ncrx = Form {
            dialect: Dialect::Ncrx,
            release: Some(b"7.3.4"),
            emergency: true,
        };
        let nca = Form {
            dialect: Dialect::Nca,
            release: None,
            ..ncrx
        };
        assert!(datagram(b"4,7,99,-;x\n", ncrx, 0, buf) == b"7.3.4,4,7,99,-,ncemg=1;x\n");
        assert!(datagram(b"4,7,99,-;x\n", nca, 0, buf) == b"4,7,99,-,emg=1;x\n");
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
}
