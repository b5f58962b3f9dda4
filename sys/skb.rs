// SPDX-License-Identifier: GPL-2.0

//! Socket buffers, and a reserve of them for when memory cannot be had.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use core::{
    mem,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

use kernel::{
    ffi::c_int,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

use super::bindings;

// `tail` and `end` are offsets from `head` on 64-bit machines, and pointers on others.
const _: () = assert!(usize::BITS == 64);

/// A socket buffer that nobody else knows of; freed when dropped, in any context but NMI.
///
/// # Invariants
///
/// `skb` is valid, linear, and ours alone.
pub(crate) struct SkBuff {
    skb: NonNull<bindings::sk_buff>,
}

// SAFETY: A buffer that is ours alone can be used and freed on any CPU.
unsafe impl Send for SkBuff {}

/// Where the headers of a frame begin, from its first byte.
pub(crate) struct Headers {
    /// The type of the frame (`ETH_P_*`).
    pub(crate) protocol: u16,
    /// The IP header.
    pub(crate) network: u16,
    /// The header of UDP or the like.
    pub(crate) transport: u16,
}

impl SkBuff {
    /// Allocates a buffer with room for `size` bytes. Process context; may sleep.
    pub(crate) fn new(size: usize) -> Option<Self> {
        // SAFETY: The caller can sleep.
        unsafe { Self::alloc(size, bindings::GFP_KERNEL | bindings::__GFP_NOWARN) }
    }

    /// Allocates a buffer with room for `size` bytes, if there is memory at hand.
    ///
    /// Any context but NMI.
    pub(crate) fn new_atomic(size: usize) -> Option<Self> {
        // SAFETY: Nothing is waited for.
        unsafe { Self::alloc(size, bindings::GFP_ATOMIC | bindings::__GFP_NOWARN) }
    }

    /// # Safety
    ///
    /// The context must allow what `flags` say.
    unsafe fn alloc(size: usize, flags: bindings::gfp_t) -> Option<Self> {
        /// `NUMA_NO_NODE`: wherever there is memory.
        const ANY_NODE: c_int = -1;
        let size = u32::try_from(size).ok()?;
        // SAFETY: As the caller promises.
        let skb = unsafe { bindings::__alloc_skb(size, flags, 0, ANY_NODE) };
        // INVARIANT: A new buffer is linear, and nobody else knows of it.
        NonNull::new(skb).map(|skb| Self { skb })
    }

    /// Room for data: what is not used in front of it, in it, and behind it.
    fn room(&self) -> usize {
        // SAFETY: By the type invariants the buffer is valid. It begins at `head`, and `end` counts
        // from there on 64-bit machines.
        unsafe { (*self.skb.as_ptr()).end as usize }
    }

    /// Makes the buffer a frame of `len` bytes with `headroom` bytes before it, and gives its bytes
    /// to be filled; [`None`] if the buffer is too small or has a frame already.
    pub(crate) fn frame(&mut self, headroom: usize, len: usize) -> Option<&mut [u8]> {
        let end = headroom.checked_add(len)?;
        // SAFETY: By the type invariants the buffer is valid.
        let skb = unsafe { self.skb.as_mut() };
        if skb.len != 0 || end > self.room() {
            return None;
        }
        // SAFETY: As above.
        let skb = unsafe { self.skb.as_mut() };
        // `skb_reserve()` of an empty buffer: data and tail move together.
        //
        // SAFETY: `headroom` is within the buffer.
        skb.data = unsafe { skb.head.add(headroom) };
        // Fits, for the size of a buffer is a `u32`.
        skb.tail = headroom as u32;
        // SAFETY: There are `len` bytes behind the tail.
        let data = unsafe { bindings::skb_put(self.skb.as_ptr(), len as u32) };
        // SAFETY: These bytes are in the buffer, and ours alone. Their value does not matter.
        Some(unsafe {
            ptr::write_bytes(data.cast::<u8>(), 0, len);
            slice::from_raw_parts_mut(data.cast(), len)
        })
    }

    /// Says where the headers are that have been written to the frame.
    pub(crate) fn set_headers(&mut self, headers: Headers) {
        let skb = self.skb.as_ptr().cast::<u8>();
        // SAFETY: By the type invariants the buffer is valid, and the offsets are those of 16-bit
        // fields. Headers are counted from `head`.
        unsafe {
            let data = (*self.skb.as_ptr())
                .data
                .offset_from((*self.skb.as_ptr()).head) as u16;
            let set = |field: usize, value: u16| skb.add(field).cast::<u16>().write(value);
            set(bindings::SKB_PROTOCOL_OFFSET, headers.protocol.to_be());
            set(bindings::SKB_MAC_HEADER_OFFSET, data);
            set(
                bindings::SKB_NETWORK_HEADER_OFFSET,
                data.wrapping_add(headers.network),
            );
            set(
                bindings::SKB_TRANSPORT_HEADER_OFFSET,
                data.wrapping_add(headers.transport),
            );
        }
    }

    /// Gives the buffer away.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        mem::ManuallyDrop::new(self).skb.as_ptr()
    }

    /// # Safety
    ///
    /// `skb` must come from [`Self::into_raw`] and is ours from here on.
    unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: As the caller promises.
        Self { skb }
    }
}

