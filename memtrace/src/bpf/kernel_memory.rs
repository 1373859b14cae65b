//! Tracing of the kernel's own memory: programs on its allocators' tracepoints, and what they count.

use std::collections::{HashMap, HashSet};

use aya::{
    Btf,
    programs::{FEntry, FExit, Program, ProgramError},
    util::nr_cpus,
};
use memtrace_common::{
    ids::{BudgetGroup, ProcessSlot, SiteIndex},
    wire::kernel_memory::{KERNEL, PageEntry, Scope},
};

use super::{
    capacities::Capacities,
    error::{BpfError, of_program},
    loaded::Loaded,
    mapped_array::MappedArray,
    maps::{kernel_entries, take_kernel_pages},
    object::{Object, SharedGlobals},
    pids::Pids,
};
use crate::{model::not_seen::KernelGap, process::kernel_types::KernelTypes};

/// A program and its tracepoint.
type Traced = (&'static str, &'static str);

/// Frees first: what is allocated under our eyes must not be freed behind our back.
const OBJECTS: [Traced; 4] = [
    ("kmem_kfree", "kfree"),
    ("kmem_obj_free", "kmem_cache_free"),
    ("kmem_kmalloc", "kmalloc"),
    ("kmem_obj_alloc", "kmem_cache_alloc"),
];
const PAGES: [Traced; 2] = [("kmem_page_free", "mm_page_free"), ("kmem_page_alloc", "mm_page_alloc")];
const PER_CPU: [Traced; 2] = [("kmem_cpu_free", "percpu_free_percpu"), ("kmem_cpu_alloc", "percpu_alloc_percpu")];
const AREAS: [Traced; 2] = [("kmem_area_free", "free_vmap_area_noflush"), ("kmem_area_alloc", "alloc_vmap_area")];

/// The settings made at load, for good.
#[derive(Clone, Copy, Debug)]
pub struct MemorySettings {
    /// How much each map can hold.
    pub capacities: Capacities,
    /// Whose allocations are recorded.
    pub scope: Scope,
    /// The kernel's types.
    pub types: KernelTypes,
    /// How many pages the machine has; nothing where pages are not to be traced.
    pub page_frames: Option<u64>,
    /// The code with which interrupts begin, from its first address to the one behind it, where that is known.
    pub interrupts: Option<(u64, u64)>,
}

