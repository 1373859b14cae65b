//! Address spaces: ranges that programs map and give up by themselves.
//!
//! Only tells: which parts of which ranges are left takes arithmetic that is user space's. A range is told to
//! leave *before* the call and to be there *after* it: in between, another thread may be handed the addresses.

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use memtrace_common::{
    process::Counter,
    site::{Category, SiteIndex},
    unwind::Registers,
    vm::{VmEvent, VmKind},
};

use crate::{
    alloc::{current_thread, is_within_call},
    maps::VM_EVENTS,
    site, stack,
    target::{Target, Task},
};

/// System calls by number: arch/x86/entry/syscalls/syscall_64.tbl.
mod number {
    pub(super) const MMAP: u64 = 9;
    pub(super) const MUNMAP: u64 = 11;
    pub(super) const BRK: u64 = 12;
    pub(super) const MREMAP: u64 = 25;
}

/// `MAP_ANONYMOUS` of `<asm-generic/mman-common.h>`.
const MAP_ANONYMOUS: u64 = 0x20;
/// The highest value that is an address and not an error number.
const LAST_ADDRESS: u64 = (-4096i64) as u64;

/// The current thread enters a system call.
#[inline(always)]
pub(crate) fn enter(ctx: &RawTracePointContext) {
    // sys_enter(struct pt_regs *regs, long id): include/trace/events/syscalls.h
    let id: u64 = ctx.arg(1);
    if id != number::MUNMAP && id != number::MREMAP {
        return;
    }
    let Some(target) = Target::counted(Task::current()) else { return };
    let Some(regs) = registers(ctx) else { return };
    // munmap(addr, length) and mremap(old_address, old_size, …)
    tell(&target, VmKind::Leave, SiteIndex::NONE, regs.rdi, regs.rsi, 0);
}

/// The current thread returns from a system call.
#[inline(always)]
pub(crate) fn leave(ctx: &RawTracePointContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    // sys_exit(struct pt_regs *regs, long ret)
    let Some(regs) = registers(ctx) else { return };
    let result: u64 = ctx.arg(1);
    let anonymous = regs.r10 & MAP_ANONYMOUS != 0;
    let (kind, length, flags, is_memory) = match regs.orig_rax {
        number::MUNMAP => return tell(&target, VmKind::Left, SiteIndex::NONE, result, 0, 0),
        // mremap(old_address, old_size, new_size, flags, …)
        number::MREMAP => (VmKind::Remapped, regs.rdx, regs.r10, true),
        // mmap(addr, length, prot, flags, fd, offset)
        number::MMAP => (VmKind::Mapped, regs.rsi, regs.r10, anonymous),
        // brk(brk)
        number::BRK => (VmKind::Break, 0, 0, true),
        _ => return,
    };
    let is_charged = is_memory && result <= LAST_ADDRESS && !is_within_call(&target, &regs);
    let site = if is_charged { site_of_call(&target, &regs) } else { SiteIndex::NONE };
    tell(&target, kind, site, result, length, flags);
}

/// The current thread returns from a system call: tells whose the memory is that it has mapped, an allocator's or the
/// program's own. What is given up is not told: nothing is there any more, until something is mapped again.
#[inline(always)]
pub(crate) fn tell_area(ctx: &RawTracePointContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    // sys_exit(struct pt_regs *regs, long ret)
    let Some(regs) = registers(ctx) else { return };
    let result: u64 = ctx.arg(1);
    let (kind, length) = match regs.orig_rax {
        // mremap(old_address, old_size, new_size, flags, …)
        number::MREMAP => (VmKind::AreaMapped, regs.rdx),
        // mmap(addr, length, prot, flags, fd, offset)
        number::MMAP if regs.r10 & MAP_ANONYMOUS != 0 => (VmKind::AreaMapped, regs.rsi),
        // brk(brk)
        number::BRK => (VmKind::AreaBreak, 0),
        _ => return,
    };
    if result <= LAST_ADDRESS {
        let flags = if is_within_call(&target, &regs) { VmEvent::BY_ALLOCATOR } else { 0 };
        tell(&target, kind, SiteIndex::NONE, result, length, u64::from(flags));
    }
}

/// The registers with which the current thread has entered the kernel.
#[inline(always)]
fn registers(ctx: &RawTracePointContext) -> Option<pt_regs> {
    let regs: *const pt_regs = ctx.arg(0);
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(regs) }.ok()
}

/// The site that is charged for a new range.
#[inline(always)]
fn site_of_call(target: &Target, regs: &pt_regs) -> SiteIndex {
    let Some(thread) = current_thread(target) else { return SiteIndex::NONE };
    let caller = Registers { pc: regs.rip, sp: regs.rsp, bp: regs.rbp };
    let stack = stack::walk(target, caller, thread);
    match site::index_of(target, stack, thread, Category::Mmap) {
        Ok(index) => index,
        Err(why) => {
            target.count(why);
            SiteIndex::NONE
        }
    }
}

#[inline(always)]
fn tell(target: &Target, kind: VmKind, site: SiteIndex, result: u64, length: u64, flags: u64) {
    let event = VmEvent {
        kind: kind as u32,
        tid: target.tid,
        slot: target.slot,
        site,
        result,
        length,
        flags: flags as u32,
        now_ms: target.now_ms,
    };
    if VM_EVENTS.output::<VmEvent>(event, 0).is_err() {
        target.count(Counter::VmEventsFull);
    }
}
