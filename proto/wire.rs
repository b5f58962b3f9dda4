// SPDX-License-Identifier: GPL-2.0

//! The protocol from the sender to loggers: records to datagrams. Pure, `core` only.
//!
//! `docs/protocol.md` is the reference, for people who write receivers as well; `examples.md` has
//! tables of records and responses, which `wire_tests.rs` reads. In short:
//!
//! A datagram of at most [`MAX_DATAGRAM`] bytes carries one record in printk's extended format, or
//! one fragment of one:
//!
//! ```text
//! [<release>,]<prio>,<seq>,<usec>,<flag>[,<key>=<value>]*;<text>\n[ <KEY>=<value>\n]*
//! ```
//!
//! Keys of the sender's follow printk's, in this order:
//!
//! | | dialect `nca` (the 2015 series') | dialect `ncrx` (Meta's libncrx, upstream) |
//! |---|---|---|
//! | session | `,ncs=<16 hex digits>` | the same |
//! | hidden records | `,ncskip=<a>-<b>` | the same |
//! | lost records | `,nclost=<a>-<b>` | the same |
//! | crash | `,nccrash=1` | the same |
//! | emergency | `,emg=1` | `,ncemg=1` |
//! | fragment | `,ncfrag=<byte-offset>@<index>/<count>` | `,ncfrag=<byte-offset>/<total-bytes>` |
//!
//! The first four are only for a peer that knows sessions. Userdata and sysdata follow the record's
//! own body. Offsets of fragments count bytes of the body with these lines; every fragment repeats
//! the header.
//!
//! Responses are in `response.rs`.

use core::{
    fmt,
    mem, //
};

/// The most bytes in a datagram: upstream's `MAX_PRINT_CHUNK`, which receivers count on.
pub(crate) const MAX_DATAGRAM: usize = 1000;

/// The most bytes of a header, with the release and the keys added here.
///
/// A header from printk has about 60 bytes and a release at most 65. The limit leaves every
/// fragment at least half a datagram for the body, so a long header cannot turn one record into
/// thousands of datagrams.
pub(crate) const MAX_HEADER: usize = MAX_DATAGRAM / 2;

/// The keys that the sender adds to a header, each with its comma and `=`.
pub(crate) mod key {
    /// The session.
    pub(crate) const SESSION: &[u8] = b",ncs=";
    /// Hidden records.
    pub(crate) const SKIP: &[u8] = b",ncskip=";
    /// Lost records.
    pub(crate) const LOST: &[u8] = b",nclost=";
    /// The mark of a crash's own records, complete.
    pub(crate) const CRASH: &[u8] = b",nccrash=1";
    /// The emergency mark of the dialect `nca`, complete.
    pub(crate) const EMERGENCY_NCA: &[u8] = b",emg=1";
    /// The emergency mark of the dialect `ncrx`, complete.
    pub(crate) const EMERGENCY_NCRX: &[u8] = b",ncemg=1";
    /// The place of a fragment.
    pub(crate) const FRAGMENT: &[u8] = b",ncfrag=";
}

/// One of the two protocols, which a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // The receiver's library has it in its interface.
pub enum Dialect {
    /// The 2015 series'.
    Nca,
    /// Libncrx's and, for fragments, upstream's netconsole's. A logger that has not responded yet
    /// is assumed to understand it.
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
    /// The bytes before the first semicolon.
    pub(crate) header: &'a [u8],
    /// The bytes after the first semicolon.
    pub(crate) body: &'a [u8],
}

/// The prefix that printk gives to a record that a console repeats after a takeover
/// (`printk_buffers`, `console_prepend_replay()` in kernel/printk/printk.c), in both formats.
const REPLAY: &[u8] = b"** replaying previous printk message **\n";

