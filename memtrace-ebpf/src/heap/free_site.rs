//! Where blocks of some sites are freed: of those that user space asks for, and of so many frees as it asks for.

use memtrace_common::{
    ids::SiteIndex,
    wire::{counters::Counter, free_site::FreeSite},
};

use crate::{
    arch::{UserRegisters, unwinding},
    atomic::{add, load, subtract},
    maps::{ALREADY_THERE, FREE_SITES, FREES_WANTED, NO_EXIST, STACKS},
    stack,
    target::Target,
    threads::current_thread,
};

/// A block of `site` is freed by a function that has just been entered.
#[inline(always)]
pub(crate) fn note(target: &Target, regs: &UserRegisters, site: SiteIndex) {
    let Some(wanted) = FREES_WANTED.get_ptr_mut(site.0) else { return };
    // Of two threads at once both may see the last one, and then it goes below zero.
    if load(wanted) as i64 <= 0 {
        return;
    }
    subtract(wanted, 1);
    let Some(thread) = current_thread(target) else { return };
    let stack = stack::walk_interrupted(target, unwinding(regs), thread);
    let key = FreeSite { stack, site, unused: 0 };
    if let Some(count) = FREE_SITES.get_ptr_mut(&key) {
        return add(count, 1);
    }
    match STACKS.insert(&stack, &thread.stack, NO_EXIST) {
        Ok(()) | Err(ALREADY_THERE) => {}
        Err(_) => return target.count(Counter::StacksFull),
    }
    match FREE_SITES.insert(&key, &1, NO_EXIST) {
        Ok(()) => {}
        Err(ALREADY_THERE) => {
            if let Some(count) = FREE_SITES.get_ptr_mut(&key) {
                add(count, 1);
            }
        }
        Err(_) => target.count(Counter::FreeSitesFull),
    }
}
