//! Roots: memory from which pointers lead to blocks.

/// The kind of the words of a stretch of memory, outside of blocks. In blocks they are the blocks' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// Roots.
    Roots,
    /// The allocator's: what was freed, and is not overwritten yet.
    Nothing,
}
