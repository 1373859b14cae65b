//! The knowledge from before a target's program freed on its way out: of a site, for its verdict, and of the process, so that
//! resident memory and live bytes are told of the same moment.

use std::{collections::HashMap, time::Duration};

use memtrace_common::{control::VERDICTS_FROM_MS, site::SiteIndex};

use super::tracked_site::{self, TrackedSite};
use crate::model::{
    estimate::{Intervals, Uncertainty},
    growth::{self, History, SiteHistory},
    memory::{MemoryHistory, Usage},
    report::{Category, Site, Totals},
    survival::Survival,
    teardown::{self, BeforeEnd, Descent, Height},
    units,
    verdict::{Evidence, Judgement, LONG_ENOUGH, Surroundings, Verdict, judge},
};

// The kernel side tells of ends as soon as anything is said of growth.
const _: () = assert!(LONG_ENOUGH.as_millis() == VERDICTS_FROM_MS as u128);

/// A site at a reading.
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
    /// The process's doings up to a moment.
    pub(super) surroundings: &'a dyn Fn(Duration) -> Surroundings,
}

/// The past of a target, as far as it is wanted as of an earlier moment.
#[derive(Default)]
pub(super) struct Past {
    /// When the program said that it ends, if it has.
    said: Option<Duration>,
    last_read: Duration,
    unmatched_frees: History<u64>,
    together: Option<Together>,
    /// The reading before the process's live bytes fell last.
    descent: Descent<Together>,
}

/// Resident memory and live bytes, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Together {
    at: Duration,
    pub(super) rss_bytes: u64,
    /// From allocators' functions.
    pub(super) heap: Totals,
    /// Mapped by the program itself.
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
    pub(super) fn read(
        &mut self,
        at: Duration,
        unmatched_frees: u64,
        usage: Option<&Usage>,
        sites: &HashMap<SiteIndex, TrackedSite>,
    ) {
        self.last_read = at;
        self.unmatched_frees.push(at, unmatched_frees);
        let Some(usage) = usage else { return };
        let sum = |category| {
            let of_category = sites.values().filter(|site| site.category == category);
            of_category.fold(Totals::default(), |sum, site| sum.plus(&site.totals))
        };
        let (heap, mapped) = (sum(Category::Heap), sum(Category::Mmap));
        let together = Together { at, rss_bytes: usage.rss_bytes(), heap, mapped };
        self.together = Some(together);
        let leaves = self.leaves(at);
        self.descent.push(at, together.live_bytes(), leaves, || together);
    }

    /// The last reading of resident memory and live bytes at one moment; as of before the program freed most on its way out, if
    /// it has. Nothing where it was never read.
    pub(super) fn together(&self, now: Duration, ended: bool) -> Option<Together> {
        let latest = self.together?;
        let before =
            self.way_out(now, ended).and_then(|since| self.descent.before_end(since)).map(|height| height.known);
        let freed = before.filter(|before| teardown::has_freed_most(before.live_bytes(), latest.live_bytes()));
        Some(freed.unwrap_or(latest))
    }

    /// How many blocks from before attach were freed a second, up to `end`.
    pub(super) fn unmatched_frees_per_s(&self, end: Duration) -> f64 {
        self.unmatched_frees.until(end).last().map_or(0.0, |(at, count)| *count as f64 / at.as_secs_f64().max(1.0))
    }

    /// The process's doings up to `end`.
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

    /// As a report tells it of a process that has ended.
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

#[cfg(test)]
mod tests {
    use memtrace_common::stack::StackId;

    use super::*;

    const POOL: u64 = 64 << 10;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    /// A site with so many pools live at each second.
    fn site(pools: &[u64]) -> TrackedSite {
        let mut site = TrackedSite::new(StackId(1), Category::Mmap);
        let most = pools.iter().max().unwrap();
        for (second, live) in (1..).zip(pools) {
            site.totals = Totals::new(most * POOL, *most, (most - live) * POOL, most - live);
            site.live_bytes.push(at(second), live * POOL);
            site.follow_descent(at(second), false);
        }
        site
    }

