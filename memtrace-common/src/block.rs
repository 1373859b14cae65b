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

/// What is known of one live block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// The size the program asked for, in bytes.
    pub size_bytes: u64,
    /// The allocation site that is charged for it.
    pub site: SiteIndex,
    /// When it was allocated: [`crate::control::Control::now_ms`] of that moment.
    pub born_ms: u32,
}

const _: () = assert!(size_of::<BlockKey>() == 8);
const _: () = assert!(size_of::<LiveBlock>() == 16);
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
