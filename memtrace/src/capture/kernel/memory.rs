//! The kernel side for the kernel's own memory: programs on its allocators' tracepoints, and what they count.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, CgroupArray, HashMap as BpfHashMap},
    programs::{FEntry, FExit, Program, ProgramError, RawTracePoint},
    util::nr_cpus,
};
use memtrace_common::{
    block_table::buckets_for,
    control::Control,
    kernel_memory::{KERNEL, PageEntry, Scope},
    process::{Process, ProcessSlot, SlotOfProcess},
    site::{Site, SiteIndex},
    stack::{StackId, StackRecord},
};

use super::{
    BPF_NOEXIST, Capacities, KernelError, OBJECT, blocks::BlockTable, failed, lookup, map_data, map_mut_of, map_of,
    mapped, mapped::MappedArray, pids::Pids, set_entry, without_verifier_log,
};
use crate::process::kernel_types::KernelTypes;

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

/// What no kernel tells.
pub const NEVER_SEEN: &str =
    "pages that are allocated in bulk for others (page pools of network drivers) or moved by compaction";

/// What is set at load, for good.
#[derive(Clone, Copy, Debug)]
pub struct MemorySettings {
    /// How much each map can hold.
    pub capacities: Capacities,
    /// Whose allocations are recorded.
    pub scope: Scope,
    /// What the kernel's types say.
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

/// The loaded programs. Dropping it detaches everything; so does the end of this process, however it comes.
pub struct KernelMemory {
    ebpf: Ebpf,
    pids: Pids,
    sites: MappedArray<Site>,
    max_sites: u32,
    blocks: BlockTable,
    /// What is known of each page, where pages are traced.
    pages: Option<MappedArray<u64>>,
    traced: Vec<Traced>,
    /// What is told by no tracepoint: programs on the functions themselves, as far as the kernel takes them.
    functions: Vec<Traced>,
    /// Those of them that it does not take, and why.
    refused: Vec<(&'static str, String)>,
    /// How many targets there are by now, where only some processes are asked about.
    targets: u32,
}

impl KernelMemory {
    /// Loads programs and maps. Nothing is attached yet.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub fn load(settings: MemorySettings) -> Result<Self, KernelError> {
        let MemorySettings { capacities, scope, types, page_frames, interrupts } = settings;
        let sites = capacities.sites.saturating_add(1);
        let buckets = buckets_for(capacities.blocks);
        let frames = page_frames.unwrap_or(1).clamp(1, u64::from(u32::MAX));
        let frame_entries = u32::try_from(frames).unwrap_or(u32::MAX);
        let (interrupt_start, interrupt_end) = interrupts.unwrap_or_default();
        // Where nobody knew, per-CPU maps could not be made either.
        let possible_cpus = nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1);
        let (scope, has_loop) = (scope as u32, u8::from(super::preflight::has_bpf_loop()));
        let pid_layout = Pids::layout()?;
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("PROCESS_SLOTS", capacities.processes)
            .map_max_entries("PROCESSES", capacities.processes.saturating_add(1))
            .map_max_entries("BLOCKS", buckets)
            .map_max_entries("SITES", sites)
            .map_max_entries("FREE_SITES", capacities.sites)
            .map_max_entries("SITE_INDICES", capacities.sites)
            .map_max_entries("STACKS", capacities.stacks)
            .map_max_entries("PAGES_OF_KERNEL", frame_entries)
            .override_global("BUCKETS", &buckets, true)
            .override_global("HAS_LOOP", &has_loop, true)
            .override_global("PID_LAYOUT", &pid_layout, true)
            .override_global("KERNEL_SCOPE", &scope, true)
            .override_global("CACHE_SIZE_OFFSET", &types.cache_size_offset, true)
            .override_global("PAGE_STRUCT_BYTES", &types.page_struct_bytes, true)
            .override_global("PAGE_FRAMES", &frames, true)
            .override_global("POSSIBLE_CPUS", &possible_cpus, true)
            .override_global("INTERRUPT_START", &interrupt_start, true)
            .override_global("INTERRUPT_END", &interrupt_end, true);
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        let pids = Pids::load(&mut ebpf)?;
        let mut traced = OBJECTS.to_vec();
        traced.extend(page_frames.map(|_| PAGES).into_iter().flatten());
        traced.extend(types.has_per_cpu.then_some(PER_CPU).into_iter().flatten());
        // What is mapped to an area is told by the stack, as it is of pages.
        traced.extend(page_frames.filter(|_| types.has_areas).map(|_| AREAS).into_iter().flatten());
        let pages = page_frames.map(|_| mapped(&ebpf, "PAGES_OF_KERNEL", frame_entries)).transpose()?;
        let blocks = BlockTable::new(mapped(&ebpf, "BLOCKS", buckets)?, None);
        let (sites, max_sites) = (mapped(&ebpf, "SITES", sites)?, capacities.sites);
        let mut memory = Self {
            ebpf,
            pids,
            sites,
            max_sites,
            blocks,
            pages,
            traced,
            functions: Vec::new(),
            refused: Vec::new(),
            targets: 0,
        };
        for (name, _) in memory.traced.clone() {
            memory.program(name)?.load().map_err(|source| KernelError::Program { name, source: Box::new(source) })?;
        }
        memory.load_functions(&types);
        Ok(memory)
    }

