// SPDX-License-Identifier: GPL-2.0

//! The receiver between a scripted sender and a bad link, against a map of the sent records.

#[allow(dead_code)]
#[path = "common/checker.rs"]
mod checker;
#[allow(dead_code, unexpected_cfgs)]
#[path = "../src/proto/mod.rs"]
mod proto;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checker::Checker;
use ncrx::{Config, Dialect, Receiver};
use proptest::prelude::*;
use proto::response::Response;
use proto::wire;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SENDER: ([u8; 4], u16) = ([10, 0, 0, 2], 6665);

/// One boot of the sender.
#[derive(Clone, Debug)]
struct Boot {
    session: bool,
    first: u64,
    records: u64,
    /// The time that it is off afterwards, in milliseconds.
    off: u64,
}

/// One test. Numbers are percentages unless documented otherwise.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    boots: Vec<Boot>,
    loss: u32,
    copies: u32,
    /// The longest delay, in milliseconds.
    delay: u64,
    long: u32,
    hidden: u32,
    lost: u32,
    emergencies: u32,
    lazy: u32,
    answers: bool,
    nca: bool,
    release: bool,
    small: bool,
}

fn boot() -> impl Strategy<Value = Boot> {
    (any::<bool>(), 0..200u64, 1..400u64, 0..3000u64).prop_map(|(session, first, records, off)| {
        Boot {
            session,
            first,
            records,
            off,
        }
    })
}

prop_compose! {
    fn case()(
        seed in any::<u64>(),
        boots in prop::collection::vec(boot(), 1..4),
        (loss, copies, delay) in (0..60u32, 0..30u32, 0..100u64),
        (long, hidden, lost, emergencies) in (0..20u32, 0..20u32, 0..20u32, 0..20u32),
        lazy in 0..90u32,
        (answers, nca, release, small) in any::<(bool, bool, bool, bool)>(),
    ) -> Case {
        Case {
            seed, boots, loss, copies, delay, long, hidden, lost, emergencies, lazy, answers, nca,
            release, small,
        }
    }
}

/// A record at the sender: none if it is hidden or lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Record,
    Hidden,
    Lost,
}

struct Test {
    case: Case,
    rng: ChaCha8Rng,
    start: Instant,
    ms: u64,
    receiver: Receiver,
    checker: Checker,
    /// The datagrams on their way, by their time of arrival.
    link: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
    boot: usize,
    session: Option<u64>,
    first: u64,
    log: Vec<(Slot, String, String)>,
    acked: Option<u64>,
    good: bool,
}

impl Test {
    fn new(mut case: Case) -> Self {
        // A receiver that takes a record out of order for an answer goes on to ask, and then takes
        // the next boot's records for answers.
        if case.boots.len() > 1 && !case.answers {
            case.delay %= 25;
        }
        let mut config = Config {
            seed: Some(case.seed),
            dialect: if case.nca {
                Dialect::Nca
            } else {
                Dialect::Ncrx
            },
            ..Config::default()
        };
        if case.small {
            (config.host_memory, config.total_memory) = (64 << 10, 64 << 10);
        }
        Self {
            rng: ChaCha8Rng::seed_from_u64(case.seed),
            checker: Checker::new(case.answers),
            case,
            start: Instant::now(),
            ms: 0,
            receiver: Receiver::new(config),
            link: BTreeMap::new(),
            count: 0,
            boot: 0,
            session: None,
            first: 0,
            log: Vec::new(),
            acked: None,
            good: false,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent.min(100), 100)
    }

    /// Puts a datagram on the link, which loses, copies and delays.
    fn send(&mut self, datagram: &[u8]) {
        let (copies, loss) = (self.case.copies, self.case.loss);
        let n = 1 + usize::from(!self.good && self.chance(copies));
        for _ in 0..n {
            if !self.good && self.chance(loss) {
                continue;
            }
            let delay = match self.good {
                true => 0,
                false => self.rng.random_range(0..=self.case.delay),
            };
            self.count += 1;
            self.link
                .insert((self.ms + delay, self.count), datagram.to_vec());
        }
    }

