//! Which allocations are samples, where samples are taken, and what those stand for.

use aya_ebpf::{Global, helpers::generated::bpf_get_prandom_u32};
use memtrace_common::{
    block::Recorded,
    sampling::{self, OBJECT, Table, Weight},
    thread::ThreadMemory,
};

use crate::{
    maps::{LOGARITHMS, WEIGHTS},
    watch,
};

/// The mean gap between samples, in bytes; 0 where every allocation is counted, and nothing else ever will be. Set at
/// load, so that programs which count all never see the code for samples.
#[unsafe(no_mangle)]
static SAMPLE_BYTES: Global<u64> = Global::new(0);

/// Whether anything but every allocation may be recorded.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    SAMPLE_BYTES.load() != 0
}

/// Whether no sample lies in a call that asks for so many bytes; if so, it is counted.
#[inline(always)]
pub(crate) fn passes_over(thread: &mut ThreadMemory, size_bytes: u64) -> bool {
    let least = sampling::least_exposed(SAMPLE_BYTES.load());
    let exposed = if size_bytes < least { least } else { size_bytes };
    // One more than the bytes that are left, so that 0 is a thread that has not begun.
    if thread.until_sample <= exposed {
        return false;
    }
    thread.until_sample -= exposed;
    count(thread, size_bytes);
    true
}

/// Counts a call that asks for so many bytes, and decides whether it is sampled.
#[inline(always)]
pub(crate) fn takes(thread: &mut ThreadMemory, size_bytes: u64) -> bool {
    // More than there are addresses is refused.
    if size_bytes >> 47 != 0 {
        return false;
    }
    if thread.until_sample == 0 {
        thread.until_sample = gap() + 1;
    }
    if passes_over(thread, size_bytes) {
        return false;
    }
    count(thread, size_bytes);
    thread.until_sample = gap() + 1;
    true
}

/// Counts a call that asks for so many bytes. Not atomically: nobody but the thread itself writes here.
#[inline(always)]
pub(crate) fn count(thread: &mut ThreadMemory, size_bytes: u64) {
    thread.requested.bytes += size_bytes;
    thread.requested.objects += 1;
}

#[inline(always)]
fn gap() -> u64 {
    // SAFETY: a plain call.
    let random = unsafe { bpf_get_prandom_u32() } as u32;
    sampling::gap(random, SAMPLE_BYTES.load(), &Logarithms).unwrap_or(0)
}

/// What a block of this size stands for.
#[inline(always)]
pub(crate) fn weight(size_bytes: u64, recorded: Recorded) -> Weight {
    let itself = Weight { bytes: size_bytes, objects: 1, bytes_variance: 0, objects_variance: 0 };
    if !is_on() {
        return itself;
    }
    let certain = Weight { objects: OBJECT, ..itself };
    if watch::is_adaptive() && recorded != Recorded::AS_SAMPLE {
        return certain;
    }
    sampling::weight(size_bytes, SAMPLE_BYTES.load(), &Weights).unwrap_or(certain)
}

struct Weights;

impl Table for Weights {
    #[inline(always)]
    fn get(&self, index: u32) -> Option<u64> {
        WEIGHTS.get(index).copied()
    }
}

struct Logarithms;

impl Table for Logarithms {
    #[inline(always)]
    fn get(&self, index: u32) -> Option<u64> {
        LOGARITHMS.get(index).copied()
    }
}
