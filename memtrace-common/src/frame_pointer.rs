//! Walking a stack by frame pointers: one step, the same code in the kernel and in host tests.

/// How far above the stack pointer a frame pointer may lie, in bytes: Linux's default stack limit.
///
/// Code built without frame pointers uses the register for anything. A value that does not point into
/// the stack ends the walk instead of turning heap contents into frames.
pub const MAX_STACK_BYTES: u64 = 8 << 20;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The frame pointer of the frame whose caller is wanted.
    pub frame_pointer: u64,
    /// The lowest address at which that frame may lie.
    pub floor: u64,
    /// The address at which the walk began: frames lie within [`MAX_STACK_BYTES`] above it.
    pub bottom: u64,
}

impl Cursor {
    /// A walk that starts where a function has just returned to.
    #[inline(always)]
    #[must_use]
    pub fn at(stack_pointer: u64, frame_pointer: u64) -> Self {
        Self { frame_pointer, floor: stack_pointer, bottom: stack_pointer }
    }

    /// Whether a frame can lie where the frame pointer says. Frames are aligned and lie outwards.
    #[inline(always)]
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let offset = self.frame_pointer.wrapping_sub(self.floor);
        self.frame_pointer & 7 == 0 && offset < MAX_STACK_BYTES && self.frame_pointer - self.bottom < MAX_STACK_BYTES
    }

    /// The next frame outwards, given the two words at the frame pointer: the saved frame pointer and
    /// the return address. `None` at the outermost frame.
    #[inline(always)]
    #[must_use]
    pub fn step(self, saved_frame_pointer: u64, return_address: u64) -> Option<(u64, Self)> {
        if return_address == 0 {
            return None;
        }
        let caller = Self {
            frame_pointer: saved_frame_pointer,
            floor: self.frame_pointer.wrapping_add(16),
            bottom: self.bottom,
        };
        Some((return_address, caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks a stack given as words from `base` upwards.
    fn walk(base: u64, words: &[u64], start: Cursor) -> Vec<u64> {
        let read = |address: u64| {
            let index = usize::try_from(address.checked_sub(base)? / 8).ok()?;
            words.get(index).copied()
        };
        let mut frames = Vec::new();
        let mut cursor = start;
        while cursor.is_plausible() {
            let (Some(saved), Some(ret)) = (read(cursor.frame_pointer), read(cursor.frame_pointer + 8)) else { break };
            let Some((frame, next)) = cursor.step(saved, ret) else { break };
            frames.push(frame);
            cursor = next;
        }
        frames
    }

    #[test]
    fn a_chain_is_walked_to_its_end() {
        // Two frames at 0x1010 and 0x1030; the outermost has a null saved frame pointer.
        let words = [0, 0, 0x1030, 0xa1, 0, 0, 0, 0xb2];
        assert_eq!(walk(0x1000, &words, Cursor::at(0x1000, 0x1010)), [0xa1, 0xb2]);
    }

    #[test]
    fn a_heap_pointer_in_the_register_ends_the_walk() {
        assert!(!Cursor::at(0x7ffd_0000_0000, 0x5555_0000_0000).is_plausible());
        assert!(!Cursor::at(0x1000, 0x1001).is_plausible());
        assert!(!Cursor::at(0x1000, 0xff8).is_plausible());
    }

    proptest! {
        #[test]
        fn frames_lie_ever_further_out_and_the_walk_ends(
            words in prop::collection::vec(0x1000u64..0x1400, 1..128),
            start in 0x1000u64..0x1400,
        ) {
            let frames = walk(0x1000, &words, Cursor::at(0x1000, start));
            prop_assert!(frames.len() <= words.len() / 2 + 1);
        }
    }
}
