// SPDX-License-Identifier: GPL-2.0

//! Responses: acks, and retransmission of requested records.
//!
//! A response wakes a target's work item, which runs in process context. It drains the socket
//! without blocking, merges the requests, and sends a part of the records; then other work on the
//! queue has its turn, and the work item looks into the socket again. A record that was sent less
//! than a round trip ago is on its way, and not sent again. So requests that wait, however many,
//! cost no more than one.
//!
//! Once a second the work item also opens the socket if that failed before, sends a keepalive if
//! one is due, and logs changes. The first transmission of records does not depend on any of this.

use core::convert::Infallible;

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    log::{
        access::Wait,
        Buffer,
        Log, //
    },
    proto::{
        config::Settings,
        emg_schedule::{
            Tally,
            GIVE_UP_MS,
            MAX_GIVEN_UP_MS, //
        },
        last_sent,
        missing::Missing,
        peer::Verdict,
        response::Response,
        ring::Next,
        wire::{
            self,
            Range,
            MAX_SUBSTITUTE, //
        }, //
    },
    sys::{
        netdev::{
            NetDevice,
            Rtnl, //
        },
        network::Network,
        socket::UdpSocket,
        time::now_ms, //
    },
    target::{
        acks::Work,
        say,
        SendFlags,
        Target,
        Wake,
        CHECK_MS,
        NEVER, //
    }, //
};

/// The most datagrams that are taken from the socket before other work has its turn.
const MAX_DRAIN: usize = 256;

/// The most errors of the socket that are taken from it before other work has its turn, and the
/// socket its rest: an error that repeats must not keep the work item busy.
const MAX_ERRORS: usize = 16;

/// The most records that are sent again before the socket is looked at again: a request counts from
/// when it is taken out.
const MAX_RETRANSMIT: usize = 32;

/// How long a target may send without a response before that is logged, once, in milliseconds.
const SILENCE_MS: u64 = 60_000;

/// The shortest time between two lines in the log about bad responses, in milliseconds.
const COMPLAIN_MS: u64 = 1000;

/// Handles responses: opens the socket, takes what has arrived, and, once a second, does the rest.
/// Returns the time by which it has something to do again, in milliseconds, or [`NEVER`].
///
/// Process context; sleeps.
pub(crate) fn serve(target: &Arc<Target>, work: &mut Work, now: u64) -> u64 {
    let Some(settings) = target.settings() else {
        return NEVER;
    };
    open(target, work);
    drain(target, work, &settings);
    let Ok(()) = retransmit_requested(target, work);
    if now.saturating_sub(work.checked_at) >= CHECK_MS {
        work.checked_at = now;
        keep_alive(target, work, now, settings.keepalive_s);
        complain_of_silence(target, work, now);
        let Ok(()) = tell_of_hidden(target, work);
    }
    tell_of_emergency(target, work);
    due(target, work, &settings).max(work.checked_at.saturating_add(CHECK_MS))
}

/// Returns the time by which the work item has something to do again: the socket is to be opened,
/// a keepalive is due, silence is to be told of, or records wait for an ack, which the timer has to
/// know of.
fn due(target: &Target, work: &Work, settings: &Settings) -> u64 {
    let acked = target.acks().state().lock().peer.acked();
    let all_acked = acked.is_none_or(|ack| ack.saturating_add(1) >= target.sent_end());
    if target.acks().socket.lock().is_none() || !all_acked {
        return 0;
    }
    let every = u64::from(settings.keepalive_s) * 1000;
    let keepalive = work.kept_alive_at.map_or(0, |at| at.saturating_add(every));
    let keepalive = if every > 0 { keepalive } else { NEVER };
    let silence = work.sending_since.map(|at| at.saturating_add(SILENCE_MS));
    let silence = silence.filter(|_| !work.said_silent && !work.heard);
    keepalive.min(silence.unwrap_or(NEVER))
}

