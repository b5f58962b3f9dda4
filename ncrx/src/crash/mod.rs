// SPDX-License-Identifier: GPL-2.0

//! Crashes in a kernel's log: their lines, their titles, and signatures that are equal for the same
//! bug.
//!
//! A [`Recognizer`] takes one stream's lines in order and returns a [`Report`] for each crash. The
//! lines may come from netconsole_ext, netconsole, or a serial console.
//!
//! ```
//! use ncrx::crash::{Kind, Line, Recognizer};
//!
//! let mut recognizer = Recognizer::default();
//! let mut reports = Vec::new();
//! for line in [
//!     "[   12.000001][  T123] BUG: kernel NULL pointer dereference, address: 0000000000000008",
//!     "[   12.000002][  T123] Oops: Oops: 0002 [#1] SMP NOPTI",
//!     "[   12.000003][  T123] CPU: 1 UID: 0 PID: 123 Comm: cat Not tainted 7.3.4 #1",
//!     "[   12.000004][  T123] RIP: 0010:frob_read+0x12/0x40 [frob]",
//!     "[   12.000005][  T123] Call Trace:",
//!     "[   12.000006][  T123]  vfs_read+0xb5/0x350",
//!     "[   12.000007][  T123] ---[ end trace 0000000000000000 ]---",
//! ] {
//!     recognizer.push(&Line::plain(line.as_bytes()), &mut reports);
//! }
//! recognizer.finish(&mut reports);
//! assert_eq!(reports[0].kind, Kind::Oops);
//! assert_eq!(
//!     reports[0].title,
//!     "BUG: unable to handle kernel NULL pointer dereference in frob_read"
//! );
//! ```
//!
//! A report's lines are those of the caller (`T123`, `C1`) that its first line has, and of the CPUs
//! that it has asked for a backtrace. It ends with its end mark, with the next crash of the same
//! caller, when nothing of a trace comes any more, or after [`WINDOW_USEC`] of the sender's clock.
//! A panic that a crash has led to is a part of that crash.

mod facts;
mod line;
mod recognizer;
mod rules;
mod symbol;

use std::fmt;

pub use line::Line;
pub use recognizer::{Recognizer, WINDOW_USEC};

/// The kind of a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A panic that no other crash has led to.
    Panic,
    /// A fault in the kernel: a bad address, a division by zero, a double fault.
    Oops,
    /// `kernel BUG at`, and other lines that begin with `BUG:`.
    Bug,
    /// A general protection fault.
    Gp,
    /// A report of KASAN.
    Kasan,
    /// A report of KCSAN.
    Kcsan,
    /// A report of KMSAN.
    Kmsan,
    /// A report of KFENCE.
    Kfence,
    /// A report of UBSAN.
    Ubsan,
    /// A task that has been blocked for too long.
    HungTask,
    /// A CPU that does not schedule.
    SoftLockup,
    /// A CPU that takes no interrupts.
    HardLockup,
    /// A grace period of RCU that does not end.
    RcuStall,
    /// An error of the hardware.
    Mce,
    /// A report of lockdep.
    Lockdep,
    /// A `WARN_ON`.
    Warning,
    /// A process that was killed because memory has run out.
    Oom,
    /// A trace whose first lines are missing.
    Unknown,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::Panic,
        Self::Oops,
        Self::Bug,
        Self::Gp,
        Self::Kasan,
        Self::Kcsan,
        Self::Kmsan,
        Self::Kfence,
        Self::Ubsan,
        Self::HungTask,
        Self::SoftLockup,
        Self::HardLockup,
        Self::RcuStall,
        Self::Mce,
        Self::Lockdep,
        Self::Warning,
        Self::Oom,
        Self::Unknown,
    ];

    /// Returns the kind in one word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::Bug => "bug",
            Self::Gp => "gp",
            Self::Kasan => "kasan",
            Self::Kcsan => "kcsan",
            Self::Kmsan => "kmsan",
            Self::Kfence => "kfence",
            Self::Ubsan => "ubsan",
            Self::HungTask => "hung_task",
            Self::SoftLockup => "soft_lockup",
            Self::HardLockup => "hard_lockup",
            Self::RcuStall => "rcu_stall",
            Self::Mce => "mce",
            Self::Lockdep => "lockdep",
            Self::Warning => "warning",
            Self::Oom => "oom",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The signature of a crash: the same for two reports of one bug.
///
/// It is made of the kind and of the functions on top of the trace, without offsets, addresses,
/// CPUs, PIDs, and what compilers add to names. [`fmt::Display`] writes 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature(pub u64);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A line of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportLine {
    /// The record's number.
    pub seq: Option<u64>,
    /// The sender's clock, in microseconds.
    pub usec: Option<u64>,
    /// The text, cut at a kilobyte. It is the sender's: nothing in it is escaped.
    pub text: String,
}

/// A crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its kind; that of the first, if one has led to another.
    pub kind: Kind,
    /// Its title, like `KASAN: slab-use-after-free Read in foo`. Parts of it are the sender's.
    pub title: String,
    /// Its signature.
    pub signature: Signature,
    /// The function that the title names, if there is one.
    pub function: Option<String>,
    /// The functions that the signature is made of.
    pub frames: Vec<String>,
    /// The kernel's release, as the sender's header or the trace has it.
    pub release: Option<String>,
    /// The line `Hardware name:`.
    pub hardware: Option<String>,
    /// The caller whose lines these are.
    pub caller: Option<String>,
    /// The lines before it, of all callers.
    pub before: Vec<ReportLine>,
    /// Its lines.
    pub lines: Vec<ReportLine>,
    /// The number of records that were missing while it was received.
    pub missing: u64,
    /// Whether its first line is missing.
    pub headless: bool,
    /// Whether the mark at its end is missing.
    pub endless: bool,
    /// Whether there were more lines, or longer ones, than are kept.
    pub cut: bool,
    /// Whether the kernel has died of it: it has panicked, or marked the records as a crash's.
    pub fatal: bool,
}

impl Report {
    /// Returns whether all of it is there.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && !self.headless && !self.endless && !self.cut
    }
}
