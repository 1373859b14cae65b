//! Tracing of programs: loading for it, and what user space asks of it.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use memtrace_common::{
    ids::{BudgetGroup, ProcessSlot, SiteIndex, StackId},
    steps::sampling::MeanGap,
    thread::Requested,
    wire::{
        code::{CodeRange, Row},
        control::Recording,
        counters::Counter,
        free_site::FreeSite,
        resident::Resident,
    },
};

use super::{
    blocks::FoundBlock,
    calls::Calls,
    capacities::Capacities,
    code::CodeStore,
    error::BpfError,
    events::{DebugLines, Events, MappingEvents},
    frees::Frees,
    hooked_code::HookedCode,
    loaded::Loaded,
    maps::{HeapMaps, SamplingTables, heap_entries, take_filter},
    object::SharedGlobals,
    pages::Pages,
    pids::Pids,
    probe_kind::ProbeSet,
    probes::Probes,
    recordings::Recordings,
    rows::{RowPlace, RowStore},
    settings::{Globals, Settings},
    threads::ThreadCounts,
};
use crate::model::sizes::LiveBlocks;

/// The part of the object that only tracing of programs has.
pub struct Heap {
    pub(super) probes: Probes,
    recordings: Recordings,
    code: CodeStore,
    threads: ThreadCounts,
    calls: Calls,
    frees: Frees,
    pub(super) pages: Pages,
    pub(super) hooked_code: HookedCode,
    /// Until they are taken.
    rings: Option<(Events, MappingEvents)>,
    /// Where samples are taken.
    _sampling: Option<SamplingTables>,
    /// The live blocks of each site, as of the last sweep.
    live: HashMap<SiteIndex, LiveBlocks>,
    tables_bytes: u64,
    capacities: Capacities,
    sample_bytes: Option<u64>,
    is_adaptive: bool,
    pub(super) tells_segments: bool,
}