/// Opens the socket if it is not open. Without a route or an address it is logged once, and tried
/// again.
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
    let vrf = network.vrf();
    drop(network);
    (work.said_error, work.kept_alive_at) = (None, None);
    // The target may have been stopped meanwhile, which closes the socket that is there, or have
    // another address, or the device another VRF.
    let rtnl = Rtnl::lock();
    let now_in = target.with_port(|port| port.device().map(NetDevice::vrf));
    if target.path() == Some(path) && now_in == Some(Some(vrf)) {
        *target.acks().socket.lock() = Some(socket);
        drop(rtnl);
    } else {
        drop(rtnl);
        drop(socket);
    }
}

/// Drains the socket: takes acks, and merges requests.
fn drain(target: &Arc<Target>, work: &mut Work, settings: &Settings) {
    let mut errors = 0;
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
            // The socket has been disconnected (`ss --kill`): it is opened anew.
            Err(e) if e == ECONNABORTED => return target.acks().close(),
            // For example an ICMP error, which comes before waiting data. The rest is looked at
            // with the next arrival, or in a second.
            Err(_) => {
                errors += 1;
                if errors >= MAX_ERRORS {
                    return;
                }
                continue;
            }
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
    // There may be more. Other work on the queue comes first.
    Target::wake(target);
}

/// Takes a response and merges its requests. Returns `false`, and merges nothing, if it is not
/// believed.
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
        let mut state = acks.state().lock();
        let verdict = state.peer.respond(now, response, end);
        acks.set_form(&state.peer);
        if let Verdict::Believed { forward, .. } = verdict {
            state.schedule.respond(now, settings.intervals);
            if forward {
                state.schedule.ack(now, settings.intervals);
            }
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
    // Requests without room will come again.
    let _ = requested.merge(response, end);
    true
}

/// Sends a part of the requested records, as far as the budget goes. Requests beyond it are
/// dropped, and will come again.
fn retransmit_requested(target: &Arc<Target>, work: &mut Work) -> Result<(), Infallible> {
    let requested = &mut work.requested;
    if requested.is_empty() {
        return Ok(());
    }
    let buffer = &mut *target.shared().buffer.lock();
    let acks = target.acks();
    let hold = acks.state().lock().rtt.hold();
    // All records before this are lost.
    let begin = target.shared().log.begin(Wait)?;
    let mut left = MAX_RETRANSMIT;
    while !requested.is_empty() && !target.leaves_to_timer() {
        let Some(seq) = requested.next() else { break };
        if acks.was_sent_within(hold, seq) || is_still_to_come(target, seq, buffer)? {
            continue;
        }
        if !acks.state().lock().budget.allows(now_ms()) {
            let left = requested.left().saturating_add(1);
            target.stats().over_budget.add(left);
            requested.clear();
            break;
        }
        let sent = answer(target, seq, begin, hold, requested, buffer)?;
        let state = &mut *acks.state().lock();
        state.budget.spend(sent);
        state.rtt.resent(now_ms());
        left -= 1;
        if left == 0 {
            Target::wake(target);
            break;
        }
    }
    Ok(())
}

/// Returns whether record `seq` is still to be sent for the first time, which happens by itself,
/// unless it is hidden.
fn is_still_to_come(target: &Target, seq: u64, buffer: &mut Buffer) -> Result<bool, Infallible> {
    if seq < target.sent_end() {
        return Ok(false);
    }
    let log = &target.shared().log;
    let next = log.next(seq, seq.saturating_add(1), false, buffer, Wait)?;
    Ok(next != Next::Nothing || !log.has(seq, buffer, Wait)?)
}

