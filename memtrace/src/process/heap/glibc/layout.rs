//! The structures of glibc's malloc on x86-64, 2.31 to 2.43. Only offsets that are read stand here.
//!
//! `malloc_state` and `malloc_par` of malloc/malloc.c, `heap_info` of malloc/arena.c
//! (<https://sourceware.org/git/?p=glibc.git;a=tree;f=malloc>).

/// Bins of an arena, two words each.
pub(super) const BINS: u64 = 127;
/// From the first bin to `next`: the bins, and a map of a bit for each.
pub(super) const NEXT_BEHIND_BINS: u64 = BINS * 16 + 16;
/// From `next` to `system_mem`, and to the end of the structure.
const SYSTEM_BEHIND_NEXT: u64 = 24;
const END_BEHIND_NEXT: u64 = 40;
/// Bit 1 of `flags`, behind the lock: the arena's pieces are not one behind the other.
const NONCONTIGUOUS: u64 = 2 << 32;
/// How far heaps of other arenas than the first are aligned, unless they are of huge pages.
pub(super) const HEAP_ALIGNMENT: u64 = 64 << 20;
/// `heap_info`: the arena, the heap before, the size.
pub(super) const HEAP_ARENA: u64 = 0;
pub(super) const HEAP_WORDS: usize = 3;
/// `sizeof (heap_info)` up to 2.34, and since.
pub(super) const OLD_HEAP_INFO_BYTES: u64 = 32;
pub(super) const HEAP_INFO_BYTES: u64 = 48;

/// Where an arena (`malloc_state`) has its fields, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The heads of the fastbins; there are none since 2.43.
    pub(super) fastbins: Option<u64>,
    /// The last chunk.
    pub(super) top: u64,
    /// The first bin.
    pub(super) bins: u64,
    /// Bytes of the header that the size of a mapped chunk leaves out.
    pub(super) mapped_header_bytes: u64,
    /// Bytes at the end of a mapped chunk that are not the program's.
    pub(super) mapped_tail_bytes: u64,
}

impl Layout {
    /// The layouts that are known, the commonest first.
    pub(super) const ALL: [Self; 2] = [
        Self { fastbins: Some(16), top: 96, bins: 112, mapped_header_bytes: 0, mapped_tail_bytes: 0 },
        Self { fastbins: None, top: 8, bins: 24, mapped_header_bytes: 16, mapped_tail_bytes: 8 },
    ];

    /// The next arena of the ring.
    pub(super) fn next(&self) -> u64 {
        self.bins + NEXT_BEHIND_BINS
    }

    /// Bytes that the arena has from the system.
    pub(super) fn system_mem(&self) -> u64 {
        self.next() + SYSTEM_BEHIND_NEXT
    }

    /// The end of the structure.
    pub(super) fn end(&self) -> u64 {
        self.next() + END_BEHIND_NEXT
    }

    /// The versions that have it.
    pub(super) fn versions(&self) -> &'static str {
        if self.fastbins.is_some() { "2.31-2.42" } else { "2.43" }
    }
}

/// Whether the first word of an arena says that its memory is in pieces.
pub(super) fn is_in_pieces(first_word: u64) -> bool {
    first_word & NONCONTIGUOUS != 0
}
