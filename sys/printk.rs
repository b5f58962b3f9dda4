// SPDX-License-Identifier: GPL-2.0

//! The state of printk and its log.
//!
//! C headers: [`include/linux/printk.h`](srctree/include/linux/printk.h),
//! [`include/linux/kmsg_dump.h`](srctree/include/linux/kmsg_dump.h)

use super::bindings;

/// Whether an oops or a panic is being printed, on any CPU. Any context.
pub(crate) fn oops_in_progress() -> bool {
    // SAFETY: An integer that lives for ever; C code reads it without synchronization as well, so
    // this is a volatile read.
    unsafe { (&raw const bindings::oops_in_progress).read_volatile() != 0 }
}

/// The number that the next record will have. Any context.
pub(crate) fn end() -> u64 {
    let mut iter = bindings::kmsg_dump_iter {
        cur_seq: 0,
        next_seq: 0,
    };
    // SAFETY: The iterator is valid.
    unsafe { bindings::kmsg_dump_rewind(&mut iter) };
    iter.next_seq
}
