// SPDX-License-Identifier: GPL-2.0

//! From a receiver to all outputs. What all of them have is told to the receiver, which may then
//! acknowledge it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ncrx::{Output, Receiver};

use crate::format::{Clock, Formatter};
use crate::names::Names;
use crate::sink::{Target, Writer};

/// How much is collected before it is written: calls are few, and stops are short.
const CHUNK: usize = 256 << 10;
/// How many chunks are written until others have their turn.
const CHUNKS: usize = 16;
/// How soon it is tried again after an error, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// One output of a worker.
pub struct End {
    /// What it looks like.
    pub formatter: Formatter,
    /// The worker's end of it.
    pub writer: Writer,
    /// Where it goes.
    pub target: Target,
}

/// Whoever read our standard output does so no more.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct Closed;

/// All outputs of a worker.
pub struct Outputs {
    ends: Vec<End>,
    names: Arc<Names>,
    /// The sender that was last written of, and its name: mostly the next is the same.
    named: Option<IpAddr>,
    name: String,
    text: Vec<u8>,
    /// Whether something has been taken since all was written.
    unwritten: bool,
    /// After an error: when to try again, and how long to wait then.
    broken: Option<(Instant, Duration)>,
    errors: u64,
}

impl Outputs {
    /// These outputs; senders have these names in them.
    pub fn new(ends: Vec<End>, names: Arc<Names>) -> Self {
        Self {
            ends,
            names,
            named: None,
            name: String::new(),
            text: Vec::new(),
            unwritten: false,
            broken: None,
            errors: 0,
        }
    }

    /// How many times something could not be written.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// When to try again to write, if it did not work.
    pub fn retry_at(&self) -> Option<Instant> {
        self.broken.map(|(at, _)| at)
    }

    /// The last chance: do not wait until it is tried again.
    pub fn hurry(&mut self, now: Instant) {
        self.broken = self.broken.map(|(_, wait)| (now, wait));
    }

    /// Writes what the receiver has, and says whether there may be more. After an error the
    /// receiver keeps what it has, as long as it has memory, and nothing is acknowledged.
    pub fn deliver(&mut self, now: Instant, receiver: &mut Receiver) -> Result<bool, Closed> {
        if self.retry_at().is_some_and(|at| at > now) {
            return Ok(false);
        }
        for _ in 0..CHUNKS {
            if self.unwritten && !self.commit(now)? {
                return Ok(false);
            }
            receiver.written();
            let clock = Clock {
                instant: now,
                system: SystemTime::now(),
            };
            for end in &mut self.ends {
                end.formatter.set_clock(clock);
            }
            self.take(receiver);
            if !self.unwritten {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills the buffers of all ends.
    fn take(&mut self, receiver: &mut Receiver) {
        let mut room = CHUNK;
        while room > 0 {
            let Some(output) = receiver.next_output() else {
                return;
            };
            self.unwritten = true;
            let host = match &output {
                Output::Record(record) => record.host(),
                Output::Event { host, .. } => *host,
            };
            if self.named != Some(host.ip()) {
                self.named = Some(host.ip());
                self.names.put(host.ip(), &mut self.name);
            }
            for end in &mut self.ends {
                self.text.clear();
                end.formatter.write(&output, &self.name, &mut self.text);
                end.writer.write(&self.name, &self.text);
                room = room.saturating_sub(self.text.len());
            }
        }
    }

    /// Writes the buffers out; `false` if that is to be tried again.
    fn commit(&mut self, now: Instant) -> Result<bool, Closed> {
        let mut failed = None;
        for end in &mut self.ends {
            if let Err(error) = end.writer.commit() {
                if end.target == Target::Stdout && error.kind() == io::ErrorKind::BrokenPipe {
                    return Err(Closed);
                }
                failed = Some(error);
            }
        }
        let Some(error) = failed else {
            self.unwritten = false;
            if self.broken.take().is_some() {
                tracing::info!("all outputs can be written again");
            }
            return Ok(true);
        };
        self.errors += 1;
        let wait = match self.broken {
            Some((_, wait)) => (wait * 2).min(RETRY.1),
            None => {
                let remedy = match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
                    io::ErrorKind::PermissionDenied => "let ncrx write there",
                    _ => "mend it",
                };
                // It names the file.
                tracing::error!("{error}. Nothing is acknowledged until that works; {remedy}");
                RETRY.0
            }
        };
        self.broken = Some((now + wait, wait));
        Ok(false)
    }
}
