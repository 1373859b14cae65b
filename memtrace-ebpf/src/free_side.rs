//! Where blocks of some sites are freed: of those that user space asks for, and of so many frees as it asks for.

use aya_ebpf::bindings::pt_regs;
use memtrace_common::{free_side::FreeSide, process::Counter, site::SiteIndex, unwind::Registers};

use crate::{
    alloc::current_thread,
    atomic::{add, subtract},
    maps::{ALREADY_THERE, FREE_SIDES, FREES_WANTED, NO_EXIST, STACKS},
    stack,
    target::Target,
};

/// A block of `site` is freed by a function that has just been entered.
#[inline(always)]
pub(crate) fn note(target: &Target, regs: &pt_regs, site: SiteIndex) {
    let Some(wanted) = FREES_WANTED.get_ptr_mut(site.0) else { return };
    // SAFETY: an array map's entry lives as long as the map. Of two threads at once both may see the last one, and then it
    // goes below zero.
    if unsafe { wanted.read_volatile() } as i64 <= 0 {
        return;
    }
    subtract(wanted, 1);
    let Some(thread) = current_thread(target) else { return };
    let stack = stack::walk_interrupted(target, Registers { pc: regs.rip, sp: regs.rsp, bp: regs.rbp }, thread);
    let key = FreeSide { stack, site, unused: 0 };
    if let Some(count) = FREE_SIDES.get_ptr_mut(&key) {
        return add(count, 1);
    }
    match STACKS.insert(&stack, &thread.stack, NO_EXIST) {
        Ok(()) | Err(ALREADY_THERE) => {}
        Err(_) => return target.count(Counter::StacksFull),
    }
    match FREE_SIDES.insert(&key, &1, NO_EXIST) {
        Ok(()) => {}
        Err(ALREADY_THERE) => {
            if let Some(count) = FREE_SIDES.get_ptr_mut(&key) {
                add(count, 1);
            }
        }
        Err(_) => target.count(Counter::FreeSidesFull),
    }
}
