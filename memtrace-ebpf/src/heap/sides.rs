//! The two sides of each allocator: whether a process is seen to allocate, and to free, by its functions.
//!
//! Nearly every call only looks: an allocation at a bit of its own thread, a free at a word that has long been written.

use memtrace_common::{steps::call::CallRoles, thread::ThreadMemory, wire::process::Sides};

use crate::{
    atomic::{add, load},
    recording,
    target::{Target, sides_at},
};

/// Where only frees of known blocks are looked at, one free in so many is looked at all the same: by its address, of which
/// these bits are 0. Below are those that allocators align blocks to.
const SHOWN: u64 = 64;
const SHOWN_BITS: u64 = (SHOWN - 1) << 4;

/// The thread has called a function that allocates.
#[inline(always)]
pub(super) fn note_allocation(thread: &mut ThreadMemory, roles: CallRoles) {
    let bit = 1 << roles.allocator();
    if thread.allocators & bit == 0 {
        thread.allocators |= bit;
        if let Some(sides) = sides_at(thread.process, roles.allocator()) {
            // SAFETY: an array map's entry lives as long as the map.
            add(unsafe { &raw mut (*sides).allocations }, 1);
        }
    }
}

/// A block was freed that is known, so it was seen when it was allocated.
#[inline(always)]
pub(super) fn note_free_of_known(target: &Target, roles: CallRoles) {
    let Some((allocations, frees)) = words(target, roles) else { return };
    if load(allocations) == 0 {
        add(allocations, 1);
    }
    if load(frees) == 0 {
        add(frees, 1);
    }
}

/// A block was freed of which nothing is known.
#[inline(always)]
pub(super) fn note_free(target: &Target, roles: CallRoles) {
    note_frees(target, roles, 1);
}

/// The same of a free that is passed over, because the block was not recorded.
#[inline(always)]
pub(super) fn note_passed_free(target: impl FnOnce() -> Option<Target>, roles: CallRoles, address: u64) {
    // Where what is recorded may change, each free was noted before.
    if recording::is_adaptive() || address & SHOWN_BITS != 0 {
        return;
    }
    if let Some(target) = target() {
        note_frees(&target, roles, SHOWN);
    }
}

/// A block was handed out again, of which no free was seen.
#[inline(always)]
pub(super) fn note_handed_out_again(target: &Target, roles: CallRoles) {
    if let Some(sides) = sides_at(target.slot, roles.allocator()) {
        // SAFETY: an array map's entry lives as long as the map.
        add(unsafe { &raw mut (*sides).handed_out_again }, 1);
    }
}

#[inline(always)]
fn note_frees(target: &Target, roles: CallRoles, count: u64) {
    let Some((allocations, frees)) = words(target, roles) else { return };
    if load(allocations) == 0 || load(frees) == 0 {
        add(frees, count);
    }
}

/// The words of allocations and of frees.
#[inline(always)]
fn words(target: &Target, roles: CallRoles) -> Option<(*mut u64, *mut u64)> {
    let sides: *mut Sides = sides_at(target.slot, roles.allocator())?;
    // SAFETY: an array map's entry lives as long as the map.
    let allocations = unsafe { &raw mut (*sides).allocations };
    // SAFETY: as above.
    Some((allocations, unsafe { &raw mut (*sides).frees }))
}