impl Loaded<Heap> {
    /// Loads programs and maps.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub fn load(settings: Settings) -> Result<Self, BpfError> {
        let Settings { capacities, extras, links, hooks, sample_bytes, is_adaptive, verified_at_once, .. } = settings;
        let (shared, own) = (SharedGlobals::new(&capacities, Pids::layout()?), Globals::new(&settings));
        let mut loader = shared.loader(&capacities, &heap_entries(&capacities, extras));
        own.set(&mut loader);
        let mut bpf = Self::load_with(&mut loader, &capacities, |object| {
            let probes = Probes::load(object, links, hooks, verified_at_once)?;
            let maps = HeapMaps::take(&mut object.ebpf)?;
            let sampling = sample_bytes.map(|_| SamplingTables::fill(&mut object.ebpf)).transpose()?;
            Ok(Heap {
                probes,
                recordings: Recordings::new(maps.recordings),
                code: CodeStore::new(
                    RowStore::new(maps.rows, maps.spare_rows),
                    maps.code_ranges,
                    maps.code_tables,
                    maps.trampolines,
                ),
                threads: ThreadCounts::new(maps.threads),
                calls: Calls::new(maps.calls),
                frees: Frees::new(maps.frees_wanted, maps.free_sites),
                pages: Pages::new(maps.resident, maps.mm_slots),
                hooked_code: HookedCode::new(maps.hooked_code),
                rings: Some((Events::new(maps.events), MappingEvents::new(maps.mapping_events))),
                _sampling: sampling,
                live: HashMap::new(),
                tables_bytes: capacities.table_bytes(extras),
                capacities,
                sample_bytes,
                is_adaptive,
                tells_segments: settings.address_space.is_known(),
            })
        })?;
        if sample_bytes.is_some() {
            bpf.blocks.count_samples(take_filter(&mut bpf.object.ebpf)?);
        }
        Ok(bpf)
    }

    /// Makes the process `pid` a target of this group, the first of the run where `is_first`. Returns its slot; `None` where it is a
    /// target already, or there is no room.
    ///
    /// # Errors
    /// Where it has ended, or a map cannot be written.
    pub fn open_process(
        &mut self,
        pid: u32,
        group: BudgetGroup,
        is_first: bool,
    ) -> Result<Option<ProcessSlot>, BpfError> {
        let tgid = self.pids.first(&mut self.object, pid)?;
        let Some(slot) = self.slots.take_unused() else {
            log::warn!("no room for process {pid}; --max-processes makes more");
            return Ok(None);
        };
        Ok(self.slots.open(slot, tgid, group, is_first)?.then_some(slot))
    }

    /// How many targets there is room for at a time, and how many sites, each with a stack of its own.
    #[must_use]
    pub fn room(&self) -> (usize, usize) {
        let Capacities { processes, sites, stacks, .. } = self.part.capacities;
        (processes as usize, sites.min(stacks) as usize)
    }

    /// Whether the process that a target is in still runs its program: after an exec it stands elsewhere, or nowhere.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn still_runs(&self, slot: ProcessSlot) -> Result<bool, BpfError> {
        self.slots.still_runs(slot)
    }

    /// Targets that are over: no thread of theirs can count any more, but their blocks are still there.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn close_processes(&mut self, slots: &[ProcessSlot]) -> Result<(), BpfError> {
        for slot in slots {
            self.slots.close(*slot)?;
            self.part.code.forget_ranges(*slot);
        }
        Ok(())
    }

    /// Forgets all of targets that were closed and swept, and makes their slots unused.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn recycle(&mut self, slots: &[ProcessSlot]) -> Result<(), BpfError> {
        let (gone, others): (Vec<_>, Vec<_>) =
            self.sites.all()?.into_iter().partition(|(_, site)| slots.contains(&site.process));
        let mut unneeded = self.part.frees.forget(&gone.iter().map(|(index, _)| *index).collect())?;
        for (index, site) in &gone {
            self.sites.forget(*index, site)?;
        }
        let needed: HashSet<StackId> = others.iter().map(|(_, site)| site.stack).collect();
        unneeded.extend(gone.iter().map(|(_, site)| site.stack).filter(|stack| !needed.contains(stack)));
        self.stacks.remove(&unneeded, || self.sites.stacks())?;
        self.part.calls.forget(slots);
        for slot in slots {
            self.part.code.forget(*slot)?;
            self.part.pages.forget(*slot)?;
            self.slots.recycle(*slot)?;
        }
        Ok(())
    }

    /// Forgets what was counted of the run as a whole, before another one begins. There are no targets then, and no probes.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn begin_again(&mut self) -> Result<(), BpfError> {
        self.slots.forget_run();
        self.part.threads.forget();
        self.part.live.clear();
        self.part.probes.share(&mut self.object, ProbeSet::Everything);
        self.part.recordings.begin_again()
    }

    /// The group of the target at a slot, as the programs have handed it on.
    #[must_use]
    pub fn group(&self, slot: ProcessSlot) -> BudgetGroup {
        self.slots.group(slot)
    }

    /// Tells the programs what to record of a group from now on, where that may change, under which mean gap if that is samples,
    /// and which window's blocks are followed; 0 for none.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn record(
        &mut self,
        group: BudgetGroup,
        recording: Recording,
        gap: MeanGap,
        cohort: u32,
    ) -> Result<(), BpfError> {
        self.part.recordings.set(group, recording, gap, cohort)
    }

    /// How many blocks are in the table, where samples may be taken.
    #[must_use]
    pub fn sampled_blocks(&self) -> u64 {
        self.blocks.samples()
    }

    /// Stores the unwind rows of an image. Returns where they stand; `None` where there is no room.
    pub fn add_rows(&mut self, rows: &[Row]) -> Option<RowPlace> {
        self.part.code.add_rows(rows)
    }

    /// Says where a target's code is and which rows it has: all of it, sorted by start. Ranges beyond the room are left out, those
    /// of files last. Returns whether there was room; where there is none by now, the target's code stays as it was.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_code(&mut self, slot: ProcessSlot, ranges: &[CodeRange]) -> Result<bool, BpfError> {
        self.part.code.set_ranges(slot, ranges)
    }

    /// Says where the kernel sends hooked returns in a target.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_trampoline(&mut self, slot: ProcessSlot, address: u64) -> Result<(), BpfError> {
        self.part.code.set_trampoline(slot, address)
    }

    /// Counts an event of a target that user space alone knows of.
    pub fn count(&self, slot: ProcessSlot, counter: Counter) {
        self.slots.count(slot, counter);
    }

    /// The mean number of bytes between samples; nothing where every allocation is recorded, and nothing else ever will
    /// be.
    #[must_use]
    pub fn sample_bytes(&self) -> Option<u64> {
        self.part.sample_bytes
    }

    /// Whether what is recorded may change.
    #[must_use]
    pub fn is_adaptive(&self) -> bool {
        self.part.is_adaptive
    }

    /// The requests of each target, exact but for calls that fail, where sites may have estimates; and the number of probed
    /// `ret`s that it has executed.
    #[must_use]
    pub fn requested(&self) -> HashMap<ProcessSlot, Requested> {
        let is_counted = self.part.sample_bytes.is_some() || self.part.probes.are_at_rets();
        if is_counted { self.part.threads.requested(&self.slots) } else { HashMap::new() }
    }

    /// For how long a target has run on a CPU that has ended, or whose program is over; `None` where that cannot be told. Of one
    /// that lives still, what its threads have run that have ended.
    #[must_use]
    pub fn cpu_time_at_end(&self, slot: ProcessSlot) -> Option<Duration> {
        self.slots.cpu_time_at_end(slot)
    }

    /// When a target's program began, where that was seen, and when a thread of it ended last, by `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn began_and_ended(&self, slot: ProcessSlot) -> (Option<Duration>, Option<Duration>) {
        self.slots.began_and_ended(slot)
    }

    /// The state of a target's resident memory, where pages are followed.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn resident(&self, slot: ProcessSlot) -> Result<Option<Resident>, BpfError> {
        self.part.pages.resident(slot)
    }

    /// Looks at every block: those of targets that are over go, and of windows that are judged, and each site learns what of it
    /// is live.
    pub fn sweep(&mut self) {
        let Heap { live, recordings, .. } = &mut self.part;
        *live = self.blocks.sweep(self.slots.closed(), |slot| recordings.cohort(self.slots.group(slot)));
    }

    /// The live blocks of a site, as of the last [`Self::sweep`]; `None` where none lived.
    #[must_use]
    pub fn live_blocks(&self, site: SiteIndex) -> Option<&LiveBlocks> {
        self.part.live.get(&site)
    }

    /// The live blocks of a target.
    #[must_use]
    pub fn blocks(&self, slot: ProcessSlot) -> Vec<FoundBlock> {
        self.blocks.of(slot)
    }

    /// Asks for the stacks of the next frees at these sites, and at no others.
    pub fn want_frees(&mut self, sites: &[SiteIndex]) {
        self.part.frees.want(sites);
    }

    /// How many blocks of each site were seen freed at each stack.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn free_sites(&self) -> Result<Vec<(FreeSite, u64)>, BpfError> {
        self.part.frees.seen()
    }

    /// The events and the changes of address spaces that the programs tell. Once.
    ///
    /// # Errors
    /// Where they were taken before.
    pub fn take_events(&mut self) -> Result<(Events, MappingEvents), BpfError> {
        self.part.rings.take().ok_or(BpfError::Missing("ring buffers"))
    }

    /// The debug lines of the programs, for [`Self::load`] with `debug_lines`. Once.
    ///
    /// # Errors
    /// Where they were taken before.
    pub fn debug_lines(&mut self) -> io::Result<DebugLines> {
        DebugLines::take(&mut self.object.ebpf)
    }

    /// The memory that all maps together take in the kernel by now, in bytes: by their sizes, and by a look at each that takes
    /// memory as its entries come.
    #[must_use]
    pub fn tables_bytes(&self) -> u64 {
        self.part.tables_bytes.saturating_add(self.object.grown_bytes())
    }
}
