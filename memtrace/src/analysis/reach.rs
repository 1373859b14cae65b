//! Which blocks can still be reached: from roots, or from other blocks that can be. Conservative, as collectors of C programs
//! are: every aligned word that lies in a block points to it, wherever in the block that is. So does one whose address bits
//! alone are a block's first address: lock-free queues and boxed values keep a tag in the bits above.
//!
//! In: where blocks lie, and the words of memory in order of their addresses, each stretch with what its words are. Out: a
//! mark for each block. Knows nothing of processes.
//!
//! Memory is looked at once. Of a word in a block it is noted which block it points to, and what is reached is found by
//! following these notes: so no more is kept of a heap than its pointers.

use crate::model::roots::WordKind;
use thiserror::Error;

/// Pointers between blocks that are kept, four bytes each: a gibibyte.
const MAX_POINTERS: usize = 1 << 28;
/// Blocks this far apart are looked up apart, and so are blocks that are so large.
const APART_BYTES: u64 = 1 << 20;
/// Bytes in a word.
const WORD: usize = 8;
/// The bits of a word that tagged pointers leave to the address (`boost::lockfree`, NaN boxing), on x86-64 and arm64 alike.
const ADDRESS_BITS: u64 = (1 << 48) - 1;

/// More pointers than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its blocks have more than {MAX_POINTERS} pointers to one another")]
pub struct TooManyPointers;

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

    /// Where the room ends that glibc's malloc has made for it, and that of the next block begins. glibc lets a block use the
    /// first word of what follows it while that is free, so this address may lie in the block.
    fn chunk_end(self) -> u64 {
        let chunk = (self.end - self.start).saturating_add(8).max(32).checked_next_multiple_of(16);
        self.start.saturating_sub(16).saturating_add(chunk.unwrap_or(u64::MAX))
    }
}

/// How an allocator places blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The layout of glibc: its pointers to the room behind a block, which it leaves everywhere, may lead into the block. Such words
    /// do not count as roots.
    Glibc,
    /// Another layout.
    Other,
}

/// Blocks and the pointers between them.
#[derive(Debug)]
pub struct Reach {
    layout: Layout,
    /// By address; none overlap.
    blocks: Vec<Extent>,
    regions: Vec<Region>,
    reached: Vec<bool>,
    /// The part of `pointers` that is of each block: from where, up to where.
    spans: Vec<(usize, usize)>,
    /// The blocks that are pointed to, by index.
    pointers: Vec<u32>,
    /// Memory before this has been looked at.
    seen: u64,
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

impl Reach {
    /// Blocks of which nothing is known but where they lie, in order of their addresses. One that reaches into the next is cut
    /// there. There may be 2^32 at most, the others are left out.
    #[must_use]
    pub fn new(mut blocks: Vec<Extent>, layout: Layout) -> Self {
        debug_assert!(blocks.is_sorted());
        blocks.truncate(u32::MAX as usize);
        for index in 1..blocks.len() {
            blocks[index - 1].end = blocks[index - 1].end.min(blocks[index].start);
        }
        let count = blocks.len();
        let regions = regions(&blocks);
        Self {
            layout,
            blocks,
            regions,
            reached: vec![false; count],
            spans: vec![(0, 0); count],
            pointers: Vec::new(),
            seen: 0,
        }
    }

    /// Takes in a word that is a root.
    pub fn root(&mut self, word: u64) {
        if let Some(block) = self.pointed_to(word) {
            self.mark(block, word);
        }
    }

    /// Takes in memory from the address `start` on, which is that of a word. Memory must come in order of its addresses; what
    /// was looked at before is passed over.
    ///
    /// # Errors
    /// Where there are more pointers than can be kept.
    pub fn scan(&mut self, start: u64, memory: &[u8], source: WordKind) -> Result<(), TooManyPointers> {
        let mut next = self.blocks.partition_point(|block| block.end <= start);
        let (least, most) = self.bounds();
        let may_point = |address: u64| (least..most).contains(&address);
        for (offset, bytes) in (0..).step_by(WORD).zip(memory.as_chunks::<WORD>().0) {
            // The address space has an end.
            let Some(at) = start.checked_add(offset) else { break };
            while self.blocks.get(next).is_some_and(|block| block.end <= at) {
                next += 1;
            }
            let word = u64::from_ne_bytes(*bytes);
            if at < self.seen || !(may_point(word) || may_point(word & ADDRESS_BITS)) {
                continue;
            }
            let Some(to) = self.pointed_to(word) else { continue };
            match self.blocks.get(next) {
                Some(block) if block.start <= at => {
                    if at.saturating_add(WORD as u64) <= block.end {
                        self.note(next, to)?;
                    }
                }
                _ if source == WordKind::Nothing => {}
                _ => self.mark(to, word),
            }
        }
        self.seen = self.seen.max(start.saturating_add(memory.len() as u64));
        Ok(())
    }

