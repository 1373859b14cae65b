//! Blocks by address: which of them an address lies in, without searching all.

/// Blocks this far apart are looked up apart, and so are blocks that are so large.
const APART_BYTES: u64 = 1 << 20;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Its first address.
    pub start: u64,
    /// One past its last address.
    pub end: u64,
}

impl Extent {
    /// The extent of a block of so many bytes. A block of none still has an address that can be pointed to.
    #[must_use]
    pub fn new(start: u64, size_bytes: u64) -> Self {
        Self { start, end: start.saturating_add(size_bytes.max(1)) }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Where the room ends that glibc's malloc has made for it, and that of the next block begins. glibc lets a block use the
    /// first word of what follows it while that is free, so this address may lie in the block.
    pub(super) fn chunk_end(self) -> u64 {
        let chunk = (self.end - self.start).saturating_add(8).max(32).checked_next_multiple_of(16);
        self.start.saturating_sub(16).saturating_add(chunk.unwrap_or(u64::MAX))
    }
}

/// Blocks in order of their addresses; none overlap.
#[derive(Debug, Default)]
pub(super) struct BlockIndex {
    blocks: Vec<Extent>,
    regions: Vec<Region>,
}

/// Blocks that lie near one another: which of them are at an address is found without searching all.
#[derive(Debug)]
struct Region {
    start: u64,
    end: u64,
    /// How many addresses have one entry of `first`, as a power of two.
    shift: u32,
    /// For each stretch of so many addresses the first block that ends behind its beginning.
    first: Vec<u32>,
}

impl BlockIndex {
    /// Takes in blocks in order of their addresses, `most` of them; one that reaches into the next is cut there.
    pub(super) fn new(mut blocks: Vec<Extent>, most: usize) -> Self {
        debug_assert!(blocks.is_sorted());
        blocks.truncate(most);
        for index in 1..blocks.len() {
            blocks[index - 1].end = blocks[index - 1].end.min(blocks[index].start);
        }
        let regions = regions(&blocks);
        Self { blocks, regions }
    }

    /// All blocks.
    pub(super) fn extents(&self) -> &[Extent] {
        &self.blocks
    }

    /// The addresses between which all of them lie.
    pub(super) fn bounds(&self) -> (u64, u64) {
        match (self.blocks.first(), self.blocks.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (0, 0),
        }
    }

    /// The block at an address.
    pub(super) fn find(&self, address: u64) -> Option<usize> {
        let region = self.regions.partition_point(|region| region.start <= address);
        let region = &self.regions[region.checked_sub(1)?];
        if address >= region.end {
            return None;
        }
        let stretch = usize::try_from((address - region.start) >> region.shift).ok()?;
        let first = *region.first.get(stretch)? as usize;
        // The first that ends behind the next stretch's beginning is the last that may begin in this one.
        let last = region.first.get(stretch + 1).map_or(self.blocks.len() - 1, |last| *last as usize);
        let candidates = &self.blocks[first..=last.min(self.blocks.len() - 1)];
        let block = first + candidates.partition_point(|block| block.start <= address).checked_sub(1)?;
        (address < self.blocks[block].end).then_some(block)
    }

    /// Gives back the memory that finding takes.
    pub(super) fn forget_addresses(&mut self) {
        self.regions = Vec::new();
    }
}

/// Groups blocks that lie near one another.
fn regions(blocks: &[Extent]) -> Vec<Region> {
    let is_large = |block: &Extent| block.end - block.start >= APART_BYTES;
    let is_apart =
        |pair: &[Extent]| pair[1].start - pair[0].end >= APART_BYTES || is_large(&pair[0]) || is_large(&pair[1]);
    let mut regions = Vec::new();
    let mut begin = 0;
    while begin < blocks.len() {
        let more = blocks[begin..].windows(2).position(is_apart);
        let end = more.map_or(blocks.len(), |more| begin + more + 1);
        regions.push(region(blocks, begin, end));
        begin = end;
    }
    regions
}

/// The region of the blocks from `begin` up to `end`, of which there is one at least.
fn region(blocks: &[Extent], begin: usize, end: usize) -> Region {
    let (start, after) = (blocks[begin].start, blocks[end - 1].end);
    // Two entries a block, whatever their sizes.
    let most = 2 * (end - begin) as u64 + 16;
    let shift = (4..63).find(|shift| (after - start) >> shift <= most).unwrap_or(63);
    let mut first = Vec::new();
    let mut next = begin;
    for stretch in 0..=((after - start) >> shift) {
        let from = start + (stretch << shift);
        while next + 1 < end && blocks[next].end <= from {
            next += 1;
        }
        first.push(u32::try_from(next).unwrap_or(u32::MAX));
    }
    Region { start, end: after, shift, first }
}
