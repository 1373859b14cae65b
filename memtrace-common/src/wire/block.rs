//! Live blocks: what is known of memory that was allocated and not yet freed.

use crate::{arch::ADDRESS_BITS, ids::SiteIndex, steps::sampling::MeanGap};

/// As part of what a block was recorded.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded(u16);

impl Recorded {
    /// It was certain to be.
    pub const FOR_CERTAIN: Self = Self(0);
    /// The bit of samples.
    const SAMPLE: u16 = 1 << 15;
    /// The highest number of a cohort.
    pub const MAX_COHORT: u32 = (1 << 15) - 1;

    /// It was allocated while the window of this number was open, from 1 to [`Self::MAX_COHORT`].
    #[inline(always)]
    #[must_use]
    pub const fn in_cohort(number: u32) -> Self {
        Self((number & Self::MAX_COHORT) as u16)
    }

    /// It is a sample, taken under this mean gap.
    #[inline(always)]
    #[must_use]
    pub const fn as_sample(gap: MeanGap) -> Self {
        Self(Self::SAMPLE | (gap.code() & 0xffff) as u16)
    }

    /// The mean gap under which it was sampled; `None` where it is no sample.
    #[inline(always)]
    #[must_use]
    pub const fn mean_gap(self) -> Option<MeanGap> {
        if self.0 & Self::SAMPLE == 0 { None } else { Some(MeanGap::of_code(self.0 as u32)) }
    }

    /// Whether it belongs to some window's cohort, and not to what is recorded for good.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_some_cohort(self) -> bool {
        self.0 != Self::FOR_CERTAIN.0 && self.0 & Self::SAMPLE == 0
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

/// The record of one live block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// The size the program asked for, in bytes, and above it a [`Recorded`].
    sized: u64,
    /// The allocation site that is charged for it.
    pub site: SiteIndex,
    /// When it was allocated: [`crate::wire::control::Control::now_ms`] of that moment.
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

const _: () = assert!(size_of::<LiveBlock>() == 16);
const _: () = assert!(ADDRESS_BITS <= SIZE_BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::sampling::MAX_MEAN_BYTES;

    #[test]
    fn a_record_tells_its_size_and_as_part_of_what_it_was_made() {
        let [fixed, chosen] = [MeanGap::OF_RUN, MeanGap::of(MAX_MEAN_BYTES)].map(Recorded::as_sample);
        for recorded in [Recorded::FOR_CERTAIN, fixed, chosen, Recorded::in_cohort(Recorded::MAX_COHORT)] {
            let block = LiveBlock::new((1 << ADDRESS_BITS) - 1, recorded, SiteIndex(3), 7);
            assert_eq!((block.size_bytes(), block.recorded()), ((1 << ADDRESS_BITS) - 1, recorded));
        }
        assert!(Recorded::in_cohort(1).is_in_some_cohort());
        assert!(!fixed.is_in_some_cohort() && !chosen.is_in_some_cohort());
        assert_eq!(fixed.mean_gap(), Some(MeanGap::OF_RUN));
        assert_eq!(chosen.mean_gap().map(|gap| gap.bytes(0)), Some(MAX_MEAN_BYTES));
        assert_eq!((Recorded::in_cohort(77).mean_gap(), Recorded::FOR_CERTAIN.mean_gap()), (None, None));
    }
}
