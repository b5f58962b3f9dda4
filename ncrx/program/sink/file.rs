// SPDX-License-Identifier: GPL-2.0

//! A file that all workers append to.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{at, Ending};

/// What all files of a sink have in common.
pub(super) struct Policy {
    /// Whether to force it to the disk.
    pub(super) sync: bool,
    pub(super) rotate_bytes: Option<u64>,
    pub(super) keep: u32,
    pub(super) ending: Ending,
}

/// A file that is open when it has to be.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// Whether it is one that can be opened by its path, at all.
    stdout: bool,
    /// How long it is, if it is a file that can be too long.
    size: Option<u64>,
    /// What has to be written before all else: some of it is, and the disk was full, or it was torn
    /// by a crash. Only there while the file is open.
    rest: Vec<u8>,
    /// Whether something may not be on the disk that ought to be.
    unsynced: bool,
    /// Whether the disk has failed to take something.
    failed: bool,
    /// How often all files had been opened anew when this was opened.
    reopened: u64,
}

impl LogFile {
    /// The file of this path, not open yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            stdout: false,
            size: None,
            rest: Vec::new(),
            unsynced: false,
            failed: false,
            reopened: 0,
        }
    }

    /// Standard output, past the buffer that the standard library has for it.
    pub(super) fn stdout() -> io::Result<Self> {
        let file = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            file: Some(file.into()),
            stdout: true,
            ..Self::new("standard output".into())
        })
    }

    /// Whether nothing is lost when it is closed and forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.rest.is_empty() && !self.unsynced
    }

    /// Appends all that is in `bytes`, and empties it. If it fails in the middle then `bytes` is
    /// empty as well, and the rest is kept here: nobody else must write in between. It is written
    /// by the next call, whoever calls. If nothing could be written then `bytes` is as it was.
    ///
    /// It has succeeded if all that was ever given is written.
    pub(super) fn append(
        &mut self,
        bytes: &mut Vec<u8>,
        policy: &Policy,
        reopened: u64,
    ) -> io::Result<()> {
        self.finish(policy)?;
        if !bytes.is_empty() {
            if self.reopened != reopened {
                self.close()?;
            }
            self.open(policy, reopened)?;
            self.finish(policy)?;
            self.rotate(bytes.len() as u64, policy)?;
            let (written, result) = self.write(bytes, policy);
            if result.is_ok() || written > 0 {
                self.rest = bytes.split_off(written);
                bytes.clear();
            }
            result?;
        }
        self.sync()
    }

    /// Opens it, if it is not.
    pub(super) fn open(&mut self, policy: &Policy, reopened: u64) -> io::Result<()> {
        self.reopened = reopened;
        if self.file.is_some() {
            return Ok(());
        }
        let open = || {
            let (file, size) = self.try_open(policy)?;
            let torn = match size {
                Some(size) => is_torn(&file, size, policy.ending)?,
                None => false,
            };
            if torn && policy.ending == Ending::BlankLine {
                shift(&self.path, u32::MAX)?;
                let (file, size) = self.try_open(policy)?;
                return Ok((file, size, false));
            }
            Ok((file, size, torn))
        };
        let (file, size, torn) = open().map_err(|e| at(&self.path, "cannot open", &e))?;
        if torn {
            self.rest = b"\n".to_vec();
        }
        self.file = Some(file);
        self.size = size;
        Ok(())
    }

    /// The file, and how long it is if it is a regular one.
    fn try_open(&self, policy: &Policy) -> io::Result<(File, Option<u64>)> {
        if fs::metadata(&self.path).is_ok_and(|file| !file.is_file()) {
            // Reading could mean something there: a pipe that is open for reading is never closed.
            return Ok((OpenOptions::new().append(true).open(&self.path)?, None));
        }
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let new: Vec<&Path> = self.path.ancestors().take_while(is_new).collect();
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        if policy.sync {
            for directory in new.iter().filter_map(|path| path.parent()) {
                let here = directory.as_os_str().is_empty();
                File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
            }
        }
        let size = file.metadata()?.len();
        Ok((file, Some(size)))
    }

    /// Writes what has to come before all else.
    fn finish(&mut self, policy: &Policy) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let (written, result) = self.write(&rest, policy);
        self.rest = rest;
        self.rest.drain(..written);
        result
    }

    /// Writes as much as possible: so many bytes, and what came then.
    fn write(&mut self, bytes: &[u8], policy: &Policy) -> (usize, io::Result<()>) {
        let mut written = 0;
        let mut result = Ok(());
        while let (Some(file), true, true) = (&mut self.file, written < bytes.len(), result.is_ok())
        {
            match file.write(&bytes[written..]) {
                Ok(0) => result = Err(ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        self.unsynced |= policy.sync && written > 0;
        self.size = self.size.map(|size| size + written as u64);
        (
            written,
            result.map_err(|e| at(&self.path, "cannot write", &e)),
        )
    }

    /// Forces to the disk what is not there.
    ///
    /// If this fails the kernel may have dropped it, and says so only once: a second attempt would
    /// succeed and prove nothing. So this fails from then on. What was not acknowledged by then is
    /// asked for again by the next run.
    fn sync(&mut self) -> io::Result<()> {
        if let (Some(file), true) = (&self.file, self.unsynced) {
            if self.failed {
                let error =
                    io::Error::other("it has failed before: see to the disk, start ncrx anew");
                return Err(at(&self.path, "cannot force it to the disk", &error));
            }
            match file.sync_data() {
                // A pipe or a terminal: there is no disk behind it.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                result => {
                    self.failed = result.is_err();
                    result.map_err(|e| at(&self.path, "cannot force it to the disk", &e))?;
                }
            }
        }
        self.unsynced = false;
        Ok(())
    }

    /// Closes it, but for standard output. Nothing must be left to write.
    fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        if !self.stdout {
            self.file = None;
        }
        Ok(())
    }

    /// Makes place for so many bytes, if it would become too long.
    fn rotate(&mut self, more: u64, policy: &Policy) -> io::Result<()> {
        let (Some(limit), Some(size)) = (policy.rotate_bytes, self.size) else {
            return Ok(());
        };
        if size == 0 || size + more <= limit {
            return Ok(());
        }
        self.close()?;
        shift(&self.path, policy.keep).map_err(|e| at(&self.path, "cannot rotate", &e))?;
        self.open(policy, self.reopened)
    }
}

/// Whether the file does not end as it should.
fn is_torn(file: &File, size: u64, ending: Ending) -> io::Result<bool> {
    let end: &[u8] = match ending {
        Ending::Newline => b"\n",
        Ending::BlankLine => b"\n\n",
    };
    let mut last = vec![0; end.len()];
    match size.checked_sub(end.len() as u64) {
        Some(start) => file.read_exact_at(&mut last, start)?,
        None => return Ok(size > 0),
    }
    Ok(last != end)
}

/// Renames the file to `.1`, an older `.1` to `.2`, ...
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let nth = |n: u32| -> PathBuf {
        let mut name = OsString::from(path);
        if n > 0 {
            name.push(format!(".{n}"));
        }
        name.into()
    };
    // Only up to the first number that is free: if an earlier attempt got stuck in the middle then
    // nothing is to move twice.
    let last = (1..=keep).find(|&n| !nth(n).exists()).unwrap_or(keep);
    if last == 0 {
        return fs::remove_file(path);
    }
    for n in (0..last).rev() {
        fs::rename(nth(n), nth(n + 1))?;
    }
    Ok(())
}
