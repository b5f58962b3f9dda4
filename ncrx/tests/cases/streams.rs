// SPDX-License-Identifier: GPL-2.0

//! Streams of one sender live side by side: none is ended by one that has proven nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use ncrx::{Config, Event, Output, StreamId};

use super::{no_history, Test};

const A: &str = ",ncs=aaaaaaaaaaaaaaaa";
const F: &str = ",ncs=ffffffffffffffff";

/// The outputs of the streams, and the responses.
#[derive(Debug, Default)]
struct Heard {
    /// By stream, in the order in which they begin: `<seq>:<text>`, events, `late`.
    streams: Vec<Vec<String>>,
    ids: HashMap<StreamId, usize>,
    said: Vec<(SocketAddr, String)>,
}

impl Heard {
    fn all_said(&self) -> String {
        let said: Vec<_> = self.said.iter().map(|(_, text)| &text[..]).collect();
        said.join("|")
    }
}

impl Test {
    fn say(&mut self, datagram: &str) {
        let _ = (self.receiver).feed(self.now, self.from, datagram.as_bytes());
    }

    /// Simulates this time; all records are confirmed as they come.
    fn hear(&mut self, ms: u64, heard: &mut Heard) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let mut tokens = Vec::new();
            while let Some(output) = self.receiver.next_output() {
                let (stream, text) = match output {
                    Output::Record(record) if record.is_text() => continue,
                    Output::Record(record) => {
                        tokens.push(record.token());
                        let text = String::from_utf8_lossy(record.text());
                        let late = if record.is_late() { " late" } else { "" };
                        let text = format!("{}:{text}{late}", record.seq().unwrap());
                        (record.stream(), text)
                    }
                    Output::Event { stream, event, .. } => (
                        stream,
                        match event {
                            Event::Began { again, .. } => format!("began {again}"),
                            other => format!("{other:?}"),
                        },
                    ),
                };
                let new = heard.ids.len();
                let n = *heard.ids.entry(stream).or_insert(new);
                heard.streams.resize_with(heard.ids.len(), Vec::new);
                heard.streams[n].push(text);
            }
            for token in tokens {
                self.receiver.confirm(token, self.now);
            }
            self.receiver.tick(self.now);
            while let Some((to, bytes)) = self.receiver.next_response() {
                heard
                    .said
                    .push((to, String::from_utf8(bytes.into()).unwrap()));
            }
            match self.receiver.deadline() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
    }
}

#[test]
fn one_datagram_of_another_session_cuts_nobody_off() {
    for strange in [
        format!("6,0,1,-{F};x"),
        "6,0,1,-;x".into(),
        format!("6,100,1,-{F},ncemg=1;x"),
    ] {
        let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
        let say = |test: &mut Test, seq: u64| {
            test.say(&format!("6,{seq},{},-{A};of a {seq}", 5_000_000 + seq));
        };
        (0..3).for_each(|seq| say(&mut test, seq));
        test.hear(200, &mut heard);
        test.say(&strange);
        test.hear(20, &mut heard);
        for seq in [3, 4, 6] {
            say(&mut test, seq);
            test.hear(1, &mut heard);
        }
        test.hear(200, &mut heard);
        assert!(
            heard.all_said().contains("nca4 5 ~aaaaaaaaaaaaaaaa"),
            "{strange}: {heard:?}"
        );
        say(&mut test, 5);
        test.hear(300, &mut heard);
        let a: Vec<_> = (0..7).map(|seq| format!("{seq}:of a {seq}")).collect();
        assert_eq!(
            heard.streams[0],
            [vec!["began false".into()], a].concat(),
            "{strange}"
        );
        assert!(
            heard.all_said().contains("nca6 ~aaaaaaaaaaaaaaaa"),
            "{strange}: {heard:?}"
        );
        assert_eq!(heard.streams.len(), 2);
        assert!(heard.streams[1].iter().any(|text| text.ends_with(":x")));
        // Emergency records get their answer at once.
        let before = heard.said.len();
        test.say(&format!("6,6,5000006,-{A},ncemg=1;of a 6"));
        test.hear(1, &mut heard);
        let (_, answer) = &heard.said[before];
        assert!(answer.starts_with("nca6 ") && answer.ends_with(" ~aaaaaaaaaaaaaaaa"));
    }
}

