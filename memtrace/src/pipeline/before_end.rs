//! What was known before a target's program freed on its way out: of a site, for its verdict, and of the process, so that
//! resident memory and live bytes are told of the same moment.

use std::time::Duration;

use super::tracked_site::{self, TrackedSite};
use crate::model::{
    estimate::{Intervals, Uncertainty},
    growth::{self, History, SiteHistory},
    memory::{MemoryHistory, Usage},
    report::{BeforeEnd, Category, Site, Totals},
    survival::Survival,
    teardown::{self, Height},
    units,
    verdict::{Evidence, Judgement, LONG_ENOUGH, Surroundings, Verdict, judge},
};

/// What is known of a site at a reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) totals: Totals,
    pub(super) uncertainty: Option<Uncertainty>,
    pub(super) survival: Option<Survival>,
}

/// A program's way out.
pub(super) struct WayOut<'a> {
    /// When it began.
    pub(super) since: Duration,
    /// What the process did up to a moment.
    pub(super) surroundings: &'a dyn Fn(Duration) -> Surroundings,
}

/// What a target has done, as far as it is wanted as of an earlier moment.
#[derive(Default)]
pub(super) struct Past {
    /// When the program said that it ends, if it has.
    said: Option<Duration>,
    last_read: Duration,
    unmatched_frees: History<u64>,
    together: Option<Together>,
}

/// What was read of resident memory and live bytes at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Together {
    at: Duration,
    rss_bytes: u64,
    /// From allocators' functions.
    pub(super) heap: Totals,
    /// What the program has mapped by itself.
    pub(super) mapped: Totals,
}

impl Past {
    /// The program says that it begins to end.
    pub(super) fn note_way_out(&mut self, at: Duration) {
        // Finalising an interpreter comes before `exit`; one that was finalised minutes ago is not this end's.
        self.said = teardown::way_out(self.said, None, at).or(Some(at));
    }

    /// Whether the program has said that it ends.
    pub(super) fn leaves(&self, now: Duration) -> bool {
        teardown::way_out(self.said, None, now).is_some()
    }

    /// Since when it is on its way out.
    pub(super) fn way_out(&self, now: Duration, ended: bool) -> Option<Duration> {
        teardown::way_out(self.said, ended.then_some(self.last_read), now)
    }

    /// Takes in a reading; `usage` is nothing once the process has no memory any more.
    pub(super) fn read<'a>(
        &mut self,
        at: Duration,
        unmatched_frees: u64,
        usage: Option<&Usage>,
        sites: impl Iterator<Item = &'a TrackedSite> + Clone,
    ) {
        self.last_read = at;
        self.unmatched_frees.push(at, unmatched_frees);
        let Some(usage) = usage else { return };
        let sum = |category| {
            let of_category = sites.clone().filter(|site| site.category == category);
            of_category.fold(Totals::default(), |sum, site| sum.plus(&site.totals))
        };
        let (heap, mapped) = (sum(Category::Heap), sum(Category::Mmap));
        self.together = Some(Together { at, rss_bytes: usage.rss_bytes(), heap, mapped });
    }

    /// Live bytes when resident memory was read last; nothing where it never was.
    pub(super) fn together(&self) -> Option<Together> {
        self.together
    }

    /// How many blocks from before attach were freed a second, up to `end`.
    pub(super) fn unmatched_frees_per_s(&self, end: Duration) -> f64 {
        self.unmatched_frees.until(end).last().map_or(0.0, |(at, count)| *count as f64 / at.as_secs_f64().max(1.0))
    }

    /// What the process did up to `end`.
    pub(super) fn surroundings(&self, live: &History<i64>, memory: &MemoryHistory, end: Duration) -> Surroundings {
        let resident = memory.judge_until(end);
        Surroundings {
            growth_bytes_per_s: live.slope_per_s_until(end),
            resident: (resident.confidence > 0.0).then_some(resident.trend),
            resident_growth_bytes_per_s: resident.slope_per_s,
            unmatched_frees_per_s: self.unmatched_frees_per_s(end),
        }
    }
}

impl Together {
    /// All live bytes.
    pub(super) fn live_bytes(&self) -> u64 {
        self.heap.plus(&self.mapped).live_bytes()
    }

    /// What a report tells of a process that has ended.
    pub(super) fn report(&self) -> BeforeEnd {
        let live = self.heap.plus(&self.mapped);
        BeforeEnd {
            at: self.at,
            live_bytes: live.live_bytes(),
            live_objects: live.live_objects(),
            rss_bytes: Some(self.rss_bytes),
        }
    }
}

/// A site that grew until its program freed it on its way out is judged as of before that; any other stays as it is.
pub(super) fn judged(site: Site, parts: &[&TrackedSite], way_out: &WayOut<'_>) -> Site {
    let heights: Vec<Option<&Height<Known>>> =
        parts.iter().map(|part| part.descent.before_end(way_out.since)).collect();
    let Some(at) = heights.iter().flatten().map(|height| height.at).max().filter(|at| *at >= LONG_ENOUGH) else {
        return site;
    };
    let until: Vec<Duration> = heights.iter().map(|height| height.map_or(at, |height| height.at)).collect();
    let known: Vec<Known> = parts
        .iter()
        .zip(&heights)
        .map(|(part, height)| height.map_or_else(|| part.known(), |height| height.known))
        .collect();
    let totals = known.iter().fold(Totals::default(), |sum, known| sum.plus(&known.totals));
    if !teardown::has_freed_most(totals.live_bytes(), site.totals.live_bytes()) {
        return site;
    }
    let series = |of: fn(&TrackedSite) -> &SiteHistory| {
        growth::sum(&parts.iter().zip(&until).map(|(part, until)| of(part).until(*until)).collect::<Vec<_>>())
    };
    let survival = tracked_site::sum_of_survivals(known.iter().map(|known| known.survival));
    let uncertainty = known.iter().filter_map(|known| known.uncertainty).reduce(|sum, more| sum.plus(&more));
    let judgement = judge(&Evidence {
        now: at,
        live: &series(|part| &part.live_bytes),
        aged: &if survival.is_some() { series(|part| &part.aged_bytes) } else { Vec::new() },
        totals,
        live_bytes_low: uncertainty.map(|uncertainty| Intervals::of(&totals, &uncertainty).live_bytes.low),
        survival: survival.as_ref(),
        process: &(way_out.surroundings)(at),
    });
    if !matches!(judgement.verdict, Verdict::LeakSuspect | Verdict::Growing) {
        return site;
    }
    let freed = units::bytes(totals.live_bytes() - site.totals.live_bytes());
    let reason = format!("{}; then {freed} were freed at the end", judgement.reason);
    Site {
        judgement: Judgement { reason, ..judgement },
        growth_bytes_per_s: parts
            .iter()
            .zip(&until)
            .map(|(part, until)| part.live_bytes.slope_per_s_until(*until))
            .sum(),
        before_end: Some(BeforeEnd {
            at,
            live_bytes: totals.live_bytes(),
            live_objects: totals.live_objects(),
            rss_bytes: None,
        }),
        ..site
    }
}
