// SPDX-License-Identifier: GPL-2.0

//! Enabling and disabling targets, by the user and by device events (`control/net_events.rs`).
//!
//! A target whose device goes away is deactivated, and enabled again when a device of that name or
//! Ethernet address is there and has an address to send from. A target whose device becomes a port
//! of another one is disabled, as upstream's; one whose device was a port at load waits for it to
//! be free.

pub(crate) mod net_events;

use kernel::{
    prelude::*,
    str::CString,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    console::Consoles,
    crash::send::Replay,
    proto::config::Config,
    sys::{
        netdev::{
            Namespace,
            Rtnl, //
        },
        time::now_ms,
        workqueue::OwnedQueue, //
    },
    target::{
        enable::{
            self,
            EnableError, //
        },
        list::{
            Targets,
            MAX_BACKLOG_WAIT_MS, //
        },
        say,
        Shared,
        StartAt,
        State,
        Target, //
    }, //
};

/// The consoles that are registered with printk.
#[derive(Default)]
struct Printing {
    consoles: Consoles,
    /// Whether deactivated targets may be enabled: from [`Control::begin`] to [`Control::end`].
    running: bool,
}

/// Enables and disables targets.
#[pin_data]
pub(crate) struct Control {
    targets: Arc<Targets>,
    shared: Arc<Shared>,
    replay: Arc<Replay>,
    /// Held while a target is enabled or disabled, and while its configuration is changed.
    ///
    /// Taken outside of [`Rtnl`].
    #[pin]
    printing: Mutex<Printing>,
    /// Enables deactivated targets. Not on the queue of the targets' own work: a driver may wait
    /// for any work when its device is brought up.
    #[pin]
    resume: Work<Self>,
    queue: OwnedQueue,
}

impl_has_work! {
    impl HasWork<Self> for Control { self.resume }
}

impl WorkItem for Control {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // Without memory this waits for the next event.
        for target in this.targets.list().into_iter().flatten() {
            this.resume(&target);
        }
    }
}