    fn judged_at(parts: &[&TrackedSite], now: u64, is_ending: bool) -> Site {
        let surroundings = |_| Surroundings::default();
        let way_out = WayOut { since: at(now), surroundings: &surroundings };
        tracked_site::merged(Category::Mmap, parts, at(now), &Surroundings::default(), is_ending.then_some(&way_out))
    }

    fn growing_until(end: u64) -> Vec<u64> {
        (1..=end).collect()
    }

    #[test]
    fn a_site_is_judged_as_of_before_its_program_freed_it() {
        let mut pools = growing_until(40);
        let grown = judged_at(&[&site(&pools)], 40, true);
        pools.extend([0, 0]);
        let freed = judged_at(&[&site(&pools)], 42, true);
        assert_eq!((grown.judgement.verdict, grown.before_end), (Verdict::LeakSuspect, None));
        assert_eq!(freed.judgement.verdict, Verdict::LeakSuspect);
        assert_eq!(freed.judgement.reason, format!("{}; then 2.50 MiB were freed at the end", grown.judgement.reason));
        let held = BeforeEnd { at: at(40), live_bytes: 40 * POOL, live_objects: 40, rss_bytes: None };
        assert_eq!((freed.before_end, freed.held_bytes()), (Some(held), 40 * POOL));
        // Counted figures stay.
        assert_eq!((freed.totals.live_bytes(), freed.totals.freed_objects), (0, 40));
        assert!((freed.growth_bytes_per_s - POOL as f64).abs() < 1.0, "{}", freed.growth_bytes_per_s);
    }

    #[test]
    fn while_nothing_ends_a_fall_is_ordinary() {
        let mut pools = growing_until(40);
        pools.push(0);
        let site = judged_at(&[&site(&pools)], 41, false);
        assert_eq!((site.judgement.verdict, site.before_end), (Verdict::Stable, None));
    }

    #[test]
    fn what_had_stopped_growing_or_grew_shortly_is_left_alone() {
        let mut filled = growing_until(15);
        filled.extend([15; 30]);
        filled.push(0);
        let mut shortly = growing_until(20);
        shortly.push(0);
        for pools in [filled, shortly] {
            let site = judged_at(&[&site(&pools)], pools.len() as u64, true);
            assert_eq!((site.judgement.verdict, site.before_end), (Verdict::Stable, None), "{pools:?}");
        }
    }

    #[test]
    fn sites_that_are_one_are_judged_together() {
        let mut freed = growing_until(40);
        freed.push(0);
        let kept: Vec<u64> = vec![3; 41];
        let together = judged_at(&[&site(&freed), &site(&kept)], 41, true);
        assert_eq!(together.judgement.verdict, Verdict::LeakSuspect);
        assert_eq!(together.before_end.map(|before| before.live_objects), Some(43));
        // Where most of it stays, it is judged as it is.
        let mostly_kept = judged_at(&[&site(&freed), &site(&[100; 41])], 41, true);
        assert_eq!(mostly_kept.before_end, None);
    }

    #[test]
    fn resident_memory_and_live_bytes_are_of_one_moment() {
        let mut past = Past::default();
        let mut sites = HashMap::from([(SiteIndex(1), TrackedSite::new(StackId(1), Category::Heap))]);
        let mut read = |past: &mut Past, second: u64, live: u64, rss: Option<u64>| {
            sites.get_mut(&SiteIndex(1)).unwrap().totals = Totals::new(live, 1, 0, 0);
            let usage = rss.map(|bytes| Usage { anon_bytes: bytes, ..Usage::default() });
            past.read(at(second), 7 * second, usage.as_ref(), &sites);
        };
        let told = |past: &Past, ended| past.together(at(50), ended).map(|of| (of.rss_bytes, of.live_bytes()));
        assert_eq!(told(&past, true), None);
        read(&mut past, 1, 1 << 20, Some(2 << 20));
        read(&mut past, 2, 3 << 20, Some(4 << 20));
        // It has freed, which resident memory need not show.
        read(&mut past, 3, 1000, Some(4 << 20));
        assert_eq!(told(&past, false), Some((4 << 20, 1000)));
        read(&mut past, 4, 0, None);
        assert_eq!(told(&past, true), Some((4 << 20, 3 << 20)));
        assert!((past.unmatched_frees_per_s(at(2)) - 7.0).abs() < 1e-9);
    }
}
