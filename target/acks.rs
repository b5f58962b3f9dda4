// SPDX-License-Identifier: GPL-2.0

//! What a target knows of its logger, and of what it was sent: the state behind `ack.rs`.
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
    log::Buffer,
    proto::{
        budget::Budget,
        config::Settings,
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

/// What is known of a target's logger, and of what is sent to it again.
pub(crate) struct State {
    /// The logger.
    pub(crate) peer: Peer,
    /// When unacked records are sent again.
    pub(crate) schedule: Schedule,
    /// How much may be sent again.
    pub(crate) budget: Budget,
    /// How long a round trip takes.
    pub(crate) rtt: Rtt,
}

impl State {
    fn new(settings: &Settings, session: Session) -> Self {
        Self {
            peer: Peer::new(settings.dialect, settings.policy, session),
            schedule: Schedule::default(),
            budget: Budget::new(settings.retransmit_rate, settings.retransmit_burst),
            rtt: Rtt::default(),
        }
    }
}

/// What the work item alone knows.
pub(crate) struct Work {
    /// For a datagram from the socket.
    pub(crate) datagram: [u8; MAX_DATAGRAM],
    /// What responses ask for that is still to be sent again.
    pub(crate) requested: Missing<VVec<Range>>,
    /// For a record.
    pub(crate) buffer: Buffer,
    /// When addresses were last looked at: see `target/path_refresh.rs`.
    pub(crate) followed_at: u64,
    /// When it was last seen to that all is well.
    pub(crate) checked_at: u64,
    /// By this socket.
    pub(crate) kept_alive_at: Option<u64>,
    /// Whether there has been any response.
    pub(crate) heard: bool,
    /// When the first record was seen to have been sent.
    pub(crate) sending_since: Option<u64>,
    /// What has been said in the log, and when.
    pub(crate) said_silent: bool,
    pub(crate) said_emergency: bool,
    pub(crate) said_bad_at: Option<u64>,
    /// Why the socket could not be opened when that was last said.
    pub(crate) said_error: Option<Error>,
    /// The end of what was sent when hidden records were last looked for, and the end of those that
    /// it was told of.
    pub(crate) seen_end: u64,
    pub(crate) told_end: u64,
}

/// The part of a target that has to do with responses.
#[pin_data]
pub(crate) struct Acks<R: Receiver> {
    /// Taken inside of `device` locks and by a timer; nothing is sent while it is held.
    #[pin]
    state: SpinLockIrq<State>,
    /// Of `state`, what all that is sent depends on: see [`Self::form`].
    form: Atomic<u32>,
    /// When each of the newest records was last sent.
    pub(crate) last_sent: LastSent<VVec<Atomic<u64>>>,
    /// Taken inside of `Rtnl`.
    #[pin]
    pub(crate) socket: Mutex<Option<Pin<KBox<UdpSocket<R>>>>>,
    #[pin]
    work: Mutex<Work>,
}

const FORM_NCA: u32 = 1;
const FORM_SESSION: u32 = 2;

impl<R: Receiver> Acks<R> {
    /// A logger that has not spoken yet. Process context.
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

    /// Takes over what the peer, which has just been heard, changes about all that is sent. Not in
    /// NMI.
    pub(crate) fn set_form(&self, peer: &Peer) {
        self.form.store(form(peer), Relaxed);
    }

    /// Notes that record `seq` is sent now. Any context.
    pub(crate) fn note_sent(&self, seq: u64) {
        self.last_sent.note(seq, now_ms());
    }

    /// Returns whether record `seq` was sent, or told to be gone, in the last `ms` milliseconds.
    /// Any context.
    pub(crate) fn was_sent_within(&self, ms: u64, seq: u64) -> bool {
        let age = self.last_sent.age(seq, now_ms());
        age.is_some_and(|age| age < ms)
    }

    /// What the work item alone knows; it is locked as long as that runs.
    pub(crate) fn work(&self) -> &Mutex<Work> {
        &self.work
    }

    /// Forgets all about the logger, as a target that is enabled anew does. Process context.
    pub(crate) fn reset(&self, settings: &Settings, session: Session) {
        {
            let mut state = self.state.lock();
            *state = State::new(settings, session);
            self.form.store(form(&state.peer), Relaxed);
        }
        let work = &mut *self.work.lock();
        (work.heard, work.sending_since, work.said_silent) = (false, None, false);
        (work.said_emergency, work.said_error) = (false, None);
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
