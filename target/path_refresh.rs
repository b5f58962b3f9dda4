// SPDX-License-Identifier: GPL-2.0

//! What a target sends with when it was not told: the device's address, and the next hop's. Both
//! may change at any time, and are followed.

use kernel::{
    prelude::*,
    sync::rcu, //
};

use crate::{
    proto::{
        cmdline::MacAddr,
        udp::{
            Addresses,
            Path, //
        }, //
    },
    sys::{
        netdev::Rtnl,
        network::Network,
        nexthop, //
    },
    target::Target, //
};

/// The Ethernet address of the next hop, as far as the kernel knows it; sets off finding it out.
///
/// Process context, without [`Rtnl`]. [`None`] as well if there is no way, or if the logger is
/// reached by another one: then the last address known is as good as any.
pub(crate) fn next_hop(network: &Network, path: &Path) -> Option<MacAddr> {
    let (local, remote) = (path.addresses.local(), path.addresses.remote());
    let found = match nexthop::next_hop(network, Some(local), remote) {
        // An address that was given may be one that nobody has.
        Err(e) if e == EADDRNOTAVAIL => nexthop::next_hop(network, None, remote),
        found => found,
    };
    found.ok().flatten().map(MacAddr)
}

/// Sees whether a target has to send with other addresses, and has it do so.
///
/// Process context; sleeps. What was given is not changed.
pub(crate) fn follow(target: &Target) {
    let Some(old) = target.path() else { return };
    let current = old.addresses.local();
    let seen = target.with_port(|port| {
        let (config, dev) = (port.config().target, port.device()?);
        let found = || dev.address_for(config.remote_ip, Some(current), &rcu::read_lock());
        let local = config.local_ip.or_else(found);
        Some((config.remote_mac, local, Network::of(dev).ok()?))
    });
    let Some((given_mac, local, network)) = seen.flatten() else {
        return;
    };
    // While there is none the old one is as good as any.
    let local = local.unwrap_or(current);
    let Some(addresses) = Addresses::new(local, old.addresses.remote()) else {
        return;
    };
    let path = Path { addresses, ..old };
    let found = || next_hop(&network, &path).unwrap_or(old.remote_mac);
    let remote_mac = given_mac.unwrap_or_else(found);
    let path = Path { remote_mac, ..path };
    if path == old {
        return;
    }
    // Without memory it is tried again in a second.
    if let Ok(path) = KBox::new(path, GFP_KERNEL) {
        target.redirect(&old, path, &Rtnl::lock());
    }
    // The socket is opened anew with the other address.
    if local != current {
        target.acks().close();
    }
}
