// SPDX-License-Identifier: GPL-2.0

//! Functions in the lines of a trace, and those that a signature does not count.

use std::fmt::{self, Write};

/// The longest name of a function that is kept, in bytes.
const LONGEST: usize = 128;

/// A function in a line, as in `foo_bar.isra.0+0x12/0x34 [mod]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its name, without the compiler's suffixes.
    pub(super) name: String,
    /// Whether the unwinder is sure of it: there is no `?` in front.
    pub(super) sure: bool,
}

/// Returns the function in a line that has one with an offset and a size.
pub(super) fn frame(line: &str) -> Option<Frame> {
    let at =
        memchr::memmem::find_iter(line.as_bytes(), b"+0x").find(|at| is_offset(&line[*at..]))?;
    let before = &line[..at];
    let start = before
        .rfind([' ', ':', ']', '(', '\t'])
        .map_or(0, |at| at + 1);
    let name = normal(&before[start..])?;
    let sure = !before[..start].trim_end().ends_with('?');
    Some(Frame { name, sure })
}

/// Returns whether this begins as `+0x12/0x34`.
fn is_offset(text: &str) -> bool {
    let hex = |text: &str| text.bytes().take_while(u8::is_ascii_hexdigit).count();
    let offset = text.strip_prefix("+0x").map(|rest| (hex(rest), rest));
    let size = offset.filter(|(length, _)| *length > 0);
    let size = size.and_then(|(length, rest)| rest[length..].strip_prefix("/0x"));
    size.is_some_and(|rest| hex(rest) > 0)
}

/// Returns a function's name without the parts that differ from build to build: the compiler's
/// suffixes (`.isra.0`, `.cold`, `.llvm.123`), the hashes of Rust's names and of BPF programs.
pub(super) fn normal(name: &str) -> Option<String> {
    let name = name.get(..name.floor(LONGEST))?;
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let mut out = Bounded(String::new());
        // It ends early if the name repeats itself many times over.
        let _ = write!(out, "{rust:#}");
        return Some(out.0);
    }
    let name = match name.find('.') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    };
    if let Some((hash, rest)) = name
        .strip_prefix("bpf_prog_")
        .and_then(|n| n.split_once('_'))
    {
        if hash.len() == 16 && hash.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Some(format!("bpf_prog_{rest}"));
        }
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "_$".contains(c);
    (!name.is_empty() && name.chars().all(legal)).then(|| name.to_owned())
}

