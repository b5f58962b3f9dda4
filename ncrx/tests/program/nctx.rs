// SPDX-License-Identifier: GPL-2.0

//! Meta's `nctx`, which retransmits for upstream's netconsole, as the receiver sees it: it has
//! netconsole's address, knows single numbers, no sessions and no marks, forgets acknowledged
//! records, cuts records anew, and sends by itself what stays unacknowledged for long.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{numbers, Ncrx};

/// The longest datagram.
const MAX: usize = 1000;
/// The time after which it sends a record again. nctx has 10 s, too long for a test.
const ACK_TIMEOUT: Duration = Duration::from_millis(500);
const EMERGENCY: Duration = Duration::from_millis(20);

struct Nctx {
    socket: UdpSocket,
    /// The records that are not acknowledged: header, body, and the time at which each was logged.
    ring: BTreeMap<u64, (String, String, Instant)>,
    emergency: Option<(u64, Instant)>,
    heard: bool,
    fragments: usize,
}

impl Nctx {
    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        Self {
            socket,
            ring: BTreeMap::new(),
            emergency: None,
            heard: false,
            fragments: 0,
        }
    }

    fn log(&mut self, seq: u64, lost: bool) {
        let header = format!("6,{seq},{},-,caller=T1", 1000 * seq);
        // A long dictionary now and then.
        let dictionary = match seq % 10 {
            3 => format!(" KEY={}\n", "x".repeat(1500)),
            _ => String::new(),
        };
        let body = format!("text {seq}\n{dictionary}");
        self.ring.insert(seq, (header, body, Instant::now()));
        if !lost {
            self.send(seq, "");
        }
    }

    fn send(&mut self, seq: u64, keys: &str) {
        let Some((header, body, _)) = self.ring.get(&seq) else {
            return;
        };
        let whole = format!("{header}{keys};{body}");
        let room = MAX - header.len() - ",ncemg=1,ncfrag=0000/0000".len();
        if whole.len() <= MAX {
            let _ = self.socket.send(whole.as_bytes());
            return;
        }
        for (n, part) in body.as_bytes().chunks(room).enumerate() {
            let place = format!("{header}{keys},ncfrag={}/{};", n * room, body.len());
            let _ = self.socket.send(&[place.as_bytes(), part].concat());
            self.fragments += 1;
        }
    }

    /// Takes the responses that have come, and sends the datagrams that are due.
    fn turn(&mut self) {
        let mut buffer = [0; MAX + 1];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let mut words = text.strip_prefix("ncrx").expect("a response").split(' ');
            self.heard = true;
            // nctx reads a missing number as a large one.
            let ack: u64 = words.next().unwrap().parse().expect("an ack");
            let left = self.ring.split_off(&(ack + 1));
            if !std::mem::replace(&mut self.ring, left).is_empty() {
                self.emergency = None;
            }
            // nctx would read anything else as a number, too.
            for seq in words.map(|word| word.parse().expect("a number")) {
                self.send(seq, "");
            }
        }
        let Some((&oldest, (.., logged))) = self.ring.first_key_value() else {
            return;
        };
        let (next, due) = self.emergency.unwrap_or((oldest, *logged + ACK_TIMEOUT));
        if self.heard && due <= Instant::now() {
            self.send(next, ",ncemg=1");
            let following = self.ring.range(next + 1..).next();
            let next = following.map_or(oldest, |(&seq, _)| seq);
            self.emergency = Some((next, Instant::now() + EMERGENCY));
        }
    }
}

#[test]
fn nctx_gets_everything_through() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let args = format!(
        "--dialect ncrx --output {} --state {}/state",
        log.display(),
        dir.path().display()
    );
    let mut ncrx = Ncrx::start(&args);
    let at = ncrx.at.to_string();
    let mut nctx = Nctx::new(ncrx.at);
    let end = Instant::now() + Duration::from_secs(30);
    // The last records are lost, which only emergency transmission shows.
    for seq in 0..300 {
        nctx.log(seq, seq % 7 == 4 || seq >= 295);
        if seq % 20 == 0 {
            nctx.turn();
        }
    }
    while !nctx.ring.is_empty() {
        nctx.turn();
        assert!(Instant::now() < end, "{:?}", nctx.ring.keys());
    }
    assert_eq!(numbers(&log), Vec::from_iter(0..300));
    assert!(nctx.fragments >= 60, "{}", nctx.fragments);
    // A restart; records that are logged meanwhile are lost.
    ncrx.signal(Signal::SIGTERM);
    assert!(ncrx.wait().success());
    (300..400).for_each(|seq| nctx.log(seq, seq % 7 == 4));
    let _ncrx = Ncrx::start_at(&at, &args);
    (400..500).for_each(|seq| nctx.log(seq, seq % 7 == 4));
    while !nctx.ring.is_empty() {
        nctx.turn();
        assert!(Instant::now() < end, "{:?}", nctx.ring.keys());
    }
    assert_eq!(numbers(&log), Vec::from_iter(0..500));
}
