// SPDX-License-Identifier: GPL-2.0

//! An attacker that sends in the name of others, also replayed datagrams; and ports that change.

use std::time::Instant;

use rand::Rng;

use super::Simulation;

/// Returns whether a datagram names a session.
pub fn names_one(datagram: &[u8]) -> bool {
    datagram.windows(5).any(|bytes| bytes == b",ncs=")
}

impl Simulation {
    /// Sends a forged or replayed datagram in the name of a sender.
    pub(super) fn attack(&mut self, at: Instant) {
        let victim = (([10, 0, 1, self.rng.random_range(0..4)]), 6665).into();
        let session: u64 = self.rng.random_range(1..4);
        let (seq, usec) = (
            self.rng.random_range(0..5000),
            self.rng.random_range(0..9_000_000u64),
        );
        let marks = [",emg=1", ",ncskip=1-9", "", ""][self.rng.random_range(0..4)];
        let forged = format!("6,{seq},{usec},-,ncs={session:016x}{marks};strange");
        let known =
            |sender: ncrx::Sender| sender.session.map(|s| s.0) == Some(self.sender.session.0);
        let learnt = self.receiver.senders().any(known);
        let id = format!(",ncs={}", self.sender.session);
        let own = |bytes: &&Vec<u8>| {
            let text = String::from_utf8_lossy(bytes);
            text.contains(&id)
        };
        let replayed = match self.seen.len() {
            0 => None,
            n => Some(&self.seen[self.rng.random_range(0..n)])
                .filter(own)
                .cloned(),
        };
        let (from, datagram) = match self.rng.random_range(0..4) {
            0 => (self.from, forged.into_bytes()),
            1 => (victim, forged.into_bytes()),
            2 => (victim, Vec::new()),
            _ => match replayed.filter(|_| learnt) {
                Some(replayed) => (victim, replayed),
                None => return,
            },
        };
        if from == victim {
            self.victims.entry(victim).or_default().0 += datagram.len();
        }
        self.strange += 1;
        let _ = self.receiver.feed(at, from, &datagram);
    }

    /// Changes the sender's port, as a NAT does that has forgotten it.
    pub(super) fn change_port(&mut self) {
        let port = self.rng.random_range(10_000..60_000);
        self.from.set_port(port);
        self.say(&format!("from {}", self.from));
    }
}
