//! The caches of threads (`tcache_t`), of which each arena has a ring. Cached blocks are free, though their slabs say otherwise.
//!
//! include/jemalloc/internal/tcache_structs.h and cache_bin.h
//! (<https://github.com/jemalloc/jemalloc/tree/5.3.0/include/jemalloc/internal>).

use std::collections::{BTreeSet, HashSet};

use super::{
    super::{
        bytes::{Reader, Stop, Window},
        image::Copied,
    },
    blocks::Extents,
    ranges::Ranges,
};

/// The first words of a cache's slow part (`tcache_slow_t`): its neighbours, those of its bins, its bins, its arena.
const SLOW_WORDS: usize = 6;
const BINS: usize = 4;
const ARENA: usize = 5;
/// Words of a bin (`cache_bin_t`): the next block, a count, and ends of its stack in 16 bits each.
const BIN_WORDS: usize = 3;
/// Bins of a cache, at most, and their words.
const MAX_BINS: usize = 76;
const ALL_BINS_WORDS: usize = MAX_BINS * BIN_WORDS;
/// Bytes of an arena in which the ring is looked for.
const ARENA_BYTES: usize = 64 << 10;
/// Arenas are aligned like this.
const ARENA_ALIGNMENT: u64 = 64;
/// Words of an image that are tried as arenas, words of arenas that are tried as rings, and caches, at most.
const MAX_ARENAS: usize = 8192;
const MAX_TRIES: usize = 1 << 20;
const MAX_CACHES: usize = 1 << 16;

/// The caches of all threads.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// Where their bins are.
    bins: BTreeSet<u64>,
    /// Their arenas.
    pub(super) arenas: BTreeSet<u64>,
}

impl Caches {
    /// Looks for the caches by the arenas that the data of an image leads to. Arenas are not in extents.
    pub(super) fn find(
        reader: &mut Reader<'_>,
        data: &Copied,
        extents: &Extents,
        ranges: &Ranges,
    ) -> Result<Self, Stop> {
        let mut caches = Self::default();
        let mut tried = HashSet::new();
        let mut tries = 0;
        let mut window = Window::default();
        for (_, arena) in data.iter() {
            reader.budget().step()?;
            let is_new = arena.is_multiple_of(ARENA_ALIGNMENT)
                && ranges.is_anonymous(arena, 8)
                && !extents.contain(arena)
                && tried.len() < MAX_ARENAS
                && tried.insert(arena);
            if !is_new {
                continue;
            }
            let end = arena.saturating_add(ARENA_BYTES as u64);
            reader.window(arena, ARENA_BYTES, end, &mut window)?;
            for at in (arena..end).step_by(8) {
                reader.budget().step()?;
                let Some([word]) = window.words::<1>(at) else { break };
                let may_be = word.is_multiple_of(8) && word >= ARENA_ALIGNMENT && ranges.is_anonymous(word, 48);
                if !may_be {
                    continue;
                }
                tries += 1;
                if tries > MAX_TRIES {
                    return Ok(caches);
                }
                if caches.add_ring(reader, word, arena, ranges)? {
                    caches.arenas.insert(arena);
                    break;
                }
            }
        }
        Ok(caches)
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// Adds all caches of the ring that `first` is of, if it is one.
    fn add_ring(&mut self, reader: &mut Reader<'_>, first: u64, arena: u64, ranges: &Ranges) -> Result<bool, Stop> {
        let mut at = first;
        let mut known = HashSet::new();
        while known.len() < MAX_CACHES && ranges.is_anonymous(at, 48) && !known.contains(&at) {
            let Some((next, bins)) = slow(reader, at, arena)? else { break };
            known.insert(at);
            self.bins.insert(bins);
            at = next;
        }
        Ok(!known.is_empty())
    }

    /// Takes what is cached off the live blocks. An entry that is none of theirs was freed meanwhile.
    pub(super) fn take_off(&self, reader: &mut Reader<'_>, extents: &mut Extents) -> Result<(), Stop> {
        let mut window = Window::default();
        for bins in &self.bins {
            let Some(words) = reader.words::<ALL_BINS_WORDS>(*bins)? else { continue };
            let (bins, _) = words.as_chunks::<BIN_WORDS>();
            for (class, [head, _, ends]) in (0_u8..).zip(bins) {
                if *head == 0 {
                    break;
                }
                let [_, full, empty, _] = [0, 16, 32, 48].map(|shift| low(ends >> shift));
                let (cached, most) = (empty.wrapping_sub(low(*head)) / 8, empty.wrapping_sub(full) / 8);
                if !head.is_multiple_of(8) || cached > most {
                    break;
                }
                let end = head.saturating_add(u64::from(cached) * 8);
                let mut at = *head;
                while at < end {
                    reader.window(at, (end - at).try_into().unwrap_or(usize::MAX), end, &mut window)?;
                    let before = at;
                    while let Some([block]) = window.words::<1>(at).filter(|_| at < end) {
                        reader.budget().step()?;
                        extents.take_off(block, class);
                        at += 8;
                    }
                    if at == before {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The next cache and the bins of the one at an address, if it is one of an arena: each part leads to the other.
fn slow(reader: &mut Reader<'_>, address: u64, arena: u64) -> Result<Option<(u64, u64)>, Stop> {
    let Some(words) = reader.words::<SLOW_WORDS>(address)? else { return Ok(None) };
    let (next, bins) = (words[0], words[BINS]);
    if words[ARENA] != arena {
        return Ok(None);
    }
    let back = match bins.checked_sub(8) {
        Some(fast) => reader.word(fast)?,
        None => None,
    };
    Ok((back == Some(address)).then_some((next, bins)))
}

#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
fn low(word: u64) -> u16 {
    word as u16
}
