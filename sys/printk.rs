// SPDX-License-Identifier: GPL-2.0

//! The state of printk.
//!
//! C header: [`include/linux/printk.h`](srctree/include/linux/printk.h)

use super::bindings;

/// Whether an oops or a panic is being printed, on any CPU. Any context.
pub(crate) fn oops_in_progress() -> bool {
    // SAFETY: An integer that lives for ever; C code reads it without synchronization as well, so
    // this is a volatile read.
    unsafe { (&raw const bindings::oops_in_progress).read_volatile() != 0 }
}
