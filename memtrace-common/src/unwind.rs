//! Unwinding by call frame information: compact rows and one step, the same code in the kernel and in
//! host tests.
//!
//! A row says, for a range of code, where the caller's frame begins (the canonical frame address, CFA)
//! and where the caller's frame pointer was saved. The return address lies one word below the CFA, as the
//! `call` instruction leaves it (System V AMD64 ABI, 3.2.2; DWARF 5, 6.4).

use crate::frame_pointer;

/// What unwinding needs of the registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The program counter: a return address, except in the innermost frame and below a signal frame.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, or whatever else the code keeps in that register.
    pub bp: u64,
}

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
    /// What lies at frame pointer + offset: functions that align their stack keep the CFA there.
    AtBp = 3,
    /// What lies at stack pointer + offset.
    AtSp = 4,
    /// Stack pointer + 8, or + 16 from the eleventh byte of each 16 on: entries of the procedure linkage
    /// table, which push an index half-way.
    Plt = 5,
    /// The kernel's signal frame at the stack pointer: the interrupted registers lie in it.
    Signal = 6,
    /// The outermost frame: it has no caller.
    End = 7,
    /// There is no information, but frame pointers may do: see [`frame_pointer`].
    FramePointer = 8,
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
    /// What it says: from the lowest bit, 4 bits of rule, 8 bits of where the frame pointer was saved, 20 bits of
    /// offset, which is signed.
    says: u32,
}

/// A [`Row::bp_words`]: the frame pointer was saved where it points itself, as in frames that are aligned.
pub const BP_AT_BP: u8 = u8::MAX;

const _: () = assert!(size_of::<Row>() == 8);

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

    const fn packed(rule: u8, offset_words: i32, bp_words: u8) -> u32 {
        (offset_words as u32) << 12 | (bp_words as u32) << 4 | rule as u32 & 0xf
    }

    /// A row for code that nothing is known of.
    #[must_use]
    pub const fn unknown(start: u32) -> Self {
        Self { start, says: Self::packed(CfaRule::Unknown as u8, 0, 0) }
    }

    /// A row for code that a compiler made at run time: most such compilers keep frame pointers.
    pub const BY_FRAME_POINTER: Self = Self { start: 0, says: Self::packed(CfaRule::FramePointer as u8, 0, 2) };

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

/// How many sets of rows a thread remembers, two rows each: a power of two. With one row each, two of the dozen
/// frames of an ordinary stack are in each other's way more often than not.
const SETS: usize = 64;

/// The rows that a thread's walks have used lately, by address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RecentRows {
    /// The addresses, mixed with the version of the target's code in which they were looked up; the newer of each
    /// set first.
    tags: [u64; 2 * SETS],
    rows: [Row; 2 * SETS],
}

impl RecentRows {
    /// The row at `address`, if the thread remembers it.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, address: u64, code: CodeTable) -> Option<Row> {
        let (at, tag) = (place_of(address), tag(address, code));
        if self.tags[at] == tag {
            Some(self.rows[at])
        } else if self.tags[at + 1] == tag {
            Some(self.rows[at + 1])
        } else {
            None
        }
    }

    /// Remembers a row, in place of the older of its set.
    #[inline(always)]
    pub fn remember(&mut self, address: u64, code: CodeTable, row: Row) {
        let at = place_of(address);
        (self.tags[at + 1], self.rows[at + 1]) = (self.tags[at], self.rows[at]);
        (self.tags[at], self.rows[at]) = (tag(address, code), row);
    }
}

const _: () = assert!(size_of::<RecentRows>() == 2048);

/// Different versions of the code make different tags of an address. Never 0, which is what an empty place
/// holds: no address of a user has the top bit.
#[inline(always)]
fn tag(address: u64, code: CodeTable) -> u64 {
    (address ^ code.version().wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1 << 63
}

/// Where the set of an address begins.
#[inline(always)]
fn place_of(address: u64) -> usize {
    let folded = address ^ address >> 6 ^ address >> 12;
    usize::from(folded.to_le_bytes()[0]) % SETS * 2
}

/// Why a step could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The stack could not be read where the row says.
    Unreadable,
    /// The row says nothing.
    NoRule,
    /// The caller's frame would not lie further out: the stack or the row is corrupt.
    NotOutwards,
}

