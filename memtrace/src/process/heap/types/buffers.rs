//! Buffers of strings and of vectors: blocks whose holder tells how much of them is used, and how much there is.

use crate::model::heap_types::Pattern;

/// The least capacity of a string that has a buffer, in bytes: shorter ones lie in the string itself.
const MIN_STRING_BYTES: u64 = 16;
/// No buffer is longer, in bytes.
const MAX_BYTES: u64 = 1 << 40;
/// Bytes that an allocator adds to a small request, at most.
const MAX_ADDED_BYTES: u64 = 32;
/// To a larger one, the part of the block: classes of sizes are no further apart.
const MAX_ADDED_PART: u64 = 4;

/// The kind of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Vector,
}

impl Kind {
    /// The kind that an address and the two words behind it tell, with the bytes of the buffer: an address, a length and a capacity;
    /// or a beginning, an end, and the end of all.
    #[inline]
    pub(super) fn told(address: u64, second: u64, third: u64) -> Option<(Self, u64)> {
        // First: addresses may be low enough to be lengths.
        let bytes = third.wrapping_sub(address);
        if address <= second && second <= third && (1..MAX_BYTES).contains(&bytes) {
            return Some((Self::Vector, bytes));
        }
        // With the zero at its end.
        let is_string = second <= third && (MIN_STRING_BYTES..MAX_BYTES).contains(&third);
        is_string.then(|| (Self::String, third + 1))
    }

    pub(super) fn pattern(self) -> Pattern {
        match self {
            Self::String => Pattern::StringBuffer,
            Self::Vector => Pattern::VectorBuffer,
        }
    }
}

/// Which blocks are buffers: a bit a block and kind.
#[derive(Debug)]
pub(super) struct Buffers {
    strings: Vec<u64>,
    vectors: Vec<u64>,
}

impl Buffers {
    /// None of so many blocks; nothing where there is no memory for it.
    pub(super) fn of(blocks: usize) -> Option<Self> {
        let bits = || {
            let (mut bits, length) = (Vec::new(), blocks.div_ceil(64));
            bits.try_reserve_exact(length).ok()?;
            bits.resize(length, 0);
            Some(bits)
        };
        Some(Self { strings: bits()?, vectors: bits()? })
    }

    /// Marks a block as a buffer of so many bytes, if it has that size and little more.
    pub(super) fn mark(&mut self, block: usize, kind: Kind, bytes: u64, usable: u64) {
        let added = usable.checked_sub(bytes);
        if added.is_none_or(|added| added > MAX_ADDED_BYTES.max(usable / MAX_ADDED_PART)) {
            return;
        }
        let bits = match kind {
            Kind::String => &mut self.strings,
            Kind::Vector => &mut self.vectors,
        };
        if let Some(word) = bits.get_mut(block / 64) {
            *word |= 1 << (block % 64);
        }
    }

    /// The kind of a buffer; nothing where a block is none.
    pub(super) fn kind(&self, block: usize) -> Option<Kind> {
        // Three addresses say more than one.
        if is_in(&self.vectors, block) { Some(Kind::Vector) } else { self.is_string(block).then_some(Kind::String) }
    }

    /// Whether somebody has a block as the buffer of a string, whatever others have it as.
    pub(super) fn is_string(&self, block: usize) -> bool {
        is_in(&self.strings, block)
    }
}

fn is_in(bits: &[u64], block: usize) -> bool {
    bits.get(block / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_tell_strings_and_vectors() {
        let at = 0x5555_0000_1000;
        assert_eq!(Kind::told(at, 20, 30), Some((Kind::String, 31)));
        assert_eq!(Kind::told(at, 31, 30), None);
        assert_eq!(Kind::told(at, 3, 15), None, "in the string itself");
        assert_eq!(Kind::told(at, at + 8, at + 16), Some((Kind::Vector, 16)));
        assert_eq!(Kind::told(at, at, at + 16), Some((Kind::Vector, 16)), "with no element");
        assert_eq!(Kind::told(at, at - 8, at + 16), None);
        assert_eq!(
            Kind::told(0x1c3_e000, 0x1c3_e008, 0x1c3_e010),
            Some((Kind::Vector, 16)),
            "a program at low addresses"
        );
        assert_eq!(Kind::told(at, at, at), None);
        assert_eq!(Kind::told(u64::MAX, u64::MAX, u64::MAX), None);
        assert_eq!(Kind::told(at, 0, u64::MAX), None);
    }

    #[test]
    fn a_buffer_fills_its_block() {
        let mut buffers = Buffers::of(70).unwrap();
        buffers.mark(69, Kind::String, 31, 40);
        buffers.mark(3, Kind::Vector, 4000, 5120);
        buffers.mark(4, Kind::Vector, 100, 5120);
        buffers.mark(5, Kind::Vector, 100, 99);
        buffers.mark(128, Kind::Vector, 100, 100);
        let kinds: Vec<_> = (0..200).filter_map(|block| Some((block, buffers.kind(block)?))).collect();
        assert_eq!(kinds, [(3, Kind::Vector), (69, Kind::String)]);
    }
}
