//! What the windows of a run have shown of one target.

use std::{collections::HashMap, time::Duration};

use memtrace_common::{
    sampling::{OBJECT, Weight},
    site::{Count, Site as KernelSite, SiteIndex},
};

use crate::model::{
    estimate::{Pair, Uncertainty},
    report::Totals,
    windows::{Cohort, Estimate, Window},
};

/// One site.
#[derive(Default)]
struct SiteWindows {
    /// The kernel side's sums when the last window was judged.
    alloc: Count,
    freed: Count,
    /// What of the present window's blocks had been freed half-way.
    halfway: Count,
    /// What was freed for good, as of the last reading, and how much of it while windows' blocks were followed.
    freed_for_good: Pair,
    seen_freed_for_good: Pair,
    estimate: Estimate,
}

/// What the windows have shown.
#[derive(Default)]
pub(super) struct WindowBook {
    sites: HashMap<SiteIndex, SiteWindows>,
    /// Of a site that has shown nothing so far.
    nothing: Estimate,
    /// Of all sites together: those that allocate in the same window are not independent.
    process: Estimate,
    windows: u32,
    followed: Duration,
    stood_for: Duration,
}

impl WindowBook {
    /// Whether there was no window.
    pub(super) fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// Windows begin, or begin again: what was freed until now was not freed in one.
    pub(super) fn begin(&mut self, sites: &[(SiteIndex, KernelSite)]) {
        for (index, site) in sites {
            self.site(*index).freed_for_good = pair_of_weight(&site.freed());
        }
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(super) fn note_halfway(&mut self, sites: &[(SiteIndex, KernelSite)]) {
        for (index, site) in sites {
            self.site(*index).halfway = site.window_freed;
        }
    }

    /// All of the time is over; `window` makes the window of what became of all its blocks.
    pub(super) fn judge(&mut self, sites: &[(SiteIndex, KernelSite)], window: impl FnOnce(&Cohort) -> Window) {
        let mut of_process = Cohort::default();
        let mut cohorts: HashMap<SiteIndex, Cohort> = HashMap::with_capacity(sites.len());
        for (index, site) in sites {
            let cohort = self.site(*index).judge(site);
            of_process = of_process.plus(&cohort);
            cohorts.insert(*index, cohort);
        }
        let (window, is_first) = (window(&of_process), self.windows == 0);
        for (index, known) in &mut self.sites {
            known.estimate.add(&window, &cohorts.get(index).copied().unwrap_or_default(), is_first);
        }
        self.process.add(&window, &of_process, is_first);
        self.nothing.add(&window, &Cohort::default(), is_first);
        self.windows += 1;
        self.followed += window.followed;
        self.stood_for += window.cycle;
    }

    /// A site; one that appears now has shown nothing in all windows before.
    fn site(&mut self, index: SiteIndex) -> &mut SiteWindows {
        let nothing = self.nothing;
        self.sites.entry(index).or_insert_with(|| SiteWindows { estimate: nothing, ..SiteWindows::default() })
    }

    /// What a site has allocated and freed besides what is recorded for good, and how sure it is; nothing where there was
    /// no window. All windows together stand for one part in `scale` of the time.
    pub(super) fn figures(&self, site: SiteIndex, scale: f64) -> Option<(Totals, Uncertainty)> {
        let known = self.sites.get(&site).filter(|_| self.windows > 0)?;
        let (totals, mut uncertainty) = known.estimate.figures(self.windows, scale);
        let unseen = known.freed_unseen(self.followed, self.stood_for);
        uncertainty.fewer = [uncertainty.fewer[0] + unseen[0], uncertainty.fewer[1] + unseen[1]];
        Some((totals, uncertainty))
    }

    /// How sure the sums over all sites are, but for what was freed unseen of what is recorded for good.
    pub(super) fn of_process(&self, scale: f64) -> Option<Uncertainty> {
        (self.windows > 0).then(|| self.process.figures(self.windows, scale).1)
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

    const SITE: SiteIndex = SiteIndex(1);
    const WINDOW: Window = Window {
        weight: 10.0,
        doubt: 0.0,
        followed: Duration::from_millis(250),
        cycle: Duration::from_secs(1),
        own: 1.0,
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
        let mut book = WindowBook::default();
        book.begin(&site(0, 0, 5));
        book.note_halfway(&site(20, 5, 5));
        book.judge(&site(20, 8, 5), |_| WINDOW);
        book.judge(&site(30, 12, 5), |_| WINDOW);
        let (totals, _) = book.figures(SITE, 1.0).unwrap();
        assert_eq!(totals.alloc_objects, 300);
        assert!((120..=300).contains(&totals.freed_objects), "{totals:?}");
        assert!(book.figures(SiteIndex(2), 1.0).is_none());
    }

    #[test]
    fn a_site_that_appears_late_is_no_surer_than_one_that_was_there_with_nothing() {
        let late = |sites: &[(SiteIndex, KernelSite)]| {
            let mut book = WindowBook::default();
            for _ in 0..99 {
                book.judge(sites, |_| WINDOW);
            }
            book.judge(&site(20, 0, 0), |_| WINDOW);
            book.figures(SITE, 1.0).unwrap()
        };
        assert_eq!(late(&[]), late(&site(0, 0, 0)));
        let (totals, uncertainty) = late(&[]);
        // One window of a hundred has shown it: there may be none, or three times as many.
        assert!(uncertainty.variances.alloc[1].sqrt() > 0.6 * totals.alloc_objects as f64, "{uncertainty:?}");
    }

    #[test]
    fn frees_that_nobody_saw_put_what_is_recorded_for_good_in_doubt() {
        let mut book = WindowBook::default();
        book.begin(&site(0, 0, 5));
        // Two in a quarter of the time: six more in the rest.
        book.judge(&site(0, 0, 7), |_| WINDOW);
        let (_, uncertainty) = book.figures(SITE, 1.0).unwrap();
        assert_eq!(uncertainty.fewer, [600.0, 6.0]);
    }
}
