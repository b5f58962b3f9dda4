// SPDX-License-Identifier: GPL-2.0

//! Records by number: the ring of those that the console was given, then printk's own buffer.
//!
//! A record that is sent again has to be the one that was sent first. So every record is kept as
//! the console got it, in a [`Ring`] that all targets share. A record missing from the ring,
//! because it was hidden from the console, has been dropped, or came while the lock could not be
//! had, is rebuilt from printk's buffer: see [`printk_text::extended`] for what it lacks then.
//!
//! # Contexts and locks
//!
//! One lock guards the ring. It is taken with interrupts off and held while one record is copied;
//! no other lock is taken inside of it. The caller chooses how to take it: see [`access`]. Without
//! the lock a record is not stored, and one that is looked up comes from printk's buffer, which is
//! lock-free.

pub(crate) mod access;
pub(crate) mod cursor;

use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    }, //
};

use crate::{
    log::access::{
        Access,
        Guard, //
    },
    proto::{
        printk_text::{
            self,
            MAX_LINES,
            MAX_RECORD, //
        },
        ring::{
            Entry,
            Meta,
            Next,
            NotStored,
            Place,
            Ring, //
        }, //
    },
    sys,
    test_hooks, //
};

/// Bytes of the ring for each record that it can keep.
///
/// A header has about 40 and a text about 60 bytes; many records of devices have 40 more. A ring
/// full of shorter records keeps fewer of them than would fit.
const BYTES_PER_RECORD: usize = 128;

/// The most records that [`Log::next`] looks at: it is called with interrupts off.
const MAX_SEARCH: usize = 128;

/// Returns whether the console log level hides the record with these lines
/// (`suppress_message_printing()` in kernel/printk/printk.c, except for the parameter
/// `ignore_loglevel`, which cannot be seen).
fn is_hidden(lines: &[u8]) -> bool {
    printk_text::level(lines)
        .is_some_and(|level| i32::from(level) >= sys::printk::console_loglevel())
}

/// The outcome of storing a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The record is stored now.
    Kept,
    /// A record of this number was stored before, and stays.
    Known,
    /// The record is older than the newest one in the ring.
    Old,
    /// The record is longer than the ring.
    TooLong,
    /// The lock was taken, and there is no later.
    Unlocked,
}

/// A record, and what is kept with it if it comes from the ring.
type Read<'b> = (&'b [u8], Option<Meta>);

/// Room for one record that is read, so that it is not on the stack: 52 KB.
///
/// Each reader has its own, allocated beforehand.
pub(crate) struct Buffer {
    /// [`MAX_RECORD`] bytes.
    record: VVec<u8>,
    /// [`MAX_LINES`] bytes: the worst case is text of nothing but newlines.
    lines: VVec<u8>,
}

impl Buffer {
    /// Allocates a buffer. Process context.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            record: VVec::from_elem(0, MAX_RECORD, GFP_KERNEL)?,
            lines: VVec::from_elem(0, MAX_LINES, GFP_KERNEL)?,
        })
    }

    /// Returns the room for a record as lines.
    pub(crate) fn lines(&mut self) -> &mut [u8] {
        &mut self.lines
    }

    /// Returns the record that was read last, which has `len` bytes.
    pub(crate) fn record(&self, len: usize) -> &[u8] {
        self.record.get(..len).unwrap_or_default()
    }
}

type Records = Ring<VVec<u8>, VVec<Entry>>;

/// The records by number.
#[pin_data]
pub(crate) struct Log {
    #[pin]
    ring: SpinLockIrq<Records>,
    /// The number of records that the console was given, stored or not.
    count: Atomic<u32>,
}