/// What a step leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The caller's registers. Their program counter is a return address.
    Caller(Registers),
    /// The registers that a signal interrupted. Their program counter is that of the next instruction.
    Interrupted(Registers),
    /// The outermost frame was reached.
    End,
    /// The caller cannot be told.
    Failed(Failure),
}

/// A thread's memory, as far as it can be read.
pub trait Memory {
    /// The word at `address`.
    fn word(&mut self, address: u64) -> Option<u64>;
}

/// Where the kernel's signal frame holds the interrupted registers, in bytes from the stack pointer in
/// `__restore_rt`: `struct rt_sigframe` of arch/x86/include/asm/sigframe.h, behind its return address.
mod signal_frame {
    pub(super) const BP: u64 = 120;
    pub(super) const SP: u64 = 160;
    pub(super) const PC: u64 = 168;
}

/// Steps from a frame to its caller.
#[inline(always)]
pub fn step(row: Row, registers: Registers, memory: &mut impl Memory) -> Step {
    let offset = (row.offset_words() as i64 as u64).wrapping_mul(8);
    let cfa = match row.rule() {
        Some(CfaRule::Sp) => registers.sp.wrapping_add(offset),
        Some(CfaRule::Bp) => registers.bp.wrapping_add(offset),
        Some(CfaRule::AtBp) => match memory.word(registers.bp.wrapping_add(offset)) {
            Some(cfa) => cfa,
            None => return Step::Failed(Failure::Unreadable),
        },
        Some(CfaRule::AtSp) => match memory.word(registers.sp.wrapping_add(offset)) {
            Some(cfa) => cfa,
            None => return Step::Failed(Failure::Unreadable),
        },
        Some(CfaRule::Plt) => registers.sp.wrapping_add(if registers.pc & 15 >= 11 { 16 } else { 8 }),
        Some(CfaRule::Signal) => return interrupted(registers, memory),
        Some(CfaRule::End) => return Step::End,
        Some(CfaRule::FramePointer) => match frame_pointer::cfa(registers, registers.sp) {
            Some(cfa) => cfa,
            None => return Step::Failed(Failure::NoRule),
        },
        Some(CfaRule::Unknown) | None => return Step::Failed(Failure::NoRule),
    };
    if cfa <= registers.sp {
        return Step::Failed(Failure::NotOutwards);
    }
    caller(row, cfa, registers, memory)
}

/// The caller, whose frame begins at `cfa`.
#[inline(always)]
pub(crate) fn caller(row: Row, cfa: u64, registers: Registers, memory: &mut impl Memory) -> Step {
    let Some(pc) = memory.word(cfa.wrapping_sub(8)) else { return Step::Failed(Failure::Unreadable) };
    let saved_at = match row.bp_words() {
        BP_AT_BP => registers.bp,
        words => cfa.wrapping_sub(words as u64 * 8),
    };
    let bp = match row.bp_words() {
        0 => registers.bp,
        _ => match memory.word(saved_at) {
            Some(bp) => bp,
            None => return Step::Failed(Failure::Unreadable),
        },
    };
    // Thread entry points written in assembly leave a zero where the return address would be.
    if pc == 0 { Step::End } else { Step::Caller(Registers { pc, sp: cfa, bp }) }
}

