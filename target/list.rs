// SPDX-License-Identifier: GPL-2.0

//! The list of all targets, read without a lock by every sender.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    sync::{
        new_mutex,
        rcu,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

use crate::{
    sys::rcu::RcuOption,
    target::{
        Target,
        MAX_WAIT, //
    },
};

/// All targets.
#[pin_data]
pub(crate) struct Targets {
    /// The same targets as in `all`, for readers under RCU.
    published: RcuOption<KVec<Arc<Target>>>,
    /// Taken inside of [`Rtnl`](crate::sys::netdev::Rtnl).
    #[pin]
    all: Mutex<KVec<Arc<Target>>>,
}

impl Targets {
    /// Creates an empty list.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                published: RcuOption::new(None),
                all <- new_mutex!(KVec::new(), "Targets::all"),
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
        let guard = rcu::read_lock();
        let Some(targets) = self.published.read(&guard) else {
            return;
        };
        let _ = targets.iter().try_for_each(f);
    }

    /// Waits while a device has many frames queued, for [`MAX_WAIT`] at most.
    ///
    /// Process context; sleeps. Without this a burst that is faster than a device would be dropped.
    pub(crate) fn wait_for_devices(&self, extended: bool) {
        let began = Instant::<Monotonic>::now();
        while self.congested(extended) && began.elapsed() < MAX_WAIT {
            fsleep(Delta::from_millis(1));
        }
    }

    /// Returns whether a target of one kind has a congested device that is worth waiting for.
    fn congested(&self, extended: bool) -> bool {
        let guard = rcu::read_lock();
        let mut targets = self.published.read(&guard).into_iter().flatten();
        targets.any(|target| target.is(extended) && target.is_congested())
    }
}
