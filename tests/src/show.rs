// SPDX-License-Identifier: GPL-2.0

//! Records for people to read, in `dmesg`'s colours.

use std::net::IpAddr;

use crate::collector::Record;

const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
];

/// The style in which records are shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether to use a terminal's colours.
    pub colour: bool,
}

impl Style {
    /// Returns `host level [time] text`, one line a record.
    pub fn line(self, host: IpAddr, record: &Record) -> String {
        let text = String::from_utf8_lossy(&record.bytes);
        let (header, body) = text.split_once(';').unwrap_or(("", &text));
        let mut fields = header.split(',');
        let mut number = || {
            fields
                .next()
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let (prio, _seq, usec) = (number(), number(), number());
        let level = (prio % 8) as usize;
        let (time, name) = (
            format!("[{:5}.{:06}]", usec / 1_000_000, usec % 1_000_000),
            LEVELS[level],
        );
        let body = shortened(body.split('\n').next().unwrap_or(""));
        let pieces = match record.datagrams {
            0 | 1 => String::new(),
            n => format!(" ({} bytes in {n} fragments)", record.bytes.len()),
        };
        if !self.colour {
            return format!("{host} {name:6} {time} {body}{pieces}");
        }
        // As dmesg: the time green, errors red, warnings bold.
        let paint = match level {
            0..=2 => "\x1b[7;31m",
            3 => "\x1b[31m",
            4 => "\x1b[1m",
            7 => "\x1b[2m",
            _ => "",
        };
        format!("\x1b[36m{host}\x1b[0m {name:6} \x1b[32m{time}\x1b[0m {paint}{body}\x1b[0m{pieces}")
    }
}

/// Returns a long text without its middle.
fn shortened(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST {
        return text.to_string();
    }
    let chars: Vec<char> = text.chars().collect();
    let head: String = chars[..MOST - 24].iter().collect();
    let tail: String = chars[chars.len() - 20..].iter().collect();
    format!("{head} .. {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_line_says_all() {
        let mut record = Record {
            seq: 7,
            bytes: b"3,7,12345678,-;disk on fire\n DEVICE=b8:0\n".to_vec(),
            release: None,
            at: Instant::now(),
            datagrams: 1,
            copies: 1,
            emergencies: 0,
        };
        let host = "10.0.2.15".parse().unwrap();
        let style = Style { colour: false };
        let line = style.line(host, &record);
        assert_eq!(line, "10.0.2.15 err    [   12.345678] disk on fire");
        record.datagrams = 3;
        record.bytes = [b"6,7,1,-;".as_slice(), &[b'x'; 2000]].concat();
        let line = style.line(host, &record);
        assert!(
            line.len() < 250 && line.ends_with("(2008 bytes in 3 fragments)"),
            "{line}"
        );
    }
}
