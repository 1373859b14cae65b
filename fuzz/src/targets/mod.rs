//! The targets, a file each. docs/SECURITY.md lists them beside what is not fuzzed, and why; a test compares.

pub mod answers;
pub mod arguments;
pub mod calls;
pub mod cfi;
pub mod gate;
pub mod heap;
pub mod heap_answers;
pub mod heap_types;
pub mod image;
pub mod kernel_symbols;
pub mod maps;
pub mod mounts;
pub mod placement;
pub mod proc_files;
pub mod reach;
pub mod records;
pub mod returns;
pub mod stack;
pub mod symbol_table;

use crate::Target;

/// Every target.
pub const ALL: &[Target] = &[
    answers::TARGET,
    arguments::TARGET,
    calls::TARGET,
    cfi::TARGET,
    gate::TARGET,
    heap::TARGET,
    heap_answers::TARGET,
    heap_types::TARGET,
    image::TARGET,
    kernel_symbols::TARGET,
    maps::TARGET,
    mounts::TARGET,
    placement::TARGET,
    proc_files::TARGET,
    reach::TARGET,
    records::TARGET,
    returns::TARGET,
    stack::TARGET,
    symbol_table::TARGET,
];
