//! The data that crosses the border between the kernel side and user space: keys and values of maps, records of ring buffers.

pub mod address_space;
pub mod block;
pub mod code;
pub mod control;
pub mod counters;
pub mod event;
pub mod free_site;
pub mod kernel_memory;
pub mod mapping;
pub mod namespace;
pub mod process;
pub mod registers;
pub mod resident;
pub mod site;
pub mod stack;

#[cfg(feature = "user")]
mod pod;
