//! The profile of one target: what the kernel side counted, with its history, and the report made of it.

use std::{collections::HashMap, time::Duration};

use memtrace_common::{
    free_side::FreeSide,
    pages::{PAGE_BYTES, Resident},
    process::{Counter, CounterKind, Process as KernelProcess},
    sampling::{BYTES_VARIANCE, OBJECT, OBJECTS_VARIANCE, Weight},
    site::{Category as KernelCategory, Site as KernelSite, SiteIndex},
    stack::{StackId, mix},
    thread::Requested,
};

use super::{
    at_exit::Left,
    before_end::{Past, Together, WayOut},
    cpu_book::CpuBook,
    generation_book::ObjectUnit,
    memory_book::MemoryBook,
    targets::Beginning,
    tracked_site::{self, Parts, TrackedSite},
    vm_book::VmBook,
    window_book::WindowBook,
};
use crate::{
    capture::{
        images::Images,
        kernel::{Kernel, KernelError},
        target::Target,
    },
    model::{
        estimate::{Uncertainty, Variances},
        frame::{ImageName, Reason},
        growth::History,
        ledger::Ledger,
        overhead::{Hits, Overhead, TrapCost},
        report::{self, Category, FreedAt, HealthCounter, HealthKind, PageKind, Peak, Process, Site, Totals},
        resident_change::ResidentChange,
        survival::Amount,
        trend::Judgement,
        unexplained::unexplained_rss_bytes,
        verdict::Surroundings,
        windows::{Cohort, Fit, Window},
    },
    process::{memory, status},
    symbolize::{CodePlace, Symbolizer},
};

mod left;

/// A stack that was made independent of its process.
struct PlacedStack {
    places: Vec<CodePlace>,
    complete: bool,
    /// Whether the mappings that it was looked up in may have been too old.
    tentative: bool,
}

/// What the kernel side has counted of a target.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) sites: Vec<(SiteIndex, KernelSite)>,
    /// Nothing where every allocation is recorded, and nothing else ever will be.
    pub(super) requested: Requested,
    /// Where blocks of its sites were freed, of those that were asked for.
    pub(super) free_sides: Vec<(FreeSide, u64)>,
}

/// When a reading is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// After the start.
    pub(super) elapsed: Duration,
    /// The generation of the blocks that were allocated last ([`Generation`]).
    pub(super) generation: u32,
    /// That of the blocks that will be allocated from now on.
    pub(super) next: u32,
}

/// What a reading of any target needs.
pub(super) struct Reading<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) images: &'a Images,
    pub(super) time: Time,
    /// All windows together stand for one part in so many of the time in which there were any.
    pub(super) scale: f64,
    /// Whether nothing but pages is looked at: sums are of those then.
    pub(super) is_of_pages: bool,
}

/// What the reports of all targets have in common.
pub(super) struct View<'a> {
    /// What they are of.
    pub(super) categories: &'a [Category],
    pub(super) images: &'a Images,
    /// After the start.
    pub(super) now: Duration,
    /// What a probe costs, where that is known.
    pub(super) trap: Option<TrapCost>,
    /// Whether what is recorded may change.
    pub(super) is_adaptive: bool,
    /// As [`Reading::scale`].
    pub(super) scale: f64,
}

/// At how many sites of a process the frees are looked at.
const FOLLOWED_FREES: usize = 32;

/// What is known of a target so far.
#[derive(Default)]
pub(super) struct Profile {
    stacks: HashMap<StackId, PlacedStack>,
    has_tentative: bool,
    sites: HashMap<SiteIndex, TrackedSite>,
    free_sides: Vec<(FreeSide, u64)>,
    peak: Option<Peak>,
    /// Its live bytes; where nothing but pages is traced, how much more is resident than at first.
    live_bytes: History<i64>,
    memory: MemoryBook,
    past: Past,
    counters: KernelProcess,
    requested: Requested,
    /// How its resident memory has changed, where that is told.
    resident_change: ResidentChange,
    windows: WindowBook,
    cpu: CpuBook,
}