#[test]
fn a_stream_without_a_session_goes_on_after_a_forged_start() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    for seq in 100..103 {
        test.say(&format!("6,{seq},{},-;mine", 90_000_000 + seq));
    }
    test.hear(10, &mut heard);
    test.say("6,0,1,-;x");
    test.hear(10, &mut heard);
    for seq in 103..106 {
        test.say(&format!("6,{seq},{},-;mine", 90_020_000 + seq));
    }
    test.hear(10, &mut heard);
    let mine = &heard.streams[0];
    let records = mine.iter().filter(|text| text.ends_with(":mine"));
    assert_eq!(records.count(), 6, "{heard:?}");
    assert!(!mine.iter().any(|text| text.ends_with("late")), "{heard:?}");
    assert_eq!(
        heard.streams[1]
            .iter()
            .filter(|text| text.ends_with(":x"))
            .count(),
        1
    );
}

#[test]
fn two_senders_share_an_address_and_a_port() {
    // Upstream's target and ours send one printk log: the same numbers, timestamps and texts.
    for ours_first in [false, true] {
        let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
        for seq in 0..200 {
            let usec = 1_000_000 + seq * 100_000;
            let plain = format!("6,{seq},{usec},-;line {seq}");
            let ours = format!("6,{seq},{usec},-{A};line {seq}");
            match ours_first {
                true => [ours, plain],
                false => [plain, ours],
            }
            .iter()
            .for_each(|datagram| test.say(datagram));
            test.hear(100, &mut heard);
        }
        let mut times = HashMap::<_, u32>::new();
        for stream in &heard.streams {
            assert!(
                !stream.iter().any(|text| text.ends_with("late")),
                "{stream:?}"
            );
            assert!(!stream.iter().any(|text| text == "Ended"), "{stream:?}");
            let lines = stream.iter().filter_map(|text| text.split_once(":line "));
            lines.for_each(|(_, line)| *times.entry(line.to_string()).or_default() += 1);
        }
        assert_eq!(times.len(), 200);
        assert!(
            times.values().all(|&times| times == 2),
            "{ours_first} {times:?}"
        );
        // Only the one that knows sessions gets acks.
        let acks = heard
            .said
            .iter()
            .filter(|(_, text)| !text.starts_with("nca "));
        assert!(acks.clone().count() > 10);
        let of_ours = |text: &str| text.ends_with("~aaaaaaaaaaaaaaaa");
        let others: Vec<_> = acks.filter(|(_, text)| !of_ours(text)).collect();
        assert!(others.len() <= 1, "{others:?}");
    }
}

#[test]
fn two_loads_share_an_address_and_a_port() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    for seq in 0..100 {
        for session in [A, F] {
            test.say(&format!(
                "6,{seq},{},-{session};line {seq}",
                1_000_000 + seq
            ));
        }
        test.hear(300, &mut heard);
    }
    let all: Vec<_> = (0..100).map(|seq| format!("{seq}:line {seq}")).collect();
    for (n, again) in [(0, false), (1, true)] {
        let began = vec![format!("began {again}")];
        assert_eq!(heard.streams[n], [began, all.clone()].concat());
    }
    for session in ["~aaaaaaaaaaaaaaaa", "~ffffffffffffffff"] {
        assert!(heard.all_said().contains(&format!("nca99 {session}")));
    }
}

#[test]
fn a_boot_that_is_back_at_once_is_a_boot() {
    // The stream begins late, or is there from the start; it comes back after 2 s or 5.
    for (firsts, wait) in [
        (vec![(2000, 100_000_000), (2001, 103_500_000)], 2000),
        ((0..2002).map(|seq| (seq, seq * 50_000)).collect(), 2000),
        ((0..100).map(|seq| (seq, seq * 1_000_000)).collect(), 5000),
    ] {
        for history in [false, true] {
            let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
            if history {
                test = Test::new(Config::default());
            }
            let mut last = firsts[0].1;
            for &(seq, usec) in &firsts {
                test.hear((usec - last) / 1000, &mut heard);
                last = usec;
                test.say(&format!("6,{seq},{usec},-;before"));
            }
            test.hear(wait, &mut heard);
            for seq in 0..30 {
                test.say(&format!("6,{seq},{},-;after", 1000 + seq * 33_000));
                test.hear(30, &mut heard);
            }
            test.hear(20_000, &mut heard);
            let all = heard.streams.concat();
            let after = all.iter().filter(|text| text.ends_with(":after"));
            assert_eq!(after.count(), 30, "{history} {wait}: {:?}", heard.streams);
            assert!(!all.iter().any(|text| text.ends_with("late")));
            assert_eq!(heard.streams.len(), 2, "{:?}", heard.streams);
        }
    }
}

