//! Which allocations are samples, where samples are taken, and what those stand for.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use memtrace_common::{
    arch::ADDRESS_BITS,
    steps::sampling::{self, MeanGap, OBJECT, Table},
    thread::ThreadMemory,
    wire::{block::Recorded, site::Weight},
};

use crate::{
    maps::{LOGARITHMS, WEIGHTS},
    recording,
};

/// Whether no sample lies in a call that asks for so many bytes under this mean gap; if so, it is counted.
#[inline(always)]
pub(crate) fn passes_over(thread: &mut ThreadMemory, size_bytes: u64, gap: MeanGap) -> bool {
    if !is_drawn_by(thread, gap) {
        return false;
    }
    let least = sampling::least_exposed(recording::bytes_of(gap));
    let exposed = if size_bytes < least { least } else { size_bytes };
    // One more than the bytes that are left, so that 0 is a thread that has not begun.
    if thread.until_sample <= exposed {
        return false;
    }
    thread.until_sample -= exposed;
    count(thread, size_bytes);
    true
}

/// Whether a thread counts down a gap that was drawn by this mean.
#[inline(always)]
fn is_drawn_by(thread: &ThreadMemory, gap: MeanGap) -> bool {
    !recording::is_adaptive() || thread.drawn_by == gap
}

/// Counts a call that asks for so many bytes, and decides whether it is sampled under this mean gap.
#[inline(always)]
pub(crate) fn takes(thread: &mut ThreadMemory, size_bytes: u64, gap: MeanGap) -> bool {
    // More than there are addresses is refused.
    if size_bytes >> ADDRESS_BITS != 0 {
        return false;
    }
    if thread.until_sample == 0 || !is_drawn_by(thread, gap) {
        draw(thread, gap);
    }
    if passes_over(thread, size_bytes, gap) {
        return false;
    }
    count(thread, size_bytes);
    draw(thread, gap);
    true
}

/// Counts a call that asks for so many bytes. Not atomically: nobody but the thread itself writes here.
#[inline(always)]
pub(crate) fn count(thread: &mut ThreadMemory, size_bytes: u64) {
    thread.requested.bytes += size_bytes;
    thread.requested.objects += 1;
}

/// Draws the bytes until a thread's next sample.
#[inline(always)]
fn draw(thread: &mut ThreadMemory, gap: MeanGap) {
    // SAFETY: a plain call.
    let random = unsafe { bpf_get_prandom_u32() } as u32;
    thread.until_sample = sampling::gap(random, recording::bytes_of(gap), &Logarithms).unwrap_or(0) + 1;
    thread.drawn_by = gap;
}

/// The weight of a block of this size.
#[inline(always)]
pub(crate) fn weight(size_bytes: u64, recorded: Recorded) -> Weight {
    let itself = Weight { bytes: size_bytes, objects: 1, bytes_variance: 0, objects_variance: 0 };
    if !recording::takes_samples() {
        return itself;
    }
    let certain = Weight { objects: OBJECT, ..itself };
    let gap = match recorded.mean_gap() {
        None if recording::is_adaptive() => return certain,
        None => MeanGap::OF_RUN,
        Some(gap) => gap,
    };
    sampling::weight(size_bytes, recording::bytes_of(gap), &Weights).unwrap_or(certain)
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
