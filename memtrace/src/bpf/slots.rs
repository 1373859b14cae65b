//! Slots: where targets stand in the maps, and what the programs have counted of each.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    sync::atomic::Ordering,
    time::Duration,
};

use memtrace_common::{
    ids::{BudgetGroup, ProcessSlot},
    thread::Requested,
    wire::{
        counters::Counter,
        process::{Process, SlotOfProcess},
    },
};

use super::{
    error::BpfError,
    mapped_array::{MappedArray, WORD_BYTES, halves},
    named_map::{ArrayMap, KeyedMap, QueueMap},
};

/// The word whose second half is the group.
const GROUP: usize = offset_of!(Process, tgid) / WORD_BYTES;
const COUNTERS: usize = offset_of!(Process, counters) / WORD_BYTES;

/// The slots.
pub(super) struct Slots {
    by_tgid: KeyedMap<u32, ProcessSlot>,
    /// The first target of the run, which the programs find without a search.
    first: ArrayMap<SlotOfProcess>,
    unused: QueueMap<ProcessSlot>,
    processes: MappedArray<Process>,
    /// Targets that are over, whose blocks are still there.
    closed: HashSet<ProcessSlot>,
}

impl Slots {
    /// All of them unused.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn new(
        by_tgid: KeyedMap<u32, ProcessSlot>,
        first: ArrayMap<SlotOfProcess>,
        unused: QueueMap<ProcessSlot>,
        processes: MappedArray<Process>,
    ) -> Result<Self, BpfError> {
        let mut slots = Self { by_tgid, first, unused, processes, closed: HashSet::new() };
        let all = 1..=slots.unused.capacity();
        all.map(ProcessSlot).try_for_each(|slot| slots.unused.push(slot))?;
        Ok(slots)
    }

    /// Takes the slot that was unused for longest; `None` where there is no room.
    pub(super) fn take_unused(&mut self) -> Option<ProcessSlot> {
        self.unused.pop()
    }

    /// Gives an unused slot to the process `tgid` of this group, the first target of the run where `is_first`. Returns whether
    /// it stands there now: the programs may have found it in the meantime, and put it at another slot.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn open(
        &mut self,
        slot: ProcessSlot,
        tgid: u32,
        group: BudgetGroup,
        is_first: bool,
    ) -> Result<bool, BpfError> {
        self.processes.set(slot.0 as usize, Process { tgid, group, ..Process::default() });
        // Before the other map: from then on an exec keeps both up to date.
        if is_first {
            self.first.set(0, SlotOfProcess::new(tgid, slot))?;
        }
        if self.by_tgid.insert_new(tgid, slot) {
            return Ok(true);
        }
        if is_first {
            self.first.set(0, SlotOfProcess::default())?;
        }
        self.unused.push(slot).map(|()| false)
    }

    /// A target is over: no thread of it can count any more, but its blocks are still there.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub(super) fn close(&mut self, slot: ProcessSlot) -> Result<(), BpfError> {
        self.closed.insert(slot);
        let tgid = self.process(slot)?.tgid;
        // Another process may have that id now.
        if self.by_tgid.get(&tgid).is_ok_and(|at| at == Some(slot)) {
            self.by_tgid.remove(&tgid);
        }
        if self.first.get(0).is_ok_and(|first| first.of(tgid) == Some(slot)) {
            self.first.set(0, SlotOfProcess::default())?;
        }
        Ok(())
    }

    /// Makes the slot of a target that was closed unused.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn recycle(&mut self, slot: ProcessSlot) -> Result<(), BpfError> {
        self.processes.set(slot.0 as usize, Process::default());
        self.closed.remove(&slot);
        self.unused.push(slot)
    }

    /// Forgets what was counted of the run as a whole.
    pub(super) fn forget_run(&mut self) {
        self.processes.set(ProcessSlot::NONE.0 as usize, Process::default());
    }

    /// Targets that are over, whose blocks are still there.
    pub(super) fn closed(&self) -> &HashSet<ProcessSlot> {
        &self.closed
    }

    /// The programs' record of a target; of the run as a whole for [`ProcessSlot::NONE`].
    ///
    /// # Errors
    /// Where there is no such slot.
    pub(super) fn process(&self, slot: ProcessSlot) -> Result<Process, BpfError> {
        self.processes.get(slot.0 as usize).ok_or(BpfError::NoSlot(slot.0))
    }

    /// Whether the process that a target is in still runs its program: after an exec it stands elsewhere, or nowhere.
    ///
    /// # Errors
    /// Where there is no such slot.
    pub(super) fn still_runs(&self, slot: ProcessSlot) -> Result<bool, BpfError> {
        let tgid = self.process(slot)?.tgid;
        Ok(self.by_tgid.get(&tgid).is_ok_and(|at| at == Some(slot)))
    }

    /// The group of a target.
    pub(super) fn group(&self, slot: ProcessSlot) -> BudgetGroup {
        let word = self.processes.words(slot.0 as usize).and_then(|words| words.get(GROUP));
        word.map_or(BudgetGroup::SHARED, |word| BudgetGroup(halves(word.load(Ordering::Relaxed))[1]))
    }

    /// Counts an event of a target.
    pub(super) fn count(&self, slot: ProcessSlot, counter: Counter) {
        let words = self.processes.words(slot.0 as usize).unwrap_or_default();
        if let Some(count) = words.get(COUNTERS + counter as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For how long a target has run on a CPU that is over; `None` where that cannot be told. Of one that lives still, for how
    /// long its threads have run that have ended.
    pub(super) fn cpu_time_at_end(&self, slot: ProcessSlot) -> Option<Duration> {
        let ns = self.processes.get(slot.0 as usize)?.cpu_ns;
        // As long as the thread runs that has called exec, what it had run before is not made up for.
        (ns != 0 && ns <= i64::MAX.cast_unsigned()).then(|| Duration::from_nanos(ns))
    }

    /// When a target's program began, where that was seen, and when a thread of it ended last, by `CLOCK_MONOTONIC`.
    pub(super) fn began_and_ended(&self, slot: ProcessSlot) -> (Option<Duration>, Option<Duration>) {
        let process = self.processes.get(slot.0 as usize).unwrap_or_default();
        let time = |ns: u64| (ns != 0).then(|| Duration::from_nanos(ns));
        (time(process.began_ns), time(process.ended_ns))
    }

    /// The requests of each target's threads that have ended.
    pub(super) fn requested_by_ended(&self) -> HashMap<ProcessSlot, Requested> {
        let process = |slot: u32| Some((ProcessSlot(slot), self.processes.get(slot as usize)?.requested));
        let slots = 0..u32::try_from(self.processes.len()).unwrap_or(u32::MAX);
        slots.filter_map(process).filter(|(_, requested)| *requested != Requested::default()).collect()
    }
}
