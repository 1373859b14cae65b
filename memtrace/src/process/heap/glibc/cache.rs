//! The caches of threads as they were up to 2.41: one block for each thread, with counts and first blocks of 64 lists.

use super::super::bytes::{Reader, Stop};

/// The chunk that a cache lies in.
pub(super) const CHUNK_BYTES: u64 = 0x290;
/// Caches of a process that are looked at, at most.
pub(super) const MAX_CACHES: usize = 1 << 20;
const LISTS: usize = 64;
/// Counts are two bytes each.
const COUNT_WORDS: usize = LISTS / 4;
const WORDS: usize = COUNT_WORDS + LISTS;
/// Lists whose count and first block may disagree, as the thread goes on.
const MAX_TORN: usize = 2;

/// Whether the block at `address` is a cache that is its own key, as up to 2.33: lists that have blocks say so, and the second
/// word of the first block is the cache.
pub(super) fn is_own_key(reader: &mut Reader<'_>, address: u64) -> Result<bool, Stop> {
    let Some(words) = reader.words::<WORDS>(address)? else { return Ok(false) };
    let (counts, firsts) = words.split_at(COUNT_WORDS);
    let counts = counts.iter().flat_map(|word| [0, 16, 32, 48].map(|bits| word >> bits & 0xffff));
    let torn = counts.zip(firsts).filter(|(count, first)| (*count == 0) != (**first == 0)).count();
    if torn > MAX_TORN {
        return Ok(false);
    }
    for first in firsts.iter().filter(|first| **first != 0) {
        if reader.word(first.wrapping_add(8))? == Some(address) {
            return Ok(true);
        }
    }
    Ok(false)
}
