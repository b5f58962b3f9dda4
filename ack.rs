// SPDX-License-Identifier: GPL-2.0

//! Responses: the socket that they come to, and the records that are sent again for them.
//!
//! A response wakes a target's work item, which runs in process context. It drains the socket
//! without blocking, merges what is asked for, and sends a part of that; then others on the queue
//! get their turn, and it looks into the socket again. A record that was sent less than a round trip
//! ago is on its way, and not sent again. So requests that wait, however many, cost no more than
//! one. Once a second the same work item opens the socket if that
//! could not be done before, keeps a firewall open for responses, and says in the log what has
//! changed. Sending records for the first time depends on none of this.

use core::convert::Infallible;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        new_spinlock_irq,
        Arc,
        Mutex,
        SpinLockIrq, //
    },
};

use crate::{
    log::{
        access::Wait,
        Buffer,
        Log, //
    },
    proto::{
        budget::Budget,
        config::Settings,
        emg_schedule::{
            Schedule,
            Tally, //
        },
        last_sent::{
            LastSent,
            Word,
            NEVER,
            PLACES, //
        },
        missing::{
            Missing,
            ROOM, //
        },
        peer::{
            Peer,
            Verdict, //
        },
        ring::Next,
        rtt::Rtt,
        wire::{
            self,
            Dialect,
            Range,
            Response,
            MAX_DATAGRAM,
            MAX_SUBSTITUTE, //
        }, //
    },
    sys::{
        netdev::Rtnl,
        network::Network,
        socket::{
            Receiver,
            UdpSocket, //
        },
        time::now_ms, //
    },
    target::{
        say,
        SendFlags,
        Shared,
        Target, //
    }, //
};

/// How many datagrams are taken from the socket before others get their turn.
const MAX_DRAIN: usize = 256;

/// The number of records that are sent again before the socket is looked at again: a request counts
/// from when it is taken out.
const MAX_RETRANSMIT: usize = 32;

/// For how long a target may send without a response before that is said, once, in milliseconds.
const SILENCE_MS: u64 = 60_000;

/// How often bad responses are said to have come, at most, in milliseconds.
const COMPLAIN_MS: u64 = 1000;

/// What is known of a target's logger, and of what is sent to it again.
pub(crate) struct State {
    /// The logger.
    pub(crate) peer: Peer,
    /// When unacked records are sent again.
    pub(crate) schedule: Schedule,
    budget: Budget,
    rtt: Rtt,
}

impl State {
    fn new(settings: &Settings, shared: &Shared) -> Self {
        Self {
            peer: Peer::new(settings.dialect, settings.policy, shared.session),
            schedule: Schedule::default(),
            budget: Budget::new(settings.retransmit_rate, settings.retransmit_burst),
            rtt: Rtt::default(),
        }
    }
}

/// What the work item alone knows.
pub(crate) struct Work {
    datagram: [u8; MAX_DATAGRAM],
    /// What responses ask for that is still to be sent again.
    requested: Missing<VVec<Range>>,
    /// For a record.
    pub(crate) buffer: Buffer,
    /// When addresses were last looked at: see `target/path_refresh.rs`.
    pub(crate) followed_at: u64,
    /// When it was last seen to that all is well.
    checked_at: u64,
    /// By this socket.
    kept_alive_at: Option<u64>,
    /// Whether there has been any response.
    heard: bool,
    /// When the first record was seen to have been sent.
    sending_since: Option<u64>,
    said_silent: bool,
    said_emergency: bool,
    said_bad_at: Option<u64>,
    /// Why the socket could not be opened when that was last said.
    said_error: Option<Error>,
    /// The end of what was sent when hidden records were last looked for, and the end of those that
    /// it was told of.
    seen_end: u64,
    told_end: u64,
}