impl View<'_> {
    /// As [`Reading::is_of_pages`].
    fn is_of_pages(&self) -> bool {
        are_pages(self.categories)
    }
}

/// Whether these are pages alone.
pub(super) fn are_pages(categories: &[Category]) -> bool {
    categories.iter().all(|category| category.is_pages())
}

impl Profile {
    /// Nothing is known yet of a program that has begun then.
    pub(super) fn beginning(beginning: Beginning) -> Self {
        Self { cpu: CpuBook::beginning(beginning), ..Self::default() }
    }

    pub(super) fn site_count(&self) -> usize {
        self.sites.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Whether the target has called a hooked function.
    pub(super) fn is_active(&self) -> bool {
        !self.is_empty() || self.count(Counter::UnmatchedFrees) > 0
    }

    /// Whether some stack left the code that is known: the mappings may be out of date.
    pub(super) fn has_tentative_stacks(&self) -> bool {
        self.has_tentative
    }

    /// How often something happened, as of the last reading.
    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.counters.counters[counter as usize]
    }

    /// Of all sites but those of pages, which hold what others count as well; of resident memory where nothing else is traced.
    pub(super) fn totals(&self, is_of_pages: bool) -> Totals {
        if is_of_pages {
            return self.resident_change.totals();
        }
        let counted = self.sites.values().filter(|site| !site.category.is_pages());
        counted.fold(Totals::default(), |sum, site| sum.plus(&site.totals))
    }

    /// How resident memory has changed, by what the kernel side remembers of it: sites lack what others than the process
    /// have made resident. Copies change nothing of it; only sites have them.
    fn change_of(&self, resident: &Resident) -> ResidentChange {
        let pages = |bytes: u64| Amount { bytes, objects: bytes / PAGE_BYTES };
        let copies = self.sites.values().filter(|site| site.category == Category::Pages(PageKind::Copied));
        ResidentChange {
            became_resident: pages(resident.grown_bytes),
            given_back: pages(resident.shrunk_bytes),
            copied: pages(copies.map(|site| site.totals.alloc_bytes).sum()),
        }
    }

    /// Takes in what was `counted` by now, `elapsed` after the start; `mapped` is what the target has mapped by itself.
    pub(super) fn read(
        &mut self,
        counted: &Counted,
        mapped: Option<&VmBook>,
        target: &Target,
        reading: &Reading<'_>,
    ) -> Result<(), KernelError> {
        let Reading { kernel, images, time, scale, is_of_pages } = reading;
        let (elapsed, scale) = (time.elapsed, *scale);
        let leaves = self.past.leaves(elapsed);
        self.has_tentative = false;
        let fit = self.fit_of_windows(counted, scale);
        for (id, site) in &counted.sites {
            let category = category(site);
            let (totals, uncertainty) = match category {
                Category::Mmap => (mapped.map(|book| book.totals(*id)).unwrap_or_default(), None),
                // Which of them are given back nobody tells; of all together it is known.
                Category::Pages(_) => (Totals::new(site.alloc().bytes, site.alloc().objects, 0, 0), None),
                Category::Heap | Category::Kernel(_) => figures(site, kernel),
            };
            let of_windows = (category == Category::Heap).then(|| self.windows.figures(*id, scale)).flatten();
            let fitted = of_windows.map(|(totals, uncertainty)| fit.apply(&totals, &uncertainty));
            let (of_windows, uncertainty_of_windows) = fitted.unzip();
            let totals = totals.plus(&of_windows.unwrap_or_default());
            // It was opened, and nothing has come of it yet.
            if totals.alloc_objects == 0 {
                continue;
            }
            self.place(kernel, target, images, site.stack)?;
            let live = totals.live_bytes();
            let tracked = self.sites.entry(*id).or_insert_with(|| TrackedSite::new(site.stack, category));
            (tracked.totals, tracked.uncertainty) = (totals, uncertainty);
            tracked.of_windows = uncertainty_of_windows;
            tracked.live_bytes.push(elapsed, live);
            if category == Category::Heap && self.windows.is_empty() {
                tracked.read_generations(site, time, ObjectUnit::of(kernel.sample_bytes().is_some()));
            } else {
                tracked.survival = None;
            }
            tracked.follow_descent(elapsed, leaves);
        }
        for (side, _) in &counted.free_sides {
            self.place(kernel, target, images, side.stack)?;
        }
        self.free_sides.clone_from(&counted.free_sides);
        if let Some(resident) = kernel.resident(target.slot)? {
            self.resident_change = self.change_of(&resident);
        }
        let live_bytes = self.totals(*is_of_pages).live_bytes();
        let more = if *is_of_pages { self.resident_change.bytes() } else { live_bytes.cast_signed() };
        self.live_bytes.push(elapsed, more);
        self.note_peak(elapsed, live_bytes);
        let usage = memory::usage(target.pid.get());
        if let Some(usage) = usage {
            self.memory.note(target.pid.get(), usage, elapsed, kernel.tables_bytes());
        }
        self.cpu.note(status::cpu_time(target.pid.get()), kernel.cpu_time_at_end(target.slot));
        self.counters = kernel.process(target.slot)?;
        self.counters.counters[Counter::MissedFrees as usize] += mapped.map_or(0, VmBook::missed_frees);
        self.requested = counted.requested;
        self.past.read(elapsed, self.count(Counter::UnmatchedFrees), usage.as_ref(), &self.sites);
        Ok(())
    }