    /// Follows what was noted. Returns for each block whether it can be reached.
    #[must_use]
    pub fn reached(mut self) -> Vec<bool> {
        let mut waiting: Vec<usize> = (0..self.blocks.len()).filter(|block| self.reached[*block]).collect();
        while let Some(block) = waiting.pop() {
            let (from, until) = self.spans[block];
            for to in &self.pointers[from..until] {
                let to = *to as usize;
                if !std::mem::replace(&mut self.reached[to], true) {
                    waiting.push(to);
                }
            }
        }
        self.reached
    }

    /// Notes that a root points to a block.
    fn mark(&mut self, block: usize, word: u64) {
        if self.layout == Layout::Other || word != self.blocks[block].chunk_end() {
            self.reached[block] = true;
        }
    }

    /// Notes that a block points to another.
    fn note(&mut self, from: usize, to: usize) -> Result<(), TooManyPointers> {
        let span = &mut self.spans[from];
        let last = self.pointers.len();
        if from == to || (span.1 == last && span.0 < last && self.pointers[last - 1] as usize == to) {
            return Ok(());
        }
        if last == MAX_POINTERS {
            return Err(TooManyPointers);
        }
        if span.0 == span.1 {
            *span = (last, last);
        }
        // In order of addresses, so nothing of other blocks has come between.
        span.1 = last + 1;
        // There are no more blocks than that.
        #[expect(clippy::cast_possible_truncation, reason = "bounded where the blocks were taken in")]
        self.pointers.push(to as u32);
        Ok(())
    }

    fn bounds(&self) -> (u64, u64) {
        match (self.blocks.first(), self.blocks.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (0, 0),
        }
    }

    /// The block that a word points to. With a tag above the address only a block's first address counts: numbers and text have
    /// those bits set as well, and would else make many a block look reached.
    fn pointed_to(&self, word: u64) -> Option<usize> {
        let address = word & ADDRESS_BITS;
        let first_of_tagged = || self.find(address).filter(|block| self.blocks[*block].start == address);
        self.find(word).or_else(|| if address == word { None } else { first_of_tagged() })
    }

    /// The block at an address.
    fn find(&self, address: u64) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Three blocks of 24 bytes in chunks of 32.
    fn three() -> Vec<Extent> {
        [0x1010, 0x1030, 0x1050].map(|start| Extent::new(start, 24)).to_vec()
    }

    #[test]
    fn what_is_pointed_to_is_reached_and_what_it_points_to_and_nothing_else() {
        let mut reach = Reach::new(three(), Layout::Glibc);
        // The first points into the middle of the third, which points back; nobody points to the second, but itself.
        reach.scan(0x1000, &memory(&[0, 0, 0x1060, 0, 0, 0, 0x1030, 0, 0, 0, 0x1010]), WordKind::Nothing).unwrap();
        reach.root(0x1027);
        assert_eq!(reach.reached(), [true, false, true]);
    }

    #[test]
    fn words_outside_of_blocks_count_where_they_are_roots() {
        for (source, reached) in [(WordKind::Roots, true), (WordKind::Nothing, false)] {
            let mut reach = Reach::new(three(), Layout::Glibc);
            reach.scan(0x2000, &memory(&[0x1050, 0x1048, 0x100f]), source).unwrap();
            assert_eq!(reach.reached(), [false, false, reached]);
        }
    }

