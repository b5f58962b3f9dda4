// SPDX-License-Identifier: GPL-2.0

//! A disk with an installed system on it: an ext4 file system, which debugfs reads and writes while
//! no machine runs from it. The part of a boot loader is the harness's, as QEMU takes kernel and
//! initramfs from the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

/// A disk image.
#[derive(Debug, Clone)]
pub struct Disk(PathBuf);

impl Disk {
    /// Makes a copy of a disk, for one machine to write to.
    pub fn copy(of: &Path, to: PathBuf) -> Result<Self> {
        let mut cp = Command::new("cp");
        let status = cp.args(["--sparse=always", "--reflink=auto"]).arg(of);
        let status = status.arg(&to).status().context("running cp")?;
        ensure!(status.success(), "{} is not copied", of.display());
        Ok(Self(to))
    }

    /// Returns the disk in a file.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path of the image.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a file on the disk, and the folder that it is in.
    pub fn put(&self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let file = self.0.with_extension("put");
        fs::write(&file, data)?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.debugfs(&format!("mkdir {folder}"))?;
        self.debugfs(&format!("rm {path}"))?;
        self.debugfs(&format!("write {} {path}", file.display()))?;
        self.debugfs(&format!("set_inode_field {path} mode 010{mode:04o}"))?;
        fs::remove_file(&file)?;
        // A request that fails is no failure of debugfs.
        ensure!(self.read(path)? == data, "{path} is not on the disk");
        Ok(())
    }

    /// Returns the content of a file on the disk; nothing if there is none.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.0.with_extension("dump");
        self.debugfs(&format!("dump {path} {}", file.display()))?;
        let data = fs::read(&file)?;
        fs::remove_file(&file)?;
        Ok(data)
    }

    fn debugfs(&self, request: &str) -> Result<()> {
        let mut debugfs = Command::new("debugfs");
        let output = debugfs.args(["-w", "-R", request]).arg(&self.0).output();
        let output = output.context("running debugfs")?;
        ensure!(output.status.success(), "debugfs {request}: {output:?}");
        Ok(())
    }
}
