// SPDX-License-Identifier: GPL-2.0

//! Supervision, once a second: outputs that are blocked, expected hosts that are silent.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::expect::Expect;
use crate::sink::Sink;

/// The time from one look to the next.
const LOOK: Duration = Duration::from_secs(1);
/// The seconds after which the log says that an output is blocked.
const BLOCKED: f64 = 3.0;

/// Supervises outputs and hosts, for ever.
pub fn watch(outputs: &[Sink], expect: Option<Arc<Expect>>) -> ! {
    let every = expect.as_ref().map_or(LOOK, |expect| expect.interval());
    let mut said = vec![false; outputs.len()];
    loop {
        thread::sleep(LOOK.min(every));
        if let Some(expect) = &expect {
            expect.look(Instant::now());
        }
        for (output, said) in outputs.iter().zip(&mut said) {
            look(output, said);
        }
    }
}

/// Logs that an output is blocked, once, unless an error has told it, and when it gets on again.
fn look(output: &Sink, said: &mut bool) {
    let Some(seconds) = blocked(output) else {
        if std::mem::take(said) {
            tracing::info!("{} can be written again", output.place);
        }
        return;
    };
    if seconds >= BLOCKED && !*said && !output.status().told.load(Relaxed) {
        *said = true;
        let price = match output.promised {
            true => "Nothing is acknowledged until that ends",
            false => "What does not fit into its queue is dropped",
        };
        tracing::warn!(
            "{} is blocked for {seconds:.0} s: nobody reads it, or its disk hangs. {price}",
            output.place
        );
    }
}

/// Returns for how many seconds an output is blocked, if it is.
pub fn blocked(output: &Sink) -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let since = output.status().blocked_since()?;
    Some((now.as_secs_f64() - since).max(0.0))
}