/// Answers the request for record `seq` with the record, several times if that was in vain before,
/// or with the notice that it is lost.
/// Returns the number of datagrams.
fn answer(
    target: &Target,
    seq: u64,
    begin: u64,
    hold: u64,
    requested: &mut Missing<VVec<Range>>,
    buffer: &mut Buffer,
) -> Result<u32, Infallible> {
    let (acks, stats) = (target.acks(), target.stats());
    if let Some((record, meta)) = target.shared().log.get(seq, buffer, Wait)? {
        let mut sent = 0u32;
        for _ in 0..copies(target, seq) {
            stats.retransmitted.inc();
            let datagrams = target.transmit(seq, record, meta.as_ref(), SendFlags::ANSWER);
            sent = sent.saturating_add(datagrams);
        }
        return Ok(sent);
    }
    let (_, knows_lost) = acks.form();
    if !knows_lost {
        let out = &mut [0; MAX_SUBSTITUTE];
        stats.lost.inc();
        acks.note_sent(seq, now_ms());
        return Ok(target.transmit_substitute(wire::substitute(seq, out)));
    }
    // One notice for all lost records, as far as they are asked for.
    let lost = requested.take_run(seq, begin);
    if acks.was_sent_within(hold, lost.last) {
        return Ok(0);
    }
    acks.note_sent(lost.last, now_ms());
    tell_of_lost(target, buffer, lost)
}

/// Returns how often at a time to send record `seq`. A logger that acks may lack it though it was
/// sent many times; whoever asks for what it has acked needs no more than one.
fn copies(target: &Target, seq: u64) -> u32 {
    let acks = target.acks();
    let acked = acks.state().lock().peer.acked();
    let lacks = acked.is_some_and(|ack| seq > ack);
    last_sent::copies(if lacks { acks.last_sent.times(seq) } else { 0 })
}

/// Tells a peer that knows `nclost` of lost records: on the next record that there is, or on one
/// before. Returns the number of datagrams.
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
        ..SendFlags::ANSWER
    };
    target
        .stats()
        .lost
        .add((lost.last - lost.first).saturating_add(1));
    Ok(target.transmit(carrier, record, meta.as_ref(), flags))
}

/// Sends a keepalive if one is due: it lets a stateful firewall pass responses, and keeps the
/// neighbour entry fresh.
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
        // The socket has been disconnected: it is opened anew.
        Err(e) if e == EDESTADDRREQ => target.acks().close(),
        // For example the ICMP error of an earlier one. This one has not been sent, and comes in a
        // second.
        Err(_) => (),
    }
}

/// Logs once that no response has come although records have been sent for long.
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

/// Tells a peer that knows `ncskip` of hidden records at the end of the log, so that it does not
/// wait for them.
fn tell_of_hidden(target: &Target, work: &mut Work) -> Result<(), Infallible> {
    let sent_end = target.sent_end();
    let idle = core::mem::replace(&mut work.seen_end, sent_end) == sent_end;
    let idle = idle && sent_end > target.first_seq() && !target.is_behind();
    // The next record tells, if there is one.
    if !idle || !target.acks().form().1 {
        return Ok(());
    }
    let log = &target.shared().log;
    let buffer = &mut *target.shared().buffer.lock();
    let begin = sent_end.max(work.told_end);
    let end = Log::end();
    // A record that waits to be sent is not hidden.
    let end = match log.next(begin, end, false, buffer, Wait)? {
        Next::Record(seq) | Next::NotBefore(seq) => seq,
        Next::Nothing => end,
    };
    if end <= begin {
        return Ok(());
    }
    let carrier = sent_end - 1;
    if let Some((record, meta)) = log.get(carrier, buffer, Wait)? {
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

/// Logs when an emergency transmission begins, slows down or ends.
fn tell_of_emergency(target: &Target, work: &mut Work) {
    let (now, given_up, ended, ack) = {
        let state = target.acks().state().lock();
        let schedule = &state.schedule;
        let ack = state.peer.acked().unwrap_or(0);
        let (now, given_up) = (schedule.is_emergency(), schedule.is_given_up());
        (now, given_up, schedule.ended(), ack)
    };
    if !core::mem::replace(&mut work.said_given_up, given_up) && given_up {
        say!(
            pr_warn,
            target,
            "no response for {} s: emergency transmission slows down to a record in {} s",
            GIVE_UP_MS / 1000,
            MAX_GIVEN_UP_MS / 1000
        );
    }
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
