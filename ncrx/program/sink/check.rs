// SPDX-License-Identifier: GPL-2.0

//! Whether an output could be written, found out without changing anything (`--check`).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::stat::fstat;
use nix::unistd::{eaccess, AccessFlags};

use super::{at, directory, Place};

/// Returns the error that a start would have with this place, if it would have one.
pub fn check(place: &Place) -> io::Result<()> {
    match place {
        Place::Stdout => check_stdout(),
        Place::File(path) => check_file(path),
        Place::PerHost(_) => check_directory(&directory(place)),
    }
}

/// Returns an error if there is no standard output: then nothing would be kept, and all be
/// acknowledged.
///
/// Where it is closed the standard library has opened the null device in its place, for reading and
/// writing, and so do programs that start daemons. A shell's `>/dev/null` is for writing only: that
/// is meant.
pub fn check_stdout() -> io::Result<()> {
    let stdout = io::stdout();
    let mode = OFlag::from_bits_retain(fcntl(stdout.as_fd(), FcntlArg::F_GETFL)?);
    let null = fs::metadata("/dev/null").map_or(0, |null| null.rdev());
    let is_null = null != 0 && fstat(stdout.as_fd())?.st_rdev == null;
    match is_null && mode & OFlag::O_ACCMODE == OFlag::O_RDWR {
        true => Err(io::Error::new(
            ErrorKind::NotFound,
            "standard output is closed, so nothing would be kept: name a file (--output FILE)",
        )),
        false => Ok(()),
    }
}

/// As [`check`], for a file, which may be made.
pub fn check_file(path: &Path) -> io::Result<()> {
    let failed = |e: io::Error| at(path, "cannot open", &e);
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path);
            return match fs::read_link(path) {
                // It would be made where this link leads to.
                Ok(target) => check_file(&directory.join(target)),
                Err(_) => check_directory(directory),
            };
        }
        Err(e) => return Err(failed(e)),
    };
    if found.is_file() || found.is_dir() {
        return OpenOptions::new()
            .append(true)
            .open(path)
            .map(drop)
            .map_err(failed);
    }
    if found.file_type().is_socket() {
        return Err(failed(io::Error::new(
            ErrorKind::Unsupported,
            "it is a socket",
        )));
    }
    // The reader of a pipe would see it end.
    eaccess(path, AccessFlags::W_OK).map_err(|e| failed(e.into()))
}

/// As [`check`], for a directory that files are to be made in, which may have to be made itself.
pub fn check_directory(directory: &Path) -> io::Result<()> {
    for ancestor in directory.ancestors() {
        let here = match ancestor.as_os_str().is_empty() {
            true => Path::new("."),
            false => ancestor,
        };
        let failed = |e: io::Error| at(here, "cannot make files there", &e);
        match fs::metadata(here) {
            Ok(found) if found.is_dir() => {
                let access = eaccess(here, AccessFlags::W_OK | AccessFlags::X_OK);
                return access.map_err(|e| failed(e.into()));
            }
            Ok(_) => return Err(failed(ErrorKind::NotADirectory.into())),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            // A link that leads nowhere is in the way.
            Err(e) if fs::symlink_metadata(here).is_ok() => return Err(failed(e)),
            Err(_) => {}
        }
    }
    Ok(())
}
