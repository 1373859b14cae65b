//! Capture: from a process to counters in the kernel, and back out of it.
//!
//! `allocators` says what to hook, `placement` where, `attach` does it, `images` once a file; `target` is a
//! program that is traced, `selection` finds those that are to be; `sources` are the ways in which their memory is told;
//! `command` starts a program that is traced from its first instruction.

pub(crate) mod allocator_mappings;
pub mod allocators;
pub mod attach;
pub mod calibration;
pub mod command;
pub mod images;
pub mod normalise;
pub mod placement;
pub mod preflight;
pub mod prepared;
pub mod privileges;
pub mod returns;
pub mod selection;
pub(crate) mod sources;
pub mod survey;
pub mod target;
