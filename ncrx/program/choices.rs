// SPDX-License-Identifier: GPL-2.0

//! The operator's choices about records, which may change while ncrx runs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::format::{Format, Formatter, Style};

/// How records look in an output, and which it has.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The least urgent level of its records, if it has not all.
    pub level: Option<u8>,
    /// The format.
    pub format: Format,
    /// The choices of the format.
    pub style: Style,
}

impl Look {
    /// Returns what formats records so.
    pub fn formatter(&self) -> Formatter {
        Formatter::new(self.format, self.style)
    }
}

/// The choices.
#[derive(Debug, Default)]
pub struct Choices {
    /// The most records a second of a host.
    pub host_rate: Option<u32>,
    /// The look of each output.
    pub looks: Vec<Look>,
}

/// The choices of now, for all workers.
#[derive(Debug, Default)]
pub struct Current {
    now: Mutex<Arc<Choices>>,
    generation: AtomicU64,
}

impl Current {
    /// Sets them.
    pub fn set(&self, choices: Choices) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(choices);
        self.generation.fetch_add(1, Relaxed);
    }

    /// Returns the choices, if they were set since this generation, and makes that the one of now.
    pub fn news(&self, generation: &mut u64) -> Option<Arc<Choices>> {
        let now = self.generation.load(Relaxed);
        let is_new = std::mem::replace(generation, now) != now;
        is_new.then(|| {
            self.now
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        })
    }
}
