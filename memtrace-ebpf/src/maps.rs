//! The maps. Their sizes here are only placeholders: user space sets them at load (`--max-blocks` and kin).

use aya_ebpf::{
    macros::map,
    maps::{Array, CgroupArray, HashMap, PerCpuArray, Queue, RingBuf},
};
use memtrace_common::{
    arch::PAGE_BYTES,
    ids::{BlockKey, BudgetGroup, ProcessSlot, SiteId, SiteIndex, StackId},
    steps::{
        block_table::{Bucket, FILTER as FILTER_ENTRIES},
        call::PendingCall,
        sampling,
    },
    thread::{Thread, ThreadMemory},
    wire::{
        block::LiveBlock,
        code::{CodeRange, CodeTable, Row, SpareRows},
        control::{Control, HOOKED_CODE as HOOKED_CODE_COUNT, InForce},
        free_site::{FREE_SITES as FREE_SIDES_COUNT, FreeSite},
        namespace::PidNamespace,
        process::{Process, SlotOfProcess},
        resident::Resident,
        site::Site,
        stack::StackRecord,
    },
};

/// `BPF_NOEXIST` of `<linux/bpf.h>`: insert only.
pub(crate) const NO_EXIST: u64 = 1;
/// `-EEXIST` of `<asm-generic/errno-base.h>`.
pub(crate) const ALREADY_THERE: i32 = -17;

/// `BPF_F_MMAPABLE` of `<linux/bpf.h>`: user space reads and writes what would be too many calls as memory.
const MMAPABLE: u32 = 1 << 10;

/// The words of user space, at index 0.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The recording in force, by group.
#[map]
pub(crate) static RECORDINGS: Array<InForce> = Array::with_max_entries(BudgetGroup::MAX.0 + 1, 0);

/// memtrace's own pid namespace, at index 0, where it is not the machine's first.
#[map]
pub(crate) static OWN_NAMESPACE: Array<PidNamespace> = Array::with_max_entries(1, 0);

/// The cgroup whose programs are targets, at index 0, where one was asked for.
#[map]
pub(crate) static CGROUPS: CgroupArray = CgroupArray::with_max_entries(1, 0);

/// How long mappings of hooked code are, in bytes; 0 where there is no more. A process that maps as much may be about to copy it.
#[map]
pub(crate) static HOOKED_CODE: Array<u64> = Array::with_max_entries(HOOKED_CODE_COUNT, 0);

/// Which processes are targets, by thread group id. A child that shares its parent's memory until it calls
/// exec (vfork) stands where its parent does.
#[map]
pub(crate) static PROCESS_SLOTS: HashMap<u32, ProcessSlot> = HashMap::with_max_entries(1, 0);

/// The process that was the first target, at index 0: most often the only one, and found without a search.
#[map]
pub(crate) static FIRST_PROCESS: Array<SlotOfProcess> = Array::with_max_entries(1, 0);

/// The slots that are free: filled by user space, which alone knows when a slot can be used again.
#[map]
pub(crate) static UNUSED_SLOTS: Queue<ProcessSlot> = Queue::with_max_entries(1, 0);

/// The targets, by slot.
#[map]
pub(crate) static PROCESSES: Array<Process> = Array::with_max_entries(1, MMAPABLE);

/// The resident memory of the targets, by slot, where that is asked for.
#[map]
pub(crate) static RESIDENT: Array<Resident> = Array::with_max_entries(1, 0);

/// Whose an address space is, by the kernel's name for it ([`Resident::mm_id`]).
#[map]
pub(crate) static MM_SLOTS: HashMap<u64, ProcessSlot> = HashMap::with_max_entries(1, 0);

/// Where the kernel sends hooked returns, by slot; 0 until user space has seen it in the target's
/// mappings.
#[map]
pub(crate) static TRAMPOLINES: Array<u64> = Array::with_max_entries(1, 0);

/// Threads that have called a hooked function: [`crate::threads`].
#[map]
pub(crate) static THREADS: Array<Thread> = Array::with_max_entries(1, MMAPABLE);

/// Calls under way that may return on another stack, or in another thread: [`crate::heap::calls`]. By the place of their return
/// address, which is an address like a block's.
#[map]
pub(crate) static CALLS: HashMap<BlockKey, PendingCall> = HashMap::with_max_entries(1, 0);

