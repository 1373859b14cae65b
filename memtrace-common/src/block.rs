//! Live blocks: what is known of memory that was allocated and not yet freed.

use crate::{process::ProcessSlot, site::SiteIndex};

/// How many low bits of a [`BlockKey`] are the address: all that user space has with four-level page tables.
/// With five levels the kernel hands out higher addresses only to programs that ask for them by name
/// (Documentation/arch/x86/x86_64/5level-paging.rst), which no allocator does.
const ADDRESS_BITS: u32 = 47;

/// Names one block: its address and the program that owns it, in one word.
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

/// As part of what a block was recorded.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded(u16);

impl Recorded {
    /// It was certain to be.
    pub const FOR_CERTAIN: Self = Self(0);
    /// It is a sample.
    pub const AS_SAMPLE: Self = Self(1 << 15);
    /// The highest number of a cohort.
    pub const MAX_COHORT: u32 = (1 << 15) - 1;

    /// It was allocated while the window of this number was open, from 1 to [`Self::MAX_COHORT`].
    #[inline(always)]
    #[must_use]
    pub const fn in_cohort(number: u32) -> Self {
        Self((number & Self::MAX_COHORT) as u16)
    }

    /// Whether it belongs to some window's cohort, and not to what is recorded for good.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_some_cohort(self) -> bool {
        self.0 != Self::FOR_CERTAIN.0 && self.0 != Self::AS_SAMPLE.0
    }

    /// Of a block, from the first word of its record.
    #[inline(always)]
    #[must_use]
    pub const fn of_word(word: u64) -> Self {
        Self((word >> SIZE_BITS) as u16)
    }
}

/// How many low bits of a block's first word are its size: no block is larger than all addresses together.
const SIZE_BITS: u32 = 48;

/// What is known of one live block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// The size the program asked for, in bytes, and above it a [`Recorded`].
    sized: u64,
    /// The allocation site that is charged for it.
    pub site: SiteIndex,
    /// When it was allocated: [`crate::control::Control::now_ms`] of that moment.
    pub born_ms: u32,
}

impl LiveBlock {
    /// A block of a size that the allocator has found room for.
    #[inline(always)]
    #[must_use]
    pub const fn new(size_bytes: u64, recorded: Recorded, site: SiteIndex, born_ms: u32) -> Self {
        Self { sized: size_bytes & ((1 << SIZE_BITS) - 1) | (recorded.0 as u64) << SIZE_BITS, site, born_ms }
    }

    /// The size the program asked for, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        Self::size_of_word(self.sized)
    }

    /// The same, from the first word of a record.
    #[inline(always)]
    #[must_use]
    pub const fn size_of_word(word: u64) -> u64 {
        word & ((1 << SIZE_BITS) - 1)
    }

    /// As part of what it was recorded.
    #[inline(always)]
    #[must_use]
    pub const fn recorded(&self) -> Recorded {
        Recorded::of_word(self.sized)
    }
}

const _: () = assert!(size_of::<BlockKey>() == 8);
const _: () = assert!(size_of::<LiveBlock>() == 16);
const _: () = assert!(ProcessSlot::MAX.0 < 1 << (u64::BITS - ADDRESS_BITS));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_its_size_and_as_part_of_what_it_was_made() {
        for recorded in [Recorded::FOR_CERTAIN, Recorded::AS_SAMPLE, Recorded::in_cohort(Recorded::MAX_COHORT)] {
            let block = LiveBlock::new((1 << 47) - 1, recorded, SiteIndex(3), 7);
            assert_eq!((block.size_bytes(), block.recorded()), ((1 << 47) - 1, recorded));
        }
        assert!(Recorded::in_cohort(1).is_in_some_cohort() && !Recorded::AS_SAMPLE.is_in_some_cohort());
    }

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
