//! Nesting: of hooked calls within hooked calls only the outermost counts.

use memtrace_common::{
    steps::call::{CallFlag, CallRoles, PendingCall},
    thread::ThreadMemory,
};

use super::{calls, sides};
use crate::{
    arch::{UserRegisters, stack_pointer},
    atomic::load,
    maps::TRAMPOLINES,
    recording,
    target::Target,
    threads::{current_thread, known_thread},
    user_memory::word_at,
};

/// The current thread, if the call it has just entered is not nested in another hooked one.
#[inline(always)]
pub(crate) fn outermost<'a>(target: &Target, regs: &UserRegisters, roles: CallRoles) -> Option<&'a mut ThreadMemory> {
    let thread = current_thread(target)?;
    sides::note_allocation(thread, roles);
    // One that is jumped to and has a return probe returns there, where the other's return is not looked for.
    let slot = if roles.is(CallFlag::KeepsReturnAddress) { 0 } else { thread.pending.return_address };
    if !thread.pending.has_jumped_to(stack_pointer(regs), slot) && is_nested(target, thread, regs) {
        if recording::is_adaptive() {
            // It costs a trap like any other.
            thread.requested.objects += 1;
        }
        return None;
    }
    if thread.pending.stack_pointer != 0 {
        calls::supersede(target, thread, regs, word_at(stack_pointer(regs)).unwrap_or(0));
    }
    Some(thread)
}

/// Whether the current thread is inside another hooked call.
#[inline(always)]
pub(crate) fn is_within_call(target: &Target, regs: &UserRegisters) -> bool {
    let Some(thread) = known_thread(target) else { return false };
    is_nested(target, thread, regs)
}

#[inline(always)]
pub(crate) fn is_nested(target: &Target, thread: &ThreadMemory, regs: &UserRegisters) -> bool {
    let pending = &thread.pending;
    pending.encloses(stack_pointer(regs))
        && awaits_return(target, pending)
        && recording::is_present(pending.cohort, thread.group)
        && calls::is_pending(target, pending)
}

/// Whether a call has neither returned nor been left by other ways.
#[inline(always)]
fn awaits_return(target: &Target, pending: &PendingCall) -> bool {
    is_return_of(target, pending, word_at(pending.stack_pointer).unwrap_or(0))
}

/// Whether `slot`, the word where a call's return address lies, still belongs to it.
#[inline(always)]
pub(crate) fn is_return_of(target: &Target, call: &PendingCall, slot: u64) -> bool {
    let trampoline = TRAMPOLINES.get_ptr(target.slot.0).map(load).filter(|address| *address != 0);
    call.awaits_return(slot, trampoline)
}
