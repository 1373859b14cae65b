//! Frees that reach another hooked free of the same block: of wrappers around another allocator.

use super::call::{CallFlag, CallRoles};

/// The most bytes that a wrapper is thought to keep before its block. Those that are known keep 16 to 64.
const MAX_HEADER_BYTES: u64 = 256;

/// A block whose free may reach another hooked free of it; by default, none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOn {
    /// Its address; 0 where there is none.
    address: u64,
    /// How many bytes before it the block of the other free may begin.
    header_bytes: u64,
    /// The function that frees it, by the address of its probe.
    function: u64,
}

impl HandedOn {
    /// The block of a free by a function with these roles.
    #[must_use]
    #[inline(always)]
    pub fn by(function: u64, roles: CallRoles, address: u64) -> Self {
        let header_bytes = if roles.is(CallFlag::HandsOnWithHeader) { MAX_HEADER_BYTES } else { 0 };
        if roles.hands_on() { Self { address, header_bytes, function } } else { Self::default() }
    }

    /// Whether a free of this address by this function may be the other one. The same function again is the next free: an
    /// allocator gives out an address soon after it was freed.
    #[must_use]
    #[inline(always)]
    pub fn reaches(self, function: u64, address: u64) -> bool {
        self.address != 0 && self.function != function && self.address.wrapping_sub(address) <= self.header_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_that_is_handed_on_is_of_the_same_block_or_with_a_wrappers_header() {
        let (outer, inner) = (0x40_0000, 0x7f00_0000);
        let by = |flag| HandedOn::by(outer, CallRoles::NONE.that(flag), 0x1000);
        let of = |flag, freed| by(flag).reaches(inner, freed);
        assert!(of(CallFlag::HandsOn, 0x1000) && of(CallFlag::HandsOnWithHeader, 0x1000));
        assert!(of(CallFlag::HandsOnWithHeader, 0xff0) && !of(CallFlag::HandsOn, 0xff0));
        assert!(!of(CallFlag::HandsOnWithHeader, 0x1010) && !of(CallFlag::HandsOnWithHeader, 0xeff));
        assert!(!of(CallFlag::Leaf, 0x1000));
        assert!(!by(CallFlag::HandsOnWithHeader).reaches(outer, 0x1000), "the address was given out again");
        assert!(!HandedOn::default().reaches(inner, 0) && !HandedOn::default().reaches(inner, 0x1000));
    }
}
