// SPDX-License-Identifier: GPL-2.0

//! `printk_text.rs` against a model of printk's two formats of a record, after
//! kernel/printk/printk.c.

extern crate std;

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::proto::printk_text::{extended, MAX_LINES, MAX_RECORD};

/// `struct printk_info`, as far as it shows.
#[derive(Clone, Debug)]
struct Info {
    seq: u64,
    ts_nsec: u64,
    facility: u8,
    level: u8,
    caller_id: u32,
}

impl Info {
    fn prio(&self) -> u32 {
        (u32::from(self.facility) << 3) | u32::from(self.level)
    }

    fn caller(&self) -> String {
        let kind = if self.caller_id & 0x8000_0000 != 0 {
            'C'
        } else {
            'T'
        };
        format!("{kind}{}", self.caller_id & !0x8000_0000)
    }
}

/// `info_print_prefix()` with syslog.
fn info_print_prefix(info: &Info, time: bool, callers: bool) -> Vec<u8> {
    let mut prefix = format!("<{}>", info.prio());
    if time {
        let (sec, nsec) = (info.ts_nsec / 1_000_000_000, info.ts_nsec % 1_000_000_000);
        prefix += &format!("[{sec:5}.{:06}]", nsec / 1000);
    }
    if callers {
        prefix += &format!("[{:>6}]", info.caller());
    }
    if time || callers {
        prefix += " ";
    }
    prefix.into_bytes()
}

/// `record_print_text()`: the lines that fit into a buffer of `buf_size` bytes.
fn record_print_text(prefix: &[u8], text: &[u8], buf_size: usize) -> Vec<u8> {
    let mut text = &text[..text.len().min(buf_size)];
    let mut out = Vec::new();
    let mut truncated = false;
    loop {
        let line_len = match text.iter().position(|&c| c == b'\n') {
            Some(at) => at,
            None if truncated => break,
            None => text.len(),
        };
        if out.len() + prefix.len() + text.len() + 2 > buf_size {
            if out.len() + prefix.len() + line_len + 2 > buf_size {
                break;
            }
            text = &text[..buf_size - out.len() - prefix.len() - 2];
            truncated = true;
        }
        out.extend_from_slice(prefix);
        out.extend_from_slice(&text[..line_len]);
        out.push(b'\n');
        if text.len() == line_len {
            break;
        }
        text = &text[line_len + 1..];
    }
    out
}

/// `info_print_ext_header()` and `msg_add_ext_text()`, without a dictionary.
fn print_extended(info: &Info, time: bool, callers: bool, text: &[u8], size: usize) -> Vec<u8> {
    let usec = if time { info.ts_nsec / 1000 } else { 0 };
    let mut out = format!("{},{},{usec},-", info.prio(), info.seq).into_bytes();
    if callers {
        out.extend_from_slice(format!(",caller={}", info.caller()).as_bytes());
    }
    out.push(b';');
    for &c in text {
        let room = size - out.len();
        if !(b' '..127).contains(&c) || c == b'\\' {
            // `scnprintf()` counts what it has written without the terminator.
            let escape = format!("\\x{c:02x}");
            out.extend_from_slice(&escape.as_bytes()[..room.saturating_sub(1).min(4)]);
        } else if room > 0 {
            out.push(c);
        }
    }
    if out.len() < size {
        out.push(b'\n');
    }
    out
}

fn infos() -> impl Strategy<Value = Info> {
    (
        any::<u64>(),
        any::<u64>(),
        0..64u32,
        any::<u8>(),
        0..8u8,
        any::<u32>(),
        0..32u32,
    )
        .prop_map(
            |(seq, ts_nsec, shift, facility, level, caller_id, small)| Info {
                seq,
                ts_nsec: ts_nsec >> shift,
                facility,
                level,
                caller_id: (caller_id & 0x8000_0000) | ((caller_id & 0x7fff_ffff) >> small),
            },
        )
}

/// Pieces of text that are hard to tell from what printk adds.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..30),
        4 => "[ -~]{0,60}".prop_map(String::into_bytes),
        3 => Just(b"\n".to_vec()),
        1 => (infos(), any::<bool>(), any::<bool>())
            .prop_map(|(info, time, callers)| info_print_prefix(&info, time, callers)),
        1 => Just(b"[    1.000000] ".to_vec()),
        1 => Just(b"<6>".to_vec()),
        1 => Just(vec![b'\n'; 100]),
        1 => Just(vec![1; 200]),
    ]
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    vec(pieces(), 0..20).prop_map(|pieces| {
        let mut text = pieces.concat();
        text.truncate(1024);
        text
    })
}

/// Whether a text without time, of which every line begins with the same time, is to be expected
/// to be mistaken for one with time.
fn ambiguous(lines: &[u8]) -> bool {
    let Some(end) = lines.windows(2).position(|w| w == b"] ") else {
        return false;
    };
    lines[..lines.len() - 1]
        .split(|&c| c == b'\n')
        .all(|line| line.starts_with(&lines[..end + 2]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn both_formats_of_a_record_agree(
        info in infos(),
        time in any::<bool>(),
        callers in any::<bool>(),
        text in texts(),
        size in prop_oneof![3 => Just(MAX_RECORD), 1 => 100..MAX_RECORD],
    ) {
        let prefix = info_print_prefix(&info, time, callers);
        let lines = record_print_text(&prefix, &text, MAX_LINES);
        prop_assume!(time || callers || !ambiguous(&lines));
        let mut out = vec![b'#'; size + 8];
        let len = extended(&lines, info.seq, callers, &mut out[..size]);
        let expected = print_extended(&info, time, callers, &text, size);
        prop_assert_eq!(len.map(|len| &out[..len]), Some(&expected[..]));
        prop_assert_eq!(&out[size..], &b"########"[..]);
    }

    /// Lines that were left out because printk's reader had too little room are missing at the end,
    /// and nothing else.
    #[test]
    fn lines_left_out_are_missing(info in infos(), text in texts(), room in 0..1200usize) {
        let prefix = info_print_prefix(&info, true, true);
        let lines = record_print_text(&prefix, &text, room);
        let mut out = [0; MAX_RECORD];
        let len = extended(&lines, info.seq, true, &mut out);
        if lines.is_empty() {
            prop_assert_eq!(len, None);
        } else {
            let cut = len.map(|len| &out[..len - 1]);
            let whole = print_extended(&info, true, true, &text, 8192);
            prop_assert!(cut.is_some_and(|cut| whole.starts_with(cut)));
        }
    }

    #[test]
    fn garbage_never_overruns(
        lines in vec(any::<u8>(), 0..100),
        text in texts(),
        callers in any::<bool>(),
        room in 0..100usize,
    ) {
        for lines in [&lines, &text] {
            let mut out = [b'#'; 108];
            let len = extended(lines, 1, callers, &mut out[..room]);
            prop_assert!(len.is_none_or(|len| len <= room));
            prop_assert_eq!(&out[room..], &[b'#'; 108][room..]);
        }
    }
}

/// The record of the most lines fits with any prefix.
#[test]
fn the_most_lines_fit() {
    let info = Info {
        seq: u64::MAX,
        ts_nsec: u64::MAX,
        facility: u8::MAX,
        level: 7,
        caller_id: u32::MAX,
    };
    let prefix = info_print_prefix(&info, true, true);
    let text = [b'\n'; 1024];
    let lines = record_print_text(&prefix, &text, MAX_LINES);
    assert_eq!(lines.len(), 1024 + 1 + 1025 * prefix.len());
}
