//! Allocations: what happens at the entry and at the return of hooked functions.
//!
//! A record is taken out at the *entry* of whatever frees, and put in at the *return* of whatever
//! allocates: in between, the allocator may hand the address to another thread. Of nested calls only the
//! outermost counts.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip},
    },
    programs::ProbeContext,
};
use aya_log_ebpf::debug;
use memtrace_common::{
    block::LiveBlock,
    call::{CallRoles, PendingCall, ResizedBlock, Role, Trait},
    control::Watch,
    process::Counter,
    sampling::Weight,
    site::{Category, Site, SiteIndex},
    thread::ThreadMemory,
    unwind::Registers,
};

use crate::{
    atomic::add,
    blocks, calls, free_side,
    maps::{SITES, TRAMPOLINES},
    registers::{argument, argument_with, requested_bytes},
    sample, site, stack,
    target::{self, Target, Task},
    threads,
    verifier::forgotten,
    watch,
};

/// What the kernel is to do about the return of the call that has just been entered.
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
    registers(ctx.regs).rip == unsafe { bpf_get_func_ip(ctx.as_ptr()) }
}

/// The same for a function that hands out a new block. A thread without a call under way awaits no return, which is known
/// ten nanoseconds sooner. (But for a call that a signal handler on a stack of its own has made us forget: its return
/// is then noted as an entry, which comes to nothing; where samples are taken, it would be counted.)
#[inline(always)]
pub(crate) fn is_alloc_entry(ctx: &ProbeContext, task: Task) -> bool {
    let is_idle = || threads::known(task.tid).is_none_or(|thread| thread.memory.pending.stack_pointer == 0);
    (!sample::is_on() && is_idle()) || is_entry(ctx)
}

/// Whether this is an entry of a call of which nothing but its size will be known: nearly every one, where samples are
/// taken, so it is found out with as little as can be. A thread without a call under way awaits no return either.
#[inline(always)]
pub(crate) fn is_passed_over(ctx: &ProbeContext, task: Task) -> bool {
    if !sample::is_on() || !target::is_counting() {
        return false;
    }
    let Some(thread) = threads::known(task.tid).map(|thread| &mut thread.memory) else { return false };
    let roles = roles(ctx);
    if thread.pending.stack_pointer != 0 || !roles.is(Trait::Leaf) {
        return false;
    }
    let size_bytes = requested_bytes(registers(ctx.regs), roles);
    if watch::is(Watch::Samples) {
        return sample::passes_over(thread, size_bytes);
    }
    let is_passed_over = watch::is(Watch::Frees);
    if is_passed_over {
        sample::count(thread, size_bytes);
    }
    is_passed_over
}

/// Entry of a function that hands out a new block.
#[inline(always)]
pub(crate) fn enter_alloc(ctx: &ProbeContext, task: Task) -> Return {
    let Some(target) = Target::counted(task) else { return Return::Skipped };
    let regs = registers(ctx.regs);
    let roles = roles(ctx);
    let Some(thread) = outermost(&target, regs, roles) else { return Return::Skipped };
    let size_bytes = requested_bytes(regs, roles);
    let roles = match as_recorded(thread, roles, size_bytes) {
        roles if roles.is(Trait::Unsampled) && roles.is(Trait::Leaf) => return Return::Skipped,
        roles => roles,
    };
    await_return(thread, regs, roles, size_bytes);
    thread.pending.output = argument_with(regs, roles, Role::Output);
    // What was known of the block before is not looked at then. (All of it, and the compiler would call a function that
    // writes zeros byte by byte.)
    thread.pending.resized.address = 0;
    calls::remember(&target, thread);
    Return::Awaited
}

/// Notes a call that has just been entered, but for its kind's own fields.
#[inline(always)]
fn await_return(thread: &mut ThreadMemory, regs: &pt_regs, roles: CallRoles, size_bytes: u64) {
    let keeps_address = roles.is(Trait::KeepsReturnAddress);
    if sample::is_on() && !keeps_address {
        thread.requested.returns += 1;
    }
    let pending = &mut thread.pending;
    pending.stack_pointer = regs.rsp;
    pending.size_bytes = size_bytes;
    pending.roles = roles;
    pending.return_address = if keeps_address { word_at(regs.rsp) } else { 0 };
    pending.is_left = 0;
    pending.cohort = if watch::is_adaptive() { watch::cohort() } else { 0 };
}

