// SPDX-License-Identifier: GPL-2.0

//! Events, joined for people: gaps that touch each other are one, and so is a gap at the beginning
//! of a log with that beginning.

use ncrx::{Event, GapReason, Output, StreamId};

/// The last event, as long as others may belong to it.
#[derive(Default)]
pub struct Events {
    held: Option<Output<'static>>,
}

impl Events {
    /// Looks at what comes next. Returns what is to be written before it, and whether it is to be
    /// written itself.
    pub fn push(&mut self, output: &Output<'_>) -> (Option<Output<'static>>, bool) {
        let Output::Event {
            stream,
            host,
            session,
            at,
            event,
        } = *output
        else {
            return (self.held.take(), true);
        };
        if self.join(stream, event) {
            return (None, false);
        }
        let before = self.held.take();
        let holds = matches!(event, Event::Began { .. } | Event::Gap { .. });
        self.held = holds.then_some(Output::Event {
            stream,
            host,
            session,
            at,
            event,
        });
        (before, !holds)
    }

    /// Returns what is to be written when nothing comes next for now.
    pub fn rest(&mut self) -> Option<Output<'static>> {
        let is_gap = |held: &mut Output<'_>| {
            matches!(
                held,
                Output::Event {
                    event: Event::Gap { .. },
                    ..
                }
            )
        };
        // A log that begins may soon be known to begin later.
        self.held.take_if(is_gap)
    }

    /// Returns what is to be written when nothing comes any more.
    pub fn end(&mut self) -> Option<Output<'static>> {
        self.held.take()
    }

    /// Joins an event to the one that is held, if they belong together; returns whether they do.
    fn join(&mut self, of: StreamId, next: Event) -> bool {
        let Some(Output::Event { stream, event, .. }) = &mut self.held else {
            return false;
        };
        let Event::Gap { range, reason } = next else {
            return false;
        };
        match event {
            Event::Gap {
                range: held,
                reason: why,
            } if *stream == of && *why == reason && held.last + 1 == range.first => {
                held.last = range.last;
                true
            }
            Event::Began {
                first: Some(first), ..
            } if *stream == of && reason == GapReason::Before && *first == range.first => {
                *first = range.last + 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ncrx::{Config, Receiver, SeqRange};
    use std::time::Instant;

    fn stream() -> StreamId {
        let now = Instant::now();
        let mut receiver = Receiver::new(Config::default());
        let from = "10.0.0.2:6665".parse().unwrap();
        receiver.feed(now, from, b"6,0,0,-;x\n").unwrap();
        let mut senders = receiver.senders().map(|sender| sender.stream);
        senders.next().unwrap()
    }

    #[test]
    fn what_touches_is_one() {
        let gap = |first, last, reason| Event::Gap {
            range: SeqRange { first, last },
            reason,
        };
        let began = |first| Event::Began {
            first: Some(first),
            again: false,
        };
        let (stream, at) = (stream(), Instant::now());
        let mut events = Events::default();
        let mut said = Vec::new();
        let say = |said: &mut Vec<Event>, output: Option<Output<'_>>| {
            if let Some(Output::Event { event, .. }) = output {
                said.push(event);
            }
        };
        use GapReason::{Before, Lost};
        for event in [
            began(0),
            gap(0, 9, Before),
            gap(10, 19, Before),
            gap(20, 29, Lost),
            gap(30, 31, Lost),
            gap(33, 33, Lost),
            gap(34, 34, Before),
            Event::Resumed,
        ] {
            let output = Output::Event {
                stream,
                host: "10.0.0.2:6665".parse().unwrap(),
                session: None,
                at,
                event,
            };
            let (before, itself) = events.push(&output);
            say(&mut said, before);
            say(&mut said, itself.then_some(output));
        }
        say(&mut said, events.end());
        let expected = [
            began(20),
            gap(20, 31, Lost),
            gap(33, 33, Lost),
            gap(34, 34, Before),
            Event::Resumed,
        ];
        assert_eq!(said, expected);
    }
}