/// The part of a target that has to do with responses.
#[pin_data]
pub(crate) struct Acks {
    /// Taken inside of `device` locks and by a timer; nothing is sent while it is held.
    #[pin]
    state: SpinLockIrq<State>,
    /// Of `state`, what all that is sent depends on: see [`Self::form`].
    form: Atomic<u32>,
    /// When each of the newest records was last sent.
    last_sent: LastSent<VVec<Atomic<u64>>>,
    /// Taken inside of [`Rtnl`].
    #[pin]
    socket: Mutex<Option<Pin<KBox<UdpSocket<Wake>>>>>,
    #[pin]
    work: Mutex<Work>,
}

const FORM_NCA: u32 = 1;
const FORM_SESSION: u32 = 2;

impl Acks {
    /// A logger that has not spoken yet. Process context.
    pub(crate) fn new(settings: &Settings, shared: &Shared) -> impl PinInit<Self, Error> {
        let new = State::new(settings, shared);
        let peer = new.peer;
        try_pin_init!(Self {
            state <- new_spinlock_irq!(new, "Acks::state"),
            form: Atomic::new(form(&peer)),
            last_sent: LastSent::new(never()?),
            socket <- new_mutex!(None, "Acks::socket"),
            work <- new_mutex!(Work {
                datagram: [0; MAX_DATAGRAM],
                requested: Missing::new(VVec::from_elem(
                    Range { first: 0, last: 0 },
                    ROOM,
                    GFP_KERNEL,
                )?),
                buffer: Buffer::new()?,
                followed_at: 0,
                checked_at: 0,
                kept_alive_at: None,
                heard: false,
                sending_since: None,
                said_silent: false,
                said_emergency: false,
                said_bad_at: None,
                said_error: None,
                seen_end: 0,
                told_end: 0,
            }, "Acks::work"),
        }? Error)
    }

    /// The state. Not in NMI.
    pub(crate) fn state(&self) -> &SpinLockIrq<State> {
        &self.state
    }

    /// The last record that has been acked; [`None`] while acks are off. Process context.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.state.lock().peer.acked()
    }

    /// The dialect to speak, and whether the peer knows sessions. Any context.
    pub(crate) fn form(&self) -> (Dialect, bool) {
        let form = self.form.load(Relaxed);
        let dialect = if form & FORM_NCA != 0 {
            Dialect::Nca
        } else {
            Dialect::Ncrx
        };
        (dialect, form & FORM_SESSION != 0)
    }

    /// Notes that record `seq` is sent now. Any context.
    pub(crate) fn note_sent(&self, seq: u64) {
        self.last_sent.note(seq, now_ms());
    }

    /// What the work item alone knows; it is locked as long as that runs.
    pub(crate) fn work(&self) -> &Mutex<Work> {
        &self.work
    }

    /// Forgets all about the logger, as a target that is enabled anew does. Process context.
    pub(crate) fn reset(&self, settings: &Settings, shared: &Shared) {
        {
            let mut state = self.state.lock();
            *state = State::new(settings, shared);
            self.form.store(form(&state.peer), Relaxed);
        }
        let work = &mut *self.work.lock();
        (work.heard, work.sending_since, work.said_silent) = (false, None, false);
        (work.said_emergency, work.said_error) = (false, None);
        (work.seen_end, work.told_end, work.kept_alive_at) = (0, 0, None);
        work.requested.clear();
        self.last_sent.clear();
    }

    /// Closes the socket. Process context; may be called with [`Rtnl`] held.
    pub(crate) fn close(&self) {
        let socket = self.socket.lock().take();
        drop(socket);
    }
}

impl Word for Atomic<u64> {
    fn load(&self) -> u64 {
        Atomic::load(self, Relaxed)
    }

    fn store(&self, value: u64) {
        Atomic::store(self, value, Relaxed);
    }
}

/// The memory of a [`LastSent`].
fn never() -> Result<VVec<Atomic<u64>>> {
    let mut words = VVec::with_capacity(PLACES, GFP_KERNEL)?;
    for _ in 0..PLACES {
        words.push(Atomic::new(NEVER), GFP_KERNEL)?;
    }
    Ok(words)
}

fn form(peer: &Peer) -> u32 {
    let nca = if peer.dialect() == Dialect::Nca {
        FORM_NCA
    } else {
        0
    };
    let session = if peer.session().is_some() {
        FORM_SESSION
    } else {
        0
    };
    nca | session
}

