//! The kernel's own memory: objects of slabs, areas of per-CPU memory and of vmalloc.

use aya_ebpf::{
    EbpfContext, Global,
    cty::c_void,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_get_func_arg, bpf_loop},
    },
    programs::{FEntryContext, FExitContext, RawTracePointContext},
};
use memtrace_common::{
    arch::PAGE_BYTES,
    ids::{BlockKey, ProcessSlot, SiteIndex},
    wire::{
        block::{LiveBlock, Recorded},
        counters::Counter,
        kernel_memory::{KERNEL, PER_CPU, SLAB, Source, VMALLOC},
        site::Site,
    },
};

use super::sites::{Walker, count_allocated, count_freed, counted_site, counting, missed_free, owner, tells_unmatched};
use crate::{heap::blocks, target::count_at};

/// Where `struct kmem_cache` holds the size that an object takes, in bytes: set at load.
#[unsafe(no_mangle)]
static CACHE_SIZE_OFFSET: Global<u32> = Global::new(0);

/// How many CPUs there can be, each of which has its part of per-CPU memory: set at load.
#[unsafe(no_mangle)]
static POSSIBLE_CPUS: Global<u32> = Global::new(1);

/// The address that an allocator hands out for no bytes (`ZERO_SIZE_PTR` of `<linux/slab.h>`), or where there is nothing: no block.
const LAST_NO_BLOCK: u64 = 16;

/// An allocation of the slab or the per-CPU allocator.
struct Allocation {
    walker: Walker,
    source: Source,
    /// Whose addresses these are: [`memtrace_common::wire::kernel_memory::SLAB`] or its kin.
    space: ProcessSlot,
    address: u64,
    size_bytes: u64,
}

/// kmalloc has handed out an object.
#[inline(always)]
pub(crate) fn kmalloc(ctx: &RawTracePointContext) {
    // kmalloc(unsigned long call_site, const void *ptr, size_t bytes_req, size_t bytes_alloc, gfp_t gfp_flags, int node):
    // include/trace/events/kmem.h since Linux 6.1
    let (address, size_bytes) = (ctx.arg(1), ctx.arg(3));
    allocated(ctx, &Allocation { walker: Walker::Kmalloc, source: Source::Slab, space: SLAB, address, size_bytes });
}

/// A slab cache has handed out an object.
#[inline(always)]
pub(crate) fn cache_alloc(ctx: &RawTracePointContext) {
    // kmem_cache_alloc(unsigned long call_site, const void *ptr, struct kmem_cache *s, gfp_t gfp_flags, int node): the same
    let (address, cache): (u64, *const u8) = (ctx.arg(1), ctx.arg(2));
    let size_bytes = object_bytes(cache);
    allocated(ctx, &Allocation { walker: Walker::CacheAlloc, source: Source::Slab, space: SLAB, address, size_bytes });
}

/// The per-CPU allocator has handed out an area.
#[inline(always)]
pub(crate) fn per_cpu_alloc(ctx: &RawTracePointContext) {
    // percpu_alloc_percpu(unsigned long call_site, bool reserved, bool is_atomic, size_t size, size_t align, void *base_addr,
    // int off, void __percpu *ptr, size_t bytes_alloc, gfp_t gfp_flags): include/trace/events/percpu.h since Linux 5.19.
    // `bytes_alloc` is what a cgroup is charged: with its own books, which are memory of another allocator's (`pcpu_obj_full_size`).
    let (address, size): (u64, u64) = (ctx.arg(7), ctx.arg(3));
    let size_bytes = size * POSSIBLE_CPUS.load() as u64;
    allocated(
        ctx,
        &Allocation { walker: Walker::PerCpuAlloc, source: Source::PerCpu, space: PER_CPU, address, size_bytes },
    );
}

/// An area of the kernel's addresses has been taken, which most often vmalloc is about to put pages behind: what else it may be for is
/// told by the stack.
#[inline(always)]
pub(crate) fn area_alloc(ctx: &RawTracePointContext) {
    // alloc_vmap_area(unsigned long addr, unsigned long size, unsigned long align, unsigned long vstart, unsigned long vend,
    // int failed): include/trace/events/vmalloc.h since Linux 6.2
    let (address, size, failed): (u64, u64, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(5));
    if failed != 0 {
        return;
    }
    // The last page is there to catch whoever goes too far, and has nothing behind it (`__get_vm_area_node` of mm/vmalloc.c).
    let size_bytes = size.saturating_sub(PAGE_BYTES);
    allocated(
        ctx,
        &Allocation { walker: Walker::AreaAlloc, source: Source::Vmalloc, space: VMALLOC, address, size_bytes },
    );
}

/// The size of a cache's objects, in bytes.
#[inline(always)]
fn object_bytes(cache: *const u8) -> u64 {
    let size = cache.wrapping_add(CACHE_SIZE_OFFSET.load() as usize).cast::<u32>();
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(size) }.unwrap_or_default() as u64
}

#[inline(always)]
fn allocated(ctx: &impl EbpfContext, allocation: &Allocation) {
    let Some(control) = counting() else { return };
    let &Allocation { walker, source, space, address, size_bytes } = allocation;
    if address <= LAST_NO_BLOCK {
        return;
    }
    let key = BlockKey::new(space, address);
    let charged = owner(control).and_then(|slot| Some((slot, counted_site(ctx, walker, source, slot)?)));
    let Some((slot, (index, site))) = charged else {
        // The object that was there before has been freed unseen.
        if let Some(old) = blocks::take(key) {
            missed_free(old.site, old.size_bytes(), 1);
        }
        return;
    };
    put(key, &LiveBlock::new(size_bytes, Recorded::FOR_CERTAIN, index, control.now_ms), site, slot);
}

