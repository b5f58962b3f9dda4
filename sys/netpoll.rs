// SPDX-License-Identifier: GPL-2.0

//! netpoll: frames to a driver without the network stack.
//!
//! C header: [`include/linux/netpoll.h`](srctree/include/linux/netpoll.h)

use core::ptr;

use kernel::{
    error::to_result,
    interrupt::LocalInterruptDisabled,
    prelude::*,
    str::{
        CStrExt,
        CString, //
    },
    sync::rcu,
    types::Opaque, //
};

use super::{
    bindings,
    netdev::{
        NetDevice,
        Rtnl, //
    },
    skb::{
        Frame,
        Lent, //
    },
    xmit::Sharing, //
};

/// Returns how many seconds to wait for a carrier (netpoll's parameter `carrier_timeout`).
pub(crate) fn carrier_timeout() -> u32 {
    // SAFETY: Reads an integer.
    unsafe { bindings::netpoll_get_carrier_timeout() }
}

/// The permission to send on a device through netpoll; keeps the device from going away.
///
/// It has to be let go by [`Self::release`] when the device is unregistered, or unregistering
/// waits for ever.
///
/// # Invariants
///
/// `np` is set up on a device and holds a reference to it, unless it has been released: then its
/// `dev` is null.
#[pin_data(PinnedDrop)]
pub(crate) struct Netpoll {
    #[pin]
    np: Opaque<bindings::netpoll>,
    /// For messages; `np` points to it.
    name: CString,
}

// SAFETY: netpoll can be used and cleaned up from any thread.
unsafe impl Send for Netpoll {}

// SAFETY: What a shared reference allows can be done from any thread.
unsafe impl Sync for Netpoll {}

impl Netpoll {
    /// Sets netpoll up on a device. Process context; sleeps for a grace period.
    ///
    /// `ENOTSUPP` if the device cannot do it; netpoll says so in the log, under `name`.
    pub(crate) fn new(name: CString, dev: &NetDevice, rtnl: &Rtnl) -> Result<Pin<KBox<Self>>> {
        if !dev.is_registered(rtnl) {
            return Err(ENODEV);
        }
        // INVARIANT: `dev` is null.
        let this = KBox::pin_init(
            pin_init!(Self {
                np <- Opaque::zeroed(),
                name,
            }),
            GFP_KERNEL,
        )?;
        let np = this.np.get();
        // SAFETY: `np` is ours and stays where it is, as does the name; the device is valid, and
        // the lock is held.
        let result = unsafe {
            (*np).name = this.name.as_char_ptr();
            to_result(bindings::__netpoll_setup(np, dev.as_ptr()))
        };
        if let Err(e) = result {
            // SAFETY: As above. INVARIANT: `dev` is null.
            unsafe { (*np).dev = ptr::null_mut() };
            return Err(e);
        }
        // The reference that cleaning up gives back. The device is registered and the lock held, so
        // it is found by its index. INVARIANT: netpoll is set up and holds a reference.
        //
        // SAFETY: As above.
        unsafe {
            bindings::netdev_get_by_index(
                (*dev.as_ptr()).nd_net.net,
                (*dev.as_ptr()).ifindex,
                &raw mut (*np).dev_tracker,
                bindings::GFP_KERNEL,
            )
        };
        // Polls of the device that began before it knew of netpoll do not lock against ours.
        //
        // SAFETY: Process context.
        unsafe { bindings::synchronize_net() };
        Ok(this)
    }

    /// Returns the device. Any context.
    pub(crate) fn device(&self) -> Option<&NetDevice> {
        // SAFETY: By the type invariants the device is null or held.
        unsafe { NetDevice::from_raw((*self.np.get()).dev) }
    }

    /// Returns whether this is set up on `dev`.
    pub(crate) fn is_on(&self, dev: &NetDevice) -> bool {
        self.device().is_some_and(|ours| ptr::eq(ours, dev))
    }

