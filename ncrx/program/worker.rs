// SPDX-License-Identifier: GPL-2.0

//! A worker: a socket, a receiver and an end of each output, in one thread that shares next to
//! nothing with others and waits only for its socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use ncrx::Receiver;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use crate::allow::Allow;
use crate::expect::Expect;
use crate::metrics::{Counters, Metrics};
use crate::names::Names;
use crate::outputs::Outputs;
use crate::socket::{Socket, BATCH};
use crate::state::{State, StateFile};

/// The most batches that are taken from the socket until the receiver has its turn.
const BATCHES: usize = 16;
/// The most turns in which datagrams are left in the socket until the receiver may judge, for one,
/// that a sender is silent. A socket of the default size has 20,000 datagrams at most: by then all
/// that was there at first is taken.
const BEHIND: u32 = 32;
/// The time since the last look into the socket up to which nothing in it is too late: much less
/// than the receiver waits for anything.
const LATELY: Duration = Duration::from_millis(5);
/// The time to the next look at a queue that has no room.
const ROOM: Duration = Duration::from_millis(100);
/// The shortest time from one publishing of metrics to the next.
const PUBLISH: Duration = Duration::from_secs(1);
/// The shortest time from one warning to the same one.
const WARN: Duration = Duration::from_secs(10);
/// The time ahead of which responses are sent at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// The longest wait for outputs at the end.
const LAST: Duration = Duration::from_secs(3);
/// The most senders that are remembered as looked up in the state.
const CLAIMED: usize = 1 << 18;

/// A worker.
pub struct Worker {
    /// Its number.
    pub nth: usize,
    /// The source of datagrams.
    pub socket: Socket,
    /// The senders that may write.
    pub allow: Arc<Allow>,
    /// The hosts that should be heard.
    pub expect: Option<Arc<Expect>>,
    /// The receiver, which makes records of datagrams.
    pub receiver: Receiver,
    /// The outputs of records.
    pub outputs: Outputs,
    /// The names of senders.
    pub names: Arc<Names>,
    /// The state, and the worker's file of it.
    pub state: Option<(Arc<State>, StateFile)>,
    /// The senders that have been looked up there.
    pub claimed: Claimed,
    /// The metrics.
    pub metrics: Option<Arc<Metrics>>,
}

/// The senders that have been looked up in the state.
#[derive(Default)]
pub struct Claimed {
    last: Option<SocketAddr>,
    all: HashSet<SocketAddr>,
}

impl Claimed {
    /// Returns whether a sender has not been looked up yet; now it has.
    fn is_new(&mut self, sender: SocketAddr) -> bool {
        if self.last.replace(sender) == Some(sender) {
            return false;
        }
        if self.all.len() >= CLAIMED {
            // A sender that is looked up again is not found.
            self.all.clear();
        }
        self.all.insert(sender)
    }
}

/// Events since they were last published, saved or logged.
struct Ledger {
    counters: Counters,
    /// Something that metrics or the state should tell has changed since they did.
    unpublished: bool,
    unsaved: bool,
    publish_at: Instant,
    warn_at: Instant,
    /// The turns since all datagrams were taken.
    behind: u32,
    /// The senders that made room for others, and datagrams that found none, of which the log has
    /// told.
    turned_away: u64,
}

