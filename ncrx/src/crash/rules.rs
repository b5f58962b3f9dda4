// SPDX-License-Identifier: GPL-2.0

//! The first lines of crashes: the kind of each, and its part of the title.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::symbol::{frame, normal, Floor};
use super::Kind;

/// The longest stem, in bytes.
const LONGEST: usize = 160;

/// The role of a line that may be the first of a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It begins one.
    Begins,
    /// It goes on with one that has begun and has not ended, or else begins one.
    GoesOn,
    /// It goes on with one of its kind, of any CPU, or else begins one.
    Repeats,
    /// It is the line of a panic that another crash leads to, or else begins one.
    Follows,
    /// It is a fault that KASAN may have reported before.
    Fault,
}

/// The first line of a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) role: Role,
    /// The title; `{}` stands for the function.
    pub(super) stem: String,
    /// The function, if the line names it.
    pub(super) function: Option<String>,
}

impl Head {
    /// Returns whether the kernel marks the end of such a report.
    pub(super) fn has_end(&self) -> bool {
        match self.kind {
            Kind::Bug => self.stem.starts_with("kernel BUG"),
            Kind::HungTask | Kind::SoftLockup | Kind::HardLockup | Kind::RcuStall => false,
            Kind::Mce | Kind::Lockdep => false,
            _ => true,
        }
    }
}

/// Makes the stem, and finds the function, from the text behind the prefix.
type Say = fn(&str) -> (String, Option<String>);