    #[test]
    fn a_tag_above_the_address_hides_no_pointer_to_a_blocks_beginning() {
        const TAG: u64 = 0xfff8 << 48;
        let mut reach = Reach::new(three(), Layout::Glibc);
        // The first is a root with a tag, and points to the third so; inside of the second, such a word is a number.
        reach.scan(0x1000, &memory(&[0, 0, 0x1050 | TAG, 0]), WordKind::Nothing).unwrap();
        reach.scan(0x2000, &memory(&[0x1038 | TAG]), WordKind::Roots).unwrap();
        reach.root(0x1010 | TAG);
        assert_eq!(reach.reached(), [true, false, true]);
    }

    #[test]
    fn glibcs_pointers_to_what_follows_a_block_do_not_reach_it() {
        for (layout, reached) in [(Layout::Other, true), (Layout::Glibc, false)] {
            let mut reach = Reach::new(three(), layout);
            // Where the first block's last word is, glibc's next chunk begins.
            reach.scan(0x2000, &memory(&[0x1020]), WordKind::Roots).unwrap();
            reach.root(0x1040);
            assert_eq!(reach.reached(), [reached, reached, false]);
        }
        let mut reach = Reach::new(three(), Layout::Glibc);
        reach.scan(0x2000, &memory(&[0x1018, 0x1030]), WordKind::Roots).unwrap();
        assert_eq!(reach.reached(), [true, true, false]);
    }

    #[test]
    fn blocks_of_no_bytes_and_blocks_that_overlap_are_told_apart() {
        let mut reach =
            Reach::new(vec![Extent::new(0x1000, 0), Extent::new(0x1010, 0x100), Extent::new(0x1020, 8)], Layout::Other);
        reach.root(0x1000);
        reach.root(0x1028);
        reach.root(0x1020);
        assert_eq!(reach.reached(), [true, false, true]);
        assert!(Reach::new(Vec::new(), Layout::Other).reached().is_empty());
    }

    /// The same as simply as can be.
    fn naively(blocks: &[Extent], words: &[(u64, u64)], roots: &[u64]) -> Vec<bool> {
        let at = |address: u64| blocks.iter().position(|block| block.start <= address && address < block.end);
        let mut reached = vec![false; blocks.len()];
        let mut waiting: Vec<usize> = roots.iter().filter_map(|root| at(*root)).collect();
        while let Some(block) = waiting.pop() {
            if !std::mem::replace(&mut reached[block], true) {
                let own = |(address, _): &&(u64, u64)| at(*address) == Some(block) && address + 8 <= blocks[block].end;
                waiting.extend(words.iter().filter(own).filter_map(|(_, word)| at(*word)));
            }
        }
        reached
    }

    proptest! {
        #[test]
        fn what_is_reached_is_what_a_plain_search_reaches(
            shape in prop::collection::vec((0u64..4, 0u64..9, prop::bool::weighted(0.05)), 1..60),
            words in prop::collection::vec((any::<prop::sample::Index>(), 0u64..80, any::<bool>()), 300),
            piece in 1usize..40,
        ) {
            let mut blocks: Vec<Extent> = Vec::new();
            let mut at = 0x10_0000;
            for (gap, size, is_far) in shape {
                at += gap * 8 + if is_far { 3 << 20 } else { 0 };
                blocks.push(Extent::new(at, size * 8));
                at += size.max(1) * 8;
            }
            let value = |(index, offset, is_pointer): &(prop::sample::Index, u64, bool)| {
                if *is_pointer { blocks[index.index(blocks.len())].start + offset } else { *offset }
            };
            let roots: Vec<u64> = words[..3].iter().map(value).collect();
            let mut values = words[3..].iter().map(value).cycle();
            let mut reach = Reach::new(blocks.clone(), Layout::Other);
            let mut all = Vec::new();
            for block in &blocks {
                let own: Vec<u64> = (block.start..block.end).step_by(8).map(|_| values.next().unwrap_or(0)).collect();
                all.extend((block.start..).step_by(8).zip(own.iter().copied()));
                for (index, part) in own.chunks(piece).enumerate() {
                    let from = block.start + (index * piece * 8) as u64;
                    reach.scan(from, &memory(part), WordKind::Nothing).unwrap();
                }
            }
            roots.iter().for_each(|root| reach.root(*root));
            prop_assert_eq!(reach.reached(), naively(&blocks, &all, &roots));
        }
    }
}
