// SPDX-License-Identifier: GPL-2.0

//! Records that wait for a new file, since their sender has proven nothing, and too many files were
//! made within the minute. However many they are, no other records wait behind them.

use std::collections::HashMap;
use std::sync::Arc;

use super::queue::Batch;
use super::writer::Pending;

/// The parts of a queue's limit that they may hold: together, and each.
const HELD: (usize, usize) = (8, 64);

/// All that waits, by file.
#[derive(Default)]
pub struct Strangers {
    files: HashMap<Arc<str>, Pending>,
    bytes: usize,
}

impl Strangers {
    /// Returns the number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Has a file wait; gives it back if there is no room for it.
    pub fn add(&mut self, file: Arc<str>, pending: Pending, limit: usize) -> Option<Pending> {
        pending.batches.iter().for_each(Batch::doubt);
        if self.bytes + pending.bytes > limit / HELD.0 {
            return Some(pending);
        }
        self.bytes += pending.bytes;
        self.files.insert(file, pending);
        None
    }

    /// Takes a batch of a file that waits; gives it back if there is no room, or if the file need
    /// not wait any more.
    pub fn put(&mut self, batch: Batch, limit: usize) -> Option<Batch> {
        let Some(pending) = self
            .files
            .get_mut(&batch.file)
            .filter(|_| !batch.is_proven())
        else {
            return Some(batch);
        };
        batch.doubt();
        let bytes = batch.bytes.len();
        if self.bytes + bytes > limit / HELD.0 || pending.bytes + bytes > limit / HELD.1 {
            return Some(batch);
        }
        self.bytes += bytes;
        pending.push(batch);
        None
    }

    /// Returns whether a file waits.
    pub fn has(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Takes out a file.
    pub fn take(&mut self, file: &str) -> Option<Pending> {
        let pending = self.files.remove(file)?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// Takes out all files, or those alone of senders that have proven themselves meanwhile.
    pub fn take_all(&mut self, proven_only: bool) -> Vec<(Arc<str>, Pending)> {
        let due = self.files.iter();
        let due = due.filter(|(_, pending)| !proven_only || pending.is_proven());
        let due: Vec<_> = due.map(|(file, _)| file.clone()).collect();
        let take = |file: Arc<str>| self.take(&file).map(|pending| (file, pending));
        due.into_iter().filter_map(take).collect()
    }
}
