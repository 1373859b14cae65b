//! Blocks of jemalloc's own records (`base_block_t`): the tree, extents' records, arenas. They lead to the program's blocks, so
//! they must not count as roots.

use std::collections::BTreeMap;

use super::{
    super::bytes::{Reader, Stop},
    ranges::Ranges,
};

/// Their alignment, and the multiple of their size.
const ALIGNMENT: u64 = 2 << 20;
/// Steps of the alignment from a record back to the beginning of its block, at most.
const MAX_STEPS: u64 = 512;
/// Blocks, at most.
const MAX_BLOCKS: usize = 1 << 16;

/// The blocks that the records at these addresses lie in, and those that they are linked to: start and end.
pub(super) fn blocks(
    reader: &mut Reader<'_>,
    records: impl Iterator<Item = u64>,
    ranges: &Ranges,
) -> Result<BTreeMap<u64, u64>, Stop> {
    let mut blocks = BTreeMap::new();
    for record in records {
        reader.budget().step()?;
        if blocks.range(..=record).next_back().is_some_and(|(_, end)| record < *end) {
            continue;
        }
        let first = record & !(ALIGNMENT - 1);
        for step in 0..MAX_STEPS {
            let Some(start) = first.checked_sub(step * ALIGNMENT).filter(|start| ranges.is_anonymous(*start, 8)) else {
                break;
            };
            let Some((end, next)) = block(reader, start)? else { continue };
            if record < end {
                blocks.insert(start, end);
                add_linked(reader, next, &mut blocks, ranges)?;
            }
            break;
        }
    }
    Ok(blocks)
}

fn add_linked(
    reader: &mut Reader<'_>,
    mut next: u64,
    blocks: &mut BTreeMap<u64, u64>,
    ranges: &Ranges,
) -> Result<(), Stop> {
    while next != 0 && blocks.len() < MAX_BLOCKS && ranges.may_be_read(next) {
        reader.budget().step()?;
        let Some((end, behind)) = block(reader, next)? else { break };
        if blocks.insert(next, end).is_some() {
            break;
        }
        next = behind;
    }
    Ok(())
}

/// The end of the block at an address, and the next block: its last record's memory ends where it does.
fn block(reader: &mut Reader<'_>, start: u64) -> Result<Option<(u64, u64)>, Stop> {
    let Some([bytes, next, _, address, left]) = reader.words::<5>(start)? else { return Ok(None) };
    let end = start.checked_add(bytes).filter(|_| bytes != 0 && bytes.is_multiple_of(ALIGNMENT));
    let is_block = address > start && address.checked_add(left) == end && next.is_multiple_of(ALIGNMENT);
    Ok(end.filter(|_| is_block).map(|end| (end, next)))
}