    /// Loads the programs on functions. What the kernel refuses is left out, and told ([`Self::not_seen`]).
    fn load_functions(&mut self, types: &KernelTypes) {
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
            match self.ebpf.program_mut(name).map(|program| load_function(program, function, &btf)) {
                Some(Ok(())) => self.functions.push((name, function)),
                Some(Err(error)) => self.refused.push((name, without_verifier_log(&error))),
                None => {}
            }
        }
    }

    /// What of the kernel's memory cannot be seen on this machine, in words, beside [`NEVER_SEEN`].
    #[must_use]
    pub fn not_seen(&self) -> Vec<String> {
        let is_refused = |program: &str| self.refused.iter().any(|(name, _)| *name == program);
        let lacks = |traced: &[Traced]| !self.traces(traced);
        let missing = [
            lacks(&PAGES).then(|| "pages and vmalloc".to_owned()),
            (!lacks(&PAGES) && lacks(&AREAS)).then(|| "pages that vmalloc takes in bulk".to_owned()),
            lacks(&PER_CPU).then(|| "per-CPU memory".to_owned()),
            is_refused("kmem_bulk_alloc").then(|| "objects that are allocated in bulk".to_owned()),
            (is_refused("kmem_bulk_free") || is_refused("kmem_sheaf_free")).then(|| {
                "frees in bulk and after a grace period: such objects look live until their addresses are handed out again".to_owned()
            }),
        ];
        missing.into_iter().flatten().collect()
    }

    /// Why the kernel takes no programs on its functions, where it does not: what is told by nothing else is not seen.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refused.first().map(|(_, why)| why.as_str())
    }

    /// Whether areas of vmalloc are counted by themselves.
    #[must_use]
    pub fn counts_areas(&self) -> bool {
        self.traces(&AREAS)
    }

    fn traces(&self, traced: &[Traced]) -> bool {
        traced.iter().all(|program| self.traced.contains(program))
    }

    /// Attaches the programs.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        let Self { ebpf, functions, refused, .. } = self;
        functions.retain(|(name, _)| match ebpf.program_mut(name).map(attach_function) {
            Some(Err(error)) => {
                refused.push((name, without_verifier_log(&error)));
                false
            }
            attached => attached.is_some(),
        });
        for (name, tracepoint) in self.traced.clone() {
            let attached = self.program(name)?.attach(tracepoint);
            attached.map(drop).map_err(|source| KernelError::Attach { name, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// The tracepoints and functions of each allocator that is traced: of objects, pages, per-CPU memory and areas.
    #[must_use]
    pub fn tracepoints(&self) -> Vec<(&'static str, Vec<String>)> {
        let of = |traced: &[Traced]| traced.iter().map(|(_, traced)| (*traced).to_owned()).collect();
        let slab = [&OBJECTS[..], &self.functions].concat();
        let others = [("pages", PAGES), ("percpu", PER_CPU), ("vmalloc", AREAS)];
        let others = others.iter().filter(|(_, traced)| self.traces(traced));
        [("slab", of(&slab))].into_iter().chain(others.map(|(name, traced)| (*name, of(traced)))).collect()
    }

    /// How often the kernel has passed a program over because it was running on that CPU already: what an interrupt has allocated or
    /// freed at such a moment is missing from the figures. From the programs' own accounts (`recursion_misses`, Linux 5.13).
    #[must_use]
    pub fn missed_runs(&self) -> u64 {
        let missed = |name: &str| {
            let descriptor = self.ebpf.program(name)?.fd().ok()?.as_fd().as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse::<u64>().ok()
        };
        self.traced.iter().chain(&self.functions).filter_map(|(name, _)| missed(name)).sum()
    }

    fn program(&mut self, name: &'static str) -> Result<&mut RawTracePoint, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        program.try_into().map_err(|_| KernelError::Missing(name))
    }

    /// Gives the kernel as a whole its place among the targets.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn open_kernel(&mut self) -> Result<ProcessSlot, KernelError> {
        self.targets = KERNEL.0;
        set_entry(&mut self.ebpf, "PROCESSES", KERNEL.0, Process::default())?;
        Ok(KERNEL)
    }

    /// The programs' number for memtrace itself.
    #[must_use]
    pub fn own_tgid(&self) -> u32 {
        self.pids.own()
    }

    /// Makes the process `pid` a target. Returns its slot; `None` where there is no room.
    ///
    /// # Errors
    /// Where it has ended, or a map cannot be written.
    pub fn open_process(&mut self, pid: u32) -> Result<Option<ProcessSlot>, KernelError> {
        let tgid = self.pids.first(&self.ebpf, pid)?;
        let slot = ProcessSlot(self.targets + 1);
        let mut slots: BpfHashMap<_, u32, ProcessSlot> = map_mut_of(&mut self.ebpf, "PROCESS_SLOTS")?;
        if slots.insert(tgid, slot, BPF_NOEXIST).is_err() {
            return Ok(None);
        }
        self.targets = slot.0;
        set_entry(&mut self.ebpf, "PROCESSES", slot.0, Process { tgid, ..Process::default() })?;
        if slot == KERNEL {
            set_entry(&mut self.ebpf, "FIRST_PROCESS", 0, SlotOfProcess::new(tgid, slot))?;
        }
        Ok(Some(slot))
    }

    /// A process has ended: whoever gets its pid is no target.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn close_process(&mut self, slot: ProcessSlot) -> Result<(), KernelError> {
        let tgid = self.process(slot)?.tgid;
        let mut slots: BpfHashMap<_, u32, ProcessSlot> = map_mut_of(&mut self.ebpf, "PROCESS_SLOTS")?;
        // What is gone already need not be removed.
        _ = slots.remove(&tgid);
        if slot == KERNEL { set_entry(&mut self.ebpf, "FIRST_PROCESS", 0, SlotOfProcess::default()) } else { Ok(()) }
    }

    /// Says in which cgroup processes are whose allocations are recorded.
    ///
    /// # Errors
    /// Where `cgroup` is no folder of a cgroup2 file system.
    pub fn set_cgroup(&mut self, cgroup: &File) -> Result<(), KernelError> {
        let map = self.ebpf.map_mut("CGROUPS").ok_or(KernelError::Missing("CGROUPS"))?;
        let set = CgroupArray::try_from(map).and_then(|mut cgroups| cgroups.set(0, cgroup.as_fd(), 0));
        set.map_err(failed("write to", "CGROUPS"))
    }

    /// Tells the programs what to do from now on.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_control(&mut self, control: Control) -> Result<(), KernelError> {
        set_entry(&mut self.ebpf, "CONTROL", 0, control)
    }

    /// What the programs know of a target; of the run as a whole for [`ProcessSlot::NONE`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn process(&self, slot: ProcessSlot) -> Result<Process, KernelError> {
        let processes: Array<_, Process> = map_of(&self.ebpf, "PROCESSES")?;
        processes.get(&slot.0, 0).map_err(failed("read", "PROCESSES"))
    }

    /// Every site.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sites(&self) -> Result<Vec<(SiteIndex, Site)>, KernelError> {
        let count: Array<_, u64> = map_of(&self.ebpf, "SITE_COUNT")?;
        let count = count.get(&0, 0).map_err(failed("read", "SITE_COUNT"))?;
        // More may have been asked for than there are.
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.max_sites);
        let site = |index: u32| Some((SiteIndex(index), self.sites.get(index as usize)?));
        let sites = (1..=count).filter_map(site);
        Ok(sites.filter(|(_, site)| site.process != ProcessSlot::NONE).collect())
    }

    /// The stack of a site; `None` where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn stack(&self, id: StackId) -> Result<Option<StackRecord>, KernelError> {
        let stacks: BpfHashMap<_, StackId, StackRecord> = map_of(&self.ebpf, "STACKS")?;
        lookup(&stacks, "STACKS", &id)
    }

    /// When the oldest that is live of each site was allocated, in milliseconds since the start: one look at everything.
    #[must_use]
    pub fn oldest_born_ms(&self) -> HashMap<SiteIndex, u32> {
        let live = self.blocks.sweep(&HashSet::new(), 0);
        let mut oldest: HashMap<SiteIndex, u32> =
            live.into_iter().map(|(site, blocks)| (site, blocks.oldest_born_ms)).collect();
        let pages = self.pages.iter().flat_map(|pages| (0..pages.len()).filter_map(|index| pages.get(index)));
        for entry in pages.map(PageEntry).filter(|entry| entry.site() != SiteIndex::NONE) {
            let known = oldest.entry(entry.site()).or_insert(entry.born_ms());
            *known = entry.born_ms().min(*known);
        }
        oldest
    }

    /// The memory that the maps take in the kernel, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let bytes = |map: &aya::maps::Map| {
            let descriptor = map_data(map)?.fd().as_fd().as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse::<u64>().ok()
        };
        self.ebpf.maps().filter_map(|(_, map)| bytes(map)).sum()
    }
}
