// SPDX-License-Identifier: GPL-2.0

//! A receiver that gets any calls and any datagrams.

#![no_main]

mod checker;
mod input;
#[allow(dead_code)]
#[path = "../../../../src/acker/numbers.rs"]
mod numbers;
#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../../../proto/mod.rs"]
mod proto;

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checker::Checker;
use input::{Fragment, Host, Input, Number, Op, Record};
use libfuzzer_sys::fuzz_target;
use ncrx::{Config, Receiver};
use proto::wire;

/// The sender that may send anything.
pub const WILD: ([u8; 4], u16) = ([10, 0, 0, 4], 6665);

fn address(host: Host) -> SocketAddr {
    match host {
        Host::A => ([10, 0, 0, 2], 6665).into(),
        Host::B => ([10, 0, 0, 3], 6665).into(),
        Host::Wild => WILD.into(),
    }
}

/// A part of the body of a record with this number and this clock.
pub fn text(seq: u64, usec: u64, from: usize, len: usize) -> Vec<u8> {
    let seed = (seq ^ usec.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = |at: usize| b'a' + (seed.wrapping_mul(at as u64 | 1) >> 32) as u8 % 26;
    (from..from + len).map(byte).collect()
}

/// A sender.
#[derive(Clone, Debug, Default)]
struct Log {
    boot: u64,
    next: u64,
    /// The numbers that it was last asked for.
    asked: Vec<wire::Range>,
}

impl Log {
    fn number(&self, number: &Number) -> u64 {
        match *number {
            Number::Next => self.next,
            Number::Below(n) => self.next.saturating_sub(u64::from(n)),
            Number::Above(n) => self.next.saturating_add(u64::from(n)),
            Number::Small(n) => u64::from(n),
            Number::Far(n) => u64::from(n),
            Number::Any(n) => n,
        }
    }

    fn range(&self, (number, count): &(Number, u8)) -> wire::Range {
        let first = self.number(number);
        let last = first.saturating_add(u64::from(*count));
        wire::Range { first, last }
    }

    fn datagram(&self, seq: u64, record: &Record) -> Vec<u8> {
        // Numbers and clocks go back from boot to boot.
        let clock = 1_000_000_000 * (10 - self.boot % 10);
        let usec = record
            .clock
            .unwrap_or(clock.wrapping_add(seq.wrapping_mul(1000)));
        let mut header = String::new();
        if record.notice {
            header += "** 12 printk messages dropped **\n";
        }
        if record.release {
            header += "7.3.4-fuzz,";
        }
        let _ = write!(header, "6,{seq},{usec},-");
        if record.keys {
            header += ",caller=T1";
        }
        if record.session {
            let _ = write!(header, ",ncs={:016x}", self.boot + 1);
        }
        if let Some(range) = &record.skip {
            let _ = write!(header, ",ncskip={}", self.range(range));
        }
        if let Some(range) = &record.lost {
            let _ = write!(header, ",nclost={}", self.range(range));
        }
        match record.emergency {
            Some(true) => header += ",emg=1",
            Some(false) => header += ",ncemg=1",
            None => {}
        }
        let total = usize::from(record.len) % 8192;
        let (from, len) = match record.fragment {
            None => (0, total % 1024),
            Some(Fragment::Total { from, len }) => {
                let from = usize::from(from) % (total + 1);
                let len = (usize::from(len) % 1024).min(total - from);
                let _ = write!(header, ",ncfrag={from}/{total}");
                (from, len)
            }
            Some(Fragment::Index {
                from,
                len,
                index,
                count,
            }) => {
                let (from, len) = (usize::from(from) % 8192, usize::from(len) % 1024);
                let _ = write!(header, ",ncfrag={from}@{index}/{count}");
                (from, len)
            }
        };
        [header.as_bytes(), b";", &text(seq, usec, from, len)].concat()
    }
}

struct Test {
    config: Config,
    receiver: Receiver,
    checker: Checker,
    now: Instant,
    logs: [Log; 3],
}

impl Test {
    fn new(config: Config) -> Self {
        Self {
            receiver: Receiver::new(config.clone()),
            config,
            checker: Checker::default(),
            now: Instant::now(),
            logs: Default::default(),
        }
    }

    fn send(&mut self, host: Host, seq: u64, record: &Record) {
        let log = &mut self.logs[host as usize];
        let datagram = log.datagram(seq, record);
        log.next = match seq {
            // No sender goes on from so high a number.
            seq if seq > 1 << 62 => log.next,
            seq => log.next.max(seq + 1),
        };
        let _ = self.receiver.feed(self.now, address(host), &datagram);
    }

    /// Takes at most this number of outputs.
    fn take(&mut self, most: usize) {
        for _ in 0..most {
            let Some(output) = self.receiver.next_output() else {
                break;
            };
            self.checker.output(&output);
        }
    }

    fn written(&mut self) {
        self.receiver.written();
        self.checker.written();
    }

    fn tick(&mut self) {
        self.receiver.tick(self.now);
        let due = self.receiver.deadline();
        assert!(due.is_none_or(|due| due > self.now), "it is never done");
        let senders: Vec<_> = self.receiver.senders().collect();
        for log in &mut self.logs {
            log.asked.clear();
        }
        while let Some((to, response)) = self.receiver.next_response() {
            // The receiver may just have forgotten the sender.
            let Some(sender) = senders.iter().find(|sender| sender.host == to) else {
                continue;
            };
            let dialect = self.config.dialect;
            let asked = self.checker.response(dialect, sender, response);
            let hosts = [Host::A, Host::B, Host::Wild];
            let host = hosts.into_iter().find(|&host| address(host) == to);
            self.logs[host.unwrap() as usize].asked.extend(asked);
        }
    }

    fn restart(&mut self) {
        let mut receiver = Receiver::new(self.config.clone());
        for sender in self.receiver.senders() {
            self.checker.settled(&sender);
            if let Some(from) = sender.resume() {
                receiver.resume(self.now, sender.host, from);
            }
        }
        self.receiver = receiver;
        self.checker = Checker::default();
        for sender in self.receiver.senders() {
            self.checker.resume(&sender);
        }
    }

    fn act(&mut self, op: &Op<'_>) {
        match op {
            Op::Record(host, record) => {
                let seq = self.logs[*host as usize].number(&record.number);
                self.send(*host, seq, record);
            }
            Op::Burst(host, record, count, step) => {
                let first = self.logs[*host as usize].number(&record.number);
                for n in 0..u64::from(*count) {
                    let seq = first.saturating_add(n * u64::from(step % 4));
                    self.send(*host, seq, record);
                    self.check_memory();
                }
            }
            Op::Reboot(host) => {
                let log = &mut self.logs[*host as usize];
                (log.boot, log.next) = (log.boot + 1, 0);
            }
            Op::Answer(host, most, record) => {
                let asked = self.logs[*host as usize].asked.clone();
                let all = asked.iter().flat_map(|range| range.first..=range.last);
                for seq in all.take(usize::from(*most)) {
                    self.send(*host, seq, record);
                }
            }
            Op::Raw(bytes) => {
                let _ = self.receiver.feed(self.now, WILD.into(), bytes);
            }
            Op::Text(host, len) => {
                let text = text(0, 0, 0, usize::from(*len) + 1);
                let _ = self.receiver.feed(self.now, address(*host), &text);
            }
            Op::Empty(host) => {
                let _ = self.receiver.feed(self.now, address(*host), b"");
            }
            Op::Pass(log) => self.now += Duration::from_millis(1 << (log % 18)),
            Op::Wait => self.now = self.receiver.deadline().unwrap_or(self.now).max(self.now),
            Op::Tick => self.tick(),
            Op::Take(most) => self.take(usize::from(*most)),
            Op::TakeAll => self.take(usize::MAX),
            Op::Written => self.written(),
            Op::Restart => self.restart(),
        }
        self.check_memory();
    }

    /// Checks that the memory of records that are being put in order, and of those that are to be
    /// handed out, are each within the limit, but for a record of each sender.
    fn check_memory(&self) {
        let most = 2 * self.config.total_memory + 3 * (16 << 10);
        let bytes = self.receiver.bytes();
        let senders: Vec<_> = self.receiver.senders().map(|sender| sender.bytes).collect();
        assert!(
            bytes <= most,
            "{bytes} bytes of {most}, of which {senders:?} wait for others"
        );
    }

    /// Checks that all records are handed out when nothing comes any more.
    fn finish(&mut self, stop: bool) {
        self.take(usize::MAX);
        self.written();
        if stop {
            self.receiver.stop(self.now);
            self.take(usize::MAX);
        }
        let end = self.now + self.config.silence + Duration::from_secs(1);
        let mut steps = 0;
        while !stop && self.now < end {
            self.tick();
            self.take(usize::MAX);
            self.written();
            self.now = self.receiver.deadline().unwrap_or(end).min(end);
            steps += 1;
        }
        assert!(steps < 5000, "it comes back {steps} times");
        for sender in self.receiver.senders() {
            self.checker.all_out(&sender);
            self.checker.settled(&sender);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut test = Test::new(input.setting.config());
    for op in &input.ops {
        test.act(op);
    }
    test.finish(input.stop);
});
