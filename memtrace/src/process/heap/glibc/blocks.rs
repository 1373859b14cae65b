//! The live blocks of a glibc, as they are kept: four bytes a chunk, and a record for each mapped one.

use super::{
    super::found::{Block, Blocks},
    chunks::{HEADER_BYTES, OVERHEAD_BYTES, Stretch},
    mapped::MappedChunk,
};

/// All chunks of a process.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Stretches, each with the index of its arena.
    pub(super) stretches: Vec<(u32, Stretch)>,
    /// Chunks that have a mapping for themselves.
    pub(super) mapped: Vec<MappedChunk>,
}

enum Part<'a> {
    Stretch(u32, &'a Stretch),
    Mapped(&'a MappedChunk),
}

impl Blocks for Chunks {
    fn visit(&self, with: &mut dyn FnMut(Block)) {
        let stretches = self.stretches.iter().map(|(arena, stretch)| (stretch.start, Part::Stretch(*arena, stretch)));
        let mapped = self.mapped.iter().map(|chunk| (chunk.start, Part::Mapped(chunk)));
        let mut parts: Vec<(u64, Part<'_>)> = stretches.chain(mapped).collect();
        parts.sort_by_key(|(start, _)| *start);
        for (_, part) in parts {
            match part {
                Part::Stretch(arena, stretch) => {
                    for chunk in stretch.iter().filter(|chunk| chunk.kind.is_live()) {
                        let usable_bytes = chunk.bytes - OVERHEAD_BYTES;
                        with(Block { address: chunk.address + HEADER_BYTES, usable_bytes, arena: Some(arena) });
                    }
                }
                Part::Mapped(chunk) => {
                    with(Block { address: chunk.block, usable_bytes: chunk.usable_bytes, arena: None });
                }
            }
        }
    }
}
