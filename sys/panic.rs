// SPDX-License-Identifier: GPL-2.0

//! The end of a machine: panics, kdump, and a hook for the time after a panic.
//!
//! C header: [`include/linux/panic.h`](srctree/include/linux/panic.h)

use kernel::{
    ffi::{
        c_int,
        c_long, //
    },
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    types::NotThreadSafe, //
};

use super::{
    bindings,
    printk,
    smp, //
};

/// The number of [`Ending`] objects.
static ENDING: Atomic<i32> = Atomic::new(0);

/// The object of the hook, and the hook that was there before: addresses, 0 for none.
static HOOKED: Atomic<usize> = Atomic::new(0);
static BEFORE: Atomic<usize> = Atomic::new(0);

/// Returns whether the machine may be at its end. Then no lock may be waited for and no memory
/// asked for: the owners of locks may be stopped for good, or be the code that was interrupted. Any
/// context.
pub(crate) fn is_ending() -> bool {
    printk::panic_in_progress() || ENDING.load(Relaxed) > 0
}

/// Returns whether this CPU panics; it will never go on with what it was doing. Any context.
pub(crate) fn is_here() -> bool {
    // SAFETY: Reads an atomic variable.
    unsafe { bindings::panic_on_this_cpu() }
}

/// Evidence that this CPU panics. No other one does; one that has found no crash kernel
/// (`crash_kexec()`) takes that back, but has done nothing meanwhile.
///
/// # Invariants
///
/// [`is_here`] has been true, on the CPU that the object is on.
#[derive(Clone, Copy)]
pub(crate) struct Here(NotThreadSafe);

impl Here {
    /// Returns the evidence if there is any. Any context.
    pub(crate) fn now() -> Option<Self> {
        // INVARIANT: As has just been seen.
        is_here().then_some(Self(NotThreadSafe))
    }
}

/// Returns whether another CPU panics, which will stop this one. Any context.
pub(crate) fn is_elsewhere() -> bool {
    printk::panic_in_progress() && !is_here()
}

/// Evidence that the machine may be at its end.
///
/// # Invariants
///
/// [`is_ending`] is true as long as the object exists.
pub(crate) struct Ending(NotThreadSafe);

impl Ending {
    /// Returns the evidence if there is any. Any context.
    pub(crate) fn now() -> Option<Self> {
        is_ending().then(Self::declare)
    }

    /// Declares that the machine may be at its end, as long as the object exists.
    fn declare() -> Self {
        ENDING.fetch_add(1, Relaxed);
        // INVARIANT: It has been counted.
        Self(NotThreadSafe)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        ENDING.fetch_sub(1, Relaxed);
    }
}

/// Calls `f` with [`is_ending`] true, although the kernel does not panic yet. Any context.
pub(crate) fn while_ending<R>(f: impl FnOnce(&LocalInterruptDisabled) -> R) -> R {
    let _ending = Ending::declare();
    with_interrupts_off(f)
}

/// Calls `f` with interrupts off, for locks that are only tried. Any context.
pub(crate) fn with_interrupts_off<R>(f: impl FnOnce(&LocalInterruptDisabled) -> R) -> R {
    if smp::in_nmi() {
        // They are off, but after a panic, when they can be turned off by nothing that this module
        // has. But no softirq runs on top of an NMI, and nothing else waits for a lock that is
        // tried here.
        //
        // SAFETY: As that says.
        f(unsafe { LocalInterruptDisabled::assume_disabled() })
    } else {
        f(&local_interrupt_disable())
    }
}

/// Switches lockdep off, as `panic()` does a little later: it cannot judge code that runs in a
/// panic, and its report would be one more thing to fail. Any context in a panic.
pub(crate) fn stop_lockdep() {
    // SAFETY: No requirements.
    unsafe { bindings::debug_locks_off() };
}

/// Calls `BUG()`: an oops, here. For tests.
#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
pub(crate) fn bug() {
    // SAFETY: No requirements; it does not come back.
    unsafe { bindings::BUG() }
}

