//! Graphs of blocks for tests.

use super::{
    block_index::Extent,
    marking::{Layout, Rank, Reach, Reached},
};
use crate::model::roots::WordKind;

/// Bytes of a block of a graph: room for its pointers.
pub(super) const BLOCK_BYTES: u64 = 1024;

/// The address of a block of a graph.
pub(super) fn address(block: usize) -> u64 {
    0x10_0000 + block as u64 * BLOCK_BYTES
}

/// So many blocks with these pointers, and these roots: a block, and the rank by its number. The place of a root is its number.
pub(super) fn graph(blocks: usize, pointers: &[(usize, usize)], roots: &[(usize, usize)]) -> Reached {
    const RANKS: [Rank; 4] = [Rank::Data, Rank::Memory, Rank::Thread, Rank::Outside];
    let extents = (0..blocks).map(|block| Extent::new(address(block), BLOCK_BYTES)).collect();
    let mut reach = Reach::new(extents, Layout::Other);
    for block in 0..blocks {
        let own = pointers.iter().filter(|(from, _)| *from == block);
        let words: Vec<u8> = own.flat_map(|(_, to)| address(*to).to_ne_bytes()).collect();
        reach.scan(address(block), &words, WordKind::Nothing, Rank::Data).unwrap();
    }
    for (place, (block, rank)) in roots.iter().enumerate() {
        reach.root(address(*block), RANKS[*rank], place as u64);
    }
    reach.follow(&mut || true).unwrap()
}

/// A list of so many blocks of 32 bytes that a root leads to: each points to the next, to the one before, and to the first.
pub(super) fn list(blocks: usize) -> Reached {
    let address = |block: usize| 0x10_0000 + block as u64 * 32;
    let extents = (0..blocks).map(|block| Extent::new(address(block), 32)).collect();
    let mut reach = Reach::new(extents, Layout::Other);
    for block in 0..blocks {
        let words = [(block + 1).min(blocks - 1), block.saturating_sub(1), 0].map(address);
        let words: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        reach.scan(address(block), &words, WordKind::Nothing, Rank::Data).unwrap();
    }
    reach.root(address(0), Rank::Data, 0);
    reach.follow(&mut || true).unwrap()
}