    /// So that windows take no more for live than the process has memory of its own.
    fn fit_of_windows(&self, counted: &Counted, scale: f64) -> Fit {
        // Each reading comes by here, and most runs have none.
        if self.windows.is_empty() {
            return Fit::LOOSE;
        }
        let figures = counted.sites.iter().filter_map(|(id, _)| self.windows.figures(*id, scale));
        let has = self.memory.history.latest().map_or(u64::MAX, |usage| usage.anon_bytes + usage.swap_bytes);
        Fit::of(figures, has)
    }

    /// Remembers what was held when it was most.
    fn note_peak(&mut self, elapsed: Duration, live_bytes: u64) {
        if live_bytes <= self.peak.map_or(0, |peak| peak.live_bytes) {
            return;
        }
        self.peak = Some(Peak { at: elapsed, live_bytes });
        for site in self.sites.values_mut() {
            site.at_peak_bytes = site.totals.live_bytes();
        }
    }

    /// The sites whose old blocks accumulate while others of theirs are freed, fastest first, and not too many.
    pub(super) fn accumulating(&self) -> impl Iterator<Item = SiteIndex> {
        let mut sites: Vec<(u64, SiteIndex)> = self
            .sites
            .iter()
            .filter(|(_, site)| site.totals.freed_objects > 0)
            .map(|(index, site)| (site.aged_growth(), *index))
            .filter(|(growth, _)| *growth > 0)
            .collect();
        sites.sort_unstable_by(|a, b| b.cmp(a));
        sites.into_iter().take(FOLLOWED_FREES).map(|(_, index)| index)
    }

    /// Windows begin, or begin again.
    pub(super) fn begin_windows(&mut self, counted: &Counted) {
        self.windows.begin(&counted.sites);
    }

    /// The program says that it begins to end.
    pub(super) fn note_way_out(&mut self, at: Duration) {
        self.past.note_way_out(at);
    }