enum Stem {
    Is(&'static str),
    Says(Say),
}
use Stem::{Is, Says};

struct Rule {
    prefix: &'static str,
    /// The text that has to be somewhere behind that.
    holds: &'static str,
    kind: Kind,
    role: Role,
    stem: Stem,
}

/// Rules, each as `prefix .. text behind it => kind role stem`. The first that fits is taken.
macro_rules! rules {
    ($($prefix:literal $(.. $holds:literal)? => $kind:ident $role:ident $stem:expr;)*) => {
        const RULES: &[Rule] = &[$(Rule {
            prefix: $prefix,
            holds: concat!($($holds)?),
            kind: Kind::$kind,
            role: Role::$role,
            stem: $stem,
        }),*];
    };
}

/// Subsystems whose name may stand in front of a first line.
const SUBSYSTEMS: &[&str] = &[
    "watchdog: ",
    "NMI watchdog: ",
    "rcu: ",
    "mce: ",
    "traps: ",
    "[Hardware Error]: ",
];

const NULL: &str = "BUG: unable to handle kernel NULL pointer dereference in {}";
const PAGE: &str = "BUG: unable to handle page fault in {}";
const STALL: &str = "INFO: rcu detected stall in {}";
const DEADLOCK: &str = "possible deadlock in {}";

rules! {
    "BUG: KASAN: " => Kasan Begins Says(kasan);
    "BUG: KFENCE: " => Kfence Begins Says(kfence);
    "BUG: KMSAN: " => Kmsan Begins Says(kmsan);
    "BUG: KCSAN: " => Kcsan Begins Says(kcsan);
    "BUG: kernel NULL pointer dereference" => Oops Fault Is(NULL);
    "BUG: unable to handle kernel NULL pointer" => Oops Fault Is(NULL);
    "BUG: unable to handle" => Oops Fault Is(PAGE);
    "Unable to handle kernel NULL pointer" => Oops Fault Is(NULL);
    "Unable to handle kernel " .. "virtual address" => Oops Fault Is(PAGE);
    "BUG: soft lockup" => SoftLockup Begins Is("BUG: soft lockup in {}");
    "CPU" .. "detected hard LOCKUP" => HardLockup Begins Is("BUG: hard lockup in {}");
    "Watchdog detected hard LOCKUP" => HardLockup Begins Is("BUG: hard lockup in {}");
    "BUG: workqueue lockup" => Bug Begins Is("BUG: workqueue lockup");
    "BUG: sleeping function" => Bug Begins Is("BUG: sleeping function called from invalid context in {}");
    "BUG: scheduling while atomic" => Bug Begins Is("BUG: scheduling while atomic in {}");
    "BUG: using " .. "in preemptible" => Bug Begins Says(preemptible);
    "BUG: Bad " => Bug Begins Says(bad);
    "BUG: Dentry " .. "still in use" => Bug Begins Says(dentry);
    "BUG: " .. "stack guard page was hit" => Oops Begins Is("BUG: stack guard page was hit in {}");
    "BUG: " => Bug Begins Says(bug);
    "CFI failure at " => Oops Begins Says(cfi);
    "kernel BUG at " => Bug Begins Is("kernel BUG in {}");
    "general protection fault" => Gp Fault Is("general protection fault in {}");
    "invalid opcode: " => Oops GoesOn Is("invalid opcode in {}");
    "divide error: " => Oops Begins Is("divide error in {}");
    "stack segment: " => Oops Begins Is("stack segment fault in {}");
    "int3: " => Oops Begins Is("int3 in {}");
    "PANIC: double fault" => Oops GoesOn Is("double fault in {}");
    "double fault: " => Oops GoesOn Is("double fault in {}");
    "control protection fault: " => Oops Begins Is("control protection fault in {}");
    "Oops: " => Oops GoesOn Is("Oops in {}");
    "Internal error: Oops - BUG" => Bug GoesOn Is("kernel BUG in {}");
    "Internal error: Oops: " => Oops GoesOn Is("Oops in {}");
    "Internal error: " => Oops GoesOn Says(internal);
    "Insufficient stack space to handle exception" => Oops Begins Is("kernel stack overflow in {}");
    "SError Interrupt on CPU" => Mce Repeats Is("SError Interrupt");
    "CPU " .. "Machine Check Exception: " => Mce Repeats Says(mce);
    "CPU " .. "Machine Check: " => Mce Repeats Says(mce);
    "event severity: fatal" => Mce Repeats Is("Hardware Error: fatal event");
    // The trace of the dentry above.
    "WARNING: " .. "umount_check+" => Warning GoesOn Says(warning);
    "WARNING: CPU: " .. " at " => Warning Begins Says(warning);
    "WARNING: " .. ", CPU#" => Warning Begins Says(warning);
    "WARNING: possible circular locking" => Lockdep Begins Is(DEADLOCK);
    "WARNING: possible recursive locking" => Lockdep Begins Is(DEADLOCK);
    "WARNING: possible irq lock inversion" => Lockdep Begins Is(DEADLOCK);
    "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock" => Lockdep Begins Is(DEADLOCK);
    "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock" => Lockdep Begins Is(DEADLOCK);
    "[ BUG: Invalid wait context ]" => Lockdep Begins Is("BUG: Invalid wait context in {}");
    "WARNING: held lock freed!" => Lockdep Begins Is("WARNING: held lock freed in {}");
    "WARNING: lock held when returning to user" => Lockdep Begins Is("WARNING: lock held when returning to user space in {}");
    "WARNING: " .. "still has locks held" => Lockdep Begins Is("WARNING: task still has locks held in {}");
    "WARNING: inconsistent lock state" => Lockdep Begins Is("inconsistent lock state in {}");
    "WARNING: suspicious RCU usage" => Lockdep Begins Is("WARNING: suspicious RCU usage in {}");
    "WARNING: bad unlock balance" => Lockdep Begins Is("WARNING: bad unlock balance in {}");
    "UBSAN: " .. " in " => Ubsan Begins Says(ubsan);
    "INFO: task " .. "blocked for more than" => HungTask Begins Is("INFO: task hung in {}");
    "INFO: rcu" .. "self-detected stall" => RcuStall Repeats Is(STALL);
    "INFO: rcu" .. "detected stall" => RcuStall Repeats Is(STALL);
    "INFO: rcu" .. "expedited stall" => RcuStall Repeats Is(STALL);
    "Kernel panic - not syncing: " => Panic Begins Says(panic);
    "---[ end Kernel panic - not syncing: " => Panic Follows Says(panic);
}

/// The reasons of panics that another crash has led to.
const CONSEQUENCES: &[&str] = &[
    "Fatal exception",
    "panic_on_warn",
    "warned too often",
    "hung_task: ",
    "softlockup: ",
    "Hard LOCKUP",
    "RCU Stall",
    "Attempted to kill",
    "Aiee, killing",
    "achine check",
    "Machine Check",
    "ut of memory",
    "panic_on_taint",
    "SError",
    "kernel stack overflow",
    "atal hardware error",
    "Oops",
];

/// Returns the kind, role and title of a line that may be the first of a crash.
pub(super) fn head(line: &str) -> Option<Head> {
    // `{1}[Hardware Error]: ..`, as ACPI's error sources have it.
    let line = match line.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((_, rest)) => rest,
        None => line,
    };
    let mut rest = line;
    while let Some(behind) = SUBSYSTEMS.iter().find_map(|name| rest.strip_prefix(name)) {
        rest = behind.trim_start();
    }
    // Kernels since 6.10 put this in front of all fatal faults.
    if let Some(fault) = rest.strip_prefix("Oops: ").and_then(first) {
        return Some(fault);
    }
    first(rest)
        .filter(|head| head.kind != Kind::Mce || !is_corrected(rest))
        .or_else(|| oom(line))
}

