// SPDX-License-Identifier: GPL-2.0

//! Emergency transmission of one target: the unacked records of a logger that has acked and then
//! fallen silent are sent again, one at a time. `proto/emg_schedule.rs` has the schedule.

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::Arc, //
};

use crate::{
    log::{
        access::{
            Busy,
            Try, //
        },
        cursor::{
            Cursor,
            Found, //
        },
        Buffer, //
    },
    proto::{
        config::Settings,
        emg_schedule::{
            Step,
            View, //
        },
        ring::Next, //
    },
    target::{
        SendFlags,
        Target, //
    }, //
};

/// Transmits the record that is due, if one is. Returns in how many milliseconds to call again;
/// [`None`]: after an ack or a record.
///
/// Softirq context with interrupts off; all locks are only tried.
pub(crate) fn run(
    target: &Arc<Target>,
    settings: &Settings,
    now: u64,
    buffer: &mut Buffer,
    off: &LocalInterruptDisabled,
) -> Result<Option<u64>, Busy> {
    let log = &target.shared().log;
    let (mut len, mut meta) = (0, None);
    let step = {
        let mut state = target.acks().state().try_lock_with(off).ok_or(Busy)?;
        // Emergency records go only to a logger that has acked.
        let Some(ack) = state.peer.acked() else {
            return Ok(None);
        };
        let view = view(target, ack, off)?;
        let before = state.schedule.is_emergency();
        let step = state.schedule.poll(now, view, settings.intervals, |seq| {
            let mut cursor = Cursor::new(log, seq, settings.full_log, Try(off));
            match cursor.step(view.end, buffer) {
                Ok(Found::Record(unsent)) => {
                    (len, meta) = (unsent.record.len(), unsent.meta);
                    Next::Record(unsent.seq)
                }
                Ok(Found::Searching) => Next::NotBefore(cursor.seq()),
                Ok(Found::End) => Next::Nothing,
                // A record that cannot be had now is looked up again, not skipped.
                Err(Busy) => Next::NotBefore(seq),
            }
        });
        if before != state.schedule.is_emergency() {
            // The work item logs the change: this context must not.
            Target::wake(target);
        }
        step
    };
    match step {
        Step::Idle => Ok(None),
        Step::Wait(until) => Ok(Some(until.saturating_sub(now))),
        Step::Send(seq) => {
            let flags = SendFlags {
                emergency: true,
                ..SendFlags::default()
            };
            target.transmit(seq, buffer.record(len), meta.as_ref(), flags);
            target.stats().emergency.inc();
            Ok(Some(0))
        }
    }
}

/// Returns the state of the log for a target.
fn view(target: &Target, ack: u64, off: &LocalInterruptDisabled) -> Result<View, Busy> {
    // Records before its first one need not be acked.
    let ack = ack.max(target.first_seq().saturating_sub(1));
    let oldest = (target.shared().log).next_sent(ack.saturating_add(1), Try(off))?;
    Ok(View {
        ack,
        end: target.sent_end(),
        oldest_sent: oldest.map(|(_, meta)| meta.sent_ms()),
    })
}
