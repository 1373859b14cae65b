//! The kernel side as user space sees it: loading, maps, their sizes and what they hold.

use std::{
    collections::HashMap as Entries,
    fs,
    hash::Hash,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, RingBuf},
    programs::{
        Program, ProgramError, RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
    },
};
use memtrace_common::{
    block::{BlockKey, LiveBlock},
    control::Control,
    process::{Process, ProcessSlot},
    site::{Site, SiteIndex},
    stack::{StackId, StackRecord},
    unwind::{CodeRange, CodeTable, Row},
};
use thiserror::Error;

use super::row_table::RowTable;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-ebpf.o"));

/// How much each map can hold. All of it is allocated at load: an insert must not fail for want of
/// memory at a moment when the kernel cannot wait for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Blocks that are live at the same time.
    pub blocks: u32,
    /// Allocation sites.
    pub sites: u32,
    /// Distinct stacks.
    pub stacks: u32,
    /// Threads that allocate, at the same time.
    pub threads: u32,
    /// Unwind rows, of all images together.
    pub rows: u32,
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// By call frame information, compiled to rows.
    Rows,
    /// By frame pointers.
    FramePointers,
}

/// The most ranges of code that a target can have; two versions fit the table at a time.
const MAX_RANGES: u16 = 4096;

/// Targets at the same time.
const MAX_PROCESSES: u32 = 1024;

impl Default for Capacities {
    fn default() -> Self {
        Self { blocks: 1 << 20, sites: 1 << 15, stacks: 1 << 14, threads: 1 << 13, rows: 1 << 21 }
    }
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
    /// A probe was refused.
    #[error("cannot attach the BPF program `{name}`: {source}")]
    Attach {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
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
    capacities: Capacities,
    rows: RowTable,
    code_generation: u32,
}

/// The uprobe programs, each loaded once and attached at many places.
const UPROBES: [&str; 10] = [
    "alloc_entry",
    "resize_entry",
    "alloc_return",
    "alloc_ret",
    "call_left",
    "call_caught",
    "free_entry",
    "linker_notice",
    "empty_entry",
    "empty_return",
];

impl Kernel {
    /// Loads programs and maps. With `debug_lines` the programs write what they do to the log.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub fn load(capacities: Capacities, unwind: Unwind, debug_lines: bool) -> Result<Self, KernelError> {
        let log_level = if debug_lines { aya_log::Level::Debug as u8 } else { 0 };
        let by_rows = u8::from(unwind == Unwind::Rows);
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("PROCESS_SLOTS", MAX_PROCESSES)
            .map_max_entries("PROCESSES", MAX_PROCESSES)
            .map_max_entries("TRAMPOLINES", MAX_PROCESSES)
            .map_max_entries("THREADS", capacities.threads)
            .map_max_entries("BLOCKS", capacities.blocks)
            // Sites are numbered from 1.
            .map_max_entries("SITES", capacities.sites.saturating_add(1))
            .map_max_entries("SITE_INDICES", capacities.sites)
            .map_max_entries("STACKS", capacities.stacks)
            .map_max_entries("ROWS", capacities.rows)
            .map_max_entries("CODE_RANGES", 2 * u32::from(MAX_RANGES))
            .map_max_entries("CODE_TABLES", MAX_PROCESSES)
            .override_global("UNWIND_BY_ROWS", &by_rows, true)
            .override_global(aya_log::LEVEL, &log_level, true);
        let ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        let rows = row_table(&ebpf, capacities.rows)?;
        let mut kernel = Self { ebpf, capacities, rows, code_generation: 0 };
        for name in UPROBES {
            let program: &mut UProbe = kernel.program(name)?;
            program.load().map_err(|source| KernelError::Program { name, source: Box::new(source) })?;
        }
        Ok(kernel)
    }

    /// Attaches the programs that follow tasks: exits of threads and execs.
    ///
    /// # Errors
    /// Where the kernel refuses a tracepoint.
    pub fn follow_tasks(&mut self) -> Result<(), KernelError> {
        self.attach_tracepoint("thread_exit", "sched_process_exit")?;
        self.attach_tracepoint("process_exec", "sched_process_exec")
    }

    /// Attaches the program that stops targets once they have mapped code. It makes every system call of
    /// the host a little slower, so it is for commands that are traced from their first instruction.
    ///
    /// # Errors
    /// Where the kernel refuses the tracepoint.
    pub fn follow_mappings(&mut self) -> Result<(), KernelError> {
        self.attach_tracepoint("syscall_exit", "sys_exit")
    }

