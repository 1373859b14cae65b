//! Types of live blocks, by their content alone: no symbols, no files but for pages that the process has never touched.
//!
//! In: the live blocks of allocators, and mappings. Out: a label for each block, and figures for each type. docs/design/types.md has
//! the decisions. Everything that is read is untrusted: tables have bounds, nothing is recursive.

mod buffers;
mod classes;
mod images;
mod index;
mod labels;
mod nodes;
mod scan;
mod text;

use self::{images::Images, index::Index, labels::NO_LABEL, scan::Scan};
use super::{
    budget::Exhausted,
    bytes::{Reader, Stop},
    found::Found,
    smaps::MappedMemory,
};
use crate::{
    model::{
        heap_types::{self, NotTold, TypeName},
        roots::WordKind,
    },
    process::{maps::Mapping, roots},
};

/// Blocks that are given a label, at most: each takes some 20 bytes.
const MAX_BLOCKS: u64 = 1 << 27;
/// Types that are told, at most.
const MAX_ROWS: usize = 4096;
/// Memory outside of allocators that is looked through for holders of buffers, in bytes of one process.
const MAX_ROOT_BYTES: u64 = 256 << 20;

/// The types of a process's live blocks.
#[derive(Debug, Default)]
pub struct Types {
    /// The figures.
    pub figures: heap_types::Types,
    of_block: Vec<u32>,
    names: Vec<Option<TypeName>>,
}

impl Types {
    /// The label of a block, by its number in the order in which the allocators of a look, one after the other, hand their blocks
    /// over; nothing where its type is not known.
    #[must_use]
    pub fn label(&self, block: usize) -> Option<u32> {
        self.of_block.get(block).copied().filter(|label| *label != NO_LABEL)
    }

    /// The type that a label stands for. Classes have the names that linkers see.
    #[must_use]
    pub fn name(&self, label: u32) -> Option<&TypeName> {
        self.names.get(usize::try_from(label).ok()?)?.as_ref()
    }
}

/// Tells the types of the blocks of all allocators.
///
/// # Errors
/// Why they are not told: a bound is reached, or the process is gone.
pub fn read(reader: &mut Reader<'_>, mappings: &[MappedMemory], found: &[Found]) -> Result<Types, NotTold> {
    let blocks = found.iter().map(|one| one.allocator.live_objects).fold(0, u64::saturating_add);
    if blocks > MAX_BLOCKS {
        return Err(NotTold::Blocks);
    }
    let images = Images::of(mappings);
    let index = Index::of(found).ok_or(NotTold::Memory)?;
    let mut scan = Scan::new(&images, &index).ok_or(NotTold::Memory)?;
    let of_block = scanned(&mut scan, reader, mappings, found).map_err(not_told)?;
    let passed_over = scan.passed_over();
    let rows = scan.labels.figures(&scan.classes);
    let mut figures = heap_types::Types { rows, passed_over, ..heap_types::Types::default() };
    figures.order();
    figures.left_out = figures.rows.len().saturating_sub(MAX_ROWS) as u64;
    figures.rows.truncate(MAX_ROWS);
    Ok(Types { figures, of_block, names: scan.labels.names(&scan.classes) })
}

fn scanned(
    scan: &mut Scan<'_>,
    reader: &mut Reader<'_>,
    mappings: &[MappedMemory],
    found: &[Found],
) -> Result<Vec<u32>, Stop> {
    let mut areas: Vec<(u64, u64)> = found.iter().flat_map(|one| &one.areas).copied().collect();
    areas.sort_unstable();
    scan.blocks(reader, &areas)?;
    let mut left = MAX_ROOT_BYTES;
    for (start, end) in writable_roots(mappings, &areas) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(scan.roots(reader, start, end)?);
    }
    scan.finish(reader)
}

/// The writable memory outside of allocators' areas: data of images, stacks, other mappings.
fn writable_roots(mappings: &[MappedMemory], areas: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let readable = mappings.iter().filter(|one| !one.is_guarded).map(|one| one.mapping.clone());
    let mappings: Vec<Mapping> = readable.collect();
    let is_writable = |start: u64| {
        let index = mappings.partition_point(|mapping| mapping.end <= start);
        mappings.get(index).is_some_and(|mapping| mapping.writable && !mapping.shared)
    };
    let stretches = roots::stretches(&mappings, areas, &[]);
    let roots = stretches.iter().filter(|one| one.source == WordKind::Roots && is_writable(one.start));
    roots.map(|one| (one.start, one.end)).collect()
}

fn not_told(stop: Stop) -> NotTold {
    match stop {
        Stop::Gone => NotTold::Gone,
        Stop::Exhausted(Exhausted::Time(limit)) => NotTold::Time(limit),
        Stop::Exhausted(Exhausted::Bytes(_)) => NotTold::Bytes,
        Stop::Exhausted(Exhausted::Blocks(_)) => NotTold::Blocks,
    }
}

#[cfg(test)]
mod tests;
