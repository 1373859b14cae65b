//! Marking: which blocks can be reached from roots, or from other blocks that can be, and what holds each of them. Conservative, as
//! collectors of C programs are: every aligned word that lies in a block points to it, wherever in the block that is. So does one
//! whose address bits alone are a block's first address: lock-free queues and boxed values keep a tag in the bits above.
//!
//! In: where blocks lie, and the words of memory in order of their addresses, each stretch with what its words are. Out: for each
//! block its parent, on a shortest way from a root. Knows nothing of processes.
//!
//! Memory is looked at once. Of a word in a block it is noted which block it points to, and what is reached is found by
//! following these notes: so no more is kept of a heap than its pointers.

use thiserror::Error;

use super::block_index::{BlockIndex, Extent};
use crate::model::roots::WordKind;

/// Pointers between blocks that are kept, four bytes each: a gibibyte.
const MAX_POINTERS: usize = 1 << 28;
/// Blocks that are marked at most: their numbers leave a bit.
const MAX_BLOCKS: usize = (1 << 31) - 1;
/// Bytes in a word.
const WORD: usize = 8;
/// The bits of a word that tagged pointers leave to the address (`boost::lockfree`, NaN boxing), on x86-64 and arm64 alike.
const ADDRESS_BITS: u64 = (1 << 48) - 1;
/// No block, in place of a parent.
const NOBODY: u32 = u32::MAX;
/// The bit that tells a root from a block.
const ROOT: u32 = 1 << 31;
/// Steps between two questions whether to go on.
const STEPS: usize = 1 << 16;

/// Why marking ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MarkingError {
    /// More pointers than are kept.
    #[error("its blocks have more than {MAX_POINTERS} pointers to one another")]
    TooManyPointers,
    /// The caller wants no more.
    #[error("it takes too long")]
    Interrupted,
}

/// How an allocator places blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The layout of glibc: its pointers to the room behind a block, which it leaves everywhere, may lead into the block. Such words
    /// do not count as roots.
    Glibc,
    /// That of glibc in these ranges of addresses (start, end), in order and disjoint; another one elsewhere.
    GlibcWithin(Vec<(u64, u64)>),
    /// Another layout.
    Other,
}

impl Layout {
    fn is_glibc_at(&self, address: u64) -> bool {
        match self {
            Self::Glibc => true,
            Self::Other => false,
            Self::GlibcWithin(ranges) => {
                let range = ranges.get(ranges.partition_point(|(_, end)| *end <= address));
                range.is_some_and(|(start, _)| *start <= address)
            }
        }
    }
}

/// How much a root says of who holds a block: a block counts as held by a root of the first rank that leads to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Data of an image: variables of the program.
    #[default]
    Data,
    /// Memory that is no allocator's and no stack.
    Memory,
    /// Stacks and thread-local memory: they may keep pointers that nobody needs any more.
    Thread,
    /// Words that are in no memory: registers, and those that the kernel keeps.
    Outside,
}

impl Rank {
    const ALL: [Self; 4] = [Self::Data, Self::Memory, Self::Thread, Self::Outside];
}

/// A word that leads to a block without any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The block, by its number in the order of addresses.
    pub block: u32,
    /// How much it says.
    pub rank: Rank,
    /// The address of the word; for one outside of memory, whatever number it came with.
    pub place: u64,
}

/// Blocks and the pointers between them.
#[derive(Debug)]
pub struct Reach {
    layout: Layout,
    blocks: BlockIndex,
    /// For each block the number of the root that leads to it, with [`ROOT`].
    parents: Vec<u32>,
    /// One for each block that a root leads to: of several, the first of the first rank.
    roots: Vec<Root>,
    /// For each block that was looked at, where its pointers begin in `pointers`.
    first: Vec<u32>,
    /// The blocks that are pointed to, by number, in the order of those that point to them.
    pointers: Vec<u32>,
    /// Memory before this has been looked at.
    seen: u64,
}

