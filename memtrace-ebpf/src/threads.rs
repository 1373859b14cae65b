//! What is remembered of threads, each at a place of its own from its first hooked call to its end.
//!
//! An array and not a hash map: threads are numbered one after the other, so that a thread's number leads to its place
//! in a few instructions, twice in every allocation.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_probe_read_kernel};
use memtrace_common::{
    process::ProcessSlot,
    thread::{Thread, ThreadMemory},
};

use crate::{
    atomic::compare_exchange,
    maps::{EMPTY_THREAD, THREADS},
    target::count_requested,
};

/// How many threads there is room for, less one: all ones in binary. Set at load.
#[unsafe(no_mangle)]
static THREAD_MASK: Global<u32> = Global::new(0);

/// How many places a thread can be at.
const REACH: u32 = 8;

/// What is remembered of a thread, if it was seen before.
#[inline(always)]
pub(crate) fn known<'a>(tid: u32) -> Option<&'a mut Thread> {
    let mut place = tid;
    for _ in 0..REACH {
        let thread = at(place)?;
        if thread.tid == tid as u64 {
            return Some(thread);
        }
        place = place.wrapping_add(1);
    }
    None
}

/// Makes room for a thread that was not seen before; `None` where there is none.
#[inline(never)]
pub(crate) extern "C" fn begin(tid: u32, slot: u32) -> u64 {
    let Some(empty) = EMPTY_THREAD.get_ptr(0) else { return 0 };
    let mut place = tid;
    for _ in 0..REACH {
        let Some(thread) = at(place) else { return 0 };
        if thread.tid == 0 && compare_exchange(&raw mut thread.tid, 0, tid as u64) == 0 {
            // Whoever was here has left it as it was.
            let memory = (&raw mut thread.memory).cast::<c_void>();
            // SAFETY: as many zeros from a map as there is room for: they would not fit on the BPF stack.
            unsafe { bpf_probe_read_kernel(memory, size_of_val(&thread.memory) as u32, empty.cast()) };
            thread.memory.process = ProcessSlot(slot);
            return 1;
        }
        place = place.wrapping_add(1);
    }
    0
}

/// A thread has ended, or begun another program.
#[inline(always)]
pub(crate) fn end(tid: u32) {
    let Some(thread) = known(tid) else { return };
    let ThreadMemory { process, requested, .. } = &thread.memory;
    let (process, requested) = (*process, *requested);
    thread.tid = 0;
    if requested.objects != 0 || requested.frees != 0 || requested.rets != 0 {
        count_requested(process, requested);
    }
}

#[inline(always)]
fn at<'a>(place: u32) -> Option<&'a mut Thread> {
    // SAFETY: an array map's entry lives as long as the map, and is the thread's own as long as its number stands there.
    THREADS.get_ptr_mut(place & THREAD_MASK.load()).map(|thread| unsafe { &mut *thread })
}