    /// Returns how many frames netpoll has queued because the device did not take them. Any
    /// context.
    ///
    /// While there are any, all that follow are put behind them, without bound.
    pub(crate) fn queue_len(&self, _guard: &rcu::Guard) -> u32 {
        let Some(dev) = self.device() else { return 0 };
        // SAFETY: The device is valid; its `npinfo` is freed after a grace period.
        unsafe {
            let npinfo = (&raw const (*dev.as_ptr()).npinfo).read_volatile();
            if npinfo.is_null() {
                return 0;
            }
            (&raw const (*npinfo).txq.qlen).read_volatile()
        }
    }

    /// Hands a frame to the driver, or to netpoll's queue if the driver does not take it.
    ///
    /// Busy-waits for a tick at most. Returns `false` if the frame has been dropped.
    ///
    /// Any context as far as netpoll goes: it only tries the locks of the device, but takes that of
    /// its own queue when the device does not take the frame.
    pub(crate) fn send(&self, frame: Frame) -> bool {
        // SAFETY: By the type invariants `np` is valid; the buffer is given away. netpoll turns
        // interrupts off itself.
        let status = unsafe { bindings::netpoll_send_skb(self.np.get(), frame.into_raw()) };
        // `NET_XMIT_DROP` is the only other one.
        status == bindings::netdev_tx_NETDEV_TX_OK
    }

    /// Returns the permission to lend frames to the driver, if it is one of hardware that allows
    /// that: see [`Sharing::hardware`]. Any context; cheap.
    pub(crate) fn lender(&self) -> Option<Lender<'_>> {
        // INVARIANT: It is this device that allows it.
        let shares = self.device().and_then(Sharing::hardware);
        shares.map(|_| Lender(self))
    }

    /// Lets the driver clean up what it has sent, which may free memory.
    pub(crate) fn poll(&self, _irqs_off: &LocalInterruptDisabled) {
        if let Some(dev) = self.device() {
            let _guard = rcu::read_lock();
            // SAFETY: The device is valid, and interrupts are off.
            unsafe { bindings::netpoll_poll_dev(dev.as_ptr()) };
        }
    }

    /// Lets the device go. Process context.
    pub(crate) fn release(self: Pin<KBox<Self>>, _rtnl: &Rtnl) {
        // SAFETY: The lock is held and netpoll is set up, by the type invariants, if `dev` is not
        // null. INVARIANT: It is null afterwards.
        unsafe {
            if !(*self.np.get()).dev.is_null() {
                bindings::do_netpoll_cleanup(self.np.get());
            }
        }
    }
}

/// The permission to lend frames to the driver of a device through netpoll.
///
/// # Invariants
///
/// The device allows others to keep a reference to a frame: see [`Sharing`].
pub(crate) struct Lender<'a>(&'a Netpoll);

impl Lender<'_> {
    /// Hands a frame to the driver as [`Netpoll::send`], to be had back from the [`Lent`]. Returns
    /// as well whether the frame has been taken.
    pub(crate) fn lend(self, frame: Frame) -> (Lent, bool) {
        let lent = frame.lend();
        // SAFETY: As in `Netpoll::send()`; one of the two references is given away. By the type
        // invariants the driver does not mind the other one, nor does netpoll's queue.
        let status = unsafe { bindings::netpoll_send_skb(self.0.np.get(), lent.as_ptr()) };
        (lent, status == bindings::netdev_tx_NETDEV_TX_OK)
    }
}

#[pinned_drop]
impl PinnedDrop for Netpoll {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants `np` is valid. If `dev` is null nothing is done, but the
        // lock is taken, which must not be held here already.
        unsafe {
            if !(*self.np.get()).dev.is_null() {
                bindings::netpoll_cleanup(self.np.get());
            }
        }
    }
}

/// Frees the buffers that drivers have sent on this CPU and left to a softirq, which may not come.
///
/// Any context but NMI.
pub(crate) fn zap_completion_queue() {
    // SAFETY: No requirements.
    unsafe { bindings::netpoll_zap_completion_queue() };
}