    /// Takes in what was left at exit.
    pub(super) fn note_left(&mut self, left: &HashMap<SiteIndex, Left>) {
        for (index, site) in self.sites.iter_mut().filter(|(_, site)| site.category == Category::Heap) {
            site.left = Some(left.get(index).copied().unwrap_or_default());
        }
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(super) fn note_halfway(&mut self, counted: &Counted) {
        self.windows.note_halfway(&counted.sites);
    }

    /// A window is judged.
    pub(super) fn judge(&mut self, counted: &Counted, window: impl FnOnce(&Cohort) -> Window) {
        self.windows.judge(&counted.sites, window);
    }

    /// Takes in how old each site's oldest block is and how large its blocks are, as of the last sweep.
    pub(super) fn read_blocks(&mut self, kernel: &Kernel, mapped: Option<&VmBook>) {
        let oldest_mapped = mapped.map(VmBook::oldest_born_ms).unwrap_or_default();
        for (id, site) in &mut self.sites {
            let live = kernel.live_blocks(*id);
            site.sizes = live.map(|live| live.sizes.clone()).unwrap_or_default();
            site.oldest_born_ms = match site.category {
                // Of what windows have seen, only the last one's blocks are known one by one.
                Category::Heap if self.windows.is_empty() => live.map(|live| u64::from(live.oldest_born_ms)),
                Category::Heap => None,
                Category::Mmap => oldest_mapped.get(id).copied(),
                Category::Pages(_) => None,
                // Kept elsewhere: `kernel_book`.
                Category::Kernel(_) => None,
            };
        }
    }

    /// Makes a stack independent of its process while that is there. Where it leaves the code that is
    /// known, it is tried once more after the next look at the mappings.
    fn place(&mut self, kernel: &Kernel, target: &Target, images: &Images, id: StackId) -> Result<(), KernelError> {
        let is_second_try = match self.stacks.get(&id) {
            Some(stack) if !stack.tentative => return Ok(()),
            known => known.is_some(),
        };
        let Some(stack) = kernel.stack(id)? else { return Ok(()) };
        let (places, complete) = target.normalise(&stack, images);
        let tentative = !is_second_try && (places.len() < stack.used().len() || starts_nowhere(&places));
        self.has_tentative |= tentative;
        self.stacks.insert(id, PlacedStack { places, complete, tentative });
        Ok(())
    }

    /// The report on what was read.
    pub(super) fn report(&self, view: &View<'_>, target: &Target, symbolizer: &mut Symbolizer, ended: bool) -> Process {
        let memory = self.memory.report();
        let resident = memory.as_ref().map(|memory| memory.judgement).unwrap_or_default();
        let sites = self.merged_sites(view, symbolizer, &resident, ended);
        let (totals, uncertainty) = self.sums(view, &sites);
        let together = self.past.together(view.now, ended).filter(|_| !view.is_of_pages());
        Process {
            pid: target.pid.get(),
            comm: target.comm.clone(),
            exe: target.exe.clone(),
            allocators: target.allocators.clone(),
            unexplained_rss_bytes: together.and_then(|together| self.unexplained_rss_bytes(&together)),
            ledger: together.and_then(|together| self.ledger(&together)),
            peak: self.peak,
            memory,
            totals,
            resident_change: view.is_of_pages().then_some(self.resident_change),
            uncertainty,
            growth_bytes_per_s: self.live_bytes.slope_per_s(),
            overhead: self.overhead(view, ended),
            health: health(&self.counters, Counter::is_of_process),
            sites,
            at_exit: None,
            before_end: together.filter(|_| ended).map(|together| together.report()),
            ended,
        }
    }

    /// The figures of the whole process. In the sampled tier, what it has allocated is counted all the same.
    fn sums(&self, view: &View<'_>, sites: &[Site]) -> (Totals, Option<Uncertainty>) {
        if view.is_of_pages() {
            return (self.totals(true), None);
        }
        let sites: Vec<&Site> = sites.iter().filter(|site| !site.category.is_pages()).collect();
        let sum = sites.iter().fold(Totals::default(), |sum, site| sum.plus(&site.totals));
        let of_samples = self.sum_of_uncertainties(|site| site.uncertainty);
        let Requested { bytes, objects, .. } = self.requested;
        if view.is_adaptive {
            return (sum, self.uncertainty_with_windows(of_samples, view.scale));
        }
        if objects == 0 || !view.categories.contains(&Category::Heap) {
            return (sum, None);
        }
        let mapped = sites.iter().filter(|site| site.uncertainty.is_none());
        let mapped = mapped.fold(Totals::default(), |sum, site| sum.plus(&site.totals));
        let (bytes, objects) = (bytes + mapped.alloc_bytes, objects + mapped.alloc_objects);
        let (live_bytes, live_objects) = (sum.live_bytes().min(bytes), sum.live_objects().min(objects));
        let totals = Totals::new(bytes, objects, bytes - live_bytes, objects - live_objects);
        (totals, Some(Uncertainty { alloc_is_exact: true, ..of_samples.unwrap_or_default() }))
    }

    fn sum_of_uncertainties(&self, of: impl Fn(&TrackedSite) -> Option<Uncertainty>) -> Option<Uncertainty> {
        self.sites.values().filter_map(of).reduce(|a, b| a.plus(&b))
    }

    /// Sites that allocate in the same windows do not scatter independently: the process has windows of its own.
    fn uncertainty_with_windows(&self, of_samples: Option<Uncertainty>, scale: f64) -> Option<Uncertainty> {
        let Some(of_windows) = self.windows.of_process(scale) else { return of_samples };
        let by_site = self.sum_of_uncertainties(|site| site.of_windows).unwrap_or_default();
        let of_windows = Uncertainty { fewer: by_site.fewer, more: by_site.more, ..of_windows };
        Some(of_samples.map_or(of_windows, |of_samples| of_samples.plus(&of_windows)))
    }

    /// What tracing has cost the target.
    fn overhead(&self, view: &View<'_>, ended: bool) -> Option<Overhead> {
        let (cpu, trap) = (self.cpu.time(ended)?, view.trap?);
        let hits = if view.is_adaptive { hits(&self.requested) } else { self.hits_by_figures() };
        Some(Overhead::of(hits, trap, cpu))
    }

    /// How often it was held up: allocations and frees as they were counted or, where most frees are passed over, as many as
    /// what is not live any more.
    fn hits_by_figures(&self) -> Hits {
        let heap = self.sites.values().filter(|site| site.category == Category::Heap);
        let heap = heap.fold(Totals::default(), |sum, site| sum.plus(&site.totals));
        let Requested { objects, returns, rets, .. } = self.requested;
        if objects == 0 {
            let frees = heap.freed_objects + self.count(Counter::UnmatchedFrees);
            let at_rets = heap.alloc_objects.min(rets);
            return Hits { calls: heap.alloc_objects - at_rets, entries: at_rets + frees, rets };
        }
        let frees = objects.saturating_sub(heap.live_objects());
        Hits { calls: returns, entries: objects.saturating_sub(returns) + frees, rets }
    }

    /// At which stacks blocks of these sites were freed, most first.
    fn freed_at(&self, sites: &[SiteIndex], symbolizer: &Symbolizer) -> Vec<FreedAt> {
        let mut sides: HashMap<&[CodePlace], u64> = HashMap::new();
        for (side, count) in self.free_sides.iter().filter(|(side, _)| sites.contains(&side.site)) {
            let Some(stack) = self.stacks.get(&side.stack) else { continue };
            *sides.entry(&stack.places).or_default() += count;
        }
        let freed_at = |(places, samples): (&[CodePlace], u64)| FreedAt {
            samples,
            stack: places.iter().map(|place| symbolizer.frames(*place)).collect(),
        };
        let mut sides: Vec<(&[CodePlace], u64)> = sides.into_iter().collect();
        sides.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
        sides.into_iter().map(freed_at).collect()
    }

    /// What sites are judged against; `resident` is what is thought of resident memory.
    fn surroundings(&self, now: Duration, resident: &Judgement) -> Surroundings {
        Surroundings {
            growth_bytes_per_s: self.live_bytes.slope_per_s(),
            resident: (resident.confidence > 0.0).then_some(resident.trend),
            resident_growth_bytes_per_s: resident.slope_per_s,
            unmatched_frees_per_s: self.count(Counter::UnmatchedFrees) as f64 / now.as_secs_f64().max(1.0),
        }
    }

    fn ledger(&self, together: &Together) -> Option<Ledger> {
        let lost = Counter::ALL.iter().filter(|counter| counter.kind() == CounterKind::Loss);
        Some(Ledger {
            rss_at_attach_bytes: self.memory.history.first()?.rss_bytes(),
            rss_bytes: together.rss_bytes,
            live_heap_bytes: together.heap.live_bytes(),
            live_mmap_bytes: together.mapped.live_bytes(),
            lost_events: lost.map(|counter| self.count(*counter)).sum(),
            unmatched_frees: self.count(Counter::UnmatchedFrees),
        })
    }

    fn unexplained_rss_bytes(&self, together: &Together) -> Option<u64> {
        let first = self.memory.history.first()?;
        unexplained_rss_bytes(first.rss_bytes(), together.rss_bytes, together.live_bytes())
    }

    /// The sites, those of the same places taken together, in the order of reports.
    fn merged_sites(
        &self,
        view: &View<'_>,
        symbolizer: &mut Symbolizer,
        resident: &Judgement,
        ended: bool,
    ) -> Vec<Site> {
        let View { images, now, .. } = *view;
        let places = self.stacks.values().flat_map(|stack| stack.places.iter().copied());
        symbolizer.symbolize(images.all(), places);
        let identities = identities(images);
        let judged = self.judged(now, resident, ended);
        let site = |((places, complete, category), parts): ((&[CodePlace], bool, Category), Parts<'_>)| {
            let (indices, parts): (Vec<SiteIndex>, Vec<&TrackedSite>) = parts.into_iter().unzip();
            Site {
                id: site_id(places, category, &identities),
                truncated: !complete,
                stack: places.iter().map(|place| symbolizer.frames(*place)).collect(),
                freed_at: self.freed_at(&indices, symbolizer),
                ..judged(category, &parts)
            }
        };
        let mut sites: Vec<Site> = self.merged(view.categories).into_iter().map(site).collect();
        report::sort(&mut sites);
        sites
    }

    /// Makes a site of those of the same places, but for these; with its judgement.
    fn judged(&self, now: Duration, resident: &Judgement, ended: bool) -> impl Fn(Category, &[&TrackedSite]) -> Site {
        let surroundings = self.surroundings(now, resident);
        let since = self.past.way_out(now, ended);
        move |category, parts| {
            let surroundings_until = |end| self.past.surroundings(&self.live_bytes, &self.memory.history, end);
            let way_out = since.map(|since| WayOut { since, surroundings: &surroundings_until });
            tracked_site::merged(category, parts, now, &surroundings, way_out.as_ref())
        }
    }

    /// Which sites are one: those of the same places.
    fn merged(&self, categories: &[Category]) -> HashMap<(&[CodePlace], bool, Category), Parts<'_>> {
        let mut merged: HashMap<(&[CodePlace], bool, Category), Parts<'_>> = HashMap::new();
        for (index, tracked) in self.sites.iter().filter(|(_, site)| categories.contains(&site.category)) {
            let stack = self.stacks.get(&tracked.stack);
            let (places, complete) = stack.map_or((&[][..], false), |stack| (&stack.places[..], stack.complete));
            merged.entry((places, complete, tracked.category)).or_default().push((*index, tracked));
        }
        merged
    }
}

