//! The windows of a run, as far as they tell of one target.

use std::{collections::HashMap, time::Duration};

use memtrace_common::{
    ids::SiteIndex,
    steps::sampling::OBJECT,
    wire::site::{Count, Site as KernelSite, Weight},
};
use serde::{Deserialize, Serialize};

use crate::model::{
    stats::{
        estimate::{Pair, Uncertainty},
        windows::{Cohort, Estimate, Window},
    },
    totals::Totals,
};

/// One site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SiteWindows {
    /// The kernel side's sums when the last window was judged.
    alloc: Count,
    freed: Count,
    /// The part of the present window's blocks that had been freed half-way.
    halfway: Count,
    /// The memory that was freed for good, as of the last reading, and how much of it while windows' blocks were followed.
    freed_for_good: Pair,
    seen_freed_for_good: Pair,
    estimate: Estimate,
}

/// The figures of a run's windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WindowEstimates {
    sites: HashMap<SiteIndex, SiteWindows>,
    /// The estimate of a site that was in no window so far.
    nothing: Estimate,
    /// The estimate of all sites together: sites that allocate in the same window are not independent.
    process: Estimate,
    windows: u32,
    /// Whether the only window has seen all of the program: it began and ended in it.
    has_all: bool,
    followed: Duration,
    stood_for: Duration,
    /// How many objects the windows stand for by themselves, and how many there were by the target's clock.
    told: f64,
    work: Option<f64>,
}

impl WindowEstimates {
    /// How many there were.
    pub(crate) fn count(&self) -> u32 {
        self.windows
    }

