// SPDX-License-Identifier: GPL-2.0

//! A pool of returned records, to be filled anew: a record costs no allocation while as many go as
//! come.

use std::time::Instant;

use crate::config::Config;
use crate::datagram::Datagram;
use crate::record::Stored;

/// Records with longer memory are not kept. There are few.
const LONGEST: usize = 512;

/// The divisor of the total memory that gives the pool's share.
const SHARE: usize = 64;

/// Records to be used again.
#[derive(Debug)]
pub(crate) struct Pool {
    #[allow(clippy::vec_box)] // They come and go boxed.
    records: Vec<Box<Stored>>,
    most: usize,
}

impl Pool {
    /// Returns an empty pool.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            records: Vec::new(),
            most: config.total_memory / SHARE / (size_of::<Stored>() + LONGEST),
        }
    }

    /// Copies a record that came in one datagram: its only copy.
    #[inline(always)] // Into the fast path.
    pub(crate) fn whole(&mut self, datagram: &Datagram<'_>, arrived: Instant) -> Box<Stored> {
        let used = self.records.pop();
        let mut record = used.unwrap_or_else(|| Box::new(Stored::empty(arrived)));
        record.fill(datagram, arrived);
        record
    }

    /// Returns the most memory that this takes.
    pub(crate) fn most(datagram: &Datagram<'_>) -> usize {
        size_of::<Stored>() + datagram.bytes.len().max(LONGEST)
    }

    /// Takes a record back.
    pub(crate) fn give_back(&mut self, record: Box<Stored>) {
        if self.records.len() < self.most && record.bytes.capacity() <= LONGEST {
            self.records.push(record);
        }
    }
}
