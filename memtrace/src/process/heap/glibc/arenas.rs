//! The arenas of a process, and the heaps of each.

use super::{
    super::bytes::{Reader, Stop},
    chunks::ALIGNMENT,
    find::{self, MainArena, Parameters},
    layout::{HEAP_ALIGNMENT, HEAP_ARENA, HEAP_INFO_BYTES, HEAP_WORDS, Layout, OLD_HEAP_INFO_BYTES, is_in_pieces},
};

/// Heaps of a process, at most.
const MAX_HEAPS: usize = 100_000;
/// How often a chain of heaps is read, as it changes.
const ATTEMPTS: usize = 4;
/// Heaps of huge pages are four of them: 2 MiB, 1 GiB. They are aligned to their size.
const OTHER_ALIGNMENTS: [u64; 2] = [8 << 20, 4 << 30];

/// One arena.
#[derive(Debug)]
pub(super) struct Arena {
    /// Its address.
    pub(super) address: u64,
    /// Whether it is the first one.
    pub(super) is_main: bool,
    /// Where it keeps the address of its last chunk, and that address.
    pub(super) top: (u64, u64),
    /// Whether its memory is in pieces (the main one's alone).
    pub(super) is_in_pieces: bool,
    /// Its heaps, in order of addresses; the main arena has none.
    pub(super) heaps: Vec<ArenaHeap>,
}

/// One heap of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ArenaHeap {
    /// Its address.
    pub(super) start: u64,
    /// One past its last byte.
    pub(super) end: u64,
    /// The first chunk.
    pub(super) first_chunk: u64,
}

/// All arenas of a ring, the main one first.
#[derive(Debug, Default)]
pub(super) struct Arenas {
    pub(super) arenas: Vec<Arena>,
    /// Bytes of those whose heaps could not be told.
    pub(super) unreadable_bytes: u64,
    /// Whether heaps have the longer header that came with 2.35; nothing without a heap.
    pub(super) has_long_header: Option<bool>,
}

/// Reads the arenas.
pub(super) fn read(reader: &mut Reader<'_>, main: &MainArena, parameters: Option<&Parameters>) -> Result<Arenas, Stop> {
    let mut all = Arenas::default();
    let (layout, mut heaps) = (&main.layout, 0);
    let huge = parameters.map(|parameters| parameters.huge_page_bytes.saturating_mul(4));
    let alignments = huge.into_iter().chain([HEAP_ALIGNMENT]).chain(OTHER_ALIGNMENTS);
    let alignments: Vec<u64> = alignments.filter(|bytes| bytes.is_power_of_two()).collect();
    // The ring may have become longer; it never becomes shorter.
    let base = main.arenas.first().copied().unwrap_or_default();
    let next = reader.word(base.wrapping_add(layout.next()))?;
    let ring = match next {
        Some(next) => find::ring(reader, base, next, layout)?,
        None => None,
    };
    for (index, address) in ring.unwrap_or_else(|| main.arenas.clone()).into_iter().enumerate() {
        let top_field = address.wrapping_add(layout.top);
        let (Some(first_word), Some(top)) = (reader.word(address)?, reader.word(top_field)?) else {
            continue;
        };
        let is_main = index == 0;
        let mut arena = Arena {
            address,
            is_main,
            top: (top_field, top),
            is_in_pieces: is_main && is_in_pieces(first_word),
            heaps: Vec::new(),
        };
        if !is_main {
            match chain(reader, layout, address, &alignments, MAX_HEAPS - heaps)? {
                Some((chain, header_bytes)) => {
                    all.has_long_header = Some(header_bytes > OLD_HEAP_INFO_BYTES);
                    arena.heaps = chain;
                }
                None => {
                    let bytes = reader.word(address.wrapping_add(layout.system_mem()))?;
                    all.unreadable_bytes = all.unreadable_bytes.saturating_add(bytes.unwrap_or(0));
                }
            }
            heaps += arena.heaps.len();
        }
        all.arenas.push(arena);
    }
    Ok(all)
}

/// The heaps of an arena, from that of its top back to the one that it lies in itself, and the size of their headers.
fn chain(
    reader: &mut Reader<'_>,
    layout: &Layout,
    arena: u64,
    alignments: &[u64],
    most: usize,
) -> Result<Option<(Vec<ArenaHeap>, u64)>, Stop> {
    for _ in 0..ATTEMPTS {
        for alignment in alignments {
            if let Some(found) = chain_by(reader, layout, arena, *alignment, most)? {
                return Ok(Some(found));
            }
        }
        if !reader.budget().retry() {
            break;
        }
    }
    Ok(None)
}

fn chain_by(
    reader: &mut Reader<'_>,
    layout: &Layout,
    arena: u64,
    alignment: u64,
    most: usize,
) -> Result<Option<(Vec<ArenaHeap>, u64)>, Stop> {
    let first = arena & !(alignment - 1);
    let header_bytes = arena - first;
    if header_bytes != OLD_HEAP_INFO_BYTES && header_bytes != HEAP_INFO_BYTES {
        return Ok(None);
    }
    let Some(top) = reader.word(arena.wrapping_add(layout.top))? else { return Ok(None) };
    let (mut heaps, mut at) = (Vec::new(), top & !(alignment - 1));
    loop {
        reader.budget().step()?;
        let Some([owner, before, bytes]) = reader.words::<HEAP_WORDS>(at.wrapping_add(HEAP_ARENA))? else {
            return Ok(None);
        };
        let is_sound = owner == arena && bytes <= alignment && bytes > header_bytes && heaps.len() < most;
        if !is_sound || !before.is_multiple_of(alignment) {
            return Ok(None);
        }
        let behind = if at == first { arena.saturating_add(layout.end()) } else { at + header_bytes };
        heaps.push(ArenaHeap { start: at, end: at + bytes, first_chunk: behind.next_multiple_of(ALIGNMENT) });
        if at == first {
            break;
        }
        at = before;
    }
    heaps.sort_unstable();
    Ok(Some((heaps, header_bytes)))
}
