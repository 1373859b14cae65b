//! The BPF object: loading it, its programs, and the memory that its maps take.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::{Program, RawTracePoint},
};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, read::elf::ElfFile64};

use memtrace_common::{steps::block_table::buckets_for, wire::namespace::PidLayout};

use super::{
    capacities::{Capacities, lists},
    error::{BpfError, of_program},
    features::has_bpf_loop,
    maps::{Entries, shared_entries},
};
use crate::process::kernel_release;

/// `BPF_F_NO_PREALLOC` of `<linux/bpf.h>`.
const BPF_F_NO_PREALLOC: u32 = 1;
/// Where the flags stand in the description of a map (`struct bpf_map_def` of libbpf): behind four words.
const FLAGS_OFFSET: usize = 16;

/// The kernel side, as `cargo xtask` has built it; empty where only this crate was built (see `build.rs`).
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-ebpf.o"));

/// Whether this memtrace has a kernel side to load.
pub(crate) const fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// The globals that every use of the object sets at load.
pub(super) struct SharedGlobals {
    buckets: u32,
    has_loop: u8,
    pid_layout: PidLayout,
}

impl SharedGlobals {
    /// For maps of these sizes.
    pub(super) fn new(capacities: &Capacities, pid_layout: PidLayout) -> Self {
        Self { buckets: buckets_for(capacities.blocks), has_loop: u8::from(has_bpf_loop()), pid_layout }
    }

    /// A loader that sets these, and the sizes of maps.
    pub(super) fn loader(&self, capacities: &Capacities, others: &[Entries]) -> EbpfLoader<'_> {
        let mut loader = EbpfLoader::new();
        for (name, entries) in shared_entries(capacities).iter().chain(others) {
            loader.map_max_entries(name, *entries);
        }
        loader
            .override_global("BUCKETS", &self.buckets, true)
            .override_global("HAS_LOOP", &self.has_loop, true)
            .override_global("PID_LAYOUT", &self.pid_layout, true);
        loader
    }
}

/// The loaded object. Dropping it detaches everything; so does the end of this process, however it comes, because the kernel
/// keeps programs and probes only while a file descriptor refers to them.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    /// The memory that each map takes in the kernel, in bytes, largest first.
    pub(super) map_bytes: Vec<(String, u64)>,
    /// The maps that take memory as their entries come, each with its size when it was empty, in bytes.
    growing: Vec<(OwnedFd, u64)>,
}

impl Object {
    /// Loads the maps. No program is in the kernel yet.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub(super) fn load(loader: &mut EbpfLoader<'_>, capacities: &Capacities) -> Result<Self, BpfError> {
        let ebpf = match capacities.spare {
            Some(_) => loader.load(&on_demand(OBJECT, &ON_DEMAND).ok_or(BpfError::Missing("maps"))?)?,
            None => loader.load(OBJECT)?,
        };
        let is_told = tells_usage();
        let bytes = |name: &str, map: &Map| {
            let map = map_data(map)?.fd().as_fd();
            let is_empty = capacities.spare.is_some() && ON_DEMAND.contains(&name);
            if is_empty && !is_told { Some(lists(field_of(map, "max_entries:")?)) } else { field_of(map, "memlock:") }
        };
        let mut map_bytes: Vec<(String, u64)> =
            ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), bytes(name, map)?))).collect();
        map_bytes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let growing = if is_told && capacities.spare.is_some() { growing(&ebpf) } else { Vec::new() };
        Ok(Self { ebpf, map_bytes, growing })
    }

    /// A program, loaded or not.
    ///
    /// # Errors
    /// Where the object has no such program of this kind.
    pub(super) fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, BpfError>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        let program = self.ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
        program.try_into().map_err(|_| BpfError::Missing(name))
    }

    /// Loads a program of a tracepoint.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub(super) fn load_tracepoint(&mut self, name: &'static str) -> Result<(), BpfError> {
        let program: &mut RawTracePoint = self.program(name)?;
        program.load().map_err(|error| BpfError::Program { name, source: of_program(error) })
    }

    /// Attaches a program that was loaded to its tracepoint.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn attach_tracepoint(&mut self, name: &'static str, tracepoint: &str) -> Result<(), BpfError> {
        let program: &mut RawTracePoint = self.program(name)?;
        let attached = program.attach(tracepoint);
        attached.map(drop).map_err(|error| BpfError::Tracepoint { name, source: of_program(error) })
    }

    /// Loads a program and attaches it to its tracepoint.
    ///
    /// # Errors
    /// Where the kernel refuses either.
    pub(super) fn follow(&mut self, name: &'static str, tracepoint: &str) -> Result<(), BpfError> {
        self.load_tracepoint(name)?;
        self.attach_tracepoint(name, tracepoint)
    }

    /// How much memory maps have taken for entries since they were loaded, in bytes; 0 on kernels that do not tell it.
    pub(super) fn grown_bytes(&self) -> u64 {
        let grown = |(map, empty): &(OwnedFd, u64)| Some(field_of(map.as_fd(), "memlock:")?.saturating_sub(*empty));
        self.growing.iter().filter_map(grown).sum()
    }

    /// How often the kernel has passed a program over because it was running on that CPU already (Linux 5.13).
    pub(super) fn missed_runs(&self, name: &str) -> Option<u64> {
        field_of(self.ebpf.program(name)?.fd().ok()?.as_fd(), "recursion_misses:")
    }
}

/// The maps that take memory as their entries come, where the kernel can do that.
const ON_DEMAND: [&str; 3] = ["STACKS", "SPARE_BLOCKS", "SPARE_ROWS"];

/// Whether the kernel tells the memory that a map takes (Linux 6.4). Before, it tells that of as many entries as fit.
fn tells_usage() -> bool {
    kernel_release::release()
        .and_then(|release| kernel_release::version(&release))
        .is_some_and(|version| version >= (6, 4))
}

/// The object with these maps made so: the loader takes sizes of maps, but not their flags.
fn on_demand(object: &[u8], maps: &[&str]) -> Option<Vec<u8>> {
    let file = ElfFile64::<LittleEndian>::parse(object).ok()?;
    let section = file.section_by_name("maps")?;
    let (first, _) = section.file_range()?;
    let mut changed = object.to_vec();
    for name in maps {
        let symbol = file.symbol_by_name(name).filter(|symbol| symbol.section_index() == Some(section.index()))?;
        let flags = usize::try_from(first.checked_add(symbol.address())?).ok()?.checked_add(FLAGS_OFFSET)?;
        changed.get_mut(flags..flags.checked_add(4)?)?.copy_from_slice(&BPF_F_NO_PREALLOC.to_le_bytes());
    }
    Some(changed)
}

/// Another descriptor of each such map, with its size.
fn growing(ebpf: &Ebpf) -> Vec<(OwnedFd, u64)> {
    let maps = ON_DEMAND.iter().filter_map(|name| {
        let descriptor = map_data(ebpf.map(name)?)?.fd().as_fd().try_clone_to_owned().ok()?;
        let bytes = field_of(descriptor.as_fd(), "memlock:")?;
        Some((descriptor, bytes))
    });
    maps.collect()
}

/// A number that the kernel tells of a descriptor.
fn field_of(descriptor: BorrowedFd<'_>, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

/// The kinds of maps that memtrace has.
pub(super) fn map_data(map: &Map) -> Option<&MapData> {
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
