// SPDX-License-Identifier: GPL-2.0

//! The output of bindgen for `bindings_helper.h`: for the wrappers in this directory only.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    improper_ctypes,
    improper_ctypes_definitions,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

include!(env!("NETCONSOLE_EXT_BINDINGS"));