    /// Sends one number of the log, with the marks that may be on it.
    fn send_record(&mut self, seq: u64, skip: Option<wire::Range>, lost: Option<wire::Range>) {
        let emergencies = self.case.emergencies;
        // A sender in an emergency has had an ack, and listens.
        let emergency = self.case.answers && !self.good && self.chance(emergencies);
        let dialect = match self.rng.random() {
            true => wire::Dialect::Nca,
            false => wire::Dialect::Ncrx,
        };
        let (_, header, body) = &self.log[seq as usize];
        let (header, body) = (header.clone(), body.clone());
        let form = wire::Form {
            dialect,
            release: self.case.release.then_some(&b"7.3.4-test"[..]),
            emergency,
            session: self.session.map(wire::Session),
            crash: false,
            skip,
            lost,
            extra: wire::Extra::default(),
        };
        let record = wire::Record {
            header: header.as_bytes(),
            body: body.as_bytes(),
        };
        for datagram in wire::Datagrams::new(record, form).unwrap().iter() {
            let mut bytes = vec![0; datagram.len()];
            datagram.write(&mut bytes);
            self.send(&bytes);
        }
    }

    /// Returns the numbers just before this one that are hidden or lost, if marks may name them.
    fn marks(&self, seq: u64) -> (Option<wire::Range>, Option<wire::Range>) {
        let run = |end: u64, slot| {
            let begin = (self.first..end)
                .rev()
                .take_while(|&n| self.log[n as usize].0 == slot)
                .last();
            begin.map(|first| wire::Range {
                first,
                last: end - 1,
            })
        };
        let skip = run(seq, Slot::Hidden);
        let lost = run(skip.map_or(seq, |skip| skip.first), Slot::Lost);
        (skip, lost)
    }

    fn reboot(&mut self, boot: &Boot) {
        // A sender that names its session has had a response.
        let session = boot.session && self.case.answers;
        self.session = session.then(|| self.rng.random());
        // Without sessions a record can be told from one of the boot before only if something is
        // known of the records before it.
        self.first = match self.has_sessions() {
            true => boot.first,
            false => self.case.boots[0].first,
        };
        self.boot = self.checker.boot(self.session, self.first);
        let gone = (Slot::Lost, String::new(), String::new());
        self.log = (0..self.first).map(|_| gone.clone()).collect();
        self.acked = None;
    }

    /// Logs a record, and sends it unless it is hidden or lost.
    fn log(&mut self, last: bool) {
        let (boot, seq) = (self.boot, self.log.len() as u64);
        // SeqRange and time go back from boot to boot.
        let clock = 1_000_000_000 * (10 - boot as u64) + self.ms * 1000;
        let header = format!("6,{seq},{clock},-,caller=T1");
        let (long, hidden, lost) = (self.case.long, self.case.hidden, self.case.lost);
        let len = match self.chance(long) {
            true => self.rng.random_range(900..3000),
            false => self.rng.random_range(0..100),
        };
        let body = format!("boot {boot} {seq} {}\n KEY=value\n", "x;".repeat(len / 2));
        let slot = if last || seq == self.first {
            Slot::Record
        } else if self.session.is_some() && self.chance(hidden) {
            Slot::Hidden
        } else if self.session.is_some() && self.chance(lost) {
            Slot::Lost
        } else {
            Slot::Record
        };
        let kmsg = format!("{header};{body}");
        self.checker
            .sent((slot == Slot::Record).then_some(kmsg.as_bytes()));
        self.log.push((slot, header, body));
        if slot == Slot::Record {
            let (skip, lost) = match self.session.is_some() && self.rng.random() {
                true => self.marks(seq),
                false => (None, None),
            };
            self.send_record(seq, skip, lost);
        }
    }

    /// Has the sender take a response.
    fn respond(&mut self, response: &[u8]) {
        let response = Response::parse(response).expect("a bad response");
        if let Some(Some(session)) = response.session {
            if Some(session.0) != self.session {
                return;
            }
        }
        let end = self.log.len() as u64;
        self.acked = self.acked.max(response.ack.filter(|&ack| ack < end));
        if !self.case.answers {
            return;
        }
        for range in response.missing() {
            for seq in range.first..=range.last.min(end.wrapping_sub(1)) {
                if self.log[seq as usize].0 == Slot::Record {
                    self.send_record(seq, None, None);
                } else if self.session.is_some() {
                    let range = wire::Range {
                        first: seq,
                        last: seq,
                    };
                    let there = |n: &u64| self.log[*n as usize].0 == Slot::Record;
                    let Some(carrier) = (seq..end).find(there).or((0..seq).rev().find(there))
                    else {
                        continue;
                    };
                    let (skip, lost) = match self.log[seq as usize].0 {
                        Slot::Hidden => (Some(range), None),
                        _ => (None, Some(range)),
                    };
                    self.send_record(carrier, skip, lost);
                } else {
                    let mut out = [0; wire::MAX_SUBSTITUTE];
                    self.send(wire::substitute(seq, &mut out));
                }
            }
        }
    }

