// SPDX-License-Identifier: GPL-2.0

//! Records that were handed out, to be filled anew: so a record costs no allocation while as many go
//! as come.

use std::time::Instant;

use crate::datagram::Datagram;
use crate::record::{Kind, Stored};

/// How many are kept, and how long their bytes may be: at most some 2 MiB.
const MOST: usize = 4096;
const LONGEST: usize = 512;

/// Records of no use at the moment.
#[derive(Debug, Default)]
pub(crate) struct Pool(#[allow(clippy::vec_box)] Vec<Box<Stored>>); // They come and go boxed.

impl Pool {
    /// Keeps a record that came in one datagram: the one copy that is made of it.
    pub(crate) fn whole(&mut self, datagram: &Datagram<'_>, arrived: Instant) -> Box<Stored> {
        let used = self.0.pop();
        let mut record = used.unwrap_or_else(|| Box::new(Stored::empty(arrived)));
        record.fill(datagram, datagram.body, Kind::Whole, arrived);
        record
    }

    /// Takes one back.
    pub(crate) fn give_back(&mut self, record: Box<Stored>) {
        if self.0.len() < MOST && record.bytes.capacity() <= LONGEST {
            self.0.push(record);
        }
    }
}