/// Wakes a target's work item when something has arrived.
pub(crate) struct Wake(Arc<Target>);

impl Receiver for Wake {
    fn data_ready(&self) {
        Target::wake(&self.0);
    }
}

/// Does what there is to do with responses: opens the socket, takes what has arrived, and, once a
/// second, looks after the rest.
///
/// Process context; sleeps.
pub(crate) fn serve(target: &Arc<Target>, work: &mut Work, now: u64) {
    let Some(settings) = target.settings() else {
        return;
    };
    open(target, work);
    drain(target, work, &settings);
    let Ok(()) = retransmit_requested(target, work);
    if now.saturating_sub(work.checked_at) >= 1000 {
        work.checked_at = now;
        keep_alive(target, work, now, settings.keepalive_s);
        complain_of_silence(target, work, now);
        let Ok(()) = tell_of_hidden(target, work);
    }
    tell_of_emergency(target, work);
}

/// Opens the socket if it is not open. No route, or an address that is yet to come, is no reason to
/// give up: it is said once, and tried again.
fn open(target: &Arc<Target>, work: &mut Work) {
    if target.acks().socket.lock().is_some() {
        return;
    }
    let network = target.with_port(|port| Network::of(port.device()?).ok());
    let (Some(Some(network)), Some(path)) = (network, target.path()) else {
        return;
    };
    let (local, remote) = (path.local(), path.remote());
    let sockets = &target.shared().sockets;
    let socket = match UdpSocket::new(sockets, &network, local, remote, Wake(target.clone())) {
        Ok(socket) => socket,
        Err(e) => {
            if work.said_error != Some(e) {
                work.said_error = Some(e);
                let errno = e.to_errno();
                say!(
                    pr_notice,
                    target,
                    "no responses yet from {} (error {})",
                    remote,
                    errno
                );
            }
            return;
        }
    };
    drop(network);
    (work.said_error, work.kept_alive_at) = (None, None);
    // The target may have been stopped meanwhile, which closes the socket that is there, or got
    // another address.
    let rtnl = Rtnl::lock();
    if target.path() == Some(path) {
        *target.acks().socket.lock() = Some(socket);
        drop(rtnl);
    } else {
        drop(rtnl);
        drop(socket);
    }
}

/// Takes what has arrived: acks count, and requests are merged.
fn drain(target: &Arc<Target>, work: &mut Work, settings: &Settings) {
    for _ in 0..MAX_DRAIN {
        let received = match &*target.acks().socket.lock() {
            Some(socket) => socket.recv(&mut work.datagram),
            None => return,
        };
        let Work {
            datagram,
            requested,
            ..
        } = work;
        let response = match received {
            Ok(received) if received.truncated => None,
            Ok(received) => Response::parse(&datagram[..received.len]),
            Err(e) if e == EAGAIN || e == ESHUTDOWN => return,
            // Somebody has disconnected it (`ss --kill`): it is opened anew.
            Err(e) if e == ECONNABORTED => return target.acks().close(),
            // Such as an ICMP error, which comes before data that is waiting.
            Err(_) => continue,
        };
        work.heard = true;
        let now = now_ms();
        let heard = |response| hear(target, &response, settings, requested, now);
        let believed = response.is_some_and(heard);
        let stats = target.stats();
        if believed {
            stats.responses.inc();
        } else {
            stats.bad_responses.inc();
            let said = work.said_bad_at.replace(now);
            if said.is_none_or(|at| now.saturating_sub(at) >= COMPLAIN_MS) {
                if let Some(path) = target.path() {
                    say!(pr_notice, target, "bad response from {}", path.remote());
                }
            } else {
                work.said_bad_at = said;
            }
        }
    }
    // There may be more; others on the queue come first.
    Target::wake(target);
}

