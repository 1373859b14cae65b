//! The contracts between memtrace's kernel and user-space sides.
//!
//! Owns the layout of every map key and value, the meaning of probe cookies and the pure steps that
//! run on both sides. Leaves to `memtrace-ebpf` when they run, and to `memtrace` what is made of them.
//!
//! Every type is `repr(C)`, has no padding and accepts every bit pattern: what crosses the border is
//! plain integers, and codes become enums through `TryFrom`.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod arch;
pub mod ids;
pub mod steps;
pub mod thread;
pub mod wire;