    /// Whether there was no window.
    pub(crate) fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// Windows begin, or begin again: what was freed until now was not freed in one, and a window that was given up counts for
    /// nothing.
    pub(crate) fn begin(&mut self, sites: &[(SiteIndex, KernelSite)]) {
        for (index, counted) in sites {
            let site = self.site(*index);
            site.freed_for_good = pair_of_weight(&counted.freed());
            (site.alloc, site.freed, site.halfway) = (counted.window_alloc, counted.window_freed, counted.window_freed);
        }
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(crate) fn note_halfway(&mut self, sites: &[(SiteIndex, KernelSite)]) {
        for (index, site) in sites {
            self.site(*index).halfway = site.window_freed;
        }
    }

    /// All of the time is over; `window` makes the window of what became of all its blocks.
    pub(crate) fn judge(&mut self, sites: &[(SiteIndex, KernelSite)], window: impl FnOnce(&Cohort) -> Window) {
        let mut of_process = Cohort::default();
        let mut cohorts: HashMap<SiteIndex, Cohort> = HashMap::with_capacity(sites.len());
        for (index, site) in sites {
            let cohort = self.site(*index).judge(site);
            of_process = of_process.plus(&cohort);
            cohorts.insert(*index, cohort);
        }
        let window = window(&of_process);
        if window.work.is_some() {
            (self.told, self.work) = (self.told + window.weight * of_process.born[1], window.work);
        }
        self.has_all = window.has_all && self.windows == 0;
        for (index, known) in &mut self.sites {
            known.estimate.add(&window, &cohorts.get(index).copied().unwrap_or_default(), self.windows);
        }
        self.process.add(&window, &of_process, self.windows);
        self.nothing.add(&window, &Cohort::default(), self.windows);
        self.windows += 1;
        self.followed += window.followed;
        self.stood_for += window.cycle;
    }

    /// A site; one that appears now has shown nothing in all windows before.
    fn site(&mut self, index: SiteIndex) -> &mut SiteWindows {
        let nothing = self.nothing;
        self.sites.entry(index).or_insert_with(|| SiteWindows { estimate: nothing, ..SiteWindows::default() })
    }

    /// The factor of the sum over windows: for the time that follows on the last of them, none stands yet; and in
    /// all there was what the target's clock tells.
    pub(crate) fn scale(&self, unjudged: Option<Duration>) -> f64 {
        let unjudged = unjudged.filter(|_| !self.has_all && !self.stood_for.is_zero()).unwrap_or_default();
        (1.0 + unjudged.as_secs_f64() / self.stood_for.as_secs_f64().max(1e-6)) * self.correction()
    }

    /// By how much more there was in all by the target's clock than windows stand for: of work that comes in bursts some windows meet
    /// more than their part, and others nothing, while the clock goes on for most of the time (a ratio estimate).
    fn correction(&self) -> f64 {
        self.work.filter(|_| self.told > 0.0).map_or(1.0, |work| work / self.told)
    }

    /// A site's allocated and freed sums besides those recorded for good, with their uncertainty where they are estimates; nothing
    /// where there was no window. All windows together stand for one part in `scale` of the time.
    pub(crate) fn figures(&self, site: SiteIndex, scale: f64) -> Option<(Totals, Option<Uncertainty>)> {
        let known = self.sites.get(&site).filter(|_| self.windows > 0)?;
        if self.has_all {
            let SiteWindows { alloc, freed, .. } = known;
            return Some((Totals::new(alloc.bytes, alloc.objects, freed.bytes, freed.objects), None));
        }
        let (totals, mut uncertainty) = known.estimate.figures(self.windows, scale);
        let unseen = known.freed_unseen(self.followed, self.stood_for);
        uncertainty.fewer = [uncertainty.fewer[0] + unseen[0], uncertainty.fewer[1] + unseen[1]];
        Some((totals, Some(uncertainty)))
    }

    /// How sure the sums over all sites are in the time in which there are windows, of which none stands for `unjudged`, but for
    /// what was freed unseen of what is recorded for good. Nothing where all is known.
    pub(crate) fn of_process(&self, unjudged: Option<Duration>) -> Option<Uncertainty> {
        match self.windows {
            // No window has met it so far.
            0 => unjudged.map(|_| Uncertainty { met: Some([0.0; 2]), ..Uncertainty::default() }),
            _ if self.has_all => None,
            windows => Some(self.process.figures(windows, self.scale(unjudged)).1),
        }
    }
}

impl SiteWindows {
    fn judge(&mut self, site: &KernelSite) -> Cohort {
        let born = pair(site.window_alloc.since(self.alloc));
        let died = |until: Count| pair(until.since(self.freed));
        let alive = |died: Pair| [(born[0] - died[0]).max(0.0), (born[1] - died[1]).max(0.0)];
        // One that was opened since had no block half-way.
        let halfway = if self.halfway.objects < self.freed.objects { self.freed } else { self.halfway };
        let cohort = Cohort { born, halfway: alive(died(halfway)), survived: alive(died(site.window_freed)) };
        let freed_for_good = pair_of_weight(&site.freed());
        for (what, freed) in freed_for_good.iter().enumerate() {
            self.seen_freed_for_good[what] += (freed - self.freed_for_good[what]).max(0.0);
        }
        (self.alloc, self.freed, self.freed_for_good) = (site.window_alloc, site.window_freed, freed_for_good);
        cohort
    }

