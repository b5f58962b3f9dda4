// SPDX-License-Identifier: GPL-2.0

//! Records that were logged while a target could not be sent any, or that the console is not given.
//!
//! printk's thread gives a record to the targets that are enabled then. One that was deactivated
//! since its device had gone gets the others from the log, in order, by its work item; until it has
//! caught up, the thread leaves the new ones to the work item as well. In the same way a target
//! that is to be sent the full log gets the records that the console log level hides.

use kernel::sync::Arc;

use crate::{
    log::{
        access::Wait,
        cursor::{
            Cursor,
            Found, //
        },
        Buffer,
        Log, //
    },
    params,
    proto::ring::Next,
    sys::{
        printk,
        time::now_ms, //
    },
    target::{
        SendFlags,
        Target, //
    }, //
};

/// How many records are sent before others get their turn.
const MAX_AT_ONCE: usize = 256;

/// Sends a part of a target's backlog, if there is one; has the work item run again if that was not
/// all.
///
/// Process context; sleeps.
pub(crate) fn send(target: &Arc<Target>, buffer: &mut Buffer) {
    if params::OOPS_ONLY.value() && !printk::oops_in_progress() {
        return;
    }
    let Some(settings) = target.settings() else {
        return;
    };
    let full = settings.full_log;
    if full && target.sent_end() < Log::end() {
        target.set_behind(true, &target.tx_permit());
    }
    let log = &target.shared().log;
    let mut cursor = Cursor::new(log, target.sent_end(), full, Wait);
    for _ in 0..MAX_AT_ONCE {
        if !target.is_behind() || !target.is_enabled() {
            return;
        }
        target.wait_for_device();
        cursor.skip_to(target.sent_end());
        let end = end(log, full, buffer);
        let Ok(step) = cursor.step(end, buffer);
        match step {
            Found::Record(unsent) => {
                let meta = match full {
                    // The ring is for what the console is given; a hidden record looks the same
                    // each time.
                    true => unsent.meta,
                    false => {
                        let Ok(kept) = cursor.keep(&unsent, now_ms());
                        kept
                    }
                };
                let flags = SendFlags::default();
                let permit = target.tx_permit();
                target.transmit_first(unsent.seq, unsent.record, meta.as_ref(), flags, &permit);
            }
            Found::Searching => {}
            Found::End => {
                let permit = target.tx_permit();
                // The console stores a record before it takes the permit to send it.
                let Ok(stored) = log.stored_end(Wait);
                if stored.is_none_or(|end| end <= cursor.seq()) {
                    target.set_behind(false, &permit);
                    return;
                }
            }
        }
    }
    Target::wake(target);
}

/// Returns the number before which all is of the backlog: the rest comes from the console, byte for
/// byte, which printk's log cannot give.
fn end(log: &Log, full: bool, buffer: &mut Buffer) -> u64 {
    let end = Log::end();
    let Ok(stored) = log.stored_end(Wait);
    let Some(stored) = stored else {
        // Without a ring nobody knows what the console has been given.
        return end;
    };
    if !full {
        return stored;
    }
    let Ok(next) = log.next(stored, end, false, buffer, Wait);
    match next {
        Next::Record(seq) | Next::NotBefore(seq) => seq,
        Next::Nothing => end,
    }
}
