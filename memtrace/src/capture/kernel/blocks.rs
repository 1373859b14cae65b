//! The table of live blocks, as user space sees it: one look at every block.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use memtrace_common::{
    block::{BlockKey, LiveBlock, Recorded},
    block_table::{Bucket, FREE, PLACES, TAKEN, after, filter_entry, home},
    process::ProcessSlot,
    site::SiteIndex,
};

use super::{halves, mapped::MappedArray};
use crate::model::sizes::SizeHistogram;

/// The word of a bucket that counts the blocks it has passed on; before it stand the keys, after it two words for
/// each block.
const PASSED_ON: usize = PLACES;

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
    fn add(&mut self, bytes: u64, born_ms: u32) {
        self.oldest_born_ms = self.oldest_born_ms.min(born_ms);
        self.sizes.add(bytes);
    }
}

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
    /// How many blocks have an address of one hash, where that is counted.
    filter: Option<MappedArray<u64>>,
}

impl BlockTable {
    pub(super) fn new(buckets: MappedArray<Bucket>, filter: Option<MappedArray<u64>>) -> Self {
        Self { buckets, filter }
    }

    /// Looks at every block: those of programs that are over go, and those of windows other than `cohort`. Returns what is
    /// live of each site.
    pub(super) fn sweep(&self, over: &HashSet<ProcessSlot>, cohort: u32) -> HashMap<SiteIndex, LiveBlocks> {
        let mut live: HashMap<SiteIndex, LiveBlocks> = HashMap::new();
        for (bucket, words) in self.buckets() {
            for (place, word) in words[..PLACES].iter().enumerate() {
                let key = word.load(Ordering::Acquire);
                if key == FREE || key == TAKEN {
                    continue;
                }
                let sized = words[PASSED_ON + 1 + 2 * place].load(Ordering::Relaxed);
                let recorded = Recorded::of_word(sized);
                let is_judged = recorded.is_in_some_cohort() && recorded != Recorded::in_cohort(cohort);
                if is_judged || over.contains(&BlockKey(key).process()) {
                    self.remove(bucket, word, key);
                    continue;
                }
                // Site and time are the halves of the block's second word.
                let [site, born_ms] = halves(words[PASSED_ON + 2 + 2 * place].load(Ordering::Relaxed));
                live.entry(SiteIndex(site)).or_default().add(LiveBlock::size_of_word(sized), born_ms);
            }
        }
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
        let entry = filter_entry(BlockKey(key).address());
        if let Some([count]) = self.filter.as_ref().and_then(|filter| filter.words(entry as usize)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        let mut passed = home(BlockKey(key), self.count());
        while passed != bucket {
            if let Some(words) = self.buckets.words(passed as usize) {
                words[PASSED_ON].fetch_sub(1, Ordering::Relaxed);
            }
            passed = after(passed, 1, self.count());
        }
    }
}
