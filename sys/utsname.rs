// SPDX-License-Identifier: GPL-2.0

//! The release of the running kernel.
//!
//! C header: [`include/linux/utsname.h`](srctree/include/linux/utsname.h)

use super::bindings;
use kernel::{
    prelude::*,
    str::CStrExt, //
};

/// Returns the release of the running kernel, as `uname -r` prints it. Any context.
pub(crate) fn release() -> &'static CStr {
    // SAFETY: The initial namespace is never freed; its release is set at build time and
    // terminated.
    unsafe { CStr::from_char_ptr((&raw const bindings::init_uts_ns.name.release).cast()) }
}
