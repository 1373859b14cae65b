//! A site of a target: as last read, and the site of a report that several make together.

use std::time::Duration;

use memtrace_common::{
    site::{Generation, Site as KernelSite, SiteIndex},
    stack::StackId,
};

use super::{
    at_exit::Left,
    before_end::{self, Known, WayOut},
    generation_book::{GenerationBook, ObjectUnit},
    profile::Time,
};
use crate::model::{
    at_exit,
    estimate::{Intervals, Uncertainty},
    frame::Stack,
    growth::{self, SiteHistory},
    report::{Category, Site, Totals},
    sizes::SizeHistogram,
    survival::Survival,
    teardown::Descent,
    verdict::{Evidence, LONG_ENOUGH, Surroundings, judge, judge_growth, touched},
};

/// Sites that are one in reports.
pub(super) type Parts<'a> = Vec<(SiteIndex, &'a TrackedSite)>;

/// A site, as last read.
pub(super) struct TrackedSite {
    pub(super) stack: StackId,
    pub(super) category: Category,
    pub(super) totals: Totals,
    /// How sure what is recorded for good is; nothing where it was counted.
    pub(super) uncertainty: Option<Uncertainty>,
    /// How sure what windows add to it is; nothing where there were none.
    pub(super) of_windows: Option<Uncertainty>,
    pub(super) live_bytes: SiteHistory,
    pub(super) oldest_born_ms: Option<u64>,
    pub(super) generations: GenerationBook,
    /// Nothing where frees may have gone unseen, or generations are not told.
    pub(super) survival: Option<Survival>,
    /// What of its live bytes was old at the end of each generation, from when any were.
    pub(super) aged_bytes: SiteHistory,
    pub(super) short_lived_objects: u64,
    /// Its live bytes when the process held most.
    pub(super) at_peak_bytes: u64,
    pub(super) sizes: SizeHistogram,
    /// What was left of it at exit; nothing where that was not looked at.
    pub(super) left: Option<Left>,
    /// Where its live bytes fell last, and what was known before.
    pub(super) descent: Descent<Known>,
}

/// From how many generations on blocks are old: older than eight seconds.
const OLD: usize = 2;

impl TrackedSite {
    pub(super) fn new(stack: StackId, category: Category) -> Self {
        let mut live_bytes = SiteHistory::default();
        // Before its first allocation it held nothing.
        live_bytes.push(Duration::ZERO, 0);
        Self {
            stack,
            category,
            totals: Totals::default(),
            uncertainty: None,
            of_windows: None,
            live_bytes,
            oldest_born_ms: None,
            generations: GenerationBook::default(),
            survival: None,
            aged_bytes: SiteHistory::default(),
            short_lived_objects: 0,
            at_peak_bytes: 0,
            sizes: SizeHistogram::default(),
            left: None,
            descent: Descent::default(),
        }
    }

    /// All that is known of it now.
    pub(super) fn known(&self) -> Known {
        let uncertainty = self.uncertainty.into_iter().chain(self.of_windows).reduce(|sum, more| sum.plus(&more));
        Known { totals: self.totals, uncertainty, survival: self.survival }
    }

    /// Follows its live bytes down; `leaves` says whether the program is about to end.
    pub(super) fn follow_descent(&mut self, at: Duration, leaves: bool) {
        // A site that falls before there is any verdict needs none.
        if at >= LONG_ENOUGH && matches!(self.category, Category::Heap | Category::Mmap) {
            let known = self.known();
            self.descent.push(at, self.totals.live_bytes(), leaves, || known);
        }
    }

    /// By how much its old blocks have become more in the last two generations, in bytes.
    pub(super) fn aged_growth(&self) -> u64 {
        match self.aged_bytes.points() {
            [.., (_, before), _, (_, now)] if self.survival.is_some() => now.saturating_sub(*before),
            _ => 0,
        }
    }

