//! The names of what the tables hold: a target, a site, a stack, a block. Everything else is built on these.

use crate::arch::ADDRESS_BITS;

/// Where a target stands in the table of targets. A target is one program in one process: an exec takes a
/// new place, so that whatever the program before it left cannot be reached any more.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessSlot(pub u32);

impl ProcessSlot {
    /// No target. Its counters are those of the run as a whole.
    pub const NONE: Self = Self(0);
    /// The highest that there can be: a block's key has 17 bits for it.
    pub const MAX: Self = Self((1 << 17) - 1);
}

/// Names those of which the same is recorded at any moment: one process whose probes are its own, or all that share probes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetGroup(pub u32);

impl BudgetGroup {
    /// All that share probes.
    pub const SHARED: Self = Self(0);
    /// The highest that there can be. Windows of different groups open one after the other, so that more would wait for long.
    pub const MAX: Self = Self(16);
}

/// Names an allocation site by what it is: [`SiteId::of`] its program, stack and kind of memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u64);

impl SiteId {
    /// The site of `stack` in the program at `process`, of memory of one [`Category`], given as its code.
    #[inline(always)]
    #[must_use]
    pub fn of(stack: StackId, process: ProcessSlot, category: u32) -> Self {
        Self(mix(stack.0 ^ mix((category as u64) << 32 | process.0 as u64)))
    }
}

/// Where an allocation site's counters stand in the table of sites: a block remembers this, so that its
/// free costs no search. Sites are numbered from 1.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct SiteIndex(pub u32);

impl SiteIndex {
    /// No site.
    pub const NONE: Self = Self(0);
}

/// Names a stack: a 64-bit hash over its frames and whether it was cut.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct StackId(pub u64);

/// Spreads every bit of `x` over the whole word (the finaliser of SplitMix64, Steele et al. 2014).
#[inline(always)]
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Names one block: its address and, above that, the program that owns it, in one word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey(pub u64);

impl BlockKey {
    /// The block that the allocator has put at `address` for the program in `process`.
    #[inline(always)]
    #[must_use]
    pub const fn new(process: ProcessSlot, address: u64) -> Self {
        Self((process.0 as u64) << ADDRESS_BITS | address & ((1 << ADDRESS_BITS) - 1))
    }

    /// Where the block is.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 & ((1 << ADDRESS_BITS) - 1)
    }

    /// The program that owns the block.
    #[inline(always)]
    #[must_use]
    pub const fn process(self) -> ProcessSlot {
        ProcessSlot((self.0 >> ADDRESS_BITS) as u32)
    }
}

const _: () = assert!(size_of::<BlockKey>() == 8);
const _: () = assert!(ProcessSlot::MAX.0 < 1 << (u64::BITS - ADDRESS_BITS));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_address_in_two_programs_is_two_blocks() {
        let (one, other) = (ProcessSlot(1), ProcessSlot::MAX);
        let address = 0x7fff_ffff_fff0;
        assert_ne!(BlockKey::new(one, address), BlockKey::new(other, address));
        assert_eq!(BlockKey::new(other, address).process(), other);
        assert_eq!(BlockKey::new(one, address).process(), one);
        assert_eq!(BlockKey::new(one, address).address(), address);
    }
}