/// A name that takes no more than [`LONGEST`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST.saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor(room)]);
        if text.len() > room {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Text that is cut between characters.
pub(super) trait Floor {
    /// Returns the last boundary of characters at or before `at`.
    fn floor(&self, at: usize) -> usize;
}

impl Floor for str {
    fn floor(&self, at: usize) -> usize {
        let at = at.min(self.len());
        (0..=at)
            .rev()
            .find(|at| self.is_char_boundary(*at))
            .unwrap_or(0)
    }
}

/// Functions that report, and the entry code that leads to them, on x86-64 and arm64; checks of
/// locks and contexts; and helpers whose arguments are wrong, not they. A name that ends with `*`
/// stands for all that begin so.
const REPORTING: &str = "\
    dump_stack* __dump_stack show_stack* dump_backtrace* show_regs* __show_regs show_trace* panic
    vpanic nmi_panic check_panic_on_warn __warn* warn_slowpath* report_bug* __report_bug
    handle_bug fixup_bug* exc_* asm_exc_* asm_sysvec_* sysvec_* __sysvec_* asm_common_interrupt
    common_interrupt die __die* die_* oops_* page_fault_oops no_context __bad_area* bad_area*
    do_user_addr_fault do_kern_addr_fault __do_page_fault do_page_fault async_page_fault
    page_fault do_trap* do_error_trap do_invalid_op invalid_op do_general_protection
    general_protection do_divide_error divide_error error_entry kernelmode_fixup_or_oops kasan_*
    __kasan_* __asan_* __hwasan_* print_report print_address_description* check_memory_region*
    check_region_inline kcsan_* __kcsan_* __tsan_* ubsan_* __ubsan_* kmsan_* __msan_* kfence_*
    instrument_* sysrq_* __handle_sysrq handle_sysrq write_sysrq_trigger nmi_* __nmi_*
    default_do_nmi do_nmi end_repeat_nmi arch_trigger_* trigger_* watchdog* lockup_detector*
    perf_event_overflow __perf_event_overflow handle_pmi_common intel_pmu_handle_irq
    perf_event_nmi_handler el0_* el0t_* el1_* el1h_* do_mem_abort do_translation_fault do_bad_area
    __do_kernel_fault do_kernel_fault do_sp_pc_abort do_undefinstr do_el1_* call_break_hook
    brk_handler bug_handler do_debug_exception bug_brk_handler arm64_notify_die arm64_serror_panic
    do_serror handle_bad_stack early_brk64 print_circular_bug* print_deadlock_bug print_usage_bug*
    print_irq_* print_unlock_* check_noncircular check_prev_add* check_prevs_add validate_chain
    mark_lock* mark_usage __lock_acquire lock_acquire* lock_release __lock_release lockdep_*
    print_bad_* __might_resched __might_sleep ___might_sleep __might_fault might_fault
    __schedule_bug spin_bug spin_dump do_raw_spin_* check_preemption_disabled
    debug_smp_processor_id __this_cpu_preempt_check debug_print_object debug_object_*
    debug_check_no_* bad_page* free_page_is_bad* refcount_warn_saturate _raw_* __raw_*
    queued_spin_* native_queued_spin_* pv_queued_spin_* __list_add_valid* __list_del_entry_valid*
    memcpy* __memcpy* memmove* __memmove* memset* __memset* memcmp strlen* strnlen strcmp strncmp
    strcpy strscpy* sized_strscpy rep_movs_alternative rep_stos_alternative copy_user_*
    fortify_panic __fortify_panic __stack_chk_fail usercopy_abort __check_object_size*
    rust_begin_unwind core::panicking::* core::option::* core::result::* core::slice::index::*
    mutex_lock* mutex_trylock mutex_unlock __mutex_* down down_interruptible down_killable
    down_trylock down_read* down_write* up up_read up_write __down_* __up_read __up_write rwsem_*
    check_heap_object __check_heap_object check_stack_object copy_to_user* _copy_to_user*
    copy_from_user* _copy_from_user* alloc_pages* __alloc_pages* __alloc_frozen_* might_alloc
    asm_call_* rust_helper_* free_pcppages_bulk free_unref_* __free_page* __free_frozen_*
    __free_one_page kmalloc* __kmalloc* kmem_cache_* __kmem_cache_* kfree kvfree slab_* __slab_*
    ___slab_*";

/// The ways into the kernel, which have new names every few years.
const ENTRIES: &str = "\
    __x64_sys_* __ia32_sys_* __se_sys_* __do_sys_* __arm64_sys_* ksys_* x64_sys_call do_syscall_64
    entry_SYSCALL* invoke_syscall do_el0_svc vfs_ioctl do_vfs_ioctl process_one_work
    process_scheduled_works worker_thread kthread ret_from_fork*";

/// Functions that wait: a hung task hangs in their caller.
const WAITING: &str = "\
    __switch_to context_switch __schedule* schedule* preempt_schedule* io_schedule* wait_for_*
    __wait_for_common do_wait_for_common mutex_lock* __mutex_lock* ww_mutex_lock* __ww_mutex_lock*
    rwsem_* __down* down down_* __rwsem_* rt_mutex_* __rt_mutex_* rwbase_* percpu_rwsem_wait
    __percpu_down_read percpu_down_write bit_wait* __wait_on_bit* out_of_line_wait_* wait_on_*
    __wait_on_* folio_wait_* __folio_lock* __lock_page* do_wait* __synchronize_* synchronize_*
    rcu_barrier* msleep* usleep_range* __flush_work* flush_work* __cancel_work*";

/// Functions of the timer interrupt and of RCU, by which a CPU that is stuck is found.
const STUCK: &str = "\
    rcu_* print_cpu_stall* print_other_cpu_stall* check_cpu_stall* tick_* __hrtimer_* hrtimer_*
    update_process_times local_apic_timer_interrupt smp_apic_timer_interrupt apic_timer_interrupt
    smp_call_* csd_* __flush_smp_* generic_exec_* cpu_stopper_thread arch_timer_* handle_percpu_*
    generic_handle_* handle_irq_* gic_* call_on_irq_stack do_interrupt_handler arch_local_*
    pv_native_* do_idle cpu_relax native_halt __sched_clock* irq_exit* irq_enter* irq_work_*
    __irq_exit*";

/// The functions that a signature leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// Those that report.
    Reporting,
    /// Those that wait, as well.
    Waiting,
    /// Those by which a stuck CPU is found, as well.
    Stuck,
}

impl Skip {
    /// Returns whether a signature leaves it out.
    pub(super) fn skips(self, name: &str) -> bool {
        let more = match self {
            Self::Reporting => "",
            Self::Waiting => WAITING,
            Self::Stuck => STUCK,
        };
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        let patterns = [REPORTING, ENTRIES, more];
        patterns
            .iter()
            .flat_map(|list| list.split_ascii_whitespace())
            .any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_in_lines() {
        for (line, name, sure) in [
            (" foo_bar+0x12/0x340 [mod]", "foo_bar", true),
            (" ? foo_bar.isra.0+0x12/0x340", "foo_bar", false),
            ("RIP: 0010:foo.cold+0x5/0x9", "foo", true),
            ("pc : foo_bar.constprop.0+0x18/0x48 [m]", "foo_bar", true),
            (" [<ffffffff8107ae10>] ? worker+0x0/0x100", "worker", false),
            (" foo.llvm.1234567+0x1/0x2 (P)", "foo", true),
            (
                "bpf_prog_0123456789abcdef_drop+0x1/0x2",
                "bpf_prog_drop",
                true,
            ),
            (
                " _RNvNtCsfDBl8rBLEEc_4core3str6slices+0x4/0x10",
                "core::str::slices",
                true,
            ),
        ] {
            let name = name.to_owned();
            assert_eq!(frame(line), Some(Frame { name, sure }), "{line}");
        }
        for line in [
            "",
            "a+0x1",
            "+0x1/0x2",
            "1 +0x/0x2",
            "\u{e4}+0x1/0x2",
            "a+0x1/b",
        ] {
            assert_eq!(frame(line), None, "{line}");
        }
    }

    #[test]
    fn hostile_names_stay_short() {
        let long = format!("{}+0x1/0x2", "_RNv".repeat(1000));
        assert!(frame(&long).is_none_or(|frame| frame.name.len() <= LONGEST));
    }

    #[test]
    fn reporting_functions_are_skipped() {
        for name in [
            "dump_stack_lvl",
            "asm_exc_page_fault",
            "kasan_report",
            "panic",
            "el1h_64_sync",
        ] {
            assert!(Skip::Reporting.skips(name), "{name}");
        }
        assert!(!Skip::Reporting.skips("panicky"));
        assert!(!Skip::Reporting.skips("schedule") && Skip::Waiting.skips("schedule"));
    }
}
