//! Reading a stack in pieces: one copy for what several steps ask for.
//!
//! A copy out of a process's memory costs the kernel about as much for a word as for some hundred bytes, and more
//! than all else that a step takes.

use super::frame::Memory;

/// How many words are copied at a time.
pub const CACHE_WORDS: usize = 128;

/// How far below the word that was asked for a copy begins, in bytes: functions save registers below the return
/// address, which is what is asked for first, and more outer frames lie above.
const BELOW: u64 = 48;

/// A part of a thread's stack, as it was when it was copied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackCache {
    /// The first word's address, which is aligned; 0 where nothing is held.
    start: u64,
    words: [u64; CACHE_WORDS],
}

impl StackCache {
    /// A cache that holds nothing.
    pub const EMPTY: Self = Self { start: 0, words: [0; CACHE_WORDS] };

    /// Lets go of what it holds: the thread may have written to its stack.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.start = 0;
    }

    /// The word at an aligned address, if it is held.
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        let words = address.wrapping_sub(self.start) >> 3;
        if self.start == 0 { None } else { self.words.get(words as usize).copied() }
    }
}

/// A process's memory, as the system lets it be copied.
pub trait Source {
    /// Copies what begins at `address`. Where it fails, `words` may hold anything.
    fn copy(&self, address: u64, words: &mut [u64; CACHE_WORDS]) -> bool;

    /// The word at `address`.
    fn word(&self, address: u64) -> Option<u64>;
}

/// Memory that is read through a cache.
pub struct Cached<'a, S> {
    /// The last copy.
    pub cache: &'a mut StackCache,
    /// Where to copy from.
    pub source: S,
}

impl<S: Source> Memory for Cached<'_, S> {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        if address & 7 != 0 {
            return self.source.word(address);
        }
        if let Some(word) = self.cache.word(address) {
            return Some(word);
        }
        let start = address.wrapping_sub(BELOW);
        if self.source.copy(start, &mut self.cache.words) {
            self.cache.start = start;
            self.cache.words.get((BELOW / 8) as usize).copied()
        } else {
            // Beside the end of a stack, say: what was asked for may still be readable.
            self.cache.forget();
            self.source.word(address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Memory with holes, by address of each readable word.
    struct Holey<'a>(&'a BTreeMap<u64, u64>);

    impl Source for Holey<'_> {
        fn copy(&self, address: u64, words: &mut [u64; CACHE_WORDS]) -> bool {
            words.iter_mut().zip((0u64..).step_by(8)).all(|(word, offset)| {
                *word = self.word(address.wrapping_add(offset)).unwrap_or(0xbad);
                *word != 0xbad
            })
        }

        fn word(&self, address: u64) -> Option<u64> {
            self.0.get(&address).copied()
        }
    }

    proptest! {
        #[test]
        fn words_are_the_same_through_a_cache(
            holes in prop::collection::btree_set(0u64..1000, 0..12),
            asked in prop::collection::vec((0u64..8100, prop_oneof![9 => Just(7u64), 1 => Just(0)]), 1..60),
        ) {
            let words: BTreeMap<u64, u64> =
                (0..1000).filter(|word| !holes.contains(word)).map(|word| (word * 8, word * 3)).collect();
            let mut cache = StackCache::EMPTY;
            let mut cached = Cached { cache: &mut cache, source: Holey(&words) };
            for (address, mask) in asked {
                let address = address & !mask;
                prop_assert_eq!(cached.word(address), words.get(&address).copied());
            }
        }
    }

    #[test]
    fn outwards_a_copy_serves_many_words_and_none_is_taken_after_it_was_forgotten() {
        let mut words: BTreeMap<u64, u64> = (0..200).map(|word| (0x1000 + word * 8, word)).collect();
        let mut cache = StackCache::EMPTY;
        assert_eq!(Cached { cache: &mut cache, source: Holey(&words) }.word(0x1100), Some(32));
        words.values_mut().for_each(|word| *word += 1000);
        let mut cached = Cached { cache: &mut cache, source: Holey(&words) };
        assert_eq!((cached.word(0x10d0), cached.word(0x1200)), (Some(26), Some(64)));
        cached.cache.forget();
        assert_eq!(cached.word(0x1200), Some(1064));
    }
}