fn load_function(program: &mut Program, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => FEntry::load(program, function, btf),
        Program::FExit(program) => FExit::load(program, function, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_function(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The part of the object that only tracing of the kernel's own memory has.
pub struct KernelPrograms {
    /// The state of each page, where pages are traced.
    pages: Option<MappedArray<u64>>,
    traced: Vec<Traced>,
    /// Events that no tracepoint tells: programs on the functions themselves, as far as the kernel takes them.
    functions: Vec<Traced>,
    /// The programs that it does not take, and why.
    refused: Vec<(&'static str, String)>,
}

impl KernelPrograms {
    /// The programs to load; none is loaded yet.
    fn new(settings: &MemorySettings, pages: Option<MappedArray<u64>>) -> Self {
        let MemorySettings { types, page_frames, .. } = settings;
        let mut traced = OBJECTS.to_vec();
        traced.extend(page_frames.map(|_| PAGES).into_iter().flatten());
        traced.extend(types.has_per_cpu.then_some(PER_CPU).into_iter().flatten());
        // The stack tells the use of an area, as it tells that of pages.
        traced.extend(page_frames.filter(|_| types.has_areas).map(|_| AREAS).into_iter().flatten());
        Self { pages, traced, functions: Vec::new(), refused: Vec::new() }
    }

    /// Loads the programs on functions. Programs that the kernel refuses are left out, and told ([`Loaded::not_seen`]).
    fn load_functions(&mut self, object: &mut Object, types: &KernelTypes) {
        let wanted: Vec<Traced> = [
            ("kmem_bulk_free", types.bulk_free),
            ("kmem_sheaf_free", types.sheaf_free),
            ("kmem_bulk_alloc", types.bulk_alloc),
        ]
        .into_iter()
        .filter_map(|(program, function)| Some((program, function?)))
        .collect();
        let btf = match Btf::from_sys_fs() {
            Ok(btf) => btf,
            Err(error) => {
                let why = error.to_string();
                return self.refused.extend(wanted.iter().map(|(name, _)| (*name, why.clone())));
            }
        };
        for (name, function) in wanted {
            match object.ebpf.program_mut(name).map(|program| load_function(program, function, &btf)) {
                Some(Ok(())) => self.functions.push((name, function)),
                Some(Err(error)) => self.refused.push((name, of_program(error).to_string())),
                None => {}
            }
        }
    }

    fn traces(&self, traced: &[Traced]) -> bool {
        traced.iter().all(|program| self.traced.contains(program))
    }
}

impl Loaded<KernelPrograms> {
    /// Loads programs and maps. Nothing is attached yet.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub fn load(settings: MemorySettings) -> Result<Self, BpfError> {
        let MemorySettings { capacities, scope, types, page_frames, interrupts } = settings;
        let frames = page_frames.unwrap_or(1).clamp(1, u64::from(u32::MAX));
        let (interrupt_start, interrupt_end) = interrupts.unwrap_or_default();
        // Where nobody knew, per-CPU maps could not be made either.
        let possible_cpus = nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1);
        let scope = scope as u32;
        let shared = SharedGlobals::new(&capacities, Pids::layout()?);
        let mut loader = shared.loader(&capacities, &kernel_entries(u32::try_from(frames).unwrap_or(u32::MAX)));
        loader
            .override_global("KERNEL_SCOPE", &scope, true)
            .override_global("CACHE_SIZE_OFFSET", &types.cache_size_offset, true)
            .override_global("PAGE_STRUCT_BYTES", &types.page_struct_bytes, true)
            .override_global("PAGE_FRAMES", &frames, true)
            .override_global("POSSIBLE_CPUS", &possible_cpus, true)
            .override_global("INTERRUPT_START", &interrupt_start, true)
            .override_global("INTERRUPT_END", &interrupt_end, true);
        Self::load_with(&mut loader, &capacities, |object| {
            let pages = page_frames.map(|_| take_kernel_pages(&mut object.ebpf)).transpose()?;
            let mut programs = KernelPrograms::new(&settings, pages);
            programs.traced.iter().try_for_each(|(name, _)| object.load_tracepoint(name))?;
            programs.load_functions(object, &types);
            Ok(programs)
        })
    }

    /// The parts of the kernel's memory that cannot be seen on this machine, beside [`KernelGap::Always`].
    #[must_use]
    pub fn not_seen(&self) -> Vec<KernelGap> {
        let is_refused = |program: &str| self.part.refused.iter().any(|(name, _)| *name == program);
        let lacks = |traced: &[Traced]| !self.part.traces(traced);
        let missing = [
            lacks(&PAGES).then_some(KernelGap::Pages),
            (!lacks(&PAGES) && lacks(&AREAS)).then_some(KernelGap::VmallocInBulk),
            lacks(&PER_CPU).then_some(KernelGap::PerCpu),
            is_refused("kmem_bulk_alloc").then_some(KernelGap::AllocatedInBulk),
            (is_refused("kmem_bulk_free") || is_refused("kmem_sheaf_free")).then_some(KernelGap::FreedInBulk),
        ];
        missing.into_iter().flatten().collect()
    }

    /// Why the kernel takes no programs on its functions, where it does not: what is told by nothing else is not seen.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.part.refused.first().map(|(_, why)| why.as_str())
    }

    /// Whether areas of vmalloc are counted by themselves.
    #[must_use]
    pub fn counts_areas(&self) -> bool {
        self.part.traces(&AREAS)
    }

    /// Attaches the programs.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn attach(&mut self) -> Result<(), BpfError> {
        let Self { object, part: KernelPrograms { traced, functions, refused, .. }, .. } = self;
        functions.retain(|(name, _)| match object.ebpf.program_mut(name).map(attach_function) {
            Some(Err(error)) => {
                refused.push((name, of_program(error).to_string()));
                false
            }
            attached => attached.is_some(),
        });
        traced.iter().try_for_each(|(name, tracepoint)| object.attach_tracepoint(name, tracepoint))
    }

    /// The tracepoints and functions of each allocator that is traced: of objects, pages, per-CPU memory and areas.
    #[must_use]
    pub fn tracepoints(&self) -> Vec<(&'static str, Vec<String>)> {
        let of = |traced: &[Traced]| traced.iter().map(|(_, traced)| (*traced).to_owned()).collect();
        let slab = [&OBJECTS[..], &self.part.functions].concat();
        let others = [("pages", PAGES), ("percpu", PER_CPU), ("vmalloc", AREAS)];
        let others = others.iter().filter(|(_, traced)| self.part.traces(traced));
        [("slab", of(&slab))].into_iter().chain(others.map(|(name, traced)| (*name, of(traced)))).collect()
    }

    /// How often the kernel has passed a program over because it was running on that CPU already: what an interrupt has allocated or
    /// freed at such a moment is missing from the figures. From the programs' own accounts (`recursion_misses`, Linux 5.13).
    #[must_use]
    pub fn missed_runs(&self) -> u64 {
        let programs = self.part.traced.iter().chain(&self.part.functions);
        programs.filter_map(|(name, _)| self.object.missed_runs(name)).sum()
    }

    /// Makes the process `pid` a target. Returns its slot; `None` where there is no room.
    ///
    /// # Errors
    /// Where it has ended, or a map cannot be written.
    pub fn open_process(&mut self, pid: u32) -> Result<Option<ProcessSlot>, BpfError> {
        let tgid = self.pids.first(&mut self.object, pid)?;
        let Some(slot) = self.slots.take_unused() else { return Ok(None) };
        Ok(self.slots.open(slot, tgid, BudgetGroup::SHARED, slot == KERNEL)?.then_some(slot))
    }

    /// A process has ended: whoever gets its pid is no target.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn close_process(&mut self, slot: ProcessSlot) -> Result<(), BpfError> {
        self.slots.close(slot)
    }

    /// When the oldest that is live of each site was allocated, in milliseconds since the start: one look at everything.
    #[must_use]
    pub fn oldest_born_ms(&self) -> HashMap<SiteIndex, u32> {
        let live = self.blocks.sweep(&HashSet::new(), |_| 0);
        let mut oldest: HashMap<SiteIndex, u32> =
            live.into_iter().map(|(site, blocks)| (site, blocks.oldest_born_ms)).collect();
        let pages = self.part.pages.iter().flat_map(|pages| (0..pages.len()).filter_map(|index| pages.get(index)));
        for entry in pages.map(PageEntry).filter(|entry| entry.site() != SiteIndex::NONE) {
            let known = oldest.entry(entry.site()).or_insert(entry.born_ms());
            *known = entry.born_ms().min(*known);
        }
        oldest
    }
}
