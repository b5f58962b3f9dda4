// SPDX-License-Identifier: GPL-2.0

//! Enabling a target: finds its device and makes it ready.

use kernel::{
    prelude::*,
    sync::rcu,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

use crate::{
    proto::{
        addr::{
            MacAddr,
            Scope, //
        },
        cmdline::Device,
        config::{
            Config,
            ConfigError, //
        },
        udp::{
            Addresses,
            Headers,
            Path, //
        },
        wire::MAX_DATAGRAM, //
    },
    sys::{
        netdev::{
            Index,
            Namespace,
            NetDevice,
            Rtnl, //
        },
        netpoll,
        network::Network,
        wireless,
        xmit, //
    },
    target::{
        list::Targets,
        path_refresh,
        port::Port,
        say,
        StartAt,
        Target, //
    }, //
};

/// Why a target cannot be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnableError {
    /// The configuration is not valid for any device.
    Config(ConfigError),
    /// There is no such device.
    NoDevice,
    /// The device is a port of another one.
    Enslaved,
    /// The device is not an Ethernet device.
    NotEthernet,
    /// The device is wireless, or made of one that is.
    Wireless,
    /// The device cannot be brought up.
    Open(Error),
    /// The device has no address to send from, and none was given.
    NoAddress,
    /// The scope of an address is another device.
    Scope,
    /// netpoll cannot use the device; `ENOTSUPP`: because of the device's kind.
    Netpoll(Error),
    /// Any other error, such as no memory.
    Other(Error),
}

impl EnableError {
    /// Returns what has to happen for the reason to go away by itself, of which
    /// `control/net_events.rs` learns; [`None`] if it does not.
    pub(crate) fn awaits(self) -> Option<&'static str> {
        match self {
            Self::NoDevice | Self::NoAddress => Some("when that is there"),
            Self::Enslaved => Some("when the device is free"),
            _ => None,
        }
    }

    /// Logs the reason, in upstream's words where upstream has some.
    pub(crate) fn say(self, target: &Target) {
        let config = target.config().target;
        let device = config.device;
        match self {
            Self::Config(error) => say!(pr_err, target, "Not enabling netconsole. {}", error),
            Self::NoDevice => say!(pr_err, target, "{} doesn't exist, aborting", device),
            Self::Enslaved => say!(pr_err, target, "{} is a slave device, aborting", device),
            Self::NotEthernet => say!(
                pr_err,
                target,
                "{} is not an Ethernet device, aborting",
                device
            ),
            Self::Wireless => say!(
                pr_err,
                target,
                "{} is wireless, or made of a device that is: such drivers turn interrupts on while \
                 they send; use another device",
                device
            ),
            Self::Open(_) => say!(pr_err, target, "failed to open {}", device),
            Self::NoAddress => {
                let version = if config.remote_ip.is_ipv4() {
                    "IP"
                } else {
                    "IPv6"
                };
                say!(
                    pr_err,
                    target,
                    "no {} address for {}, aborting",
                    version,
                    device
                );
            }
            Self::Scope => say!(
                pr_err,
                target,
                "the scope of an address (%...) is another device than {}, aborting",
                device
            ),
            Self::Netpoll(e) if e == ENOTSUPP => say!(
                pr_err,
                target,
                "netpoll setup failed: {}, or a device that it is made of, cannot send without \
                 the network stack; use another device",
                device
            ),
            Self::Netpoll(e) => say!(
                pr_err,
                target,
                "netpoll setup failed (error {})",
                e.to_errno()
            ),
            Self::Other(e) => say!(pr_err, target, "error {}", e.to_errno()),
        }
    }
}

impl From<EnableError> for Error {
    fn from(error: EnableError) -> Self {
        match error {
            EnableError::Config(_) => EINVAL,
            EnableError::NoDevice => ENODEV,
            EnableError::Enslaved => EBUSY,
            EnableError::NotEthernet | EnableError::Wireless => EOPNOTSUPP,
            EnableError::Scope => EINVAL,
            // `ENOTSUPP` is not for users: they see "Unknown error 524".
            EnableError::Netpoll(e) if e == ENOTSUPP => EOPNOTSUPP,
            EnableError::NoAddress => EDESTADDRREQ,
            EnableError::Open(e) | EnableError::Netpoll(e) | EnableError::Other(e) => e,
        }
    }
}

