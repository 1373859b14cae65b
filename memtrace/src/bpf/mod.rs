//! Our BPF object: loading it, its maps and its programs. The only room that knows aya.
//!
//! [`Bpf`] traces programs, [`KernelMemory`] the kernel's own memory: two uses of one object. Both have what `loaded` has, and a
//! part of their own (`heap`, `kernel_memory`). Each table has a file, which takes its maps from `maps` and imports no other
//! table; `object`, `named_map`, `mapped_array` and `error` are the ground. [`registers`] has a small object of its own.

mod blocks;
mod calls;
mod capacities;
mod code;
mod control;
mod error;
mod events;
pub mod features;
mod frees;
mod heap;
mod heap_programs;
mod hooked_code;
mod kernel_memory;
mod loaded;
mod mapped_array;
mod maps;
mod multi_object;
mod named_map;
mod object;
mod pages;
mod pids;
pub mod point;
mod probe_kind;
mod probes;
mod recordings;
pub mod registers;
mod rooms;
mod rows;
mod settings;
mod sites;
mod slots;
mod spare_blocks;
mod stacks;
mod sys;
mod threads;

#[cfg(test)]
mod tests;

pub(crate) use self::object::has_object;
pub use self::{
    blocks::FoundBlock,
    capacities::{Asked, Capacities, Extras, TargetSize},
    error::BpfError,
    events::{Events, MappingEvents},
    kernel_memory::MemorySettings,
    point::Point,
    probe_kind::{AttachMethod, ProbeKind, ProbeSet},
    rows::RowPlace,
    settings::{Settings, Unwind},
};

/// The object, for tracing of programs.
pub type Bpf = loaded::Loaded<heap::Heap>;

/// The object, for tracing of the kernel's own memory.
pub type KernelMemory = loaded::Loaded<kernel_memory::KernelPrograms>;
