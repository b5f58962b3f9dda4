// SPDX-License-Identifier: GPL-2.0

//! Records that were handed out, to be filled anew: so a record costs no allocation while as many
//! go as come.

use std::time::Instant;

use crate::config::Config;
use crate::datagram::Datagram;
use crate::record::Stored;

/// Records with longer memory are not kept: few are.
const LONGEST: usize = 512;

/// Which part of all memory that records may take is kept for them, as a divisor.
const SHARE: usize = 64;

/// Records of no use at the moment.
#[derive(Debug)]
pub(crate) struct Pool {
    #[allow(clippy::vec_box)] // They come and go boxed.
    records: Vec<Box<Stored>>,
    most: usize,
}

impl Pool {
    /// An empty one.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            records: Vec::new(),
            most: config.total_memory / SHARE / (size_of::<Stored>() + LONGEST),
        }
    }

    /// Keeps a record that came in one datagram: the one copy that is made of it.
    pub(crate) fn whole(&mut self, datagram: &Datagram<'_>, arrived: Instant) -> Box<Stored> {
        let used = self.records.pop();
        let mut record = used.unwrap_or_else(|| Box::new(Stored::empty(arrived)));
        record.fill(datagram, arrived);
        record
    }

    /// What that takes in memory, at most.
    pub(crate) fn most(datagram: &Datagram<'_>) -> usize {
        size_of::<Stored>() + datagram.bytes.len().max(LONGEST)
    }

    /// Takes one back.
    pub(crate) fn give_back(&mut self, record: Box<Stored>) {
        if self.records.len() < self.most && record.bytes.capacity() <= LONGEST {
            self.records.push(record);
        }
    }
}
