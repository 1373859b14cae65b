//! Mean gaps between samples: how many samples each leads to, and which the table of blocks has room for.

use crate::model::sample_gap::{SampleGap, sampled_part};

/// The part of the calls that are seen to their return without being samples: those that resize, for one.
const RESIZED: f64 = 0.046;

/// The calls that must have been counted to tell which part of them is seen to its return.
const ENOUGH_CALLS: u64 = 1000;

/// The sizes that a target asks for, as far as they decide how many of its calls are sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    /// The mean size, in bytes; 0 where it is not known.
    pub mean_bytes: f64,
    /// Under a mean gap of so many bytes, such a part of the calls was seen to its return.
    pub seen: Option<(u64, f64)>,
}

impl Sizes {
    /// The sizes of so many calls that asked for so many bytes together.
    #[must_use]
    pub fn of(bytes: u64, calls: u64) -> Self {
        Self { mean_bytes: bytes as f64 / (calls as f64).max(1.0), seen: None }
    }

    /// The same, of which so many were seen to their return while samples were taken under a mean gap of so many bytes.
    #[must_use]
    pub fn seen(self, gap: u64, returns: f64, calls: u64) -> Self {
        let seen = (calls >= ENOUGH_CALLS).then(|| (gap, (returns / calls as f64).min(1.0)));
        Self { seen, ..self }
    }

    /// The part of the calls that is sampled under a mean gap of so many bytes, if all ask for the mean size, and those that count
    /// as larger than they are add that. It is no less than of calls of different sizes with that mean, since `1-exp(-s/g)` is
    /// concave.
    fn sampled(self, gap: u64) -> f64 {
        sampled_part(self.mean_bytes + sampled_part(0.0, gap) * gap as f64, gap)
    }

    /// The part of the calls that is seen to its return whatever the gap.
    #[must_use]
    pub fn unsampled_returns(self) -> f64 {
        self.seen.map_or(RESIZED, |(gap, part)| (part - self.sampled(gap)).max(0.0))
    }

    /// The part of the calls that is seen to its return under a mean gap of so many bytes. Under a finer gap than has been seen it is
    /// an upper bound: half the gap samples no more than twice as many calls.
    #[must_use]
    pub fn returns(self, gap: u64) -> f64 {
        let by_mean = (self.unsampled_returns() + self.sampled(gap)).min(1.0);
        let by_seen = self.seen.map_or(1.0, |(seen, part)| part * (seen as f64 / gap as f64).max(1.0));
        by_mean.min(by_seen)
    }
}

/// The room in the table of blocks, which samples share with all other blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// How many blocks the table holds.
    most: u64,
    /// How much of that was left when the gap was last made coarser for want of room, or all of it.
    left: u64,
}

impl Room {
    /// The table is empty.
    pub(super) fn new(most: u64) -> Self {
        Self { most, left: most }
    }

    /// The finest gap that there is room for, in bytes, while `blocks` stand there and `gap` is in force.
    ///
    /// Each time that half of the room left is taken, the gap doubles: so the heap can go on growing until that is at its
    /// greatest. A finer gap must leave three quarters of the table free, even if its samples replace all there are.
    pub(super) fn finest(&mut self, blocks: u64, gap: u64) -> u64 {
        let left = self.most.saturating_sub(blocks);
        if left * 2 < self.left {
            self.left = left;
            return (gap * 2).min(SampleGap::COARSEST);
        }
        if blocks <= self.most / 4 {
            self.left = self.most;
        }
        let has_room = |finer: &u64| blocks.saturating_mul(gap / finer) <= self.most / 4;
        SampleGap::choices().take_while(|finer| *finer < gap).find(has_room).unwrap_or(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const FINEST: u64 = SampleGap::Chosen.first_bytes();

    /// The part of calls of these sizes that is sampled.
    fn truly_sampled(sizes: &[u64], gap: u64) -> f64 {
        sizes.iter().map(|size| sampled_part(*size as f64, gap)).sum::<f64>() / sizes.len() as f64
    }

    proptest! {
        #[test]
        fn samples_under_a_finer_gap_are_never_more_than_was_thought(
            drawn in vec((0u32..24, any::<u64>()), 1..20), resized in 0.0..0.3f64, now in 10u32..25, finer in 10u32..25,
        ) {
            let sizes: Vec<u64> = drawn.iter().map(|(power, random)| (1 << power) + random % (1 << power)).collect();
            let (now, finer) = (1u64 << now.max(finer), 1u64 << now.min(finer));
            let truth = |gap| resized + (1.0 - resized) * truly_sampled(&sizes, gap);
            let calls = 1_000_000 * sizes.len() as u64;
            let known = Sizes::of(sizes.iter().sum::<u64>() * 1_000_000, calls);
            let seen = known.seen(now, truth(now) * calls as f64, calls);
            prop_assert!((seen.returns(now) - truth(now)).abs() < 1e-6, "{} for {}", seen.returns(now), truth(now));
            prop_assert!(seen.returns(finer) >= truth(finer) * 0.999, "{} for {}", seen.returns(finer), truth(finer));
        }

        #[test]
        fn a_heap_that_grows_finds_room_under_one_gap_or_another(growth in 1u64..10_000) {
            // Of so many blocks per check under the finest gap; coarser ones sample fewer in proportion.
            let (mut room, mut gap, mut points, mut blocks) = (Room::new(1 << 20), FINEST, 0, 0);
            for _ in 0..100_000 {
                points += growth * SampleGap::COARSEST / gap;
                blocks = points * FINEST / SampleGap::COARSEST;
                let next = room.finest(blocks, gap);
                prop_assert!(next >= gap, "finer, with {} blocks", blocks);
                gap = next;
                if gap == SampleGap::COARSEST {
                    break;
                }
            }
            prop_assert!(blocks < 1 << 20, "no room at {}", gap);
        }
    }

    #[test]
    fn a_finer_gap_waits_until_the_table_is_nearly_empty_again() {
        let mut room = Room::new(1000);
        assert_eq!(room.finest(400, 4096), 4096);
        assert_eq!(room.finest(501, 4096), 8192);
        assert_eq!(room.finest(501, 8192), 8192);
        assert_eq!(room.finest(751, 8192), 16_384);
        assert_eq!(room.finest(300, 16_384), 16_384);
        assert_eq!(room.finest(125, 16_384), 8192);
        assert_eq!(room.finest(501, 8192), 16_384, "the room was all there again");
        assert_eq!(room.finest(0, 16_384), FINEST);
    }

    #[test]
    fn few_calls_tell_nothing() {
        assert_eq!(Sizes::of(6400, 100).seen(4096, 100.0, 100), Sizes::of(6400, 100));
        // As it was before anything is known: one call in twenty.
        assert!((Sizes::default().returns(512 << 10) - 0.05).abs() < 1e-3);
    }
}
