// SPDX-License-Identifier: GPL-2.0

//! The state of printk.
//!
//! C header: [`include/linux/printk.h`](srctree/include/linux/printk.h)

use super::bindings;

/// Returns whether an oops or a panic is being printed, on any CPU. Any context.
pub(crate) fn oops_in_progress() -> bool {
    // SAFETY: An integer that lives for ever; C code reads it without synchronization as well, so
    // this is a volatile read.
    unsafe { (&raw const bindings::oops_in_progress).read_volatile() != 0 }
}

/// Returns whether the kernel panics, on any CPU. Any context.
pub(crate) fn panic_in_progress() -> bool {
    // SAFETY: Reads an atomic variable.
    unsafe { bindings::panic_in_progress() }
}

/// Returns the level from which on records are hidden from consoles (`console_loglevel`). Any
/// context.
pub(crate) fn console_loglevel() -> i32 {
    // SAFETY: The first of four integers that live for ever; C code reads it without
    // synchronization as well.
    unsafe {
        (&raw const bindings::console_printk)
            .cast::<i32>()
            .read_volatile()
    }
}