/// Returns a record without printk's replay prefix.
pub(crate) fn without_remark(bytes: &[u8]) -> &[u8] {
    // Few begin so, and the rest of the prefix need not be compared.
    match bytes.first() {
        Some(b'*') => bytes.strip_prefix(REPLAY).unwrap_or(bytes),
        _ => bytes,
    }
}

/// The most bytes of a substitute record.
pub(crate) const MAX_SUBSTITUTE: usize = 128;

/// Writes the substitute for record `seq`, which is lost, for a peer that does not know `nclost`: a
/// warning with the time 0. A number always gets the same bytes, so that it can be sent again.
pub(crate) fn substitute(seq: u64, out: &mut [u8; MAX_SUBSTITUTE]) -> &[u8] {
    let mut buffer = Buffer(out);
    // Two numbers of at most 20 digits each and 59 other bytes.
    buffer.bytes(b"4,");
    buffer.decimal(seq);
    buffer.bytes(b",0,-;netconsole_ext: record ");
    buffer.decimal(seq);
    buffer.bytes(b" was lost at the source\n");
    let len = MAX_SUBSTITUTE - buffer.0.len();
    &out[..len]
}

/// Returns the number of a record, which is its second field.
pub(crate) fn seq(record: &[u8]) -> Option<u64> {
    let mut bytes = without_remark(record).iter();
    bytes.find(|&&c| c == b',')?;
    // So many digits cannot overflow; printk would need centuries for more.
    let (mut seq, mut left) = (0_u64, MAX_DIGITS);
    for &c in bytes {
        let digit = c.wrapping_sub(b'0');
        if digit > 9 || left == 0 {
            let is_field = matches!(c, b',' | b';') && left < MAX_DIGITS;
            return is_field.then_some(seq);
        }
        seq = seq.wrapping_mul(10).wrapping_add(digit.into());
        left -= 1;
    }
    None
}

/// Any number with so many decimal digits fits into 64 bits.
const MAX_DIGITS: u32 = 19;

impl<'a> Record<'a> {
    /// Splits the bytes that printk hands to an extended console.
    ///
    /// printk's replay prefix is left out. To make room for it printk may have cut the end of a
    /// record of about 2000 bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BadRecord> {
        let bytes = without_remark(bytes);
        let at = find(bytes, b';').ok_or(BadRecord::NoHeader)?;
        Ok(Self {
            header: &bytes[..at],
            body: &bytes[at + 1..],
        })
    }
}

/// Returns the place of the first byte `wanted`: eight bytes at a time, since a header is looked
/// through for each record.
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let same = u64::from(wanted) * ONES;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word) ^ same;
        // The lowest bit set is that of the first zero byte; higher ones may be set by borrowing.
        let zeroes = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeroes != 0 {
            return Some(bytes.len() - rest.len() + zeroes.trailing_zeros() as usize / 8);
        }
        rest = after;
    }
    let at = rest.iter().position(|&c| c == wanted)?;
    Some(bytes.len() - rest.len() + at)
}

/// Consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // As the dialect.
pub struct Range {
    /// The first number.
    pub first: u64,
    /// The last number, not less than `first`.
    pub last: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Returns the digits of a number, all computed at once, since every record has some.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // One digit in each byte.
    let mut spread = u64::from(number);
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & (15 * ONES);
    // One in each byte that is above 9.
    let letters = (spread.wrapping_add(6 * ONES) >> 4) & ONES;
    let to_letters = letters.wrapping_mul(u64::from(b'a' - b'0' - 10));
    let digits = spread.wrapping_add(u64::from(b'0') * ONES);
    digits.wrapping_add(to_letters).to_be_bytes()
}

/// A load of the module: a random number that its records carry. Responses that name another
/// session are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(unreachable_pub)] // As the dialect.
pub struct Session(pub u64);

