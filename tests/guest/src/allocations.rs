// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail: system calls of which one allocation does, by the kernel's fault
//! injection (`fail-nth`), which counts the allocations of one thread.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};

/// `<n> load <file> <parameters>`, `<n> write <file> <text>` or `<n> mkdir <path>`: does it, and
/// lets the `n`th allocation in it fail. Says in one line `<errno> <n left>`, of which the
/// latter is 0 if an allocation has failed.
pub fn fail_nth(arguments: &[String]) -> String {
    match run(arguments) {
        Ok((errno, left)) => format!("{errno} {left}"),
        Err(e) => format!("{e:#}"),
    }
}

fn run(arguments: &[String]) -> Result<(i32, u64)> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [n, verb, path, rest @ ..] = words.as_slice() else {
        bail!("usage: fail-nth <n> load|write|mkdir <path> [<text>]");
    };
    let text = rest.first().copied().unwrap_or_default();
    const FAULTS: &str = "/proc/thread-self/fail-nth";
    // Opened before, since that takes memory, too.
    let mut faults = OpenOptions::new().write(true).open(FAULTS)?;
    let mut result = File::open(FAULTS)?;
    let parameters = CString::new(text)?;
    // Only the one call may be between arming the fault and reading its result.
    let done = match *verb {
        "load" => {
            let file = File::open(path).context("the module")?;
            faults.write_all(n.as_bytes())?;
            finit_module(file, &parameters, ModuleInitFlags::empty())
        }
        "write" => {
            let mut file = OpenOptions::new().write(true).open(path).context("open")?;
            faults.write_all(n.as_bytes())?;
            file.write(text.as_bytes()).map(drop).map_err(errno)
        }
        "mkdir" => {
            faults.write_all(n.as_bytes())?;
            fs::create_dir(path).map_err(errno)
        }
        other => bail!("{other}: load, write or mkdir"),
    };
    let mut left = [0; 32];
    let len = result.read(&mut left)?;
    faults.write_all(b"0")?;
    let left = std::str::from_utf8(&left[..len])?.trim().parse()?;
    Ok((done.err().map_or(0, |errno| errno as i32), left))
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or_default())
}
