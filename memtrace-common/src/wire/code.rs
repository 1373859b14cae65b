//! The targets' code, for unwinding: rows of its call frame information, and which ranges of addresses have which rows.
//!
//! A row says, for a range of code, where the caller's frame begins (the canonical frame address, CFA)
//! and where the caller's frame pointer was saved. Where the return address lies is the same for all code of an
//! architecture ([`crate::arch::return_address_at`]).

use crate::arch::FRAME_POINTER_WORDS;

/// How to find the CFA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CfaRule {
    /// There is no information for this code, or none that a row can hold.
    Unknown = 0,
    /// Stack pointer + offset.
    Sp = 1,
    /// Frame pointer + offset.
    Bp = 2,
    /// The word at frame pointer + offset: functions that align their stack keep the CFA there.
    AtBp = 3,
    /// The word at stack pointer + offset.
    AtSp = 4,
    /// As entries of the procedure linkage table have it: [`crate::arch::linkage_table_cfa`].
    Plt = 5,
    /// The kernel's signal frame at the stack pointer: the interrupted registers lie in it.
    Signal = 6,
    /// The outermost frame: it has no caller.
    End = 7,
    /// There is no information, but frame pointers may do: see [`frame_pointer`].
    FramePointer = 8,
    /// The code has put the stack pointer on another stack than its caller's. The frame pointer + offset may do where the offset
    /// is not 0, else a frame pointer as in [`Self::FramePointer`]; where they lead nowhere, the callers' frames lie on the other
    /// stack.
    Switched = 9,
}

/// A code that names no [`CfaRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRule(pub u8);

impl TryFrom<u8> for CfaRule {
    type Error = UnknownRule;

    #[inline(always)]
    fn try_from(code: u8) -> Result<Self, UnknownRule> {
        Ok(match code {
            0 => Self::Unknown,
            1 => Self::Sp,
            2 => Self::Bp,
            3 => Self::AtBp,
            4 => Self::AtSp,
            5 => Self::Plt,
            6 => Self::Signal,
            7 => Self::End,
            8 => Self::FramePointer,
            9 => Self::Switched,
            other => return Err(UnknownRule(other)),
        })
    }
}

/// One row: from its first address to the next row's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The first address, as a virtual offset in the image.
    pub start: u32,
    /// Its rule: from the lowest bit, 4 bits of rule, 8 bits of where the frame pointer was saved, 20 bits of
    /// offset, which is signed.
    pub(crate) says: u32,
}

/// A [`Row::bp_words`]: the frame pointer was saved where it points itself, as in frames that are aligned.
pub const BP_AT_BP: u8 = u8::MAX;

const _: () = assert!(size_of::<Row>() == 8);

/// How many rows are added to the table at a time, once it is full.
pub const SPARE_ROWS: u32 = 256;

/// So many rows.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareRows(pub [Row; SPARE_ROWS as usize]);

impl Row {
    /// The largest offset that a row can hold, in words: frames of four megabytes. (Half a megabyte occurs: the
    /// main function of rustc 1.95.)
    pub const MAX_OFFSET_WORDS: i32 = (1 << 19) - 1;

    /// A row for code from `start` on; `None` where it cannot hold the offset.
    #[must_use]
    pub fn new(start: u32, rule: CfaRule, offset_words: i32, bp_words: u8) -> Option<Self> {
        let fits = (-Self::MAX_OFFSET_WORDS - 1..=Self::MAX_OFFSET_WORDS).contains(&offset_words);
        fits.then_some(Self { start, says: Self::packed(rule as u8, offset_words, bp_words) })
    }

    pub(crate) const fn packed(rule: u8, offset_words: i32, bp_words: u8) -> u32 {
        (offset_words as u32) << 12 | (bp_words as u32) << 4 | rule as u32 & 0xf
    }

    /// A row for code that nothing is known of.
    #[must_use]
    pub const fn unknown(start: u32) -> Self {
        Self { start, says: Self::packed(CfaRule::Unknown as u8, 0, 0) }
    }

    /// A row for code that a compiler made at run time: most such compilers keep frame pointers.
    pub const BY_FRAME_POINTER: Self =
        Self { start: 0, says: Self::packed(CfaRule::FramePointer as u8, 0, FRAME_POINTER_WORDS) };

    /// The same for code from `start` on, of which nothing better is known.
    #[must_use]
    pub const fn by_frame_pointer(start: u32) -> Self {
        Self { start, ..Self::BY_FRAME_POINTER }
    }

    /// A row for code from `start` on that has put the stack pointer on another stack, where the frame pointer says nothing sure.
    #[must_use]
    pub const fn switched(start: u32) -> Self {
        Self { start, says: Self::packed(CfaRule::Switched as u8, 0, FRAME_POINTER_WORDS) }
    }

    /// Its rule, if the code names one.
    #[inline(always)]
    #[must_use]
    pub fn rule(self) -> Option<CfaRule> {
        CfaRule::try_from((self.says & 0xf) as u8).ok()
    }

    /// The rule's offset, in words of 8 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn offset_words(self) -> i32 {
        self.says as i32 >> 12
    }

    /// How many words below the CFA the frame pointer was saved; 0 where it was not, [`BP_AT_BP`] where it points
    /// at its saved self.
    #[inline(always)]
    #[must_use]
    pub const fn bp_words(self) -> u8 {
        (self.says >> 4 & 0xff) as u8
    }

    /// Whether both rows say the same, wherever they begin.
    #[must_use]
    pub const fn says_the_same(&self, other: &Self) -> bool {
        self.says == other.says
    }
}

/// A range of a target's code, and the rows of its image.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeRange {
    /// The first address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Where the image's virtual offset 0 would lie: what to subtract from an address to get an offset.
    pub bias: u64,
    /// The image's first row in the table of rows.
    pub first_row: u32,
    /// How many rows the image has; 0 where frame pointers must do.
    pub row_count: u32,
}

const _: () = assert!(size_of::<CodeRange>() == 32);

/// Where a target's ranges stand in the table of ranges: one word, so that a change is seen whole.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeTable(pub u64);

impl CodeTable {
    /// The most ranges that one target can have.
    pub const MAX_COUNT: u32 = (1 << 12) - 1;
    /// One past the highest index that the first range can have.
    pub const MAX_FIRST: u32 = 1 << 20;

    /// `count` ranges from index `first` on. `version` tells this table from every other of the run.
    #[must_use]
    pub const fn new(first: u32, count: u32, version: u32) -> Self {
        Self((version as u64) << 32 | (first as u64) << 12 | count as u64)
    }

    /// The index of the first range.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u32 {
        (self.0 & 0xffff_f000) as u32 >> 12
    }

    /// How many ranges there are.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.0 & 0xfff) as u32
    }

    /// The version: no two tables of a run have the same.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u64 {
        self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_was_put_in_and_refuses_what_does_not_fit() {
        for offset in [0, 1, -1, 67_516, -Row::MAX_OFFSET_WORDS - 1, Row::MAX_OFFSET_WORDS] {
            let row = Row::new(0, CfaRule::AtBp, offset, BP_AT_BP).unwrap();
            assert_eq!((row.rule(), row.offset_words(), row.bp_words()), (Some(CfaRule::AtBp), offset, BP_AT_BP));
        }
        assert_eq!(Row::new(0, CfaRule::Sp, Row::MAX_OFFSET_WORDS + 1, 0), None);
        assert_eq!(Row::new(0, CfaRule::Sp, -Row::MAX_OFFSET_WORDS - 2, 0), None);
    }
}
