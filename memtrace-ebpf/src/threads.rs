//! The records of threads, each at a place of its own from its first hooked call to its end.
//!
//! An array and not a hash map: threads are numbered one after the other, so that a thread's number leads to its place
//! in a few instructions, twice in every allocation.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_probe_read_kernel};
use memtrace_common::{
    ids::{BudgetGroup, ProcessSlot},
    thread::ThreadMemory,
    wire::counters::Counter,
};

use crate::{
    atomic::{compare_exchange, load, store},
    maps::{EMPTY_THREAD, THREADS},
    target::{Target, count_frees_at_thread_end, count_requested},
};

/// How many threads there is room for, less one: all ones in binary. Set at load.
#[unsafe(no_mangle)]
static THREAD_MASK: Global<u32> = Global::new(0);

/// How many blocks glibc may free as a thread ends: those in its cache (`tcache_thread_shutdown` in malloc/malloc.c), which
/// are free already, by the function that programs free with; and the cache. A thread that has freed more unmatched blocks
/// since its last allocation frees for others.
const FREED_AT_END: u64 = 64 * 7 + 1;

/// How many places a thread can be at.
const REACH: u32 = 8;

/// The record of the current thread, from now on if it was not seen before; that there is no room for it is counted.
#[inline(always)]
pub(crate) fn current_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    let thread = known_or_new_thread(target);
    if thread.is_none() {
        target.count(Counter::ThreadsFull);
    }
    thread
}

/// The record of the current thread, if it was seen before.
#[inline(always)]
pub(crate) fn known_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    known(target.tid)
}

/// The same, from now on if it was not seen before; `None` where there is no room for it.
#[inline(always)]
pub(crate) fn known_or_new_thread<'a>(target: &Target) -> Option<&'a mut ThreadMemory> {
    let begin = || begin(target.tid, target.slot.0, target.group().0);
    known_thread(target).or_else(|| if begin() == 1 { known_thread(target) } else { None })
}

/// The record of a thread, if it was seen before: of the current one, or of one that has ended.
#[inline(always)]
pub(crate) fn known<'a>(tid: u32) -> Option<&'a mut ThreadMemory> {
    let Place { memory, .. } = find(tid)?;
    // SAFETY: an array map's entry lives as long as the map; nobody but the thread itself looks at its memory as long as its
    // number stands there, and it does so in one program at a time.
    Some(unsafe { &mut *memory })
}

/// Where a thread is, if it was seen before.
#[inline(always)]
fn find(tid: u32) -> Option<Place> {
    let mut place = tid;
    for _ in 0..REACH {
        let found = at(place)?;
        if load(found.tid) == tid as u64 {
            return Some(found);
        }
        place = place.wrapping_add(1);
    }
    None
}

/// Makes room for a thread that was not seen before; `None` where there is none.
#[inline(never)]
extern "C" fn begin(tid: u32, slot: u32, group: u32) -> u64 {
    let Some(empty) = EMPTY_THREAD.get_ptr(0) else { return 0 };
    let mut place = tid;
    for _ in 0..REACH {
        let Some(Place { tid: owner, memory }) = at(place) else { return 0 };
        if load(owner) == 0 && compare_exchange(owner, 0, tid as u64) == 0 {
            // The last owner has left it as it was.
            // SAFETY: as many zeros from a map as there is room for: they would not fit on the BPF stack.
            unsafe { bpf_probe_read_kernel(memory.cast::<c_void>(), size_of::<ThreadMemory>() as u32, empty.cast()) };
            // SAFETY: an array map's entry lives as long as the map; this one is the thread's own by now.
            unsafe { (*memory).process = ProcessSlot(slot) };
            // SAFETY: as above.
            unsafe { (*memory).group = BudgetGroup(group) };
            return 1;
        }
        place = place.wrapping_add(1);
    }
    0
}

/// A thread has ended; where it did so `alone`, its process goes on.
#[inline(always)]
pub(crate) fn end(tid: u32, alone: bool) {
    let Some(place) = find(tid) else { return };
    // SAFETY: as in `known`.
    let ThreadMemory { process, requested, unmatched_frees, .. } = unsafe { &*place.memory };
    let (process, requested, unmatched_frees) = (*process, *requested, *unmatched_frees);
    // The place is another's as soon as this is read.
    store(place.tid, 0);
    if requested.objects != 0 || requested.frees != 0 || requested.rets != 0 {
        count_requested(process, requested);
    }
    if alone && 0 < unmatched_frees && unmatched_frees <= FREED_AT_END {
        count_frees_at_thread_end(process, unmatched_frees);
    }
}

/// A place for a thread. Its memory belongs to the thread whose number stands there; the number is everybody's to read.
struct Place {
    tid: *mut u64,
    memory: *mut ThreadMemory,
}

#[inline(always)]
fn at(place: u32) -> Option<Place> {
    let thread = THREADS.get_ptr_mut(place & THREAD_MASK.load())?;
    // SAFETY: an array map's entry lives as long as the map.
    let tid = unsafe { &raw mut (*thread).tid };
    // SAFETY: as above.
    let memory = unsafe { &raw mut (*thread).memory };
    Some(Place { tid, memory })
}