impl Worker {
    /// Works until `stop` is written to.
    pub fn run(mut self, stop: &EventFd) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut ledger = Ledger {
            counters: Counters::default(),
            unpublished: true,
            unsaved: false,
            publish_at: now,
            warn_at: now,
            behind: 0,
            turned_away: 0,
        };
        let mut more = false;
        while !self.wait(stop, more, &ledger)? {
            more = self.turn(&mut ledger);
            self.tell(&mut ledger);
        }
        self.finish(ledger)
    }

    /// Waits until there is something to do; returns whether it is to stop.
    fn wait(&self, stop: &EventFd, more: bool, ledger: &Ledger) -> nix::Result<bool> {
        let publishes = self.metrics.is_some() || self.outputs.has_index();
        let publish = (publishes && ledger.unpublished).then_some(ledger.publish_at);
        let save = self
            .state
            .as_ref()
            .filter(|_| ledger.unsaved)
            .map(|(_, file)| file.due());
        // Room in a queue may be made by what is another worker's.
        let room = self.outputs.is_full().then(|| Instant::now() + ROOM);
        let due = [
            self.receiver.deadline(),
            self.outputs.due(),
            publish,
            save,
            room,
        ];
        let timeout = match due.into_iter().flatten().min() {
            _ if more => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(due) => {
                // Rounded up: else this would spin for the last part of a millisecond.
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let fds = [self.socket.as_fd(), stop.as_fd(), self.outputs.wake()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[1].any() == Some(true)),
            Err(e) => Err(e),
        }
    }

    /// Takes datagrams, writes records and responds; returns whether there is still something to
    /// write.
    fn turn(&mut self, ledger: &mut Ledger) -> bool {
        let taken = self.receive(ledger).unwrap_or_else(|e| {
            if ledger.may_warn(Instant::now()) {
                tracing::warn!("cannot receive: {e}");
            }
            // The kernel may have no memory; poll would not wait.
            std::thread::sleep(Duration::from_millis(10));
            None
        });
        let now = Instant::now();
        self.outputs.deliver(now, &mut self.receiver);
        // Whoever seems to be silent may be heard in what is not taken yet.
        ledger.behind = match taken {
            Some(at) if now < at + LATELY => 0,
            _ => ledger.behind.wrapping_add(1),
        };
        if ledger.behind % BEHIND == 0 {
            self.receiver.tick(now);
        }
        let more = self.outputs.deliver(now, &mut self.receiver);
        // With an acknowledgement what is settled has changed.
        if self.respond(&mut ledger.counters) {
            (ledger.unpublished, ledger.unsaved) = (true, true);
        }
        more
    }

    /// Takes datagrams; returns the time up to which all that have come are taken, unless there may
    /// be more.
    fn receive(&mut self, ledger: &mut Ledger) -> io::Result<Option<Instant>> {
        let Self {
            socket,
            allow,
            expect,
            receiver,
            state,
            claimed,
            ..
        } = self;
        let port = socket.local().port();
        let networks = allow.networks();
        let expect = expect.as_ref().map(|expect| (expect, expect.hosts()));
        let state = state.as_ref().map(|(state, _)| state);
        let state = state.filter(|state| state.has_unclaimed());
        let (mut last, mut all) = (None, None);
        for _ in 0..BATCHES {
            let before = Instant::now();
            // The time behind the call that takes them: before it some may not have been sent.
            let mut taken = None;
            let count = socket.receive(|from, datagram| {
                let now = *taken.get_or_insert_with(Instant::now);
                if !networks.admit(from.ip()) {
                    ledger.counters.refused += 1;
                    return allow.refuse(from.ip());
                }
                if let Some((expect, hosts)) = expect.as_ref().filter(|_| last != Some(from)) {
                    expect.heard(hosts, from, now);
                }
                last = Some(from);
                if let Some(state) = state.filter(|_| claimed.is_new(from)) {
                    for (host, known) in state.claim(port, from, session(datagram)) {
                        receiver.resume(now, host, known);
                    }
                }
                if let Err(e) = receiver.feed(now, from, datagram) {
                    tracing::debug!("{from}: {e}");
                }
            })?;
            ledger.unpublished |= count > 0;
            ledger.unsaved |= count > 0;
            if count < BATCH {
                all = Some(before);
                break;
            }
        }
        self.warn_of_drops(ledger);
        Ok(all)
    }

    /// Counts the datagrams that were not taken, and warns of them.
    fn warn_of_drops(&self, ledger: &mut Ledger) {
        let now = Instant::now();
        let dropped = self.socket.dropped();
        let new = dropped - ledger.counters.kernel_drops;
        if new > 0 && ledger.may_warn(now) {
            tracing::warn!(
                "the kernel had to drop {dropped} datagrams at {} up to now: ncrx was too slow or \
                 --receive-buffer too small. Enlarge it (with net.core.rmem_max), or add --workers",
                self.socket.local()
            );
        }
        ledger.counters.kernel_drops = dropped;
        let stats = self.receiver.stats();
        let (evicted, dropped) = (stats.evicted, stats.too_many_senders);
        if evicted + dropped > ledger.turned_away && ledger.may_warn(now) {
            ledger.turned_away = evicted + dropped;
            tracing::warn!(
                "there are more senders than --max-hosts: up to now {evicted} that had proven \
                 nothing were forgotten for others, and {dropped} datagrams of new ones were \
                 dropped. Let it be more, or keep strangers out (--allow)"
            );
        }
    }

    /// Sends the receiver's responses, if there are any. The receiver repeats what does not get
    /// through.
    fn respond(&mut self, counters: &mut Counters) -> bool {
        let mut any = false;
        while let Some((to, response)) = self.receiver.next_response() {
            if let Err(e) = self.socket.send(to, response) {
                counters.send_errors += 1;
                tracing::debug!("cannot answer {to}: {e}");
            }
            any = true;
        }
        any
    }

    /// Publishes metrics and saves the state, if it is time for that.
    fn tell(&mut self, ledger: &mut Ledger) {
        let now = Instant::now();
        if ledger.unpublished && ledger.publish_at <= now {
            ledger.publish_at = now + PUBLISH;
            if let Some(metrics) = &self.metrics {
                let (receiver, basic) = (&self.receiver, self.outputs.basic());
                metrics.publish(self.nth, receiver, basic, ledger.counters);
            }
            ledger.unpublished = self.outputs.tell_hosts(now, &self.receiver);
        }
        if ledger.unsaved
            && self
                .state
                .as_ref()
                .is_some_and(|(_, file)| file.due() <= now)
        {
            if let Some((_, file)) = &mut self.state {
                let names = &self.names;
                ledger.unsaved = !file.save(self.receiver.senders(), |at| names.holds(at));
            }
        }
    }

    /// Writes and acknowledges all that there is, as far as outputs take it in time.
    fn finish(mut self, mut ledger: Ledger) -> anyhow::Result<()> {
        // Datagrams that are still in the socket, but not all that may ever come.
        if let Err(e) = self.receive(&mut ledger) {
            tracing::warn!("cannot receive: {e}");
        }
        let end = Instant::now() + LAST;
        self.outputs.hurry();
        self.drain(end)?;
        self.receiver.stop(Instant::now());
        self.drain(end)?;
        self.outputs.end(Instant::now());
        let all = self.drain(end)?;
        let now = Instant::now();
        self.outputs.tell_last_hosts(now, &self.receiver);
        if let Some((_, file)) = &mut self.state {
            let names = &self.names;
            file.save_last(self.receiver.senders(), |at| names.holds(at), LAST);
        }
        // Whose acknowledgement would be due soon gets it now.
        self.receiver.tick(now + FAREWELL);
        self.respond(&mut ledger.counters);
        anyhow::ensure!(
            all,
            "not all could be written; what is missing was not acknowledged"
        );
        Ok(())
    }

    /// Gives the outputs all that there is, and waits until they have it; returns whether they
    /// have, in time.
    fn drain(&mut self, end: Instant) -> nix::Result<bool> {
        loop {
            let now = Instant::now();
            while self.outputs.deliver(now, &mut self.receiver) {}
            if self.outputs.is_done() {
                return Ok(!self.outputs.has_refused());
            }
            let left = end.saturating_duration_since(now);
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.outputs.wake(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Returns the session that a datagram names in its header, if that is one.
fn session(datagram: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b",ncs=";
    let header = &datagram[..memchr::memchr(b';', datagram)?];
    let at = memchr::memmem::find(header, KEY)? + KEY.len();
    let digits = std::str::from_utf8(header.get(at..at + 16)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

impl Ledger {
    fn may_warn(&mut self, now: Instant) -> bool {
        let may = self.warn_at <= now;
        if may {
            self.warn_at = now + WARN;
        }
        may
    }
}
