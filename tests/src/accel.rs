// SPDX-License-Identifier: GPL-2.0

//! Hardware virtualization: whether it works here. A `/dev/kvm` that exists may still hang its
//! guests, so it is believed only after a short boot.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;

use crate::arch::Arch;
use crate::env;
use crate::vm::{Vm, VmConfig};

/// The longest time that a guest takes to boot where hardware virtualization works.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The way to run guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accel {
    /// The processor's own virtualization.
    Kvm,
    /// Emulation.
    Tcg,
    /// Emulation by one thread, in which an instruction takes a nanosecond of the guest's time: for
    /// counting instructions.
    Counted,
}

impl Accel {
    /// Returns the argument of QEMU's `-accel`; with `one_thread` all emulated processors share one
    /// thread.
    pub fn argument(self, one_thread: bool) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg if one_thread => "tcg,thread=single",
            Self::Counted => "tcg,thread=single",
            Self::Tcg => "tcg",
        }
    }

    /// Returns the fastest one that works on this host for guests of `arch`. The answer is kept in
    /// `NCTEST_OUT`.
    pub fn detect(arch: &Arch) -> Self {
        static ANSWER: OnceLock<Accel> = OnceLock::new();
        if !arch.is_host() {
            return Self::Tcg;
        }
        *ANSWER.get_or_init(|| match env::out_dir() {
            Ok(out) => cached(&out.join("accel")),
            Err(_) => Self::Tcg,
        })
    }
}

fn cached(file: &Path) -> Accel {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        return Accel::Tcg;
    }
    match fs::read_to_string(file).as_deref() {
        Ok("kvm") => return Accel::Kvm,
        Ok("tcg") => return Accel::Tcg,
        _ => {}
    }
    let accel = if probe().is_ok() {
        Accel::Kvm
    } else {
        Accel::Tcg
    };
    let word = if accel == Accel::Kvm { "kvm" } else { "tcg" };
    // A failure to keep the answer only costs time.
    let _ = fs::write(file, word);
    accel
}

fn probe() -> Result<()> {
    let guest = env::Guest::test().or_else(|_| env::Guest::stock())?;
    let mut config = VmConfig::new("kvm-probe", guest);
    config.accel = Some(Accel::Kvm);
    config.nics.clear();
    config.boot_limit = PROBE_LIMIT;
    Vm::start(config).map(drop)
}
