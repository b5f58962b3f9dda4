// SPDX-License-Identifier: GPL-2.0

//! Texts: datagrams that are no records, of any bytes: lines of basic targets and parts of them,
//! single characters of a boot loader, a line in another encoding.
//!
//! Upstream's basic target cuts a long line after 1000 bytes, and so in the middle of a UTF-8
//! character. The first bytes of such a character wait for its others, which begin the next
//! datagram; if that begins otherwise, or none comes soon, they are handed out as they are.

use std::time::{Duration, Instant};

use crate::datagram::is_odd;
use crate::queue::{Of, Queue};
use crate::record::{Event, Stored};

/// The time for which the rest of a character is waited for: both datagrams are sent at once.
const WAIT: Duration = Duration::from_secs(1);

/// The texts of one sender.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// The first bytes of a character, and when they came.
    cut: Option<(Vec<u8>, Instant)>,
    /// The number of the last output; 0 if there was none.
    last_output: u64,
}

/// Returns how many bytes at the end are the beginning of a UTF-8 character that is not whole.
fn cut_at_end(text: &[u8]) -> usize {
    let longest = text.len().min(3);
    let begins = |&len: &usize| {
        // `error_len` is unknown only if the text ends within a character.
        let tail = std::str::from_utf8(&text[text.len() - len..]);
        tail.is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    (1..=longest).find(begins).unwrap_or(0)
}

impl Texts {
    /// The number of the last output that is a text.
    pub(crate) fn last_output(&self) -> u64 {
        self.last_output
    }

    /// Returns when [`Self::poll`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cut.as_ref().map(|(_, came)| *came + WAIT)
    }

    /// Takes the text of a datagram.
    pub(crate) fn take(&mut self, queue: &mut Queue, of: Of, now: Instant, text: &[u8]) {
        let joined = self.join(queue, of, text);
        let text = joined.as_deref().unwrap_or(text);
        let (whole, cut) = text.split_at(text.len() - cut_at_end(text));
        if !cut.is_empty() {
            self.cut = Some((cut.into(), now));
        }
        if !whole.is_empty() {
            self.hand_out(queue, of, now, whole);
        }
    }

    /// Returns the text behind the first bytes of the character that it completes. If it does not
    /// complete it, these bytes are handed out.
    fn join(&mut self, queue: &mut Queue, of: Of, text: &[u8]) -> Option<Vec<u8>> {
        let (mut joined, came) = self.cut.take()?;
        let cut = joined.len();
        joined.extend_from_slice(text);
        let valid = match std::str::from_utf8(&joined) {
            Ok(_) => joined.len(),
            // Still in the middle of it.
            Err(e) if e.valid_up_to() == 0 && e.error_len().is_none() => joined.len(),
            Err(e) => e.valid_up_to(),
        };
        if valid > cut {
            return Some(joined);
        }
        joined.truncate(cut);
        self.hand_out(queue, of, came, &joined);
        None
    }

    /// Hands out bytes that have waited for long enough.
    pub(crate) fn poll(&mut self, queue: &mut Queue, of: Of, now: Instant) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.flush(queue, of, now);
        }
    }

    /// Hands out bytes that wait.
    pub(crate) fn flush(&mut self, queue: &mut Queue, of: Of, now: Instant) {
        if let Some((cut, _)) = self.cut.take() {
            self.hand_out(queue, of, now, &cut);
        }
    }

    fn hand_out(&mut self, queue: &mut Queue, of: Of, now: Instant, text: &[u8]) {
        if self.last_output == 0 {
            let (first, again) = (None, false);
            queue.event(of, now, Event::Began { first, again });
        }
        queue.stats.garbage += u64::from(is_odd(text));
        self.last_output = queue.record(of, Stored::text(text, now), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_character_is_cut() {
        for (text, cut) in [
            (&b""[..], 0),
            (b"abc", 0),
            ("Caf\u{e9}".as_bytes(), 0),
            (b"Caf\xc3", 1),
            (b"\xe2\x82", 2),
            (b"x\xf0\x9f\x98", 3),
            (b"x\xf0\x9f\x98\x80", 0),
            // Latin-1, and bytes that begin no character.
            (b"Caf\xe9\n", 0),
            (b"\x80\x80", 0),
            (b"\xff", 0),
            (b"\xc0", 0),
        ] {
            assert_eq!(cut_at_end(text), cut, "{}", text.escape_ascii());
        }
    }
}
