//! A site of a target: as last read, and the site of a report that several make together.

use std::time::Duration;

use memtrace_common::{
    ids::StackId,
    wire::site::{Generation, Site as KernelSite},
};
use serde::{Deserialize, Serialize};

use super::{
    age_cohorts::{AgeCohorts, ObjectUnit},
    before_end::Known,
    left_blocks::LeftBlocks,
    reading::Time,
};
use crate::model::{
    category::Category,
    sizes::SizeHistogram,
    stats::{estimate::Uncertainty, history::SiteHistory, teardown::Descent},
    survival::Survival,
    totals::Totals,
    verdict::LONG_ENOUGH,
};

/// A site, as last read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TrackedSite {
    pub(crate) stack: StackId,
    pub(crate) category: Category,
    pub(crate) totals: Totals,
    /// How sure what is recorded for good is; nothing where it was counted.
    pub(crate) uncertainty: Option<Uncertainty>,
    /// How sure what windows add to it is; nothing where there were none.
    pub(crate) of_windows: Option<Uncertainty>,
    pub(crate) live_bytes: SiteHistory,
    pub(crate) oldest_born_ms: Option<u64>,
    pub(crate) generations: AgeCohorts,
    /// Nothing where frees may have gone unseen, or generations are not told.
    pub(crate) survival: Option<Survival>,
    /// The old part of its live bytes at the end of each generation, from when there was any.
    pub(crate) aged_bytes: SiteHistory,
    pub(crate) short_lived_objects: u64,
    /// Its live bytes when the process held most.
    pub(crate) at_peak_bytes: u64,
    pub(crate) sizes: SizeHistogram,
    /// The blocks that were left of it at exit; nothing where that was not looked at.
    pub(crate) left: Option<LeftBlocks>,
    /// Where its live bytes fell last, and what was known before.
    pub(crate) descent: Descent<Known>,
}

/// From how many generations on blocks are old: older than eight seconds.
const OLD: usize = 2;

impl TrackedSite {
    pub(crate) fn new(stack: StackId, category: Category) -> Self {
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
            generations: AgeCohorts::default(),
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
    pub(crate) fn known(&self) -> Known {
        let uncertainty = self.uncertainty.into_iter().chain(self.of_windows).reduce(|sum, more| sum.plus(&more));
        Known { totals: self.totals, uncertainty, survival: self.survival }
    }

    /// Follows its live bytes down; `leaves` says whether the program is about to end.
    pub(crate) fn follow_descent(&mut self, at: Duration, leaves: bool) {
        // A site that falls before there is any verdict needs none.
        if at >= LONG_ENOUGH && matches!(self.category, Category::Heap | Category::Mmap) {
            let known = self.known();
            self.descent.push(at, self.totals.live_bytes(), leaves, || known);
        }
    }

    /// By how much its old blocks have become more in the last two generations, in bytes.
    pub(crate) fn aged_growth(&self) -> u64 {
        match self.aged_bytes.points() {
            [.., (_, before), _, (_, now)] if self.survival.is_some() => now.saturating_sub(*before),
            _ => 0,
        }
    }

    /// Takes in what has become of its generations.
    pub(crate) fn read_generations(&mut self, site: &KernelSite, time: &Time, unit: ObjectUnit) {
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
