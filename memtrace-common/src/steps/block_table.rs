//! The table of live blocks: how it is laid out, and where in it a block is looked for.
//!
//! A table of our own and not a hash map of the kernel's: there, a look-up, an insert and a removal take 60 to 70 ns
//! each, most of it for locks and a list of free entries that a block, which one thread at a time owns, does not
//! need. Blocks stand in buckets; one that is full passes a block on to the next, and counts that, so that a search
//! stops where none was passed on.

use crate::{ids::BlockKey, wire::block::LiveBlock};

/// How many blocks a bucket holds: as many keys as fit into a cache line beside the count.
pub const PLACES: usize = 7;

/// How many buckets a block can be in: its home, and those that follow. Where all are full there is no room for it.
pub const REACH: u32 = 16;

/// No block's key: the place is free.
pub const FREE: u64 = 0;

/// No block's key: the place is taken, by a block that is about to be written to it.
pub const TAKEN: u64 = u64::MAX;

/// Entries of the filter of sampled blocks: how many of them hash to the same entry. It fits into a core's cache, so
/// that the free of one that was not sampled, as nearly all are, needs to know nothing more.
pub const FILTER: u32 = 1 << 15;

/// Where in the filter blocks at this address are counted.
#[inline(always)]
#[must_use]
pub const fn filter_entry(address: u64) -> u32 {
    // Blocks lie 16 bytes apart, mapped ones whole pages.
    (((address >> 4 ^ address >> 19) & 0xffff_ffff) as u32) % FILTER
}

/// Some blocks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The blocks' keys; [`FREE`] or [`TAKEN`] where there is none.
    pub keys: [u64; PLACES],
    /// How many blocks were passed on to the next bucket.
    pub passed_on: u64,
    /// The record of each block.
    pub blocks: [LiveBlock; PLACES],
    /// Makes buckets whole cache lines.
    unused: [u64; 2],
}

/// The place of a block in a bucket whose keys `key_at` reads; [`PLACES`] where it is not there. By a function, because other
/// CPUs change the keys meanwhile.
#[inline(always)]
#[must_use]
pub fn place_of(key: u64, key_at: impl Fn(usize) -> Option<u64>) -> usize {
    (0..PLACES).find(|place| key_at(*place) == Some(key)).unwrap_or(PLACES)
}

/// How many buckets give `blocks` blocks room: half of the places stay free, or searches would be long.
#[must_use]
pub const fn buckets_for(blocks: u32) -> u32 {
    // `PLACES` to a bucket, in an order in which it fits. Two thirds full, one block in ten thousand found no room.
    (blocks / 7 + 1) * 2 + REACH
}

/// The first bucket, of `buckets`, that a block can be in.
#[inline(always)]
#[must_use]
pub fn home(key: BlockKey, buckets: u32) -> u32 {
    (crate::ids::mix(key.0) >> 32).wrapping_mul(buckets as u64).wrapping_shr(32) as u32
}

/// The bucket this many (not more than there are) after one.
#[inline(always)]
#[must_use]
pub fn after(bucket: u32, distance: u32, buckets: u32) -> u32 {
    let at = bucket + distance;
    if at >= buckets { at - buckets } else { at }
}

const _: () = assert!(size_of::<Bucket>() == 192);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProcessSlot;

    #[test]
    fn homes_are_spread_evenly_however_regular_addresses_are() {
        for (stride, buckets) in [(16, 1000), (4096, 1000), (64, 224_696), (1 << 21, 77)] {
            let mut counts = vec![0u32; buckets as usize];
            let blocks = buckets * 4;
            for block in 0..u64::from(blocks) {
                counts[home(BlockKey::new(ProcessSlot(3), 0x7f00_0000_0010 + block * stride), buckets) as usize] += 1;
            }
            // With four a bucket in the mean, a Poisson distribution has more than 7 in 5 % of them.
            let crowded = counts.iter().filter(|count| **count > 7).count();
            assert!(crowded * 100 < counts.len() * 9, "{crowded} of {} for a stride of {stride}", counts.len());
        }
    }

    #[test]
    fn there_is_room_for_as_many_as_asked_for() {
        for blocks in [1, 64, 1 << 20, u32::MAX] {
            assert!(u64::from(buckets_for(blocks)) * PLACES as u64 > u64::from(blocks));
        }
    }

    #[test]
    fn the_last_bucket_is_followed_by_the_first() {
        assert_eq!((after(3, 1, 5), after(4, 3, 5), after(2, 0, 5)), (4, 2, 2));
    }

    #[test]
    fn blocks_are_found_by_their_whole_key() {
        let mut bucket = Bucket::default();
        bucket.keys[6] = 0x1234;
        let place = |key| place_of(key, |at| bucket.keys.get(at).copied());
        assert_eq!((place(0x1234), place(0x1230), place(FREE)), (6, PLACES, 0));
    }
}
