//! Blocks that can be reached from roots, and by which way: marking, the tree of holders, dominators.
//!
//! In: where blocks lie, and the words of memory. Out: for each block whether it is reached and what holds it; blocks summed up by the
//! way that leads to them; bytes that would go with a block. Pure: knows nothing of processes and reads no clock.

mod block_index;
pub mod dominators;
pub mod holder_tree;
pub mod marking;

pub use block_index::Extent;

#[cfg(test)]
mod fixture;
