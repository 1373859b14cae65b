//! What is known of the kernel's memory that one owner is charged for: by site, with its history, and the report made of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use memtrace_common::{
    kernel_memory::Source,
    process::ProcessSlot,
    site::{Site as KernelSite, SiteIndex},
    stack::{StackId, mix},
};

use crate::{
    capture::kernel::{KernelError, KernelMemory},
    model::{
        frame::{KERNEL_IMAGE, Stack},
        growth::{self, History, SiteHistory},
        report::{self, Category, Process, Site, Totals},
        trend,
        verdict::{Evidence, Surroundings, judge_growth},
    },
    process::kernel_pages,
    symbolize::{KernelStack, KernelSymbolizer},
};

/// Who is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The kernel as a whole, or what of it was asked for.
    Kernel,
    /// A process that was named.
    Process {
        /// Its thread group id.
        pid: u32,
        /// Its short name.
        comm: String,
        /// The program it ran at first; empty for a thread of the kernel.
        exe: String,
    },
}

/// A site, as last read.
struct TrackedSite {
    stack: StackId,
    totals: Totals,
    live_bytes: SiteHistory,
}

/// Sites that are one in reports.
type Parts<'a> = Vec<(SiteIndex, &'a TrackedSite)>;

/// What one owner is charged for.
pub(super) struct Book {
    pub(super) owner: Owner,
    pub(super) slot: ProcessSlot,
    pub(super) has_ended: bool,
    stacks: HashMap<StackId, KernelStack>,
    sites: HashMap<SiteIndex, TrackedSite>,
    live_bytes: History,
    /// What the kernel holds by its own account.
    held: History,
    held_bytes: Option<u64>,
}

impl Book {
    /// Nothing is known yet.
    pub(super) fn new(owner: Owner, slot: ProcessSlot) -> Self {
        Self {
            owner,
            slot,
            has_ended: false,
            stacks: HashMap::new(),
            sites: HashMap::new(),
            live_bytes: History::default(),
            held: History::default(),
            held_bytes: None,
        }
    }

