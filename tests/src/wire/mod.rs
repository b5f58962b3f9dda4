// SPDX-License-Identifier: GPL-2.0

//! A wire: the cable in one of the guest's network cards, and the hosts at its far end.
//!
//! QEMU hands over every frame as one datagram. Each is checked (all checksums,
//! all lengths), logged, exposed to the faults that the test has ordered, and
//! then given to the simulated hosts: they answer ARP and neighbour
//! solicitations, and pass UDP on to the services that tests have put there.

pub mod capture;
pub mod check;
pub mod faults;
pub mod hosts;
mod vlan;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, Context, Result};

use crate::qemu::{guest_socket, host_socket, nic_mac};
use capture::Captured;
use faults::{FaultModel, Faults};
use hosts::Host;

/// The direction of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the simulated hosts.
    FromGuest,
    /// To the guest.
    ToGuest,
}

/// A UDP datagram as it arrived at a simulated host.
#[derive(Debug, Clone)]
pub struct Udp {
    /// The time at which it arrived.
    pub at: Instant,
    /// The Ethernet addresses, source and destination.
    pub mac: ([u8; 6], [u8; 6]),
    /// The source.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A datagram that a service wants to have sent to the guest.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The time to wait before it is sent.
    pub after: Duration,
    /// The source that it claims.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A service that a simulated host runs on a UDP port. It is called on the wire's thread.
pub type Service = Box<dyn FnMut(&Udp) -> Vec<Reply> + Send>;

/// The counts of frames that have passed a wire.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Frames the guest sent.
    pub from_guest: u64,
    /// Their bytes.
    pub bytes_from_guest: u64,
    /// UDP datagrams among them that arrived at a host.
    pub udp: u64,
    /// Frames sent to the guest.
    pub to_guest: u64,
    /// Frames lost on purpose, in either direction.
    pub lost: u64,
    /// Frames delivered twice on purpose.
    pub duplicated: u64,
    /// Frames held back on purpose.
    pub delayed: u64,
    /// Frames with a bit flipped on purpose.
    pub corrupted: u64,
    /// Frames that the cut cable swallowed.
    pub cut: u64,
    /// Frames that QEMU did not take in time.
    pub refused: u64,
    /// Frames from the guest with a wrong checksum or length.
    pub bad: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            from_guest,
            udp,
            to_guest,
            bad,
            ..
        } = self;
        write!(
            f,
            "{from_guest} frames from the guest ({udp} UDP, {bad} bad), {to_guest} to it; "
        )?;
        let Self {
            lost,
            duplicated,
            delayed,
            corrupted,
            cut,
            refused,
            ..
        } = self;
        write!(
            f,
            "faults: {lost} lost, {duplicated} doubled, {delayed} delayed, "
        )?;
        write!(
            f,
            "{corrupted} corrupted, {cut} cut off, {refused} not taken by QEMU"
        )
    }
}

/// A frame on its way, ordered by when it is due.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Instant,
    number: u64,
    to_guest: bool,
    frame: Vec<u8>,
}

struct State {
    running: bool,
    cut: bool,
    pace: Option<Duration>,
    model: [FaultModel; 2],
    hosts: Vec<Host>,
    refused_ports: Vec<u16>,
    services: BTreeMap<u16, Service>,
    neighbours: HashMap<IpAddr, [u8; 6]>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    numbered: u64,
    stats: Stats,
    bad: Vec<String>,
    captured: Vec<Captured>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    socket: UnixDatagram,
    guest: PathBuf,
    guest_mac: [u8; 6],
}

