//! The record of an extent (`edata_t`), and the entry of the tree that leads to it (`rtree_leaf_elm_t`), of jemalloc 5.3.
//!
//! include/jemalloc/internal/edata.h and rtree.h
//! (<https://github.com/jemalloc/jemalloc/tree/5.3.0/include/jemalloc/internal>). Only fields that are read stand here.

use super::{super::bytes::PAGE, classes::Classes};

pub(super) const PAGE_BYTES: u64 = PAGE as u64;
/// Words of a record.
pub(super) const RECORD_WORDS: usize = 16;
/// Bytes of a record, and its alignment.
pub(super) const RECORD_BYTES: u64 = RECORD_WORDS as u64 * 8;
/// Words of its map of free regions, and the first of them.
const BITMAP_WORDS: usize = 8;
const BITMAP: usize = 8;
/// Addresses of user space on x86-64 end here, in the trees of jemalloc.
const END: u64 = 1 << 47;

/// An entry of a leaf, for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// The address of the record; 0 for none.
    pub(super) fn record(self) -> u64 {
        self.0 & (END * 2 - 1) & !(RECORD_BYTES - 1)
    }

    fn class(self) -> u64 {
        self.0 >> 48
    }

    fn state(self) -> u64 {
        self.0 >> 2 & 7
    }

    fn is_slab(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The use of an extent's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has blocks.
    Active,
    /// Free, and its pages are still there.
    Dirty,
    /// Free, and the kernel may take its pages.
    Muzzy,
    /// Free, and given back, but for its addresses.
    Retained,
}

/// A range of pages with one block, with several of one size (a slab), or free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its first page.
    pub(super) base: u64,
    /// Its length in bytes, whole pages.
    pub(super) bytes: u64,
    /// Its first block: a large one may begin within the first page.
    pub(super) address: u64,
    /// The index of its arena.
    pub(super) arena: u16,
    /// Whether it is a slab.
    pub(super) is_slab: bool,
    /// Its state.
    pub(super) state: State,
    /// The class of its blocks.
    pub(super) class: u8,
    /// Usable bytes of each; 0 of a free extent.
    pub(super) block_bytes: u64,
    /// How many blocks it has room for.
    pub(super) blocks: u32,
    /// A bit for each block that is not free.
    pub(super) live: [u64; BITMAP_WORDS],
}

impl Extent {
    /// The extent of a record that an entry leads to; nothing where one of them contradicts the other, or itself.
    pub(super) fn proven(entry: Entry, words: &[u64; RECORD_WORDS], classes: Classes) -> Option<Self> {
        let [bits, address, size, ..] = *words;
        let (base, bytes) = (address & !(PAGE_BYTES - 1), size & !(PAGE_BYTES - 1));
        let is_range = base != 0 && bytes != 0 && base.checked_add(bytes)? <= END;
        let class = u8::try_from(bits >> 20 & 0xff).ok()?;
        let is_slab = bits >> 12 & 1 != 0;
        // A free extent, and its entries, may keep the class and the kind of the last use until it is merged or split.
        let is_classless = u32::from(class) == classes.count;
        let agrees = entry.state() == (bits >> 17 & 7)
            && (is_classless || (entry.class(), entry.is_slab()) == (u64::from(class), is_slab));
        if !is_range || !agrees {
            return None;
        }
        let state = match bits >> 17 & 7 {
            0 => State::Active,
            1 => State::Dirty,
            2 => State::Muzzy,
            3 => State::Retained,
            _ => return None,
        };
        let arena = u16::try_from(bits & 0xfff).ok()?;
        let free = Self {
            base,
            bytes,
            address,
            arena,
            is_slab,
            state,
            class,
            block_bytes: 0,
            blocks: 0,
            live: [0; BITMAP_WORDS],
        };
        match (state, is_slab) {
            (State::Active, true) => free.slab(bits >> 28 & 0x3ff, words.get(BITMAP..)?, classes),
            (State::Active, false) => free.large(classes),
            _ => (is_classless && address == base).then_some(free),
        }
    }

    /// As many blocks are free as its map says, and none behind the last.
    fn slab(self, free: u64, map: &[u64], classes: Classes) -> Option<Self> {
        let block_bytes = classes.bytes(self.class.into()).filter(|_| classes.is_small(self.class.into()))?;
        let blocks = u32::try_from(self.bytes / block_bytes).ok().filter(|blocks| (1..=512).contains(blocks))?;
        let mut live = [0; BITMAP_WORDS];
        let (mut counted, mut left) = (0_u64, blocks);
        for (live, map) in live.iter_mut().zip(map) {
            if left == 0 {
                break;
            }
            let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
            if map & !mask != 0 {
                return None;
            }
            *live = !map & mask;
            counted += u64::from(map.count_ones());
            left = left.saturating_sub(64);
        }
        let is_proven = counted == free && self.address == self.base;
        is_proven.then_some(Self { block_bytes, blocks, live, ..self })
    }

    /// Its block fills it, but for a page over which its beginning is spread, unless it is a small one that is sampled.
    fn large(self, classes: Classes) -> Option<Self> {
        let block_bytes = classes.bytes(self.class.into())?;
        let spare = self.bytes.checked_sub(block_bytes)?;
        let fits = self.address - self.base <= spare;
        let is_proven = fits && (spare == 0 || spare == PAGE_BYTES || classes.is_small(self.class.into()));
        is_proven.then_some(Self { block_bytes, blocks: 1, live: [1, 0, 0, 0, 0, 0, 0, 0], ..self })
    }

    /// One past its last address.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes
    }
}