/// Takes a response and merges what it asks for. Returns `false`, and merges nothing, if it is not to
/// be believed.
fn hear(
    target: &Target,
    response: &Response<'_>,
    settings: &Settings,
    requested: &mut Missing<VVec<Range>>,
    now: u64,
) -> bool {
    let acks = target.acks();
    let end = Log::end();
    let requested_last = response.missing().map(|range| range.last).max();
    let verdict = {
        let mut state = acks.state.lock();
        let verdict = state.peer.respond(now, response, end);
        acks.form.store(form(&state.peer), Relaxed);
        if matches!(verdict, Verdict::Believed { forward: true, .. }) {
            state.schedule.ack(now, settings.intervals);
        }
        if let Verdict::Believed { forward, .. } = verdict {
            let acked = state.peer.acked().filter(|_| forward);
            (state.rtt).respond(now, acked, requested_last, &acks.last_sent);
        }
        verdict
    };
    let Verdict::Believed { first_ack, .. } = verdict else {
        return false;
    };
    if first_ack {
        // The words of the series of 2015.
        if let Some(path) = target.path() {
            say!(pr_info, target, "ACK timeout enabled for {}", path.remote());
        }
    }
    // What finds no room will be asked for again.
    let _ = requested.merge(response, end);
    true
}

/// Sends a part of what is asked for, as far as the budget goes: what is beyond it will be asked for
/// again.
fn retransmit_requested(target: &Arc<Target>, work: &mut Work) -> Result<(), Infallible> {
    let Work {
        requested, buffer, ..
    } = work;
    if requested.is_empty() {
        return Ok(());
    }
    let (acks, stats, log) = (target.acks(), target.stats(), &target.shared().log);
    let hold = acks.state.lock().rtt.hold();
    // All before this are gone.
    let begin = log.begin(Wait)?;
    let mut left = MAX_RETRANSMIT;
    while let Some(seq) = requested.next() {
        let is_on_its_way = |seq| {
            acks.last_sent
                .age(seq, now_ms())
                .is_some_and(|age| age < hold)
        };
        if is_on_its_way(seq) {
            continue;
        }
        target.wait_for_device();
        if !acks.state.lock().budget.allows(now_ms()) {
            stats.over_budget.add(requested.left().saturating_add(1));
            requested.clear();
            return Ok(());
        }
        // One that is still to be sent for the first time comes by itself; a hidden one does not.
        if seq >= target.sent_end() {
            let next = log.next(seq, seq.saturating_add(1), false, buffer, Wait)?;
            if next != Next::Nothing || !log.has(seq, buffer, Wait)? {
                continue;
            }
        }
        let sent = match log.get(seq, buffer, Wait)? {
            Some((record, meta)) => {
                stats.retransmitted.inc();
                target.transmit(seq, record, meta.as_ref(), SendFlags::default())
            }
            None if acks.form().1 => {
                // They are told of in one go, as far as they are asked for.
                let lost = requested.take_run(seq, begin);
                if is_on_its_way(lost.last) {
                    continue;
                }
                acks.note_sent(lost.last);
                tell_of_lost(target, buffer, lost)?
            }
            None => {
                let out = &mut [0; MAX_SUBSTITUTE];
                let record = wire::substitute(seq, out);
                stats.lost.inc();
                acks.note_sent(seq);
                target.transmit_substitute(record)
            }
        };
        let state = &mut *acks.state.lock();
        state.budget.spend(sent);
        state.rtt.resent(now_ms());
        left -= 1;
        if left == 0 {
            break;
        }
    }
    if !requested.is_empty() {
        Target::wake(target);
    }
    Ok(())
}

/// Tells a peer that knows of such that records are gone: on the next record that there is, or on
/// one before. Says how many datagrams that was.
fn tell_of_lost(target: &Target, buffer: &mut Buffer, lost: Range) -> Result<u32, Infallible> {
    let log = &target.shared().log;
    let end = target.sent_end();
    let next = match lost.last.checked_add(1) {
        Some(seq) => log.next(seq, end, false, buffer, Wait)?,
        None => Next::Nothing,
    };
    let carrier = match next {
        Next::Record(seq) => Some(seq),
        _ => log.sent_before(lost.first, Wait)?,
    };
    let Some(carrier) = carrier.or_else(|| end.checked_sub(1)) else {
        return Ok(0);
    };
    let Some((record, meta)) = log.get(carrier, buffer, Wait)? else {
        return Ok(0);
    };
    let flags = SendFlags {
        lost: Some(lost),
        ..SendFlags::default()
    };
    target
        .stats()
        .lost
        .add((lost.last - lost.first).saturating_add(1));
    Ok(target.transmit(carrier, record, meta.as_ref(), flags))
}