    /// How much of what is recorded for good was freed while nobody looked, if frees went on as while somebody did.
    fn freed_unseen(&self, followed: Duration, stood_for: Duration) -> Pair {
        let seen = followed.as_secs_f64() / stood_for.as_secs_f64().max(1e-9);
        self.seen_freed_for_good.map(|freed| freed * (1.0 / seen.max(1e-9) - 1.0).max(0.0))
    }
}

fn pair(count: Count) -> Pair {
    [count.bytes as f64, count.objects as f64]
}

fn pair_of_weight(weight: &Weight) -> Pair {
    [weight.bytes as f64, weight.objects as f64 / OBJECT as f64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stats::estimate::Intervals;

    const SITE: SiteIndex = SiteIndex(1);
    const WINDOW: Window = Window {
        weight: 10.0,
        doubt: 0.0,
        followed: Duration::from_millis(250),
        cycle: Duration::from_secs(1),
        own: 1.0,
        work: None,
        has_all: false,
    };

    fn site(born: u64, freed: u64, freed_for_good: u64) -> Vec<(SiteIndex, KernelSite)> {
        let count = |objects| Count { bytes: objects * 100, objects };
        let site = KernelSite {
            window_alloc: count(born),
            window_freed: count(freed),
            freed_older: Count { bytes: freed_for_good * 100, objects: freed_for_good * OBJECT },
            ..KernelSite::default()
        };
        vec![(SITE, site)]
    }

    #[test]
    fn windows_add_up_with_what_they_stand_for() {
        let mut estimates = WindowEstimates::default();
        estimates.begin(&site(0, 0, 5));
        estimates.note_halfway(&site(20, 5, 5));
        estimates.judge(&site(20, 8, 5), |_| WINDOW);
        estimates.judge(&site(30, 12, 5), |_| WINDOW);
        let (totals, _) = estimates.figures(SITE, 1.0).unwrap();
        assert_eq!(totals.alloc_objects, 300);
        assert!((120..=300).contains(&totals.freed_objects), "{totals:?}");
        assert!(estimates.figures(SiteIndex(2), 1.0).is_none());
    }

    #[test]
    fn a_site_that_appears_late_is_no_surer_than_one_that_was_there_with_nothing() {
        let late = |sites: &[(SiteIndex, KernelSite)]| {
            let mut estimates = WindowEstimates::default();
            for _ in 0..99 {
                estimates.judge(sites, |_| WINDOW);
            }
            estimates.judge(&site(20, 0, 0), |_| WINDOW);
            estimates.figures(SITE, 1.0).unwrap()
        };
        assert_eq!(late(&[]), late(&site(0, 0, 0)));
        let (totals, uncertainty) = late(&[]);
        // One window of a hundred has shown it: there may be none, or three times as many.
        assert!(uncertainty.unwrap().variances.alloc[1].sqrt() > 0.6 * totals.alloc_objects as f64, "{uncertainty:?}");
    }

    #[test]
    fn frees_that_nobody_saw_put_what_is_recorded_for_good_in_doubt() {
        let mut estimates = WindowEstimates::default();
        estimates.begin(&site(0, 0, 5));
        // Two in a quarter of the time: six more in the rest.
        estimates.judge(&site(0, 0, 7), |_| WINDOW);
        let (_, uncertainty) = estimates.figures(SITE, 1.0).unwrap();
        assert_eq!(uncertainty.unwrap().fewer, [600.0, 6.0]);
    }

    #[test]
    fn a_program_that_began_and_ended_in_a_window_is_exact() {
        let mut estimates = WindowEstimates::default();
        estimates.judge(&site(20, 8, 0), |_| Window { has_all: true, weight: 1.0, ..WINDOW });
        let (totals, uncertainty) = estimates.figures(SITE, estimates.scale(Some(Duration::from_secs(9)))).unwrap();
        assert_eq!(totals, Totals::new(2000, 20, 800, 8));
        assert_eq!((uncertainty, estimates.of_process(Some(Duration::from_secs(9)))), (None, None));
    }

    #[test]
    fn a_program_that_no_window_has_met_is_known_from_below_only() {
        let uncertainty = WindowEstimates::default().of_process(Some(Duration::ZERO)).unwrap();
        let interval = Intervals::of(&Totals::default(), &uncertainty).alloc_bytes;
        assert_eq!((interval.low, interval.high), (0, None));
        assert_eq!(WindowEstimates::default().of_process(None), None);
    }

    #[test]
    fn windows_stand_for_the_time_since_the_last_as_well_by_what_they_stand_for_of_the_program_itself() {
        let mut estimates = WindowEstimates::default();
        assert!((estimates.scale(Some(Duration::from_secs(9))) - 1.0).abs() < 1e-9);
        estimates.judge(&site(20, 8, 0), |_| WINDOW);
        assert!((estimates.scale(Some(Duration::from_secs(2))) - 3.0).abs() < 1e-9);
        assert!((estimates.scale(None) - 1.0).abs() < 1e-9);
    }
}
