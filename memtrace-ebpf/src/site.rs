//! Sites: finding the counters of a stack, and opening a site at its first event.

use memtrace_common::{
    ids::{ProcessSlot, SiteId, SiteIndex, StackId},
    thread::ThreadMemory,
    wire::{
        counters::Counter,
        site::{Category, Count, Generation, Site},
        stack::StackRecord,
    },
};

use crate::{
    atomic::{add, next},
    maps::{ALREADY_THERE, NO_EXIST, SITE_COUNT, SITE_INDICES, SITES, STACKS, UNUSED_SITES},
    target::{Target, code_changes},
};

/// Where the site of `stack`, which was just walked for `thread`, has its counters.
#[inline(always)]
pub(crate) fn index_of(
    target: &Target,
    stack: StackId,
    thread: &mut ThreadMemory,
    category: Category,
) -> Result<SiteIndex, Counter> {
    let id = SiteId::of(stack, target.slot, category as u32);
    if let Some(index) = thread.recent_sites.find(id) {
        return Ok(index);
    }
    // SAFETY: the value is a plain integer, copied at once.
    let index = match unsafe { SITE_INDICES.get(&id) } {
        Some(index) => *index,
        None => open(target.slot, id, stack, &thread.stack, category as u32)?,
    };
    thread.recent_sites.remember(id, index);
    Ok(index)
}

/// The same of a stack that stands in `record`, where no thread remembers sites.
#[inline(always)]
pub(crate) fn index_of_record(
    process: ProcessSlot,
    stack: StackId,
    record: &StackRecord,
    category: u32,
) -> Result<SiteIndex, Counter> {
    let id = SiteId::of(stack, process, category);
    // SAFETY: the value is a plain integer, copied at once.
    match unsafe { SITE_INDICES.get(&id) } {
        Some(index) => Ok(*index),
        None => open(process, id, stack, record, category),
    }
}

/// Opens a site. Another thread may do the same at this moment: the first to publish its index wins, and
/// the place that the other was given is free again.
#[inline(always)]
fn open(
    process: ProcessSlot,
    id: SiteId,
    stack: StackId,
    record: &StackRecord,
    category: u32,
) -> Result<SiteIndex, Counter> {
    let index = free_place()?;
    let site = SITES.get_ptr_mut(index.0).ok_or(Counter::SitesFull)?;
    // All else in it is 0.
    // SAFETY: an array map's entry lives as long as the map; nobody else has been given this one.
    unsafe { (*site).stack = stack };
    // SAFETY: as above.
    unsafe { (*site).category = category };
    // SAFETY: as above.
    unsafe { (*site).opened = code_changes(process) };
    // SAFETY: as above.
    unsafe { (*site).process = process };
    // Only now that the site is seen to need it: user space removes stacks that no site needs, and looks at
    // the sites once more afterwards.
    let opened = match STACKS.insert(&stack, record, NO_EXIST) {
        Ok(()) | Err(ALREADY_THERE) => SITE_INDICES.insert(&id, &index, NO_EXIST),
        Err(_) => return Err(give_back(index, site, Counter::StacksFull)),
    };
    match opened {
        Ok(()) => Ok(index),
        Err(ALREADY_THERE) => {
            let full = give_back(index, site, Counter::SitesFull);
            // SAFETY: the value is a plain integer, copied at once.
            unsafe { SITE_INDICES.get(&id) }.copied().ok_or(full)
        }
        Err(_) => Err(give_back(index, site, Counter::SitesFull)),
    }
}

/// Makes a place in the table of sites free again that was not used after all. Returns `why`.
#[inline(always)]
fn give_back(index: SiteIndex, site: *mut Site, why: Counter) -> Counter {
    // SAFETY: an array map's entry lives as long as the map; nobody else has been given this one.
    unsafe { (*site).process = ProcessSlot::NONE };
    // The queue has room for every place there is.
    _ = UNUSED_SITES.push(index, 0);
    why
}

/// A place in the table of sites that is not in use.
#[inline(always)]
fn free_place() -> Result<SiteIndex, Counter> {
    if let Ok(Some(index)) = UNUSED_SITES.pop() {
        return Ok(index);
    }
    let count = SITE_COUNT.get_ptr_mut(0).ok_or(Counter::SitesFull)?;
    Ok(SiteIndex(next(count) as u32 + 1))
}

/// Adds to what a site has allocated at a time.
///
/// # Safety
/// `site` is an entry of an array map, which lives as long as the map.
#[inline(always)]
pub(crate) unsafe fn add_allocated(site: *mut Site, born_ms: u32, bytes: u64, objects: u64) {
    // SAFETY: as the caller promises.
    let generation = unsafe { generation(site, born_ms) };
    // SAFETY: as above; within the array.
    let sum = unsafe { &raw mut (*generation).alloc };
    // SAFETY: as the caller promises; touched atomically only.
    unsafe { add_to(sum, bytes, objects) };
}

/// Adds to what of it was freed by now.
///
/// # Safety
/// As [`add_allocated`].
#[inline(always)]
pub(crate) unsafe fn add_freed(site: *mut Site, born_ms: u32, now_ms: u32, bytes: u64, objects: u64) {
    let sum = if Generation::is_told_apart(born_ms, now_ms) {
        // SAFETY: as the caller promises.
        let generation = unsafe { generation(site, born_ms) };
        // SAFETY: as above; within the array.
        unsafe { &raw mut (*generation).freed }
    } else {
        // SAFETY: as the caller promises.
        unsafe { &raw mut (*site).freed_older }
    };
    // SAFETY: as the caller promises; touched atomically only.
    unsafe { add_to(sum, bytes, objects) };
}

/// The sums of what a site has allocated at a time.
///
/// # Safety
/// As [`add_allocated`].
#[inline(always)]
unsafe fn generation(site: *mut Site, born_ms: u32) -> *mut Generation {
    let place = Generation::place(Generation::at(born_ms));
    // SAFETY: as the caller promises.
    let generations = unsafe { &raw mut (*site).generations }.cast::<Generation>();
    // SAFETY: a place is below the array's length.
    unsafe { generations.add(place) }
}

/// Adds to a sum of a site's.
///
/// # Safety
/// `sum` lies in an entry of an array map, which lives as long as the map.
#[inline(always)]
pub(crate) unsafe fn add_to(sum: *mut Count, bytes: u64, objects: u64) {
    // SAFETY: as the caller promises.
    add(unsafe { &raw mut (*sum).bytes }, bytes);
    // SAFETY: as above.
    add(unsafe { &raw mut (*sum).objects }, objects);
}
