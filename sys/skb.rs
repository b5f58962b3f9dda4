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
/// - `skb` is valid, linear, and ours alone.
/// - The first `initialized` bytes from its `head` on have been written.
pub(crate) struct SkBuff {
    skb: NonNull<bindings::sk_buff>,
    initialized: usize,
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
        // INVARIANT: As the caller promises.
        Self(SkBuff {
            // SAFETY: It is valid.
            skb: unsafe { NonNull::new_unchecked(skb) },
            initialized: 0,
        })
    }

    /// Adds a reference, to be given to a driver.
    pub(super) fn lend(self) -> Lent {
        let initialized = self.0.initialized;
        let skb = self.0.into_inner();
        // SAFETY: The buffer was ours alone.
        unsafe { users(skb.as_ptr()) }.store(2, Relaxed);
        // INVARIANT: There are two references now, and one stays here. A driver may change bytes,
        // but writes them.
        Lent { skb, initialized }
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
/// - One reference to the buffer is ours, and nobody but us and the driver knows of it.
/// - The first `initialized` bytes from its `head` on have been written.
pub(crate) struct Lent {
    skb: NonNull<bindings::sk_buff>,
    initialized: usize,
}

// SAFETY: A reference can be given back on any CPU.
unsafe impl Send for Lent {}

impl Lent {
    /// Returns a buffer of whose bytes nothing is known.
    ///
    /// # Safety
    ///
    /// One reference to it must be ours from here on, and nobody but a driver know of it.
    unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: As the caller promises.
        Self {
            skb,
            initialized: 0,
        }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
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

    /// Takes the buffer back, empty, if the driver has sent the frame.
    fn into_sent(self) -> Result<SkBuff, Self> {
        let skb = self.as_ptr();
        // SAFETY: By the type invariants the buffer is valid, and with it its data, at whose end
        // these are counted. A driver may have made a copy of the buffer that shares them.
        let (owners, sharers) = unsafe {
            let end = (*skb).head.add((*skb).end as usize);
            let sharers = end.byte_add(bindings::SKB_SHARED_DATAREF_OFFSET);
            (users(skb), Atomic::<i32>::from_ptr(sharers.cast()))
        };
        let mask = bindings::SKB_SHARED_DATAREF_MASK as i32;
        if owners.load(Acquire) != 1 || sharers.load(Acquire) & mask != 1 {
            return Err(self);
        }
        let this = mem::ManuallyDrop::new(self);
        // INVARIANT: The only reference is ours.
        let mut skb = SkBuff {
            skb: this.skb,
            initialized: this.initialized,
        };
        skb.clear();
        Ok(skb)
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
        NonNull::new(skb).map(|skb| Self {
            skb,
            initialized: 0,
        })
    }

    /// Zeroes all of the buffer.
    fn initialize(&mut self) {
        // SAFETY: By the type invariants the buffer is valid and ours alone, and has so many bytes
        // from its head on.
        unsafe {
            let skb = self.skb.as_mut();
            ptr::write_bytes(skb.head, 0, skb.end as usize);
            // INVARIANT: They have been written.
            self.initialized = skb.end as usize;
        }
    }

    /// Makes the buffer a frame of `len` bytes with `headroom` bytes before it.
    ///
    /// `fill` writes all of the bytes, whatever was in them, and returns whether they are a frame.
    /// If not, or if the buffer is too small or the headers are not in the frame, the buffer is
    /// freed.
    pub(crate) fn into_frame(
        mut self,
        headroom: usize,
        len: usize,
        headers: Headers,
        fill: &mut dyn FnMut(&mut [u8]) -> bool,
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
        // `skb_reserve()` of an empty buffer, and `skb_put()`.
        //
        // SAFETY: `headroom` is within the buffer.
        skb.data = unsafe { skb.head.add(headroom) };
        skb.tail = tail.into();
        skb.len = u32::from(tail - head);
        // SAFETY: These bytes are in the buffer, and ours alone. The first ones have been written,
        // by the type invariants, or all are now.
        let frame = unsafe {
            if self.initialized < usize::from(tail) {
                ptr::write_bytes(skb.data, 0, len);
            }
            slice::from_raw_parts_mut(skb.data, len)
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
            //
            // SAFETY: As that says.
            drop(NonNull::new(old).map(|skb| unsafe { Lent::from_raw(skb) }));
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
            let sent = unsafe { Lent::from_raw(skb) }.into_sent();
            sent.map_err(|lent| self.put(lent)).ok()
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
            //
            // SAFETY: As that says.
            drop(NonNull::new(old).map(|skb| unsafe { Lent::from_raw(skb) }));
        }
    }

    /// Keeps a frame that could not be sent. Any context.
    pub(crate) fn put_back(&self, frame: Frame) {
        // There is no other reference to it.
        //
        // SAFETY: As that says.
        self.put(unsafe { Lent::from_raw(frame.0.into_inner()) });
    }
}

impl<const N: usize> Drop for Reserve<N> {
    fn drop(&mut self) {
        for slot in &self.slots {
            // By the type invariants the reference is owned here.
            //
            // SAFETY: As that says.
            drop(NonNull::new(slot.load(Relaxed)).map(|skb| unsafe { Lent::from_raw(skb) }));
        }
    }
}

/// At most `N` buffers of one size that are used again once the driver has sent what is in them,
/// which is cheaper than to allocate and free one for each frame. They are allocated as they are
/// needed. Any context but NMI.
///
/// # Invariants
///
/// Each slot is null or comes from [`Lent::into_raw`], and the reference is then owned by this
/// object. The first `size` bytes from the buffer's `head` on have been written.
pub(crate) struct Reused<const N: usize> {
    size: usize,
    slots: [Atomic<*mut bindings::sk_buff>; N],
}

// SAFETY: As for `Reserve`.
unsafe impl<const N: usize> Send for Reused<N> {}
// SAFETY: As for `Reserve`.
unsafe impl<const N: usize> Sync for Reused<N> {}

impl<const N: usize> Reused<N> {
    /// Creates an object without buffers, which will have room for `size` bytes each.
    pub(crate) fn new(size: usize) -> Self {
        // INVARIANT: All slots are null.
        Self {
            size,
            slots: [const { Atomic::new(ptr::null_mut()) }; N],
        }
    }

    /// Returns the place of the `nth` buffer.
    fn slot(&self, nth: u16) -> &Atomic<*mut bindings::sk_buff> {
        &self.slots[usize::from(nth) % N]
    }

    /// Puts a buffer in a place, and frees the one that is there.
    fn replace(&self, slot: &Atomic<*mut bindings::sk_buff>, lent: Lent) {
        if lent.initialized < self.size {
            return;
        }
        // INVARIANT: The new pointer comes from `Lent::into_raw`, and bytes enough were written.
        let old = slot.xchg(lent.into_raw(), Full);
        // By the type invariants the reference was owned here; now it is ours.
        //
        // SAFETY: As that says.
        drop(NonNull::new(old).map(|skb| unsafe { Lent::from_raw(skb) }));
    }

    /// Takes the `nth` buffer, modulo `N`; the caller should [`Self::put`] it back. [`None`] if it
    /// has no room for `size` bytes, while the driver has not sent what is in it, and if there is
    /// no memory for it.
    pub(crate) fn take(&self, nth: u16, size: usize) -> Option<SkBuff> {
        if size > self.size {
            return None;
        }
        let slot = self.slot(nth);
        // INVARIANT: Null.
        let Some(skb) = NonNull::new(slot.xchg(ptr::null_mut(), Full)) else {
            let mut skb = SkBuff::new_atomic(self.size)?;
            skb.initialize();
            return Some(skb);
        };
        // By the type invariants a reference was owned here, which is ours now.
        let lent = Lent {
            skb,
            // INVARIANT: By the type invariants they have been written.
            initialized: self.size,
        };
        let sent = lent.into_sent();
        sent.map_err(|lent| self.replace(slot, lent)).ok()
    }

    /// Keeps a buffer that [`Self::take`] has returned as the `nth`, until it has been sent; frees
    /// any other.
    pub(crate) fn put(&self, nth: u16, lent: Lent) {
        self.replace(self.slot(nth), lent);
    }
}

impl<const N: usize> Drop for Reused<N> {
    fn drop(&mut self) {
        for slot in &self.slots {
            // By the type invariants the reference is owned here.
            //
            // SAFETY: As that says.
            drop(NonNull::new(slot.load(Relaxed)).map(|skb| unsafe { Lent::from_raw(skb) }));
        }
    }
}
