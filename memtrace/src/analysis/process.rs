//! The report on one process, from its profile.

use std::collections::HashMap;

use memtrace_common::{
    ids::SiteIndex,
    thread::Requested,
    wire::counters::{Counter, CounterKind},
};

use super::{
    health::health,
    identity::site_id,
    merging::{MergedSite, merged},
    one_sided::one_sided,
    sites::judged,
    unexplained::{grown_most, unexplained_rss_bytes},
    view::View,
};
use crate::{
    model::{
        category::Category,
        code_place::{CodePlace, Symbols},
        figures::{BlockFigures, FigureKind, Figures, KernelFigures, PageFigures},
        finding::Finding,
        ledger::Ledger,
        overhead::{Hits, Overhead},
        report::{self, FreedAt, Process, Site},
        stats::{
            estimate::Uncertainty,
            trend::{Judgement, Trend},
        },
        tier::Tier,
        totals::Totals,
    },
    profile::{before_end::Together, subject::SubjectProfile, tracked_site::TrackedSite},
};

/// The report on a process.
pub(crate) fn report(profile: &SubjectProfile, view: &View<'_>, symbols: &dyn Symbols) -> Process {
    Analysis { profile, view, symbols }.report()
}

/// One process under analysis.
struct Analysis<'a> {
    profile: &'a SubjectProfile,
    view: &'a View<'a>,
    symbols: &'a dyn Symbols,
}

