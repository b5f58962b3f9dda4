// SPDX-License-Identifier: GPL-2.0

//! Booted guests on file. A machine of a kind is booted once, until its agent answers, and
//! saved with its memory; each trial goes on from there, with a kernel that has done nothing yet,
//! in a tenth of a second of processor time instead of nine seconds.
//!
//! A snapshot is for the host's boot that made it, since an emulated machine's clock runs with the
//! host's, for one build of the guest's init, and for one kind of machine: kernel, command line,
//! memory, processors, cards. The agent adds later the things that differ between trials:
//! the module, other files, `sysctl`s, the time of day.

use std::collections::hash_map::{DefaultHasher, HashMap};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::env;
use crate::qemu::VIRTIO;
use crate::vm::{Vm, VmConfig};

/// The time that an unused snapshot is kept.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// Returns the file with the machine that `config` asks for, booted. If there is none it is made;
/// others that want the same one wait.
pub fn provide(config: &VmConfig) -> Result<PathBuf> {
    static MAKING: Mutex<Option<HashMap<u64, Arc<Mutex<()>>>>> = Mutex::new(None);
    let key = key(config)?;
    let making = {
        let mut all = MAKING.lock().unwrap();
        let all = all.get_or_insert_with(HashMap::new);
        Arc::clone(all.entry(key).or_default())
    };
    let _making = making.lock().unwrap_or_else(|e| e.into_inner());
    let dir = env::snapshots()?;
    let file = dir.join(format!("{key:016x}"));
    if file.exists() {
        // A snapshot's time says when it was last used. The next line notices if another process
        // has removed the file just now.
        fs::File::open(&file)?.set_modified(SystemTime::now())?;
    } else {
        remove_unused(&dir)?;
        make(config, &file).context("a snapshot of a booted machine")?;
    }
    Ok(file)
}

/// Boots a machine and saves it.
fn make(config: &VmConfig, file: &Path) -> Result<()> {
    // The file has a name of its own until it is whole: another process may make the same.
    let partial = file.with_extension(std::process::id().to_string());
    let key = file.file_name().unwrap_or_default().to_string_lossy();
    let mut vm = Vm::boot_bare(&mut VmConfig {
        append: config.append.clone(),
        nics: config.nics.clone(),
        memory: config.memory,
        cpu: config.cpu.clone(),
        cpus: config.cpus,
        boot_limit: config.boot_limit,
        accel: config.accel,
        one_thread: config.one_thread,
        ..VmConfig::new(&format!("snapshots/{key}"), config.guest.clone())
    })?;
    // The console has no alarm and no half line now.
    vm.settle()?;
    vm.save(&partial)?;
    Ok(fs::rename(&partial, file)?)
}

/// Returns a hash of everything that a snapshot depends on.
fn key(config: &VmConfig) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    fs::read_to_string("/proc/sys/kernel/random/boot_id")?.hash(&mut hasher);
    let guest = &config.guest;
    let files = [&env::init()?, &env::busybox()?, &guest.kernel];
    for file in files.into_iter().chain(&guest.preload) {
        let about = fs::metadata(file).with_context(|| file.display().to_string())?;
        (file, about.len(), about.modified()?).hash(&mut hasher);
    }
    let VmConfig {
        append,
        nics,
        memory,
        cpu,
        cpus,
        accel,
        ..
    } = config;
    (append, nics, VIRTIO, memory, cpu, cpus, accel).hash(&mut hasher);
    Ok(hasher.finish())
}

fn remove_unused(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > UNUSED {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
