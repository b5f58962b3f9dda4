// SPDX-License-Identifier: GPL-2.0

//! The guest's root file system: an archive made in memory for each boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{trailer, Builder, ModeFileType};

/// A cpio archive in the form the kernel unpacks.
#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Initramfs {
    /// Returns the archive with `busybox`, and `init` as `/init`, which lets it make links for its
    /// commands.
    pub fn new(init: &Path, busybox: &Path) -> Result<Self> {
        let mut root = Self::default();
        root.copy("/init", init)?;
        root.copy("/bin/busybox", busybox)?;
        for dir in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc"] {
            root.directory(dir)?;
        }
        Ok(root)
    }

    /// Puts a file of the host into the archive.
    pub fn copy(&mut self, to: &str, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(to, &data)
    }

    /// Puts `data` into the archive as an executable file.
    pub fn file(&mut self, path: &str, data: &[u8]) -> Result<()> {
        self.entry(path, ModeFileType::Regular, 0o755, data)
    }

    /// Puts `text` into the archive as a file that is not executable.
    pub fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.entry(path, ModeFileType::Regular, 0o644, text.as_bytes())
    }

    /// Puts a directory into the archive, and all that lead to it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_string()) {
            return Ok(());
        }
        self.entry(path, ModeFileType::Directory, 0o755, b"")
    }

    /// Returns the finished archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(trailer(self.archive)?)
    }

    fn entry(&mut self, path: &str, kind: ModeFileType, mode: u32, data: &[u8]) -> Result<()> {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.entries += 1;
        let builder = Builder::new(path).ino(self.entries).mode(mode).nlink(1);
        let archive = std::mem::take(&mut self.archive);
        let mut writer = builder
            .set_mode_file_type(kind)
            .write(archive, data.len().try_into()?);
        std::io::Write::write_all(&mut writer, data)?;
        self.archive = writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::NewcReader;
    use std::io::Read;

    #[test]
    fn what_goes_in_comes_out() {
        let mut root = Initramfs::default();
        root.file("/a/b/c", b"hello").unwrap();
        root.text("/a/text", "b/c").unwrap();
        root.directory("a/b").unwrap();
        let archive = root.finish().unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = String::new();
            reader.read_to_string(&mut data).unwrap();
            let entry = reader.entry();
            seen.push((entry.name().to_string(), entry.mode() & 0o170000, data));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("a", 0o040000, ""),
            ("a/b", 0o040000, ""),
            ("a/b/c", 0o100000, "hello"),
            ("a/text", 0o100000, "b/c"),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, mode, data)| (name.to_string(), mode, data.to_string()))
        );
    }
}
