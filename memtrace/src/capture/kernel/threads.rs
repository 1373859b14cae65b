//! What threads have asked for, where sites may have estimates: each thread counts for itself, so that no two of them
//! wait for the same word.

use std::{collections::HashMap, mem::offset_of, sync::atomic::Ordering};

use memtrace_common::{
    process::{Counter, Process, ProcessSlot},
    thread::{Requested, Thread},
};

use super::mapped::MappedArray;

const WORD_BYTES: usize = 8;
const TID: usize = offset_of!(Thread, tid) / WORD_BYTES;
const PROCESS: usize = offset_of!(Thread, memory.process) / WORD_BYTES;
const REQUESTED: usize = offset_of!(Thread, memory.requested) / WORD_BYTES;
const REQUESTED_BYTES: usize = REQUESTED + offset_of!(Requested, bytes) / WORD_BYTES;
const REQUESTED_OBJECTS: usize = REQUESTED + offset_of!(Requested, objects) / WORD_BYTES;
const REQUESTED_RETURNS: usize = REQUESTED + offset_of!(Requested, returns) / WORD_BYTES;
const REQUESTED_ENDS: usize = REQUESTED + offset_of!(Requested, ends) / WORD_BYTES;
const REQUESTED_WINDOW_ENDS: usize = REQUESTED + offset_of!(Requested, window_ends) / WORD_BYTES;
const REQUESTED_FREES: usize = REQUESTED + offset_of!(Requested, frees) / WORD_BYTES;

const COUNTERS: usize = offset_of!(Process, counters) / WORD_BYTES;

/// How often a sum is begun anew because a thread has ended meanwhile.
const TRIES: u32 = 3;

/// The tables of threads, and of the processes that take over what a thread has counted when it ends.
pub(super) struct ThreadCounts {
    threads: MappedArray<Thread>,
    processes: MappedArray<Process>,
}

impl ThreadCounts {
    pub(super) fn new(threads: MappedArray<Thread>, processes: MappedArray<Process>) -> Self {
        Self { threads, processes }
    }

    /// Counts an event of a target.
    pub(super) fn count(&self, slot: ProcessSlot, counter: Counter) {
        let words = self.processes.words(slot.0 as usize).unwrap_or_default();
        if let Some(count) = words.get(COUNTERS + counter as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What each target has asked for. A thread that ends moves its counts, in nanoseconds: it would be missed, or
    /// counted twice, by a sum that it does so in, which is made again.
    pub(super) fn requested(&self) -> HashMap<ProcessSlot, Requested> {
        let mut ended = self.of_ended();
        let mut sums = HashMap::new();
        for _ in 0..TRIES {
            sums = ended.clone();
            self.add_living(&mut sums);
            let ended_now = self.of_ended();
            if ended_now == ended {
                break;
            }
            ended = ended_now;
        }
        sums
    }

    fn of_ended(&self) -> HashMap<ProcessSlot, Requested> {
        let process = |slot: u32| Some((ProcessSlot(slot), self.processes.get(slot as usize)?.requested));
        let slots = 0..u32::try_from(self.processes.len()).unwrap_or(u32::MAX);
        slots.filter_map(process).filter(|(_, requested)| *requested != Requested::default()).collect()
    }

    fn add_living(&self, sums: &mut HashMap<ProcessSlot, Requested>) {
        for words in (0..self.threads.len()).filter_map(|place| self.threads.words(place)) {
            let word = |index: usize| words[index].load(Ordering::Relaxed);
            if word(TID) == 0 {
                continue;
            }
            let [slot, _] = super::halves(word(PROCESS));
            let sum = sums.entry(ProcessSlot(slot)).or_default();
            *sum = sum.plus(Requested {
                bytes: word(REQUESTED_BYTES),
                objects: word(REQUESTED_OBJECTS),
                returns: word(REQUESTED_RETURNS),
                frees: word(REQUESTED_FREES),
                ends: word(REQUESTED_ENDS),
                window_ends: word(REQUESTED_WINDOW_ENDS),
            });
        }
    }
}