impl Session {
    /// Returns the 16 hexadecimal digits.
    pub(super) fn digits(self) -> [u8; 16] {
        let mut digits = [0; 16];
        let (high, low) = digits.split_at_mut(8);
        high.copy_from_slice(&hex((self.0 >> 32) as u32));
        low.copy_from_slice(&hex(self.0 as u32));
        digits
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The form in which a record is sent.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Decides the marks of fragments and emergency records.
    pub(crate) dialect: Dialect,
    /// The kernel release to put before each datagram.
    pub(crate) release: Option<&'a [u8]>,
    /// Whether the record is sent because no ack came for it.
    pub(crate) emergency: bool,
    /// The session, for a peer that knows sessions. The next three fields are for such a peer only.
    pub(crate) session: Option<Session>,
    /// Whether the record is of the crash that the machine ends with. No records follow these, so
    /// the receiver need not wait for missing ones before them.
    pub(crate) crash: bool,
    /// Records that the console log level hides.
    pub(crate) skip: Option<Range>,
    /// Records that are lost.
    pub(crate) lost: Option<Range>,
    /// Lines behind the record.
    pub(crate) extra: Extra<'a>,
}

/// Lines that are sent behind a record: complete lines ` <key>=<value>\n`, or nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// Userdata.
    pub(crate) user: &'a [u8],
    /// Sysdata.
    pub(crate) sys: &'a [u8],
}

/// The body in pieces: the record's own, a newline if that lacks one, userdata, sysdata.
#[derive(Clone, Copy)]
struct Body<'a>([&'a [u8]; 4]);

impl<'a> Body<'a> {
    fn new(record: &'a [u8], extra: Extra<'a>) -> Self {
        let extended = !(extra.user.is_empty() && extra.sys.is_empty());
        let newline: &[u8] = if extended && !record.ends_with(b"\n") {
            b"\n"
        } else {
            b""
        };
        Self([record, newline, extra.user, extra.sys])
    }

    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Writes the bytes from `start` on, `len` of them.
    fn write(&self, out: &mut Buffer<'_>, start: usize, len: usize) {
        let (mut skip, mut left) = (start, len);
        for piece in self.0.iter().filter(|piece| !piece.is_empty()) {
            let from = skip.min(piece.len());
            let bytes = &piece[from..];
            let bytes = &bytes[..left.min(bytes.len())];
            out.bytes(bytes);
            skip -= from;
            left -= bytes.len();
        }
    }
}

#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
impl Form<'static> {
    /// Returns the form of a record without marks, in a dialect.
    pub(crate) const fn plain(dialect: Dialect) -> Self {
        Self {
            dialect,
            release: None,
            emergency: false,
            session: None,
            crash: false,
            skip: None,
            lost: None,
            extra: Extra {
                user: b"",
                sys: b"",
            },
        }
    }
}

/// Writes from the start of a slice, and never beyond its end.
struct Buffer<'b>(&'b mut [u8]);

impl Buffer<'_> {
    /// Writes these bytes, if there is room for all of them.
    fn bytes(&mut self, bytes: &[u8]) {
        if let Some((to, rest)) = mem::take(&mut self.0).split_at_mut_checked(bytes.len()) {
            to.copy_from_slice(bytes);
            self.0 = rest;
        }
    }

    /// Writes a number.
    fn decimal(&mut self, number: u64) {
        let (mut digits, mut count, mut rest) = ([0; 20], 0, number);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        self.bytes(&digits[digits.len() - count..]);
    }
}

/// Whether and where a record is cut.
#[derive(Clone, Copy)]
enum Cut {
    /// One datagram.
    Whole,
    /// `count` fragments of `size` body bytes, the last one shorter.
    Fragments { size: usize, count: usize },
}

/// The datagrams of one record.
///
/// Holds references only: a datagram is written directly into the buffer that it is sent from.
///
/// # Invariants
///
/// No datagram is longer than [`MAX_DATAGRAM`], and there are at most
/// `body.len() / (MAX_DATAGRAM - MAX_HEADER) + 1` of them.
pub(crate) struct Datagrams<'a> {
    header: &'a [u8],
    body: Body<'a>,
    form: Form<'a>,
    /// The bytes of a header without the place of a fragment.
    head_len: usize,
    body_len: usize,
    cut: Cut,
}

