// SPDX-License-Identifier: GPL-2.0

//! Many hosts that log to `ncrx` as fast as they can, over a link that loses both ways, and the
//! check of their files.
//!
//! Each host behaves as the module (`docs/protocol.md`): it reads responses by `proto/response.rs`,
//! names its session once a response shows that sessions are known, sends again what is asked for
//! unless that is on its way, and, once it has had an ack, marked as an emergency what is not
//! acknowledged for long. All hosts share a socket, but each has an address of its own in
//! 127.0.0.0/8.
//!
//! A UDP socket does not block a sender when the receiver's queue is full, so the length of that
//! queue is looked up: records are lost by the seed's choice only.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    getsockopt, recvmsg, sendmmsg, setsockopt, sockopt, ControlMessage, ControlMessageOwned,
    MsgFlags, MultiHeaders, SockaddrIn,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

// A benchmark is compiled as a test is, but without the tests.
#[allow(dead_code, unexpected_cfgs, unused_imports)]
#[path = "../../src/proto/mod.rs"]
mod proto;

use proto::response::Response;
use proto::wire::{Datagrams, Dialect, Extra, Form, Range, Record, Session};

/// The records that a host logs at a time.
const BURST: u64 = 16;
/// One record in this number does not fit into a datagram.
const LONG: u64 = 64;
/// The most bytes that a datagram of ours takes of a receive buffer.
const DATAGRAM: u64 = 2304;
/// The time without progress after which a host sends unacknowledged records again.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// The time within which a record is not sent again on request: it is on its way.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// The most records of which a host knows when they were sent again last.
const REMEMBERED: usize = 4096;
/// The longest time in which nothing at all may be acknowledged. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The load to generate.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub hosts: u32,
    /// The records of each host.
    pub records: u64,
    /// The share of datagrams that are lost, each way.
    pub loss: f64,
    pub seed: u64,
}

/// The work that was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub datagrams: u64,
    /// Those of them that were sent again.
    pub again: u64,
    pub responses: u64,
    /// Datagrams and responses that were lost on purpose.
    pub lost: u64,
    /// Datagrams that the receiver's socket has dropped.
    pub dropped: u64,
    /// The time from the first record until all were acknowledged.
    pub took: Duration,
}

struct Host {
    address: Ipv4Addr,
    session: Session,
    next: u64,
    acked: Option<u64>,
    /// The dialect of the responses, whether they name sessions, and whether they have named ours.
    dialect: Dialect,
    knows_sessions: bool,
    is_named: bool,
    progress: Instant,
    /// When records were sent again on request.
    sent_again: HashMap<u64, Instant>,
    dice: ChaCha8Rng,
}

impl Host {
    fn new(nth: u32, seed: u64) -> Self {
        // Each host has random numbers of its own, so that its losses do not depend on the others.
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        dice.set_stream(nth.into());
        Self {
            address: address(nth),
            session: Session(dice.random()),
            next: 0,
            acked: None,
            dialect: Dialect::Ncrx,
            knows_sessions: false,
            is_named: false,
            progress: Instant::now(),
            sent_again: HashMap::new(),
            dice,
        }
    }

    /// Returns whether a record is to be sent again on request.
    fn answers(&mut self, seq: u64, now: Instant) -> bool {
        let is_on_its_way = |sent: &Instant| now < *sent + ROUND_TRIP;
        if self.sent_again.get(&seq).is_some_and(is_on_its_way) {
            return false;
        }
        if self.sent_again.len() >= REMEMBERED {
            self.sent_again.retain(|_, sent| is_on_its_way(sent));
        }
        self.sent_again.insert(seq, now);
        true
    }

    fn first_unacked(&self) -> u64 {
        self.acked.map_or(0, |acked| acked + 1)
    }
}

fn address(nth: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(127, 1, 0, 1)) + nth).into()
}

/// Writes a record's text. It names the host and the record, and none is another's beginning.
fn put_text(host: Ipv4Addr, seq: u64, out: &mut Vec<u8>) {
    let text = "eth0: link is up at 10000 Mbps, full duplex, flow control";
    // Writing to memory cannot fail.
    let _ = write!(out, "host {host} record {seq}: {text}");
    if seq % LONG == LONG - 1 {
        (0..20).for_each(|_| out.extend_from_slice(text.as_bytes()));
    }
    out.push(b'.');
}

fn usec(seq: u64) -> u64 {
    1_000_000 + 1000 * seq
}