    /// Simulates a millisecond.
    fn step(&mut self) {
        let now = self.start + Duration::from_millis(self.ms);
        let from = SocketAddr::from(SENDER);
        while let Some(entry) = self.link.first_entry() {
            if entry.key().0 > self.ms {
                break;
            }
            let _ = self.receiver.feed(now, from, &entry.remove());
            if self.case.small {
                assert!(
                    self.receiver.bytes() <= (128 << 10) + 8192,
                    "{}",
                    self.receiver.bytes()
                );
            }
        }
        let lazy = self.case.lazy;
        if self.good || !self.chance(lazy) {
            while let Some(output) = self.receiver.next_output() {
                self.checker.output(&output);
            }
            if self.good || !self.chance(lazy) {
                self.receiver.written();
                self.checker.written();
            }
            self.receiver.tick(now);
        }
        while let Some((to, response)) = self.receiver.next_response() {
            assert_eq!(to, from);
            let parsed = Response::parse(response).expect("a bad response");
            let response = response.to_vec();
            let named = parsed.session.flatten().map(|session| session.0);
            if named.is_some() && named != self.session {
                // A response to an earlier boot.
                continue;
            }
            // In the dialect ncrx an ack of 0 stands for none.
            if let Some(ack) = parsed.ack.filter(|&ack| ack > 0) {
                let has = |seq: u64| {
                    let slot = self.log.get(seq as usize);
                    slot.is_none_or(|slot| slot.0 == Slot::Record)
                };
                self.checker.ack(ack, has);
            }
            let loss = self.case.loss;
            if self.good || !self.chance(loss) {
                self.respond(&response);
            }
        }
        self.ms += 1;
    }

    fn has_sessions(&self) -> bool {
        self.case.answers && self.case.boots.iter().all(|boot| boot.session)
    }

    /// Simulates this time.
    fn rest(&mut self, ms: u64) {
        let end = self.ms + ms;
        while self.ms < end {
            self.step();
            let link = self.link.keys().next().map_or(u64::MAX, |&(at, _)| at);
            let deadline = self.receiver.deadline().map_or(u64::MAX, |at| {
                at.saturating_duration_since(self.start).as_millis() as u64
            });
            self.ms = self.ms.max(link.min(deadline).min(end));
        }
    }

    fn run(mut self) {
        let boots = self.case.boots.clone();
        for (n, boot) in boots.iter().enumerate() {
            self.reboot(boot);
            for record in 0..boot.records {
                // The first record always comes, so that something is known of those before others.
                self.good = record == 0;
                if self.good {
                    self.step();
                }
                self.log(record + 1 == boot.records);
                if self.good {
                    self.step();
                }
                self.good = false;
                for _ in 0..self.rng.random_range(1..4) {
                    self.step();
                }
            }
            // Without sessions no boot begins while copies of the boot before may still come.
            let off = match self.has_sessions() {
                true => boot.off,
                false => 11_000 + boot.off,
            };
            if n + 1 < boots.len() {
                self.rest(off);
            }
        }
        // The link is good from now on, and one more record shows the last ones to be missing. By
        // then no copies of the boot before come any more.
        self.good = true;
        self.rest(12_000);
        self.log(true);
        self.rest(200_000);
        // Streams of earlier boots may still be missing records, which the sender no longer has.
        let last = self.receiver.senders().max_by_key(|sender| sender.heard);
        let last = last.expect("a sender");
        assert_eq!(last.missing, 0, "{last:?}");
        if self.case.answers && !self.case.small {
            let open = self.checker.open(self.first);
            assert!(open.is_empty(), "never handed out: {open:?}");
            assert_eq!(self.acked, Some(self.log.len() as u64 - 1));
        }
    }
}