/// Entry of a function that resizes a block.
#[inline(always)]
pub(crate) fn enter_resize(ctx: &ProbeContext, task: Task) -> Return {
    let Some(target) = Target::counted(task) else { return Return::Skipped };
    let regs = registers(ctx.regs);
    let roles = roles(ctx);
    let (address, size_bytes) = (argument_with(regs, roles, Role::Block), requested_bytes(regs, roles));
    let Some(thread) = outermost(&target, regs, roles) else { return Return::Skipped };
    if watch::is_adaptive() && address != 0 {
        count_end(thread);
    }
    let block = if address == 0 { None } else { blocks::take(target.block(address)) };
    if block.is_none() && watch::is(Watch::Frees) {
        return Return::Skipped;
    }
    await_return(thread, regs, roles, size_bytes);
    thread.pending.output = 0;
    thread.pending.resized = ResizedBlock { address, block: block.unwrap_or_default() };
    // What is resized to nothing is freed.
    let is_sampled_as_free = sample::is_on() && address != 0 && size_bytes == 0;
    thread.pending.roles =
        if is_sampled_as_free { roles.that(Trait::Unsampled) } else { as_recorded(thread, roles, size_bytes) };
    calls::remember(&target, thread);
    Return::Awaited
}

/// The roles of the call that has just been entered: as what its block is to be recorded, if it is, is one of them.
#[inline(always)]
fn as_recorded(thread: &mut ThreadMemory, roles: CallRoles, size_bytes: u64) -> CallRoles {
    if !sample::is_on() {
        return roles;
    }
    if watch::is(Watch::Samples) {
        return roles.that(if sample::takes(thread, size_bytes) { Trait::Sampled } else { Trait::Unsampled });
    }
    sample::count(thread, size_bytes);
    if watch::is(Watch::Frees) { roles.that(Trait::Unsampled) } else { roles }
}

/// Return of a function that hands out or resizes a block: its caller's code is about to go on.
#[inline(always)]
pub(crate) fn leave(ctx: &impl EbpfContext, task: Task) {
    let Some(target) = Target::counted(task) else { return };
    let Some(thread) = known_thread(&target) else { return };
    let regs = registers(ctx.as_ptr().cast());
    let caller = Registers { pc: regs.rip, sp: regs.rsp, bp: regs.rbp };
    if thread.pending.returns_at(caller.sp) && thread.pending.return_address == 0 {
        let call = thread.pending;
        thread.pending.stack_pointer = 0;
        end_call(ctx, &target, thread, caller, regs.rax, &call);
    }
}

