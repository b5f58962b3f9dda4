// SPDX-License-Identifier: GPL-2.0

//! The module's sender against this receiver, over a bad link, in simulated time.
//!
//! `NCRX_SEED` replays one run, and `NCRX_STEPS` says how many milliseconds are simulated
//! in all, without those in which nothing happens.
//!
//! | file | content |
//! |---|---|
//! | `main.rs` | the simulation, and its random runs |
//! | `hostile.rs` | an attacker that sends in the name of others, and ports that change |
//! | `figures.rs` | the cost of losses, of a first contact and of a flood of requests |

// Other programs use more of one of these files and less of another.
#![allow(dead_code, unexpected_cfgs)]

#[path = "../common/checker.rs"]
mod checker;
#[path = "../../src/proto/mod.rs"]
mod proto;
#[path = "../common/sender.rs"]
mod sender;

mod figures;
mod hostile;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checker::Checker;
use hostile::names_one;
use ncrx::{Config, Dialect, Output, Receiver, Session, Token};
use proto::emg_schedule::Intervals;
use proto::peer::Policy;
use proto::response::Response;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sender::{Sender, Settings};

/// The properties of the link, both ways; times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Link {
    loss: f64,
    copies: f64,
    /// The time that every datagram takes, and the longest that some take in addition.
    latency: u64,
    delay: u64,
}

const GOOD: Link = Link {
    loss: 0.0,
    copies: 0.0,
    latency: 0,
    delay: 0,
};

/// Records that outputs have yet to confirm: the time at which they do, the token, the records.
type Unconfirmed = (u64, Token, Vec<(usize, u64)>);

struct Simulation {
    rng: ChaCha8Rng,
    start: Instant,
    now: u64,
    settings: Settings,
    sender: Sender,
    sessions: bool,
    booted: u64,
    boot: usize,
    config: Config,
    receiver: Receiver,
    checker: Checker,
    saved: Option<(usize, ncrx::Sender)>,
    link: Link,
    /// The datagrams on their way, by their time of arrival; to the receiver and to the sender.
    there: BTreeMap<(u64, u64), Vec<u8>>,
    back: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
    from: SocketAddr,
    /// Whether an attacker sends datagrams in the name of this sender and of others.
    hostile: bool,
    /// The datagrams with a session that were seen on the way.
    seen: Vec<Vec<u8>>,
    /// For each host that does not exist, the bytes that came in its name, and those of the
    /// responses to it.
    victims: BTreeMap<SocketAddr, (usize, usize)>,
    strange: u64,
    /// Whether outputs confirm each record by itself, and the records that they have yet to.
    confirms: bool,
    open: Vec<Unconfirmed>,
    /// The time until which no output can write.
    blocked: u64,
    steps: u64,
    trace: bool,
}

