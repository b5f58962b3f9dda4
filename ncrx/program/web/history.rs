// SPDX-License-Identifier: GPL-2.0

//! Rates over the last half an hour.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Web;
use crate::metrics::{Metrics, Totals};
use crate::overview::now;

/// The time from one point to the next.
const STEP: Duration = Duration::from_secs(2);
/// The most points.
const POINTS: usize = 900;

/// A point: the second since 1970, records and lost records a second, and crashes.
type Point = (u64, f64, f64, u64);

/// The points that there are, the oldest first.
#[derive(Default, Serialize)]
pub struct History {
    points: VecDeque<Point>,
}

impl History {
    fn add(&mut self, former: Totals, totals: Totals, seconds: f64) {
        let a_second = |former: u64, now: u64| now.saturating_sub(former) as f64 / seconds;
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back((
            now() / 1_000_000,
            a_second(former.records, totals.records),
            a_second(former.lost, totals.lost),
            totals.crashes.saturating_sub(former.crashes),
        ));
    }
}

/// Keeps the history, for ever.
pub async fn keep(web: Arc<Web>, metrics: Arc<Metrics>) {
    let (mut former, mut at) = (metrics.totals_now(), Instant::now());
    loop {
        tokio::time::sleep(STEP).await;
        let (totals, then) = (
            metrics.totals_now(),
            std::mem::replace(&mut at, Instant::now()),
        );
        let mut history = web.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.add(former, totals, (at - then).as_secs_f64());
        former = totals;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_rates_and_bounded() {
        let mut history = History::default();
        let totals = |records| Totals {
            records,
            lost: records / 10,
            crashes: records / 100,
        };
        history.add(totals(100), totals(300), 2.0);
        let (_, records, lost, crashes) = history.points[0];
        assert_eq!((records, lost, crashes), (100.0, 10.0, 2));
        (0..2 * POINTS).for_each(|_| history.add(totals(0), totals(0), 2.0));
        assert_eq!(history.points.len(), POINTS);
    }
}
