//! Entries of functions that free a block.

use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use memtrace_common::{
    ids::BudgetGroup,
    steps::{
        call::{CallRoles, Role},
        handed_on::HandedOn,
    },
    wire::counters::Counter,
};

use super::{
    accounting::{count_end, count_freed},
    blocks, free_site,
    nesting::{is_nested, is_within_call},
    probe::{argument_with, registers, roles},
    sides,
};
use crate::{
    arch::{UserRegisters, program_counter},
    recording,
    target::{Target, Task},
    threads::{known_or_new_thread, known_thread},
};

/// Entry of a function that frees a block.
#[inline(always)]
pub(crate) fn enter_free(ctx: &ProbeContext) {
    let regs = registers(ctx);
    let roles = roles(ctx);
    let address = argument_with(regs, roles, Role::Block);
    if address == 0 && !recording::is_adaptive() {
        return;
    }
    let task = Task::current();
    let (is_inner, group) =
        if recording::is_adaptive() { count_free(task, address, roles, regs) } else { (false, BudgetGroup::SHARED) };
    if address == 0 {
        return;
    }
    if !recording::knows_every_block(group) && !blocks::may_be_known(address) {
        return sides::note_passed_free(|| Target::counted(task), roles, address);
    }
    let Some(target) = Target::counted(task) else { return };
    match blocks::take(target.block(address)) {
        Some(block) => {
            count_freed(&target, &block);
            sides::note_free_of_known(&target, roles);
            if target.follows_frees {
                free_site::note(&target, regs, block.site);
            }
        }
        // One that was not recorded, at an address like one that was.
        None if !recording::knows_every_block(group) => return,
        None if is_inner || was_handed_on(&target, address, regs) => {}
        // A resize frees the old block by calling `free`; its own entry has taken the record out.
        None if is_within_call(&target, regs) => {}
        None => {
            debug!(ctx, "free of {:x}: not allocated since attach", address);
            target.count(Counter::UnmatchedFrees);
            if let Some(thread) = known_or_new_thread(&target) {
                thread.unmatched_frees += 1;
            }
            if !recording::is_adaptive() {
                sides::note_free(&target, roles);
            }
        }
    }
    if roles.hands_on() && recording::knows_every_block(group) {
        hand_on(&target, HandedOn::by(program_counter(regs), roles, address));
    }
}

/// Counts a free, whatever is known of the block. Returns whether it is part of one that has been counted, and the target's
/// group.
#[inline(always)]
fn count_free(task: Task, address: u64, roles: CallRoles, regs: &UserRegisters) -> (bool, BudgetGroup) {
    let Some(target) = Target::counted(task) else { return (false, BudgetGroup::SHARED) };
    let group = target.group();
    let Some(thread) = known_or_new_thread(&target) else { return (false, group) };
    thread.requested.frees += 1;
    let function = program_counter(regs);
    let is_inner = address == 0 || thread.handed_on.reaches(function, address) || is_nested(&target, thread, regs);
    thread.handed_on = HandedOn::by(function, roles, address);
    if !is_inner {
        count_end(thread);
        sides::note_free(&target, roles);
    }
    (is_inner, group)
}

/// Remembers a block whose record is gone although a free of it may still be to come, within the one that
/// has just begun.
#[inline(always)]
fn hand_on(target: &Target, block: HandedOn) {
    if let Some(thread) = known_or_new_thread(target) {
        thread.handed_on = block;
    }
}

/// Whether this is the inner free of a block that was handed on. Once: nobody else can free it in between.
#[inline(always)]
fn was_handed_on(target: &Target, address: u64, regs: &UserRegisters) -> bool {
    let Some(thread) = known_thread(target) else { return false };
    let was_handed_on = thread.handed_on.reaches(program_counter(regs), address);
    if was_handed_on {
        thread.handed_on = HandedOn::default();
    }
    was_handed_on
}
