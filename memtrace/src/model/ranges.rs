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

/// The part of one mapping that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed<S> {
    /// The owner that the mapping was charged to.
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
    /// Adds a mapping from `start` up to `end`, where nothing is left by now ([`Self::give_up`]). An empty one is none.
    pub fn insert(&mut self, start: u64, end: u64, owner: S) {
        if start >= end {
            return;
        }
        debug_assert!(self.touched(start, end).is_empty(), "something is left from {start:#x} up to {end:#x}");
        let id = MappingId(self.next);
        self.next += 1;
        self.mappings.insert(id, Mapping { owner, left_bytes: end - start });
        self.parts.insert(start, (end, id));
    }

    /// The parts of mappings that are left, in order of addresses: from where, up to where.
    pub fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().map(|(start, (end, _))| (*start, *end))
    }

    /// The ranges that are left from `start` up to `end` of the mappings of such owners, by part.
    pub fn left_of(&self, start: u64, end: u64, is_such: impl Fn(&S) -> bool) -> Vec<(u64, u64)> {
        let touched = self.touched(start, end).into_iter();
        let such = touched.filter(|(_, _, id)| self.mappings.get(id).is_some_and(|mapping| is_such(&mapping.owner)));
        such.map(|(its_start, its_end, _)| (its_start.max(start), its_end.min(end))).collect()
    }

    /// Gives up whatever lies from `start` up to `end`; parts beyond stay. Returns what that was, by part.
    pub fn give_up(&mut self, start: u64, end: u64) -> Vec<Freed<S>> {
        let touched = self.touched(start, end);
        let freed = touched.into_iter().filter_map(|(its_start, its_end, id)| {
            self.parts.remove(&its_start);
            if its_start < start {
                self.parts.insert(its_start, (start, id));
            }
            if its_end > end {
                self.parts.insert(end, (its_end, id));
            }
            let mapping = self.mappings.get_mut(&id)?;
            let bytes = its_end.min(end) - its_start.max(start);
            mapping.left_bytes -= bytes;
            let freed = Freed { owner: mapping.owner, bytes, was_last: mapping.left_bytes == 0 };
            if freed.was_last {
                self.mappings.remove(&id);
            }
            Some(freed)
        });
        freed.collect()
    }

    /// The parts of which something lies from `start` up to `end`: their starts, ends and mappings.
    fn touched(&self, start: u64, end: u64) -> Vec<(u64, u64, MappingId)> {
        if start >= end {
            return Vec::new();
        }
        // Parts do not overlap: only the last that begins before can reach in.
        let reaching = self.parts.range(..start).next_back().filter(|(_, (its_end, _))| *its_end > start);
        let first = reaching.map_or(start, |(its_start, _)| *its_start);
        self.parts.range(first..end).map(|(start, (end, mapping))| (*start, *end, *mapping)).collect()
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
        assert_eq!(ranges.give_up(13, 15), [Freed { owner: 'a', bytes: 2, was_last: false }]);
        let freed = ranges.give_up(0, 100);
        assert_eq!(freed.iter().map(|freed| freed.bytes).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(freed.iter().map(|freed| freed.was_last).collect::<Vec<_>>(), [false, true]);
        assert_eq!(ranges.owners().count(), 0);
    }

    #[test]
    fn the_parts_of_one_owner_are_told_from_those_of_others() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20, 'a');
        ranges.give_up(12, 14);
        ranges.insert(12, 13, 'b');
        assert_eq!(ranges.left_of(11, 18, |owner| *owner == 'a'), [(11, 12), (14, 18)]);
    }

    proptest! {
        /// Against a table with an entry for each address.
        #[test]
        fn any_operations_leave_what_a_table_of_addresses_says(
            operations in prop::collection::vec((any::<bool>(), 0u64..60, 1u64..20), 0..60),
        ) {
            let mut ranges: Ranges<usize> = Ranges::default();
            let mut table: Vec<Option<usize>> = vec![None; 100];
            let mut left: Vec<u64> = Vec::new();
            for (owner, (is_mapped, start, length)) in operations.into_iter().enumerate() {
                let end = start + length;
                let inside = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                left.push(0);
                let mut gone: HashMap<usize, u64> = HashMap::new();
                for freed in ranges.give_up(start, end) {
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
                if is_mapped {
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
