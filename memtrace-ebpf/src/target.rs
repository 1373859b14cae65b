//! The caller: the target behind the current thread, and its counters.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use memtrace_common::{
    ids::{BlockKey, BudgetGroup, ProcessSlot},
    steps::call::CallRoles,
    thread::Requested,
    wire::{
        control::Control,
        counters::Counter,
        process::{Process, Sides, SlotOfProcess},
    },
};

use crate::{
    atomic::{add, load, word_at},
    maps::{CONTROL, FIRST_PROCESS, PROCESS_SLOTS, PROCESSES},
};

/// The current thread, by its ids. Asked for once in a program: the kernel takes some ten nanoseconds to answer.
#[derive(Clone, Copy)]
pub(crate) struct Task {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
}

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        let pid_tgid = bpf_get_current_pid_tgid();
        Self { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 }
    }
}

/// The current thread, of a process that is a target.
pub(crate) struct Target {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    pub(crate) slot: ProcessSlot,
    pub(crate) now_ms: u32,
    /// Whether stacks that free are wanted of some sites.
    pub(crate) follows_frees: bool,
    process: *mut Process,
}

impl Target {
    /// The current thread, where its process is a target.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        Self::with(CONTROL.get(0)?, Task::current())
    }

    /// The same of `task`, which is the current thread, while events are counted.
    #[inline(always)]
    pub(crate) fn counted(task: Task) -> Option<Self> {
        let control = CONTROL.get(0)?;
        if control.counting == 0 { None } else { Self::with(control, task) }
    }

    #[inline(always)]
    fn with(control: &Control, Task { tgid, tid }: Task) -> Option<Self> {
        let slot = slot_of(tgid)?;
        let process = PROCESSES.get_ptr_mut(slot.0)?;
        Some(Self { tgid, tid, slot, now_ms: control.now_ms, follows_frees: control.follows_frees != 0, process })
    }

    /// With whom it shares the recording in force.
    #[inline(always)]
    pub(crate) fn group(&self) -> BudgetGroup {
        // SAFETY: an array map's entry lives as long as the map; this is set before the slot is known.
        unsafe { (*self.process).group }
    }

    /// Names the block at `address` of this target.
    #[inline(always)]
    pub(crate) fn block(&self, address: u64) -> BlockKey {
        BlockKey::new(self.slot, address)
    }

    /// The code that it has is about to change, or has changed.
    #[inline(always)]
    pub(crate) fn note_code_change(&self) {
        // SAFETY: an array map's entry lives as long as the map.
        add(unsafe { &raw mut (*self.process).code_changes }, 1);
    }

    /// Counts one event that is missing from the figures, or needs explaining.
    #[inline(always)]
    pub(crate) fn count(&self, counter: Counter) {
        count_in(self.process, counter);
    }
}

/// Whether events are counted.
#[inline(always)]
pub(crate) fn is_counting() -> bool {
    CONTROL.get(0).is_some_and(|control| control.counting != 0)
}

/// Adds what a thread that has ended had asked for to what its process has.
#[inline(always)]
pub(crate) fn count_requested(slot: ProcessSlot, requested: Requested) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    let sums: *mut [u64; Requested::WORDS] = unsafe { &raw mut (*process).requested }.cast();
    for (index, amount) in requested.words().into_iter().enumerate() {
        if let Some(sum) = word_at(sums, index) {
            add(sum, amount);
        }
    }
}

/// Counts the frees that the C library has made as a thread ended.
#[inline(always)]
pub(crate) fn count_frees_at_thread_end(slot: ProcessSlot, frees: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    // SAFETY: an array map's entry lives as long as the map.
    add(unsafe { &raw mut (*process).frees_at_thread_end }, frees);
}

/// Where a process stands, if it is a target.
#[inline(always)]
pub(crate) fn slot_of(tgid: u32) -> Option<ProcessSlot> {
    match first_process()?.0.of(tgid) {
        Some(slot) => Some(slot),
        // SAFETY: the value is a plain integer, copied at once.
        None => unsafe { PROCESS_SLOTS.get(&tgid) }.copied(),
    }
}

/// The process that was the first target and where it stands, and the word that says so.
#[inline(always)]
pub(crate) fn first_process() -> Option<(SlotOfProcess, *mut u64)> {
    let word = FIRST_PROCESS.get_ptr_mut(0)?.cast();
    Some((SlotOfProcess(load(word)), word))
}

/// How often the code of the target at `slot` has changed.
#[inline(always)]
pub(crate) fn code_changes(slot: ProcessSlot) -> u64 {
    // SAFETY: an array map's entry lives as long as the map.
    PROCESSES.get_ptr(slot.0).map_or(0, |process| load(unsafe { &raw const (*process).code_changes }))
}

/// Whether the target at `slot` is the process itself, and not its parent, whose memory it shares.
#[inline(always)]
pub(crate) fn is_own(slot: ProcessSlot, tgid: u32) -> bool {
    // SAFETY: an array map's entry lives as long as the map; the number is set before the slot is known.
    PROCESSES.get_ptr(slot.0).is_some_and(|process| unsafe { (*process).tgid } == tgid)
}

/// With whom the target at `slot` shares the recording in force.
#[inline(always)]
pub(crate) fn group_of(slot: ProcessSlot) -> BudgetGroup {
    // SAFETY: as above.
    PROCESSES.get_ptr(slot.0).map_or(BudgetGroup::SHARED, |process| unsafe { (*process).group })
}

/// Whether the current thread has the name that targets are chosen by.
#[inline(always)]
pub(crate) fn has_wanted_name(control: &Control) -> bool {
    // SAFETY: sixteen bytes, read as two words of any alignment.
    let words = |comm: [u8; 16]| unsafe { comm.as_ptr().cast::<[u64; 2]>().read_unaligned() };
    bpf_get_current_comm().is_ok_and(|comm| words(comm) == control.comm)
}

/// Counts one event that belongs to no target, but to the run as a whole.
#[inline(always)]
pub(crate) fn count_of_run(counter: Counter) {
    count_at(ProcessSlot::NONE, counter);
}

/// Counts one event in a target's place, an entry of an array map.
#[inline(always)]
fn count_in(process: *mut Process, counter: Counter) {
    // SAFETY: an array map's entry lives as long as the map.
    if let Some(at) = word_at(unsafe { &raw mut (*process).counters }, counter as usize) {
        add(at, 1);
    }
}

/// The sides of an allocator, as the target that stands there has called it.
#[inline(always)]
pub(crate) fn sides_at(slot: ProcessSlot, allocator: usize) -> Option<*mut Sides> {
    let process = PROCESSES.get_ptr_mut(slot.0)?;
    // SAFETY: an array map's entry lives as long as the map.
    let sides: *mut Sides = unsafe { &raw mut (*process).sides }.cast();
    // No indexing: it could panic, and a program that could panic is refused.
    if allocator < CallRoles::ALLOCATORS { Some(sides.wrapping_add(allocator)) } else { None }
}

/// Counts one event of the target that stands there.
#[inline(always)]
pub(crate) fn count_at(slot: ProcessSlot, counter: Counter) {
    let Some(process) = PROCESSES.get_ptr_mut(slot.0) else { return };
    count_in(process, counter);
}
