//! The kernel side as user space sees it: loading, maps, their sizes and what they hold.

mod blocks;
mod calls;
mod capacities;
mod code;
mod frees;
mod hooked_code;
mod mapped;
mod memory;
mod multi;
mod pages;
mod pids;
mod probes;
mod threads;

use std::{
    collections::{HashMap, HashSet},
    fs,
    fs::File,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, CgroupArray, HashMap as BpfHashMap, Map, MapData, MapError, Queue, RingBuf},
    programs::{Program, ProgramError, RawTracePoint},
};
use memtrace_common::{
    block_table::{FILTER, buckets_for},
    control::Control,
    process::{Counter, Process, ProcessSlot, SlotOfProcess},
    sampling,
    site::{Site, SiteId, SiteIndex},
    stack::{StackId, StackRecord},
    thread::Requested,
    unwind::{CodeRange, CodeTable, Row},
};
use thiserror::Error;

pub use self::{
    blocks::FoundBlock,
    capacities::{Asked, Capacities, Extras},
    code::RowPlace,
    memory::{KernelMemory, MemorySettings, NEVER_SEEN},
    probes::{Armed, Handler, Links, Point},
};
use self::{
    blocks::{BlockTable, LiveBlocks},
    capacities::{MAX_RANGES, PAGE_BYTES, VM_EVENTS_BYTES},
    code::CodeStore,
    mapped::MappedArray,
    pages::PageLink,
    pids::Pids,
    probes::Probes,
    threads::ThreadCounts,
};
use super::{preflight, tracefs::TracefsError};
use crate::process::{
    status,
    task_type::{TaskOffsets, TaskTypeError},
};

/// The kernel side, as `cargo xtask` has built it; empty where only this crate was built (see `build.rs`).
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-ebpf.o"));

/// Whether this memtrace has a kernel side to load.
pub(super) const fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// By call frame information, compiled to rows.
    Rows,
    /// By frame pointers.
    FramePointers,
}