impl Analysis<'_> {
    fn report(&self) -> Process {
        let Self { profile, view, .. } = self;
        let memory = profile.memory.report();
        // That the kernel holds more by its own account says nothing of a single site.
        let resident = memory.as_ref().map(|memory| memory.judgement).unwrap_or_default();
        let memory = memory.or_else(|| profile.kernel_memory.report(None));
        let sites = self.merged_sites(&resident);
        let together = profile.past.together(view.now, profile.ended);
        let mut findings = Vec::new();
        let figures = match FigureKind::of(view.categories) {
            FigureKind::Pages => Figures::Pages(self.page_figures()),
            FigureKind::Kernel => Figures::Kernel(self.kernel_figures(&sites)),
            FigureKind::Blocks => {
                let figures = self.block_figures(&sites, together.as_ref());
                findings.extend(together.into_iter().flat_map(|together| self.findings(&figures, &together)));
                findings.extend(self.one_sided());
                Figures::Blocks(Box::new(figures))
            }
        };
        findings.extend(profile.at_exit.clone().map(Finding::AtExit));
        Process {
            subject: profile.subject.clone(),
            memory,
            figures,
            findings,
            health: health(&profile.counters, Counter::is_of_process),
            sites,
            ended: profile.ended,
            tier: self.tier(),
            chose_tier: view.is_adaptive,
            windows: profile.windows.count(),
        }
    }

    fn kernel_figures(&self, sites: &[Site]) -> KernelFigures {
        let SubjectProfile { allocators, live_bytes, .. } = self.profile;
        let totals = sites.iter().map(|site| &site.totals).sum();
        KernelFigures { allocators: allocators.clone(), totals, growth_bytes_per_s: live_bytes.slope_per_s() }
    }

    fn page_figures(&self) -> PageFigures {
        let SubjectProfile { resident_change: change, live_bytes, peak, .. } = self.profile;
        PageFigures { change: *change, growth_bytes_per_s: live_bytes.slope_per_s(), peak: *peak }
    }

    fn block_figures(&self, sites: &[Site], together: Option<&Together>) -> BlockFigures {
        let Self { profile, .. } = self;
        let (totals, uncertainty) = self.sums(sites);
        BlockFigures {
            allocators: profile.allocators.clone(),
            totals,
            uncertainty,
            growth_bytes_per_s: profile.live_bytes.slope_per_s(),
            peak: profile.peak,
            ledger: together.and_then(|together| self.ledger(together)),
            overhead: self.overhead(),
        }
    }

    /// The findings in resident memory beside live bytes.
    fn findings(&self, figures: &BlockFigures, together: &Together) -> Vec<Finding> {
        // Where live bytes are not known from above, they may explain all of it.
        let is_hardly_met = figures.uncertainty.is_some_and(|uncertainty| uncertainty.is_hardly_met());
        let unexplained = if is_hardly_met { None } else { self.unexplained_growth(together) };
        let before_end = self.profile.ended.then(|| Finding::BeforeEnd(together.report()));
        unexplained.into_iter().chain(before_end).collect()
    }

    fn unexplained_growth(&self, together: &Together) -> Option<Finding> {
        let history = &self.profile.memory.history;
        let (first, latest) = (history.first()?, history.latest()?);
        let goes_on = history.judge().trend == Trend::Increasing;
        let bytes = unexplained_rss_bytes(first.rss_bytes(), together.rss_bytes, together.live_bytes(), goes_on)?;
        let with_mappings = self.view.categories.contains(&Category::Mmap);
        Some(Finding::UnexplainedGrowth { bytes, kind: grown_most(&first, &latest), with_mappings })
    }

    fn one_sided(&self) -> Option<Finding> {
        let Self { profile, .. } = self;
        let points = profile.live_bytes.points();
        let traced = points.last()?.0.saturating_sub(points.first()?.0);
        let found = one_sided(&profile.allocators, &profile.sides, traced);
        (!found.is_empty()).then_some(Finding::OneSided(found))
    }

    /// The least exact tier that its figures rest on.
    fn tier(&self) -> Tier {
        self.profile.basis.tier.unwrap_or(self.view.tier)
    }

    /// The figures of the whole process. In the sampled tier, what it has allocated is counted all the same.
    fn sums(&self, sites: &[Site]) -> (Totals, Option<Uncertainty>) {
        let Self { view, .. } = self;
        let sites: Vec<&Site> = sites.iter().filter(|site| !site.category.is_pages()).collect();
        let sum: Totals = sites.iter().map(|site| &site.totals).sum();
        let of_samples = self.sum_of_uncertainties(|site| site.uncertainty);
        let Requested { bytes, objects, .. } = self.profile.requested;
        // Every request is counted, unless there were windows.
        let is_counted = !view.is_adaptive || matches!(self.tier(), Tier::Sampled { .. });
        if !is_counted {
            return (sum, self.uncertainty_with_windows(of_samples));
        }
        if objects == 0 || !view.categories.contains(&Category::Heap) {
            return (sum, None);
        }
        let mapped: Totals = sites.iter().filter(|site| site.category == Category::Mmap).map(|site| &site.totals).sum();
        let (bytes, objects) = (bytes + mapped.alloc_bytes, objects + mapped.alloc_objects);
        let (live_bytes, live_objects) = (sum.live_bytes().min(bytes), sum.live_objects().min(objects));
        let totals = Totals::new(bytes, objects, bytes - live_bytes, objects - live_objects);
        (totals, Some(Uncertainty { alloc_is_exact: true, ..of_samples.unwrap_or_default() }))
    }

    fn sum_of_uncertainties(&self, of: impl Fn(&TrackedSite) -> Option<Uncertainty>) -> Option<Uncertainty> {
        self.profile.sites.values().filter_map(of).reduce(|a, b| a.plus(&b))
    }

    /// Sites that allocate in the same windows do not scatter independently: the process has windows of its own.
    fn uncertainty_with_windows(&self, of_samples: Option<Uncertainty>) -> Option<Uncertainty> {
        let Some(of_windows) = self.profile.windows.of_process(self.profile.basis.unjudged) else { return of_samples };
        let by_site = self.sum_of_uncertainties(|site| site.of_windows).unwrap_or_default();
        let of_windows = Uncertainty { fewer: by_site.fewer, more: by_site.more, ..of_windows };
        Some(of_samples.map_or(of_windows, |of_samples| of_samples.plus(&of_windows)))
    }

    /// The cost of tracing to the target.
    fn overhead(&self) -> Option<Overhead> {
        let Self { profile, view, .. } = self;
        let (cpu, trap) = (profile.cpu.time(profile.ended)?, view.trap?);
        let hits = if view.is_adaptive { Hits::of(&self.profile.requested) } else { self.hits_by_figures() };
        Some(Overhead::of(hits, trap, cpu))
    }

    /// How often it was held up: allocations and frees as they were counted or, where most frees are passed over, as many as
    /// what is not live any more.
    fn hits_by_figures(&self) -> Hits {
        let heap = self.profile.totals_of(Category::Heap);
        let Requested { objects, returns, rets, .. } = self.profile.requested;
        if objects == 0 {
            let frees = heap.freed_objects + self.profile.count(Counter::UnmatchedFrees);
            let at_rets = heap.alloc_objects.min(rets);
            return Hits { calls: heap.alloc_objects - at_rets, entries: at_rets + frees, rets };
        }
        let frees = objects.saturating_sub(heap.live_objects());
        Hits { calls: returns, entries: objects.saturating_sub(returns) + frees, rets }
    }

    /// At which stacks blocks of these sites were freed, most first.
    fn freed_at(&self, sites: &[SiteIndex]) -> Vec<FreedAt> {
        let mut sides: HashMap<&[CodePlace], u64> = HashMap::new();
        for (side, count) in self.profile.free_sites.iter().filter(|(side, _)| sites.contains(&side.site)) {
            let Some(stack) = self.profile.stacks.get(&side.stack) else { continue };
            *sides.entry(&stack.places).or_default() += count;
        }
        let freed_at = |(places, samples): (&[CodePlace], u64)| FreedAt {
            samples,
            stack: places.iter().map(|place| self.symbols.frames(*place)).collect(),
        };
        let mut sides: Vec<(&[CodePlace], u64)> = sides.into_iter().collect();
        sides.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
        sides.into_iter().map(freed_at).collect()
    }

    fn ledger(&self, together: &Together) -> Option<Ledger> {
        let lost = Counter::ALL.iter().filter(|counter| counter.kind() == CounterKind::Loss);
        Some(Ledger {
            rss_at_attach_bytes: self.profile.memory.history.first()?.rss_bytes(),
            rss_bytes: together.rss_bytes,
            live_heap_bytes: together.heap.live_bytes(),
            live_mmap_bytes: together.mapped.live_bytes(),
            lost_events: lost.map(|counter| self.profile.count(*counter)).sum(),
            unmatched_frees: self.profile.count(Counter::UnmatchedFrees),
        })
    }

    /// Whether a frame of a site's stack rests on inferred rows, or on frame pointers.
    fn is_inferred(&self, site: &TrackedSite) -> bool {
        self.profile.stacks.get(&site.stack).is_some_and(|stack| stack.is_inferred)
    }

    /// The sites, those of the same places taken together, in the order of reports.
    fn merged_sites(&self, resident: &Judgement) -> Vec<Site> {
        let judged = judged(self.profile, self.view.now, resident);
        let site = |MergedSite { places: folded, truncation, category, parts, stacks }: MergedSite<'_>| {
            let (indices, parts): (Vec<SiteIndex>, Vec<&TrackedSite>) = parts.into_iter().unzip();
            // A single stack is told as it is.
            let places = if let [one] = Vec::from_iter(&stacks)[..] { one } else { &*folded };
            Site {
                id: site_id(&folded, category, self.view.identities),
                stacks: stacks.len(),
                truncation,
                inferred: parts.iter().any(|part| self.is_inferred(part)),
                stack: places.iter().map(|place| self.symbols.frames(*place)).collect(),
                freed_at: self.freed_at(&indices),
                ..judged(category, &parts)
            }
        };
        let mut sites: Vec<Site> = merged(self.profile, self.view.categories).into_iter().map(site).collect();
        report::sort(&mut sites);
        sites
    }
}