/// Returns whether it is a line of the hardware's about an error that it has corrected:
/// `CPU 2: Machine Check: 0 Bank 5: 9c20000000010092`.
fn is_corrected(line: &str) -> bool {
    const UNCORRECTED: u64 = 1 << 61;
    let checked = line.split_once("Machine Check: ");
    let bank = checked.and_then(|(_, rest)| rest.split_once(" Bank "));
    let status = bank.and_then(|(_, bank)| bank.split_once(": "));
    let status = status.and_then(|(_, status)| u64::from_str_radix(word(status), 16).ok());
    status.is_some_and(|status| status & UNCORRECTED == 0)
}

fn first(line: &str) -> Option<Head> {
    let begins = line.bytes().next()?;
    let fits = |rule: &&Rule| {
        // Nearly all lines end here: a comparison of texts is a call.
        let first = rule.prefix.as_bytes()[0] == begins;
        let rest = first.then(|| line.strip_prefix(rule.prefix)).flatten();
        rest.is_some_and(|rest| rest.contains(rule.holds))
    };
    let rule = RULES.iter().find(fits)?;
    let rest = &line[rule.prefix.len()..];
    let (stem, function) = match rule.stem {
        Is(stem) => (stem.to_owned(), None),
        Says(say) => say(rest),
    };
    let follows = rule.kind == Kind::Panic && CONSEQUENCES.iter().any(|part| rest.contains(part));
    Some(Head {
        kind: rule.kind,
        role: if follows { Role::Follows } else { rule.role },
        stem: cut(stem),
        function,
    })
}

fn oom(line: &str) -> Option<Head> {
    static INVOKED: LazyLock<Finder<'static>> =
        LazyLock::new(|| Finder::new(" invoked oom-killer: "));
    INVOKED.find(line.as_bytes()).map(|_| Head {
        kind: Kind::Oom,
        role: Role::Begins,
        stem: "Out of memory".into(),
        function: None,
    })
}

/// Returns the stem of the line in which the victim of a lack of memory is named.
pub(super) fn victim(line: &str) -> Option<String> {
    let (what, rest) = line.split_once(": Kill")?;
    let what = match what {
        "Out of memory" | "Out of memory (oom_kill_allocating_task)" => "Out of memory",
        "Memory cgroup out of memory" => what,
        _ => return None,
    };
    let name = rest.split_once('(')?.1;
    let name = &name[..name.find([')', ','])?];
    Some(cut(format!("{what}: killed {}", numberless(name))))
}