/// What could not be done with the kernel side.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Loading or map creation was refused.
    #[error("cannot load the BPF object: {0}")]
    Load(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("cannot load the BPF program `{name}`: {}", without_verifier_log(source))]
    Program {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The kernel does not have what was asked for.
    #[error("this kernel does not have {0}")]
    NoLinks(Links),
    /// A program for uprobe_multi links was refused.
    #[error("cannot load the BPF program `{name}` for uprobe_multi links: {source}")]
    MultiProgram {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A uprobe_multi link was refused.
    #[error("cannot attach the BPF program `{name}`: {source}")]
    Link {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A probe was refused.
    #[error("cannot attach the BPF program `{name}`: {source}")]
    Attach {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A tracepoint is not there, or not as it is known.
    #[error(transparent)]
    Tracefs(#[from] TracefsError),
    /// A tracepoint was refused.
    #[error("cannot attach the BPF program `{name}` to its tracepoint: {source}")]
    Tracepoint {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell what processes are called elsewhere.
    #[error("cannot tell pid namespaces apart: {0}")]
    Pids(#[from] TaskTypeError),
    /// A process has ended before it was a target.
    #[error("cannot trace process {pid}: no such process")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
    /// It is not known what the kernel calls a process.
    #[error("cannot find process {pid} outside of memtrace's pid namespace: {source}")]
    Namespace {
        /// The pid.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The object is not the one this binary was made with.
    #[error("the BPF object has no `{0}` of the expected kind")]
    Missing(&'static str),
    /// A map's memory cannot be reached.
    #[error("cannot map the BPF map `{name}` into memory: {source}")]
    MapMemory {
        /// The map's name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Reading or writing a map failed.
    #[error("cannot {action} the BPF map `{name}`: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map's name.
        name: &'static str,
        /// Why.
        source: Box<MapError>,
    },
}

impl KernelError {
    /// Whether the kernel had no memory for what was asked for: of its own, or where memtrace's is charged.
    #[must_use]
    pub fn is_for_want_of_memory(&self) -> bool {
        let causes = std::iter::successors(Some(self as &(dyn std::error::Error + 'static)), |error| error.source());
        let mut codes = causes.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
        codes.any(|code| code == libc::ENOMEM)
    }

    /// Whether a probe was refused because its process has ended.
    fn is_of_no_process(&self) -> bool {
        let code = match self {
            Self::Link { source, .. } => source.raw_os_error(),
            Self::Attach { source, .. } => match source.as_ref() {
                ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
                _ => None,
            },
            _ => None,
        };
        code == Some(libc::ESRCH)
    }
}

/// The kernel's answer without the verifier's account of it, which runs to hundreds of lines and goes to
/// the log.
fn without_verifier_log(error: &ProgramError) -> String {
    let text = error.to_string();
    log::info!("{text}");
    match text.split_once(". Verifier output:") {
        Some((answer, _)) => answer.to_owned(),
        None => text,
    }
}

/// The loaded BPF object. Dropping it detaches everything; so does the end of this process, however it
/// comes, because the kernel keeps programs and probes only while a file descriptor refers to them.
pub struct Kernel {
    ebpf: Ebpf,
    pids: Pids,
    probes: Probes,
    /// Where pages are followed.
    /// The tracepoint of pages, where it was looked for.
    page_event: Option<u64>,
    pages: Option<PageLink>,
    capacities: Capacities,
    tables_bytes: u64,
    sample_bytes: Option<u64>,
    is_adaptive: bool,
    sites: MappedArray<Site>,
    /// Of how many more frees at each site the stacks are wanted, and of which sites they are.
    frees_wanted: MappedArray<u64>,
    frees_wanted_of: HashSet<SiteIndex>,
    blocks: BlockTable,
    threads: ThreadCounts,
    /// Programs that are over, whose blocks are still there.
    over: HashSet<ProcessSlot>,
    /// Which window's blocks are being followed; 0 for none.
    cohort: u32,
    /// The live blocks of each site, as of the last sweep.
    live: HashMap<SiteIndex, LiveBlocks>,
    code: CodeStore,
    /// How long mappings of hooked code are.
    hooked_code: Vec<u64>,
}

/// What is set at load, for good.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How much each map can hold.
    pub capacities: Capacities,
    /// How stacks are walked.
    pub unwind: Unwind,
    /// Whether the programs write what they do to the log.
    pub debug_lines: bool,
    /// Where the kernel holds what is read of a task; nothing where children of targets do not matter.
    pub task: TaskOffsets,
    /// Whether changes of address spaces will be followed.
    pub address_spaces: bool,
    /// Whether it will be followed what makes pages resident.
    pub pages: bool,
    /// Whether anything will be hooked.
    pub hooks: bool,
    /// How probes are attached; by the best means that the kernel has where nothing is said.
    pub links: Option<Links>,
    /// The mean number of bytes between samples; nothing where every allocation is counted.
    pub sample_bytes: Option<u64>,
    /// Whether what is recorded will change: as [`Control::watch`] says, from then on.
    pub is_adaptive: bool,
}

/// `BPF_NOEXIST` of `<linux/bpf.h>`: insert only.
const BPF_NOEXIST: u64 = 1;

impl Kernel {
    /// Loads programs and maps.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub fn load(settings: Settings) -> Result<Self, KernelError> {
        let Settings {
            capacities,
            unwind,
            debug_lines,
            task,
            address_spaces,
            pages,
            hooks,
            links,
            sample_bytes,
            is_adaptive,
        } = settings;
        let pid_layout = Pids::layout()?;
        let log_level = if debug_lines { aya_log::Level::Debug as u8 } else { 0 };
        let gap = sample_bytes.unwrap_or(0);
        let half_tick_ns = u32::try_from(status::tick().as_nanos() / 2).unwrap_or(0);
        let has_loop = u8::from(preflight::has_bpf_loop());
        let adaptive = u8::from(is_adaptive);
        let by_rows = u8::from(unwind == Unwind::Rows);
        // Both are numbered from 1.
        let (slots, sites) = (capacities.processes.saturating_add(1), capacities.sites.saturating_add(1));
        let threads = capacities.threads.checked_next_power_of_two().unwrap_or(1 << 31);
        let (thread_mask, buckets) = (threads - 1, buckets_for(capacities.blocks));
        let (residents, mms) = if pages { (slots, capacities.processes) } else { (1, 1) };
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("PROCESS_SLOTS", capacities.processes)
            .map_max_entries("FREE_SLOTS", capacities.processes)
            .map_max_entries("PROCESSES", slots)
            .map_max_entries("RESIDENT", residents)
            .map_max_entries("MM_SLOTS", mms)
            .map_max_entries("TRAMPOLINES", slots)
            .map_max_entries("CODE_TABLES", slots)
            .map_max_entries("THREADS", threads)
            .map_max_entries("CALLS", threads)
            .map_max_entries("BLOCKS", buckets)
            .map_max_entries("SITES", sites)
            .map_max_entries("FREES_WANTED", sites)
            .map_max_entries("FREE_SITES", capacities.sites)
            .map_max_entries("SITE_INDICES", capacities.sites)
            .map_max_entries("STACKS", capacities.stacks)
            .map_max_entries("ROWS", capacities.rows)
            .map_max_entries("CODE_RANGES", MAX_RANGES)
            .map_max_entries("VM_EVENTS", if address_spaces { VM_EVENTS_BYTES } else { PAGE_BYTES })
            .override_global("UNWIND_BY_ROWS", &by_rows, true)
            .override_global("THREAD_MASK", &thread_mask, true)
            .override_global("BUCKETS", &buckets, true)
            .override_global("SAMPLE_BYTES", &gap, true)
            .override_global("IS_ADAPTIVE", &adaptive, true)
            .override_global("HAS_LOOP", &has_loop, true)
            .override_global("PID_LAYOUT", &pid_layout, true)
            .override_global("TASK_PID_OFFSET", &task.pid, true)
            .override_global("TASK_START_OFFSET", &task.start, true)
            .override_global("TASK_RUNTIME_OFFSET", &task.runtime, true)
            .override_global("HALF_TICK_NS", &half_tick_ns, true)
            .override_global(aya_log::LEVEL, &log_level, true);
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        let code = CodeStore::new(mapped(&ebpf, "ROWS", capacities.rows)?, mapped(&ebpf, "CODE_RANGES", MAX_RANGES)?);
        let filter = sample_bytes.map(|_| mapped(&ebpf, "FILTER", FILTER)).transpose()?;
        let blocks = BlockTable::new(mapped(&ebpf, "BLOCKS", buckets)?, filter);
        let threads = ThreadCounts::new(mapped(&ebpf, "THREADS", threads)?, mapped(&ebpf, "PROCESSES", slots)?);
        let frees_wanted = mapped(&ebpf, "FREES_WANTED", sites)?;
        let sites = mapped(&ebpf, "SITES", sites)?;
        let pids = Pids::load(&mut ebpf)?;
        let probes = Probes::load(&mut ebpf, links, hooks)?;
        let mut kernel = Self {
            ebpf,
            pids,
            probes,
            page_event: None,
            pages: None,
            capacities,
            tables_bytes: capacities.table_bytes(Extras { address_spaces, pages, page_frames: 0 }),
            sample_bytes,
            is_adaptive,
            sites,
            frees_wanted,
            frees_wanted_of: HashSet::new(),
            blocks,
            threads,
            over: HashSet::new(),
            cohort: 0,
            live: HashMap::new(),
            code,
            hooked_code: Vec::new(),
        };
        if sample_bytes.is_some() {
            kernel.fill("WEIGHTS", &sampling::weights())?;
            kernel.fill("LOGARITHMS", &sampling::logarithms())?;
        }
        kernel.free_slots((1..=capacities.processes).map(ProcessSlot))?;
        Ok(kernel)
    }

    /// Attaches the programs that follow tasks: ends of threads, execs and, where children matter, forks.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn follow_tasks(&mut self, forks: bool) -> Result<(), KernelError> {
        self.attach_tracepoint("thread_exit", "sched_process_exit")?;
        self.attach_tracepoint("process_exec", "sched_process_exec")?;
        if forks { self.attach_tracepoint("new_task", "task_newtask") } else { Ok(()) }
    }

    /// Attaches the program that stops targets once they have mapped code. It makes every system call of
    /// the host a little slower, so it is for commands that are traced from their first instruction.
    ///
    /// # Errors
    /// Where the kernel refuses the tracepoint.
    pub fn follow_mappings(&mut self) -> Result<(), KernelError> {
        self.attach_tracepoint("syscall_exit", "sys_exit")
    }

    /// Attaches the programs that tell what targets map by themselves. They make every system call of the host
    /// a little slower.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn follow_address_spaces(&mut self) -> Result<(), KernelError> {
        // What is mapped is told once it can be told that it is given up.
        self.attach_tracepoint("vm_enter", "sys_enter")?;
        self.attach_tracepoint("vm_leave", "sys_exit")
    }

    /// Attaches the program that tells whose the memory is that targets map: an allocator's or their own. It makes every system
    /// call of the host a little slower.
    ///
    /// # Errors
    /// Where the kernel refuses the tracepoint.
    pub fn follow_areas(&mut self) -> Result<(), KernelError> {
        self.attach_tracepoint("area_mapped", "sys_exit")
    }

    fn load_tracepoint(&mut self, name: &'static str) -> Result<&mut RawTracePoint, KernelError> {
        let program: &mut RawTracePoint = self.program(name)?;
        program.load().map_err(|source| KernelError::Program { name, source: Box::new(source) })?;
        Ok(program)
    }

    fn attach_tracepoint(&mut self, name: &'static str, tracepoint: &str) -> Result<(), KernelError> {
        let attached = self.load_tracepoint(name)?.attach(tracepoint);
        attached.map(drop).map_err(|source| KernelError::Program { name, source: Box::new(source) })
    }

    /// How probes are attached.
    #[must_use]
    pub fn links(&self) -> Links {
        self.probes.links()
    }

    /// Loads every program that tracing may need, also those for allocators that few programs have: to see whether
    /// the kernel takes them.
    ///
    /// # Errors
    /// Where the kernel refuses one.
    pub fn load_every_program(&mut self) -> Result<(), KernelError> {
        self.probes.load_rare(&mut self.ebpf)
    }

    /// Puts probes at these points of the file at `path`, for the process `pid` or for every process of the host.
    ///
    /// # Errors
    /// Where the kernel refuses a probe. Those that were attached by then stay until `self` is dropped.
    pub fn attach(
        &mut self,
        handler: Handler,
        pid: Option<NonZeroU32>,
        path: &Path,
        points: &[Point],
    ) -> Result<(), KernelError> {
        if points.is_empty() { Ok(()) } else { self.probes.attach(&mut self.ebpf, handler, pid, path, points) }
    }

    /// Puts probes in place, or takes them out, until those are that `armed` says. What is attached later keeps to it; what
    /// the kernel refuses is left out, with a warning.
    pub fn arm(&mut self, armed: Armed) {
        self.probes.arm(&mut self.ebpf, armed);
    }

    /// Puts those probes in place once more that fire no longer, because the main threads of their processes have ended.
    /// Returns whose they were.
    pub fn follow_leaders(&mut self) -> Vec<NonZeroU32> {
        self.probes.follow_leaders(&mut self.ebpf)
    }

    /// Takes out the probes in a process whose main thread is another one by now: they do not fire any more.
    pub fn unbind(&mut self, pid: NonZeroU32) {
        self.probes.unbind(pid);
    }

    /// Counts an event of a target that user space alone knows of.
    pub fn count(&self, slot: ProcessSlot, counter: Counter) {
        self.threads.count(slot, counter);
    }

    fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        program.try_into().map_err(|_| KernelError::Missing(name))
    }

    /// The kernel side's number for memtrace itself.
    #[must_use]
    pub fn own_tgid(&self) -> u32 {
        self.pids.own()
    }

    /// Makes the process `pid` a target, the first of the run where `is_first`. Returns its slot; `None` where it is a
    /// target already, or there is no room.
    ///
    /// # Errors
    /// Where it has ended, or a map cannot be written.
    pub fn open_process(&mut self, pid: u32, is_first: bool) -> Result<Option<ProcessSlot>, KernelError> {
        let tgid = self.pids.first(&self.ebpf, pid)?;
        let mut free: Queue<_, ProcessSlot> = self.map_mut("FREE_SLOTS")?;
        let slot = match free.pop(0) {
            Ok(slot) => slot,
            Err(_) => {
                log::warn!("no room for process {pid}; --max-processes makes more");
                return Ok(None);
            }
        };
        self.set("PROCESSES", slot.0, Process { tgid, ..Process::default() })?;
        // Before the other map: from then on an exec keeps both up to date.
        if is_first {
            self.set("FIRST_PROCESS", 0, SlotOfProcess::new(tgid, slot))?;
        }
        let mut slots: BpfHashMap<_, u32, ProcessSlot> = self.map_mut("PROCESS_SLOTS")?;
        if slots.insert(tgid, slot, BPF_NOEXIST).is_ok() {
            return Ok(Some(slot));
        }
        // The kernel side has found it in the meantime, at another slot.
        if is_first {
            self.set("FIRST_PROCESS", 0, SlotOfProcess::default())?;
        }
        self.free_slots([slot]).map(|()| None)
    }

    /// Whether the process that a target is in still runs its program: after an exec it stands elsewhere, or nowhere.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn still_runs(&self, slot: ProcessSlot) -> Result<bool, KernelError> {
        let tgid = self.process(slot)?.tgid;
        let slots: BpfHashMap<_, u32, ProcessSlot> = self.map("PROCESS_SLOTS")?;
        Ok(slots.get(&tgid, 0).is_ok_and(|at| at == slot))
    }

    /// Programs that are over: no thread of theirs can count any more, but their blocks are still there.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn close_processes(&mut self, slots: &[ProcessSlot]) -> Result<(), KernelError> {
        for slot in slots {
            self.over.insert(*slot);
            let tgid = self.process(*slot)?.tgid;
            let mut known: BpfHashMap<_, u32, ProcessSlot> = self.map_mut("PROCESS_SLOTS")?;
            // Whoever has that id now may be another.
            if known.get(&tgid, 0).is_ok_and(|at| at == *slot) {
                _ = known.remove(&tgid);
            }
            let first: Array<_, SlotOfProcess> = self.map("FIRST_PROCESS")?;
            if first.get(&0, 0).is_ok_and(|first| first.of(tgid) == Some(*slot)) {
                self.set("FIRST_PROCESS", 0, SlotOfProcess::default())?;
            }
            self.code.forget(*slot);
        }
        Ok(())
    }

    /// Forgets all of programs that were closed and swept, and makes their slots free.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn recycle(&mut self, slots: &[ProcessSlot]) -> Result<(), KernelError> {
        let (gone, others): (Vec<_>, Vec<_>) =
            self.sites()?.into_iter().partition(|(_, site)| slots.contains(&site.process));
        let needed: HashSet<StackId> = others.iter().map(|(_, site)| site.stack).collect();
        let mut unneeded = self.forget_free_sides(&gone.iter().map(|(index, _)| *index).collect())?;
        for (index, site) in gone {
            let mut indices: BpfHashMap<_, SiteId, SiteIndex> = self.map_mut("SITE_INDICES")?;
            // What is gone already need not be removed.
            _ = indices.remove(&SiteId::of(site.stack, site.process, site.category));
            if !needed.contains(&site.stack) {
                unneeded.insert(site.stack);
            }
            self.sites.set(index.0 as usize, Site::default());
            let mut free: Queue<_, SiteIndex> = self.map_mut("FREE_SITES")?;
            free.push(index, 0).map_err(failed("add to", "FREE_SITES"))?;
        }
        self.remove_stacks(&unneeded)?;
        self.forget_calls(slots)?;
        for slot in slots {
            self.set("CODE_TABLES", slot.0, CodeTable::default())?;
            self.set("TRAMPOLINES", slot.0, 0u64)?;
            self.forget_pages(*slot)?;
            self.set("PROCESSES", slot.0, Process::default())?;
            self.over.remove(slot);
        }
        self.free_slots(slots.iter().copied())
    }

    /// Removes stacks that no site needs. A thread may have opened a site with one of them meanwhile: it opens
    /// the site first and then looks for the stack, so that one of the two sides puts it back.
    fn remove_stacks(&mut self, unneeded: &HashSet<StackId>) -> Result<(), KernelError> {
        let mut removed = Vec::new();
        for id in unneeded {
            removed.extend(self.stack(*id)?.map(|record| (*id, record)));
            let mut stacks: BpfHashMap<_, StackId, StackRecord> = self.map_mut("STACKS")?;
            _ = stacks.remove(id);
        }
        let needed: HashSet<StackId> = self.sites()?.into_iter().map(|(_, site)| site.stack).collect();
        let mut stacks: BpfHashMap<_, StackId, StackRecord> = self.map_mut("STACKS")?;
        for (id, record) in removed.into_iter().filter(|(id, _)| needed.contains(id)) {
            // It may be there again by now.
            _ = stacks.insert(id, record, BPF_NOEXIST);
        }
        Ok(())
    }

    fn free_slots(&mut self, slots: impl IntoIterator<Item = ProcessSlot>) -> Result<(), KernelError> {
        let mut free: Queue<_, ProcessSlot> = self.map_mut("FREE_SLOTS")?;
        for slot in slots {
            free.push(slot, 0).map_err(failed("add to", "FREE_SLOTS"))?;
        }
        Ok(())
    }

    /// What the kernel side knows of a target; of the run as a whole for [`ProcessSlot::NONE`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn process(&self, slot: ProcessSlot) -> Result<Process, KernelError> {
        let processes: Array<_, Process> = self.map("PROCESSES")?;
        processes.get(&slot.0, 0).map_err(failed("read", "PROCESSES"))
    }

    /// Stores the unwind rows of an image. Returns where they stand; `None` where there is no room.
    pub fn add_rows(&mut self, rows: &[Row]) -> Option<RowPlace> {
        self.code.add_rows(rows)
    }

    /// Says where a target's code is and which rows it has: all of it, sorted by start. What goes beyond
    /// the room is left out.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_code(&mut self, slot: ProcessSlot, ranges: &[CodeRange]) -> Result<(), KernelError> {
        let (table, left_out) = self.code.set_ranges(slot, ranges);
        if left_out > 0 {
            log::warn!("no room for {left_out} of a process's {} ranges of code: stacks end there", ranges.len());
        }
        self.set("CODE_TABLES", slot.0, table)
    }

    /// Makes the programs of one cgroup and below targets, where [`Control::adoption`] says so.
    ///
    /// # Errors
    /// Where `cgroup` is no folder of a cgroup2 file system.
    pub fn set_cgroup(&mut self, cgroup: &File) -> Result<(), KernelError> {
        let map = self.ebpf.map_mut("CGROUPS").ok_or(KernelError::Missing("CGROUPS"))?;
        let set = CgroupArray::try_from(map).and_then(|mut cgroups| cgroups.set(0, cgroup.as_fd(), 0));
        set.map_err(failed("write to", "CGROUPS"))
    }

    /// Says where the kernel sends hooked returns in a target.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_trampoline(&mut self, slot: ProcessSlot, address: u64) -> Result<(), KernelError> {
        self.set("TRAMPOLINES", slot.0, address)
    }

    /// Tells the kernel side what to do from now on.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_control(&mut self, control: Control) -> Result<(), KernelError> {
        self.cohort = control.cohort;
        self.set("CONTROL", 0, control)
    }

    fn set<V: Pod>(&mut self, name: &'static str, index: u32, value: V) -> Result<(), KernelError> {
        set_entry(&mut self.ebpf, name, index, value)
    }

    fn fill(&mut self, name: &'static str, entries: &[u64]) -> Result<(), KernelError> {
        let mut map: Array<_, u64> = self.map_mut(name)?;
        (0..).zip(entries).try_for_each(|(index, entry)| map.set(index, entry, 0)).map_err(failed("write to", name))
    }

    /// The mean number of bytes between samples; nothing where every allocation is recorded, and nothing else ever will
    /// be.
    #[must_use]
    pub fn sample_bytes(&self) -> Option<u64> {
        self.sample_bytes
    }

    /// Whether what is recorded may change.
    #[must_use]
    pub fn is_adaptive(&self) -> bool {
        self.is_adaptive
    }

    /// The requests of each target, exact but for calls that fail, where sites may have estimates; and the number of probed
    /// `ret`s that it has executed.
    #[must_use]
    pub fn requested(&self) -> HashMap<ProcessSlot, Requested> {
        if self.sample_bytes.is_some() || self.probes.are_at_rets() { self.threads.requested() } else { HashMap::new() }
    }

    /// For how long a target has run on a CPU that has ended, or whose program is over; `None` where that cannot be told. Of one
    /// that lives still, what its threads have run that have ended.
    #[must_use]
    pub fn cpu_time_at_end(&self, slot: ProcessSlot) -> Option<Duration> {
        self.threads.cpu_time_at_end(slot)
    }

    /// Every site of every target.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sites(&self) -> Result<Vec<(SiteIndex, Site)>, KernelError> {
        let site = |index: u32| Some((SiteIndex(index), self.sites.get(index as usize)?));
        let sites = (1..=self.site_count()?).filter_map(site);
        Ok(sites.filter(|(_, site)| site.process != ProcessSlot::NONE).collect())
    }

    /// The live blocks of a site, as of the last [`Kernel::sweep`]; `None` where none lived.
    #[must_use]
    pub fn live_blocks(&self, site: SiteIndex) -> Option<&LiveBlocks> {
        self.live.get(&site)
    }

    /// How many places in the table of sites were ever given out.
    fn site_count(&self) -> Result<u32, KernelError> {
        let count: Array<_, u64> = self.map("SITE_COUNT")?;
        let count = count.get(&0, 0).map_err(failed("read", "SITE_COUNT"))?;
        // More may have been asked for than there are.
        Ok(u32::try_from(count).unwrap_or(u32::MAX).min(self.capacities.sites))
    }

    /// Looks at every block: those of programs that are over go, and of windows that are judged, and each site learns what of it
    /// is live.
    pub fn sweep(&mut self) {
        self.live = self.blocks.sweep(&self.over, self.cohort);
    }

    /// The live blocks of a target.
    #[must_use]
    pub fn blocks(&self, slot: ProcessSlot) -> Vec<FoundBlock> {
        self.blocks.of(slot)
    }

    /// The stack of a site; `None` where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn stack(&self, id: StackId) -> Result<Option<StackRecord>, KernelError> {
        let stacks: BpfHashMap<_, StackId, StackRecord> = self.map("STACKS")?;
        lookup(&stacks, "STACKS", &id)
    }

    /// A ring buffer: `EVENTS` or `VM_EVENTS`. Once.
    ///
    /// # Errors
    /// Where it was taken before.
    pub fn take_ring(&mut self, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
        let map = self.ebpf.take_map(name).ok_or(KernelError::Missing(name))?;
        RingBuf::try_from(map).map_err(failed("open", name))
    }

    /// The debug lines of the BPF side, for [`Kernel::load`] with `debug_lines`.
    ///
    /// # Errors
    /// Where the log's ring buffer cannot be opened.
    pub fn debug_lines(&mut self) -> io::Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(io::Error::other)
    }

    /// The memory that all maps together take in the kernel, in bytes: by their sizes, which costs no look at each.
    #[must_use]
    pub fn tables_bytes(&self) -> u64 {
        self.tables_bytes
    }

    /// The memory that each map takes in the kernel, in bytes, largest first.
    #[must_use]
    pub fn memory_bytes(&self) -> Vec<(String, u64)> {
        let mut sizes: Vec<_> = self
            .ebpf
            .maps()
            .filter_map(|(name, map)| {
                let descriptor = map_data(map)?.fd().as_fd().as_raw_fd();
                let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
                let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()?;
                Some((name.to_owned(), bytes))
            })
            .collect();
        sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        sizes
    }

    fn map<'a, M: TryFrom<&'a Map, Error = MapError>>(&'a self, name: &'static str) -> Result<M, KernelError> {
        map_of(&self.ebpf, name)
    }

    fn map_mut<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<M, KernelError> {
        map_mut_of(&mut self.ebpf, name)
    }
}

