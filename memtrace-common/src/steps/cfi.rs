//! Unwinding by call frame information: one step by a row, the same code in the kernel and in host tests.

use super::{
    frame::{Failure, Memory, Registers, Step, caller},
    frame_pointer,
};
use crate::{
    arch::{linkage_table_cfa, signal_frame},
    wire::code::{CfaRule, Row},
};

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
        Some(CfaRule::Plt) => linkage_table_cfa(registers.pc, registers.sp),
        Some(CfaRule::Signal) => return interrupted(registers, memory),
        Some(CfaRule::End) => return Step::End,
        Some(CfaRule::FramePointer) => match frame_pointer::cfa(registers, registers.sp) {
            Some(cfa) => cfa,
            None => return Step::Failed(Failure::NoRule),
        },
        Some(CfaRule::Switched) => {
            let by_offset = if offset == 0 {
                frame_pointer::cfa(registers, registers.sp)
            } else {
                Some(registers.bp.wrapping_add(offset))
            };
            match by_offset {
                Some(cfa) if cfa > registers.sp => cfa,
                _ => return Step::Failed(Failure::StackSwitch),
            }
        }
        Some(CfaRule::Unknown) | None => return Step::Failed(Failure::NoRule),
    };
    caller(row, cfa, registers, memory)
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
    use crate::wire::code::BP_AT_BP;
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

    #[test]
    fn a_switch_of_stacks_is_told_where_the_frame_pointer_does_not_lead_back() {
        let memory = Words(BASE, vec![1, 2, 0xb9, 0xac]);
        let switched = row(CfaRule::Switched, 0, 2);
        let back = Registers { bp: BASE + 16, ..registers() };
        let caller = Step::Caller(Registers { pc: 0xac, sp: BASE + 32, bp: 0xb9 });
        assert_eq!(step(switched, back, &mut &memory), caller);
        assert_eq!(step(row(CfaRule::Switched, 2, 2), back, &mut &memory), caller);
        // On a stack further in, or so far out that it is none of the same stack.
        for bp in [BASE - 64, BASE.wrapping_add(1 << 40)] {
            let elsewhere = Registers { bp, ..registers() };
            assert_eq!(step(switched, elsewhere, &mut &memory), Step::Failed(Failure::StackSwitch));
        }
        let further_in = Registers { bp: BASE - 64, ..registers() };
        assert_eq!(step(row(CfaRule::Switched, 2, 2), further_in, &mut &memory), Step::Failed(Failure::StackSwitch));
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
            9 if offset == 0 => match from.bp >= from.sp {
                true => Some(from.bp + 16),
                false => return Step::Failed(Failure::StackSwitch),
            },
            9 => match from.bp.wrapping_add_signed(offset) {
                cfa if cfa > from.sp => Some(cfa),
                _ => return Step::Failed(Failure::StackSwitch),
            },
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
            rule in 0u8..11,
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