/// Returns whether a crash kernel is loaded, which a crash jumps to. Any context.
pub(crate) fn crash_kernel_is_loaded() -> bool {
    #[cfg(CONFIG_CRASH_DUMP)]
    {
        // SAFETY: Reads a pointer.
        unsafe { bindings::kexec_crash_loaded() != 0 }
    }
    #[cfg(not(CONFIG_CRASH_DUMP))]
    false
}

/// How long the machine waits after a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// No time: it is reset at once.
    None,
    /// This many seconds, before it is reset.
    Seconds(u32),
    /// For ever.
    Endless,
}

/// Evidence that this CPU panics and is the only one that runs, with interrupts off.
///
/// # Invariants
///
/// That is so as long as the object exists.
pub(crate) struct Panic(NotThreadSafe);

impl Panic {
    /// # Safety
    ///
    /// The caller must be called by `panic()` after that has stopped the other CPUs, and drop this
    /// before it returns.
    pub(super) unsafe fn assume() -> Self {
        // INVARIANT: As the caller promises.
        Self(NotThreadSafe)
    }

    /// Returns the evidence that it is this CPU.
    pub(super) fn here(&self) -> Here {
        // INVARIANT: By the type invariants.
        Here(NotThreadSafe)
    }

    /// Returns the proof that interrupts are off.
    pub(crate) fn interrupts_off(&self) -> &LocalInterruptDisabled {
        // SAFETY: By the type invariants.
        unsafe { LocalInterruptDisabled::assume_disabled() }
    }

    /// Returns how long the machine will wait (`kernel.panic`).
    pub(crate) fn timeout(&self) -> Timeout {
        // SAFETY: An integer that lives for ever.
        let timeout = unsafe { (&raw const bindings::panic_timeout).read_volatile() };
        match timeout {
            0 => Timeout::Endless,
            n => u32::try_from(n).map_or(Timeout::None, Timeout::Seconds),
        }
    }

    /// Hooks [`Blink::blink`] into `panic_blink`, before the hook that was there. The first caller
    /// has it; the object lives for ever.
    ///
    /// To be called in the panic and not earlier: others (i8042) set the hook when they are loaded,
    /// and clear it when they go, whoever has it.
    pub(crate) fn on_blink<T: Blink>(&self, object: Arc<T>) {
        if HOOKED.load(Relaxed) != 0 {
            return;
        }
        HOOKED.store(Arc::into_raw(object).expose_provenance(), Relaxed);
        // SAFETY: By the type invariants nobody else runs who could use the pointer.
        unsafe {
            let hook = &raw mut bindings::panic_blink;
            let before: Option<unsafe extern "C" fn(c_int) -> c_long> = hook.read();
            BEFORE.store(before.map_or(0, |f| f as usize), Relaxed);
            hook.write(Some(blink::<T>));
        }
    }
}

/// A callback for the time after a panic.
pub(crate) trait Blink: Send + Sync + 'static {
    /// Called about every 200 ms until the machine is reset, by the CPU that panics, in whatever
    /// context that does; each call may be the last. May be busy for some milliseconds, and returns
    /// how many they were.
    fn blink(&self, off: &LocalInterruptDisabled) -> u32;
}

/// The hook in C.
///
/// # Safety
///
/// Only `panic()` may call this, after [`Panic::on_blink`] with the same type.
unsafe extern "C" fn blink<T: Blink>(state: c_int) -> c_long {
    // SAFETY: The object was leaked by `on_blink()`.
    let object = unsafe { &*core::ptr::with_exposed_provenance::<T>(HOOKED.load(Relaxed)) };
    let spent = with_interrupts_off(|off| object.blink(off));
    let before = match BEFORE.load(Relaxed) {
        0 => 0,
        before => {
            // SAFETY: It was read from a pointer to such a function, which is kernel text.
            let before: unsafe extern "C" fn(c_int) -> c_long =
                unsafe { core::mem::transmute::<usize, _>(before) };
            // SAFETY: `panic()` would have called it.
            unsafe { before(state) }
        }
    };
    before.saturating_add(c_long::try_from(spent).unwrap_or(0))
}
