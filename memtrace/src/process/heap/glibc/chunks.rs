//! Chunks of one stretch of a heap, one behind the other, in four bytes each: addresses follow from sizes.

/// Bytes in front of each block: the chunk's header, of which the first half is the end of the chunk before.
pub(super) const HEADER_BYTES: u64 = 16;
/// Bytes of the header that are not the program's.
pub(super) const OVERHEAD_BYTES: u64 = 8;
/// Sizes and addresses of chunks are multiples of this.
pub(super) const ALIGNMENT: u64 = 16;
/// The smallest chunk.
pub(super) const MIN_CHUNK_BYTES: u64 = 32;

/// The use of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A live block.
    InUse,
    /// Free, in a bin.
    Bin,
    /// Free, the last of its arena.
    Top,
    /// Free, in the cache of a thread: it has one of the keys.
    Cached,
    /// Its first word could be a link of a fastbin: the lists decide.
    MaybeFast,
    /// Free, in a fastbin.
    Fast,
}

const KIND_BITS: u32 = 3;
const KIND_MASK: u32 = (1 << KIND_BITS) - 1;
/// A part of a chunk whose size does not fit into one entry; the next entry goes on.
const CONTINUED: u32 = KIND_MASK;
/// The most units of [`ALIGNMENT`] of an entry.
const MAX_UNITS: u64 = (u32::MAX >> KIND_BITS) as u64;

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::InUse => 0,
            Self::Bin => 1,
            Self::Top => 2,
            Self::Cached => 3,
            Self::MaybeFast => 4,
            Self::Fast => 5,
        }
    }

    fn of(code: u32) -> Self {
        match code {
            1 => Self::Bin,
            2 => Self::Top,
            3 => Self::Cached,
            4 => Self::MaybeFast,
            5 => Self::Fast,
            _ => Self::InUse,
        }
    }

    /// Whether the program has it.
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::InUse | Self::MaybeFast)
    }
}

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// Chunks without a gap between them.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The first one's address.
    pub(super) start: u64,
    /// One past the last one.
    pub(super) end: u64,
    entries: Vec<u32>,
}

impl Stretch {
    pub(super) fn at(start: u64) -> Self {
        Self { start, end: start, entries: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Appends a chunk at the end.
    pub(super) fn push(&mut self, bytes: u64, kind: Kind) {
        let mut units = bytes / ALIGNMENT;
        self.end = self.end.saturating_add(bytes);
        while units > MAX_UNITS {
            self.entries.push(u32::MAX);
            units -= MAX_UNITS;
        }
        // Checked above.
        let units = u32::try_from(units).unwrap_or(0);
        self.entries.push(units << KIND_BITS | kind.code());
    }

    /// Takes the last chunk back.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let last = self.entries.pop()?;
        let mut units = u64::from(last >> KIND_BITS);
        while self.entries.last().is_some_and(|entry| entry & KIND_MASK == CONTINUED) {
            self.entries.pop();
            units += MAX_UNITS;
        }
        self.end = self.end.saturating_sub(units * ALIGNMENT);
        Some(Chunk { address: self.end, bytes: units * ALIGNMENT, kind: Kind::of(last & KIND_MASK) })
    }

    /// Gives unused room back.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// All chunks, in order of addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = Chunk> {
        let (mut address, mut units) = (self.start, 0);
        self.entries.iter().filter_map(move |entry| {
            units += u64::from(entry >> KIND_BITS);
            if entry & KIND_MASK == CONTINUED {
                return None;
            }
            let chunk = Chunk { address, bytes: units * ALIGNMENT, kind: Kind::of(entry & KIND_MASK) };
            (address, units) = (address + chunk.bytes, 0);
            Some(chunk)
        })
    }

    /// Gives chunks another kind: `kind` answers for each.
    pub(super) fn resolve(&mut self, mut kind: impl FnMut(Chunk) -> Kind) {
        let (mut address, mut units) = (self.start, 0);
        for entry in &mut self.entries {
            units += u64::from(*entry >> KIND_BITS);
            if *entry & KIND_MASK == CONTINUED {
                continue;
            }
            let chunk = Chunk { address, bytes: units * ALIGNMENT, kind: Kind::of(*entry & KIND_MASK) };
            *entry = *entry & !KIND_MASK | kind(chunk).code();
            (address, units) = (address + chunk.bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(vec![Kind::InUse, Kind::Bin, Kind::Top, Kind::Cached, Kind::MaybeFast, Kind::Fast])
    }

    proptest! {
        #[test]
        fn chunks_come_back_as_they_were_put(
            chunks in prop::collection::vec((prop_oneof![2_u64..100, 1_u64..1 << 34], kinds()), 0..50)
        ) {
            let mut stretch = Stretch::at(4096);
            for (units, kind) in &chunks {
                stretch.push(units * ALIGNMENT, *kind);
            }
            let back: Vec<(u64, Kind)> = stretch.iter().map(|chunk| (chunk.bytes / ALIGNMENT, chunk.kind)).collect();
            prop_assert_eq!(&back, &chunks);
            let last = stretch.iter().last();
            prop_assert_eq!(stretch.pop(), last);
            stretch.resolve(|_| Kind::Fast);
            prop_assert!(stretch.iter().all(|chunk| chunk.kind == Kind::Fast));
            while stretch.pop().is_some() {}
            prop_assert_eq!((stretch.end, stretch.len()), (4096, 0));
        }
    }
}
