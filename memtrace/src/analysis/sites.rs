//! The sites of a report, each made of all that allocate at the same places, with their judgement.

use std::time::Duration;

use super::{
    at_exit,
    before_end::{self, WayOut},
    identity::site_id,
    merging::{MergedSite, merged},
    verdict::{Evidence, ProcessContext, judge, judge_growth, of_hardly_met, touched},
    view::View,
};
use crate::{
    model::{
        category::Category,
        frame::Stack,
        report::Site,
        sizes::SizeHistogram,
        stats::{
            estimate::Intervals,
            history::{self, SiteHistory},
            trend,
        },
        survival::Survival,
        totals::Totals,
        verdict::{LONG_ENOUGH, Verdict},
    },
    profile::{left_blocks::LeftBlocks, subject::SubjectProfile, tracked_site::TrackedSite},
};

/// Makes a site of those of the same places, but for these; with its judgement. `resident` is what is thought of the process's
/// resident memory.
pub(super) fn judged(
    profile: &SubjectProfile,
    now: Duration,
    resident: &trend::Judgement,
) -> impl Fn(Category, &[&TrackedSite]) -> Site {
    let read_until = profile.ended_at().unwrap_or(now);
    let unmatched_frees_per_s = profile.past.unmatched_frees_per_s(read_until);
    let context = ProcessContext::new(profile.live_bytes.slope_per_s(), resident, unmatched_frees_per_s);
    let since = profile.past.way_out(now, profile.ended);
    move |category, parts| {
        let context_until = |end| context_until(profile, end);
        let way_out = since.map(|since| WayOut { since, context: &context_until });
        merged_site(category, parts, now, &context, way_out.as_ref())
    }
}

/// The process's doings up to `end`.
fn context_until(profile: &SubjectProfile, end: Duration) -> ProcessContext {
    let resident = profile.memory.history.judge_until(end);
    let unmatched_frees_per_s = profile.past.unmatched_frees_per_s(end);
    ProcessContext::new(profile.live_bytes.slope_per_s_until(end), &resident, unmatched_frees_per_s)
}

/// The leak suspects of a process that has ended, by the ids that their sites have in reports.
pub(crate) fn suspects(profile: &SubjectProfile, view: &View<'_>) -> Vec<u64> {
    let has_lost = |site: &TrackedSite| site.left.is_some_and(|left| left.unreachable.objects > 0);
    if view.now < LONG_ENOUGH && !profile.sites.values().any(has_lost) {
        return Vec::new();
    }
    let resident = profile.memory.report().map(|memory| memory.judgement).unwrap_or_default();
    let judged = judged(profile, view.now, &resident);
    let is_suspect = |site: &MergedSite<'_>| {
        let parts: Vec<&TrackedSite> = site.parts.iter().map(|(_, part)| *part).collect();
        judged(site.category, &parts).judgement.verdict == Verdict::LeakSuspect
    };
    let suspects = merged(profile, view.categories).into_iter().filter(is_suspect);
    suspects.map(|site| site_id(&site.places, site.category, view.identities)).collect()
}

/// The site that is made of all that allocate at the same places, but for these places; with a `way_out`, of a program that
/// ends.
pub(crate) fn merged_site(
    category: Category,
    parts: &[&TrackedSite],
    now: Duration,
    context: &ProcessContext,
    way_out: Option<&WayOut<'_>>,
) -> Site {
    let totals: Totals = parts.iter().map(|part| &part.totals).sum();
    let uncertainties = parts.iter().flat_map(|part| [part.uncertainty, part.of_windows]);
    let survival = Survival::sum_of_all(parts.iter().map(|part| part.survival));
    let series = |of: fn(&TrackedSite) -> &SiteHistory| {
        history::sum(&parts.iter().map(|part| of(part).points()).collect::<Vec<_>>())
    };
    let uncertainty = uncertainties.flatten().reduce(|sum, more| sum.plus(&more));
    let evidence = Evidence {
        now,
        live: &series(|part| &part.live_bytes),
        aged: &if survival.is_some() { series(|part| &part.aged_bytes) } else { Vec::new() },
        totals,
        live_bytes_low: uncertainty.map(|uncertainty| Intervals::of(&totals, &uncertainty).live_bytes.low),
        survival: survival.as_ref(),
        process: context,
    };
    let oldest = parts.iter().filter_map(|part| part.oldest_born_ms).min();
    let left: Option<Vec<LeftBlocks>> = parts.iter().map(|part| part.left).collect();
    let left = left.and_then(|known| known.into_iter().reduce(|sum, more| sum.plus(&more)));
    let by_growth = match category {
        Category::Pages(_) => touched::judge(&evidence),
        Category::Kernel(_) => judge_growth(&evidence),
        Category::Heap | Category::Mmap => judge(&evidence),
    };
    let by_growth = of_hardly_met(by_growth, uncertainty.as_ref());
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
        truncation: None,
        inferred: false,
        stack: Stack::default(),
        stacks: 1,
    };
    // That something is lost is told first, whatever else was freed.
    let is_lost = left.is_some_and(|left| left.unreachable.objects > 0);
    let site = match way_out.filter(|_| !is_lost) {
        Some(way_out) => before_end::judged(site, parts, way_out),
        None => site,
    };
    match left {
        Some(LeftBlocks { live, unreachable }) => {
            Site { judgement: at_exit::judge(site.judgement, live, unreachable), ..site }
        }
        None => site,
    }
}
