//! The judgement on sites whose program freed them on its way out: as of before that.

use std::time::Duration;

use super::verdict::{Evidence, ProcessContext, judge, of_hardly_met};
use crate::{
    model::{
        report::Site,
        stats::{
            estimate::Intervals,
            history::{self, SiteHistory},
            teardown::{self, BeforeEnd, Height},
        },
        survival::Survival,
        totals::Totals,
        verdict::{Judgement, LONG_ENOUGH, Verdict},
        verdict_reason::VerdictReason,
    },
    profile::{before_end::Known, tracked_site::TrackedSite},
};

/// A program's way out.
pub(crate) struct WayOut<'a> {
    /// When it began.
    pub(crate) since: Duration,
    /// The process's doings up to a moment.
    pub(crate) context: &'a dyn Fn(Duration) -> ProcessContext,
}

/// A site that grew until its program freed it on its way out is judged as of before that; any other stays as it is.
pub(crate) fn judged(site: Site, parts: &[&TrackedSite], way_out: &WayOut<'_>) -> Site {
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
    let totals: Totals = known.iter().map(|known| &known.totals).sum();
    if !teardown::has_freed_most(totals.live_bytes(), site.totals.live_bytes()) {
        return site;
    }
    let series = |of: fn(&TrackedSite) -> &SiteHistory| {
        history::sum(&parts.iter().zip(&until).map(|(part, until)| of(part).until(*until)).collect::<Vec<_>>())
    };
    let survival = Survival::sum_of_all(known.iter().map(|known| known.survival));
    let uncertainty = known.iter().filter_map(|known| known.uncertainty).reduce(|sum, more| sum.plus(&more));
    let judgement = judge(&Evidence {
        now: at,
        live: &series(|part| &part.live_bytes),
        aged: &if survival.is_some() { series(|part| &part.aged_bytes) } else { Vec::new() },
        totals,
        live_bytes_low: uncertainty.map(|uncertainty| Intervals::of(&totals, &uncertainty).live_bytes.low),
        survival: survival.as_ref(),
        process: &(way_out.context)(at),
    });
    let judgement = of_hardly_met(judgement, uncertainty.as_ref());
    if !matches!(judgement.verdict, Verdict::LeakSuspect | Verdict::Growing) {
        return site;
    }
    let freed_bytes = totals.live_bytes() - site.totals.live_bytes();
    let reason = VerdictReason::FreedAtEnd { before: Box::new(judgement.reason), freed_bytes };
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
    use super::*;
    use crate::{analysis::sites::merged_site, model::category::Category};
    use memtrace_common::ids::StackId;

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
        let context = |_| ProcessContext::default();
        let way_out = WayOut { since: at(now), context: &context };
        merged_site(Category::Mmap, parts, at(now), &ProcessContext::default(), is_ending.then_some(&way_out))
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
        let before = Box::new(grown.judgement.reason);
        assert_eq!(freed.judgement.reason, VerdictReason::FreedAtEnd { before, freed_bytes: 40 * POOL });
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
}