impl Control {
    /// Creates it, with no targets.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Arc<Self>> {
        let targets = Targets::new()?;
        let replay = Replay::new(&targets, &shared)?;
        Arc::pin_init(
            try_pin_init!(Self {
                replay,
                targets,
                shared,
                printing <- new_mutex!(Printing::default(), "Control::printing"),
                resume <- new_work!("Control::resume"),
                queue: OwnedQueue::new(c"netconx_resume", false)?,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns all targets.
    pub(crate) fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Returns the state that targets share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns what sends in a crash.
    pub(crate) fn replay(&self) -> &Arc<Replay> {
        &self.replay
    }

    /// Adds a target that is not enabled. Process context.
    pub(crate) fn add(&self, name: CString, config: Config) -> Result<Arc<Target>> {
        let target = Target::new(name, config, self.shared.clone())?;
        // It has to be in the list before it is enabled, so that it is told when its device goes
        // away.
        self.targets.add(target.clone())?;
        Ok(target)
    }

    /// Enables a target of the module's parameter, or deactivates it if its device or the device's
    /// address does not exist yet, or the device is not free. Errors are logged.
    ///
    /// Process context. printk hands it no records before [`Self::begin`].
    pub(crate) fn enable_at_load(&self, target: &Target) {
        let _printing = self.printing.lock();
        target.print_banner();
        if let Err(error) = enable::enable(&self.targets, target, StartAt::Oldest) {
            error.say(target);
            // Device events of other namespaces resume nothing.
            let initial = Namespace::current().is_some_and(|net| net.is_initial());
            if let Some(when) = error.awaits().filter(|_| initial) {
                say!(pr_info, target, "it is enabled {}", when);
                target.set_idle(State::Deactivated, &Rtnl::lock());
            }
        }
    }

    /// Registers the consoles that are needed, to be given the log from its beginning. From now on
    /// deactivated targets are enabled when they can be. Process context.
    ///
    /// # Errors
    ///
    /// See [`Consoles::register`]. [`Self::end`] undoes what has been done.
    pub(crate) fn begin(this: &Arc<Self>) -> Result {
        let printing = &mut *this.printing.lock();
        let needed = this.needed();
        for extended in [true, false] {
            if needed[usize::from(extended)] {
                let consoles = &mut printing.consoles;
                consoles.register(extended, true, &this.replay)?;
            }
        }
        printing.running = true;
        // A device may have appeared meanwhile.
        Self::wake(this);
        Ok(())
    }

    /// Unregisters all consoles, once the log so far is sent, as far as that takes a bounded time.
    /// No target is enabled any more. Process context.
    pub(crate) fn end(&self) {
        // With the lock held, so that nobody registers one of the same name meanwhile.
        *self.printing.lock() = Printing::default();
        self.targets.wait_for_backlogs();
    }

    /// Has deactivated targets enabled if their devices are there now. Any context but NMI.
    pub(crate) fn wake(this: &Arc<Self>) {
        // If it is queued already it will see what has happened.
        let _ = this.queue.enqueue(this.clone());
    }

    /// Waits for the resume work; no device event may come any more. Process context.
    pub(crate) fn drain(&self) {
        self.queue.drain();
    }

    /// Enables or disables a target for the user.
    ///
    /// Process context; sleeps. Errors are logged.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the target is, or is not, enabled already; or its configuration is not complete.
    /// For others see [`enable::EnableError`].
    pub(crate) fn set_enabled(&self, target: &Arc<Target>, enabled: bool) -> Result {
        let consoles = &mut self.printing.lock().consoles;
        // The user has decided: the target is not deactivated any longer.
        target.set_idle(State::Disabled, &Rtnl::lock());
        if enabled == target.is_enabled() {
            self.unregister_unneeded(consoles);
            let already = if enabled { "started" } else { "stopped" };
            pr_info!("network logging has already {}\n", already);
            return Err(EINVAL);
        }
        if !enabled {
            self.disable(consoles, target);
            return Ok(());
        }
        target.print_banner();
        self.forget(target);
        self.enable(consoles, target, StartAt::Now)
            .map_err(|error| {
                error.say(target);
                self.unregister_unneeded(consoles);
                Error::from(error)
            })?;
        pr_info!("network logging started\n");
        Ok(())
    }

    /// Removes a target for good. Process context; sleeps.
    pub(crate) fn remove(&self, target: &Arc<Target>) {
        let consoles = &mut self.printing.lock().consoles;
        self.disable(consoles, target);
        // Without memory it stays in the list, where it does nothing.
        let _ = self.targets.remove(target);
    }

    /// Changes the configuration that a target is enabled with the next time.
    ///
    /// Process context. `EBUSY`: the target is enabled.
    pub(crate) fn configure(
        &self,
        target: &Target,
        change: &mut dyn FnMut(&mut Config) -> Result,
    ) -> Result {
        let _printing = self.printing.lock();
        if target.is_enabled() {
            // Upstream's words.
            pr_err!(
                "target ({}) is enabled, disable to update parameters\n",
                target.name()
            );
            return Err(EBUSY);
        }
        target.configure(change)?;
        // A deactivated target is enabled with the new configuration by itself.
        self.forget(target);
        Ok(())
    }

    /// Forgets the state of a target's logger: it may be another one, or be sent to in another
    /// form.
    fn forget(&self, target: &Target) {
        let settings = &target.config().settings;
        target.acks().reset(settings, self.shared.session);
    }

    fn enable(
        &self,
        consoles: &mut Consoles,
        target: &Arc<Target>,
        start_at: StartAt,
    ) -> Result<(), EnableError> {
        let extended = target.config().target.extended;
        let registered = consoles.register(extended, false, &self.replay);
        registered.map_err(EnableError::Other)?;
        enable::enable(&self.targets, target, start_at)?;
        // The work item opens the socket.
        Target::wake(target);
        Ok(())
    }

    fn disable(&self, consoles: &mut Consoles, target: &Arc<Target>) {
        if target.is_enabled() {
            consoles.flush(target.config().target.extended);
            let until = now_ms().saturating_add(MAX_BACKLOG_WAIT_MS);
            Target::wait_for_backlog(target, until);
        }
        {
            let rtnl = Rtnl::lock();
            target.stop(State::Disabled, &rtnl);
        }
        self.unregister_unneeded(consoles);
    }

    /// Returns whether there are targets, enabled or deactivated: basic ones, and extended ones.
    fn needed(&self) -> [bool; 2] {
        let mut needed = [false, false];
        self.targets.for_each_locked(|target| {
            let config = target.config().target;
            needed[usize::from(config.extended)] |= target.state() != State::Disabled;
        });
        needed
    }

    /// Unregisters consoles without targets, enabled or deactivated.
    fn unregister_unneeded(&self, consoles: &mut Consoles) {
        let needed = self.needed();
        for extended in [false, true] {
            if !needed[usize::from(extended)] {
                consoles.unregister(extended, &self.shared);
            }
        }
    }

    /// Enables a deactivated target, if its device is back.
    fn resume(&self, target: &Arc<Target>) {
        if target.state() != State::Deactivated {
            return;
        }
        let printing = &mut *self.printing.lock();
        if target.state() != State::Deactivated || !printing.running {
            return;
        }
        let consoles = &mut printing.consoles;
        match self.enable(consoles, target, StartAt::LastTime) {
            Ok(()) => {}
            Err(error) if error.awaits().is_some() => return,
            Err(error) => {
                error.say(target);
                // As upstream's: not again and again.
                target.set_idle(State::Disabled, &Rtnl::lock());
                self.unregister_unneeded(consoles);
                return;
            }
        }
        let rtnl = Rtnl::lock();
        target.with_port(|port| {
            if let Some(dev) = port.device() {
                let name = dev.name(&rtnl);
                pr_info!("network logging resumed on interface {}\n", name);
            }
        });
    }
}
