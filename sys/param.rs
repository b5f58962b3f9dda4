// SPDX-License-Identifier: GPL-2.0

//! Module parameters beyond `module!`'s integers: strings, and switches that can be changed later.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use core::cell::UnsafeCell;

use kernel::{
    bindings,
    prelude::*,
    str::as_char_ptr_in_const_context,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A text of at most `N - 1` bytes, set when the module is loaded.
///
/// A longer one makes loading fail with `ENOSPC` and a message (`param_set_copystring()`).
///
/// # Invariants
///
/// The bytes are written before the module's `init` runs, and never again: the parameter has no
/// file in sysfs.
pub(crate) struct StringParam<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: By the type invariants it is only read by the time that threads can share it.
unsafe impl<const N: usize> Sync for StringParam<N> {}

impl<const N: usize> StringParam<N> {
    /// Creates an empty parameter.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    /// Returns the text.
    pub(crate) fn value(&self) -> &[u8] {
        // SAFETY: By the type invariants nobody writes any more.
        let bytes: &[u8] = unsafe { &*self.0.get() };
        bytes.split(|&c| c == 0).next().unwrap_or_default()
    }

    /// Returns the place for the kernel to copy it to.
    pub(crate) const fn target(&'static self) -> StringTarget {
        StringTarget(bindings::kparam_string {
            maxlen: N as u32,
            string: self.0.get().cast(),
        })
    }
}

/// The place that the kernel copies a string parameter to.
#[repr(transparent)]
pub(crate) struct StringTarget(bindings::kparam_string);

// SAFETY: Immutable, and only the kernel's parameter code uses it.
unsafe impl Sync for StringTarget {}

/// A `bool` that root can read and change through sysfs at any time.
pub(crate) struct BoolParam(Atomic<bool>);

impl BoolParam {
    /// Creates a parameter with its default.
    pub(crate) const fn new(value: bool) -> Self {
        Self(Atomic::new(value))
    }

    /// Returns the value. Any context.
    pub(crate) fn value(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// An entry of the `__param` section.
#[repr(transparent)]
pub(crate) struct KernelParam(bindings::kernel_param);

// SAFETY: The kernel serializes what it does with parameters; the module does nothing with them.
unsafe impl Sync for KernelParam {}

impl KernelParam {
    const fn new(
        name: &'static CStr,
        ops: &'static bindings::kernel_param_ops,
        perm: u16,
        value: bindings::kernel_param__bindgen_ty_1,
    ) -> Self {
        Self(bindings::kernel_param {
            name: as_char_ptr_in_const_context(name),
            #[cfg(MODULE)]
            mod_: (&raw const bindings::__this_module).cast_mut(),
            #[cfg(not(MODULE))]
            mod_: core::ptr::null_mut(),
            ops,
            perm,
            level: -1,
            flags: 0,
            __bindgen_anon_1: value,
        })
    }

    /// Declares a text, without a file in sysfs.
    pub(crate) const fn string(name: &'static CStr, target: &'static StringTarget) -> Self {
        // SAFETY: An immutable static of the kernel.
        let ops = unsafe { &bindings::param_ops_string };
        let str_ = &raw const target.0;
        Self::new(name, ops, 0, bindings::kernel_param__bindgen_ty_1 { str_ })
    }

    /// Declares a switch, with a file in sysfs that root can read and write.
    pub(crate) const fn bool(name: &'static CStr, param: &'static BoolParam) -> Self {
        // SAFETY: An immutable static of the kernel.
        let ops = unsafe { &bindings::param_ops_bool };
        // C code writes the byte of a `bool` here, which is what an atomic one is.
        let arg = param.0.as_ptr().cast();
        Self::new(
            name,
            ops,
            0o600,
            bindings::kernel_param__bindgen_ty_1 { arg },
        )
    }
}

/// Returns the bytes of a text whose length is `N`.
pub(crate) const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = text.as_bytes()[i];
        i += 1;
    }
    bytes
}

/// Declares a module parameter, as `module_param_string()` and `module_param()` do in C.
///
/// # Examples
///
/// ```ignore
/// module_param! {
///     module: "my_module",
///     /// What the text is for.
///     string NAME: StringParam<256> = "name", "what modinfo says of it";
///     /// What the switch is for.
///     bool SWITCH: BoolParam = "switch", "what modinfo says of it";
/// }
/// ```
macro_rules! module_param {
    (module: $module:literal, $(
        $(#[$doc:meta])*
        $kind:ident $var:ident: $ty:ty = $name:literal, $text:literal;
    )*) => {$(
        $(#[$doc])*
        pub(crate) static $var: $ty = $crate::sys::param::module_param!(@new $kind $ty);

        const _: () = {
            // Built-in modules put their name before it.
            const NAME: &::kernel::str::CStr = if cfg!(MODULE) {
                ::kernel::c_str!($name)
            } else {
                ::kernel::c_str!(concat!($module, ".", $name))
            };

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: $crate::sys::param::KernelParam =
                $crate::sys::param::module_param!(@param $kind NAME, $var);
            $crate::sys::param::module_param!(@tag $module,
                concat!("parmtype=", $name, ":", stringify!($kind), "\0"));
        };
        const _: () = {
            $crate::sys::param::module_param!(@tag $module,
                concat!("parm=", $name, ":", $text, "\0"));
        };
    )*};
    (@new string $ty:ty) => { <$ty>::new() };
    (@new bool $ty:ty) => { <$ty>::new(false) };
    (@param string $name:ident, $var:ident) => {{
        static TARGET: $crate::sys::param::StringTarget = $var.target();
        $crate::sys::param::KernelParam::string($name, &TARGET)
    }};
    (@param bool $name:ident, $var:ident) => {
        $crate::sys::param::KernelParam::bool($name, &$var)
    };
    (@tag $module:literal, $text:expr) => {
        const TAG: &str = if cfg!(MODULE) {
            $text
        } else {
            concat!($module, ".", $text)
        };
        #[link_section = ".modinfo"]
        #[used(compiler)]
        static BYTES: [u8; TAG.len()] = $crate::sys::param::bytes(TAG);
    };
}
pub(crate) use module_param;
