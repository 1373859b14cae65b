//! Walking a stack by frame pointers: one step, the same code in the kernel and in host tests.

use super::frame::{Failure, Memory, Registers, Step, caller};
use crate::{arch::frame_pointer_cfa, wire::code::Row};

/// How far above the stack pointer a frame pointer may lie, in bytes: Linux's default stack limit.
///
/// Code built without frame pointers uses the register for anything. A value that does not point into
/// the stack ends the walk instead of turning heap contents into frames.
pub const MAX_STACK_BYTES: u64 = 8 << 20;

/// The canonical frame address of a frame, in a walk that began at the stack pointer `bottom`; none where the
/// frame pointer cannot be one: frames are aligned and lie outwards.
#[inline(always)]
#[must_use]
pub fn cfa(of: Registers, bottom: u64) -> Option<u64> {
    let is_plausible =
        of.bp & 7 == 0 && of.bp.wrapping_sub(of.sp) < MAX_STACK_BYTES && of.bp.wrapping_sub(bottom) < MAX_STACK_BYTES;
    is_plausible.then_some(frame_pointer_cfa(of.bp))
}

/// Steps from a frame to its caller, in a walk that began at the stack pointer `bottom`.
#[inline(always)]
pub fn step(from: Registers, bottom: u64, memory: &mut impl Memory) -> Step {
    match cfa(from, bottom) {
        Some(cfa) => caller(Row::BY_FRAME_POINTER, cfa, from, memory),
        None => Step::Failed(Failure::NoRule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words from an address upwards.
    struct Words<'a>(u64, &'a [u64]);

    impl Memory for Words<'_> {
        fn word(&mut self, address: u64) -> Option<u64> {
            let index = usize::try_from(address.checked_sub(self.0)? / 8).ok()?;
            self.1.get(index).copied()
        }
    }

    fn at(sp: u64, bp: u64) -> Registers {
        Registers { pc: 0, sp, bp }
    }

    /// Walks a stack given as words from `base` upwards.
    fn walk(base: u64, words: &[u64], from: Registers) -> Vec<u64> {
        let mut frames = Vec::new();
        let mut registers = from;
        while let Step::Caller(caller) = step(registers, from.sp, &mut Words(base, words)) {
            frames.push(caller.pc);
            registers = caller;
        }
        frames
    }

    #[test]
    fn a_chain_is_walked_to_its_end() {
        // Two frames at 0x1010 and 0x1030; the outermost has a null saved frame pointer.
        let words = [0, 0, 0x1030, 0xa1, 0, 0, 0, 0xb2];
        assert_eq!(walk(0x1000, &words, at(0x1000, 0x1010)), [0xa1, 0xb2]);
    }

    #[test]
    fn a_heap_pointer_in_the_register_ends_the_walk() {
        for (sp, bp) in [(0x7ffd_0000_0000, 0x5555_0000_0000), (0x1000, 0x1001), (0x1000, 0xff8)] {
            assert_eq!(step(at(sp, bp), sp, &mut Words(0, &[])), Step::Failed(Failure::NoRule));
        }
    }

    #[test]
    fn a_frame_beyond_the_end_of_the_address_space_is_none_further_out() {
        let wrapped = at(u64::MAX - 7, 0);
        assert_eq!(step(wrapped, wrapped.sp, &mut Words(0, &[0, 0xac])), Step::Failed(Failure::NotOutwards));
    }

    proptest! {
        #[test]
        fn frames_lie_ever_further_out_and_the_walk_ends(
            words in prop::collection::vec(0x1000u64..0x1400, 1..128),
            start in 0x1000u64..0x1400,
        ) {
            let frames = walk(0x1000, &words, at(0x1000, start));
            prop_assert!(frames.len() <= words.len() / 2 + 1);
        }
    }
}
