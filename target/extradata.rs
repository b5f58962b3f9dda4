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
    log::access::Wait,
    proto::extradata::{
        self,
        SysdataSet,
        MAX_KEYS, //
    },
    sys::rcu::RcuOption,
    target::Target, //
};

/// How many versions are kept at most: one that is older gives way, and records from its time
/// that are sent again carry what the next one says.
const MAX_VERSIONS: usize = 64;

/// A key of the user's, and its value; without one nothing is sent.
struct Datum {
    key: CString,
    value: KVec<u8>,
}

/// What the user wants.
struct Wanted {
    /// In the order of their creation.
    data: KVec<Datum>,
    fields: SysdataSet,
}

impl Wanted {
    fn place(&self, key: &CStr) -> Option<usize> {
        self.data.iter().position(|datum| &*datum.key == key)
    }
}

/// What is sent behind records from a number on.
struct Version {
    /// [`u64::MAX`] until it holds.
    from: Atomic<u64>,
    user: Arc<KVec<u8>>,
    fields: SysdataSet,
}

impl Version {
    fn new(from: u64, user: Arc<KVec<u8>>, fields: SysdataSet) -> Self {
        let from = Atomic::new(from);
        Self { from, user, fields }
    }
}

/// What is sent behind a target's records.
#[pin_data]
pub(crate) struct Extradata {
    /// In the order of their numbers; before the first one there is nothing.
    versions: RcuOption<KVec<Version>>,
    /// How many records there had been when the target began: see [`Self::msgid`].
    base: Atomic<u32>,
    #[pin]
    wanted: Mutex<Wanted>,
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

    /// Looks at the value of a key, at most [`extradata::MAX_VALUE`] bytes. Process context.
    pub(crate) fn with_value<R>(&self, key: &CStr, f: impl FnOnce(&[u8]) -> R) -> R {
        let wanted = self.wanted.lock();
        let value = wanted.place(key).and_then(|n| wanted.data.get(n));
        f(value.map_or(&[], |datum| &datum.value))
    }
}

/// Adds a key that has no value yet.
///
/// Process context. `ENOSPC`: there are too many.
pub(crate) fn add_key(target: &Target, key: &CStr) -> Result {
    let mut wanted = target.extradata().wanted.lock();
    // Its directory could not be created the last time.
    if wanted.place(key).is_some() {
        return Ok(());
    }
    if wanted.data.len() >= MAX_KEYS {
        return Err(ENOSPC);
    }
    let datum = Datum {
        key: key.try_into()?,
        value: KVec::new(),
    };
    Ok(wanted.data.push(datum, GFP_KERNEL)?)
}

/// Changes the value of a key.
///
/// Process context; sleeps. On an error nothing is changed.
pub(crate) fn set_value(target: &Target, key: &CStr, value: KVec<u8>) -> Result {
    let wanted = &mut *target.extradata().wanted.lock();
    let place = wanted.place(key).ok_or(ENOENT)?;
    let old = core::mem::replace(&mut wanted.data[place].value, value);
    match publish(target, wanted) {
        Ok(()) => Ok(()),
        Err(e) => {
            wanted.data[place].value = old;
            Err(e)
        }
    }
}

/// Takes a key out.
///
/// Process context; sleeps. It is gone even on an error; but then its line is until the next
/// change.
pub(crate) fn remove_key(target: &Target, key: &CStr) -> Result {
    let wanted = &mut *target.extradata().wanted.lock();
    let place = wanted.place(key).ok_or(ENOENT)?;
    let old = wanted.data.remove(place).map_err(|_| ENOENT)?;
    if old.value.is_empty() {
        return Ok(());
    }
    publish(target, wanted)
}

/// Changes which lines the kernel fills in. As [`set_value`].
pub(crate) fn set_fields(target: &Target, change: impl FnOnce(SysdataSet) -> SysdataSet) -> Result {
    let wanted = &mut *target.extradata().wanted.lock();
    let old = wanted.fields;
    wanted.fields = change(old);
    if wanted.fields == old {
        return Ok(());
    }
    publish(target, wanted).inspect_err(|_| wanted.fields = old)
}

/// Publishes the text that is wanted, to be sent behind the next record that is sent for the first
/// time and those after it.
fn publish(target: &Target, wanted: &Wanted) -> Result {
    let user = Arc::new(text(wanted)?, GFP_KERNEL)?;
    let mut new = needed(target)?;
    let place = new.len();
    // It holds for no record yet.
    new.push(Version::new(u64::MAX, user, wanted.fields), GFP_KERNEL)?;
    let versions = &target.extradata().versions;
    drop(versions.replace(Some(KBox::new(new, GFP_KERNEL)?)));
    // Nothing is sent for the first time meanwhile.
    let permit = target.tx_permit();
    let guard = rcu::read_lock();
    if let Some(version) = versions.read(&guard).and_then(|new| new.get(place)) {
        version.from.store(target.sent_end(), Relaxed);
    }
    drop((guard, permit));
    Ok(())
}

/// Returns the lines of the user's.
fn text(wanted: &Wanted) -> Result<KVec<u8>> {
    let mut text = KVec::new();
    let mut result = Ok(());
    for datum in wanted.data.iter().filter(|datum| !datum.value.is_empty()) {
        extradata::line(datum.key.to_bytes(), &datum.value, &mut |part: &[u8]| {
            result = result.and_then(|()| text.extend_from_slice(part, GFP_KERNEL));
        });
    }
    result?;
    Ok(text)
}

/// Returns the versions that are still needed, with room for one more.
fn needed(target: &Target) -> Result<KVec<Version>> {
    let mut kept = KVec::with_capacity(MAX_VERSIONS, GFP_KERNEL)?;
    let Ok(begin) = target.shared().log.begin(Wait);
    let guard = rcu::read_lock();
    let old = target.extradata().versions.read(&guard);
    let old = old.map_or(&[][..], |old| old);
    let start = |n: usize| Some(old.get(n)?.from.load(Relaxed));
    for n in extradata::needed_versions(old.len(), start, begin, MAX_VERSIONS - 1) {
        let (Some(version), Some(from)) = (old.get(n), start(n)) else {
            break;
        };
        let version = Version::new(from, version.user.clone(), version.fields);
        // There is room: this allocates nothing.
        kept.push(version, GFP_ATOMIC)?;
    }
    Ok(kept)
}