/// A cable with simulated hosts at its far end.
pub struct Wire {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Returns the wire for the `n`th card of the machine whose sockets are in `dir`.
    pub fn new(dir: &Path, n: usize, seed: u64) -> Result<Self> {
        let path = host_socket(dir, n);
        let socket = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        // A guest that takes nothing must not hold the test up.
        socket.set_write_timeout(Some(Duration::from_millis(500)))?;
        let seed = seed ^ ((n as u64) << 32);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                running: true,
                cut: false,
                pace: None,
                model: [FaultModel::new(seed, 0), FaultModel::new(seed, 1)],
                hosts: Vec::new(),
                refused_ports: Vec::new(),
                services: BTreeMap::new(),
                neighbours: HashMap::new(),
                in_flight: BinaryHeap::new(),
                numbered: 0,
                stats: Stats::default(),
                bad: Vec::new(),
                captured: Vec::new(),
            }),
            changed: Condvar::new(),
            socket,
            guest: guest_socket(dir, n),
            guest_mac: nic_mac(n),
        });
        let mut threads = Vec::new();
        for (name, work) in [
            ("wire-receive", Shared::receive as fn(&Shared)),
            ("wire-deliver", Shared::deliver),
        ] {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name.into());
            threads.push(thread.spawn(move || work(&shared))?);
        }
        Ok(Self { shared, threads })
    }

    /// Puts a simulated host on the wire.
    pub fn add_host(&self, host: Host) {
        self.shared.lock().hosts.push(host);
    }

    /// Takes the hosts with this hardware address off the wire.
    pub fn remove_host(&self, mac: [u8; 6]) {
        self.shared.lock().hosts.retain(|host| host.mac != mac);
    }

    /// Returns all UDP datagrams that the guest has sent, whether a host took them or not, from the
    /// `from`th frame of the capture on.
    pub fn sent_by_guest(&self, from: usize) -> Vec<Udp> {
        let state = self.shared.lock();
        let frames = state.captured[from..].iter();
        frames
            .filter(|captured| captured.way == Direction::FromGuest)
            .filter_map(|captured| hosts::see(&vlan::untag(&captured.frame).1))
            .collect()
    }

    /// Returns the number of frames in the capture so far.
    pub fn captured(&self) -> usize {
        self.shared.lock().captured.len()
    }

    /// Runs `service` on UDP port `port` of every host.
    pub fn serve(&self, port: u16, service: Service) {
        let mut state = self.shared.lock();
        state.refused_ports.retain(|p| *p != port);
        state.services.insert(port, service);
    }

    /// Has the hosts answer datagrams to `port` with "unreachable" from now on.
    pub fn refuse(&self, port: u16) {
        let mut state = self.shared.lock();
        state.services.remove(&port);
        state.refused_ports.push(port);
    }

    /// Exposes one direction to `faults` from now on.
    pub fn set_faults(&self, direction: Direction, faults: Faults) {
        self.shared.lock().model[direction as usize].faults = faults;
    }

    /// Cuts the cable: nothing passes, and the guest's card does not notice.
    pub fn cut(&self) {
        self.shared.lock().cut = true;
    }

    /// Mends the cable.
    pub fn restore(&self) {
        self.shared.lock().cut = false;
    }

    /// Takes one frame from the guest in each interval `pace`, or all as they come. QEMU finds the
    /// socket full then, and the card's queue fills up: a slow device, which has a link.
    pub fn set_pace(&self, pace: Option<Duration>) {
        self.shared.lock().pace = pace;
    }

    /// Sends a datagram to the guest, from whatever address.
    pub fn send_udp(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        self.sender().send_udp(from, to, payload)
    }

    /// Returns a sender of datagrams, for threads that do not have the wire.
    pub fn sender(&self) -> Sender {
        Sender(Arc::clone(&self.shared))
    }

    /// Answers a datagram of the guest with "unreachable", as the host and port `to` would. The
    /// guest need not have sent it.
    pub fn refuse_one(&self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        let mut state = self.shared.lock();
        let owner = state.hosts.iter().find(|host| host.owns(to.ip()));
        let mac = owner.map_or(hosts::STRANGER, |host| host.mac);
        let udp = Udp {
            at: Instant::now(),
            mac: (self.shared.guest_mac, mac),
            from,
            to,
            payload: Vec::new(),
        };
        let frame = hosts::udp_frame(udp.mac, from, to, &udp.payload)?;
        let answer = hosts::unreachable(&udp, &frame).context("addresses of two families")?;
        self.shared
            .send_to_guest(&mut state, answer, Duration::ZERO);
        Ok(())
    }

    /// Sends a frame to the guest as it is.
    pub fn send_frame(&self, frame: Vec<u8>) {
        let mut state = self.shared.lock();
        self.shared.send_to_guest(&mut state, frame, Duration::ZERO);
    }

    /// Returns the counts so far.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Returns the errors in the guest's frames, but for those that tests have taken.
    pub fn bad_frames(&self) -> Vec<String> {
        self.shared.lock().bad.clone()
    }

    /// Returns the errors that a test has caused on purpose, and forgets them.
    pub fn take_bad_frames(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().bad)
    }

    /// Waits until `done` returns true for the statistics.
    pub fn wait(&self, limit: Duration, done: impl Fn(&Stats) -> bool) -> Result<Stats> {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !done(&state.stats) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("not within {limit:?} on the wire: {}", state.stats);
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        Ok(state.stats)
    }

    /// Saves all frames for Wireshark; the faults are in the frames' comments.
    pub fn save(&self, path: &Path) -> Result<()> {
        capture::save(path, &self.shared.lock().captured)
    }
}

/// A handle to a wire, for hosts that send without having been asked.
#[derive(Clone)]
pub struct Sender(Arc<Shared>);

impl Sender {
    /// Sends a datagram to the guest, from whatever address.
    pub fn send_udp(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let mut state = self.0.lock();
        let frame = self.0.udp_frame(&state, from, to, payload)?;
        self.0.send_to_guest(&mut state, frame, Duration::ZERO);
        Ok(())
    }