/// Enables a target: finds its device, brings it up, and sends by it from now on.
///
/// Process context. The device is looked for in the network namespace of the current task.
pub(crate) fn enable(
    targets: &Targets,
    target: &Target,
    start_at: StartAt,
) -> Result<(), EnableError> {
    let config = target.config();
    config.check().map_err(EnableError::Config)?;
    let device = config.target.device;
    let net = Namespace::current().ok_or(EnableError::Other(ENODEV))?;
    let mut rtnl = Rtnl::lock();
    let mut dev = find(device, &net, &rtnl)?;
    if !dev.is_running() {
        say!(pr_info, target, "device {} not up yet, forcing it", device);
        let index = dev.index();
        dev.open(&rtnl).map_err(EnableError::Open)?;
        drop(rtnl);
        wait_for_carrier(target, &net, index);
        rtnl = Rtnl::lock();
        // Anything may have happened to it while the lock was not held.
        dev = find(device, &net, &rtnl)?;
    }
    let path = path(&config, dev, &rtnl)?;
    let remote_mac = match config.target.remote_mac {
        Some(mac) => mac,
        None => {
            let network = Network::of(dev).map_err(EnableError::Other)?;
            drop(rtnl);
            let mac = path_refresh::next_hop(&network, &path).unwrap_or(MacAddr::BROADCAST);
            rtnl = Rtnl::lock();
            dev = find(device, &net, &rtnl)?;
            mac
        }
    };
    let path = Path { remote_mac, ..path };
    if config.target.local_ip.is_none() {
        let local = path.addresses.local();
        let version = if local.is_ipv4() { "IP" } else { "IPv6" };
        say!(pr_info, target, "local {} {}", version, local);
    }
    warn_of(target, dev, &path);
    let (name, queue) = (target.name(), target.shared().queue.clone());
    let (initial, pool) = (net.is_initial(), targets.pool_on(dev));
    let port = Port::new(name, queue, dev, config, initial, pool, &rtnl);
    let port = port.map_err(EnableError::Netpoll)?;
    let path = KBox::new(Headers::new(path), GFP_KERNEL);
    match path {
        Ok(path) => target.start(port, path, start_at, &rtnl),
        Err(e) => {
            Port::release(port, &rtnl);
            return Err(EnableError::Other(e.into()));
        }
    }
    Ok(())
}

/// Finds a target's device, and checks that it can be used.
fn find<'a>(device: Device, net: &Namespace, rtnl: &'a Rtnl) -> Result<&'a NetDevice, EnableError> {
    let dev = match device {
        Device::Name(name) => rtnl.find_by_name(net, name.as_c_str()),
        Device::Mac(MacAddr(address)) => rtnl
            .find_by_address(net, &address)
            .map(|dev| above_ports(dev, rtnl)),
    };
    let dev = dev.ok_or(EnableError::NoDevice)?;
    if dev.is_port(rtnl) {
        return Err(EnableError::Enslaved);
    }
    if dev.ethernet_address().is_none() {
        return Err(EnableError::NotEthernet);
    }
    if wireless::turns_interrupts_on(dev) {
        return Err(EnableError::Wireless);
    }
    Ok(dev)
}

/// Returns the device that a port is part of and that has the same address, as bonds, bridges and
/// teams have that of a port; otherwise the device itself.
fn above_ports<'a>(mut dev: &'a NetDevice, rtnl: &'a Rtnl) -> &'a NetDevice {
    let address = dev.ethernet_address();
    while dev.is_port(rtnl) {
        let master = dev.master(rtnl);
        match master.filter(|master| master.ethernet_address() == address) {
            Some(master) => dev = master,
            None => break,
        }
    }
    dev
}

/// Logs what the user should know of a device.
fn warn_of(target: &Target, dev: &NetDevice, path: &Path) {
    let device = target.config().target.device;
    let at = path.offsets();
    let longest = at.payload - at.network + MAX_DATAGRAM;
    if dev.mtu() < longest {
        say!(
            pr_warn,
            target,
            "the MTU of {} is {}: longer datagrams may be lost, of which the longest has {} bytes",
            device,
            dev.mtu(),
            longest
        );
    }
    if xmit::may_wait(dev) {
        say!(
            pr_warn,
            target,
            "in a panic nothing is sent by {}: it sends by the network stack, which may wait for \
             CPUs that are stopped",
            device
        );
    }
}

/// Returns the addresses to send with; broadcast as long as the next hop is to be found.
fn path(config: &Config, dev: &NetDevice, rtnl: &Rtnl) -> Result<Path, EnableError> {
    let config = &config.target;
    let is_ours = |scope: Scope| match scope {
        Scope::Index(index) => index == dev.index().into(),
        Scope::Name(name) => dev.is_called(name.as_c_str(), rtnl),
    };
    if !config.scopes().all(is_ours) {
        return Err(EnableError::Scope);
    }
    let local_ip = match config.local_ip {
        Some(ip) => ip,
        None => dev
            .address_for(config.remote_ip, None, &rcu::read_lock())
            .ok_or(EnableError::NoAddress)?,
    };
    let addresses = Addresses::new(local_ip, config.remote_ip);
    Ok(Path {
        addresses: addresses.ok_or(EnableError::Config(ConfigError::Families))?,
        local_port: config.local_port,
        remote_port: config.remote_port,
        remote_mac: config.remote_mac.unwrap_or(MacAddr::BROADCAST),
    })
}

/// Waits for a device's carrier, for as long as netpoll's parameter `carrier_timeout` says.
fn wait_for_carrier(target: &Target, net: &Namespace, index: Index) {
    let at_most = Delta::from_secs(netpoll::carrier_timeout().into());
    let began = Instant::<Monotonic>::now();
    while net.has_carrier(index) == Some(false) {
        if began.elapsed() > at_most {
            say!(pr_notice, target, "timeout waiting for carrier");
            return;
        }
        fsleep(Delta::from_millis(1));
    }
}
