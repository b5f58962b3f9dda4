// SPDX-License-Identifier: GPL-2.0

//! Userdata and sysdata: one line each, for any value of a user and any name of a task.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use proto::extradata::{self, Context, Sysdata, SysdataSet, MAX_SYSDATA, MAX_VALUE};

#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../../proto/mod.rs"]
mod proto;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    key: &'a [u8],
    value: &'a [u8],
    lines: [bool; 4],
    cpu: Option<u32>,
    comm: Option<[u8; 16]>,
    release: [u8; 64],
    msgid: Option<u32>,
}

fn is_one_line(line: &[u8]) -> bool {
    let newlines = line.iter().filter(|&&c| c == b'\n').count();
    line.starts_with(b" ") && line.ends_with(b"\n") && newlines == 1 && line.contains(&b'=')
}

fuzz_target!(|input: Input<'_>| {
    if let Ok(value) = extradata::value(input.value) {
        assert!(value.len() <= MAX_VALUE && input.value.starts_with(value));
        assert!(!value.contains(&0));
        // A value that was accepted is accepted again, unchanged.
        assert_eq!(extradata::value(value), Ok(value));
        if extradata::is_key(input.key) {
            let mut line = Vec::new();
            extradata::line(input.key, value, &mut |piece: &[u8]| {
                line.extend_from_slice(piece)
            });
            assert!(is_one_line(&line), "{}", line.escape_ascii());
            let at = line.iter().position(|&c| c == b'=').unwrap();
            assert_eq!(
                (&line[1..at], &line[at + 1..line.len() - 1]),
                (input.key, value)
            );
        }
    }

    let all = [
        Sysdata::Cpu,
        Sysdata::Taskname,
        Sysdata::Release,
        Sysdata::MsgId,
    ];
    let set = all
        .into_iter()
        .zip(input.lines)
        .fold(SysdataSet::default(), |set, (line, on)| set.with(line, on));
    // A name of a task has a terminator.
    let comm = input.comm.map(|mut comm| {
        comm[15] = 0;
        comm
    });
    let context = Context {
        cpu: input.cpu,
        comm: comm.as_ref(),
        release: &input.release,
        msgid: input.msgid,
    };
    let known = [
        input.cpu.is_some(),
        comm.is_some(),
        true,
        input.msgid.is_some(),
    ];
    let expected = input
        .lines
        .iter()
        .zip(known)
        .filter(|&(&on, known)| on && known);
    let mut out = [0; MAX_SYSDATA];
    let lines = extradata::sysdata(set, &context, &mut out);
    assert_eq!(
        lines.split_inclusive(|&c| c == b'\n').count(),
        expected.count()
    );
    for line in lines.split_inclusive(|&c| c == b'\n') {
        assert!(is_one_line(line), "{}", line.escape_ascii());
        let printable = |c: &u8| (b' '..=b'~').contains(c);
        assert!(line[..line.len() - 1].iter().all(printable));
    }
});
