// SPDX-License-Identifier: GPL-2.0

//! Floods of responses.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nctest::acker::Kind;
use nctest_guest::Burst;

use super::{console_lines, load_acked, respond, sleep_ms, target, unload_one};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("flood_of_requests", flood_of_requests),
        trial("flood_with_the_default_budget", default_budget),
        trial("flood_of_garbage", flood_of_garbage),
    ]
}

/// A budget of retransmissions: datagrams a second, and at once.
#[derive(Clone, Copy)]
struct Budget {
    rate: u64,
    burst: u64,
}

/// The default.
const DEFAULT: Budget = Budget {
    rate: 10_000,
    burst: 2_000,
};

/// Sends `times` requests, 4,000 a second, which an emulated machine can hardly take. Checks that
/// the module sends no more datagrams again than `budget` allows, that the machine goes on logging,
/// with one line of the module a second at most, and that one response is answered soon afterwards.
/// Returns the number of datagrams that were sent.
fn flood(
    scene: &mut Scene,
    what: &str,
    requests: &[Vec<u8>],
    times: usize,
    budget: Budget,
) -> Result<u64> {
    // The budget is full.
    sleep_ms(1000);
    let (before, said) = (scene.logger.lock().arrivals.len(), scene.vm.serial.len());
    let began = Instant::now();
    for (n, request) in requests.iter().cycle().take(times).enumerate() {
        ensure!(request.len() <= 1000, "{} bytes", request.len());
        respond(scene, PORT, request)?;
        if n % 40 == 39 {
            sleep_ms(10);
        }
    }
    let marker = format!("still logging beside {what}");
    scene.log(&marker)?;
    scene.logger.wait_for(&marker, SOON)?;
    // The loop ends when nothing comes any more: a late answer uses the budget of its own time.
    let mut sent = 0;
    loop {
        let now = (scene.logger.lock().arrivals.len() - before) as u64;
        if now == sent || began.elapsed() > SOON {
            break;
        }
        sent = now;
        sleep_ms(1000);
    }
    let took = began.elapsed();
    // The budget is that of the time in which any came; idle time would add to it.
    let span = {
        let collector = scene.logger.lock();
        let came = &collector.arrivals[before..];
        let ends = came.first().zip(came.last());
        ends.map_or(Duration::ZERO, |(first, last)| last.at - first.at)
    };
    let allowed = budget.burst + budget.rate * span.as_millis() as u64 / 1000;
    println!(
        "flood: {what}: {sent} datagrams in {span:.1?} for a budget of {allowed}; seed {}",
        scene.seed
    );
    // One more for the new record, and some for the clock's resolution.
    ensure!(
        sent <= allowed + allowed / 20 + 10,
        "{what}: {sent} of {allowed}"
    );
    let lines = console_lines(scene, said, "netconsole_ext");
    ensure!(
        lines as u64 <= took.as_secs() + 2,
        "{what}: {lines} lines in {took:?}"
    );
    // The module has neither used up its budget for good, nor is it busy for good.
    let again = scene.logger.lock().records[&150].copies;
    respond(scene, PORT, b"nca 150")?;
    let began = Instant::now();
    scene.logger.wait(SOON, "record 150 again", |collector| {
        (collector.records[&150].copies > again).then_some(())
    })?;
    let took = began.elapsed();
    ensure!(
        took.as_secs() < 3,
        "{what}: answered {took:?} after the flood"
    );
    Ok(sent)
}

/// `nca`, and as many of `tokens` as a response may have.
fn request(tokens: impl Iterator<Item = String>) -> Vec<u8> {
    let mut text = "nca".to_string();
    for token in tokens {
        if text.len() + 1 + token.len() > 1000 {
            break;
        }
        text += " ";
        text += &token;
    }
    text.into_bytes()
}

/// The numbers of a burst of `count` records, all of them long.
fn log_long(scene: &mut Scene, count: u64) -> Result<RangeInclusive<u64>> {
    let first = scene.newest()? + 1;
    let burst = Burst::new(count, scene.seed, "wanted as well").with_long(1);
    scene.vm.agent.log(&burst, SOON)?;
    let last = scene.newest()?;
    ensure!(last - first + 1 == count, "more than {first} to {last}");
    scene.logger.wait(SOON, "the long ones", |collector| {
        collector.records.contains_key(&last).then_some(())
    })?;
    let collector = scene.logger.lock();
    let mut records = collector.records.range(first..=last);
    let right = records.all(|(_, record)| record.datagrams == 3);
    ensure!(right, "records that are not of three fragments");
    Ok(first..=last)
}

