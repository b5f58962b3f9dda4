// SPDX-License-Identifier: GPL-2.0

//! The userdata of senders, as far as names of files and of hosts need it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use ncrx::Record;

/// The most senders that are remembered.
const SENDERS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// The time for which a value holds: so no sender makes a file for each record.
const HOLDS: Duration = Duration::from_secs(60);
/// The longest value, in bytes.
const LONGEST: usize = 64;

/// A value, and since when it has been that.
type Value = Option<(String, Instant)>;

/// The values of some keys, of all senders of a worker.
pub struct Userdata {
    keys: Vec<String>,
    values: LruCache<SocketAddr, Vec<Value>>,
}

impl Userdata {
    /// Remembers these keys.
    pub fn new(mut keys: Vec<String>) -> Self {
        keys.sort();
        keys.dedup();
        Self {
            keys,
            values: LruCache::new(SENDERS),
        }
    }

    /// Looks at a record; returns whether a value has changed.
    pub fn see(&mut self, record: &Record<'_>, now: Instant) -> bool {
        if self.keys.is_empty() || record.is_text() {
            return false;
        }
        let mut changed = false;
        for (key, value) in record.dictionary() {
            if let Some(nth) = self.keys.iter().position(|known| known.as_bytes() == key) {
                changed |= self.set(record.host(), nth, &ncrx::unescape(value), now);
            }
        }
        changed
    }

    fn set(&mut self, sender: SocketAddr, nth: usize, value: &[u8], now: Instant) -> bool {
        let none = || vec![None; self.keys.len()];
        let known = &mut self.values.get_or_insert_mut(sender, none)[nth];
        let holds = |(text, since): &(String, Instant)| {
            text.as_bytes() == value || now.saturating_duration_since(*since) < HOLDS
        };
        // A part of a value is no name.
        let name = std::str::from_utf8(value).ok();
        let name = name.filter(|name| !name.is_empty() && name.len() <= LONGEST);
        let (Some(name), false) = (name, known.as_ref().is_some_and(holds)) else {
            return false;
        };
        *known = Some((name.to_owned(), now));
        true
    }

    /// Returns the value of a key of this sender.
    pub fn get(&self, sender: SocketAddr, key: &str) -> Option<&str> {
        let nth = self.keys.iter().position(|known| known == key)?;
        let (value, _) = self.values.peek(&sender)?[nth].as_ref()?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_for_a_minute() {
        let mut userdata = Userdata::new(vec!["rack".into(), "host".into(), "rack".into()]);
        let sender: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let began = Instant::now();
        let set = |userdata: &mut Userdata, value: &[u8], seconds| {
            userdata.set(sender, 1, value, began + Duration::from_secs(seconds))
        };
        assert!(set(&mut userdata, b"r1", 0));
        assert!(!set(&mut userdata, b"r2", 59));
        assert_eq!(userdata.get(sender, "rack"), Some("r1"));
        assert!(!set(&mut userdata, b"r1", 70));
        assert!(set(&mut userdata, b"r2", 71));
        for odd in [&b""[..], b"\xff", &[b'x'; 65]] {
            assert!(!set(&mut userdata, odd, 1000));
        }
        assert_eq!(userdata.get(sender, "rack"), Some("r2"));
        assert_eq!(userdata.get(sender, "host"), None);
    }
}