/// A `ret` is about to be executed, by a call of a function whose return address is left alone or of another that the same
/// code belongs to.
#[inline(always)]
pub(crate) fn leave_at_ret(ctx: &ProbeContext) {
    let Some(target) = Target::counted(Task::current()) else { return };
    let ret = roles(ctx);
    let may_switch = ret.is(Trait::MaySwitchStacks);
    // A call may return in a thread that has never entered one.
    let thread = if may_switch { current_thread(&target) } else { known_thread(&target) };
    let Some(thread) = thread else { return };
    thread.requested.rets += 1;
    let regs = registers(ctx.regs);
    // As the registers will be after it.
    let mut caller = Registers { pc: 0, sp: regs.rsp + 8, bp: regs.rbp };
    let returned = if ret.is(Trait::ReturnsArgument) { argument(regs, 0) } else { regs.rax };
    let mut call = thread.pending;
    let slot = word_at(regs.rsp);
    // A call with a return probe may share the code, and ends there.
    let is_seen = |call: &PendingCall| call.return_address != 0 && is_return_of(&target, call, slot);
    let is_own = call.returns_at(caller.sp) && is_seen(&call);
    if is_own {
        thread.pending.stack_pointer = 0;
    }
    if may_switch && !(is_own && !call.roles.is(Trait::MaySwitchStacks)) {
        match calls::take(&target, regs.rsp) {
            Some(taken) if is_seen(&taken) => call = taken,
            // Its place is another's by now.
            Some(taken) => return calls::give_up(&target, &taken),
            None => return,
        }
    } else if !is_own {
        return;
    }
    caller.pc = call.return_address;
    if watch::is_present(call.cohort) {
        end_call(ctx, &target, thread, caller, returned, &call);
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
    if address != 0 && !call.roles.is(Trait::Unsampled) {
        // However it came to this.
        let (address, size_bytes) = (forgotten(address, caller.sp), forgotten(call.size_bytes, caller.sp));
        record(ctx, target, caller, thread, address, size_bytes, call.roles);
    }
}

/// Entry of a function that frees a block.
#[inline(always)]
pub(crate) fn enter_free(ctx: &ProbeContext) {
    let regs = registers(ctx.regs);
    let roles = roles(ctx);
    let address = argument_with(regs, roles, Role::Block);
    if address == 0 && !watch::is_adaptive() {
        return;
    }
    let task = Task::current();
    let is_inner = watch::is_adaptive() && count_free(task, address, roles, regs);
    if address == 0 {
        return;
    }
    if !watch::knows_every_block() && !blocks::may_be_known(address) {
        return;
    }
    let Some(target) = Target::counted(task) else { return };
    match blocks::take(target.block(address)) {
        Some(block) => {
            count_freed(&block, target.now_ms);
            if target.follows_frees {
                free_side::note(&target, regs, block.site);
            }
        }
        // One that was not recorded, at an address like one that was.
        None if !watch::knows_every_block() => return,
        None if is_inner || was_handed_on(&target, address) => {}
        // A resize frees the old block by calling `free`; its own entry has taken the record out.
        None if is_within_call(&target, regs) => {}
        None => {
            debug!(ctx, "free of {:x}: not allocated since attach", address);
            target.count(Counter::UnmatchedFrees);
        }
    }
    if roles.is(Trait::HandsOn) && watch::knows_every_block() {
        hand_on(&target, address);
    }
}

/// Counts a free, whatever is known of the block. Returns whether it is part of one that has been counted.
#[inline(always)]
fn count_free(task: Task, address: u64, roles: CallRoles, regs: &pt_regs) -> bool {
    let Some(target) = Target::counted(task) else { return false };
    let Some(thread) = known_thread(&target).or_else(|| new_thread(&target)) else { return false };
    thread.requested.frees += 1;
    let is_inner = address == 0 || thread.handed_on == address || is_nested(&target, thread, regs);
    thread.handed_on = if roles.is(Trait::HandsOn) { address } else { 0 };
    if !is_inner {
        count_end(thread);
    }
    is_inner
}

/// Counts the end of a block.
#[inline(always)]
fn count_end(thread: &mut ThreadMemory) {
    thread.requested.ends += 1;
    if watch::is(Watch::Window) {
        thread.requested.window_ends += 1;
    }
}

/// Remembers a block whose record is gone although a free of it may still be to come, within the one that
/// has just begun.
#[inline(always)]
fn hand_on(target: &Target, address: u64) {
    if let Some(thread) = known_thread(target).or_else(|| new_thread(target)) {
        thread.handed_on = address;
    }
}

/// Whether this is the inner free of a block that was handed on. Once: nobody else can free it in between.
#[inline(always)]
fn was_handed_on(target: &Target, address: u64) -> bool {
    let Some(thread) = known_thread(target) else { return false };
    thread.handed_on == address && core::mem::replace(&mut thread.handed_on, 0) == address
}

#[inline(always)]
pub(crate) fn registers<'a>(regs: *const pt_regs) -> &'a pt_regs {
    // SAFETY: the context of a uprobe program is the thread's registers, valid while the program runs.
    unsafe { &*regs }
}

#[inline(always)]
fn roles(ctx: &ProbeContext) -> CallRoles {
    // SAFETY: the helper reads the running program's own attachment.
    CallRoles(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
}

/// The current thread, if the call it has just entered is not nested in another hooked one.
#[inline(always)]
fn outermost<'a>(target: &Target, regs: &pt_regs, roles: CallRoles) -> Option<&'a mut ThreadMemory> {
    let thread = current_thread(target)?;
    // One that is jumped to and has a return probe returns there, where the other's return is not looked for.
    let slot = if roles.is(Trait::KeepsReturnAddress) { 0 } else { thread.pending.return_address };
    if !thread.pending.has_jumped_to(regs.rsp, slot) && is_nested(target, thread, regs) {
        if watch::is_adaptive() {
            // It costs a trap like any other.
            thread.requested.objects += 1;
        }
        return None;
    }
    if thread.pending.stack_pointer != 0 {
        calls::supersede(target, thread, regs, word_at(regs.rsp));
    }
    Some(thread)
}

/// What is remembered of the current thread, from now on if it was not seen before.
#[inline(always)]
pub(crate) fn current_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    let thread = known_thread(target).or_else(|| new_thread(target));
    if thread.is_none() {
        target.count(Counter::ThreadsFull);
    }
    thread
}

/// What is remembered of the current thread, if it was seen before.
#[inline(always)]
pub(crate) fn known_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    threads::known(target.tid).map(|thread| &mut thread.memory)
}

/// Whether the current thread is inside another hooked call.
#[inline(always)]
pub(crate) fn is_within_call(target: &Target, regs: &pt_regs) -> bool {
    let Some(thread) = known_thread(target) else { return false };
    is_nested(target, thread, regs)
}

#[inline(always)]
fn is_nested(target: &Target, thread: &ThreadMemory, regs: &pt_regs) -> bool {
    let pending = &thread.pending;
    pending.encloses(regs.rsp)
        && awaits_return(target, pending)
        && watch::is_present(pending.cohort)
        && calls::is_pending(target, pending)
}

#[inline(always)]
fn new_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    if threads::begin(target.tid, target.slot.0) == 1 { known_thread(target) } else { None }
}

