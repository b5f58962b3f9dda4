// SPDX-License-Identifier: GPL-2.0

//! CPUs, and functions that run on one of them.
//!
//! C headers: [`include/linux/smp.h`](srctree/include/linux/smp.h),
//! [`include/linux/cpumask.h`](srctree/include/linux/cpumask.h)

use core::ptr::NonNull;

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::Cpumask, //
};

use super::bindings;

/// Returns the numbers of the CPUs that are online, each as it is when the iterator comes to it.
/// Any context.
///
/// CPUs come and go: one may be offline by the time it is used.
pub(crate) fn online_cpus() -> impl Iterator<Item = u32> {
    // SAFETY: The mask is there for ever, and changed with atomic operations only.
    let online = unsafe { Cpumask::from_raw((&raw const bindings::__cpu_online_mask).cast()) };
    (0..nr_cpu_ids()).filter(|&cpu| CpuId::from_u32(cpu).is_some_and(|cpu| online.test(cpu)))
}

/// Returns the CPUs that are online and that the kernel's own timers may disturb, as
/// [`online_cpus`]. Any context.
pub(crate) fn housekeeping_cpus() -> impl Iterator<Item = u32> {
    online_cpus().filter(|_cpu| {
        #[cfg(CONFIG_CPU_ISOLATION)]
        // SAFETY: No requirements.
        unsafe {
            bindings::housekeeping_test_cpu(
                *_cpu as kernel::ffi::c_int,
                bindings::hk_type_HK_TYPE_KERNEL_NOISE,
            )
        }
        #[cfg(not(CONFIG_CPU_ISOLATION))]
        true
    })
}

/// Returns the number of this CPU. Any context; valid while the caller cannot be moved.
pub(crate) fn this_cpu() -> u32 {
    CpuId::current().as_u32()
}

/// Returns this CPU's copy of a per-CPU variable. Any context; as [`this_cpu`].
///
/// # Safety
///
/// `variable` must be the address of a per-CPU variable as the linker has it.
pub(super) unsafe fn per_cpu<T>(variable: NonNull<T>) -> NonNull<T> {
    // SAFETY: There is an offset for each CPU. With it, and modulo the size of the address space,
    // the address is that of this CPU's copy, which is not null.
    unsafe {
        let offset = bindings::__per_cpu_offset[this_cpu() as usize] as usize;
        NonNull::new_unchecked(variable.as_ptr().wrapping_byte_add(offset))
    }
}

/// Returns whether this runs on top of an NMI. Any context.
pub(crate) fn in_nmi() -> bool {
    #[cfg(CONFIG_X86_64)]
    let count = {
        extern "C" {
            static mut __preempt_count: u32;
        }
        // SAFETY: A per-CPU variable that lives for ever; in NMI this does not move.
        unsafe {
            per_cpu(NonNull::new_unchecked(&raw mut __preempt_count))
                .as_ptr()
                .read_volatile()
        }
    };
    #[cfg(CONFIG_ARM64)]
    let count = {
        let task = kernel::current!().as_ptr();
        // SAFETY: A field of the current task that only it changes.
        unsafe {
            task.byte_add(bindings::TASK_PREEMPT_COUNT_OFFSET)
                .cast::<u32>()
                .read_volatile()
        }
    };
    count & bindings::PREEMPT_NMI != 0
}

/// Calls `f` on another CPU, in a hard interrupt. Returns whether there is another one. Process
/// context. For tests.
#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
pub(crate) fn interrupt_another(f: fn()) -> bool {
    use kernel::ffi::{
        c_int,
        c_void, //
    };

    /// # Safety
    ///
    /// `f` must be a `fn()`.
    unsafe extern "C" fn call(f: *mut c_void) {
        // SAFETY: As the caller promises.
        let f = unsafe { core::mem::transmute::<*mut c_void, fn()>(f) };
        f();
    }

    let this = this_cpu();
    let Some(other) = online_cpus().find(|&cpu| cpu != this) else {
        return false;
    };
    let other = c_int::try_from(other).unwrap_or(0);
    // SAFETY: Process context; the function is for what it is called with. Nobody waits for it.
    unsafe { bindings::smp_call_function_single(other, Some(call), f as *mut c_void, false) == 0 }
}
