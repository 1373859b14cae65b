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

use super::tracked_site::{self, TrackedSite};
use crate::{
    capture::kernel::{KernelError, KernelMemory},
    model::{
        frame::{KERNEL_IMAGE, Stack},
        growth::History,
        memory::{KernelUsage, MemoryHistory},
        report::{self, Category, KernelSource, Process, Site, Totals},
        verdict::Surroundings,
    },
    process::kernel_pages,
    symbolize::{KernelStack, KernelSymbolizer},
};

/// Who is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The kernel as a whole.
    Kernel,
    /// What the kernel does for those that were asked for, in words.
    Selected(String),
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

/// What one owner is charged for.
pub(super) struct Book {
    pub(super) owner: Owner,
    pub(super) slot: ProcessSlot,
    pub(super) has_ended: bool,
    stacks: HashMap<StackId, KernelStack>,
    sites: HashMap<SiteIndex, TrackedSite>,
    live_bytes: History,
    /// What the kernel holds by its own account; nothing where only a part of it is asked about.
    held: MemoryHistory<KernelUsage>,
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
            held: MemoryHistory::default(),
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
            let tracked = self.sites.entry(*index).or_insert_with(|| TrackedSite::new(site.stack, category(source)));
            tracked.totals = totals;
            tracked.live_bytes.push(elapsed, totals.live_bytes());
        }
        self.live_bytes.push(elapsed, live_bytes);
        if self.owner == Owner::Kernel
            && let Some(usage) = kernel_pages::usage()
        {
            self.held.push(elapsed, usage);
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
        Ok(*stack != KernelStack::LeftOut)
    }

    /// Takes in when the oldest live object of each site was allocated, in milliseconds after the start.
    pub(super) fn note_ages(&mut self, oldest_born_ms: &HashMap<SiteIndex, u32>) {
        for (index, tracked) in &mut self.sites {
            tracked.oldest_born_ms = oldest_born_ms.get(index).map(|born_ms| u64::from(*born_ms));
        }
    }

    /// The report on what was read, but for what is the same for all.
    pub(super) fn report(&self, symbolizer: &mut KernelSymbolizer, now: Duration) -> Process {
        let sites = self.merged_sites(symbolizer, now);
        let (pid, comm, exe) = match &self.owner {
            Owner::Kernel => (0, KERNEL_IMAGE.to_owned(), ""),
            Owner::Selected(what) => (0, format!("{KERNEL_IMAGE} ({what})"), ""),
            Owner::Process { pid, comm, exe } => (*pid, comm.clone(), exe.as_str()),
        };
        Process {
            pid,
            comm,
            exe: exe.to_owned(),
            memory: self.held.report(None),
            totals: sites.iter().fold(Totals::default(), |sum, site| sum.plus(&site.totals)),
            growth_bytes_per_s: self.live_bytes.slope_per_s(),
            sites,
            ended: self.has_ended,
            ..Process::default()
        }
    }

    /// The sites, those whose stacks differ only within the allocator taken together, in the order of reports.
    fn merged_sites(&self, symbolizer: &mut KernelSymbolizer, now: Duration) -> Vec<Site> {
        let mut merged: HashMap<(&[u64], bool, Category), Vec<&TrackedSite>> = HashMap::new();
        for tracked in self.sites.values() {
            let (addresses, truncated) = match self.stacks.get(&tracked.stack) {
                Some(KernelStack::Of(addresses, truncated)) => (addresses.as_slice(), *truncated),
                Some(KernelStack::LeftOut) | None => (&[][..], true),
            };
            merged.entry((addresses, truncated, tracked.category)).or_default().push(tracked);
        }
        let surroundings =
            Surroundings { growth_bytes_per_s: self.live_bytes.slope_per_s(), ..Surroundings::default() };
        let site = |((addresses, truncated, category), parts): ((&[u64], bool, Category), Vec<&TrackedSite>)| {
            let stack: Stack = addresses.iter().map(|address| symbolizer.frames(*address)).collect();
            Site {
                id: site_id(&stack, category),
                truncated,
                stack,
                ..tracked_site::merged(category, &parts, now, &surroundings, None)
            }
        };
        let mut sites: Vec<Site> = merged.into_iter().map(site).collect();
        report::sort(&mut sites);
        sites
    }
}

/// The allocator, as reports have it.
fn category(source: Source) -> Category {
    Category::Kernel(match source {
        Source::Slab => KernelSource::Slab,
        Source::Pages => KernelSource::Pages,
        Source::PerCpu => KernelSource::PerCpu,
        Source::Vmalloc => KernelSource::Vmalloc,
    })
}

/// A hash over the allocator, images and places in them: it does not depend on where they were loaded.
fn site_id(stack: &Stack, category: Category) -> u64 {
    let allocator = category.kernel_source().map_or(0, |source| source as u64);
    stack.frames().fold(mix(allocator), |hash, frame| {
        let (image, offset) = frame.place.in_image();
        let name = image.map(|image| image.build_id.as_ref().unwrap_or(&image.path));
        let hash = name.into_iter().flat_map(|name| name.bytes()).fold(hash, |hash, byte| mix(hash ^ u64::from(byte)));
        mix(hash ^ offset)
    })
}
