// SPDX-License-Identifier: GPL-2.0

//! Events of devices, addresses and neighbours, for the targets that send by them.

use core::ops::ControlFlow;

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    control::Control,
    proto::addr::DevName,
    sys::{
        netdev::{
            self,
            Event,
            Index,
            NetDevice,
            Rtnl, //
        },
        notifier::{
            self,
            Table, //
        }, //
    },
    target::{
        port::Port,
        State,
        Target, //
    }, //
};

/// Listens to events of devices, addresses and neighbours, for [`Control`] and the targets.
pub(crate) struct NetEvents(pub(crate) Arc<Control>);

impl NetEvents {
    fn join(&self, dev: &NetDevice, rtnl: &Rtnl) {
        self.stop(dev, State::Disabled, "is joining a master device", rtnl);
    }

    /// Wakes the targets on a device.
    fn wake_targets(&self, dev: &NetDevice) {
        self.0.targets().for_each_locked(|target| {
            if target.is_on(dev) {
                Target::wake(target);
            }
        });
    }

    /// Has the targets on a device open their sockets anew: it may be in another VRF now.
    fn change_vrf(&self, dev: &NetDevice) {
        self.0.targets().for_each_locked(|target| {
            if target.is_on(dev) {
                target.acks().close();
                Target::wake(target);
            }
        });
    }

    /// Stops the targets on a device. Only those in the first namespace are deactivated: the work
    /// item that resumes them looks there.
    fn stop(&self, dev: &NetDevice, then: State, why: &str, rtnl: &Rtnl) {
        let mut stopped = false;
        self.0.targets().for_each_locked(|target| {
            if target.is_on(dev) {
                let initial = target.with_port(Port::is_initial) == Some(true);
                target.stop(if initial { then } else { State::Disabled }, rtnl);
                stopped = true;
            }
        });
        if stopped {
            let name = dev.name(rtnl);
            pr_info!(
                "network logging stopped on interface {} as it {}\n",
                name,
                why
            );
        }
    }
}

impl netdev::Listener for NetEvents {
    fn event(&self, dev: &NetDevice, event: Event, rtnl: &Rtnl) {
        match event {
            Event::Unregister => self.stop(dev, State::Deactivated, "unregistered", rtnl),
            Event::Release => self.stop(dev, State::Disabled, "released slaves", rtnl),
            Event::Join => self.join(dev, rtnl),
            // A team does not send `Join`.
            Event::ChangeUpper if dev.is_port(rtnl) => self.join(dev, rtnl),
            Event::ChangeUpper => {
                self.change_vrf(dev);
                // It may be free now.
                Control::wake(&self.0);
            }
            Event::Rename => {
                let Some(name) = DevName::new(dev.name(rtnl).to_bytes()) else {
                    return;
                };
                self.0.targets().for_each_locked(|target| {
                    if target.is_on(dev) {
                        target.configure(|config| {
                            let current = |name: DevName| dev.is_called(name.as_c_str(), rtnl);
                            config.target.follow_rename(name, current);
                        });
                    }
                });
                Control::wake(&self.0);
            }
            Event::Register | Event::ChangeAddress => Control::wake(&self.0),
            // Records may wait for the carrier, and a deactivated target for an altname.
            Event::Up | Event::Change => {
                self.wake_targets(dev);
                Control::wake(&self.0);
            }
            Event::Down => {}
        }
    }
}

impl notifier::Listener for NetEvents {
    fn changed(&self, table: Table, device: Index) {
        self.0.targets().for_each(|target| {
            if target.state() == State::Deactivated {
                if table == Table::Addresses {
                    Control::wake(&self.0);
                }
            } else if target.with_port(|port| port.device().map(NetDevice::index))
                == Some(Some(device))
            {
                Target::wake(target);
            }
            ControlFlow::Continue(())
        });
    }
}
