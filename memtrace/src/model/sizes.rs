//! How many blocks are of what size.

use serde::{Deserialize, Serialize};

/// Counts by powers of two: few sites have blocks of more than a handful of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeHistogram(Vec<(u8, u64)>);

impl SizeHistogram {
    /// Counts a block of `bytes`.
    pub fn add(&mut self, bytes: u64) {
        self.add_many(bucket(bytes), 1);
    }

    /// Takes in what another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            self.add_many(*bucket, *count);
        }
    }

    fn add_many(&mut self, bucket: u8, count: u64) {
        match self.0.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (bucket, count)),
        }
    }

    /// Up to how many bytes blocks have, and how many have so many and more than the next smaller power of two; smallest first.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(bucket, count)| (1 << *bucket, *count))
    }
}

/// The power of two that is no smaller.
fn bucket(bytes: u64) -> u8 {
    // No block has more than 2 to the power of 48 bytes.
    u8::try_from(bytes.clamp(1, 1 << 48).next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX)
}

/// The live blocks of a site.
#[derive(Debug)]
pub struct LiveBlocks {
    /// When the oldest was allocated, in milliseconds since the start.
    pub oldest_born_ms: u32,
    /// How large they are.
    pub sizes: SizeHistogram,
}

impl Default for LiveBlocks {
    fn default() -> Self {
        Self { oldest_born_ms: u32::MAX, sizes: SizeHistogram::default() }
    }
}

impl LiveBlocks {
    pub(crate) fn add(&mut self, bytes: u64, born_ms: u32) {
        self.oldest_born_ms = self.oldest_born_ms.min(born_ms);
        self.sizes.add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_by_the_power_of_two_that_holds_them() {
        let mut sizes = SizeHistogram::default();
        for bytes in [100, 128, 129, 0, 1, u64::MAX] {
            sizes.add(bytes);
        }
        let mut both = sizes.clone();
        both.merge(&sizes);
        assert_eq!(sizes.counts().collect::<Vec<_>>(), [(1, 2), (128, 2), (256, 1), (1 << 48, 1)]);
        assert_eq!(both.counts().map(|(_, count)| count).sum::<u64>(), 12);
    }
}