impl Simulation {
    fn new(seed: u64, settings: Settings, dialect: Dialect) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = Config {
            dialect,
            seed: Some(seed),
            ..Config::default()
        };
        let session = rng.random();
        let sessions = settings.policy != Policy::Off && dialect == Dialect::Nca;
        let mut checker = Checker::new(sessions);
        let boot = checker.boot(sessions.then_some(session), 0);
        Self {
            rng,
            start: Instant::now(),
            now: 1,
            settings,
            sender: Sender::new(settings, session),
            sessions,
            booted: 0,
            boot,
            receiver: Receiver::new(config.clone()),
            config,
            checker,
            saved: None,
            link: GOOD,
            there: BTreeMap::new(),
            back: BTreeMap::new(),
            count: 0,
            from: ([10, 0, 0, 2], 6665).into(),
            hostile: false,
            seen: Vec::new(),
            victims: BTreeMap::new(),
            strange: 0,
            confirms: false,
            open: Vec::new(),
            blocked: 0,
            steps: 0,
            trace: std::env::var_os("NCRX_TRACE").is_some(),
        }
    }

    /// Starts the sender anew: another session, an empty log.
    fn reboot(&mut self) {
        let session = self.rng.random();
        self.sender = Sender::new(self.settings, session);
        self.boot = self.checker.boot(self.sessions.then_some(session), 0);
        self.booted = self.now;
        self.say(&format!("reboot {}", self.boot));
    }

    fn say(&self, text: &str) {
        if self.trace {
            eprintln!("{:7} {}", self.now, &text[..text.len().min(150)]);
        }
    }

    /// Kills the receiver, and starts one that goes on with the saved state, or without.
    fn kill(&mut self, resume: bool) {
        let at = self.start + Duration::from_millis(self.now);
        // The state is lost if it is not used.
        self.saved = self.saved.take().filter(|_| resume);
        let saved = self.saved.clone();
        let open = self.open.drain(..);
        self.checker.give_back(open.flat_map(|(_, _, which)| which));
        self.say(&format!("kill {saved:?}"));
        self.checker.kill(saved.as_ref());
        self.receiver = Receiver::new(self.config.clone());
        if let Some((boot, from)) = saved {
            self.checker.resume(boot, &from);
            if let Some(from) = from.resume() {
                self.receiver.resume(at, self.from, from);
            }
            self.seen.clear();
        }
    }

    /// Takes the outputs of the receiver.
    fn take(&mut self) {
        while let Some(output) = self.receiver.next_output() {
            if self.trace {
                eprintln!(
                    "{:7} out {}",
                    self.now,
                    &format!("{output:?} ")[..200.min(format!("{output:?} ").len())]
                );
            }
            let token = match &output {
                Output::Record(record) if self.confirms => Some(record.token()),
                _ => None,
            };
            self.checker.output(&output);
            if let Some(token) = token {
                // Most outputs confirm soon; one is slow, and so confirms out of order.
                let delay = [0, 0, 0, 3, 40, 700][self.rng.random_range(0..6)];
                let which = self.checker.take_unwritten();
                let due = (self.now + delay).max(self.blocked);
                self.open.push((due, token, which));
            }
        }
    }

    /// Confirms the records that outputs have by now, in any order.
    fn confirm(&mut self, until: u64, at: Instant) {
        let mut n = 0;
        while n < self.open.len() {
            if self.open[n].0 > until {
                n += 1;
                continue;
            }
            let (_, token, which) = self.open.swap_remove(n);
            self.checker.give_back(which);
            self.checker.written();
            self.receiver.confirm(token, at);
        }
    }

    /// Stops the receiver, and starts another one that goes on.
    fn stop(&mut self) {
        self.take();
        self.receiver
            .stop(self.start + Duration::from_millis(self.now));
        self.take();
        if self.confirms {
            let at = self.start + Duration::from_millis(self.now);
            self.confirm(u64::MAX, at);
        } else {
            self.receiver.written();
            self.checker.written();
        }
        self.save();
        self.kill(true);
    }

    /// Returns the stream of the sender that was heard last.
    fn state(&self) -> Option<ncrx::Sender> {
        let strange = |session: Session| session.0 < 4;
        let all = self.receiver.senders();
        let own = all.filter(|sender| !sender.session.is_some_and(strange));
        own.max_by_key(|sender| sender.heard)
    }

    /// Saves the receiver's state of the sender.
    fn save(&mut self) {
        let sender = self.state();
        self.saved = sender.and_then(|sender| {
            sender.resume()?;
            Some((self.checker.current_boot()?, sender))
        });
    }

    fn log(&mut self, hidden: bool, len: usize) {
        let (boot, seq) = (self.boot, self.sender.end());
        // Only the clock tells boots apart until a session is named.
        let usec = (self.now - self.booted) * 1000 + 1_000_000_000 * (1000 - boot as u64);
        let text = "x".repeat(len);
        let record = format!("6,{seq},{usec},-,caller=T1;boot {boot} {seq} {text}\n");
        self.checker.sent(Some(record.as_bytes()));
        self.sender.log(self.now, record.into_bytes(), hidden);
    }

    /// Returns the times at which the copies of a datagram arrive, if any.
    fn arrivals(&mut self) -> Vec<(u64, u64)> {
        let n = 1 + usize::from(self.rng.random_bool(self.link.copies));
        let mut all = Vec::new();
        for _ in 0..n {
            if !self.rng.random_bool(self.link.loss) {
                self.count += 1;
                let delay = self.link.latency + self.rng.random_range(0..=self.link.delay);
                all.push((self.now + delay, self.count));
            }
        }
        all
    }

    /// Simulates a millisecond, which is enough for a round trip.
    fn step(&mut self) {
        self.steps += 1;
        let at = self.start + Duration::from_millis(self.now);
        self.sender.tick(self.now);
        for datagram in std::mem::take(&mut self.sender.out) {
            for key in self.arrivals() {
                self.there.insert(key, datagram.clone());
            }
        }
        while let Some(entry) = self
            .there
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let datagram = entry.remove();
            if self.hostile && names_one(&datagram) {
                self.seen.push(datagram.clone());
            }
            let result = self.receiver.feed(at, self.from, &datagram);
            if self.trace {
                self.say(&format!("{result:?} {}", datagram.escape_ascii()));
            }
        }
        if self.hostile && self.rng.random_bool(0.05) {
            self.attack(at);
        }
        self.take();
        if self.confirms {
            self.confirm(self.now, at);
        } else if self.link.loss == 0.0 || self.rng.random_bool(0.8) {
            // Writing takes a moment.
            self.receiver.written();
            self.checker.written();
        }
        self.receiver.tick(at);
        while let Some((to, response)) = self.receiver.next_response() {
            let response = response.to_vec();
            if let Some((came, said)) = self.victims.get_mut(&to) {
                *said += response.len();
                assert!(*said <= 3 * *came, "{said} bytes for {came} to {to}");
                continue;
            }
            let named = Response::parse(&response).unwrap().session.flatten();
            if to != self.from || named.is_some_and(|named| named != self.sender.session) {
                // The sender has moved or started anew, or the datagram is for another host.
                continue;
            }
            let ack = Response::parse(&response).unwrap().ack;
            if let Some(ack) = ack.filter(|&ack| ack > 0) {
                self.checker.ack(ack, |seq| self.sender.has(seq));
            }
            self.say(&response.escape_ascii().to_string());
            for key in self.arrivals() {
                self.back.insert(key, response.clone());
            }
        }
        while let Some(entry) = self
            .back
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let response = entry.remove();
            self.sender.hear(self.now, &response);
        }
        self.sender.serve(self.now);
        self.now += 1;
    }

    /// Simulates this time, in which nothing is logged.
    fn rest(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
            if self.sender.out.is_empty() {
                let at = |at: Instant| (at - self.start).as_micros().div_ceil(1000) as u64;
                let key = |link: &BTreeMap<(u64, u64), _>| link.keys().next().map(|key| key.0);
                let next = [
                    key(&self.there),
                    key(&self.back),
                    self.receiver.deadline().map(at),
                    Some(self.sender.deadline()),
                    self.open.iter().map(|(due, ..)| *due).min(),
                ];
                let next = next.into_iter().flatten().min().unwrap();
                self.now = self.now.max(next.min(end));
            }
        }
    }

    /// Simulates some seconds of one kind of network and load.
    fn phase(&mut self) {
        let rng = &mut self.rng;
        if self.confirms && rng.random_bool(0.2) {
            // A disk is full, or a pipe has no reader.
            self.blocked = self.now + rng.random_range(100..20_000);
        }
        self.link = Link {
            loss: [0.0, 0.05, 0.3, 0.5, 0.9, 1.0][rng.random_range(0..6)],
            copies: [0.0, 0.05, 0.3][rng.random_range(0..3)],
            latency: [0, 0, 20, 200][rng.random_range(0..4)],
            delay: [0, 1, 5, 60, 300][rng.random_range(0..5)],
        };
        let hidden = [0.0, 0.1, 0.9][rng.random_range(0..3)];
        let long = [0.0, 0.0, 0.1][rng.random_range(0..3)];
        let rate = [0.0, 0.01, 0.1, 1.0][rng.random_range(0..4)];
        let burst = rng.random_bool(0.2);
        let ms = rng.random_range(100..6000);
        let end = self.now + ms;
        self.say(&format!("phase {:?} rate {rate} burst {burst}", self.link));
        if burst {
            for _ in 0..self.rng.random_range(1..2000) {
                self.log(false, 40);
            }
        }
        while self.now < end {
            if self.rng.random_bool(rate) {
                let hidden = self.rng.random_bool(hidden);
                let len = match self.rng.random_bool(long) {
                    true => self.rng.random_range(900..3000),
                    false => self.rng.random_range(0..100),
                };
                self.log(hidden, len);
            }
            match rate > 0.0 {
                true => self.step(),
                false => self.rest(ms),
            }
        }
    }

    /// Simulates a whole run.
    fn run(&mut self, phases: usize, crashes: bool) {
        for _ in 0..phases {
            self.phase();
            // The sender is off for longer than copies without its session may come. Without
            // sessions a record from before the first that came cannot be told from one of another
            // boot: `model.rs` tests the rest.
            if crashes && self.sessions && self.rng.random_bool(0.15) {
                let off = self.rng.random_range(11_000..30_000);
                self.off(off);
                self.reboot();
            }
            let told = self.receiver.senders().any(|sender| {
                let session = sender.session.map(|session| session.0);
                session == Some(self.sender.session.0)
            });
            if self.hostile && told && self.rng.random_bool(0.2) {
                self.change_port();
            }
            if self.rng.random_bool(0.5) {
                self.save();
            }
            if crashes && self.rng.random_bool(0.15) {
                let resume = self.rng.random_bool(0.7);
                self.kill(resume);
            }
            if crashes && self.rng.random_bool(0.15) {
                self.stop();
            }
        }
        // A receiver that has never acknowledged cannot know which other records the sender has.
        self.link = GOOD;
        let session = self.sender.session.0;
        let other = |state: ncrx::Sender| state.session.is_some_and(|known| known.0 != session);
        // The same holds for a receiver that goes on with the saved state of an earlier boot.
        if self.sender.acked().is_none() || self.state().is_none_or(other) {
            self.log(false, 10);
            // One more record tells it the session, and another is needed if the first were taken
            // for copies of the boot before, as they may be for 10 s.
            for ms in [11_000, 25_000] {
                self.rest(ms);
                self.log(false, 10);
            }
        }
        // Without sessions nothing is asked for ahead: emergency transmission shows one record
        // after the other. With them a sender that answers with 100 at a time sends no more than
        // that in half a second.
        let rest = match self.sessions {
            true => 60_000 + 10 * self.sender.end(),
            false => 3_600_000,
        };
        self.rest(rest);
        let open: Vec<_> = (0..self.sender.end())
            .filter(|&seq| self.sender.has(seq) && self.checker.is_open(seq, self.sessions))
            .collect();
        let state = self.state().expect("a sender");
        assert!(open.is_empty(), "never handed out: {open:?}, {state:?}");
        assert_eq!(state.missing, 0, "{state:?}");
        let last = self.sender.sent_end() - 1;
        if last > 0 {
            assert!(
                self.sender.acked() >= Some(last),
                "{:?}",
                self.sender.acked()
            );
        }
        assert!(!self.sender.is_emergency());
    }

    /// Simulates this time with the sender off.
    fn off(&mut self, ms: u64) {
        let end = self.now + ms;
        self.sender = Sender::new(self.settings, 0);
        self.link.loss = 1.0;
        while self.now < end {
            self.sender.out.clear();
            self.step();
        }
    }
}