impl Reach {
    /// Blocks of which nothing is known but where they lie, in order of their addresses. One that reaches into the next is cut
    /// there. There may be 2^31 - 1 at most, the others are left out.
    #[must_use]
    pub fn new(blocks: Vec<Extent>, layout: Layout) -> Self {
        let blocks = BlockIndex::new(blocks, MAX_BLOCKS);
        let count = blocks.extents().len();
        Self {
            layout,
            blocks,
            parents: vec![NOBODY; count],
            roots: Vec::new(),
            first: Vec::with_capacity(count + 1),
            pointers: Vec::new(),
            seen: 0,
        }
    }

    /// Takes in a word that is a root, with a number for its place.
    pub fn root(&mut self, word: u64, rank: Rank, place: u64) {
        if let Some(block) = self.pointed_to(word) {
            self.mark(block, word, rank, place);
        }
    }

    /// Takes in memory from the address `start` on, which is that of a word. Memory must come in order of its addresses; what
    /// was looked at before is passed over. Words outside of blocks are of this rank.
    ///
    /// # Errors
    /// Where there are more pointers than can be kept.
    pub fn scan(&mut self, start: u64, memory: &[u8], source: WordKind, rank: Rank) -> Result<(), MarkingError> {
        let mut next = self.blocks.extents().partition_point(|block| block.end <= start);
        let (least, most) = self.blocks.bounds();
        let may_point = |address: u64| (least..most).contains(&address);
        for (offset, bytes) in (0..).step_by(WORD).zip(memory.as_chunks::<WORD>().0) {
            let word = u64::from_ne_bytes(*bytes);
            if !(may_point(word) || may_point(word & ADDRESS_BITS)) {
                continue;
            }
            // The address space has an end.
            let Some(at) = start.checked_add(offset) else { break };
            if at < self.seen {
                continue;
            }
            let Some(to) = self.pointed_to(word) else { continue };
            while self.blocks.extents().get(next).is_some_and(|block| block.end <= at) {
                next += 1;
            }
            match self.blocks.extents().get(next) {
                Some(block) if block.start <= at => {
                    if at.saturating_add(WORD as u64) <= block.end {
                        self.note(next, to)?;
                    }
                }
                _ if source == WordKind::Nothing => {}
                _ => self.mark(to, word, rank, at),
            }
        }
        self.seen = self.seen.max(start.saturating_add(memory.len() as u64));
        Ok(())
    }

    /// Follows what was noted, breadth first, from the roots of one rank after those of the other. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// Where that says no.
    pub fn follow(mut self, goes_on: &mut dyn FnMut() -> bool) -> Result<Reached, MarkingError> {
        let count = self.blocks.extents().len();
        self.begin_pointers_of(count);
        self.blocks.forget_addresses();
        let mut is_reached = vec![false; count];
        let mut order: Vec<u32> = Vec::new();
        let mut next = 0;
        for rank in Rank::ALL {
            for root in self.roots.iter().filter(|root| root.rank == rank) {
                if !std::mem::replace(&mut is_reached[root.block as usize], true) {
                    order.push(root.block);
                }
            }
            while let Some(block) = order.get(next).copied() {
                if next.is_multiple_of(STEPS) && !goes_on() {
                    return Err(MarkingError::Interrupted);
                }
                next += 1;
                let (from, until) = (self.first[block as usize], self.first[block as usize + 1]);
                for to in &self.pointers[from as usize..until as usize] {
                    if !std::mem::replace(&mut is_reached[*to as usize], true) {
                        self.parents[*to as usize] = block;
                        order.push(*to);
                    }
                }
            }
        }
        let Self { blocks, parents, roots, first, pointers, .. } = self;
        Ok(Reached { blocks, parents, roots, order, first, pointers })
    }

