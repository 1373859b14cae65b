//! Reading a stack in pieces: one copy for what several steps ask for.
//!
//! A copy out of a process's memory costs the kernel about as much for a word as for some hundred bytes, and more
//! than all else that a step takes.

use crate::unwind::Memory;

/// How many words are copied at a time.
pub const WINDOW_WORDS: usize = 128;

/// How far below the word that was asked for a copy begins, in bytes: functions save registers below the return
/// address, which is what is asked for first, and more outer frames lie above.
const BELOW: u64 = 48;

/// A part of a thread's stack, as it was when it was copied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first word's address, which is aligned; 0 where nothing is held.
    start: u64,
    words: [u64; WINDOW_WORDS],
}

impl Window {
    /// A window that holds nothing.
    pub const EMPTY: Self = Self { start: 0, words: [0; WINDOW_WORDS] };

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
    fn copy(&self, address: u64, words: &mut [u64; WINDOW_WORDS]) -> bool;

    /// The word at `address`.
    fn word(&self, address: u64) -> Option<u64>;
}

/// Memory that is read through a window.
pub struct Windowed<'a, S> {
    /// What was copied last.
    pub window: &'a mut Window,
    /// Where to copy from.
    pub source: S,
}

impl<S: Source> Memory for Windowed<'_, S> {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        if address & 7 != 0 {
            return self.source.word(address);
        }
        if let Some(word) = self.window.word(address) {
            return Some(word);
        }
        let start = address.wrapping_sub(BELOW);
        if self.source.copy(start, &mut self.window.words) {
            self.window.start = start;
            self.window.words.get((BELOW / 8) as usize).copied()
        } else {
            // Beside the end of a stack, say: what was asked for may still be readable.
            self.window.forget();
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
        fn copy(&self, address: u64, words: &mut [u64; WINDOW_WORDS]) -> bool {
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
        fn words_are_the_same_through_a_window(
            holes in prop::collection::btree_set(0u64..1000, 0..12),
            asked in prop::collection::vec((0u64..8100, prop_oneof![9 => Just(7u64), 1 => Just(0)]), 1..60),
        ) {
            let words: BTreeMap<u64, u64> =
                (0..1000).filter(|word| !holes.contains(word)).map(|word| (word * 8, word * 3)).collect();
            let mut window = Window::EMPTY;
            let mut windowed = Windowed { window: &mut window, source: Holey(&words) };
            for (address, mask) in asked {
                let address = address & !mask;
                prop_assert_eq!(windowed.word(address), words.get(&address).copied());
            }
        }
    }

    #[test]
    fn outwards_a_copy_serves_many_words_and_none_is_taken_after_it_was_forgotten() {
        let mut words: BTreeMap<u64, u64> = (0..200).map(|word| (0x1000 + word * 8, word)).collect();
        let mut window = Window::EMPTY;
        assert_eq!(Windowed { window: &mut window, source: Holey(&words) }.word(0x1100), Some(32));
        words.values_mut().for_each(|word| *word += 1000);
        let mut windowed = Windowed { window: &mut window, source: Holey(&words) };
        assert_eq!((windowed.word(0x10d0), windowed.word(0x1200)), (Some(26), Some(64)));
        windowed.window.forget();
        assert_eq!(windowed.word(0x1200), Some(1064));
    }
}