fn cut(stem: String) -> String {
    let end = stem.floor(LONGEST);
    match stem.len() > end {
        true => stem[..end].to_owned(),
        false => stem,
    }
}

/// Replaces each number by `N`: hexadecimal ones with `0x` in front or of eight digits or more.
pub(super) fn numberless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let hex = |text: &str| text.bytes().take_while(u8::is_ascii_hexdigit).count();
        let inside = out.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let length = match rest.strip_prefix("0x").map(hex) {
            Some(digits) if digits > 0 => digits + 2,
            _ if !inside
                && hex(rest) >= 8
                && rest[..hex(rest)].contains(|c: char| c.is_ascii_digit()) =>
            {
                hex(rest)
            }
            _ => rest.bytes().take_while(u8::is_ascii_digit).count(),
        };
        match length {
            0 => out.push(c),
            _ => out.push('N'),
        }
        rest = &rest[length.max(if length == 0 { c.len_utf8() } else { 0 })..];
    }
    out
}

/// Returns the first word.
fn word(text: &str) -> &str {
    text.split([' ', ',', '\t']).next().unwrap_or_default()
}

/// `slab-use-after-free in foo+0x12/0x34`; the next line has "Read" or "Write".
fn kasan(rest: &str) -> (String, Option<String>) {
    let (what, at) = rest.split_once(" in ").unwrap_or((rest, ""));
    (
        format!("KASAN: {} in {{}}", numberless(what.trim())),
        named(at),
    )
}

/// `use-after-free read in foo+0x12/0x34`
fn kfence(rest: &str) -> (String, Option<String>) {
    let (what, at) = rest.split_once(" in ").unwrap_or((rest, ""));
    (
        format!("KFENCE: {} in {{}}", numberless(what.trim())),
        named(at),
    )
}

/// `uninit-value in foo+0x12/0x34`
fn kmsan(rest: &str) -> (String, Option<String>) {
    let (what, at) = rest.split_once(" in ").unwrap_or((rest, ""));
    (
        format!("KMSAN: {} in {{}}", numberless(what.trim())),
        named(at),
    )
}

/// `data-race in foo / bar`
fn kcsan(rest: &str) -> (String, Option<String>) {
    let (what, at) = rest.split_once(" in ").unwrap_or((rest, ""));
    let mut functions: Vec<_> = at.split(" / ").map_while(named).collect();
    functions.sort();
    (
        format!("KCSAN: {} in {}", what.trim(), functions.join(" / ")),
        None,
    )
}

/// Returns the function that a text begins with, with or without an offset.
fn named(text: &str) -> Option<String> {
    let word = word(text.trim());
    normal(word.split('+').next()?)
}

/// `foo+0x12/0x34 [mod] (target: bar+0x0/0x10; expected type: 0x12345678)`
fn cfi(rest: &str) -> (String, Option<String>) {
    ("CFI failure in {}".into(), named(rest))
}

fn preemptible(rest: &str) -> (String, Option<String>) {
    let what = rest
        .split_once(" in preemptible")
        .map_or(rest, |(what, _)| what);
    (
        format!("BUG: using {what} in preemptible code in {{}}"),
        None,
    )
}

/// `page state in process foo  pfn:12345`
fn bad(rest: &str) -> (String, Option<String>) {
    let end = [" in process ", "-state ", " mm:", ":", " in "];
    let end = end.iter().filter_map(|end| rest.find(end)).min();
    (
        format!(
            "BUG: Bad {} in {{}}",
            numberless(&rest[..end.unwrap_or(rest.len())])
        ),
        None,
    )
}

