//! Sites: where they stand, and what the programs have counted at each.

use std::{collections::HashSet, mem::offset_of, sync::atomic::Ordering};

use memtrace_common::{
    ids::{ProcessSlot, SiteId, SiteIndex, StackId},
    wire::site::Site,
};

use super::{
    error::BpfError,
    mapped_array::{MappedArray, WORD_BYTES, halves},
    named_map::{ArrayMap, KeyedMap, QueueMap},
};

/// The word of a site that has its process, and which half of it.
const PROCESS: (usize, usize) =
    (offset_of!(Site, process) / WORD_BYTES, offset_of!(Site, process) % WORD_BYTES / size_of::<ProcessSlot>());

/// The table of sites.
pub(super) struct Sites {
    sites: MappedArray<Site>,
    indices: KeyedMap<SiteId, SiteIndex>,
    /// How many places were ever given out.
    count: ArrayMap<u64>,
    unused: QueueMap<SiteIndex>,
}

impl Sites {
    pub(super) fn new(
        sites: MappedArray<Site>,
        indices: KeyedMap<SiteId, SiteIndex>,
        count: ArrayMap<u64>,
        unused: QueueMap<SiteIndex>,
    ) -> Self {
        Self { sites, indices, count, unused }
    }

    /// Every site of every target.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn all(&self) -> Result<Vec<(SiteIndex, Site)>, BpfError> {
        self.of(|_| true)
    }

    /// Every site of these targets.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn of(&self, is_wanted: impl Fn(ProcessSlot) -> bool) -> Result<Vec<(SiteIndex, Site)>, BpfError> {
        let count = usize::try_from(self.count.get(0)?).unwrap_or(usize::MAX);
        // More may have been asked for than there are. They are numbered from 1.
        let count = count.min(self.sites.len().saturating_sub(1));
        let indices = 1..=u32::try_from(count).unwrap_or(u32::MAX);
        let is_of_wanted = |index: &u32| {
            let word = self.sites.words(*index as usize).and_then(|words| words.get(PROCESS.0));
            let process = word.map(|word| ProcessSlot(halves(word.load(Ordering::Relaxed))[PROCESS.1]));
            process.is_some_and(|process| process != ProcessSlot::NONE && is_wanted(process))
        };
        let site = |index: u32| Some((SiteIndex(index), self.sites.get(index as usize)?));
        // One may be another's by now.
        let all = indices.filter(is_of_wanted).filter_map(site);
        Ok(all.filter(|(_, site)| site.process != ProcessSlot::NONE).collect())
    }

    /// The stacks of all sites.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn stacks(&self) -> Result<HashSet<StackId>, BpfError> {
        Ok(self.all()?.into_iter().map(|(_, site)| site.stack).collect())
    }

    /// Forgets a site whose target is over, and makes its place unused.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn forget(&mut self, index: SiteIndex, site: &Site) -> Result<(), BpfError> {
        self.indices.remove(&SiteId::of(site.stack, site.process, site.category));
        self.sites.set(index.0 as usize, Site::default());
        self.unused.push(index)
    }
}
