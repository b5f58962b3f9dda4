// SPDX-License-Identifier: GPL-2.0

//! The senders of a worker's records, for metrics and the index.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ncrx::Receiver;

use super::Outputs;
use crate::crashes::real;
use crate::index::{HostRow, Message};

/// The silence after which they are forgotten, as the receiver has it for all others.
const FORGET: Duration = Duration::from_secs(24 * 3600);

/// The shortest time from one telling of hosts to the index to the next.
const HOSTS: Duration = Duration::from_secs(5);

/// A sender of a basic target.
#[derive(Clone, Copy, Debug)]
pub struct Basic {
    /// Texts that were handed out.
    pub records: u64,
    /// When the last one came.
    pub heard: Instant,
}

impl Outputs {
    /// Returns the senders of basic targets.
    pub fn basic(&self) -> impl Iterator<Item = (SocketAddr, Basic)> + '_ {
        let all = self.basic.iter().map(|(sender, basic)| (*sender, *basic));
        all.filter(|(_, basic)| basic.heard.elapsed() < FORGET)
    }

    /// Returns whether there is an index to be told of hosts.
    pub fn has_index(&self) -> bool {
        self.watcher.hub().index.is_some()
    }

    /// Tells the index of the hosts that were heard since it was last told, unless that was just
    /// now; returns whether there is something left to tell.
    pub fn tell_hosts(&mut self, now: Instant, receiver: &Receiver) -> bool {
        let waits = self.hosts_told.is_some_and(|told| now < told + HOSTS);
        if !waits {
            self.tell_last_hosts(now, receiver);
        }
        waits && self.has_index()
    }

    /// Tells the index of the hosts that were heard since it was last told, however long ago that
    /// was.
    pub fn tell_last_hosts(&mut self, now: Instant, receiver: &Receiver) {
        let Some(index) = &self.watcher.hub().index else {
            return;
        };
        let since = self.hosts_told;
        let heard = |heard: Instant| since.is_none_or(|since| heard + HOSTS / 5 >= since);
        let mut rows = Vec::new();
        let row = |host: SocketAddr, at: Instant| HostRow {
            name: self.names.look_up(host),
            address: host.ip().to_canonical().to_string(),
            port: host.port(),
            heard: real(at),
            ..HostRow::default()
        };
        for sender in receiver.senders().filter(|sender| heard(sender.heard)) {
            let (release, record) = self.watcher.last(sender.stream);
            rows.push(HostRow {
                session: sender.session,
                release,
                record,
                records: sender.records,
                missing: sender.missing,
                lost: sender.lost,
                acked: sender.settled,
                highest: sender.highest,
                ..row(sender.host, sender.heard)
            });
        }
        for (host, basic) in self.basic().filter(|(_, basic)| heard(basic.heard)) {
            rows.push(HostRow {
                record: Some(real(basic.heard)),
                records: basic.records,
                ..row(host, basic.heard)
            });
        }
        if !rows.is_empty() {
            index.tell(Message::Hosts(rows));
        }
        self.hosts_told = Some(now);
    }
}