fn map_of<'a, M: TryFrom<&'a Map, Error = MapError>>(ebpf: &'a Ebpf, name: &'static str) -> Result<M, KernelError> {
    let map = ebpf.map(name).ok_or(KernelError::Missing(name))?;
    map.try_into().map_err(failed("open", name))
}

fn map_mut_of<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<M, KernelError> {
    let map = ebpf.map_mut(name).ok_or(KernelError::Missing(name))?;
    map.try_into().map_err(failed("open", name))
}

fn set_entry<V: Pod>(ebpf: &mut Ebpf, name: &'static str, index: u32, value: V) -> Result<(), KernelError> {
    let mut map: Array<_, V> = map_mut_of(ebpf, name)?;
    map.set(index, value, 0).map_err(failed("write to", name))
}

fn mapped<T: Pod>(ebpf: &Ebpf, name: &'static str, length: u32) -> Result<MappedArray<T>, KernelError> {
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(KernelError::Missing(name)) };
    MappedArray::new(map.fd(), length).map_err(|source| KernelError::MapMemory { name, source })
}

/// Two numbers that stand in one word.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn failed(action: &'static str, name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { action, name, source: Box::new(source) }
}

/// The kinds of maps that memtrace has.
fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::CgroupArray(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerfEventArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

fn lookup<K: Pod, V: Pod>(
    map: &BpfHashMap<&MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<Option<V>, KernelError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(failed("read", name)(source)),
    }
}
