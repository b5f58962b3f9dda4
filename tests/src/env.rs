// SPDX-License-Identifier: GPL-2.0

//! The environment that `make` sets: where the things are that the tests boot.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::arch::{Arch, X86_64};

/// A kernel to boot, with the module built for it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The architecture of all that follows, and of the guest's init and busybox.
    pub arch: &'static Arch,
    /// The kernel image.
    pub kernel: PathBuf,
    /// Modules that the guest loads before anything else, in order.
    pub preload: Vec<PathBuf>,
    /// `netconsole_ext.ko`, or what takes its place.
    pub module: PathBuf,
}

impl Guest {
    /// Returns the test kernel. `NCTEST_UPSTREAM=1` puts the kernel's own C netconsole in our
    /// module's place: what we share with it can be compared that way.
    pub fn test() -> Result<Self> {
        let module = if upstream() {
            test_kdir()?.join("drivers/net/netconsole.ko")
        } else {
            file("NCTEST_TEST_MODULE")?
        };
        let kernel = file("NCTEST_TEST_KERNEL")?;
        Ok(Self {
            arch: &X86_64,
            kernel,
            preload: Vec::new(),
            module,
        })
    }

    /// Returns Debian's kernel.
    pub fn stock() -> Result<Self> {
        let preload = variable("NCTEST_STOCK_PRELOAD")?;
        let arch = variable("NCTEST_STOCK_ARCH")?;
        let arch = Arch::of_debian(&arch).with_context(|| format!("no machine for {arch}"))?;
        Ok(Self {
            arch,
            kernel: file("NCTEST_STOCK_KERNEL")?,
            preload: preload.split_whitespace().map(PathBuf::from).collect(),
            module: file("NCTEST_STOCK_MODULE")?,
        })
    }

    /// Returns whether it is configured, for trials that can be left out.
    pub fn stock_is_configured() -> bool {
        std::env::var_os("NCTEST_STOCK_KERNEL").is_some()
    }
}

/// Returns whether the trials run with upstream's C module.
pub fn upstream() -> bool {
    std::env::var_os("NCTEST_UPSTREAM").is_some_and(|v| v == "1")
}

/// Returns whether all guests are booted, none started from a snapshot (`NCTEST_BOOT=1`), to see
/// whether a failure has to do with snapshots.
pub fn boot() -> bool {
    std::env::var_os("NCTEST_BOOT").is_some_and(|v| v == "1")
}

/// Returns whether the test kernel checks each access to memory, and remembers the stack of each
/// allocation (`make test-kasan`).
pub fn kasan() -> bool {
    std::env::var_os("NCTEST_KASAN").is_some_and(|v| v == "1")
}

/// Returns whether the trials are to try everything, however long it takes (`NCTEST_FULL=1`).
pub fn full() -> bool {
    std::env::var_os("NCTEST_FULL").is_some_and(|v| v == "1")
}

/// Returns whether this is a measurement, which is part of no test (`NCTEST_BENCH=1`).
pub fn bench() -> bool {
    std::env::var_os("NCTEST_BENCH").is_some_and(|v| v == "1")
}

/// Returns whether these are the trials of one of several kernels of Debian (`NCTEST_KERNELS=1`).
pub fn kernels() -> bool {
    std::env::var_os("NCTEST_KERNELS").is_some_and(|v| v == "1")
}

/// Returns whether these are the trials of the packages on an installed system, which are part of
/// no other run (`NCTEST_DISK`, which [`disk`] returns).
pub fn installed() -> bool {
    std::env::var_os("NCTEST_DISK").is_some()
}

/// Returns the disk of a machine with Debian.
pub fn disk() -> Result<PathBuf> {
    file("NCTEST_DISK")
}

/// Returns the folder of our packages, or of the same with a higher version.
pub fn packages(newer: bool) -> Result<PathBuf> {
    let debs = file("NCTEST_DEBS")?;
    Ok(debs.join(if newer { "newer" } else { "." }))
}

/// Returns a module of Debian's kernel, as it is packed, by its path below `kernel/`.
pub fn stock_kernel_module(path: &str) -> Result<PathBuf> {
    let preload = Guest::stock()?.preload;
    let unpacked = preload.first().and_then(|module| module.parent()?.parent());
    let root = unpacked.context("no module of the stock kernel")?;
    let all = root.join("debian/usr/lib/modules");
    let mut versions = std::fs::read_dir(&all).with_context(|| all.display().to_string())?;
    let version = versions.next().context("no modules")??.path();
    existing(&version.join("kernel").join(path))
}

/// Returns the build directory of the test kernel, with its other modules.
pub fn test_kdir() -> Result<PathBuf> {
    file("NCTEST_TEST_KDIR")
}

/// Returns the source of the test kernel, with its selftests.
pub fn kernel_source() -> Result<PathBuf> {
    file("NCTEST_KERNEL_SOURCE")
}

/// Returns the static busybox of the guests.
pub fn busybox() -> Result<PathBuf> {
    match std::env::var_os("NCTEST_BUSYBOX") {
        Some(path) => Ok(path.into()),
        None => existing(Path::new("/bin/busybox")).context("install Debian's busybox-static"),
    }
}

/// Returns the static init of the guests.
pub fn init() -> Result<PathBuf> {
    file("NCTEST_GUEST")
}

/// Returns the program ncrx.
pub fn ncrx() -> Result<PathBuf> {
    file("NCTEST_NCRX")
}

/// Returns the root that Debian's systemd is unpacked in.
pub fn systemd() -> Result<PathBuf> {
    file("NCTEST_SYSTEMD")
}

/// Returns the directory for logs and captures.
pub fn out_dir() -> Result<PathBuf> {
    directory("NCTEST_OUT")
}

/// Returns the directory for snapshots of booted guests.
pub fn snapshots() -> Result<PathBuf> {
    directory("NCTEST_SNAPSHOTS")
}

/// Returns the seed of this run: `NCTEST_SEED`, or a new one.
pub fn seed() -> Result<u64> {
    match std::env::var("NCTEST_SEED") {
        Ok(text) => text.trim().parse().context("NCTEST_SEED is not a number"),
        Err(_) => Ok(u64::from(fastrand::u32(..))),
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set; run this through `make` (see README.md)"))
}

fn directory(name: &str) -> Result<PathBuf> {
    let dir = PathBuf::from(variable(name)?);
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

fn file(name: &str) -> Result<PathBuf> {
    existing(Path::new(&variable(name)?)).with_context(|| format!("{name} is wrong"))
}

fn existing(path: &Path) -> Result<PathBuf> {
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(path.to_path_buf())
}
