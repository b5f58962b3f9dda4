// SPDX-License-Identifier: GPL-2.0

//! What is sent behind a target's records: lines of the user's, and lines that the kernel fills in.
//!
//! A record that is sent again carries what it carried when it was first sent. So what the user has
//! changed is kept with the number of the first record that it is for: a list of versions, which
//! those who send read under RCU.

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

/// How many versions are kept at most: one that is older gives way, and records from its time
/// that are sent again carry what the next one says.
pub(super) const MAX_VERSIONS: usize = 64;

/// A key of the user's, and its value; without one nothing is sent.
pub(super) struct Datum {
    pub(super) key: CString,
    pub(super) value: KVec<u8>,
}

/// What the user wants.
pub(super) struct Wanted {
    /// In the order of their creation.
    pub(super) data: KVec<Datum>,
    pub(super) fields: SysdataSet,
}

impl Wanted {
    /// Returns the place of a key.
    pub(super) fn place(&self, key: &CStr) -> Option<usize> {
        self.data.iter().position(|datum| &*datum.key == key)
    }
}

/// What is sent behind records from a number on.
pub(super) struct Version {
    /// [`u64::MAX`] until it holds.
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

/// What is sent behind a target's records.
#[pin_data]
pub(crate) struct Extradata {
    /// In the order of their numbers; before the first one there is nothing.
    pub(super) versions: RcuOption<KVec<Version>>,
    /// How many records there had been when the target began: see [`Self::msgid`].
    base: Atomic<u32>,
    #[pin]
    pub(super) wanted: Mutex<Wanted>,
}

impl Extradata {
    /// Nothing.
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

    /// The target begins anew after so many records. Any context.
    pub(crate) fn begin_with(&self, count: u32) {
        self.base.store(count, Relaxed);
    }

    /// The number, from 1, that a record has among those that the target has been sent, if it was
    /// the `nth` one of the log; [`None`] if it is from before the target began. Any context.
    pub(crate) fn msgid(&self, nth: u32) -> Option<u32> {
        let id = nth.wrapping_sub(self.base.load(Relaxed));
        // Both count as far as 32 bits go.
        (1..=u32::MAX / 2).contains(&id).then_some(id)
    }

    /// What is sent behind record `seq`: lines of the user's, and which the kernel fills in. Any
    /// context.
    pub(crate) fn of<'g>(&'g self, seq: u64, guard: &'g rcu::Guard) -> (&'g [u8], SysdataSet) {
        let versions = self.versions.read(guard).into_iter().flatten();
        let version = versions
            .rev()
            .find(|version| version.from.load(Relaxed) <= seq);
        version.map_or((&[], SysdataSet::default()), |version| {
            (&version.user, version.fields)
        })
    }

    /// Which lines the kernel fills in. Process context.
    pub(crate) fn fields(&self) -> SysdataSet {
        self.wanted.lock().fields
    }

    /// Looks at the value of a key, at most [`MAX_VALUE`](crate::proto::extradata::MAX_VALUE)
    /// bytes. Process context.
    pub(crate) fn with_value<R>(&self, key: &CStr, f: impl FnOnce(&[u8]) -> R) -> R {
        let wanted = self.wanted.lock();
        let value = wanted.place(key).and_then(|n| wanted.data.get(n));
        f(value.map_or(&[], |datum| &datum.value))
    }
}
