// SPDX-License-Identifier: GPL-2.0

//! Socket buffers, and a reserve of them for when there is no memory.
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
        Acquire,
        Atomic,
        Full,
        Relaxed, //
    },
};

use super::bindings;

// `tail` and `end` are offsets from `head` on 64-bit machines, and pointers on others.
const _: () = assert!(usize::BITS == 64);

/// A socket buffer without other owners; freed when dropped, in any context but NMI.
///
/// # Invariants
///
/// `skb` is valid, linear, and ours alone.
pub(crate) struct SkBuff {
    skb: NonNull<bindings::sk_buff>,
}

// SAFETY: A buffer that is ours alone can be used and freed on any CPU.
unsafe impl Send for SkBuff {}

/// The offsets of the headers in a frame.
pub(crate) struct Headers {
    /// The type of the frame (`ETH_P_*`).
    pub(crate) protocol: u16,
    /// The IP header.
    pub(crate) network: usize,
    /// The header of UDP or the like.
    pub(crate) transport: usize,
}

/// A buffer that holds a frame, headers in order.
pub(crate) struct Frame(SkBuff);

impl Frame {
    /// Gives up the buffer.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        self.0.into_raw()
    }

    /// # Safety
    ///
    /// `skb` must be a frame that is ours from here on.
    pub(super) unsafe fn from_raw(skb: *mut bindings::sk_buff) -> Self {
        // SAFETY: As the caller promises.
        Self(unsafe { SkBuff::from_raw(NonNull::new_unchecked(skb)) })
    }

    /// Adds a reference, to be given to a driver.
    pub(super) fn lend(self) -> Lent {
        // INVARIANT: There are two references now, and one stays here.
        let skb = self.0.into_raw();
        // SAFETY: The buffer was ours alone.
        unsafe { users(skb) }.store(2, Relaxed);
        // SAFETY: It is not null.
        Lent(unsafe { NonNull::new_unchecked(skb) })
    }
}

/// Returns the number of references to a buffer.
///
/// # Safety
///
/// The buffer must be valid for all of `'a`.
unsafe fn users<'a>(skb: *mut bindings::sk_buff) -> &'a Atomic<i32> {
    // SAFETY: As the caller promises; C code uses it with atomic operations only.
    unsafe { Atomic::from_ptr((&raw mut (*skb).users).cast()) }
}

/// A frame that a driver has a reference to until it has been sent. It is kept, and not changed.
///
/// # Invariants
///
/// One reference to the buffer is ours, and nobody but us and the driver knows of it.
pub(crate) struct Lent(NonNull<bindings::sk_buff>);

// SAFETY: A reference can be given back on any CPU.
unsafe impl Send for Lent {}

impl Lent {
    pub(super) fn as_ptr(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    /// Takes back a frame that the driver has not taken.
    pub(super) fn take_back(self) -> Frame {
        // SAFETY: By the type invariants the buffer is valid; the driver's reference is unused.
        unsafe { users(self.as_ptr()) }.store(1, Relaxed);
        let skb = mem::ManuallyDrop::new(self).as_ptr();
        // SAFETY: The one reference that is left is ours.
        unsafe { Frame::from_raw(skb) }
    }

    fn into_raw(self) -> *mut bindings::sk_buff {
        mem::ManuallyDrop::new(self).as_ptr()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: By the type invariants one reference is ours.
        unsafe {
            bindings::dev_kfree_skb_any_reason(
                self.as_ptr(),
                bindings::skb_drop_reason_SKB_CONSUMED,
            )
        };
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
    /// `fill` gets the zeroed bytes, and returns whether they are a frame. If not, or if the buffer
    /// is too small or the headers are not in the frame, the buffer is freed.
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

    /// Gives up the buffer.
    fn into_raw(self) -> *mut bindings::sk_buff {
        self.into_inner().as_ptr()
    }

    fn into_inner(self) -> NonNull<bindings::sk_buff> {
        mem::ManuallyDrop::new(self).skb
    }

    /// Empties the buffer, whatever frame it was.
    fn clear(&mut self) {
        // SAFETY: By the type invariants the buffer is valid and ours alone.
        let skb = unsafe { self.skb.as_mut() };
        skb.len = 0;
        skb.data = skb.head;
        skb.tail = 0;
        // A VLAN leaves its tag here, for the device below it.
        //
        // SAFETY: This is a field of the buffer.
        unsafe {
            let tag = self.skb.as_ptr().byte_add(bindings::SKB_VLAN_ALL_OFFSET);
            tag.cast::<u32>().write(0);
        }
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

/// `N` buffers of one size, for when there is no memory.
///
/// Taking one needs no lock. Any context, NMI included. A buffer that has been lent to a driver can
/// be put here; it is taken again when the driver has sent it.
///
/// # Invariants
///
/// Each slot is null or comes from [`SkBuff::into_raw`] or [`Lent::into_raw`], and the reference is
/// then owned by this object.
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

    /// Returns for how many bytes each buffer has room.
    pub(crate) fn size(&self) -> usize {
        self.size
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
            // By the type invariants the reference was owned here; now it is ours.
            drop(NonNull::new(old).map(Lent));
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
            let skb = NonNull::new(slot.xchg(ptr::null_mut(), Full))?;
            // SAFETY: By the type invariants a reference was owned here; now it is ours.
            if unsafe { users(skb.as_ptr()) }.load(Acquire) != 1 {
                self.put(Lent(skb));
                return None;
            }
            // SAFETY: It is the only one.
            let mut skb = unsafe { SkBuff::from_raw(skb) };
            skb.clear();
            Some(skb)
        })
    }

    /// Returns how many slots are not empty. Any context.
    pub(crate) fn count(&self) -> usize {
        let full = |slot: &&Atomic<*mut bindings::sk_buff>| !slot.load(Relaxed).is_null();
        self.slots.iter().filter(full).count()
    }

    /// Keeps a frame that has been lent to a driver, until it has been sent. Any context.
    pub(crate) fn put(&self, lent: Lent) {
        let free = |slot: &&Atomic<*mut bindings::sk_buff>| slot.load(Relaxed).is_null();
        if let Some(slot) = self.slots.iter().find(free) {
            // INVARIANT: The new pointer comes from `Lent::into_raw`.
            let old = slot.xchg(lent.into_raw(), Full);
            // By the type invariants a reference was owned here; now it is ours.
            drop(NonNull::new(old).map(Lent));
        }
    }

    /// Keeps a frame that could not be sent. Any context.
    pub(crate) fn put_back(&self, frame: Frame) {
        // Nobody else has a reference to it.
        self.put(Lent(frame.0.into_inner()));
    }
}

impl<const N: usize> Drop for Reserve<N> {
    fn drop(&mut self) {
        for slot in &self.slots {
            // By the type invariants the reference is owned here.
            drop(NonNull::new(slot.load(Relaxed)).map(Lent));
        }
    }
}
