// SPDX-License-Identifier: GPL-2.0

//! Path refresh: the device's address and the next hop's, where they were not configured. Both may
//! change at any time, and are followed.

use kernel::{
    prelude::*,
    sync::rcu, //
};

use crate::{
    proto::{
        addr::MacAddr,
        udp::{
            Addresses,
            Headers,
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

/// Returns the Ethernet address of the next hop if the kernel knows it, and makes the kernel look
/// for it.
///
/// Process context, without [`Rtnl`]. [`None`] as well if there is no route, or a route by another
/// device: then the last known address is as good as any.
pub(crate) fn next_hop(network: &Network, path: &Path) -> Option<MacAddr> {
    let (local, remote) = (path.addresses.local(), path.addresses.remote());
    let found = match nexthop::next_hop(network, Some(local), remote) {
        // A configured address may be one that no device has.
        Err(e) if e == EADDRNOTAVAIL => nexthop::next_hop(network, None, remote),
        found => found,
    };
    found.ok().flatten().map(MacAddr)
}

/// Looks up the addresses of a target's path, and redirects it if they have changed. Returns
/// whether all are known.
///
/// Process context; sleeps. Configured addresses are not changed.
pub(crate) fn follow(target: &Target) -> bool {
    let Some(old) = target.path() else {
        return false;
    };
    let current = old.addresses.local();
    let seen = target.with_port(|port| {
        let (config, dev) = (port.config().target, port.device()?);
        let found = || dev.address_for(config.remote_ip, Some(current), &rcu::read_lock());
        let local = config.local_ip.or_else(found);
        Some((config.remote_mac, local, Network::of(dev).ok()?))
    });
    let Some((given_mac, local, network)) = seen.flatten() else {
        return false;
    };
    // Without an address the old one is as good as any.
    let local = local.unwrap_or(current);
    let Some(addresses) = Addresses::new(local, old.addresses.remote()) else {
        return false;
    };
    let path = Path { addresses, ..old };
    let found = given_mac.or_else(|| next_hop(&network, &path));
    let remote_mac = found.unwrap_or(old.remote_mac);
    let path = Path { remote_mac, ..path };
    if path == old {
        return found.is_some();
    }
    // Without memory the work item tries again in a second.
    if let Ok(path) = KBox::new(Headers::new(path), GFP_KERNEL) {
        target.redirect(&old, path, &Rtnl::lock());
    }
    // The socket is opened anew with the other address.
    if local != current {
        target.acks().close();
    }
    // A look at the new ones.
    false
}
