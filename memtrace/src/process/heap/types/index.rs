//! All live blocks, in the order in which allocators hand them over, and by address. Twelve bytes a block.

use super::super::found::Found;

/// Blocks between two that are looked at first.
const STEP: usize = 64;
/// Sizes are kept in units of so many bytes.
const UNIT: u64 = 8;

/// The blocks of one allocator, whose addresses rise.
#[derive(Debug)]
struct Part {
    first: usize,
    after: usize,
    low: u64,
    high: u64,
}

/// The live blocks of a process.
#[derive(Debug, Default)]
pub(super) struct Index {
    addresses: Vec<u64>,
    /// Usable bytes in units, at most what fits.
    sizes: Vec<u32>,
    /// Every so many addresses one.
    sparse: Vec<u64>,
    parts: Vec<Part>,
}

impl Index {
    /// Those of all allocators, one after the other; nothing where there is no memory for it.
    pub(super) fn of(found: &[Found]) -> Option<Self> {
        let mut index = Self::default();
        let expected: u64 = found.iter().map(|one| one.allocator.live_objects).fold(0, u64::saturating_add);
        let expected = usize::try_from(expected).ok()?;
        index.addresses.try_reserve_exact(expected).ok()?;
        index.sizes.try_reserve_exact(expected).ok()?;
        index.sparse.try_reserve_exact(expected / STEP + 1).ok()?;
        for one in found {
            let first = index.addresses.len();
            one.blocks.visit(&mut |block| {
                // More than it has said: not kept, so that no memory is taken for them.
                if index.addresses.len() < expected {
                    index.addresses.push(block.address);
                    index.sizes.push(u32::try_from(block.usable_bytes / UNIT).unwrap_or(u32::MAX));
                }
            });
            let blocks = index.addresses.get(first..).unwrap_or_default();
            if let (Some(low), Some(high)) = (blocks.first(), blocks.last()) {
                index.parts.push(Part { first, after: index.addresses.len(), low: *low, high: *high });
            }
        }
        index.sparse.extend(index.addresses.iter().step_by(STEP));
        Some(index)
    }

    /// The lowest address of all, and one past the highest.
    pub(super) fn extent(&self) -> Option<(u64, u64)> {
        let low = self.parts.iter().map(|part| part.low).min()?;
        Some((low, self.parts.iter().map(|part| part.high).max()?.saturating_add(1)))
    }

    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// The address of a block, and its usable bytes.
    pub(super) fn block(&self, block: usize) -> Option<(u64, u64)> {
        let size = self.sizes.get(block).map_or(0, |units| u64::from(*units) * UNIT);
        Some((*self.addresses.get(block)?, size))
    }

    /// The block that begins at an address.
    #[inline]
    pub(super) fn at(&self, address: u64) -> Option<u32> {
        self.parts.iter().find_map(|part| self.within(part, address))
    }

    #[inline]
    fn within(&self, part: &Part, address: u64) -> Option<u32> {
        if address < part.low || address > part.high {
            return None;
        }
        // The sparse ones from the part's first on.
        let (from, until) = (part.first.div_ceil(STEP), part.after.div_ceil(STEP));
        let sparse = self.sparse.get(from..until).unwrap_or_default();
        let steps = sparse.partition_point(|one| *one <= address);
        let start = if steps == 0 { part.first } else { (from + steps - 1) * STEP };
        let end = start.saturating_add(STEP).min(part.after);
        let place = self.addresses.get(start..end)?.binary_search(&address).ok()?;
        u32::try_from(start + place).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{heap::Allocator, heap::Consistency},
        process::heap::found::{Block, Blocks, ResidentPart},
    };
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Listed(Vec<(u64, u64)>);

    impl Blocks for Listed {
        fn visit(&self, with: &mut dyn FnMut(Block)) {
            for (address, usable_bytes) in &self.0 {
                with(Block { address: *address, usable_bytes: *usable_bytes, arena: None });
            }
        }
    }

    fn found(blocks: Vec<(u64, u64)>) -> Found {
        Found {
            allocator: Allocator { live_objects: blocks.len() as u64, ..Allocator::default() },
            consistency: Consistency::default(),
            resident: ResidentPart::default(),
            areas: Vec::new(),
            blocks: Box::new(Listed(blocks)),
        }
    }

    proptest! {
        #[test]
        fn blocks_are_found_where_they_begin_and_nowhere_else(
            sets in prop::collection::vec(prop::collection::btree_set(0_u64..2000, 0..300), 1..4)
        ) {
            // Each allocator has memory of its own.
            let place = |part: usize, unit: &u64| ((part as u64) << 32) | (unit * 16);
            let parts = sets.iter().enumerate();
            let found: Vec<Found> = parts
                .map(|(part, set)| found(set.iter().map(|unit| (place(part, unit), 24)).collect()))
                .collect();
            let index = Index::of(&found).unwrap();
            prop_assert_eq!(index.len(), sets.iter().map(std::collections::BTreeSet::len).sum::<usize>());
            let mut number = 0;
            for (part, set) in sets.iter().enumerate() {
                for unit in 0..2000 {
                    let address = place(part, &unit);
                    let expected = set.contains(&unit).then_some(number);
                    prop_assert_eq!(index.at(address), expected);
                    prop_assert_eq!(index.at(address + 8), None);
                    if expected.is_some() {
                        prop_assert_eq!(index.block(number as usize), Some((address, 24)));
                        number += 1;
                    }
                }
            }
            prop_assert_eq!(index.block(index.len()), None);
        }
    }

    #[test]
    fn blocks_without_order_are_no_trouble() {
        let index = Index::of(&[found(vec![(4096, 24), (64, u64::MAX), (128, 8)])]).unwrap();
        assert_eq!(index.len(), 3);
        for address in [0, 64, 128, 4096, u64::MAX] {
            _ = index.at(address);
        }
    }
}
