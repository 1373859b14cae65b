//! The labels of blocks in a holder tree: by type or by size, and apart from others where whoever asks has marked them.

use std::collections::HashMap;

use crate::{
    model::{
        heap_types::TypeName,
        holders::{BlockLabel, HolderLabel, MAX_MARK_NUMBERS, Mark, Marked},
        survival::Amount,
    },
    process::heap::types::Types,
    reach::{
        Extent,
        marking::{Parent, Reached},
    },
};

/// The bits of a label's number that tell powers of two, types and marks from sizes.
const LARGE: u32 = 1 << 31;
const TYPE: u32 = 1 << 30;
const MARKED: u32 = 1 << 29;

/// The labels of all blocks, in order of their addresses.
pub(super) struct Labels<'a> {
    types: &'a Types,
    /// The number of each one's label.
    numbers: Vec<u32>,
    /// The label and the mark of blocks that have one, by the lower bits of their number.
    marked: Vec<(u32, u32)>,
    has_marks: bool,
}

/// The number of the label of a block: of its type, where that is known, or of its size.
pub(super) fn number(types: &Types, block: usize, size_bytes: u64) -> u32 {
    number_of_type(types, block).unwrap_or_else(|| number_of_size(size_bytes))
}

/// A type tells more than a size where it is a class, a table of functions, a pattern. Text has its size, which says more.
fn number_of_type(types: &Types, block: usize) -> Option<u32> {
    let label = types.label(block).filter(|label| label & (LARGE | TYPE | MARKED) == 0)?;
    let is_told = match types.name(label)? {
        TypeName::Class(_) | TypeName::Around { .. } | TypeName::Pattern(_) => true,
        TypeName::Table(table) => table.is_sure,
        TypeName::Text => false,
    };
    is_told.then_some(TYPE | label)
}

/// Sizes up to a KiB are their own numbers.
fn number_of_size(size_bytes: u64) -> u32 {
    match BlockLabel::of(size_bytes) {
        BlockLabel::Size(bytes) => u32::try_from(bytes).unwrap_or(u32::MAX),
        BlockLabel::UpTo(bytes) => LARGE | bytes.trailing_zeros(),
    }
}

fn is_marked(number: u32) -> bool {
    number & (LARGE | TYPE | MARKED) == MARKED
}

impl<'a> Labels<'a> {
    /// Labels of blocks without marks, by their numbers.
    pub(super) fn new(types: &'a Types, numbers: Vec<u32>) -> Self {
        Self { types, numbers, marked: Vec::new(), has_marks: false }
    }

    /// Marks those of these blocks, which are in order, that begin where a mark says.
    pub(super) fn mark(&mut self, blocks: &[Extent], marks: &[Mark]) {
        self.has_marks = !marks.is_empty();
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        for Mark { address, number: mark } in marks.iter().filter(|mark| (mark.number as usize) < MAX_MARK_NUMBERS) {
            let found = blocks.binary_search_by_key(address, |block| block.start);
            let Some(number) = found.ok().and_then(|block| self.numbers.get_mut(block)) else { continue };
            if is_marked(*number) {
                continue;
            }
            let next = u32::try_from(self.marked.len()).unwrap_or(u32::MAX);
            let place = *known.entry((*number, *mark)).or_insert(next);
            if place >= MARKED {
                continue;
            }
            if place == next {
                self.marked.push((*number, *mark));
            }
            *number = MARKED | place;
        }
    }

    /// The number of a block's label.
    pub(super) fn number(&self, block: usize) -> u32 {
        self.numbers.get(block).copied().unwrap_or(0)
    }

    /// Whether ways to a block are wanted.
    pub(super) fn is_wanted(&self, block: usize) -> bool {
        !self.has_marks || self.mark_of(self.number(block)).is_some()
    }

    /// The label of a number, with the mark of its blocks.
    pub(super) fn label(&self, number: u32) -> (HolderLabel, Option<u32>) {
        match self.mark_of(number) {
            Some((label, mark)) => (self.plain(label), Some(mark)),
            None => (self.plain(number), None),
        }
    }

    /// The label and the mark of a number that has one.
    fn mark_of(&self, number: u32) -> Option<(u32, u32)> {
        self.marked.get((number & !MARKED) as usize).copied().filter(|_| is_marked(number))
    }

    fn plain(&self, number: u32) -> HolderLabel {
        match self.types.name(number & !TYPE).filter(|_| number & TYPE != 0) {
            Some(name) => HolderLabel::Type(name.clone()),
            None if number & LARGE != 0 => HolderLabel::Block(BlockLabel::UpTo(1 << ((number & !LARGE) % 64))),
            None => HolderLabel::Block(BlockLabel::Size((number & !TYPE).into())),
        }
    }

    /// The marked blocks, by the number of their mark.
    pub(super) fn found(&self, reached: &Reached) -> Vec<Marked> {
        let most = self.marked.iter().map(|(_, mark)| *mark as usize + 1).max().unwrap_or(0);
        let mut found = vec![Marked::default(); most];
        for (block, extent) in reached.extents().iter().enumerate() {
            let mark = self.mark_of(self.number(block)).map(|(_, mark)| mark as usize);
            let Some(found) = mark.and_then(|mark| found.get_mut(mark)) else { continue };
            let is_unreached = matches!(reached.parent(block), Parent::Nobody);
            let sum = if is_unreached { &mut found.unreached } else { &mut found.reached };
            *sum = sum.plus(Amount { bytes: extent.bytes(), objects: 1 });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(address: u64, number: u32) -> Mark {
        Mark { address, number }
    }

    #[test]
    fn marked_blocks_keep_their_size_and_are_told_apart_by_their_marks() {
        let types = Types::default();
        let blocks: Vec<Extent> = (1..=5).map(|index| Extent::new(index << 12, 24 + 4096 * (index / 4))).collect();
        let numbers = blocks.iter().map(|block| number(&types, usize::MAX, block.bytes())).collect();
        let mut labels = Labels::new(&types, numbers);
        assert!((0..5).all(|block| labels.is_wanted(block)), "without marks, all are");
        let nowhere = [mark(0x1008, 0), mark(0x9000, 0), mark(0x1000, u32::MAX)];
        labels.mark(
            &blocks,
            &[&nowhere[..], &[mark(0x2000, 0), mark(0x3000, 7), mark(0x4000, 0), mark(0x4000, 3)]].concat(),
        );
        let told: Vec<_> = (0..5).map(|block| labels.label(labels.number(block))).collect();
        let (small, large) = (HolderLabel::Block(BlockLabel::Size(24)), HolderLabel::Block(BlockLabel::UpTo(8192)));
        let expected = [(&small, None), (&small, Some(0)), (&small, Some(7)), (&large, Some(0)), (&large, None)];
        assert_eq!(told, expected.map(|(label, mark)| (label.clone(), mark)));
        assert_eq!((0..5).map(|block| labels.is_wanted(block)).collect::<Vec<_>>(), [false, true, true, true, false]);
    }
}