/// What kind of memory a site's is.
fn category(site: &KernelSite) -> Category {
    match KernelCategory::try_from(site.category) {
        Ok(KernelCategory::Mmap) => Category::Mmap,
        Ok(KernelCategory::AnonymousPages) => Category::Pages(PageKind::Anonymous),
        Ok(KernelCategory::FilePages) => Category::Pages(PageKind::File),
        Ok(KernelCategory::SharedPages) => Category::Pages(PageKind::Shared),
        Ok(KernelCategory::CopiedPages) => Category::Pages(PageKind::Copied),
        Ok(KernelCategory::Heap) | Err(_) => Category::Heap,
    }
}

/// Whether the allocation's caller itself lies in no mapping.
fn starts_nowhere(places: &[CodePlace]) -> bool {
    matches!(places.first(), Some(CodePlace::Address(_, Reason::Unmapped)))
}

/// How often a target was held up, where that is counted.
pub(super) fn hits(requested: &Requested) -> Hits {
    let Requested { objects, returns, rets, frees, .. } = *requested;
    Hits { calls: returns, entries: objects.saturating_sub(returns) + frees, rets }
}

/// What a site has allocated and freed for good; where there are samples, an estimate, with how sure it is.
fn figures(site: &KernelSite, kernel: &Kernel) -> (Totals, Option<Uncertainty>) {
    let (alloc, freed) = (site.alloc(), site.freed());
    let Some(sample_bytes) = kernel.sample_bytes() else {
        return (Totals::new(alloc.bytes, alloc.objects, freed.bytes, freed.objects), None);
    };
    let objects = |sum: &Weight| (sum.objects + OBJECT / 2) / OBJECT;
    let variances = |sum: &Weight| {
        [
            sum.bytes_variance as f64 / BYTES_VARIANCE as f64 * (sample_bytes as f64).powi(2),
            sum.objects_variance as f64 / OBJECTS_VARIANCE as f64,
        ]
    };
    let variances = Variances::of_samples(variances(&alloc), variances(&freed));
    let totals = Totals::new(alloc.bytes, objects(&alloc), freed.bytes, objects(&freed));
    // Where samples may be taken, but none was that could have been missed.
    let is_certain = kernel.is_adaptive() && variances == Variances::default();
    (totals, (!is_certain).then(|| Uncertainty { variances, ..Uncertainty::default() }))
}

