// SPDX-License-Identifier: GPL-2.0

//! The guest's serial console: collected, saved, and watched for the words by which a kernel
//! reports a fault.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

/// The words that fail a test unless it expects them.
const ALARMS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "INFO: possible",
    "possible recursive locking",
    "possible circular locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "Invalid wait context",
    "bad unlock balance",
    "held lock freed",
    "lock held when returning to user space",
    "KASAN",
    "UBSAN",
    "Call Trace:",
    "Call trace:",
    "refcount_t:",
    "sleeping function called",
    "scheduling while atomic",
    "Kernel panic",
    "Oops:",
    "general protection fault",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "rcu_sched self-detected stall",
    "rcu_preempt self-detected stall",
    "detected stalls on CPUs",
    "unreferenced object",
    "unregister_netdevice: waiting for",
    "leaked reference",
];

/// The character that escapes to QEMU's multiplexer.
const MUX_ESCAPE: u8 = 1;

#[derive(Default)]
struct State {
    lines: Vec<String>,
    partial: Vec<u8>,
    closed: bool,
}

/// The console of one guest.
pub struct Serial {
    shared: Arc<(Mutex<State>, Condvar)>,
    input: UnixStream,
}

impl Serial {
    /// Reads `stream` in the background and saves it all in `log`. With `echo` it is also copied
    /// there as it comes.
    pub fn watch(
        stream: UnixStream,
        log: &Path,
        mut echo: Option<Box<dyn Write + Send>>,
    ) -> Result<Self> {
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let mut file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut output = stream.try_clone()?;
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("serial".into())
            .spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(n @ 1..) = output.read(&mut buf) {
                    // A full disk must not look like a dead guest.
                    let _ = file.write_all(&buf[..n]);
                    if let Some(echo) = &mut echo {
                        let _ = echo.write_all(&buf[..n]).and_then(|()| echo.flush());
                    }
                    theirs.0.lock().unwrap().take(&buf[..n]);
                    theirs.1.notify_all();
                }
                theirs.0.lock().unwrap().closed = true;
                theirs.1.notify_all();
            })?;
        Ok(Self {
            shared,
            input: stream,
        })
    }

    /// Returns the number of lines so far: a place to start waiting from.
    pub fn len(&self) -> usize {
        self.shared.0.lock().unwrap().lines.len()
    }

    /// Returns whether nothing has been printed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the machine has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.0.lock().unwrap().closed
    }

    /// Returns all lines from the `from`th on.
    pub fn lines(&self, from: usize) -> Vec<String> {
        self.shared.0.lock().unwrap().lines[from..].to_vec()
    }

    /// Returns whether a line has `text` in it.
    pub fn says(&self, text: &str) -> bool {
        let state = self.shared.0.lock().unwrap();
        state.lines.iter().any(|line| line.contains(text))
    }

    /// Waits for a line with `text` in it, at or after the `from`th; returns its number.
    pub fn wait_for(&self, text: &str, from: usize, limit: Duration) -> Result<usize> {
        let until = Instant::now() + limit;
        let mut state = self.shared.0.lock().unwrap();
        let mut next = from;
        loop {
            if let Some(i) = state.lines[next..].iter().position(|l| l.contains(text)) {
                return Ok(next + i);
            }
            next = state.lines.len();
            if state.closed {
                bail!("the machine is gone, and its console has not said {text:?}");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the console has not said {text:?} within {limit:?}");
            }
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Sends characters to the guest.
    pub fn type_in(&self, text: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        for &c in text {
            if c == MUX_ESCAPE {
                bytes.push(c);
            }
            bytes.push(c);
        }
        Ok((&self.input).write_all(&bytes)?)
    }

    /// Presses a SysRq key: a break, then the key. The kernel acts on it in hard interrupt context.
    pub fn sysrq(&self, key: char) -> Result<()> {
        (&self.input).write_all(&[MUX_ESCAPE, b'b'])?;
        self.type_in(key.to_string().as_bytes())
    }

    /// Returns the first alarm that contains none of the `expected` words, with the lines around
    /// it.
    pub fn alarm(&self, expected: &[String]) -> Option<String> {
        let state = self.shared.0.lock().unwrap();
        let at = state
            .lines
            .iter()
            .position(|line| is_alarm(line, expected))?;
        let around = at.saturating_sub(5)..(at + 40).min(state.lines.len());
        Some(state.lines[around].join("\n"))
    }

    /// Returns the last lines: 30, or more to have the beginning of a trace among them.
    pub fn end(&self) -> String {
        self.shared.0.lock().unwrap().end()
    }
}

impl State {
    fn end(&self) -> String {
        const USUAL: usize = 30;
        // A trace with its registers has some 70.
        const MOST: usize = 150;
        let latest = self.lines.len().saturating_sub(USUAL);
        let earliest = self.lines.len().saturating_sub(MOST);
        let alarm = self.lines[earliest..]
            .iter()
            .position(|line| is_alarm(line, &[]));
        let from = alarm.map_or(latest, |at| latest.min(earliest + at));
        self.lines[from..].join("\n")
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                let line = String::from_utf8_lossy(&line);
                self.lines.push(line.trim_end_matches('\r').to_string());
            } else {
                self.partial.push(byte);
            }
        }
    }
}

fn is_alarm(line: &str, expected: &[String]) -> bool {
    ALARMS.iter().any(|alarm| line.contains(alarm))
        && !expected.iter().any(|word| line.contains(word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_alarm_is_none() {
        let line = "[    1.0] Kernel panic - not syncing: test";
        assert!(is_alarm(line, &[]));
        assert!(!is_alarm(line, &["Kernel panic".into()]));
        assert!(!is_alarm("[    1.0] eth0: link is up", &[]));
    }

    #[test]
    fn the_end_has_the_beginning_of_a_trace() {
        let mut state = State {
            lines: (0..500).map(|n| format!("line {n}")).collect(),
            ..State::default()
        };
        assert!(state.end().starts_with("line 470\n"));
        state.lines[420] = "Oops: int3: 0000 [#1] SMP".into();
        assert!(state.end().starts_with("Oops: int3: 0000 "));
        state.lines[10] = "BUG: long ago".into();
        assert!(state.end().starts_with("Oops: int3: 0000 "));
    }

    #[test]
    fn lines_come_whole() {
        let mut state = State::default();
        state.take(b"one\r\ntw");
        state.take(b"o\r\nthree");
        assert_eq!(state.lines, ["one", "two"]);
        assert_eq!(state.partial, b"three");
    }
}
