// SPDX-License-Identifier: GPL-2.0

//! Streams of one sender live side by side: none is cut off by what has proven nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use ncrx::{Config, Event, Output, StreamId};

use super::{no_history, Test};

const A: &str = ",ncs=aaaaaaaaaaaaaaaa";
const F: &str = ",ncs=ffffffffffffffff";

/// What came out of one stream, and what was said.
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

    /// Lets time go by; everything is confirmed as it comes.
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
    // Upstream's and ours, of one printk log: the same numbers, timestamps and texts.
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
        // Only the one that knows sessions is acknowledged to.
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
    // The stream has begun late, or was there from the start; it was back after 2 s or 5.
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
    // Nothing is asked for that came before, but for some of what the new place has to show that it
    // hears. Until then the old one has the acks.
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
    // It answers what it is asked for, as the module does.
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
    // It does not know yet that sessions are known.
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
    // What is late of the old one even so is late, and not lost.
    test.say(&format!("6,50,1200000,-{F};new"));
    test.say(&format!("6,150,90150000,-{A};old"));
    test.hear(300, &mut heard);
    assert!(heard.streams[0].iter().any(|text| text.starts_with("150:")));
    assert_eq!(heard.streams[1].last().unwrap(), "50:new");
}
