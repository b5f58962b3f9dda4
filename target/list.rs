// SPDX-License-Identifier: GPL-2.0

//! The list of all targets, read without a lock by every sender.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        rcu,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

use crate::{
    proto::echo::Packet,
    sys::{
        netdev::NetDevice,
        rcu::RcuOption,
        time::now_ms, //
    },
    target::{
        port::Pool,
        Target, //
    },
};

/// The longest time that the end of targets waits for their backlogs, in milliseconds.
pub(crate) const MAX_BACKLOG_WAIT_MS: u64 = 400;

/// The longest time that printk's thread waits for the devices of basic targets, in milliseconds:
/// netpoll tries a device again that often.
const MAX_WAIT_MS: u64 = 100;

/// How many times as long as it has waited it then goes on without waiting.
const AFTER_WAIT: u64 = 3;

/// All targets.
#[pin_data]
pub(crate) struct Targets {
    /// The same targets as in `all`, for readers under RCU.
    published: RcuOption<KVec<Arc<Target>>>,
    /// Taken inside of [`Rtnl`](crate::sys::netdev::Rtnl).
    #[pin]
    all: Mutex<KVec<Arc<Target>>>,
    /// The time from which printk's thread may wait for devices again, in milliseconds.
    may_wait_at: Atomic<u64>,
}

impl Targets {
    /// Creates an empty list.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                published: RcuOption::new(None),
                all <- new_mutex!(KVec::new(), "Targets::all"),
                may_wait_at: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a target. Process context; sleeps for a grace period.
    pub(crate) fn add(&self, target: Arc<Target>) -> Result {
        let mut all = self.all.lock();
        all.push(target, GFP_KERNEL)?;
        self.publish(&all).inspect_err(|_| {
            all.pop();
        })
    }

    /// Takes a target out, if it is in the list. Process context; sleeps for a grace period.
    ///
    /// `ENOMEM`: the target stays in the list; the caller should disable it at least.
    pub(crate) fn remove(&self, target: &Arc<Target>) -> Result {
        let mut all = self.all.lock();
        let mut kept = KVec::with_capacity(all.len(), GFP_KERNEL)?;
        for old in all.iter().filter(|old| !Arc::ptr_eq(old, target)) {
            kept.push(old.clone(), GFP_KERNEL)?;
        }
        self.publish(&kept)?;
        *all = kept;
        Ok(())
    }

    /// Publishes this list to readers.
    fn publish(&self, all: &[Arc<Target>]) -> Result {
        let mut published = KVec::with_capacity(all.len(), GFP_KERNEL)?;
        for target in all {
            published.push(target.clone(), GFP_KERNEL)?;
        }
        let published = KBox::new(published, GFP_KERNEL)?;
        drop(self.published.replace(Some(published)));
        Ok(())
    }

    /// Returns the target of this name. Process context.
    pub(crate) fn find(&self, name: &CStr) -> Option<Arc<Target>> {
        let all = self.all.lock();
        all.iter().find(|target| target.name() == name).cloned()
    }

    /// Calls `f`, which may sleep, for each target. Process context.
    ///
    /// The list is locked meanwhile: `f` must not take [`crate::sys::netdev::Rtnl`].
    pub(crate) fn for_each_locked(&self, mut f: impl FnMut(&Arc<Target>)) {
        for target in self.all.lock().iter() {
            f(target);
        }
    }

    /// Returns all targets. Process context.
    pub(crate) fn list(&self) -> Result<KVec<Arc<Target>>> {
        let all = self.all.lock();
        let mut list = KVec::with_capacity(all.len(), GFP_KERNEL)?;
        for target in all.iter() {
            list.push(target.clone(), GFP_KERNEL)?;
        }
        Ok(list)
    }

    /// Calls `f` for each target until it breaks off. Any context.
    pub(crate) fn for_each(&self, f: impl FnMut(&Arc<Target>) -> ControlFlow<()>) {
        self.for_each_under(&rcu::read_lock(), f);
    }

    /// As [`Self::for_each`], with the RCU read lock that the caller holds.
    pub(crate) fn for_each_under<'g>(
        &'g self,
        guard: &'g rcu::Guard,
        mut f: impl FnMut(&'g Arc<Target>) -> ControlFlow<()>,
    ) {
        let Some(targets) = self.published.read(guard) else {
            return;
        };
        for target in targets {
            if f(target).is_break() {
                return;
            }
        }
    }

    /// Returns whether a record is about a response to a target: see `proto/echo.rs`. Any context.
    pub(crate) fn is_echo(&self, record: &[u8], guard: &rcu::Guard) -> bool {
        let Some(packet) = Packet::of(record) else {
            return false;
        };
        let targets = self.published.read(guard).into_iter().flatten();
        let mut paths = targets.filter_map(|target| target.path());
        paths.any(|path| {
            let (local, remote) = (path.local(), path.remote());
            (packet.source, packet.source_port, packet.port)
                == (remote.ip(), remote.port(), local.port())
        })
    }

    /// Waits while the device of a basic target is congested: a faster burst would be dropped
    /// otherwise. It takes a quarter of the time at most, so that one slow device does not make all
    /// targets as slow as itself.
    ///
    /// Called by printk's thread only; sleeps.
    pub(crate) fn wait_for_basic(&self) {
        let began = now_ms();
        if began < self.may_wait_at.load(Relaxed) {
            return;
        }
        let mut now = began;
        while self.is_basic_congested() && now.saturating_sub(began) < MAX_WAIT_MS {
            fsleep(Delta::from_millis(1));
            now = now_ms();
        }
        let waited = now.saturating_sub(began);
        let again = now.saturating_add(waited.saturating_mul(AFTER_WAIT));
        self.may_wait_at.store(again, Relaxed);
    }

    fn is_basic_congested(&self) -> bool {
        let guard = rcu::read_lock();
        let mut targets = self.published.read(&guard).into_iter().flatten();
        targets.any(|target| target.is(false) && target.is_congested())
    }

    /// Returns the reserve of buffers of a target on this device, if there is one. Any context.
    pub(crate) fn pool_on(&self, dev: &NetDevice) -> Option<Arc<Pool>> {
        let guard = rcu::read_lock();
        let targets = self.published.read(&guard).into_iter().flatten();
        let mut pools = targets.filter_map(|target| target.with_port(|port| port.pool_on(dev))?);
        pools.next()
    }

    /// Waits for the backlogs of all targets: see [`Target::wait_for_backlog`]. Process context.
    pub(crate) fn wait_for_backlogs(&self) {
        let until = now_ms().saturating_add(MAX_BACKLOG_WAIT_MS);
        // Without memory nobody waits.
        for target in self.list().into_iter().flatten() {
            Target::wait_for_backlog(&target, until);
        }
    }
}