/// Whether a call has neither returned nor been left by other ways.
#[inline(always)]
fn awaits_return(target: &Target, pending: &PendingCall) -> bool {
    is_return_of(target, pending, word_at(pending.stack_pointer))
}

/// Whether `slot`, the word where a call's return address lies, still belongs to it.
#[inline(always)]
fn is_return_of(target: &Target, call: &PendingCall, slot: u64) -> bool {
    let trampoline = TRAMPOLINES.get(target.slot.0).copied().filter(|address| *address != 0);
    call.awaits_return(slot, trampoline)
}

/// A word of the program's memory; 0 where it cannot be read.
#[inline(always)]
fn word_at(address: u64) -> u64 {
    // SAFETY: the helper checks the user address and fails where it is not readable.
    unsafe { bpf_probe_read_user(address as *const u64) }.unwrap_or(0)
}

/// The program's memory that should hold the new block's address could not be read.
struct Unreadable;

/// The address of the block that the call handed out; 0 where it failed.
#[inline(always)]
fn new_block(call: &PendingCall, returned: u64) -> Result<u64, Unreadable> {
    if call.roles.is(Trait::InPlace) {
        return Ok(call.resized_in_place(returned));
    }
    if call.output == 0 {
        return Ok(returned);
    }
    // Such functions return an `int` error code.
    if returned as u32 != 0 {
        return Ok(0);
    }
    // SAFETY: the helper checks the user address and fails where it is not readable.
    unsafe { bpf_probe_read_user(call.output as *const u64) }.map_err(|_| Unreadable)
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
        put_back(target, resized);
        return Resize::Failed;
    }
    if known {
        count_freed(&resized.block, target.now_ms);
    } else if watch::knows_every_block() {
        target.count(Counter::UnmatchedFrees);
    }
    Resize::Done
}

/// Puts the record back that a resize has taken out and is not to settle.
#[inline(always)]
pub(crate) fn put_back(target: &Target, resized: &ResizedBlock) {
    let is_known = resized.address != 0 && resized.block.site != SiteIndex::NONE;
    if is_known && !put(target, resized.address, &resized.block) {
        // Another thread took the room in between.
        count_freed(&resized.block, target.now_ms);
        target.count(Counter::PutBackFull);
    }
}

#[inline(always)]
pub(crate) fn count_freed(block: &LiveBlock, now_ms: u32) {
    if watch::is_judged(block.recorded()) {
        return;
    }
    let Some(site) = SITES.get_ptr_mut(block.site.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    unsafe { count(site, block, Some(now_ms)) };
}

/// Counts a block at its site as allocated, or as freed at a time: for good, with what it stands for, or as one of its
/// window's.
///
/// # Safety
/// `site` is an entry of an array map, which lives as long as the map; it is touched atomically only.
#[inline(always)]
unsafe fn count(site: *mut Site, block: &LiveBlock, freed_ms: Option<u32>) {
    let size_bytes = block.size_bytes();
    if block.recorded().is_in_some_cohort() {
        // SAFETY: as the caller promises.
        unsafe {
            let sum = if freed_ms.is_some() { &raw mut (*site).window_freed } else { &raw mut (*site).window_alloc };
            add(&raw mut (*sum).bytes, size_bytes);
            add(&raw mut (*sum).objects, 1);
        }
        return;
    }
    let Weight { bytes, objects, bytes_variance, objects_variance } = sample::weight(size_bytes, block.recorded());
    // SAFETY: as the caller promises.
    unsafe {
        match freed_ms {
            None => site::add_allocated(site, block.born_ms, bytes, objects),
            Some(now_ms) => site::add_freed(site, block.born_ms, now_ms, bytes, objects),
        }
        if sample::is_on() {
            let sum =
                if freed_ms.is_some() { &raw mut (*site).freed_variance } else { &raw mut (*site).alloc_variance };
            add(&raw mut (*sum).bytes, bytes_variance);
            add(&raw mut (*sum).objects, objects_variance);
        }
    }
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
    let block = LiveBlock::new(size_bytes, watch::recorded(roles), index, target.now_ms);
    if !put(target, address, &block) {
        debug!(ctx, "no room for a block of process {}", target.tgid);
        return target.count(Counter::BlocksFull);
    }
    // SAFETY: as above.
    unsafe { count(site, &block, None) };
}

/// Puts a block's record in; a record that is already there was never seen freed. Returns whether there was room.
#[inline(always)]
fn put(target: &Target, address: u64, block: &LiveBlock) -> bool {
    let blocks::Put { is_in, old } = blocks::put(target.block(address), block);
    if let Some(old) = old {
        count_freed(&old, target.now_ms);
        if !watch::is_partial() {
            target.count(Counter::MissedFrees);
        }
    }
    is_in
}
