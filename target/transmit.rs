// SPDX-License-Identifier: GPL-2.0

//! Transmission of records to a target: for the first time, in their order, and again.

use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::{
        atomic::Relaxed,
        lock::spinlock::{
            SpinLockGuard,
            SpinLockIrqGuard, //
        },
        rcu,
        Arc, //
    },
};

use crate::{
    crash::mark,
    log::Log,
    params,
    proto::{
        extradata::{
            sysdata,
            Context,
            MAX_SYSDATA, //
        },
        parts::parts,
        ring::Meta,
        wire::{
            Datagrams,
            Extra,
            Form,
            Range,
            Record,
            MAX_DATAGRAM, //
        }, //
    },
    sys::{
        kmsg,
        time::now_ms,
        utsname, //
    },
    target::{
        port::Port,
        stats::TxError,
        Link,
        Target, //
    },
    test_hooks, //
};

/// The marks in a record's header, and what else depends on why it is sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct SendFlags {
    /// The record is sent because no ack has come.
    pub(crate) emergency: bool,
    /// The record belongs to a crash that the machine may end with.
    pub(crate) crash: bool,
    /// The record has been asked for.
    pub(crate) answer: bool,
    /// Hidden records to tell of.
    pub(crate) skip: Option<Range>,
    /// Lost records to tell of.
    pub(crate) lost: Option<Range>,
}

/// A record that the console has been given.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Its number.
    pub(crate) seq: u64,
    /// The facts that are kept with it.
    pub(crate) meta: &'a Meta,
    /// The time, in milliseconds.
    pub(crate) now: u64,
    /// The proof that interrupts are off.
    pub(crate) off: &'a LocalInterruptDisabled,
    /// Whether there may be no later, as in a panic; then the context is any, else any but NMI.
    pub(crate) at_once: bool,
    /// The record has not been sent, as far as the log can tell, although later ones have.
    pub(crate) late: bool,
    /// The record is about a response: see `proto/echo.rs`.
    pub(crate) echo: bool,
}

/// A record on its way to a target.
struct Transmission<'a> {
    link: Link<'a>,
    seq: u64,
    record: &'a [u8],
    meta: Option<&'a Meta>,
    /// The time, in milliseconds.
    now: u64,
}

