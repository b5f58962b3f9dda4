// SPDX-License-Identifier: GPL-2.0

//! The cost of losses, of a first contact and of a flood of requests: figures for a look with
//! `--nocapture`, and their bounds.

use ncrx::Dialect;

use super::proto::emg_schedule::Intervals;
use super::proto::peer::Policy;
use super::sender::{Sender, Settings};
use super::{Link, Simulation, GOOD};

/// The time until all records have come, at the module's settings, and the datagrams that it takes:
/// shown with `--nocapture`, and bounded in any case. Where answers take longer than the receiver
/// waits at first, it must not go on asking for records that are on their way.
#[test]
fn how_fast_losses_are_made_up_for() {
    // Loss in percent, latency in ms, records; at most so many s, and datagrams a record.
    let cases = [
        (10, 0, 20_000, 40, 1.3),
        (50, 0, 20_000, 60, 2.5),
        (90, 0, 2000, 100, 15.0),
        (10, 150, 20_000, 40, 1.5),
        (50, 150, 20_000, 60, 3.5),
    ];
    for (percent, latency, records, seconds, most) in cases {
        let settings = Settings {
            policy: Policy::Auto,
            intervals: Intervals::DEFAULT,
            rate: 10_000,
            burst: 10_000,
            bytes: 16 << 20,
            records: 100_000,
        };
        let mut simulation = Simulation::new(1, settings, Dialect::Nca);
        simulation.log(false, 60);
        simulation.rest(2000);
        let (begin, sent) = (simulation.now, simulation.sender.sent);
        simulation.link = Link {
            loss: f64::from(percent) / 100.0,
            latency,
            ..GOOD
        };
        for _ in 0..records {
            simulation.log(false, 60);
            simulation.step();
        }
        let done = |simulation: &Simulation| {
            let state = simulation.receiver.senders().next().unwrap();
            state.settled >= Some(records)
        };
        while !done(&simulation) {
            // A new record each second shows the last one, so that no emergency is needed.
            if simulation.now % 1000 == 0 {
                simulation.log(false, 60);
            }
            simulation.step();
            assert!(
                simulation.now < begin + seconds * 1000,
                "{percent} %, {latency} ms"
            );
        }
        let sent = simulation.sender.sent - sent;
        let responses = simulation.receiver.stats().responses;
        let each = sent as f64 / records as f64;
        eprintln!(
            "{percent} % lost, {latency} ms each way: {records} records in {} ms ({} ms after the last), {:.2} datagrams and {:.3} responses each",
            simulation.now - begin,
            simulation.now - begin - records,
            each,
            responses as f64 / records as f64,
        );
        assert!(
            each < most,
            "{percent} %, {latency} ms: {each} datagrams a record"
        );
    }
}

const MODULE: Settings = Settings {
    policy: Policy::Auto,
    intervals: Intervals::DEFAULT,
    rate: 10_000,
    burst: 10_000,
    bytes: 16 << 20,
    records: 100_000,
};

/// A receiver that meets a sender gets its whole log, be it on its way or lost before the receiver
/// ran, and hardly any record twice.
#[test]
fn at_first_contact_each_record_is_sent_once() {
    for (loss, latency) in [(0.0, 0), (0.0, 20), (1.0, 0), (1.0, 20), (1.0, 150)] {
        let mut simulation = Simulation::new(1, MODULE, Dialect::Nca);
        simulation.link = Link {
            loss,
            latency,
            ..GOOD
        };
        for _ in 0..410 {
            simulation.log(false, 60);
            simulation.step();
        }
        simulation.link.loss = 0.0;
        let to_nobody = if loss > 0.0 {
            simulation.sender.sent
        } else {
            0
        };
        for _ in 0..5 {
            simulation.rest(1000);
            simulation.log(false, 60);
        }
        simulation.rest(5000);
        let state = simulation.receiver.senders().next().unwrap();
        assert_eq!((state.missing, state.settled), (0, Some(414)), "{state:?}");
        let sent = simulation.sender.sent - to_nobody;
        eprintln!("first contact, {latency} ms each way: {sent} datagrams for 415 records");
        assert!(sent <= 415 * 11 / 10, "{sent} datagrams, {latency} ms");
    }
}

/// Requests for the whole log, however many and however fast, cost as much as one; a request that
/// comes when the answer should have arrived counts as new.
#[test]
fn a_flood_of_requests_for_all_costs_one_log() {
    let mut sender = Sender::new(MODULE, 1);
    for seq in 0..400 {
        sender.log(seq, format!("6,{seq},1,-;x\n").into_bytes(), false);
    }
    let mut ask = |now| {
        let before = sender.sent;
        for _ in 0..100 {
            sender.hear(now, b"nca 0-18446744073709551615");
        }
        sender.serve(now);
        sender.sent - before
    };
    assert_eq!(ask(1000), 400);
    assert_eq!((1000..1050).map(&mut ask).sum::<u64>(), 0);
    assert_eq!(ask(1050), 400);
}
