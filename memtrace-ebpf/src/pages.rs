//! Pages: which stacks make memory resident. No probe in any program: the kernel tells by tracepoints.
//!
//! `kmem:rss_stat` tells how large an address space is after each change, not by how much it has changed. So what was told
//! last is remembered, and the difference is charged to the stack of whoever made it. Where two threads of a process do
//! so at the same moment, one may be charged for both: their sum is right.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    programs::{RawTracePointContext, TracePointContext},
};
use memtrace_common::{
    arch::PAGE_BYTES,
    ids::{ProcessSlot, SiteIndex},
    thread::{SharedWrite, ThreadMemory},
    wire::{
        resident::{Resident, RssStat, category_of},
        site::Category,
    },
};

use crate::{
    arch::{UserRegisters, program_counter, stack_pointer, unwinding, wrote_to_present_page},
    atomic::{add, compare_exchange, exchange, word_at},
    maps::{MM_SLOTS, RESIDENT, SITES},
    site, stack,
    target::{self, Target, Task},
    threads::{self, current_thread},
};

/// `___GFP_MOVABLE` and `___GFP_ZERO` of `<linux/gfp_types.h>`: a program's page is movable, a copy is not filled with
/// zeros.
const GFP_MOVABLE: u64 = 1 << 3;
const GFP_ZERO: u64 = 1 << 8;

/// The address space of a target, or of anybody else, has changed.
#[inline(always)]
pub(crate) fn change(ctx: &TracePointContext) {
    let record: *const RssStat = ctx.as_ptr().cast();
    // SAFETY: the context is the tracepoint's record, whose layout user space has checked before attaching.
    let record = unsafe { &*record };
    // The hash may be 0, which stands for none.
    let (mm_id, kind, size) = (record.mm_id as u64 | 1 << 32, record.member as u32 as usize, record.size as u64);
    if record.curr == 0 {
        return change_from_outside(mm_id, kind, size);
    }
    let Some(target) = Target::counted(Task::current()) else { return };
    let Some(resident) = RESIDENT.get_ptr_mut(target.slot.0) else { return };
    if !is_of(resident, mm_id, target.slot) {
        return;
    }
    let Some(category) = category_of(kind) else { return };
    let grown = count_change(resident, kind, size);
    if grown > 0 {
        charge(&target, category, grown as u64);
    }
}

/// Somebody else than the process itself has changed its address space: the kernel takes pages back or makes huge ones of
/// small ones, a debugger writes. No stack of the process has to do with that. Or the process has left it: that it is
/// taken down is no news, and its name will soon be another's.
#[inline(always)]
fn change_from_outside(mm_id: u64, kind: usize, size: u64) {
    // SAFETY: the value is a plain integer, copied at once.
    let Some(slot) = (unsafe { MM_SLOTS.get(&mm_id) }).copied() else { return };
    if target::slot_of(Task::current().tgid) == Some(slot) {
        _ = MM_SLOTS.remove(&mm_id);
        return;
    }
    let Some(resident) = RESIDENT.get_ptr_mut(slot.0) else { return };
    if category_of(kind).is_some() {
        _ = count_change(resident, kind, size);
    }
}

/// Whether a target's memory is in the address space `mm_id`; the first that it changes is its own. (On its way into
/// another program it is in that one's already, while its slot is still the old one's.)
#[inline(always)]
fn is_of(resident: *mut Resident, mm_id: u64, slot: ProcessSlot) -> bool {
    // SAFETY: an array map's entry lives as long as the map; the word is touched atomically only.
    let known = compare_exchange(unsafe { &raw mut (*resident).mm_id }, 0, mm_id);
    if known == 0 {
        // Without room, what others do to it goes unseen until its own next change.
        _ = MM_SLOTS.insert(&mm_id, &slot, 0);
    }
    known == 0 || known == mm_id
}

/// Counts by how many bytes a kind of memory has grown since that was last told, and returns it; 0 at first.
#[inline(always)]
fn count_change(resident: *mut Resident, kind: usize, size: u64) -> i64 {
    // SAFETY: an array map's entry lives as long as the map.
    let Some(at) = word_at(unsafe { &raw mut (*resident).sizes }, kind) else { return 0 };
    let before = exchange(at, size + 1);
    if before == 0 {
        return 0;
    }
    let grown = (size + 1).wrapping_sub(before) as i64;
    if grown < 0 {
        // SAFETY: as above.
        add(unsafe { &raw mut (*resident).shrunk_bytes }, grown.wrapping_neg() as u64);
    } else {
        // SAFETY: as above.
        add(unsafe { &raw mut (*resident).grown_bytes }, grown as u64);
    }
    grown
}