/// Returns the number of decimal digits of `n`.
fn digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The bytes of the longest place of a fragment: three numbers of at most 20 digits each.
const MAX_PLACE: usize = key::FRAGMENT.len() + 3 * 20 + "@/".len();

/// Returns how to cut a record with a header of `head_len` bytes, the place of a fragment not
/// counted.
fn cut(head_len: usize, body_len: usize, dialect: Dialect) -> Result<Cut, BadRecord> {
    let is_whole = head_len + body_len <= MAX_DATAGRAM;
    if is_whole && head_len + MAX_PLACE <= MAX_HEADER {
        return Ok(Cut::Whole);
    }
    // The longest fragment key of this record: an offset, an index and a count have at most as many
    // digits as the length of the body.
    let total = digits(body_len as u64);
    let longest = match dialect {
        Dialect::Nca => key::FRAGMENT.len() + "@/".len() + 3 * total,
        Dialect::Ncrx => key::FRAGMENT.len() + "/".len() + 2 * total,
    };
    if head_len + longest > MAX_HEADER {
        return Err(BadRecord::HeaderTooLong);
    }
    if is_whole {
        return Ok(Cut::Whole);
    }
    // At least MAX_DATAGRAM - MAX_HEADER bytes, by the check above.
    let size = MAX_DATAGRAM - head_len - longest;
    let count = body_len.div_ceil(size);
    Ok(Cut::Fragments { size, count })
}

impl Form<'_> {
    /// Returns the ranges of numbers that a header tells of, with their keys.
    fn ranges(&self) -> [(&'static [u8], Option<Range>); 2] {
        [(key::SKIP, self.skip), (key::LOST, self.lost)]
    }

    /// Returns the mark of an emergency record.
    fn emergency_mark(&self) -> &'static [u8] {
        match (self.emergency, self.dialect) {
            (false, _) => b"",
            (true, Dialect::Nca) => key::EMERGENCY_NCA,
            (true, Dialect::Ncrx) => key::EMERGENCY_NCRX,
        }
    }

    /// Returns how many bytes [`Self::write_before`] and [`Self::write_marks`] write.
    fn len(&self) -> usize {
        let mut len = self.release.map_or(0, |release| release.len() + 1);
        if self.session.is_some() {
            len += key::SESSION.len() + 16;
        }
        if self.skip.is_some() || self.lost.is_some() {
            for (key, range) in self.ranges() {
                let digits = |range: Range| digits(range.first) + 1 + digits(range.last);
                len += range.map_or(0, |range| key.len() + digits(range));
            }
        }
        if self.crash {
            len += key::CRASH.len();
        }
        len + self.emergency_mark().len()
    }

    /// Writes what is before a record's own header.
    fn write_before(&self, out: &mut Buffer<'_>) {
        if let Some(release) = self.release {
            out.bytes(release);
            out.bytes(b",");
        }
    }

    /// Writes the keys that follow a record's own, but for a fragment's place.
    fn write_marks(&self, out: &mut Buffer<'_>) {
        if let Some(session) = self.session {
            out.bytes(key::SESSION);
            out.bytes(&session.digits());
        }
        if self.skip.is_some() || self.lost.is_some() {
            for (key, range) in self.ranges() {
                if let Some(range) = range {
                    out.bytes(key);
                    out.decimal(range.first);
                    out.bytes(b"-");
                    out.decimal(range.last);
                }
            }
        }
        if self.crash {
            out.bytes(key::CRASH);
        }
        if self.emergency {
            out.bytes(self.emergency_mark());
        }
    }
}