impl Log {
    /// Creates a ring of `kb` KiB of records, or none if that is 0.
    ///
    /// Process context. The index takes up to half as much in addition. `ENOMEM`: there is not so
    /// much memory.
    pub(crate) fn new(kb: u32) -> Result<Arc<Self>> {
        // A size that the user has chosen too large need not fill the log with a trace.
        let flags = GFP_KERNEL | __GFP_NOWARN;
        let len = usize::try_from(kb)
            .ok()
            .and_then(|kb| kb.checked_mul(1024))
            .ok_or(ENOMEM)?;
        let bytes = VVec::from_elem(0, len, flags)?;
        let entries = VVec::from_elem(Entry::EMPTY, len / BYTES_PER_RECORD, flags)?;
        Arc::pin_init(
            pin_init!(Self {
                ring <- new_spinlock_irq!(Ring::new(bytes, entries), "Log::ring"),
                count: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Stores record `seq` as the console got it, without printk's replay prefix. Completes `meta`
    /// with the record's number among the stored ones, or replaces it by what is kept with the
    /// record that was stored before.
    ///
    /// Contexts as `access` says. Records come in the order of their numbers.
    pub(crate) fn store<A: Access>(
        &self,
        seq: u64,
        record: &[u8],
        meta: &mut Meta,
        access: A,
    ) -> Result<Stored, A::Error> {
        let is_too_long = record.len() > MAX_RECORD;
        let mut ring = match is_too_long {
            true => None,
            false => access.lock(&self.ring)?,
        };
        if let Some((_, known)) = ring.as_ref().and_then(|ring| ring.get(seq)) {
            *meta = known;
            return Ok(Stored::Known);
        }
        if A::PATIENT && ring.is_some() {
            test_hooks::ring();
        }
        meta.nth = self.next_nth();
        Ok(
            match ring.as_mut().map(|ring| ring.push(seq, record, *meta)) {
                Some(Ok(())) => Stored::Kept,
                Some(Err(NotStored::Known)) => Stored::Known,
                Some(Err(NotStored::Old)) => Stored::Old,
                Some(Err(NotStored::TooLong)) => Stored::TooLong,
                None if is_too_long => Stored::TooLong,
                None => Stored::Unlocked,
            },
        )
    }

    /// Returns the number of the next record that is stored, from 1.
    fn next_nth(&self) -> u32 {
        self.count.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Returns record `seq`, and what is kept with it if it comes from the ring.
    ///
    /// Contexts as `access` says. [`None`] if the record is gone, or not there yet.
    pub(crate) fn get<'b, A: Access>(
        &self,
        seq: u64,
        buffer: &'b mut Buffer,
        access: A,
    ) -> Result<Option<Read<'b>>, A::Error> {
        Ok(Self::read(access.lock(&self.ring)?, seq, buffer))
    }

    /// As [`Self::get`], with the ring as far as its lock was to be had.
    fn read<'b>(
        ring: Option<Guard<'_, Records>>,
        seq: u64,
        buffer: &'b mut Buffer,
    ) -> Option<Read<'b>> {
        let Buffer { record, lines } = buffer;
        let stored = ring.and_then(|ring| {
            let (bytes, meta) = ring.get(seq)?;
            record.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some((bytes.len(), Some(meta)))
        });
        let made = || {
            let lines = sys::kmsg::read(seq, lines)?;
            let callers = cfg!(CONFIG_PRINTK_CALLER);
            Some((printk_text::extended(lines, seq, callers, record)?, None))
        };
        let (len, meta) = stored.or_else(made)?;
        buffer.record.get(..len).map(|record| (record, meta))
    }

    /// Returns whether record `seq` can be read. Contexts as `access` says.
    pub(crate) fn has<A: Access>(
        &self,
        seq: u64,
        buffer: &mut Buffer,
        access: A,
    ) -> Result<bool, A::Error> {
        Ok(self.get(seq, buffer, access)?.is_some())
    }

    /// Returns the oldest record in the ring of number `seq` or above, and when it was sent.
    /// Contexts as `access` says.
    pub(crate) fn next_sent<A: Access>(
        &self,
        seq: u64,
        access: A,
    ) -> Result<Option<(u64, Meta)>, A::Error> {
        Ok(access.lock(&self.ring)?.and_then(|ring| ring.next(seq)))
    }

    /// Returns the first record from `seq` on, before `end`, that is to be sent: all that have been
    /// given to the console, or, with `full`, those as well that its log level hides from it.
    ///
    /// Records missing from the ring, because it is too small or was not to be had, are looked up
    /// in printk's log, with the current console log level.
    ///
    /// Contexts as `access` says. Looks at [`MAX_SEARCH`] records at most.
    pub(crate) fn next<A: Access>(
        &self,
        seq: u64,
        end: u64,
        full: bool,
        buffer: &mut Buffer,
        access: A,
    ) -> Result<Next, A::Error> {
        let mut seq = seq;
        for _ in 0..MAX_SEARCH {
            if seq >= end {
                return Ok(Next::Nothing);
            }
            let ring = access.lock(&self.ring)?;
            let place = ring.map_or(Place::Newer, |ring| ring.place_of(seq));
            let until = match place {
                Place::Here => return Ok(Next::Record(seq)),
                // Between two records of the ring all are hidden.
                Place::Between(next) if !full && next < end => return Ok(Next::Record(next)),
                Place::Between(_) if !full => return Ok(Next::Nothing),
                Place::Between(next) | Place::Older(next) => end.min(next),
                Place::Newer => end,
            };
            match sys::kmsg::read_from(seq, &mut buffer.lines) {
                Some((found, _)) if found >= until => seq = until,
                Some((found, lines)) if full || !is_hidden(lines) => {
                    return Ok(Next::Record(found));
                }
                Some((found, _)) => seq = found.saturating_add(1),
                None => seq = until,
            }
        }
        Ok(Next::NotBefore(seq))
    }

    /// Returns the number of the newest record in the ring before `seq`. Contexts as `access` says.
    pub(crate) fn sent_before<A: Access>(
        &self,
        seq: u64,
        access: A,
    ) -> Result<Option<u64>, A::Error> {
        Ok(access.lock(&self.ring)?.and_then(|ring| ring.before(seq)))
    }

    /// Returns the number of the oldest record that can be read; [`Self::end`] if there is none.
    ///
    /// Contexts as `access` says; without the lock only printk's buffer counts.
    pub(crate) fn begin<A: Access>(&self, access: A) -> Result<u64, A::Error> {
        let stored = access.lock(&self.ring)?.and_then(|ring| ring.oldest());
        let begin = sys::kmsg::begin();
        Ok(stored.map_or(begin, |stored| stored.min(begin)))
    }

    /// Returns the number after the newest record in the ring; [`None`] if that is empty.
    ///
    /// Contexts as `access` says.
    pub(crate) fn stored_end<A: Access>(&self, access: A) -> Result<Option<u64>, A::Error> {
        let newest = access.lock(&self.ring)?.and_then(|ring| ring.newest());
        Ok(newest.map(|newest| newest.saturating_add(1)))
    }

    /// Returns how many records the console has been given. Any context.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }

    /// Returns the number that the next record will have. Any context.
    pub(crate) fn end() -> u64 {
        sys::kmsg::end()
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_log)
)]
#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
mod tests {
    use super::*;
    use crate::{
        log::access::{
            Busy,
            Now,
            Try,
            Wait, //
        },
        proto::ring::Origin, //
    };
    use kernel::interrupt::local_interrupt_disable;

