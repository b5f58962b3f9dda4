// SPDX-License-Identifier: GPL-2.0

//! The user's changes of the text behind a target's records: keys, values, and the set of sysdata
//! lines.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        rcu,
        Arc, //
    },
};

use crate::{
    log::access::Wait,
    proto::extradata::{
        self,
        SysdataSet,
        MAX_KEYS, //
    },
    target::{
        extradata_versions::{
            Datum,
            Version,
            Wanted,
            MAX_VERSIONS, //
        },
        Target, //
    }, //
};

/// Adds a key without a value.
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

/// Removes a key.
///
/// Process context; sleeps. The key is gone even on an error, but then its line stays until the
/// next change.
pub(crate) fn remove_key(target: &Target, key: &CStr) -> Result {
    let wanted = &mut *target.extradata().wanted.lock();
    let place = wanted.place(key).ok_or(ENOENT)?;
    let old = wanted.data.remove(place).map_err(|_| ENOENT)?;
    if old.value.is_empty() {
        return Ok(());
    }
    publish(target, wanted)
}

/// Changes the set of sysdata lines. As [`set_value`].
pub(crate) fn set_fields(target: &Target, change: impl FnOnce(SysdataSet) -> SysdataSet) -> Result {
    let wanted = &mut *target.extradata().wanted.lock();
    let old = wanted.fields;
    wanted.fields = change(old);
    if wanted.fields == old {
        return Ok(());
    }
    publish(target, wanted).inspect_err(|_| wanted.fields = old)
}

/// Publishes the configured text: it holds from the next record on that is sent for the first time.
fn publish(target: &Target, wanted: &Wanted) -> Result {
    let user = Arc::new(text(wanted)?, GFP_KERNEL)?;
    let mut new = needed(target)?;
    let place = new.len();
    // Not in force yet.
    new.push(Version::new(u64::MAX, user, wanted.fields), GFP_KERNEL)?;
    let versions = &target.extradata().versions;
    drop(versions.replace(Some(KBox::new(new, GFP_KERNEL)?)));
    // No record is sent for the first time meanwhile.
    let permit = target.tx_permit();
    let guard = rcu::read_lock();
    if let Some(version) = versions.read(&guard).and_then(|new| new.get(place)) {
        version.from.store(target.sent_end(), Relaxed);
    }
    drop((guard, permit));
    Ok(())
}

/// Returns userdata.
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
