// SPDX-License-Identifier: GPL-2.0

//! Senders that have to prove themselves before an output takes what they have sent: there are
//! files that are not made for anybody who comes along.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ncrx::{Receiver, Standing};

use crate::sink::Doubt;

/// The time from one look at them to the next.
const LOOK: Duration = Duration::from_millis(50);
/// The most that are looked at; of a flood the newest.
const MOST: usize = 4096;

/// All doubts of a worker.
pub struct Doubts {
    all: VecDeque<Doubt>,
    due: Instant,
}

impl Doubts {
    /// Returns none.
    pub fn new(now: Instant) -> Self {
        Self {
            all: VecDeque::new(),
            due: now,
        }
    }

    /// Adds some. Their senders are asked to show that they hear us.
    pub fn add(&mut self, doubts: Vec<Doubt>, receiver: &mut Receiver, now: Instant) {
        for doubt in doubts {
            receiver.validate(doubt.token, now);
            if self.all.len() == MOST {
                self.all.pop_front();
            }
            self.all.push_back(doubt);
        }
    }

    /// Returns when to look at them.
    pub fn due(&self) -> Option<Instant> {
        (!self.all.is_empty()).then_some(self.due)
    }

    /// Looks at them, if it is time for that; returns whether a sender has proven itself.
    pub fn resolve(&mut self, receiver: &mut Receiver, now: Instant) -> bool {
        if self.all.is_empty() || now < self.due {
            return false;
        }
        self.due = now + LOOK;
        let mut any = false;
        self.all.retain(|doubt| {
            let proven = doubt.is_open() && receiver.validate(doubt.token, now) == Standing::Proven;
            if proven {
                doubt.resolve();
                any = true;
            }
            doubt.is_open() && !proven
        });
        any
    }
}
