//! The remains of a target that is over, as a gate asks for them.

use super::{Counted, Profile, View, category, site_id};
use crate::{
    model::{
        report::Category,
        verdict::{LONG_ENOUGH, Verdict},
    },
    pipeline::tracked_site::{Parts, TrackedSite},
};

impl Counted {
    /// How many blocks it holds.
    pub(in crate::pipeline) fn live_heap_objects(&self) -> u64 {
        let heap = self.sites.iter().filter(|(_, site)| category(site) == Category::Heap);
        heap.map(|(_, site)| site.alloc().objects.saturating_sub(site.freed().objects)).sum()
    }
}

impl Profile {
    /// The leak suspects of a process that has ended, by the ids that their sites have in reports, where images have these `identities`.
    pub(in crate::pipeline) fn suspects(&self, view: &View<'_>, identities: &[u64]) -> Vec<u64> {
        let has_lost = |site: &TrackedSite| site.left.is_some_and(|left| left.unreachable.objects > 0);
        if view.now < LONG_ENOUGH && !self.sites.values().any(has_lost) {
            return Vec::new();
        }
        let resident = self.memory.report().map(|memory| memory.judgement).unwrap_or_default();
        let judged = self.judged(view.now, &resident, true);
        let is_suspect = |category, parts: &Parts<'_>| {
            let parts: Vec<&TrackedSite> = parts.iter().map(|(_, part)| *part).collect();
            judged(category, &parts).judgement.verdict == Verdict::LeakSuspect
        };
        let merged = self.merged(view.categories).into_iter();
        let suspects = merged.filter(|((_, _, category), parts)| is_suspect(*category, parts));
        suspects.map(|((places, _, category), _)| site_id(places, category, identities)).collect()
    }
}