impl<'a> Datagrams<'a> {
    /// Cuts a record into datagrams.
    ///
    /// # Errors
    ///
    /// [`BadRecord::HeaderTooLong`]: the header leaves too little of a datagram for the body.
    #[inline]
    pub(crate) fn new(record: Record<'a>, form: Form<'a>) -> Result<Self, BadRecord> {
        let body = Body::new(record.body, form.extra);
        let (head_len, body_len) = (form.len() + record.header.len() + 1, body.len());
        // INVARIANT: Each datagram has the header, and a part of the body that fits behind it.
        let cut = cut(head_len, body_len, form.dialect)?;
        Ok(Self {
            header: record.header,
            body,
            form,
            head_len,
            body_len,
            cut,
        })
    }

    /// Returns the numbers in the place of fragment `index`: its offset, and the count or the
    /// length of all.
    fn place(&self, index: usize, size: usize, count: usize) -> (u64, u64) {
        let of = match self.form.dialect {
            Dialect::Nca => count,
            Dialect::Ncrx => self.body_len,
        };
        ((index * size) as u64, of as u64)
    }

    /// Returns the bytes of the place of fragment `index`; 0 if the record is whole.
    #[inline]
    fn place_len(&self, index: usize) -> usize {
        let Cut::Fragments { size, count } = self.cut else {
            return 0;
        };
        let (offset, of) = self.place(index, size, count);
        let len = key::FRAGMENT.len() + digits(offset) + 1 + digits(of);
        match self.form.dialect {
            Dialect::Nca => len + 1 + digits(index as u64),
            Dialect::Ncrx => len,
        }
    }

    /// Writes the place of fragment `index`; nothing if the record is whole.
    fn write_place(&self, index: usize, out: &mut Buffer<'_>) {
        let Cut::Fragments { size, count } = self.cut else {
            return;
        };
        let (offset, of) = self.place(index, size, count);
        out.bytes(key::FRAGMENT);
        out.decimal(offset);
        if self.form.dialect == Dialect::Nca {
            out.bytes(b"@");
            out.decimal(index as u64);
        }
        out.bytes(b"/");
        out.decimal(of);
    }

    /// Returns the first byte of the body in datagram `index`, and their number.
    fn part(&self, index: usize) -> (usize, usize) {
        match self.cut {
            Cut::Whole => (0, self.body_len),
            Cut::Fragments { size, .. } => {
                let start = index * size;
                (start, size.min(self.body_len.saturating_sub(start)))
            }
        }
    }

    /// Returns the number of datagrams.
    fn count(&self) -> usize {
        match self.cut {
            Cut::Whole => 1,
            Cut::Fragments { count, .. } => count,
        }
    }

    /// Returns the datagrams in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.count()).map(|index| Datagram {
            record: self,
            index,
            len: self.head_len + self.place_len(index) + self.part(index).1,
        })
    }
}

/// One datagram of a record, not written yet.
pub(crate) struct Datagram<'a> {
    record: &'a Datagrams<'a>,
    index: usize,
    len: usize,
}

impl Datagram<'_> {
    /// Returns the length in bytes, at most [`MAX_DATAGRAM`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes the datagram to `out`, which has [`Self::len`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let (record, mut out) = (self.record, Buffer(out));
        record.form.write_before(&mut out);
        out.bytes(record.header);
        record.form.write_marks(&mut out);
        record.write_place(self.index, &mut out);
        out.bytes(b";");
        let (start, len) = record.part(self.index);
        record.body.write(&mut out, start, len);
    }
}

/// Reads a decimal number that is all of `word`.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    // `from_str` would take a sign, and want to know first whether it is UTF-8.
    let add = |sum: u64, &c: &u8| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0, add)
}

/// Reads a number or a range that is all of `word`.
pub(crate) fn range(word: &[u8]) -> Option<Range> {
    let (first, last) = match word.iter().position(|&c| c == b'-') {
        None => (number(word)?, number(word)?),
        Some(at) => (number(&word[..at])?, number(&word[at + 1..])?),
    };
    (first <= last).then_some(Range { first, last })
}
