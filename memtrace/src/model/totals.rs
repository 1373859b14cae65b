//! Totals: what has been allocated and freed.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// The sums that were allocated and freed. `live = alloc - freed` holds by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes ever allocated.
    pub alloc_bytes: u64,
    /// Objects ever allocated.
    pub alloc_objects: u64,
    /// Bytes ever freed, never more than were allocated.
    pub freed_bytes: u64,
    /// Objects ever freed, never more than were allocated.
    pub freed_objects: u64,
}

impl Totals {
    /// Takes counters that were read one after the other while they moved: a block may have been freed
    /// between the readings of both, never freed without having been allocated.
    #[must_use]
    pub fn new(alloc_bytes: u64, alloc_objects: u64, freed_bytes: u64, freed_objects: u64) -> Self {
        Self {
            alloc_bytes,
            alloc_objects,
            freed_bytes: freed_bytes.min(alloc_bytes),
            freed_objects: freed_objects.min(alloc_objects),
        }
    }

    /// Bytes allocated and not yet freed.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.alloc_bytes - self.freed_bytes
    }

    /// Objects allocated and not yet freed.
    #[must_use]
    pub fn live_objects(&self) -> u64 {
        self.alloc_objects - self.freed_objects
    }

    /// The same, of which only a part of what is live still is, from 0 to 1.
    #[must_use]
    pub fn with_live(&self, part: f64) -> Self {
        if part >= 1.0 {
            return *self;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count, rounded")]
        let dead = |live: u64| (live as f64 * (1.0 - part.max(0.0))).round() as u64;
        Self::new(
            self.alloc_bytes,
            self.alloc_objects,
            self.freed_bytes + dead(self.live_bytes()),
            self.freed_objects + dead(self.live_objects()),
        )
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            alloc_bytes: self.alloc_bytes + other.alloc_bytes,
            alloc_objects: self.alloc_objects + other.alloc_objects,
            freed_bytes: self.freed_bytes + other.freed_bytes,
            freed_objects: self.freed_objects + other.freed_objects,
        }
    }
}

impl<'a> Sum<&'a Self> for Totals {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum.plus(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_live_may_be_taken_for_freed() {
        let totals = Totals::new(100, 10, 40, 4);
        assert_eq!(totals.with_live(0.5), Totals::new(100, 10, 70, 7));
        assert_eq!((totals.with_live(1.0), totals.with_live(0.0).live_bytes()), (totals, 0));
    }

    #[test]
    fn live_is_alloc_minus_freed_even_where_counters_were_read_in_between() {
        let totals = Totals::new(100, 2, 120, 3);
        assert_eq!((totals.live_bytes(), totals.live_objects()), (0, 0));
        assert_eq!(totals.alloc_bytes - totals.freed_bytes, totals.live_bytes());
    }
}