    const META: Meta = Meta {
        sent_ns: 1,
        nth: 1,
        origin: Some(Origin {
            cpu: 2,
            comm: *b"insmod\0\0\0\0\0\0\0\0\0\0",
        }),
    };

    /// The number of the newest record whose body is this.
    fn find(log: &Log, buffer: &mut Buffer, body: &[u8]) -> Option<u64> {
        let end = Log::end();
        (end.saturating_sub(100)..end).rev().find(|&seq| {
            log.get(seq, buffer, Wait)
                .is_ok_and(|found| found.is_some_and(|(record, _)| record.ends_with(body)))
        })
    }

    /// Whether this is a header of record `seq`, of the level and facility of `pr_info!`.
    fn is_header(header: &[u8], seq: u64) -> bool {
        let mut fields = header.split(|&c| c == b',');
        let mut field = || core::str::from_utf8(fields.next()?).ok();
        field() == Some("6")
            && field().and_then(|n| n.parse().ok()) == Some(seq)
            && field().is_some_and(|usec| usec.parse::<u64>().is_ok())
            && field() == Some("-")
            && field().is_some_and(|f| f.starts_with("caller=T")) == cfg!(CONFIG_PRINTK_CALLER)
            && field().is_none()
    }

    #[test]
    fn a_record_is_made_from_printks_log() -> Result {
        let log = Log::new(0)?;
        let mut buffer = Buffer::new()?;
        let begin = log.begin(Wait)?;
        let before = Log::end();
        pr_info!("<6>[    1.000000] tab\t, \\, ä\n\nsecond; line\n\n");
        assert!(Log::end() > before && begin < before);
        let body =
            b"netconsole_ext: <6>[    1.000000] tab\\x09, \\x5c, \\xc3\\xa4\\x0a\\x0asecond; line\\x0a\n";
        let seq = find(&log, &mut buffer, body).ok_or(ENOENT)?;
        assert!(seq >= before);
        let (record, meta) = log.get(seq, &mut buffer, Wait)?.ok_or(ENOENT)?;
        assert!(meta.is_none());
        let at = record.iter().position(|&c| c == b';').ok_or(EINVAL)?;
        assert!(is_header(&record[..at], seq));
        assert!(&record[at + 1..] == body);
        // The numbers that are not there yet.
        let later = log.get(Log::end() + 1000, &mut buffer, Wait)?;
        assert!(later.is_none());
        assert!(log.get(u64::MAX, &mut buffer, Wait)?.is_none());
        Ok(())
    }

