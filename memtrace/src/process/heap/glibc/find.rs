//! Finding the main arena and the parameters of malloc in the data of an image, by what they say of one another.

use super::{
    super::{
        bytes::{Reader, Stop},
        image::Copied,
    },
    layout::{BINS, Layout, NEXT_BEHIND_BINS},
};

/// Empty bins that a main arena must have, of 127.
const MIN_EMPTY_BINS: u64 = 20;
/// Arenas of a ring, at most.
pub(super) const MAX_ARENAS: usize = 4096;

/// The main arena, proven by its ring.
#[derive(Debug)]
pub(super) struct MainArena {
    /// How its version lays arenas out.
    pub(super) layout: Layout,
    /// Addresses of all arenas, the main one first.
    pub(super) arenas: Vec<u64>,
}

/// Looks for a main arena in the data of an image.
pub(super) fn main_arena(reader: &mut Reader<'_>, data: &Copied) -> Result<Option<MainArena>, Stop> {
    // Behind a place that proved nothing: its neighbours are of the same table.
    let mut resume = 0;
    for (address, word) in data.iter() {
        reader.budget().step()?;
        if address < resume || !is_empty_bin(data, address, word) {
            continue;
        }
        if let Some(found) = proven(reader, data, address)? {
            return Ok(Some(found));
        }
        resume = address + 16;
    }
    Ok(None)
}

/// Whether a bin's head points to itself: as a chunk, whose links lie 16 bytes further.
fn is_empty_bin(data: &Copied, address: u64, word: u64) -> bool {
    word != 0 && word == address.wrapping_sub(16) && data.word(address.wrapping_add(8)) == Some(word)
}

/// Takes an empty bin for each of the bins in turn.
fn proven(reader: &mut Reader<'_>, data: &Copied, bin: u64) -> Result<Option<MainArena>, Stop> {
    for index in 0..BINS {
        let Some(first) = bin.checked_sub(index * 16) else { break };
        // Arenas of version after version differ in front of the bins only.
        let Some(next) = data.word(first.wrapping_add(NEXT_BEHIND_BINS)) else { continue };
        if next == 0 || !next.is_multiple_of(8) || empty_bins(data, first) < MIN_EMPTY_BINS {
            continue;
        }
        for layout in Layout::ALL {
            let Some(base) = first.checked_sub(layout.bins) else { continue };
            if let Some(arenas) = ring(reader, base, next, &layout)? {
                return Ok(Some(MainArena { layout, arenas }));
            }
        }
    }
    Ok(None)
}

fn empty_bins(data: &Copied, first: u64) -> u64 {
    let bins = (0..BINS).map(|index| first.wrapping_add(index * 16));
    let empty = bins.filter(|bin| data.word(*bin).is_some_and(|word| is_empty_bin(data, *bin, word)));
    empty.count() as u64
}

/// The arenas of a ring that comes back to its first, which has `next`.
pub(super) fn ring(reader: &mut Reader<'_>, base: u64, next: u64, layout: &Layout) -> Result<Option<Vec<u64>>, Stop> {
    let (mut arenas, mut next) = (vec![base], next);
    while next != base {
        if arenas.len() >= MAX_ARENAS || !next.is_multiple_of(8) {
            return Ok(None);
        }
        arenas.push(next);
        let Some(address) = next.checked_add(layout.next()) else { return Ok(None) };
        match reader.word(address)? {
            Some(word) => next = word,
            None => return Ok(None),
        }
    }
    Ok(Some(arenas))
}

/// The parameters of malloc (`mp_`) that a look needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Where `sbrk_base` lies.
    address: u64,
    /// Whether there are fields on huge pages (since 2.35).
    has_huge: bool,
    /// Whether fields that only settings change are as they come.
    has_usual_fields: bool,
    /// Where the main heap begins.
    pub(super) sbrk_base: u64,
    /// Live mapped chunks.
    pub(super) mapped_chunks: u64,
    /// Their bytes.
    pub(super) mapped_bytes: u64,
    /// Bytes of huge pages of heaps (`hp_pagesize`); 0 for none.
    pub(super) huge_page_bytes: u64,
    /// Bytes in whose multiples the main heap grows for transparent huge pages; 0 for none.
    pub(super) transparent_page_bytes: u64,
}

/// Looks for the parameters: the word that says where the main heap (`heap`, from and up to) begins, among fields that agree.
pub(super) fn parameters(data: &Copied, heap: Option<(u64, u64)>) -> Option<Parameters> {
    let candidates = data.iter().filter(|(_, word)| match heap {
        Some((start, end)) => (start..end).contains(word),
        None => *word != 0,
    });
    let found = candidates.filter_map(|(address, _)| {
        [true, false].into_iter().find_map(|has_huge| fields(&|at| data.word(at), address, has_huge))
    });
    // Fields that most programs leave as they are speak first, then the heap's very start.
    found.min_by_key(|found| (!found.has_usual_fields, found.sbrk_base))
}

impl Parameters {
    /// Reads them again.
    pub(super) fn again(&self, reader: &mut Reader<'_>) -> Result<Option<Self>, Stop> {
        let from = self.address.wrapping_sub(FIELDS_BEFORE);
        let words = reader.words::<FIELD_WORDS>(from)?;
        let word = |at: u64| {
            let index = usize::try_from(at.checked_sub(from)? / 8).ok()?;
            words.as_ref()?.get(index).copied()
        };
        Ok(fields(&word, self.address, self.has_huge))
    }
}

/// Bytes in front of `sbrk_base` in which fields are read, and the words of all of them.
const FIELDS_BEFORE: u64 = 80;
const FIELD_WORDS: usize = 12;

fn fields(word: &dyn Fn(u64) -> Option<u64>, address: u64, has_huge: bool) -> Option<Parameters> {
    let before = |bytes: u64| word(address.checked_sub(bytes)?);
    let (low, high) = (|word: u64| word & 0xffff_ffff, |word: u64| word >> 32);
    let (mapped_bytes, most_bytes) = (before(16)?, before(8)?);
    let (count, allowed, most) = if has_huge {
        (high(before(40)?), low(before(32)?), high(before(32)?))
    } else {
        (low(before(32)?), high(before(32)?), low(before(24)?))
    };
    // One byte that is 0 or 1, alone in its word or in its half.
    let is_fixed = if has_huge { low(before(24)?) } else { high(before(24)?) };
    let cached_bins = word(address.checked_add(8)?)?;
    let agree = count <= most
        && allowed != 0
        && most <= allowed.max(1 << 16)
        && mapped_bytes <= most_bytes
        && (count == 0) == (mapped_bytes == 0)
        && (most == 0) == (most_bytes == 0)
        && mapped_bytes.is_multiple_of(16)
        && is_fixed <= 1
        && cached_bins <= 1024;
    if !agree {
        return None;
    }
    // `n_mmaps_max` of 65,536, and an `mmap_threshold` between one page and the most that it adapts to.
    let threshold = before(if has_huge { 80 } else { 56 })?;
    let has_usual_fields = allowed == 1 << 16 && (1 << 12..=1 << 25).contains(&threshold);
    Some(Parameters {
        address,
        has_huge,
        has_usual_fields,
        sbrk_base: word(address)?,
        mapped_chunks: count,
        mapped_bytes,
        huge_page_bytes: if has_huge { before(48)? } else { 0 },
        transparent_page_bytes: if has_huge { before(56)? } else { 0 },
    })
}
