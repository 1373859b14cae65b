//! The extents of a jemalloc with their live blocks, as they are kept: a record an extent, and a bit a block.

use super::{
    super::found::{Block, Blocks},
    extent::{Extent, State},
};

/// Extents, in order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Extents {
    all: Vec<Extent>,
    /// The index of an extent, and how many of its blocks threads keep for later use; one may stand several times.
    cached: Vec<(usize, u32)>,
}

impl Extents {
    /// These, of which nothing is cached yet.
    pub(super) fn new(all: Vec<Extent>) -> Self {
        Self { all, cached: Vec::new() }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.all.iter()
    }

    /// Whether an address is in one of them.
    pub(super) fn contain(&self, address: u64) -> bool {
        let index = self.all.partition_point(|extent| extent.end() <= address);
        self.all.get(index).is_some_and(|extent| extent.base <= address)
    }

    /// Takes a block of a class off the live ones, if it is one.
    pub(super) fn take_off(&mut self, address: u64, class: u8) {
        let index = self.all.partition_point(|extent| extent.end() <= address);
        let Some(extent) = self.all.get_mut(index) else { return };
        let is_of_class = extent.state == State::Active && extent.class == class && extent.address <= address;
        let offset = address.saturating_sub(extent.address);
        if !is_of_class || extent.block_bytes == 0 || !offset.is_multiple_of(extent.block_bytes) {
            return;
        }
        let block = offset / extent.block_bytes;
        let place = usize::try_from(block / 64).ok().and_then(|word| extent.live.get_mut(word));
        let Some(word) = place.filter(|word| **word >> (block % 64) & 1 != 0) else { return };
        *word &= !(1 << (block % 64));
        match self.cached.iter_mut().rev().take(16).find(|(known, _)| *known == index) {
            Some((_, count)) => *count += 1,
            None => self.cached.push((index, 1)),
        }
    }

    /// Bytes of cached blocks, each piece by itself.
    pub(super) fn cached(&self) -> impl Iterator<Item = u64> {
        self.cached.iter().filter_map(|(index, count)| {
            let extent = self.all.get(*index)?;
            Some(extent.block_bytes.saturating_mul((*count).into()))
        })
    }
}

impl Extent {
    /// The addresses of its blocks, each with whether it is live.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, bool)> {
        (0..u64::from(self.blocks)).map(|block| {
            let word = usize::try_from(block / 64).ok().and_then(|word| self.live.get(word)).copied().unwrap_or(0);
            (self.address + block * self.block_bytes, word >> (block % 64) & 1 != 0)
        })
    }

    /// How many of its blocks are live.
    pub(super) fn live_blocks(&self) -> u64 {
        self.live.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl Blocks for Extents {
    fn visit(&self, with: &mut dyn FnMut(Block)) {
        for extent in &self.all {
            for (address, _) in extent.blocks().filter(|(_, is_live)| *is_live) {
                with(Block { address, usable_bytes: extent.block_bytes, arena: Some(extent.arena.into()) });
            }
        }
    }
}
