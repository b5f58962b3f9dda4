// SPDX-License-Identifier: GPL-2.0

//! A worker: a socket, a receiver and an end of each output, in one thread that shares next to
//! nothing with others.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ncrx::Receiver;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use crate::allow::Allow;
use crate::expect::Expect;
use crate::metrics::{Counters, Metrics};
use crate::outputs::Outputs;
use crate::socket::{Socket, BATCH};
use crate::state::StateFile;

/// How many batches are taken from the socket until the receiver has its turn.
const BATCHES: usize = 16;
/// How often metrics are published, at most.
const PUBLISH: Duration = Duration::from_secs(1);
/// How often the same warning is logged, at most.
const WARN: Duration = Duration::from_secs(10);
/// At the end what is due within this time is said.
const FAREWELL: Duration = Duration::from_secs(1);

/// A worker and all that it has.
pub struct Worker {
    /// Which one it is.
    pub nth: usize,
    /// Where datagrams come from.
    pub socket: Socket,
    /// Who may send them.
    pub allow: Allow,
    /// Who should send them.
    pub expect: Option<Arc<Expect>>,
    /// What makes records of them.
    pub receiver: Receiver,
    /// Where these go.
    pub outputs: Outputs,
    /// Where it is kept what has been received.
    pub state: Option<StateFile>,
    /// Where numbers go.
    pub metrics: Option<Arc<Metrics>>,
}

/// What has happened since it was last told.
struct Ledger {
    counters: Counters,
    /// Something that metrics or the state should tell has changed since they did.
    unpublished: bool,
    unsaved: bool,
    publish_at: Instant,
    warn_at: Instant,
}

impl Worker {
    /// Works until `stop` is written to, or until nobody reads the output any more.
    pub fn run(mut self, stop: &EventFd) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut ledger = Ledger {
            counters: Counters::default(),
            unpublished: true,
            unsaved: false,
            publish_at: now,
            warn_at: now,
        };
        let mut more = false;
        while !self.wait(stop, more, &ledger)? {
            more = self.turn(&mut ledger)?;
            self.tell(&mut ledger);
        }
        self.finish(ledger)
    }

    /// Waits until there is something to do; is it to stop?
    fn wait(&self, stop: &EventFd, more: bool, ledger: &Ledger) -> nix::Result<bool> {
        let publish = self
            .metrics
            .as_ref()
            .filter(|_| ledger.unpublished)
            .map(|_| ledger.publish_at);
        let save = self
            .state
            .as_ref()
            .filter(|_| ledger.unsaved)
            .map(StateFile::due);
        let due = [
            self.receiver.deadline(),
            self.outputs.retry_at(),
            publish,
            save,
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
        let mut fds = [(); 2].map(|()| PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        fds[1] = PollFd::new(stop.as_fd(), PollFlags::POLLIN);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[1].any() == Some(true)),
            Err(e) => Err(e),
        }
    }

    /// Takes what is there, writes it and answers. Is there still something to write?
    fn turn(&mut self, ledger: &mut Ledger) -> anyhow::Result<bool> {
        let now = Instant::now();
        if let Err(e) = self.receive(now, ledger) {
            if ledger.may_warn(now) {
                tracing::warn!("cannot receive: {e}");
            }
            // The kernel may have no memory; poll would not wait.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.outputs.deliver(now, &mut self.receiver)?;
        self.receiver.tick(Instant::now());
        let more = self.outputs.deliver(now, &mut self.receiver)?;
        // With an acknowledgement what is settled has changed.
        if self.respond(&mut ledger.counters) {
            (ledger.unpublished, ledger.unsaved) = (true, true);
        }
        Ok(more)
    }

    fn receive(&mut self, now: Instant, ledger: &mut Ledger) -> io::Result<()> {
        let Self {
            socket,
            allow,
            expect,
            receiver,
            ..
        } = self;
        for _ in 0..BATCHES {
            let count = socket.receive(|from, datagram| {
                if !allow.admits(from.ip()) {
                    ledger.counters.refused += 1;
                    return;
                }
                if let Some(expect) = expect {
                    expect.heard(from.ip(), now);
                }
                if let Err(e) = receiver.feed(now, from, datagram) {
                    tracing::debug!("{from}: {e}");
                }
            })?;
            ledger.unpublished |= count > 0;
            ledger.unsaved |= count > 0;
            if count < BATCH {
                break;
            }
        }
        let dropped = socket.dropped();
        let new = dropped - ledger.counters.kernel_drops;
        if new > 0 && ledger.may_warn(now) {
            tracing::warn!(
                "the kernel had to drop {dropped} datagrams at {} up to now: ncrx was too slow or \
                 --receive-buffer too small. Enlarge it (with net.core.rmem_max), or add --workers",
                socket.local()
            );
        }
        ledger.counters.kernel_drops = dropped;
        Ok(())
    }

    /// Sends what the receiver has to say, if there is anything. What does not get through is said
    /// again.
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

    /// Metrics and state, if it is time for them.
    fn tell(&mut self, ledger: &mut Ledger) {
        let now = Instant::now();
        if let Some(metrics) = self.metrics.as_ref().filter(|_| ledger.unpublished) {
            if ledger.publish_at <= now {
                ledger.publish_at = now + PUBLISH;
                ledger.unpublished = false;
                ledger.counters.write_errors = self.outputs.errors();
                let port = self.socket.local().port();
                metrics.publish(self.nth, port, &self.receiver, ledger.counters);
            }
        }
        if let Some(state) = self.state.as_mut().filter(|_| ledger.unsaved) {
            if state.due() <= now {
                ledger.unsaved = false;
                state.save(self.receiver.senders());
            }
        }
    }

    /// Writes and acknowledges all that there is.
    fn finish(mut self, mut ledger: Ledger) -> anyhow::Result<()> {
        let now = Instant::now();
        // What is still in the socket, but not all that may ever come.
        if let Err(e) = self.receive(now, &mut ledger) {
            tracing::warn!("cannot receive: {e}");
        }
        self.outputs.hurry(now);
        while self.outputs.deliver(now, &mut self.receiver)? {}
        self.receiver.stop(now);
        while self.outputs.deliver(now, &mut self.receiver)? {}
        if let Some(state) = &mut self.state {
            state.save(self.receiver.senders());
        }
        // Whose acknowledgement would be due soon gets it now.
        self.receiver.tick(now + FAREWELL);
        self.respond(&mut ledger.counters);
        anyhow::ensure!(
            self.outputs.retry_at().is_none(),
            "not all could be written; what is missing was not acknowledged"
        );
        Ok(())
    }
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