#[inline(always)]
fn interrupted(registers: Registers, memory: &mut impl Memory) -> Step {
    let mut at = |offset| memory.word(registers.sp.wrapping_add(offset));
    let (Some(bp), Some(sp), Some(pc)) = (at(signal_frame::BP), at(signal_frame::SP), at(signal_frame::PC)) else {
        return Step::Failed(Failure::Unreadable);
    };
    Step::Interrupted(Registers { pc, sp, bp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words from an address upwards.
    struct Words(u64, Vec<u64>);

    impl Words {
        fn word(&self, address: u64) -> Option<u64> {
            let offset = address.checked_sub(self.0)?;
            if offset % 8 != 0 {
                return None;
            }
            self.1.get(usize::try_from(offset / 8).ok()?).copied()
        }
    }

    impl Memory for &Words {
        fn word(&mut self, address: u64) -> Option<u64> {
            Words::word(self, address)
        }
    }

    fn row(rule: CfaRule, offset_words: i32, bp_words: u8) -> Row {
        Row::new(0, rule, offset_words, bp_words).unwrap()
    }

    #[test]
    fn a_row_gives_back_what_was_put_in_and_refuses_what_does_not_fit() {
        for offset in [0, 1, -1, 67_516, -Row::MAX_OFFSET_WORDS - 1, Row::MAX_OFFSET_WORDS] {
            let row = row(CfaRule::AtBp, offset, BP_AT_BP);
            assert_eq!((row.rule(), row.offset_words(), row.bp_words()), (Some(CfaRule::AtBp), offset, BP_AT_BP));
        }
        assert_eq!(Row::new(0, CfaRule::Sp, Row::MAX_OFFSET_WORDS + 1, 0), None);
        assert_eq!(Row::new(0, CfaRule::Sp, -Row::MAX_OFFSET_WORDS - 2, 0), None);
    }

    #[test]
    fn two_addresses_of_one_set_are_both_remembered_and_a_third_takes_the_olders_place() {
        let empty = RecentRows { tags: [0; 2 * SETS], rows: [Row::default(); 2 * SETS] };
        let code = CodeTable::new(0, 1, 7);
        let addresses: Vec<u64> =
            (0x40_0000..).filter(|address| place_of(*address) == place_of(0x40_0000)).take(3).collect();
        let mut recent = empty;
        for (words, address) in (1..).zip(&addresses) {
            recent.remember(*address, code, row(CfaRule::Sp, words, 0));
        }
        let found: Vec<Option<i32>> =
            addresses.iter().map(|address| recent.find(*address, code).map(Row::offset_words)).collect();
        assert_eq!(found, [None, Some(2), Some(3)]);
        assert_eq!(recent.find(addresses[2], CodeTable::new(0, 1, 8)), None);
    }

    const BASE: u64 = 0x1000;

    fn registers() -> Registers {
        Registers { pc: 0x40_0010, sp: BASE, bp: BASE + 32 }
    }

    #[test]
    fn the_usual_frame_takes_both_words_below_the_cfa() {
        let memory = Words(BASE, vec![1, 2, 0xb9, 0xac, 5]);
        let step = step(row(CfaRule::Sp, 4, 2), registers(), &mut &memory);
        assert_eq!(step, Step::Caller(Registers { pc: 0xac, sp: BASE + 32, bp: 0xb9 }));
    }

    #[test]
    fn a_frame_pointer_that_was_not_saved_is_still_the_callers() {
        let memory = Words(BASE, vec![0xac]);
        let step = step(row(CfaRule::Sp, 1, 0), registers(), &mut &memory);
        assert_eq!(step, Step::Caller(Registers { pc: 0xac, sp: BASE + 8, bp: BASE + 32 }));
    }

    #[test]
    fn an_aligned_frame_finds_its_cfa_in_memory() {
        let memory = Words(BASE, vec![0, 0, 0, BASE + 64, 0xb9, 0, 0, 0xac]);
        let step = step(row(CfaRule::AtBp, -1, 4), registers(), &mut &memory);
        assert_eq!(step, Step::Caller(Registers { pc: 0xac, sp: BASE + 64, bp: 0xb9 }));
    }

    #[test]
    fn a_linkage_table_entry_has_pushed_half_way() {
        let memory = Words(BASE, vec![7, 0xac]);
        let early = Registers { pc: 0x1005, ..registers() };
        let late = Registers { pc: 0x100b, ..registers() };
        let plt = row(CfaRule::Plt, 0, 0);
        assert_eq!(step(plt, early, &mut &memory), Step::Caller(Registers { pc: 7, sp: BASE + 8, bp: BASE + 32 }));
        assert_eq!(step(plt, late, &mut &memory), Step::Caller(Registers { pc: 0xac, sp: BASE + 16, bp: BASE + 32 }));
    }

    #[test]
    fn a_signal_frame_gives_back_what_was_interrupted() {
        let mut words = vec![0; 22];
        (words[15], words[20], words[21]) = (0xb9, 0x5b, 0xac);
        let step = step(row(CfaRule::Signal, 0, 0), registers(), &mut &Words(BASE, words));
        assert_eq!(step, Step::Interrupted(Registers { pc: 0xac, sp: 0x5b, bp: 0xb9 }));
    }

    #[test]
    fn ends_and_failures_are_told_apart() {
        let memory = Words(BASE, vec![0]);
        assert_eq!(step(row(CfaRule::End, 0, 0), registers(), &mut &memory), Step::End);
        assert_eq!(step(row(CfaRule::Sp, 1, 0), registers(), &mut &memory), Step::End);
        assert_eq!(step(row(CfaRule::Unknown, 0, 0), registers(), &mut &memory), Step::Failed(Failure::NoRule));
        assert_eq!(step(row(CfaRule::Sp, 9, 0), registers(), &mut &memory), Step::Failed(Failure::Unreadable));
        assert_eq!(step(row(CfaRule::Sp, 0, 0), registers(), &mut &memory), Step::Failed(Failure::NotOutwards));
    }

    /// The same step in the words of the DWARF standard: first the CFA, then each register by its rule.
    fn reference(rule: u8, row: Row, from: Registers, memory: &Words) -> Step {
        let offset = i64::from(row.offset_words()) * 8;
        let cfa = match rule {
            1 => Some(from.sp.wrapping_add_signed(offset)),
            2 => Some(from.bp.wrapping_add_signed(offset)),
            3 => memory.word(from.bp.wrapping_add_signed(offset)),
            4 => memory.word(from.sp.wrapping_add_signed(offset)),
            5 => Some(from.sp.wrapping_add(8 + u64::from(from.pc % 16 >= 11) * 8)),
            6 => {
                let word = |index: u64| memory.word(from.sp.wrapping_add(index * 8));
                return match (word(21), word(20), word(15)) {
                    (Some(pc), Some(sp), Some(bp)) => Step::Interrupted(Registers { pc, sp, bp }),
                    _ => Step::Failed(Failure::Unreadable),
                };
            }
            7 => return Step::End,
            8 => Some(from.bp + 16).filter(|_| from.bp >= from.sp),
            _ => return Step::Failed(Failure::NoRule),
        };
        if rule == 8 && cfa.is_none() {
            return Step::Failed(Failure::NoRule);
        }
        let Some(cfa) = cfa else { return Step::Failed(Failure::Unreadable) };
        if cfa <= from.sp {
            return Step::Failed(Failure::NotOutwards);
        }
        let pc = memory.word(cfa.wrapping_sub(8));
        let bp = match row.bp_words() {
            0 => Some(from.bp),
            BP_AT_BP => memory.word(from.bp),
            words => memory.word(cfa.wrapping_sub(u64::from(words) * 8)),
        };
        match (pc, bp) {
            (Some(0), Some(_)) => Step::End,
            (Some(pc), Some(bp)) => Step::Caller(Registers { pc, sp: cfa, bp }),
            _ => Step::Failed(Failure::Unreadable),
        }
    }

    proptest! {
        #[test]
        fn any_row_and_stack_step_as_the_reference_does(
            rule in 0u8..10,
            offset_words in -20i32..40,
            bp_words in prop_oneof![0u8..6, Just(BP_AT_BP)],
            pc: u64,
            sp in 0u64..40,
            bp in 0u64..40,
            words in prop::collection::vec(prop_oneof![Just(0u64), (0u64..48).prop_map(|w| BASE + w * 8), any::<u64>()], 0..40),
        ) {
            let memory = Words(BASE, words);
            let row = Row { start: 0, says: Row::packed(rule, offset_words, bp_words) };
            let registers = Registers { pc, sp: BASE + sp * 8, bp: BASE + bp * 8 };
            prop_assert_eq!(step(row, registers, &mut &memory), reference(rule, row, registers, &memory));
        }
    }
}
