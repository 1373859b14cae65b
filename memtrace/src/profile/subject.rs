//! The profile of one subject, a process or the kernel: what was counted of it, with its history.
//!
//! In: readings. Out: nothing but itself: it is pure data, which can be kept, sent and judged elsewhere.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use memtrace_common::{
    arch::PAGE_BYTES,
    ids::{SiteIndex, StackId},
    steps::sampling::{BYTES_VARIANCE, OBJECT, OBJECTS_VARIANCE},
    thread::Requested,
    wire::{
        counters::Counter,
        free_site::FreeSite,
        kernel_memory::Source,
        resident::Resident,
        site::{Category as KernelCategory, Site as KernelSite, Weight},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    age_cohorts::ObjectUnit,
    allocated::{Allocated, check},
    before_end::Past,
    cpu_clock::{Beginning, CpuClock},
    left_blocks::LeftBlocks,
    reading::{AllSides, Asked, Basis, Counted, Counters, Placed, Reading, Sampling},
    rss_history::RssHistory,
    stack::PlacedStack,
    tracked_site::TrackedSite,
    window_estimates::WindowEstimates,
};
use crate::model::{
    at_exit::AtExit,
    category::{Category, KernelSource, PageKind},
    figures::{Allocator, FigureKind, Peak},
    memory::{KernelUsage, MemoryHistory},
    resident_change::ResidentChange,
    sizes::LiveBlocks,
    stats::{
        estimate::{Uncertainty, Variances},
        history::History,
        windows::{Cohort, Fit, Window},
    },
    subject::Subject,
    survival::Amount,
    totals::Totals,
};

/// At how many sites of a process the frees are looked at.
const FOLLOWED_FREES: usize = 32;

/// All that was measured of a subject, however it is judged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SubjectProfile {
    /// Whose memory it is.
    pub(crate) subject: Subject,
    /// The allocators that were hooked in it.
    pub(crate) allocators: Vec<Allocator>,
    /// The look at it when it was about to end; nothing where that was not asked for, or it has not ended.
    pub(crate) at_exit: Option<AtExit>,
    /// Whether it has ended.
    pub(crate) ended: bool,
    pub(crate) stacks: HashMap<StackId, PlacedStack>,
    #[serde(skip)]
    has_tentative: bool,
    /// How often its code had changed before the last reading counted.
    #[serde(skip)]
    code_changes: u64,
    /// Stacks whose memory does not count.
    #[serde(skip)]
    left_out: HashSet<StackId>,
    pub(crate) sites: HashMap<SiteIndex, TrackedSite>,
    pub(crate) free_sites: Vec<(FreeSite, u64)>,
    pub(crate) peak: Option<Peak>,
    /// Its live bytes; where nothing but pages is traced, how much more is resident than at first.
    pub(crate) live_bytes: History<i64>,
    pub(crate) memory: RssHistory,
    /// The memory that the kernel holds by its own account, where all of that is asked about.
    pub(crate) kernel_memory: MemoryHistory<KernelUsage>,
    pub(crate) past: Past,
    pub(crate) counters: Counters,
    /// The two sides of each allocator, by its number.
    pub(crate) sides: AllSides,
    pub(crate) requested: Requested,
    /// How its resident memory has changed, where that is told.
    pub(crate) resident_change: ResidentChange,
    pub(crate) windows: WindowEstimates,
    pub(crate) basis: Basis,
    pub(crate) cpu: CpuClock,
}

impl SubjectProfile {
    /// The profile of a program that begins so, without a reading yet.
    pub(crate) fn beginning(beginning: Beginning) -> Self {
        Self { cpu: CpuClock::beginning(beginning), ..Self::default() }
    }

    /// The profile of a subject, without a reading yet.
    pub(crate) fn of(subject: Subject) -> Self {
        Self { subject, ..Self::default() }
    }

    pub(crate) fn site_count(&self) -> usize {
        self.sites.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Whether the target has called a hooked function.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_empty() || self.count(Counter::UnmatchedFrees) > 0
    }

    /// Whether some stack left the code that is known: the mappings may be out of date.
    pub(crate) fn has_tentative_stacks(&self) -> bool {
        self.has_tentative
    }

    /// When it was read last, where it has ended. Its records in the kernel are read after its end as well.
    pub(crate) fn ended_at(&self) -> Option<Duration> {
        (self.ended && matches!(self.subject, Subject::Process(_))).then(|| self.past.last_read())
    }

    /// How often something happened, as of the last reading.
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// The sums that these figures have: of blocks those of all sites but pages', which count memory of other sites as well.
    pub(crate) fn totals(&self, figures: FigureKind) -> Totals {
        match figures {
            FigureKind::Pages => self.resident_change.totals(),
            FigureKind::Blocks | FigureKind::Kernel => {
                self.sites.values().filter(|site| !site.category.is_pages()).map(|site| &site.totals).sum()
            }
        }
    }

