// SPDX-License-Identifier: GPL-2.0

//! Timers that call back once for each time they are armed.
//!
//! C header: [`include/linux/timer.h`](srctree/include/linux/timer.h)

use kernel::{
    container_of,
    prelude::*,
    static_lock_class,
    str::CStrExt,
    sync::{
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    },
    types::Opaque, //
};

use super::bindings;

/// The number of timers that call the same code.
pub(crate) const TIMERS: usize = 4;

/// How late a timer is that is on a CPU which handles no timers any more, in milliseconds.
const OVERDUE_MS: u32 = 100;

/// The code that timers call.
pub(crate) trait Callback: Send + Sync {
    /// Called by timer `index`, which is not armed any more. Softirq context.
    fn run(&self, index: usize);
}

/// Some timers that call the same code; they do not fire any more once this is dropped.
///
/// # Invariants
///
/// The lists are initialized, and belong to the kernel's timer code.
///
/// # Examples
///
/// ```ignore
/// let timers = KBox::pin_init(Timers::new(), GFP_KERNEL)?;
/// timers.start(Arc::new(Beat, GFP_KERNEL)?);
/// timers.arm(0, 1000);
/// ```
#[pin_data(PinnedDrop)]
pub(crate) struct Timers {
    #[pin]
    slots: [Slot; TIMERS],
    /// The code that they call, if they are started. Held while one is armed.
    #[pin]
    callback: SpinLockIrq<Option<Arc<dyn Callback>>>,
}

/// One of the timers. `index` is its place among them.
#[pin_data]
struct Slot {
    #[pin]
    list: Opaque<bindings::timer_list>,
    index: usize,
}

// SAFETY: Timers are made for use from any context, and what they call is `Send`.
unsafe impl Send for Timers {}

// SAFETY: As above, and `Sync`.
unsafe impl Sync for Timers {}

impl Timers {
    /// Creates them; none is armed.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: Each list is initialized by its `Slot::new()`.
        pin_init!(Self {
            slots <- pin_init::pin_init_array_from_fn(Slot::new),
            callback <- new_spinlock_irq!(None, "Timers::callback"),
        })
    }

    /// Has them call this code when they fire. Process context.
    pub(crate) fn start(&self, callback: Arc<dyn Callback>) {
        let old = self.callback.lock().replace(callback);
        drop(old);
    }

    /// Has timer `index` fire in `ms` milliseconds, or whenever it is armed for if that is sooner.
    /// Any context but NMI.
    ///
    /// It fires on this CPU, or on one that is not idle, unless [`Self::arm_on`] had it last: then
    /// on this one.
    pub(crate) fn arm(&self, index: usize, ms: u64) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let at = in_ms(ms);
        if slot.expires().is_some_and(|armed| !is_after(armed, at)) {
            return;
        }
        let _callback = self.callback.lock();
        // SAFETY: By the type invariants.
        unsafe { bindings::timer_reduce(slot.list.get(), at) };
    }

    /// Has timer `index` fire on a CPU in `ms` milliseconds, if it is not armed. Any context but
    /// NMI. If the CPU goes offline meanwhile, it fires on another one.
    pub(crate) fn arm_on(&self, index: usize, cpu: u32, ms: u64) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let _callback = self.callback.lock();
        if slot.expires().is_none() {
            // SAFETY: By the type invariants. All arming is under the lock, so it is not armed
            // now, and nobody else looks at when it fires but with a volatile read.
            unsafe {
                (&raw mut (*slot.list.get()).expires).write_volatile(in_ms(ms));
                bindings::add_timer_on(slot.list.get(), cpu as i32);
            }
        }
    }

    /// Returns whether timer `index` should have fired [`OVERDUE_MS`] ago, and has not: the CPU
    /// that it is on hangs. Any context.
    pub(crate) fn is_overdue(&self, index: usize) -> bool {
        let expires = self.slots.get(index).and_then(Slot::expires);
        let late = expires.map(|expires| expires.wrapping_add(msecs_to_jiffies(OVERDUE_MS)));
        late.is_some_and(|late| is_after(jiffies(), late))
    }

    /// Returns in how many milliseconds timer `index` is to fire, if it is armed. Any context.
    pub(crate) fn due_in(&self, index: usize) -> Option<u64> {
        let expires = self.slots.get(index)?.expires()?;
        let now = jiffies();
        let left = if is_after(expires, now) {
            expires.wrapping_sub(now)
        } else {
            0
        };
        // A second has `msecs_to_jiffies(1000)` jiffies.
        Some((left as u64).saturating_mul(1000) / (msecs_to_jiffies(1000) as u64).max(1))
    }

    /// Has them fire no more, and waits for the callbacks that run. Process context; sleeps.
    /// Arming does nothing from then on.
    pub(crate) fn stop(&self) {
        for slot in &self.slots {
            // SAFETY: By the type invariants; the callbacks arm timers only with functions that do
            // nothing then.
            unsafe { bindings::timer_shutdown_sync(slot.list.get()) };
        }
        let callback = self.callback.lock().take();
        drop(callback);
    }
}

#[pinned_drop]
impl PinnedDrop for Timers {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}

impl Slot {
    fn new(index: usize) -> impl PinInit<Self> {
        let init = |list: *mut bindings::timer_list| {
            // SAFETY: The list is to be initialized, and stays where it is.
            unsafe {
                bindings::timer_init_key(
                    list,
                    Some(Self::fire),
                    0,
                    c"netconsole_ext".as_char_ptr(),
                    static_lock_class!().as_ptr().cast(),
                )
            }
        };
        pin_init!(Self {
            list <- Opaque::ffi_init(init),
            index,
        })
    }

    /// Returns when it is to fire, in jiffies, if it is armed.
    fn expires(&self) -> Option<Jiffies> {
        let list = self.list.get();
        // SAFETY: The list is initialized. The timer code changes these fields with `WRITE_ONCE()`,
        // and a value that has just changed is no worse than one that changes right after.
        unsafe {
            let pprev = (&raw const (*list).entry.pprev).read_volatile();
            (!pprev.is_null()).then(|| (&raw const (*list).expires).read_volatile())
        }
    }

    /// # Safety
    ///
    /// Only the timer code may call this, for the list of a slot of [`Timers`].
    unsafe extern "C" fn fire(list: *mut bindings::timer_list) {
        // SAFETY: The list is that of a slot, the slot one of the array, and the array a field of
        // the timers, which wait for this before they go away.
        let (timers, index) = unsafe {
            let slot = container_of!(Opaque::cast_from(list), Slot, list);
            let index = (*slot).index;
            let slots: *const [Slot; TIMERS] = slot.sub(index).cast();
            (&*container_of!(slots, Timers, slots), index)
        };
        let callback = timers.callback.lock().clone();
        if let Some(callback) = callback {
            callback.run(index);
        }
    }
}

/// Returns the time now. Any context.
fn jiffies() -> Jiffies {
    // SAFETY: A counter that changes at any time.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// Returns the time in so many milliseconds, no earlier.
fn in_ms(ms: u64) -> Jiffies {
    let ms = u32::try_from(ms).unwrap_or(u32::MAX / 4);
    jiffies().wrapping_add(msecs_to_jiffies(ms)).wrapping_add(1)
}

/// Returns whether `a` is after `b`, as `time_after()`.
fn is_after(a: Jiffies, b: Jiffies) -> bool {
    (b.wrapping_sub(a) as isize) < 0
}