    /// Takes in what the programs have counted by now, `elapsed` after the start.
    pub(super) fn read<'a>(
        &mut self,
        counted: impl Iterator<Item = &'a (SiteIndex, KernelSite)>,
        kernel: &KernelMemory,
        symbolizer: &KernelSymbolizer,
        elapsed: Duration,
    ) -> Result<(), KernelError> {
        let mut live_bytes = 0;
        for (index, site) in counted {
            let (alloc, freed) = (site.alloc(), site.freed());
            let totals = Totals::new(alloc.bytes, alloc.objects, freed.bytes, freed.objects);
            let Ok(source) = Source::try_from(site.category) else { continue };
            // It was opened, and nothing has come of it yet; or what is in these pages is counted by itself.
            if totals.alloc_objects == 0 || !self.is_counted(site.stack, source, kernel, symbolizer)? {
                continue;
            }
            live_bytes += totals.live_bytes();
            let tracked = self.sites.entry(*index).or_insert_with(|| {
                let mut live_bytes = SiteHistory::default();
                // Before its first allocation it held nothing.
                live_bytes.push(Duration::ZERO, 0);
                TrackedSite { stack: site.stack, totals, live_bytes }
            });
            tracked.totals = totals;
            tracked.live_bytes.push(elapsed, totals.live_bytes());
        }
        self.live_bytes.push(elapsed, live_bytes);
        if self.owner == Owner::Kernel
            && let Some(bytes) = kernel_pages::held_bytes()
        {
            self.held.push(elapsed, bytes);
            self.held_bytes = Some(bytes);
        }
        Ok(())
    }

    /// Whether what is allocated at a stack counts; looks at stacks that were not seen before.
    fn is_counted(
        &mut self,
        id: StackId,
        source: Source,
        kernel: &KernelMemory,
        symbolizer: &KernelSymbolizer,
    ) -> Result<bool, KernelError> {
        let stack = match self.stacks.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let Some(record) = kernel.stack(id)? else { return Ok(true) };
                place.insert(symbolizer.stack(&record, source))
            }
        };
        Ok(*stack != KernelStack::Backing)
    }

    /// The report on what was read, but for what is the same for all; `oldest` says when the oldest of each site was allocated.
    pub(super) fn report(
        &self,
        symbolizer: &mut KernelSymbolizer,
        oldest: &HashMap<SiteIndex, u32>,
        now: Duration,
    ) -> Process {
        let sites = self.merged_sites(symbolizer, oldest, now);
        let (pid, comm, exe) = match &self.owner {
            Owner::Kernel => (0, KERNEL_IMAGE, ""),
            Owner::Process { pid, comm, exe } => (*pid, comm.as_str(), exe.as_str()),
        };
        let judgement = trend::judge(self.held.points(), self.held.points());
        Process {
            pid,
            comm: comm.to_owned(),
            exe: exe.to_owned(),
            rss_bytes: self.held_bytes,
            rss_growth_bytes_per_s: judgement.slope_per_s,
            trend: judgement.trend,
            trend_confidence: judgement.confidence,
            totals: sites.iter().fold(Totals::default(), |sum, site| sum.plus(&site.totals)),
            growth_bytes_per_s: self.live_bytes.slope_per_s(),
            sites,
            ended: self.has_ended,
            ..Process::default()
        }
    }

    /// The sites, those whose stacks differ only within the allocator taken together, in the order of reports.
    fn merged_sites(
        &self,
        symbolizer: &mut KernelSymbolizer,
        oldest: &HashMap<SiteIndex, u32>,
        now: Duration,
    ) -> Vec<Site> {
        let mut merged: HashMap<(&[u64], bool), Parts<'_>> = HashMap::new();
        for (index, tracked) in &self.sites {
            let (addresses, truncated) = match self.stacks.get(&tracked.stack) {
                Some(KernelStack::Of(addresses, truncated)) => (addresses.as_slice(), *truncated),
                Some(KernelStack::Backing) | None => (&[][..], true),
            };
            merged.entry((addresses, truncated)).or_default().push((*index, tracked));
        }
        let surroundings =
            Surroundings { growth_bytes_per_s: self.live_bytes.slope_per_s(), ..Surroundings::default() };
        let site = |((addresses, truncated), parts): ((&[u64], bool), Parts<'_>)| {
            let stack: Stack = addresses.iter().map(|address| symbolizer.frames(*address)).collect();
            let totals = parts.iter().fold(Totals::default(), |sum, (_, part)| sum.plus(&part.totals));
            let live: Vec<_> = parts.iter().map(|(_, part)| part.live_bytes.points()).collect();
            let evidence = Evidence {
                now,
                live: &growth::sum(&live),
                aged: &[],
                totals,
                live_bytes_low: None,
                survival: None,
                process: &surroundings,
            };
            let oldest = parts.iter().filter_map(|(index, _)| oldest.get(index)).min();
            let age = |born_ms: &u32| now.saturating_sub(Duration::from_millis(u64::from(*born_ms)));
            Site {
                id: site_id(&stack),
                category: Category::Kernel,
                totals,
                growth_bytes_per_s: parts.iter().map(|(_, part)| part.live_bytes.slope_per_s()).sum(),
                judgement: judge_growth(&evidence),
                oldest_age: oldest.map(age),
                truncated,
                stack,
                ..Site::default()
            }
        };
        let mut sites: Vec<Site> = merged.into_iter().map(site).collect();
        report::sort(&mut sites);
        sites
    }
}

/// A hash over images and places in them: it does not depend on where they were loaded.
fn site_id(stack: &Stack) -> u64 {
    stack.frames().fold(0, |hash, frame| {
        let (image, offset) = frame.place.in_image();
        let name = image.map(|image| image.build_id.as_ref().unwrap_or(&image.path));
        let hash = name.into_iter().flat_map(|name| name.bytes()).fold(hash, |hash, byte| mix(hash ^ u64::from(byte)));
        mix(hash ^ offset)
    })
}