/// Lets a stateful firewall pass the responses, and keeps the neighbour entry fresh.
fn keep_alive(target: &Target, work: &mut Work, now: u64, keepalive_s: u32) {
    let every = u64::from(keepalive_s) * 1000;
    let since = work.kept_alive_at.map(|at| now.saturating_sub(at));
    if every == 0 || since.is_some_and(|since| since < every) {
        return;
    }
    let sent = match &*target.acks().socket.lock() {
        Some(socket) => socket.send(&[]),
        None => return,
    };
    match sent {
        Ok(_) => work.kept_alive_at = Some(now),
        // Somebody has disconnected it: it is opened anew.
        Err(e) if e == EDESTADDRREQ => target.acks().close(),
        // Such as an ICMP error of one before: this one has not been sent, and comes in a second.
        Err(_) => (),
    }
}

/// Says once if there has never been a response, although records have been sent for long.
fn complain_of_silence(target: &Target, work: &mut Work, now: u64) {
    if work.said_silent || work.heard || target.sent_seq().is_none() {
        return;
    }
    let since = *work.sending_since.get_or_insert(now);
    if now.saturating_sub(since) < SILENCE_MS {
        return;
    }
    work.said_silent = true;
    if let Some(path) = target.path() {
        let (local, remote) = (path.local(), path.remote());
        say!(
            pr_notice,
            target,
            "no response from {} for 60 s; allow udp/{} from {} if a firewall is in the way",
            remote,
            local.port(),
            remote.ip()
        );
    }
}

/// Tells a peer that knows of such of records at the end of the log that are hidden by the console
/// log level, so that it does not wait for them.
fn tell_of_hidden(target: &Target, work: &mut Work) -> Result<(), Infallible> {
    let sent_end = target.sent_end();
    let idle = core::mem::replace(&mut work.seen_end, sent_end) == sent_end;
    let idle = idle && sent_end > target.first_seq() && !target.is_behind();
    // While records are sent the next one tells.
    if !idle || !target.acks().form().1 {
        return Ok(());
    }
    let log = &target.shared().log;
    let begin = sent_end.max(work.told_end);
    let end = Log::end();
    // One that waits to be sent is not hidden.
    let end = match log.next(begin, end, false, &mut work.buffer, Wait)? {
        Next::Record(seq) | Next::NotBefore(seq) => seq,
        Next::Nothing => end,
    };
    if end <= begin {
        return Ok(());
    }
    let carrier = sent_end - 1;
    if let Some((record, meta)) = log.get(carrier, &mut work.buffer, Wait)? {
        work.told_end = end;
        let flags = SendFlags {
            skip: Some(Range {
                first: sent_end,
                last: end - 1,
            }),
            ..SendFlags::default()
        };
        target.transmit(carrier, record, meta.as_ref(), flags);
    }
    Ok(())
}

/// Says when an emergency transmission has begun and when it has ended.
fn tell_of_emergency(target: &Target, work: &mut Work) {
    let (now, ended, ack) = {
        let state = target.acks().state.lock();
        let schedule = &state.schedule;
        let ack = state.peer.acked().unwrap_or(0);
        (schedule.is_emergency(), schedule.ended(), ack)
    };
    if core::mem::replace(&mut work.said_emergency, now) == now {
        return;
    }
    if now {
        let unacked = target.sent_end().saturating_sub(ack.saturating_add(1));
        say!(
            pr_warn,
            target,
            "emergency transmission started, {} records unacked",
            unacked
        );
    } else {
        let Tally { rounds, sent } = ended;
        say!(
            pr_info,
            target,
            "emergency transmission ended, {} records sent in {} rounds",
            sent,
            rounds
        );
    }
}
