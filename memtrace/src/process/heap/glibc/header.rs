//! The header of a chunk: its size, and three flags in the lowest bits.

use super::chunks::{ALIGNMENT, HEADER_BYTES, MIN_CHUNK_BYTES};

const BEFORE_IS_USED: u64 = 1;
const IS_MAPPED: u64 = 2;
const IS_OF_OTHER_ARENA: u64 = 4;
const FLAGS: u64 = 7;

/// The word with the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(pub(super) u64);

/// The meaning of a header, beside what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// That of a chunk.
    Chunk,
    /// The end of a piece of memory.
    Fence,
    /// None that could stand there.
    Torn,
}

impl Header {
    pub(super) fn bytes(self) -> u64 {
        self.0 & !FLAGS
    }

    pub(super) fn before_is_used(self) -> bool {
        self.0 & BEFORE_IS_USED != 0
    }

    pub(super) fn is_of_other_arena(self) -> bool {
        self.0 & IS_OF_OTHER_ARENA != 0
    }

    /// Whether it is the very last one of a heap that others follow: no size at all.
    pub(super) fn ends_heap(self) -> bool {
        self.0 == BEFORE_IS_USED
    }

    /// The size of a chunk with a mapping for itself, if it is one.
    pub(super) fn mapped_bytes(self) -> Option<u64> {
        (self.0 & FLAGS == IS_MAPPED).then(|| self.bytes())
    }

    /// Whether it can stand behind a chunk of `before` bytes, which says `before_bytes` of itself at its end if it is free.
    #[inline]
    pub(super) fn seen(self, before_bytes: u64, before: Option<u64>, is_main: bool) -> Seen {
        let is_free_before = !self.before_is_used();
        let disagrees = is_free_before && before.is_some_and(|before| before != before_bytes);
        let is_foreign = self.0 & IS_MAPPED != 0 || (is_main && self.is_of_other_arena());
        if disagrees || is_foreign || !self.bytes().is_multiple_of(ALIGNMENT) {
            Seen::Torn
        } else if self.bytes() >= MIN_CHUNK_BYTES {
            Seen::Chunk
        } else if self.bytes() == HEADER_BYTES {
            Seen::Fence
        } else {
            Seen::Torn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_stands_only_where_it_agrees() {
        assert_eq!(Header(0x31).seen(0, Some(64), true), Seen::Chunk);
        assert_eq!(Header(0x30).seen(64, Some(64), true), Seen::Chunk);
        assert_eq!(Header(0x30).seen(48, Some(64), true), Seen::Torn);
        assert_eq!(Header(0x35).seen(0, Some(64), false), Seen::Chunk);
        assert_eq!(Header(0x11).seen(0, Some(64), false), Seen::Fence);
        for torn in [0, 0x1, 0x35, 0x32, 0x39] {
            assert_eq!(Header(torn).seen(0, None, true), Seen::Torn, "{torn:#x}");
        }
        assert_eq!((Header(0x2002).mapped_bytes(), Header(0x2003).mapped_bytes()), (Some(0x2000), None));
    }
}