#[test]
fn a_stream_that_moves_goes_on() {
    let places: [SocketAddr; 2] = [
        ([127, 0, 0, 1], 17001).into(),
        ([127, 0, 0, 9], 17002).into(),
    ];
    let (mut test, mut heard) = (Test::new(Config::default()), Heard::default());
    for seq in 0..8 {
        test.from = places[seq / 4];
        test.say(&format!("6,{seq},{},-{A};line", 1_000_000 + seq));
        test.hear(200, &mut heard);
    }
    let all: Vec<_> = (0..8).map(|seq| format!("{seq}:line")).collect();
    assert_eq!(heard.streams, [[vec!["began false".into()], all].concat()]);
    // Only a few records that have come are asked for, as a challenge: the new place has to show
    // that it hears. The old one gets the acks until then.
    assert_eq!(test.receiver.stats().requested, 0);
    let to_new = |said: &[(SocketAddr, String)]| -> Vec<String> {
        let new = said.iter().filter(|(to, _)| *to == places[1]);
        new.map(|(_, text)| text.clone()).collect()
    };
    let acked = |text: &str| text.starts_with("nca") && !text.starts_with("nca ");
    assert!(
        !to_new(&heard.said).iter().any(|text| acked(text)),
        "{:?}",
        heard.said
    );
    let old = heard.said.iter().filter(|(to, _)| *to == places[0]);
    assert!(
        old.clone().any(|(_, text)| text.starts_with("nca7 ")),
        "{:?}",
        heard.said
    );
    // The new place answers requests, as the module does.
    for _ in 0..20 {
        let from = heard.said.len();
        test.say(&format!("6,7,1000007,-{A},ncemg=1;line"));
        test.hear(300, &mut heard);
        for text in to_new(&heard.said[from..]) {
            let words = text.split(' ').skip(1);
            for seq in words.filter_map(|word| word.parse::<u64>().ok()) {
                test.say(&format!("6,{seq},{},-{A};line", 1_000_000 + seq));
            }
        }
    }
    test.say(&format!("6,8,1000008,-{A};line"));
    let from = heard.said.len();
    test.hear(300, &mut heard);
    assert!(to_new(&heard.said[from..])
        .iter()
        .any(|text| text.starts_with("nca8 ")));
}

#[test]
fn a_boot_that_has_told_its_session_takes_the_place_of_the_one_before() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    for seq in 100..150 {
        test.say(&format!("6,{seq},{},-{A};old", 90_000_000 + seq * 1000));
        test.hear(300, &mut heard);
    }
    // The sender names no session until it has had a response.
    for seq in 0..50 {
        let session = if seq < 3 { "" } else { F };
        test.say(&format!(
            "6,{seq},{},-{session};new",
            1_000_000 + seq * 1000
        ));
        test.hear(300, &mut heard);
    }
    assert_eq!(heard.streams.len(), 2, "{:?}", heard.streams);
    assert_eq!(
        heard.streams[0].last().unwrap(),
        "Ended",
        "{:?}",
        heard.streams
    );
    assert_eq!(heard.streams[1].len(), 51, "{:?}", heard.streams);
    // A late record of the old boot is handed out as late, and not lost.
    test.say(&format!("6,50,1200000,-{F};new"));
    test.say(&format!("6,150,90150000,-{A};old"));
    test.hear(300, &mut heard);
    assert!(heard.streams[0].iter().any(|text| text.starts_with("150:")));
    assert_eq!(heard.streams[1].last().unwrap(), "50:new");
}

/// Returns datagrams that an attacker may send in the name of a sender whose session is not known
/// to it.
fn strange() -> Vec<String> {
    let mut all: Vec<String> = [
        "6,0,1,-,ncs=ffffffffffffffff;x",
        "6,4,5000004,-,ncs=fffffffffffffff0,ncemg=1;x",
        "6,9,1,-,ncs=0000000000000000,nclost=0-8;x",
        "6,9,1,-,ncs=fffffffffffffff1,ncskip=1-18446744073709551614;x",
        "6,3,5000003,-,ncs=fffffffffffffff2,ncfrag=0/100;x",
        "6,18446744073709551615,1,-,ncs=fffffffffffffff3;x",
        "6,0,1,-;x",
        "6,3,5000003,-;x",
        "6,3,18446744073709551615,-;x",
        "6,4000000000,1,-,emg=1;x",
        "6,5,5000005,-,ncfrag=0@0/2;x",
        "6,0,1,-,nclost=0-9;x",
        "no record",
        "",
    ]
    .map(String::from)
    .into();
    all.extend((0..40).map(|n| format!("6,{n},{n},-,ncs=ee000000000000{n:02x};x")));
    all
}

