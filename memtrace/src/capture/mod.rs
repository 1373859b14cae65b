//! Capture: from a process to counters in the kernel, and back out of it.
//!
//! `allocators` says what to hook, `placement` where, `attach` does it, `images` once a file; `target` is a
//! program that is traced, `selection` finds those that are to be; `kernel` owns the BPF object and its maps;
//! `command` starts a program that is traced from its first instruction.

pub mod allocators;
pub mod attach;
pub mod calibration;
pub mod command;
pub mod images;
pub mod kernel;
pub mod placement;
pub mod preflight;
pub mod privileges;
pub mod returns;
pub mod selection;
pub mod target;
pub mod tracefs;