/// A thread that has done nothing yet, at index 0: too large for the BPF stack, so it is kept here.
#[map]
pub(crate) static EMPTY_THREAD: Array<ThreadMemory> = Array::with_max_entries(1, 0);

/// Blocks allocated and not yet freed: [`memtrace_common::steps::block_table`].
#[map]
pub(crate) static BLOCKS: Array<Bucket> = Array::with_max_entries(1, MMAPABLE);

/// Blocks that found no room in [`BLOCKS`]. Memory is taken for each as it comes, where the kernel can do that (Linux 6.1).
#[map]
pub(crate) static SPARE_BLOCKS: HashMap<BlockKey, LiveBlock> = HashMap::with_max_entries(1, 0);

/// How many sampled blocks there are, by a hash of their address: [`memtrace_common::steps::block_table::filter_entry`].
#[map]
pub(crate) static FILTER: Array<u64> = Array::with_max_entries(FILTER_ENTRIES, MMAPABLE);

/// Allocation sites and their counters, by index.
#[map]
pub(crate) static SITES: Array<Site> = Array::with_max_entries(1, MMAPABLE);

/// Of how many frees of a site's blocks the stacks are wanted still, by the site's index: set by user space, counted down
/// here.
#[map]
pub(crate) static FREES_WANTED: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// How many blocks of a site were freed at a stack, of those that were wanted.
#[map]
pub(crate) static FREE_SITES: HashMap<FreeSite, u64> = HashMap::with_max_entries(FREE_SIDES_COUNT, 0);

/// Where the counters of each site stand.
#[map]
pub(crate) static SITE_INDICES: HashMap<SiteId, SiteIndex> = HashMap::with_max_entries(1, 0);

/// How many places in `SITES` have ever been given out, at index 0.
#[map]
pub(crate) static SITE_COUNT: Array<u64> = Array::with_max_entries(1, 0);

/// Places in `SITES` that were given out and are free again.
#[map]
pub(crate) static UNUSED_SITES: Queue<SiteIndex> = Queue::with_max_entries(1, 0);

/// The stacks of the sites, shared between processes that run the same code at the same addresses.
#[map]
pub(crate) static STACKS: HashMap<StackId, StackRecord> = HashMap::with_max_entries(1, 0);

/// Call frame information of the targets' images, each image's sorted by start.
#[map]
pub(crate) static ROWS: Array<Row> = Array::with_max_entries(1, MMAPABLE);

/// The rows that follow those of [`ROWS`], so many at a time: memory is taken for them as images come (Linux 6.1).
#[map]
pub(crate) static SPARE_ROWS: HashMap<u32, SpareRows> = HashMap::with_max_entries(1, 0);

/// The targets' code, each target's sorted by start.
#[map]
pub(crate) static CODE_RANGES: Array<CodeRange> = Array::with_max_entries(1, MMAPABLE);

/// Where each target's code stands in `CODE_RANGES`, by slot.
#[map]
pub(crate) static CODE_TABLES: Array<CodeTable> = Array::with_max_entries(1, 0);

/// The weights of sampled allocations: [`memtrace_common::steps::sampling::weights`].
#[map]
pub(crate) static WEIGHTS: Array<u64> = Array::with_max_entries(sampling::WEIGHTS, 0);

/// [`memtrace_common::steps::sampling::logarithms`].
#[map]
pub(crate) static LOGARITHMS: Array<u64> = Array::with_max_entries(sampling::LOGARITHMS, 0);

/// Rare events for user space.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Changes of address spaces for user space, where they are asked for.
#[map]
pub(crate) static MAPPING_EVENTS: RingBuf = RingBuf::with_byte_size(PAGE_BYTES as u32, 0);

/// The pages of the machine, where the kernel's own memory is asked for: [`memtrace_common::wire::kernel_memory::PageEntry`].
#[map]
pub(crate) static PAGES_OF_KERNEL: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// How many programs walk the kernel's stacks.
pub(crate) const KERNEL_WALKERS: u32 = 6;

/// Where the kernel's stacks are written to: a place for each program that walks them, on each CPU.
#[map]
pub(crate) static KERNEL_STACKS: PerCpuArray<StackRecord> = PerCpuArray::with_max_entries(KERNEL_WALKERS, 0);
