//! Entries of functions that hand out or resize a block.
//!
//! A record is taken out at the *entry* of whatever frees, and put in at the *return* of whatever
//! allocates: in between, the allocator may hand the address to another thread.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_func_ip, programs::ProbeContext};
use memtrace_common::{
    steps::call::{CallFlag, CallRoles, ResizedBlock, Role},
    thread::ThreadMemory,
    wire::control::Recording,
};

use super::{
    accounting::count_end,
    blocks, calls,
    nesting::outermost,
    probe::{argument_with, registers, requested_bytes, roles},
    sample, sides,
};
use crate::{
    arch::{UserRegisters, program_counter, stack_pointer},
    recording,
    target::{self, Target, Task},
    threads,
    user_memory::word_at,
};

/// The kernel's next step about the return of the call that has just been entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// Nobody waits for it: it need not be trapped.
    Skipped,
    /// The call is under way until then.
    Awaited,
}

/// Whether a program that is attached to both ends of a function runs at its entry: its return leaves the
/// program counter in the caller.
#[inline(always)]
pub(crate) fn is_entry(ctx: &ProbeContext) -> bool {
    // SAFETY: the helper reads the running program's own attachment.
    program_counter(registers(ctx)) == unsafe { bpf_get_func_ip(ctx.as_ptr()) }
}

/// The same for a function that hands out a new block. A thread without a call under way awaits no return, which is known
/// ten nanoseconds sooner. (But for a call that a signal handler on a stack of its own has made us forget: its return
/// is then noted as an entry, which comes to nothing; where samples are taken, it would be counted.)
#[inline(always)]
pub(crate) fn is_alloc_entry(ctx: &ProbeContext, task: Task) -> bool {
    let is_idle = || threads::known(task.tid).is_none_or(|thread| thread.pending.stack_pointer == 0);
    (!recording::takes_samples() && is_idle()) || is_entry(ctx)
}

/// Whether this is an entry of a call of which nothing but its size will be known: nearly every one, where samples are
/// taken, so it is found out with as little as can be. A thread without a call under way awaits no return either.
#[inline(always)]
pub(crate) fn is_passed_over(ctx: &ProbeContext, task: Task) -> bool {
    if !recording::takes_samples() || !target::is_counting() {
        return false;
    }
    let Some(thread) = threads::known(task.tid) else { return false };
    let roles = roles(ctx);
    if thread.pending.stack_pointer != 0 || !roles.is(CallFlag::Leaf) {
        return false;
    }
    sides::note_allocation(thread, roles);
    let size_bytes = requested_bytes(registers(ctx), roles);
    if let Some(gap) = recording::samples(thread.group) {
        return sample::passes_over(thread, size_bytes, gap);
    }
    let is_passed_over = recording::is(Recording::Frees, thread.group);
    if is_passed_over {
        sample::count(thread, size_bytes);
    }
    is_passed_over
}

/// Entry of a function that hands out a new block.
#[inline(always)]
pub(crate) fn enter_alloc(ctx: &ProbeContext, task: Task) -> Return {
    let Some(target) = Target::counted(task) else { return Return::Skipped };
    let regs = registers(ctx);
    let roles = roles(ctx);
    let Some(thread) = outermost(&target, regs, roles) else { return Return::Skipped };
    let size_bytes = requested_bytes(regs, roles);
    let roles = match as_recorded(thread, roles, size_bytes) {
        roles if roles.is(CallFlag::Unsampled) && roles.is(CallFlag::Leaf) => return Return::Skipped,
        roles => roles,
    };
    await_return(thread, regs, roles, size_bytes);
    thread.pending.output = argument_with(regs, roles, Role::Output);
    // The block's record from before is not looked at then. (All of it, and the compiler would call a function that
    // writes zeros byte by byte.)
    thread.pending.resized.address = 0;
    calls::remember(&target, thread);
    Return::Awaited
}

/// Entry of a function that resizes a block.
#[inline(always)]
pub(crate) fn enter_resize(ctx: &ProbeContext, task: Task) -> Return {
    let Some(target) = Target::counted(task) else { return Return::Skipped };
    let regs = registers(ctx);
    let roles = roles(ctx);
    let (address, size_bytes) = (argument_with(regs, roles, Role::Block), requested_bytes(regs, roles));
    let Some(thread) = outermost(&target, regs, roles) else { return Return::Skipped };
    if recording::is_adaptive() && address != 0 {
        count_end(thread);
    }
    let block = if address == 0 { None } else { blocks::take(target.block(address)) };
    if block.is_none() && recording::is(Recording::Frees, thread.group) {
        return Return::Skipped;
    }
    await_return(thread, regs, roles, size_bytes);
    thread.pending.output = 0;
    thread.pending.resized = ResizedBlock { address, block: block.unwrap_or_default() };
    // A block that is resized to nothing is freed.
    let is_sampled_as_free = recording::takes_samples() && address != 0 && size_bytes == 0;
    thread.pending.roles =
        if is_sampled_as_free { roles.that(CallFlag::Unsampled) } else { as_recorded(thread, roles, size_bytes) };
    calls::remember(&target, thread);
    Return::Awaited
}

/// Notes a call that has just been entered, but for its kind's own fields.
#[inline(always)]
fn await_return(thread: &mut ThreadMemory, regs: &UserRegisters, roles: CallRoles, size_bytes: u64) {
    let keeps_address = roles.is(CallFlag::KeepsReturnAddress);
    if recording::takes_samples() && !keeps_address {
        thread.requested.returns += 1;
    }
    let pending = &mut thread.pending;
    pending.stack_pointer = stack_pointer(regs);
    pending.size_bytes = size_bytes;
    pending.roles = roles;
    pending.return_address = if keeps_address { word_at(stack_pointer(regs)).unwrap_or(0) } else { 0 };
    pending.is_left = 0;
    pending.cohort = if recording::is_adaptive() { recording::cohort(thread.group) } else { 0 };
}

/// The roles of the call that has just been entered: as what its block is to be recorded, if it is, is one of them.
#[inline(always)]
fn as_recorded(thread: &mut ThreadMemory, roles: CallRoles, size_bytes: u64) -> CallRoles {
    if !recording::takes_samples() {
        return roles;
    }
    if let Some(gap) = recording::samples(thread.group) {
        let is_taken = sample::takes(thread, size_bytes, gap);
        return if is_taken { roles.sampled(gap) } else { roles.that(CallFlag::Unsampled) };
    }
    sample::count(thread, size_bytes);
    if recording::is(Recording::Frees, thread.group) { roles.that(CallFlag::Unsampled) } else { roles }
}