    #[test]
    fn what_was_stored_comes_before_printks_log() -> Result {
        let log = Log::new(1)?;
        let mut buffer = Buffer::new()?;
        pr_info!("what printk has\n");
        let body = b";netconsole_ext: what printk has\n";
        let seq = find(&log, &mut buffer, body).ok_or(ENOENT)?;
        let first = b"6,1,2,c;what the console had\n SUBSYSTEM=test\n";
        assert!(log.store(seq, first, &mut META.clone(), Wait)? == Stored::Kept);
        let mut meta = Meta { nth: 9, ..META };
        assert!(log.store(seq, b"6,1,2,-;again\n", &mut meta, Wait)? == Stored::Known);
        assert!(meta == META);
        assert!(log.get(seq, &mut buffer, Wait)? == Some((&first[..], Some(META))));
        assert!(log.begin(Wait)? <= seq);
        // When it is dropped there is still what printk has.
        for n in 1..9 {
            assert!(log
                .store(seq + n, &[b'x'; 200], &mut META.clone(), Wait)
                .is_ok());
        }
        let (record, meta) = log.get(seq, &mut buffer, Wait)?.ok_or(ENOENT)?;
        assert!(meta.is_none() && record.ends_with(body));
        let got = log.get(seq + 8, &mut buffer, Wait)?;
        let ninth = Meta { nth: 9, ..META };
        assert!(got == Some((&[b'x'; 200][..], Some(ninth))));
        assert!(log.count() == 9);
        Ok(())
    }

    #[test]
    fn without_a_ring_nothing_is_stored() -> Result {
        let log = Log::new(0)?;
        assert!(log.store(1, b"x", &mut META.clone(), Wait)? == Stored::TooLong);
        let log = Log::new(16)?;
        let record = VVec::from_elem(b'x', MAX_RECORD + 1, GFP_KERNEL)?;
        assert!(log.store(1, &record, &mut META.clone(), Wait)? == Stored::TooLong);
        assert!(log.store(1, &record[1..], &mut META.clone(), Wait)? == Stored::Kept);
        let mut buffer = Buffer::new()?;
        let got = log.get(1, &mut buffer, Wait)?;
        let second = Meta { nth: 2, ..META };
        assert!(got == Some((&record[1..], Some(second))));
        Ok(())
    }

    #[test]
    fn too_large_a_ring_is_refused() {
        assert!(Log::new(u32::MAX).is_err_and(|e| e == ENOMEM));
    }

    /// Where somebody else holds the lock, as a stopped CPU may.
    #[cfg(CONFIG_SMP)]
    #[test]
    fn a_lock_that_is_taken_is_not_waited_for() -> Result {
        let log = Log::new(16)?;
        let mut buffer = Buffer::new()?;
        pr_info!("what printk has too\n");
        let body = b";netconsole_ext: what printk has too\n";
        let seq = find(&log, &mut buffer, body).ok_or(ENOENT)?;
        let (mut stored, mut busy, mut made, mut begin) = (None, false, None, None);
        {
            let off = local_interrupt_disable();
            let (later, now) = (Try(&off), Now(&off));
            if log.store(seq, b"stored", &mut META.clone(), later).is_ok() {
                let held = log.ring.lock_with(&off);
                stored = log.store(seq + 1, b"x", &mut META.clone(), now).ok();
                busy = log.get(seq, &mut buffer, later) == Err(Busy)
                    && log.begin(later) == Err(Busy)
                    && log.next_sent(seq, later) == Err(Busy)
                    && log.next(seq, seq + 1, false, &mut buffer, later) == Err(Busy);
                let got = log.get(seq, &mut buffer, now).ok().flatten();
                made = got.map(|(record, meta)| (record.ends_with(body), meta));
                begin = log.begin(now).ok();
                drop(held);
            }
        }
        assert!(stored == Some(Stored::Unlocked));
        assert!(busy);
        assert!(made == Some((true, None)));
        assert!(begin.is_some_and(|begin| begin <= seq));
        let off = local_interrupt_disable();
        let got = log.get(seq, &mut buffer, Try(&off));
        let same = got == Ok(Some((&b"stored"[..], Some(META))));
        drop(off);
        assert!(same);
        Ok(())
    }

    #[test]
    fn what_is_next() -> Result {
        let log = Log::new(1)?;
        let mut buffer = Buffer::new()?;
        let mut next = |log: &Log, seq, end, hidden| -> Result<Next> {
            Ok(log.next(seq, end, hidden, &mut buffer, Wait)?)
        };
        pr_err!("shown on every console\n");
        let end = Log::end();
        let seq = end - 1;
        // Records that the ring does not have are in printk's log.
        assert!(next(&log, seq, end, false)? == Next::Record(seq));
        assert!(next(&log, seq, end, true)? == Next::Record(seq));
        assert!(next(&log, seq, seq, false)? == Next::Nothing);
        assert!(next(&log, end, end, false)? == Next::Nothing);
        // Between two records of the ring there are only hidden ones.
        assert!(log.store(seq - 1, b"x", &mut META.clone(), Wait)? == Stored::Kept);
        assert!(log.store(end + 5, b"x", &mut META.clone(), Wait)? == Stored::Kept);
        assert!(next(&log, seq - 1, end, false)? == Next::Record(seq - 1));
        assert!(next(&log, seq, end + 6, false)? == Next::Record(end + 5));
        assert!(next(&log, seq, end, false)? == Next::Nothing);
        assert!(next(&log, seq, end, true)? == Next::Record(seq));
        Ok(())
    }
}
