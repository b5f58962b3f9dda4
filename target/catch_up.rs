// SPDX-License-Identifier: GPL-2.0

//! The backlog of a target: records that were logged while it could not be sent any, and hidden
//! ones.
//!
//! printk's thread gives a record to the targets that are enabled then and whose device has a link
//! and takes frames as fast as they come. A target that was deactivated, without a link, or on a
//! slow device gets the earlier ones from the log, in order, by its work item, which the device's
//! event wakes, or a timer when a slow device has room again. Until it has caught up, the thread
//! leaves new records to the work item as well. A target with `full_log` gets the records that the
//! console log level hides in the same way. A record about a response (`proto/echo.rs`) may wait,
//! too.

use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta, //
    },
};

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
        say,
        SendFlags,
        Target, //
    }, //
};

/// The most records that are sent before other work on the queue has its turn.
const MAX_AT_ONCE: usize = 256;

/// Sends a part of a target's backlog, if there is one, and wakes the work item for the rest.
///
/// Process context; sleeps.
pub(crate) fn send(target: &Arc<Target>) {
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
    if !target.is_behind() {
        return;
    }
    let log = &target.shared().log;
    let buffer = &mut *target.shared().buffer.lock();
    let mut cursor = Cursor::new(log, target.sent_end(), full, Wait);
    for _ in 0..MAX_AT_ONCE {
        if !target.is_behind() || !target.has_link() || target.is_held() {
            return;
        }
        if target.leaves_to_timer() {
            return;
        }
        cursor.skip_to(target.sent_end());
        let left_end = target.left_end(&target.tx_permit());
        let end = end(log, full, left_end, buffer);
        let Ok(step) = cursor.step(end, buffer);
        match step {
            Found::Record(unsent) => {
                let meta = match full {
                    // The ring is for records that the console is given. A hidden record looks the
                    // same each time.
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
                // The console stores a record, if the ring takes it, before it takes the permit to
                // send it.
                let Ok(stored) = log.stored_end(Wait);
                let given = stored.unwrap_or(0).max(target.left_end(&permit));
                if given <= cursor.seq() {
                    target.clear_hold();
                    target.set_behind(false, &permit);
                    return;
                }
            }
        }
    }
    Target::wake(target);
}

impl Target {
    /// Waits until the backlog has been sent, or cannot be, or until this time, in milliseconds.
    /// Logs what is left of it. Process context.
    pub(crate) fn wait_for_backlog(this: &Arc<Self>, until: u64) {
        Self::end_hold(this);
        while this.is_behind() && this.has_link() && now_ms() < until {
            fsleep(Delta::from_millis(1));
        }
        let left = this.backlog();
        if left > 0 {
            say!(pr_warn, this, "{} records have not been sent", left);
        }
    }

    /// Returns the number of records that wait to be sent for the first time; 0 if there is no
    /// backlog. Hidden records count. Any context.
    pub(crate) fn backlog(&self) -> u64 {
        match self.is_behind() && self.is_enabled() {
            true => Log::end().saturating_sub(self.sent_end()),
            false => 0,
        }
    }
}

/// Returns the end of the backlog. Records from there on come from the console byte for byte, which
/// printk's buffer cannot give. `left_end` is the number after the last one that the console has
/// left to the backlog.
fn end(log: &Log, full: bool, left_end: u64, buffer: &mut Buffer) -> u64 {
    let end = Log::end();
    let Ok(stored) = log.stored_end(Wait);
    let Some(stored) = stored else {
        // Without a ring there is no trace of what the console has been given.
        return end;
    };
    let stored = stored.max(left_end);
    if !full {
        return stored;
    }
    let Ok(next) = log.next(stored, end, false, buffer, Wait);
    match next {
        Next::Record(seq) | Next::NotBefore(seq) => seq,
        Next::Nothing => end,
    }
}