/// All hosts, and the link.
struct Network {
    load: Load,
    hosts: Vec<Host>,
    socket: UdpSocket,
    to: SocketAddrV4,
    /// The bytes that may wait in the receiver's socket, and those that may be sent until its queue
    /// is looked up again.
    limit: u64,
    room: u64,
    /// How many records are logged a second.
    rate: f64,
    /// The requests: host and range.
    asked: VecDeque<(usize, Range)>,
    /// The datagrams of one host that are to be sent.
    out: Vec<u8>,
    ends: Vec<usize>,
    record: Vec<u8>,
    done: Done,
}

/// Runs the load; returns when everything is acknowledged.
pub fn run(load: Load, to: SocketAddr) -> Done {
    run_at(load, to, f64::INFINITY)
}

/// The same, with so many records a second at most, of all hosts.
pub fn run_at(load: Load, to: SocketAddr, rate: f64) -> Done {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not of IPv4");
    };
    let mut network = Network::new(load, to);
    network.rate = rate;
    let (began, before) = (Instant::now(), network.receive_queue().1);
    network.work();
    network.done.took = began.elapsed();
    network.done.dropped = network.receive_queue().1 - before;
    network.done
}

/// Sends all records once, as a kernel's netconsole does, which hears nothing: as fast as so many
/// bytes and no more wait in the receiver's socket. Returns when it has taken all.
pub fn send_once(load: Load, to: SocketAddr, waiting: u64) -> Done {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not of IPv4");
    };
    let mut network = Network::new(load, to);
    network.limit = waiting;
    let (began, before) = (Instant::now(), network.receive_queue().1);
    for first in (0..load.records).step_by(BURST as usize) {
        for nth in 0..network.hosts.len() {
            (first..(first + BURST).min(load.records)).for_each(|seq| network.put(nth, seq, false));
            while !network.has_room() {
                std::thread::yield_now();
            }
            network.send(nth);
        }
    }
    while network.receive_queue().0 > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    network.done.took = began.elapsed();
    network.done.dropped = network.receive_queue().1 - before;
    network.done
}

