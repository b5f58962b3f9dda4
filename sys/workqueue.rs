// SPDX-License-Identifier: GPL-2.0

//! Work queues owned by a module.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::{
    ops::Deref,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*,
    str::CStrExt,
    workqueue::Queue, //
};

/// A work queue; destroyed when dropped, after all work on it is done.
///
/// A module whose work items may be pending when it is unloaded needs one, since the code of the
/// items goes away with the module.
///
/// # Invariants
///
/// `queue` comes from `alloc_workqueue()`.
///
/// # Examples
///
/// ```ignore
/// let queue = OwnedQueue::new(c"my_module", false)?;
/// let _ = queue.enqueue(work_item);
/// ```
pub(crate) struct OwnedQueue {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: Work queues are made for use from any thread.
unsafe impl Send for OwnedQueue {}

// SAFETY: As above.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Creates a queue whose work runs in process context on any CPU. Process context.
    ///
    /// With `reclaim` it makes progress without memory for another worker; its work must not wait
    /// for work of a queue without `reclaim` (the kernel warns).
    pub(crate) fn new(name: &'static CStr, reclaim: bool) -> Result<Self> {
        let reclaim = if reclaim {
            bindings::wq_flags_WQ_MEM_RECLAIM
        } else {
            0
        };
        // SAFETY: The format has one conversion, for a terminated string.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND | reclaim,
                0,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: It has just been allocated.
        NonNull::new(queue)
            .map(|queue| Self { queue })
            .ok_or(ENOMEM)
    }
}

impl OwnedQueue {
    /// Waits until all work is done, work that work items enqueue themselves included.
    ///
    /// Process context. Nothing else may enqueue work meanwhile (the kernel warns).
    pub(crate) fn drain(&self) {
        // SAFETY: By the type invariants the queue is valid.
        unsafe { bindings::drain_workqueue(self.queue.as_ptr()) };
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the type invariants the queue is valid as long as `self`.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is ours. Nobody can add work, for there is no reference
        // to it any more; what is pending is done first.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