#[test]
fn whatever_is_sent_in_its_name_a_session_goes_on() {
    for (port, first, usec) in [
        (6665, 0, 5_000_000),
        (40_001, 70_000, 0),
        (1, 1 << 40, 1 << 50),
    ] {
        let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
        test.from.set_port(port);
        let strange = strange();
        for n in 0..58u64 {
            let (seq, usec) = (first + n, usec + n * 1000);
            if n % 7 != 3 {
                test.say(&format!("6,{seq},{usec},-{A};of a {seq}"));
            }
            test.say(&strange[n as usize % strange.len()]);
            test.hear(20, &mut heard);
            if n % 7 == 4 {
                // Lost records come when they are asked for.
                let (seq, usec) = (seq - 1, usec - 1000);
                test.say(&format!("6,{seq},{usec},-{A};of a {seq}"));
            }
        }
        test.hear(2000, &mut heard);
        let own = heard.streams.iter().flatten();
        let own: Vec<_> = own.filter(|text| text.contains("of a ")).collect();
        let all = (first..first + 58).map(|seq| format!("{seq}:of a {seq}"));
        assert_eq!(own, all.collect::<Vec<_>>().iter().collect::<Vec<_>>());
        let ack = format!("nca{} ~aaaaaaaaaaaaaaaa", first + 57);
        assert!(heard.all_said().contains(&ack), "{port}: {ack}");
        // The receiver keeps few of the streams that have proven nothing.
        assert!(test.receiver.senders().count() <= 8);
    }
}

#[test]
fn streams_of_one_source_are_bounded() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    for n in 0..2000u64 {
        test.say(&format!(
            "6,{n},{},-,ncs={:016x};x",
            1000 + n,
            n.wrapping_mul(0x1234_5678_9abc_def1)
        ));
        test.say(&format!("6,{n},{},-{A};of a {n}", 1000 + n));
        test.hear(10, &mut heard);
    }
    assert!(test.receiver.senders().count() <= 8);
    let own = heard.streams.iter().flatten();
    let own = own.filter(|text| text.contains("of a "));
    assert_eq!(
        own.count(),
        2000,
        "{:?} {:?}",
        test.receiver.stats(),
        heard.streams
    );
    let strange = heard
        .streams
        .iter()
        .flatten()
        .filter(|text| text.ends_with(":x"));
    assert_eq!(
        strange.count(),
        2000,
        "{:?} {:?}",
        test.receiver.stats(),
        heard.streams
    );
    assert!(test.receiver.bytes() < 1 << 20, "{}", test.receiver.bytes());
}

#[test]
fn fragments_of_two_streams_are_not_mixed() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    for seq in 0..20 {
        for (offset, half) in [(0, "one"), (3, "two")] {
            for (session, of) in [(A, "a"), (F, "f"), ("", "n")] {
                let usec = 1_000_000 + seq * 1000;
                test.say(&format!(
                    "6,{seq},{usec},-{session},ncfrag={offset}/6;{half}"
                ));
                test.say(&format!("a line of {of}\n"));
            }
        }
        test.hear(100, &mut heard);
    }
    let records = |stream: &&Vec<String>| stream.len() > 1;
    let streams: Vec<_> = heard.streams.iter().filter(records).collect();
    assert_eq!(streams.len(), 3, "{:?}", heard.streams);
    for stream in streams {
        let whole = stream.iter().filter(|text| text.ends_with(":onetwo"));
        assert_eq!(whole.count(), 20, "{stream:?}");
    }
}

#[test]
fn boots_within_seconds_of_each_other_are_each_written() {
    // Both boots have the same texts at nearly the same times, as on real machines.
    for wait in [0, 300, 3000, 12_000] {
        let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
        for boot in 0..5u64 {
            for seq in 0..40u64 {
                let usec = 100_000 + seq * 20_000 + 7 * boot;
                test.say(&format!("6,{seq},{usec},-;line {seq}"));
                test.hear(20, &mut heard);
            }
            test.hear(wait, &mut heard);
        }
        let lines = heard.streams.iter().flatten();
        let lines = lines.filter(|text| text.contains(":line "));
        assert_eq!(lines.count(), 200, "{wait}: {:?}", heard.streams);
        assert_eq!(heard.streams.len(), 5);
    }
}