fn seeded(seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let policies = [Policy::Auto, Policy::Auto, Policy::Require, Policy::Off];
    let policy = policies[rng.random_range(0..policies.len())];
    let dialect = match policy != Policy::Require && rng.random_bool(0.2) {
        true => Dialect::Ncrx,
        false => Dialect::Nca,
    };
    let settings = Settings {
        policy,
        intervals: Intervals {
            ack_timeout: [1000, 10_000][rng.random_range(0..2)],
            ..Intervals::DEFAULT
        },
        rate: [1000, 10_000][rng.random_range(0..2)],
        burst: [100, 10_000][rng.random_range(0..2)],
        bytes: [0, 20_000, 4_000_000][rng.random_range(0..3)],
        records: [300, 3000, 100_000][rng.random_range(0..3)],
    };
    let crashes = rng.random_bool(0.5);
    let phases = rng.random_range(1..20);
    let mut simulation = Simulation::new(seed, settings, dialect);
    // Without sessions a forged record cannot be told from the sender's own.
    simulation.hostile = simulation.sessions && simulation.rng.random_bool(0.5);
    simulation.confirms = simulation.rng.random_bool(0.5);
    if simulation.trace {
        eprintln!("{settings:?} {dialect:?}");
    }
    simulation.run(phases, crashes);
    simulation.steps
}