/// Puts a block on the books of its site.
#[inline(always)]
fn put(key: BlockKey, block: &LiveBlock, site: *mut Site, slot: ProcessSlot) {
    let blocks::Put { is_in, old } = blocks::put(key, block);
    if let Some(old) = old {
        missed_free(old.site, old.size_bytes(), 1);
    }
    if is_in { count_allocated(site, block.size_bytes()) } else { count_at(slot, Counter::BlocksFull) }
}

/// An object or an area is about to be freed.
#[inline(always)]
pub(crate) fn freed(space: ProcessSlot, address: u64) {
    let Some(control) = counting() else { return };
    if address <= LAST_NO_BLOCK {
        return;
    }
    match blocks::take(BlockKey::new(space, address)) {
        Some(block) => count_freed(block.site, block.size_bytes(), 1),
        None if tells_unmatched(control) => count_at(KERNEL, Counter::UnmatchedFrees),
        None => {}
    }
}

/// Objects whose addresses stand in a list of the kernel's.
struct Bulk {
    /// Where their addresses stand.
    addresses: *const u64,
    /// The record of each of those that are allocated.
    block: LiveBlock,
    site: *mut Site,
    slot: ProcessSlot,
}

/// A slab cache has handed out objects in bulk, of which its tracepoint tells nothing.
#[inline(always)]
pub(crate) fn bulk_allocated(ctx: &FExitContext) {
    // int kmem_cache_alloc_bulk(struct kmem_cache *s, gfp_t flags, size_t size, void **p): mm/slub.c
    let (cache, asked, addresses): (*const u8, u64, *const u64) = (ctx.arg(0), ctx.arg(2), list(ctx, 3));
    let count: i32 = ctx.arg(4);
    let Some(control) = counting() else { return };
    if count <= 0 {
        return;
    }
    let Some(slot) = owner(control) else { return };
    let Some((index, site)) = counted_site(ctx, Walker::BulkAlloc, Source::Slab, slot) else { return };
    let block = LiveBlock::new(object_bytes(cache), Recorded::FOR_CERTAIN, index, control.now_ms);
    let mut bulk = Bulk { addresses, block, site, slot };
    if !run(asked.min(count as u64), put_next as *mut c_void, &mut bulk) {
        count_at(slot, Counter::BlocksFull);
    }
}

/// Objects are freed in bulk, of which no tracepoint tells.
#[inline(always)]
pub(crate) fn bulk_freed(ctx: &FEntryContext) {
    // void kmem_cache_free_bulk(struct kmem_cache *s, size_t size, void **p): mm/slub.c
    let (count, addresses): (u64, *const u64) = (ctx.arg(1), list(ctx, 2));
    if counting().is_none() {
        return;
    }
    let nobody = SiteIndex::NONE;
    let block = LiveBlock::new(0, Recorded::FOR_CERTAIN, nobody, 0);
    let mut bulk = Bulk { addresses, block, site: core::ptr::null_mut(), slot: ProcessSlot::NONE };
    if !run(count, free_next as *mut c_void, &mut bulk) {
        count_at(KERNEL, Counter::MissedFrees);
    }
}

/// A list of addresses that a function was given. By a helper: older verifiers (6.1's) do not take a pointer to pointers for an
/// argument that may be read.
#[inline(always)]
fn list(ctx: &impl EbpfContext, argument: u32) -> *const u64 {
    let mut value = 0;
    // SAFETY: the helper writes one word; where there is no such argument it says so, and nothing is readable at 0.
    unsafe { bpf_get_func_arg(ctx.as_ptr(), argument, &raw mut value) };
    value as *const u64
}

/// Calls `step` for each object. Returns whether that could be done: the kernel has a limit of 8,388,608 (`BPF_MAX_LOOPS`).
#[inline(always)]
fn run(count: u64, step: *mut c_void, bulk: &mut Bulk) -> bool {
    let count = count.min(u32::MAX as u64) as u32;
    // SAFETY: the callbacks have the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(count, step, (&raw mut *bulk).cast(), 0) >= 0 }
}

/// The address of an object.
#[inline(always)]
fn address(bulk: &Bulk, index: u64) -> u64 {
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(bulk.addresses.wrapping_add(index as usize)) }.unwrap_or_default()
}

/// Puts an object on the books. Returns 0: there may be more.
#[inline(never)]
extern "C" fn put_next(index: u64, bulk: *mut Bulk) -> i64 {
    // SAFETY: `bulk_allocated` passes its own `Bulk`, which nobody else uses meanwhile.
    let bulk = unsafe { &*bulk };
    put(BlockKey::new(SLAB, address(bulk, index)), &bulk.block, bulk.site, bulk.slot);
    0
}

/// An object is freed. Returns 0: there may be more.
#[inline(never)]
extern "C" fn free_next(index: u64, bulk: *mut Bulk) -> i64 {
    // SAFETY: `bulk_freed` passes its own `Bulk`, which nobody else uses meanwhile.
    freed(SLAB, address(unsafe { &*bulk }, index));
    0
}

/// An object is to be freed after a grace period, as part of an array of such ("sheaf", Linux 6.18), of which no tracepoint tells.
#[inline(always)]
pub(crate) fn freed_later(ctx: &FExitContext) {
    // bool __kfree_rcu_sheaf(struct kmem_cache *s, void *obj): mm/slub.c
    let (address, is_taken): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    if is_taken & 1 != 0 {
        freed(SLAB, address);
    }
}
