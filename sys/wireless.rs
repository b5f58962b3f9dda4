// SPDX-License-Identifier: GPL-2.0

//! Wireless devices, by which netpoll cannot send.
//!
//! C headers: [`include/net/cfg80211.h`](srctree/include/net/cfg80211.h)

use super::{
    netdev::NetDevice,
    xmit::for_each_in_stack, //
};

/// Returns whether a device, or one that it is made of, is wireless: mac80211 turns interrupts on
/// while it sends, of which the kernel warns. Any context.
pub(crate) fn turns_interrupts_on(dev: &NetDevice) -> bool {
    let mut wireless = false;
    // All of cfg80211's devices are of this kind.
    for_each_in_stack(dev, &mut |dev| wireless |= dev.is_of_kind(c"wlan"));
    wireless
}

#[cfg(CONFIG_NETCONSOLE_EXT_KUNIT_TEST)]
#[kernel::macros::kunit_tests(netconsole_ext_wireless)]
mod tests {
    use core::{
        ffi::CStr,
        ptr, //
    };

    use kernel::{
        prelude::*,
        str::CStrExt, //
    };

    use crate::sys::bindings;

    use super::*;

    #[test]
    fn wireless_devices() -> Result {
        let mut dev = KBox::<bindings::net_device>::new_uninit(GFP_KERNEL)?;
        let mut kind = KBox::<kernel::bindings::device_type>::new_uninit(GFP_KERNEL)?;
        let (dev, kind) = (dev.as_mut_ptr(), kind.as_mut_ptr());
        // SAFETY: Both are there until the end of the test, and zeroes are valid values of them.
        unsafe {
            dev.write_bytes(0, 1);
            kind.write_bytes(0, 1);
        }
        for (has_kind, name, expected) in [
            (false, None, false),
            (true, None, false),
            (true, Some(c"wlan"), true),
            (true, Some(c"wlan0"), false),
            (true, Some(c"vlan"), false),
        ] {
            // SAFETY: As above. Only the kind is looked at.
            let found = unsafe {
                (*kind).name = name.map_or(ptr::null(), |name: &CStr| name.as_char_ptr());
                (*dev).dev.type_ = if has_kind { kind } else { ptr::null() };
                NetDevice::from_raw(dev).map(|dev| dev.is_of_kind(c"wlan"))
            };
            assert_eq!(found, Some(expected));
        }
        Ok(())
    }
}
