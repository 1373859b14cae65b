//! Ranges of addresses that were mapped: which parts are left, and of which mapping each is.
//!
//! A mapping is one object, however many parts are left of it, and it is freed with its last byte. Pure
//! arithmetic: knows nothing of system calls.

use std::collections::{BTreeMap, HashMap};

/// Names a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MappingId(u64);

/// One mapping: what it is charged to, and how much of it is left.
#[derive(Clone, Copy, Debug)]
struct Mapping<S> {
    owner: S,
    left_bytes: u64,
}

/// A part of a mapping that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    start: u64,
    end: u64,
    mapping: MappingId,
}

/// What was given up of one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed<S> {
    /// What the mapping was charged to.
    pub owner: S,
    /// How many bytes.
    pub bytes: u64,
    /// Whether they were the last.
    pub was_last: bool,
}

/// The ranges that are mapped, each charged to an owner.
#[derive(Clone, Debug)]
pub struct Ranges<S> {
    /// By start: the end, and the mapping.
    parts: BTreeMap<u64, (u64, MappingId)>,
    mappings: HashMap<MappingId, Mapping<S>>,
    next: u64,
}

impl<S> Default for Ranges<S> {
    fn default() -> Self {
        Self { parts: BTreeMap::new(), mappings: HashMap::new(), next: 0 }
    }
}

impl<S: Copy> Ranges<S> {
    /// Adds a mapping from `start` up to `end`, where nothing is left by now. An empty one is none.
    pub fn insert(&mut self, start: u64, end: u64, owner: S) {
        if start >= end {
            return;
        }
        let id = MappingId(self.next);
        self.next += 1;
        self.mappings.insert(id, Mapping { owner, left_bytes: end - start });
        self.parts.insert(start, (end, id));
    }

    /// Takes out whatever lies from `start` up to `end`; parts beyond stay.
    pub fn take(&mut self, start: u64, end: u64) -> Vec<Part> {
        if start >= end {
            return Vec::new();
        }
        // Parts do not overlap: only the last that begins before can reach in.
        let reaching = self.parts.range(..start).next_back().filter(|(_, (its_end, _))| *its_end > start);
        let first = reaching.map_or(start, |(its_start, _)| *its_start);
        let touched: Vec<Part> = self
            .parts
            .range(first..end)
            .map(|(start, (end, mapping))| Part { start: *start, end: *end, mapping: *mapping })
            .collect();
        let mut taken = Vec::with_capacity(touched.len());
        for part in touched {
            self.parts.remove(&part.start);
            if part.start < start {
                self.parts.insert(part.start, (start, part.mapping));
            }
            if part.end > end {
                self.parts.insert(end, (part.end, part.mapping));
            }
            taken.push(Part { start: part.start.max(start), end: part.end.min(end), ..part });
        }
        taken
    }

    /// Puts back what was taken: it was not given up after all.
    pub fn put_back(&mut self, parts: Vec<Part>) {
        for part in parts {
            self.parts.insert(part.start, (part.end, part.mapping));
        }
    }

    /// What was taken is given up for good.
    pub fn free(&mut self, parts: Vec<Part>) -> Vec<Freed<S>> {
        let freed = parts.into_iter().filter_map(|part| {
            let mapping = self.mappings.get_mut(&part.mapping)?;
            let bytes = part.end - part.start;
            mapping.left_bytes -= bytes;
            let freed = Freed { owner: mapping.owner, bytes, was_last: mapping.left_bytes == 0 };
            if freed.was_last {
                self.mappings.remove(&part.mapping);
            }
            Some(freed)
        });
        freed.collect()
    }

    /// The owners of the mappings of which something is left.
    pub fn owners(&self) -> impl Iterator<Item = S> {
        self.mappings.values().map(|mapping| mapping.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_leaves_two_parts_of_one_object() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20, 'a');
        let hole = ranges.take(13, 15);
        assert_eq!(ranges.free(hole), [Freed { owner: 'a', bytes: 2, was_last: false }]);
        let rest = ranges.take(0, 100);
        let freed = ranges.free(rest);
        assert_eq!(freed.iter().map(|freed| freed.bytes).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(freed.iter().map(|freed| freed.was_last).collect::<Vec<_>>(), [false, true]);
        assert_eq!(ranges.owners().count(), 0);
    }

    #[test]
    fn what_is_put_back_was_never_gone() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20, 'a');
        ranges.insert(20, 30, 'b');
        let taken = ranges.take(15, 25);
        ranges.put_back(taken);
        let all = ranges.take(0, 100);
        assert_eq!(ranges.free(all).iter().map(|freed| freed.bytes).sum::<u64>(), 20);
    }

    proptest! {
        /// Against a table with an entry for each address.
        #[test]
        fn any_operations_leave_what_a_table_of_addresses_says(
            operations in prop::collection::vec((0u8..3, 0u64..60, 1u64..20), 0..60),
        ) {
            let mut ranges: Ranges<usize> = Ranges::default();
            let mut table: Vec<Option<usize>> = vec![None; 100];
            let mut left: Vec<u64> = Vec::new();
            for (owner, (kind, start, length)) in operations.into_iter().enumerate() {
                let end = start + length;
                let inside = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                left.push(0);
                let taken = ranges.take(start, end);
                if kind == 2 {
                    ranges.put_back(taken);
                    continue;
                }
                let mut gone: HashMap<usize, u64> = HashMap::new();
                for freed in ranges.free(taken) {
                    *gone.entry(freed.owner).or_default() += freed.bytes;
                    left[freed.owner] -= freed.bytes;
                    prop_assert_eq!(freed.was_last, left[freed.owner] == 0);
                }
                let mut expected: HashMap<usize, u64> = HashMap::new();
                for address in inside.clone() {
                    if let Some(owner) = table[address].take() {
                        *expected.entry(owner).or_default() += 1;
                    }
                }
                prop_assert_eq!(gone, expected);
                if kind == 0 {
                    ranges.insert(start, end, owner);
                    left[owner] = length;
                    table[inside].fill(Some(owner));
                }
            }
            let mut owners: Vec<usize> = ranges.owners().collect();
            owners.sort_unstable();
            let alive: Vec<usize> = (0..left.len()).filter(|owner| left[*owner] > 0).collect();
            prop_assert_eq!(owners, alive);
        }
    }
}
