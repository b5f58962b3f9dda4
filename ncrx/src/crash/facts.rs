// SPDX-License-Identifier: GPL-2.0

//! The facts in the lines of a crash: the function, the trace, the release, the hardware.

use super::rules::{victim, Head};
use super::symbol::{frame, Frame, Skip};
use super::{Kind, ReportLine, Signature};

/// The number of functions in a signature.
const FRAMES: usize = 3;
/// The most functions of a trace that are looked at.
const LOOKED_AT: usize = 64;

/// The starts of lines with functions that are not in the trace.
const ELSEWHERE: &[&str] = &[
    "lr : ",
    "RIP: ",
    "Workqueue: ",
    "WARNING: ",
    "BUG: ",
    "INFO: ",
    "PM: ",
    "hardirqs last",
    "softirqs last",
];
/// The marks in a trace behind which that is which an interrupt has interrupted; on arm64 it is
/// these functions.
const INTERRUPTED: &[&str] = &["</IRQ>", "</NMI>", "<EOI>"];
const ENTERED: &[&str] = &["el1_irq", "el1h_64_irq"];
/// The starts of titles of panics that have nothing to do with where the CPU is.
const ANYWHERE: &[&str] = &[
    "kernel panic: sysrq triggered",
    "kernel panic: NMI",
    "kernel panic: Out of memory",
    "kernel panic: System is deadlocked on memory",
];

/// The facts in the lines of a crash.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) release: Option<String>,
    pub(super) hardware: Option<String>,
    pub(super) panicked: bool,
    pub(super) ended: bool,
    /// The stem of the title, if a later line says more than the first.
    stem: Option<String>,
    /// The function that a line after the first names.
    named: Option<String>,
    /// The function that the CPU was in.
    pointer: Option<String>,
    trace: Vec<String>,
    /// Whether the first trace has begun, and whether it is over.
    tracing: bool,
    traced: bool,
    /// Whether the next line is about another place.
    aside: bool,
}

/// The title of a crash, and the parts of its signature.
pub(super) struct Name {
    pub(super) title: String,
    pub(super) function: Option<String>,
    pub(super) frames: Vec<String>,
    pub(super) signature: Signature,
}

impl Facts {
    /// Reads the lines of a crash that begins so.
    pub(super) fn of(head: &Head, lines: &[ReportLine]) -> Self {
        let mut facts = Self::default();
        for line in lines {
            facts.read(head, &line.text);
        }
        facts
    }

    fn read(&mut self, head: &Head, line: &str) {
        let text = line.trim_start();
        self.panicked |= text.starts_with("Kernel panic - not syncing");
        self.panicked |= text.starts_with("---[ end Kernel panic");
        self.ended |= is_end(text) || (head.kind == Kind::Oom && victim(text).is_some());
        // A machine that restarts after a panic says no more than this.
        let last = ["Rebooting in ", "Kernel Offset: "];
        self.ended |= self.panicked && last.iter().any(|start| text.starts_with(start));
        if let Some(hardware) = text.strip_prefix("Hardware name: ") {
            self.hardware.get_or_insert_with(|| hardware.trim().into());
        }
        if self.release.is_none() && text.contains("ainted") {
            self.release = release(text);
        }
        self.refine(head, text);
        self.follow(head, text);
    }

    /// Takes the facts that are special to a kind of crash.
    fn refine(&mut self, head: &Head, text: &str) {
        if self.stem.is_some() {
            return;
        }
        self.stem = match head.kind {
            Kind::Kasan => ["Read", "Write"].iter().find_map(|way| {
                let size = text.strip_prefix(way)?;
                size.starts_with(" of size ")
                    .then(|| head.stem.replace(" in {}", &format!(" {way} in {{}}")))
            }),
            Kind::Oom => victim(text),
            _ => None,
        };
        if head.kind == Kind::Lockdep && self.named.is_none() {
            self.named = text
                .split_once(", at: ")
                .and_then(|(_, at)| Some(frame(at)?.name));
        }
    }