/// `00000000c6a1b7f2{i=2f1,n=foo}  still in use (1) [unmount of ext4 sda1]`
fn dentry(rest: &str) -> (String, Option<String>) {
    let unmounted = rest.rsplit_once("[unmount of ");
    let of = unmounted.map_or(String::new(), |(_, of)| {
        format!(" [unmount of {}]", word(of))
    });
    (format!("BUG: Dentry still in use{of}"), None)
}

fn bug(rest: &str) -> (String, Option<String>) {
    let end = [" on CPU", ": ", ", ", " at "];
    let end = end.iter().filter_map(|end| rest.find(end)).min();
    (
        format!(
            "BUG: {} in {{}}",
            numberless(&rest[..end.unwrap_or(rest.len())])
        ),
        None,
    )
}

/// `synchronous external abort: 0000000096000010 [#1] SMP`
fn internal(rest: &str) -> (String, Option<String>) {
    let what = rest.split(": ").next().unwrap_or_default();
    let what = what.strip_prefix("Oops - ").unwrap_or(what);
    (
        format!("Internal error: {} in {{}}", numberless(what)),
        None,
    )
}

/// ` 2: Machine Check Exception: 5 Bank 4: be00000000800400`
fn mce(rest: &str) -> (String, Option<String>) {
    let bank = rest.split_once(" Bank ").map(|(_, bank)| bank);
    let bank = bank.map(|bank| &bank[..bank.bytes().take_while(u8::is_ascii_digit).count()]);
    let what = match rest.contains("Exception: ") {
        true => "Machine Check Exception",
        false => "Machine Check",
    };
    match bank.filter(|bank| !bank.is_empty() && bank.len() < 4) {
        Some(bank) => (format!("{what}: bank {bank}"), None),
        None => (what.into(), None),
    }
}

/// `1 PID: 23 at fs/x.c:12 foo+0x1/0x2`, or `fs/x.c:12 at foo+0x1/0x2, CPU#1: task/23`.
fn warning(rest: &str) -> (String, Option<String>) {
    let frame = frame(rest).map(|frame| frame.name);
    let stem = match frame.as_deref() {
        Some("refcount_warn_saturate") => "WARNING: refcount bug in {}",
        Some("debug_print_object") => "WARNING: ODEBUG bug in {}",
        _ => "WARNING in {}",
    };
    (stem.into(), frame)
}

/// `array-index-out-of-bounds in fs/x.c:12:3`
fn ubsan(rest: &str) -> (String, Option<String>) {
    let what = rest.split(" in ").next().unwrap_or_default();
    (format!("UBSAN: {} in {{}}", numberless(what)), None)
}

fn panic(rest: &str) -> (String, Option<String>) {
    let end = [" exitcode=", " ]---", ". Try passing", " ... "];
    let end = end.iter().filter_map(|end| rest.find(end)).min();
    let what = rest[..end.unwrap_or(rest.len())].trim_end_matches([' ', '.']);
    if let Some(at) = what.strip_prefix("stack-protector: Kernel stack is corrupted in: ") {
        return ("kernel panic: stack is corrupted in {}".into(), named(at));
    }
    (format!("kernel panic: {}", numberless(what)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_one_letter() {
        for (text, without) in [
            ("unknown-block(8,17)", "unknown-block(N,N)"),
            ("at ffff88810a2b4000!", "at N!"),
            ("0xdeadbeef 12 x12", "N N xN"),
            ("face the facade", "face the facade"),
            ("\u{e4}1", "\u{e4}N"),
            ("0x", "Nx"),
        ] {
            assert_eq!(numberless(text), without);
        }
    }

    #[test]
    fn lines_that_begin_no_crash() {
        for line in [
            "",
            "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
            "foo: BUG: a driver's own",
            "INFO: lockdep is turned off.",
            "CPU 1 is now offline",
            "mce: [Hardware Error]: Machine check events logged",
            "WARNING: this is a bad name",
            "{1}[Hardware Error]: event severity: corrected",
            "mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 5: 9c20000000010092",
        ] {
            assert_eq!(head(line), None, "{line}");
        }
    }
}
