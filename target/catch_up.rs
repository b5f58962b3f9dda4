// SPDX-License-Identifier: GPL-2.0

//! Records that were logged while a target could not be sent any, or that the console is not given.
//!
//! printk's thread gives a record to the targets that are enabled then. One that was deactivated
//! since its device had gone gets the others from the log, in order, by its work item; until it has
//! caught up, the thread leaves the new ones to the work item as well. In the same way a target
//! that is to be sent the full log gets the records that the console log level hides.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    log::{
        Access,
        Buffer,
        Busy,
        Log, //
    },
    params,
    proto::{
        emg_schedule::Next,
        ring::Meta, //
    },
    sys::{
        printk,
        time::now_ms, //
    },
    target::Target, //
};

/// How many records are sent before others get their turn.
const MAX_AT_ONCE: usize = 256;

/// Sends a part of a target's backlog, if there is one; has the work item run again if that was not
/// all.
///
/// Process context; sleeps.
pub(crate) fn send(target: &Arc<Target>, buffer: &mut Buffer) -> Result<(), Busy> {
    if params::OOPS_ONLY.value() && !printk::oops_in_progress() {
        return Ok(());
    }
    let Some(settings) = target.settings() else {
        return Ok(());
    };
    let full = settings.full_log;
    if full && target.sent_end() < Log::end() {
        target.set_behind(true, &target.tx_permit());
    }
    let log = &target.shared().log;
    let mut from = target.sent_end();
    for _ in 0..MAX_AT_ONCE {
        if !target.is_behind() || !target.is_enabled() {
            return Ok(());
        }
        target.wait_for_device();
        from = from.max(target.sent_end());
        let end = end(log, full, buffer)?;
        match log.next(from, end, full, buffer, Access::Wait)? {
            Next::Record(seq) => {
                if let Some((record, meta)) = log.get(seq, buffer, Access::Wait)? {
                    // As it is sent now it will be sent again. (The ring is for what the console
                    // is given; a hidden record looks the same each time.)
                    let mut new = Meta::at(now_ms());
                    let mut store = || log.store(seq, record, &mut new, Access::Wait);
                    let meta = match meta {
                        None if !full && store().is_ok() => Some(new),
                        known => known,
                    };
                    let permit = target.tx_permit();
                    target.transmit_first(seq, record, meta.as_ref(), &permit);
                }
                from = seq.saturating_add(1);
            }
            Next::NotBefore(seq) => from = seq,
            Next::Nothing => {
                let permit = target.tx_permit();
                // The console keeps a record before it takes the permit to send it.
                if log.stored_end(Access::Wait)?.is_none_or(|end| end <= from) {
                    target.set_behind(false, &permit);
                    return Ok(());
                }
            }
        }
    }
    Target::wake(target);
    Ok(())
}

/// The number before which all is of the backlog: the rest comes from the console, byte for byte,
/// which printk's log cannot give.
fn end(log: &Log, full: bool, buffer: &mut Buffer) -> Result<u64, Busy> {
    let end = Log::end();
    let Some(stored) = log.stored_end(Access::Wait)? else {
        // Without a ring nobody knows what the console has been given.
        return Ok(end);
    };
    if !full {
        return Ok(stored);
    }
    Ok(match log.next(stored, end, false, buffer, Access::Wait)? {
        Next::Record(seq) | Next::NotBefore(seq) => seq,
        Next::Nothing => end,
    })
}
