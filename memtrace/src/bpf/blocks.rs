//! The table of live blocks, as user space sees it: one look at every block.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use memtrace_common::{
    ids::{BlockKey, ProcessSlot, SiteIndex},
    steps::block_table::{Bucket, FREE, PLACES, REACH, TAKEN, after, filter_entry, home},
    wire::block::{LiveBlock, Recorded},
};

use super::{
    mapped_array::{MappedArray, halves},
    spare_blocks::SpareBlocks,
};
use crate::model::sizes::LiveBlocks;

/// The word of a bucket that counts the blocks it has passed on; before it stand the keys, after it two words for
/// each block.
const PASSED_ON: usize = PLACES;

/// A live block, as the kernel side knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    /// Where it begins.
    pub address: u64,
    /// The size that the program asked for.
    pub size_bytes: u64,
    /// The site that is charged for it.
    pub site: SiteIndex,
}

/// The table.
pub(super) struct BlockTable {
    buckets: MappedArray<Bucket>,
    /// The blocks for which no bucket had room.
    spare: SpareBlocks,
    /// How many sampled blocks have an address of one hash; nothing where none are samples.
    filter: Option<MappedArray<u64>>,
}

impl BlockTable {
    pub(super) fn new(buckets: MappedArray<Bucket>, spare: SpareBlocks) -> Self {
        Self { buckets, spare, filter: None }
    }

    /// Keeps count of samples that go, where the programs count those that come.
    pub(super) fn count_samples(&mut self, filter: MappedArray<u64>) {
        self.filter = Some(filter);
    }

    /// How many blocks there are, where the programs count those that come; else 0. One look at 256 KiB.
    pub(super) fn samples(&self) -> u64 {
        let Some(filter) = &self.filter else { return 0 };
        let counts = (0..filter.len()).filter_map(|entry| filter.words(entry)?.first());
        // A count that is looked at while it changes may have wrapped around.
        let sum = counts.map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
        sum.cast_signed().max(0).cast_unsigned()
    }

    /// Looks at every block: those of programs that are over go, and those of windows other than the one that `cohort` names for
    /// their target. Returns what is live of each site.
    pub(super) fn sweep(
        &self,
        over: &HashSet<ProcessSlot>,
        cohort: impl Fn(ProcessSlot) -> u32,
    ) -> HashMap<SiteIndex, LiveBlocks> {
        let mut live: HashMap<SiteIndex, LiveBlocks> = HashMap::new();
        let goes = |slot: ProcessSlot, recorded: Recorded| {
            let is_judged = || recorded.is_in_some_cohort() && recorded != Recorded::in_cohort(cohort(slot));
            over.contains(&slot) || is_judged()
        };
        for (bucket, words) in self.buckets() {
            for (place, word) in words[..PLACES].iter().enumerate() {
                let key = word.load(Ordering::Acquire);
                if key == FREE || key == TAKEN {
                    continue;
                }
                let sized = words[PASSED_ON + 1 + 2 * place].load(Ordering::Relaxed);
                if goes(BlockKey(key).process(), Recorded::of_word(sized)) {
                    self.remove(bucket, word, key);
                    continue;
                }
                // Site and time are the halves of the block's second word.
                let [site, born_ms] = halves(words[PASSED_ON + 2 + 2 * place].load(Ordering::Relaxed));
                live.entry(SiteIndex(site)).or_default().add(LiveBlock::size_of_word(sized), born_ms);
            }
        }
        let mut gone = Vec::new();
        self.spare.for_each(|key, block| {
            if goes(key.process(), block.recorded()) {
                gone.push(key);
            } else {
                live.entry(block.site).or_default().add(block.size_bytes(), block.born_ms);
            }
        });
        gone.into_iter().for_each(|key| self.remove_spare(key));
        live
    }

    /// The live blocks of a program that is at rest.
    pub(super) fn of(&self, slot: ProcessSlot) -> Vec<FoundBlock> {
        let mut found = Vec::new();
        for (_, words) in self.buckets() {
            for (place, word) in words[..PLACES].iter().enumerate() {
                let key = word.load(Ordering::Acquire);
                if key == FREE || key == TAKEN || BlockKey(key).process() != slot {
                    continue;
                }
                let [sized, placed] = [1, 2].map(|word| words[PASSED_ON + word + 2 * place].load(Ordering::Relaxed));
                let address = BlockKey(key).address();
                found.push(FoundBlock {
                    address,
                    size_bytes: LiveBlock::size_of_word(sized),
                    site: SiteIndex(halves(placed)[0]),
                });
            }
        }
        self.spare.for_each(|key, block| {
            if key.process() == slot {
                found.push(FoundBlock { address: key.address(), size_bytes: block.size_bytes(), site: block.site });
            }
        });
        found
    }

    fn buckets(&self) -> impl Iterator<Item = (u32, &[AtomicU64])> {
        (0..self.count()).filter_map(|bucket| Some((bucket, self.buckets.words(bucket as usize)?)))
    }

    fn count(&self) -> u32 {
        u32::try_from(self.buckets.len()).unwrap_or(u32::MAX)
    }

    fn remove(&self, bucket: u32, word: &AtomicU64, key: u64) {
        if word.compare_exchange(key, FREE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        self.forget_sample(BlockKey(key));
        let mut passed = home(BlockKey(key), self.count());
        while passed != bucket {
            self.forget_passing(passed);
            passed = after(passed, 1, self.count());
        }
    }

    /// Removes a block that all buckets which it could be in have passed on.
    fn remove_spare(&self, key: BlockKey) {
        if !self.spare.remove(key) {
            return;
        }
        self.forget_sample(key);
        let home = home(key, self.count());
        (0..REACH).for_each(|distance| self.forget_passing(after(home, distance, self.count())));
    }

    fn forget_sample(&self, key: BlockKey) {
        let entry = filter_entry(key.address());
        if let Some([count]) = self.filter.as_ref().and_then(|filter| filter.words(entry as usize)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn forget_passing(&self, bucket: u32) {
        if let Some(words) = self.buckets.words(bucket as usize) {
            words[PASSED_ON].fetch_sub(1, Ordering::Relaxed);
        }
    }
}