    /// Follows the first trace.
    fn follow(&mut self, head: &Head, text: &str) {
        let aside = text.starts_with("Preemption disabled at");
        if std::mem::replace(&mut self.aside, aside) {
            return;
        }
        self.tracing |= text.starts_with("Call Trace:") || text.starts_with("Call trace:");
        let stuck = skip(head) == Skip::Stuck;
        let pointer = ["RIP: 0010:", "pc : ", "EIP: ", "RIP: e030:"];
        if let Some(at) = pointer.iter().find_map(|name| text.strip_prefix(name)) {
            let found = frame(at).map(|frame| frame.name);
            let found = found.filter(|name| !skip(head).skips(name));
            // Within a trace it is what an interrupt has interrupted: a stuck CPU is shown from the
            // interrupt that found it, and all else has nothing to do with it.
            if self.pointer.is_none() && (stuck || !self.tracing) {
                self.pointer = found;
            }
            self.traced |= self.tracing && !stuck && self.has_function(head);
            return;
        }
        let found = frame(text).filter(|_| !ELSEWHERE.iter().any(|name| text.starts_with(name)));
        let enters = |frame: &Frame| ENTERED.contains(&frame.name.as_str());
        let interrupted = found.as_ref().is_some_and(enters)
            || INTERRUPTED.iter().any(|mark| text.starts_with(mark));
        if interrupted && !stuck {
            self.traced |= self.has_function(head);
        }
        match found {
            Some(Frame { sure: true, name }) if !self.traced => {
                if self.trace.len() < LOOKED_AT && !text.contains(", at: ") {
                    self.trace.push(name);
                }
            }
            Some(_) => {}
            None if text.starts_with('<') => {}
            // Registers of a part of the trace; then it goes on.
            None if self.trace.is_empty() || is_register(text) => {}
            None => self.traced |= self.has_function(head),
        }
    }

    /// Returns the function that the CPU was in.
    pub(super) fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    /// Returns whether the trace has come to a function that a signature counts.
    fn has_function(&self, head: &Head) -> bool {
        self.trace.iter().any(|name| !skip(head).skips(name))
    }

    /// Returns the crash's title and the parts of its signature.
    pub(super) fn name(&self, head: &Head) -> Name {
        let stem = self.stem.as_deref().unwrap_or(&head.stem);
        let skip = skip(head);
        let first = [&head.function, &self.named, &self.pointer];
        let mut frames: Vec<_> = first.into_iter().flatten().chain(&self.trace).collect();
        if head.kind == Kind::HungTask {
            // The hung task's functions are in the trace alone.
            frames = self.trace.iter().collect();
        }
        frames.retain(|name| !skip.skips(name));
        frames.dedup();
        frames.truncate(FRAMES);
        let frames: Vec<String> = match head.kind {
            // These are told apart by the title.
            Kind::Kcsan | Kind::Oom | Kind::Mce => Vec::new(),
            Kind::Panic if ANYWHERE.iter().any(|why| stem.starts_with(why)) => Vec::new(),
            _ => frames.into_iter().cloned().collect(),
        };
        let function = frames.first().filter(|_| stem.contains("{}"));
        let title = match function {
            Some(function) => stem.replacen("{}", function, 1),
            None => stem.replacen(" in {}", "", 1),
        };
        let mut hash = Fnv::default();
        let of = [head.kind.word(), stem].into_iter();
        of.chain(frames.iter().map(String::as_str))
            .for_each(|part| hash.add(part));
        Name {
            title,
            function: function.cloned(),
            signature: Signature(hash.0),
            frames,
        }
    }
}

/// Returns the functions that the signature of a crash that begins so leaves out.
fn skip(head: &Head) -> Skip {
    match head.kind {
        Kind::HungTask => Skip::Waiting,
        Kind::Bug if head.stem.contains("scheduling") => Skip::Waiting,
        Kind::SoftLockup | Kind::HardLockup | Kind::RcuStall => Skip::Stuck,
        _ => Skip::Reporting,
    }
}

