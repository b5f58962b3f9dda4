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
    pub(crate) network: usize,
    /// The header of UDP or the like.
    pub(crate) transport: usize,
}

/// A buffer that holds a frame with its headers in order.
pub(crate) struct Frame(SkBuff);

impl Frame {
    /// Gives the buffer away.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        self.0.into_raw()
    }
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

    /// Makes the buffer a frame of `len` bytes with `headroom` bytes before it.
    ///
    /// `fill` gets its bytes, which are zero, and says whether it is to be a frame; if not, or if
    /// the buffer is too small or the headers are not in the frame, it is freed.
    pub(crate) fn into_frame(
        mut self,
        headroom: usize,
        len: usize,
        headers: Headers,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<Frame> {
        // Offsets from `head` are 16-bit fields.
        let head = u16::try_from(headroom).ok()?;
        let tail = u16::try_from(headroom.checked_add(len)?).ok()?;
        let in_order = headers.network <= headers.transport && headers.transport <= len;
        // SAFETY: By the type invariants the buffer is valid and ours alone.
        let skb = unsafe { self.skb.as_mut() };
        if !in_order || skb.len != 0 || u32::from(tail) > skb.end {
            return None;
        }
        // `skb_reserve()` of an empty buffer: data and tail move together.
        //
        // SAFETY: `headroom` is within the buffer.
        skb.data = unsafe { skb.head.add(headroom) };
        skb.tail = head.into();
        // SAFETY: There are `len` bytes behind the tail.
        let data = unsafe { bindings::skb_put(self.skb.as_ptr(), u32::from(tail - head)) };
        // SAFETY: These bytes are in the buffer, and ours alone.
        let frame = unsafe {
            ptr::write_bytes(data.cast::<u8>(), 0, len);
            slice::from_raw_parts_mut(data.cast::<u8>(), len)
        };
        if !fill(frame) {
            return None;
        }

        let skb = self.skb.as_ptr().cast::<u8>();
        // Both are at most `tail`.
        let network = head + headers.network as u16;
        let transport = head + headers.transport as u16;
        // SAFETY: By the type invariants the buffer is valid, and the offsets are those of its
        // 16-bit fields.
        let set = |field: usize, value: u16| unsafe { skb.add(field).cast::<u16>().write(value) };
        set(bindings::SKB_PROTOCOL_OFFSET, headers.protocol.to_be());
        set(bindings::SKB_MAC_HEADER_OFFSET, head);
        set(bindings::SKB_NETWORK_HEADER_OFFSET, network);
        set(bindings::SKB_TRANSPORT_HEADER_OFFSET, transport);
        Some(Frame(self))
    }

    /// Gives the buffer away.
    fn into_raw(self) -> *mut bindings::sk_buff {
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
        for slot in &self.slots {
            // SAFETY: By the type invariants it is owned here.
            drop(NonNull::new(slot.load(Relaxed)).map(|skb| unsafe { SkBuff::from_raw(skb) }));
        }
    }
}
