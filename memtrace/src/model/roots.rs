//! Roots: memory and registers from which pointers lead to blocks.

use serde::{Deserialize, Serialize};

/// The kind of the words of a stretch of memory, outside of blocks. In blocks they are the blocks' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// Roots.
    Roots,
    /// The allocator's: what was freed, and is not overwritten yet.
    Nothing,
}

/// A thread's words outside of memory, as they were when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadWords {
    /// The thread, in memtrace's pid namespace.
    pub tid: u32,
    /// Its stack pointer; nothing where it could not be told.
    pub stack_pointer: Option<u64>,
    /// Its general-purpose registers and the bases of its thread-local memory; nothing where they could not be read, as while it
    /// runs on a CPU.
    pub registers: Option<Vec<u64>>,
}
