// SPDX-License-Identifier: GPL-2.0

//! Emergency transmission of one target: a logger that has acked and then falls silent is sent its
//! unacked records again, one at a time. The schedule is `proto/emg_schedule.rs`.

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

/// Transmits the record of a target's emergency transmission that is due, if one is. Returns in how
/// many milliseconds there is the next thing to do; [`None`]: when an ack or a record has come.
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
                // A record that cannot be had now is looked for again, and is not passed over.
                Err(Busy) => Next::NotBefore(seq),
            }
        });
        if before != state.schedule.is_emergency() {
            // The work item says so in the log, which is nothing for this context.
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

/// Returns what a target has been sent, and has acked.
fn view(target: &Target, ack: u64, off: &LocalInterruptDisabled) -> Result<View, Busy> {
    // Records that it was not to be sent need not be acked.
    let ack = ack.max(target.first_seq().saturating_sub(1));
    let oldest = (target.shared().log).next_sent(ack.saturating_add(1), Try(off))?;
    Ok(View {
        ack,
        end: target.sent_end(),
        oldest_sent: oldest.map(|(_, meta)| meta.sent_ms()),
    })
}
