// SPDX-License-Identifier: GPL-2.0

//! The live view: from workers, which never wait, to people who watch (server-sent events).
//! Of what is too much for people, or for one of them, only the number is told.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Stream};
use ncrx::Output;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::time::{sleep_until, timeout_at};

use crate::format::{shown, words_of, When};

/// The most people at a time.
const TAILS: usize = 16;
/// The most lines that wait for one of them.
const QUEUE: usize = 1024;
/// The most lines a second.
const RATE: u32 = 2000;
/// The longest text of a line, in bytes.
const LONGEST: usize = 4096;
/// The most lines of one event, and the shortest time from one event to the next.
const BATCH: usize = 256;
const PACE: Duration = Duration::from_millis(100);
/// The longest time without an event: so a client that is gone is found out.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A line, with all escaped as text is.
#[derive(Debug, Serialize)]
pub struct Line {
    host: String,
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usec: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    event: bool,
    text: String,
}

/// The lines that are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Of this host.
    host: String,
    /// Of this level, or a more urgent one.
    pub level: Option<u8>,
    /// With this text, in any case.
    q: String,
}

impl Filter {
    fn wants(&self, line: &Line) -> bool {
        let level = |most| line.level.is_some_and(|level| level <= most);
        (self.host.is_empty() || line.host == self.host)
            && self.level.is_none_or(level)
            && (self.q.is_empty() || line.text.to_lowercase().contains(&self.q))
    }
}

/// The way from workers to people.
pub struct Live {
    to: Sender<Arc<Line>>,
    tails: Arc<AtomicUsize>,
    /// The second that is counted in, and the lines that it may still have.
    budget: Mutex<(Instant, u32)>,
    /// Lines that were too many.
    passed: AtomicU64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            to: broadcast::channel(QUEUE).0,
            tails: Arc::default(),
            budget: Mutex::new((Instant::now(), RATE)),
            passed: AtomicU64::new(0),
        }
    }
}

impl Live {
    /// Shows it, if somebody looks. Never waits.
    pub fn see(&self, output: &Output<'_>, host: &str, when: &When) {
        if self.tails.load(Relaxed) == 0 {
            return;
        }
        if !self.has_room() {
            self.passed.fetch_add(1, Relaxed);
            return;
        }
        let Some((text, level, usec)) = words_of(output) else {
            return;
        };
        let cut = text.len() > LONGEST;
        let text = shown(&text[..text.len().min(LONGEST)]);
        let line = Line {
            host: shown(host.as_bytes()).into_owned(),
            time: when.logged(),
            level,
            usec,
            event: matches!(output, Output::Event { .. }),
            text: if cut {
                format!("{text} ...")
            } else {
                text.into_owned()
            },
        };
        // The last may just have gone.
        let _ = self.to.send(Arc::new(line));
    }

    /// Returns whether there may be one more in this second, and counts it.
    fn has_room(&self) -> bool {
        let Ok(mut budget) = self.budget.try_lock() else {
            return false;
        };
        let (since, left) = &mut *budget;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *left) = (Instant::now(), RATE);
        }
        let has = *left > 0;
        *left = left.saturating_sub(1);
        has
    }

    /// Returns what comes from now on, unless too many look already.
    pub fn tail(
        self: &Arc<Self>,
        mut filter: Filter,
    ) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
        let seat = Seat::take(&self.tails)?;
        filter.q = filter.q.to_lowercase();
        let tail = Tail {
            lines: self.to.subscribe(),
            live: self.clone(),
            passed: self.passed.load(Relaxed),
            filter,
            next: Instant::now(),
            _seat: seat,
        };
        let next = |mut tail: Tail| async { Some((Ok(tail.next().await?), tail)) };
        Some(Sse::new(stream::unfold(tail, next)))
    }
}

/// The right to look.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(seats: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |taken| (taken < TAILS).then_some(taken + 1);
        seats.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(seats.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The lines that one person sees.
struct Tail {
    lines: Receiver<Arc<Line>>,
    live: Arc<Live>,
    /// Lines that were too many for all, of which was told.
    passed: u64,
    filter: Filter,
    next: Instant,
    _seat: Seat,
}

impl Tail {
    /// Returns the next event: lines, the number of lines that were too many, or a sign of life.
    async fn next(&mut self) -> Option<Event> {
        let dead = Instant::now() + HEARTBEAT;
        loop {
            sleep_until(self.next.into()).await;
            let (mut lines, mut missed) = (Vec::new(), 0);
            match timeout_at(dead.into(), self.lines.recv()).await {
                Err(_) => return Some(Event::default().comment("")),
                Ok(Ok(line)) => lines.push(line),
                Ok(Err(RecvError::Lagged(count))) => missed += count,
                Ok(Err(RecvError::Closed)) => return None,
            }
            while lines.len() < BATCH {
                match self.lines.try_recv() {
                    Ok(line) => lines.push(line),
                    Err(TryRecvError::Lagged(count)) => missed += count,
                    Err(_) => break,
                }
            }
            self.next = Instant::now() + PACE;
            let passed = self.live.passed.load(Relaxed);
            missed += passed - std::mem::replace(&mut self.passed, passed);
            lines.retain(|line| self.filter.wants(line));
            let lines: Vec<&Line> = lines.iter().map(Arc::as_ref).collect();
            if !lines.is_empty() || missed > 0 {
                let told = serde_json::json!({ "lines": lines, "missed": missed });
                return Some(Event::default().data(told.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(host: &str, text: &str) -> Line {
        Line {
            host: host.into(),
            time: 0,
            level: Some(4),
            usec: None,
            event: false,
            text: text.into(),
        }
    }

    #[test]
    fn filters() {
        let filter = |host: &str, level, q: &str| Filter {
            host: host.into(),
            level,
            q: q.into(),
        };
        let line = line("a", "NVMe1: lost");
        assert!(filter("", None, "").wants(&line));
        assert!(filter("a", Some(4), "nvme").wants(&line));
        assert!(!filter("b", None, "").wants(&line));
        assert!(!filter("", Some(3), "").wants(&line));
        assert!(!filter("", None, "usb").wants(&line));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let live = Arc::new(Live::default());
        let mut tail = Tail {
            lines: live.to.subscribe(),
            live: live.clone(),
            passed: 0,
            filter: Filter::default(),
            next: Instant::now(),
            _seat: Seat::take(&live.tails).unwrap(),
        };
        for _ in 0..QUEUE + 10 {
            live.to.send(Arc::new(line("a", "x"))).unwrap();
        }
        live.passed.fetch_add(5, Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        let event = runtime.block_on(tail.next()).unwrap();
        let event = format!("{event:?}");
        assert!(event.contains("missed\\\":15}"), "{event}");
    }

    #[test]
    fn a_second_has_so_many_lines_and_so_many_people_look() {
        let live = Live::default();
        let had = (0..2 * RATE).filter(|_| live.has_room()).count();
        assert!((RATE as usize..2 * RATE as usize).contains(&had), "{had}");
        let seats: Vec<_> = (0..TAILS).map(|_| Seat::take(&live.tails)).collect();
        assert!(seats.iter().all(Option::is_some) && Seat::take(&live.tails).is_none());
        drop(seats);
        assert!(Seat::take(&live.tails).is_some());
    }
}
