//! The kernel's own memory: who is charged, at which of its stacks.
//!
//! These programs run wherever the kernel allocates: in its threads, in interrupts, on top of one another. But none runs
//! twice on a CPU at the same time: the kernel passes over such a run (since Linux 6.1, for raw tracepoints), and counts it, which
//! user space tells. So a program has its scratch memory on a CPU to itself. Tables are changed by atomic operations on words only,
//! as elsewhere, or by the kernel's maps, which are safe in interrupts.

use aya_ebpf::{EbpfContext, Global, helpers::generated::bpf_get_stack};
use memtrace_common::{
    ids::{ProcessSlot, SiteIndex, StackId},
    wire::{
        control::Control,
        counters::Counter,
        kernel_memory::{KERNEL, Scope, Source},
        site::Site,
        stack::{MAX_FRAMES, StackHasher, StackRecord},
    },
};

use crate::{
    maps::{CGROUPS, CONTROL, KERNEL_STACKS, KERNEL_WALKERS, SITES},
    namespace::number_of_current,
    site::{self, add_allocated, add_freed},
    target::{Task, count_at, has_wanted_name, slot_of},
    verifier::{forgotten, unoptimised},
};

/// A [`Scope`] code: set at load.
#[unsafe(no_mangle)]
static KERNEL_SCOPE: Global<u32> = Global::new(0);

/// The code with which an interrupt begins, from its first address to the one behind it: set at load, 0 where that is not known.
/// An interrupted program has no part in the interrupt's allocations, and would make a new stack of each.
#[unsafe(no_mangle)]
static INTERRUPT_START: Global<u64> = Global::new(0);

/// See [`INTERRUPT_START`].
#[unsafe(no_mangle)]
static INTERRUPT_END: Global<u64> = Global::new(0);

/// A program that walks stacks, and so has a place for them.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Walker {
    Kmalloc,
    CacheAlloc,
    PageAlloc,
    PerCpuAlloc,
    BulkAlloc,
    AreaAlloc,
}

const _: () = assert!(Walker::AreaAlloc as u32 + 1 == KERNEL_WALKERS);

/// The words of user space, while events are counted.
#[inline(always)]
pub(crate) fn counting<'a>() -> Option<&'a Control> {
    let control = CONTROL.get(0)?;
    if control.counting == 0 { None } else { Some(control) }
}

/// The owner who is charged for the kernel's allocations now; nothing where that is nobody who is asked about, or memtrace itself.
#[inline(always)]
pub(crate) fn owner(control: &Control) -> Option<ProcessSlot> {
    let Task { tgid, .. } = Task::current();
    if tgid == control.own_tgid {
        return None;
    }
    let scope = KERNEL_SCOPE.load();
    if scope == Scope::Host as u32 {
        return Some(KERNEL);
    }
    if scope == Scope::Targets as u32 {
        // Processor idle threads are no process, and no target.
        return if tgid == 0 { None } else { slot_of(tgid) };
    }
    let is_wanted = if scope == Scope::Comm as u32 {
        has_wanted_name(control) && number_of_current(tgid) != 0
    } else {
        CGROUPS.current_task_under_cgroup(0) == Ok(true)
    };
    if is_wanted { Some(KERNEL) } else { None }
}

/// Whether a free of what is unknown is to be told. Where only some contexts are asked about, it is of no interest.
#[inline(always)]
pub(crate) fn tells_unmatched(control: &Control) -> bool {
    KERNEL_SCOPE.load() == Scope::Host as u32 && Task::current().tgid != control.own_tgid
}

/// The site of what is allocated now, and its counters; where there is none, that is counted as a loss.
#[inline(always)]
pub(crate) fn counted_site(
    ctx: &impl EbpfContext,
    walker: Walker,
    source: Source,
    slot: ProcessSlot,
) -> Option<(SiteIndex, *mut Site)> {
    let record = KERNEL_STACKS.get_ptr_mut(walker as u32)?;
    // SAFETY: a per-CPU array's entry lives as long as the map; no other program uses this one, and no other run of this
    // program on this CPU: see above.
    let record = unsafe { &mut *record };
    let stack = walk(ctx, record);
    if record.frame_count == 0 {
        count_at(slot, Counter::UnwindUnreadable);
    }
    let index = match site::index_of_record(slot, stack, record, source as u32) {
        Ok(index) => index,
        Err(why) => {
            count_at(slot, why);
            return None;
        }
    };
    let Some(site) = SITES.get_ptr_mut(index.0) else {
        count_at(slot, Counter::SitesFull);
        return None;
    };
    // SAFETY: an array map's entry lives as long as the map; this field is set before the index is known.
    if unsafe { (*site).stack } != stack {
        count_at(slot, Counter::SiteCollisions);
    }
    Some((index, site))
}

/// Walks the kernel's stack, as the kernel itself does, and names it.
#[inline(always)]
fn walk(ctx: &impl EbpfContext, record: &mut StackRecord) -> StackId {
    let size = size_of_val(&record.frames) as u32;
    // SAFETY: the helper writes at most `size` bytes.
    let written = unsafe { bpf_get_stack(ctx.as_ptr(), record.frames.as_mut_ptr().cast(), size, 0) };
    let walked = if written < 0 { 0 } else { written as u64 / 8 };
    let (start, end) = (INTERRUPT_START.load(), INTERRUPT_END.load());
    let mut hasher = StackHasher::new();
    let mut count = 0;
    let mut truncated = walked == 0 || walked >= MAX_FRAMES as u64;
    loop {
        count = unoptimised(count);
        if count >= walked {
            break;
        }
        // No indexing: it could panic, and a program that could panic is refused.
        let Some(frame) = record.frames.get(count as usize) else { break };
        hasher = hasher.frame(*frame);
        count += 1;
        if start < *frame && *frame <= end {
            truncated = false;
            break;
        }
    }
    // The verifier would follow what comes next for each number of frames.
    let count = forgotten(count, hasher.so_far()) as u32;
    let truncated = forgotten(truncated as u64, hasher.so_far()) & 1;
    record.frame_count = count;
    // 0 and 1 are the codes of a whole stack and of one that is too deep.
    record.ending = truncated as u32;
    hasher.finish(count, truncated as u32)
}

/// The judge of the kernel's own memory does not ask what became of generations, so they are not told apart: all is of the first.
const NO_TIME_MS: u32 = 0;

#[inline(always)]
pub(crate) fn count_allocated(site: *mut Site, size_bytes: u64) {
    // SAFETY: an array map's entry lives as long as the map.
    unsafe { add_allocated(site, NO_TIME_MS, size_bytes, 1) };
}

#[inline(always)]
pub(crate) fn count_freed(site: SiteIndex, bytes: u64, objects: u64) {
    let Some(site) = SITES.get_ptr_mut(site.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    unsafe { add_freed(site, NO_TIME_MS, NO_TIME_MS, bytes, objects) };
}

/// Memory of a site has been handed out again: it was freed unseen.
#[inline(always)]
pub(crate) fn missed_free(index: SiteIndex, bytes: u64, objects: u64) {
    count_freed(index, bytes, objects);
    let Some(site) = SITES.get_ptr_mut(index.0) else { return };
    // SAFETY: an array map's entry lives as long as the map; this field is set before the index is known.
    count_at(unsafe { (*site).process }, Counter::MissedFrees);
}