impl Network {
    fn new(load: Load, to: SocketAddrV4) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).unwrap();
        let size = 16 << 20;
        if setsockopt(&socket, sockopt::RcvBufForce, &size).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &size).unwrap();
        }
        // The receiver asks for the same buffer, and is granted the same.
        let granted = getsockopt(&socket, sockopt::RcvBuf).unwrap() as u64;
        let hosts = (0..load.hosts).map(|nth| Host::new(nth, load.seed));
        Self {
            load,
            hosts: hosts.collect(),
            socket,
            to,
            limit: granted / 2,
            room: 0,
            rate: f64::INFINITY,
            asked: VecDeque::new(),
            out: Vec::new(),
            ends: Vec::new(),
            record: Vec::new(),
            done: Done::default(),
        }
    }

    fn work(&mut self) {
        let last = self.load.records - 1;
        let (mut turn, mut looked) = (0, Instant::now());
        let (began, mut logged) = (Instant::now(), 0);
        let mut open = self.hosts.len();
        while open > 0 {
            self.receive();
            let now = Instant::now();
            if now > looked + ACK_TIMEOUT / 4 {
                looked = now;
                open = self.remind(now);
            }
            let mut idle = true;
            // Send while there is room, but take responses in between.
            for _ in 0..64 {
                if !self.has_room() {
                    break;
                }
                if let Some((nth, range)) = self.asked.pop_front() {
                    self.send_again(nth, range, false);
                } else if self.hosts[turn].next <= last
                    && logged as f64 <= self.rate * began.elapsed().as_secs_f64()
                {
                    let next = self.hosts[turn].next;
                    let range = next..(next + BURST).min(last + 1);
                    logged += range.end - range.start;
                    self.hosts[turn].next = range.end;
                    range.for_each(|seq| self.put(turn, seq, false));
                    self.send(turn);
                    turn = (turn + 1) % self.hosts.len();
                } else {
                    break;
                }
                idle = false;
            }
            if idle {
                let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(1u8)).unwrap();
            }
        }
    }

    /// Has hosts that have had an ack send the records that have been unacknowledged for long, as
    /// an emergency. Returns the number of hosts that are not done.
    fn remind(&mut self, now: Instant) -> usize {
        let mut open = 0;
        let mut latest = None;
        for nth in 0..self.hosts.len() {
            let host = &self.hosts[nth];
            latest = latest.max(Some(host.progress));
            let first = host.first_unacked();
            if first == self.load.records {
                continue;
            }
            open += 1;
            if host.acked.is_some() && now > host.progress + ACK_TIMEOUT && first < host.next {
                // The last one as well: it shows which are missing.
                for seq in [first, host.next - 1] {
                    self.send_again(
                        nth,
                        Range {
                            first: seq,
                            last: seq,
                        },
                        true,
                    );
                }
            }
        }
        let heard = latest.is_some_and(|latest| now < latest + PATIENCE);
        assert!(
            open == 0 || heard,
            "{open} hosts wait in vain: {:?}",
            self.done
        );
        open
    }

    fn send_again(&mut self, nth: usize, range: Range, emergency: bool) {
        // A request may name records that do not exist, to find out whether they do.
        let now = Instant::now();
        for seq in range.first..(range.last + 1).min(self.hosts[nth].next) {
            if emergency || self.hosts[nth].answers(seq, now) {
                self.put(nth, seq, emergency);
            }
            if self.ends.len() >= BURST as usize {
                self.done.again += self.ends.len() as u64;
                self.send(nth);
            }
        }
        self.done.again += self.ends.len() as u64;
        self.send(nth);
    }

    /// Queues a record's datagrams; those that the link loses are not even queued.
    fn put(&mut self, nth: usize, seq: u64, emergency: bool) {
        let host = &mut self.hosts[nth];
        self.record.clear();
        let _ = write!(self.record, "6,{seq},{},-;", usec(seq));
        put_text(host.address, seq, &mut self.record);
        self.record.extend_from_slice(b"\n SUBSYSTEM=net\n");
        let form = Form {
            dialect: host.dialect,
            release: None,
            emergency,
            session: host.knows_sessions.then_some(host.session),
            crash: false,
            skip: None,
            lost: None,
            extra: Extra::default(),
        };
        let record = Record::parse(&self.record).unwrap();
        for datagram in Datagrams::new(record, form).unwrap().iter() {
            if host.dice.random_bool(self.load.loss) {
                self.done.lost += 1;
                continue;
            }
            let start = self.out.len();
            self.out.resize(start + datagram.len(), 0);
            datagram.write(&mut self.out[start..]);
            self.ends.push(self.out.len());
        }
    }

    /// Sends the queued datagrams.
    fn send(&mut self, nth: usize) {
        let mut start = 0;
        let mut slices = Vec::with_capacity(self.ends.len());
        for &end in &self.ends {
            slices.push([IoSlice::new(&self.out[start..end])]);
            start = end;
        }
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr {
                s_addr: u32::from_ne_bytes(self.hosts[nth].address.octets()),
            },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let mut sent = 0;
        while sent < slices.len() {
            let slices = &slices[sent..];
            let room = cmsg_space!(in_pktinfo);
            let mut headers = MultiHeaders::preallocate(slices.len(), Some(room));
            let to = vec![Some(SockaddrIn::from(self.to)); slices.len()];
            let info = [ControlMessage::Ipv4PacketInfo(&info)];
            let fd = self.socket.as_raw_fd();
            match sendmmsg(fd, &mut headers, slices, &to, info, MsgFlags::empty()) {
                Ok(all) => sent += all.count(),
                Err(e) => panic!("cannot send: {e}"),
            }
        }
        let sent = slices.len() as u64;
        self.done.datagrams += sent;
        self.room = self.room.saturating_sub(sent * DATAGRAM);
        self.out.clear();
        self.ends.clear();
    }

    /// Takes all responses that there are.
    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        let mut space = cmsg_space!(in_pktinfo);
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let fd = self.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = match recvmsg::<SockaddrIn>(fd, &mut slices, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return,
                Err(e) => panic!("cannot receive: {e}"),
            };
            let bytes = message.bytes;
            assert_eq!(message.address.map(SocketAddrV4::from), Some(self.to));
            let info = message.cmsgs().unwrap().find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
                _ => None,
            });
            let to = Ipv4Addr::from(info.unwrap().ipi_addr.s_addr.to_ne_bytes());
            let nth = (u32::from(to) - u32::from(address(0))) as usize;
            self.done.responses += 1;
            self.hear(nth, &buffer[..bytes]);
        }
    }

    fn hear(&mut self, nth: usize, bytes: &[u8]) {
        let host = &mut self.hosts[nth];
        // Without an ack a host never sends its last record again, which may have been lost.
        if host.acked.is_some() && host.dice.random_bool(self.load.loss) {
            self.done.lost += 1;
            return;
        }
        let response = Response::parse(bytes).expect("a bad response");
        match response.session {
            Some(Some(session)) if session == host.session => host.is_named = true,
            Some(Some(_)) => return,
            Some(None) | None if host.is_named => return,
            Some(None) | None => {}
        }
        host.dialect = response.dialect;
        host.knows_sessions |= response.session.is_some();
        if response.ack.filter(|ack| *ack > 0) > host.acked {
            assert!(response.ack < Some(host.next), "{response:?}");
            host.acked = response.ack;
            host.progress = Instant::now();
        }
        let asked = response.missing().map(|range| (nth, range));
        self.asked.extend(asked);
    }

    fn has_room(&mut self) -> bool {
        if self.room == 0 {
            self.room = self.limit.saturating_sub(self.receive_queue().0);
        }
        self.room > 0
    }

    /// Returns the bytes that wait in the receiver's socket, and the datagrams that it has dropped.
    /// If there are several sockets: the bytes in the fullest, the drops of all.
    fn receive_queue(&self) -> (u64, u64) {
        let table = ["/proc/net/udp", "/proc/net/udp6"];
        let table = table.map(|table| std::fs::read_to_string(table).unwrap());
        // At whichever address it listens.
        let address = format!(":{:04X} 0000", self.to.port());
        let socket = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let waiting = words[4].split_once(':').unwrap().1;
            let waiting = u64::from_str_radix(waiting, 16).unwrap();
            (waiting, words[12].parse::<u64>().unwrap())
        };
        table
            .iter()
            .flat_map(|table| table.lines())
            .filter(|line| line.contains(&address))
            .map(socket)
            .fold((0, 0), |all, one| (all.0.max(one.0), all.1 + one.1))
    }
}

