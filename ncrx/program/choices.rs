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
    /// The look of each output; none if they stay as they are.
    pub looks: Option<Vec<Look>>,
}

/// The choices of now, for all workers.
#[derive(Debug, Default)]
pub struct Current {
    now: Mutex<Arc<Choices>>,
    generation: AtomicU64,
}

impl Current {
    /// Sets them. A worker may not have taken the former ones yet.
    pub fn set(&self, mut choices: Choices) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if choices.looks.is_none() {
            choices.looks.clone_from(&now.looks);
        }
        *now = Arc::new(choices);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_no_worker_has_taken_yet_are_kept() {
        let (current, mut generation) = (Current::default(), 0);
        let look = Look {
            level: Some(4),
            format: Format::Json,
            style: Style::default(),
        };
        current.set(Choices {
            looks: Some(vec![look]),
            ..Choices::default()
        });
        current.set(Choices {
            host_rate: Some(9),
            looks: None,
        });
        let choices = current.news(&mut generation).unwrap();
        let levels = choices.looks.iter().flatten().map(|look| look.level);
        assert_eq!(levels.collect::<Vec<_>>(), [Some(4)]);
        assert_eq!(choices.host_rate, Some(9));
        assert!(current.news(&mut generation).is_none());
    }
}