/// Runs that were wrong once: an ack in a challenge that another stream's sender could take for its
/// own, twice; a record taken for a copy of the one at another time; a long record that found no
/// memory for ever.
#[test]
fn former_faults() {
    let boots = |boots: &[(bool, u64, u64, u64)]| {
        let boots = boots.iter().map(|&(session, first, records, off)| Boot {
            session,
            first,
            records,
            off,
        });
        boots.collect::<Vec<_>>()
    };
    let case = |seed, boots, shares: [u32; 7], delay, [nca, release, small]: [bool; 3]| {
        let [loss, copies, long, hidden, lost, emergencies, lazy] = shares;
        Case {
            seed,
            boots,
            loss,
            copies,
            delay,
            long,
            hidden,
            lost,
            emergencies,
            lazy,
            answers: true,
            nca,
            release,
            small,
        }
    };
    let cases = [
        case(
            9_137_884_411_497_330_647,
            boots(&[(true, 33, 109, 1266), (true, 131, 107, 0)]),
            [59, 11, 3, 7, 19, 9, 59],
            61,
            [false; 3],
        ),
        case(
            11_717_668_553_148_716_005,
            boots(&[(true, 156, 51, 116), (true, 1, 1, 0)]),
            [22, 2, 5, 9, 13, 15, 44],
            23,
            [false; 3],
        ),
        case(
            12_618_070_554_266_221_819,
            boots(&[(false, 163, 318, 729), (false, 0, 243, 0)]),
            [36, 16, 4, 0, 0, 15, 55],
            28,
            [false, true, false],
        ),
        case(
            5_527_873_459_374_977_469,
            boots(&[(false, 110, 232, 0), (true, 0, 279, 0), (true, 0, 221, 0)]),
            [49, 21, 6, 7, 5, 5, 61],
            74,
            [true; 3],
        ),
    ];
    cases.into_iter().for_each(|case| Test::new(case).run());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(800),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every record comes out in order and once, whatever the link and the sender do.
    #[test]
    fn records_come_out_as_they_were_sent(case in case()) {
        Test::new(case).run();
    }
}

/// Returns any bytes, or a record with any numbers and keys.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        prop_oneof![
            0..300u64,
            1u64 << 22..1 << 24,
            u64::MAX - 3..=u64::MAX,
            (1u64 << 63) - 4..(1 << 63) + 4
        ]
    };
    let key = (0..8u8, number(), number()).prop_map(|(key, a, b)| match key {
        0 => format!(",ncskip={a}-{b}"),
        1 => format!(",nclost={a}-{b}"),
        2 => format!(",ncs={:016x}", a % 3),
        3 => ",emg=1".into(),
        4 => format!(",ncfrag={a}/{b}"),
        5 => format!(",ncfrag={}@{}/{}", a % 300, a % 3, b % 4),
        _ => String::new(),
    });
    let keys = prop::collection::vec(key, 0..3);
    let record = (number(), number(), keys, 0..300usize).prop_map(|(seq, usec, keys, len)| {
        format!("6,{seq},{usec},-{};{}", keys.concat(), "x".repeat(len)).into_bytes()
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..60), 15 => record]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// No datagrams make it panic, or exceed its memory limits.
    #[test]
    fn anything_may_come(
        all in prop::collection::vec((datagram(), 0..3000u64, 0..2u8), 0..400),
        nca in any::<bool>(),
        history in any::<bool>(),
    ) {
        let config = Config {
            dialect: if nca { Dialect::Nca } else { Dialect::Ncrx },
            history,
            host_memory: 200 << 10,
            total_memory: 300 << 10,
            ..Config::default()
        };
        let mut receiver = Receiver::new(config);
        let mut now = Instant::now();
        for (datagram, ms, host) in all {
            now += Duration::from_millis(ms.saturating_sub(2000));
            let _ = receiver.feed(now, ([10, 0, 0, host], 6665).into(), &datagram);
            if ms % 4 == 0 {
                while receiver.next_output().is_some() {}
                receiver.written();
            }
            receiver.tick(now);
            while receiver.next_response().is_some() {}
            // The limits allow one more record each.
            prop_assert!(receiver.bytes() <= 600 << 10, "{}", receiver.bytes());
        }
        receiver.stop(now);
    }
}
