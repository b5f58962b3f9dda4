// SPDX-License-Identifier: GPL-2.0

//! printk's buffer, read by number.
//!
//! Lock-free. Any context, NMI included.
//!
//! C header: [`include/linux/kmsg_dump.h`](srctree/include/linux/kmsg_dump.h)

use core::ptr;

use super::bindings;

/// Returns the number that the next record will have, as far as all before it can be read. Any
/// context.
pub(crate) fn end() -> u64 {
    rewound().next_seq
}

/// Returns the number of the oldest record that can be read, or [`end`] if there is none. Any
/// context.
pub(crate) fn begin() -> u64 {
    let mut iter = rewound();
    // SAFETY: The iterator is valid. Without a buffer, nothing is written.
    let found = unsafe {
        bindings::kmsg_dump_get_line(&mut iter, true, ptr::null_mut(), 0, ptr::null_mut())
    };
    if found {
        iter.cur_seq.saturating_sub(1)
    } else {
        iter.next_seq
    }
}

/// Returns a number before which records may have been lost: printk has needed their memory. 0 if
/// no records are missing but those that were cleared (`dmesg --clear`), which all consoles have
/// been given. Any context.
pub(crate) fn lost_before() -> u64 {
    let begin = begin();
    // A buffer that begins where it was cleared has not needed what is behind that. What it needed
    // before it was cleared cannot be known.
    if begin == rewound().cur_seq {
        0
    } else {
        begin
    }
}

/// Reads record `seq` as lines of text, each prefixed `<N>[    s.us] ` or as printk is set.
///
/// Any context. [`None`] if printk does not have the record: not yet, not any more, or cleared
/// (`dmesg --clear`). Lines for which `buf` has no room are left out; with none left there is no
/// record.
///
/// # Examples
///
/// ```ignore
/// let mut buf = [0; 256];
/// for seq in kmsg::begin()..kmsg::end() {
///     let lines = kmsg::read(seq, &mut buf);
/// }
/// ```
pub(crate) fn read(seq: u64, buf: &mut [u8]) -> Option<&[u8]> {
    let (found, lines) = read_from(seq, buf)?;
    (found == seq && !lines.is_empty()).then_some(lines)
}

/// Reads the first record of number `seq` or above, and returns its number and lines.
///
/// As [`read`], except that a record of which nothing fits has no lines.
pub(crate) fn read_from(seq: u64, buf: &mut [u8]) -> Option<(u64, &[u8])> {
    let mut iter = bindings::kmsg_dump_iter {
        cur_seq: seq,
        next_seq: 0,
    };
    let mut len = 0;
    // SAFETY: The iterator and the buffer are valid; no more than `buf.len()` bytes are written.
    let found = unsafe {
        bindings::kmsg_dump_get_line(
            &mut iter,
            true,
            buf.as_mut_ptr().cast(),
            buf.len(),
            &mut len,
        )
    };
    if !found {
        return None;
    }
    // The iterator stands behind the record that was read.
    Some((iter.cur_seq.checked_sub(1)?, buf.get(..len)?))
}

/// An iterator from where the log was last cleared to its end.
fn rewound() -> bindings::kmsg_dump_iter {
    let mut iter = bindings::kmsg_dump_iter {
        cur_seq: 0,
        next_seq: 0,
    };
    // SAFETY: The iterator is valid.
    unsafe { bindings::kmsg_dump_rewind(&mut iter) };
    iter
}
