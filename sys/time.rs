// SPDX-License-Identifier: GPL-2.0

//! The monotonic clock, in every context.
//!
//! C header: [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h)

use super::bindings;

/// Returns the monotonic clock in milliseconds. Any context, NMI included.
///
/// In an NMI that interrupts an update of the clock the result may be a little too early.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get_mono_fast_ns() / 1_000_000 }
}
