//! The requests of threads, where sites may have estimates: each thread counts for itself, so that no two of them
//! wait for the same word.

use std::{collections::HashMap, mem::offset_of, sync::atomic::Ordering};

use memtrace_common::{
    ids::ProcessSlot,
    thread::{Requested, Thread},
};

use super::{
    mapped_array::{MappedArray, WORD_BYTES, halves},
    slots::Slots,
};

const TID: usize = offset_of!(Thread, tid) / WORD_BYTES;
const PROCESS: usize = offset_of!(Thread, memory.process) / WORD_BYTES;
const REQUESTED: usize = offset_of!(Thread, memory.requested) / WORD_BYTES;
const REQUESTED_BYTES: usize = REQUESTED + offset_of!(Requested, bytes) / WORD_BYTES;
const REQUESTED_OBJECTS: usize = REQUESTED + offset_of!(Requested, objects) / WORD_BYTES;
const REQUESTED_RETURNS: usize = REQUESTED + offset_of!(Requested, returns) / WORD_BYTES;
const REQUESTED_RETS: usize = REQUESTED + offset_of!(Requested, rets) / WORD_BYTES;
const REQUESTED_ENDS: usize = REQUESTED + offset_of!(Requested, ends) / WORD_BYTES;
const REQUESTED_WINDOW_ENDS: usize = REQUESTED + offset_of!(Requested, window_ends) / WORD_BYTES;
const REQUESTED_FREES: usize = REQUESTED + offset_of!(Requested, frees) / WORD_BYTES;

/// How often a sum is begun anew because a thread has ended meanwhile.
const TRIES: u32 = 3;

/// The table of threads. When one ends, its process takes over what it has counted.
pub(super) struct ThreadCounts(MappedArray<Thread>);

impl ThreadCounts {
    pub(super) fn new(threads: MappedArray<Thread>) -> Self {
        Self(threads)
    }

    /// Forgets every thread: none is a target's any more, and one that becomes a target's again begins anew.
    pub(super) fn forget(&mut self) {
        for words in (0..self.0.len()).filter_map(|place| self.0.words(place)) {
            words[TID].store(0, Ordering::Relaxed);
        }
    }

    /// The requests of each target. A thread that ends moves its counts, within nanoseconds: it would be missed, or
    /// counted twice, by a sum that it does so in, which is made again.
    pub(super) fn requested(&self, slots: &Slots) -> HashMap<ProcessSlot, Requested> {
        let mut ended = slots.requested_by_ended();
        let mut sums = HashMap::new();
        for _ in 0..TRIES {
            sums = ended.clone();
            self.add_living(&mut sums);
            let ended_now = slots.requested_by_ended();
            if ended_now == ended {
                break;
            }
            ended = ended_now;
        }
        sums
    }

    fn add_living(&self, sums: &mut HashMap<ProcessSlot, Requested>) {
        for words in (0..self.0.len()).filter_map(|place| self.0.words(place)) {
            let word = |index: usize| words[index].load(Ordering::Relaxed);
            if word(TID) == 0 {
                continue;
            }
            let [slot, _] = halves(word(PROCESS));
            let sum = sums.entry(ProcessSlot(slot)).or_default();
            *sum = sum.plus(Requested {
                bytes: word(REQUESTED_BYTES),
                objects: word(REQUESTED_OBJECTS),
                returns: word(REQUESTED_RETURNS),
                rets: word(REQUESTED_RETS),
                frees: word(REQUESTED_FREES),
                ends: word(REQUESTED_ENDS),
                window_ends: word(REQUESTED_WINDOW_ENDS),
            });
        }
    }
}
