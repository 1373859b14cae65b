//! Stacks: return addresses as they were walked, named by their content.

/// The deepest stack that is kept, in frames. One frame short of 128 keeps the record a round kibibyte.
pub const MAX_FRAMES: usize = 127;

/// Names a stack: a 64-bit hash over its frames and whether it was cut.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub u64);

/// Spreads every bit of `x` over the whole word (the finaliser of SplitMix64, Steele et al. 2014).
#[inline(always)]
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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

    /// The name of the stack walked so far.
    #[inline(always)]
    #[must_use]
    pub fn finish(self, frame_count: u32, truncated: bool) -> StackId {
        StackId(mix(self.0 ^ ((frame_count as u64) << 1 | truncated as u64)))
    }
}

/// A stack as it is stored: the allocation's caller first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackRecord {
    /// How many of `frames` are used.
    pub frame_count: u32,
    /// 1 where the stack was deeper than [`MAX_FRAMES`], else 0.
    pub truncated: u32,
    /// Return addresses, as virtual addresses of the process; 0 beyond `frame_count`.
    pub frames: [u64; MAX_FRAMES],
}

impl StackRecord {
    /// The frames in use, however `frame_count` came to be.
    #[must_use]
    pub fn used(&self) -> &[u64] {
        &self.frames[..(self.frame_count as usize).min(MAX_FRAMES)]
    }
}

const _: () = assert!(size_of::<StackRecord>() == 1024);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(frames: &[u64]) -> StackId {
        let hash = frames.iter().fold(StackHasher::new(), |h, f| h.frame(*f));
        hash.finish(u32::try_from(frames.len()).unwrap(), false)
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
