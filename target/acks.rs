// SPDX-License-Identifier: GPL-2.0

//! The state of responses: a target's logger, its socket, and the requests to be answered. `ack.rs`
//! works on it.
//!
//! | lock | taken | inside of |
//! |---|---|---|
//! | `Acks::state` | waited for in process context, tried by timers and in a crash | locks of devices |
//! | `Acks::socket` | process context | `Acks::work`, `Rtnl` |
//! | `Acks::work` | process context, for as long as the work item runs | none |

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        new_spinlock_irq,
        Mutex,
        SpinLockIrq, //
    },
};

use crate::{
    proto::{
        budget::Budget,
        config::Settings,
        echo::Hold,
        emg_schedule::Schedule,
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
        peer::Peer,
        rtt::Rtt,
        wire::{
            Dialect,
            Range,
            Session,
            MAX_DATAGRAM, //
        }, //
    },
    sys::{
        socket::{
            Receiver,
            UdpSocket, //
        },
        time::now_ms, //
    }, //
};

/// The state of a logger and of retransmission to it.
pub(crate) struct State {
    /// The logger, as its responses tell.
    pub(crate) peer: Peer,
    /// The schedule of emergency transmission.
    pub(crate) schedule: Schedule,
    /// The budget of retransmissions on request.
    pub(crate) budget: Budget,
    /// The round trip time.
    pub(crate) rtt: Rtt,
    /// The wait of records about responses.
    pub(crate) hold: Hold,
}

impl State {
    fn new(settings: &Settings, session: Session) -> Self {
        Self {
            peer: Peer::new(settings.dialect, settings.policy, session),
            schedule: Schedule::default(),
            budget: Budget::new(settings.retransmit_rate, settings.retransmit_burst),
            rtt: Rtt::default(),
            hold: Hold::default(),
        }
    }
}

/// The state that only the work item uses.
pub(crate) struct Work {
    /// Room for a datagram from the socket.
    pub(crate) datagram: [u8; MAX_DATAGRAM],
    /// The requests that are still to be answered.
    pub(crate) requested: Missing<VVec<Range>>,
    /// The time of the last look at addresses: see `target/path_refresh.rs`.
    pub(crate) followed_at: u64,
    /// Whether all addresses were known then.
    pub(crate) path_is_known: bool,
    /// The time of the last check of the rest, once a second.
    pub(crate) checked_at: u64,
    /// The time of the last keepalive by this socket.
    pub(crate) kept_alive_at: Option<u64>,
    /// Whether any response has come.
    pub(crate) heard: bool,
    /// The time at which the first record was seen to have been sent.
    pub(crate) sending_since: Option<u64>,
    /// Lines that have been logged, and when.
    pub(crate) said_silent: bool,
    pub(crate) said_emergency: bool,
    pub(crate) said_given_up: bool,
    pub(crate) said_bad_at: Option<u64>,
    /// The last error of opening the socket that was logged.
    pub(crate) said_error: Option<Error>,
    /// The end of what was sent at the last look for hidden records, and the end of those that the
    /// peer was told of.
    pub(crate) seen_end: u64,
    pub(crate) told_end: u64,
}

/// The part of a target for responses.
#[pin_data]
pub(crate) struct Acks<R: Receiver> {
    /// Taken inside of `device` locks and by a timer; nothing is sent while it is held.
    #[pin]
    state: SpinLockIrq<State>,
    /// The part of `state` that every transmission depends on: see [`Self::form`].
    form: Atomic<u32>,
    /// The times at which the newest records were last sent.
    pub(crate) last_sent: LastSent<VVec<Atomic<u64>>>,
    /// Taken inside of `Rtnl`.
    #[pin]
    pub(crate) socket: Mutex<Option<Pin<KBox<UdpSocket<R>>>>>,
    #[pin]
    work: Mutex<Work>,
}

const FORM_NCA: u32 = 1;
const FORM_SESSION: u32 = 2;
const FORM_ANSWER_NCA: u32 = 4;

impl<R: Receiver> Acks<R> {
    /// Returns the state for a logger that has not responded yet. Process context.
    pub(crate) fn new(settings: &Settings, session: Session) -> impl PinInit<Self, Error> {
        let new = State::new(settings, session);
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
                followed_at: 0,
                path_is_known: false,
                checked_at: 0,
                kept_alive_at: None,
                heard: false,
                sending_since: None,
                said_silent: false,
                said_emergency: false,
                said_given_up: false,
                said_bad_at: None,
                said_error: None,
                seen_end: 0,
                told_end: 0,
            }, "Acks::work"),
        }? Error)
    }

    /// Returns the state. Not in NMI.
    pub(crate) fn state(&self) -> &SpinLockIrq<State> {
        &self.state
    }

    /// Returns the last record that has been acked; [`None`] while acks are off. Process context.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.state.lock().peer.acked()
    }

    /// Returns the dialect to send in, and whether the peer knows sessions. Any context.
    pub(crate) fn form(&self) -> (Dialect, bool) {
        let form = self.form.load(Relaxed);
        (dialect(form & FORM_NCA != 0), form & FORM_SESSION != 0)
    }

    /// Returns the dialect to answer requests in. Any context.
    pub(crate) fn answer_dialect(&self) -> Dialect {
        dialect(self.form.load(Relaxed) & FORM_ANSWER_NCA != 0)
    }

    /// Takes over what a response has changed for every transmission. Not in NMI.
    pub(crate) fn set_form(&self, peer: &Peer) {
        self.form.store(form(peer), Relaxed);
    }

    /// Notes that record `seq` is sent now, in milliseconds. Any context.
    pub(crate) fn note_sent(&self, seq: u64, now: u64) {
        self.last_sent.note(seq, now);
    }

    /// Returns whether record `seq` was sent, or reported as lost, in the last `ms` milliseconds.
    /// Any context.
    pub(crate) fn was_sent_within(&self, ms: u64, seq: u64) -> bool {
        let age = self.last_sent.age(seq, now_ms());
        age.is_some_and(|age| age < ms)
    }

    /// Returns the state that only the work item uses, locked as long as that runs.
    pub(crate) fn work(&self) -> &Mutex<Work> {
        &self.work
    }

    /// Forgets the logger, as a target that is enabled anew does. Process context.
    pub(crate) fn reset(&self, settings: &Settings, session: Session) {
        {
            let mut state = self.state.lock();
            *state = State::new(settings, session);
            self.form.store(form(&state.peer), Relaxed);
        }
        let work = &mut *self.work.lock();
        (work.heard, work.sending_since, work.said_silent) = (false, None, false);
        (work.said_emergency, work.said_given_up) = (false, false);
        work.said_error = None;
        (work.seen_end, work.told_end, work.kept_alive_at) = (0, 0, None);
        work.requested.clear();
        self.last_sent.clear();
    }

    /// Closes the socket. Process context; may be called with `Rtnl` held.
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
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(peer.dialect() == Dialect::Nca, FORM_NCA)
        | bit(peer.session().is_some(), FORM_SESSION)
        | bit(peer.answer_dialect() == Dialect::Nca, FORM_ANSWER_NCA)
}

fn dialect(nca: bool) -> Dialect {
    if nca {
        Dialect::Nca
    } else {
        Dialect::Ncrx
    }
}