    /// Sends a datagram to the guest without faults and without a capture, for which a million
    /// would be too many. Waits for QEMU to take it; returns whether it has.
    pub fn pour_udp(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<bool> {
        let frame = self.0.udp_frame(&self.0.lock(), from, to, payload)?;
        let taken = self.0.socket.send_to(&frame, &self.0.guest).is_ok();
        let mut state = self.0.lock();
        state.stats.to_guest += 1;
        state.stats.refused += u64::from(!taken);
        Ok(taken)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.lock().running = false;
        self.shared.changed.notify_all();
        // Wakes the receiving thread up.
        let _ = self.shared.socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The receiving thread: takes frames from the guest and checks them before any fault.
    fn receive(&self) {
        let mut buf = vec![0; 1 << 16];
        while let Ok(n) = self.socket.recv(&mut buf) {
            let mut state = self.lock();
            if !state.running {
                return;
            }
            if n == 0 {
                continue;
            }
            let frame = buf[..n].to_vec();
            state.stats.from_guest += 1;
            state.stats.bytes_from_guest += n as u64;
            if let Err(what) = check::frame(&frame) {
                state.stats.bad += 1;
                let number = state.captured.len() + 1;
                state
                    .bad
                    .push(format!("{what} (frame {number} of the capture)"));
            }
            self.expose(&mut state, Direction::FromGuest, frame, Duration::ZERO);
            if let Some(pace) = state.pace {
                drop(state);
                thread::sleep(pace);
            }
        }
    }

    /// The delivering thread: passes frames on when they are due.
    fn deliver(&self) {
        let mut state = self.lock();
        while state.running {
            let now = Instant::now();
            match state.in_flight.peek() {
                Some(Reverse(next)) if next.due <= now => {
                    let Some(Reverse(next)) = state.in_flight.pop() else {
                        continue;
                    };
                    if next.to_guest {
                        state.stats.to_guest += 1;
                        drop(state);
                        let sent = self.socket.send_to(&next.frame, &self.guest);
                        state = self.lock();
                        state.stats.refused += u64::from(sent.is_err());
                    } else {
                        self.arrive(&mut state, &next.frame);
                    }
                    self.changed.notify_all();
                }
                Some(Reverse(next)) => {
                    let wait = next.due - now;
                    state = self.changed.wait_timeout(state, wait).unwrap().0;
                }
                None => state = self.changed.wait(state).unwrap(),
            }
        }
    }

    /// Applies the faults to a frame, and queues the copies that are left of it.
    fn expose(&self, state: &mut State, way: Direction, frame: Vec<u8>, after: Duration) {
        let fate = state.model[way as usize].fate(frame.len());
        let comment = if state.cut {
            "cut off".to_string()
        } else {
            fate.to_string()
        };
        state.captured.push(Captured {
            at: SystemTime::now(),
            way,
            comment,
            frame: frame.clone(),
        });
        if state.cut {
            state.stats.cut += 1;
            return;
        }
        fate.count(&mut state.stats);
        for (delay, frame) in fate.apply(frame) {
            state.numbered += 1;
            let in_flight = InFlight {
                due: Instant::now() + after + delay,
                number: state.numbered,
                to_guest: way == Direction::ToGuest,
                frame,
            };
            state.in_flight.push(Reverse(in_flight));
        }
        self.changed.notify_all();
    }

    fn send_to_guest(&self, state: &mut State, frame: Vec<u8>, after: Duration) {
        self.expose(state, Direction::ToGuest, frame, after);
    }

    /// Hands a frame that has come through to the hosts.
    fn arrive(&self, state: &mut State, frame: &[u8]) {
        let (vlan, frame) = vlan::untag(frame);
        let frame = frame.as_slice();
        let hosts = state.hosts.iter().filter(|host| host.vlan == vlan);
        let answers = hosts.clone().filter_map(|host| host.answer(frame));
        let seen = hosts::see(frame);
        let seen = seen.filter(|udp| {
            let mut hosts = hosts.clone();
            hosts.any(|host| host.takes(udp.to.ip(), udp.mac.1))
        });
        for answer in answers.collect::<Vec<_>>() {
            self.send_to_guest(state, vlan::tag(answer, vlan), Duration::ZERO);
        }
        let Some(udp) = seen else { return };
        state.stats.udp += 1;
        state.neighbours.insert(udp.from.ip(), udp.mac.0);
        let port = udp.to.port();
        if state.refused_ports.contains(&port) {
            if let Some(answer) = hosts::unreachable(&udp, frame) {
                self.send_to_guest(state, vlan::tag(answer, vlan), Duration::ZERO);
            }
        }
        // The service is taken out so that it does not borrow the state.
        let Some(mut service) = state.services.remove(&port) else {
            return;
        };
        for reply in service(&udp) {
            if let Ok(frame) = self.udp_frame(state, reply.from, reply.to, &reply.payload) {
                self.send_to_guest(state, frame, reply.after);
            }
        }
        state.services.entry(port).or_insert(service);
    }

    fn udp_frame(
        &self,
        state: &State,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        let mut hosts = state.hosts.iter();
        let owner = hosts.find(|host| host.speaks_for(from.ip()));
        let source = owner.map_or(hosts::STRANGER, |host| host.mac);
        let target = state.neighbours.get(&to.ip()).unwrap_or(&self.guest_mac);
        let frame = hosts::udp_frame((source, *target), from, to, payload)?;
        Ok(vlan::tag(frame, owner.and_then(|host| host.vlan)))
    }
}