impl Drop for SkBuff {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the buffer is ours.
        unsafe {
            bindings::dev_kfree_skb_any_reason(
                self.skb.as_ptr(),
                bindings::skb_drop_reason_SKB_CONSUMED,
            )
        };
    }
}

/// `N` buffers of one size, to be taken when memory cannot be had.
///
/// Taking one needs no lock and works in every context, NMI included.
///
/// # Invariants
///
/// Each slot is null or comes from [`SkBuff::into_raw`], and is then owned by this object.
pub(crate) struct Reserve<const N: usize> {
    size: usize,
    slots: [Atomic<*mut bindings::sk_buff>; N],
}

// SAFETY: Buffers can be taken and put on any CPU; the slots are atomic.
unsafe impl<const N: usize> Send for Reserve<N> {}
// SAFETY: As above.
unsafe impl<const N: usize> Sync for Reserve<N> {}

impl<const N: usize> Reserve<N> {
    /// Creates an empty reserve of buffers with room for `size` bytes each.
    pub(crate) fn new(size: usize) -> Self {
        // INVARIANT: All slots are null.
        Self {
            size,
            slots: [const { Atomic::new(ptr::null_mut()) }; N],
        }
    }

    /// Fills the empty slots as far as there is memory. Process context.
    pub(crate) fn fill(&self) {
        for slot in &self.slots {
            if !slot.load(Relaxed).is_null() {
                continue;
            }
            let Some(skb) = SkBuff::new(self.size) else {
                return;
            };
            // INVARIANT: The new pointer comes from `SkBuff::into_raw`.
            let old = slot.xchg(skb.into_raw(), Full);
            // SAFETY: By the type invariants it was owned here; now it is ours.
            drop(NonNull::new(old).map(|old| unsafe { SkBuff::from_raw(old) }));
        }
    }

    /// Takes a buffer if one with room for `size` bytes is left. Any context.
    pub(crate) fn take(&self, size: usize) -> Option<SkBuff> {
        if size > self.size {
            return None;
        }
        self.slots.iter().find_map(|slot| {
            if slot.load(Relaxed).is_null() {
                return None;
            }
            // INVARIANT: Null.
            let skb = slot.xchg(ptr::null_mut(), Full);
            // SAFETY: By the type invariants it was owned here; now it is ours.
            NonNull::new(skb).map(|skb| unsafe { SkBuff::from_raw(skb) })
        })
    }
}

impl<const N: usize> Drop for Reserve<N> {
    fn drop(&mut self) {
        while let Some(skb) = self.take(0) {
            drop(skb);
        }
    }
}
