// SPDX-License-Identifier: GPL-2.0

//! The architectures of guests, with all that differs between them.

/// An architecture.
#[derive(Debug)]
pub struct Arch {
    /// Its name, as QEMU and Rust have it.
    pub name: &'static str,
    /// The machine, as QEMU names it.
    pub machine: &'static str,
    /// The CPU model, as QEMU names it.
    pub cpu: &'static str,
    /// The words for the kernel's command line that say where its console is, and what to make of
    /// an emulated machine.
    pub append: &'static str,
}

/// The host's, too.
pub const X86_64: Arch = Arch {
    name: "x86_64",
    machine: "pc",
    cpu: "max",
    append: "console=ttyS0 no_timer_check tsc=nowatchdog",
};

/// Emulated in any case. Pointers are signed by a cheap function: the real one would be most of
/// what is emulated.
pub const ARM64: Arch = Arch {
    name: "aarch64",
    machine: "virt",
    cpu: "max,pauth-impdef=on",
    append: "console=ttyAMA0",
};

impl Arch {
    /// Returns the one that Debian calls `name`.
    pub fn of_debian(name: &str) -> Option<&'static Self> {
        match name {
            "amd64" => Some(&X86_64),
            "arm64" => Some(&ARM64),
            _ => None,
        }
    }

    /// Returns the emulator's program.
    pub fn qemu(&self) -> String {
        format!("qemu-system-{}", self.name)
    }

    /// Returns whether the host can run its guests without emulation, if it has the hardware.
    pub fn is_host(&self) -> bool {
        self.name == std::env::consts::ARCH
    }
}
