//! Address spaces: ranges that programs map and give up by themselves.
//!
//! Only tells: which parts of which ranges are left takes arithmetic that is user space's. A range is told to
//! leave *before* the call and to be there *after* it: in between, another thread may be handed the addresses.

use aya_ebpf::programs::RawTracePointContext;
use memtrace_common::{
    ids::SiteIndex,
    wire::{
        counters::Counter,
        mapping::{MappingEvent, MappingKind},
        site::Category,
    },
};

use crate::{
    address_space,
    arch::{UserRegisters, system_call_arguments, system_call_number, system_call_numbers as number, unwinding},
    heap::nesting::is_within_call,
    maps::MAPPING_EVENTS,
    site, stack,
    system_calls::{MAP_ANONYMOUS, is_address, registers},
    target::{Target, Task},
    threads::current_thread,
};

/// The current thread enters a system call.
#[inline(always)]
pub(crate) fn enter(ctx: &RawTracePointContext) {
    // sys_enter(struct pt_regs *regs, long id): include/trace/events/syscalls.h
    let id: u64 = ctx.arg(1);
    if !matches!(id, number::MUNMAP | number::MREMAP | number::SHMDT | number::BRK) {
        return;
    }
    let Some(target) = Target::counted(Task::current()) else { return };
    let Some(regs) = registers(ctx) else { return };
    let [address, length, ..] = system_call_arguments(&regs);
    let (kind, address, length) = match id {
        // brk(brk)
        number::BRK => (MappingKind::BreakFrom, address_space::data_end(), 0),
        // shmdt(shmaddr)
        number::SHMDT => (MappingKind::Detach, address, 0),
        // munmap(addr, length) and mremap(old_address, old_size, …)
        _ => (MappingKind::Leave, address, length),
    };
    tell(&target, kind, SiteIndex::NONE, address, length, 0);
}

/// The current thread returns from a system call.
#[inline(always)]
pub(crate) fn leave(ctx: &RawTracePointContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    // sys_exit(struct pt_regs *regs, long ret)
    let Some(regs) = registers(ctx) else { return };
    let result: u64 = ctx.arg(1);
    let [first, second, third, fourth, ..] = system_call_arguments(&regs);
    let (kind, length, flags) = match system_call_number(&regs) {
        number::MUNMAP | number::SHMDT => return tell(&target, MappingKind::Left, SiteIndex::NONE, result, 0, 0),
        // mremap(old_address, old_size, new_size, flags, …)
        number::MREMAP => (MappingKind::Remapped, third, fourth),
        // mmap(addr, length, prot, flags, fd, offset)
        number::MMAP => (MappingKind::Mapped, second, fourth),
        // brk(brk)
        number::BRK => (MappingKind::Break, 0, 0),
        // shmat(shmid, shmaddr, shmflg)
        number::SHMAT if is_address(result) && address_space::is_known() => {
            let Some(bytes) = address_space::segment_bytes(first as u32) else {
                return target.count(Counter::SegmentsUnknown);
            };
            (MappingKind::Attached, bytes, third)
        }
        _ => return,
    };
    let is_charged = is_address(result) && !is_within_call(&target, &regs);
    let site = if is_charged { site_of_call(&target, &regs) } else { SiteIndex::NONE };
    tell(&target, kind, site, result, length, flags);
}

/// The current thread returns from a system call: tells whose the memory is that it has mapped, an allocator's or the
/// program's own. Memory that is given up is not told: nothing is there any more, until something is mapped again.
#[inline(always)]
pub(crate) fn tell_area(ctx: &RawTracePointContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    // sys_exit(struct pt_regs *regs, long ret)
    let Some(regs) = registers(ctx) else { return };
    let result: u64 = ctx.arg(1);
    let [_, second, third, fourth, ..] = system_call_arguments(&regs);
    let (kind, length) = match system_call_number(&regs) {
        // mremap(old_address, old_size, new_size, flags, …)
        number::MREMAP => (MappingKind::AreaMapped, third),
        // mmap(addr, length, prot, flags, fd, offset)
        number::MMAP if fourth & MAP_ANONYMOUS != 0 => (MappingKind::AreaMapped, second),
        // brk(brk)
        number::BRK => (MappingKind::AreaBreak, 0),
        _ => return,
    };
    if is_address(result) {
        let flags = if is_within_call(&target, &regs) { MappingEvent::BY_ALLOCATOR } else { 0 };
        tell(&target, kind, SiteIndex::NONE, result, length, u64::from(flags));
    }
}

/// The site that is charged for a new range.
#[inline(always)]
fn site_of_call(target: &Target, regs: &UserRegisters) -> SiteIndex {
    let Some(thread) = current_thread(target) else { return SiteIndex::NONE };
    let stack = stack::walk(target, unwinding(regs), thread);
    match site::index_of(target, stack, thread, Category::Mmap) {
        Ok(index) => index,
        Err(why) => {
            target.count(why);
            SiteIndex::NONE
        }
    }
}

#[inline(always)]
fn tell(target: &Target, kind: MappingKind, site: SiteIndex, result: u64, length: u64, flags: u64) {
    let event = MappingEvent {
        kind: kind as u32,
        tid: target.tid,
        slot: target.slot,
        site,
        result,
        length,
        flags: flags as u32,
        now_ms: target.now_ms,
    };
    if MAPPING_EVENTS.output::<MappingEvent>(event, 0).is_err() {
        target.count(Counter::MappingEventsFull);
    }
}