    /// Notes that a root points to a block.
    fn mark(&mut self, block: usize, word: u64, rank: Rank, place: u64) {
        let extent = self.blocks.extents()[block];
        if word == extent.chunk_end() && self.layout.is_glibc_at(extent.start) {
            return;
        }
        let number = self.parents[block];
        // There are no more blocks than fit, and no more roots than blocks.
        #[expect(clippy::cast_possible_truncation, reason = "bounded where the blocks were taken in")]
        let root = Root { block: block as u32, rank, place };
        #[expect(clippy::cast_possible_truncation, reason = "one a block at most")]
        let next = self.roots.len() as u32;
        if number == NOBODY {
            self.parents[block] = ROOT | next;
            self.roots.push(root);
        } else if let Some(known) = self.roots.get_mut((number & !ROOT) as usize).filter(|known| rank < known.rank) {
            *known = root;
        }
    }

    /// Notes that a block points to another.
    fn note(&mut self, from: usize, to: usize) -> Result<(), MarkingError> {
        if from == to {
            return Ok(());
        }
        self.begin_pointers_of(from);
        let own = self.first[from] as usize;
        let last = self.pointers.len();
        if last > own && self.pointers[last - 1] as usize == to {
            return Ok(());
        }
        if last == MAX_POINTERS {
            return Err(MarkingError::TooManyPointers);
        }
        // There are no more blocks than that.
        #[expect(clippy::cast_possible_truncation, reason = "bounded where the blocks were taken in")]
        self.pointers.push(to as u32);
        Ok(())
    }

    /// From here on, pointers are a block's. Memory comes in order of addresses, so earlier blocks have all theirs.
    fn begin_pointers_of(&mut self, block: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "there are no more than MAX_POINTERS")]
        let here = self.pointers.len() as u32;
        if self.first.len() <= block {
            self.first.resize(block + 1, here);
        }
    }

    /// The block that a word points to. With a tag above the address only a block's first address counts: numbers and text have
    /// those bits set as well, and would else make many a block look reached.
    fn pointed_to(&self, word: u64) -> Option<usize> {
        let address = word & ADDRESS_BITS;
        let first_of_tagged = || {
            let found = self.blocks.find(address);
            found.filter(|block| self.blocks.extents()[*block].start == address)
        };
        self.blocks.find(word).or_else(|| if address == word { None } else { first_of_tagged() })
    }
}

/// The next holder of a block on a shortest way from a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing was seen to point to it that can be reached itself.
    Nobody,
    /// A root, by its index in [`Reached::roots`].
    Root(usize),
    /// Another block.
    Block(usize),
}

/// Blocks, and by which way each is reached.
#[derive(Debug)]
pub struct Reached {
    blocks: BlockIndex,
    parents: Vec<u32>,
    roots: Vec<Root>,
    order: Vec<u32>,
    first: Vec<u32>,
    pointers: Vec<u32>,
}

impl Reached {
    /// Where blocks lie, in order of addresses.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        self.blocks.extents()
    }

    /// Whether a block can be reached.
    #[must_use]
    pub fn is_reached(&self, block: usize) -> bool {
        self.parents.get(block).is_some_and(|parent| *parent != NOBODY)
    }

    /// The holder of a block.
    #[must_use]
    pub fn parent(&self, block: usize) -> Parent {
        match self.parents.get(block).copied().unwrap_or(NOBODY) {
            NOBODY => Parent::Nobody,
            root if root & ROOT != 0 => Parent::Root((root & !ROOT) as usize),
            parent => Parent::Block(parent as usize),
        }
    }

    /// The roots, one for each block that a root leads to.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The blocks that are reached, each behind its parent.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The blocks that a block points to.
    #[must_use]
    pub fn pointers_of(&self, block: usize) -> &[u32] {
        let span = self.first.get(block).zip(self.first.get(block + 1));
        span.and_then(|(from, until)| self.pointers.get(*from as usize..*until as usize)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
