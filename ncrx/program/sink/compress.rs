// SPDX-License-Identifier: GPL-2.0

//! The thread that compresses old files: one at a time, so that they take one CPU at most, and no
//! output waits for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::{old, Place};

/// The most files that wait. Those of one that does not fit are compressed when it is rotated next.
const WAITING: usize = 1024;

/// The way to the thread.
#[derive(Clone)]
pub struct Compressor(SyncSender<PathBuf>);

impl Compressor {
    /// Begins the thread. Its first work is what an earlier run has left at these places.
    pub fn new(left: Vec<Place>) -> io::Result<Self> {
        let (to, rotated) = mpsc::sync_channel(WAITING);
        let thread = thread::Builder::new().name("compress".into());
        thread.spawn(move || {
            for place in left {
                if let Err(e) = old::compress_left(&place) {
                    tracing::warn!("old files of {place} are not compressed: {e}");
                }
            }
            rotated.iter().for_each(|path: PathBuf| compress(&path));
        })?;
        Ok(Self(to))
    }

    /// Has the old files of this file compressed.
    pub fn rotated(&self, path: &Path) {
        let _ = self.0.try_send(path.into());
    }
}

fn compress(path: &Path) {
    if let Err(e) = old::compress(path) {
        tracing::warn!(
            "the old files of {} are not compressed: {e}",
            path.display()
        );
    }
}
