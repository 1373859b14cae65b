//! The words by which chunks in the caches of threads are known: the second word of each is a key. Since 2.34 it is a random
//! word of the process, before it was the address of the thread's cache.

use super::super::image::Copied;

/// Words that are tried, at most.
const MAX_CANDIDATES: usize = 1 << 16;
/// Bits of the filter.
const FILTER_BITS: usize = 1 << 14;
/// A random word has about half of its bits set: fewer than one word in a million falls outside.
const RANDOM_BITS: std::ops::RangeInclusive<u32> = 12..=52;

/// Words that could be keys.
#[derive(Debug)]
pub(super) struct Keys {
    sorted: Vec<u64>,
    filter: Vec<u64>,
    /// Whether all of them are keys, or one at most.
    pub(super) are_all: bool,
}

impl Keys {
    fn new(mut words: Vec<u64>, are_all: bool) -> Self {
        words.sort_unstable();
        words.dedup();
        words.truncate(MAX_CANDIDATES);
        let mut filter = vec![0_u64; FILTER_BITS / 64];
        for word in &words {
            let bit = bit_of(*word);
            if let Some(bits) = filter.get_mut(bit / 64) {
                *bits |= 1 << (bit % 64);
            }
        }
        Self { sorted: words, filter, are_all }
    }

    /// The words of an image's data that look random: one of them is the key.
    pub(super) fn one_of(data: &Copied) -> Self {
        let words = data.iter().map(|(_, word)| word).filter(|word| looks_random(*word));
        Self::new(words.take(MAX_CANDIDATES).collect(), false)
    }

    /// Addresses of caches.
    pub(super) fn all_of(caches: Vec<u64>) -> Self {
        Self::new(caches, true)
    }

    /// Which of them a word is.
    #[inline]
    pub(super) fn index(&self, word: u64) -> Option<u32> {
        let bit = bit_of(word);
        let bits = self.filter.get(bit / 64)?;
        if bits >> (bit % 64) & 1 == 0 {
            return None;
        }
        u32::try_from(self.sorted.binary_search(&word).ok()?).ok()
    }
}

/// The lower bits of a random word are random, and those of an address above its alignment are the most varied.
fn bit_of(word: u64) -> usize {
    ((word >> 4) as usize ^ (word >> 18) as usize) % FILTER_BITS
}

/// Whether a word could come from a random generator: no address, no small number, no text.
fn looks_random(word: u64) -> bool {
    let is_address = word >> 47 == 0 || word >> 47 == (1 << 17) - 1;
    let is_text = word.to_ne_bytes().iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    !is_address && !is_text && RANDOM_BITS.contains(&word.count_ones())
}

/// A cached chunk with the key it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vote {
    /// The chunk.
    pub(super) address: u64,
    /// The key.
    pub(super) key: u32,
}

/// The key that most chunks have.
pub(super) fn elected(votes: &[Vote]) -> Option<u32> {
    let mut keys: Vec<u32> = votes.iter().map(|vote| vote.key).collect();
    keys.sort_unstable();
    let runs = keys.chunk_by(|one, other| one == other);
    runs.max_by_key(|run| run.len()).and_then(|run| run.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_words_are_told_from_addresses_numbers_and_text() {
        assert!(looks_random(0x9e37_79b9_7f4a_7c15));
        for word in [0, 1, 0x7f12_3456_7890, u64::MAX, 0xffff_ffff_8100_0000, u64::from_ne_bytes(*b"abcdefgh")] {
            assert!(!looks_random(word), "{word:#x}");
        }
    }

    #[test]
    fn most_votes_win_and_unknown_words_have_no_index() {
        let keys = Keys::all_of(vec![0x5000, 0x4000, 0x4000]);
        assert_eq!([0x4000, 0x5000, 0x6000].map(|word| keys.index(word)), [Some(0), Some(1), None]);
        let votes = [(16, 1), (32, 0), (48, 1)].map(|(address, key)| Vote { address, key });
        assert_eq!((elected(&votes), elected(&[])), (Some(1), None));
    }
}
