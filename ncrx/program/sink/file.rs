// SPDX-License-Identifier: GPL-2.0

//! A log file: records are appended to it, and it is rotated.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;

use super::check::check_stdout;
use super::old::{mark, shift};
use super::{at, Ending};

/// The kind of the error that no more files can be open.
pub const OUT_OF_FILES: ErrorKind = ErrorKind::ResourceBusy;

/// The policy of all files of an output.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Whether to force it to the disk.
    pub sync: bool,
    /// The size beyond which a file is renamed.
    pub rotate_bytes: Option<u64>,
    /// The number of these that are kept.
    pub keep: u32,
    /// Whether they are compressed.
    pub compress: bool,
    /// The end of all that is written.
    pub ending: Ending,
}

/// A file that is open when it has to be.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// Whether it is standard output, which cannot be opened by a path.
    stdout: bool,
    /// Its length, if it is a file that can be too long.
    size: Option<u64>,
    /// Whether a line is torn, which has to be ended before anything else is written.
    torn: bool,
    /// Whether something may not be on the disk that ought to be.
    unsynced: bool,
    /// Whether something is partly written: then it must not be closed.
    pub partial: bool,
    /// The number of times that all files had been opened anew when this was opened.
    reopened: u64,
}

impl LogFile {
    /// Returns the file of this path, not open yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            stdout: false,
            size: None,
            torn: false,
            unsynced: false,
            partial: false,
            reopened: 0,
        }
    }

    /// Standard output, past the buffer that the standard library has for it.
    pub fn stdout() -> io::Result<Self> {
        check_stdout()?;
        let file = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            file: Some(file.into()),
            stdout: true,
            ..Self::new("standard output".into())
        })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is lost when it is closed and forgotten.
    pub fn is_idle(&self) -> bool {
        !self.partial && !self.unsynced
    }

    /// Whether it is to be opened anew, and may be.
    pub fn is_outdated(&self, reopened: u64) -> bool {
        self.reopened != reopened && self.is_idle() && !self.stdout
    }

    /// Opens it, if it is not, and ends a line that is torn there.
    pub fn open(&mut self, policy: &Policy, reopened: u64) -> io::Result<()> {
        if self.file.is_none() {
            let open = || -> io::Result<_> {
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
            let (file, size, torn) =
                open().map_err(|e| match e.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE) => {
                        let error = io::Error::new(OUT_OF_FILES, e);
                        at(&self.path, "cannot open", &error)
                    }
                    _ => at(&self.path, "cannot open", &e),
                })?;
            (self.file, self.size, self.torn) = (Some(file), size, torn);
            self.reopened = reopened;
        }
        if self.torn {
            self.write(b"\n", policy)?;
            self.torn = false;
        }
        Ok(())
    }

    /// The file, and how long it is if it is a regular one.
    fn try_open(&self, policy: &Policy) -> io::Result<(File, Option<u64>)> {
        match fs::metadata(&self.path) {
            // Reading could mean something there: a pipe that is open for reading is never closed.
            // And neither a pipe nor a device may keep us waiting.
            Ok(file) if !file.is_file() => {
                let mut options = OpenOptions::new();
                let opened = options
                    .append(true)
                    .custom_flags(O_NONBLOCK)
                    .open(&self.path);
                let unread = file.file_type().is_fifo()
                    && matches!(&opened, Err(e) if e.raw_os_error() == Some(Errno::ENXIO as i32));
                return match opened {
                    Err(_) if unread => Err(io::Error::new(
                        ErrorKind::WouldBlock,
                        "it is a pipe that nobody reads yet",
                    )),
                    opened => Ok((opened?, None)),
                };
            }
            _ => {}
        }
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let new: Vec<&Path> = self.path.ancestors().take_while(is_new).collect();
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = self.make()?;
        if policy.sync {
            for directory in new.iter().filter_map(|path| path.parent()) {
                let here = directory.as_os_str().is_empty();
                File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
            }
        }
        let size = file.metadata()?.len();
        Ok((file, Some(size)))
    }

    /// Opens a regular file. One that is new is marked as ours; one that was there may be
    /// another's.
    fn make(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        match options.clone().create_new(true).open(&self.path) {
            Ok(file) => {
                mark(&file);
                Ok(file)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => options.create(true).open(&self.path),
            Err(e) => Err(e),
        }
    }

    /// Writes some of this, and says how much.
    pub fn write(&mut self, bytes: &[u8], policy: &Policy) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Err(ErrorKind::NotFound.into());
        };
        let written = loop {
            match file.write(bytes) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        let written = written.map_err(|e| at(&self.path, "cannot write", &e))?;
        self.unsynced |= policy.sync;
        self.size = self.size.map(|size| size + written as u64);
        Ok(written)
    }

    /// Forces to the disk what is not there.
    ///
    /// If this fails the kernel may have dropped what was written since it last succeeded, and says
    /// so only once. So that has to be written again; the file is closed, to be opened anew.
    pub fn sync(&mut self) -> io::Result<()> {
        if let (Some(file), true) = (&self.file, self.unsynced) {
            match file.sync_data() {
                // A pipe or a terminal: there is no disk behind it.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => {
                    (self.unsynced, self.partial) = (false, false);
                    self.close();
                    return Err(at(&self.path, "cannot force it to the disk", &error));
                }
                Ok(()) => {}
            }
        }
        self.unsynced = false;
        Ok(())
    }

    /// Closes it, but for standard output.
    pub fn close(&mut self) {
        if !self.stdout {
            self.file = None;
        }
    }

    /// Whether it would become too long by so many bytes.
    pub fn is_full(&self, more: u64, policy: &Policy) -> bool {
        let full = |limit| {
            self.size
                .is_some_and(|size| size > 0 && size + more > limit)
        };
        policy.rotate_bytes.is_some_and(full)
    }

    /// Renames it and begins a new one. All that it has must be on the disk, if it has to be.
    pub fn rotate(&mut self, policy: &Policy) -> io::Result<()> {
        self.close();
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
