//! Returns of functions that hand out or resize a block: only now is it known whether there is one, and where.

use aya_ebpf::{EbpfContext, programs::ProbeContext};
use aya_log_ebpf::debug;
use memtrace_common::{
    ids::SiteIndex,
    steps::{
        call::{CallFlag, CallRoles, PendingCall},
        frame::Registers,
    },
    thread::ThreadMemory,
    wire::{block::LiveBlock, counters::Counter, site::Category},
};

use super::{
    accounting::{count, count_freed, put, put_back},
    calls,
    nesting::is_return_of,
    probe::{registers, roles},
};
use crate::{
    arch::{after_return, argument, returned, stack_pointer, unwinding},
    maps::SITES,
    recording, site, stack,
    target::{Target, Task},
    threads::{current_thread, known_thread},
    user_memory::word_at,
    verifier::forgotten,
};

/// Return of a function that hands out or resizes a block: its caller's code is about to go on.
#[inline(always)]
pub(crate) fn leave(ctx: &impl EbpfContext, task: Task) {
    let Some(target) = Target::counted(task) else { return };
    let Some(thread) = known_thread(&target) else { return };
    let regs = registers(ctx);
    let caller = unwinding(regs);
    if thread.pending.returns_at(caller.sp) && thread.pending.return_address == 0 {
        let call = thread.pending;
        thread.pending.stack_pointer = 0;
        end_call(ctx, &target, thread, caller, returned(regs), &call);
    }
}

/// A `ret` is about to be executed, by a call of a function whose return address is left alone or of another that the same
/// code belongs to.
#[inline(always)]
pub(crate) fn leave_at_ret(ctx: &ProbeContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    let ret = roles(ctx);
    let may_switch = ret.is(CallFlag::MaySwitchStacks);
    // A call may return in a thread that has never entered one.
    let thread = if may_switch { current_thread(&target) } else { known_thread(&target) };
    let Some(thread) = thread else { return };
    thread.requested.rets += 1;
    let regs = registers(ctx);
    let caller = after_return(regs);
    let value = if ret.is(CallFlag::ReturnsArgument) { argument(regs, 0) } else { returned(regs) };
    let mut call = thread.pending;
    let slot = word_at(stack_pointer(regs)).unwrap_or(0);
    // A call with a return probe may share the code, and ends there.
    let is_seen = |call: &PendingCall| call.return_address != 0 && is_return_of(&target, call, slot);
    let is_own = call.returns_at(caller.sp) && is_seen(&call);
    if is_own {
        thread.pending.stack_pointer = 0;
    }
    if may_switch && (!is_own || call.roles.is(CallFlag::MaySwitchStacks)) {
        match calls::take(&target, stack_pointer(regs)) {
            Some(taken) if is_seen(&taken) => call = taken,
            // Its place is another's by now.
            Some(taken) => return calls::give_up(&target, &taken),
            None => return,
        }
    } else if !is_own {
        return;
    }
    if recording::is_present(call.cohort, target.group()) {
        end_call(ctx, &target, thread, Registers { pc: call.return_address, ..caller }, value, &call);
    }
}

/// A call of the current thread's has ended with `returned`.
#[inline(always)]
fn end_call(
    ctx: &impl EbpfContext,
    target: &Target,
    thread: &mut ThreadMemory,
    caller: Registers,
    returned: u64,
    call: &PendingCall,
) {
    let address = match new_block(call, returned) {
        Ok(address) => address,
        Err(Unreadable) => return target.count(Counter::OutputUnreadable),
    };
    if call.resized.address != 0 && settle_resize(target, call, address) == Resize::Failed {
        return;
    }
    if address != 0 && !call.roles.is(CallFlag::Unsampled) {
        // However it came to this.
        let (address, size_bytes) = (forgotten(address, caller.sp), forgotten(call.size_bytes, caller.sp));
        record(ctx, target, caller, thread, address, size_bytes, call.roles);
    }
}

/// The program's memory that should hold the new block's address could not be read.
struct Unreadable;

/// The address of the block that the call handed out; 0 where it failed.
#[inline(always)]
fn new_block(call: &PendingCall, returned: u64) -> Result<u64, Unreadable> {
    if call.roles.is(CallFlag::InPlace) {
        return Ok(call.resized_in_place(returned));
    }
    if call.output == 0 {
        return Ok(returned);
    }
    // Such functions return an `int` error code.
    if returned as u32 != 0 {
        return Ok(0);
    }
    word_at(call.output).ok_or(Unreadable)
}

#[derive(PartialEq, Eq)]
enum Resize {
    Failed,
    Done,
}

/// Decides what became of the block that a resize was about.
#[inline(always)]
fn settle_resize(target: &Target, call: &PendingCall, address: u64) -> Resize {
    let resized = &call.resized;
    let known = resized.block.site != SiteIndex::NONE;
    // One that returns no block has freed the old one, or left it as it was.
    if address == 0 && !call.frees_without_block() {
        put_back(target, resized, call.roles);
        return Resize::Failed;
    }
    if known {
        count_freed(target, &resized.block);
    } else if recording::knows_every_block(target.group()) {
        target.count(Counter::UnmatchedFrees);
    }
    Resize::Done
}

/// Puts a new block on the books.
#[inline(always)]
fn record(
    ctx: &impl EbpfContext,
    target: &Target,
    caller: Registers,
    thread: &mut ThreadMemory,
    address: u64,
    size_bytes: u64,
    roles: CallRoles,
) {
    thread.unmatched_frees = 0;
    let stack = stack::walk(target, caller, thread);
    let index = match site::index_of(target, stack, thread, Category::Heap) {
        Ok(index) => index,
        Err(why) => {
            debug!(ctx, "no room for a site of process {}", target.tgid);
            return target.count(why);
        }
    };
    let Some(site) = SITES.get_ptr_mut(index.0) else { return target.count(Counter::SitesFull) };
    // SAFETY: an array map's entry lives as long as the map; this field is set before the index is known.
    if unsafe { (*site).stack } != stack {
        target.count(Counter::SiteCollisions);
    }
    let block = LiveBlock::new(size_bytes, recording::recorded(roles, target.group()), index, target.now_ms);
    if !put(target, address, &block, roles) {
        debug!(ctx, "no room for a block of process {}", target.tgid);
        return target.count(Counter::BlocksFull);
    }
    // SAFETY: as above.
    unsafe { count(site, &block, None) };
}
