//! How resident memory has changed since attach, page by page.
//!
//! In: what the kernel has told of one address space. Out: what of it is more or less by now, and the figures that stand for
//! that where allocations have theirs.

use serde::{Deserialize, Serialize};

use super::{survival::Amount, totals::Totals};

/// By how much resident memory has grown and shrunk, each all times together. Objects are pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResidentChange {
    /// Memory that has become resident, whoever made it so.
    pub became_resident: Amount,
    /// Memory that was given back, also of what was resident before.
    pub given_back: Amount,
    /// Memory that was copied on write. Each copy takes the place of a page that was shared: none makes resident memory larger.
    pub copied: Amount,
}

impl ResidentChange {
    /// How much more is resident than at first; below zero, less.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        self.became_resident.bytes.wrapping_sub(self.given_back.bytes).cast_signed()
    }

    /// The change as sums of allocations: a copy was allocated and given back at once. Live memory cannot be less than nothing, so
    /// that no more was freed than was allocated.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (alloc, freed) = (self.became_resident.plus(self.copied), self.given_back.plus(self.copied));
        Totals::new(alloc.bytes, alloc.objects, freed.bytes, freed.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(pages: u64) -> Amount {
        Amount { bytes: pages * 4096, objects: pages }
    }

    #[test]
    fn copies_on_write_are_allocated_and_given_back_at_once() {
        let change = ResidentChange { became_resident: pages(10), given_back: pages(4), copied: pages(100) };
        assert_eq!(change.bytes(), 6 * 4096);
        let totals = change.totals();
        assert_eq!((totals.alloc_objects, totals.freed_objects, totals.live_objects()), (110, 104, 6));
    }

    #[test]
    fn more_may_be_given_back_than_has_become_resident() {
        let change = ResidentChange { became_resident: pages(3), given_back: pages(10), copied: Amount::default() };
        assert_eq!(change.bytes(), -7 * 4096);
        assert_eq!((change.totals().live_bytes(), change.totals().freed_objects), (0, 3));
    }
}
