//! The contracts between memtrace's kernel and user-space sides.
//!
//! Owns the layout of every map key and value, the meaning of probe cookies and the pure steps that
//! run on both sides. Leaves to `memtrace-ebpf` when they run, and to `memtrace` what is made of them.
//!
//! Every type is `repr(C)`, has no padding and accepts every bit pattern: what crosses the border is
//! plain integers, and codes become enums through `TryFrom`.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod block;
pub mod block_table;
pub mod call;
pub mod control;
pub mod event;
pub mod frame_pointer;
pub mod free_side;
pub mod kernel_memory;
pub mod namespace;
pub mod pages;
pub mod process;
pub mod sampling;
pub mod site;
pub mod stack;
pub mod thread;
pub mod unwind;
pub mod vm;
pub mod window;

#[cfg(feature = "user")]
mod pod;