#[test]
fn a_replay_from_elsewhere_moves_nothing() {
    let (mut test, mut heard) = (Test::new(no_history()), Heard::default());
    let home = test.from;
    let old: Vec<_> = (0..50)
        .map(|seq| format!("6,{seq},{},-{A};line {seq}", 1_000_000 + seq))
        .collect();
    for datagram in &old {
        test.from = home;
        test.say(datagram);
        test.hear(50, &mut heard);
        for (n, replay) in old.iter().take(3).enumerate() {
            test.from = ([10, 9, 9, n as u8], 7000 + n as u16).into();
            test.say(replay);
        }
    }
    test.hear(500, &mut heard);
    let lines = heard.streams.iter().flatten();
    assert_eq!(lines.filter(|text| text.contains(":line ")).count(), 50);
    assert!(
        heard.said.iter().all(|(to, _)| *to == home),
        "{:?}",
        heard.said
    );
    assert!(heard.all_said().contains("nca49 ~aaaaaaaaaaaaaaaa"));
}

#[test]
fn a_sender_that_names_its_session_no_more_loses_nothing() {
    let (mut test, mut heard) = (Test::new(Config::default()), Heard::default());
    for seq in 0..90 {
        let session = if seq / 30 == 1 { "" } else { A };
        test.say(&format!(
            "6,{seq},{},-{session};line {seq}",
            1_000_000 + seq * 1000
        ));
        test.hear(500, &mut heard);
    }
    // The sender does not answer: records that wait for others are handed out after a silence.
    test.hear(20_000, &mut heard);
    let lines = heard.streams.iter().flatten();
    let lines: std::collections::BTreeSet<_> = lines.filter(|t| t.contains(":line ")).collect();
    assert_eq!(lines.len(), 90);
}

/// Sessions that are made up in a sender's name push out one another, not the real one.
#[test]
fn made_up_sessions_do_not_push_out_the_real_one() {
    let mut test = Test::new(no_history());
    let mut heard = Heard::default();
    for n in 0..20u64 {
        test.say(&format!("6,{n},{}{A};real", 1000 * n));
        test.hear(10, &mut heard);
        for m in (0..20).filter(|_| n > 2) {
            test.say(&format!("6,0,1,-,ncs={:016x};made up", 1 + 100 * n + m));
        }
        test.hear(100, &mut heard);
    }
    let real = heard
        .streams
        .iter()
        .flatten()
        .filter(|text| text.ends_with(":real"));
    assert_eq!(real.count(), 20);
    let first = &heard.streams[0];
    assert!(first.contains(&"19:real".to_string()), "{first:?}");
}

/// Loads the module: sends a hundred records, the last few slowly, and all that is asked for. It
/// names its session once it has had a response.
fn load(test: &mut Test, heard: &mut Heard, session: u64) {
    let mut keys = String::new();
    let (first, end) = (100 * session, 100 * session + 100);
    for seq in first..end - 15 {
        test.say(&format!("6,{seq},{},-;x", 1000 * seq));
    }
    for newest in end - 15..end {
        test.say(&format!("6,{newest},{},-{keys};x", 1000 * newest));
        let from = heard.said.len();
        test.hear(50, heard);
        for (_, text) in &heard.said[from..] {
            keys = format!(",ncs={session:016x}");
            let words = text.split(' ').skip(1);
            let ranges = words.filter_map(|word| {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let last = last.parse().unwrap_or(newest);
                Some(first.parse::<u64>().ok()?..=newest.min(last))
            });
            for seq in ranges.flatten() {
                test.say(&format!("6,{seq},{},-{keys};x", 1000 * seq));
            }
        }
    }
}

/// A module that is loaded again and again, within seconds, and sends the log anew each time.
#[test]
fn a_sender_that_starts_often_is_acked_each_time() {
    let (mut test, mut heard) = (Test::new(Config::default()), Heard::default());
    for n in 1..=12 {
        load(&mut test, &mut heard, n);
        let ack = format!("nca{} ~{n:016x}", 100 * n + 99);
        assert!(
            heard.all_said().contains(&ack),
            "{ack}: {:?}",
            test.receiver.stats()
        );
        assert!(test.receiver.senders().count() <= 9);
    }
}

/// A stream that shows nothing takes no place of one that has shown that it hears us.
#[test]
fn one_that_shows_nothing_takes_no_place() {
    let (mut test, mut heard) = (Test::new(Config::default()), Heard::default());
    for n in 1..=9 {
        load(&mut test, &mut heard, n);
    }
    for n in 10..1000 {
        test.say(&format!("6,1,1000,-,ncs={n:016x};x"));
        test.hear(1, &mut heard);
    }
    let sessions: Vec<_> = test.receiver.senders().filter_map(|s| s.session).collect();
    for n in 2..=9 {
        let session = format!("{n:016x}");
        let mut all = sessions.iter().map(|session| session.to_string());
        assert!(all.any(|one| one == session), "{n}: {sessions:?}");
    }
    assert!(sessions.len() <= 9, "{sessions:?}");
}
