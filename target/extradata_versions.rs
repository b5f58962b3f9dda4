// SPDX-License-Identifier: GPL-2.0

//! Versions of the text behind a target's records, userdata and sysdata, as senders read them. The
//! lines themselves: `proto/extradata.rs`; the user's changes: `target/userdata.rs`.
//!
//! A record that is sent again carries the text of its first transmission. So each change is a
//! version, kept with the number of the first record that it holds for. Senders read the list of
//! versions under RCU.

use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        rcu,
        Arc,
        Mutex, //
    },
};

use crate::{
    proto::extradata::SysdataSet,
    sys::rcu::RcuOption, //
};

/// The most versions. The oldest gives way, and records of its time that are sent again carry the
/// text of the next one.
pub(super) const MAX_VERSIONS: usize = 64;

/// A key and its value; a key without a value is not sent.
pub(super) struct Datum {
    pub(super) key: CString,
    pub(super) value: KVec<u8>,
}

/// The user's configuration of the text.
pub(super) struct Wanted {
    /// In the order of creation.
    pub(super) data: KVec<Datum>,
    pub(super) fields: SysdataSet,
}

impl Wanted {
    /// Returns the place of a key.
    pub(super) fn place(&self, key: &CStr) -> Option<usize> {
        self.data.iter().position(|datum| &*datum.key == key)
    }
}

/// A version of the text, for the records from a number on.
pub(super) struct Version {
    /// [`u64::MAX`] until it is in force.
    pub(super) from: Atomic<u64>,
    pub(super) user: Arc<KVec<u8>>,
    pub(super) fields: SysdataSet,
}

impl Version {
    /// Creates a version for the records from number `from` on.
    pub(super) fn new(from: u64, user: Arc<KVec<u8>>, fields: SysdataSet) -> Self {
        let from = Atomic::new(from);
        Self { from, user, fields }
    }
}

/// The text behind a target's records.
#[pin_data]
pub(crate) struct Extradata {
    /// In the order of their numbers; records before the first version have no text.
    pub(super) versions: RcuOption<KVec<Version>>,
    /// The number of records in the log when the target began: see [`Self::msgid`].
    base: Atomic<u32>,
    #[pin]
    pub(super) wanted: Mutex<Wanted>,
}

impl Extradata {
    /// Returns an empty text.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            versions: RcuOption::new(None),
            base: Atomic::new(0),
            wanted <- new_mutex!(Wanted {
                data: KVec::new(),
                fields: SysdataSet::default(),
            }, "Extradata::wanted"),
        })
    }

    /// Begins anew after `count` records. Any context.
    pub(crate) fn begin_with(&self, count: u32) {
        self.base.store(count, Relaxed);
    }

    /// Returns the number, from 1, of the log's `nth` record among those that the target was sent;
    /// [`None`] if it is from before the target began. Any context.
    pub(crate) fn msgid(&self, nth: u32) -> Option<u32> {
        let id = nth.wrapping_sub(self.base.load(Relaxed));
        // Both numbers count modulo 2^32.
        (1..=u32::MAX / 2).contains(&id).then_some(id)
    }

    /// Returns the text behind record `seq`: userdata, and the set of sysdata lines. Any context.
    pub(crate) fn of<'g>(&'g self, seq: u64, guard: &'g rcu::Guard) -> (&'g [u8], SysdataSet) {
        let versions = self.versions.read(guard).into_iter().flatten();
        let version = versions
            .rev()
            .find(|version| version.from.load(Relaxed) <= seq);
        version.map_or((&[], SysdataSet::default()), |version| {
            (&version.user, version.fields)
        })
    }

    /// Returns the set of sysdata lines. Process context.
    pub(crate) fn fields(&self) -> SysdataSet {
        self.wanted.lock().fields
    }

    /// Calls `f` with the value of a key, at most [`MAX_VALUE`](crate::proto::extradata::MAX_VALUE)
    /// bytes. Process context.
    pub(crate) fn with_value<R>(&self, key: &CStr, f: impl FnOnce(&[u8]) -> R) -> R {
        let wanted = self.wanted.lock();
        let value = wanted.place(key).and_then(|n| wanted.data.get(n));
        f(value.map_or(&[], |datum| &datum.value))
    }
}