/// The records of one host that a file has, piece by piece: each once.
#[derive(Default)]
pub struct Found {
    /// All before this.
    next: u64,
    /// Further ones.
    beyond: BTreeSet<u64>,
    expected: Vec<u8>,
}

impl Found {
    /// Looks at a whole line of the format text. Late records have their place behind others.
    pub fn line(&mut self, nth: u32, line: &[u8]) {
        let host = address(nth);
        let shown = || String::from_utf8_lossy(line).into_owned();
        let text = line.splitn(3, |&c| c == b' ').nth(2).unwrap_or_default();
        if text.starts_with(b"--- ") {
            return;
        }
        let seq = text.windows(8).position(|part| part == b" record ");
        let seq = seq.and_then(|at| std::str::from_utf8(&text[at + 8..]).ok()?.split_once(':'));
        let seq = seq.and_then(|(seq, _)| seq.parse::<u64>().ok());
        let seq = seq.unwrap_or_else(|| panic!("{} is no record", shown()));
        self.expected.clear();
        put_text(host, seq, &mut self.expected);
        assert!(text.ends_with(&self.expected), "{}", shown());
        assert!(
            seq >= self.next && self.beyond.insert(seq),
            "{seq} of {host} is there twice"
        );
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
    }

    /// Returns how many there are, if none is missing among them.
    pub fn all(&self) -> Option<u64> {
        self.beyond.is_empty().then_some(self.next)
    }
}

/// The name of the file of a host.
pub fn file(nth: u32) -> String {
    format!("{}.log", address(nth))
}

/// Makes sure that the files `DIR/{host}.log`, in the format text, have every record once and in
/// order, and nothing else but that the log begins.
pub fn verify(load: Load, dir: &Path) {
    let mut expected = Vec::new();
    for nth in 0..load.hosts {
        let host = address(nth);
        let file = std::fs::File::open(dir.join(format!("{host}.log"))).unwrap();
        let mut seq = 0;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.unwrap();
            // The line begins with the wall clock's time.
            let (time, line) = line.split_at(line.len().min(28));
            assert!(time.ends_with(b"Z "), "{:?}", String::from_utf8_lossy(time));
            if line.starts_with(format!("{host} --- log begins").as_bytes()) {
                continue;
            }
            expected.clear();
            let (s, us) = (usec(seq) / 1_000_000, usec(seq) % 1_000_000);
            let _ = write!(expected, "{host} [{s:5}.{us:06}] ");
            put_text(host, seq, &mut expected);
            assert!(
                line == expected,
                "in the place of record {seq} there is {:?}",
                String::from_utf8_lossy(line)
            );
            seq += 1;
        }
        assert_eq!(seq, load.records, "of {host}");
    }
}