/// The permission to transmit records for the first time: printk's thread, the work item and the
/// timers take it by turns.
pub(crate) enum TxPermit<'a> {
    /// The lock, waited for.
    Waited(#[expect(dead_code)] SpinLockIrqGuard<'a, ()>),
    /// The same, with interrupts off already.
    WaitedOff(#[expect(dead_code)] SpinLockGuard<'a, ()>),
    /// The lock, which was free.
    Tried(#[expect(dead_code)] SpinLockGuard<'a, ()>),
    /// None, in a panic: the CPU that holds the lock may be stopped for good.
    Taken,
}

impl SendFlags {
    /// Those of a record that has been asked for.
    pub(crate) const ANSWER: Self = Self {
        emergency: false,
        crash: false,
        answer: true,
        skip: None,
        lost: None,
    };
}

impl Target {
    /// Transmits one record of a basic target, as printk has formatted it. Contexts as
    /// [`Port::send`].
    pub(crate) fn transmit_basic(&self, link: Link<'_>, text: &[u8]) {
        for part in parts(text, MAX_DATAGRAM) {
            let sent = link.send(part.len(), &mut |out| out.copy_from_slice(part));
            self.stats.count(sent);
        }
        self.stats.records.inc();
    }

    /// Transmits a record in the extended format, as printk has given it to the console, unless it
    /// has been sent.
    pub(crate) fn transmit_from_console(
        this: &Arc<Self>,
        link: Link<'_>,
        record: &[u8],
        given: &Given<'_>,
    ) {
        let seq = given.seq;
        let transmission = Transmission {
            link,
            seq,
            record,
            meta: Some(given.meta),
            now: given.now,
        };
        if given.late && seq < this.sent_end() {
            if seq >= this.first_seq() {
                this.send_with_extradata(&transmission, SendFlags::default());
                this.stats.records.inc();
            }
            return;
        }
        let permit = match given.at_once {
            false => {
                let permit = TxPermit::WaitedOff(this.tx_lock.lock_with(given.off));
                if this.is_held_back(given.echo) | this.is_left_to_backlog(seq, link) {
                    let end = seq.saturating_add(1).max(this.left_end(&permit));
                    this.left_end.store(end, Relaxed);
                    return Self::wake(this);
                }
                permit
            }
            // The records before it come first: all are sent from printk's buffer in a moment.
            true if this.is_behind() => return,
            true => this.try_tx_permit(given.off).unwrap_or(TxPermit::Taken),
        };
        this.send_first(&transmission, SendFlags::default(), &permit);
    }

    /// Returns whether record `seq` has to wait for others, which the work item sends: see
    /// `target/catch_up.rs`.
    fn is_left_to_backlog(&self, seq: u64, link: Link<'_>) -> bool {
        // An oops does not wait for records that are not to be sent.
        if params::OOPS_ONLY.value() {
            return false;
        }
        // The records between are hidden, and wanted.
        if seq > self.sent_end() && link.port.config().settings.full_log {
            self.behind.store(true, Relaxed);
        }
        // A record sent without a link is lost, and nobody may ask for it. A slow device must not
        // make printk's thread, and so all other targets, as slow as itself.
        if !link.port.has_link() || link.port.is_congested(link.guard) {
            self.behind.store(true, Relaxed);
        }
        self.is_behind()
    }

    /// Returns whether a record waits since it is about a response. Any other ends the wait. Any
    /// context but NMI, with interrupts off.
    fn is_held_back(&self, echo: bool) -> bool {
        let held = self.held.load(Relaxed);
        // A record that waits for something else needs no other wait.
        if !held && (!echo || self.is_behind()) {
            return false;
        }
        let now = now_ms();
        let last = self.sent_end().saturating_sub(1);
        let idle = self.acks.last_sent.age(last, now).unwrap_or(u64::MAX);
        let hold = &mut self.acks.state().lock().hold;
        let waits = echo && hold.log(now, idle);
        if !echo {
            hold.end();
        }
        self.held.store(waits, Relaxed);
        if waits {
            self.behind.store(true, Relaxed);
        }
        waits
    }

    /// Returns whether the backlog waits since it begins with a record about a response; returns
    /// `false` once, for that record, when its time is over. Process context.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Relaxed) && self.acks.state().lock().hold.holds(now_ms())
    }

    /// Ends the wait of records about responses. Returns whether there was one. Process context.
    pub(crate) fn clear_hold(&self) -> bool {
        let held = self.held.xchg(false, Relaxed);
        if held {
            self.acks.state().lock().hold.end();
        }
        held
    }

    /// Ends the wait of records about responses, which are sent: there may be no later. Process
    /// context.
    pub(crate) fn end_hold(this: &Arc<Self>) {
        if this.clear_hold() {
            Self::wake(this);
        }
    }

    /// Returns whether records wait that are about responses, and no other: printk's thread has
    /// seen them all. Any context.
    pub(crate) fn has_only_held(&self) -> bool {
        self.held.load(Relaxed) && Log::end() <= self.left_end.load(Relaxed)
    }

    /// Returns whether its device has a link: see [`Port::has_link`]. Any context.
    pub(crate) fn has_link(&self) -> bool {
        self.with_port(Port::has_link) == Some(true)
    }

    /// Returns whether there is a backlog. Any context.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Relaxed)
    }

    /// Returns the number after the last record that the console has left to the backlog; 0 if it
    /// has left none. With the permit none is left meanwhile.
    pub(crate) fn left_end(&self, _permit: &TxPermit<'_>) -> u64 {
        self.left_end.load(Relaxed)
    }

    /// Sets whether there is a backlog.
    pub(crate) fn set_behind(&self, behind: bool, _permit: &TxPermit<'_>) {
        self.behind.store(behind, Relaxed);
    }

    /// Waits for the permit to transmit records for the first time. Any context but hardirq and
    /// NMI.
    pub(crate) fn tx_permit(&self) -> TxPermit<'_> {
        TxPermit::Waited(self.tx_lock.lock())
    }

    /// Returns the permit to transmit records for the first time; [`None`] while it is taken. Any
    /// context that has interrupts off.
    pub(crate) fn try_tx_permit<'a>(
        &'a self,
        off: &'a LocalInterruptDisabled,
    ) -> Option<TxPermit<'a>> {
        self.tx_lock.try_lock_with(off).map(TxPermit::Tried)
    }

    /// Transmits record `seq` for the first time, unless that has been done. The next one is `seq +
    /// 1` then. As [`Self::transmit`].
    pub(crate) fn transmit_first(
        &self,
        seq: u64,
        record: &[u8],
        meta: Option<&Meta>,
        flags: SendFlags,
        permit: &TxPermit<'_>,
    ) {
        let guard = rcu::read_lock();
        // A target that has just been stopped goes on with this record when it is started again.
        if let Some(link) = self.link(&guard) {
            let transmission = Transmission {
                link,
                seq,
                record,
                meta,
                now: now_ms(),
            };
            self.send_first(&transmission, flags, permit);
        }
    }

    #[inline]
    fn send_first(
        &self,
        transmission: &Transmission<'_>,
        mut flags: SendFlags,
        permit: &TxPermit<'_>,
    ) {
        let (seq, end) = (transmission.seq, self.sent_end());
        if seq < end {
            return;
        }
        if matches!(permit, TxPermit::Waited(_) | TxPermit::WaitedOff(_)) {
            test_hooks::tx_permit();
        }
        // The console has not been given the records between: they are hidden or lost.
        if end > 0 && seq > end && self.acks.form().1 {
            let begin = kmsg::lost_before().clamp(end, seq);
            let range = |first: u64, next: u64| {
                (first < next).then(|| Range {
                    first,
                    last: next - 1,
                })
            };
            flags.lost = range(end, begin);
            flags.skip = range(begin, seq);
        }
        self.send_with_extradata(transmission, flags);
        self.stats.records.inc();
        self.sent_end.store(seq.saturating_add(1), Relaxed);
    }

    /// Transmits record `seq`, for the first time or again; returns the number of datagrams.
    /// Contexts as [`Port::send`].
    ///
    /// Without `meta`, lines whose values depend on it are left out.
    pub(crate) fn transmit(
        &self,
        seq: u64,
        record: &[u8],
        meta: Option<&Meta>,
        flags: SendFlags,
    ) -> u32 {
        let guard = rcu::read_lock();
        let Some(link) = self.link(&guard) else {
            self.acks.note_sent(seq, now_ms());
            self.stats.count(Err(TxError::Down));
            return 0;
        };
        let transmission = Transmission {
            link,
            seq,
            record,
            meta,
            now: now_ms(),
        };
        self.send_with_extradata(&transmission, flags)
    }

    #[inline]
    fn send_with_extradata(&self, transmission: &Transmission<'_>, mut flags: SendFlags) -> u32 {
        let &Transmission {
            link,
            seq,
            record,
            meta,
            now,
        } = transmission;
        self.acks.note_sent(seq, now);
        flags.crash |= mark::MARK.has(seq);
        let (user, fields) = self.extradata.of(seq, link.guard);
        if fields.is_empty() {
            return self.send_datagrams(&link, record, Extra { user, sys: &[] }, &flags);
        }
        let origin = meta.and_then(|meta| meta.origin.as_ref());
        let context = Context {
            cpu: origin.map(|origin| origin.cpu),
            comm: origin.map(|origin| &origin.comm),
            release: utsname::release().to_bytes(),
            msgid: meta.and_then(|meta| self.extradata.msgid(meta.nth)),
        };
        let room = &mut [0; MAX_SYSDATA];
        let sys = sysdata(fields, &context, room);
        self.send_datagrams(&link, record, Extra { user, sys }, &flags)
    }

    /// Transmits a substitute for a lost record, without extradata. As [`Self::transmit`].
    pub(crate) fn transmit_substitute(&self, record: &[u8]) -> u32 {
        let guard = rcu::read_lock();
        let Some(link) = self.link(&guard) else {
            self.stats.count(Err(TxError::Down));
            return 0;
        };
        self.send_datagrams(&link, record, Extra::default(), &SendFlags::default())
    }

    fn send_datagrams(
        &self,
        link: &Link<'_>,
        record: &[u8],
        extra: Extra<'_>,
        flags: &SendFlags,
    ) -> u32 {
        let (mut dialect, sessions) = self.acks.form();
        if flags.answer {
            dialect = self.acks.answer_dialect();
        }
        let release = link.port.config().target.release;
        let form = Form {
            dialect,
            release: release.then(|| utsname::release().to_bytes()),
            emergency: flags.emergency,
            session: sessions.then_some(self.shared.session),
            crash: flags.crash && sessions,
            skip: flags.skip,
            lost: flags.lost,
            extra,
        };
        // Not moved out of its place: it has hundreds of bytes.
        let datagrams = match Record::parse(record) {
            Ok(record) => Datagrams::new(record, form),
            Err(e) => Err(e),
        };
        let Ok(datagrams) = &datagrams else {
            self.stats.bad.inc();
            return 0;
        };
        let mut count: u32 = 0;
        for datagram in datagrams.iter() {
            let sent = link.send(datagram.len(), &mut |out| datagram.write(out));
            self.stats.count(sent);
            count = count.saturating_add(1);
        }
        count
    }
}

impl Link<'_> {
    /// As [`Port::send`].
    fn send(&self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> Result<(), TxError> {
        self.port.send(self.headers, len, write, self.guard)
    }
}