/// Every record that the sender still has comes out once and in order, and then nothing is sent.
#[test]
fn every_record_arrives() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let only = number("NCRX_SEED");
    let steps = number("NCRX_STEPS").unwrap_or(10_000_000);
    let (mut seed, mut all) = (only.unwrap_or(1), 0);
    while all < steps {
        let run = std::panic::catch_unwind(|| seeded(seed));
        match run {
            Ok(steps) => all += steps,
            Err(why) => {
                eprintln!("NCRX_SEED={seed}");
                std::panic::resume_unwind(why);
            }
        }
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    eprintln!("{seed} runs, {all} steps");
}

/// A partial record from before the first that came is given up with the others of that time, if a
/// sender without sessions seems not to listen.
#[test]
fn a_part_of_the_past_is_given_up_with_it() {
    let settings = Settings {
        policy: Policy::Off,
        intervals: Intervals::DEFAULT,
        rate: 1000,
        burst: 1000,
        bytes: 4_000_000,
        records: 1000,
    };
    let mut simulation = Simulation::new(1, settings, Dialect::Ncrx);
    for len in [10, 1500, 10] {
        simulation.log(false, len);
    }
    // Only the last record comes, and then the first half of the second.
    let out = &mut simulation.sender.out;
    *out = vec![out[3].clone(), out[1].clone()];
    simulation.step();
    simulation.link.loss = 1.0;
    simulation.rest(10_000);
    assert_eq!(simulation.checker.partial, 1);
    simulation.run(0, false);
}