/// Thousands of responses that ask for much: no more is sent than the budget
/// allows, and the machine goes on logging.
fn flood_of_requests(scene: &mut Scene) -> Result<()> {
    const BUDGET: Budget = Budget {
        rate: 1000,
        burst: 200,
    };
    let Budget { rate, burst } = BUDGET;
    scene.load_with(
        &target(PORT),
        &format!("retransmit_rate={rate} retransmit_burst={burst}"),
    )?;
    let short = Burst::new(300, scene.seed, "wanted");
    scene.vm.agent.log(&short, SOON)?;
    scene.all_has_arrived(0)?;
    let long = log_long(scene, 60)?;
    let last = *long.end();

    let some = [request((100..300).map(|seq| seq.to_string()))];
    let sent = flood(scene, "200 records", &some, 10_000, BUDGET)?;
    ensure!(sent >= burst, "only {sent} were sent again");
    // The budget counts datagrams: a record may be three.
    let long = [request(long.map(|seq| seq.to_string()))];
    let sent = flood(scene, "long records", &long, 6_000, BUDGET)?;
    ensure!(sent >= burst - 2, "only {sent} were sent again");
    let all = [
        b"nca 0-18446744073709551615".to_vec(),
        format!("nca 0-{last} 0-{last} 1-18446744073709551615").into_bytes(),
    ];
    let sent = flood(scene, "all there is", &all, 4_000, BUDGET)?;
    ensure!(sent >= burst - 2, "only {sent} were sent again");
    // These requests take a while to read, but there is nothing to send for them.
    let none = [
        request((0..500).map(|n| format!("{}", 1_000_000 + n))),
        request((0..500).map(|_| "9-3".to_string())),
        request((0..500).map(|n| format!("{}-18446744073709551615", 1_000_000 + n))),
    ];
    let sent = flood(scene, "what is not there", &none, 2_000, BUDGET)?;
    ensure!(sent < 10, "{sent} datagrams for requests of nothing");

    // A number that is named many times is sent once, in every notation.
    sleep_ms(1000);
    let copies = |scene: &Scene, seq: u64| scene.logger.lock().records[&seq].copies;
    for (text, seq) in [
        (request((0..500).map(|_| "5".to_string())), 5),
        (b"nca 150 150 150-150 149-151".to_vec(), 150),
        (request((0..100).map(|n| format!("{n}-150"))), 150),
    ] {
        let again = copies(scene, seq);
        respond(scene, PORT, &text)?;
        scene.logger.wait(SOON, "it again", |collector| {
            (collector.records[&seq].copies > again).then_some(())
        })?;
        sleep_ms(500);
        let times = copies(scene, seq) - again;
        ensure!(times == 1, "{} was sent {times} times", text.escape_ascii());
    }
    let errors = scene.logger.lock().errors.clone();
    ensure!(errors.is_empty(), "{errors:?}");
    let (counters, came) = (unload_one(scene)?, scene.logger.lock().arrivals.len());
    ensure!(
        counters.get("retransmitted")? <= came as u64,
        "{counters:?}"
    );
    scene.vm.settle()
}

/// The same with the default budget.
fn default_budget(scene: &mut Scene) -> Result<()> {
    scene.load(&target(PORT))?;
    let short = Burst::new(3_000, scene.seed, "wanted");
    scene.vm.agent.log(&short, SOON)?;
    scene.all_has_arrived(0)?;
    log_long(scene, 200)?;
    let all = [b"nca 0-18446744073709551615".to_vec()];
    let sent = flood(scene, "all there is", &all, 4_000, DEFAULT)?;
    ensure!(sent >= DEFAULT.burst, "only {sent} were sent again");
    let counters = unload_one(scene)?;
    ensure!(counters.get("retransmitted")? <= sent + 10, "{counters:?}");
    scene.vm.settle()
}

/// A flood of garbage leads to a line a second at most, and to nothing else.
fn flood_of_garbage(scene: &mut Scene) -> Result<()> {
    let peer = load_acked(scene, Kind::Session, "")?;
    let (said, began) = (scene.vm.serial.len(), Instant::now());
    let junk: Vec<u8> = (0..900u32).map(|n| (n * 7 % 251) as u8).collect();
    for n in 0..4000 {
        respond(scene, PORT, &junk)?;
        if n % 20 == 19 {
            sleep_ms(10);
        }
    }
    scene.log("after the garbage")?;
    let seq = peer.logger.wait_for("after the garbage", SOON)?;
    peer.wait_for_all(seq, SOON)?;
    // The last of them may still be in the socket.
    scene.vm.serial.wait_for("after the garbage", said, SOON)?;
    let seconds = began.elapsed().as_secs();
    let lines = scene.vm.serial.lines(said);
    let bad = lines.iter().filter(|line| line.contains("bad response"));
    let bad = bad.count() as u64;
    ensure!(
        (1..=seconds + 2).contains(&bad),
        "{bad} lines in {seconds} s"
    );
    sleep_ms(1000);
    let counters = unload_one(scene)?;
    ensure!(counters.get("bad_responses")? > 0, "{counters:?}");
    scene.vm.settle()
}
