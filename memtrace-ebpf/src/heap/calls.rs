//! Calls that may switch stacks while they are under way: an allocator that yields to another coroutine leaves several calls
//! of one thread pending, and may return from one in another thread.
//!
//! Each is remembered by the place of its return address, which is nobody else's until it returns. The thread's own memory
//! ([`ThreadMemory::pending`]) only tells which calls are nested.

use aya_ebpf::programs::ProbeContext;
use memtrace_common::{
    ids::SiteIndex,
    steps::call::{CallFlag, PendingCall},
    thread::ThreadMemory,
    wire::counters::Counter,
};

use super::{
    accounting::{count_freed, put_back},
    probe::registers,
};
use crate::{
    arch::{UserRegisters, stack_pointer},
    maps::{ALREADY_THERE, CALLS, NO_EXIST},
    recording,
    target::{Target, Task},
    threads::known_thread,
};

/// Remembers the call that the thread has just entered, if it is one of these.
#[inline(always)]
pub(crate) fn remember(target: &Target, thread: &mut ThreadMemory) {
    let pending = &mut thread.pending;
    if !pending.roles.is(CallFlag::MaySwitchStacks) {
        return;
    }
    let key = target.block(pending.stack_pointer);
    match CALLS.insert(&key, &*pending, NO_EXIST) {
        Ok(()) => {}
        Err(ALREADY_THERE) => {
            // SAFETY: the place is this call's now, so nobody else reads or writes the entry.
            if let Some(old) = unsafe { CALLS.get(&key) } {
                give_up(target, old);
            }
            _ = CALLS.insert(&key, &*pending, 0);
        }
        // No room: it is followed for as long as its thread enters no other call.
        Err(_) => pending.roles = pending.roles.without(CallFlag::MaySwitchStacks),
    }
}

/// Takes out the call whose return address lies at `place`, wherever it was entered.
#[inline(always)]
pub(crate) fn take(target: &Target, place: u64) -> Option<PendingCall> {
    let key = target.block(place);
    // SAFETY: copied at once; only the thread that is about to return from it takes it out.
    let call = *unsafe { CALLS.get(&key) }?;
    CALLS.remove(&key).ok().map(|()| call)
}

/// Whether a thread's call has not returned in another thread.
#[inline(always)]
pub(crate) fn is_pending(target: &Target, pending: &PendingCall) -> bool {
    // SAFETY: it is not looked at, only whether it is there.
    !pending.roles.is(CallFlag::MaySwitchStacks) || unsafe { CALLS.get(&target.block(pending.stack_pointer)) }.is_some()
}

/// Entry of a function that leaves its callers by other ways than a return: an exception or a longjmp.
#[inline(always)]
pub(crate) fn begin_to_leave(ctx: &ProbeContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    let Some(thread) = known_thread(&target) else { return };
    let pending = &mut thread.pending;
    if pending.stack_pointer == 0 || pending.is_on_another_stack(stack_pointer(registers(ctx))) {
        return;
    }
    pending.is_left = 1;
    if pending.roles.is(CallFlag::MaySwitchStacks) {
        _ = CALLS.insert(&target.block(pending.stack_pointer), &*pending, 0);
    }
}

/// Entry of the function with which C++ code begins to handle an exception, once it has been left as far as
/// it is.
#[inline(always)]
pub(crate) fn catch(ctx: &ProbeContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    let Some(thread) = known_thread(&target) else { return };
    let (pending, stack_pointer) = (&mut thread.pending, stack_pointer(registers(ctx)));
    if pending.stack_pointer == 0 || pending.is_on_another_stack(stack_pointer) {
        return;
    }
    let key = target.block(pending.stack_pointer);
    pending.catch(stack_pointer);
    if pending.roles.is(CallFlag::MaySwitchStacks) {
        if pending.stack_pointer == 0 {
            _ = CALLS.remove(&key);
        } else {
            _ = CALLS.insert(&key, &*pending, 0);
        }
    }
}

/// The thread enters another call than the one that it has pending: that one goes on on another stack, or is over.
#[inline(always)]
pub(crate) fn supersede(target: &Target, thread: &mut ThreadMemory, regs: &UserRegisters, slot: u64) {
    let pending = &mut thread.pending;
    let is_present = recording::is_present(pending.cohort, target.group());
    if is_present && pending.is_on_another_stack(stack_pointer(regs)) {
        return;
    }
    if pending.roles.is(CallFlag::MaySwitchStacks) && CALLS.remove(&target.block(pending.stack_pointer)).is_err() {
        // It has returned in another thread.
    } else if is_present && pending.has_jumped_to(stack_pointer(regs), slot) {
        put_back(target, &pending.resized, pending.roles);
    } else {
        give_up(target, pending);
    }
    pending.stack_pointer = 0;
}

/// Nobody will see the return of this call any more.
#[inline(always)]
pub(crate) fn give_up(target: &Target, call: &PendingCall) {
    if call.resized.address != 0 && call.resized.block.site != SiteIndex::NONE {
        count_freed(target, &call.resized.block);
    }
    // Where the return address was the kernel's, a longjmp is not told from a loss: nobody watches for one.
    let is_told = call.return_address != 0 && call.is_left == 0;
    if is_told && !recording::is_partial(target.group()) && !call.roles.is(CallFlag::Unsampled) {
        target.count(Counter::ReturnsUnseen);
    }
}