    /// Takes in what has become of its generations.
    pub(super) fn read_generations(&mut self, site: &KernelSite, time: &Time, unit: ObjectUnit) {
        let survival = self.generations.survival(site, time.generation, unit);
        self.survival = Some(survival);
        if time.next == time.generation {
            return;
        }
        self.short_lived_objects += self.generations.short_lived(site, time.generation, unit).objects;
        let aged = survival.live_since(OLD).bytes;
        // Most sites never have any.
        if aged > 0 && self.aged_bytes.first().is_none() {
            let before = Duration::from_millis(Generation::begins_ms(time.generation));
            self.aged_bytes.push(before.min(time.elapsed), 0);
        }
        if aged > 0 || self.aged_bytes.first().is_some() {
            self.aged_bytes.push(time.elapsed, aged);
        }
        self.generations.turn(site, time.generation, time.next);
    }
}

/// The survival of the blocks of several sites; of some it may not be known, and then of none.
pub(super) fn sum_of_survivals(survivals: impl Iterator<Item = Option<Survival>>) -> Option<Survival> {
    survivals.collect::<Option<Vec<_>>>()?.into_iter().reduce(|sum, more| sum.plus(&more))
}

/// The site that is made of all that allocate at the same places, but for these places; with a `way_out`, of a program that
/// ends.
pub(super) fn merged(
    category: Category,
    parts: &[&TrackedSite],
    now: Duration,
    surroundings: &Surroundings,
    way_out: Option<&WayOut<'_>>,
) -> Site {
    let totals = parts.iter().fold(Totals::default(), |sum, part| sum.plus(&part.totals));
    let uncertainties = parts.iter().flat_map(|part| [part.uncertainty, part.of_windows]);
    let survival = sum_of_survivals(parts.iter().map(|part| part.survival));
    let series = |of: fn(&TrackedSite) -> &SiteHistory| {
        growth::sum(&parts.iter().map(|part| of(part).points()).collect::<Vec<_>>())
    };
    let uncertainty = uncertainties.flatten().reduce(|sum, more| sum.plus(&more));
    let evidence = Evidence {
        now,
        live: &series(|part| &part.live_bytes),
        aged: &if survival.is_some() { series(|part| &part.aged_bytes) } else { Vec::new() },
        totals,
        live_bytes_low: uncertainty.map(|uncertainty| Intervals::of(&totals, &uncertainty).live_bytes.low),
        survival: survival.as_ref(),
        process: surroundings,
    };
    let oldest = parts.iter().filter_map(|part| part.oldest_born_ms).min();
    let left: Option<Vec<Left>> = parts.iter().map(|part| part.left).collect();
    let left = left.and_then(|known| known.into_iter().reduce(|sum, more| sum.plus(&more)));
    let by_growth = match category {
        Category::Pages(_) => touched::judge(&evidence),
        Category::Kernel(_) => judge_growth(&evidence),
        Category::Heap | Category::Mmap => judge(&evidence),
    };
    let site = Site {
        id: 0,
        category,
        totals,
        uncertainty,
        growth_bytes_per_s: parts.iter().map(|part| part.live_bytes.slope_per_s()).sum(),
        judgement: by_growth,
        before_end: None,
        unreachable: left.map(|left| left.unreachable),
        suppressed_by: None,
        in_baseline: false,
        at_peak_bytes: parts.iter().map(|part| part.at_peak_bytes).sum(),
        sizes: parts.iter().fold(SizeHistogram::default(), |mut sum, part| {
            sum.merge(&part.sizes);
            sum
        }),
        freed_at: Vec::new(),
        short_lived_objects: survival.is_some().then(|| parts.iter().map(|part| part.short_lived_objects).sum()),
        survival,
        oldest_age: oldest.map(|born_ms| now.saturating_sub(Duration::from_millis(born_ms))),
        truncated: false,
        stack: Stack::default(),
    };
    // That something is lost is told first, whatever else was freed.
    let is_lost = left.is_some_and(|left| left.unreachable.objects > 0);
    let site = match way_out.filter(|_| !is_lost) {
        Some(way_out) => before_end::judged(site, parts, way_out),
        None => site,
    };
    match left {
        Some(Left { live, unreachable }) => {
            Site { judgement: at_exit::judge(site.judgement, live, unreachable), ..site }
        }
        None => site,
    }
}