/// The current thread has made so many more bytes resident.
#[inline(always)]
fn charge(target: &Target, category: Category, bytes: u64) {
    let Some(thread) = current_thread(target) else { return };
    let Some(regs) = user_registers() else { return };
    // The copy of a file's page, or of the page of zeros, is new memory of the process's own.
    let write = core::mem::take(&mut thread.write);
    if write.site != SiteIndex::NONE && is_under_way(&write, &regs) {
        add_pages(write.site, PAGE_BYTES.wrapping_neg());
    }
    _ = add_at_stack(target, thread, &regs, category, bytes);
}

/// Adds bytes to the site of the current thread's stack.
#[inline(always)]
fn add_at_stack(
    target: &Target,
    thread: &mut ThreadMemory,
    regs: &UserRegisters,
    category: Category,
    bytes: u64,
) -> Option<SiteIndex> {
    let stack = stack::walk_interrupted(target, unwinding(regs), thread);
    match site::index_of(target, stack, thread, category) {
        Ok(index) => {
            add_pages(index, bytes);
            Some(index)
        }
        Err(why) => {
            target.count(why);
            None
        }
    }
}

/// Adds bytes, or takes them back where they are below zero, to what a site has made resident.
#[inline(always)]
fn add_pages(index: SiteIndex, bytes: u64) {
    let Some(site) = SITES.get_ptr_mut(index.0) else { return };
    let (bytes, pages) =
        if bytes as i64 > 0 { (bytes, bytes / PAGE_BYTES) } else { (PAGE_BYTES.wrapping_neg(), 1u64.wrapping_neg()) };
    // Which pages are given back nobody tells, so that generations are not told apart: all is of the first.
    // SAFETY: an array map's entry lives as long as the map.
    unsafe { site::add_allocated(site, 0, bytes, pages) };
}

/// A thread has run into a page that is not as it needs it.
#[inline(always)]
pub(crate) fn fault(ctx: &RawTracePointContext) {
    let task = Task::current();
    // page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code):
    // arch/x86/include/asm/trace/exceptions.h
    if !wrote_to_present_page(ctx.arg(2)) {
        // Any write that it was about before is over.
        if let Some(thread) = threads::known(task.tid) {
            thread.write = SharedWrite::default();
        }
        return;
    }
    let Some(target) = Target::counted(task) else { return };
    let Some(thread) = current_thread(&target) else { return };
    let regs: *const UserRegisters = ctx.arg(1);
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    let Ok(regs) = (unsafe { bpf_probe_read_kernel(regs) }) else { return };
    thread.write = SharedWrite { pc: program_counter(&regs), sp: stack_pointer(&regs), ..SharedWrite::default() };
}

/// The kernel has handed out a page: to a thread that is about to write to one it shares, as the copy.
#[inline(always)]
pub(crate) fn page_allocated(ctx: &RawTracePointContext) {
    // mm_page_alloc(struct page *page, unsigned int order, gfp_t gfp_flags, int migratetype):
    // include/trace/events/kmem.h
    let (order, gfp): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if order != 0 || gfp as u64 & (GFP_MOVABLE | GFP_ZERO) != GFP_MOVABLE {
        return;
    }
    let task = Task::current();
    let Some(thread) = threads::known(task.tid) else { return };
    if thread.write.pc == 0 || thread.write.site != SiteIndex::NONE {
        return;
    }
    let Some(target) = Target::counted(task) else { return };
    let Some(regs) = user_registers() else { return };
    if is_under_way(&thread.write, &regs)
        && let Some(index) = add_at_stack(&target, thread, &regs, Category::CopiedPages, PAGE_BYTES)
    {
        thread.write.site = index;
    }
}

/// Whether the thread is in the kernel because of this write: it would go on with the same instruction.
#[inline(always)]
fn is_under_way(write: &SharedWrite, regs: &UserRegisters) -> bool {
    write.pc == program_counter(regs) && write.sp == stack_pointer(regs)
}

/// The registers with which the current thread has entered the kernel.
#[inline(always)]
fn user_registers() -> Option<UserRegisters> {
    // SAFETY: a plain helper (Linux 5.11).
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: a plain helper (Linux 5.15) about the current task.
    let regs = unsafe { bpf_task_pt_regs(task) } as *const UserRegisters;
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(regs) }.ok()
}