    fn attach_tracepoint(&mut self, name: &'static str, tracepoint: &str) -> Result<(), KernelError> {
        let program: &mut RawTracePoint = self.program(name)?;
        program
            .load()
            .and_then(|()| program.attach(tracepoint).map(drop))
            .map_err(|source| KernelError::Program { name, source: Box::new(source) })
    }

    /// Attaches a uprobe program for the process `pid`, this many bytes into a file, with a cookie that
    /// the program can read.
    ///
    /// # Errors
    /// Where the object has no such program, or the kernel refuses the probe.
    pub fn attach_uprobe(
        &mut self,
        name: &'static str,
        pid: NonZeroU32,
        path: &Path,
        file_offset: u64,
        cookie: u64,
    ) -> Result<(), KernelError> {
        let point =
            UProbeAttachPoint { location: UProbeAttachLocation::AbsoluteOffset(file_offset), cookie: Some(cookie) };
        let program: &mut UProbe = self.program(name)?;
        let attached = program.attach(point, path, UProbeScope::OneProcess(pid));
        attached.map(drop).map_err(|source| KernelError::Attach { name, source: Box::new(source) })
    }

    fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        program.try_into().map_err(|_| KernelError::Missing(name))
    }

    /// Makes `tgid` a target, in the given slot.
    ///
    /// # Errors
    /// Where there are too many targets.
    pub fn add_process(&mut self, tgid: u32, slot: ProcessSlot) -> Result<(), KernelError> {
        let mut slots: HashMap<_, u32, ProcessSlot> = self.map_mut("PROCESS_SLOTS")?;
        slots.insert(tgid, slot, 0).map_err(|source| KernelError::Map {
            action: "add a process to",
            name: "PROCESS_SLOTS",
            source: Box::new(source),
        })
    }

    /// What the kernel side knows of a target.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn process(&self, slot: ProcessSlot) -> Result<Process, KernelError> {
        let processes: Array<_, Process> = self.map("PROCESSES")?;
        processes.get(&slot.0, 0).map_err(|source| KernelError::Map {
            action: "read",
            name: "PROCESSES",
            source: Box::new(source),
        })
    }

    /// Stores the unwind rows of an image. Returns where they stand; `None` where there is no room.
    pub fn add_rows(&mut self, rows: &[Row]) -> Option<(u32, u32)> {
        self.rows.append(rows)
    }

    /// Says where a target's code is and which rows it has: all of it, sorted by start. What goes beyond
    /// the room is left out.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_code(&mut self, slot: ProcessSlot, ranges: &[CodeRange]) -> Result<(), KernelError> {
        if ranges.len() > usize::from(MAX_RANGES) {
            log::warn!("{} ranges of code, of which only {MAX_RANGES} can be unwound", ranges.len());
        }
        self.code_generation = self.code_generation.wrapping_add(1);
        // The other version may be in use by a walk at this moment.
        let first = if self.code_generation.is_multiple_of(2) { 0 } else { MAX_RANGES };
        let mut count = 0;
        for range in ranges.iter().take(MAX_RANGES.into()) {
            self.set("CODE_RANGES", u32::from(first) + u32::from(count), *range)?;
            count += 1;
        }
        self.set("CODE_TABLES", slot.0, CodeTable::new(first, count, self.code_generation))
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
        self.set("CONTROL", 0, control)
    }

    fn set<V: Pod>(&mut self, name: &'static str, index: u32, value: V) -> Result<(), KernelError> {
        let mut map: Array<_, V> = self.map_mut(name)?;
        map.set(index, value, 0).map_err(|source| KernelError::Map {
            action: "write to",
            name,
            source: Box::new(source),
        })
    }

    /// Every site of every target, of every program that they were.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sites(&self) -> Result<Vec<(SiteIndex, Site)>, KernelError> {
        let failed = |name| move |source| KernelError::Map { action: "read", name, source: Box::new(source) };
        let count: Array<_, u64> = self.map("SITE_COUNT")?;
        let count = count.get(&0, 0).map_err(failed("SITE_COUNT"))?;
        // More may have been asked for than there are.
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.capacities.sites);
        let sites: Array<_, Site> = self.map("SITES")?;
        let mut all = Vec::with_capacity(count as usize);
        for index in 1..=count {
            let site = sites.get(&index, 0).map_err(failed("SITES"))?;
            if site.alloc_objects > 0 {
                all.push((SiteIndex(index), site));
            }
        }
        Ok(all)
    }

    /// The stack of a site; `None` where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn stack(&self, id: StackId) -> Result<Option<StackRecord>, KernelError> {
        let stacks: HashMap<_, StackId, StackRecord> = self.map("STACKS")?;
        lookup(&stacks, "STACKS", &id)
    }

    /// Every live block, in no order.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn blocks(&self) -> Result<Entries<BlockKey, LiveBlock>, KernelError> {
        let blocks: HashMap<_, BlockKey, LiveBlock> = self.map("BLOCKS")?;
        entries(&blocks, "BLOCKS", self.capacities.blocks)
    }

    /// Forgets the blocks of what a process was before its `generation`-th exec: they take up room.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn forget_before_exec(&mut self, slot: ProcessSlot, generation: u64) -> Result<(), KernelError> {
        let is_old = |key: &BlockKey| key.process == slot && u64::from(key.exec_generation) < generation;
        let blocks = self.blocks()?;
        let mut map: HashMap<_, BlockKey, LiveBlock> = self.map_mut("BLOCKS")?;
        for key in blocks.into_keys().filter(is_old) {
            // Whatever is gone already need not be removed.
            _ = map.remove(&key);
        }
        Ok(())
    }

    /// The ring buffer of rare events. Once.
    ///
    /// # Errors
    /// Where it was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Missing("EVENTS"))?;
        RingBuf::try_from(map).map_err(|source| KernelError::Map {
            action: "open",
            name: "EVENTS",
            source: Box::new(source),
        })
    }

    /// The debug lines of the BPF side, for [`Kernel::load`] with `debug_lines`.
    ///
    /// # Errors
    /// Where the log's ring buffer cannot be opened.
    pub fn debug_lines(&mut self) -> io::Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(io::Error::other)
    }

    /// The memory that each map takes in the kernel, in bytes, largest first.
    #[must_use]
    pub fn memory_bytes(&self) -> Vec<(String, u64)> {
        let mut sizes: Vec<_> = self
            .ebpf
            .maps()
            .filter_map(|(name, map)| {
                let descriptor = map_fd(map)?;
                let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
                let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()?;
                Some((name.to_owned(), bytes))
            })
            .collect();
        sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        sizes
    }

    fn map<'a, M: TryFrom<&'a Map, Error = MapError>>(&'a self, name: &'static str) -> Result<M, KernelError> {
        let map = self.ebpf.map(name).ok_or(KernelError::Missing(name))?;
        map.try_into().map_err(|source| KernelError::Map { action: "open", name, source: Box::new(source) })
    }

    fn map_mut<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<M, KernelError> {
        let map = self.ebpf.map_mut(name).ok_or(KernelError::Missing(name))?;
        map.try_into().map_err(|source| KernelError::Map { action: "open", name, source: Box::new(source) })
    }
}

fn row_table(ebpf: &Ebpf, capacity: u32) -> Result<RowTable, KernelError> {
    let name = "ROWS";
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(KernelError::Missing(name)) };
    RowTable::new(map.fd(), capacity).map_err(|source| KernelError::MapMemory { name, source })
}

fn map_fd(map: &Map) -> Option<i32> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

fn lookup<K: Pod, V: Pod>(
    map: &HashMap<&MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<Option<V>, KernelError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(KernelError::Map { action: "read", name, source: Box::new(source) }),
    }
}

/// Every entry that is there while the map is read. The kernel starts again from the beginning where the
/// entry just read has gone meanwhile; a map that changes faster than it can be read is given up on after
/// twice its size, with what was seen by then.
fn entries<K: Pod + Eq + Hash, V: Pod>(
    map: &HashMap<&MapData, K, V>,
    name: &'static str,
    capacity: u32,
) -> Result<Entries<K, V>, KernelError> {
    let mut all = Entries::new();
    for key in map.keys().take(2 * capacity as usize) {
        let key = key.map_err(|source| KernelError::Map { action: "read", name, source: Box::new(source) })?;
        if let Some(value) = lookup(map, name, &key)? {
            all.insert(key, value);
        }
    }
    Ok(all)
}
