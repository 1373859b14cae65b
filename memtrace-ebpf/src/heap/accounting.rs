//! Blocks on the books: put in and taken out of the table, and counted at their sites.

use memtrace_common::{
    ids::SiteIndex,
    steps::call::{CallRoles, ResizedBlock},
    thread::ThreadMemory,
    wire::{
        block::LiveBlock,
        control::Recording,
        counters::Counter,
        site::{Site, Weight},
    },
};

use super::{blocks, sample, sides};
use crate::{atomic::add, maps::SITES, recording, site, target::Target};

/// Puts a block's record in; a record that is already there was never seen freed. Returns whether there was room.
#[inline(always)]
pub(crate) fn put(target: &Target, address: u64, block: &LiveBlock, roles: CallRoles) -> bool {
    let blocks::Put { is_in, old } = blocks::put(target.block(address), block);
    if let Some(old) = old {
        count_freed(target, &old);
        if !recording::is_partial(target.group()) {
            target.count(Counter::MissedFrees);
            sides::note_handed_out_again(target, roles);
        }
    }
    is_in
}

/// Puts the record back that a resize has taken out and is not to settle.
#[inline(always)]
pub(crate) fn put_back(target: &Target, resized: &ResizedBlock, roles: CallRoles) {
    let is_known = resized.address != 0 && resized.block.site != SiteIndex::NONE;
    if is_known && !put(target, resized.address, &resized.block, roles) {
        // Another thread took the room in between.
        count_freed(target, &resized.block);
        target.count(Counter::PutBackFull);
    }
}

#[inline(always)]
pub(crate) fn count_freed(target: &Target, block: &LiveBlock) {
    if recording::is_judged(block.recorded(), target.group()) {
        return;
    }
    let Some(site) = SITES.get_ptr_mut(block.site.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    unsafe { count(site, block, Some(target.now_ms)) };
}

/// Counts a block at its site as allocated, or as freed at a time: for good, with what it stands for, or as one of its
/// window's.
///
/// # Safety
/// `site` is an entry of an array map, which lives as long as the map; it is touched atomically only.
#[inline(always)]
pub(crate) unsafe fn count(site: *mut Site, block: &LiveBlock, freed_ms: Option<u32>) {
    let size_bytes = block.size_bytes();
    if block.recorded().is_in_some_cohort() {
        let sum = if freed_ms.is_some() {
            // SAFETY: as the caller promises.
            unsafe { &raw mut (*site).window_freed }
        } else {
            // SAFETY: as the caller promises.
            unsafe { &raw mut (*site).window_alloc }
        };
        // SAFETY: as above.
        unsafe { site::add_to(sum, size_bytes, 1) };
        return;
    }
    let Weight { bytes, objects, bytes_variance, objects_variance } = sample::weight(size_bytes, block.recorded());
    match freed_ms {
        // SAFETY: as the caller promises.
        None => unsafe { site::add_allocated(site, block.born_ms, bytes, objects) },
        // SAFETY: as the caller promises.
        Some(now_ms) => unsafe { site::add_freed(site, block.born_ms, now_ms, bytes, objects) },
    }
    if recording::takes_samples() {
        let sum = if freed_ms.is_some() {
            // SAFETY: as the caller promises.
            unsafe { &raw mut (*site).freed_variance }
        } else {
            // SAFETY: as the caller promises.
            unsafe { &raw mut (*site).alloc_variance }
        };
        // SAFETY: as above.
        add(unsafe { &raw mut (*sum).bytes }, bytes_variance);
        // SAFETY: as above.
        add(unsafe { &raw mut (*sum).objects }, objects_variance);
    }
}

/// Counts the end of a block.
#[inline(always)]
pub(crate) fn count_end(thread: &mut ThreadMemory) {
    thread.requested.ends += 1;
    if recording::is(Recording::Window, thread.group) {
        thread.requested.window_ends += 1;
    }
}
