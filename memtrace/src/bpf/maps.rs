//! The object's maps: each opened once, by its name, as what it holds; and how many entries each has.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use memtrace_common::{
    ids::{BlockKey, ProcessSlot, SiteId, SiteIndex, StackId},
    steps::{
        block_table::{Bucket, buckets_for},
        call::PendingCall,
        sampling,
    },
    thread::Thread,
    wire::{
        code::{CodeRange, CodeTable, Row, SpareRows},
        control::{Control, InForce},
        free_site::FreeSite,
        process::{Process, SlotOfProcess},
        resident::Resident,
        site::Site,
        stack::StackRecord,
    },
};

use super::{
    capacities::{Capacities, Extras, MAPPING_EVENTS_BYTES, MAX_RANGES, PAGE_BYTES},
    error::BpfError,
    mapped_array::MappedArray,
    named_map::{ArrayMap, CgroupMap, KeyedMap, NamedMap, QueueMap, open},
    spare_blocks::SpareBlocks,
};

/// A map's name, and how many entries it has; of a ring buffer, bytes.
pub(super) type Entries = (&'static str, u32);

/// The sizes of the maps that every use of the object has. Slots and sites are numbered from 1.
pub(super) fn shared_entries(capacities: &Capacities) -> [Entries; 9] {
    let Capacities { blocks, sites, stacks, processes, .. } = *capacities;
    [
        ("PROCESS_SLOTS", processes),
        ("UNUSED_SLOTS", processes),
        ("PROCESSES", processes.saturating_add(1)),
        ("BLOCKS", buckets_for(blocks)),
        ("SPARE_BLOCKS", capacities.spare_blocks().max(1)),
        ("SITES", sites.saturating_add(1)),
        ("UNUSED_SITES", sites),
        ("SITE_INDICES", sites),
        ("STACKS", stacks),
    ]
}

/// The sizes of the maps that tracing of programs has besides.
pub(super) fn heap_entries(capacities: &Capacities, extras: Extras) -> [Entries; 11] {
    let slots = capacities.processes.saturating_add(1);
    let (residents, mms) = if extras.pages { (slots, capacities.processes) } else { (1, 1) };
    [
        ("RESIDENT", residents),
        ("MM_SLOTS", mms),
        ("TRAMPOLINES", slots),
        ("CODE_TABLES", slots),
        ("THREADS", capacities.thread_places()),
        ("CALLS", capacities.thread_places()),
        ("FREES_WANTED", capacities.sites.saturating_add(1)),
        ("ROWS", capacities.rows),
        ("SPARE_ROWS", capacities.spare_rows().max(1)),
        ("CODE_RANGES", MAX_RANGES),
        ("MAPPING_EVENTS", if extras.address_spaces { MAPPING_EVENTS_BYTES } else { PAGE_BYTES }),
    ]
}

/// The sizes of the maps that tracing of the kernel's own memory has besides.
pub(super) fn kernel_entries(page_frames: u32) -> [Entries; 1] {
    [("PAGES_OF_KERNEL", page_frames)]
}

/// The maps that every use of the object has; memtrace-ebpf says what each is for.
///
/// Programs that are loaded later name maps by their descriptors: so maps that are taken must be kept for as long as the
/// object. Those that nobody takes stay with it.
pub(super) struct SharedMaps {
    pub(super) control: ArrayMap<Control>,
    pub(super) cgroups: CgroupMap,
    pub(super) process_slots: KeyedMap<u32, ProcessSlot>,
    pub(super) first_process: ArrayMap<SlotOfProcess>,
    pub(super) unused_slots: QueueMap<ProcessSlot>,
    pub(super) processes: MappedArray<Process>,
    pub(super) blocks: MappedArray<Bucket>,
    pub(super) spare_blocks: SpareBlocks,
    pub(super) sites: MappedArray<Site>,
    pub(super) site_indices: KeyedMap<SiteId, SiteIndex>,
    pub(super) site_count: ArrayMap<u64>,
    pub(super) unused_sites: QueueMap<SiteIndex>,
    pub(super) stacks: KeyedMap<StackId, StackRecord>,
}

impl SharedMaps {
    /// Takes them out of the object.
    ///
    /// # Errors
    /// Where one is missing, is of another kind or holds other entries, or cannot be mapped into memory.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            control: NamedMap::open(ebpf, "CONTROL")?,
            cgroups: NamedMap::open(ebpf, "CGROUPS")?,
            process_slots: NamedMap::open(ebpf, "PROCESS_SLOTS")?,
            first_process: NamedMap::open(ebpf, "FIRST_PROCESS")?,
            unused_slots: NamedMap::open(ebpf, "UNUSED_SLOTS")?,
            processes: open(ebpf, "PROCESSES")?,
            blocks: open(ebpf, "BLOCKS")?,
            spare_blocks: open(ebpf, "SPARE_BLOCKS")?,
            sites: open(ebpf, "SITES")?,
            site_indices: NamedMap::open(ebpf, "SITE_INDICES")?,
            site_count: NamedMap::open(ebpf, "SITE_COUNT")?,
            unused_sites: NamedMap::open(ebpf, "UNUSED_SITES")?,
            stacks: NamedMap::open(ebpf, "STACKS")?,
        })
    }
}