/// Returns the release in `CPU: 1 PID: 2 Comm: x Not tainted 6.1.0 #1`, or as hung tasks and
/// lockdep have it.
fn release(text: &str) -> Option<String> {
    let before = &text[..text.find(" #")?];
    let release = before.rsplit(' ').next()?;
    let known = release.starts_with(|c: char| c.is_ascii_digit()) && release.contains('.');
    known.then(|| release.to_owned())
}

/// Returns whether a line ends a report, for all that the kernel marks.
pub(super) fn is_end(text: &str) -> bool {
    text.starts_with("---[ end ") || is_bar(text)
}

/// Returns whether it is the bar around reports of KASAN and KCSAN.
pub(super) fn is_bar(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|c| c == b'=')
}

fn is_register(text: &str) -> bool {
    const NAMES: &[&str] = &[
        "Code: ",
        "RSP: ",
        "RAX: ",
        "RDX: ",
        "RBP: ",
        "R10: ",
        "R13: ",
        "ORIG_RAX: ",
        "RIP: ",
    ];
    NAMES.iter().any(|name| text.starts_with(name))
}

/// Returns whether a line looks like a part of a trace.
pub(super) fn is_trace(text: &str) -> bool {
    const STARTS: &[&str] = &[
        "Call Trace",
        "Call trace",
        "Modules linked in",
        "CPU: ",
        "CPU#",
        "Hardware name",
        "Tainted: ",
        "Workqueue: ",
        "Code: ",
        "FS: ",
        "CS: ",
        "CR2: ",
        "DR0: ",
        "DR3: ",
        "PKRU: ",
        "PGD ",
        "#PF: ",
        "pstate: ",
        "lr : ",
        "sp : ",
        "Mem abort",
        "Data abort",
        "ESR ",
        "FAR ",
        "Stack:",
        "Read of size",
        "Write of size",
        "Allocated by",
        "Freed by",
        "The buggy",
        "Memory state",
        "page:",
        "page dumped",
        "flags: ",
        "raw: ",
        ">ffff",
        "ffff",
        "NMI backtrace",
        "Sending NMI",
        "task:",
        "Kernel Offset",
        "note: ",
        "irq event stamp",
        "hardirqs last",
        "softirqs last",
        "read to ",
        "write to ",
        "value changed",
        "Reported by",
        "Last potentially",
        "Second to last",
        "Kernel panic",
        "Rebooting in",
        "[Hardware Error]",
        "Showing ",
        "workqueue ",
        "pwq ",
        "in-flight: ",
        "pending: ",
    ];
    let register = || {
        let name = text.split([':', ' ']).next().unwrap_or_default();
        let mut letters = name.chars();
        let first = letters.next();
        name.len() <= 4 && matches!(first, Some('R' | 'E' | 'x')) && text.contains(':')
    };
    text.starts_with('<')
        || STARTS.iter().any(|start| text.starts_with(start))
        || register()
        || frame(text).is_some()
}

/// FNV-1a: the same on all machines and in all versions.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, part: &str) {
        for byte in part.bytes().chain([b'\n']) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (line, of) in [
            (
                "CPU: 1 PID: 2 Comm: a b Not tainted 6.1.0-13-amd64 #1 Debian",
                Some("6.1.0-13-amd64"),
            ),
            (
                "CPU: 0 UID: 0 PID: 9 Comm: x Tainted: G  OE   7.3.4 #5 PREEMPT(lazy)",
                Some("7.3.4"),
            ),
            ("CPU: 0 PID: 9 Comm: x", None),
            (
                "Not tainted 5.15.0-91-generic #101-Ubuntu",
                Some("5.15.0-91-generic"),
            ),
            ("6.12.48 #1 Not tainted", Some("6.12.48")),
            ("Tainted: [O]=OOT_MODULE", None),
        ] {
            assert_eq!(release(line).as_deref(), of, "{line}");
        }
    }
}