    /// The sums of all sites of one category.
    pub(crate) fn totals_of(&self, category: Category) -> Totals {
        self.sites.values().filter(|site| site.category == category).map(|site| &site.totals).sum()
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

    /// Takes in a reading; `place` makes the stack of an id independent of its process, where the stack is known.
    ///
    /// # Errors
    /// Those of `place`.
    pub(crate) fn read<E>(
        &mut self,
        reading: &Reading<'_>,
        mut place: impl FnMut(Asked) -> Result<Option<Placed>, E>,
    ) -> Result<(), E> {
        let Reading { counted, time, basis, figures: kind, .. } = reading;
        let (elapsed, scale) = (time.elapsed, self.windows.scale(basis.unjudged));
        self.basis = *basis;
        let leaves = self.past.leaves(elapsed);
        self.has_tentative = false;
        let fit = self.fit_of_windows(counted, scale);
        for (id, site) in &counted.sites {
            let category = category(site);
            let (totals, uncertainty) = match category {
                Category::Mmap => (reading.mapped.and_then(|mapped| mapped.get(id)).copied().unwrap_or_default(), None),
                // Which of them are given back nobody tells; of all together it is known.
                Category::Pages(_) => (Totals::new(site.alloc().bytes, site.alloc().objects, 0, 0), None),
                Category::Heap | Category::Kernel(_) => figures(site, reading.sampling),
            };
            let of_windows = (category == Category::Heap).then(|| self.windows.figures(*id, scale)).flatten();
            let fitted = of_windows.map(|(totals, uncertainty)| match uncertainty {
                Some(uncertainty) => {
                    let (totals, uncertainty) = fit.apply(&totals, &uncertainty);
                    (totals, Some(uncertainty))
                }
                None => (totals, None),
            });
            let (of_windows, uncertainty_of_windows) = fitted.unzip();
            let totals = totals.plus(&of_windows.unwrap_or_default());
            // It was opened, and nothing has come of it yet; or it is counted elsewhere.
            if totals.alloc_objects == 0 {
                continue;
            }
            let before = self.sites.get(id).map_or(0, |tracked| tracked.totals.alloc_objects);
            let allocated =
                Allocated::by((before, totals.alloc_objects), site.opened, self.code_changes..=reading.code_changes);
            if !self.place(site.stack, category, &allocated, reading.contests, &mut place)? {
                continue;
            }
            let live = totals.live_bytes();
            let tracked = self.sites.entry(*id).or_insert_with(|| TrackedSite::new(site.stack, category));
            (tracked.totals, tracked.uncertainty) = (totals, uncertainty);
            tracked.of_windows = uncertainty_of_windows.flatten();
            tracked.live_bytes.push(elapsed, live);
            if category == Category::Heap && self.windows.is_empty() {
                tracked.read_generations(site, time, ObjectUnit::of(reading.sampling.is_some()));
            } else {
                tracked.survival = None;
            }
            tracked.follow_descent(elapsed, leaves);
        }
        let lately = self.code_changes..=reading.code_changes;
        let freed = Allocated { ever: lately.clone(), lately: Some(lately) };
        for (site, _) in &counted.free_sites {
            self.place(site.stack, Category::Heap, &freed, reading.contests, &mut place)?;
        }
        self.code_changes = counted.code_changes;
        self.free_sites.clone_from(&counted.free_sites);
        if let Some(resident) = &reading.resident {
            self.resident_change = self.change_of(resident);
        }
        let live_bytes = self.totals(*kind).live_bytes();
        let more = match kind {
            FigureKind::Pages => self.resident_change.bytes(),
            FigureKind::Blocks | FigureKind::Kernel => live_bytes.cast_signed(),
        };
        self.live_bytes.push(elapsed, more);
        // Of the kernel, most is from before attach: when it held most of the rest says nothing.
        if matches!(self.subject, Subject::Process(_)) {
            self.note_peak(elapsed, live_bytes);
        }
        if let Some(usage) = reading.usage {
            self.memory.note(usage, elapsed, reading.limit);
        }
        if let Some(usage) = reading.kernel_usage {
            self.kernel_memory.push(elapsed, usage);
        }
        self.cpu.note(reading.cpu, reading.cpu_at_end);
        self.counters = reading.counters;
        self.sides = reading.sides;
        self.requested = counted.requested;
        let [heap, mapped] = [Category::Heap, Category::Mmap].map(|category| self.totals_of(category));
        self.past.read(elapsed, self.count(Counter::UnmatchedFrees), reading.usage.as_ref(), heap, mapped);
        Ok(())
    }

    /// The fit by which windows take no more for live than the process has memory of its own.
    fn fit_of_windows(&self, counted: &Counted, scale: f64) -> Fit {
        // Each reading comes by here, and most runs have none.
        if self.windows.is_empty() {
            return Fit::LOOSE;
        }
        let figures = counted.sites.iter().filter_map(|(id, _)| {
            let (totals, uncertainty) = self.windows.figures(*id, scale)?;
            Some((totals, uncertainty?))
        });
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
    pub(crate) fn accumulating(&self) -> impl Iterator<Item = SiteIndex> {
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
    pub(crate) fn begin_windows(&mut self, counted: &Counted) {
        self.windows.begin(&counted.sites);
    }

    /// The program says that it begins to end.
    pub(crate) fn note_way_out(&mut self, at: Duration) {
        self.past.note_way_out(at);
    }

    /// Takes in what was left at exit.
    pub(crate) fn note_left(&mut self, left: &HashMap<SiteIndex, LeftBlocks>) {
        for (index, site) in self.sites.iter_mut().filter(|(_, site)| site.category == Category::Heap) {
            site.left = Some(left.get(index).copied().unwrap_or_default());
        }
    }

    /// Half of the time is over in which the present window's blocks are followed.
    pub(crate) fn note_halfway(&mut self, counted: &Counted) {
        self.windows.note_halfway(&counted.sites);
    }

    /// A window is judged.
    pub(crate) fn judge(&mut self, counted: &Counted, window: impl FnOnce(&Cohort) -> Window) {
        self.windows.judge(&counted.sites, window);
    }

    /// Takes in how old each site's oldest block is and how large its blocks are, as of the last sweep. `oldest_born_ms` has
    /// the sites whose blocks' ages alone are known.
    pub(crate) fn read_blocks<'a>(
        &mut self,
        live: impl Fn(SiteIndex) -> Option<&'a LiveBlocks>,
        oldest_born_ms: &HashMap<SiteIndex, u64>,
    ) {
        for (id, site) in &mut self.sites {
            let live = live(*id);
            site.sizes = live.map(|live| live.sizes.clone()).unwrap_or_default();
            site.oldest_born_ms = match site.category {
                // Of what windows have seen, only the last one's blocks are known one by one.
                Category::Heap if self.windows.is_empty() => live.map(|live| u64::from(live.oldest_born_ms)),
                Category::Heap => None,
                Category::Mmap | Category::Kernel(_) => oldest_born_ms.get(id).copied(),
                Category::Pages(_) => None,
            };
        }
    }

    /// Keeps a stack while its process is there. Where it leaves the code that is known, it is asked for once more at the next
    /// reading, after a look at the mappings. Returns whether memory of this category counts there.
    fn place<E>(
        &mut self,
        id: StackId,
        category: Category,
        allocated: &Allocated,
        contests: u64,
        place: &mut impl FnMut(Asked) -> Result<Option<Placed>, E>,
    ) -> Result<bool, E> {
        let mut ask = |during: &RangeInclusive<u64>, is_again| {
            place(Asked { stack: id, category, during: during.clone(), is_again })
        };
        let is_second_try = match self.stacks.get_mut(&id) {
            Some(stack) if !stack.is_tentative => {
                if let Some(lately) = allocated.lately.as_ref().filter(|_| stack.settled < contests) {
                    check(stack, contests, |during| ask(during, true), lately)?;
                }
                return Ok(true);
            }
            None if self.left_out.contains(&id) => return Ok(false),
            known => known.is_some(),
        };
        let (stack, is_cut) = match ask(&allocated.ever, false)? {
            Some(Placed::At { stack, is_cut }) => (stack, is_cut),
            Some(Placed::LeftOut) => {
                self.left_out.insert(id);
                return Ok(false);
            }
            None => return Ok(true),
        };
        let is_tentative = !is_second_try && (is_cut || stack.starts_nowhere());
        self.has_tentative |= is_tentative;
        self.stacks.insert(id, PlacedStack { is_tentative, ..stack });
        Ok(true)
    }
}

/// How many blocks of an allocator's functions were counted and live.
pub(crate) fn live_heap_objects(counted: &Counted) -> u64 {
    let heap = counted.sites.iter().filter(|(_, site)| category(site) == Category::Heap);
    heap.map(|(_, site)| site.alloc().objects.saturating_sub(site.freed().objects)).sum()
}

/// The kind of a site's memory.
fn category(site: &KernelSite) -> Category {
    if let Ok(source) = Source::try_from(site.category) {
        return Category::Kernel(match source {
            Source::Slab => KernelSource::Slab,
            Source::Pages => KernelSource::Pages,
            Source::PerCpu => KernelSource::PerCpu,
            Source::Vmalloc => KernelSource::Vmalloc,
        });
    }
    match KernelCategory::try_from(site.category) {
        Ok(KernelCategory::Mmap) => Category::Mmap,
        Ok(KernelCategory::AnonymousPages) => Category::Pages(PageKind::Anonymous),
        Ok(KernelCategory::FilePages) => Category::Pages(PageKind::File),
        Ok(KernelCategory::SharedPages) => Category::Pages(PageKind::Shared),
        Ok(KernelCategory::CopiedPages) => Category::Pages(PageKind::Copied),
        Ok(KernelCategory::Heap) | Err(_) => Category::Heap,
    }
}

/// The sums that a site has allocated and freed for good; where there are samples, an estimate, with how sure it is.
fn figures(site: &KernelSite, sampling: Option<Sampling>) -> (Totals, Option<Uncertainty>) {
    let (alloc, freed) = (site.alloc(), site.freed());
    let Some(Sampling { may_change }) = sampling else {
        return (Totals::new(alloc.bytes, alloc.objects, freed.bytes, freed.objects), None);
    };
    let objects = |sum: &Weight| (sum.objects + OBJECT / 2) / OBJECT;
    let variances = |sum: &Weight| {
        [sum.bytes_variance as f64 * BYTES_VARIANCE as f64, sum.objects_variance as f64 / OBJECTS_VARIANCE as f64]
    };
    let variances = Variances::of_samples(variances(&alloc), variances(&freed));
    let totals = Totals::new(alloc.bytes, objects(&alloc), freed.bytes, objects(&freed));
    // Where samples may be taken, but none was that could have been missed.
    let is_certain = may_change && variances == Variances::default();
    (totals, (!is_certain).then(|| Uncertainty { variances, ..Uncertainty::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::subject::Context, profile::reading::Time};
    use memtrace_common::wire::site::Count;

    #[test]
    fn pages_that_a_process_has_given_back_are_in_its_sums() {
        let resident = Resident { grown_bytes: 10 << 20, shrunk_bytes: 4 << 20, ..Resident::default() };
        let profile = SubjectProfile::default();
        let profile = SubjectProfile { resident_change: profile.change_of(&resident), ..profile };
        assert_eq!(profile.totals(FigureKind::Pages), Totals::new(10 << 20, 2560, 4 << 20, 1024));
        assert_eq!(profile.totals(FigureKind::Blocks), Totals::default());
    }

    #[test]
    fn memory_that_is_left_out_is_in_no_figure_and_its_stack_is_asked_for_once() {
        let site = |stack, source: Source, objects| {
            let mut site = KernelSite { stack: StackId(stack), category: source as u32, ..KernelSite::default() };
            site.generations[0].alloc = Count { bytes: 4096 * objects, objects };
            site
        };
        let sites = [site(1, Source::Slab, 3), site(2, Source::Pages, 100), site(3, Source::Vmalloc, 5)];
        let counted = Counted { sites: (1..).map(SiteIndex).zip(sites).collect(), ..Counted::default() };
        let context = Context::Selected("processes called x".into());
        let mut profile = SubjectProfile::of(Subject::Kernel { release: String::new(), context });
        let mut asked = Vec::new();
        for second in 1..=3 {
            let time = Time { elapsed: Duration::from_secs(second), generation: 0, next: 0 };
            let usage = KernelUsage { stack_bytes: second, ..KernelUsage::default() };
            let reading = Reading { kernel_usage: Some(usage), ..Reading::new(time, &counted) };
            let read = profile.read(&reading, |Asked { stack: id, category, .. }| {
                asked.push((id.0, category));
                let placed = Placed::At { stack: PlacedStack::default(), is_cut: false };
                // Of the third nothing is known, now or later.
                let placed = [placed, Placed::LeftOut].into_iter().nth(usize::try_from(id.0).unwrap() - 1);
                Ok::<_, std::convert::Infallible>(placed)
            });
            read.unwrap();
        }
        let of = Category::Kernel;
        let known = [(1, of(KernelSource::Slab)), (2, of(KernelSource::Pages)), (3, of(KernelSource::Vmalloc))];
        assert_eq!((&asked[..3], &asked[3..]), (&known[..], &[known[2], known[2]][..]));
        assert_eq!(profile.totals(FigureKind::Blocks), Totals::new(8 * 4096, 8, 0, 0));
        assert_eq!(profile.kernel_memory.latest().map(|usage| usage.stack_bytes), Some(3));
        assert_eq!(profile.peak, None);
    }
}
