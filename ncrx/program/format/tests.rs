// SPDX-License-Identifier: GPL-2.0

//! Tests of the formats: records and events in each of them, and hostile texts.

use std::time::{Duration, Instant, UNIX_EPOCH};

use ncrx::{Config, Event, GapReason, Output, Receiver, SeqRange, Session, StreamId};
use proptest::prelude::*;
use serde_json::{json, Value};

use super::visible::is_harmful;
use super::{Clock, Clocks, Format, Formatter, Style};

/// 2026-01-02T03:04:05.678901Z
const START: Duration = Duration::from_micros(1_767_323_045_678_901);
const ADDRESS: &str = "10.0.0.2:6665";

/// Hands out the record of one datagram: of a receiver of its own, so that it does not wait for any
/// other.
pub(super) fn record(now: Instant, from: &str, datagram: &[u8], mut with: impl FnMut(&Output<'_>)) {
    let mut receiver = Receiver::new(Config {
        history: false,
        ..Config::default()
    });
    receiver.feed(now, from.parse().unwrap(), datagram).unwrap();
    receiver.stop(now);
    let mut records = 0;
    while let Some(output) = receiver.next_output() {
        if let Output::Record(_) = output {
            with(&output);
            records += 1;
        }
    }
    assert_eq!(records, 1);
}

/// The source of a formatter. Its time goes on only when told.
struct Bench {
    origin: Instant,
    now: Instant,
    clocks: Clocks,
    formatter: Formatter,
    out: Vec<u8>,
}

impl Bench {
    fn new(format: Format) -> Self {
        Self::with(format, Style::default())
    }

    fn with(format: Format, style: Style) -> Self {
        let origin = Instant::now();
        let clock = Clock {
            instant: origin,
            system: UNIX_EPOCH + START,
        };
        Self {
            origin,
            now: origin,
            clocks: Clocks::new(clock),
            formatter: Formatter::new(format, style),
            out: Vec::new(),
        }
    }

    /// Formats a datagram's record that arrives so many milliseconds after the start.
    fn feed(&mut self, ms: u64, datagram: &[u8]) {
        self.now = self.origin + Duration::from_millis(ms);
        record(self.now, ADDRESS, datagram, |output| {
            let when = self.clocks.see(output);
            self.formatter.write(output, "web1", &when, &mut self.out);
        });
    }

    /// Formats an event of the stream that has this session.
    fn event(&mut self, event: Event) {
        let output = Output::Event {
            stream: stream(),
            host: ADDRESS.parse().unwrap(),
            session: Some(Session(0xc0ffee)),
            at: self.now,
            event,
        };
        let when = self.clocks.see(&output);
        self.formatter.write(&output, "web1", &when, &mut self.out);
    }

    fn take(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    /// Returns the text that is written for these datagrams.
    fn all(mut self, datagrams: &[&str]) -> String {
        for datagram in datagrams {
            self.feed(0, datagram.as_bytes());
        }
        self.take()
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.take()).unwrap()
    }
}

/// The stream of all records here.
fn stream() -> StreamId {
    let mut stream = None;
    record(Instant::now(), ADDRESS, b"6,0,0,-;x\n", |output| {
        if let Output::Record(record) = output {
            stream = Some(record.stream());
        }
    });
    stream.unwrap()
}

fn gap(first: u64, last: u64, why: GapReason) -> Event {
    Event::Gap {
        range: SeqRange { first, last },
        reason: why,
    }
}

#[test]
fn text() {
    let written = Bench::new(Format::Text).all(&[
        "6,0,1204411,-;e1000: link\\x09up \\x5cx \\xc3\\xa4\n SUBSYSTEM=pci\n",
        "4,1,99999123456,-;a\\x0a\\x0ab\\x1b[31m\\xff\\x7f\\xc2\\x9b\n",
    ]);
    let expected = concat!(
        "web1 [    1.204411] e1000: link\tup \\x5cx \u{e4}\n",
        "web1 [99999.123456] a\n",
        "web1                \n",
        "web1                b\\x1b[31m\\xff\\x7f\\xc2\\x9b\n",
    );
    assert_eq!(written, expected);
}

#[test]
fn plain_text_is_not_unescaped() {
    let written = Bench::new(Format::Text).all(&["[ 1.0] a\\x41 \x1b[1m\nb\n"]);
    let expected = "web1 (plain) [ 1.0] a\\x5cx41 \\x1b[1m\nweb1         b\n";
    assert_eq!(written, expected);
}

#[test]
fn text_in_colour() {
    let style = Style {
        colour: true,
        ..Style::default()
    };
    let written =
        Bench::with(Format::Text, style).all(&["3,0,0,-;usb 1-1: gone\n", "6,1,0,-;quiet\n"]);
    let expected = concat!(
        "web1 \x1b[32m[    0.000000] \x1b[0m\x1b[33musb 1-1:\x1b[0m\x1b[31m gone\x1b[0m\n",
        "web1 \x1b[32m[    0.000000] \x1b[0mquiet\n",
    );
    assert_eq!(written, expected);
}

#[test]
fn events_as_text() {
    let mut bench = Bench::new(Format::Text);
    for event in [
        Event::Began {
            first: Some(5),
            again: false,
        },
        gap(12, 17, GapReason::Silence),
        gap(18, 18, GapReason::Lost),
        gap(19, 20, GapReason::Hidden),
        Event::Resumed,
        Event::Ended,
        Event::Began {
            first: None,
            again: true,
        },
    ] {
        bench.event(event);
    }
    let expected = concat!(
        "web1 --- log begins with record 5 (session 0000000000c0ffee)\n",
        "web1 --- records 12-17 missing: not received before the sender fell silent\n",
        "web1 --- record 18 missing: lost at the sender\n",
        "web1 --- heard again\n",
        "web1 --- log ended (session 0000000000c0ffee)\n",
        "web1 --- log begins anew (session 0000000000c0ffee)\n",
    );
    assert_eq!(bench.take(), expected);
}

#[test]
fn json() {
    let record = "7.3.4,30,7,1204411,c,caller=T1,ncs=0000000000c0ffee,emg=1;a\\x09\\xffb\n A=\\x41\n B=1\n B=2\n";
    let style = Style {
        kmsg: true,
        ..Style::default()
    };
    let mut bench = Bench::with(Format::Json, style);
    bench.feed(0, record.as_bytes());
    let expected = json!({
        "host": "web1", "address": "10.0.0.2", "port": 6665, "session": "0000000000c0ffee",
        "seq": 7, "level": 6, "facility": 3, "priority": 30, "usec": 1_204_411,
        "time": "2026-01-02T03:04:05.678901Z", "received": "2026-01-02T03:04:05.678901Z",
        "flag": "c", "release": "7.3.4", "keys": {"caller": "T1"}, "text": "a\t\\xffb", "escaped": true,
        "dictionary": {"A": "A", "B": ["1", "2"]},
        "kmsg": "30,7,1204411,c,caller=T1;a\\x09\\xffb\n A=\\x41\n B=1\n B=2\n",
        "late": false, "emergency": true, "crash": false, "partial": false, "plain": false,
    });
    assert_eq!(bench.json(), expected);

    bench.feed(1000, b"some text\n");
    let plain = bench.json();
    assert_eq!(
        (&plain["seq"], &plain["usec"], &plain["keys"]),
        (&Value::Null, &Value::Null, &json!({}))
    );
    assert_eq!(
        (&plain["text"], &plain["plain"]),
        (&json!("some text"), &json!(true))
    );
    assert_eq!(plain["time"], "2026-01-02T03:04:06.678901Z");
}

#[test]
fn events_as_json() {
    let mut bench = Bench::new(Format::Json);
    let sender = |mut event: Value| {
        let sender = json!({
            "host": "web1", "address": "10.0.0.2", "port": 6665, "session": "0000000000c0ffee",
            "time": "2026-01-02T03:04:05.678901Z",
        });
        event
            .as_object_mut()
            .unwrap()
            .extend(sender.as_object().unwrap().clone());
        event
    };
    bench.event(gap(1, 2, GapReason::Hidden));
    assert_eq!(
        bench.json(),
        sender(json!({"event": "gap", "first": 1, "last": 2, "why": "hidden"}))
    );
    bench.event(Event::Began {
        first: Some(3),
        again: true,
    });
    assert_eq!(
        bench.json(),
        sender(json!({"event": "began", "first": 3, "again": true}))
    );
    bench.event(Event::Began {
        first: None,
        again: false,
    });
    assert_eq!(
        bench.json(),
        sender(json!({"event": "began", "again": false}))
    );
    bench.event(Event::Resumed);
    assert_eq!(bench.json(), sender(json!({"event": "resumed"})));
    bench.event(Event::Ended);
    assert_eq!(bench.json(), sender(json!({"event": "ended"})));
}

#[test]
fn times_are_never_early_nor_after_the_arrival() {
    let mut bench = Bench::new(Format::Json);
    let mut time = |ms: u64, usec: u64| {
        bench.feed(ms, format!("6,0,{usec},-;x\n").as_bytes());
        let json = bench.json();
        (
            json["time"].as_str().unwrap()[17..].to_owned(),
            json["received"].as_str().unwrap()[17..].to_owned(),
        )
    };
    let pair = |time: &str, received: &str| (time.to_owned(), received.to_owned());
    // The first one may have been under way for long: nobody knows.
    assert_eq!(time(0, 5_000_000), pair("05.678901Z", "05.678901Z"));
    assert_eq!(time(1000, 5_500_000), pair("06.178901Z", "06.678901Z"));
    // A quicker one corrects the boot by 0.3 seconds, also for those behind it.
    assert_eq!(time(2000, 7_300_000), pair("07.678901Z", "07.678901Z"));
    assert_eq!(time(3000, 7_400_000), pair("07.778901Z", "08.678901Z"));
    // No clock that runs since before 1970 is learnt from.
    assert_eq!(time(4000, u64::MAX), pair("09.678901Z", "09.678901Z"));
    assert_eq!(time(5000, 7_400_000), pair("07.778901Z", "10.678901Z"));
}

#[test]
fn times_follow_the_wall_clock() {
    let mut bench = Bench::new(Format::Json);
    bench.feed(0, b"6,0,5000000,-;x\n");
    bench.take();
    bench.clocks.set_clock(Clock {
        instant: bench.origin + Duration::from_secs(1),
        system: UNIX_EPOCH + START + Duration::from_secs(11),
    });
    bench.feed(2000, b"6,1,6000000,-;x\n");
    let json = bench.json();
    assert_eq!(json["received"], "2026-01-02T03:04:17.678901Z");
    assert_eq!(json["time"], "2026-01-02T03:04:16.678901Z");
}

#[test]
fn export() {
    let mut bench = Bench::new(Format::Export);
    let record = "7.3.4,4,7,1204411,-,caller=T1,ncs=0000000000c0ffee;a\\x0ab\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0\n my-key=v\n";
    bench.feed(0, record.as_bytes());
    let boot = "BOOT";
    let expected = [
        "__CURSOR=s=BOOT;i=7;b=BOOT;m=1260bb;t=6475ef6574f35;x=0\n",
        "__REALTIME_TIMESTAMP=1767323045678901\n__MONOTONIC_TIMESTAMP=1204411\n",
        "_BOOT_ID=BOOT\n_HOSTNAME=web1\nNETCONSOLE_ADDRESS=10.0.0.2\n",
        "NETCONSOLE_RECEIVED=1767323045678901\nNETCONSOLE_SESSION=0000000000c0ffee\nNETCONSOLE_SEQ=7\n",
        "_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\nPRIORITY=4\nSYSLOG_FACILITY=0\n",
        "_SOURCE_MONOTONIC_TIMESTAMP=1204411\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n",
        "_KERNEL_SUBSYSTEM=pci\n_KERNEL_DEVICE=+pci:0000:00:01.0\n_UDEV_SYSNAME=0000:00:01.0\n",
        "_KERNEL_MY_KEY=v\nNETCONSOLE_RELEASE=7.3.4\nNETCONSOLE_KEY_CALLER=T1\n\n",
    ]
    .concat();
    let written = bench.take();
    let start = written.find("_BOOT_ID=").unwrap() + "_BOOT_ID=".len();
    let id = &written[start..start + 32];
    assert_eq!(written.replace(id, boot), expected);

    // The boot is known by its session; without one by when it was first heard.
    bench.event(gap(8, 9, GapReason::Lost));
    let event = bench.take();
    assert!(event.contains(&format!("_BOOT_ID={id}\n")), "{event}");
    assert!(
        event.contains("PRIORITY=4\nMESSAGE=records 8-9 missing: lost at the sender\n"),
        "{event}"
    );
    assert!(event.ends_with(
        "NETCONSOLE_EVENT=gap\nNETCONSOLE_FIRST=8\nNETCONSOLE_LAST=9\nNETCONSOLE_WHY=lost\n\n"
    ));
    bench.event(gap(8, 9, GapReason::Hidden));
    assert_eq!(bench.take(), "");
    bench.feed(5, b"6,8,1204412,-;x\n");
    let other = bench.take();
    assert!(!other.contains(id), "{other}");
}

#[test]
fn export_has_only_legal_names() {
    let long = "k".repeat(100);
    let record = format!("6,0,0,-;x\n {long}=1\n a=b\\x00c\n");
    let written = Bench::new(Format::Export).all(&[&record]);
    assert!(
        written.contains(&format!("\n_KERNEL_{}=1\n", "K".repeat(56))),
        "{written}"
    );
    assert!(
        written.contains("\n_KERNEL_A\n\x03\0\0\0\0\0\0\0b\0c\n"),
        "{written}"
    );
}

#[test]
fn export_has_what_cannot_be_seen_in_binary() {
    let text = "a\u{200b}\u{e0041}";
    let written = Bench::new(Format::Export).all(&[&format!("6,0,0,-;{text}\n")]);
    let length = text.len() as u8 as char;
    let expected = format!("\nMESSAGE\n{length}\0\0\0\0\0\0\0{text}\n");
    assert!(written.contains(&expected), "{written:?}");
}

#[test]
fn syslog() {
    let mut bench = Bench::new(Format::Syslog);
    bench.feed(0, b"30,7,1204411,-,ncs=0000000000c0ffee;a\\x0ab\n K=v\n");
    bench.feed(0, b"805,8,1204412,-;\\xc3\\xa4\n");
    bench.feed(0, b"text]\n");
    bench.event(gap(9, 9, GapReason::Memory));
    bench.event(Event::Resumed);
    bench.event(gap(10, 10, GapReason::Hidden));
    let expected = concat!(
        "<30>1 2026-01-02T03:04:05.678901Z web1 kernel - - [netconsole@32473 seq=\"7\" usec=\"1204411\" session=\"0000000000c0ffee\"][dictionary@32473 K=\"v\"] a\\x0ab\n",
        "<189>1 2026-01-02T03:04:05.678901Z web1 kernel - - [netconsole@32473 seq=\"8\" usec=\"1204412\"] \u{feff}\u{e4}\n",
        "<6>1 2026-01-02T03:04:05.678901Z web1 kernel - - [netconsole@32473 plain=\"1\"] text]\n",
        "<44>1 2026-01-02T03:04:05.678901Z web1 ncrx - - [netconsole@32473 event=\"gap\" first=\"9\" last=\"9\" why=\"memory\" session=\"0000000000c0ffee\"] record 9 missing: not received, and no memory left to wait for them\n",
        "<45>1 2026-01-02T03:04:05.678901Z web1 ncrx - - [netconsole@32473 event=\"resumed\" session=\"0000000000c0ffee\"] heard again\n",
    );
    assert_eq!(bench.take(), expected);
    let output = Output::Event {
        stream: stream(),
        host: ADDRESS.parse().unwrap(),
        session: None,
        at: bench.now,
        event: Event::Ended,
    };
    let when = bench.clocks.see(&output);
    bench
        .formatter
        .write(&output, "a b\n\u{e4}", &when, &mut bench.out);
    assert!(bench.take().contains("Z a_b__ ncrx - -"));
}

#[test]
fn text_in_files_has_the_time_and_the_caller() {
    let style = Style {
        wall_clock: true,
        ..Style::default()
    };
    let mut bench = Bench::with(Format::Text, style);
    bench.feed(0, b"6,0,1204411,-,caller=T123;a\\x0ab\n");
    bench.feed(1500, b"6,1,2204411,-;c\n");
    bench.event(gap(12, 17, GapReason::Lost));
    bench.feed(2000, b"plain\n");
    let expected = concat!(
        "2026-01-02T03:04:05.678901Z web1 [    1.204411] [  T123] a\n",
        "2026-01-02T03:04:05.678901Z web1                         b\n",
        "2026-01-02T03:04:06.678901Z web1 [    2.204411] c\n",
        "2026-01-02T03:04:07.178901Z web1 --- records 12-17 missing: lost at the sender\n",
        "2026-01-02T03:04:07.678901Z web1 (plain) plain\n",
    );
    assert_eq!(bench.take(), expected);
}

#[test]
fn json_tells_all_texts_apart() {
    let text = |record: &[u8]| {
        let mut bench = Bench::new(Format::Json);
        bench.feed(0, record);
        let written = bench.take();
        assert!(!written.trim_end().chars().any(is_harmful), "{written}");
        let line: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(line.get("kmsg"), None);
        let text = line["text"].as_str().unwrap().to_owned();
        (text, line.get("escaped").is_some())
    };
    let plain = |record: &str| text(format!("6,0,0,-;{record}\n").as_bytes());
    assert_eq!(plain("a\\x0ab"), ("a\nb".into(), false));
    assert_eq!(plain("a\\x5cx0ab"), ("a\\x0ab".into(), false));
    assert_eq!(plain("a\\x1b\\xc2\\x9b"), ("a\u{1b}\u{9b}".into(), false));
    assert_eq!(plain("a\\xe2\\x80\\xae"), ("a\u{202e}".into(), false));
    let unseen = "\u{feff}\u{200b}\u{e0041}\u{fff9}";
    let escaped = "a\\xef\\xbb\\xbf\\xe2\\x80\\x8b\\xf3\\xa0\\x81\\x81\\xef\\xbf\\xb9";
    assert_eq!(plain(escaped), (format!("a{unseen}"), false));
    assert_eq!(plain("a\\xe9"), ("a\\xe9".into(), true));
    assert_eq!(plain("a\\xe9\\x5cxe9"), ("a\\xe9\\x5cxe9".into(), true));
}

#[test]
fn syslog_has_all_as_structured_data() {
    let mut bench = Bench::new(Format::Syslog);
    let record = "7.3.4,6,7,1,-,caller=T1,a\"b=x]\"\\;text\n SUBSYSTEM=pci\n host=web 42\\x0a\n";
    bench.feed(0, record.as_bytes());
    let written = bench.take();
    let expected = concat!(
        "[netconsole@32473 seq=\"7\" usec=\"1\" release=\"7.3.4\" caller=\"T1\"]",
        "[keys@32473 a_b=\"x\\]\\\"\\x5c\"]",
        "[dictionary@32473 SUBSYSTEM=\"pci\" host=\"web 42\\x0a\"] text\n",
    );
    assert!(written.ends_with(expected), "{written}");
}

/// Returns the times at which records of one stream were logged, as they are told, in milliseconds
/// before they came.
fn delays(records: &[(u64, u64)]) -> Vec<i64> {
    let began = Instant::now();
    let clock = Clock {
        instant: began,
        system: UNIX_EPOCH + START,
    };
    let mut formatter = Formatter::new(Format::Json, Style::default());
    let mut clocks = Clocks::new(clock);
    let mut receiver = Receiver::new(Config {
        history: false,
        ..Config::default()
    });
    let mut delays = Vec::new();
    for (seq, (ms, usec)) in records.iter().enumerate() {
        let datagram = format!("6,{seq},{usec},-;x\n");
        let now = began + Duration::from_millis(*ms);
        let from = ADDRESS.parse().unwrap();
        receiver.feed(now, from, datagram.as_bytes()).unwrap();
        while let Some(output) = receiver.next_output() {
            let mut out = Vec::new();
            formatter.write(&output, "h", &clocks.see(&output), &mut out);
            let line: Value = serde_json::from_slice(&out).unwrap();
            if line.get("seq").is_some() {
                let at = |key: &str| {
                    let time = humantime::parse_rfc3339(line[key].as_str().unwrap()).unwrap();
                    time.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
                };
                delays.push(at("received") - at("time"));
            }
        }
    }
    delays
}

/// After a suspend the second record takes longer than the first, and tells the boot of both.
#[test]
fn nothing_is_logged_after_it_came() {
    let began = Instant::now();
    let mut clocks = Clocks::new(Clock {
        instant: began,
        system: UNIX_EPOCH + START,
    });
    let mut receiver = Receiver::new(Config {
        history: false,
        ..Config::default()
    });
    let mut kept = Vec::new();
    for (seq, ms, usec) in [
        (0, 1000, 2_000_000),
        (1, 9000, 2_010_000),
        (2, 9200, 2_020_000),
    ] {
        let now = began + Duration::from_millis(ms);
        let datagram = format!("6,{seq},{usec},-;x\n");
        receiver
            .feed(now, ADDRESS.parse().unwrap(), datagram.as_bytes())
            .unwrap();
        while let Some(output) = receiver.next_output() {
            clocks.learn(&output);
            if let Output::Record(record) = output {
                kept.push(record.keep());
            }
        }
    }
    let record = kept[1].record();
    clocks.believe(record.stream());
    let when = clocks.date(&Output::Record(record));
    assert!(when.logged <= when.received, "{when:?}");
}

#[test]
fn times_follow_a_clock_that_stood_still() {
    const HOUR: u64 = 3_600_000;
    // Suspended for eight hours; then records as they are logged.
    let after = |ms: u64| (1000 + 8 * HOUR + ms, 2_000_000 + ms * 1000);
    let told = delays(&[
        (1000, 2_000_000),
        after(10),
        after(20),
        after(500),
        after(501),
    ]);
    assert_eq!(told[0], 0);
    assert!(told[3..].iter().all(|delay| *delay < 100), "{told:?}");
    // A clock that loses a minute a day: no more than a second is ever wrong.
    let slow = |n: u64| (n * 600_000, 1_000_000 + n * 600_000 * 1000 / 1441 * 1440);
    let slow: Vec<_> = (0..500)
        .flat_map(|n| {
            let (ms, usec) = slow(n);
            [(ms, usec), (ms + 1000, usec + 1_000_000)]
        })
        .collect();
    let told = delays(&slow);
    assert!(told.iter().all(|delay| *delay < 2500), "{told:?}");
}

#[test]
fn what_was_kept_back_is_dated_right() {
    // The network was down for a minute, and a record was logged each second: all come at once.
    let kept = (1..=60).map(|n| (61_000 + n / 10, 1_000_000 * (n + 1)));
    let all: Vec<_> = [(1000, 1_000_000)].into_iter().chain(kept).collect();
    let told = delays(&all);
    for (n, delay) in told.iter().enumerate().skip(1) {
        let right = 60_000 - 1000 * n as i64;
        assert!(
            (delay - right).abs() < 100,
            "{n}: {delay} instead of {right}"
        );
    }
}

#[test]
fn the_journal_has_no_clock_that_goes_back() {
    let mut bench = Bench::new(Format::Export);
    let (mut last, mut sources) = (0, Vec::new());
    for (seq, usec) in [1_000_000, 1_000_200, 1_000_150, 1_000_300]
        .iter()
        .enumerate()
    {
        bench.feed(0, format!("6,{seq},{usec},-;x\n").as_bytes());
        let written = bench.take();
        let field = |name: &str| -> u64 {
            let value = written.split(&format!("\n{name}=")).nth(1).unwrap();
            value.split('\n').next().unwrap().parse().unwrap()
        };
        let monotonic = field("__MONOTONIC_TIMESTAMP");
        assert!(monotonic >= last);
        last = monotonic;
        sources.push(field("_SOURCE_MONOTONIC_TIMESTAMP"));
    }
    assert_eq!(sources, [1_000_000, 1_000_200, 1_000_150, 1_000_300]);
}

/// The bytes of `kmsg`, whichever way they are written.
fn kmsg(line: &Value) -> Vec<u8> {
    match &line["kmsg"] {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(bytes) => bytes
            .iter()
            .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
            .collect(),
        other => panic!("{other}"),
    }
}

proptest! {
    /// The JSON of any record is one line that can be read, and its `kmsg` is the record as sent.
    #[test]
    fn json_is_exact(
        numbers: (u32, u32, u32),
        body in prop::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'\n'), Just(b' '), Just(b'='), any::<u8>()],
            0..200,
        ),
    ) {
        let (prio, seq, usec) = numbers;
        let mut sent = format!("{prio},{seq},{usec},-,caller=T1;").into_bytes();
        sent.extend_from_slice(&body);
        let mut bench = Bench::with(Format::Json, Style { kmsg: true, ..Style::default() });
        bench.feed(0, &sent);
        let written = bench.take();
        prop_assert!(!written.chars().any(|c| is_harmful(c) && c != '\n'));
        prop_assert_eq!(written.matches('\n').count(), 1);
        let line: Value = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(kmsg(&line), sent);
    }

    /// Of any record or text nothing that controls a terminal is shown, and each line is behind the
    /// host.
    #[test]
    fn text_is_harmless(body in prop::collection::vec(any::<u8>(), 0..100), plain in "\\PC*[\n\t\r\x1b]*\\PC*") {
        let mut bench = Bench::new(Format::Text);
        let mut sent = b"6,0,0,-;".to_vec();
        sent.extend_from_slice(&body);
        bench.feed(0, &sent);
        if !plain.is_empty() {
            bench.feed(0, plain.as_bytes());
        }
        for line in bench.take().lines() {
            prop_assert!(line.starts_with("web1 "));
            prop_assert!(!line.chars().any(is_harmful));
        }
    }
}