/// A hash over build ids (or paths) and offsets: it does not depend on where images were loaded. `identities` are those
/// of the images.
fn site_id(places: &[CodePlace], category: Category, identities: &[u64]) -> u64 {
    // One stack can make pages of several kinds resident.
    let start = category.page_kind().map_or(0, |kind| mix(kind as u64 + 1));
    places.iter().fold(start, |hash, place| match place {
        CodePlace::File { image, file_offset } => mix(mix(hash ^ identities[*image]) ^ file_offset),
        CodePlace::Address(address, _) => mix(hash ^ address),
    })
}

/// The number that stands for each image in the ids of sites.
pub(super) fn identities(images: &Images) -> Vec<u64> {
    images.all().iter().map(|image| identity(&image.name)).collect()
}

/// A hash of an image's build id, or of its path where it has none.
fn identity(name: &ImageName) -> u64 {
    let identity = name.build_id.as_ref().unwrap_or(&name.path);
    identity.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Those counters that `is_wanted`, as reports have them.
pub(super) fn health(counted: &KernelProcess, is_wanted: impl Fn(Counter) -> bool) -> Vec<HealthCounter> {
    let wanted = Counter::ALL.iter().zip(counted.counters).filter(|(counter, _)| is_wanted(**counter));
    wanted.map(|(counter, count)| HealthCounter { name: counter.name(), count, kind: kind(*counter) }).collect()
}

fn kind(counter: Counter) -> HealthKind {
    match counter.kind() {
        CounterKind::Loss => HealthKind::Loss,
        CounterKind::Unmatched => HealthKind::Unmatched,
        CounterKind::CutStack => HealthKind::CutStack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_a_process_has_given_back_are_in_its_sums() {
        let resident = Resident { grown_bytes: 10 << 20, shrunk_bytes: 4 << 20, ..Resident::default() };
        let profile = Profile::default();
        let profile = Profile { resident_change: profile.change_of(&resident), ..profile };
        assert_eq!(profile.totals(true), Totals::new(10 << 20, 2560, 4 << 20, 1024));
        assert_eq!(profile.totals(false), Totals::default());
    }
}
