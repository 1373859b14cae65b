//! Stacks: return addresses as they were walked, named by their content.

use super::counters::Counter;
use crate::ids::{StackId, mix};

/// The deepest stack that is kept, in frames. One frame short of 128 keeps the record a round kibibyte.
pub const MAX_FRAMES: usize = 127;

/// How the walk of a stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ending {
    /// At the thread's first frame.
    FirstFrame = 0,
    /// It did not: the stack is deeper than [`MAX_FRAMES`], or the kernel gave no more of it.
    TooDeep = 1,
    /// At an address that lies in no code that is known.
    NoCode = 2,
    /// In code of which nothing says where the caller's frame is.
    NoRule = 3,
    /// Where the stack could not be read.
    Unreadable = 4,
    /// Where the caller's frame would not lie further out.
    NotOutwards = 5,
    /// In code that has put the stack pointer on another stack: the callers' frames lie on the one before.
    StackSwitch = 6,
}

/// A code that names no [`Ending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownEnding(pub u32);

impl TryFrom<u32> for Ending {
    type Error = UnknownEnding;

    fn try_from(code: u32) -> Result<Self, UnknownEnding> {
        Ok(match code {
            0 => Self::FirstFrame,
            1 => Self::TooDeep,
            2 => Self::NoCode,
            3 => Self::NoRule,
            4 => Self::Unreadable,
            5 => Self::NotOutwards,
            6 => Self::StackSwitch,
            other => return Err(UnknownEnding(other)),
        })
    }
}

impl Ending {
    /// The counter of stacks that were cut so; none where all of the stack is there that is kept.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> Option<Counter> {
        match self {
            Self::FirstFrame | Self::TooDeep => None,
            Self::NoCode => Some(Counter::UnwindNoCode),
            Self::NoRule => Some(Counter::UnwindNoRule),
            Self::Unreadable => Some(Counter::UnwindUnreadable),
            Self::NotOutwards => Some(Counter::UnwindNotOutwards),
            Self::StackSwitch => Some(Counter::UnwindStackSwitch),
        }
    }
}

/// Hashes a stack frame by frame while it is walked.
#[derive(Clone, Copy)]
pub struct StackHasher(u64);

impl StackHasher {
    /// The hash of no frame.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an empty hash is no sensible default value")]
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Takes the next frame in, from the allocation outwards.
    #[inline(always)]
    #[must_use]
    pub fn frame(self, return_address: u64) -> Self {
        // One round a frame: cheap in the kernel, and `finish` mixes once more.
        let x = (self.0 ^ return_address).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self(x ^ (x >> 29))
    }

    /// The hash of the frames so far.
    #[inline(always)]
    #[must_use]
    pub fn so_far(self) -> u64 {
        self.0
    }

    /// The name of the stack walked so far; `ending` is the code of an [`Ending`].
    #[inline(always)]
    #[must_use]
    pub fn finish(self, frame_count: u32, ending: u32) -> StackId {
        StackId(mix(self.0 ^ ((frame_count as u64) << 32 | ending as u64)))
    }
}

/// A stack as it is stored: the allocation's caller first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackRecord {
    /// How many of `frames` are used.
    pub frame_count: u32,
    /// The code of an [`Ending`].
    pub ending: u32,
    /// Return addresses, as virtual addresses of the process; 0 beyond `frame_count`.
    pub frames: [u64; MAX_FRAMES],
}

impl StackRecord {
    /// The frames in use, however `frame_count` came to be.
    #[must_use]
    pub fn used(&self) -> &[u64] {
        &self.frames[..(self.frame_count as usize).min(MAX_FRAMES)]
    }

    /// How the walk ended; a code that nobody knows is taken for a walk that did not.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Ending::try_from(self.ending).unwrap_or(Ending::TooDeep)
    }
}

const _: () = assert!(size_of::<StackRecord>() == 1024);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(frames: &[u64]) -> StackId {
        let hash = frames.iter().fold(StackHasher::new(), |h, f| h.frame(*f));
        hash.finish(u32::try_from(frames.len()).unwrap(), 0)
    }

    #[test]
    fn endings_are_their_codes_and_make_different_stacks() {
        for code in 0..=6 {
            assert_eq!(Ending::try_from(code).map(|ending| ending as u32), Ok(code));
            assert_eq!(StackHasher::new().finish(1, code) == StackHasher::new().finish(1, 0), code == 0);
        }
        assert_eq!(Ending::try_from(7), Err(UnknownEnding(7)));
    }

    #[test]
    fn order_and_length_make_different_stacks() {
        assert_ne!(id(&[1, 2]), id(&[2, 1]));
        assert_ne!(id(&[1]), id(&[1, 0]));
        assert_ne!(id(&[]), id(&[0]));
    }

    #[test]
    fn near_addresses_do_not_collide() {
        let mut seen = std::collections::HashSet::new();
        for a in 0..300u64 {
            for b in 0..300u64 {
                assert!(seen.insert(id(&[0x7f00_0000_0000 + a, 0x5555_0000_0000 + b])));
            }
        }
    }
}
