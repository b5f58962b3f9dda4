// SPDX-License-Identifier: GPL-2.0

//! The watchdog of printk's thread: sends records that wait although the thread has sent none for
//! long.
//!
//! It looks at progress, not at age: a healthy burst takes longer than the limit to be sent.

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::atomic::Relaxed, //
};

use crate::{
    crash::mark,
    log::{
        access::{
            Busy,
            Try, //
        },
        cursor::{
            Cursor,
            Found, //
        },
        Buffer,
        Log, //
    },
    params,
    proto::config::Settings,
    sys::printk,
    target::{
        SendFlags,
        Target, //
    }, //
};

/// The most records that are sent or skipped in one call.
const MAX_RECORDS: u64 = 32;

/// The time until the next call then, in milliseconds.
const AGAIN_MS: u64 = 10;

/// How long the watchdog leaves a gap to printk's thread, which alone may still have the records,
/// in milliseconds.
const GAP_MS: u64 = 10_000;

/// Records that wait.
struct Stall {
    /// The number to begin with.
    from: u64,
    /// The number after the last record.
    end: u64,
    /// How long no record has been sent, in milliseconds.
    ms: u64,
}

/// Sends a part of a target's waiting records if printk's thread is stuck. Returns in how many
/// milliseconds to call again; [`None`]: no sooner than usual.
///
/// Softirq context with interrupts off; all locks are only tried.
pub(crate) fn run(
    target: &Target,
    settings: &Settings,
    now: u64,
    buffer: &mut Buffer,
    off: &LocalInterruptDisabled,
) -> Result<Option<u64>, Busy> {
    if !is_watched(target) {
        target.progress.since.store(0, Relaxed);
        return Ok(None);
    }
    let Some(stall) = look(target, now) else {
        return Ok(None);
    };
    if stall.ms < mark::MARK.patience(now, settings.push_after_ms) {
        return Ok(None);
    }
    let next = send(target, settings, now, &stall, buffer, off)?;
    target.progress.from.store(next, Relaxed);
    target.progress.end.store(target.sent_end(), Relaxed);
    Ok(Some(AGAIN_MS))
}

/// Returns whether records wait for printk's thread, so that its progress is to be watched. Any
/// context.
pub(crate) fn is_needed(target: &Target) -> bool {
    let from = target.progress.from.load(Relaxed).max(target.sent_end());
    is_watched(target) && from < Log::end()
}

/// Returns whether the records that wait are printk's thread's to send.
///
/// The work item sends them when there is a link, or when they need not wait any longer: see
/// `target/catch_up.rs`. It gets its time.
fn is_watched(target: &Target) -> bool {
    let wanted = !params::OOPS_ONLY.value() || printk::oops_in_progress();
    wanted && target.has_link() && !target.has_only_held()
}

/// Returns the waiting records if there are any and none has been sent since the last look.
fn look(target: &Target, now: u64) -> Option<Stall> {
    let progress = &target.progress;
    let (sent_end, end) = (target.sent_end(), Log::end());
    let moved = progress.end.xchg(sent_end, Relaxed) != sent_end;
    let from = progress.from.load(Relaxed).max(sent_end);
    let since = progress.since.load(Relaxed);
    // The first look at a target.
    if moved || since == 0 || from >= end {
        progress.since.store(now, Relaxed);
        progress.from.store(sent_end, Relaxed);
        return None;
    }
    Some(Stall {
        from,
        end,
        ms: now.saturating_sub(since),
    })
}

/// Sends some of the waiting records; returns the number to continue with.
fn send(
    target: &Target,
    settings: &Settings,
    now: u64,
    stall: &Stall,
    buffer: &mut Buffer,
    off: &LocalInterruptDisabled,
) -> Result<u64, Busy> {
    let log = &target.shared().log;
    let permit = target.try_tx_permit(off).ok_or(Busy)?;
    let mut cursor = Cursor::new(log, stall.from, settings.full_log, Try(off));
    for _ in 0..MAX_RECORDS {
        let at = cursor.seq();
        if at >= stall.end || target.is_congested() {
            break;
        }
        let is_gap = stall.ms < GAP_MS && !log.has(at, buffer, Try(off))?;
        match cursor.step(stall.end, buffer)? {
            // The records before it have been cleared (`dmesg --clear`), and printk's thread may
            // still have them; or they have been overwritten, and are lost.
            Found::Record(_) if is_gap => return Ok(at),
            Found::Record(unsent) => {
                let meta = cursor.keep(&unsent, now)?;
                let flags = SendFlags::default();
                target.transmit_first(unsent.seq, unsent.record, meta.as_ref(), flags, &permit);
            }
            Found::Searching | Found::End => {}
        }
    }
    Ok(cursor.seq())
}
