// SPDX-License-Identifier: GPL-2.0

//! The time, in every context.
//!
//! C header: [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h)

use super::bindings;

/// Milliseconds of the monotonic clock. Any context, NMI included.
///
/// In an NMI that interrupts an update of the clock it may be a little behind.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get_mono_fast_ns() / 1_000_000 }
}