/// The maps that tracing of programs has besides.
pub(super) struct HeapMaps {
    pub(super) recordings: ArrayMap<InForce>,
    pub(super) hooked_code: ArrayMap<u64>,
    pub(super) resident: ArrayMap<Resident>,
    pub(super) mm_slots: KeyedMap<u64, ProcessSlot>,
    pub(super) trampolines: ArrayMap<u64>,
    pub(super) threads: MappedArray<Thread>,
    pub(super) calls: KeyedMap<BlockKey, PendingCall>,
    pub(super) frees_wanted: MappedArray<u64>,
    pub(super) free_sites: KeyedMap<FreeSite, u64>,
    pub(super) rows: MappedArray<Row>,
    pub(super) spare_rows: KeyedMap<u32, SpareRows>,
    pub(super) code_ranges: MappedArray<CodeRange>,
    pub(super) code_tables: ArrayMap<CodeTable>,
    pub(super) events: RingBuf<MapData>,
    pub(super) mapping_events: RingBuf<MapData>,
}

impl HeapMaps {
    /// Takes them out of the object.
    ///
    /// # Errors
    /// As [`SharedMaps::take`].
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            recordings: NamedMap::open(ebpf, "RECORDINGS")?,
            hooked_code: NamedMap::open(ebpf, "HOOKED_CODE")?,
            resident: NamedMap::open(ebpf, "RESIDENT")?,
            mm_slots: NamedMap::open(ebpf, "MM_SLOTS")?,
            trampolines: NamedMap::open(ebpf, "TRAMPOLINES")?,
            threads: open(ebpf, "THREADS")?,
            calls: NamedMap::open(ebpf, "CALLS")?,
            frees_wanted: open(ebpf, "FREES_WANTED")?,
            free_sites: NamedMap::open(ebpf, "FREE_SITES")?,
            rows: open(ebpf, "ROWS")?,
            spare_rows: NamedMap::open(ebpf, "SPARE_ROWS")?,
            code_ranges: open(ebpf, "CODE_RANGES")?,
            code_tables: NamedMap::open(ebpf, "CODE_TABLES")?,
            events: open(ebpf, "EVENTS")?,
            mapping_events: open(ebpf, "MAPPING_EVENTS")?,
        })
    }
}

/// The tables that samples are taken by: filled once, and read by the programs alone.
pub(super) struct SamplingTables {
    _weights: ArrayMap<u64>,
    _logarithms: ArrayMap<u64>,
}

impl SamplingTables {
    /// Takes them out of the object, and fills them.
    ///
    /// # Errors
    /// As [`SharedMaps::take`], and where one cannot be written.
    pub(super) fn fill(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut weights: ArrayMap<u64> = NamedMap::open(ebpf, "WEIGHTS")?;
        weights.fill(&sampling::weights())?;
        let mut logarithms: ArrayMap<u64> = NamedMap::open(ebpf, "LOGARITHMS")?;
        logarithms.fill(&sampling::logarithms())?;
        Ok(Self { _weights: weights, _logarithms: logarithms })
    }
}

/// Takes the count of samples by their addresses' hashes.
///
/// # Errors
/// As [`SharedMaps::take`].
pub(super) fn take_filter(ebpf: &mut Ebpf) -> Result<MappedArray<u64>, BpfError> {
    open(ebpf, "FILTER")
}

/// Takes what is known of each page of the machine, for tracing of the kernel's own memory.
///
/// # Errors
/// As [`SharedMaps::take`].
pub(super) fn take_kernel_pages(ebpf: &mut Ebpf) -> Result<MappedArray<u64>, BpfError> {
    open(ebpf, "PAGES_OF_KERNEL")
}
